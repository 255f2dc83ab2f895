"""Masks: regions found by colour whatever anti-aliasing and JPEG did, matched, and carried to the layers."""

import cv2
import numpy as np
import pytest

from impasto.training.errors import TrainingError
from impasto.training.gatys_masks import find_regions, match_regions, name_color, soft_weights

RED, GREEN, BLUE, BLACK, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0), (255, 255, 255)


def halves(left, right, height=60, width=80):
    mask = np.empty((height, width, 3), np.uint8)
    mask[:, : width // 2], mask[:, width // 2 :] = left, right
    return mask


def near(color, wanted):
    return np.linalg.norm(np.subtract(color, wanted)) < 20


def test_every_pixel_belongs_to_exactly_one_region():
    mask = halves(RED, BLUE)
    mask[10:20, 10:70] = GREEN
    regions = find_regions(mask, what="content mask")
    assert set(regions.colors) == {RED, GREEN, BLUE}
    assert (sum(where.astype(int) for where in regions.masks.values()) == 1).all()
    assert regions.masks[GREEN].sum() == 600


@pytest.mark.parametrize("harm", ["anti-aliased", "jpeg", "blurred", "resized"])
def test_small_errors_make_no_regions(harm):
    large = np.full((480, 640, 3), WHITE, np.uint8)
    cv2.circle(large, (300, 240), 170, RED, -1)
    cv2.rectangle(large, (20, 20), (200, 120), BLACK, -1)
    if harm == "anti-aliased":
        mask = cv2.resize(large, (160, 120), interpolation=cv2.INTER_AREA)
    elif harm == "jpeg":
        mask = cv2.imdecode(cv2.imencode(".jpg", large, [cv2.IMWRITE_JPEG_QUALITY, 60])[1], cv2.IMREAD_COLOR)
    elif harm == "blurred":
        mask = cv2.GaussianBlur(large, (0, 0), 1.0)
    else:
        mask = cv2.resize(large, (333, 251), interpolation=cv2.INTER_CUBIC)
    regions = find_regions(mask, what="content mask")
    assert len(regions.colors) == 3
    for wanted in (WHITE, RED, BLACK):
        assert any(near(color, wanted) for color in regions.colors)
    truth = (large == RED).all(axis=2).mean()
    (found,) = (where.mean() for color, where in regions.masks.items() if near(color, RED))
    assert found == pytest.approx(truth, rel=0.03)


def test_grey_between_black_and_white_is_a_region_if_it_covers_ground():
    mask = halves(BLACK, WHITE, height=90)
    mask[30:60] = 128
    assert len(find_regions(mask, what="content mask").colors) == 3


def test_a_thin_line_of_its_own_color_is_a_region():
    mask = halves(BLACK, WHITE, 200, 200)
    cv2.line(mask, (0, 150), (199, 150), RED, 1)
    regions = find_regions(mask, what="content mask")
    assert any(near(color, RED) for color in regions.colors)
    weights = soft_weights(regions.masks[RED], 200, 200)
    assert weights.sum() == pytest.approx(200, rel=0.01)


def test_a_photograph_is_no_mask():
    noise = np.random.default_rng(0).integers(0, 256, (100, 100, 3), dtype=np.uint8)
    with pytest.raises(TrainingError, match="the style mask must be in at most 24 flat colours"):
        find_regions(np.kron(noise, np.ones((5, 5, 1), np.uint8)), what="style mask")


def test_regions_are_matched_by_color_and_named_when_they_do_not():
    here = find_regions(halves(RED, BLUE), what="content mask")
    there = find_regions(halves((10, 5, 240), (245, 10, 10)), what="style mask")
    pairs = match_regions(here, [there])
    assert pairs[RED] == [(0, (245, 10, 10))]
    assert pairs[BLUE] == [(0, (10, 5, 240))]
    with pytest.raises(TrainingError, match=r"content mask, which lacks #00ff00 \(green\); it has .*#ff0000 \(red\)"):
        match_regions(here, [find_regions(halves(RED, GREEN), what="style mask")])
    with pytest.raises(TrainingError, match=r"style mask, which lacks #0000ff \(blue\); it has #ff0000 \(red\)"):
        match_regions(here, [find_regions(halves(RED, RED), what="style mask")])


def test_two_paintings_may_share_the_regions_out():
    here = find_regions(halves(RED, BLUE), what="content mask")
    sky, ground = (find_regions(halves(color, color), what="style mask") for color in (RED, BLUE))
    assert match_regions(here, [sky, ground]) == {RED: [(0, RED)], BLUE: [(1, BLUE)]}


@pytest.mark.parametrize("size", [(60, 80), (33, 47), (120, 160)])
def test_soft_weights_of_all_regions_add_up_to_one(size):
    mask = halves(RED, BLUE)
    mask[40:] = GREEN
    weights = [soft_weights(where, *size) for where in find_regions(mask, what="m").masks.values()]
    assert np.abs(sum(weights) - 1).max() < 1e-5
    assert all(0 <= w.min() <= w.max() <= 1 + 1e-6 for w in weights)


def test_borders_are_soft():
    weights = soft_weights(find_regions(halves(RED, BLUE), what="m").masks[RED], 240, 320)
    row = weights[120]
    assert row[:150].min() > 0.99
    assert row[170:].max() < 0.01
    steps = np.abs(np.diff(row))
    assert steps.max() < 0.4  # no step from one to nothing


def test_colors_have_names():
    assert name_color((250, 3, 3)) == "#fa0303 (red)"
    assert name_color((70, 200, 150)) == "#46c896"
