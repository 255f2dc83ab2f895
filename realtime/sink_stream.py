"""Pushing to the network: RTMP, RTSP, UDP, SRT and whatever else FFmpeg muxes; also standard output."""

import json
import logging
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from types import TracebackType
from typing import Self, TypedDict

import av

from .errors import SinkError, reason_of, without_password
from .frame import Frame, StreamInfo
from .live_h264 import TIME_BASE

logger = logging.getLogger(__name__)

FORMAT_OF_SCHEME = {
    "rtmp": "flv", "rtmps": "flv", "rtsp": "rtsp", "udp": "mpegts", "tcp": "mpegts", "srt": "mpegts",
    "rist": "mpegts", "http": "mpegts", "https": "mpegts",
}  # fmt: skip
BY_FFMPEG_PROGRAM = ("srt", "rist")
"""PyAV's wheels have no such protocol; the FFmpeg program of most systems has."""

TIMEOUT_SECONDS = 5.0
"""For the connection, and for each picture."""
END_SECONDS = 3.0

PICTURE = struct.Struct("<qII")
"""Of a picture for `push_child.py`: time in nanoseconds, height, width."""
DONE = "done"
TIME_IS_OVER = 1
"""Exit code that `faulthandler` gives the process."""


class PushRequest(TypedDict):
    """What `push_child.py` is to do. It goes there by a pipe: arguments are seen by every user."""

    url: str
    width: int
    height: int
    frame_rate: str
    bitrate_kbps: int
    timeout_seconds: float


class NetworkStream:
    """H.264 to a server, at low delay. A server that goes away is a `SinkError`; the output opens it again.

    A process of its own talks to the server: whatever the server does, this one goes on.
    """

    def __init__(self, url: str, info: StreamInfo, *, bitrate_kbps: int = 4000) -> None:
        """
        Args:
            url: where to; its scheme picks the container.
            info: of the frames to come.
            bitrate_kbps: kilobits per second of the picture.
        """
        scheme = check_push(url)
        self._url = scheme + url[len(scheme) :]  # FFmpeg knows small letters only
        self._info = info
        self._bitrate_kbps = bitrate_kbps

    def __enter__(self) -> Self:
        request = PushRequest(
            url=self._url, width=self._info.width, height=self._info.height, frame_rate=str(self._info.frame_rate),
            bitrate_kbps=self._bitrate_kbps, timeout_seconds=TIMEOUT_SECONDS,
        )  # fmt: skip
        flags = getattr(subprocess, "CREATE_NO_WINDOW", 0)  # no console of its own on Windows
        self._process = subprocess.Popen(
            [sys.executable, "-m", "impasto.realtime.push_child"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0, creationflags=flags,
        )  # fmt: skip
        if (reason := self._ask(json.dumps(request).encode() + b"\n")) is not None:
            self._end()
            raise SinkError(f"{_public(self._url)} cannot be reached: {reason}")
        return self

    def write(self, frame: Frame) -> None:
        """Encode and send; blocks at most as long as the timeout."""
        height, width, _ = frame.data.shape
        header = PICTURE.pack(round(frame.pts * 1_000_000_000), height, width)
        if (reason := self._ask(header, frame.data.data.cast("B"))) is not None:
            raise SinkError(f"{_public(self._url)} was lost: {reason}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _ask(self, *parts: bytes | memoryview) -> str | None:
        """Have the process do something; None once it is done, else why it was not."""
        pipe, answers = self._process.stdin, self._process.stdout
        if pipe is None or answers is None:
            return "its process did not start"
        try:
            for part in parts:
                view = memoryview(part)
                while view:
                    view = view[pipe.write(view) :]
        except OSError:
            logger.debug("the process that pushes has ended")  # and has said why
        if answer := answers.readline().decode(errors="replace").strip():
            return None if answer == DONE else answer
        code = self._process.wait()
        return "no answer in time" if code == TIME_IS_OVER else f"the process that pushes ended with code {code}"

    def _end(self) -> None:
        """Let the process complete the stream, if it still can."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            logger.debug("%s did not take the end", _public(self._url))
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


class PipeStream:
    """Raw pictures on standard output, as NUT with their times: `stylize-webcam … --stdout | ffmpeg -i - …`."""

    def __init__(self, info: StreamInfo, *, on_closed: Callable[[], None] = lambda: None) -> None:
        self._info = info
        self._on_closed = on_closed
        self._started: Fraction | None = None
        self._last_ticks = -1

    def __enter__(self) -> Self:
        self._container = av.open(sys.stdout.buffer, "w", format="nut")
        self._stream = self._container.add_stream("rawvideo", rate=self._info.frame_rate)
        self._stream.width, self._stream.height = self._info.width, self._info.height
        self._stream.pix_fmt = "rgb24"
        self._stream.codec_context.time_base = TIME_BASE
        return self

    def write(self, frame: Frame) -> None:
        """Blocks while the reader is busy; meanwhile newer pictures replace each other in the output's slot."""
        if self._started is None:
            self._started = frame.pts
        ticks = round((frame.pts - self._started) / TIME_BASE)
        if ticks <= self._last_ticks:  # captured before the card that was sent while it was painted
            return
        self._last_ticks = ticks
        picture = av.VideoFrame.from_ndarray(frame.data, format="rgb24")
        picture.pts, picture.time_base = ticks, TIME_BASE
        try:
            self._container.mux(self._stream.encode(picture))
            sys.stdout.buffer.flush()
        except (OSError, av.FFmpegError) as exc:
            self._on_closed()
            raise SinkError(f"standard output was closed: {reason_of(exc)}") from exc

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._container.close()
        except (OSError, av.FFmpegError):
            logger.debug("standard output had gone")


def check_push(url: str) -> str:
    """The scheme of an address to push to.

    Raises:
        SinkError: it has none, or one that nothing here can send to.
    """
    scheme, separator, _ = url.partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in FORMAT_OF_SCHEME:
        got = f"{scheme}://" if separator else "no scheme"  # the rest may hold a password or a key
        raise SinkError(
            f"push address must begin with one of {', '.join(f'{s}://' for s in FORMAT_OF_SCHEME)}, got {got}"
        )
    if scheme in BY_FFMPEG_PROGRAM and shutil.which("ffmpeg") is None:
        raise SinkError(f"{scheme}:// needs the ffmpeg program, which was not found; install FFmpeg")
    return scheme


def _public(url: str) -> str:
    """The address without password and stream key, for messages."""
    address = without_password(url)
    return address.rpartition("/")[0] + "/…" if address.startswith(("rtmp://", "rtmps://")) else address
