"""Pairs of frames from real clips: motion found, what cannot be followed left out, the same on every run."""

from collections.abc import Callable
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from impasto.training.clips import LEAST_FOLLOWED, ClipPairs, clip_loss, find_clips, pairs_of  # noqa: E402
from impasto.training.errors import TrainingError  # noqa: E402

MakeClip = Callable[..., Path]
LOSSLESS = {"codec": "ffv1", "pixel_format": "bgr0"}


def texture(seed: int, height: int = 160, width: int = 200) -> np.ndarray:
    """(H, W, 3) uint8: soft blobs that flow can hold on to."""
    coarse = np.random.default_rng(seed).integers(30, 226, (height // 6, width // 6, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def panning(number: int, height: int, width: int) -> np.ndarray:
    """Two pixels to the left a frame."""
    return np.ascontiguousarray(texture(0, height, width + 60)[:, 2 * number : 2 * number + width])


def pan(make_clip: MakeClip, name: str = "pan.mkv") -> Path:
    return make_clip(name, height=96, width=128, times=[512 * n for n in range(16)], draw=panning, **LOSSLESS)


def test_motion_of_a_pan_is_found_over_every_gap(make_clip: MakeClip) -> None:
    pairs = pairs_of(pan(make_clip), 3, short_side=96)
    for pair, gap in zip(pairs, (1, 2, 4), strict=True):
        moved = np.median(pair.flow[pair.followed].astype(float), axis=0)
        np.testing.assert_allclose(moved, (-2 * gap, 0), atol=0.15)
        assert pair.followed.mean() > 0.8
        assert np.abs(pair.first.astype(int)[:, 2 * gap :] - pair.second[:, : -2 * gap]).max() <= 1


@pytest.mark.parametrize("name", ["pan.mkv", "pan.avi"])
def test_pairs_are_spread_over_the_clip(make_clip: MakeClip, name: str) -> None:
    """In Matroska too, which says how long the file is and not how long its streams are."""
    pairs = pairs_of(pan(make_clip, name), 3, short_side=96)
    film = [panning(number, 96, 128) for number in range(16)]
    begun = [min(range(16), key=lambda n: np.abs(film[n].astype(int) - pair.first).mean()) for pair in pairs]
    np.testing.assert_allclose(begun, [0, 16 / 3, 32 / 3], atol=1)


def test_painting_that_moves_along_pays_nothing_and_what_sticks_to_the_screen_pays(make_clip: MakeClip) -> None:
    clips = ClipPairs.load(pan(make_clip).parent, crop_size=64, seed=0)
    batch = clips.batch(0, 8)
    assert batch.first.shape == batch.second.shape == (8, 3, 64, 64)
    along = clip_loss(255 - batch.first, 255 - batch.second, batch)
    pattern = torch.zeros_like(batch.first)
    pattern[..., ::3] = 60
    stuck = clip_loss(batch.first + pattern, batch.second + pattern, batch)
    assert along < 5e-4
    assert stuck > 20 * along


def test_what_is_covered_or_uncovered_does_not_count(make_clip: MakeClip) -> None:
    """A square of its own texture slides over another one: around it nothing can be told."""

    def draw(number: int, height: int, width: int) -> np.ndarray:
        frame = texture(0, height, width).copy()
        left = 20 + 8 * number
        frame[30:70, left : left + 40] = texture(1)[30:70, :40]
        return frame

    path = make_clip("square.mkv", height=96, width=160, times=[0, 512, 1024], draw=draw, **LOSSLESS)
    pair = pairs_of(path, 1, short_side=96)[0]
    left = 20
    assert pair.followed[40:60, left + 6 : left + 34].mean() > 0.9, "the square itself is followed"
    assert pair.followed[40:60, left + 41 : left + 47].mean() < 0.2, "what it is about to cover is not"
    assert pair.followed[:, 110:].mean() > 0.9, "nor is the rest touched"


def test_a_cut_makes_no_pair(make_clip: MakeClip) -> None:
    cut = make_clip("cut.mkv", height=96, width=128, times=[0, 512], draw=lambda n, h, w: texture(n, h, w), **LOSSLESS)
    still = make_clip("still.mkv", height=96, width=128, times=[0, 512], draw=lambda n, h, w: texture(0, h, w),
                      **LOSSLESS)  # fmt: skip
    assert pairs_of(cut, 1, short_side=96) == []
    assert pairs_of(still, 1, short_side=96)[0].followed.mean() > max(0.95, LEAST_FOLLOWED)


def test_a_change_of_size_makes_no_pair(tmp_path: Path) -> None:
    pictures = [cv2.imencode(".jpg", texture(0, 96, width))[1].tobytes() for width in (128, 128, 160)]
    (tmp_path / "film.avi").write_bytes(b"".join(pictures))  # read as motion JPEG
    assert len(pairs_of(tmp_path / "film.avi", 2, short_side=96)) == 1  # of the first two, not of the first and third


def test_batches_are_a_function_of_seed_and_step(make_clip: MakeClip) -> None:
    folder = pan(make_clip).parent
    one, again, other = (ClipPairs.load(folder, crop_size=64, seed=seed).batch(7, 2) for seed in (1, 1, 2))
    assert torch.equal(one.first, again.first)
    assert torch.equal(one.grid, again.grid)
    assert not torch.equal(one.first, other.first)


def test_small_clips_are_enlarged(make_clip: MakeClip) -> None:
    clips = ClipPairs.load(pan(make_clip).parent, crop_size=128, seed=0)
    assert clips.batch(0, 1).first.shape == (1, 3, 128, 128)


def test_a_damaged_clip_is_skipped_and_nothing_usable_is_said(
    make_clip: MakeClip, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no film")
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        sound = container.add_stream("aac", rate=44_100)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 44_100
        container.mux([*sound.encode(silence), *sound.encode(None)])
    with pytest.raises(TrainingError, match="must have frames whose motion can be followed"):
        ClipPairs.load(tmp_path, crop_size=64, seed=0)
    assert "broken.mp4" in caplog.text
    assert "sound.mp4: it has no pictures" in caplog.text
    (tmp_path / "good.mkv").write_bytes(pan(make_clip).read_bytes())
    assert ClipPairs.load(tmp_path, crop_size=64, seed=0).pairs
    with pytest.raises(TrainingError, match="not found"):
        find_clips(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(TrainingError, match="no clips"):
        find_clips(tmp_path / "empty")
