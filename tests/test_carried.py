"""Carried and frozen statistics: what changes slowly, what does not change at all, films cut or resumed anywhere."""

from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from impasto.export.artifact import Artifact
from impasto.realtime.engine_carried import EVERY, RUN_UP, CarriedEngine, load_carried_engine
from impasto.realtime.engine_statistics import load_statistics_engine
from impasto.realtime.errors import EngineError
from impasto.realtime.frame import Frame
from impasto.realtime.live_engine import LIVE_EVERY, LIVE_SETTLE_FRAMES, LiveEngines
from impasto.realtime.look import FilmStylizer, plain_look
from impasto.realtime.options import VideoOptions
from impasto.realtime.pipeline import Progress
from impasto.realtime.source_file import VideoFile
from impasto.realtime.video import stylize_video
from impasto.realtime.video_engines import Engines
from impasto.realtime.video_job import open_job

LIBRARY = "onnxruntime"


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    pytest.importorskip(LIBRARY, reason="carried statistics need an engine")


def room(brightness: float, *, height: int = 64, width: int = 96, card: int = 0) -> np.ndarray:
    """(H, W, 3) uint8: waves, and a bright card over `card` columns at the right. Never a cut from one to another."""
    y, x = np.mgrid[0:height, 0:width] / 9.0
    waves = np.stack([np.sin(y + 0.4 * c) + np.cos(1.3 * x - c) for c in range(3)], -1)
    picture = np.clip((110 + 40 * waves) * brightness, 0, 255).astype(np.uint8)
    if card:
        picture[:, -card:] = picture[:, -card:] // 4 + 190
    return picture


@pytest.fixture
def carry(small_artifact: Artifact) -> Iterator[Callable[..., CarriedEngine]]:
    opened: list[CarriedEngine] = []

    def make(**options: object) -> CarriedEngine:
        measurable = load_statistics_engine(small_artifact, device="cpu", precision="fp32", library=LIBRARY)
        opened.append(CarriedEngine(measurable, **options))  # type: ignore[arg-type]
        return opened[-1]

    yield make
    for engine in opened:
        engine.close()


def film_of(engine: CarriedEngine, **options: float) -> FilmStylizer:
    return FilmStylizer({"a": engine}, plain_look("a", 1.0), **options)  # type: ignore[arg-type]


def largest(one: np.ndarray, other: np.ndarray) -> int:
    return int(np.abs(one.astype(int) - other.astype(int)).max())


def test_the_first_frame_is_painted_with_its_own_statistics(
    carry: Callable[..., CarriedEngine], small_artifact: Artifact
) -> None:
    frame = room(1.0)[np.newaxis]
    plain = load_statistics_engine(small_artifact, device="cpu", precision="fp32", library=LIBRARY)
    own, _ = plain.measure(frame)
    plain.close()
    assert own.std() > 20
    assert largest(carry()(frame), own) <= 1


def test_a_change_comes_through_slowly_and_wholly(carry: Callable[..., CarriedEngine]) -> None:
    carried, own = carry(memory_frames=8, every=2), carry()
    dark, bright = room(0.6)[np.newaxis], room(1.0)[np.newaxis]
    wanted = own(bright).astype(float)
    for _ in range(4):
        carried(dark)
    away = [float(np.abs(carried(bright) - wanted).mean()) for _ in range(60)]
    assert away[0] > 5
    assert all(later <= earlier + 0.2 for earlier, later in pairwise(away)), "no overshooting"
    assert max(earlier - later for earlier, later in pairwise(away)) < 0.3 * away[0], "no step"
    assert away[-1] < 0.5


def test_a_cut_and_a_reset_begin_anew(carry: Callable[..., CarriedEngine]) -> None:
    rng = np.random.default_rng(0)
    here = room(1.0, height=120, width=160)[np.newaxis]
    there = here.copy()
    there[...] = np.kron(rng.integers(0, 256, (6, 8, 3)), np.ones((20, 20, 1)))  # nothing in common
    for begin in (lambda engine: None, lambda engine: engine.reset()):
        carried, own = carry(), carry()
        for _ in range(3):
            carried(here)
        begin(carried)
        assert largest(carried(there), own(there)) == 0


def test_frozen_statistics_never_move(carry: Callable[..., CarriedEngine]) -> None:
    """What nothing touches stays the same to the bit when a card slides in, and does not without freezing."""
    frozen, own = carry(frozen=True), carry(every=1, memory_frames=0.01)
    untouched = np.s_[:, :, :40]
    reference = frozen(room(1.0)[np.newaxis])[untouched], own(room(1.0)[np.newaxis])[untouched]
    for card in (10, 20, 30):
        frame = room(1.0, card=card)[np.newaxis]
        assert np.array_equal(frozen(frame)[untouched], reference[0])
        later = own(frame)
    assert largest(later[untouched], reference[1]) > 5


def test_frozen_to_the_mean_of_a_film(carry: Callable[..., CarriedEngine]) -> None:
    dark, bright = room(0.6), room(1.0)
    frozen, carried = carry(frozen=True), carry()
    frozen.freeze([dark, bright])
    carried.freeze([dark, bright])  # for those that are not frozen it means nothing
    middle = [frozen(picture[np.newaxis]) for picture in (dark, bright)]
    assert middle[0].mean() < middle[1].mean()
    frozen.reset()
    frozen.freeze([dark])
    assert largest(frozen(bright[np.newaxis]), middle[1]) > 5
    assert largest(carried(dark[np.newaxis]), carry()(dark[np.newaxis])) == 0


def test_several_in_flight_are_painted_as_one_by_one(carry: Callable[..., CarriedEngine]) -> None:
    frames = [Frame(room(0.6 + 0.01 * n, card=n), Fraction(n, 25)) for n in range(40)]
    single, several = film_of(carry(), smooth=0.5), film_of(carry(in_flight=4), smooth=0.5)
    one_by_one = [single(frame).data for frame in frames]
    pending = []
    ahead = []
    for frame in frames:
        pending.append(several.submit(frame))
        if len(pending) == 4:
            ahead.append(pending.pop(0).result().data)
    ahead += [wait.result().data for wait in pending]
    assert all(np.array_equal(a, b) for a, b in zip(one_by_one, ahead, strict=True))


def test_statistics_depend_on_a_bounded_number_of_frames(carry: Callable[..., CarriedEngine]) -> None:
    """A follower that joins `RUN_UP` frames before, at a measured frame, says the same as one from the first on."""
    count = RUN_UP + 3 * EVERY
    pictures = [room(0.7 + 0.3 * np.sin(n / 30), height=16, width=24, card=n % 9) for n in range(count)]
    whole, joining = carry(), carry()
    first = 2 * EVERY
    for number, picture in enumerate(pictures):
        told = whole.follow(picture, number)
        if number >= first:
            again = joining.follow(picture, number)
        if number >= first + RUN_UP:
            assert np.array_equal(told, again), number
    assert not np.array_equal(told, carry().follow(pictures[-1], count - 1))


def test_a_style_that_enters_later_begins_with_what_it_sees(carry: Callable[..., CarriedEngine]) -> None:
    from impasto.realtime.look import Cue, Look

    engines = {"a": carry(), "b": carry()}
    stylizer = FilmStylizer(engines, Look([Cue(0.0, {"a": 1.0}), Cue(1.0, {"b": 1.0})]))
    for number in range(25):
        stylizer(Frame(room(0.5), Fraction(number, 25)))
    shown = stylizer(Frame(room(1.0), Fraction(1))).data
    assert largest(shown, film_of(carry())(Frame(room(1.0), Fraction(0))).data) == 0


@pytest.mark.parametrize("smooth", [0.0, 0.8])
@pytest.mark.parametrize("statistics", ["carried", "frozen"])
def test_a_resumed_film_is_the_same_film(
    make_clip: Callable[..., Path], small_artifact: Artifact, tmp_path: Path, statistics: str, smooth: float
) -> None:
    clip = make_clip(times=[512 * n for n in range(60)], draw=lambda n, h, w: room(0.6 + n / 150, height=h, width=w))
    options = VideoOptions(
        style=str(small_artifact.path), normalization=statistics, smooth=smooth, library=LIBRARY, device="cpu",  # type: ignore[arg-type]
        segment_frames=10, codec="ffv1", audio=False,
    )  # fmt: skip
    stylize_video(clip, tmp_path / "straight.mkv", options=options)
    stylize_video(clip, tmp_path / "own.mkv", options=options, normalization="frame")

    def stop(progress: Progress) -> None:
        if progress.frames_out == 35:
            job.stop()

    with Engines(options) as engines, open_job(clip, tmp_path / "out.mkv", options, engines, on_progress=stop) as job:
        assert job.run().stopped
    stylize_video(clip, tmp_path / "out.mkv", options=options, resume=True)
    straight, resumed, own = (frames_of(tmp_path / name) for name in ("straight.mkv", "out.mkv", "own.mkv"))
    assert len(straight) == 60
    assert all(np.array_equal(a, b) for a, b in zip(straight, resumed, strict=True))
    assert max(largest(a, b) for a, b in zip(straight, own, strict=True)) > 5, "the statistics must matter here"


def test_tiles_with_frozen_statistics_have_no_seams(
    make_clip: Callable[..., Path], small_artifact: Artifact, tmp_path: Path
) -> None:
    clip = make_clip(height=270, width=300, times=[0, 512], draw=lambda n, h, w: room(1.0, height=h, width=w, card=n))
    options = VideoOptions(
        style=str(small_artifact.path), normalization="frozen", library=LIBRARY, device="cpu", codec="ffv1", audio=False
    )
    stylize_video(clip, tmp_path / "whole.mkv", options=options, tile=0)
    stylize_video(clip, tmp_path / "tiled.mkv", options=options, tile=256)
    for whole, tiled in zip(frames_of(tmp_path / "whole.mkv"), frames_of(tmp_path / "tiled.mkv"), strict=True):
        # The statistics themselves, measured in parts, differ in their last digits.
        assert largest(whole, tiled) <= 1


def test_live_styles_freeze_once_the_camera_has_settled(
    small_artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMPASTO_CONFIG", str(tmp_path))
    engines = LiveEngines(device="cpu", precision="auto", on_choice=lambda line: None, normalization="frozen")
    engine = engines.load(small_artifact)
    try:
        dark, bright = room(0.3)[np.newaxis], room(1.0)[np.newaxis]
        engine(dark)
        early = engine(bright)
        for _ in range(LIVE_SETTLE_FRAMES + 2 * LIVE_EVERY):
            settled = engine(bright)
        assert largest(early, settled) > 5
        engine(dark)
        assert largest(engine(bright), settled) == 0
    finally:
        engine.close()


def test_an_unknown_choice_is_refused() -> None:
    with pytest.raises(ValueError, match="normalization must be one of frame, carried, frozen, got 'own'"):
        VideoOptions(normalization="own")  # type: ignore[arg-type]


def test_int8_says_that_it_cannot(small_artifact: Artifact) -> None:
    with pytest.raises(EngineError, match="precision must be one of fp32, bf16, fp16"):
        load_carried_engine(small_artifact, "carried", precision="int8")


def frames_of(path: Path) -> list[np.ndarray]:
    with VideoFile(path) as video:
        return [frame.data for frame in video]
