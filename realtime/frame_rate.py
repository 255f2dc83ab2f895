"""A source at another frame rate: at every new tick the frame that is being shown then."""

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from types import TracebackType
from typing import Self

from .frame import Frame, StreamInfo
from .source import Source


class AtFrameRate:
    """Frames at exactly n / rate seconds: repeated where the source is slower, left out where it is faster."""

    def __init__(self, source: Source, rate: Fraction) -> None:
        self._source = source
        self._rate = rate
        info = source.info
        count = None if info.duration is None else max(1, round(info.duration * rate))
        self.info: StreamInfo = replace(info, frame_rate=rate, num_frames=count, time_base=1 / rate)

    def __iter__(self) -> Iterator[Frame]:
        shown: Frame | None = None
        number = 0
        for frame in self._source:
            if shown is None:
                number = -((-frame.pts * self._rate) // 1)  # the first tick that is not before the first frame
            while shown is not None and number / self._rate < frame.pts:
                yield self._at(shown, number)
                number += 1
            shown = frame
        if shown is None:
            return
        end = shown.pts + (shown.duration or 1 / self._source.info.frame_rate)
        while number / self._rate < end:
            yield self._at(shown, number)
            number += 1

    def close(self) -> None:
        self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _at(self, frame: Frame, number: int) -> Frame:
        return Frame(frame.data, number / self._rate, 1 / self._rate)


class Part:
    """The frames of a source between two times; the start becomes time 0."""

    def __init__(self, source: Source, start: Fraction | None, end: Fraction | None) -> None:
        self._source = source
        self._start = start
        self._end = end
        info = source.info
        duration = info.duration
        if duration is not None:
            duration = max(Fraction(0), min(duration, end or duration) - (start or 0))
        count = None if duration is None else max(1, round(duration * info.frame_rate))
        self.info: StreamInfo = replace(info, duration=duration, num_frames=count)

    def __iter__(self) -> Iterator[Frame]:
        tick = self.info.time_base
        shift = self._start or Fraction(0)
        # On the stream's own grid, or every time would have to be rounded anew.
        shift = round(shift / tick) * tick if tick else shift
        for frame in self._source:
            if self._end is not None and frame.pts >= self._end:
                return
            if self._start is None or frame.pts >= self._start:
                yield Frame(frame.data, frame.pts - shift, frame.duration)

    def close(self) -> None:
        self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Later:
    """The frames of a source after a time, for a run that goes on where another ended."""

    def __init__(self, source: Source, after: Fraction) -> None:
        self._source = source
        self._after = after
        self.info: StreamInfo = source.info

    def __iter__(self) -> Iterator[Frame]:
        return (frame for frame in self._source if frame.pts > self._after)

    def close(self) -> None:
        self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
