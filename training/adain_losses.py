"""Losses of networks for any painting: those of `losses.py`, where each picture of a batch has its own painting."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .adain_networks import mean_and_deviation


def style_distances(grams: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Tensor:
    """(N,): Σ over the layers of ‖G - A‖² / ‖A‖² for each picture, as `losses.style_distance` of one.

    Args:
        grams, targets: (N, C, C) by layer.
    """
    per_layer = [
        (grams[name] - target).square().sum(dim=(1, 2)) / target.square().sum(dim=(1, 2)).clamp_min(1e-12)
        for name, target in targets.items()
    ]
    return torch.stack(per_layer).sum(dim=0)


def tempered(distances: Tensor, knee: float) -> Tensor:
    """The mean of d where d ≤ knee and of 2·√(knee·d) - knee beyond: from there on the slope falls as the root does.

    A painting whose features are weak (a pencil drawing, a dark portrait) has a relative distance of ten or a hundred
    while others are at 0.1, and alone would steer the training.
    """
    beyond = 2 * (knee * distances.clamp_min(knee)).sqrt() - knee
    return torch.where(distances <= knee, distances, beyond).mean()


def statistics_loss(features: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    """Σ over the layers of ‖μ - μ_s‖² + ‖σ - σ_s‖², relative to the style's own ‖μ_s‖² + ‖σ_s‖².

    Huang and Belongie 2017, equation 13, which is not relative; `style_distances` says why ours is.

    Args:
        features, targets: (N, C, H, W) per layer.
    """
    total = torch.zeros((), device=features[0].device)
    for layer, target in zip(features, targets, strict=True):
        (mean, deviation), (target_mean, target_deviation) = mean_and_deviation(layer), mean_and_deviation(target)
        error = ((mean - target_mean).square() + (deviation - target_deviation).square()).sum(dim=1)
        energy = (target_mean.square() + target_deviation.square()).sum(dim=1)
        total = total + (error / energy.clamp_min(1e-12)).mean()
    return total


def hint_loss(hints: Tensor, statistics: Tensor) -> Tensor:
    """‖h - s‖² / ‖s‖² of each painting, (N, S) both: how well a description foretells the loss network's statistics."""
    error = (hints.float() - statistics).square().sum(dim=1)
    return (error / statistics.square().sum(dim=1).clamp_min(1e-12)).mean()
