"""Pictures from the bytes of a file, for every package: this one imports none of ours. Needs no torch."""

import io
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from .icc import space_of_numbers, space_of_profile, to_srgb
from .picture_metadata import Metadata, png_of_pixels, read_metadata, webp_canvas

log = logging.getLogger(__name__)

Picture = npt.NDArray[np.uint8]
"""(H, W, 3) uint8 sRGB."""
Alpha = npt.NDArray[np.uint8]
"""(H, W), 0 where nothing is to be seen."""
READABLE = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".avif"})
"""What a picture's name ends in, where it must be told from other files by its name; in small letters."""
WRITABLE = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff")
"""What the name of a picture to write may end in."""
_STRIP = 2**18  # pixels that are floats at a time
_BRIGHTEST = 16  # times white: floats of 0 to 255 are no light


def check_claim(data: bytes, *, max_pixels: int, strangers: bool) -> None:
    """Refuse a picture whose header claims more than `max_pixels`, before anything makes room for them.

    FFmpeg reads the header and gives up at that bound; OpenCV's own, 2^30 pixels, can only be moved before its import.

    Args:
        strangers: refuse what FFmpeg does not know, too; else it is left to OpenCV, which knows more kinds.

    Raises:
        ValueError: it claims more, or its header is damaged.
    """
    import av

    refused = ValueError(f"must be a picture of at most {max_pixels // 10**6} megapixels that can be read")
    try:
        with av.open(io.BytesIO(data), options={"max_pixels": str(max_pixels)}) as container:
            stream = container.streams.video[0]
            pixels = webp_canvas(data) or stream.height * stream.width  # 0 where FFmpeg gave up
    except (av.FFmpegError, IndexError, ValueError) as exc:
        if strangers:
            raise refused from exc
        return
    if not 0 < pixels <= max_pixels:
        raise refused


def decode(data: bytes, *, max_pixels: int, name: object) -> tuple[Picture, Alpha | None]:
    """Any picture that OpenCV reads, and its transparency: upright, in sRGB, grey and palettes brought to RGB, 16 bits
    to 8. What cannot be heeded is logged, with `name`.

    Colours become sRGB here and not in the file that is written, since networks and losses take everything for it.

    Raises:
        ValueError: it is none, damaged, or larger than `max_pixels`.
    """
    import cv2

    refused = ValueError("must be a picture that can be read")
    metadata = read_metadata(data)
    try:
        pixels = png_of_pixels(data) if data.startswith(b"\x89PNG") else data
        with _quiet_opencv():
            raw = cv2.imdecode(np.frombuffer(pixels, np.uint8), cv2.IMREAD_UNCHANGED) if pixels else None
    except (cv2.error, ValueError) as exc:
        raise refused from exc
    if raw is None or not raw.size or raw.shape[2:] not in ((), (3,), (4,)):
        raise refused
    if raw.shape[0] * raw.shape[1] > max_pixels:
        raise ValueError(f"must be a picture of at most {max_pixels // 10**6} megapixels")
    if raw.dtype.kind == "f":  # light beyond white is white
        if np.median(raw) > _BRIGHTEST:
            raise ValueError("must have values of 0 to 1 where they are no whole numbers")
        raw = np.rint(np.clip(np.nan_to_num(raw), 0, 1) * 255).astype(np.uint8)
    elif raw.dtype not in (np.uint8, np.uint16):
        raise refused
    if metadata.is_animation:
        _remark(f"{name} is an animation: only its first picture is taken")
    full = 255 if raw.dtype == np.uint8 else metadata.white
    alpha = None
    if raw.ndim == 3 and raw.shape[2] == 4:
        if metadata.extra_samples == 1 or (metadata.extra_samples == 2 and raw.dtype == np.uint8):
            raw = _divided(raw, full)  # libtiff multiplies those of 8 bits
        alpha = upright(_eight_bits(raw[..., 3], full), metadata.orientation)
    return upright(_rgb(raw, full, metadata, name), metadata.orientation), alpha


def decode_picture(data: bytes, *, max_pixels: int, name: object) -> Picture:
    """As `decode`, with transparency laid on white."""
    picture, alpha = decode(data, max_pixels=max_pixels, name=name)
    if alpha is not None and alpha.min() < 255:
        for rows in _strips(picture):
            weight = alpha[rows, :, np.newaxis] / np.float32(255)
            picture[rows] = np.rint(picture[rows] * weight + 255 * (1 - weight))
    return picture


def upright(picture: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    """Turned as EXIF's number says."""
    if orientation > 4:
        picture = picture.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        picture = picture[::-1]
    if orientation in (2, 3, 6, 7):
        picture = picture[:, ::-1]
    return np.ascontiguousarray(picture)


def _rgb(raw: npt.NDArray[Any], full: int, metadata: Metadata, name: object) -> Picture:
    import cv2

    space = None
    try:
        if metadata.profile:
            space = space_of_profile(metadata.profile)
        elif metadata.primaries:
            space = space_of_numbers(metadata.primaries, metadata.transfer)
    except ValueError as exc:
        _remark(f"{name}: colours are taken for sRGB, since {exc}")
    if raw.ndim == 3:
        raw = cv2.cvtColor(raw, cv2.COLOR_BGR2RGB if raw.shape[2] == 3 else cv2.COLOR_BGRA2RGB)
    rgb = _eight_bits(raw, full) if space is None else to_srgb(raw, space, full)
    return np.asarray(cv2.cvtColor(rgb, cv2.COLOR_GRAY2RGB) if rgb.ndim == 2 else rgb, np.uint8)


def _eight_bits(values: npt.NDArray[Any], full: int) -> npt.NDArray[np.uint8]:
    import cv2

    return np.asarray(values if full == 255 else cv2.convertScaleAbs(values, alpha=255 / full), np.uint8)


def _divided(bgra: npt.NDArray[Any], full: int) -> npt.NDArray[Any]:
    """With colours that are not multiplied by their transparency."""
    result = bgra.copy()
    for rows in _strips(bgra):
        alpha = np.maximum(bgra[rows, :, 3:], 1).astype(np.float32)
        result[rows, :, :3] = np.rint(np.minimum(bgra[rows, :, :3] * (full / alpha), full))
    return result


def _strips(picture: npt.NDArray[Any]) -> Iterator[slice]:
    rows = max(1, _STRIP // picture.shape[1])
    return (slice(top, top + rows) for top in range(0, picture.shape[0], rows))


@lru_cache(1024)
def _remark(text: str) -> None:
    """Once for each picture: training reads them again and again."""
    log.warning("%s", text)


_quiet_lock = threading.Lock()
_quiet_count = 0
_SILENT = 0
_opencv_level = _SILENT


@contextmanager
def _quiet_opencv() -> Iterator[None]:
    """What OpenCV logs of a damaged picture would stand beside our own line; pictures may be read by many threads."""
    import cv2

    global _quiet_count, _opencv_level
    set_level = cv2.setLogLevel if hasattr(cv2, "setLogLevel") else cv2.utils.logging.setLogLevel  # until 4, since 5
    with _quiet_lock:
        if _quiet_count == 0:
            _opencv_level = set_level(_SILENT)
        _quiet_count += 1
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_count -= 1
            if _quiet_count == 0:
                set_level(_opencv_level)
