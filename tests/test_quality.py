"""The measures against their formulas written out in a few lines of numpy, and against pictures of known answer."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from impasto.training.data import resize_short_side
from impasto.training.loss_network import STYLE_LAYERS, LossNetwork
from impasto.training.quality import (
    evaluation_picture,
    grid_pattern,
    structure_kept,
    style_distance_of,
)


def random_picture(height, width, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    return np.ascontiguousarray(np.kron(coarse, np.ones((8, 8, 1), np.uint8))[:height, :width])


@pytest.fixture(scope="module")
def loss_network():
    torch.manual_seed(0)
    channels = [3, 4, 6, 8, 8, 8]
    layers = {f"conv{i}_1": nn.Conv2d(a, b, 3, padding=1) for i, (a, b) in enumerate(pairwise(channels), 1)}
    return LossNetwork(layers, nn.Conv2d(3, 3, 1))


def structure_by_loops(a, b):
    def blocks(p):
        g = p.astype(float).mean(2)
        m = [
            [np.hypot(g[y + 1, x] - g[y, x], g[y, x + 1] - g[y, x]) for x in range(g.shape[1] - 1)]
            for y in range(g.shape[0] - 1)
        ]
        m = np.array(m)
        return [m[y : y + 4, x : x + 4].mean() for y in range(0, len(m) - 3, 4) for x in range(0, m.shape[1] - 3, 4)]

    return np.corrcoef(blocks(a), blocks(b))[0, 1]


@pytest.mark.parametrize("shape", [(32, 48), (29, 35)])
def test_structure_kept_is_the_correlation_of_the_formula(shape):
    a, b = random_picture(*shape, seed=1), random_picture(*shape, seed=2)
    mixed = ((a.astype(int) + b) // 2).astype(np.uint8)
    assert structure_kept(a, mixed) == pytest.approx(structure_by_loops(a, mixed), abs=1e-9)


def test_structure_kept_of_known_pairs():
    a = random_picture(240, 240, seed=1)
    noise = np.random.default_rng(2).integers(0, 256, a.shape, dtype=np.uint8)
    assert structure_kept(a, a) == pytest.approx(1)
    assert structure_kept(a, 255 - a) == pytest.approx(1)  # a negative has the same edges
    assert abs(structure_kept(a, noise)) < 0.1
    assert structure_kept(a, np.full_like(a, 90)) == 0.0
    with pytest.raises(ValueError, match=r"shape \(240, 240, 3\), got \(120, 240, 3\)"):
        structure_kept(a, a[:120])


def test_grid_finds_the_amplitude_of_a_pattern_and_nothing_else():
    pattern = np.random.default_rng(0).integers(-9, 10, (4, 4))
    flat = np.full((64, 64, 3), 100)
    painted = (flat + np.tile(pattern, (16, 16))[:, :, None]).astype(np.uint8)
    assert grid_pattern(painted) == pytest.approx(pattern.std())
    assert grid_pattern(flat.astype(np.uint8)) == 0.0
    noise = np.random.default_rng(1).integers(0, 256, (480, 480, 3), dtype=np.uint8)
    assert grid_pattern(noise) < 1.0  # no place of the lattice is special: only sampling error is left
    assert grid_pattern(painted[:63, :61]) == pytest.approx(pattern.std())


def test_style_distance_is_the_lowest_over_the_sizes_of_the_formula(loss_network):
    style, picture = random_picture(120, 150, seed=3), random_picture(96, 96, seed=4)

    def grams(p):
        x = torch.from_numpy(p.transpose(2, 0, 1).astype(np.float32))[None]
        for name, f in loss_network(x, STYLE_LAYERS).items():
            f = f[0].detach().numpy().astype(np.float64)
            f = f.reshape(len(f), -1)
            yield name, f @ f.T / f.size

    wanted = []
    mine = dict(grams(picture))
    for side in (64, 80, 120):
        theirs = dict(grams(resize_short_side(style, side)))
        wanted.append(sum(((mine[n] - g) ** 2).sum() / (g**2).sum() for n, g in theirs.items()))
    got = style_distance_of(picture, style, loss_network, sides=(64, 80, 120))
    assert got == pytest.approx(min(wanted), rel=1e-4)  # float32 sums against float64
    assert style_distance_of(style, style, loss_network, sides=(96, 120)) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("shape", [(100, 180), (600, 500), (480, 480)])
def test_evaluation_picture_is_the_middle_square(shape):
    photo = np.zeros((*shape, 3), np.uint8)
    photo[shape[0] // 2, shape[1] // 2] = 255
    square = evaluation_picture(photo)
    assert square.shape == (480, 480, 3)
    y, x = np.unravel_index(square[:, :, 0].argmax(), (480, 480))
    assert abs(y - 240) <= 4
    assert abs(x - 240) <= 4


def test_structure_of_a_batch_is_the_mean_over_its_pictures() -> None:
    torch = pytest.importorskip("torch")
    from impasto.training.quality import structure_kept_of_batch

    rng = np.random.default_rng(5)
    photos, painted = (rng.integers(0, 256, (3, 40, 52, 3), dtype=np.uint8) for _ in range(2))
    painted[0] = photos[0] // 2 + 30
    expected = np.mean([structure_kept(a, b) for a, b in zip(photos, painted, strict=True)])
    batches = (torch.from_numpy(x).permute(0, 3, 1, 2) for x in (photos, painted))
    assert structure_kept_of_batch(*batches) == pytest.approx(expected, abs=1e-4)
