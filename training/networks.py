"""Transformation networks: one picture in, the stylized picture out, in one pass.

`JohnsonNetwork` is the network of Johnson, Alahi, Fei-Fei 2016 (arXiv 1603.08155) with the two changes that the field
agrees on: instance normalisation (Ulyanov et al. 2016, 1607.08022) and nearest-neighbour upsampling followed by a
convolution instead of a transposed convolution (Odena et al. 2016, checkerboard artifacts).

`FastNetwork` is ours, shaped by what CPUs like: nearly all work in full 64-channel convolutions at a quarter of the
size, where the vector unit is full and the maps fit the cache; only thin layers at full size.

Both repeat the pixels at the edges of every map (`replicate`) instead of adding zeros. Zeros are a signal: with them a
flat surface that meets the edge of the picture got a frame, 20 to 40 pixels wide and up to 125/255 off.

Both take and give (N, 3, H, W) float RGB in [0, 255], H and W multiples of `stride`; the output is not clamped.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from .instance_norm import InstanceNorm
from .padding import Conv2d

Tier = Literal["fast", "quality"]
Architecture = Literal["fast", "johnson"]
Padding = Literal["zeros", "replicate"]
"""PyTorch's names."""

TIER_ARCHITECTURE: dict[Tier, Architecture] = {"fast": "fast", "quality": "johnson"}


@dataclass(frozen=True)
class NetworkConfig:
    """All that is needed to build a network again."""

    architecture: Architecture
    width: int
    """Channels after the first convolution."""
    blocks: int
    """Residual blocks at a quarter of the size."""
    padding: Padding = "zeros"
    """Around every map. What is read without it is from a time when there were only zeros."""

    def __post_init__(self) -> None:
        if self.architecture not in get_args(Architecture):
            raise ValueError(
                f"architecture must be one of {', '.join(get_args(Architecture))}, got {self.architecture!r}"
            )
        if self.padding not in get_args(Padding):
            raise ValueError(f"padding must be one of {', '.join(get_args(Padding))}, got {self.padding!r}")
        if not 1 <= self.width <= 256 or not 0 <= self.blocks <= 32:
            raise ValueError(f"width must be in 1…256 and blocks in 0…32, got {self.width} and {self.blocks}")

    @classmethod
    def for_tier(cls, tier: Tier) -> "NetworkConfig":
        """The network that the tier ships with."""
        if tier not in get_args(Tier):
            raise ValueError(f"tier must be one of {', '.join(get_args(Tier))}, got {tier!r}")
        if TIER_ARCHITECTURE[tier] == "fast":
            return cls("fast", width=16, blocks=4, padding="replicate")
        return cls("johnson", width=32, blocks=5, padding="replicate")

    def __str__(self) -> str:
        return f"{self.architecture} network of width {self.width} with {self.blocks} blocks, padding {self.padding}"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def build_network(config: NetworkConfig) -> "TransformationNetwork":
    """A network with fresh random weights."""
    return FastNetwork(config) if config.architecture == "fast" else JohnsonNetwork(config)


class ResidualBlock(nn.Module):
    """x + norm(conv(relu(norm(conv(x))))), 3x3; no ReLU after the sum (Johnson et al., supplementary material)."""

    def __init__(self, channels: int, padding: Padding) -> None:
        super().__init__()
        self.conv1 = Conv2d(channels, channels, 3, padding=1, padding_mode=padding)
        self.norm1 = InstanceNorm(channels)
        self.conv2 = Conv2d(channels, channels, 3, padding=1, padding_mode=padding)
        self.norm2 = InstanceNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = functional.relu(self.norm1(self.conv1(x)))
        return x + self.norm2(self.conv2(out))  # type: ignore[no-any-return]


_FOLD = torch.tensor([[0.0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]], dtype=torch.float64)
"""Taps of a row or column of `UpsampleConv`, (3,), to those of the same as a transposed convolution, (4,)."""


class UpsampleConv(nn.Module):
    """Nearest-neighbour upsampling by two, then a 3x3 convolution: (N, C, H, W) -> (N, D, 2H, 2W)."""

    def __init__(self, in_channels: int, out_channels: int, padding: Padding = "zeros") -> None:
        super().__init__()
        self.conv = Conv2d(in_channels, out_channels, 3, padding=1, padding_mode=padding)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(functional.interpolate(x, scale_factor=2.0, mode="nearest"))  # type: ignore[no-any-return]

    def as_transposed(self) -> nn.Module:
        """The same linear map as one 4x4 transposed convolution of stride 2: 16 taps a pixel instead of 36.

        An input pixel is copied to two output rows; the three taps of the kernel that reach them add up to four
        distinct taps per axis, [w2, w1 + w2, w0 + w1, w0]. Trained as a resize-convolution, so there is no
        checkerboard; run as a transposed one, which is 1.25 times faster for the whole network on a CPU.
        """
        weight = self.conv.weight.detach().double()
        folded = torch.einsum("yi,xj,dcij->cdyx", _FOLD, _FOLD, weight)
        out_channels, in_channels = weight.shape[:2]
        repeats_edges = self.conv.padding_mode == "replicate"
        # A pixel more on each side of the input is two more of the output, cut away by as much more padding.
        transposed = nn.ConvTranspose2d(in_channels, out_channels, 4, stride=2, padding=3 if repeats_edges else 1)
        with torch.no_grad():
            transposed.weight.copy_(folded)
            if self.conv.bias is not None and transposed.bias is not None:
                transposed.bias.copy_(self.conv.bias)
        return nn.Sequential(nn.ReplicationPad2d(1), transposed) if repeats_edges else transposed

    def take_transposed(self, layer: nn.Module) -> None:
        """Take over the weights of what `as_transposed` made."""
        *_, transposed = layer.modules()
        assert isinstance(transposed, nn.ConvTranspose2d)
        unfold = torch.linalg.pinv(_FOLD)
        weight = torch.einsum("iy,jx,cdyx->dcij", unfold, unfold, transposed.weight.detach().double())
        with torch.no_grad():
            self.conv.weight.copy_(weight)
            if self.conv.bias is not None and transposed.bias is not None:
                self.conv.bias.copy_(transposed.bias)


class TransformationNetwork(nn.Module):
    """Shared shape: two strided convolutions down, residual blocks, two upsampling convolutions up, one to RGB."""

    stride = 4

    def __init__(self, config: NetworkConfig, channels: tuple[int, ...], end_kernel: tuple[int, int]) -> None:
        """`channels`: after the first convolution(s), the body, and each upsampling; `end_kernel`: first and last."""
        super().__init__()
        self.config = config
        *down, body, up1, up2 = channels
        sizes = [3, *down, body]
        strides = [1, 2, 2][-len(sizes) + 1 :]
        kernels = [end_kernel[0] if stride == 1 else 3 for stride in strides]
        self.down = nn.ModuleList(
            Conv2d(inner, outer, kernel, stride=stride, padding=kernel // 2, padding_mode=config.padding)
            for inner, outer, kernel, stride in zip(sizes, sizes[1:], kernels, strides, strict=False)
        )
        self.down_norm = nn.ModuleList(InstanceNorm(size) for size in sizes[1:])
        self.body = nn.Sequential(*(ResidualBlock(body, config.padding) for _ in range(config.blocks)))
        self.up = nn.ModuleList([UpsampleConv(body, up1, config.padding), UpsampleConv(up1, up2, config.padding)])
        self.up_norm = nn.ModuleList([InstanceNorm(up1), InstanceNorm(up2)])
        self.to_rgb = Conv2d(up2, 3, end_kernel[1], padding=end_kernel[1] // 2, padding_mode=config.padding)

    def normalised(self) -> Iterator[tuple[nn.Module, nn.Module]]:
        """Every normalisation and the convolution whose answer it gets."""
        yield from zip(self.down, self.down_norm, strict=True)
        for block in self.body.children():
            assert isinstance(block, ResidualBlock)
            yield block.conv1, block.norm1
            yield block.conv2, block.norm2
        yield from zip(self.up, self.up_norm, strict=True)

    def forward(self, picture: Tensor) -> Tensor:
        """(N, 3, H, W) float RGB in [0, 255] to the same; H and W must be multiples of `stride`."""
        x = picture / 127.5 - 1
        for conv, norm in zip(self.down, self.down_norm, strict=True):
            x = functional.relu(norm(conv(x)))
        x = self.body(x)
        for conv, norm in zip(self.up, self.up_norm, strict=True):
            x = functional.relu(norm(conv(x)))
        return self.to_rgb(x) * 127.5 + 127.5  # type: ignore[no-any-return]


class FastNetwork(TransformationNetwork):
    """16 -> 64 channels by two strided 3x3 convolutions, four blocks, 32 -> 16 back up, a last 3x3: 23.6 kMAC/pixel."""

    def __init__(self, config: NetworkConfig) -> None:
        width = config.width
        super().__init__(config, channels=(width, 4 * width, 2 * width, width), end_kernel=(3, 3))


class JohnsonNetwork(TransformationNetwork):
    """9x9 at full size, 32 -> 64 -> 128 channels, five blocks, 64 -> 32 back up, a last 9x9.

    The paper mirrors 40 pixels around the input instead of padding inside, which is a third more work at 640x360.
    """

    def __init__(self, config: NetworkConfig) -> None:
        width = config.width
        super().__init__(config, channels=(width, 2 * width, 4 * width, 2 * width, width), end_kernel=(9, 9))


def for_export(network: TransformationNetwork) -> TransformationNetwork:
    """A copy in evaluation mode with the same answers whose upsampling is folded (`UpsampleConv.as_transposed`)."""
    copy = build_network(network.config)
    copy.load_state_dict(network.state_dict())
    copy.up = nn.ModuleList(layer.as_transposed() for layer in copy.up if isinstance(layer, UpsampleConv))
    return copy.eval()


def from_export(folded: TransformationNetwork) -> TransformationNetwork:
    """What `for_export` was given, in evaluation mode."""
    network = build_network(folded.config)
    weights = {name: values for name, values in folded.state_dict().items() if not name.startswith("up.")}
    network.load_state_dict(weights, strict=False)
    for ours, theirs in zip(network.up, folded.up, strict=True):
        assert isinstance(ours, UpsampleConv)
        ours.take_transposed(theirs)
    return network.eval()
