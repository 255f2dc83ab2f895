"""What a style is to the losses: statistics of the loss network's features at one layer.

- `gram`, Gatys et al. 2015, equation 3;
- `covariance`, mean and covariance compared by the squared 2-Wasserstein distance of the two normal distributions
  that they stand for (Olkin and Pukelsheim 1982); unlike the Gram matrix it tells colour from contrast and has a
  gradient that does not vanish near the target.

With regions (Gatys et al. 2017, equation 3) every statistic is taken under a weight map; the paper's guidance channel
T_r is the root of ours.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from .gatys_config import Statistics
from .instance_norm import positions
from .losses import gram_matrix, style_loss


class LayerTarget(Protocol):
    """What one painting, or one region of it, has at one layer."""

    def loss(self, features: Tensor, region: Tensor | None) -> Tensor:
        """Scalar, the mean over the batch: distance of features (N, C, H, W) under the region's weights (1, 1, H, W),
        which sum to 1; None is the whole picture."""


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
        mean, covariance = (moment[0] for moment in region_moments(features, region))
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
        cross = ((inner.clamp_min(0) + floor**2).sqrt() - floor).sum(dim=1)
        trace = covariance.diagonal(dim1=1, dim2=2).sum(dim=1)
        distance = (mean - self.mean).square().sum(dim=1) + trace + self.trace - 2 * cross
        relative: Tensor = distance / (self.mean.square().sum() + self.trace).clamp_min(1e-12)
        return relative.mean()


def layer_target(features: Tensor, region: Tensor | None, statistics: Statistics) -> LayerTarget:
    """The statistics of (1, C, H, W) features under a region's weights (1, 1, H, W)."""
    return GramTarget.of(features, region) if statistics == "gram" else CovarianceTarget.of(features, region)


def region_gram(features: Tensor, region: Tensor | None) -> Tensor:
    """Σ_hw w_hw F_c,hw F_d,hw / C: (N, C, H, W) and (1, 1, H, W) -> (N, C, C); `gram_matrix` where w = 1 / (H·W)."""
    if region is None:
        return gram_matrix(features)
    channels = features.shape[1]
    flat = features.flatten(2)
    return (flat * region.flatten(2)) @ flat.transpose(1, 2) / channels


def region_moments(features: Tensor, region: Tensor | None) -> tuple[Tensor, Tensor]:
    """Weighted means (N, C) and covariances (N, C, C) of (N, C, H, W) features, in float32 or more."""
    if region is None:
        return _Moments.apply(features)  # type: ignore[no-untyped-call, no-any-return]
    flat = _widened(features).flatten(2)
    weighted = flat * region.flatten(2)
    # Not centred first: that would keep another copy of the features for the gradient.
    mean, square = weighted.sum(dim=2), weighted @ flat.transpose(1, 2)
    return mean, square - mean[:, :, None] * mean[:, None, :]


class _Moments(torch.autograd.Function):
    """Mean and covariance over all positions.

    The gradient is written down, and in the layout of the features: derived step by step it takes several passes over
    the largest maps of all and comes out in another layout than the convolutions', a sixth of a training step.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> tuple[Tensor, Tensor]:
        wide = _widened(positions(features))
        mean = wide.mean(dim=1)
        covariance = wide.mT @ wide / wide.shape[1] - mean[:, :, None] * mean[:, None, :]
        ctx.save_for_backward(features, mean)
        return mean, covariance

    @staticmethod
    def backward(ctx: Any, of_mean: Tensor, of_covariance: Tensor) -> Tensor:
        features, mean = ctx.saved_tensors
        wide = _widened(positions(features))
        slope = (of_covariance + of_covariance.mT) / wide.shape[1]
        constant = of_mean[:, None] / wide.shape[1] - mean[:, None] @ slope
        gradient = torch.baddbmm(constant, wide, slope).to(features.dtype)
        n, c, h, w = features.shape
        return gradient.reshape(n, h, w, c).permute(0, 3, 1, 2)


def _widened(features: Tensor) -> Tensor:
    """At least float32: bf16 would lose the difference between the square's mean and the mean's square."""
    return features.to(torch.promote_types(features.dtype, torch.float32))
