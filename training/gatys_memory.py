"""How much memory a painting takes, before it is begun."""

import os
import sys
from collections.abc import Collection
from pathlib import Path

import torch
from torch import nn

from .gatys_config import LBFGS_HISTORY, Optimizer
from .loss_network import LossNetwork


def memory_needed(
    height: int,
    width: int,
    loss_network: LossNetwork,
    layers: Collection[str],
    *,
    optimizer: Optimizer = "lbfgs",
    history: int = LBFGS_HISTORY,
    painting_share: float = 0.0,
) -> int:
    """Bytes at the peak of an evaluation, beyond what loading torch and the network takes.

    Counted from what is kept for the gradient up to the deepest layer: the padded input and the output of each
    convolution, the places of the maxima.

    Args:
        painting_share: pixels of the largest painting, in the size in which it is looked at, for each pixel of the
            picture. Nothing is kept for a gradient there, but with large marks it is many times the picture.
    """
    pixels = height * width
    kept, widest = _features(loss_network, layers, for_gradient=True)
    # Three times the widest layer: its gradients, and the copies in the layout that convolutions like. Sixteen
    # pictures: the one in hand, its gradient, and what the total variation keeps.
    vectors = 2 * history + 10 if optimizer == "lbfgs" else 4
    to_evaluate = pixels * (kept + 3 * widest + 4 * 3 * (vectors + 16))
    kept, widest = _features(loss_network, layers, for_gradient=False)
    to_look = painting_share * pixels * (kept + 3 * widest)
    return round(1.18 * max(to_evaluate, to_look))  # the allocator's waste, and what smaller scales leave behind


def _features(loss_network: LossNetwork, layers: Collection[str], *, for_gradient: bool) -> tuple[float, float]:
    """Bytes for each pixel of a picture: what stays of its features, and the widest step's input and output."""
    kept = widest = 0.0
    block, area = 1, 1.0
    deepest = max(layers, key=loss_network.layers.index) if layers else ""
    for name, convolution in loss_network.convolutions.items() if layers else ():
        assert isinstance(convolution, nn.Conv2d)  # ModuleDict forgets what it holds
        inner, outer = convolution.in_channels, convolution.out_channels
        layer = name.replace("conv", "relu")
        if int(name[4]) != block:
            block += 1
            kept += 8 * inner * area / 4 if for_gradient else 0  # where each maximum came from, int64
            area /= 4
        padded_copy = inner if convolution.padding_mode == "reflect" else 0
        if for_gradient:
            kept += 4 * area * (padded_copy + outer)
        elif layer in layers:
            kept += 4 * area * outer
        widest = max(widest, 4 * area * (inner + outer))
        if layer == deepest:
            break
    return kept, widest


def largest_size(
    available: int,
    aspect: float,
    loss_network: LossNetwork,
    layers: Collection[str],
    *,
    optimizer: Optimizer,
    history: int,
    painting_share: float = 0.0,
) -> int:
    """The longest long side, pixels, of a picture of this aspect (short over long side) that fits."""
    fits, too_large = 0, 1 << 20
    while too_large - fits > 1:
        middle = (fits + too_large) // 2
        short = max(1, round(middle * aspect))
        needed = memory_needed(
            middle, short, loss_network, layers, optimizer=optimizer, history=history, painting_share=painting_share
        )
        fits, too_large = (middle, too_large) if needed <= available else (fits, middle)
    return fits


def available_memory(device: torch.device) -> int | None:
    """Bytes that are free on a device, for a process in a container those of the container; None if unknown."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu":
        return None
    found = [value for value in (_meminfo_available(), _cgroup_available()) if value is not None]
    if found:
        return min(found)
    if sys.platform == "win32":
        return None
    # macOS has no figure of what is free that counts caches as such: all there is, less a third for the system.
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 2 // 3


def _meminfo_available() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _cgroup_available() -> int | None:
    folder = Path("/sys/fs/cgroup")
    try:
        limit, used = (folder / "memory.max").read_text().strip(), (folder / "memory.current").read_text().strip()
    except OSError:
        return None
    return None if limit == "max" else max(0, int(limit) - int(used))
