"""The loss network: a fixed VGG whose named activations (`relu1_1` … `relu5_4`) measure content and style.

Three kinds of weights, told apart by their names in the file: torchvision's VGG-16 and VGG-19 (`features.0.weight`,
ImageNet normalisation, zero padding) and VGGs with one entry per named convolution (`conv1_1.weight`) and an optional
1x1 `preprocess` convolution that takes RGB in [0, 1]; those use reflection padding. The slim VGG-19 of Wang et al.,
Collaborative Distillation, CVPR 2020, is of the latter kind.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from .errors import TrainingError
from .padding import Conv2d

LossNetworkName = Literal["vgg16", "vgg19"]

STYLE_LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
"""Gatys et al. 2015."""
CONTENT_LAYER = "relu2_2"
"""Johnson et al. 2016: feed-forward networks lose the photograph with a deeper one."""

# Convolutions per block of the torchvision layouts, told apart by their number.
_TORCHVISION_BLOCKS = {13: (2, 2, 3, 3, 3), 16: (2, 2, 4, 4, 4)}
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


class LossNetwork(nn.Module):
    """Named activations of a fixed VGG. Takes (N, 3, H, W) float RGB in [0, 255]; normalisation happens inside."""

    def __init__(
        self, convolutions: Mapping[str, nn.Conv2d], preprocess: nn.Conv2d, *, max_pooling: bool = True
    ) -> None:
        """`convolutions`: `conv1_1` … in order; `preprocess`: 1x1, takes RGB in [0, 1]."""
        super().__init__()
        self.preprocess = preprocess
        self.convolutions = nn.ModuleDict(dict(convolutions))
        self.max_pooling = max_pooling
        self.requires_grad_(False)

    @property
    def device(self) -> torch.device:
        """Where it computes, and where pictures must be."""
        return self.preprocess.weight.device

    @property
    def layers(self) -> tuple[str, ...]:
        """Names that `forward` can be asked for, from the picture inwards."""
        return tuple(name.replace("conv", "relu") for name in self.convolutions)

    def checksum(self) -> str:
        """SHA-256 of the weights, hexadecimal: one for the same network whatever file it came from."""
        digest = hashlib.sha256()
        for name, weights in sorted(self.state_dict().items()):
            digest.update(name.encode())
            digest.update(weights.float().cpu().numpy().tobytes())  # rows first, however they are stored
        return digest.hexdigest()

    def forward(self, picture: Tensor, layers: Iterable[str]) -> dict[str, Tensor]:
        """Activations after the named ReLUs, and nothing computed beyond the deepest one.

        Raises:
            ValueError: a layer that this network does not have, or a picture too small for the deepest one.
        """
        wanted = set(layers)
        if unknown := wanted - set(self.layers):
            raise ValueError(f"layers must be among {', '.join(self.layers)}, got {', '.join(sorted(unknown))}")
        found: dict[str, Tensor] = {}
        x = self.preprocess(picture / 255)
        block = 1
        for name, convolution in self.convolutions.items():
            if int(name[4]) != block:
                block += 1
                if min(x.shape[-2:]) < 4:
                    height, width = picture.shape[-2:]
                    raise ValueError(f"picture must be larger to reach block {block}, got {width}x{height}")
                x = functional.max_pool2d(x, 2) if self.max_pooling else functional.avg_pool2d(x, 2)
            x = functional.relu(convolution(x))
            layer = name.replace("conv", "relu")
            if layer in wanted:
                found[layer] = x
                if len(found) == len(wanted):
                    break
        return found


def load_loss_network(
    name: LossNetworkName = "vgg19", *, weights: Path | None = None, max_pooling: bool = True
) -> LossNetwork:
    """A loss network from a local file, or torchvision's pretrained weights fetched once and checked by their hash.

    Args:
        name: which of torchvision's networks to fetch; ignored with `weights`.
        weights: a .safetensors or .pth file (read without unpickling code) in one of the layouts above.
        max_pooling: False for the average pooling that Gatys et al. 2015 prefer.

    Raises:
        TrainingError: the file or the download is missing, damaged or of an unknown layout.
    """
    if name not in get_args(LossNetworkName):
        raise ValueError(f"loss network must be one of {', '.join(get_args(LossNetworkName))}, got {name!r}")
    state = _download(name) if weights is None else _read_weights(weights)
    where = f"torchvision's {name}" if weights is None else str(weights)
    torchvision_convolutions = sorted(
        {int(match[1]) for key in state if (match := re.fullmatch(r"features\.(\d+)\.weight", key))}
    )
    if torchvision_convolutions:
        return _from_torchvision(state, torchvision_convolutions, where, max_pooling=max_pooling)
    return _from_named(state, where, max_pooling=max_pooling)


def _download(name: LossNetworkName) -> dict[str, Tensor]:
    try:
        import torchvision.models  # late: large, and not needed with a local file
    except Exception as exc:  # torchvision raises RuntimeError when it does not match the installed torch
        raise TrainingError(
            f"torchvision must be importable to fetch {name}: {exc}; give a local file with --loss-weights instead"
        ) from exc
    weights = torchvision.models.get_model_weights(name).IMAGENET1K_V1
    try:
        state: dict[str, Tensor] = weights.get_state_dict(progress=True, check_hash=True)
    except (OSError, RuntimeError) as exc:
        raise TrainingError(f"cannot fetch torchvision's {name}: {exc}; give a local file with --loss-weights") from exc
    return state


def _read_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise TrainingError(f"loss network weights not found: {path}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as exc:  # each reader has its own errors for a damaged file
        raise TrainingError(f"cannot read loss network weights {path}: {exc}") from exc
    if not isinstance(state, dict):
        raise TrainingError(f"loss network weights must be a state dict, got {type(state).__name__}: {path}")
    return state


def _from_torchvision(state: Mapping[str, Tensor], indices: list[int], where: str, *, max_pooling: bool) -> LossNetwork:
    blocks = _TORCHVISION_BLOCKS.get(len(indices))
    if blocks is None:
        raise TrainingError(f"a torchvision VGG must have 13 or 16 convolutions, got {len(indices)}: {where}")
    names = [f"conv{block}_{i}" for block, count in enumerate(blocks, 1) for i in range(1, count + 1)]
    convolutions = {
        name: _convolution(state, f"features.{index}", padding_mode="zeros", where=where)
        for name, index in zip(names, indices, strict=True)
    }
    std = torch.tensor(_IMAGENET_STD)
    preprocess = _make_convolution(
        torch.diag(1 / std)[:, :, None, None], -torch.tensor(_IMAGENET_MEAN) / std, padding_mode="zeros"
    )
    return LossNetwork(convolutions, preprocess, max_pooling=max_pooling)


def _from_named(state: Mapping[str, Tensor], where: str, *, max_pooling: bool) -> LossNetwork:
    names = sorted(
        (match[1] for key in state if (match := re.fullmatch(r"(conv[1-5]_[1-4])\.weight", key))),
        key=lambda name: (int(name[4]), int(name[6])),
    )
    if not names or names[0] != "conv1_1":
        raise TrainingError(f"loss network weights must hold features.0.weight or conv1_1.weight: {where}")
    convolutions = {name: _convolution(state, name, padding_mode="reflect", where=where) for name in names}
    if "preprocess.weight" in state:
        preprocess = _convolution(state, "preprocess", padding_mode="zeros", where=where)
    else:
        preprocess = _make_convolution(torch.eye(3)[:, :, None, None], torch.zeros(3), padding_mode="zeros")
    return LossNetwork(convolutions, preprocess, max_pooling=max_pooling)


def _convolution(
    state: Mapping[str, Tensor], key: str, *, padding_mode: Literal["zeros", "reflect"], where: str
) -> nn.Conv2d:
    weight, bias = state.get(f"{key}.weight"), state.get(f"{key}.bias")
    if weight is None or bias is None or weight.ndim != 4 or bias.shape != weight.shape[:1]:
        raise TrainingError(f"loss network weights must hold a convolution {key} with weight and bias: {where}")
    return _make_convolution(weight, bias, padding_mode=padding_mode)


def _make_convolution(weight: Tensor, bias: Tensor, *, padding_mode: Literal["zeros", "reflect"]) -> nn.Conv2d:
    outer, inner, kernel, _ = weight.shape
    convolution = Conv2d(inner, outer, kernel, padding=kernel // 2, padding_mode=padding_mode)
    with torch.no_grad():
        convolution.weight.copy_(weight)
        convolution.bias.copy_(bias)  # type: ignore[union-attr]
    return convolution
