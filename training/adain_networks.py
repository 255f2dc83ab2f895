"""Networks for any painting: a style encoder turns a painting into a vector, a stylizer paints a photograph with it.

Both kinds share one convention. The style is a vector (N, K) that says what a layer does to its input x,

    (1 + keep) · x + scale · norm(x) + shift,

with `norm` instance normalisation without parameters. That is AdaIN (Huang and Belongie 2017, arXiv 1703.06868,
equation 8: σ(y) · norm(x) + μ(y)) written so that zeros leave x alone: the zero vector is the photograph, a vector
times alpha is the paper's trade-off (equation 14, α·AdaIN + (1-α)·x, exactly), a weighted sum of vectors mixes
paintings (equation 15), and every change of style is a straight line between vectors, at no cost per frame.

`CompactStylizer` is ours, shaped like the fast tier (`networks.FastNetwork`) and modulated at several depths, after
Wang et al., MicroAST, AAAI 2023, and Dumoulin et al. 2016 (1610.07629). The reference of the paper is in
`adain_reference`.

Pictures are (N, 3, H, W) float RGB in [0, 255]; the output is not clamped.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from .networks import Padding, UpsampleConv
from .padding import Conv2d

AdainKind = Literal["compact", "reference"]

EPS = 1e-5
"""Of every normalisation here, added to the variance."""


@dataclass(frozen=True)
class CompactConfig:
    """All that is needed to build the compact networks again."""

    width: int = 16
    """Channels after the first convolution; four times as many in the body."""
    blocks: int = 4
    """Residual blocks at a quarter of the size."""
    encoder_width: int = 32
    """Channels after the style encoder's first convolution."""
    hidden: int = 320
    """Units between a painting's statistics and the style vector."""
    padding: Padding = "zeros"
    """Around every map of the stylizer; see `networks.NetworkConfig`."""

    def __post_init__(self) -> None:
        for name, low, high in (("width", 4, 64), ("blocks", 1, 16), ("encoder_width", 4, 128), ("hidden", 8, 2048)):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} must be in {low}…{high}, got {getattr(self, name)}")
        if self.padding not in get_args(Padding):
            raise ValueError(f"padding must be one of {', '.join(get_args(Padding))}, got {self.padding!r}")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def normalize(x: Tensor) -> Tensor:
    """(x - mean) / sqrt(var + EPS), statistics per picture and channel (Ulyanov et al. 2016)."""
    normalized = functional.instance_norm(x, eps=EPS)
    if torch.compiler.is_exporting():
        return normalized
    # The function answers in NCHW whatever it is given; ReLU's gradient across two layouts is thirty times slower.
    return normalized.contiguous(memory_format=torch.channels_last)


def adain(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """scale · norm(x) + shift: Huang and Belongie 2017, equation 8, with scale = σ(y) and shift = μ(y).

    Args:
        x: (N, C, H, W).
        scale, shift: (N, C).
    """
    return normalize(x) * scale[:, :, None, None] + shift[:, :, None, None]


def mean_and_deviation(x: Tensor) -> tuple[Tensor, Tensor]:
    """μ and σ of each picture's channels, (N, C, H, W) to two (N, C): equations 5 and 6 of the paper."""
    x = x.float()
    mean = x.mean(dim=(2, 3))
    variance = (x - mean[:, :, None, None]).square().mean(dim=(2, 3))
    return mean, (variance + EPS).sqrt()


def features_at_entry(convolutions: Iterable[nn.Module], picture: Tensor) -> Tensor:
    """(N, 3, H, W) in [0, 255] through strided convolutions, each with a ReLU."""
    x = picture / 127.5 - 1
    for convolution in convolutions:
        x = functional.relu(convolution(x))
    return x


class ModulatedBlock(nn.Module):
    """x + adain(conv(relu(adain(conv(x))))), 3x3; nothing but x where the style is zero."""

    def __init__(self, channels: int, padding: Padding) -> None:
        super().__init__()
        self.conv1 = Conv2d(channels, channels, 3, padding=1, padding_mode=padding)
        self.conv2 = Conv2d(channels, channels, 3, padding=1, padding_mode=padding)

    def forward(self, x: Tensor, style: tuple[Tensor, Tensor, Tensor, Tensor]) -> Tensor:
        """`style`: scale and shift of the first convolution, then of the second; (N, C) each."""
        out = functional.relu(adain(self.conv1(x), style[0], style[1]))
        return x + adain(self.conv2(out), style[2], style[3])


class CompactStylizer(nn.Module):
    """3 -> 16 -> 64 channels by two strided convolutions, four modulated blocks, 32 -> 16 back up, a last 3x3.

    The way down and the way up are not normalised, so that a picture's own light and colours pass where the style
    keeps them; a pure autoencoder is left where the style is zero.
    """

    stride = 4

    def __init__(self, config: CompactConfig) -> None:
        super().__init__()
        self.config = config
        width, body, half = config.width, 4 * config.width, 2 * config.width
        edges: dict[str, Any] = {"padding": 1, "padding_mode": config.padding}
        self.down = nn.ModuleList([Conv2d(3, width, 3, stride=2, **edges), Conv2d(width, body, 3, stride=2, **edges)])
        self.body = nn.ModuleList(ModulatedBlock(body, config.padding) for _ in range(config.blocks))
        self.up = nn.ModuleList([UpsampleConv(body, half, config.padding), UpsampleConv(half, width, config.padding)])
        self.to_rgb = Conv2d(width, 3, 3, **edges)
        self.style_sizes = (body,) * (3 + 4 * config.blocks) + (half,) * 2
        """Channels of each part of the style vector: keep, scale and shift at the entry, scale, shift, scale, shift of
        each block, keep and shift on the way up."""

    @property
    def style_size(self) -> int:
        """K."""
        return sum(self.style_sizes)

    def forward(self, picture: Tensor, style: Tensor) -> Tensor:
        """(N, 3, H, W) float RGB in [0, 255] and (N, K) to the painting; H and W must be multiples of `stride`."""
        keep, scale, shift, *blocks, up_keep, up_shift = torch.split(style, list(self.style_sizes), dim=1)
        x = features_at_entry(self.down, picture)
        x = functional.relu(x * (1 + keep)[:, :, None, None] + adain(x, scale, shift))
        for index, block in enumerate(self.body):
            x = block(x, tuple(blocks[4 * index : 4 * index + 4]))
        return self._way_up(x, up_keep, up_shift)

    def reconstruct(self, picture: Tensor) -> Tensor:
        """What `forward` answers to a style of zeros, without the work that zeros undo."""
        zeros = picture.new_zeros(picture.shape[0], self.style_sizes[-1])
        return self._way_up(features_at_entry(self.down, picture), zeros, zeros)

    def neutral_style(self) -> Tensor:
        """(K,): plain instance normalisation in every block, no photograph and no shift at the entry. What the encoder
        starts with for all paintings."""
        body = self.style_sizes[0]
        zeros, ones = torch.zeros(body), torch.ones(body)
        return torch.cat(
            [-ones, zeros, zeros, *[ones, zeros, ones, zeros] * len(self.body), torch.zeros(2 * self.style_sizes[-1])]
        )

    def _way_up(self, x: Tensor, keep: Tensor, shift: Tensor) -> Tensor:
        x = self.up[0](x)
        x = functional.relu(x * (1 + keep)[:, :, None, None] + shift[:, :, None, None])
        x = functional.relu(self.up[1](x))
        return self.to_rgb(x) * 127.5 + 127.5  # type: ignore[no-any-return]


class StyleEncoder(nn.Module):
    """A painting's colours and textures as a style vector: strided convolutions, and means and deviations of what each
    of them answers, so that nothing is left of where things are.

    Where the stylizer begins, the vector says what AdaIN itself would: means and deviations of the painting in the
    stylizer's own features, which it shares. All else is learned, as what to add to `start`.
    """

    stride = 16

    def __init__(self, config: CompactConfig, stylizer: CompactStylizer) -> None:
        super().__init__()
        width, style_size = config.encoder_width, stylizer.style_size
        self.entry = stylizer.down
        sizes = [3, width, 2 * width, 4 * width, 4 * width]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(inner, outer, 3, stride=2, padding=1) for inner, outer in pairwise(sizes)
        )
        self.hidden = nn.Linear(2 * sum(sizes), config.hidden)
        self.to_style = nn.Linear(config.hidden, style_size)

    def forward(self, painting: Tensor) -> Tensor:
        """(N, 3, H, W) float RGB in [0, 255], H and W multiples of `stride`, to (N, K)."""
        return self.style_of(painting, self.describe(painting))

    def style_of(self, painting: Tensor, description: Tensor) -> Tensor:
        """(N, K) of a painting and what `describe` says of it."""
        mean, deviation = mean_and_deviation(features_at_entry(self.entry, painting))
        learned = self.to_style(description)
        own = torch.cat([torch.zeros_like(mean), deviation, mean], dim=1)
        style: Tensor = learned + functional.pad(own, (0, learned.shape[1] - own.shape[1]))
        return style

    def describe(self, painting: Tensor) -> Tensor:
        """(N, hidden): what the style vector is made of."""
        x = painting / 127.5 - 1
        statistics = [*mean_and_deviation(x)]
        for convolution in self.convolutions:
            x = functional.relu(convolution(x))
            statistics += mean_and_deviation(x)
        return functional.relu(self.hidden(torch.cat(statistics, dim=1)))


class CompactNetworks(nn.Module):
    """Stylizer and style encoder, which are trained together and exported apart."""

    def __init__(self, config: CompactConfig) -> None:
        super().__init__()
        self.config = config
        self.stylizer = CompactStylizer(config)
        self.encoder = StyleEncoder(config, self.stylizer)
        with torch.no_grad():  # begins with one style for all paintings, and learns to tell them apart
            self.encoder.to_style.weight.mul_(0.3)
            self.encoder.to_style.bias.copy_(self.stylizer.neutral_style())

    def forward(self, picture: Tensor, painting: Tensor, alpha: float = 1.0) -> Tensor:
        """Both (N, 3, H, W) float RGB in [0, 255]; `alpha` 0 is the photograph, 1 the painting."""
        return self.stylizer(picture, alpha * self.encoder(painting))  # type: ignore[no-any-return]


def for_export(stylizer: CompactStylizer) -> CompactStylizer:
    """A copy in evaluation mode with the same answers whose upsampling is folded (`UpsampleConv.as_transposed`)."""
    copy = CompactStylizer(stylizer.config)
    copy.load_state_dict(stylizer.state_dict())
    copy.up = nn.ModuleList(layer.as_transposed() for layer in copy.up if isinstance(layer, UpsampleConv))
    return copy.eval()
