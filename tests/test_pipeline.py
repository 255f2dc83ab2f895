"""The pipeline with fake parts: errors at every place, slow sinks, stop requests, live frames, no thread left over."""

import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from types import TracebackType
from typing import Self

import numpy as np
import pytest

from impasto.realtime.frame import Frame, StreamInfo
from impasto.realtime.pipeline import Pipeline

from .live_helpers import wait_until

LENGTH = 20


class Boom(Exception):
    pass


class Counter:
    """Raises at its n-th call (0-based) if told to; sleeps a while each time if told to."""

    def __init__(self, raise_at: int | None = None, seconds: float = 0.0) -> None:
        self.calls = 0
        self.raise_at = raise_at
        self.seconds = seconds

    def tick(self) -> None:
        if self.calls == self.raise_at:
            raise Boom(f"call {self.calls}")
        self.calls += 1
        time.sleep(self.seconds)


class FakeSource(Counter):
    def __init__(self, length: int = LENGTH, *, live: bool = False, endless: bool = False, **counter: object) -> None:
        super().__init__(**counter)
        self.info = StreamInfo(8, 8, Fraction(25), live=live)
        self.length = length
        self.endless = endless
        self.closed = threading.Event()

    def __iter__(self) -> Iterator[Frame]:
        number = 0
        while (self.endless or number < self.length) and not self.closed.is_set():
            self.tick()
            yield Frame(np.full((8, 8, 3), number % 256, np.uint8), Fraction(number, 25))
            number += 1
        if not self.endless and self.raise_at == self.length:
            raise Boom("at the end")

    def close(self) -> None:
        self.closed.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class FakeStyle(Counter):
    def __call__(self, frame: Frame) -> Frame:
        self.tick()
        return Frame(255 - frame.data, frame.pts)


class FakeSink(Counter):
    def __init__(self, **counter: object) -> None:
        super().__init__(**counter)
        self.frames: list[Frame] = []

    def write(self, frame: Frame) -> None:
        self.tick()
        self.frames.append(frame)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def test_every_frame_goes_through_in_order() -> None:
    source, sinks = FakeSource(), [FakeSink(), FakeSink()]
    report = Pipeline(source, FakeStyle(), sinks).run()
    for sink in sinks:
        assert [frame.pts for frame in sink.frames] == [Fraction(n, 25) for n in range(LENGTH)]
        assert [int(frame.data[0, 0, 0]) for frame in sink.frames] == [255 - n for n in range(LENGTH)]
    assert (report.frames_in, report.frames_out, report.frames_dropped, report.stopped) == (LENGTH, LENGTH, 0, False)
    assert set(report.stages) == {"decode", "stylize", "encode"}


@pytest.mark.parametrize("stage", ["source", "style", "sink", "progress"])
@pytest.mark.parametrize("place", [0, LENGTH // 2, LENGTH - 1], ids=["start", "middle", "end"])
def test_the_first_error_of_any_stage_reaches_the_caller(stage: str, place: int) -> None:
    parts = {
        "source": FakeSource(raise_at=place if stage == "source" else None),
        "style": FakeStyle(raise_at=place if stage == "style" else None),
        "sink": FakeSink(raise_at=place if stage == "sink" else None),
    }
    progress = Counter(raise_at=place if stage == "progress" else None)
    pipeline = Pipeline(parts["source"], parts["style"], [parts["sink"]], on_progress=lambda p: progress.tick())
    before = set(threading.enumerate())
    with pytest.raises(Boom) as caught:
        pipeline.run()
    assert any(entry.name == "tick" for entry in caught.traceback)  # its own traceback, not that of a join
    assert not [t for t in threading.enumerate() if t not in before and t.name.startswith("impasto")]


def test_an_error_frees_stages_that_wait() -> None:
    """The sink dies while decoder and stylizer wait in front of full queues: nobody hangs."""
    source = FakeSource(endless=True)
    began = time.perf_counter()
    with pytest.raises(Boom):
        Pipeline(source, FakeStyle(), [FakeSink(raise_at=3, seconds=0.05)]).run()
    assert time.perf_counter() - began < 60
    assert source.closed.is_set()


def test_a_slow_sink_loses_nothing_and_bounds_what_waits() -> None:
    source, sink = FakeSource(60), FakeSink(seconds=0.005)
    ahead = []
    style = FakeStyle()

    def watch(progress: object) -> None:
        ahead.append(source.calls - len(sink.frames))

    report = Pipeline(source, style, [sink], on_progress=watch).run()
    assert report.frames_out == 60
    assert max(ahead) <= 4 + 4 + 3  # two queues, and one frame in each stage's hands


def test_stop_ends_early_and_keeps_what_was_decoded() -> None:
    sink = FakeSink()
    pipeline = Pipeline(FakeSource(endless=True), FakeStyle(), [sink], on_progress=lambda p: stop_after(p.frames_out))

    def stop_after(count: int) -> None:
        if count == 10:
            pipeline.stop()

    report = pipeline.run()
    assert report.stopped
    assert report.frames_out == report.frames_in == len(sink.frames)
    assert 10 <= report.frames_out <= 10 + 4 + 4 + 3


def test_stop_before_the_run_is_an_empty_run() -> None:
    pipeline = Pipeline(FakeSource(), FakeStyle(), [FakeSink()])
    pipeline.stop()
    assert pipeline.run().frames_out == 0


def test_live_frames_are_dropped_rather_than_queued() -> None:
    """A camera that sends ten pictures while one is painted: the newest is painted, the rest counted."""

    class Slow(FakeStyle):
        def __call__(self, frame: Frame) -> Frame:
            upto = min(source.calls + 10, 100)
            wait_until(lambda: source.calls >= upto)
            return super().__call__(frame)

    source, sink = FakeSource(100, live=True), FakeSink()
    report = Pipeline(source, Slow(), [sink]).run()
    assert report.frames_in == 100
    assert report.frames_out + report.frames_dropped == 100
    assert report.frames_dropped > 80
    times = [frame.pts for frame in sink.frames]
    assert times == sorted(times)
    assert times[-1] == Fraction(99, 25)  # the newest wins


def test_stop_frees_a_live_source_that_waits() -> None:
    class Silent(FakeSource):
        def __iter__(self) -> Iterator[Frame]:
            yield Frame(np.zeros((8, 8, 3), np.uint8), Fraction(0))
            self.closed.wait(120)

    pipeline = Pipeline(Silent(live=True), FakeStyle(), [FakeSink()], on_progress=lambda p: pipeline.stop())
    began = time.perf_counter()
    assert pipeline.run().stopped
    assert time.perf_counter() - began < 60


def test_an_interrupt_in_the_caller_stops_all_threads() -> None:
    class Interrupting(FakeStyle):
        def __call__(self, frame: Frame) -> Frame:
            if self.calls == 5:
                raise KeyboardInterrupt
            return super().__call__(frame)

    with pytest.raises(KeyboardInterrupt):
        Pipeline(FakeSource(endless=True), Interrupting(), [FakeSink()]).run()


class Overlapping(FakeStyle):
    """Works on three frames at once, each in its own time; fails in `result` if told to."""

    in_flight = 3

    def __init__(self, fail_at: int | None = None) -> None:
        super().__init__()
        self.fail_at = fail_at
        self.submitted = self.most = 0
        self.open = 0

    def submit(self, frame: Frame) -> "Later":
        self.open += 1
        self.submitted += 1
        self.most = max(self.most, self.open)
        return Later(self, frame, self.submitted - 1)


class Later:
    def __init__(self, style: Overlapping, frame: Frame, number: int) -> None:
        self.style, self.frame, self.number = style, frame, number

    def result(self) -> Frame:
        self.style.open -= 1
        if self.number == self.style.fail_at:
            raise Boom("late")
        return self.style(self.frame)


def test_frames_in_flight_stay_in_order() -> None:
    style, sink = Overlapping(), FakeSink()
    report = Pipeline(FakeSource(), style, [sink]).run()
    assert [frame.pts for frame in sink.frames] == [Fraction(n, 25) for n in range(LENGTH)]
    assert (style.most, style.open, report.frames_out) == (3, 0, LENGTH)


@pytest.mark.parametrize("place", [0, LENGTH // 2, LENGTH - 1])
def test_a_frame_that_fails_in_flight_reaches_the_caller(place: int) -> None:
    with pytest.raises(Boom, match="late"):
        Pipeline(FakeSource(), Overlapping(fail_at=place), [FakeSink()]).run()


def test_live_frames_are_painted_one_at_a_time() -> None:
    style = Overlapping()
    Pipeline(FakeSource(live=True), style, [FakeSink()]).run()
    assert style.submitted == 0
