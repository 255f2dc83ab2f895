"""Pictures from the bytes of a file: colour profiles, transparency, rotation, animations and damage."""

import io
import logging
import struct
import time
import zlib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from impasto.export.pictures import load_photographs
from impasto.realtime.paintings import read_painting
from impasto.realtime.picture_files import read_picture
from impasto.realtime.stability import PictureFolder
from impasto.training.decoding import decode, decode_picture
from impasto.training.picture_metadata import read_metadata

from .conftest import exif_block
from .test_paintings import png_chunk

HAS_AVIF = cv2.haveImageWriter("x.avif")


# Profiles and the files that have them


def fixed(*values: float) -> bytes:
    """Numbers of a profile: s15Fixed16."""
    return struct.pack(f">{len(values)}i", *(round(value * 65_536) for value in values))


def gamma(exponent: float) -> bytes:
    return b"curv\0\0\0\0\0\0\0\1" + struct.pack(">H", round(exponent * 256))


def table(exponent: float, count: int) -> bytes:
    numbers = [round(65_535 * (x / (count - 1)) ** exponent) for x in range(count)]
    return b"curv\0\0\0\0" + struct.pack(f">I{count}H", count, *numbers)


def formula(kind: int, *parameters: float) -> bytes:
    return b"para\0\0\0\0" + struct.pack(">Hxx", kind) + fixed(*parameters)


def profile(curve: bytes, *columns: tuple[float, float, float], kind: bytes = b"RGB ") -> bytes:
    """An ICC profile for screens; of grey if it has no columns."""
    tags = {
        name: b"XYZ \0\0\0\0" + fixed(*xyz) for name, xyz in zip((b"rXYZ", b"gXYZ", b"bXYZ"), columns, strict=False)
    }
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC") if columns else (b"kTRC",), curve)
    directory, content, begin = b"", b"", 132 + 12 * len(tags)
    for name, tag in tags.items():
        directory += struct.pack(">4sII", name, begin + len(content), len(tag))
        content += tag + bytes(-len(tag) % 4)
    head = struct.pack(">I4xI4s4s4s12x4s", begin + len(content), 0x04000000, b"mntr", kind, b"XYZ ", b"acsp")
    head = head.ljust(68, b"\0") + fixed(0.9642, 1, 0.8249)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + directory + content


SRGB_CURVE = formula(3, 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
SRGB = profile(SRGB_CURVE, (0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.7141))
P3_COLUMNS = (0.51512, 0.2412, -0.00105), (0.29198, 0.69225, 0.04189), (0.1571, 0.06657, 0.78407)
DISPLAY_P3 = profile(SRGB_CURVE, *P3_COLUMNS)
ADOBE_RGB = profile(
    gamma(2.19921875), (0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457)
)
PROPHOTO = profile(gamma(1.80078125), (0.79767, 0.28804, 0), (0.13519, 0.71188, 0), (0.03134, 0.00009, 0.82491))
GREY = profile(gamma(2.19921875), kind=b"GRAY")
PRINTER = profile(gamma(1), kind=b"CMYK")
DAMAGED = DISPLAY_P3[:200]
LUT = PRINTER.replace(b"CMYK", b"RGB ").replace(b"kTRC", b"A2B0")

RAW = (200, 100, 50)
IN_SRGB = (215, 93, 31)
"""What RAW in Display P3 is; by LittleCMS 2.19, as the other numbers here."""


def flat(colour: tuple[int, ...] = RAW, kind: type = np.uint8) -> np.ndarray:
    return np.full((16, 24, len(colour)), colour, kind) * (257 if kind is np.uint16 else 1)


def encoded(rgb: np.ndarray, suffix: str, *options: int) -> bytes:
    channels = rgb if rgb.ndim == 2 else rgb[..., [2, 1, 0, 3][: rgb.shape[2]]]
    return cv2.imencode(suffix, channels, options)[1].tobytes()


def png(rgb: np.ndarray, *chunks: tuple[bytes, bytes]) -> bytes:
    whole = encoded(rgb, ".png")
    return whole[:33] + b"".join(png_chunk(*chunk) for chunk in chunks) + whole[33:]


def png_with(icc: bytes, rgb: np.ndarray | None = None) -> bytes:
    return png(flat() if rgb is None else rgb, (b"iCCP", b"a name\0\0" + zlib.compress(icc)))


def jpeg_with(icc: bytes) -> bytes:
    """In two segments, the second first."""
    whole, half = encoded(flat(), ".jpg", cv2.IMWRITE_JPEG_QUALITY, 100), len(icc) // 2
    parts = [b"ICC_PROFILE\0" + bytes([n, 2]) + part for n, part in ((2, icc[half:]), (1, icc[:half]))]
    return whole[:2] + b"".join(b"\xff\xe2" + struct.pack(">H", len(part) + 2) + part for part in parts) + whole[2:]


def riff(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)


def webp_of(rgb: np.ndarray, flags: int, *chunks: bytes) -> bytes:
    sides = b"".join((side - 1).to_bytes(3, "little") for side in (rgb.shape[1], rgb.shape[0]))
    return riff(b"RIFF", b"WEBP" + riff(b"VP8X", bytes([flags, 0, 0, 0]) + sides) + b"".join(chunks))


def webp_with(icc: bytes) -> bytes:
    pixels = encoded(flat(), ".webp", cv2.IMWRITE_WEBP_QUALITY, 101)[12:]
    return webp_of(flat(), 0x20, riff(b"ICCP", icc), pixels)


def tiff(rgb: np.ndarray, *, extra: int | None = None, icc: bytes = b"", order: str = "<") -> bytes:
    height, width, channels = rgb.shape
    bits = 8 * rgb.itemsize
    pixels = rgb.astype(rgb.dtype.newbyteorder(order)).tobytes()
    fields: list[tuple[int, int, list[int] | bytes]] = [
        *((256, 3, [width]), (257, 3, [height]), (258, 3, [bits] * channels), (259, 3, [1]), (262, 3, [2])),
        *((273, 4, [8]), (277, 3, [channels]), (278, 3, [height]), (279, 4, [len(pixels)])),
    ]
    fields += [(338, 3, [extra])] if extra is not None else []
    fields += [(34_675, 7, icc)] if icc else []
    beyond = 8 + len(pixels) + 2 + 12 * len(fields) + 4
    directory, rest = struct.pack(f"{order}H", len(fields)), b""
    for tag, kind, values in fields:
        value = (
            values
            if isinstance(values, bytes)
            else struct.pack(f"{order}{len(values)}{'H' if kind == 3 else 'I'}", *values)
        )
        directory += struct.pack(f"{order}HHI", tag, kind, len(values))
        if len(value) > 4:
            directory += struct.pack(f"{order}I", beyond + len(rest))
            rest += value + bytes(len(value) % 2)
        else:
            directory += value.ljust(4, b"\0")
    head = struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", 42, 8 + len(pixels))
    return head + pixels + directory + bytes(4) + rest


def avif(rgb: np.ndarray, *, depth: int = 8, **instead_of_colours: bytes) -> bytes:
    """With another property, of at most 11 bytes, in the place of the one that names the colours."""
    whole = encoded(rgb, ".avif", cv2.IMWRITE_AVIF_QUALITY, 100, cv2.IMWRITE_AVIF_DEPTH, depth)
    assert whole.count(b"\0\0\0\x13colrnclx") == 1
    for name, content in instead_of_colours.items():
        at = whole.index(b"colrnclx")
        whole = whole[:at] + name.encode() + content.ljust(11, b"\0") + whole[at + 15 :]
        at = whole.index(b"ipma")
        whole = whole[: at + 18] + b"\x84" + whole[at + 19 :]  # must be heeded
    return whole


def avif_of_numbers(primaries: int, transfer: int) -> bytes:
    """Its colours named by H.273."""
    whole = encoded(flat(), ".avif", cv2.IMWRITE_AVIF_QUALITY, 100)
    at = whole.index(b"nclx") + 4
    return whole[:at] + struct.pack(">HH", primaries, transfer) + whole[at + 4 :]


def read(data: bytes, name: str = "x") -> np.ndarray:
    return decode_picture(data, max_pixels=2**20, name=name)


# Colours


@pytest.mark.parametrize(
    ("icc", "colours"),
    [
        (DISPLAY_P3, {RAW: IN_SRGB, (255, 0, 0): (255, 0, 0), (10, 20, 30): (7, 20, 31), (255,) * 3: (255,) * 3}),
        (ADOBE_RGB, {RAW: (227, 100, 42), (10, 20, 30): (0, 12, 24), (128,) * 3: (129,) * 3}),
        (PROPHOTO, {RAW: (255, 80, 46), (10, 20, 30): (0, 28, 42)}),
        (profile(gamma(1), *P3_COLUMNS), {RAW: (240, 165, 114), (10, 20, 30): (49, 80, 98)}),
        (profile(table(2.2, 1024), *P3_COLUMNS), {RAW: (216, 93, 24), (10, 20, 30): (1, 12, 25)}),
        (profile(formula(0, 2.2), *P3_COLUMNS), {RAW: (216, 93, 24), (10, 20, 30): (1, 12, 25)}),
        (profile(formula(1, 2.4, 1 / 1.1, 0.1 / 1.1), *P3_COLUMNS), {RAW: (217, 100, 43), (10, 20, 30): (17, 30, 40)}),
        (profile(formula(2, 2.4, 0.9, 0.05, 0.04), *P3_COLUMNS), {RAW: (209, 103, 65), (10, 20, 30): (58, 61, 65)}),
        (SRGB, {RAW: RAW, (10, 20, 30): (10, 20, 30), (0, 255, 0): (0, 255, 0)}),
    ],
    ids=["Display P3", "Adobe RGB", "ProPhoto", "linear", "table", "formula 0", "formula 1", "formula 2", "sRGB"],
)
def test_colours_become_srgb_by_the_profile(icc: bytes, colours: dict[tuple[int, ...], tuple[int, ...]]) -> None:
    values = np.array([list(colours)] * 16, np.uint8)
    for picture in (values, values.astype(np.uint16) * 257):
        difference = read(png_with(icc, picture)).astype(int) - [list(colours.values())] * 16
        assert np.abs(difference).max() <= 1


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(lambda: png_with(DISPLAY_P3), id="PNG"),
        pytest.param(
            lambda: png(flat(), (b"cICP", bytes([12, 13, 0, 1])), (b"iCCP", b"x\0\0damaged")), id="PNG by numbers"
        ),
        pytest.param(lambda: jpeg_with(DISPLAY_P3), id="JPEG"),
        pytest.param(lambda: webp_with(DISPLAY_P3), id="WebP"),
        pytest.param(lambda: tiff(flat(), icc=DISPLAY_P3), id="TIFF"),
        pytest.param(lambda: tiff(flat(kind=np.uint16), icc=DISPLAY_P3, order=">"), id="TIFF of 16 bits"),
        pytest.param(lambda: tiff(flat((*RAW, 255)), icc=DISPLAY_P3, extra=2), id="TIFF with transparency"),
        pytest.param(
            lambda: avif_of_numbers(12, 13),
            id="AVIF",
            marks=pytest.mark.skipif(not HAS_AVIF, reason="OpenCV without it"),
        ),
    ],
)
def test_profiles_are_found_in_every_kind_of_file(data: Callable[[], bytes], caplog: pytest.LogCaptureFixture) -> None:
    # JPEG and AVIF come back a level or two off, and the conversion makes more of it.
    assert np.abs(read(data()).astype(int) - IN_SRGB).max() <= 3
    assert not caplog.records


def test_grey_profiles() -> None:
    grey = np.tile(np.array([0, 10, 64, 128, 255], np.uint8), (16, 1))
    expected = np.array([0, 3, 62, 129, 255])
    assert np.abs(read(png_with(GREY, grey))[0].astype(int) - expected[:, None]).max() <= 1


def test_sixteen_bits_are_not_rounded_before_the_conversion() -> None:
    """ProPhoto's steps of 8 bits are wider than sRGB's: a ramp of 16 has all levels nevertheless."""
    ramp = np.repeat(np.linspace(0, 65_535, 4096).astype(np.uint16)[None, :, None], 3, axis=2)
    assert len(np.unique(read(png_with(PROPHOTO, np.repeat(ramp, 2, axis=0))))) == 256


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (png_with(PRINTER), "not for RGB, but 'CMYK'"),
        (png_with(LUT), "lookup tables"),
        (png_with(DAMAGED), "damaged"),
        (png_with(profile(SRGB_CURVE, (0, 0, 0), (0, 0, 0), (0, 0, 0))), "white would not be white"),
        (png_with(profile(b"curv\0\0\0\0" + struct.pack(">I2H", 2, 0, 0), *P3_COLUMNS)), "white would not be white"),
        (png(flat(), (b"iCCP", b"x\0\0this is not packed")), "not for RGB"),
        (png(flat(), (b"cICP", bytes([9, 16, 0, 1]))), "HDR"),
    ],
    ids=["printer", "lookup tables", "damaged", "black columns", "black curve", "not packed", "HDR"],
)
def test_colours_that_are_not_read_are_taken_for_srgb_and_said_once(
    data: bytes, reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        assert (read(data, name=str(tmp_path)) == RAW).all()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert caplog.text.count(str(tmp_path)) == 1
    assert reason in caplog.text


def test_everything_that_reads_pictures_heeds_profiles(tmp_path: Path) -> None:
    path = tmp_path / "1.png"
    path.write_bytes(png_with(DISPLAY_P3))
    pictures = [
        read_picture(path).data,
        read_painting(path.read_bytes(), where="mine"),
        *load_photographs(tmp_path, count=1),
        *(frame.data for frame in PictureFolder(tmp_path)),
    ]
    assert len(pictures) == 4
    assert all((np.abs(picture.astype(int) - IN_SRGB) <= 1).all() for picture in pictures)


# Transparency and rotation


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize(("extra", "stored"), [(2, RAW), (1, (100, 50, 25)), (0, RAW), (None, RAW)])
def test_a_tiff_with_transparency_is_not_darkened(extra: int | None, stored: tuple[int, ...], kind: type) -> None:
    """2: colours as they are, as paint programs save them; 1: multiplied by the transparency of 128."""
    picture, alpha = decode(tiff(flat((*stored, 128), kind), extra=extra), max_pixels=2**20, name="x")
    assert np.abs(picture.astype(int) - RAW).max() <= 1
    assert alpha is not None
    assert (alpha == 128).all()


def test_what_nothing_is_seen_of_may_have_any_colour() -> None:
    half = flat((*RAW, 255))
    half[:, :8, 3] = 0
    assert (read(tiff(half, extra=2))[:, :8] == 255).all()


@pytest.mark.skipif(not HAS_AVIF, reason="OpenCV without AVIF")
@pytest.mark.parametrize(
    ("properties", "turned"),
    [
        ({"irot": b"\1"}, lambda picture: np.rot90(picture, 1)),
        ({"irot": b"\2"}, lambda picture: np.rot90(picture, 2)),
        ({"irot": b"\3"}, lambda picture: np.rot90(picture, 3)),
        ({"imir": b"\0"}, np.flipud),
        ({"imir": b"\1"}, np.fliplr),
    ],
    ids=str,
)
def test_avif_comes_upright(properties: dict[str, bytes], turned: Callable[[np.ndarray], np.ndarray]) -> None:
    """`irot` counts quarter turns anticlockwise, `imir` says whether top and bottom (0) or the sides are exchanged."""
    corners = flat()
    corners[:8, :12], corners[8:, 12:] = (250, 240, 20), (10, 20, 200)
    np.testing.assert_array_equal(read(avif(corners, **properties)), turned(read(avif(corners, irot=b"\0"))))


@pytest.mark.skipif(not HAS_AVIF, reason="OpenCV without AVIF")
@pytest.mark.parametrize("depth", [10, 12])
def test_avif_of_more_bits(depth: int) -> None:
    picture = (flat((*RAW, 128)).astype(np.uint16) << depth - 8) + (1 << depth - 9)
    whole = encoded(picture, ".avif", cv2.IMWRITE_AVIF_QUALITY, 100, cv2.IMWRITE_AVIF_DEPTH, depth)
    read, alpha = decode(whole, max_pixels=2**20, name="x")
    assert np.abs(read.astype(int) - RAW).max() <= 2
    assert alpha is not None
    assert np.abs(alpha.astype(int) - 128).max() <= 1


@pytest.mark.parametrize("fill", [0, 1, 2, 2**22])
def test_metadata_of_a_jpeg_stand_behind_any_number_of_fill_bytes(fill: int) -> None:
    """Before every marker there may be as many FF as one likes; of two EXIF blocks the first counts."""
    plain = encoded(flat(), ".jpg", cv2.IMWRITE_JPEG_QUALITY, 100)
    blocks = [b"Exif\0\0" + exif_block(orientation) for orientation in (6, 3)]
    segments = [b"\xff" * fill + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block for block in blocks]
    began = time.process_time()
    found = read_metadata(plain[:2] + b"".join(segments) + plain[2:])
    assert found.orientation == 6
    assert time.process_time() - began < 2  # byte for byte it was 8


def test_a_webp_may_begin_its_exif_block_as_a_jpeg_does() -> None:
    for before in (b"", b"Exif\0\0"):
        assert read_metadata(webp_of(flat(), 8, riff(b"EXIF", before + exif_block(6)))).orientation == 6


def test_floats_beyond_white_are_no_white_picture() -> None:
    light = np.full((16, 24, 3), 0.5, np.float32)
    light[:2] = 4.0  # a lamp
    assert set(np.unique(read(encoded(light, ".tiff")))) == {128, 255}
    with pytest.raises(ValueError, match="0 to 1"):
        read(encoded(light * 255, ".tiff"))


# Animations


def animated_webp() -> bytes:
    pixels = encoded(flat(), ".webp", cv2.IMWRITE_WEBP_QUALITY, 101)[12:]
    sides = b"".join((side - 1).to_bytes(3, "little") for side in (24, 16))
    frame = riff(b"ANMF", bytes(6) + sides + (100).to_bytes(3, "little") + b"\0" + pixels)
    return webp_of(flat(), 2, riff(b"ANIM", bytes(6)), frame, frame)


def animated_gif(count: int = 2) -> bytes:
    target = io.BytesIO()
    with av.open(target, "w", format="gif") as container:
        stream = container.add_stream("gif", rate=Fraction(10), width=24, height=16)
        assert isinstance(stream, av.VideoStream)
        stream.pix_fmt = "rgb8"
        for number in range(count):
            picture = flat() if number % 2 == 0 else 255 - flat()
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return target.getvalue()


def animated_avif(folder: Path) -> bytes:
    animation = cv2.Animation()
    animation.frames, animation.durations = [flat()[..., ::-1].copy(), 255 - flat()], [100, 100]
    cv2.imwriteanimation(str(folder / "a.avif"), animation)
    return (folder / "a.avif").read_bytes()


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(lambda _: animated_webp(), id="WebP"),
        pytest.param(lambda _: png(flat(), (b"acTL", struct.pack(">II", 2, 0))), id="PNG"),
        pytest.param(
            lambda _: animated_gif(),
            id="GIF",
            marks=pytest.mark.skipif(not cv2.haveImageWriter("x.gif"), reason="OpenCV without GIF"),
        ),
        pytest.param(animated_avif, id="AVIF", marks=pytest.mark.skipif(not HAS_AVIF, reason="OpenCV without AVIF")),
    ],
)
def test_of_an_animation_the_first_picture_is_taken_and_said_so(
    data: Callable[[Path], bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "moving").write_bytes(data(tmp_path))
    picture = read_picture(tmp_path / "moving").data
    assert picture.shape == (16, 24, 3)
    assert np.abs(picture.astype(int) - RAW).max() <= 60  # GIF's colours are few
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / 'moving'} is an animation: only its first picture is taken"
    ]


def test_one_picture_is_no_animation(caplog: pytest.LogCaptureFixture) -> None:
    read(webp_with(SRGB))
    if cv2.haveImageWriter("x.gif"):
        read(animated_gif(1))
    assert not caplog.records


# Damage


def flipped(data: bytes, *, at: float) -> bytes:
    place = int(len(data) * at)
    return data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :]


NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "data",
    [
        flipped(encoded(NOISE, ".png"), at=0.5),
        encoded(NOISE, ".png")[:-2000],
        tiff(NOISE)[:-2000],
        encoded(NOISE, ".bmp")[:-2000],
        encoded(NOISE, ".webp")[:-2000],
        encoded(NOISE, ".tif")[:-2000],
    ],
    ids=["flipped PNG", "cut PNG", "cut TIFF", "cut BMP", "cut WebP", "cut packed TIFF"],
)
def test_nothing_but_our_line_is_said_of_a_damaged_picture(data: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    """Neither by libpng nor by OpenCV, which write to stderr by themselves."""
    with pytest.raises(ValueError, match="must be a picture"):
        read(data)
    assert capfd.readouterr() == ("", "")


def test_nothing_is_said_of_what_a_picture_does_not_need(capfd: pytest.CaptureFixture[str]) -> None:
    odd = [(b"iCCP", b"x\0\0damaged"), (b"tEXt", b"\0"), (b"bKGD", b"far too long"), (b"eXIf", b"?")]
    assert (read(png(flat(), *odd)) == RAW).all()
    assert capfd.readouterr().err == ""
