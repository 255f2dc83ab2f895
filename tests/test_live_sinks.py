"""Outputs that leave the program: recordings that survive, streams into real FFmpeg servers, standard output."""

import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest

from impasto.realtime import sink_stream
from impasto.realtime.errors import SinkError
from impasto.realtime.frame import Frame, StreamInfo
from impasto.realtime.live_output import OutputStatus, Painting
from impasto.realtime.live_outputs import named_outputs, recording_output
from impasto.realtime.microphone import SAMPLE_RATE, SAMPLES, Microphone, SoundClock
from impasto.realtime.sink_record import Recording, recording_name
from impasto.realtime.sink_stream import NetworkStream, check_push

from .live_helpers import wait_until

INFO = StreamInfo(161, 97, Fraction(30), live=True)
needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs the ffmpeg program")


def pictures(count: int, start: float = 0.0, *, noise: bool = False):
    """Frames of 161x97 at 30 per second from `start` seconds; noise is what no encoder makes small."""
    rng = np.random.default_rng(0)
    for n in range(count):
        picture = np.full((97, 161, 3), (n * 3) % 200, np.uint8)
        if noise:
            picture = rng.integers(0, 255, picture.shape).astype(np.uint8)
        yield Frame(picture, Fraction(start) + Fraction(n, 30))


def read(path: Path) -> list[av.VideoFrame]:
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


def readable_frames(path: Path) -> int:
    """Pictures that a player shows of a file whose last bytes are missing."""
    count = 0
    with av.open(str(path)) as container:
        try:
            for _ in container.decode(video=0):
                count += 1
        except av.InvalidDataError:
            pass  # the fragment that was cut off
    return count


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_a_recording_holds_every_frame_at_its_time(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    with Recording(path, INFO) as recording:
        for frame in pictures(45, start=1234.5):
            recording.write(frame)
        recording.write(frame)  # twice the same time: left out
    frames = read(path)
    assert len(frames) == 45
    assert [round(f.time * 30) for f in frames] == list(range(45))
    assert (frames[0].width, frames[0].height) == (160, 96)
    assert frames[0].colorspace == 6  # tagged as what was written
    assert [f.time for f in frames if f.key_frame] == pytest.approx([0.0, 1.0], abs=0.02)
    assert abs(frames[20].to_ndarray(format="rgb24").mean() - 60) < 3


@pytest.mark.skipif(sys.platform == "win32", reason="has no such names")
def test_a_name_with_colons_is_no_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Recording(Path("10:30.mp4"), INFO) as recording:
        for frame in pictures(3):
            recording.write(frame)
    assert len(read(tmp_path / "10:30.mp4")) == 3


def test_a_finished_recording_is_an_ordinary_mp4(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    with Recording(path, INFO) as recording:
        for frame in pictures(60):
            recording.write(frame)
    assert boxes(path.read_bytes()) == ["ftyp", "free", "mdat", "moov"]


def boxes(data: bytes) -> list[str]:
    names, at = [], 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        names.append(data[at + 4 : at + 8].decode("latin1"))
        at += size or len(data)
    return names


def test_sound_is_recorded_in_time(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    started = time.monotonic()
    with Recording(path, INFO, microphone=Microphone("lavfi:sine=frequency=440:sample_rate=44100")) as recording:
        while time.monotonic() - started < 1.5:
            recording.write(next(pictures(1, start=time.monotonic())))
            time.sleep(1 / 30)
    with av.open(str(path)) as container:
        picture_seconds = [f.time for f in container.decode(video=0)][-1]
        container.seek(0)
        sound = [f for f in container.decode(audio=0)]
    assert sound[0].sample_rate == 48_000
    assert abs(sound[-1].time + sound[-1].samples / 48_000 - picture_seconds) < 0.25
    wave = np.concatenate([f.to_ndarray()[0] for f in sound])[4800:28_800]
    crossings = np.count_nonzero(np.diff(np.signbit(wave))) / 2 / (len(wave) / 48_000)
    assert crossings == pytest.approx(440, rel=0.02)


class FakeMicrophone:
    """Sound comes when the test says so."""

    def open(self) -> None: ...

    def start(self, hear, on_end) -> None:
        self.hear, self.on_end = hear, on_end

    def stop(self) -> None: ...

    def send(self, captured_at: float) -> None:
        sound = av.AudioFrame.from_ndarray(np.full((2, SAMPLES), 0.1, np.float32), format="fltp", layout="stereo")
        sound.sample_rate = SAMPLE_RATE
        self.hear(sound, captured_at)


def seconds_of(path: Path, kind: str) -> float:
    """When the last packet of a stream ends, in a file that may have been cut off."""
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(container.streams.get({kind: 0})[0]) if p.pts is not None]
    return max(float((p.pts + (p.duration or 0)) * p.time_base) for p in packets)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_sound_that_is_set_back_in_time_goes_on(tmp_path: Path, suffix: str) -> None:
    path, microphone = tmp_path / f"out{suffix}", FakeMicrophone()
    with Recording(path, INFO, microphone=microphone) as recording:
        heard = 0.0
        for frame in pictures(90):
            recording.write(frame)
            while heard < frame.pts:
                microphone.send(heard - (0.15 if heard > 1 else 0))
                heard += SAMPLES / SAMPLE_RATE
    assert seconds_of(path, "video") == pytest.approx(3.0, abs=0.05)
    assert seconds_of(path, "audio") == pytest.approx(2.85, abs=0.08)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_crash_after_the_sound_has_ended_costs_no_more_than_a_second(tmp_path: Path, suffix: str) -> None:
    path, microphone = tmp_path / f"out{suffix}", FakeMicrophone()
    with Recording(path, INFO, microphone=microphone) as recording:
        for frame in pictures(180):
            recording.write(frame)
            if frame.pts < 1:
                microphone.send(float(frame.pts))
        crashed = tmp_path / f"crashed{suffix}"
        shutil.copy(path, crashed)
    assert readable_frames(crashed) >= 150


def test_the_end_of_the_sound_is_told_while_the_recording_goes_on(tmp_path: Path) -> None:
    told: list[OutputStatus] = []
    options = SimpleNamespace(microphone="lavfi:sine=duration=0.1", overwrite=False)
    output = recording_output(options, tmp_path / "out.mp4", frame_rate=Fraction(30), on_change=told.append)
    output.slot.put(Painting(next(pictures(1, start=time.monotonic())), None, card=False))
    wait_until(lambda: output.status.message)
    output.close()
    words = "the microphone has ended; recording goes on without sound"
    assert [(s.state, s.message) for s in told][-2:] == [("running", words), ("closed", "")]


def test_a_microphone_that_does_not_open_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    with pytest.raises(SinkError, match=r"^microphone must be one that can be opened, got 'lavfi:nosuch': [^\[]*$"):
        with Recording(path, INFO, microphone=Microphone("lavfi:nosuch")):
            pass
    assert not path.exists()


PIECE = SAMPLES / SAMPLE_RATE


def test_sound_that_was_held_up_keeps_its_time() -> None:
    clock = SoundClock()
    for n in range(300):
        arrived = 50 + (n + 1) * PIECE
        arrived = 53.4 if 53.0 < arrived < 53.4 else arrived  # a disk that stood still: then all at once
        assert clock.captured_at(arrived, SAMPLES) == pytest.approx(50 + n * PIECE)


@pytest.mark.parametrize("speed", [1.02, 0.98])
def test_a_sound_card_with_another_clock_does_not_drift_away(speed: float) -> None:
    clock = SoundClock()
    late = [clock.captured_at(n * PIECE / speed, SAMPLES) - (n - 1) * PIECE / speed for n in range(1, 2000)]
    assert max(map(abs, late)) < 0.15


def test_sound_goes_on_in_time_after_some_was_lost() -> None:
    clock = SoundClock()
    for n in range(100):
        clock.captured_at(n * PIECE, SAMPLES)
    late = [clock.captured_at(2.0 + n * PIECE, SAMPLES) - (2.0 + (n - 1) * PIECE) for n in range(100, 200)]
    assert late[0] == pytest.approx(-2.0)
    assert late[-1] == pytest.approx(0.0, abs=0.01)


WRITE_FOR_EVER = """
import sys, time
from fractions import Fraction
from pathlib import Path
import numpy as np
from impasto.realtime.frame import Frame, StreamInfo
from impasto.realtime.sink_record import Recording
base = np.random.default_rng(0).integers(0, 255, (12, 20, 3)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
with Recording(Path(sys.argv[1]), StreamInfo(160, 96, Fraction(30))) as recording:
    started = time.monotonic()
    for n in range(10_000):
        recording.write(Frame(np.ascontiguousarray(np.roll(base, n, 1)), Fraction(n, 30)))
        print(n, flush=True)
        time.sleep(max(started + n / 90 - time.monotonic(), 0))   # three times real time
"""


@needs_ffmpeg
def test_a_killed_recording_plays_to_within_a_second(tmp_path: Path) -> None:
    runs = []
    for number in range(4):
        path = tmp_path / f"{number}.mp4"
        runs.append((path, subprocess.Popen([sys.executable, "-c", WRITE_FOR_EVER, str(path)], stdout=subprocess.PIPE)))
    rng = random.Random(1)
    for path, process in runs:
        written = 0
        stop = rng.randint(70, 150)
        while written < stop:
            written = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        rest = process.communicate()[0].split()
        written = int(rest[-1]) if rest else written
        readable = len(read(path))
        assert written + 1 - readable <= 30, f"{written + 1} written, {readable} readable"
        checked = subprocess.run(
            ["ffmpeg", "-v", "error", "-i", str(path), "-fps_mode", "passthrough", "-f", "null", "-"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert checked.stderr == ""


@pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full")
def test_a_full_disk_ends_the_recording_with_a_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "out.mkv"
    path.symlink_to("/dev/full")

    def record() -> None:
        with Recording(path, INFO, overwrite=True) as recording:
            for frame in pictures(400, noise=True):
                recording.write(frame)

    with pytest.raises(SinkError, match="disk is full"):
        record()


LIMITED = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, 1_500_000))
sys.path.insert(0, sys.argv[2])
from tests.test_live_sinks import INFO, pictures
from pathlib import Path
from impasto.realtime.errors import SinkError
from impasto.realtime.sink_record import Recording
written = 0
try:
    with Recording(Path(sys.argv[1]), INFO) as recording:
        for frame in pictures(900, noise=True):
            recording.write(frame)
            written += 1
except SinkError as exc:
    print(written, exc)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs RLIMIT_FSIZE")
def test_what_was_recorded_before_the_disk_was_full_plays(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    root = str(Path(__file__).parents[1])
    done = subprocess.run([sys.executable, "-c", LIMITED, str(path), root], capture_output=True, text=True, timeout=60)
    written, _, message = done.stdout.partition(" ")
    assert "stopped" in message, done.stdout + done.stderr
    assert readable_frames(path) >= int(written) - 30


def test_a_recording_refuses(tmp_path: Path) -> None:
    (tmp_path / "there.mp4").write_text("keep me")
    for path, words in (
        (tmp_path / "there.mp4", "exists"), (tmp_path / "a.avi", "must end in"), (tmp_path / "no" / "a.mp4", "no such"),
    ):  # fmt: skip
        with pytest.raises(SinkError, match=words):
            with Recording(path, INFO):
                pass
    assert (tmp_path / "there.mp4").read_text() == "keep me"
    first = recording_name(tmp_path)
    first.touch()
    assert recording_name(tmp_path) != first
    picture = recording_name(tmp_path, ".png")
    picture.touch()
    assert recording_name(tmp_path, ".png") != picture


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
    enough = ["-frames:v", "50"] if "udp" in url else []  # UDP has no end
    server = subprocess.Popen(
        ["ffmpeg", "-v", "error", "-y", *listen, heard, "-c", "copy", *enough, str(target)],
        stdin=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        if "udp" in url:
            time.sleep(0.8)  # nobody tells a sender that nobody listens yet
        send(url)
        server.wait(10)
    finally:
        server.kill()
        server.wait()
        server.stdin.close()
    frames = read(target)
    assert len(frames) >= 50
    assert (frames[0].width, frames[0].height) == (160, 96)


def send(url: str) -> None:
    """90 pictures at twice real time, once the server listens."""
    end = time.monotonic() + 8
    while True:
        try:
            with NetworkStream(url, INFO) as stream:
                for frame in pictures(90):
                    stream.write(frame)
                    time.sleep(1 / 60)
            return
        except SinkError:
            assert time.monotonic() < end, "the server never listened"
            time.sleep(0.2)


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
            assert server.communicate(timeout=10)[0] == "90 160 96\n"
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
    with NetworkStream("srt://127.0.0.1:9000", INFO) as stream:
        for frame in pictures(10):
            stream.write(frame)
    assert len(read(tmp_path / "got.nut")) == 10


def test_an_ffmpeg_program_that_ends_is_a_sink_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ffmpeg_that("head -c 1000 > /dev/null", tmp_path, monkeypatch)

    def push() -> None:
        with NetworkStream("srt://127.0.0.1:9000", INFO) as stream:
            for frame in pictures(3000, noise=True):
                stream.write(frame)

    with pytest.raises(SinkError, match=r"was lost: (broken pipe|the ffmpeg program did not reach it, or has ended)$"):
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
            with NetworkStream(f"rtmp://127.0.0.1:{silent_server}/live/key", INFO):
                pass
    finally:
        over.set()
        ticking.join()
    assert len(ticks) > 10


def test_a_server_that_stops_reading_is_lost(monkeypatch: pytest.MonkeyPatch, silent_server: int) -> None:
    monkeypatch.setattr(sink_stream, "TIMEOUT_SECONDS", 0.5)

    def push() -> None:
        with NetworkStream(f"tcp://127.0.0.1:{silent_server}", INFO, bitrate_kbps=50_000) as stream:
            for frame in pictures(3000, noise=True):
                stream.write(frame)

    with pytest.raises(SinkError, match=r"127.0.0.1:\d+ was lost: no answer in time$"):
        push()


def test_the_process_that_pushes_ends_with_the_stream_and_not_by_ctrl_c() -> None:
    with NetworkStream(f"udp://127.0.0.1:{free_port()}", INFO) as stream:
        if sys.platform != "win32":
            stream._process.send_signal(signal.SIGINT)
        for frame in pictures(3):
            stream.write(frame)
        stream._process.kill()
        stream._process.wait()
        with pytest.raises(SinkError, match="was lost: the process that pushes ended with code"):
            stream.write(frame)
    with NetworkStream(f"udp://127.0.0.1:{free_port()}", INFO) as stream:
        stream.write(frame)
    assert stream._process.returncode == 0


def test_an_unreachable_server_is_one_clear_line_without_the_key() -> None:
    with pytest.raises(SinkError, match="cannot be reached: connection refused") as caught:
        with NetworkStream(f"rtmp://127.0.0.1:{free_port()}/live/secret-key", INFO):
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
    stream = NetworkStream(url.format(free_port()), INFO)
    with pytest.raises(SinkError) as caught:
        stream.__enter__()
    assert re.fullmatch(r"rtmps?://127.0.0.1:\d+/live/… cannot be reached: connection refused", str(caught.value))
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
        with pytest.raises(SinkError, match=r"cannot be reached: (end of file|connection reset by peer)"):
            with NetworkStream(f"rtmp://127.0.0.1:{int(server.stdout.readline())}/live/key", INFO):
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
    assert said[:2] == ["closed", "standard output was closed: broken pipe"]
