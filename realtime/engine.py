"""Engines: a loaded style that turns pictures into pictures. The only place that picks a back end."""

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

Batch = npt.NDArray[np.uint8]
"""(N, H, W, 3) uint8 RGB."""

Precision = Literal["fp32", "bf16", "fp16", "int8"]


@dataclass(frozen=True)
class EngineInfo:
    """What really runs, as opposed to what was asked for."""

    name: str
    """Library, e.g. "openvino" or "onnxruntime"."""
    device: str
    """Device in the library's own words, e.g. "CPU" or "CUDA:0"."""
    precision: Precision


class Engine(Protocol):
    """A style, loaded. Calls may come from any one thread at a time."""

    @property
    def info(self) -> EngineInfo: ...

    @property
    def stride(self) -> int:
        """H and W of a batch must be multiples of this."""

    def __call__(self, frames: Batch) -> Batch:
        """Stylize (N, H, W, 3) uint8 RGB; returns a new array of the same shape and dtype."""

    def warmup(self, height: int, width: int) -> None:
        """Run once at this size so that the next call does not pay for compilation."""

    def close(self) -> None:
        """Free the engine. Safe to call twice; no call may follow."""
