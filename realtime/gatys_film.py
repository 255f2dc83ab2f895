"""A film as `impasto gatys video` paints it: frames with their cuts, and motion followed from frame to frame."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ..training.gatys_video import Film, FilmFrame
from .cuts import CutDetector
from .frame import Picture
from .input_file import check_reopens
from .optical_flow import Flow, FlowEstimator, Grey, Mask, followed, pixel_grid, to_grey, warp
from .source_file import VideoFile


@contextmanager
def open_film(path: Path) -> Iterator[Film]:
    """Frames of a video file with cuts found, and their motion."""
    check_reopens(path)
    with VideoFile(path) as source:
        yield Film(path.name, _frames(source), FlowChain())


def _frames(source: VideoFile) -> Iterator[FilmFrame]:
    is_cut = CutDetector()
    for number, frame in enumerate(source):
        yield FilmFrame(number, float(frame.pts), frame.data, is_cut(frame.data))


class FlowChain:
    """Backward flow from the present frame to a keyframe, put together of the flows between neighbours.

    Flow estimated directly across seconds fails on large motion; errors of a chain grow slowly, and pixels that were
    lost at any link stay lost.
    """

    def __init__(self) -> None:
        self._estimate = FlowEstimator("medium")
        self._last: Grey | None = None
        self._flow: Flow | None = None
        self._trusted: Mask | None = None

    def start(self, frame: Picture) -> None:
        self._last = to_grey(frame)
        height, width = self._last.shape
        self._flow = np.zeros((height, width, 2), np.float32)
        self._trusted = np.ones((height, width), bool)

    def follow(self, frame: Picture) -> None:
        if self._last is None or self._flow is None or self._trusted is None:
            raise ValueError("start must be called before follow")
        grey = to_grey(frame)
        back = self._estimate(grey, self._last)
        here = followed(back, self._estimate(self._last, grey))
        # out(x) = flow(x to last) + chain(last to keyframe), looked up where x was in the last frame.
        trusted = warp(self._trusted.astype(np.float32), back) > 0.99
        self._flow = back + warp(self._flow, back)
        x, y = np.moveaxis(pixel_grid(*grey.shape) + self._flow, 2, 0)
        inside = (x >= 0) & (x <= grey.shape[1] - 1) & (y >= 0) & (y <= grey.shape[0] - 1)
        self._trusted = here & trusted & inside
        self._last = grey

    def carry(self, painted: Picture) -> tuple[Picture, Mask]:
        if self._flow is None or self._trusted is None:
            raise ValueError("start must be called before carry")
        return warp(painted, self._flow), self._trusted
