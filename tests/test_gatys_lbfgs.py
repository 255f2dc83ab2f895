"""L-BFGS against a quadratic whose minimum is known, and its memory carried to a larger picture."""

import pytest
import torch

from impasto.training.gatys_lbfgs import Curvature


def quadratic(slopes, target):
    """Half Σ slope (x - target)², the mean over the pixels, and its gradient: (1, C, H, W) to scalar and the same."""
    return lambda x: (
        float((slopes * (x - target).square()).mean() / 2),
        slopes * (x - target) / x.numel(),
    )


def descend(function, start, curvature, evaluations):
    picture, last, losses = start, None, []
    for _ in range(evaluations):
        loss, gradient = function(picture)
        losses.append(loss)
        if last is not None:
            curvature.learn(last[0], gradient - last[1])
        last = curvature.step(gradient), gradient
        picture = picture + last[0]
    return picture, losses


def uneven(height, width):
    """Slopes from 1 to 50, smooth over the picture as those of a loss network's large features are."""
    rows = torch.linspace(0, 1, height)[:, None] + torch.linspace(0, 1, width)[None, :]
    return (1 + 24.5 * rows).expand(1, 3, height, width).contiguous()


def test_it_finds_the_minimum_of_a_bowl():
    target = 100 + 5 * torch.randn(1, 3, 12, 16, generator=torch.Generator().manual_seed(0))
    picture, losses = descend(quadratic(uneven(12, 16), target), torch.full_like(target, 100), Curvature(20), 60)
    assert (picture - target).abs().max() < 0.05
    assert losses[-1] < 1e-4 * losses[0]


def test_the_first_step_and_the_longest_are_bounded():
    curvature = Curvature(5)
    gradient = torch.randn(1, 3, 8, 8) * 1e6
    assert curvature.step(gradient).abs().mean() == pytest.approx(0.5)
    assert torch.equal(curvature.step(torch.zeros(1, 3, 8, 8)), torch.zeros(1, 3, 8, 8))
    curvature.learn(torch.ones(1, 3, 8, 8), torch.full((1, 3, 8, 8), 1e-9))  # nearly flat: a step would be endless
    assert curvature.step(gradient).abs().mean() == pytest.approx(8.0, rel=1e-4)
    curvature.enlarge(16, 16)
    assert curvature.step(torch.randn(1, 3, 16, 16) * 1e6).abs().mean() == pytest.approx(3.0, rel=1e-4)


def test_history_is_bounded_and_hollows_are_left_out():
    curvature = Curvature(3)
    one = torch.ones(1, 1, 4, 4)
    for size in range(1, 6):
        curvature.learn(one * size, one)
    assert [float(past.moved.mean()) for past in curvature.known] == [3, 4, 5]
    curvature.learn(one, -one)
    assert len(curvature.known) == 3


def smooth(seed, height, width):
    coarse = 2 * torch.randn(1, 3, 6, 8, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic", align_corners=False)


def test_what_was_learnt_small_helps_in_large():
    """The same bowl at twice the size: with the memory carried over ten evaluations end lower."""
    small = Curvature(20)
    descend(quadratic(uneven(24, 32), smooth(0, 24, 32)), torch.zeros(1, 3, 24, 32), small, 30)
    products = [past.product for past in small.known]
    small.enlarge(48, 64)
    assert all(past.moved.shape == (1, 3, 48, 64) for past in small.known)
    assert [past.product for past in small.known] == pytest.approx(products, rel=0.5)  # blurred by enlarging
    function = quadratic(uneven(48, 64), smooth(1, 48, 64))
    _, carried = descend(function, torch.zeros(1, 3, 48, 64), small, 10)
    _, fresh = descend(function, torch.zeros(1, 3, 48, 64), Curvature(20), 10)
    assert carried[-1] < 0.8 * fresh[-1]
