"""`impasto image`: pictures and folders, upright, with transparency; and pictures painted in tiles."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from impasto.export.artifact import Artifact
from impasto.realtime.errors import SinkError, SourceError
from impasto.realtime.options import VideoOptions
from impasto.realtime.picture_files import (
    LARGEST_SIDES,
    StillPicture,
    find_pictures,
    paint_picture,
    picture_targets,
    read_picture,
    write_picture,
)
from impasto.realtime.tiles import TiledEngine, load_tiled_engine, tile_for
from impasto.realtime.video_engines import Engines

from .conftest import exif_block, with_exif
from .test_paintings import bomb

RUN = "from impasto.realtime.cli import main; main()"


def soft(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 255 // width, y * 255 // height, 200 - (x + y) * 150 // (width + height)], -1).astype(np.uint8)


def image(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", RUN, "image", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **options)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for name in ("a.png", "deep/b.jpg"):
        write_picture(StillPicture(soft(33, 47)), tmp_path / "in" / name)
    (tmp_path / "in" / "notes.txt").write_text("not a picture")
    return tmp_path / "in"


def test_a_folder_is_painted_as_a_tree_and_done_ones_are_skipped(
    folder: Path, identity_artifact: Artifact, tmp_path: Path
) -> None:
    for state in ("done", "skipped"):
        done = image(folder, "-o", tmp_path / "out", "--style", identity_artifact.path, "--json")
        assert done.returncode == 0, done.stderr
        assert [json.loads(line)["state"] for line in done.stdout.splitlines()] == [state, state]
    assert sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.*")) == [
        "a.png",
        "deep/b.jpg",
    ]
    np.testing.assert_array_equal(read_picture(tmp_path / "out" / "a.png").data, soft(33, 47))


def test_one_picture_goes_beside_itself_and_errors_are_one_line(folder: Path, identity_artifact: Artifact) -> None:
    assert image(folder / "a.png", "--style", identity_artifact.path).returncode == 0
    assert (folder / "a.identity.png").is_file()
    for arguments, code, words in (
        ([folder / "a.png"], 6, "--overwrite"),
        ([folder / "missing.png"], 4, "must exist"),
        ([folder / "a.png", "-o", folder / "x.gif"], 6, "must end in"),
        ([folder / "a.png", "-o", folder / "a.png" / "x.png"], 6, "x.png cannot be written"),
    ):
        done = image(*arguments, "--style", identity_artifact.path)
        assert (done.returncode, done.stderr.count("\n")) == (code, 1), done.stderr
        assert words in done.stderr


def test_a_failure_stops_no_other_picture_and_is_an_object_too(
    folder: Path, identity_artifact: Artifact, tmp_path: Path
) -> None:
    write_picture(StillPicture(soft(20, 20)), folder / "small.png")  # half of it is less than a picture must have
    (folder / "damaged.png").write_text("not a picture either")
    done = image(folder, "-o", tmp_path / "out", "--style", identity_artifact.path, "--size", "0.5x", "--json")
    outcomes = {Path(o["source"]).name: o for o in map(json.loads, done.stdout.splitlines())}
    assert {name: (o["state"], o["code"]) for name, o in outcomes.items()} == {
        "a.png": ("done", 0),
        "b.jpg": ("done", 0),
        "damaged.png": ("failed", 4),
        "small.png": ("failed", 2),
    }
    assert "small.png" in done.stderr
    assert done.stderr.count("\n") == 2
    alone = image(folder / "small.png", "--style", identity_artifact.path, "--size", "0.5x", "--json")
    assert (alone.returncode, json.loads(alone.stdout)["state"]) == (2, "failed")


def test_pictures_come_upright_and_keep_their_transparency(tmp_path: Path) -> None:
    picture, alpha = soft(20, 30), np.tile(np.arange(30, dtype=np.uint8) * 8, (20, 1))
    write_picture(StillPicture(picture, alpha), tmp_path / "a.png")
    back = read_picture(tmp_path / "a.png")
    np.testing.assert_array_equal(back.data, picture)
    np.testing.assert_array_equal(back.alpha, alpha)
    # An EXIF block that says: turn by 90 degrees clockwise to see it upright.
    _, jpeg = cv2.imencode(".jpg", picture)
    exif = b"Exif\0\0" + exif_block(6)
    data = jpeg.tobytes()
    (tmp_path / "b.jpg").write_bytes(data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + data[2:])
    assert read_picture(tmp_path / "b.jpg").data.shape == (30, 20, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("suffix", "kind"), [(".png", np.uint8), (".png", np.uint16), (".webp", np.uint8)])
def test_transparency_is_turned_like_colours(suffix: str, kind: type, orientation: int, tmp_path: Path) -> None:
    bgr = soft(20, 30).astype(kind) * (257 if kind is np.uint16 else 1)
    _, opaque = cv2.imencode(".png", bgr)
    _, encoded = cv2.imencode(suffix, np.dstack([bgr, bgr[..., 2]]), [cv2.IMWRITE_WEBP_QUALITY, 101])
    (tmp_path / "opaque.png").write_bytes(with_exif(opaque.tobytes(), orientation))
    (tmp_path / "a").write_bytes(with_exif(encoded.tobytes(), orientation))
    picture = read_picture(tmp_path / "a")
    np.testing.assert_array_equal(picture.data, read_picture(tmp_path / "opaque.png").data)
    np.testing.assert_array_equal(picture.alpha, picture.data[..., 0])


def test_unreadable_pictures_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG but not really")
    (tmp_path / "b.png").touch()
    for name in ("a.png", "b.png"):
        with pytest.raises(SourceError, match=f"{name} must be a picture"):
            read_picture(tmp_path / name)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="got none"):
        find_pictures([tmp_path / "empty"])
    with pytest.raises(SinkError, match="--overwrite"):
        write_picture(StillPicture(soft(8, 8)), tmp_path / "a.png")


@pytest.mark.parametrize("bounds", [LARGEST_SIDES, {}], ids=["by its sides", "by the library"])
def test_a_picture_too_large_for_its_format_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bounds: dict[str, int]
) -> None:
    monkeypatch.setattr("impasto.realtime.picture_files.LARGEST_SIDES", bounds)
    wide = StillPicture(soft(1, LARGEST_SIDES[".webp"] + 1))
    with pytest.raises(SinkError, match="webp"):
        write_picture(wide, tmp_path / "wide.webp")
    assert list(tmp_path.iterdir()) == []
    write_picture(wide, tmp_path / "wide.png")


@pytest.mark.skipif(sys.platform == "win32", reason="no resource module")
@pytest.mark.skipif(sys.platform != "linux", reason="the peak of memory is read from /proc")
def test_a_bomb_is_refused_before_it_is_decoded(identity_artifact: Artifact, tmp_path: Path) -> None:
    """1.02 gigapixels in 130 kB: below OpenCV's own bound, 3 GB as RGB."""
    (tmp_path / "bomb.png").write_bytes(bomb(32_000))
    # Not `ru_maxrss`: on Linux a child begins with what its parent held.
    run = f"import atexit; atexit.register(lambda: print(open('/proc/self/status').read())); {RUN}"
    command = [sys.executable, "-c", run, "image", tmp_path / "bomb.png", "--style", identity_artifact.path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr.count("\n")) == (4, 1), done.stderr
    assert "at most 268 megapixels" in done.stderr
    kilobytes = int(done.stdout.split("VmHWM:")[1].split()[0])
    assert kilobytes < 700_000  # the program's libraries take 150 MB; decoded twice, the bomb takes 6 GB


def test_targets() -> None:
    found = [(Path("in/a.png"), Path("a.png")), (Path("in/d/b.bmp"), Path("d/b.bmp"))]
    beside = [target for _, target in picture_targets(found, None, "mosaic", is_folder=False)]
    assert beside == [Path("in/a.mosaic.png"), Path("in/d/b.mosaic.png")]
    tree = [target for _, target in picture_targets(found, Path("out"), "mosaic", is_folder=True)]
    assert tree == [Path("out/a.png"), Path("out/d/b.png")]


def test_what_an_earlier_run_made_is_not_painted_again() -> None:
    names = ("a.jpg", "a.mosaic.jpg", "a.mosaic.mosaic.jpg", "b.bmp", "b.mosaic.png", "c.candy.jpg")
    found = [(Path("in", name), Path(name)) for name in names]
    beside = list(picture_targets(found, None, "mosaic", is_folder=False))
    assert beside == [
        (Path("in/a.jpg"), Path("in/a.mosaic.jpg")),
        (Path("in/b.bmp"), Path("in/b.mosaic.png")),
        (Path("in/c.candy.jpg"), Path("in/c.candy.mosaic.jpg")),
    ]
    alone = [(Path("in/a.mosaic.jpg"), Path("a.mosaic.jpg"))]
    assert len(list(picture_targets(alone, None, "mosaic", is_folder=False))) == 1
    found = [(Path("in/d/a.jpg"), Path("d/a.jpg")), (Path("in/out/d/a.jpg"), Path("out/d/a.jpg"))]
    assert list(picture_targets(found, Path("in/out"), "mosaic", is_folder=True)) == [
        (Path("in/d/a.jpg"), Path("in/out/d/a.jpg"))
    ]


@pytest.mark.parametrize("again", [[], ["--overwrite"]], ids=str)
def test_two_pictures_that_become_one_file_are_refused(
    identity_artifact: Artifact, tmp_path: Path, again: list[str]
) -> None:
    for number in (1, 2):
        write_picture(StillPicture(soft(20, 20 + number)), tmp_path / str(number) / "x.png")
    arguments = [tmp_path / "1" / "x.png", tmp_path / "2" / "x.png", "-o", tmp_path / "out"]
    done = image(*arguments, "--style", identity_artifact.path, *again)
    assert (done.returncode, done.stderr.count("\n")) == (6, 1), done.stderr
    assert "different names" in done.stderr
    assert read_picture(tmp_path / "out" / "x.png").data.shape == (20, 21, 3)


def test_a_picture_that_cannot_be_read_takes_no_name(identity_artifact: Artifact, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    write_picture(StillPicture(soft(20, 20)), folder / "x.png")
    (folder / "x.bmp").write_bytes(b"BM, but damaged")
    (folder / "x.png").rename(folder / "x.ppm")  # read by what is in it; becomes x.png as well
    done = image(folder, "-o", tmp_path / "out", "--style", identity_artifact.path)
    assert (done.returncode, done.stderr.count("error")) == (4, 1), done.stderr
    assert (tmp_path / "out" / "x.png").is_file()


def test_an_original_is_never_replaced(folder: Path, identity_artifact: Artifact, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    write_picture(StillPicture(soft(8, 8)), tmp_path / "other" / "a.png")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}
    for arguments in (
        [folder / "a.png", "-o", folder / "a.png"],
        [folder, "-o", folder],
        [tmp_path / "other" / "a.png", folder / "a.png", "-o", folder],
    ):
        done = image(*arguments, "--style", identity_artifact.path, "--overwrite")
        assert done.returncode == 6, done.stderr
        assert "must not be one of the inputs" in done.stderr
        assert {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()} == before


def test_tiles_show_no_seams(small_artifact: Artifact) -> None:
    """At most 1/255 from the picture painted in one piece, with a thumbnail's statistics far away."""
    picture = soft(300, 420)
    picture[:100] = 250  # one corner unlike the rest: a tile's own statistics would be wrong
    options = VideoOptions(style=str(small_artifact.path), library="onnxruntime", precision="fp32", tile=0)
    with Engines(options) as engines:
        engines.fit(*picture.shape[:2], film=False)
        whole = paint_picture(StillPicture(picture), engines.stylizer(options)).data
    options = VideoOptions(style=str(small_artifact.path), library="onnxruntime", precision="fp32", tile=256)
    with Engines(options) as engines:
        engines.fit(*picture.shape[:2], film=False)
        assert isinstance(next(iter(engines._load().values())), TiledEngine)
        tiled = paint_picture(StillPicture(picture), engines.stylizer(options)).data
    assert whole.std() > 5
    assert np.abs(whole.astype(int) - tiled).max() <= 1


def test_huge_frames_are_tiled_by_themselves_and_that_is_said_once(
    small_artifact: Artifact, caplog: pytest.LogCaptureFixture
) -> None:
    assert tile_for(2160, 3840, None) is None
    assert tile_for(4320, 7680, None) == 1024
    with Engines(VideoOptions(style=str(small_artifact.path))) as engines:
        engines.fit(4320, 7680)
        engines.fit(4320, 7680)
    assert caplog.text.count("--tile 0") == 1
    assert tile_for(4320, 7680, 0) is None
    assert tile_for(100, 100, 512) == 512


def test_a_tile_too_small_is_refused(small_artifact: Artifact, make_artifact: Callable[..., Artifact]) -> None:
    with pytest.raises(ValueError, match="tile must be"):
        load_tiled_engine(small_artifact, tile=16, library="onnxruntime")
