"""Regions with styles of their own: masks of any size, soft borders, the command."""

import os
import sys
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from impasto.realtime.cli_image import app as image_app
from impasto.realtime.errors import SourceError
from impasto.realtime.frame import Frame
from impasto.realtime.look import FilmStylizer, plain_look
from impasto.realtime.regions import Region, RegionOption

from .live_helpers import FakeEngine


def half(height: int = 60, width: int = 80) -> np.ndarray:
    """White on the right."""
    mask = np.zeros((height, width), np.float32)
    mask[:, width // 2 :] = 1
    return mask


@pytest.mark.parametrize(
    ("text", "mask", "style"),
    [
        ("m.png:mosaic", "m.png", "mosaic"),
        ("/a b/M.JPG:x.jpg:0.5,y.png:0.5", "/a b/M.JPG", "x.jpg:0.5,y.png:0.5"),
        ("C:\\m.png:C:\\a.jpg", "C:\\m.png", "C:\\a.jpg"),
        ("m.png:none", "m.png", "none"),
    ],
)
def test_what_a_region_says(text: str, mask: str, style: str) -> None:
    assert RegionOption.parse(text) == RegionOption(Path(mask), style)


@pytest.mark.parametrize("text", ["", "mosaic", "m.png", "m.png:", ":mosaic", "mosaic:m.png"])
def test_what_a_region_cannot_say(text: str) -> None:
    with pytest.raises(ValueError, match="region must be MASK:STYLE"):
        RegionOption.parse(text)


def test_the_last_region_lies_on_top_and_borders_are_soft() -> None:
    frame = Frame(np.full((240, 320, 3), 10, np.uint8), Fraction(0))
    engines = {"a": FakeEngine(plus=0), "b": FakeEngine(plus=100), "c": FakeEngine(plus=200)}
    below = half().copy()
    below[:30] = 0
    regions = [Region("b", half()), Region("c", below), Region("", np.flipud(below))]
    painted = FilmStylizer(engines, plain_look("a", 1.0), regions=regions[:2])(frame).data
    assert [painted[row, column, 0] for row, column in ((60, 40), (60, 280), (200, 280))] == [10, 110, 210]
    border = painted[60, 150:170, 0].astype(int)
    assert (np.diff(border) >= 0).all()
    assert len(set(border)) > 4
    shown = FilmStylizer(engines, plain_look("a", 1.0), regions=regions)(frame).data
    assert shown[60, 280, 0] == 10  # the frame itself, where the last region says `none`


def test_masks_are_read_like_pictures(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "m.png"), (half() * 65_535).astype(np.uint16))
    region = Region.read(RegionOption(tmp_path / "m.png", "b"), "b")
    np.testing.assert_allclose(region.mask, half(), atol=1 / 255)
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.raises(SourceError, match=r"bad.png (is not|must be) a picture"):
        Region.read(RegionOption(tmp_path / "bad.png", "b"), "b")
    with pytest.raises(SourceError, match="mask must be a readable file"):
        Region.read(RegionOption(tmp_path / "no.png", "b"), "b")
    if sys.platform != "win32":
        os.mkfifo(tmp_path / "pipe.png")
        with pytest.raises(SourceError, match="must be a readable file"):
            Region.read(RegionOption(tmp_path / "pipe.png", "b"), "b")


def test_what_is_transparent_in_a_mask_does_not_count(tmp_path: Path) -> None:
    """A white shape on nothing, as paint programs save it."""
    shape = np.full((*half().shape, 4), 255, np.uint8)
    shape[..., 3] = half() * 255
    cv2.imwrite(str(tmp_path / "m.png"), shape)
    np.testing.assert_allclose(Region.read(RegionOption(tmp_path / "m.png", "b"), "b").mask, half(), atol=1 / 255)


def test_the_command_paints_a_part(tmp_path: Path) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "photo.png"), photo)
    cv2.imwrite(str(tmp_path / "mask.png"), half() * 255)
    arguments = [tmp_path / "photo.png", "-o", tmp_path / "out.png", "-s", "mosaic", "--device", "cpu"]
    region = ["--region", f"{tmp_path / 'mask.png'}:none"]
    result = CliRunner().invoke(image_app, [*map(str, arguments), *region])
    assert result.exit_code == 0, result.output
    painted = cv2.imread(str(tmp_path / "out.png"))
    assert (painted[:, 56:] == photo[:, 56:]).mean() > 0.99
    assert np.abs(painted[:, :40].astype(int) - photo[:, :40]).mean() > 10
    result = CliRunner().invoke(image_app, [*map(str, arguments), "--region", "mask", "--overwrite"])
    assert result.exit_code == 2
    assert "region must be MASK:STYLE" in result.output
