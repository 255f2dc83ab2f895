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
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .cuts import CutDetector
from .frame import Picture
from .optical_flow import Flow, FlowEstimator, Grey, to_grey, warp
from .smoothing_blend import Blender, Weights

logger = logging.getLogger(__name__)

FLOW_SHORT_SIDE = 240
"""Pixels at which motion is looked for: sensor noise averages out, and it takes 5 ms of one core a frame."""

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
"""Squared distance, small pixels, by which the flow there and back may miss, plus 1 % of both squared lengths (equal,
where it does not miss): the constants of Sundaram et al. 2010."""

STILL = 0.35
"""Small pixels. A shorter motion that explains the input no better than none is estimation noise, and following it
would let a still background drift."""


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
        self._blender: Blender | None = None
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
        motion = search.result()
        return self._blender(painted, motion.flow, _kept(motion, self.amount))

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
            self._blender = Blender(painted)
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
        estimate = self._estimators.pop() if self._estimators else FlowEstimator("quick")
        motion = _motion(estimate, small, last)
        self._estimators.append(estimate)
        return motion


def _motion(estimate: FlowEstimator, new: Picture, last: Picture) -> _Motion:
    """Where each small pixel of `new` came from in `last`, and how much that can be trusted."""
    import cv2

    new_grey, last_grey = to_grey(new), to_grey(last)
    flow = estimate(new_grey, last_grey)
    forth = warp(estimate(last_grey, new_grey), flow, nearest=True)
    length = _squared_length(flow)
    lost = cv2.compare(_squared_length(flow + forth), cv2.addWeighted(length, 0.02, length, 0, MISMATCH), cv2.CMP_GT)
    # With a fourth channel, which OpenCV moves in half the time.
    new, last = (np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2RGBA), np.uint8) for picture in (new, last))
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


def _kept(motion: _Motion, amount: float) -> Weights:
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

    red, green, blue, *_ = cv2.split(cv2.absdiff(a, b))
    return np.asarray(cv2.blur(cv2.max(cv2.max(red, green), blue), (3, 3)), np.uint8)


def _squared_length(flow: Flow) -> Weights:
    length = np.abs(flow.view(np.complex64)[..., 0])  # a sixth of the time that cv2.transform of the squares takes
    return np.square(length, out=length)


def shrink(picture: Picture, short_side: int) -> Picture:
    """(H, W, 3) with the shorter side about `short_side`, or as it is where that is shorter.

    Its height divides that of the picture, or nearly: see `smoothing_blend.Blender`.
    """
    import cv2

    height, width = picture.shape[:2]
    scale = short_side / min(height, width)
    if scale >= 1.0:
        return picture
    small_height = _handy(height, height * scale)
    size = (max(1, round(width * small_height / height)), small_height)
    while picture.shape[0] >= 2 * small_height:  # by halves first: one step by area takes twice as long
        half = (max(1, picture.shape[1] // 2), max(1, picture.shape[0] // 2))
        picture = np.asarray(cv2.resize(picture, half, interpolation=cv2.INTER_AREA), np.uint8)
    # Half the time of INTER_AREA, and 4 % less warping error: noise is no motion.
    soft = cv2.GaussianBlur(picture, (3, 3), 0)
    return np.asarray(cv2.resize(soft, size, interpolation=cv2.INTER_LINEAR), np.uint8)


def _handy(height: int, wanted: float) -> int:
    """A small height, `wanted` or up to an eighth more, of which a whole number of rows is at most `_FEW_ROWS` of
    `height`, or as few as can be. Not less: at 218 instead of 240 the warping error of rendered films is a tenth
    higher."""
    near = range(max(1, round(wanted)), min(height, round(wanted * 1.125)) + 1)
    return min(near, key=lambda small: (max(_FEW_ROWS, height // math.gcd(height, small)), abs(small - wanted)))


_FEW_ROWS = 6


def check_amount(amount: float) -> None:
    """Refuse what is no share."""
    if not 0.0 <= amount <= 1.0:
        raise ValueError(f"smooth must be between 0 and 1, got {amount}")
