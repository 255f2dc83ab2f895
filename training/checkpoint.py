"""Checkpoints: weights and what they are, as safetensors, which cannot carry code."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .errors import TrainingError
from .networks import NetworkConfig, TransformationNetwork, build_network

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Checkpoint:
    """A network at one step of its training."""

    config: NetworkConfig
    state_dict: dict[str, Tensor]
    metadata: dict[str, Any] = field(default_factory=dict)
    """What the training wrote: `name`, `tier`, `style` (title, artist, year, licence, sha256), `training` (settings),
    `step`, `losses`; JSON values only."""

    def build(self) -> TransformationNetwork:
        """The network with these weights, in evaluation mode.

        Raises:
            TrainingError: names or shapes of the weights do not belong to the network.
        """
        network = build_network(self.config)
        try:
            network.load_state_dict(self.state_dict)
        except RuntimeError as exc:
            raise TrainingError(f"the checkpoint's weights must fit {self.config}: {exc}") from exc
        return network.eval()


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write under a temporary name, then rename: a reader never sees half a checkpoint."""
    header = {
        "format_version": FORMAT_VERSION,
        "network": checkpoint.config.to_dict(),
        "metadata": checkpoint.metadata,
    }
    part = path.with_name(f".{path.name}.part")
    tensors = {name: tensor.detach().contiguous().cpu() for name, tensor in checkpoint.state_dict.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, part, metadata={"impasto": json.dumps(header)})
        os.replace(part, path)
    except (OSError, SafetensorError) as exc:
        part.unlink(missing_ok=True)
        raise TrainingError(f"cannot write checkpoint {path}: {exc}") from exc


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint onto the CPU.

    Raises:
        TrainingError: the file is missing, damaged, or not one of ours.
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
        header = json.loads(metadata["impasto"])
        version = header["format_version"]
        if version != FORMAT_VERSION:
            raise TrainingError(f"checkpoint format must be {FORMAT_VERSION}, got {version}: {path}")
        return Checkpoint(NetworkConfig(**header["network"]), tensors, header["metadata"])
    except (KeyError, TypeError, ValueError) as exc:
        raise TrainingError(f"not a checkpoint of impasto: {path}: {exc}") from exc
