"""A live feed that never gives up and never hangs: the camera is read by a child process, watched from here.

CLOSED → OPENING → LIVE → STALLED → LOST → OPENING …, with back-off, until it is closed.
"""

import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import IO, Literal, Protocol

import numpy as np

from .camera import CaptureFault, CaptureRequest
from .capture_child import HEADER
from .errors import SourceError, reason_of
from .frame import Frame

logger = logging.getLogger(__name__)

FeedState = Literal["closed", "opening", "live", "stalled", "lost"]
OnFrame = Callable[[Frame], None]

BACK_OFF_SECONDS = (0.5, 1.0, 2.0, 5.0)
OPEN_LIMIT_SECONDS = 20.0
"""Windows' Media Foundation is reported to take 12 to 20 s to open some cameras (opencv#17687, #26495)."""
REOPEN_LIMIT_SECONDS = 5.0
"""The same for a camera that has already worked in this run: one that hangs is tried again soon."""
STALL_PERIODS = 5
STALL_LEAST_SECONDS = 1.0
STALL_PATIENCE_SECONDS = 2.0
"""How long a stalled camera may take to go on by itself before it is opened anew."""
IDLE_GRACE_SECONDS = 2.0
"""While nobody watches one picture a second arrives."""
TICK_SECONDS = 0.05
NOT_NEGOTIATED = ("file", "wrapped_avframe")
"""What stands for a pixel format where no camera was asked for one: a file, a picture that FFmpeg makes."""
LARGEST_PICTURE_BYTES = 8192 * 8192 * 3


@dataclass(frozen=True)
class FeedInfo:
    """What was really opened, as opposed to what was asked for."""

    width: int
    height: int
    frame_rate: float
    pixel_format: str
    backend: str

    def __str__(self) -> str:
        size = f"{self.width}x{self.height} {self.frame_rate:g} fps"
        return size if self.pixel_format in NOT_NEGOTIATED else f"{size} {self.pixel_format} by {self.backend}"


@dataclass(frozen=True)
class FeedStatus:
    """The feed at one moment, in words."""

    state: FeedState
    label: str
    message: str
    info: FeedInfo | None = None
    fault: CaptureFault | None = None


class Feed(Protocol):
    """Pictures as they come. A live frame's pts is the time of capture on the monotonic clock."""

    @property
    def status(self) -> FeedStatus: ...

    def start(self, on_frame: OnFrame) -> None:
        """Begin; `on_frame` is called from the feed's own thread and must not block."""

    def set_idle(self, idle: bool) -> None:
        """Say that nobody watches: the feed stays open and does as little as it can."""

    def close(self) -> None:
        """Stop and free everything. Safe to call twice."""


class CaptureProcess:
    """One life of the child process: from its start to its first failure."""

    def __init__(self, request: CaptureRequest, on_frame: OnFrame) -> None:
        self.info: FeedInfo | None = None
        self.fault: CaptureFault | None = None
        self.last_frame_at: float | None = None
        """Monotonic seconds."""
        self._on_frame = on_frame
        flags = getattr(subprocess, "CREATE_NO_WINDOW", 0)  # no console of its own on Windows
        self._process = subprocess.Popen(
            [sys.executable, "-m", "impasto.realtime.capture_child"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0, creationflags=flags,
        )  # fmt: skip
        _widen(self._process.stdout)
        self._say(json.dumps(request.to_json()))
        self._reader = threading.Thread(target=self._read, name="impasto-capture", daemon=True)
        self._reader.start()

    def set_idle(self, idle: bool) -> None:
        self._say("idle" if idle else "live")

    def close(self) -> None:
        """Kill the child: a driver that blocks does not listen to anything milder."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _say(self, line: str) -> None:
        try:
            if self._process.stdin is not None:
                self._process.stdin.write(line.encode() + b"\n")
        except (OSError, ValueError):  # its end of the pipe is closed, or ours
            logger.debug("the capture process is gone")

    def _read(self) -> None:
        pipe = self._process.stdout
        while pipe is not None and self.fault is None:
            header = bytearray(HEADER.size)
            if not _fill(pipe, memoryview(header)):
                break
            kind, size, height, width, captured_ns = HEADER.unpack(header)
            if size > LARGEST_PICTURE_BYTES:
                break
            if kind == b"FRAM":
                picture = np.empty((height, width, 3), np.uint8)
                if not _fill(pipe, picture.data.cast("B")):
                    break
                self.last_frame_at = time.monotonic()
                self._on_frame(Frame(picture, Fraction(captured_ns, 1_000_000_000)))
                continue
            payload = bytearray(size)
            if not _fill(pipe, memoryview(payload)):
                break
            message = json.loads(payload)
            if kind == b"INFO":
                self.info = FeedInfo(**message)
            else:
                self.fault = CaptureFault(**message)
        if self.fault is None:
            self.fault = CaptureFault("failed", "its driver crashed the process that reads it")


def _widen(pipe: IO[bytes] | None) -> None:
    """Let a whole picture fit into the pipe, or nearly: fewer switches between the two processes."""
    if sys.platform == "linux" and pipe is not None:
        import fcntl

        try:
            fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, 1 << 20)
        except OSError:
            logger.debug("the pipe keeps its size")


def _fill(pipe: IO[bytes], view: memoryview) -> bool:
    """Read until `view`, of bytes, is full; False at the end of the stream."""
    while view:
        count = pipe.readinto(view)  # type: ignore[attr-defined]
        if not count:
            return False
        view = view[count:]
    return True


class CameraFeed:
    """A camera, stream, file, screen or test pattern, opened again for ever when it is lost."""

    def __init__(self, request: CaptureRequest, *, on_status: Callable[[FeedStatus], None] | None = None) -> None:
        self._request = request
        self._on_status = on_status
        self._status = FeedStatus("closed", request.label, "closed")
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._idle = False
        self._telling = threading.Lock()
        self._process: CaptureProcess | None = None
        self._thread: threading.Thread | None = None
        self._on_frame: OnFrame = lambda frame: None
        self._was_live = False

    @property
    def status(self) -> FeedStatus:
        return self._status

    def start(self, on_frame: OnFrame) -> None:
        self._on_frame = on_frame
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="impasto-camera")
            self._thread.start()

    def wait_live(self, timeout_seconds: float = OPEN_LIMIT_SECONDS) -> FeedInfo:
        """Open and wait for the first picture; raises `SourceError` with the reason if it does not come.

        What comes before `start` is thrown away.
        """
        self.start(self._on_frame)
        with self._changed:
            self._changed.wait_for(lambda: self._status.state in ("live", "lost"), timeout_seconds)
            status = self._status
        if status.state != "live" or status.info is None:
            raise SourceError(status.fault.sentence(self._request.label) if status.fault else status.message)
        return status.info

    def set_idle(self, idle: bool) -> None:
        with self._telling:
            if idle == self._idle:
                return
            self._idle = idle
            if self._process is not None:
                self._process.set_idle(idle)

    def close(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._tell("closed", "closed")

    def _run(self) -> None:
        failures = 0
        while not self._stop.is_set():
            self._tell("opening", f"opening {self._request.label}")
            started = time.monotonic()
            fault, was_live = self._live_through()
            if fault is None:
                return
            failures = 0 if was_live and time.monotonic() - started > 10.0 else failures
            pause = BACK_OFF_SECONDS[min(failures, len(BACK_OFF_SECONDS) - 1)]
            failures += 1
            self._tell("lost", f"{fault.sentence(self._request.label)}; trying again in {pause:g} s", fault=fault)
            self._stop.wait(pause)

    def _live_through(self) -> tuple[CaptureFault | None, bool]:
        """Start a child and follow it, as `_watch` does."""
        try:
            process = CaptureProcess(self._request, self._deliver)
        except OSError as exc:  # no memory, or too many processes: that may pass
            return CaptureFault("failed", f"the process that reads it cannot be started: {reason_of(exc)}"), False
        try:
            with self._telling:  # what was said while it was being started
                self._process = process
                if self._idle:
                    process.set_idle(True)
            return self._watch(process)
        finally:
            with self._telling:
                self._process = None
            process.close()

    def _deliver(self, frame: Frame) -> None:
        self._on_frame(frame)

    def _watch(self, process: CaptureProcess) -> tuple[CaptureFault | None, bool]:
        """Follow one child until it fails; (None, …) when we are told to stop."""
        opened = time.monotonic()
        while not self._stop.wait(TICK_SECONDS):
            silent = time.monotonic() - (process.last_frame_at or opened)
            if process.fault is not None:
                return process.fault, process.last_frame_at is not None
            if process.last_frame_at is None or process.info is None:
                limit = REOPEN_LIMIT_SECONDS if self._was_live else OPEN_LIMIT_SECONDS
                if silent > limit:
                    return CaptureFault("frozen", f"no answer for {limit:g} s"), False
                continue
            limit = max(STALL_PERIODS / process.info.frame_rate, STALL_LEAST_SECONDS)
            limit += IDLE_GRACE_SECONDS if self._idle else 0.0
            if silent <= limit:
                self._was_live = True
                self._tell("live", f"{self._request.label}: {process.info}", info=process.info)
            elif silent <= limit + STALL_PATIENCE_SECONDS:
                self._tell("stalled", f"{self._request.label} sends no pictures", info=process.info)
            else:
                return CaptureFault("frozen", f"for {silent:.1f} s"), True
        return None, process.last_frame_at is not None

    def _tell(
        self, state: FeedState, message: str, *, info: FeedInfo | None = None, fault: CaptureFault | None = None
    ) -> None:
        if state == self._status.state:
            return
        with self._changed:
            self._status = FeedStatus(state, self._request.label, message, info, fault)
            self._changed.notify_all()
        if self._on_status is not None:
            self._on_status(self._status)
