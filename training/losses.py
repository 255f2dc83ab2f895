"""Perceptual losses as pure functions of feature maps and pictures.

Features are (N, C, H, W); every function returns a scalar tensor, the mean over the batch.
"""

from collections.abc import Mapping

import torch
from torch import Tensor


def gram_matrix(features: Tensor) -> Tensor:
    """G_c,d = Σ_hw F_c,hw F_d,hw / (C·H·W): (N, C, H, W) -> (N, C, C) float32.

    Johnson et al. 2016, equation 3. Gatys et al. 2015, equation 3, is the same without the division; dividing makes
    pictures of different sizes comparable.
    """
    n, c, h, w = features.shape
    flat = features.reshape(n, c, h * w)
    # Not widened before the product: bf16 features are summed in float32 by the matrix unit anyway.
    return (flat @ flat.transpose(1, 2)).float() / (c * h * w)


def content_loss(features: Tensor, target: Tensor) -> Tensor:
    """‖F - T‖² / ‖T‖² of each picture: Johnson et al. 2016, equation 2, relative to the target's own energy.

    The papers divide by C·H·W instead. Dividing by ‖T‖² makes layers, loss networks and weights comparable: 1 means
    as far from the photograph as a picture without any features.
    """
    target = target.float().flatten(1)
    error = (features.float().flatten(1) - target).square().sum(dim=1)
    return (error / target.square().sum(dim=1).clamp_min(1e-12)).mean()


def style_loss(gram: Tensor, target: Tensor) -> Tensor:
    """‖G - A‖²_F / ‖A‖²_F of one layer: Gatys et al. 2015, equation 4, relative to the style's own energy.

    Args:
        gram: (N, C, C).
        target: (1, C, C) or (N, C, C) of the style image.
    """
    error = (gram - target).square().sum(dim=(1, 2))
    return (error / target.square().sum(dim=(1, 2)).clamp_min(1e-12)).mean()


def style_distance(grams: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Tensor:
    """Σ over the layers of `targets` of `style_loss`; the style term of the total loss and of the evaluation."""
    return sum((style_loss(grams[name], target) for name, target in targets.items()), torch.tensor(0.0))


def total_variation_loss(picture: Tensor) -> Tensor:
    """Mean squared difference of neighbours along both axes, picture (N, 3, H, W) in [0, 255] taken as [0, 1].

    Johnson et al. 2016, section 3.2 (after Mahendran and Vedaldi 2015 with β = 2), as a mean so that it does not grow
    with the picture.
    """
    scaled = picture.float() / 255
    vertical = (scaled[:, :, 1:] - scaled[:, :, :-1]).square().mean()
    horizontal = (scaled[:, :, :, 1:] - scaled[:, :, :, :-1]).square().mean()
    return vertical + horizontal


def grid_loss(picture: Tensor) -> Tensor:
    """Mean square of the 4x4 pattern that repeats all over each picture, (N, 3, H, W) in [0, 255] taken as [0, 1].

    What upsampling by two, twice, leaves behind (Odena et al. 2016): `quality.grid_pattern` with a gradient. H and W
    must be multiples of four.
    """
    n, channels, height, width = picture.shape
    blocks = (picture.float() / 255).reshape(n, channels, height // 4, 4, width // 4, 4).mean(dim=(2, 4))
    return (blocks - blocks.mean(dim=(2, 3), keepdim=True)).square().mean()


def out_of_range_loss(picture: Tensor) -> Tensor:
    """Mean squared distance to [0, 255], picture (N, 3, H, W), taken as [0, 1]: what clipping would cut off."""
    scaled = picture.float() / 255
    return (scaled - scaled.clamp(0, 1)).square().mean()
