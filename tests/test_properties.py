"""Properties that hold whatever the numbers are: sizes, rates, pixel formats, timelines, options.

Derandomised, so that a failure in one run is a failure in all; `--hypothesis-seed` and a larger `max_examples` look
further.
"""

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from impasto.export.artifact import Artifact
from impasto.realtime.errors import ArtifactError, ImpastoError
from impasto.realtime.frame import Frame, StreamInfo
from impasto.realtime.frame_rate import at_frame_rate, part
from impasto.realtime.live_settings import LiveSettings
from impasto.realtime.look import Cue, Look, load_timeline, parse_blend
from impasto.realtime.options import VideoOptions, parse_fps, parse_time
from impasto.realtime.size import MAX_SIDE, MIN_SIDE, parse_size
from impasto.realtime.stylizer import pad, padded_size, submit_picture
from impasto.realtime.tiles import MIN_TILE, ONE_PIECE_PIXELS, tile_for
from impasto.realtime.verify import verify
from impasto.realtime.video import stylize_video

quick = settings(max_examples=80, derandomize=True, deadline=None, database=None)
slow = settings(
    max_examples=20, derandomize=True, deadline=None, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip

sides = st.integers(1, 70)
seconds = st.fractions(0, 10, max_denominator=1000)
rates = st.sampled_from([Fraction(24_000, 1001), Fraction(25), Fraction(30_000, 1001), Fraction(60), Fraction(1, 2),
                         Fraction(15), Fraction(120), Fraction(1000, 33)])  # fmt: skip


class Same:
    """An engine that gives every picture back."""

    in_flight = 1

    def __init__(self, stride: int) -> None:
        self.stride = stride

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        assert frames.shape[1] % self.stride == frames.shape[2] % self.stride == 0
        return frames.copy()


# Sizes


@quick
@given(height=sides, width=sides, stride=st.sampled_from([1, 2, 4, 8, 16]), seed=st.integers(0, 5))
def test_any_picture_comes_back_whole(height: int, width: int, stride: int, seed: int) -> None:
    picture = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    assert pad(picture, stride).shape[:2] == padded_size(height, width, stride)
    assert np.array_equal(submit_picture(Same(stride), picture)(), picture)


@quick
@given(
    text=st.one_of(
        st.integers(0, 20_000).map(lambda n: f"{n}p"),
        st.tuples(st.integers(0, 20_000), st.integers(0, 20_000)).map(lambda wh: f"{wh[0]}x{wh[1]}"),
        st.floats(0, 20).map(lambda f: f"{f:.3f}x"),
        st.text(max_size=12),
    ),
    height=st.integers(1, 10_000), width=st.integers(1, 10_000),
)  # fmt: skip
def test_a_size_is_even_and_sane_or_an_error(text: str, height: int, width: int) -> None:
    try:
        got = parse_size(text, height, width)
    except ValueError as exc:
        assert "size must" in str(exc)
        return
    assert all(side % 2 == 0 and MIN_SIDE <= side <= MAX_SIDE for side in got)


@quick
@given(height=st.integers(2, 9000), width=st.integers(2, 9000), wanted=st.none() | st.integers(0, 9000))
def test_a_tile_is_the_users_or_for_large_frames_alone(height: int, width: int, wanted: int | None) -> None:
    tile = tile_for(height, width, wanted)
    if wanted is not None:
        assert tile == (wanted or None)
    elif tile is None:
        assert height * width <= ONE_PIECE_PIXELS
    else:
        assert MIN_TILE <= tile < max(height, width)


# Times


@quick
@given(hours=st.integers(0, 99), minutes=st.integers(0, 59), rest=st.decimals(0, 59, places=3))
def test_times_are_what_they_say(hours: int, minutes: int, rest: object) -> None:
    assert parse_time(f"{hours}:{minutes:02}:{rest}") == 3600 * hours + 60 * minutes + Fraction(str(rest))


@quick
@given(st.text("0123456789:./-e+ x", max_size=12))
def test_a_time_or_rate_is_a_number_or_an_error(text: str) -> None:
    for parse, least in ((parse_time, 0), (parse_fps, None)):
        try:
            value = parse(text)
        except ValueError as exc:
            assert "must be" in str(exc)
        else:
            assert least is None or value >= least


class Listed:
    """A source of frames that are there already; each shows its number."""

    def __init__(self, times: list[Fraction], rate: Fraction) -> None:
        self.info = StreamInfo(1, 1, rate, duration=times[-1] - times[0])
        self._times = times

    def __iter__(self):
        for number, pts in enumerate(self._times):
            yield Frame(np.full((1, 1, 3), number, np.uint8), pts)

    def close(self) -> None: ...


@quick
@given(times=st.lists(seconds, min_size=1, max_size=30, unique=True).map(sorted), rate=rates, wanted=rates)
def test_another_rate_shows_at_each_tick_what_is_shown_then(
    times: list[Fraction], rate: Fraction, wanted: Fraction
) -> None:
    frames = list(at_frame_rate(Listed(times, rate), wanted))
    ticks = [frame.pts * wanted for frame in frames]
    assert all(tick.denominator == 1 for tick in ticks)
    assert ticks == [ticks[0] + n for n in range(len(ticks))] if ticks else True
    for frame in frames:
        assert frame.data[0, 0, 0] == max(n for n, pts in enumerate(times) if pts <= frame.pts)
    if times[-1] - times[0] > 1 / wanted:
        assert frames


@quick
@given(
    times=st.lists(seconds, min_size=1, max_size=30, unique=True).map(sorted), rate=rates,
    start=st.none() | seconds, length=st.none() | st.fractions(Fraction(1, 100), 5, max_denominator=100),
)  # fmt: skip
def test_a_part_is_every_frame_between_two_times(
    times: list[Fraction], rate: Fraction, start: Fraction | None, length: Fraction | None
) -> None:
    end = None if length is None else (start or 0) + length
    shown = [int(frame.data[0, 0, 0]) for frame in part(Listed(times, rate), start, end)]
    assert shown == [n for n, pts in enumerate(times) if (start or 0) <= pts and (end is None or pts < end)]


# Looks

names = st.sampled_from(["mosaic", "udnie", "woodcut"])
mixes = st.dictionaries(names, st.floats(0.1, 5), min_size=1).map(
    lambda shares: {name: share / sum(shares.values()) for name, share in shares.items()}
)
cue_lists = st.lists(
    st.tuples(st.floats(0, 10), mixes, st.floats(0, 20)), min_size=1, max_size=40
).map(lambda cues: [Cue(at, mix, fade) for at, mix, fade in sorted(cues, key=lambda cue: cue[0])])  # fmt: skip


@quick
@given(cues=cue_lists, when=st.floats(0, 40))
def test_shares_are_always_a_mix(cues: list[Cue], when: float) -> None:
    """Also where forty fades overlap, which is answered at once."""
    mix = Look(cues).mix(when)
    assert all(0 < share <= 1 + 1e-9 for share in mix.values())
    # Each cue's shares add up to 1, so every fade between them does; what is dropped is below half a step of 8 bits.
    assert 1 - 3 / 512 <= sum(mix.values()) <= 1 + 1e-9


@quick
@given(cues=cue_lists)
def test_a_fade_begins_where_the_film_was(cues: list[Cue]) -> None:
    assume(len({cue.at for cue in cues}) == len(cues) > 1)
    last = cues[-1]
    assume(last.fade > 0.01)
    before, at = Look(cues[:-1]).mix(last.at), Look(cues).mix(last.at)
    assert all(abs(before.get(name, 0) - at.get(name, 0)) < 1e-6 for name in {*before, *at})
    assert Look(cues).mix(last.at + last.fade + 1) == pytest.approx(
        {name: share for name, share in last.mix.items() if share >= 1 / 512}
    )


@quick
@given(st.dictionaries(names, st.floats(0.001, 1000), min_size=1))
def test_a_blend_reads_as_it_is_written(shares: dict[str, float]) -> None:
    blend = parse_blend(",".join(f"{name}:{share!r}" for name, share in shares.items()))
    total = sum(shares.values())
    assert blend == pytest.approx({name: share / total for name, share in shares.items()})


@quick
@given(st.text(max_size=40))
def test_any_text_is_a_blend_or_an_error(text: str) -> None:
    try:
        assert sum(parse_blend(text).values()) == pytest.approx(1)
    except ValueError as exc:
        assert "style must be" in str(exc)


toml_values = st.one_of(st.integers(), st.floats(), st.booleans(), st.text(max_size=8)).map(json.dumps)


@slow
@given(
    cues=st.lists(st.dictionaries(st.sampled_from(["at", "style", "strength", "fade", "x"]), toml_values), max_size=4)
)
def test_any_timeline_is_read_or_refused_in_one_line(cues: list[dict[str, str]], tmp_path: Path) -> None:
    path = tmp_path / "cues.toml"
    tables = ("[[cue]]\n" + "".join(f"{key} = {value}\n" for key, value in cue.items()) for cue in cues)
    path.write_text("".join(tables), encoding="utf-8")
    try:
        look = load_timeline(path, style="mosaic", strength=1.0)
    except ArtifactError as exc:
        assert len(str(exc).splitlines()) == 1
    else:
        assert len(look.cues) == len(cues) + 1


# Options

anything = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.lists(st.integers()))


@quick
@given(
    strength=st.floats(), smooth=st.floats(), segment_frames=st.integers(-5, 5), fps=st.none() | st.fractions(),
    start=st.none() | st.fractions(), end=st.none() | st.fractions(),
)  # fmt: skip
def test_options_are_in_range_or_refused(**options: object) -> None:
    try:
        made = VideoOptions(**options)  # type: ignore[arg-type]
    except ValueError as exc:
        assert "must be" in str(exc)
        return
    assert 0 <= made.strength <= 1
    assert 0 <= made.smooth <= 1
    assert made.segment_length >= 1
    assert made.fps is None or 0 < made.fps <= 1000
    assert made.end is None or made.end > (made.start or 0) >= 0


fields = st.sampled_from([*LiveSettings.__dataclass_fields__, "nonsense"])


@quick
@given(st.dictionaries(fields, anything))
def test_live_settings_take_what_fits_and_refuse_the_rest(changes: dict[str, object]) -> None:
    """What the panel's interface hands on is a stranger's JSON."""
    try:
        changed = LiveSettings("mosaic").changed(changes)
    except ValueError as exc:
        assert "must be" in str(exc)
        return
    assert 0 <= changed.strength <= 1
    assert changed.mirror in (True, False)
    assert isinstance(changed.style, str)


# Whole films

FORMATS = {
    ("libx264", ".mp4"): ["yuv420p", "yuv422p", "yuv444p", "yuvj420p", "gray", "nv12", "yuv420p10le"],
    ("ffv1", ".mkv"): ["yuv420p", "yuv411p", "yuv440p", "bgr0", "yuv444p16le", "gray10le", "yuva420p"],
    ("mjpeg", ".avi"): ["yuvj420p", "yuvj444p"],
    ("libvpx-vp9", ".webm"): ["yuv420p", "yuv444p", "gbrp"],
}


@st.composite
def films(draw: st.DrawFn) -> dict[str, object]:
    """Arguments of `make_clip`."""
    codec, suffix = draw(st.sampled_from(list(FORMATS)))
    pixel_format = draw(st.sampled_from(FORMATS[codec, suffix]))
    even = 2 if pixel_format.startswith(("yuv42", "yuvj42", "nv12", "yuva")) or codec != "ffv1" else 1
    height, width = (even * draw(st.integers(16 // even, 80 // even)) for _ in range(2))
    rate = draw(st.sampled_from([Fraction(25), Fraction(30_000, 1001), Fraction(15), Fraction(50)]))
    time_base = 1 / rate if suffix == ".avi" else Fraction(1, 1000) if suffix in (".mkv", ".webm") else 1 / (rate * 512)
    step = 1 if suffix == ".avi" else round(1 / (rate * time_base))
    # Variable rates where the container has them.
    steps = draw(st.lists(st.sampled_from([step, step, 2 * step, 3 * step]), min_size=1, max_size=12))
    times = [0]
    for gap in steps:
        times.append(times[-1] + (step if suffix == ".avi" else gap))
    return {
        "name": f"film{suffix}", "codec": codec, "pixel_format": pixel_format, "height": height, "width": width,
        "times": times, "time_base": time_base, "rate": rate,
        "sound": suffix in (".mp4", ".mkv") and draw(st.booleans()),
        "options": {"crf": "0", "lossless": "1", "cpu-used": "8"} if codec == "libvpx-vp9" else {},
    }  # fmt: skip


@slow
@given(film=films())
def test_any_film_keeps_its_frames_times_and_sound(
    film: dict[str, object], make_clip: Callable[..., Path], identity_artifact: Artifact, plain_engine: object,
    tmp_path: Path,
) -> None:  # fmt: skip
    clip = make_clip(**film)
    target = tmp_path / f"out{'.mkv' if film['name'] != 'film.mp4' else '.mp4'}"
    report = stylize_video(clip, target, style=identity_artifact.path, overwrite=True)
    assert report.frames_out == len(film["times"])  # type: ignore[arg-type]
    assert verify(clip, target) == []


@slow
@given(film=films(), cut=st.integers(0, 2000), fill=st.integers(0, 255))
def test_a_damaged_film_is_painted_or_refused_never_a_crash(
    film: dict[str, object], cut: int, fill: int, make_clip: Callable[..., Path], identity_artifact: Artifact,
    plain_engine: object, tmp_path: Path,
) -> None:  # fmt: skip
    data = bytearray(make_clip(**film).read_bytes())
    at = cut * len(data) // 2000
    data[at : at + 40] = bytes([fill]) * len(data[at : at + 40])
    clip = tmp_path / f"damaged-{film['name']}"
    clip.write_bytes(data)
    try:
        report = stylize_video(clip, tmp_path / "out.mkv", style=identity_artifact.path, overwrite=True)
    except ImpastoError as exc:
        assert str(exc).strip()
        assert not list(tmp_path.glob(".out.mkv*part*"))
    else:
        assert 0 < report.frames_out <= len(film["times"]) + 2  # type: ignore[arg-type]
