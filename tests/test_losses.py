"""Losses against three-line numpy formulas."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from impasto.training import losses  # noqa: E402

RTOL = 1e-4  # float32 sums of a few thousand terms


@pytest.fixture
def features() -> "tuple[np.ndarray, np.ndarray]":
    rng = np.random.default_rng(0)
    return rng.normal(size=(2, 5, 7, 9)).astype(np.float32), rng.normal(size=(2, 5, 7, 9)).astype(np.float32)


def test_gram_matrix_is_the_mean_of_products_of_channels(features) -> None:
    x, _ = features
    expected = np.einsum("nchw,ndhw->ncd", x, x) / (5 * 7 * 9)
    np.testing.assert_allclose(losses.gram_matrix(torch.from_numpy(x)), expected, rtol=RTOL, atol=1e-6)


def test_gram_matrix_does_not_depend_on_where_things_are(features) -> None:
    x = torch.from_numpy(features[0])
    moved = torch.roll(x, (3, 2), dims=(2, 3))
    torch.testing.assert_close(losses.gram_matrix(moved), losses.gram_matrix(x))


def test_content_loss_is_the_relative_squared_distance(features) -> None:
    x, target = features
    expected = np.mean([((x[i] - target[i]) ** 2).sum() / (target[i] ** 2).sum() for i in range(2)])
    assert losses.content_loss(torch.from_numpy(x), torch.from_numpy(target)).item() == pytest.approx(expected, RTOL)


def test_style_loss_is_the_mean_relative_distance_of_grams(features) -> None:
    x, y = (losses.gram_matrix(torch.from_numpy(f)).numpy() for f in features)
    expected = np.mean([((x[i] - y[0]) ** 2).sum() / (y[0] ** 2).sum() for i in range(2)])
    assert losses.style_loss(torch.from_numpy(x), torch.from_numpy(y[:1])).item() == pytest.approx(expected, RTOL)


def test_style_distance_sums_the_layers_of_the_target(features) -> None:
    gram, other = (losses.gram_matrix(torch.from_numpy(f)) for f in features)
    one = losses.style_loss(gram, other)
    both = losses.style_distance(
        {"relu1_1": gram, "relu2_1": gram, "relu3_1": gram}, {"relu1_1": other, "relu2_1": other}
    )
    torch.testing.assert_close(both, 2 * one)


def test_grid_loss_is_the_square_of_the_grid_pattern() -> None:
    rng = np.random.default_rng(0)
    pattern = rng.normal(0, 3, (4, 4))
    picture = rng.uniform(60, 190, (64, 96, 1)).repeat(3, axis=2) + np.tile(pattern, (16, 24))[..., None]
    x = torch.from_numpy(np.float32(picture)).permute(2, 0, 1)[None]
    blocks = picture[..., 0].reshape(16, 4, 24, 4).mean(axis=(0, 2))
    np.testing.assert_allclose(losses.grid_loss(x), blocks.var() / 255**2, rtol=RTOL)
    assert losses.grid_loss(torch.full((2, 3, 8, 8), 77.0)) == 0


def test_total_variation_is_the_mean_squared_step_of_neighbours() -> None:
    picture = np.random.default_rng(1).uniform(0, 255, (1, 3, 8, 6)).astype(np.float32)
    unit = picture / 255
    expected = (np.diff(unit, axis=2) ** 2).mean() + (np.diff(unit, axis=3) ** 2).mean()
    assert losses.total_variation_loss(torch.from_numpy(picture)).item() == pytest.approx(expected, RTOL)


def test_out_of_range_is_what_clipping_cuts_off() -> None:
    picture = np.random.default_rng(2).uniform(-100, 355, (2, 3, 8, 6)).astype(np.float32)
    expected = (((picture - picture.clip(0, 255)) / 255) ** 2).mean()
    assert losses.out_of_range_loss(torch.from_numpy(picture)).item() == pytest.approx(expected, RTOL)
    assert losses.out_of_range_loss(torch.from_numpy(picture.clip(0, 255))).item() == 0


@pytest.mark.parametrize("loss", [losses.content_loss, losses.style_loss])
def test_a_target_without_energy_gives_a_finite_loss(loss) -> None:
    assert torch.isfinite(loss(torch.ones(1, 4, 4), torch.zeros(1, 4, 4)))
