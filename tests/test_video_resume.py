"""Killed at any moment and resumed: the same film, bit for bit, as from a run that nobody disturbed."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import pytest

from impasto.export.artifact import Artifact
from impasto.realtime.errors import SinkError
from impasto.realtime.pipeline import Progress
from impasto.realtime.segments import MANIFEST, job_folder, open_job_folder
from impasto.realtime.verify import verify
from impasto.realtime.video import stylize_video

MakeClip = Callable[..., Path]

pytestmark = pytest.mark.usefixtures("plain_engine")
RUN = "from impasto.realtime.cli import stylize_video; stylize_video()"
KILLS = int(os.environ.get("IMPASTO_KILLS", "2"))


def frame_hashes(path: Path) -> list[tuple[Fraction, str]]:
    """What `ffmpeg -f framemd5` prints: time and MD5 of every decoded picture."""
    with av.open(str(path)) as container:
        return [
            (frame.pts * container.streams.video[0].time_base, hashlib.md5(frame.to_ndarray().tobytes()).hexdigest())
            for frame in container.decode(video=0)
        ]


@pytest.fixture(scope="module")
def clip(make_clip: MakeClip) -> Path:
    """Long enough that a kill lands anywhere, variable rate, with sound."""
    times, now = [], 0
    rng = random.Random(3)
    for _ in range(160):
        times.append(now)
        now += rng.choice([17, 20, 23, 40])
    return make_clip(
        height=240, width=320, times=times, time_base=Fraction(1, 600), rate=Fraction(30_000, 1001), sound=True
    )  # fmt: skip


def test_killed_and_resumed_is_the_same_film(clip: Path, identity_artifact: Artifact, tmp_path: Path) -> None:
    # Segments of 120 frames are the default; here the command line's own, so that this is what users run.
    stylize_video(clip, tmp_path / "whole.mp4", style=identity_artifact.path)
    expected = frame_hashes(tmp_path / "whole.mp4")
    out = tmp_path / "out.mp4"
    command = [sys.executable, "-c", RUN, clip, "-o", out, "--style", identity_artifact.path, "--resume", "--quiet"]
    rng = random.Random(7)
    killed = 0
    while killed < KILLS:
        out.unlink(missing_ok=True)
        process = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE)
        # Start-up is most of a short run: wait for the first sign of work, then kill within the run's length.
        while process.poll() is None and not job_folder(out).exists():
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 1.2))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            killed += 1
        _, said = process.communicate()
        assert process.returncode in (0, -signal.SIGKILL), said
        was_whole = out.exists()
        if not was_whole:
            done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300)
            assert done.returncode == 0, done.stderr
        assert frame_hashes(out) == expected
        assert verify(clip, out) == []
        if was_whole and process.returncode:  # killed in the moment after the film got its name, before the rest went
            shutil.rmtree(job_folder(out), ignore_errors=True)
            for part in tmp_path.glob(".out.mp4.*.part"):
                part.unlink()
        assert sorted(os.listdir(tmp_path)) == ["out.mp4", "whole.mp4"]


@pytest.fixture
def stopped(clip: Path, identity_artifact: Artifact, tmp_path: Path) -> Path:
    """A job that failed after 75 frames, in segments of 20."""

    def fail(progress: Progress) -> None:
        if progress.frames_out == 75:
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        stylize_video(
            clip, tmp_path / "out.mp4", style=identity_artifact.path, segment_frames=20, on_progress=fail
        )  # fmt: skip
    return tmp_path / "out.mp4"


def test_a_failure_keeps_finished_segments(stopped: Path, clip: Path, identity_artifact: Artifact) -> None:
    notes = [json.loads(path.read_text()) for path in sorted(job_folder(stopped).glob("0*.json"))]
    assert [len(note["times"]) for note in notes] == [20, 20, 20]
    report = stylize_video(clip, stopped, style=identity_artifact.path, segment_frames=20, resume=True)
    assert report.frames_out == 100
    assert verify(clip, stopped) == []


@pytest.mark.parametrize(
    ("change", "named"), [({"strength": 0.5}, "look"), ({"crf": 30}, "crf"), ({"size": "120p"}, "size")]
)
def test_resuming_with_other_settings_is_refused(
    stopped: Path, clip: Path, identity_artifact: Artifact, change: dict[str, object], named: str
) -> None:
    with pytest.raises(SinkError, match=f"{named} must be as before"):
        stylize_video(clip, stopped, style=identity_artifact.path, segment_frames=20, resume=True, **change)


def test_resuming_another_input_is_refused(stopped: Path, make_clip: MakeClip, identity_artifact: Artifact) -> None:
    with pytest.raises(SinkError, match="input must be as before"):
        stylize_video(make_clip(), stopped, style=identity_artifact.path, segment_frames=20, resume=True)


@pytest.mark.parametrize("named", [{}, {"device": "cpu"}, {"library": "plain"}], ids=str)
def test_resuming_takes_the_engine_of_before(
    stopped: Path, clip: Path, identity_artifact: Artifact, monkeypatch: pytest.MonkeyPatch, plain_engine: object,
    named: dict[str, object],
) -> None:  # fmt: skip
    """Whatever else is named: on a busy machine the race that `auto` runs may end otherwise."""
    asked: list[dict[str, object]] = []

    def load(artifact: Artifact, **options: object) -> object:
        asked.append(options)
        return plain_engine

    monkeypatch.setattr("impasto.realtime.video_engines.load_engine", load)
    stylize_video(clip, stopped, style=identity_artifact.path, segment_frames=20, resume=True, **named)
    assert (asked[0]["library"], asked[0]["precision"]) == ("plain", "fp32")


def test_overwrite_starts_anew(stopped: Path, clip: Path, identity_artifact: Artifact) -> None:
    report = stylize_video(clip, stopped, style=identity_artifact.path, overwrite=True)
    assert report.frames_out == 160
    assert os.listdir(stopped.parent) == ["out.mp4"]


def test_resume_and_overwrite_go_on_where_they_can(
    stopped: Path, clip: Path, identity_artifact: Artifact, caplog: pytest.LogCaptureFixture
) -> None:
    both = {"style": identity_artifact.path, "segment_frames": 20, "resume": True, "overwrite": True}
    assert stylize_video(clip, stopped, **both).frames_out == 100
    assert stylize_video(clip, stopped, **both).frames_out == 160
    assert "starting anew" not in caplog.text


@pytest.mark.parametrize("damaged", [False, True], ids=["another setting", "damaged"])
def test_resume_and_overwrite_start_anew_where_they_must(
    stopped: Path, clip: Path, identity_artifact: Artifact, caplog: pytest.LogCaptureFixture, damaged: bool
) -> None:
    if damaged:
        (job_folder(stopped) / MANIFEST).write_text("{")
    both = {"style": identity_artifact.path, "segment_frames": 20, "resume": True, "overwrite": True}
    assert stylize_video(clip, stopped, crf=18 if damaged else 30, **both).frames_out == 160
    assert ("starting anew" in caplog.text) is not damaged


def test_the_address_of_an_input_is_not_kept(clip: Path, identity_artifact: Artifact, tmp_path: Path) -> None:
    """A password may stand in it; jobs that were begun when it was still written down go on."""
    shutil.copy(clip, tmp_path / "in.mp4?key=secret")
    url, out = (tmp_path / "in.mp4").as_uri() + "?key=secret", tmp_path / "out.mp4"
    settings = {"style": identity_artifact.path, "segment_frames": 20}

    def fail(progress: Progress) -> None:
        if progress.frames_out == 75:
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        stylize_video(url, out, on_progress=fail, **settings)
    manifest = job_folder(out) / MANIFEST
    assert "secret" not in manifest.read_text()
    data = json.loads(manifest.read_text())
    data["identity"]["input"] = url
    manifest.write_text(json.dumps(data))
    with pytest.raises(SinkError, match="input must be as before") as failure:
        stylize_video(clip, out, resume=True, **settings)
    assert "secret" not in str(failure.value)
    seen: set[str] = set()
    report = stylize_video(
        url, out, resume=True, on_progress=lambda progress: seen.add(manifest.read_text()), **settings
    )  # fmt: skip
    assert report.frames_out == 100
    assert not any("secret" in text for text in seen)
    assert verify(clip, out) == []


def test_a_damaged_manifest_is_one_clear_line(stopped: Path, clip: Path, identity_artifact: Artifact) -> None:
    (job_folder(stopped) / MANIFEST).write_text('{"version": 1, "ident')
    with pytest.raises(SinkError, match="manifest"):
        stylize_video(clip, stopped, style=identity_artifact.path, resume=True)


def test_a_damaged_note_costs_its_segment_only(stopped: Path, clip: Path, identity_artifact: Artifact) -> None:
    (job_folder(stopped) / "00001.mkv.json").write_text('{"times": [[0')
    report = stylize_video(clip, stopped, style=identity_artifact.path, segment_frames=20, resume=True)
    assert report.frames_out == 140
    assert verify(clip, stopped) == []


def test_two_runs_for_one_output_are_refused(stopped: Path, clip: Path, identity_artifact: Artifact) -> None:
    fcntl = pytest.importorskip("fcntl")
    with (job_folder(stopped) / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(SinkError, match="one process"):
            stylize_video(clip, stopped, style=identity_artifact.path, resume=True)
    assert job_folder(stopped).is_dir()


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("is_link", [False, True], ids=["folder", "link"])
def test_a_folder_that_is_no_jobs_is_left_alone(tmp_path: Path, is_link: bool, overwrite: bool) -> None:
    folder = tmp_path / "precious" if is_link else job_folder(tmp_path / "out.mp4")
    folder.mkdir()
    if is_link:
        job_folder(tmp_path / "out.mp4").symlink_to(folder)
    for name in ("thesis.txt", "lock"):
        (folder / name).write_text("mine")
    with pytest.raises(SinkError, match="must be a job's"):
        with open_job_folder(tmp_path / "out.mp4", {}, Fraction(1, 25), resume=False, overwrite=overwrite):
            pass
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"thesis.txt": "mine", "lock": "mine"}


@pytest.mark.parametrize("how", ["resume", "overwrite"])
def test_what_somebody_put_into_a_jobs_folder_stays(
    stopped: Path, clip: Path, identity_artifact: Artifact, how: str
) -> None:
    (job_folder(stopped) / "notes.txt").write_text("mine")
    (job_folder(stopped) / ".00003.mkv.0123abcd.part").touch()  # of a run that was killed
    stylize_video(clip, stopped, style=identity_artifact.path, segment_frames=20, **{how: True})
    assert verify(clip, stopped) == []
    assert [path.name for path in job_folder(stopped).iterdir()] == ["notes.txt"]


def test_every_file_that_is_synced_is_open_for_writing(
    clip: Path, identity_artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows refuses to flush others."""
    fcntl = pytest.importorskip("fcntl")
    modes = []
    monkeypatch.setattr(os, "fsync", lambda file: modes.append(fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE))
    stylize_video(clip, tmp_path / "out.mp4", style=identity_artifact.path)
    assert modes
    assert os.O_RDONLY not in modes


def test_no_lock_is_held_open_on_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which could not be removed with the job's folder then."""
    monkeypatch.setattr(sys, "platform", "win32")
    with open_job_folder(tmp_path / "out.mp4", {}, Fraction(1, 25), resume=False, overwrite=False) as job:
        assert os.listdir(job.folder) == [MANIFEST]


def test_keep_partial_joins_what_is_finished(clip: Path, identity_artifact: Artifact, tmp_path: Path) -> None:
    def fail(progress: Progress) -> None:
        if progress.frames_out == 75:
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        stylize_video(
            clip, tmp_path / "out.mp4", style=identity_artifact.path, segment_frames=20, on_progress=fail,
            keep_partial=True,
        )  # fmt: skip
    frames = frame_hashes(tmp_path / "out.partial.mp4")
    assert len(frames) == 60
    with av.open(str(tmp_path / "out.partial.mp4")) as container:
        sound = container.streams.audio[0]
        times = [packet.pts * packet.time_base for packet in container.demux(sound) if packet.size]
    assert frames[-1][0] - Fraction(1, 20) < times[-1] < frames[-1][0] + Fraction(1, 20)
    assert not (tmp_path / "out.mp4").exists()


def test_a_full_disk_keeps_finished_segments(
    clip: Path, identity_artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fifth segment goes to /dev/full: every write there fails for lack of room, as FFmpeg sees it."""
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    out = tmp_path / "out.mp4"

    def fill(progress: Progress) -> None:
        if progress.frames_out == 79:
            monkeypatch.setattr("secrets.token_hex", lambda count: "full")
            (job_folder(out) / ".00004.mkv.full.part").symlink_to("/dev/full")

    with pytest.raises(SinkError, match=r"disk must have room for .*out.mp4.*--resume"):
        stylize_video(clip, out, style=identity_artifact.path, segment_frames=20, on_progress=fill)
    monkeypatch.undo()
    assert len(list(job_folder(out).glob("0*.json"))) == 4


def test_an_output_folder_that_goes_away_is_one_clear_line(
    clip: Path, identity_artifact: Artifact, tmp_path: Path
) -> None:
    folder = tmp_path / "results"
    folder.mkdir()

    def remove(progress: Progress) -> None:
        if progress.frames_out == 30:
            for path in sorted(folder.rglob("*"), reverse=True):
                path.unlink() if path.is_file() else path.rmdir()
            folder.rmdir()

    with pytest.raises(SinkError, match="gone"):
        stylize_video(
            clip, folder / "out.mp4", style=identity_artifact.path, segment_frames=20, on_progress=remove
        )  # fmt: skip
