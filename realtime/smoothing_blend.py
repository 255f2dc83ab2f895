"""The blend of the last picture, moved along, with the new painting: what `smoothing.Smoother` spends most time on."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .frame import Picture
from .optical_flow import Flow

Weights = npt.NDArray[np.float32]
"""(h, w) in [0, 1]."""
_Painting = npt.NDArray[np.float32]
_WEIGHT_SCALE = 1024.0  # cv2.blendLinear adds 1e-5 to the sum of weights, which would darken a still picture

BAND_BYTES = 5 << 20
"""Of all that a band of rows works with, so that most of it stays in a cache. A quarter of it fits into a core's own,
but makes so many bands that their number costs more than the cache saves: 24 ms instead of 21 on one core at 720p."""
_BYTES_A_PIXEL = 84

_HALO = 1
"""Rows above and below a band that its sharpening looks at."""


class Blender:
    """The last picture, and buffers that stay: fresh memory for each frame would double the time.

    The last picture is kept in float, because an 8-bit one would lose up to half a level a frame and darken what
    stands still; and with a fourth channel, because OpenCV moves four in less than half the time that three take.
    All is done in bands of rows that fit into a cache, from the small flow to the bytes that go out.
    """

    def __init__(self, first: Picture) -> None:
        self.shape = first.shape
        self._bands = _Bands(self.shape[0], self.shape[0], self.shape[1])
        self._last, self._next = (np.empty((*first.shape[:2], 4), np.float32) for _ in range(2))
        self.keep(first)

    def keep(self, painted: Picture) -> None:
        """The last picture from now on."""
        for rows in self._bands:
            self._load(painted[rows], self._last[rows])

    def __call__(self, painted: Picture, flow: Flow, kept: Weights) -> Picture:
        """kept · (last, moved) + (1 - kept) · painted, (H, W, 3) uint8; the last picture from now on.

        Args:
            painted: (H, W, 3).
            flow: (h, w, 2) small pixels: where each pixel came from. Quickest where h divides H, or nearly.
            kept: (h, w).
        """
        height, width, _ = self.shape
        small_height, small_width = kept.shape
        if self._bands.small_height != small_height:
            self._bands = _Bands(height, small_height, width)
        # Rows as one, because numpy takes eight times as long by pairs.
        scales = np.tile(np.array([width / small_width, height / small_height], np.float32), small_width)
        flow = (flow.reshape(small_height, -1) * scales).reshape(flow.shape)
        sharpening = _sharpening(flow, kept)
        smoothed = np.empty(self.shape, np.uint8)
        for rows in self._bands:
            carried, spare = self._carried(rows, flow, sharpening)
            self._blend(rows, carried, self._load(painted[rows], spare), kept)
            self._unload(self._next[rows], smoothed[rows])
        self._last, self._next = self._next, self._last
        return smoothed

    def _carried(self, rows: slice, flow: Flow, sharpening: "_Sharpening | None") -> tuple[_Painting, _Painting]:
        """These rows of the last picture, moved along: (rows, W, 4), until the next call; and a buffer of that size."""
        import cv2

        bands, small = self._bands, self._bands.small(rows)
        count = rows.stop - rows.start
        if not flow[small].any():
            return self._last[rows], bands.moved[:count]
        top, bottom = max(0, rows.start - _HALO), min(self.shape[0], rows.stop + _HALO)
        moved, other = bands.moved[: bottom - top], bands.other[: bottom - top]
        where = bands.enlarged(flow[small] + np.array([0, top], np.float32), rows, top, bottom, bands.where)
        cv2.remap(  # type: ignore[call-overload]
            self._last, where, None, cv2.INTER_LINEAR | cv2.WARP_RELATIVE_MAP, moved, cv2.BORDER_REPLICATE
        )
        if sharpening is not None:
            least, most, *_ = cv2.minMaxLoc(sharpening.share[small])
            even = least > _EVEN * most
            if most > _LEAST_STRENGTH and even:
                kernel = _UNCHANGED + sharpening.kernel * np.float32((least + most) / 2)
                cv2.filter2D(moved, -1, kernel, dst=other, borderType=cv2.BORDER_REPLICATE)
                moved, other = other, moved
            elif most > _LEAST_STRENGTH:
                cv2.filter2D(moved, -1, sharpening.kernel, dst=other, borderType=cv2.BORDER_REPLICATE)
                share = bands.enlarged(sharpening.share[small], rows, top, bottom, bands.weight)
                shares = cv2.cvtColor(share, cv2.COLOR_GRAY2RGBA, dst=bands.weights[: bottom - top])
                cv2.accumulateProduct(other, shares, moved)
        return moved[rows.start - top :][:count], other[:count]

    def _blend(self, rows: slice, carried: _Painting, new: _Painting, kept: Weights) -> None:
        import cv2

        bands, scale = self._bands, np.float32(_WEIGHT_SCALE)
        weight = bands.enlarged(kept[bands.small(rows)] * scale, rows, rows.start, rows.stop, bands.weight)
        rest = np.subtract(scale, weight, out=bands.rest[: len(weight)])
        cv2.blendLinear(carried, new, weight, rest, dst=self._next[rows])

    def _load(self, picture: Picture, into: _Painting) -> _Painting:
        import cv2

        eight = self._bands.eight[: len(picture)]
        cv2.cvtColor(picture, cv2.COLOR_RGB2RGBA, dst=eight)
        np.copyto(into, eight)
        return into

    def _unload(self, blended: _Painting, into: Picture) -> None:
        """Rounded; the values lie in 0…255 but for a hair beside strong edges."""
        import cv2

        eight = self._bands.eight[: len(blended)]
        cv2.convertScaleAbs(blended, dst=eight)
        cv2.cvtColor(eight, cv2.COLOR_RGBA2RGB, dst=into)


class _Bands:
    """The rows of a picture in bands that can be worked on one after the other, and buffers for one of them.

    A band is as high as a whole number of small rows, so that enlarging these shows what enlarging all of them would.
    """

    def __init__(self, height: int, small_height: int, width: int) -> None:
        self.height, self.small_height = height, small_height
        common = math.gcd(height, small_height)
        self._step, self._small_step = height // common, small_height // common
        most = BAND_BYTES // (width * _BYTES_A_PIXEL)
        self._rows = min(height, max(self._step, most // self._step * self._step))
        band = (self._rows + 2 * _HALO, width)
        enlarged = (min(height, self._rows + 2 * self._step), width)
        self.where = np.empty((*enlarged, 2), np.float32)
        self.weight, self.rest = np.empty(enlarged, np.float32), np.empty(band, np.float32)
        self.moved, self.other, self.weights = (np.empty((*band, 4), np.float32) for _ in range(3))
        self.eight = np.empty((*band, 4), np.uint8)

    def __iter__(self) -> Iterator[slice]:
        return (slice(top, min(self.height, top + self._rows)) for top in range(0, self.height, self._rows))

    def small(self, rows: slice) -> slice:
        """The small rows that a band of rows is enlarged from."""
        first, last = (row // self._step * self._small_step for row in (rows.start, rows.stop))
        return slice(max(0, first - self._small_step), min(self.small_height, last + self._small_step))

    def enlarged(self, part: Weights, rows: slice, top: int, bottom: int, into: Weights) -> Weights:
        """From `top` to `bottom`, of the small rows of this band: (h, w) or (h, w, 2)."""
        import cv2

        first = self.small(rows).start // self._small_step * self._step
        count = len(part) // self._small_step * self._step
        cv2.resize(part, (into.shape[1], count), dst=into[:count], interpolation=cv2.INTER_LINEAR)
        return into[top - first : bottom - first]


@dataclass(frozen=True, eq=False)
class _Sharpening:
    """What gives a moved picture back the strokes that sampling between pixels takes.

    The mean of two neighbours, as bilinear sampling takes it half way between them, softens a little; done again in
    every frame it smears. Adding [-1, 2, -1] / 8 in that direction gives back what the second difference lost there,
    elsewhere 4·f·(1 - f) of it, f being the way from one to the other. For no frequency is the product of both above 1,
    so nothing grows from frame to frame.
    """

    kernel: Weights
    """(3, 3): what is added, for the strengths of both directions that the whole picture needs, and"""
    share: Weights
    """(h, w) in [0, 1]: how much of it at each small pixel, never more than is right for either direction."""


def _sharpening(flow: Flow, kept: Weights) -> _Sharpening | None:
    """For (h, w, 2) in pixels of the painting, and the share of the last picture; None where that stays in place."""
    import cv2

    # 4·f·(1 - f), in as little memory as can be.
    between = np.rint(flow)
    np.abs(np.subtract(flow, between, out=between), out=between)
    rest = np.subtract(np.float32(4), 4 * between)
    wanted = cv2.split(np.multiply(between, rest, out=rest))
    moving = cv2.bitwise_and(cv2.inRange(kept, _LEAST_KEPT, 1.0), cv2.inRange(cv2.max(*wanted), _LEAST_STRENGTH, 1.0))
    if cv2.countNonZero(moving) < _LEAST_MOVING * moving.size:
        return None
    kernel = np.zeros((3, 3), np.float32)
    share = np.ones_like(kept)
    for plane, difference in zip(wanted, (_DIFFERENCE, _DIFFERENCE.T), strict=True):
        mean = cv2.mean(plane, moving)[0]
        if mean > _LEAST_MEAN:
            strength = min(1.0, 1.5 * mean)
            kernel += difference * np.float32(strength)
            np.minimum(share, plane * np.float32(1 / strength), out=share)
    return _Sharpening(kernel, share) if kernel.any() else None


_DIFFERENCE = np.array([[0, 0, 0], [-1, 2, -1], [0, 0, 0]], np.float32) / 8
_UNCHANGED = np.array([[0, 0, 0], [0, 1, 0], [0, 0, 0]], np.float32)
_LEAST_STRENGTH = 0.05  # of the sharpening half way between two pixels; less is not seen
_LEAST_MEAN = 0.15  # over all that moves: a pan to the side does not move up and down
_EVEN = 0.75  # the least share of a band, of the most: then the mean will do, for a third of the work
_LEAST_KEPT = 0.2  # a smaller share of the last picture is gone before it smears
_LEAST_MOVING = 0.01  # of the picture
