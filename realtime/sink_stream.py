"""Pushing to the network: RTMP, RTSP, UDP, SRT and whatever else FFmpeg muxes; also standard output."""

import logging
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from types import TracebackType
from typing import IO, Self

import av
from av.container import OutputContainer

from .errors import SinkError
from .frame import Frame, StreamInfo
from .live_h264 import TIME_BASE, LiveH264, reason_of

logger = logging.getLogger(__name__)

FORMAT_OF_SCHEME = {
    "rtmp": "flv", "rtmps": "flv", "rtsp": "rtsp", "udp": "mpegts", "tcp": "mpegts", "srt": "mpegts",
    "rist": "mpegts", "http": "mpegts", "https": "mpegts",
}  # fmt: skip
BY_FFMPEG_PROGRAM = ("srt", "rist")
"""PyAV's wheels have no such protocol; the FFmpeg program of most systems has."""

TIMEOUT_SECONDS = (5.0, 5.0)
KEYFRAME_SECONDS = Fraction(2)
"""What RTMP services ask for."""


class NetworkStream:
    """H.264 to a server, at low delay. A server that goes away is a `SinkError`; the output opens it again."""

    def __init__(self, url: str, info: StreamInfo, *, bitrate_kbps: int = 4000) -> None:
        """
        Args:
            url: where to; its scheme picks the container.
            info: of the frames to come.
            bitrate_kbps: kilobits per second of the picture.
        """
        self._scheme = check_push(url)
        self._url = self._scheme + url[len(self._scheme) :]  # FFmpeg knows small letters only
        self._info = info
        self._bitrate_kbps = bitrate_kbps
        self._program: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self._container = self._open()
            self._video = LiveH264(
                self._container, self._info, keyframe_seconds=KEYFRAME_SECONDS,
                options={"maxrate": f"{self._bitrate_kbps}k", "bufsize": f"{self._bitrate_kbps}k"},
                bits_per_second=self._bitrate_kbps * 1000,
            )  # fmt: skip
            self._container.start_encoding()
        except (OSError, ValueError, av.FFmpegError) as exc:
            self._end_program()
            raise SinkError(f"{_public(self._url)} cannot be reached: {reason_of(exc)}") from exc
        return self

    def write(self, frame: Frame) -> None:
        """Encode and send; blocks at most as long as the timeout."""
        picture = self._video.picture(frame)
        if picture is None:
            return
        if self._program is not None and self._program.poll() is not None:
            raise SinkError(f"{_public(self._url)} cannot be reached or was lost: the ffmpeg program has ended")
        try:
            self._container.mux(self._video.stream.encode(picture))
        except (OSError, ValueError, av.FFmpegError) as exc:
            raise SinkError(f"{_public(self._url)} was lost: {reason_of(exc)}") from exc

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._container.mux(self._video.stream.encode(None))
            self._container.close()
        except (OSError, ValueError, av.FFmpegError) as exc:
            logger.debug("%s did not take the end: %s", _public(self._url), exc)
        self._end_program()

    def _open(self) -> OutputContainer:
        form = FORMAT_OF_SCHEME[self._scheme]
        if self._scheme in BY_FFMPEG_PROGRAM:
            return av.open(self._start_program(), "w", format="nut", container_options={"flush_packets": "1"})
        options = {"rtsp_transport": "tcp"} if form == "rtsp" else {"flvflags": "no_duration_filesize"}
        return av.open(
            self._url, "w", format=form, timeout=TIMEOUT_SECONDS, container_options=options if form != "mpegts" else {}
        )

    def _start_program(self) -> IO[bytes]:
        self._program = subprocess.Popen(
            # NUT says at once what is in it; MPEG-TS would be listened to for seconds first.
            ["ffmpeg", "-loglevel", "error", "-f", "nut", "-analyzeduration", "0", "-i", "-",
             "-c", "copy", "-flush_packets", "1", "-f", "mpegts", self._url],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, bufsize=0,
        )  # fmt: skip
        if self._program.stdin is None:
            raise SinkError("the ffmpeg program did not start")
        return self._program.stdin

    def _end_program(self) -> None:
        if self._program is None:
            return
        if self._program.stdin is not None:
            try:
                self._program.stdin.close()
            except OSError:
                logger.debug("the ffmpeg program had gone")
        try:
            self._program.wait(2.0)  # SRT sends what it still holds
        except subprocess.TimeoutExpired:
            self._program.kill()
            self._program.wait()
        self._program = None


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
    without_password = re.sub(r"://[^/?#]*@", "://", url).partition("?")[0]
    if without_password.startswith(("rtmp://", "rtmps://")):
        return without_password.rpartition("/")[0] + "/…"
    return without_password
