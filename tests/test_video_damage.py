"""Damaged inputs: no crash, no hang, nothing left over, what can be decoded is kept and the damage is said.

IMPASTO_FUZZ sets how many; each runs in this process with a time limit, seeds fixed.
"""

import os
import random
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest

from impasto.export.artifact import Artifact
from impasto.realtime.errors import ImpastoError
from impasto.realtime.source_file import VideoFile
from impasto.realtime.video import stylize_video

MakeClip = Callable[..., Path]

pytestmark = pytest.mark.usefixtures("plain_engine")

COUNT = int(os.environ.get("IMPASTO_FUZZ", "36"))
TIME_LIMIT_SECONDS = 120.0  # a guard against hanging, generous for busy machines
FRAMES = 30


@pytest.fixture(scope="module")
def clips(make_clip: MakeClip) -> list[Path]:
    times = [512 * n for n in range(FRAMES)]
    milliseconds = {"time_base": Fraction(1, 1000), "times": range(0, 40 * FRAMES, 40)}
    return [
        make_clip("a.mp4", times=times, sound=True, options={"g": "8", "bf": "2"}),
        make_clip("b.mkv", sound=True, options={"g": "8"}, **milliseconds),
        make_clip("c.webm", codec="libvpx-vp9", **milliseconds),
        make_clip("d.avi", codec="mpeg4", time_base=Fraction(1, 25), times=range(FRAMES)),
        make_clip("e.gif", codec="gif", pixel_format="rgb8", time_base=Fraction(1, 100), times=range(0, 4 * FRAMES, 4)),
        make_clip("f.mov", codec="libx265", times=times, options={"x265-params": "log-level=error:keyint=8"}),
    ]


def harmed(data: bytes, rng: random.Random) -> bytes:
    """One of: bits flipped, a piece zeroed, cut out, doubled or swapped with another, the end missing."""
    damaged = bytearray(data)
    size = len(damaged)
    kind = rng.choice(["flip", "flip", "zero", "cut", "double", "swap", "truncate", "noise"])
    at, length = rng.randrange(size), rng.randrange(1, max(2, size // 8))
    if kind == "flip":
        for _ in range(rng.choice([1, 4, 32, 256])):
            damaged[rng.randrange(size)] ^= 1 << rng.randrange(8)
    elif kind == "zero":
        damaged[at : at + length] = bytes(len(damaged[at : at + length]))
    elif kind == "noise":
        damaged[at : at + length] = rng.randbytes(len(damaged[at : at + length]))
    elif kind == "cut":
        del damaged[at : at + length]
    elif kind == "double":
        damaged[at:at] = damaged[at : at + length]
    elif kind == "swap":
        other = rng.randrange(size)
        first, second = sorted((at, other))
        length = min(length, second - first, size - second)
        piece = damaged[first : first + length]
        damaged[first : first + length] = damaged[second : second + length]
        damaged[second : second + length] = piece
    else:
        del damaged[at:]
    return bytes(damaged)


@pytest.mark.parametrize("seed", range(COUNT))
def test_damage_is_survived(clips: list[Path], identity_artifact: Artifact, tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    clip = clips[seed % len(clips)]
    broken = tmp_path / f"broken{clip.suffix}"
    broken.write_bytes(harmed(clip.read_bytes(), rng))
    out = tmp_path / "out.mkv"
    outcome: list[object] = []

    def paint() -> None:
        try:
            outcome.append(stylize_video(broken, out, style=identity_artifact.path, segment_frames=10))
        except ImpastoError as exc:
            outcome.append(exc)
        except BaseException as exc:
            outcome.append(AssertionError(f"{type(exc).__name__}: {exc}"))

    worker = threading.Thread(target=paint, name="fuzz", daemon=True)
    worker.start()
    worker.join(TIME_LIMIT_SECONDS)
    assert not worker.is_alive(), "it hangs"
    result = outcome[0]
    assert not isinstance(result, AssertionError), result
    if isinstance(result, ImpastoError):
        assert "\n" not in str(result)
        assert os.listdir(tmp_path) == [broken.name], result
        return
    assert sorted(os.listdir(tmp_path)) == [broken.name, "out.mkv"]
    with VideoFile(out) as source:
        times = [frame.pts for frame in source]
    assert len(times) == result.frames_out > 0  # type: ignore[attr-defined]
    assert times == sorted(set(times))


def test_a_truncated_film_keeps_its_beginning_and_says_so(
    make_clip: MakeClip, identity_artifact: Artifact, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = make_clip("whole.mkv", times=range(0, 4000, 40), time_base=Fraction(1, 1000), options={"g": "10"})
    data = whole.read_bytes()
    broken = tmp_path / "broken.mkv"
    broken.write_bytes(data[: len(data) * 6 // 10])
    report = stylize_video(broken, tmp_path / "out.mp4", style=identity_artifact.path)
    assert 40 <= report.frames_out <= 70
    said = re.search(r"the last (\d\.\d) s are missing", caplog.text)
    assert said
    with VideoFile(tmp_path / "out.mp4") as video:
        painted = list(video)
    assert len(painted) == report.frames_out == report.frames_in
    # By time, not by count: a picture whose successors it was predicted from may be there without them.
    assert float(said[1]) == pytest.approx(4.0 - float(painted[-1].pts) - 0.04, abs=0.06)
    whole = make_clip("whole.mp4", times=[512 * n for n in range(100)], options={"g": "10"})
    middle = bytearray(whole.read_bytes())
    middle[len(middle) // 2 : len(middle) // 2 + 1500] = random.Random(1).randbytes(1500)
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(middle)
    caplog.clear()
    report = stylize_video(broken, tmp_path / "out.mp4", style=identity_artifact.path, overwrite=True)
    assert 60 <= report.frames_out <= 100
    assert "damaged" in caplog.text


def test_damage_is_said_even_to_those_who_asked_for_silence(
    make_clip: MakeClip, identity_artifact: Artifact, tmp_path: Path
) -> None:
    """One line, also for what was cut off behind a whole packet and so holds no damaged one."""
    whole = make_clip("whole.mp4", times=[512 * n for n in range(100)], options={"g": "10"},
                      container_options={"movflags": "faststart"}).read_bytes()  # fmt: skip
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(whole[: len(whole) * 7 // 10])
    command = [sys.executable, "-c", "from impasto.realtime.cli_video import app; app()", broken, "--quiet",
               "-o", tmp_path / "out.mp4", "--style", identity_artifact.path]  # fmt: skip
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "the input is damaged" in done.stderr
    assert "s are missing" in done.stderr
