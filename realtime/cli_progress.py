"""Progress on the terminal: a bar, or plain lines where there is no terminal."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from . import pipeline
from .engine import EngineInfo
from .frame import StreamInfo

LINE_EVERY_SECONDS = 5.0
"""How often a plain line is printed where there is no terminal."""


class Display:
    """Shows frames, speed, times real time and time left of one job after the other."""

    def __init__(self, console: Console, *, quiet: bool) -> None:
        self._console = console
        self._quiet = quiet
        self._bar: Progress | None = None
        self._last_line = 0.0
        self._total: int | None = None

    def start(self, name: str, info: StreamInfo, engine: EngineInfo) -> None:
        self._total = info.num_frames
        self._rate = float(info.frame_rate)
        self._last_line = time.monotonic()
        if self._quiet:
            return
        self._console.print(
            f"{name}: {info.width}x{info.height}, {self._rate:.3g} frames/s, "
            f"{engine.name} on {engine.device} in {engine.precision}",
            highlight=False,
        )
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.completed:.0f}/{task.fields[total_text]} frames"),
                BarColumn(),
                TextColumn("{task.fields[speed]}"),
                TimeRemainingColumn(),
                console=self._console,
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task("", total=self._total, total_text=self._total or "?", speed="")

    def update(self, progress: pipeline.Progress) -> None:
        """Called from the encoding thread after every frame."""
        if self._bar is not None:
            self._bar.update(self._task, completed=progress.frames_out, speed=self._speed(progress))
        elif not self._quiet and time.monotonic() - self._last_line >= LINE_EVERY_SECONDS:
            self._last_line = time.monotonic()
            total = f"/{self._total}" if self._total else ""
            left = self._seconds_left(progress)
            tail = f", {left:.0f} s left" if left is not None else ""
            self._console.print(f"{progress.frames_out}{total} frames, {self._speed(progress)}{tail}", highlight=False)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _speed(self, progress: pipeline.Progress) -> str:
        fps = progress.frames_out / progress.seconds if progress.seconds else 0.0
        return f"{fps:.1f} frames/s, {fps / self._rate:.2f}x real time"

    def _seconds_left(self, progress: pipeline.Progress) -> float | None:
        if not self._total or not progress.frames_out:
            return None
        return max(0, self._total - progress.frames_out) * progress.seconds / progress.frames_out


@contextmanager
def progress_display(*, quiet: bool) -> Iterator[Display]:
    """A display on standard error, closed whatever happens."""
    display = Display(Console(file=sys.stderr), quiet=quiet)
    try:
        yield display
    finally:
        display.close()
