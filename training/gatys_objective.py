"""What Gatys' optimisation minimises: content_weight · content + style_weight · style + tv_weight · tv.

The losses are those of `losses.py`, relative to the target's own energy, so that the same weights serve every layer,
painting and loss network; Gatys et al. 2015 divide by powers of the layer's size instead. A style is a set of
statistics of the loss network's features:

- `gram`, Gatys et al. 2015, equation 3;
- `covariance`, mean and covariance compared by the squared 2-Wasserstein distance of the two normal distributions
  that they stand for (Olkin and Pukelsheim 1982); unlike the Gram matrix it tells colour from contrast and has a
  gradient that does not vanish near the target.

With regions (Gatys et al. 2017, equation 3) every statistic is taken under a weight map; the paper's guidance channel
T_r is the root of ours.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .gatys_config import Statistics
from .loss_network import LossNetwork
from .losses import content_loss, gram_matrix, style_loss, total_variation_loss


class LayerTarget(Protocol):
    """What one painting, or one region of it, has at one layer."""

    def loss(self, features: Tensor, region: Tensor | None) -> Tensor:
        """Scalar distance of features (1, C, H, W) under the region's weights (1, 1, H, W), which sum to 1; None is
        the whole picture."""


@dataclass(frozen=True)
class GramTarget:
    """‖G - A‖² / ‖A‖² as `losses.style_loss`."""

    gram: Tensor
    """(1, C, C)."""

    @classmethod
    def of(cls, features: Tensor, region: Tensor | None) -> "GramTarget":
        return cls(region_gram(features, region))

    def loss(self, features: Tensor, region: Tensor | None) -> Tensor:
        return style_loss(region_gram(features, region), self.gram)


@dataclass(frozen=True)
class CovarianceTarget:
    """(‖μ - μ_s‖² + tr(Σ + Σ_s - 2 (Σ_s^½ Σ Σ_s^½)^½)) / (‖μ_s‖² + tr Σ_s)."""

    mean: Tensor
    """(C,)."""
    trace: Tensor
    root: Tensor
    """Σ_s^½, (C, C)."""

    @classmethod
    def of(cls, features: Tensor, region: Tensor | None) -> "CovarianceTarget":
        mean, covariance = region_moments(features, region)
        values, vectors = torch.linalg.eigh(covariance.double())
        root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
        return cls(mean, covariance.trace(), root.to(mean.dtype))

    def loss(self, features: Tensor, region: Tensor | None) -> Tensor:
        mean, covariance = region_moments(features, region)
        # Only eigenvalues are asked for: their gradient is V diag(g) Vᵀ, without the 1 / (λ_i - λ_j) of eigenvectors
        # that makes the gradient of a matrix root explode where eigenvalues meet.
        inner = torch.linalg.eigvalsh(self.root @ covariance @ self.root)
        # Dead channels have eigenvalues of 0, where the root's slope is infinite.
        floor = 1e-6 * self.trace
        cross = ((inner.clamp_min(0) + floor**2).sqrt() - floor).sum()
        distance = (mean - self.mean).square().sum() + covariance.trace() + self.trace - 2 * cross
        relative: Tensor = distance / (self.mean.square().sum() + self.trace).clamp_min(1e-12)
        return relative


def layer_target(features: Tensor, region: Tensor | None, statistics: Statistics) -> LayerTarget:
    """The statistics of (1, C, H, W) features under a region's weights (1, 1, H, W)."""
    return GramTarget.of(features, region) if statistics == "gram" else CovarianceTarget.of(features, region)


def region_gram(features: Tensor, region: Tensor | None) -> Tensor:
    """Σ_hw w_hw F_c,hw F_d,hw / C: (1, C, H, W) and (1, 1, H, W) -> (1, C, C); `gram_matrix` where w = 1 / (H·W)."""
    if region is None:
        return gram_matrix(features)
    channels = features.shape[1]
    flat = features.flatten(2)
    return (flat * region.flatten(2)) @ flat.transpose(1, 2) / channels


def region_moments(features: Tensor, region: Tensor | None) -> tuple[Tensor, Tensor]:
    """Weighted mean (C,) and covariance (C, C) of (1, C, H, W) features."""
    flat = features[0].flatten(1)
    if region is None:
        mean = flat.mean(dim=1)
        # Not centred first: that would keep another copy of the features for the gradient.
        return mean, flat @ flat.T / flat.shape[1] - torch.outer(mean, mean)
    weighted = flat * region[0].flatten(1)
    mean = weighted.sum(dim=1)
    return mean, weighted @ flat.T - torch.outer(mean, mean)


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
