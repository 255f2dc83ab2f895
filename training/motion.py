"""Steadiness learned from single pictures: a slightly moved and noisy picture must get the moved answer.

After Wang et al., Consistent Video Style Transfer via Compound Regularization, AAAI 2020: no video and no optical
flow is needed, since the motion is made here and so known exactly. We add zoom and a change of brightness.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class MotionRange:
    """How far a picture is moved. Pixels of a 256-pixel crop."""

    shift: float = 8.0
    """Largest global shift, pixels."""
    flow: float = 3.0
    """Standard deviation of the smooth random flow, pixels."""
    zoom: float = 0.03
    """Largest relative change of size."""
    brightness: float = 0.04
    """Largest relative change of brightness."""
    noise: float = 4.0
    """Largest standard deviation of the sensor noise, in 1/255."""


@dataclass(frozen=True)
class Motion:
    """A random motion of a batch: apply it to the photographs and to the network's answers alike."""

    grid: Tensor
    """(N, H, W, 2) sampling positions in [-1, 1], as grid_sample takes them."""

    def warp(self, pictures: Tensor) -> Tensor:
        """(N, C, H, W) moved; positions outside the picture repeat its border."""
        return functional.grid_sample(
            pictures.float(), self.grid, mode="bilinear", padding_mode="border", align_corners=False
        )

    def inside(self) -> Tensor:
        """(N, 1, H, W) in {0, 1}: pixels whose origin lies inside the picture."""
        return (self.grid.abs() < 1).all(dim=3, keepdim=True).permute(0, 3, 1, 2).float()


def random_motion(shape: torch.Size, generator: torch.Generator, limits: MotionRange) -> Motion:
    """A shift, a zoom and a smooth flow for each picture of (N, C, H, W)."""
    n, _, height, width = shape
    to_grid = torch.tensor([2 / width, 2 / height])

    def uniform(*size: int) -> Tensor:
        return torch.rand(*size, generator=generator) * 2 - 1

    base = functional.affine_grid(torch.eye(2, 3).expand(n, 2, 3), [n, 1, height, width], align_corners=False)
    zoom = 1 + limits.zoom * uniform(n, 1, 1, 1)
    shift = limits.shift * uniform(n, 1, 1, 2) * to_grid
    coarse = torch.randn(n, 2, 5, 5, generator=generator) * limits.flow
    flow = functional.interpolate(coarse, (height, width), mode="bicubic", align_corners=False)
    return Motion(base * zoom + shift + flow.permute(0, 2, 3, 1) * to_grid)


def disturb(pictures: Tensor, generator: torch.Generator, limits: MotionRange) -> Tensor:
    """Brightness and sensor noise, pictures (N, 3, H, W) in [0, 255]."""
    n = pictures.shape[0]
    gain = 1 + limits.brightness * (torch.rand(n, 1, 1, 1, generator=generator) * 2 - 1)
    sigma = limits.noise * torch.rand(n, 1, 1, 1, generator=generator)
    noise = torch.randn(pictures.shape, generator=generator) * sigma
    return (pictures * gain + noise).clamp(0, 255)


def motion_loss(stylized: Tensor, stylized_moved: Tensor, motion: Motion) -> Tensor:
    """Mean squared difference, in units of a [0, 1] picture, between the moved answer and the answer to the moved."""
    mask = motion.inside()
    error = (motion.warp(stylized) - stylized_moved.float()).square() / 255**2 * mask
    return error.sum() / (3 * mask.sum().clamp_min(1))
