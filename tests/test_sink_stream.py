"""Pushing to real FFmpeg servers and to those that hang, and standard output."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import pytest

from impasto.realtime import sink_stream
from impasto.realtime.errors import SinkError
from impasto.realtime.live_outputs import named_outputs
from impasto.realtime.sink_stream import NetworkStream, check_push

from .live_helpers import SINK_INFO, needs_ffmpeg, pictures, read


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@needs_ffmpeg
@pytest.mark.parametrize(
    ("address", "listen"),
    [
        ("rtmp://127.0.0.1:{port}/live/key", ["-listen", "1", "-i"]),
        ("rtsp://127.0.0.1:{port}/live", ["-rtsp_flags", "listen", "-i"]),
        ("udp://127.0.0.1:{port}", ["-analyzeduration", "300000", "-i"]),
        ("srt://127.0.0.1:{port}", ["-i"]),
    ],
)
def test_a_stream_reaches_a_real_server(tmp_path: Path, address: str, listen: list[str]) -> None:
    url = address.format(port=free_port())
    heard = url.replace("udp://127.0.0.1", "udp://@127.0.0.1") + ("?mode=listener" if "srt" in url else "")
    if "srt" in url and b"srt" not in subprocess.run(["ffmpeg", "-protocols"], capture_output=True).stdout:
        pytest.skip("this ffmpeg has no SRT")
    target = tmp_path / "got.nut"
    enough = ["-frames:v", "120"] if "udp" in url else []  # UDP has no end
    server = subprocess.Popen(
        ["ffmpeg", "-v", "error", "-y", *listen, heard, "-c", "copy", *enough, str(target)],
        stdin=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        if "udp" in url:
            send(url, until=lambda: server.poll() is not None)  # nobody tells a sender that nobody listens yet
        else:
            send(url, server=server)
        server.wait(60)
    finally:
        server.kill()
        server.wait()
        server.stdin.close()
    frames = read(target)
    assert len(frames) >= 50
    assert (frames[0].width, frames[0].height) == (160, 96)


def send(url: str, *, until: Callable[[], bool] | None = None, server: subprocess.Popen | None = None) -> None:
    """90 pictures at eight times real time, once the server listens; or many more, `until` it has enough."""
    end = time.monotonic() + 60
    while True:
        try:
            with NetworkStream(url, SINK_INFO) as stream:
                for frame in pictures(90 if until is None else 10_000):
                    if until is not None and until():
                        break
                    stream.write(frame)
                    time.sleep(1 / 240)
            return
        except SinkError as exc:
            if server is not None and server.poll() is not None and "refused" in str(exc):
                pytest.skip("this ffmpeg cannot listen")  # 9.0's RTSP says "listen_timeout out of range"
            assert time.monotonic() < end, "the server never listened"
            time.sleep(0.1)


LISTEN = """
import contextlib, sys, av
frames = []
with av.open(sys.argv[1], format=sys.argv[2], options={"listen": "1"}) as container:
    with contextlib.suppress(OSError):  # how FFmpeg's RTMP server puts the end
        frames.extend(container.decode(video=0))
print(len(frames), frames[0].width, frames[0].height)
"""


@pytest.mark.parametrize(("scheme", "form"), [("rtmp", "flv"), ("tcp", "mpegts")])
def test_a_stream_reaches_whoever_listens(scheme: str, form: str) -> None:
    url = f"{scheme}://127.0.0.1:{free_port()}" + ("/live/key" if scheme == "rtmp" else "")
    with subprocess.Popen([sys.executable, "-c", LISTEN, url, form], stdout=subprocess.PIPE, text=True) as server:
        try:
            send(url)
            assert server.communicate(timeout=60)[0] == "90 160 96\n"
        finally:
            server.kill()


def ffmpeg_that(does: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a shell script in the place of the ffmpeg program."""
    if sys.platform == "win32":
        pytest.skip("needs a shell")
    program = folder / "ffmpeg"
    program.write_text(f"#!/bin/sh\n{does}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)


def test_srt_goes_by_the_ffmpeg_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ffmpeg_that(f"exec cat > '{tmp_path}/got.nut'", tmp_path, monkeypatch)
    with NetworkStream("srt://127.0.0.1:9000", SINK_INFO) as stream:
        for frame in pictures(10):
            stream.write(frame)
    assert len(read(tmp_path / "got.nut")) == 10


def test_an_ffmpeg_program_that_ends_is_a_sink_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ffmpeg_that("head -c 1000 > /dev/null", tmp_path, monkeypatch)

    def push() -> None:
        with NetworkStream("srt://127.0.0.1:9000", SINK_INFO) as stream:
            for frame in pictures(3000, noise=True):
                stream.write(frame)

    with pytest.raises(SinkError, match=r"was lost: (Broken pipe|the ffmpeg program did not reach it, or has ended)$"):
        push()


@pytest.fixture
def silent_server():
    """Port of a server that takes callers and neither answers nor reads."""
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def test_a_server_that_says_nothing_stops_nobody_else(monkeypatch: pytest.MonkeyPatch, silent_server: int) -> None:
    monkeypatch.setattr(sink_stream, "TIMEOUT_SECONDS", 0.5)
    ticks: list[float] = []
    over = threading.Event()

    def tick() -> None:
        while not over.wait(0.01):
            ticks.append(time.monotonic())

    ticking = threading.Thread(target=tick)
    ticking.start()
    try:
        with pytest.raises(SinkError, match=r"/live/… cannot be reached: no answer in time$"):
            with NetworkStream(f"rtmp://127.0.0.1:{silent_server}/live/key", SINK_INFO):
                pass
    finally:
        over.set()
        ticking.join()
    assert len(ticks) > 10


def test_a_server_that_stops_reading_is_lost(monkeypatch: pytest.MonkeyPatch, silent_server: int) -> None:
    monkeypatch.setattr(sink_stream, "TIMEOUT_SECONDS", 2.0)  # in which a busy machine can connect

    def push() -> None:
        with NetworkStream(f"tcp://127.0.0.1:{silent_server}", SINK_INFO, bitrate_kbps=50_000) as stream:
            for frame in pictures(3000, noise=True):
                stream.write(frame)

    with pytest.raises(SinkError, match=r"127.0.0.1:\d+ was lost: no answer in time$"):
        push()


def test_the_process_that_pushes_ends_with_the_stream_and_not_by_ctrl_c() -> None:
    with NetworkStream(f"udp://127.0.0.1:{free_port()}", SINK_INFO) as stream:
        if sys.platform != "win32":
            stream._process.send_signal(signal.SIGINT)
        for frame in pictures(3):
            stream.write(frame)
        stream._process.kill()
        stream._process.wait()
        with pytest.raises(SinkError, match="was lost: the process that pushes ended with code"):
            stream.write(frame)
    with NetworkStream(f"udp://127.0.0.1:{free_port()}", SINK_INFO) as stream:
        stream.write(frame)
    assert stream._process.returncode == 0


def test_an_unreachable_server_is_one_clear_line_without_the_key() -> None:
    with pytest.raises(SinkError, match="cannot be reached: Connection refused") as caught:
        with NetworkStream(f"rtmp://127.0.0.1:{free_port()}/live/secret-key", SINK_INFO):
            pass
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "words"),
    [("gopher://x", "must begin with one of rtmp://, .*, got gopher://$"),
     ("foo.example/live/secret", "got no scheme$"),
     ("srt://host:9000", "srt:// needs the ffmpeg program")],
)  # fmt: skip
def test_an_address_that_nothing_can_be_pushed_to_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch, url: str, words: str
) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SinkError, match=words):
        check_push(url)


@pytest.mark.parametrize(
    "url",
    ["RTMP://me:p@ss@word@127.0.0.1:{}/live/secret", "rtmps://me:p@ss@127.0.0.1:{}/live/secret?sign=secret/secret"],
)
def test_messages_and_the_list_of_processes_hold_neither_password_nor_key(url: str) -> None:
    stream = NetworkStream(url.format(free_port()), SINK_INFO)
    with pytest.raises(SinkError) as caught:
        stream.__enter__()
    assert re.fullmatch(r"rtmps?://127.0.0.1:\d+/live/… cannot be reached: Connection refused", str(caught.value))
    assert not re.search("p@ss|secret", str(stream._process.args))


HANG_UP = """
import socket
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
caller, _ = server.accept()
caller.recv(10_000)
"""


def test_a_server_that_hangs_up_at_once_is_a_sink_error() -> None:
    with subprocess.Popen([sys.executable, "-c", HANG_UP], stdout=subprocess.PIPE) as server:
        with pytest.raises(SinkError, match=r"cannot be reached: (End of file|Connection reset by peer)"):
            with NetworkStream(f"rtmp://127.0.0.1:{int(server.stdout.readline())}/live/key", SINK_INFO):
                pass


def test_streams_of_one_kind_have_names_of_their_own() -> None:
    options = SimpleNamespace(
        virtual_camera=False, window=False, stdout=False, bitrate=4000,
        push=("rtmp://a/live/1", "udp://b:1", "RTMP://c/live/2"),
    )  # fmt: skip
    outputs = list(
        named_outputs(options, frame_rate=Fraction(30), on_change=print, on_key=print, on_closed=lambda: None)
    )
    for output in outputs:
        output.close()
    assert [output.name for output in outputs] == ["push rtmp", "push udp", "push rtmp 2"]


PIPE = """
from fractions import Fraction
import numpy as np
from impasto.realtime.frame import Frame, StreamInfo
from impasto.realtime.sink_stream import PipeStream
with PipeStream(StreamInfo(33, 21, Fraction(30))) as pipe:
    for n in range(5):
        pipe.write(Frame(np.full((21, 33, 3), 40 * n, np.uint8), Fraction(n, 30)))
        pipe.write(Frame(np.full((21, 33, 3), 255, np.uint8), Fraction(n - 1, 30)))  # late: left out
"""


def test_standard_output_carries_exact_pictures(tmp_path: Path) -> None:
    path = tmp_path / "out.nut"
    with path.open("wb") as file:
        subprocess.run([sys.executable, "-c", PIPE], stdout=file, check=True, env=os.environ)
    frames = read(path)
    assert [int(f.to_ndarray(format="rgb24").mean()) for f in frames] == [0, 40, 80, 120, 160]
    assert [f.time for f in frames] == pytest.approx([n / 30 for n in range(5)], abs=1e-4)


PIPE_FOR_EVER = """
import itertools, sys
from fractions import Fraction
import numpy as np
from impasto.realtime.errors import SinkError
from impasto.realtime.frame import Frame, StreamInfo
from impasto.realtime.sink_stream import PipeStream
try:
    with PipeStream(StreamInfo(33, 21, Fraction(30)), on_closed=lambda: print("closed", file=sys.stderr)) as pipe:
        for n in itertools.count():
            pipe.write(Frame(np.zeros((21, 33, 3), np.uint8), Fraction(n, 30)))
except SinkError as exc:
    print(exc, file=sys.stderr)
"""


def test_a_reader_of_standard_output_that_goes_away_is_one_clear_line() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PIPE_FOR_EVER], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        process.stdout.buffer.read(5000)
        process.stdout.close()
        said = process.stderr.read().splitlines()
    assert said[:2] == ["closed", "standard output was closed: Broken pipe"]
