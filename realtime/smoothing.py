"""Smoothing over time while painting: the last picture, moved along, stays where nothing new is to be seen.

A painting of every frame by itself flickers: noise and small changes make the brush strokes jump. Here the last output
is carried to the new frame by the motion of the *input*, and blended with the new painting where that motion is
certain and the input really looks as it did. Everywhere else the new painting stands alone, so nothing is dragged
along. This is the recursive filter of temporal anti-aliasing in games, with estimated motion: see Bonneel et al. 2015,
Blind Video Temporal Consistency, for the optimisation that it stands in for, and Lai et al. 2018 for a learned one.
"""

import logging
import math
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .cuts import CutDetector
from .frame import Picture
from .optical_flow import Flow, FlowEstimator, Grey, pixel_grid, to_grey, warp

logger = logging.getLogger(__name__)

FLOW_SHORT_SIDE = 240
"""Pixels at which motion is looked for: 2 ms a frame, and sensor noise averages out."""

MOST_KEPT = 0.9
"""Share of the last picture at amount 1: a change of the painting itself is then half done after 7 frames."""

MOST_HELD = 0.8
"""Share of the rest that the last picture keeps as well, at amount 1, where the input stands still: cameras on a stand
and codecs make strokes crawl there. Six real clips at 360p, amount 0.8: the warping error falls by 14 and 21 %, by half
in front of a still camera."""

HELD_SIGMA = 4.0
"""As `CHANGE_SIGMA`, for `MOST_HELD`: the noise of cameras and codecs, of 255."""

CHANGE_SIGMA = 16.0
"""Difference of the moved input, of 255, at which the share kept has fallen to 37 %. Four real clips at 360p, amount
0.8: warping error left 0.49 at 6, 0.38 at 12, 0.32 at 20; at 12 the trails of the tests' moving square stay unseen."""

MISMATCH = 0.5
"""Squared distance, small pixels, by which the flow there and back may miss, plus 1 % of its squared length: the
constants of Sundaram et al. 2010."""

STILL = 0.35
"""Small pixels. A shorter motion that explains the input no better than none is estimation noise, and following it
would let a still background drift."""

_Weights = npt.NDArray[np.float32]
_Painting = npt.NDArray[np.float32]
_WEIGHT_SCALE = 1024.0  # cv2.blendLinear adds 1e-5 to the sum of weights, which would darken a still picture


@dataclass(frozen=True, eq=False)
class _Motion:
    """From the new frame to the last one, at the small size (h, w)."""

    flow: Flow
    """(h, w, 2) small pixels: where each pixel came from."""
    change: Grey
    """(h, w): how much the input there has changed on the way, of 255; 255 as well where the motion is not certain."""
    still: Grey
    """(h, w): not 0 where it did not move, nor any neighbour."""


class Smoother:
    """Holds the last picture and what the camera saw then. One thread paints with it at a time.

    `amount` may be changed between frames; at 0 every picture is returned as it is, untouched. `reset()` at a seek;
    cuts are found by itself. `begin` and `finish` are for those who paint several frames at once: both in the order of
    the frames, each by the same thread; `paint` does both for one frame.
    """

    def __init__(self, amount: float = 0.5, *, patience_ms: float | None = None) -> None:
        """
        Args:
            amount: 0 is off, 1 keeps most.
            patience_ms: for live use: how long to wait for the motion once the painting is there; what comes later
                is dropped, and so is the smoothing of that frame. None waits.
        """
        check_amount(amount)
        if patience_ms is not None and patience_ms < 0:
            raise ValueError(f"patience_ms must be at least 0, got {patience_ms}")
        self.amount = amount
        self.dropped = 0
        """Frames that went out unsmoothed because the motion came too late."""
        self._patience_ms = patience_ms
        self._tracker = _Tracker()
        self._blender: _Blender | None = None
        self._late: _Search | None = None

    @property
    def cuts(self) -> int:
        """Cuts found so far."""
        return self._tracker.cuts

    def begin(self, content: Picture) -> "_Search | None":
        """Look for the motion since the frame before in a thread; every search must be finished.

        Args:
            content: (H, W, 3) uint8 RGB, the frame that is painted.
        """
        if self.amount == 0.0:
            self.reset()
            return None
        compare = self._tracker(content)
        if self._late is not None and self._late.is_alive():
            # The processor is behind: no use in giving it more to do.
            self.dropped += 1
            return None
        self._late = None
        return None if compare is None else _Search(compare)

    def finish(self, search: "_Search | None", painted: Picture) -> Picture:
        """`painted`, (H, W, 3) uint8 RGB of any size, smoothed by the motion that `begin` looked for."""
        if self.amount == 0.0:
            self.abandon(search)
            return painted
        if search is not None:
            search.join(self._patience_ms)
            if search.is_alive():
                self._late = search
                self.dropped += 1
                search = None
        if search is None or self._blender is None or self._blender.shape != painted.shape:
            return self._keep(painted)
        return self._blender(painted, search.result(), self.amount)

    def paint(self, content: Picture, paint: Callable[[], Picture]) -> Picture:
        """What `paint()` returns for `content`, smoothed; the motion is looked for in a thread meanwhile."""
        search = self.begin(content)
        try:
            painted = paint()
        except BaseException:
            self.abandon(search)
            raise
        return self.finish(search, painted)

    def __call__(self, content: Picture, painted: Picture) -> Picture:
        """`painted` smoothed, both (H, W, 3) uint8 RGB; for those who have it already."""
        return self.paint(content, lambda: painted)

    def abandon(self, search: "_Search | None") -> None:
        """Instead of `finish`, for a frame that is not painted after all."""
        if search is not None:
            search.join()

    def reset(self) -> None:
        """Forget earlier frames, at a seek or a change of style."""
        if self._late is not None:
            self._late.join()
            self._late = None
        self._tracker.reset()

    def _keep(self, painted: Picture) -> Picture:
        if self._blender is None or self._blender.shape != painted.shape:
            self._blender = _Blender(painted)
        else:
            self._blender.keep(painted)
        return painted


class _Search(threading.Thread):
    """Motion being looked for; whoever starts it joins it."""

    def __init__(self, compare: "Callable[[], _Motion]") -> None:
        super().__init__(name="impasto-motion")
        self._compare = compare
        self._motion: _Motion | None = None
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._motion = self._compare()
        except BaseException as exc:
            self._error = exc

    def join(self, timeout_ms: float | None = None) -> None:
        super().join(None if timeout_ms is None else timeout_ms / 1000)

    def result(self) -> _Motion:
        if self._error is not None:
            raise self._error
        if self._motion is None:
            raise RuntimeError("the search must have ended before its result is taken")
        return self._motion


class _Tracker:
    """Small copies of the frames, and the motion between a frame and the one before."""

    def __init__(self) -> None:
        self._estimators: deque[FlowEstimator] = deque()  # a search takes one; they hold buffers
        self._is_cut = CutDetector()
        self._last: Picture | None = None
        self.cuts = 0

    def __call__(self, content: Picture) -> "Callable[[], _Motion] | None":
        """What finds the motion; None where there is nothing to compare with: the first frame, a cut, another size."""
        small = shrink(content, FLOW_SHORT_SIDE)
        last, self._last = self._last, small
        if self._is_cut(small):
            self.cuts += 1
            return None
        if last is None or last.shape != small.shape:
            return None
        return lambda: self._compare(small, last)

    def reset(self) -> None:
        self._last = None
        self._is_cut.reset()

    def _compare(self, small: Picture, last: Picture) -> _Motion:
        estimate = self._estimators.pop() if self._estimators else FlowEstimator("fast")
        motion = _motion(estimate, small, last)
        self._estimators.append(estimate)
        return motion


def _motion(estimate: FlowEstimator, new: Picture, last: Picture) -> _Motion:
    """Where each small pixel of `new` came from in `last`, and how much that can be trusted."""
    import cv2

    new_grey, last_grey = to_grey(new), to_grey(last)
    flow = estimate(new_grey, last_grey)
    forth = warp(estimate(last_grey, new_grey), flow)
    length, missed = _squared_length(flow), _squared_length(flow + forth)
    allowed = cv2.addWeighted(length, 0.01, _squared_length(forth), 0.01, MISMATCH)
    lost = cv2.compare(missed, allowed, cv2.CMP_GT)
    change = _change(new, warp(last, flow))
    still = _change(new, last)
    # As masks of 0 and 255 all along: numpy's take three times as long.
    explained = cv2.compare(still, cv2.add(change, np.ones_like(change)), cv2.CMP_LE)
    stays = cv2.bitwise_and(explained, cv2.inRange(length, 0.0, STILL**2))
    flow = np.asarray(cv2.copyTo(np.zeros_like(flow), stays, flow), np.float32)
    change = np.asarray(cv2.copyTo(still, stays, cv2.bitwise_or(change, lost)), np.uint8)
    # The largest of the neighbours: the edge of a moving thing is wider than the pixels that differ.
    changed, unmoved = cv2.dilate(change, _NEIGHBOURS), cv2.erode(stays, _NEIGHBOURS)
    return _Motion(flow, np.asarray(changed, np.uint8), np.asarray(unmoved, np.uint8))


_NEIGHBOURS = np.ones((3, 3), np.uint8)


def _kept(motion: _Motion, amount: float) -> _Weights:
    """(h, w) in [0, 1]: share of the last picture in the new one."""
    import cv2

    moved, held = (np.exp(-((np.arange(256) / sigma) ** 2)) for sigma in (CHANGE_SIGMA, HELD_SIGMA))
    fresh = 1 - MOST_KEPT * amount * moved
    fresh_if_still = fresh * (1 - MOST_HELD * amount * held)
    kept = [cv2.LUT(motion.change, (1 - share).astype(np.float32)) for share in (fresh, fresh_if_still)]
    return np.asarray(cv2.copyTo(kept[1], motion.still, kept[0]), np.float32)


def _change(a: Picture, b: Picture) -> Grey:
    """(h, w) uint8: largest difference of the channels, averaged over 3x3 pixels."""
    import cv2

    red, green, blue = cv2.split(cv2.blur(cv2.absdiff(a, b), (3, 3)))
    return np.asarray(cv2.max(cv2.max(red, green), blue), np.uint8)


class _Blender:
    """The last picture, and buffers that stay: fresh memory for each frame would double the time.

    The last picture is kept in float, because an 8-bit one would lose up to half a level a frame and darken what
    stands still; and with a fourth channel, because OpenCV moves four in less than half the time that three take.
    Blended in bands of rows that fit into a core's own cache.
    """

    def __init__(self, first: Picture) -> None:
        height, width = first.shape[:2]
        self.shape = first.shape
        self._rows = min(height, max(8, BAND_BYTES // (width * _BAND_BYTES_A_PIXEL)))
        band = (self._rows + 2 * _HALO, width)
        self._flow = np.empty((height, width, 2), np.float32)
        self._kept, self._sharp = (np.empty((height, width), np.float32) for _ in range(2))
        self._where = np.empty((*band, 2), np.float32)
        self._rest = np.empty(band, np.float32)
        self._moved, self._other, self._new = (np.empty((*band, 4), np.float32) for _ in range(3))
        self._bytes = np.empty((*band, 4), np.uint8)
        self._last, self._next = (np.empty((height, width, 4), np.float32) for _ in range(2))
        self.keep(first)

    def keep(self, painted: Picture) -> None:
        """The last picture from now on."""
        for top, rows in self._bands():
            self._load(painted[top : top + rows], self._last[top : top + rows])

    def __call__(self, painted: Picture, motion: _Motion, amount: float) -> Picture:
        """kept · (last, moved) + (1 - kept) · painted, (H, W, 3) uint8; the last picture from now on."""
        import cv2

        height, width, _ = self.shape
        small_height, small_width = motion.change.shape
        flow = motion.flow * np.array([width / small_width, height / small_height], np.float32)
        kept = _kept(motion, amount)
        sharpening = _sharpening(flow, kept)
        cv2.resize(flow, (width, height), dst=self._flow, interpolation=cv2.INTER_LINEAR)
        maps = [(kept, self._kept)] + ([(sharpening.share, self._sharp)] if sharpening else [])
        for small, full in maps:
            cv2.resize(small * np.float32(_WEIGHT_SCALE), (width, height), dst=full, interpolation=cv2.INTER_LINEAR)
        smoothed = np.empty(self.shape, np.uint8)
        for top, rows in self._bands():
            carried = self._carried(slice(top, top + rows), motion.flow, sharpening)
            self._blend(slice(top, top + rows), carried, painted, smoothed)
        self._last, self._next = self._next, self._last
        return smoothed

    def _blend(self, rows: slice, carried: _Painting, painted: Picture, smoothed: Picture) -> None:
        import cv2

        kept, blended = self._kept[rows], self._next[rows]
        fresh, new, eight = (buffer[: len(kept)] for buffer in (self._rest, self._new, self._bytes))
        np.subtract(np.float32(_WEIGHT_SCALE), kept, out=fresh)
        self._load(painted[rows], new)
        cv2.blendLinear(carried, new, kept, fresh, dst=blended)
        # Rounds; the values lie in 0…255 but for a hair beside strong edges.
        cv2.convertScaleAbs(blended, dst=eight)
        cv2.cvtColor(eight, cv2.COLOR_RGBA2RGB, dst=smoothed[rows])

    def _carried(self, rows: slice, flow: Flow, sharpening: "_Sharpening | None") -> _Painting:
        """These rows of the last picture, moved along by a small `flow`: (rows, W, 4), until the next call."""
        import cv2

        height, width, _ = self.shape
        ratio = len(flow) / height
        small = slice(max(0, math.floor(rows.start * ratio) - 1), math.ceil(rows.stop * ratio) + 1)
        if not flow[small].any():
            return self._last[rows]
        top, bottom = max(0, rows.start - _HALO), min(height, rows.stop + _HALO)
        count = bottom - top
        where, moved, other = (buffer[:count] for buffer in (self._where, self._moved, self._other))
        cv2.add(self._flow[top:bottom], pixel_grid(height, width)[top:bottom], dst=where)
        cv2.remap(self._last, where, None, cv2.INTER_LINEAR, dst=moved, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[call-overload]
        carried = moved
        if sharpening is not None:
            least, most, *_ = cv2.minMaxLoc(sharpening.share[small])
            even = least > _EVEN * most
            if most > _LEAST_STRENGTH:
                kernels = sharpening.kernels((least + most) / 2 if even else 1.0)
                cv2.sepFilter2D(moved, -1, *kernels, dst=other, borderType=cv2.BORDER_REPLICATE)
                carried = other
            if most > _LEAST_STRENGTH and not even:
                share, rest = self._sharp[top:bottom], self._rest[:count]
                np.subtract(np.float32(_WEIGHT_SCALE), share, out=rest)
                cv2.blendLinear(other, moved, share, rest, dst=moved)
                carried = moved
        return carried[rows.start - top : rows.stop - top]

    def _bands(self) -> Iterator[tuple[int, int]]:
        """First row and number of rows."""
        height = self.shape[0]
        return ((top, min(self._rows, height - top)) for top in range(0, height, self._rows))

    def _load(self, picture: Picture, into: _Painting) -> None:
        import cv2

        eight = self._bytes[: len(picture)]
        cv2.cvtColor(picture, cv2.COLOR_RGB2RGBA, dst=eight)
        np.copyto(into, eight)


BAND_BYTES = 3 << 20
"""Of all buffers of a band, for a core's own cache: 16.7 ms on one core at 720p, 17.8 with eight rows a band."""
_BAND_BYTES_A_PIXEL = 96

_HALO = 1
"""Rows above and below a band that its sharpening looks at."""


@dataclass(frozen=True, eq=False)
class _Sharpening:
    """What gives a moved picture back the strokes that sampling between pixels takes.

    The mean of two neighbours, as bilinear sampling takes it half way between them, softens a little; done again in
    every frame it smears. Sharpening by [-1, 10, -1] / 8 gives back what their second difference lost there, elsewhere
    4·f·(1 - f) of it, f being the way from one to the other. For no frequency is the product of both above 1, so
    nothing grows from frame to frame. It costs 5 ms on one core at 720p, bicubic sampling 14.
    """

    strengths: tuple[float, float]
    """To the right and down, 0 to 1, for the whole picture, and"""
    share: _Weights
    """(h, w) in [0, 1]: how much of them at each small pixel, never more than is right for either direction."""

    def kernels(self, share: float) -> tuple[_Weights, _Weights]:
        """(1, 3) for each direction, with that share of the strengths."""
        first, second = (_DIFFERENCE * np.float32(share * strength / 8) + _UNCHANGED for strength in self.strengths)
        return first, second


def _sharpening(flow: Flow, kept: _Weights) -> _Sharpening | None:
    """For (h, w, 2) in pixels of the painting, and the share of the last picture; None where that stays in place."""
    import cv2

    wanted = []
    for plane in cv2.split(flow):
        between = cv2.absdiff(plane, np.rint(plane))
        wanted.append(4 * between * (1 - between))
    most = cv2.max(*wanted)
    moving = cv2.bitwise_and(cv2.inRange(kept, _LEAST_KEPT, 1.0), cv2.inRange(most, _LEAST_STRENGTH, 1.0))
    if cv2.countNonZero(moving) < _LEAST_MOVING * moving.size:
        return None
    share = np.ones_like(kept)
    strengths = []
    for plane in wanted:
        mean = cv2.mean(plane, moving)[0]
        strengths.append(min(1.0, 1.5 * mean) if mean > _LEAST_MEAN else 0.0)
        if strengths[-1]:
            share = np.minimum(share, plane * np.float32(1 / strengths[-1]))
    return _Sharpening((strengths[0], strengths[1]), share) if any(strengths) else None


_DIFFERENCE = np.array([[-1, 2, -1]], np.float32)
_UNCHANGED = np.array([[0, 1, 0]], np.float32)
_LEAST_STRENGTH = 0.05  # of the sharpening half way between two pixels; less is not seen
_LEAST_MEAN = 0.15  # over all that moves: a pan to the side does not move up and down
_EVEN = 0.75  # the least share of a band, of the most: then the mean will do, for a third of the work
_LEAST_KEPT = 0.2  # a smaller share of the last picture is gone before it smears
_LEAST_MOVING = 0.01  # of the picture


def _squared_length(flow: Flow) -> _Weights:
    import cv2

    return np.asarray(cv2.transform(cv2.multiply(flow, flow), _ONES), np.float32)


_ONES = np.ones((1, 2), np.float32)


def shrink(picture: Picture, short_side: int) -> Picture:
    """(H, W, 3) with the shorter side at most `short_side`, by area."""
    import cv2

    height, width = picture.shape[:2]
    scale = min(1.0, short_side / min(height, width))
    if scale == 1.0:
        return picture
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    while min(picture.shape[:2]) >= 2 * short_side:  # by halves first, which takes half the time
        half = (max(1, picture.shape[1] // 2), max(1, picture.shape[0] // 2))
        picture = np.asarray(cv2.resize(picture, half, interpolation=cv2.INTER_AREA), np.uint8)
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)


def check_amount(amount: float) -> None:
    """Refuse what is no share."""
    if not 0.0 <= amount <= 1.0:
        raise ValueError(f"smooth must be between 0 and 1, got {amount}")
