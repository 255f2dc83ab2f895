"""Checkpoints of single styles."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from .checkpoint_file import not_a_checkpoint, read_checkpoint, write_checkpoint
from .errors import TrainingError
from .networks import NetworkConfig, TransformationNetwork, build_network

_KEY = "impasto"


@dataclass(frozen=True)
class Checkpoint:
    """A network at one step of its training."""

    config: NetworkConfig
    state_dict: dict[str, Tensor]
    metadata: dict[str, Any] = field(default_factory=dict)
    """What the training wrote: `name`, `tier`, `style` (title, artist, year, licence, sha256), `training` (settings;
    under `before` the `stage` of the checkpoint that it began with, which may have one in turn), `step`, `losses`; JSON
    values only."""

    @property
    def stage(self) -> dict[str, Any]:
        """How it was made, for the training that begins with it: `training` with the painting and the steps done."""
        known = self.metadata
        return {**known.get("training", {}), "style": known.get("style", {}), "step": known.get("step")}

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


LoadCheckpoint = Callable[[Path], Checkpoint]
"""What opens a warm start: `load_checkpoint`, or a function that knows of installed styles too."""


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write it, whole or not at all."""
    header = {"network": checkpoint.config.to_dict(), "metadata": checkpoint.metadata}
    write_checkpoint(path, _KEY, header, checkpoint.state_dict)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint onto the CPU.

    Raises:
        TrainingError: the file is missing, damaged, or not one of ours.
    """
    header, weights = read_checkpoint(path, _KEY)
    try:
        return Checkpoint(NetworkConfig(**header["network"]), weights, header["metadata"])
    except (KeyError, TypeError, ValueError) as exc:
        raise not_a_checkpoint(path, _KEY, exc) from exc
