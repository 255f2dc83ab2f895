"""Sources made of sources: at another frame rate, a part between two times, the rest after a time, the first frames."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import islice
from types import TracebackType
from typing import Self

from .frame import Frame, StreamInfo
from .source import Source


class Derived:
    """A source's frames, changed on their way; closed with it."""

    def __init__(self, source: Source, info: StreamInfo, change: Callable[[Iterable[Frame]], Iterator[Frame]]) -> None:
        """
        Args:
            source: owned from here on.
            info: of the frames as they are after the change.
            change: from the source's frames to these.
        """
        self._source = source
        self._change = change
        self.info = info

    def __iter__(self) -> Iterator[Frame]:
        return self._change(self._source)

    def close(self) -> None:
        self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def at_frame_rate(source: Source, rate: Fraction) -> Derived:
    """Frames at exactly n / rate seconds: what is shown then, repeated where the source is slower, left out where it is
    faster."""
    info = source.info
    count = None if info.duration is None else max(1, round(info.duration * rate))

    def change(frames: Iterable[Frame]) -> Iterator[Frame]:
        number: int | None = None
        for frame, end in _shown(frames, 1 / info.frame_rate):
            if number is None:
                number = -((-frame.pts * rate) // 1)  # the first tick that is not before the first frame
            while number / rate < end:
                yield Frame(frame.data, number / rate, 1 / rate)
                number += 1

    return Derived(source, replace(info, frame_rate=rate, num_frames=count, time_base=1 / rate), change)


def part(source: Source, start: Fraction | None, end: Fraction | None) -> Derived:
    """The frames between two times, in seconds from the film's beginning; the start becomes time 0."""
    info = source.info
    duration = info.duration
    if duration is not None:
        duration = max(Fraction(0), min(duration, end or duration) - (start or 0))
    count = None if duration is None else max(1, round(duration * info.frame_rate))
    first, last = (None if seconds is None else info.origin + seconds for seconds in (start, end))
    shift = first or Fraction(0)
    if info.time_base:  # on the stream's own grid, or every time would have to be rounded anew
        shift = round(shift / info.time_base) * info.time_base

    def change(frames: Iterable[Frame]) -> Iterator[Frame]:
        for frame in frames:
            if last is not None and frame.pts >= last:
                return
            if first is None or frame.pts >= first:
                yield Frame(frame.data, frame.pts - shift, frame.duration)

    origin = info.origin if start is None else Fraction(0)
    return Derived(source, replace(info, duration=duration, num_frames=count, origin=origin), change)


def not_empty(source: Source, error: Exception) -> Derived:
    """The same frames; where there is none, an error instead."""

    def change(frames: Iterable[Frame]) -> Iterator[Frame]:
        rest = iter(frames)
        if (head := next(rest, None)) is None:
            raise error
        yield head
        yield from rest

    return Derived(source, source.info, change)


def later(source: Source, after: Fraction) -> Derived:
    """The frames after a time, for a run that goes on where another ended."""
    return Derived(source, source.info, lambda frames: (frame for frame in frames if frame.pts > after))


def first(source: Source, count: int) -> Derived:
    """The first frames."""
    return Derived(source, source.info, lambda frames: islice(iter(frames), count))


def _shown(frames: Iterable[Frame], last_duration: Fraction) -> Iterator[tuple[Frame, Fraction]]:
    """Each frame and the time until which it is shown: the next one's, or the end of its own duration."""
    shown: Frame | None = None
    for frame in frames:
        if shown is not None:
            yield shown, frame.pts
        shown = frame
    if shown is not None:
        yield shown, shown.pts + (shown.duration or last_duration)
