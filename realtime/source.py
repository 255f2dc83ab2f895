"""Where pictures come from: the contract, and the door to every implementation."""

from collections.abc import Iterator
from types import TracebackType
from typing import Protocol, Self

from .frame import Frame, StreamInfo


class Source(Protocol):
    """A stream of frames in presentation order. Ends by ending; a failure is a `SourceError`."""

    @property
    def info(self) -> StreamInfo: ...

    def __iter__(self) -> Iterator[Frame]:
        """Frames from the current position on. May be iterated once; runs in one thread."""

    def close(self) -> None:
        """Free the input. Safe to call twice, and from another thread: a waiting read then ends."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
