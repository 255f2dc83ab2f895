"""Pictures from disk and seeded crops."""

from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from impasto.export.pictures import load_photographs  # noqa: E402
from impasto.realtime import picture_files  # noqa: E402
from impasto.realtime.paintings import is_painting  # noqa: E402
from impasto.training.cli_common import some_pictures  # noqa: E402
from impasto.training.data import (  # noqa: E402
    PhotoCrops,
    count_other_files,
    find_pictures,
    read_picture,
    resize_short_side,
    to_picture,
    to_tensor,
)
from impasto.training.decoding import READABLE  # noqa: E402
from impasto.training.errors import TrainingError  # noqa: E402

from .conftest import with_exif  # noqa: E402
from .test_decoding import DISPLAY_P3, IN_SRGB, png_with  # noqa: E402

RED, GREEN = (200, 30, 10), (10, 180, 60)


def write(path: Path, rgb: np.ndarray) -> Path:
    channels = rgb if rgb.ndim == 2 else rgb[:, :, [2, 1, 0, 3][: rgb.shape[2]]]
    assert cv2.imwrite(str(path), channels)
    return path


def two_colours(height: int = 40, width: int = 60) -> np.ndarray:
    picture = np.empty((height, width, 3), np.uint8)
    picture[:, : width // 2], picture[:, width // 2 :] = RED, GREEN
    return picture


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(6):
        write(folder / f"{i}.png", rng.integers(0, 256, (80 + i, 100, 3), dtype=np.uint8))
    return folder


def test_colours_are_rgb(tmp_path: Path) -> None:
    assert np.array_equal(read_picture(write(tmp_path / "a.png", two_colours())), two_colours())


def test_colours_become_srgb(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png_with(DISPLAY_P3))
    assert (np.abs(read_picture(tmp_path / "a.png").astype(int) - IN_SRGB) <= 1).all()


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    picture = np.dstack([two_colours(), np.zeros((40, 60), np.uint8)])
    picture[:, :30, 3] = 255
    read = read_picture(write(tmp_path / "a.png", picture))
    assert tuple(read[5, 5]) == RED
    assert tuple(read[5, 55]) == (255, 255, 255)


@pytest.mark.parametrize("orientation", [3, 6])
def test_transparent_pictures_come_upright(tmp_path: Path, orientation: int) -> None:
    pictures = []
    for name in ("opaque.png", "transparent.png"):
        picture = (
            two_colours() if name == "opaque.png" else np.dstack([two_colours(), np.full((40, 60), 255, np.uint8)])
        )
        path = write(tmp_path / name, picture)
        path.write_bytes(with_exif(path.read_bytes(), orientation))
        pictures.append(read_picture(path))
    assert tuple(pictures[0][-1, -1]) == (RED if orientation == 3 else GREEN)
    assert np.array_equal(*pictures)


def test_light_beyond_white_is_white(tmp_path: Path) -> None:
    """Files with floating-point numbers hold it."""
    bright = np.dstack([np.full((8, 8, 3), 1.5, np.float32), np.ones((8, 8), np.float32)])
    assert (read_picture(write(tmp_path / "a.tiff", bright)) == 255).all()


def test_sixteen_bits_become_eight(tmp_path: Path) -> None:
    read = read_picture(write(tmp_path / "a.png", two_colours().astype(np.uint16) * 257))
    assert np.abs(read.astype(int) - two_colours()).max() <= 1


def test_sixteen_bits_with_transparency(tmp_path: Path) -> None:
    picture = np.dstack([two_colours(), np.full((40, 60), 255, np.uint8)]).astype(np.uint16) * 257
    assert np.abs(read_picture(write(tmp_path / "a.png", picture)).astype(int) - two_colours()).max() <= 1


def test_grey_becomes_three_equal_channels(tmp_path: Path) -> None:
    read = read_picture(write(tmp_path / "a.png", np.full((10, 12), 77, np.uint8)))
    assert read.shape == (10, 12, 3)
    assert (read == 77).all()


@pytest.mark.parametrize("content", [None, b"", b"not a picture", b"\x89PNG\r\n\x1a\n" + bytes(50)])
def test_what_is_no_picture_is_one_clear_error(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "a.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TrainingError, match=r"a\.png"):
        read_picture(path)


@pytest.mark.parametrize(("shape", "expected"), [((40, 60), (20, 30)), ((60, 40), (30, 20)), ((10, 300), (20, 600))])
def test_the_short_side_is_resized(shape: tuple[int, int], expected: tuple[int, int]) -> None:
    assert resize_short_side(np.zeros((*shape, 3), np.uint8), 20).shape[:2] == expected


def test_a_tensor_and_back_is_the_same_picture() -> None:
    assert np.array_equal(to_picture(to_tensor(two_colours())), two_colours())


def test_pictures_are_found_below_the_folder(photos: Path) -> None:
    (photos / "sub").mkdir()
    write(photos / "sub" / "x.JPG".lower(), two_colours())
    (photos / "notes.txt").write_text("no picture")
    (photos / "sub" / ".DS_Store").write_bytes(b"")
    assert len(find_pictures(photos)) == 7
    assert count_other_files(photos) == 1


@pytest.mark.parametrize("suffix", sorted(READABLE))
def test_every_command_finds_and_reads_the_same_kinds_of_pictures(tmp_path: Path, suffix: str) -> None:
    if not cv2.haveImageWriter(f"x{suffix}"):
        pytest.skip(f"this OpenCV has no {suffix}")
    path = write(tmp_path / f"a{suffix.upper()}", two_colours())
    assert find_pictures(tmp_path) == [path]
    assert read_picture(path).shape == two_colours().shape
    assert len(load_photographs(tmp_path, count=1)) == 1
    assert picture_files.find_pictures([tmp_path]) == [(path, Path(path.name))]
    assert is_painting(str(path))


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no pictures"):
        find_pictures(tmp_path)
    with pytest.raises(TrainingError, match="not found"):
        find_pictures(tmp_path / "none")


def test_crops_depend_on_seed_and_step_alone(photos: Path) -> None:
    paths = find_pictures(photos)
    one, same, other = (PhotoCrops(paths, 3, 64, seed) for seed in (1, 1, 2))
    ahead = one.batches(start=5)
    assert torch.equal(next(ahead), same.batch(5))
    assert torch.equal(next(ahead), same.batch(6))
    ahead.close()
    assert not torch.equal(one.batch(5), other.batch(5))
    assert not torch.equal(one.batch(5), one.batch(6))


def test_an_epoch_shows_every_photograph_once(photos: Path) -> None:
    for i, path in enumerate(find_pictures(photos)):
        write(path, np.full((64, 64, 3), 40 * i, np.uint8))
    crops = PhotoCrops(find_pictures(photos), 6, 64, seed=3)
    assert sorted(round(x.mean().item() / 40) for x in crops.batch(0)) == list(range(6))


def test_bad_files_are_skipped_and_counted(photos: Path) -> None:
    (photos / "1.png").write_bytes(b"garbage")
    (photos / "2.png").write_bytes(b"")
    crops = PhotoCrops(find_pictures(photos), 4, 64, seed=0)
    for step in range(6):
        assert crops.batch(step).shape == (4, 3, 64, 64)
    assert {path.name for path in crops.bad_files} == {"1.png", "2.png"}


def test_only_bad_files_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(b"garbage")
    with pytest.raises(TrainingError, match="none of the 1"):
        PhotoCrops(find_pictures(tmp_path), 1, 64, seed=0).batch(0)


def test_some_pictures_are_spread_evenly_and_can_be_read(photos: Path) -> None:
    assert [path.name for path in some_pictures(photos, 3)] == ["0.png", "2.png", "4.png"]
    for name in "02":
        path = photos / f"{name}.png"
        path.write_bytes(path.read_bytes()[:100])
    assert [path.name for path in some_pictures(photos, 3)] == ["1.png", "3.png", "4.png"]
    assert [path.name for path in some_pictures(photos, 9)] == ["1.png", "3.png", "4.png", "5.png"]
