"""The contract of every offline source, and what `VideoFile` promises beyond it."""

import threading
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from impasto.realtime.errors import SourceError
from impasto.realtime.input_file import open_input
from impasto.realtime.source import Source
from impasto.realtime.source_file import VideoFile

MakeClip = Callable[..., Path]

CLIPS = {
    "h264-mp4": {},
    "b-frames": {"options": {"bf": "3"}},
    "ffv1-mkv": {"name": "clip.mkv", "codec": "ffv1", "pixel_format": "yuv444p", "time_base": Fraction(1, 1000)},
    "h264-avi": {"name": "clip.avi", "time_base": Fraction(1, 25), "times": range(12)},
    "gif": {"name": "clip.gif", "codec": "gif", "pixel_format": "rgb8", "time_base": Fraction(1, 100)},
    "with-sound": {"sound": True},
}


@pytest.fixture(params=CLIPS)
def source(request: pytest.FixtureRequest, make_clip: MakeClip) -> Source:
    options = dict(CLIPS[request.param])
    options.setdefault(
        "times", [round(n * Fraction(1, 25) / options.get("time_base", Fraction(1, 12_800))) for n in range(12)]
    )
    return VideoFile(make_clip(**options))


class TestContract:
    """Runs over every source that ends by itself."""

    def test_frames_have_the_announced_size_and_rising_times(self, source: Source) -> None:
        with source:
            frames = list(source)
        assert len(frames) == 12
        for frame in frames:
            assert frame.data.shape == (source.info.height, source.info.width, 3)
            assert frame.data.dtype == np.uint8
            assert frame.data.flags.c_contiguous
        times = [frame.pts for frame in frames]
        assert all(isinstance(t, Fraction) for t in times)
        assert times == sorted(set(times))

    def test_pictures_come_in_order(self, source: Source, read_number: Callable[[np.ndarray], int]) -> None:
        with source:
            assert [read_number(frame.data) for frame in source] == list(range(12))

    def test_every_time_is_a_whole_number_of_ticks(self, source: Source) -> None:
        with source:
            tick = source.info.time_base
            assert tick is not None
            assert all((frame.pts / tick).denominator == 1 for frame in source)

    def test_frames_own_their_pixels(self, source: Source) -> None:
        with source:
            frames = iter(source)
            first = next(frames)
            kept = first.data.copy()
            list(frames)
        np.testing.assert_array_equal(first.data, kept)

    def test_close_twice(self, source: Source) -> None:
        source.close()
        source.close()

    def test_close_from_another_thread_ends_the_iteration(self, source: Source) -> None:
        frames = iter(source)
        next(frames)
        closer = threading.Thread(target=source.close)
        closer.start()
        closer.join(5)
        assert not closer.is_alive()
        assert list(frames) == []


@pytest.mark.parametrize(
    ("times", "time_base", "rate"),
    [
        ([0, 40, 100, 180, 200, 300], Fraction(1, 600), Fraction(15)),
        ([1001 * n for n in range(8)], Fraction(1, 30_000), Fraction(30_000, 1001)),
        ([77 + 512 * n for n in range(8)], Fraction(1, 12_800), Fraction(25)),
    ],
    ids=["variable", "ntsc", "late-start"],
)
def test_times_are_exact(make_clip: MakeClip, times: list[int], time_base: Fraction, rate: Fraction) -> None:
    scale = str(time_base.denominator)
    path = make_clip(
        times=times,
        time_base=time_base,
        rate=rate,
        container_options={"video_track_timescale": scale, "movie_timescale": scale},
    )
    with VideoFile(path) as source:
        assert [frame.pts for frame in source] == [t * time_base for t in times]


@pytest.mark.parametrize("decoder", [None, "h264"])
@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotated_clips_come_upright(make_clip: MakeClip, degrees: int, decoder: str | None) -> None:
    def corner(number: int, height: int, width: int) -> np.ndarray:
        picture = np.full((height, width, 3), 30, np.uint8)
        picture[: height // 2, : width // 2] = 220  # top left in the coded picture
        return picture

    path = make_clip(draw=corner, prepare=lambda stream: stream.set_display_rotation(degrees))
    with VideoFile(path, decoder=decoder) as source:
        info = source.info
        frame, *others = source
    assert [frame.pts, *(f.pts for f in others)] == [Fraction(n, 25) for n in range(12)]
    assert info.rotation == degrees
    assert (info.width, info.height) == ((48, 64) if degrees in (90, 270) else (64, 48))
    expected = np.rot90(corner(0, 48, 64), degrees // 90)
    assert np.abs(frame.data.astype(int) - expected).mean() < 4  # H.264's own loss


def test_it_may_be_iterated_once(make_clip: MakeClip) -> None:
    with VideoFile(make_clip()) as source:
        list(source)
        with pytest.raises(ValueError, match="once"):
            next(iter(source))


def test_damaged_packets_are_left_out_and_counted(make_clip: MakeClip, tmp_path: Path) -> None:
    whole = make_clip(times=[512 * n for n in range(50)], options={"g": "5", "bf": "0"})
    data = bytearray(whole.read_bytes())
    middle = data.index(b"mdat") + (len(data) - data.index(b"mdat")) // 3
    rng = np.random.default_rng(1)
    data[middle : middle + 400] = rng.integers(0, 256, 400, np.uint8).tobytes()
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(data)
    with VideoFile(broken) as source:
        frames = list(source)
    assert 25 <= len(frames) <= 50
    assert [f.pts for f in frames] == sorted({f.pts for f in frames})


def _not_a_video(tmp_path: Path) -> Path:
    path = tmp_path / "notes.mp4"
    path.write_text("nothing to see here\n" * 50)
    return path


def _sound_only(tmp_path: Path) -> Path:
    path = tmp_path / "sound.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    return path


def _empty(tmp_path: Path) -> Path:
    path = tmp_path / "empty.mp4"
    path.touch()
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "missing.mp4", "must exist"),
        (lambda folder: folder, "must be a file"),
        (_not_a_video, "not a video"),
        (_empty, "not a video"),
        (_sound_only, "must have a video stream"),
    ],
    ids=["missing", "folder", "text", "empty", "sound-only"],
)
def test_unusable_inputs_are_named(tmp_path: Path, make: Callable[[Path], Path], message: str) -> None:
    with pytest.raises(SourceError, match=message):
        VideoFile(make(tmp_path))


@pytest.mark.parametrize("url", ["nonsense://anna:secret@camera/x?key=abc", "rtmp://anna:secret@127.0.0.1:1/x?key=abc"])
def test_an_address_is_named_without_its_password(url: str) -> None:
    with pytest.raises(SourceError) as failure:
        open_input(url)
    assert "://" in str(failure.value)
    assert not any(word in str(failure.value) for word in ("anna", "secret", "abc"))


def test_an_address_without_a_film_is_named_without_its_key(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        sound = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        silence = av.AudioFrame(format="s16", layout="mono", samples=800)
        silence.sample_rate = 8000
        container.mux(sound.encode(silence))
    (tmp_path / "sound.wav").rename(tmp_path / "sound.wav?key=abc")
    with pytest.raises(SourceError, match=r"sound\.wav must have a video stream"):
        VideoFile((tmp_path / "sound.wav").as_uri() + "?key=abc")
