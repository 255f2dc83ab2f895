"""Where every pixel goes: dense optical flow, pictures moved by it, and which pixels can be followed at all.

The flow is DIS (Kroeger et al. 2016, arXiv 1603.03590) as OpenCV has it. A flow (H, W, 2) float32 belongs to the first
of two pictures: the pixel (x, y) of the first is found at (x + flow[y, x, 0], y + flow[y, x, 1]) of the second.
"""

import struct
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from .errors import SourceError
from .frame import Picture

Flow = npt.NDArray[np.float32]
"""(H, W, 2): x and y displacement in pixels."""
Grey = npt.NDArray[np.uint8]
"""(H, W) luma."""
Mask = npt.NDArray[np.bool_]
"""(H, W)."""
Preset = Literal["quick", "medium"]
"""OpenCV's medium; or its fast with fewer iterations, 8 and 2 for 16 and 5: 1.4 ms instead of 2.0 at 427x240 on one
core, for 1 to 2 % more warping error of what is smoothed by it (four styles, four clips)."""

PATCH = 8
"""Pixels of the side of DIS' patches."""
MIN_SIDE = 2 * PATCH
"""DIS refuses pictures that are smaller than its patches at its coarsest level."""

_Pixels = TypeVar("_Pixels", bound=npt.NDArray[Any])


class FlowEstimator:
    """DIS with its buffers. One thread at a time."""

    def __init__(self, preset: Preset = "medium") -> None:
        import cv2

        quick = preset == "quick"
        self._dis = cv2.DISOpticalFlow.create(
            cv2.DISOPTICAL_FLOW_PRESET_FAST if quick else cv2.DISOPTICAL_FLOW_PRESET_MEDIUM
        )
        if quick:
            self._dis.setGradientDescentIterations(8)
            self._dis.setVariationalRefinementIterations(2)
        self._finest_scale = self._dis.getFinestScale()

    def __call__(self, first: Grey, second: Grey) -> Flow:
        """Flow from `first` to `second`, both (H, W) uint8."""
        height, width = first.shape
        if min(height, width) < MIN_SIDE:
            return np.zeros((height, width, 2), np.float32)
        # Where no patch fits into its finest scale, DIS takes others by the width alone, and for good: in a low picture
        # it then reads beyond the end.
        fitting = (min(height, width) // PATCH).bit_length() - 1
        self._dis.setFinestScale(min(self._finest_scale, fitting))
        return np.asarray(self._dis.calc(first, second, None), np.float32)  # type: ignore[call-overload]


def to_grey(picture: Picture) -> Grey:
    """(H, W, 3) uint8 RGB to (H, W) uint8, BT.601 luma."""
    import cv2

    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.uint8)


def warp(second: _Pixels, flow: Flow, *, nearest: bool = False) -> _Pixels:
    """What stood in the second picture, drawn where it stood in the first: out(x) = second(x + flow(x)).

    `second` is (H, W) or (H, W, C), uint8 or float32; bilinear or the nearest pixel, the border repeated outside.
    """
    import cv2

    how = (cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR) | cv2.WARP_RELATIVE_MAP
    moved: _Pixels = cv2.remap(second, flow, None, how, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[call-overload]
    return moved


@lru_cache(maxsize=4)
def pixel_grid(height: int, width: int) -> Flow:
    """(H, W, 2) float32: each pixel's own (x, y)."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    return np.ascontiguousarray(np.dstack([x, y]))


def followed(flow: Flow, reverse: Flow) -> Mask:
    """Pixels of the first picture whose motion can be trusted: visible in both pictures, on no motion boundary.

    Sundaram et al. 2010 as Ruder et al. 2016 (arXiv 1604.08610, equations 5 and 6) and Lai et al. 2018 use it: a pixel
    is lost where |flow + warped reverse|² > 0.01 (|flow|² + |warped reverse|²) + 0.5 and where
    |∇flow|² > 0.01 |flow|² + 0.002. Beyond them, a pixel that leaves the picture is lost as well.

    Args:
        flow: from the first picture to the second.
        reverse: from the second to the first.
    """
    back = warp(reverse, flow)
    energy = _squared(flow)
    consistent = _squared(flow + back) <= 0.01 * (energy + _squared(back)) + 0.5
    smooth = _gradient(flow) <= 0.01 * energy + 0.002
    return consistent & smooth & inside(flow)


def inside(flow: Flow) -> Mask:
    """Pixels that stay inside the picture."""
    height, width = flow.shape[:2]
    x, y = np.moveaxis(flow + pixel_grid(height, width), 2, 0)
    return np.asarray((x >= 0) & (y >= 0) & (x <= width - 1) & (y <= height - 1), np.bool_)


def read_flow(path: Path) -> Flow:
    """Ground truth of a file: Middlebury's .flo, or .npz with an array `flow` (H, W, 2)."""
    try:
        flow = _read_flo(path) if path.suffix == ".flo" else np.load(path, allow_pickle=False)["flow"]
    except (OSError, ValueError, KeyError, struct.error) as exc:
        raise SourceError(f"flow must be a .flo file, or .npz with an array `flow`, got {path}: {exc}") from exc
    if flow.ndim != 3 or flow.shape[2] != 2:
        raise SourceError(f"flow must be (H, W, 2), got {flow.shape} in {path}")
    return np.ascontiguousarray(flow, np.float32)


def _read_flo(path: Path) -> Flow:
    data = path.read_bytes()
    magic, width, height = struct.unpack_from("<fii", data)
    if magic != 202021.25:  # the format's sanity check
        raise ValueError("it does not start with the tag of a .flo file")
    return np.frombuffer(data, "<f4", height * width * 2, offset=12).reshape(height, width, 2)


def _squared(flow: Flow) -> npt.NDArray[np.float32]:
    return np.asarray(np.einsum("hwc,hwc->hw", flow, flow), np.float32)


def _gradient(flow: Flow) -> npt.NDArray[np.float32]:
    """Sum of the squares of both components' derivatives, by forward differences."""
    total = np.zeros(flow.shape[:2], np.float32)
    total[:-1] += _squared(flow[1:] - flow[:-1])
    total[:, :-1] += _squared(flow[:, 1:] - flow[:, :-1])
    return total
