"""The contract of every sink that writes a file, and what `VideoFileWriter` promises beyond it."""

import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from impasto.realtime.errors import SinkError
from impasto.realtime.frame import ColorTags, Frame, StreamInfo
from impasto.realtime.output_file import reasons_kept
from impasto.realtime.sink_file import VideoFileWriter
from impasto.realtime.source_file import VideoFile

MakeClip = Callable[..., Path]

INFO = StreamInfo(width=64, height=48, frame_rate=Fraction(25), time_base=Fraction(1, 12_800))


def frames(count: int, height: int = 48, width: int = 64) -> list[Frame]:
    rng = np.random.default_rng(0)
    base = rng.integers(0, 255, (height, width, 3), np.uint8)
    return [Frame(np.roll(base, n, 1), Fraction(n, 25), Fraction(1, 25)) for n in range(count)]


@pytest.fixture(params=["out.mp4", "out.mov", "out.mkv"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / request.param


def test_ffmpegs_log_level_comes_back_whichever_thread_ends_last() -> None:
    first, second = reasons_kept(), reasons_kept()
    before = av.logging.get_level()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert av.logging.get_level() == av.logging.PANIC
    second.__exit__(None, None, None)
    assert av.logging.get_level() == before != av.logging.PANIC


class TestContract:
    def test_all_frames_arrive_with_their_times(self, target: Path) -> None:
        with VideoFileWriter(target, INFO) as sink:
            for frame in frames(10):
                sink.write(frame)
        with VideoFile(target) as source:
            assert [frame.pts for frame in source] == [Fraction(n, 25) for n in range(10)]

    def test_nothing_has_the_final_name_before_it_is_whole(self, target: Path) -> None:
        with VideoFileWriter(target, INFO) as sink:
            for frame in frames(10):
                sink.write(frame)
                assert not target.exists()
        assert target.is_file()
        assert os.listdir(target.parent) == [target.name]

    @pytest.mark.parametrize("written", [0, 5])
    def test_an_error_leaves_nothing(self, target: Path, written: int) -> None:
        with pytest.raises(RuntimeError, match="elsewhere"), VideoFileWriter(target, INFO) as sink:  # noqa: PT012
            for frame in frames(written):
                sink.write(frame)
            raise RuntimeError("elsewhere")
        assert os.listdir(target.parent) == []

    def test_no_frame_is_an_error(self, target: Path) -> None:
        with pytest.raises(SinkError, match="at least one frame"), VideoFileWriter(target, INFO):
            pass
        assert os.listdir(target.parent) == []

    def test_it_closes_once(self, target: Path) -> None:
        sink = VideoFileWriter(target, INFO)
        with sink:
            sink.write(frames(1)[0])
        sink.__exit__(None, None, None)
        assert target.is_file()


def test_an_existing_file_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "out.mp4"
    target.write_text("mine")
    with pytest.raises(SinkError, match="--overwrite"):
        VideoFileWriter(target, INFO)
    assert target.read_text() == "mine"


def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    target = tmp_path / "out.mp4"
    with pytest.raises(SinkError, match="--overwrite"), VideoFileWriter(target, INFO) as sink:  # noqa: PT012
        sink.write(frames(1)[0])
        target.write_text("mine")
    assert target.read_text() == "mine"
    assert os.listdir(tmp_path) == ["out.mp4"]


def test_overwrite_replaces(tmp_path: Path) -> None:
    target = tmp_path / "out.mp4"
    target.write_text("old")
    with VideoFileWriter(target, INFO, overwrite=True) as sink:
        sink.write(frames(1)[0])
    assert target.stat().st_size > 100


@pytest.mark.parametrize(
    ("name", "message"),
    [("out.xyz", "must end in"), ("out", "must end in"), ("missing/out.mp4", "folder must exist")],
)
def test_unusable_targets_are_refused_before_any_work(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(SinkError, match=message):
        VideoFileWriter(tmp_path / name, INFO)


def test_the_file_plays_everywhere(tmp_path: Path) -> None:
    """4:2:0, tagged colours, index in front."""
    target = tmp_path / "out.mp4"
    with VideoFileWriter(target, INFO) as sink:
        for frame in frames(5):
            sink.write(frame)
    data = target.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    with av.open(str(target)) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt, context.color_range, context.colorspace) == ("h264", "yuv420p", 1, 1)
        assert container.streams.video[0].average_rate == 25


@pytest.mark.parametrize(("matrix", "primaries", "code"), [("bt601", 6, 6), ("bt709", 1, 1)])
def test_colour_tags_are_those_of_the_stream(tmp_path: Path, matrix: str, primaries: int, code: int) -> None:
    info = StreamInfo(64, 48, Fraction(25), color=ColorTags(matrix, primaries, primaries), time_base=Fraction(1, 25))
    with VideoFileWriter(tmp_path / "out.mp4", info) as sink:
        for frame in frames(3):
            sink.write(frame)
    with av.open(str(tmp_path / "out.mp4")) as container:
        frame = next(container.decode(video=0))
        assert (frame.colorspace, frame.color_primaries, frame.color_trc) == (code, primaries, primaries)


def test_odd_sizes_grow_by_one_repeated_row_and_column(tmp_path: Path) -> None:
    target = tmp_path / "out.mp4"
    with VideoFileWriter(target, INFO) as sink:
        for frame in frames(3, height=47, width=63):
            sink.write(frame)
    with VideoFile(target) as source:
        assert (source.info.height, source.info.width) == (48, 64)


def test_a_full_disk_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    monkeypatch.setattr("secrets.token_hex", lambda count: "full")
    (tmp_path / ".out.mkv.full.part").symlink_to("/dev/full")
    sink = VideoFileWriter(tmp_path / "out.mkv", INFO)
    with pytest.raises(SinkError, match="disk must have room"), sink:  # noqa: PT012
        for frame in frames(200):
            sink.write(frame)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("start", [Fraction(0), Fraction(7, 5), Fraction(1001, 30_000)])
@pytest.mark.parametrize("gaps", [[1, 1, 1, 1, 1, 1], [1, 5, 2, 90, 1, 3]], ids=["constant", "variable"])
def test_any_times_survive(tmp_path: Path, start: Fraction, gaps: list[int]) -> None:
    tick = Fraction(1, 30_000)
    times = [start + tick * 1001 * sum(gaps[:n]) for n in range(len(gaps))]
    info = StreamInfo(64, 48, Fraction(30_000, 1001), time_base=tick)
    with VideoFileWriter(tmp_path / "out.mp4", info) as sink:
        for time, frame in zip(times, frames(6), strict=True):
            sink.write(Frame(frame.data, time))
    with VideoFile(tmp_path / "out.mp4") as source:
        assert [frame.pts for frame in source] == times


def test_make_clip_is_read_back(make_clip: MakeClip, read_number: Callable[[np.ndarray], int]) -> None:
    """The clip maker of these suites does what it says."""
    with VideoFile(make_clip(times=[512 * n for n in range(40)])) as source:
        assert [read_number(frame.data) for frame in source] == list(range(40))
