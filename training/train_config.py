"""What to learn for one style, from what, and how."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from .checks import check_choice, check_crop, check_loop, check_name, check_not_negative, check_positive
from .gatys_config import Statistics
from .loop import Precision
from .loss_network import LossNetworkName
from .networks import Tier


@dataclass(frozen=True)
class StyleInfo:
    """Provenance of a painting, carried into the artifact, whose `StyleOrigin` it becomes.

    Two classes, since this package imports nothing of ours and reading an artifact must not import torch.
    """

    title: str = ""
    artist: str = ""
    year: str = ""
    licence: str = ""


@dataclass(frozen=True)
class TrainConfig:
    """What to learn, from what, and how. The defaults are where to begin: `assets/styles.toml` has what each style that
    ships was told instead, most of them a larger `style_size` and other `statistics`."""

    style_image: Path
    photos: Path
    output: Path
    """Folder of the run: checkpoint.safetensors, state.pt, log.csv, report.png."""
    name: str
    tier: Tier = "fast"
    style: StyleInfo = field(default_factory=StyleInfo)
    loss_network: LossNetworkName = "vgg19"
    loss_weights: Path | None = None
    """Local weight file of the loss network; None fetches torchvision's."""
    steps: int = 3000
    batch_size: int = 4
    """Pictures a step, over all processes."""
    crop_size: int = 256
    """Side of a training crop, pixels."""
    learning_rate: float = 1e-3
    """Highest rate of the one-cycle schedule."""
    content_weight: float = 1.0
    style_weight: float | None = None
    """None: found while training so that `structure` is kept."""
    structure: float = 0.65
    """Share of the photograph's structure to keep with `style_weight` None, 0 to 1; see `quality.structure_kept`."""
    tv_weight: float = 0.5
    motion_weight: float = 20.0
    """0 turns the steadiness term off. Of eight paintings, 8 to 40 took away four to seven tenths of the warping error,
    60 six to nine; at 60 it cost the picture 5 to 14 % of its loss."""
    style_size: int = 384
    """Short side at which the painting is looked at, pixels: larger gives larger marks."""
    style_scale: float = 1.0
    """Multiplies `style_size`."""
    statistics: Statistics = "gram"
    """What a style is: Johnson's Gram matrices, or mean and covariance; see `style_targets.py`."""
    keyframes: Path | None = None
    """Folder that `impasto gatys video` wrote: the network is pulled towards these pictures of one film."""
    keyframe_weight: float = 1.0
    videos: Path | None = None
    """Folder of clips: a second stage that makes painted frames agree along their motion; see `clips`."""
    video_weight: float = 60.0
    warm_start: Path | None = None
    """Checkpoint of the same tier to begin with instead of random weights: any style's, to save steps, or this one's,
    to go on with other settings. What else it may be is for the `load_earlier` of `train` to say."""
    seed: int = 0
    checkpoint_every: int = 250
    sample_every: int = 500
    precision: Precision = "auto"
    device: str = "auto"

    def __post_init__(self) -> None:
        check_loop(self)
        check_name(self)
        check_not_negative(self, "keyframe_weight", "video_weight")
        check_positive(self, "style_scale")
        check_choice(self, "statistics", get_args(Statistics))
        check_crop(self, multiple=4)
        if not 64 <= self.style_size * self.style_scale <= 2048:
            raise ValueError(
                f"style_size times style_scale must be in 64…2048, got {self.style_size * self.style_scale:g}"
            )
