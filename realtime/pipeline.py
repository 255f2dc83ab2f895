"""Source to stylizer to sinks, each in its own thread, joined by bounded queues that cannot lose an error.

The first exception of any stage wins: it stops the others, queues are drained while threads are joined, and the
caller gets it with its own traceback. The pattern is PySceneDetect's decode thread, with a queue on either side.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, get_args, runtime_checkable

import numpy as np

from .codecs import LARGE_PIXELS
from .frame import Frame
from .sink import Sink
from .source import Source

FILE_QUEUE_LENGTH = 4
"""Frames that may wait between two stages of a file: enough to hide a slow keyframe, 25 MB at 1080p."""
LARGE_QUEUE_LENGTH = 1
"""The same for frames larger than `LARGE_PIXELS`: 25 MB each at 4K, where painting takes far longer than the rest."""
LIVE_QUEUE_LENGTH = 1
"""A camera cannot wait: one slot, the newest frame wins."""

Stage = Literal["decode", "stylize", "encode"]


KEPT_TIMES = 10_000
"""A stage's last so many times are kept for the report: a film may have a million."""


class Step(Protocol):
    """What `Stylizer` is to the pipeline."""

    def __call__(self, frame: Frame) -> Frame: ...


class PendingFrame(Protocol):
    """A frame that may still be painted."""

    def result(self) -> Frame:
        """Wait for it."""


@runtime_checkable
class SubmittingStep(Protocol):
    """A step that works on several frames at once; their results are collected in order."""

    @property
    def in_flight(self) -> int:
        """How many frames may be submitted and not yet collected."""

    def submit(self, frame: Frame) -> PendingFrame: ...


@dataclass(frozen=True)
class StageTimes:
    """Milliseconds a stage spent on a frame, waiting left out."""

    p50_ms: float
    p95_ms: float


@dataclass(frozen=True)
class Report:
    """What a run did."""

    frames_in: int
    frames_out: int
    frames_dropped: int
    seconds: float
    stages: dict[Stage, StageTimes] = field(default_factory=dict)
    stopped: bool = False
    """True if someone asked it to stop before the source ended."""

    @property
    def fps(self) -> float:
        """Frames written per second of wall-clock time, the start included."""
        return self.frames_out / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True)
class Progress:
    """Handed to the callback after every frame that is written."""

    frames_out: int
    frames_dropped: int
    seconds: float
    frame: Frame


class Pipeline:
    """`Pipeline(source, stylizer, sinks).run()`; the caller owns and closes source and sinks."""

    def __init__(
        self,
        source: Source,
        stylizer: Step,
        sinks: Sequence[Sink],
        *,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> None:
        live = source.info.live
        length = FILE_QUEUE_LENGTH if source.info.width * source.info.height <= LARGE_PIXELS else LARGE_QUEUE_LENGTH
        length = LIVE_QUEUE_LENGTH if live else length
        self._source = source
        self._stylizer = stylizer
        self._sinks = list(sinks)
        self._on_progress = on_progress
        self._decoded = _Channel(length, newest_wins=live)
        self._stylized = _Channel(length, newest_wins=live)
        self._asked_to_stop = False
        self._failure: BaseException | None = None
        self._lock = threading.Lock()
        stages: tuple[Stage, ...] = get_args(Stage)
        self._times: dict[Stage, deque[float]] = {stage: deque(maxlen=KEPT_TIMES) for stage in stages}
        self._frames_in = self._frames_out = 0

    def stop(self, *, drain: bool = True) -> None:
        """Ask for an early, clean end, from any thread.

        With `drain` frames already decoded are still written; without it only those in a stage's hands.
        """
        self._asked_to_stop = True
        if not drain:
            self._decoded.abort()
            self._stylized.abort()
        if self._source.info.live:
            self._source.close()

    def run(self) -> Report:
        """Run to the end of the source, a stop request or the first failure, which is raised here."""
        self._started = time.perf_counter()
        threads = [
            threading.Thread(target=self._guard, args=(self._decode, self._decoded), name="impasto-decode"),
            threading.Thread(target=self._guard, args=(self._encode, None), name="impasto-encode"),
        ]
        for thread in threads:
            thread.start()
        self._guard(self._stylize, self._stylized)
        self._join(threads)
        if self._failure is not None:
            raise self._failure
        return self._report(time.perf_counter() - self._started)

    def _join(self, threads: list[threading.Thread]) -> None:
        for thread in threads:
            while thread.is_alive():
                try:
                    thread.join()
                except KeyboardInterrupt as exc:
                    self._fail(exc)

    def _guard(self, stage: Callable[[], None], output: "_Channel | None") -> None:
        """Run a stage; keep the first exception; always post the end so that the next stage ends too."""
        try:
            stage()
        except BaseException as exc:
            self._fail(exc)
        finally:
            if output is not None:
                output.end()

    def _fail(self, exc: BaseException) -> None:
        with self._lock:
            if self._failure is None:
                self._failure = exc
        self._decoded.abort()
        self._stylized.abort()
        # Frees a decode thread that waits for a camera.
        self._source.close()

    def _decode(self) -> None:
        frames = iter(self._source)
        while not self._asked_to_stop:
            began = time.perf_counter()
            frame = next(frames, None)
            if frame is None:
                return
            self._times["decode"].append(time.perf_counter() - began)
            self._frames_in += 1
            if not self._decoded.put(frame):
                return

    def _stylize(self) -> None:
        for stylized in self._painted():
            if not self._stylized.put(stylized):
                return

    def _painted(self) -> Iterator[Frame]:
        """The frames of the decoder, painted, in order; several at once where the step can and nothing is live."""
        step = self._stylizer
        spent = self._times["stylize"]
        if self._source.info.live or not isinstance(step, SubmittingStep) or step.in_flight == 1:
            for frame in self._decoded:
                began = time.perf_counter()
                stylized = self._stylizer(frame)
                spent.append(time.perf_counter() - began)
                yield stylized
            return
        waiting: deque[PendingFrame] = deque()
        for frame in self._decoded:
            began = time.perf_counter()
            waiting.append(step.submit(frame))
            done = waiting.popleft().result() if len(waiting) == step.in_flight else None
            spent.append(time.perf_counter() - began)
            if done is not None:
                yield done
        while waiting:
            yield waiting.popleft().result()

    def _encode(self) -> None:
        for frame in self._stylized:
            began = time.perf_counter()
            for sink in self._sinks:
                sink.write(frame)
            self._times["encode"].append(time.perf_counter() - began)
            self._frames_out += 1
            if self._on_progress:
                self._on_progress(Progress(self._frames_out, self._dropped, time.perf_counter() - self._started, frame))

    @property
    def _dropped(self) -> int:
        return self._decoded.dropped + self._stylized.dropped

    def _report(self, seconds: float) -> Report:
        stages = {
            stage: StageTimes(*(float(np.percentile(times, q)) * 1000 for q in (50, 95)))
            for stage, times in self._times.items()
            if times
        }
        return Report(self._frames_in, self._frames_out, self._dropped, seconds, stages, stopped=self._asked_to_stop)


class _Channel:
    """A bounded queue with an end. With `newest_wins` a full one drops its oldest frame, and counts it."""

    def __init__(self, length: int, *, newest_wins: bool) -> None:
        self._frames: deque[Frame] = deque()
        self._length = length
        self._newest_wins = newest_wins
        self._changed = threading.Condition()
        self._ended = self._aborted = False
        self.dropped = 0

    def put(self, frame: Frame) -> bool:
        """Wait for room; False if the run was aborted meanwhile."""
        with self._changed:
            if self._newest_wins and len(self._frames) == self._length:
                self._frames.popleft()
                self.dropped += 1
            self._changed.wait_for(lambda: self._aborted or len(self._frames) < self._length)
            if self._aborted:
                return False
            self._frames.append(frame)
            self._changed.notify_all()
            return True

    def __iter__(self) -> Iterator[Frame]:
        """Frames until the end or an abort."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._aborted or self._ended or self._frames)
                if self._aborted or not self._frames:
                    return
                frame = self._frames.popleft()
                self._changed.notify_all()
            yield frame

    def end(self) -> None:
        """No more frames will come; those that wait are still handed out."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def abort(self) -> None:
        """Drop what waits and free whoever waits."""
        with self._changed:
            self._aborted = True
            self._frames.clear()
            self._changed.notify_all()
