"""Colour control against mean, covariance, histogram and chroma worked out by numpy."""

import numpy as np
import pytest

from impasto.training.gatys_color import (
    finish_colors,
    luminance,
    match_colors,
    match_covariance,
    match_histogram,
    match_luminance,
    prepare_colors,
    with_chroma_of,
)

from .conftest import chroma


def colors(seed, count=5000):
    rng = np.random.default_rng(seed)
    return rng.uniform(0, 255, (count, 3)) @ rng.uniform(-1, 1, (3, 3)) + rng.uniform(50, 200, 3)


def picture(seed, height=40, width=50):
    return np.clip(colors(seed, height * width), 0, 255).astype(np.uint8).reshape(height, width, 3)


@pytest.mark.parametrize("transform", ["eigen", "cholesky"])
def test_match_reproduces_mean_and_covariance_within_a_thousandth(transform):
    source, wanted = colors(1), colors(2)
    matched = match_colors(source, wanted, transform=transform)
    assert np.abs(matched.mean(0) - wanted.mean(0)).max() < 1e-3
    assert np.abs(np.cov(matched.T, bias=True) - np.cov(wanted.T, bias=True)).max() < 1e-3


def test_eigen_changes_colors_least_and_cholesky_depends_on_the_order_of_channels():
    source, wanted = colors(1), colors(2)
    flipped = match_colors(source[:, ::-1], wanted[:, ::-1])[:, ::-1]
    assert np.allclose(flipped, match_colors(source, wanted))
    cholesky = match_colors(source, wanted, transform="cholesky")
    assert not np.allclose(match_colors(source[:, ::-1], wanted[:, ::-1], transform="cholesky")[:, ::-1], cholesky)


@pytest.mark.parametrize("transform", ["eigen", "cholesky"])
@pytest.mark.parametrize("which", ["source", "wanted", "both", "one color"])
def test_grey_and_flat_pictures_do_not_break_a_match(transform, which):
    grey = np.repeat(np.random.default_rng(0).uniform(0, 255, (500, 1)), 3, axis=1)
    source = grey if which in ("source", "both") else np.full((500, 3), 7.0) if which == "one color" else colors(1)
    wanted = grey[::-1] * 0.5 if which in ("wanted", "both") else colors(2)
    matched = match_colors(source, wanted, transform=transform)
    assert np.isfinite(matched).all()
    assert np.abs(matched.mean(0) - wanted.mean(0)).max() < 1e-3
    if which in ("wanted", "both"):
        # Cholesky is of Σ + 10⁻⁶: grey to within a thousandth of a level, of which a hundredfold gain may make a tenth.
        assert np.ptp(matched, axis=1).max() < (1e-4 if transform == "eigen" else 0.2)


def test_histogram_match_gives_each_channel_the_others_values():
    source, wanted = picture(1), picture(2)
    matched = match_histogram(source, wanted)
    for channel in range(3):
        quantiles = np.linspace(0.02, 0.98, 25)
        got, want = (np.quantile(p[:, :, channel], quantiles) for p in (matched, wanted))
        # Values that were equal stay equal, so a quantile may be off by a step of the source's histogram.
        assert np.abs(got - want).max() <= 6
    assert np.array_equal(match_histogram(source, source), source)
    flat = np.full((8, 8, 3), 9, np.uint8)
    assert (np.ptp(match_histogram(flat, wanted).reshape(-1, 3), axis=0) == 0).all()


def test_chroma_is_kept_exactly_even_where_luminance_must_give_way():
    painted, photo = picture(3) // 2 + 64, picture(4) // 3 + 85
    photo[:10] = (255, 0, 0)  # pure red has one luminance only
    painted[:10] = 255
    result = with_chroma_of(painted, photo)
    assert np.abs(chroma(result) - chroma(photo)).max() <= 1.0  # rounding to bytes
    inside = np.abs(luminance(result)[10:].astype(int) - luminance(painted)[10:]) <= 1
    assert inside.mean() > 0.5  # where it need not give way, it is the painting's


def test_luminance_match_has_the_mean_and_spread_of_the_other():
    source, like = picture(5) // 2 + 60, picture(6) // 2 + 60
    matched, wanted = match_luminance(source, like), luminance(like)
    assert abs(matched.mean() - wanted.mean()) < 4  # clamping to bytes
    assert matched.std() == pytest.approx(wanted.std(), rel=0.1)
    assert (np.ptp(matched, axis=2) == 0).all()
    assert match_luminance(np.full((4, 4, 3), 10, np.uint8), like).std() == 0


def test_modes_recolor_what_they_say():
    photo, painting = picture(1), picture(2)
    same_photo, (same_painting,) = prepare_colors(photo, [painting], "style")
    assert np.array_equal(same_photo, photo)
    assert np.array_equal(same_painting, painting)
    kept, (recolored,) = prepare_colors(photo, [painting], "match-covariance")
    assert np.array_equal(kept, photo)
    assert np.array_equal(recolored, match_covariance(painting, photo))
    recolored_photo, (kept_painting,) = prepare_colors(photo, [painting], "match-histogram", direction="to-style")
    assert np.array_equal(recolored_photo, match_histogram(photo, painting))
    assert np.array_equal(kept_painting, painting)
    assert np.array_equal(finish_colors(painting, photo, "match-covariance"), painting)
    for mode in ("content", "luminance"):
        assert np.abs(chroma(finish_colors(painting, photo, mode)) - chroma(photo)).mean() <= 2
    with pytest.raises(ValueError, match="color must be one of style, content"):
        prepare_colors(photo, [painting], "rainbow")
    with pytest.raises(ValueError, match="color transform must be one of eigen, cholesky, got 'pca'"):
        match_colors(colors(1), colors(2), transform="pca")
