"""Learn a style: networks, losses, training loops. Importing this package does not import torch.

Train, as `impasto train` does, and paint one picture by optimisation, as `impasto gatys` does:

    from impasto.training import TrainConfig, train_style

    config = TrainConfig(Path("painting.jpg"), Path("photos"), output=Path("runs/painting.fast"), name="painting")
    checkpoint = train_style(config, callback=lambda progress: print(progress.step, progress.losses))

How much of a photograph is left, the measure behind `structure`, is 1 for the photograph itself:

>>> import numpy as np
>>> from impasto.training import structure_kept
>>> photo = np.random.default_rng(0).integers(0, 256, (480, 480, 3), dtype=np.uint8)
>>> round(structure_kept(photo, photo), 3)
1.0

The guide is README.md in this package's folder.
"""

from typing import TYPE_CHECKING

from .lazy import lazy_names

if TYPE_CHECKING:
    from .checkpoint import Checkpoint, load_checkpoint, save_checkpoint
    from .errors import ImpastoError, TrainingError
    from .gatys import Painting, StyleImage, paint
    from .gatys_config import GatysConfig
    from .loop import Progress
    from .loss_network import LossNetwork, load_loss_network
    from .networks import NetworkConfig, build_network
    from .quality import grid_pattern, structure_kept, style_distance_of
    from .train import train as train_style
    from .train_config import StyleInfo, TrainConfig

__all__ = [
    "Checkpoint",
    "GatysConfig",
    "ImpastoError",
    "LossNetwork",
    "NetworkConfig",
    "Painting",
    "Progress",
    "StyleImage",
    "StyleInfo",
    "TrainConfig",
    "TrainingError",
    "build_network",
    "grid_pattern",
    "load_checkpoint",
    "load_loss_network",
    "paint",
    "save_checkpoint",
    "structure_kept",
    "style_distance_of",
    "train_style",
]

if not TYPE_CHECKING:  # with a `__getattr__`, checkers would let any name pass
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "Checkpoint": ".checkpoint",
            "GatysConfig": ".gatys_config",
            "ImpastoError": ".errors",
            "LossNetwork": ".loss_network",
            "NetworkConfig": ".networks",
            "Painting": ".gatys",
            "Progress": ".loop",
            "StyleImage": ".gatys",
            "StyleInfo": ".train_config",
            "TrainConfig": ".train_config",
            "TrainingError": ".errors",
            "build_network": ".networks",
            "grid_pattern": ".quality",
            "load_checkpoint": ".checkpoint",
            "load_loss_network": ".loss_network",
            "paint": ".gatys",
            "save_checkpoint": ".checkpoint",
            "structure_kept": ".quality",
            "style_distance_of": ".quality",
            "train_style": ".train:train",  # the module has the shorter name
        },
    )
