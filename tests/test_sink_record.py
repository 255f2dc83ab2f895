"""Recordings that hold every frame and the sound in time, and survive a crash and a full disk."""

import random
import shutil
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest

from impasto.realtime.errors import SinkError
from impasto.realtime.live_output import OutputStatus, Painting
from impasto.realtime.live_outputs import recording_output
from impasto.realtime.microphone import SAMPLE_RATE, SAMPLES, Microphone, SoundClock
from impasto.realtime.sink_record import Recording, recording_name

from .live_helpers import SINK_INFO, needs_ffmpeg, pictures, read, readable_frames, wait_until


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_a_recording_holds_every_frame_at_its_time(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    with Recording(path, SINK_INFO) as recording:
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
    with Recording(Path("10:30.mp4"), SINK_INFO) as recording:
        for frame in pictures(3):
            recording.write(frame)
    assert len(read(tmp_path / "10:30.mp4")) == 3


def test_a_finished_recording_is_an_ordinary_mp4(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    with Recording(path, SINK_INFO) as recording:
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
    """At the time at which it was captured, counted from the first picture's."""
    path, captured = tmp_path / "out.mp4", []

    class Noting(Recording):
        def _hear(self, sound: av.AudioFrame, captured_at: float) -> None:
            captured.append(captured_at)
            super()._hear(sound, captured_at)

    with Noting(path, SINK_INFO, microphone=Microphone("lavfi:sine=frequency=440:sample_rate=44100")) as recording:
        while len(captured) < 50:
            recording.write(next(pictures(1, start=time.monotonic())))
            time.sleep(1 / 30)
        assert captured[-1] == pytest.approx(time.monotonic(), abs=60.0)  # by the clock of the pictures
    with av.open(str(path)) as container:
        sound = [f for f in container.decode(audio=0)]
    assert sound[0].sample_rate == 48_000
    assert sound[-1].time == pytest.approx(captured[-1] - float(recording._video.started), abs=0.05)
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
    with Recording(path, SINK_INFO, microphone=microphone) as recording:
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
    with Recording(path, SINK_INFO, microphone=microphone) as recording:
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
        with Recording(path, SINK_INFO, microphone=Microphone("lavfi:nosuch")):
            pass
    assert not path.exists()


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_microphone_that_is_heard_after_the_end_does_no_harm(tmp_path: Path, suffix: str) -> None:
    path, microphone = tmp_path / f"out{suffix}", FakeMicrophone()
    with Recording(path, SINK_INFO, microphone=microphone) as recording:
        for frame in pictures(30):
            recording.write(frame)
            microphone.send(float(frame.pts))
    microphone.send(1.1)
    assert recording._failure is None
    assert len(read(path)) == 30


def test_a_recording_that_does_not_begin_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **options: object) -> None:
        raise ValueError("no such encoder")

    stopped: list[bool] = []
    microphone = FakeMicrophone()
    monkeypatch.setattr(microphone, "stop", lambda: stopped.append(True))
    monkeypatch.setattr("impasto.realtime.sink_record.LiveH264", broken)
    recording = Recording(tmp_path / "out.mp4", SINK_INFO, microphone=microphone)
    opened, closed = recording._open_container, []

    def open_container() -> object:
        container = opened()
        return SimpleNamespace(close=lambda: closed.append(container.close()))

    monkeypatch.setattr(recording, "_open_container", open_container)
    with pytest.raises(SinkError, match=r"out\.mp4 cannot be written: no such encoder"):
        recording.__enter__()
    assert (len(closed), len(stopped)) == (1, 1)


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
        with Recording(path, SINK_INFO, overwrite=True) as recording:
            for frame in pictures(400, noise=True):
                recording.write(frame)

    with pytest.raises(SinkError, match="disk is full"):
        record()


LIMITED = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, 1_500_000))
sys.path.insert(0, sys.argv[2])
from tests.live_helpers import SINK_INFO, pictures
from pathlib import Path
from impasto.realtime.errors import SinkError
from impasto.realtime.sink_record import Recording
written = 0
try:
    with Recording(Path(sys.argv[1]), SINK_INFO) as recording:
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
        (tmp_path / "there.mp4", "exists"), (tmp_path / "a.avi", "must end in"), (tmp_path / "no" / "a.mp4", "No such"),
    ):  # fmt: skip
        with pytest.raises(SinkError, match=words):
            with Recording(path, SINK_INFO):
                pass
    assert (tmp_path / "there.mp4").read_text() == "keep me"
    first = recording_name(tmp_path)
    first.touch()
    assert recording_name(tmp_path) != first
    picture = recording_name(tmp_path, ".png")
    picture.touch()
    assert recording_name(tmp_path, ".png") != picture
