"""`stylize_video` from file to file: sound bit for bit, every timestamp, names, and what happens when it fails."""

import os
import shutil
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from impasto.export.artifact import Artifact
from impasto.realtime.copy_streams import StreamCopier
from impasto.realtime.errors import SinkError, SourceError
from impasto.realtime.options import VideoOptions
from impasto.realtime.pipeline import Progress
from impasto.realtime.source_file import VideoFile
from impasto.realtime.verify import verify
from impasto.realtime.video import stylize_video
from impasto.realtime.video_engines import Engines
from impasto.realtime.video_job import default_output, open_job

MakeClip = Callable[..., Path]

pytestmark = pytest.mark.usefixtures("plain_engine")


def packets(path: Path, kind: str) -> list[tuple[float, bytes]]:
    with av.open(str(path)) as container:
        stream = next(s for s in container.streams if s.type == kind)
        return [(round(float(p.pts * p.time_base), 6), bytes(p)) for p in container.demux(stream) if p.pts is not None]


def test_sound_is_copied_bit_for_bit(make_clip: MakeClip, identity_artifact: Artifact, tmp_path: Path) -> None:
    clip = make_clip(sound=True)
    stylize_video(clip, tmp_path / "out.mp4", style=identity_artifact.path)
    assert packets(tmp_path / "out.mp4", "audio") == packets(clip, "audio")


def test_the_input_of_the_other_streams_is_closed(
    make_clip: MakeClip, identity_artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[StreamCopier] = []
    monkeypatch.setattr(StreamCopier, "close", lambda copier: closed.append(copier))
    stylize_video(make_clip(sound=True), tmp_path / "out.mp4", style=identity_artifact.path)
    assert len(closed) == 1


def test_no_audio_leaves_it_out(make_clip: MakeClip, identity_artifact: Artifact, tmp_path: Path) -> None:
    stylize_video(make_clip(sound=True), tmp_path / "out.mp4", style=identity_artifact.path, audio=False)
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert [s.type for s in container.streams] == ["video"]


@pytest.mark.parametrize(
    ("times", "time_base", "rate"),
    [
        ([0, 40, 100, 180, 200, 300, 310, 900], Fraction(1, 600), Fraction(15)),
        ([1001 * n for n in range(40)], Fraction(1, 30_000), Fraction(30_000, 1001)),
    ],
    ids=["variable", "ntsc"],
)
def test_every_frame_keeps_time_and_place(
    make_clip: MakeClip, identity_artifact: Artifact, read_number: Callable[[np.ndarray], int],
    tmp_path: Path, times: list[int], time_base: Fraction, rate: Fraction,
) -> None:  # fmt: skip
    clip = make_clip(times=times, time_base=time_base, rate=rate)
    report = stylize_video(clip, tmp_path / "out.mp4", style=identity_artifact.path)
    assert report.frames_out == len(times)
    with VideoFile(tmp_path / "out.mp4") as source:
        seen = [(frame.pts, read_number(frame.data)) for frame in source]
    assert seen == [(t * time_base, n) for n, t in enumerate(times)]


def test_lossless_identity_returns_the_decoded_input(
    make_clip: MakeClip, identity_artifact: Artifact, tmp_path: Path
) -> None:
    """Within 2/255: one conversion to RGB and one back, in 8 bits."""
    clip = make_clip(height=64, width=96)
    stylize_video(clip, tmp_path / "out.mkv", style=identity_artifact.path, codec="ffv1")
    with VideoFile(clip) as before, VideoFile(tmp_path / "out.mkv") as after:
        for a, b in zip(before, after, strict=True):
            assert np.abs(a.data.astype(int) - b.data).max() <= 2


def test_progress_is_called_for_every_frame(make_clip: MakeClip, identity_artifact: Artifact, tmp_path: Path) -> None:
    seen: list[Progress] = []
    stylize_video(make_clip(), tmp_path / "out.mp4", style=identity_artifact.path, on_progress=seen.append)
    assert [p.frames_out for p in seen] == list(range(1, 13))


def test_a_failing_callback_ends_the_job_and_leaves_nothing(
    make_clip: MakeClip, identity_artifact: Artifact, tmp_path: Path
) -> None:
    def fail(progress: Progress) -> None:
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        stylize_video(make_clip(), tmp_path / "out.mp4", style=identity_artifact.path, on_progress=fail)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("finish_seconds", "painted", "kept"), [(60.0, 40, 40), (0.0, 35, 30)])
def test_a_stop_finishes_a_segment_that_is_soon_done_and_resume_goes_on(
    make_clip: MakeClip, identity_artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    finish_seconds: float, painted: int, kept: int,
) -> None:  # fmt: skip
    monkeypatch.setattr("impasto.realtime.video_job.FINISH_SECONDS", finish_seconds)
    clip = make_clip(times=[512 * n for n in range(100)], sound=True)
    options = VideoOptions(style=str(identity_artifact.path), segment_frames=10)
    stylize_video(clip, tmp_path / "straight.mp4", options=options)

    def stop(progress: Progress) -> None:
        if progress.frames_out == 35:
            job.stop()

    with Engines(options) as engines, open_job(clip, tmp_path / "out.mp4", options, engines, on_progress=stop) as job:
        report = job.run()
        assert report.stopped
        # Not a frame more than it takes, however many are decoded and painted already.
        assert (report.frames_out, job.frames_kept) == (painted, kept)
    assert not (tmp_path / "out.mp4").exists()
    with pytest.raises(SinkError, match="--resume"):
        stylize_video(clip, tmp_path / "out.mp4", options=options)
    report = stylize_video(clip, tmp_path / "out.mp4", options=options, resume=True)
    assert report.frames_out == 100 - kept
    assert packets(tmp_path / "out.mp4", "video") == packets(tmp_path / "straight.mp4", "video")
    assert packets(tmp_path / "out.mp4", "audio") == packets(clip, "audio")
    assert sorted(os.listdir(tmp_path)) == ["out.mp4", "straight.mp4"]


def test_an_existing_output_is_refused(make_clip: MakeClip, identity_artifact: Artifact, tmp_path: Path) -> None:
    (tmp_path / "out.mp4").write_text("mine")
    with pytest.raises(SinkError, match="--overwrite"):
        stylize_video(make_clip(), tmp_path / "out.mp4", style=identity_artifact.path)
    assert (tmp_path / "out.mp4").read_text() == "mine"


@pytest.mark.skipif(sys.platform == "win32", reason="links need a right of their own there")
def test_a_link_that_leads_nowhere_is_refused_before_any_work(
    make_clip: MakeClip, identity_artifact: Artifact, tmp_path: Path
) -> None:
    (tmp_path / "out.mp4").symlink_to(tmp_path / "gone.mp4")

    def too_late(progress: Progress) -> None:
        raise AssertionError

    with pytest.raises(SinkError, match="--overwrite"):
        stylize_video(make_clip(), tmp_path / "out.mp4", style=identity_artifact.path, on_progress=too_late)
    stylize_video(make_clip(), tmp_path / "out.mp4", style=identity_artifact.path, overwrite=True)
    assert not (tmp_path / "out.mp4").is_symlink()


def test_an_output_onto_the_input_is_refused(make_clip: MakeClip, identity_artifact: Artifact) -> None:
    clip = make_clip()
    before = clip.read_bytes()
    with pytest.raises(SinkError, match="input itself"):
        stylize_video(clip, clip, style=identity_artifact.path, overwrite=True)
    assert clip.read_bytes() == before


@pytest.mark.skipif(sys.platform == "win32", reason="has no such names")
def test_names_with_colons_are_no_protocols(
    make_clip: MakeClip, identity_artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, out in (("2024-05-01T10:30:00.mp4", "10:30.mp4"), ("file:a.mp4", "./10:30.gif")):
        shutil.copy(make_clip(sound=True), name)
        stylize_video(name, out, style=identity_artifact.path)
        assert Path(out).is_file()
    assert verify(Path("2024-05-01T10:30:00.mp4"), Path("10:30.mp4")) == []
    with pytest.raises(SourceError, match="must exist"):
        stylize_video("11:30.mp4", "out.mp4", style=identity_artifact.path)


@pytest.mark.skipif(sys.platform == "win32", reason="has no such pipes")
@pytest.mark.parametrize("output", ["out.mp4", "-"])
def test_a_named_pipe_is_refused(identity_artifact: Artifact, tmp_path: Path, output: str) -> None:
    os.mkfifo(tmp_path / "pipe.mkv")
    target = output if output == "-" else tmp_path / output
    with pytest.raises(SourceError, match="a pipe is given as -"):
        stylize_video(tmp_path / "pipe.mkv", target, style=identity_artifact.path)
    with pytest.raises(SourceError, match=r"must be a file, which is read more than once, got .*pipe.mkv$"):
        verify(tmp_path / "pipe.mkv", tmp_path / "pipe.mkv")


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("out.mp4", {"pipe_format": "y4m"}, "--format is for standard output"),
        ("out.mp4", {"style_scale": 2.0}, "--style-scale does nothing"),
        ("out.gif", {"keep_partial": True}, "--keep-partial does nothing"),
        ("out.mp4", {"keep_partial": True}, ""),
    ],
)
def test_what_does_nothing_is_said(
    make_clip: MakeClip, identity_artifact: Artifact, tmp_path: Path, caplog: pytest.LogCaptureFixture,
    name: str, options: dict[str, object], words: str,
) -> None:  # fmt: skip
    stylize_video(make_clip(), tmp_path / name, style=identity_artifact.path, **options)
    assert words in caplog.text
    assert len(caplog.records) == bool(words)


def test_a_gif_cannot_be_resumed(make_clip: MakeClip, identity_artifact: Artifact, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="resume must be left out for GIF"):
        stylize_video(make_clip(), tmp_path / "out.gif", style=identity_artifact.path, resume=True)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a/in.mp4", "a/in.mosaic.mp4"),
        ("a/in.mkv", "a/in.mosaic.mkv"),
        ("in.avi", "in.mosaic.mp4"),
        ("in.webm", "in.mosaic.mp4"),
        ("a?b.mkv", "a?b.mosaic.mkv"),
        ("https://example.org/in.mkv?quality=high", "in.mosaic.mkv"),
        ("rtsp://me:secret@camera", "camera.mosaic.mp4"),
        ("-", "-"),
    ],
)
def test_default_output_is_beside_the_input(source: str, expected: str) -> None:
    assert default_output(source, "mosaic") == Path(expected)


def test_standard_input_becomes_a_file_in_a_folder() -> None:
    assert default_output("-", "mosaic", folder=Path("fold")) == Path("fold/stdin.mosaic.mp4")


def test_real_clips_keep_times_and_sound(shared_data: Path, identity_artifact: Artifact, tmp_path: Path) -> None:
    for name in ("kitten-vfr.mp4", "phone-rotated.mov", "head-pose-duo.gif"):
        clip = shared_data / "videos" / name
        out = tmp_path / f"{name}.mp4"
        stylize_video(clip, out, style=identity_artifact.path)
        with VideoFile(clip) as before, VideoFile(out) as after:
            assert [f.pts for f in before] == [f.pts for f in after]
        if not name.endswith("gif"):
            assert packets(clip, "audio") == packets(out, "audio")
