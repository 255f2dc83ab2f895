"""Any picture as a style: read safely, encoded once, mixed and folded, with the networks that ship."""

import base64
import os
import struct
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from impasto.assets import DEMO_CLIP, any_painting, find_style, user_styles
from impasto.export.arbitrary import bake, style_size
from impasto.export.artifact import load_artifact, parse_model, save_artifact
from impasto.realtime import paintings
from impasto.realtime.cli_image import app as image_app
from impasto.realtime.cli_styles import app as styles_app
from impasto.realtime.engine import PictureEngine
from impasto.realtime.engine_choice import load_engine
from impasto.realtime.errors import ArtifactError
from impasto.realtime.known_styles import write_known_styles
from impasto.realtime.look import Cue, FilmStylizer, Look
from impasto.realtime.paintings import (
    MORPH,
    AnyPainting,
    StyleBook,
    absorbed,
    is_painting,
    name_of,
    prepared,
    read_painting,
    resolve,
    style_file,
    vector_of,
)
from impasto.realtime.source_file import VideoFile

Picture = np.ndarray


def drawn(seed: int, height: int = 96, width: int = 128) -> Picture:
    """Soft coloured blocks: (H, W, 3) uint8 RGB."""
    cells = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return cv2.resize(cells, (width, height), interpolation=cv2.INTER_CUBIC)


def encoded(picture: Picture, suffix: str = ".png") -> bytes:
    bgr = picture if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    return cv2.imencode(suffix, bgr)[1].tobytes()


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def bomb(side: int) -> bytes:
    """A PNG of `side` by `side` black pixels, one bit each before it is unpacked to 24, in a few kilobytes."""
    packer = zlib.compressobj(9)
    row = b"\0" + bytes((side + 7) // 8)
    packed = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", packed) + png_chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def networks() -> AnyPainting:
    return AnyPainting.installed()


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMPASTO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("IMPASTO_STYLES", str(tmp_path / "styles"))


@pytest.fixture
def book(networks: AnyPainting) -> StyleBook:
    return StyleBook(networks)


@pytest.fixture
def make_painting(tmp_path: Path) -> Callable[[str, int], str]:
    def make(name: str, seed: int) -> str:
        path = tmp_path / name
        path.write_bytes(encoded(drawn(seed), path.suffix))
        return str(path)

    return make


@pytest.fixture(scope="module")
def photo() -> Picture:
    with VideoFile(DEMO_CLIP) as clip:
        frame = next(iter(clip)).data
    return np.ascontiguousarray(cv2.resize(frame, (320, 180), interpolation=cv2.INTER_AREA))


def psnr(a: Picture, b: Picture) -> float:
    return float(10 * np.log10(255**2 / max(1e-9, np.mean((a.astype(float) - b) ** 2))))


# Reading pictures that people have


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".tif"])
def test_pictures_of_every_kind_are_read(suffix: str) -> None:
    picture = drawn(0)
    assert psnr(read_painting(encoded(picture, suffix), where="x"), picture) > 30


def test_grey_and_sixteen_bits_become_rgb() -> None:
    grey = drawn(0)[..., 0]
    for data in (encoded(grey), encoded(grey.astype(np.uint16) * 257)):
        read = read_painting(data, where="x")
        assert read.shape == (*grey.shape, 3)
        assert np.abs(read.astype(int) - grey[..., None]).max() <= 1


def test_what_is_transparent_lies_on_white() -> None:
    rgba = np.dstack([drawn(0)[..., ::-1], np.zeros((96, 128), np.uint8)])
    rgba[:48, :, 3] = 255
    read = read_painting(cv2.imencode(".png", rgba)[1].tobytes(), where="x")
    assert np.array_equal(read[:48], drawn(0)[:48])
    assert (read[48:] == 255).all()


@pytest.mark.parametrize(
    "data",
    [b"", b"hello, I am no picture", encoded(drawn(0))[:60], encoded(drawn(0), ".jpg")[:30], bytes(1000)],
    ids=["empty", "text", "cut PNG", "cut JPEG", "zeros"],
)
def test_what_is_no_picture_is_refused_in_one_line(data: bytes) -> None:
    with pytest.raises(ArtifactError, match="mine must be a picture") as caught:
        read_painting(data, where="mine")
    assert "\n" not in str(caught.value)


def test_a_bomb_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("impasto.realtime.paintings.decode_picture", lambda *_, **__: pytest.fail("decoded"))
    data = bomb(40_000)
    assert len(data) < 1_000_000  # 1.6 gigapixels, 4.8 GB as RGB
    tracemalloc.start()
    with pytest.raises(ArtifactError, match="at most 134 megapixels"):
        read_painting(data, where="bomb")
    assert tracemalloc.get_traced_memory()[1] < 50 << 20
    tracemalloc.stop()
    jpeg = bytearray(encoded(drawn(0), ".jpg"))
    at = jpeg.find(b"\xff\xc0")
    jpeg[at + 5 : at + 9] = struct.pack(">HH", 65_000, 65_000)
    with pytest.raises(ArtifactError, match="at most 134 megapixels"):
        read_painting(bytes(jpeg), where="liar")


def test_a_large_honest_picture_is_read_and_the_limit_can_be_lower() -> None:
    data = bomb(2_000)
    assert read_painting(data, where="x").shape == (2_000, 2_000, 3)
    with pytest.raises(ArtifactError, match="at most 1 megapixels"):
        read_painting(data, where="x", max_pixels=10**6)


@pytest.mark.parametrize("size", [(1, 1), (3, 500), (500, 3), (17, 16), (96, 128), (64, 2_000), (2_000, 3_000)])
def test_any_shape_is_prepared_for_the_encoder(size: tuple[int, int]) -> None:
    height, width = prepared(np.full((*size, 3), 90, np.uint8), 192).shape[:2]
    assert height % 16 == width % 16 == 0
    assert 192 - 8 <= min(height, width) <= 192 + 8
    assert max(height, width) <= 192 * 3 + 16


# Vectors


def test_a_painting_is_encoded_once(book: StyleBook, make_painting: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_painting("a.png", 1)
    first = book.vector(path)
    assert first.shape == (style_size(parse_model(book.networks.stylizer)),)
    monkeypatch.setattr(paintings, "run_once", lambda *_: pytest.fail("encoded again"))
    renamed = Path(path).rename(Path(path).with_name("b.png"))
    assert np.array_equal(StyleBook(book.networks).vector(str(renamed)), first)
    with pytest.raises(pytest.fail.Exception, match="encoded again"):
        book.vector(str(renamed), scale=2.0)


def test_a_damaged_cache_is_no_harm(book: StyleBook, make_painting: Callable, tmp_path: Path) -> None:
    path = make_painting("a.png", 1)
    first = book.vector(path)
    (kept,) = (tmp_path / "cache" / "paintings").glob("*.npy")
    kept.write_bytes(b"rubbish")
    assert np.array_equal(book.vector(path), first)
    style = book.style(first, name="a")
    style.path.write_bytes(b"rubbish")
    assert load_artifact(book.style(first, name="a").path).metadata.name == "a"


def test_the_cache_forgets_the_oldest_vectors(
    book: StyleBook, make_painting: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paintings, "_KEPT_VECTORS", 2)
    folder = tmp_path / "cache" / "paintings"
    book.vector(make_painting("a.png", 1))
    (first,) = folder.glob("*.npy")
    os.utime(first, (1, 1))
    for seed in (2, 3):
        book.vector(make_painting(f"{seed}.png", seed))
    assert len(list(folder.glob("*.npy"))) == 2
    assert not first.exists()


def test_what_another_process_has_forgotten_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "gone.npy").symlink_to(tmp_path / "nowhere")  # listed, and not there
    for number in range(3):
        (tmp_path / f"{number}.npy").touch()
        os.utime(tmp_path / f"{number}.npy", (number, number))
    paintings._forget_oldest(tmp_path, ".npy", 1)
    assert {path.name for path in tmp_path.iterdir()} == {"2.npy", "gone.npy"}


@pytest.mark.skipif(sys.platform == "win32", reason="has no such pipes")
def test_a_named_pipe_is_not_waited_for(book: StyleBook, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ArtifactError, match=r"painting must be a file, got .*pipe.png$"):
        book.vector(str(tmp_path / "pipe.png"))


@pytest.mark.parametrize("value", [0, 128, 255])
def test_a_picture_of_one_colour_is_a_style(book: StyleBook, photo: Picture, value: int) -> None:
    vector = book.encode(encoded(np.full((64, 64, 3), value, np.uint8)), where="plain")
    assert np.isfinite(vector).all()
    engine = load_engine(book.style(vector, name="plain"), device="cpu", precision="fp32")
    painted = engine(photo[np.newaxis])[0]
    engine.close()
    assert painted.shape == photo.shape


def test_the_ends_of_a_mix_are_the_paintings(book: StyleBook, make_painting: Callable) -> None:
    a, b = make_painting("a.png", 1), make_painting("b.png", 2)
    np.testing.assert_array_equal(book.mixed({a: 1.0, b: 0.0}), book.vector(a))
    np.testing.assert_array_equal(book.mixed({a: 0.0, b: 1.0}), book.vector(b))
    half = book.mixed({a: 0.5, b: 0.5})
    np.testing.assert_allclose(half, (book.vector(a) + book.vector(b)) / 2, rtol=1e-5, atol=1e-6)


def test_a_style_scale_that_cannot_be(book: StyleBook, make_painting: Callable) -> None:
    path = make_painting("a.png", 1)
    assert not np.allclose(book.vector(path), book.vector(path, scale=0.5))
    with pytest.raises(ValueError, match=r"style scale must be in 0\.25…4, got 9"):
        book.vector(path, scale=9.0)


def test_what_is_not_there_is_said(book: StyleBook) -> None:
    with pytest.raises(ArtifactError, match=r"painting must be a readable file, got no\.jpg"):
        book.vector("no.jpg")
    with pytest.raises(ArtifactError, match="nobody must be mixed as a picture"):
        book.vector("nobody")


# Folding


def test_a_folded_style_paints_what_the_style_input_paints(book: StyleBook, photo: Picture) -> None:
    vector = book.encode(encoded(drawn(3)), where="x")
    folded = load_engine(book.style(vector, name="x"), device="cpu", precision="fp32")
    free = load_engine(book.networks.stylizer, device="cpu", precision="fp32")
    assert isinstance(free, PictureEngine)
    free.inputs = {"style": vector[np.newaxis]}
    one, other = folded(photo[np.newaxis])[0], free(photo[np.newaxis])[0]
    folded.close(), free.close()
    # Two orders of multiplication in float32, then rounding to bytes.
    assert np.abs(one.astype(int) - other).max() <= 1


def test_alpha_0_is_the_photograph(book: StyleBook, photo: Picture) -> None:
    engine = load_engine(book.networks.stylizer, device="cpu", precision="fp32")
    given_back = engine(photo[np.newaxis])[0]
    engine.close()
    assert psnr(given_back, photo) >= 25.0


def test_more_alpha_is_farther_from_the_photograph(book: StyleBook, photo: Picture) -> None:
    vector = book.encode(encoded(drawn(3)), where="x")
    engine = load_engine(book.networks.stylizer, device="cpu", precision="fp32")
    distances = []
    for alpha in (0.0, 0.25, 0.5, 0.75, 1.0):
        engine.inputs = {"style": np.float32(alpha) * vector[np.newaxis]}
        distances.append(-psnr(engine(photo[np.newaxis])[0], photo))
    engine.close()
    assert distances == sorted(distances)


def test_a_folded_style_remembers_its_vector(book: StyleBook, tmp_path: Path) -> None:
    vector = book.encode(encoded(drawn(3)), where="x")
    artifact = book.style(vector, name="x")
    kept = vector_of(artifact, book.networks)
    np.testing.assert_allclose(kept, vector, atol=2e-3, rtol=1e-3)  # halves
    assert artifact.metadata.kind == "single"
    other = save_artifact(
        parse_model(artifact), load_artifact(any_painting()[0]).metadata.__class__(name="x", tier="fast", stride=4),
        tmp_path / "other.onnx",
    )  # fmt: skip
    assert vector_of(other, book.networks) is None


def test_a_wrong_vector_is_refused(book: StyleBook) -> None:
    model = parse_model(book.networks.stylizer)
    size = style_size(model)
    for bad in (np.zeros(3, np.float32), np.full(size, np.nan, np.float32)):
        with pytest.raises(ArtifactError, match="finite numbers"):
            bake(model, bad)


def test_networks_that_do_not_belong_together(networks: AnyPainting, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="must be of kind arbitrary, got style-encoder"):
        AnyPainting.of(networks.encoder.path, networks.encoder.path)
    metadata = networks.encoder.metadata
    other = save_artifact(
        parse_model(networks.encoder), type(metadata)(name="any", tier="fast", stride=16, kind="style-encoder"),
        tmp_path / "other.onnx",
    )  # fmt: skip
    with pytest.raises(ArtifactError, match="must be from the same training"):
        AnyPainting.of(networks.stylizer.path, other.path)


# Looks


def test_what_is_a_painting() -> None:
    assert is_painting("a.jpg")
    assert is_painting("/x/Y.PNG")
    assert not any(map(is_painting, ("mosaic", "mosaic.onnx", "a.mp4", "")))
    assert name_of({"/tmp/Große Welle.jpg": 0.5, "mosaic": 0.5}) == "gro-e-welle+mosaic"


def test_paintings_alone_take_all_and_weaken_their_vector() -> None:
    assert absorbed({"a.jpg": 0.6, "b.jpg": 0.2}, {"a.jpg", "b.jpg"}, "k") == (
        {"k": 1.0}, {"a.jpg": 0.6, "b.jpg": 0.2},
    )  # fmt: skip
    assert absorbed({"a.jpg": 0.2, "net": 0.4}, {"a.jpg"}, "k") == ({"net": 0.4, "k": 0.2}, {"a.jpg": 1.0})
    assert absorbed({"net": 0.4}, {"a.jpg"}, "k") == ({"net": 0.4}, {})


def test_a_steady_look_becomes_one_style(book: StyleBook, make_painting: Callable) -> None:
    a, b = make_painting("a.png", 1), make_painting("b.png", 2)
    found = resolve(Look([Cue(0.0, {a: 0.5, b: 0.3})]), lambda name: pytest.fail(name), book=book)
    assert found.palette is None
    assert found.look.cues[0].mix == {a: 1.0}
    np.testing.assert_allclose(
        vector_of(found.artifacts[a], book.networks), book.mixed({a: 0.5, b: 0.3}), atol=3e-3, rtol=1e-3
    )
    assert found.artifacts[a].metadata.name == "a+b"


def test_a_change_of_paintings_is_one_pass_through_vectors(
    book: StyleBook, make_painting: Callable, photo: Picture
) -> None:
    a, b = make_painting("a.png", 1), make_painting("b.png", 2)
    look = Look([Cue(0.0, {a: 1.0}), Cue(1.0, {b: 1.0}, fade=2.0)])
    found = resolve(look, lambda name: pytest.fail(name), book=book)
    seen = []

    class Spy:
        stride, inputs = 4, {}

        def __call__(self, frames: np.ndarray) -> np.ndarray:
            seen.append(self.inputs["style"][0])
            return frames

    from fractions import Fraction

    from impasto.realtime.frame import Frame

    stylizer = FilmStylizer({MORPH: Spy()}, look, palette=found.palette)
    for seconds in (0, 2, 5):
        stylizer(Frame(photo, Fraction(seconds)))
    first, last = book.vector(a), book.vector(b)
    assert len(seen) == 3
    for got, wanted in zip(seen, (first, (first + last) / 2, last), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


def test_a_mix_with_a_trained_style_known_by_its_painting(book: StyleBook, make_painting: Callable) -> None:
    """Where a vector ships for a trained style, it mixes as a painting; else the pictures are blended."""
    a = make_painting("a.png", 1)
    asked = []
    found = resolve(
        Look([Cue(0.0, {a: 0.6, "own": 0.4})]),
        lambda name: asked.append(name) or book.networks.stylizer,
        book=book,
    )
    assert asked == ["own"]
    assert found.look.cues[0].mix == pytest.approx({a: 0.6, "own": 0.4})


def test_a_trained_style_is_known_by_its_paintings_vector(
    networks: AnyPainting, make_painting: Callable, tmp_path: Path
) -> None:
    for artifact in (networks.stylizer, networks.encoder):
        (tmp_path / artifact.path.name).write_bytes(artifact.path.read_bytes())
    a, b = make_painting("a.png", 1), make_painting("b.png", 2)
    path = write_known_styles(tmp_path / networks.stylizer.path.name, {"mosaic": Path(b)})
    assert path.stat().st_size < 10_000
    book = StyleBook(
        AnyPainting.of(*(tmp_path / artifact.path.name for artifact in (networks.stylizer, networks.encoder)))
    )
    np.testing.assert_allclose(book.vector("mosaic"), book.vector(b), atol=2e-3, rtol=1e-3)
    found = resolve(Look([Cue(0.0, {a: 0.6, "mosaic": 0.4})]), lambda name: pytest.fail(name), book=book)
    assert found.look.cues[0].mix == {a: 1.0}
    wanted = 0.6 * book.vector(a) + 0.4 * book.vector(b)
    np.testing.assert_allclose(vector_of(found.artifacts[a], book.networks), wanted, atol=5e-3, rtol=2e-3)
    np.savez_compressed(path, encoder=np.array("of another"), mosaic=np.zeros(3))
    assert book.known("nobody") is None
    assert StyleBook(book.networks).known("mosaic") is None  # a trained network alone
    for damaged in (path.read_bytes()[:-100], b"", b"rubbish"):
        path.write_bytes(damaged)
        with pytest.raises(ArtifactError, match="styles' vectors, but it is damaged"):
            book.known("mosaic")


def test_a_style_of_ones_own_is_not_taken_for_the_shipped_one(book: StyleBook) -> None:
    assert book.known("mosaic") is not None
    own = user_styles() / "mosaic.fast.onnx"
    own.parent.mkdir()
    own.write_bytes(find_style("the-scream", "fast").read_bytes())
    assert book.known("mosaic") is None


def test_style_files_for_a_camera(book: StyleBook, make_painting: Callable) -> None:
    a, b = make_painting("a.png", 1), make_painting("b.png", 2)
    assert style_file("", book=book) is None
    assert style_file("mosaic", book=book) is None
    path = style_file(f"{a}:0.5,{b}:0.5", book=book)
    assert path is not None
    assert load_artifact(path).metadata.name == "a+b"
    assert base64.b64decode(load_artifact(path).metadata.training["style_vector"])


def test_a_painting_can_be_installed(make_painting: Callable, tmp_path: Path) -> None:
    result = CliRunner().invoke(styles_app, ["add", make_painting("My Wave.png", 1)])
    assert result.exit_code == 0, result.output
    metadata = load_artifact(tmp_path / "styles" / "my-wave.fast.onnx").metadata
    assert (metadata.name, metadata.kind) == ("my-wave", "single")


def test_the_command_paints_like_a_picture(make_painting: Callable, tmp_path: Path, photo: Picture) -> None:
    source = tmp_path / "photo.png"
    source.write_bytes(encoded(photo))
    a, b = make_painting("a.png", 1), make_painting("b.jpg", 2)
    for style, name in ((a, "one.png"), (f"{a}:0.6,{b}:0.4", "two.png")):
        result = CliRunner().invoke(
            image_app, [str(source), "-o", str(tmp_path / name), "-s", style, "--device", "cpu"]
        )
        assert result.exit_code == 0, result.output
    one, two = (cv2.imread(str(tmp_path / name)) for name in ("one.png", "two.png"))
    assert one.shape == photo.shape
    assert psnr(one, two) < 45
    assert psnr(one, photo[..., ::-1]) < 30


@pytest.mark.parametrize(
    ("style", "code", "message"),
    [
        ("missing.jpg", 3, "painting must be a readable file, got missing.jpg"),
        ("broken.png", 3, "must be a picture of at most 134 megapixels"),
        ("a.png:0,b.png:1", 2, "shares above 0"),
    ],
)
def test_the_command_says_what_is_wrong(
    tmp_path: Path, photo: Picture, monkeypatch: pytest.MonkeyPatch, style: str, code: int, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photo.png").write_bytes(encoded(photo))
    Path("broken.png").write_bytes(b"no picture")
    result = CliRunner().invoke(image_app, ["photo.png", "-o", "out.png", "-s", style])
    assert result.exit_code == code
    assert message in result.output
    assert not Path("out.png").exists()
