"""Another frame rate, a part of a film, and codecs, through real files."""

import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest

from impasto.export.artifact import Artifact
from impasto.realtime.codecs import Encoding
from impasto.realtime.errors import EngineError, SinkError, SourceError
from impasto.realtime.options import VideoOptions
from impasto.realtime.pipeline import Progress
from impasto.realtime.source_file import VideoFile
from impasto.realtime.verify import verify
from impasto.realtime.video import stylize_video, stylized_frames
from impasto.realtime.video_frames import freeze

from .conftest import web_server

MakeClip = Callable[..., Path]
ReadNumber = Callable[[np.ndarray], int]

NTSC = Fraction(30_000, 1001)

pytestmark = pytest.mark.usefixtures("plain_engine")


def shown(path: Path, read_number: ReadNumber) -> list[tuple[Fraction, int]]:
    with VideoFile(path) as source:
        return [(frame.pts, read_number(frame.data)) for frame in source]


@pytest.mark.parametrize(
    ("fps", "expected"),
    [
        (Fraction(50), [(Fraction(n, 50), n // 2) for n in range(24)]),
        (Fraction(10), [(Fraction(n, 10), n * 5 // 2) for n in range(5)]),
        (NTSC, [(n / NTSC, int(n * 25 / NTSC)) for n in range(15)]),
    ],
    ids=["double", "fewer", "ntsc"],
)  # fmt: skip
def test_another_frame_rate_shows_what_is_shown_then(
    make_clip: MakeClip, identity_artifact: Artifact, read_number: ReadNumber, tmp_path: Path,
    fps: Fraction, expected: list[tuple[Fraction, int]],
) -> None:  # fmt: skip
    stylize_video(make_clip(), tmp_path / "out.mp4", style=identity_artifact.path, fps=fps)
    assert shown(tmp_path / "out.mp4", read_number) == expected


def test_a_part_begins_at_zero(
    make_clip: MakeClip, identity_artifact: Artifact, read_number: ReadNumber, tmp_path: Path
) -> None:
    clip = make_clip(times=[512 * n for n in range(60)])
    stylize_video(clip, tmp_path / "out.mp4", style=identity_artifact.path, start=Fraction(1), end=Fraction(3, 2))
    assert shown(tmp_path / "out.mp4", read_number) == [(Fraction(n, 25), 25 + n) for n in range(13)]


@pytest.fixture
def recording(make_clip: MakeClip, tmp_path: Path) -> Path:
    """Two seconds of picture and sound that begin at 100 s, as a recorder writes them."""
    path = tmp_path / "recording.ts"
    with av.open(str(make_clip(times=[512 * n for n in range(50)], sound=True))) as clip, av.open(path, "w") as output:
        streams = [output.add_stream_from_template(stream) for stream in clip.streams]
        for packet in sorted((p for p in clip.demux() if p.size), key=lambda p: p.dts * p.time_base):
            packet.pts, packet.dts = (t + round(100 / packet.time_base) for t in (packet.pts, packet.dts))
            packet.stream = streams[packet.stream_index]
            output.mux_one(packet)
    return path


class TestRecordings:
    """Times that users write count from the film's beginning, whatever its own clock says there."""

    def test_a_part_of_it(
        self, recording: Path, identity_artifact: Artifact, read_number: ReadNumber, tmp_path: Path
    ) -> None:
        part = tmp_path / "part.mkv"
        for fps in (None, Fraction(25)):
            stylize_video(recording, part, style=identity_artifact.path, start=Fraction(1), end=Fraction(3, 2), fps=fps,
                          overwrite=True)  # fmt: skip
            frames = shown(part, read_number)
            assert [number for _, number in frames] == list(range(25, 37))
            # The sound begins 23 ms before the picture; a frame rate of one's own has its own grid.
            assert all(0 <= pts - Fraction(n, 25) <= Fraction(1, 25) for n, (pts, _) in enumerate(frames))
            with av.open(str(part)) as container:
                sound = [packet.pts * packet.time_base for packet in container.demux(audio=0) if packet.pts is not None]
            assert 0 <= sound[0] < Fraction(1, 40)
            assert Fraction(9, 20) < sound[-1] < Fraction(1, 2)

    def test_all_of_it_from_zero(
        self, recording: Path, identity_artifact: Artifact, read_number: ReadNumber, tmp_path: Path
    ) -> None:
        stylize_video(recording, tmp_path / "out.mkv", style=identity_artifact.path, start=Fraction(0))
        frames = shown(tmp_path / "out.mkv", read_number)
        assert [number for _, number in frames] == list(range(50))
        assert frames[0][0] < Fraction(1, 40)

    @pytest.mark.parametrize("start", [None, Fraction(1, 5)])
    def test_a_part_of_it_resumed(
        self, recording: Path, identity_artifact: Artifact, tmp_path: Path, start: Fraction | None
    ) -> None:
        def break_off(progress: Progress) -> None:
            if progress.frames_out == 24:
                raise SinkError("pulled out")

        options = VideoOptions(style=identity_artifact.path, start=start, end=Fraction(9, 5), segment_frames=7)
        whole, resumed = tmp_path / "whole.mp4", tmp_path / "resumed.mp4"
        stylize_video(recording, whole, options=options)
        with pytest.raises(SinkError, match="pulled out"):
            stylize_video(recording, resumed, options=options, on_progress=break_off)
        report = stylize_video(recording, resumed, options=options, resume=True)
        assert 0 < report.frames_out < 30
        assert resumed.read_bytes() == whole.read_bytes()

    def test_frozen_statistics_see_all_of_it(self, recording: Path, read_number: ReadNumber) -> None:
        seen: list[int] = []
        stylizer = SimpleNamespace(freeze=lambda pictures: seen.extend(map(read_number, pictures)))
        freeze(stylizer, recording, VideoOptions(normalization="frozen"))
        assert len(set(seen)) == len(seen) > 1
        assert seen[-1] > 40

    def test_cues_of_it(
        self, recording: Path, identity_artifact: Artifact, plain_engine: Any, tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        monkeypatch.setattr(type(plain_engine), "__call__", lambda self, frames: np.zeros_like(frames))
        cues = tmp_path / "cues.toml"
        cues.write_text("[[cue]]\nat = 1\nstrength = 0")
        for start, black in ((None, 25), (Fraction(1, 2), 25), (Fraction(3, 2), 13)):
            frames = stylized_frames(recording, style=identity_artifact.path, timeline=cues, start=start)
            assert sum(not frame.data.any() for frame in frames) == black


@pytest.mark.parametrize(
    ("start", "end"), [(Fraction(5), None), (Fraction(5), Fraction(6)), (Fraction(1, 50), Fraction(1, 40))]
)
def test_a_part_without_a_frame_is_named(
    make_clip: MakeClip, identity_artifact: Artifact, tmp_path: Path, start: Fraction, end: Fraction | None
) -> None:
    clip = make_clip()
    for out in (tmp_path / "out.mp4", tmp_path / "out.gif"):
        with pytest.raises(ValueError, match="start and end must leave a part of the film, got nothing from"):
            stylize_video(clip, out, style=identity_artifact.path, start=start, end=end)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("after", "decoder"), [(0, None), (100, None), (149, None), (298, None), (298, "h264")])
def test_seeking_finds_the_exact_frame(
    make_clip: MakeClip, read_number: ReadNumber, after: int, decoder: str | None
) -> None:
    clip = make_clip(times=[512 * n for n in range(300)], options={"bf": "3", "g": "60"})
    with VideoFile(clip, after=Fraction(after, 25), decoder=decoder) as source:
        frames = list(source)
    assert [frame.pts for frame in frames] == [Fraction(n, 25) for n in range(after + 1, 300)]
    assert read_number(frames[0].data) == (after + 1) % 256


@pytest.mark.parametrize(
    ("codec", "suffix", "name"),
    [
        ("h264", ".mp4", "h264"), ("h264", ".mkv", "h264"), ("h264", ".mov", "h264"), ("hevc", ".mp4", "hevc"),
        ("av1", ".mp4", "av1"), ("av1", ".webm", "av1"), ("vp9", ".webm", "vp9"), ("prores", ".mov", "prores"),
        ("ffv1", ".mkv", "ffv1"), ("png", ".mov", "png"), ("gif", ".gif", "gif"),
    ],
)  # fmt: skip
def test_codecs(
    make_clip: MakeClip, identity_artifact: Artifact, read_number: ReadNumber, tmp_path: Path,
    codec: str, suffix: str, name: str,
) -> None:  # fmt: skip
    clip = make_clip(height=96, width=128)
    out = tmp_path / f"out{suffix}"
    stylize_video(clip, out, style=identity_artifact.path, codec=codec, segment_frames=5)
    with av.open(str(out)) as container:
        assert container.streams.video[0].codec_context.codec.canonical_name == name
    assert [number for _, number in shown(out, read_number)] == list(range(12))
    if suffix != ".gif":
        tags = [line for line in verify(clip, out) if "colour" not in line]
        assert tags == []
    with VideoFile(clip) as before, VideoFile(out) as after:
        difference = np.abs(next(iter(before)).data.astype(int) - next(iter(after)).data)
    assert difference.mean() < (9 if codec == "gif" else 3)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"codec": "vp8"}, ValueError, "codec must be one of"),
        ({"codec": "prores"}, SinkError, "must end in .mov"),
        ({"crf": 99}, ValueError, "crf must be"),
        ({"encoder": "h264_abacus"}, EngineError, "encoder must be"),
        ({"encoder": "h264_nvenc"}, EngineError, "encoder must be"),
        ({"encoder": "aac"}, EngineError, "encoder must be one for video"),
        ({"preset": "warp"}, ValueError, "preset must be one that libx264 takes, got warp"),
        ({"codec": "hevc", "crf": 60}, ValueError, "crf must be one that libx265 takes, got 60"),
        ({"codec": "hevc", "crf": 60, "preset": "warp"}, ValueError, "preset and crf must be"),
        ({"codec": "av1", "preset": "slow"}, ValueError, "preset must be one that libsvtav1 takes"),
        ({"encoder": "mpeg4", "crf": 2}, ValueError, "crf must be left out for the encoder mpeg4"),
        ({"encoder": "mpeg4", "preset": "fast"}, ValueError, "preset must be left out for the encoder mpeg4"),
        ({"decoder": "abacus"}, SourceError, "decoder must be"),
        ({"decoder": "aac"}, SourceError, "decoder must be"),
    ],
)
def test_impossible_codings_are_named(
    make_clip: MakeClip, identity_artifact: Artifact, tmp_path: Path, options: dict[str, object],
    error: type[Exception], words: str,
) -> None:  # fmt: skip
    with pytest.raises(error, match=words):
        stylize_video(make_clip(), tmp_path / "out.mp4", style=identity_artifact.path, **options)
    assert list(tmp_path.iterdir()) == []


def test_the_quality_of_prores(make_clip: MakeClip, identity_artifact: Artifact, tmp_path: Path) -> None:
    clip, sizes = make_clip(), []
    for crf in (1, 10, 40):
        out = tmp_path / f"{crf}.mov"
        stylize_video(clip, out, style=identity_artifact.path, codec="prores", crf=crf)
        sizes.append(out.stat().st_size)
    assert sizes[0] > sizes[1] > sizes[2]
    for wrong in ({"crf": 0}, {"crf": 10, "encoder": "prores_aw"}):
        with pytest.raises(ValueError, match="crf must be"):
            stylize_video(clip, tmp_path / "x.mov", style=identity_artifact.path, codec="prores", **wrong)


def test_a_named_decoder_is_used(make_clip: MakeClip, identity_artifact: Artifact, tmp_path: Path) -> None:
    clip = make_clip("clip.webm", codec="libvpx-vp9", time_base=Fraction(1, 1000), times=range(0, 480, 40))
    report = stylize_video(clip, tmp_path / "out.mp4", style=identity_artifact.path, decoder="libvpx-vp9")
    assert report.frames_out == 12


def test_hardware_encoders_get_their_own_names_for_quality() -> None:
    assert Encoding("h264", encoder="h264_nvenc", crf=20).options == {"cq": "20"}
    assert Encoding("hevc", encoder="hevc_qsv", crf=20, preset="slow").options == {
        "global_quality": "20",
        "preset": "slow",
    }


class TestPipes:
    RUN = "from impasto.realtime.cli import stylize_video; stylize_video()"

    @pytest.mark.parametrize("pipe_format", ["nut", "matroska", "y4m"])
    def test_ffmpeg_in_front_and_behind(
        self,
        make_clip: MakeClip,
        identity_artifact: Artifact,
        read_number: ReadNumber,
        tmp_path: Path,
        pipe_format: str,
    ) -> None:
        clip = make_clip("clip.mkv", codec="ffv1", pixel_format="yuv444p", sound=True, time_base=Fraction(1, 1000),
                         times=range(0, 480, 40))  # fmt: skip
        command = [sys.executable, "-c", self.RUN, "-", "-o", "-", "--style", identity_artifact.path, "--format",
                   pipe_format, "--quiet"]  # fmt: skip
        done = subprocess.run(list(map(str, command)), input=clip.read_bytes(), capture_output=True, timeout=300)
        assert done.returncode == 0, done.stderr.decode()
        result = tmp_path / f"out.{pipe_format}"
        result.write_bytes(done.stdout)
        frames = shown(result, read_number)
        # NUT begins at 0: sound that starts 23 ms before the picture (AAC's run-in) moves both.
        shift = frames[0][0] if pipe_format == "nut" else 0
        assert 0 <= shift < Fraction(1, 40)
        assert frames == [(shift + Fraction(n, 25), n) for n in range(12)]
        with av.open(str(result)) as container:
            kinds = [stream.type for stream in container.streams]
        assert kinds == (["video"] if pipe_format == "y4m" else ["video", "audio"])

    def test_standard_input_to_a_file_keeps_the_sound(
        self, make_clip: MakeClip, identity_artifact: Artifact, tmp_path: Path
    ) -> None:
        clip = make_clip("clip.mkv", sound=True, time_base=Fraction(1, 1000), times=range(0, 480, 40))
        command = [sys.executable, "-c", self.RUN, "-", "-o", tmp_path / "out.mkv", "--style", identity_artifact.path]
        done = subprocess.run(list(map(str, command)), input=clip.read_bytes(), capture_output=True, timeout=300)
        assert done.returncode == 0, done.stderr.decode()
        assert verify(clip, tmp_path / "out.mkv") == []


def test_network_inputs(make_clip: MakeClip, identity_artifact: Artifact, tmp_path: Path) -> None:
    clip = make_clip(sound=True)
    with web_server(clip.parent) as address:
        stylize_video(f"{address}/{clip.name}", tmp_path / "out.mp4", style=identity_artifact.path)
        with pytest.raises(SourceError, match=r"cannot be opened|not a video|must exist"):
            stylize_video(f"{address}/none.mp4", tmp_path / "none.mp4", style=identity_artifact.path)
    assert verify(clip, tmp_path / "out.mp4") == []
