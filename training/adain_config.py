"""What to learn for any painting, from what, and how."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from .adain_networks import AdainKind, CompactConfig
from .checks import check_choice, check_crop, check_loop, check_name, check_not_negative, check_positive
from .loop import Precision
from .loss_network import LossNetworkName

_PAPER: dict[str, Any] = {
    "steps": 40_000, "batch_size": 8, "learning_rate": 1e-4, "style_weight": 10.0, "tv_weight": 0.0,
    "motion_weight": 0.0, "crop_size": 256, "zoom": (2.0, 2.0),
}  # fmt: skip
"""Where the reference's defaults differ. Adam's rate, the batch and λ are the paper's; it runs for 160,000 steps."""


@dataclass(frozen=True)
class AdainTrainConfig:
    """One training. The defaults, of `of("compact")`, made the networks that ship, but for `steps`: those were stopped
    after 2,361, with the rate all but at its end."""

    photos: Path
    paintings: Path
    output: Path
    """Folder of the run: checkpoint.safetensors, state.pt, log.csv, report.png."""
    kind: AdainKind = "compact"
    name: str = "any"
    network: CompactConfig = field(default_factory=lambda: CompactConfig(padding="replicate"))
    """Of the compact networks; the reference's follow from the loss network."""
    loss_network: LossNetworkName = "vgg19"
    loss_weights: Path | None = None
    """Local weight file of the loss network, which is the reference's encoder too; None fetches torchvision's."""
    steps: int = 6000
    batch_size: int = 4
    """Photographs a step, each with a painting of its own, over all processes."""
    crop_size: int = 192
    """Side of a training crop, pixels."""
    zoom: tuple[float, float] = (1.3, 2.1)
    """Short side, in crops, that photographs and paintings are scaled to before cropping: lowest and highest."""
    learning_rate: float = 1e-3
    """Highest rate of the one-cycle schedule."""
    content_weight: float = 1.0
    style_weight: float | None = None
    """None (compact only): found while training so that `structure` is kept, over all paintings."""
    structure: float = 0.62
    """Share of the photograph's structure to keep with `style_weight` None, 0 to 1; see `quality.structure_kept`."""
    style_knee: float = 0.3
    """Style distance from which on a painting pulls less; see `adain_losses.tempered`. Compact only."""
    tv_weight: float = 0.5
    motion_weight: float = 40.0
    """0 turns the steadiness term off."""
    identity_weight: float = 100.0
    """Compact only: the reference gives at alpha 0 whatever its decoder makes of the photograph's own features."""
    hint_weight: float = 0.1
    """Compact only."""
    warm_start: Path | None = None
    """Compact only: a fast-tier style whose convolutions the stylizer begins with, as in `TrainConfig`."""
    seed: int = 0
    checkpoint_every: int = 250
    sample_every: int = 500
    precision: Precision = "auto"
    device: str = "auto"

    def __post_init__(self) -> None:
        check_choice(self, "kind", get_args(AdainKind))
        check_loop(self)
        check_name(self)
        check_not_negative(self, "identity_weight", "hint_weight")
        check_positive(self, "style_knee")
        check_crop(self, multiple=16)
        if self.kind == "reference" and self.style_weight is None:
            raise ValueError("style_weight must be a number for the reference, got none")
        if self.kind == "reference" and self.warm_start is not None:
            raise ValueError(f"warm_start must be none for the reference, got {self.warm_start}")
        if not 1.0 <= self.zoom[0] <= self.zoom[1] <= 8.0:
            raise ValueError(f"zoom must be two numbers in 1…8, the lower first, got {self.zoom}")

    @classmethod
    def of(cls, kind: AdainKind, photos: Path, paintings: Path, output: Path, **chosen: Any) -> "AdainTrainConfig":
        """With the defaults of a kind, and what was chosen instead."""
        return cls(photos, paintings, output, kind, **{**(_PAPER if kind == "reference" else {}), **chosen})

    @property
    def style_size(self) -> int:
        """Short side, pixels, at which a painting's marks are as large as the network learned to paint them."""
        return round(sum(self.zoom) / 2 * self.crop_size)
