"""Progress on the terminal: a bar, or plain lines where there is no terminal; and the preview."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from ..training.decoding import WRITABLE
from ..training.whole_file import whole_file
from . import pipeline
from .engine import EngineInfo
from .errors import SinkError
from .frame import Frame, StreamInfo

LINE_EVERY_SECONDS = 5.0
"""How often a plain line is printed where there is no terminal."""
PREVIEW_EVERY_SECONDS = 2.0
PREVIEW_WINDOW = "window"


class Display:
    """Shows frames, speed, times real time, memory and time left of one job after the other."""

    def __init__(self, console: Console, *, quiet: bool, preview: str | None) -> None:
        self._console = console
        self._quiet = quiet
        self._preview = None if preview is None else Preview(preview)
        self._bar: Progress | None = None
        self._last_line = 0.0
        self._before = 0
        self._total: int | None = None

    def start(self, name: str, info: StreamInfo, engine: EngineInfo, *, frames_before: int = 0) -> None:
        self._total = info.num_frames
        self._before = frames_before
        self._rate = float(info.frame_rate)
        self._info = info
        self._last_line = time.monotonic()
        if self._quiet:
            return
        done = f", going on after frame {frames_before}" if frames_before else ""
        self._console.print(
            f"{name}: {info.width}x{info.height}, {self._rate:.5g} frames/s, {engine}{done}",
            highlight=False,
            soft_wrap=True,
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
            self._task = self._bar.add_task(
                "", total=self._total, completed=frames_before, total_text=self._total or "?", speed=""
            )

    def update(self, progress: pipeline.Progress) -> None:
        """Called from the encoding thread after every frame."""
        self.update_count(progress.frames_out, progress.seconds)
        if self._preview is not None:
            self._preview.show(progress.frame, self._info)

    def update_count(self, frames_out: int, seconds: float) -> None:
        """The same without the frame."""
        if self._bar is not None:
            self._bar.update(self._task, completed=self._before + frames_out, speed=self._speed(frames_out, seconds))
        elif not self._quiet and time.monotonic() - self._last_line >= LINE_EVERY_SECONDS:
            self._last_line = time.monotonic()
            total = f"/{self._total}" if self._total else ""
            left = self._seconds_left(frames_out, seconds)
            tail = f", {left:.0f} s left" if left is not None else ""
            self._console.print(
                f"{self._before + frames_out}{total} frames, {self._speed(frames_out, seconds)}{tail}",
                highlight=False, soft_wrap=True,
            )  # fmt: skip

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        if self._preview is not None:
            self._preview.close()

    def _speed(self, frames_out: int, seconds: float) -> str:
        fps = frames_out / seconds if seconds else 0.0
        memory = memory_mb()
        text = f"{fps:.1f} frames/s, {fps / self._rate:.2f}x real time"
        return text if memory is None else f"{text}, {memory:.0f} MB"

    def _seconds_left(self, frames_out: int, seconds: float) -> float | None:
        if not self._total or not frames_out:
            return None
        return max(0, self._total - self._before - frames_out) * seconds / frames_out


class Preview:
    """The newest frame every few seconds as a picture file, or in a window."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._last = 0.0
        self._window: object | None = None

    def show(self, frame: Frame, info: StreamInfo) -> None:
        if self._target == PREVIEW_WINDOW:
            self._show_window(frame, info)
        elif time.monotonic() - self._last >= PREVIEW_EVERY_SECONDS:
            self._last = time.monotonic()
            write_still(frame, Path(self._target))

    def close(self) -> None:
        if self._window is not None:
            self._window.__exit__(None, None, None)  # type: ignore[attr-defined]
            self._window = None

    def _show_window(self, frame: Frame, info: StreamInfo) -> None:
        from .sink_window import PreviewWindow

        if self._window is None:
            # Opened here because OpenCV's windows belong to the thread that draws them.
            self._window = PreviewWindow(info, on_key=lambda key: None).__enter__()
        self._window.write(frame)  # type: ignore[attr-defined]


def write_still(frame: Frame, path: Path) -> None:
    """A frame as a picture file, replaced in one step so that a viewer never sees half of it."""
    import cv2

    if path.suffix.lower() not in WRITABLE:
        raise SinkError(f"preview must end in one of {', '.join(WRITABLE)} or be {PREVIEW_WINDOW!r}, got {path.name}")
    _, encoded = cv2.imencode(path.suffix, cv2.cvtColor(frame.data, cv2.COLOR_RGB2BGR))
    try:
        with whole_file(path) as part:
            part.write_bytes(encoded.tobytes())
    except OSError as exc:
        raise SinkError(f"preview cannot be written to {path}: {exc.strerror}") from exc


def memory_mb() -> float | None:
    """Memory of this process in MB; None where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


@contextmanager
def progress_display(*, quiet: bool, preview: str | None = None) -> Iterator[Display]:
    """A display on standard error, closed whatever happens."""
    display = Display(Console(file=sys.stderr), quiet=quiet, preview=preview)
    try:
        yield display
    finally:
        display.close()
