"""Checkpoints of networks for any painting."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from torch import Tensor

from .adain_networks import AdainKind, CompactConfig, CompactNetworks
from .adain_reference import ReferenceConfig, ReferenceNetworks
from .checkpoint_file import has_header, not_a_checkpoint, read_checkpoint, write_checkpoint
from .errors import TrainingError

_KEY = "impasto-adain"


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
    """Write it, whole or not at all."""
    header = {"kind": checkpoint.kind, "network": checkpoint.network, "metadata": checkpoint.metadata}
    write_checkpoint(path, _KEY, header, checkpoint.state_dict)


def load_adain_checkpoint(path: Path) -> AdainCheckpoint:
    """Read a checkpoint onto the CPU.

    Raises:
        TrainingError: the file is missing, damaged, or none for any painting.
    """
    header, weights = read_checkpoint(path, _KEY)
    try:
        kind = header["kind"]
        if kind not in get_args(AdainKind):
            raise ValueError(f"kind must be one of {', '.join(get_args(AdainKind))}, got {kind!r}")
        return AdainCheckpoint(kind, dict(header["network"]), weights, dict(header["metadata"]))
    except (KeyError, TypeError, ValueError) as exc:
        raise not_a_checkpoint(path, _KEY, exc) from exc


def is_adain_checkpoint(path: Path) -> bool:
    """Whether a file is one of these, as opposed to a single style's."""
    return has_header(path, _KEY)
