"""Checkpoints of networks for any painting: safetensors as those of single styles, with a header that cannot be taken
for one of theirs."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .adain_networks import AdainKind, CompactConfig, CompactNetworks
from .adain_reference import ReferenceConfig, ReferenceNetworks
from .errors import TrainingError

FORMAT_VERSION = 1
_HEADER = "impasto-adain"


@dataclass(frozen=True)
class AdainCheckpoint:
    """Style encoder and stylizer at one step of their training."""

    kind: AdainKind
    network: dict[str, Any]
    """What builds the networks again: the fields of their configuration."""
    state_dict: dict[str, Tensor]
    metadata: dict[str, Any] = field(default_factory=dict)
    """What the training wrote: `name`, `training` (settings), `step`, `losses`; JSON values only."""

    def build(self) -> "CompactNetworks | ReferenceNetworks":
        """The networks with these weights, in evaluation mode.

        Raises:
            TrainingError: names or shapes of the weights do not belong to the networks.
        """
        networks: CompactNetworks | ReferenceNetworks
        try:
            if self.kind == "reference":
                networks = ReferenceNetworks(ReferenceConfig.from_dict(self.network))
            else:
                networks = CompactNetworks(CompactConfig(**self.network))
            networks.load_state_dict(self.state_dict)
        except (RuntimeError, TypeError, ValueError, KeyError) as exc:
            raise TrainingError(f"the checkpoint's weights must fit {self.kind} {self.network}: {exc}") from exc
        return networks.eval()


def save_adain_checkpoint(path: Path, checkpoint: AdainCheckpoint) -> None:
    """Write under a temporary name, then rename: a reader never sees half a checkpoint."""
    header = {
        "format_version": FORMAT_VERSION,
        "kind": checkpoint.kind,
        "network": checkpoint.network,
        "metadata": checkpoint.metadata,
    }
    part = path.with_name(f".{path.name}.part")
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in checkpoint.state_dict.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, part, metadata={_HEADER: json.dumps(header)})
        os.replace(part, path)
    except (OSError, SafetensorError) as exc:
        part.unlink(missing_ok=True)
        raise TrainingError(f"cannot write checkpoint {path}: {exc}") from exc


def load_adain_checkpoint(path: Path) -> AdainCheckpoint:
    """Read a checkpoint onto the CPU.

    Raises:
        TrainingError: the file is missing, damaged, or none for any painting.
    """
    if not path.is_file():
        raise TrainingError(f"checkpoint not found: {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as exc:
        raise TrainingError(f"not a checkpoint: {path}: {exc}") from exc
    try:
        header = json.loads(metadata[_HEADER])
        version, kind = header["format_version"], header["kind"]
        if version != FORMAT_VERSION:
            raise TrainingError(f"checkpoint format must be {FORMAT_VERSION}, got {version}: {path}")
        if kind not in get_args(AdainKind):
            raise ValueError(f"kind must be one of {', '.join(get_args(AdainKind))}, got {kind!r}")
        return AdainCheckpoint(kind, dict(header["network"]), tensors, dict(header["metadata"]))
    except (KeyError, TypeError, ValueError) as exc:
        raise TrainingError(f"not a checkpoint of `impasto train-adain`: {path}: {exc}") from exc


def is_adain_checkpoint(path: Path) -> bool:
    """Whether a file is one of these, as opposed to a single style's."""
    try:
        with safe_open(path, framework="pt") as file:
            return _HEADER in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False
