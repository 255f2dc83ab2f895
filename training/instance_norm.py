"""Instance normalisation at a price that a training step can bear."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_FULL_VECTOR = 32  # channels; with fewer, bf16 rows are too short for passes over maps stored channels last


class InstanceNorm(nn.Module):
    """y = (x - mean) / sqrt(var + eps) * weight + bias, statistics per picture and channel (Ulyanov et al. 2016)."""

    eps = 1e-5

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same."""
        if not self.training:
            return functional.instance_norm(x, weight=self.weight, bias=self.bias, eps=self.eps)
        # PyTorch's gradient for one picture alone that is stored channels last is wrong, by 1.4 times its size.
        in_bf16 = x.dtype == torch.bfloat16 and (len(self.weight) >= _FULL_VECTOR or len(x) == 1)
        if x.is_cpu and (in_bf16 or x.dtype == torch.float32):
            return _Normalise.apply(x, self.weight, self.bias, self.eps)  # type: ignore[no-untyped-call, no-any-return]
        normalised = functional.instance_norm(x, weight=self.weight, bias=self.bias, eps=self.eps)
        # The function answers in NCHW whatever it is given; ReLU's gradient across two layouts is thirty times slower.
        return normalised.contiguous(memory_format=torch.channels_last)


class _Normalise(torch.autograd.Function):
    """Group normalisation with a group for each channel, on the CPU: it takes maps that are stored channels last as
    they are, where instance normalisation copies them twice.

    The gradient is written down: PyTorch's takes three times as long in bf16.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        n, c, h, w = x.shape
        y, mean, inverse = torch.native_group_norm(x, weight, bias, n, c, h * w, c, eps)
        ctx.save_for_backward(x, weight, mean, inverse)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, mean, inverse = ctx.saved_tensors
        n, c, h, w = x.shape
        maps, slopes = positions(x), positions(gradient)
        # Sums over all positions as products, which the matrix unit adds up in float32.
        ones = torch.ones(n, 1, h * w, dtype=slopes.dtype)
        of_bias = (ones @ slopes)[:, 0].float()
        of_scaled = (slopes.mT @ maps).diagonal(dim1=1, dim2=2).float()
        of_weight = (of_scaled - of_bias * mean) * inverse
        # dx = weight / σ · (dy - mean(dy) - x̂ · mean(dy · x̂)), with x̂ = (x - mean) / σ, sorted by x and dy.
        by_slope = inverse * weight
        by_map = -by_slope * of_weight * inverse / (h * w)
        constant = -by_slope * of_bias / (h * w) - by_map * mean
        constant, by_map, by_slope = (factor[:, None].to(x.dtype) for factor in (constant, by_map, by_slope))
        out = torch.addcmul(constant, maps, by_map).addcmul_(slopes, by_slope)
        return out.reshape(n, h, w, c).permute(0, 3, 1, 2), of_weight.sum(0), of_bias.sum(0), None


def positions(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, H·W, C); a view of maps that are stored channels last."""
    n, c, h, w = x.shape
    return x.permute(0, 2, 3, 1).reshape(n, h * w, c)
