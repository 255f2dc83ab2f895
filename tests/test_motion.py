"""The made-up motion of the steadiness term."""

import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from impasto.training.motion import MotionRange, disturb, motion_loss, random_motion  # noqa: E402

STILL = MotionRange(shift=0, flow=0, zoom=0, brightness=0, noise=0)


def gen() -> "torch.Generator":
    return torch.Generator().manual_seed(0)


def smooth_pictures() -> "torch.Tensor":
    y, x = torch.meshgrid(torch.linspace(0, 6, 64), torch.linspace(0, 6, 64), indexing="ij")
    return (torch.stack([x.sin(), y.cos(), (x + y).sin()]) * 100 + 128)[None].repeat(2, 1, 1, 1)


def test_no_motion_is_the_identity() -> None:
    pictures = smooth_pictures()
    motion = random_motion(pictures.shape, gen(), STILL)
    torch.testing.assert_close(motion.warp(pictures), pictures, atol=1e-2, rtol=0)
    assert motion_loss(pictures, pictures, motion) < 1e-8


def test_a_shift_moves_by_at_most_its_limit() -> None:
    limits = MotionRange(shift=4, flow=0, zoom=0)
    motion = random_motion(torch.Size([50, 1, 64, 64]), gen(), limits)
    still = random_motion(torch.Size([50, 1, 64, 64]), gen(), STILL)
    pixels = (motion.grid - still.grid) * 32
    assert 3 < pixels.abs().max() <= 4.001
    assert (pixels - pixels[:, :1, :1]).abs().max() < 1e-3  # the same everywhere in a picture


def test_a_filter_that_moves_along_pays_nothing_and_one_that_does_not_pays() -> None:
    pictures = smooth_pictures()
    motion = random_motion(pictures.shape, gen(), MotionRange())
    moved = motion.warp(pictures)
    negative = motion_loss(255 - pictures, 255 - moved, motion)
    fixed_pattern = torch.zeros_like(pictures)
    fixed_pattern[..., ::2] = 60
    stuck = motion_loss(pictures + fixed_pattern, moved + fixed_pattern, motion)
    assert negative < 1e-8
    assert stuck > 1e-3


def test_what_comes_from_outside_the_picture_does_not_count() -> None:
    pictures = smooth_pictures()
    motion = random_motion(pictures.shape, gen(), MotionRange(shift=30, flow=0, zoom=0))
    moved = motion.warp(pictures) + 1000 * (1 - motion.inside())
    assert motion_loss(pictures, moved, motion) < 1e-8


def test_disturbance_stays_in_range_and_within_its_limits() -> None:
    pictures = torch.full((200, 3, 8, 8), 100.0)
    brightness = disturb(pictures, gen(), MotionRange(brightness=0.1, noise=0)).mean(dim=(1, 2, 3)) / 100
    assert 0.9 <= brightness.min() < 0.92
    assert 1.08 < brightness.max() <= 1.1
    noise = disturb(pictures, gen(), MotionRange(brightness=0, noise=5)) - 100
    assert 1 < noise.std() < 5
    assert disturb(torch.full((1, 3, 8, 8), 255.0), gen(), MotionRange()).max() <= 255
