"""The measure of flicker against films whose flicker is known."""

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from impasto.export.artifact import Artifact
from impasto.realtime.cli_stability import app
from impasto.realtime.errors import SourceError
from impasto.realtime.frame import Frame
from impasto.realtime.stability import (
    Contestant,
    NaiveAverage,
    PictureFolder,
    mean_error,
    measure,
    true_motion_from,
    warping_error,
)

run = CliRunner()


def scene(seed: int = 0, height: int = 120, width: int = 320) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 1, (height, width, 3))
    soft = cv2.GaussianBlur(noise, (0, 0), 3)
    return np.uint8(np.clip(128 + soft / soft.std() * 40, 0, 255))


def pan(count: int, step: int = 2) -> list[Frame]:
    wide = scene()
    return [Frame(wide[:, step * n : step * n + 200].copy(), Fraction(n, 25)) for n in range(count)]


def flickering(sigma: float) -> Callable[[Frame], np.ndarray]:
    rng = np.random.default_rng(1)
    return lambda frame: np.clip(np.rint(frame.data + rng.normal(0, sigma, frame.data.shape)), 0, 255).astype(np.uint8)


INPUT = Contestant("input", lambda frame: frame.data)


def test_error_of_a_moved_picture_by_its_true_motion_is_zero() -> None:
    first, second = pan(2, step=4)
    flow = np.full((120, 200, 2), (-4, 0), np.float32)
    mask = np.ones((120, 200), bool)
    mask[:, :4] = False
    assert warping_error(first.data, second.data, flow, mask) == 0.0
    assert warping_error(first.data, second.data, np.zeros_like(flow), mask) > 1e-3


def test_error_is_the_formula() -> None:
    """E = Σ M·(warp(V_t) - V_t-1)² / Σ M, in 0…1, mean of the channels."""
    rng = np.random.default_rng(0)
    a, b = (rng.integers(0, 256, (20, 30, 3), dtype=np.uint8) for _ in range(2))
    mask = rng.random((20, 30)) < 0.5
    expected = ((b / 255 - a / 255) ** 2).mean(axis=2)[mask].mean()
    assert warping_error(a, b, np.zeros((20, 30, 2), np.float32), mask) == pytest.approx(expected, rel=1e-5)
    assert np.isnan(warping_error(a, b, np.zeros((20, 30, 2), np.float32), np.zeros_like(mask)))


def test_known_flicker_is_measured_near_and_far() -> None:
    """Independent noise of σ in both pictures gives E = 2σ², near or far, on top of the input's own error."""
    result = measure("pan", pan(24, step=1), [INPUT, Contestant("noisy", flickering(10))])
    own, noisy = result.contestants["input"], result.contestants["noisy"]
    # The whole-pixel motion is estimated to a fraction; warping by it averages noise a little.
    assert mean_error(noisy.near) - mean_error(own.near) == pytest.approx(2 * (10 / 255) ** 2, rel=0.2)
    assert mean_error(noisy.far) - mean_error(own.far) == pytest.approx(2 * (10 / 255) ** 2, rel=0.2)
    assert mean_error(own.near) < 0.1 * mean_error(noisy.near)
    assert result.followed > 0.8
    assert (result.frames, result.cuts) == (24, 0)


def test_pulsing_brightness_is_measured() -> None:
    def pulse(frame: Frame) -> np.ndarray:
        level = 6 if round(frame.pts * 25) % 2 else -6
        return np.clip(frame.data.astype(int) + level, 0, 255).astype(np.uint8)

    still = [Frame(scene(), Fraction(n, 25)) for n in range(12)]
    result = measure("still", still, [INPUT, Contestant("pulsing", pulse)])
    assert result.contestants["input"].pulse == 0.0
    assert result.contestants["input"].luminance_variance == pytest.approx(0.0, abs=1e-9)
    assert result.contestants["pulsing"].pulse == pytest.approx(12, rel=0.02)
    assert result.contestants["pulsing"].luminance_variance == pytest.approx(36, rel=0.02)


def test_pairs_across_a_cut_do_not_count() -> None:
    a, b = (cv2.applyColorMap(scene(seed)[..., 0], which) for seed, which in ((0, cv2.COLORMAP_WINTER), (1, 0)))
    frames = [Frame(picture, Fraction(n, 25)) for n, picture in enumerate([a] * 12 + [b] * 12)]
    result = measure("cut", frames, [INPUT])
    assert result.cuts == 1
    assert mean_error(result.contestants["input"].near) == 0.0
    assert mean_error(result.contestants["input"].far) == 0.0
    assert len(result.contestants["input"].near) == 22


def test_cost_of_what_goes_on_from_another_contains_the_other() -> None:
    contestants = [Contestant("slow", flickering(1)), Contestant("more", lambda frame: frame.data, after="slow")]
    found = measure("pan", pan(5), contestants).contestants
    assert found["more"].cost_ms >= found["slow"].cost_ms


def test_naive_average_trails() -> None:
    average = NaiveAverage(0.5)
    average(np.zeros((4, 4, 3), np.uint8))
    assert average(np.full((4, 4, 3), 100, np.uint8)).mean() == 50


def test_one_frame_is_too_few() -> None:
    with pytest.raises(SourceError, match="at least 2 frames"):
        measure("one", pan(1), [INPUT])


@pytest.fixture
def rendered(tmp_path: Path) -> Path:
    """A pan as numbered pictures, with its ground truth for all but the last picture."""
    for number, frame in enumerate(pan(4, step=3), 1):
        cv2.imwrite(str(tmp_path / f"final_{number:04}.png"), frame.data[..., ::-1])
        np.savez_compressed(tmp_path / f"flow_{number:04}.npz", flow=np.full((120, 200, 2), (-3, 0), np.float16))
    lost = np.zeros((120, 200), np.uint8)
    lost[:, :3] = 255
    cv2.imwrite(str(tmp_path / "occlusions_0001.png"), lost)
    return tmp_path


def test_ground_truth_of_a_folder(rendered: Path) -> None:
    clip = PictureFolder(rendered, "final_*")
    assert clip.numbers == ["0001", "0002", "0003", "0004"]
    result = measure("rendered", clip, [INPUT], true_motion=true_motion_from(rendered, clip.numbers))
    own = result.contestants["input"]
    assert len(own.true) == 3
    assert mean_error(own.true) == 0.0
    assert mean_error(own.near) < 1e-4


def test_estimated_flow_against_ground_truth_on_rendered_film(shared_data: Path) -> None:
    """What a painting's error comes to must not depend on whose flow is used: within 15 %, noise far above both."""
    for folder, pattern in (("alley_1", "final_*"), ("cave_2", "clean_*")):
        clip = PictureFolder(shared_data / "flow" / folder, pattern)
        truth = true_motion_from(shared_data / "flow" / folder, clip.numbers)
        result = measure(folder, clip, [INPUT, Contestant("noisy", flickering(12))], true_motion=truth)
        noisy = result.contestants["noisy"]
        assert mean_error(noisy.near) == pytest.approx(mean_error(noisy.true), rel=0.15), folder


# The command


def test_command_prints_input_and_unsmoothed_beside_the_smoothed(
    make_clip: Callable[..., Path], identity_artifact: Artifact, tmp_path: Path
) -> None:
    clip = make_clip(height=64, width=96)
    arguments = [str(clip), "--style", str(identity_artifact.path), "--naive"]
    done = run.invoke(
        app, [*arguments, "--json", "--plot", str(tmp_path / "p.png"), "--render", str(tmp_path / "r.mp4")]
    )
    assert done.exit_code == 0, done.output
    (result,) = json.loads(done.stdout)
    names = list(result["contestants"])
    assert names[0] == "input"
    assert [name.partition(" + ")[2] for name in names[1:]] == ["", "naive average", "smooth 0.5"]
    own, painted = (result["contestants"][name] for name in names[:2])
    assert painted["error"] == pytest.approx(own["error"], rel=1e-6), "the identity flickers as its input does"
    assert cv2.imread(str(tmp_path / "p.png")) is not None
    video = cv2.VideoCapture(str(tmp_path / "r.mp4"))
    assert (video.get(cv2.CAP_PROP_FRAME_WIDTH), video.get(cv2.CAP_PROP_FRAME_HEIGHT)) == (4 * 96, 64)
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == result["frames"] == 12


def test_command_prints_a_table(rendered: Path, identity_artifact: Artifact) -> None:
    done = run.invoke(
        app, [str(rendered), "--pattern", "final_*", "--flow", str(rendered), "-s", str(identity_artifact.path)]
    )
    assert done.exit_code == 0, done.output
    for word in ("E true", "input", "smooth 0.5", "× plain"):
        assert word in done.output


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["missing.mp4"], 4, "missing.mp4"),
        (["{folder}"], 4, "must hold pictures"),
        (["{clip}", "--flow", "{folder}"], 2, "folder of pictures"),
        (["{clip}", "{clip}", "--render", "x.mp4"], 2, "one clip"),
        (["{clip}", "--plot", "{clip}"], 6, "--overwrite"),
        (["{clip}", "--smooth", "2"], 2, "smooth"),
    ],
)
def test_bad_input_is_one_line_and_a_code(
    arguments: list[str],
    code: int,
    words: str,
    make_clip: Callable[..., Path],
    identity_artifact: Artifact,
    tmp_path: Path,
) -> None:
    clip = make_clip()
    filled = [text.format(clip=clip, folder=tmp_path) for text in arguments]
    done = run.invoke(app, [*filled, "--style", str(identity_artifact.path)])
    assert done.exit_code == code
    assert words in done.output
    assert "Traceback" not in done.output
