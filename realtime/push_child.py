"""The process that pushes to one server: PyAV holds the interpreter while it connects and sends, without a time limit.

Started by `sink_stream.py` as `python -m impasto.realtime.push_child`. The request comes as one line of JSON on
standard input, then pictures: `PICTURE`, then (height, width, 3) uint8 RGB. Each is answered by one line on standard
output once it is done: `DONE`, or why it failed, which ends the process. One that takes longer than the time limit
ends it without a word. The end of standard input completes the stream.
"""

import faulthandler
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import IO

import av
import numpy as np
from av.container import OutputContainer

from .errors import reason_of
from .frame import Frame, StreamInfo
from .live_h264 import LiveH264
from .sink_stream import BY_FFMPEG_PROGRAM, DONE, FORMAT_OF_SCHEME, PICTURE, PushRequest

KEYFRAME_SECONDS = Fraction(2)
"""What RTMP services ask for."""


class _Push:
    """The stream to the server; connected once it exists."""

    def __init__(self, request: PushRequest) -> None:
        self._program: subprocess.Popen[bytes] | None = None
        self._container = self._open(request["url"])
        rate = f"{request['bitrate_kbps']}k"
        self._video = LiveH264(
            self._container,
            StreamInfo(request["width"], request["height"], Fraction(request["frame_rate"]), live=True),
            keyframe_seconds=KEYFRAME_SECONDS, options={"maxrate": rate, "bufsize": rate},
            bits_per_second=request["bitrate_kbps"] * 1000,
        )  # fmt: skip
        self._container.start_encoding()

    def write(self, frame: Frame) -> None:
        picture = self._video.picture(frame)
        if picture is None:
            return
        if self._program is not None and self._program.poll() is not None:
            raise BrokenPipeError("the ffmpeg program did not reach it, or has ended")
        self._container.mux(self._video.stream.encode(picture))

    def close(self) -> None:
        self._container.mux(self._video.stream.encode(None))
        self._container.close()
        if self._program is not None and self._program.stdin is not None:
            self._program.stdin.close()
            try:
                self._program.wait(2.0)  # SRT sends what it still holds
            except subprocess.TimeoutExpired:
                self._program.kill()

    def _open(self, url: str) -> OutputContainer:
        scheme = url.partition("://")[0]
        form = FORMAT_OF_SCHEME[scheme]
        if scheme in BY_FFMPEG_PROGRAM:
            return av.open(self._start_program(url), "w", format="nut", container_options={"flush_packets": "1"})
        options = {"rtsp_transport": "tcp"} if form == "rtsp" else {"flvflags": "no_duration_filesize"}
        return av.open(url, "w", format=form, container_options=options if form != "mpegts" else {})

    def _start_program(self, url: str) -> IO[bytes]:
        self._program = subprocess.Popen(
            # NUT says at once what is in it; MPEG-TS would be listened to for seconds first.
            ["ffmpeg", "-loglevel", "error", "-f", "nut", "-analyzeduration", "0", "-i", "-",
             "-c", "copy", "-flush_packets", "1", "-f", "mpegts", url],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, bufsize=0,
        )  # fmt: skip
        if self._program.stdin is None:
            raise BrokenPipeError("the ffmpeg program did not start")
        return self._program.stdin


def main() -> None:
    """Push what standard input brings to where its first line says."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    try:
        request: PushRequest = json.loads(sys.stdin.buffer.readline())
        with _at_most(request["timeout_seconds"]):
            push = _Push(request)
        _say(DONE)
        for frame in _frames(sys.stdin.buffer):
            with _at_most(request["timeout_seconds"]):
                push.write(frame)
            _say(DONE)
        with _at_most(request["timeout_seconds"]):
            push.close()
    except (OSError, ValueError, av.FFmpegError) as exc:
        _say(reason_of(exc))
    except Exception as exc:  # the process boundary: the parent must learn of anything at all
        _say(type(exc).__name__)
    finally:
        os._exit(0)  # freeing a stream that broke would talk to its server again


def _say(answer: str) -> None:
    sys.stdout.buffer.write(f"{answer}\n".encode(errors="replace"))
    sys.stdout.buffer.flush()


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """End this process if the block takes longer. PyAV lets no other thread of Python run, but this one is not."""
    with open(os.devnull, "w") as nowhere:
        faulthandler.dump_traceback_later(seconds, exit=True, file=nowhere)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()


def _frames(pipe: IO[bytes]) -> Iterator[Frame]:
    while len(header := pipe.read(PICTURE.size)) == PICTURE.size:
        nanoseconds, height, width = PICTURE.unpack(header)
        data = pipe.read(height * width * 3)
        if len(data) < height * width * 3:
            return
        picture = np.frombuffer(data, np.uint8).reshape(height, width, 3)
        yield Frame(picture, Fraction(nanoseconds, 1_000_000_000))


if __name__ == "__main__":
    main()
