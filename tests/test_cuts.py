"""Cuts found, flashes and pans not: on made pictures, and on the real clips where they are at hand."""

from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from impasto.realtime.cuts import CutDetector


def scene(seed: int, *, height: int = 270, width: int = 960) -> np.ndarray:
    """(H, W, 3) uint8: a random landscape of soft shapes in a palette of its own, far wider than a frame."""
    rng = np.random.default_rng(seed)
    hue = rng.integers(0, 180, 4)
    picture = np.empty((height, width, 3), np.uint8)
    picture[:] = cv2.cvtColor(np.uint8([[[hue[0], 120, 170]]]), cv2.COLOR_HSV2RGB)[0, 0]
    for _ in range(60):
        color = cv2.cvtColor(
            np.uint8([[[hue[rng.integers(4)], rng.integers(60, 220), rng.integers(40, 240)]]]), cv2.COLOR_HSV2RGB
        )
        center = (int(rng.integers(width)), int(rng.integers(height)))
        axes = (int(rng.integers(10, 60)), int(rng.integers(10, 60)))
        cv2.ellipse(picture, center, axes, float(rng.integers(180)), 0, 360, color[0, 0].tolist(), -1)
    return cv2.GaussianBlur(picture, (5, 5), 0)


def window(picture: np.ndarray, left: int) -> np.ndarray:
    """What a 480x270 camera sees."""
    return picture[:, left : left + 480]


def noisy(picture: np.ndarray, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 4, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


def toned(picture: np.ndarray, tone: str) -> np.ndarray:
    """In colour, grey, or sepia."""
    if tone == "color":
        return picture
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., np.newaxis]
    return np.uint8(np.clip(grey * np.array([1.3, 1.15, 0.9] if tone == "sepia" else [1.0] * 3), 0, 255))


def cuts(frames: list[np.ndarray]) -> list[int]:
    detect = CutDetector()
    return [number for number, frame in enumerate(frames) if detect(frame)]


@pytest.mark.parametrize("tone", ["color", "grey", "sepia"])
@pytest.mark.parametrize("seed", range(0, 20, 2))
def test_hard_cut_is_found_once(seed: int, tone: str) -> None:
    a, b = (toned(window(scene(number), 0), tone) for number in (seed, seed + 1))
    assert cuts([noisy(picture, n) for n, picture in enumerate([a] * 4 + [b] * 4)]) == [4]


@pytest.mark.parametrize("tone", ["color", "grey", "sepia"])
@pytest.mark.parametrize("gain", [0.3, 1.6, 2.5, 4.0])
def test_flash_is_no_cut(gain: float, tone: str) -> None:
    still = toned(window(scene(1), 0), tone)
    flash = np.clip(still * gain + 20 * (gain - 1), 0, 255).astype(np.uint8)
    assert cuts([still, still, flash, still, flash, flash, still]) == []


def test_white_flash_is_no_cut_but_a_cut_behind_it_is() -> None:
    a, b, white = window(scene(2), 0), window(scene(3), 0), np.full((270, 480, 3), 255, np.uint8)
    assert cuts([a, white, a, a]) == []
    assert cuts([a, white, b, b]) == [2]


@pytest.mark.parametrize("tone", ["color", "grey", "sepia"])
@pytest.mark.parametrize("pixels_a_frame", [5, 48, 96])
def test_pan_is_no_cut(pixels_a_frame: int, tone: str) -> None:
    """Up to a fifth of the picture's width a frame, beginning and ending at once."""
    wide = toned(scene(4), tone)
    steps = 480 // pixels_a_frame
    assert cuts([window(wide, n * pixels_a_frame) for n in range(steps)] + [window(wide, 480)] * 2) == []


def test_fade_to_black_and_back_is_no_cut() -> None:
    still = window(scene(5), 0).astype(np.float64)
    fade = [np.uint8(still * level) for level in (1, 0.7, 0.4, 0.1, 0, 0, 0.1, 0.5, 1)]
    assert cuts(fade) == []


def test_reset_forgets_the_shot() -> None:
    detect = CutDetector()
    detect(window(scene(6), 0))
    detect.reset()
    assert not detect(window(scene(7), 0))


@pytest.mark.parametrize("tone", ["color", "grey", "sepia"])
def test_real_clips(shared_data: Path, tone: str) -> None:
    assert real_cuts(shared_data / "videos" / "hard-cuts-720p.mp4", tone) == [75, 150]
    for name in ("cups-shuffle-720p.mp4", "dashcam-mjpeg.avi", "kitten-vfr.mp4"):
        assert real_cuts(shared_data / "videos" / name, tone) == [], name


def real_cuts(path: Path, tone: str) -> list[int]:
    detect = CutDetector()
    with av.open(str(path)) as file:
        file.streams.video[0].thread_type = "AUTO"
        frames = (frame.to_ndarray(format="rgb24", width=320, height=180) for frame in file.decode(video=0))
        return [number for number, frame in enumerate(frames) if detect(toned(frame, tone))]
