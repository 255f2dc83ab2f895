"""Ctrl-C for long jobs: the first ends them in good order, the second at once."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stop_on_interrupt(said: str) -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets, saying `said` unless it is empty; from then on Ctrl-C is Python's again."""
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if said:
            print(f"\n{said}", file=sys.stderr)
        stop.set()

    before = signal.signal(signal.SIGINT, on_signal)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
