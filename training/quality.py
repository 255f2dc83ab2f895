"""How good a painted picture is: structure kept, style distance, grid (design, section 7).

Pictures are (H, W, 3) uint8 RGB. The first two measures stand side by side: either alone is cheaply bought, the one
by painting nothing, the other by destroying the photograph.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from .data import Picture, middle_square, resize_short_side, to_tensor
from .loss_network import STYLE_LAYERS, LossNetwork
from .losses import gram_matrix, style_distance

EVALUATION_SIDE = 480
"""Height and width, pixels, at which pictures are judged."""
STYLE_SIDES = (256, 384, 512)
"""Short sides, pixels, at which the painting is looked at: brush size is a free choice of whoever paints."""
_BLOCK = 4


def evaluation_picture(photo: Picture) -> Picture:
    """The middle square of a photograph at `EVALUATION_SIDE`: (H, W, 3) uint8 to (480, 480, 3)."""
    return middle_square(photo, EVALUATION_SIDE)


def structure_kept(photo: Picture, painted: Picture) -> float:
    """Correlation in [-1, 1] of the gradient magnitudes of the mean of RGB, forward differences, means of 4x4 blocks.

    0 where either picture has no structure at all.
    """
    if photo.shape != painted.shape:
        raise ValueError(f"painted must have the photograph's shape {photo.shape}, got {painted.shape}")
    a, b = _structure(photo), _structure(painted)
    a, b = a - a.mean(), b - b.mean()
    energy = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return 0.0 if energy < 1e-9 else float((a * b).sum()) / energy


def structure_kept_of_batch(photos: Tensor, painted: Tensor) -> float:
    """The mean of `structure_kept` over a batch, both (N, 3, H, W) in [0, 255]; on their device, without gradients."""
    with torch.no_grad():
        a, b = (_structure_of_batch(x.detach().float()) for x in (photos, painted))
        energy = (a.square().sum(dim=1) * b.square().sum(dim=1)).sqrt()
        return float(((a * b).sum(dim=1) / energy.clamp_min(1e-9)).mean())


def grid_pattern(painted: Picture) -> float:
    """Standard deviation of the 4x4 pattern that repeats all over the picture, in 1/255.

    Each 4x4 block of the mean of RGB minus its own mean, averaged over all blocks. Counts a visible checkerboard and,
    milder, painted lines that snap to every fourth pixel.
    """
    blocks = _blocks(painted.mean(axis=2, dtype=np.float64))
    centred = blocks - blocks.mean(axis=(1, 3), keepdims=True)
    return float(centred.mean(axis=(0, 2)).std())


@dataclass(frozen=True)
class StyleTarget:
    """A painting as the loss network sees it at several sizes; made once, compared with many pictures."""

    grams: tuple[Mapping[str, Tensor], ...]
    """One mapping of layer to (1, C, C) per size."""
    loss_network: LossNetwork

    @classmethod
    def of(cls, style: Picture, loss_network: LossNetwork, *, sides: tuple[int, ...] = STYLE_SIDES) -> "StyleTarget":
        """`sides`: short sides in pixels."""
        return cls(tuple(picture_grams(resize_short_side(style, side), loss_network) for side in sides), loss_network)

    def distance(self, picture: Picture) -> float:
        """Σ over relu1_1 … relu5_1 of ‖G(picture) - G(style)‖² / ‖G(style)‖², the lowest over the painting's sizes."""
        grams = picture_grams(picture, self.loss_network)
        return min(float(style_distance(grams, target)) for target in self.grams)


def style_distance_of(
    picture: Picture, style: Picture, loss_network: LossNetwork, *, sides: tuple[int, ...] = STYLE_SIDES
) -> float:
    """Style distance of one picture; for many pictures and one painting keep a `StyleTarget`."""
    return StyleTarget.of(style, loss_network, sides=sides).distance(picture)


@torch.inference_mode()
def picture_grams(picture: Picture, loss_network: LossNetwork) -> dict[str, Tensor]:
    """Gram matrices (1, C, C) of Gatys' five style layers."""
    device = loss_network.device
    features = loss_network(to_tensor(picture).to(device), STYLE_LAYERS)
    return {name: gram_matrix(x) for name, x in features.items()}


def _structure(picture: Picture) -> npt.NDArray[np.float64]:
    """(H, W, 3) to the (⌊(H-1)/4⌋, ⌊(W-1)/4⌋) means of the gradient's magnitude."""
    grey = picture.mean(axis=2, dtype=np.float64)
    down = grey[1:, :-1] - grey[:-1, :-1]
    right = grey[:-1, 1:] - grey[:-1, :-1]
    means: npt.NDArray[np.float64] = _blocks(np.hypot(down, right)).mean(axis=(1, 3))
    return means


def _structure_of_batch(pictures: Tensor) -> Tensor:
    """(N, 3, H, W) to (N, rows · columns): `_structure` of each, minus its mean."""
    grey = pictures.clamp(0, 255).mean(dim=1, keepdim=True)
    down = grey[:, :, 1:, :-1] - grey[:, :, :-1, :-1]
    right = grey[:, :, :-1, 1:] - grey[:, :, :-1, :-1]
    means = functional.avg_pool2d(torch.hypot(down, right), _BLOCK).flatten(1)
    return means - means.mean(dim=1, keepdim=True)


def _blocks(plane: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(H, W) to (rows, 4, columns, 4); what is left over at the right and the bottom is cut off."""
    rows, columns = (length // _BLOCK for length in plane.shape)
    if not rows or not columns:
        raise ValueError(f"picture must be larger than {_BLOCK}x{_BLOCK}, got {plane.shape[1]}x{plane.shape[0]}")
    return plane[: rows * _BLOCK, : columns * _BLOCK].reshape(rows, _BLOCK, columns, _BLOCK)
