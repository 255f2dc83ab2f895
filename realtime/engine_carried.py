"""Normalisation statistics carried from frame to frame, or frozen for a whole film: pictures that do not breathe.

With statistics of its own, every frame is normalised by what happens to be in it, and a whole picture changes hue when
something enters. `CarriedEngine` paints with an average over the last seconds instead, or with one set for all frames.
"""

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Protocol, get_args

import numpy as np

from ..export.artifact import Artifact
from ..export.statistics import StatisticsLayout, Vector, Vectors
from .cuts import CutDetector
from .engine import Batch, EngineInfo, Library, Pending, PendingPicture, check_batch
from .engine_statistics import load_statistics_engine
from .frame import Picture
from .stylizer import pad
from .tiles import TiledEngine

Normalization = Literal["frame", "carried", "frozen"]
"""Whose statistics a frame is painted with: its own, an average over the last frames, or one set for the whole film."""

MEMORY_FRAMES = 24.0
"""After so many frames a lasting change has come through to 63 %."""
EVERY = 12
"""Frames from one measurement to the next. One costs about twice a frame; held statistics save a fifth of each."""
WINDOW = 120
"""Frames that the average looks back over: what is older would count for less than 1 %. A bound, so that a frame
depends on a limited number of frames before it, wherever a film was cut or resumed."""
RUN_UP = WINDOW + 2 * EVERY
"""Frames before a frame that its statistics depend on, if the first of them is measured."""
SAMPLES = 8
"""Frames spread over a film whose mean statistics are frozen."""


class Measurable(Protocol):
    """What can paint with given statistics and tell those of a frame: `StatisticsEngine`, `TiledEngine`."""

    @property
    def info(self) -> EngineInfo: ...

    @property
    def stride(self) -> int: ...

    @property
    def layout(self) -> StatisticsLayout: ...

    def start(self, frame: Batch, affine: Vectors) -> Pending: ...

    def start_measuring(self, frame: Batch) -> "Callable[[], Vector]": ...

    def warmup(self, height: int, width: int) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True, eq=False)
class _Held:
    """Normalisation that counts from a frame on, until the next one does."""

    start: int
    affine: Callable[[], Vectors]
    """(1, K) factors and summands; waits for them the first time."""


class CarriedEngine:
    """An `Engine` for video whose statistics follow the pictures slowly, or not at all, so that nothing pulses.

    Every `every`-th frame's own statistics are measured beside the painting and hold from the next measurement on;
    frames are painted with the exponential average of what held over the last `WINDOW` frames. Cuts begin anew.
    Averaged are factors and summands, so that each layer's answer moves by its share and no more: an average of
    variances jumps when a channel wakes up that was still (largest step when a bright card slides over a still street,
    root mean square of 255: 36 by variances, 18 by deviations, 4 by factors, 28 by each frame's own).
    Measuring while painting with the average would be cheaper but is wrong: each layer then tells what it sees behind
    layers normalised by the past, and the average overshoots (steps of 35/255 when a bright card slid over a still
    room, where statistics of each frame's own stepped by 5 and these by 2).

    `follow` is called with every frame in order and says what to paint it with; painting itself may happen in any
    order, several frames at once, and again. Called like any engine, it follows by itself.
    """

    def __init__(
        self,
        engine: Measurable,
        *,
        frozen: bool = False,
        memory_frames: float = MEMORY_FRAMES,
        every: int = EVERY,
        settle_frames: int = 0,
        in_flight: int = 1,
    ) -> None:
        """
        Args:
            engine: owned from here on.
            frozen: keep one set of statistics for ever: `freeze`'s, or else the first frame's.
            memory_frames: after so many frames, a lasting change has come through to 63 %.
            every: frames from one measurement to the next.
            settle_frames: if frozen, carry statistics for so many frames before they are.
            in_flight: batches that may be submitted and not yet collected.
        """
        if memory_frames <= 0 or every < 1:
            raise ValueError(f"memory_frames must be above 0 and every 1 or more, got {memory_frames} and {every}")
        self._engine = engine
        self._frozen = frozen
        self._every = every
        self._kept = math.exp(-1 / memory_frames)
        self._window = max(WINDOW, every)
        self._held: deque[_Held] = deque()
        self._is_cut = CutDetector()
        self._settle_frames = settle_frames
        self._fixed: Vectors | None = None
        self._number = 0
        self.in_flight = in_flight

    @property
    def info(self) -> EngineInfo:
        return self._engine.info

    @property
    def stride(self) -> int:
        return self._engine.stride

    def follow(self, picture: Picture, number: int) -> Vectors:
        """(1, K) what to paint a film's frame of this number with; `picture` (H, W, 3) uint8, any size."""
        return self._follow(picture, lambda: pad(picture, self.stride)[np.newaxis], number)

    def submit(self, frames: Batch, affine: Vectors | None = None) -> PendingPicture:
        """Begin to paint a (1, H, W, 3) batch with what `follow` said; None follows first."""
        check_batch(frames, self.stride)
        if affine is None:
            affine = self._follow(frames[0], lambda: frames, self._number)
            self._number += 1
        return PendingPicture(self._engine.start(frames, affine))

    def __call__(self, frames: Batch) -> Batch:
        check_batch(frames, self.stride)
        return np.concatenate([self.submit(frames[index : index + 1]).result() for index in range(len(frames))])

    def freeze(self, pictures: Sequence[Picture]) -> None:
        """Use the mean statistics of these (H, W, 3) uint8 pictures for every frame, if this engine is frozen."""
        if not self._frozen:
            return
        measured = [self._engine.start_measuring(pad(picture, self.stride)[np.newaxis])() for picture in pictures]
        self._fixed = self._engine.layout.affine(np.mean(measured, axis=0))

    def reset(self) -> None:
        """Forget earlier frames, at a seek."""
        self._held.clear()
        self._is_cut.reset()
        self._fixed = None
        self._number = 0

    def warmup(self, height: int, width: int) -> None:
        self._engine.warmup(height, width)

    def close(self) -> None:
        self._engine.close()

    def _follow(self, picture: Picture, padded: Callable[[], Batch], number: int) -> Vectors:
        if self._fixed is not None:
            return self._fixed
        if self._is_cut(picture):
            self._held.clear()
        if not self._held:
            self._held.append(_Held(number, self._measured(padded())))
        elif number % self._every == 0:
            self._held.append(_Held(number + self._every, self._measured(padded())))
        average = self._average(number)
        if self._frozen and number >= self._settle_frames:
            self._fixed = average
        return average

    def _average(self, number: int) -> Vectors:
        """The exponential average up to the frame of this number; the oldest stands for all before it."""
        while len(self._held) > 1 and self._held[1].start <= number - self._window:
            self._held.popleft()
        began = [held for held in self._held if held.start <= number]
        # The share of all frames before each one's first.
        before = [0.0, *(self._kept ** (number + 1 - held.start) for held in began[1:]), 1.0]
        shares = [end - start for start, end in pairwise(before)]
        parts = [share * held.affine() for share, held in zip(shares, began, strict=True)]
        average: Vectors = np.sum(parts, axis=0, dtype=np.float32)
        return average

    def _measured(self, frame: Batch) -> Callable[[], Vectors]:
        """Begin to measure; the call waits the first time and remembers."""
        wait = self._engine.start_measuring(frame)
        found: list[Vectors] = []

        def affine() -> Vectors:
            if not found:
                found.append(self._engine.layout.affine(wait()))
            return found[0]

        return affine


def load_carried_engine(
    artifact: Artifact,
    normalization: Normalization,
    *,
    tile: int | None = None,
    device: str = "auto",
    precision: str = "auto",
    library: Library | None = None,
    threads: int = 0,
    in_flight: int = 1,
) -> CarriedEngine:
    """As `load_engine`, with carried or frozen statistics, on whatever that would choose; in tiles of side `tile`."""
    engine = load_statistics_engine(
        artifact, device=device, precision=precision, library=library, threads=threads, in_flight=in_flight
    )
    measurable: Measurable = engine if tile is None else TiledEngine(engine, tile=tile)
    return CarriedEngine(measurable, frozen=normalization == "frozen", in_flight=in_flight)


def check_normalization(normalization: str) -> Normalization:
    """The choice of that name."""
    for known in get_args(Normalization):
        if normalization == known:
            choice: Normalization = known
            return choice
    raise ValueError(f"normalization must be one of {', '.join(get_args(Normalization))}, got {normalization!r}")
