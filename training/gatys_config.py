"""How a single picture is painted: the options of `gatys.paint` and their defaults. Light to import."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from .checks import check_choice, check_not_negative

Optimizer = Literal["lbfgs", "adam"]
Start = Literal["content", "noise", "content+noise"]
Statistics = Literal["gram", "covariance"]
ColorMode = Literal["style", "content", "luminance", "match-histogram", "match-covariance"]
"""style: the painting's. content: the photograph's chroma is laid over the finished picture. luminance: only
luminance is painted, the photograph's chroma put back. match-…: one picture is recoloured to the other beforehand."""
ColorTransform = Literal["eigen", "cholesky"]
ColorDirection = Literal["to-content", "to-style"]
"""to-content recolours the painting to the photograph, to-style the photograph to the painting."""

CONTENT_LAYERS: Mapping[str, float] = {"relu4_2": 1.0}
"""Gatys et al. 2015."""
STYLE_LAYERS: Mapping[str, float] = dict.fromkeys(("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1"), 1.0)
"""Gatys et al. 2015, who divide each by five."""
STYLE_WEIGHTS: Mapping[Statistics, float] = {"gram": 200.0, "covariance": 10.0}
"""What gives clear marks and keeps the photograph: the second loss falls with the distance, not with its square."""
LBFGS_HISTORY = 20
"""Pairs of vectors that L-BFGS keeps, each as large as the picture; 100 end no lower after 100 evaluations."""
SMALLEST = 64
"""Pixels, shortest long side of a scale: relu5_1 is a sixteenth of it."""


@dataclass(frozen=True)
class GatysConfig:
    """How to paint. The weights are relative: 1 is a picture without any of the target's features."""

    size: int = 512
    """Long side of the result, pixels."""
    min_size: int = 181
    """Long side of the first scale, pixels; from there scales grow by √2. As `size` for a single scale."""
    iterations: int = 200
    """Evaluations of the losses at every scale."""
    optimizer: Optimizer = "lbfgs"
    learning_rate: float | None = None
    """Of Adam in grey levels, of L-BFGS a factor; None for the usual."""
    history: int = LBFGS_HISTORY
    """Pairs of pictures that L-BFGS keeps."""
    start: Start = "content"
    noise: float = 0.3
    """Share of noise in the start `content+noise`, 0 to 1."""
    content_weight: float = 1.0
    style_weight: float | None = None
    """None for that of `STYLE_WEIGHTS`."""
    tv_weight: float = 5.0
    content_layers: Mapping[str, float] = field(default_factory=lambda: CONTENT_LAYERS)
    """Layer to weight."""
    style_layers: Mapping[str, float] = field(default_factory=lambda: STYLE_LAYERS)
    """Layer to weight."""
    statistics: Statistics = "gram"
    style_scale: float = 1.0
    """Size of the marks: the painting's short side over the picture's."""
    color: ColorMode = "style"
    color_transform: ColorTransform = "eigen"
    color_direction: ColorDirection = "to-content"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            check_choice(self, name, choices)
        if not SMALLEST <= self.min_size <= self.size:
            raise ValueError(f"min_size must be in {SMALLEST}…size ({self.size}), got {self.min_size}")
        if self.iterations < 1 or self.history < 1:
            raise ValueError(f"iterations and history must be at least 1, got {self.iterations} and {self.history}")
        check_not_negative(self, "content_weight", "style_weight", "tv_weight")
        if not self.content_weight and self.style_weight == 0:
            raise ValueError("content_weight and style_weight must not both be 0")
        if not 0 < self.style_scale <= 8:
            raise ValueError(f"style_scale must be greater than 0 and at most 8, got {self.style_scale}")
        if not 0 <= self.noise <= 1:
            raise ValueError(f"noise must be in 0…1, got {self.noise}")
        if self.learning_rate is not None and not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate must be greater than 0, got {self.learning_rate}")


_CHOICES: Mapping[str, tuple[str, ...]] = {
    "optimizer": get_args(Optimizer),
    "start": get_args(Start),
    "statistics": get_args(Statistics),
    "color": get_args(ColorMode),
    "color_transform": get_args(ColorTransform),
    "color_direction": get_args(ColorDirection),
}


def parse_layers(text: str) -> dict[str, float]:
    """ "relu1_1,relu2_1=0.5" to a mapping of layers to weights; which layers there are is the loss network's affair."""
    layers: dict[str, float] = {}
    for part in text.split(","):
        name, _, weight = part.strip().partition("=")
        try:
            layers[name] = float(weight) if weight else 1.0
        except ValueError as exc:
            raise ValueError(f"layers must be names with weights, as relu1_1,relu2_1=0.5, got {text!r}") from exc
        if not name.startswith("relu") or not 0 <= layers[name] < math.inf:
            raise ValueError(f"layers must be names with weights, as relu1_1,relu2_1=0.5, got {text!r}")
    return layers
