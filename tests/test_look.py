"""Looks: blends, strength, timelines with cross-fades, and that smoothing does not depend on where a film is cut."""

import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from impasto.export.artifact import Artifact
from impasto.realtime.engine import EngineInfo
from impasto.realtime.errors import ArtifactError
from impasto.realtime.frame import Frame
from impasto.realtime.look import AtSegments, FilmStylizer, load_timeline, parse_blend, plain_look, run_up_of
from impasto.realtime.options import parse_fps, parse_time
from impasto.realtime.source_file import VideoFile
from impasto.realtime.video import stylize_video, stylized_frames

MakeClip = Callable[..., Path]

pytestmark = pytest.mark.usefixtures("plain_engine")


class Flat:
    """Paints everything in one grey."""

    info = EngineInfo("fake", "CPU", "fp32")
    stride = 4

    def __init__(self, grey: int) -> None:
        self.grey = grey

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        return np.full_like(frames, self.grey)

    def warmup(self, height: int, width: int) -> None: ...

    def close(self) -> None: ...


def grey_of(stylizer: FilmStylizer, seconds: float, below: int = 0) -> float:
    frame = Frame(np.full((8, 8, 3), below, np.uint8), Fraction(seconds))
    painted = stylizer(frame).data
    assert painted.min() == painted.max()
    assert np.array_equal(painted, stylizer.submit(frame).result().data)
    return float(painted[0, 0, 0])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mosaic", {"mosaic": 1.0}),
        ("a:0.7,b:0.3", {"a": 0.7, "b": 0.3}),
        ("a:2,b:6", {"a": 0.25, "b": 0.75}),
        ("a,b", {"a": 0.5, "b": 0.5}),
        ("C:/styles/x.onnx", {"C:/styles/x.onnx": 1.0}),
    ],
)
def test_blends_are_parsed(text: str, expected: dict[str, float]) -> None:
    assert parse_blend(text) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["", "a,,b", "a:0,b:1", "a:-1", "a,a", "a:nan", "a:inf"])
def test_impossible_blends_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="style must be"):
        parse_blend(text)


def test_a_blend_mixes_the_paintings_and_strength_lets_the_video_through() -> None:
    engines = {"a": Flat(100), "b": Flat(200)}
    assert grey_of(FilmStylizer(engines, plain_look("a:0.75,b:0.25", 1.0)), 0) == 125
    assert grey_of(FilmStylizer(engines, plain_look("a:0.75,b:0.25", 0.5)), 0, below=25) == 75
    assert grey_of(FilmStylizer(engines, plain_look("a", 0.0)), 0, below=33) == 33


def test_a_timeline_changes_style_and_strength_with_cross_fades(tmp_path: Path) -> None:
    path = tmp_path / "film.toml"
    path.write_text(
        """
        [[cue]]
        at = "0:05"
        style = "b"
        fade = 2
        [[cue]]
        at = 10
        strength = 0.5
        [[cue]]
        at = "0:12.5"
        style = "a:0.5,b:0.5"
        strength = 1
        """
    )
    look = load_timeline(path, style="a", strength=1.0)
    assert look.styles == ["a", "b"]
    stylizer = FilmStylizer({"a": Flat(100), "b": Flat(200)}, look)
    expected = {0: 100, 4.99: 100, 5: 100, 5.5: 125, 6: 150, 7: 200, 9.9: 200, 10: 100, 12: 100, 12.5: 150, 99: 150}
    assert {t: grey_of(stylizer, t) for t in expected} == expected


def test_a_fade_that_is_cut_short_goes_on_from_what_was_seen(tmp_path: Path) -> None:
    path = tmp_path / "film.toml"
    path.write_text('cue = [{at = 0, style = "b", fade = 10}, {at = 5, style = "a", fade = 5}]')
    stylizer = FilmStylizer({"a": Flat(100), "b": Flat(200)}, load_timeline(path, style="a", strength=1.0))
    assert [grey_of(stylizer, t) for t in (0, 2.5, 5, 7.5, 10)] == [100, 125, 150, 125, 100]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("cue = 3", "at least one .*got 3"),
        ("cue = ['a']", "at least one"),
        ("", "at least one"),
        ("[[cues]]\nat = 5", "nothing else, got cues"),
        ("fade = 1\n[[cue]]\nat = 5", "nothing else, got fade"),
        ("[cue]\nat = 5", r"a single table \[cue\]"),
        ("[[cue]]\nstyle = 'a'", "time"),
        ("[[cue]]\nat = 5\n[[cue]]\nat = 4", "order"),
        ("[[cue]]\nat = 5\nstrength = 2", "strength"),
        ("[[cue]]\nat = 5\ncolour = 2", "colour"),
        ("[[cue]]\nat = 'soon'", "a time must be"),
        ("[[cue", "TOML"),
    ],
)
def test_impossible_timelines_are_named(tmp_path: Path, text: str, word: str) -> None:
    path = tmp_path / "film.toml"
    path.write_text(text)
    with pytest.raises(ArtifactError, match=word):
        load_timeline(path, style="a", strength=1.0)


def test_a_missing_timeline_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"readable file, got .*none\.toml: No such file or directory$"):
        load_timeline(tmp_path / "none.toml", style="a", strength=1.0)


@pytest.mark.parametrize(
    ("text", "seconds"), [("75", 75), ("1:15", 75), ("1:02:03.5", Fraction(7447, 2)), ("0.04", Fraction(1, 25))]
)
def test_times_are_exact(text: str, seconds: Fraction) -> None:
    assert parse_time(text) == seconds


@pytest.mark.parametrize("text", ["", "a", "1:2:3:4", "-1", "1/3", "1:-5"])
def test_impossible_times_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a time must be"):
        parse_time(text)


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("24", Fraction(24)),
        ("23.976", Fraction(2997, 125)),
        ("23.976023976023978", Fraction(24_000, 1001)),
        ("29.97002997", Fraction(30_000, 1001)),
        ("30000/1001", Fraction(30_000, 1001)),
    ],
)
def test_rates_are_those_that_were_meant(text: str, rate: Fraction) -> None:
    assert parse_fps(text) == rate


def test_a_timeline_on_a_real_file(make_clip: MakeClip, identity_artifact: Artifact, tmp_path: Path) -> None:
    path = tmp_path / "film.toml"
    path.write_text("[[cue]]\nat = 0.2\nstrength = 0\n")
    report = stylize_video(make_clip(), tmp_path / "out.mp4", style=identity_artifact.path, timeline=path)
    assert report.frames_out == 12


def test_smoothing_is_the_same_wherever_the_film_is_resumed(make_clip: MakeClip) -> None:
    def noisy(number: int, height: int, width: int) -> np.ndarray:
        return np.random.default_rng(number).integers(90, 150, (height, width, 3)).astype(np.uint8)

    class Shift(Flat):
        def __call__(self, frames: np.ndarray) -> np.ndarray:
            return 255 - frames

    run_up = run_up_of(0.5, 48 * 64)
    assert run_up_of(1.0, 3840 * 2160) < run_up_of(1.0, 1280 * 720), "memory has an end"
    with VideoFile(make_clip(draw=noisy, times=[512 * n for n in range(40)])) as source:
        frames = list(source)

    def paint(first: int) -> list[np.ndarray]:
        stylizer = FilmStylizer({"a": Shift(0)}, plain_look("a", 1.0), smooth=0.5)
        before = frames[max(0, first - run_up) : first]
        step = AtSegments(stylizer, every=10, run_up=run_up, before=before)
        return [step(frame).data for frame in frames[first:]]

    whole = paint(0)
    for first in (10, 20, 30):
        for a, b in zip(whole[first:], paint(first), strict=True):
            np.testing.assert_array_equal(a, b)
    plain = [FilmStylizer({"a": Shift(0)}, plain_look("a", 1.0))(frame).data for frame in frames]
    assert any(not np.array_equal(a, b) for a, b in zip(whole, plain, strict=True))  # it did smooth


def test_the_painted_frames_as_a_generator(make_clip: MakeClip, identity_artifact: Artifact) -> None:
    clip = make_clip()
    painted = list(stylized_frames(clip, style=identity_artifact.path))
    with VideoFile(clip) as source:
        for a, b in zip(source, painted, strict=True):
            assert a.pts == b.pts
            np.testing.assert_array_equal(a.data, b.data)


def test_half_a_generator_leaves_nothing_open(make_clip: MakeClip, identity_artifact: Artifact) -> None:
    clip = make_clip()
    frames = stylized_frames(clip, style=identity_artifact.path)
    next(frames)
    assert is_open(clip)
    frames.close()
    assert not is_open(clip)


def is_open(path: Path) -> bool:
    """Whether this process holds the file open."""
    opened = Path("/proc/self/fd")
    if not opened.is_dir():
        pytest.skip("only Linux says which files are open")
    return any(os.path.realpath(link) == str(path.resolve()) for link in opened.iterdir())
