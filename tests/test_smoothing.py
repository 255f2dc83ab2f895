"""The smoother, where the truth is known: still, moving, cut, and not asked for."""

import threading
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from impasto.export.artifact import Artifact
from impasto.realtime import smoothing_blend
from impasto.realtime.engine import EngineInfo
from impasto.realtime.frame import Frame
from impasto.realtime.live_painter import LoadedStyle, Painter
from impasto.realtime.live_settings import LiveSettings
from impasto.realtime.look import Cue, FilmStylizer, Look
from impasto.realtime.optical_flow import FlowEstimator, followed, to_grey, warp
from impasto.realtime.options import VideoOptions
from impasto.realtime.pipeline import Progress
from impasto.realtime.smoothing import Smoother, shrink
from impasto.realtime.source_file import VideoFile
from impasto.realtime.stylizer import Stylizer
from impasto.realtime.video import stylize_video
from impasto.realtime.video_engines import Engines
from impasto.realtime.video_job import open_job


def texture(seed: int, height: int = 180, width: int = 320) -> np.ndarray:
    """(H, W, 3) uint8: soft coloured noise, which can be followed everywhere."""
    noise = np.random.default_rng(seed).normal(0, 1, (height, width, 3))
    soft = cv2.GaussianBlur(noise, (0, 0), 3)
    return np.uint8(np.clip(128 + soft / soft.std() * 45, 0, 255))


def with_square(background: np.ndarray, left: int, top: int = 60, side: int = 60) -> np.ndarray:
    picture = background.copy()
    picture[top : top + side, left : left + side] = texture(99, side, side) // 2 + 110
    return picture


def noisy(picture: np.ndarray, seed: int, sigma: float = 3.0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, sigma, picture.shape)
    return np.clip(np.rint(picture + noise), 0, 255).astype(np.uint8)


# Flow, warping and masks


def test_warp_by_the_true_motion_is_the_identity() -> None:
    scene = texture(0, 200, 340)
    first, second = scene[10:190, 10:330], scene[7:187, 5:325]  # the scene moves by (+5, +3)
    flow = np.full((180, 320, 2), (5, 3), np.float32)
    np.testing.assert_array_equal(warp(second, flow)[:-3, :-5], first[:-3, :-5])


def test_estimated_flow_is_near_the_true_one() -> None:
    scene = texture(0, 200, 340)
    first, second = scene[10:190, 10:330], scene[7:187, 5:325]
    flow = FlowEstimator("medium")(to_grey(first), to_grey(second))
    # Not at the border, where what should match has left the picture.
    assert np.abs(flow[20:-20, 20:-20] - (5, 3)).max() < 0.25


@pytest.mark.parametrize(("height", "width"), [(16, 640), (24, 1920), (640, 16), (32, 640)])
def test_flow_is_found_in_strips(height: int, width: int) -> None:
    scene = texture(0, height, width + 3)
    first, second = (to_grey(np.ascontiguousarray(scene[:, left : left + width])) for left in (3, 0))
    estimate = FlowEstimator("quick")
    flow = estimate(first, second)
    assert np.median(np.abs(flow[:, 4:-4] - (3, 0))) < 0.5
    np.testing.assert_array_equal(estimate(first, second), flow)  # nothing stays behind in it


def test_occlusion_mask_of_a_square_that_moves_over_a_background() -> None:
    """True motion: what the square covers next is lost, and so are its edges; the rest is followed."""
    height, width, step = 180, 320, 12
    flow, reverse = np.zeros((height, width, 2), np.float32), np.zeros((height, width, 2), np.float32)
    flow[60:120, 100:160, 0] = step
    reverse[60:120, 100 + step : 160 + step, 0] = -step
    mask = followed(flow, reverse)
    covered_next = np.s_[62:118, 162 : 160 + step - 2]
    assert not mask[covered_next].any()
    assert mask[62:118, 102:157].all(), "the inside of the square is seen in both pictures"
    elsewhere = mask.copy()
    elsewhere[56:124, 96 : 164 + step] = True
    assert elsewhere.all()


def test_mask_loses_what_leaves_the_picture() -> None:
    flow = np.full((40, 60, 2), (7, 0), np.float32)
    mask = followed(flow, -flow)
    assert mask[:, :53].all()
    assert not mask[:, 53:].any()


# The smoother


def test_zero_is_the_same_picture_bit_for_bit() -> None:
    smooth = Smoother(0.0)
    for seed in range(3):
        painted = texture(seed)
        assert smooth(texture(seed + 10), painted) is painted


def test_first_frame_is_untouched() -> None:
    painted = texture(1)
    np.testing.assert_array_equal(Smoother(1.0)(texture(0), painted), painted)


@pytest.mark.parametrize("amount", [0.5, 1.0])
def test_still_background_does_not_drift_in_500_frames(amount: float) -> None:
    """A noisy camera, a still scene and something that moves through it: the still part must stay what it was."""
    scene, painted, smooth = texture(0), texture(1), Smoother(amount)
    for number in range(500):
        content = with_square(scene, left=20 + number % 40)
        out = smooth(noisy(content, number), painted)
    far = np.ones(scene.shape[:2], bool)
    far[40:140, :140] = False  # where the square passes, and as far as its motion spills, the blend follows it
    assert np.abs(out[far].astype(int) - painted[far]).max() <= 1


def test_steady_flicker_keeps_its_mean() -> None:
    """No darkening: a painting that alternates between two levels settles between them."""
    scene, smooth = texture(0), Smoother(1.0)
    low, high = np.full_like(scene, 100), np.full_like(scene, 111)
    outs = [smooth(scene, high if number % 2 else low).astype(float) for number in range(200)]
    # All are rounded to whole levels, and 0.98 of the last picture is kept: 1/50 of the first one is still there.
    assert abs(np.mean(outs[-20:]) - 105.5) <= 0.5 + 5.5 / 50
    # E = (1 - w)² · change² for an alternating picture tends to ((1 - w) / (1 + w))² of it.
    assert np.abs(outs[-1] - outs[-2]).max() <= 1


def test_flicker_is_carried_along_with_the_motion() -> None:
    """A pan over a painting that moves with the scene and flickers: less flicker than before, no smear."""
    rng = np.random.default_rng(0)
    wide, wide_painting = texture(0, 180, 500), texture(1, 180, 500).astype(float)
    smooth, error_before, error_after = Smoother(0.7), [], []
    for number in range(30):
        view = np.s_[:, 3 * number : 3 * number + 320]
        truth = wide_painting[view]
        painted = np.uint8(np.clip(truth + rng.normal(0, 12, truth.shape), 0, 255))
        out = smooth(wide[view], painted)
        inner = np.s_[20:-20, 20:-40]  # what has been in view for long
        error_before.append(np.square(painted - truth)[inner].mean())
        error_after.append(np.square(out - truth)[inner].mean())
    assert np.mean(error_after[10:]) < 0.45 * np.mean(error_before[10:])


@pytest.mark.parametrize(("amount", "kept"), [(0.5, 0.93), (0.8, 0.83), (1.0, 0.62)])
@pytest.mark.parametrize("half_pixels", [1, 3, 5])
def test_motion_by_fractions_of_a_pixel_keeps_fine_strokes(amount: float, kept: float, half_pixels: int) -> None:
    """A painting that moves exactly with the scene: each frame samples the last between pixels, and must not smear.

    Gradient that is left after 40 frames: 0.95, 0.86 and 0.67 at the least; sampled bilinearly 0.89, 0.75 and 0.52.
    """
    smooth, scene = Smoother(amount), texture(0, 180, 500)
    fine = np.random.default_rng(1).normal(0, 1, (180, 1000, 3))
    fine = cv2.GaussianBlur(fine, (0, 0), sigmaX=2, sigmaY=1)
    painting = np.uint8(np.clip(128 + fine / fine.std() * 45, 0, 255))
    scene = cv2.resize(scene, (1000, 180), interpolation=cv2.INTER_CUBIC)
    for number in range(40):
        view = np.s_[:, half_pixels * number : half_pixels * number + 640 : 2]
        out = smooth(np.ascontiguousarray(scene[view]), painting[view])
    inner = np.s_[20:-20, 40:-60]
    left, whole = (np.abs(np.diff(picture[inner].astype(float), axis=1)).mean() for picture in (out, painting[view]))
    assert kept * whole < left < 1.01 * whole


def test_sampling_between_pixels_again_and_again_adds_nothing() -> None:
    """Sharpening that overshot would grow from frame to frame: noise that moves stays between its own extremes."""
    smooth, scene = Smoother(1.0), texture(0, 180, 1000)
    painting = np.uint8(np.random.default_rng(1).integers(0, 2, (180, 1000, 3)) * 100 + 80)
    for number in range(60):
        view = np.s_[:, 3 * number : 3 * number + 640 : 2]
        out = smooth(np.ascontiguousarray(scene[view]), painting[view])
    assert out.std() < painting.std()
    assert out.min() > 60
    assert out.max() < 200


def test_what_comes_into_view_is_painted_anew() -> None:
    """A bar uncovers a wall that looks alike all over, so some place that looks right is always found for it; only the
    way back tells that it was not there. Levels of 255: 12, without that check 30."""
    wall, painted_wall, smooth = texture(11) // 16 + 112, texture(3), Smoother(1.0)
    errors = []
    for left in range(40, 160, 10):
        content, painted = wall.copy(), painted_wall.copy()
        content[40:140, left : left + 60] = texture(7, 100, 60)
        painted[40:140, left : left + 60] = 250
        out = smooth(content, painted)
        errors.append(np.abs(out.astype(int) - painted)[44:136, left - 10 : left].mean())
    assert np.mean(errors[1:]) < 20


def test_no_ghost_behind_a_moving_square() -> None:
    """The painting is the scene itself, so every difference is a trail of the past."""
    scene, smooth = texture(0), Smoother(1.0)
    for left in range(20, 200, 9):
        content = with_square(scene, left)
        out = smooth(content, content)
    difference = np.abs(out.astype(int) - content).max(axis=2)
    assert np.mean(difference > 24) < 0.002
    behind = np.s_[64:116, left - 40 : left - 2]
    assert np.mean(difference[behind]) < 4


def test_change_of_the_input_is_shown_at_once() -> None:
    scene, smooth = texture(0), Smoother(1.0)
    for _ in range(5):
        smooth(scene, texture(1))
    lit = scene.copy()
    lit[40:140, 100:220] = np.clip(lit[40:140, 100:220].astype(int) + 70, 0, 255)
    out, painted = smooth(lit, texture(2)), texture(2)
    inside = np.s_[50:130, 110:210]
    assert np.abs(out[inside].astype(int) - painted[inside]).mean() < 3


def test_cut_resets() -> None:
    hue_a, hue_b = (cv2.applyColorMap(texture(s)[..., 0], m) for s, m in ((0, cv2.COLORMAP_WINTER), (1, 0)))
    smooth = Smoother(1.0)
    for _ in range(4):
        smooth(hue_a, texture(2))
    painted = texture(3)
    np.testing.assert_array_equal(smooth(hue_b, painted), painted)
    assert smooth.cuts == 1


def test_reset_forgets() -> None:
    smooth = Smoother(1.0)
    smooth(texture(0), texture(1))
    smooth.reset()
    painted = texture(2)
    np.testing.assert_array_equal(smooth(texture(0), painted), painted)


def test_other_size_starts_anew() -> None:
    smooth = Smoother(1.0)
    smooth(texture(0), texture(1))
    painted = texture(2, 90, 160)
    np.testing.assert_array_equal(smooth(texture(0, 90, 160), painted), painted)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 300), (17, 19), (64, 33)])
def test_any_size(height: int, width: int) -> None:
    smooth = Smoother(0.5)
    for seed in range(3):
        assert smooth(texture(seed, height, width), texture(seed, height, width)).shape == (height, width, 3)


@pytest.mark.parametrize(("height", "small_height"), [(90, 30), (90, 20), (98, 56), (97, 41)])
def test_bands_are_not_seen(height: int, small_height: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blended by and by, a picture is what it is blended in one piece, but for rounding."""
    rng = np.random.default_rng(0)
    flow = np.ascontiguousarray(cv2.resize(rng.normal(0, 4, (6, 8, 2)).astype(np.float32), (60, small_height)))
    kept = np.float32(0.9) * cv2.resize(rng.random((9, 9), dtype=np.float32), (60, small_height))
    pictures = [texture(seed, height, 160) for seed in range(4)]

    def blended(band_bytes: int) -> list[np.ndarray]:
        monkeypatch.setattr(smoothing_blend, "BAND_BYTES", band_bytes)
        blend = smoothing_blend.Blender(pictures[0])
        return [blend(picture, flow, kept) for picture in pictures[1:]]

    for whole, parts in zip(blended(1 << 30), blended(1), strict=True):
        assert np.abs(whole.astype(int) - parts).max() <= 1
        assert np.abs(whole.astype(int) - pictures[0]).mean() > 5, "something was blended"


@pytest.mark.parametrize(
    ("size", "small"),
    [((720, 1280), (240, 427)), ((1080, 1920), (270, 480)), ((1920, 1080), (480, 270)), ((200, 300), (200, 300))],
)
def test_small_copies_have_heights_that_divide_well(size: tuple[int, int], small: tuple[int, int]) -> None:
    assert shrink(np.zeros((*size, 3), np.uint8), 240).shape[:2] == small


def test_motion_is_looked_for_while_painting() -> None:
    names: list[str] = []

    def paint() -> np.ndarray:
        names.extend(thread.name for thread in threading.enumerate())
        return texture(1)

    smooth = Smoother(0.5)
    smooth(texture(0, 1080, 1920), texture(1))
    smooth.paint(texture(0, 1080, 1920), paint)
    assert "impasto-motion" in names


def test_live_drops_the_smoothing_not_the_frame() -> None:
    scene, smooth = texture(0, 720, 1280), Smoother(1.0, patience_ms=0)
    painted = [texture(seed, 720, 1280) for seed in range(3)]
    outs = [smooth(scene, picture) for picture in painted]  # painted at once: motion is always late
    smooth.reset()
    for out, picture in zip(outs, painted, strict=True):
        np.testing.assert_array_equal(out, picture)
    assert smooth.dropped >= 2


def test_error_while_painting_leaves_no_thread() -> None:
    def fail() -> np.ndarray:
        raise RuntimeError("engine broke")

    smooth = Smoother(0.5)
    with pytest.raises(RuntimeError, match="engine broke"):
        smooth.paint(texture(0), fail)
    assert not [thread for thread in threading.enumerate() if thread.name == "impasto-motion"]


@pytest.mark.parametrize("amount", [-0.1, 1.01, float("nan")])
def test_amount_out_of_range(amount: float) -> None:
    with pytest.raises(ValueError, match="smooth must be between 0 and 1"):
        Smoother(amount)


# Where it is used


class FlickeringEngine:
    """Paints every picture as it is plus noise of its own, which is what flicker is."""

    info = EngineInfo("fake", "CPU", "fp32")
    stride = 1

    def __init__(self) -> None:
        self._rng = np.random.default_rng(0)

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        return np.clip(frames + self._rng.normal(0, 12, frames.shape), 0, 255).astype(np.uint8)

    def warmup(self, height: int, width: int) -> None: ...

    def close(self) -> None: ...


def flicker(paint: Callable[[Frame], np.ndarray]) -> float:
    """Mean change of what is painted of a still scene, in levels, once settled."""
    pictures = [paint(Frame(texture(0), Fraction(n, 25))).astype(float) for n in range(12)]
    return float(np.mean([np.abs(b - a).mean() for a, b in pairwise(pictures[4:])]))


def film(smooth: float, *cues: Cue) -> FilmStylizer:
    engines = {"a": FlickeringEngine(), "b": FlickeringEngine()}
    return FilmStylizer(engines, Look(cues or [Cue(0.0, {"a": 1.0})]), smooth=smooth)


def test_stylizer_smooths() -> None:
    plain, smooth = Stylizer(FlickeringEngine()), Stylizer(FlickeringEngine(), smooth=0.8)
    assert flicker(lambda frame: smooth(frame).data) < 0.35 * flicker(lambda frame: plain(frame).data)


def test_film_smooths_blends_of_styles() -> None:
    plain, smooth = film(0.0), film(0.8, Cue(0.0, {"a": 0.5, "b": 0.5}))
    assert flicker(lambda frame: smooth(frame).data) < 0.35 * flicker(lambda frame: plain(frame).data)


class DarkEngine(FlickeringEngine):
    """Paints the picture itself, dark."""

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        return frames // 8


def test_a_cue_without_fade_is_not_softened() -> None:
    dark = DarkEngine()
    stylizer = FilmStylizer({"a": FlickeringEngine(), "b": dark}, Look([Cue(0, {"a": 1.0}), Cue(0.2, {"b": 1.0})]),
                            smooth=1.0)  # fmt: skip
    for number in range(6):
        out = stylizer(Frame(texture(0), Fraction(number, 25))).data
    np.testing.assert_array_equal(out, texture(0) // 8)


def test_live_painter_smooths() -> None:
    def painter(smoothing: float) -> Painter:
        result = Painter(size=(180, 320), settings=LiveSettings("a", smoothing=smoothing))
        result._smoother = Smoother(patience_ms=1000.0)  # a busy machine must not decide a test
        result.show(LoadedStyle("a", "fast", FlickeringEngine()))
        return result

    assert flicker(painter(0.8)) < 0.35 * flicker(painter(0.0))


def test_live_change_of_style_without_fade_is_not_softened() -> None:
    painter = Painter(size=(180, 320), settings=LiveSettings("a", smoothing=1.0, crossfade_seconds=0.0))
    painter._smoother = Smoother(patience_ms=1000.0)  # a busy machine must not decide a test
    painter.show(LoadedStyle("a", "fast", FlickeringEngine()))
    for number in range(4):
        painter(Frame(texture(0), Fraction(number, 25)))
    painter.show(LoadedStyle("b", "fast", DarkEngine()))
    np.testing.assert_array_equal(painter(Frame(texture(0), Fraction(4, 25))), texture(0) // 8)


def test_switching_smoothing_off_live_is_bit_identical_at_once() -> None:
    painter = Painter(size=(180, 320), settings=LiveSettings("a", smoothing=1.0))
    painter._smoother = Smoother(patience_ms=1000.0)
    painter.show(LoadedStyle("a", "fast", DarkEngine()))
    for number in range(4):
        painter(Frame(noisy(texture(0), number), Fraction(number, 25)))
    painter.settings = LiveSettings("a", smoothing=0.0)
    content = noisy(texture(0), 4)
    np.testing.assert_array_equal(painter(Frame(content, Fraction(4, 25))), content // 8)


def test_smoothing_off_writes_the_same_file(
    make_clip: Callable[..., Path], tmp_path: Path, identity_artifact: Artifact
) -> None:
    clip = make_clip(times=[512 * n for n in range(12)], draw=lambda n, h, w: noisy(texture(0, h, w), n, sigma=10))
    options = VideoOptions(style=str(identity_artifact.path), codec="ffv1", audio=False)
    for name, smooth in (("off", {}), ("zero", {"smooth": 0.0}), ("on", {"smooth": 0.5})):
        stylize_video(clip, tmp_path / f"{name}.mkv", options=options, **smooth)
    off, zero, on = (frames_of(tmp_path / f"{name}.mkv") for name in ("off", "zero", "on"))
    for a, b in zip(off, zero, strict=True):
        np.testing.assert_array_equal(a.data, b.data)
    assert any((a.data != b.data).any() for a, b in zip(off, on, strict=True)), "the clip has something to smooth"


def test_resumed_job_goes_on_smoothly(
    make_clip: Callable[..., Path], tmp_path: Path, identity_artifact: Artifact
) -> None:
    """A run in two parts shows what one run shows: the second paints a little of the first again to remember it."""
    clip = make_clip(times=[512 * n for n in range(60)], draw=lambda n, h, w: noisy(texture(0, h, w), n, sigma=10))
    options = VideoOptions(style=str(identity_artifact.path), segment_frames=10, smooth=0.9, codec="ffv1", audio=False)
    stylize_video(clip, tmp_path / "straight.mkv", options=options)
    stylize_video(clip, tmp_path / "plain.mkv", options=options, smooth=0.0)

    def stop(progress: Progress) -> None:
        if progress.frames_out == 25:
            job.stop()

    with Engines(options) as engines, open_job(clip, tmp_path / "out.mkv", options, engines, on_progress=stop) as job:
        assert job.run().stopped
    stylize_video(clip, tmp_path / "out.mkv", options=options, resume=True)
    straight, resumed, plain = (frames_of(tmp_path / name) for name in ("straight.mkv", "out.mkv", "plain.mkv"))
    assert [frame.pts for frame in straight] == [frame.pts for frame in resumed]
    for a, b in zip(straight, resumed, strict=True):
        assert np.abs(a.data.astype(int) - b.data).max() <= 2
    # The frame at which the second run began shows that this could fail: by itself it is far from the smooth one.
    assert np.abs(straight[20].data.astype(int) - plain[20].data).max() > 5


def frames_of(path: Path) -> list[Frame]:
    with VideoFile(path) as video:
        return list(video)
