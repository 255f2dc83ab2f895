"""The reference: Huang and Belongie 2017 (arXiv 1703.06868) with whatever VGG is at hand.

A fixed VGG up to relu4_1 encodes photograph and painting, the photograph's features take the painting's means and
deviations, and a decoder that mirrors the VGG (nearest-neighbour upsampling, reflection padding, no normalisation)
makes a picture of them. Slower than `CompactStylizer`, and it carries the VGG's weights; it is what that is judged by.

The decoder is as wide as the encoder: with the slim VGG-19 a quarter of the paper's channels.
"""

from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from .adain_networks import CompactNetworks, adain, mean_and_deviation
from .loss_network import LossNetwork

ENCODER_LAYER = "relu4_1"
STATISTICS_LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1")
"""Section 5.1 of the paper, for the style loss."""


@dataclass(frozen=True)
class ReferenceConfig:
    """All that is needed to build the networks again."""

    channels: tuple[tuple[int, int], ...]
    """Block and channels of every convolution of the encoder up to conv4_1, from the picture inwards."""
    reflect: bool
    """Whether the encoder pads by reflection, as slim and `vgg_normalised` do; torchvision's pads with zeros."""

    @classmethod
    def of(cls, loss_network: LossNetwork) -> "ReferenceConfig":
        """For this VGG."""
        names = [name for name in loss_network.convolutions if name <= "conv4_1"]
        convolutions = [loss_network.convolutions[name] for name in names]
        return cls(
            tuple((int(name[4]), conv.out_channels) for name, conv in zip(names, convolutions, strict=True)),  # type: ignore[misc]
            reflect=convolutions[0].padding_mode == "reflect",
        )

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ReferenceConfig":
        """From `to_dict`, which JSON may have turned tuples into lists in."""
        return cls(tuple((int(block), int(size)) for block, size in values["channels"]), bool(values["reflect"]))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class VGGEncoder(nn.Module):
    """A fixed VGG up to relu4_1: (N, 3, H, W) in [0, 255] to (N, C, ⌊H/8⌋, ⌊W/8⌋)."""

    def __init__(self, config: ReferenceConfig) -> None:
        super().__init__()
        mode: Literal["reflect", "zeros"] = "reflect" if config.reflect else "zeros"
        sizes = [3, *(size for _, size in config.channels)]
        self.preprocess = nn.Conv2d(3, 3, 1)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(inner, outer, 3, padding=1, padding_mode=mode) for inner, outer in pairwise(sizes)
        )
        self.blocks = [block for block, _ in config.channels]
        self.requires_grad_(False)

    @classmethod
    def of(cls, loss_network: LossNetwork) -> "VGGEncoder":
        """With the weights of this VGG."""
        encoder = cls(ReferenceConfig.of(loss_network))
        encoder.preprocess.load_state_dict(loss_network.preprocess.state_dict())
        for ours, theirs in zip(encoder.convolutions, loss_network.convolutions.values(), strict=False):
            ours.load_state_dict(theirs.state_dict())
        return encoder

    def forward(self, picture: Tensor) -> Tensor:
        x, block = self.preprocess(picture / 255), 1
        for convolution, its_block in zip(self.convolutions, self.blocks, strict=True):
            if its_block != block:
                x, block = functional.max_pool2d(x, 2), its_block
            x = functional.relu(convolution(x))
        return x  # type: ignore[no-any-return]


class AdaINDecoder(nn.Module):
    """The encoder mirrored: (N, C, h, w) to (N, 3, 8h, 8w) in [0, 255]; no normalisation (section 7.1)."""

    def __init__(self, config: ReferenceConfig) -> None:
        super().__init__()
        sizes = [3, *(size for _, size in config.channels)][::-1]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(inner, outer, 3, padding=1, padding_mode="reflect") for inner, outer in pairwise(sizes)
        )
        self.blocks = [block for block, _ in config.channels][::-1]

    def forward(self, x: Tensor) -> Tensor:
        following = [*self.blocks[1:], self.blocks[-1]]
        for index, (convolution, block, after) in enumerate(
            zip(self.convolutions, self.blocks, following, strict=True)
        ):
            x = convolution(x)
            if index < len(self.convolutions) - 1:
                x = functional.relu(x)
            if block != after:
                x = functional.interpolate(x, scale_factor=2.0, mode="nearest")
        return x * 255


class ReferenceStylizer(nn.Module):
    """decoder((1 + keep) · f + scale · norm(f) + shift), f = VGG features; `adain_networks` explains the form."""

    stride = 8

    def __init__(self, config: ReferenceConfig) -> None:
        super().__init__()
        self.config = config
        self.vgg = VGGEncoder(config)
        self.decoder = AdaINDecoder(config)
        self.channels = config.channels[-1][1]

    @property
    def style_size(self) -> int:
        """K: keep, which is one number, and scale and shift of each channel."""
        return 1 + 2 * self.channels

    def forward(self, picture: Tensor, style: Tensor) -> Tensor:
        """(N, 3, H, W) float RGB in [0, 255] and (N, K) to the painting; H and W must be multiples of `stride`."""
        return self.decoder(self.target(picture, style))  # type: ignore[no-any-return]

    def target(self, picture: Tensor, style: Tensor) -> Tensor:
        """t of equation 11 and 14: the features that the painting shall have."""
        keep, scale, shift = torch.split(style, [1, self.channels, self.channels], dim=1)
        x = self.vgg(picture)
        target: Tensor = x * (1 + keep)[:, :, None, None] + adain(x, scale, shift)
        return target


class ReferenceStyleEncoder(nn.Module):
    """A painting's means and deviations at relu4_1 as a style vector."""

    stride = 8

    def __init__(self, vgg: VGGEncoder) -> None:
        super().__init__()
        self.vgg = vgg

    def forward(self, painting: Tensor) -> Tensor:
        """(N, 3, H, W) float RGB in [0, 255] to (N, K)."""
        mean, deviation = mean_and_deviation(self.vgg(painting))
        return torch.cat([-torch.ones_like(mean[:, :1]), deviation, mean], dim=1)


class ReferenceNetworks(nn.Module):
    """Stylizer and style encoder, which share the VGG; only the decoder learns."""

    def __init__(self, config: ReferenceConfig) -> None:
        super().__init__()
        self.config = config
        self.stylizer = ReferenceStylizer(config)
        self.encoder = ReferenceStyleEncoder(self.stylizer.vgg)

    @classmethod
    def of(cls, loss_network: LossNetwork) -> "ReferenceNetworks":
        """Around this VGG, with a decoder that has learned nothing yet."""
        networks = cls(ReferenceConfig.of(loss_network))
        networks.stylizer.vgg.load_state_dict(VGGEncoder.of(loss_network).state_dict())
        return networks

    def forward(self, picture: Tensor, painting: Tensor, alpha: float = 1.0) -> Tensor:
        """Both (N, 3, H, W) float RGB in [0, 255]; `alpha` 0 is the photograph, 1 the painting: equation 14."""
        return self.stylizer(picture, alpha * self.encoder(painting))  # type: ignore[no-any-return]


AdainNetworks = CompactNetworks | ReferenceNetworks
"""A stylizer and an encoder; what is trained, saved and exported."""
