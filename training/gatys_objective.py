"""What Gatys' optimisation minimises: content_weight · content + style_weight · style + tv_weight · tv.

The losses are those of `losses.py`, relative to the target's own energy, so that the same weights serve every layer,
painting and loss network; Gatys et al. 2015 divide by powers of the layer's size instead. A style is a set of
statistics of the loss network's features: `style_targets.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .gatys_config import Statistics
from .loss_network import LossNetwork
from .losses import content_loss, total_variation_loss
from .style_targets import LayerTarget, layer_target


@dataclass(frozen=True)
class StyleTerm:
    """One layer's wish: inside a region of the picture, look like the target."""

    layer: str
    target: LayerTarget
    weight: float
    region: Tensor | None = None
    """(1, 1, H, W) at the layer's size, sum 1; None for the whole picture."""


@dataclass(frozen=True)
class ContentTerm:
    """One layer's wish: keep these features."""

    layer: str
    target: Tensor
    """(1, C, H, W)."""
    weight: float


@dataclass(frozen=True)
class Objective:
    """A function of a picture (1, 3, H, W) in [0, 255], to be minimised; (1, 1, H, W) is a grey one."""

    loss_network: LossNetwork
    content: Sequence[ContentTerm]
    style: Sequence[StyleTerm]
    content_weight: float
    style_weight: float
    tv_weight: float

    def losses(self, picture: Tensor) -> dict[str, Tensor]:
        """`content`, `style`, `tv` unweighted and `total` weighted, each a scalar that can be differentiated."""
        if picture.shape[1] == 1:
            picture = picture.expand(-1, 3, -1, -1)
        layers = {term.layer for term in self.content} | {wish.layer for wish in self.style}
        features = self.loss_network(picture, layers) if layers else {}
        zero = picture.new_zeros(())
        content, style = zero, zero
        for term in self.content:
            content = content + term.weight * content_loss(features[term.layer], term.target)
        for wish in self.style:
            at_layer = features[wish.layer]
            style = style + wish.weight * wish.target.loss(at_layer, wish.region)
        tv = total_variation_loss(picture)
        total = self.content_weight * content + self.style_weight * style + self.tv_weight * tv
        return {"content": content, "style": style, "tv": tv, "total": total}


def content_terms(photo: Tensor, loss_network: LossNetwork, layers: Mapping[str, float]) -> tuple[ContentTerm, ...]:
    """The features of a photograph (1, 3, H, W) in [0, 255], one term per layer with its weight."""
    if not layers:
        return ()
    with torch.no_grad():
        features = loss_network(photo, layers)
    return tuple(ContentTerm(layer, features[layer], weight) for layer, weight in layers.items())


def style_terms(
    painting: Tensor,
    loss_network: LossNetwork,
    layers: Mapping[str, float],
    *,
    statistics: Statistics = "gram",
    weight: float = 1.0,
) -> tuple[StyleTerm, ...]:
    """The statistics of a whole painting (1, 3, H, W) in [0, 255]; `weight` multiplies every layer's."""
    if not layers:
        return ()
    with torch.no_grad():
        features = loss_network(painting, layers)
        return tuple(
            StyleTerm(layer, layer_target(features[layer], None, statistics), weight * share)
            for layer, share in layers.items()
        )
