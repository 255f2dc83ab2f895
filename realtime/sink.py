"""Where pictures go: the contract, and the door to every implementation."""

from types import TracebackType
from typing import Protocol, Self

from .frame import Frame


class Sink(Protocol):
    """Takes frames in presentation order. A failure is a `SinkError`.

    Leaving the `with` block without an error flushes and completes the output; leaving it with an error
    abandons it. Either happens exactly once, and nothing stands under the output's final name before it is whole.
    """

    def write(self, frame: Frame) -> None:
        """Take one frame; may block while the output is busy. All frames have one size."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
