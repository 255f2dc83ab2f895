"""Pictures from the bytes of a file, for every package: this one imports nothing of ours. Needs no torch."""

import io
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]
"""(H, W, 3) uint8 RGB."""
READABLE = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".avif"})
"""What a picture's name ends in, where it must be told from other files by its name; in small letters."""
WRITABLE = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff")
"""What the name of a picture to write may end in."""
EXIF_ORIENTATION = 0x0112
"""Tag of the number that says how a picture is to be turned."""


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
            pixels = stream.height * stream.width  # 0 where FFmpeg gave up
    except (av.FFmpegError, IndexError, ValueError) as exc:
        if strangers:
            raise refused from exc
        return
    if not 0 < pixels <= max_pixels:
        raise refused


def decode_picture(data: bytes, *, max_pixels: int) -> Picture:
    """Any picture that OpenCV reads: upright, grey, 16 bits and palettes brought to RGB, transparency laid on white.

    Raises:
        ValueError: it is none, damaged, or larger than `max_pixels`.
    """
    import cv2

    buffer = np.frombuffer(data, np.uint8)
    try:
        raw = cv2.imdecode(buffer, cv2.IMREAD_UNCHANGED) if buffer.size else None
        if raw is None or not 0 < raw.shape[0] * raw.shape[1] <= max_pixels:
            raise ValueError(f"must be a picture of at most {max_pixels // 10**6} megapixels that can be read")
        if raw.ndim == 3 and raw.shape[2] == 4:
            return _on_white(upright(raw, data))
        # Only this flag applies EXIF rotation; it also makes grey and 16-bit into 8-bit BGR.
        bgr = cv2.imdecode(buffer, cv2.IMREAD_COLOR)
    except cv2.error as exc:
        raise ValueError(f"must be a picture that can be read: {exc.err}") from exc
    if bgr is None:
        raise ValueError("must be a picture that can be read")
    return np.ascontiguousarray(bgr[:, :, ::-1], dtype=np.uint8)


def upright(picture: npt.NDArray[Any], data: bytes) -> npt.NDArray[Any]:
    """What OpenCV reads of a PNG or WebP with its transparency, which it never turns as their EXIF block says."""
    number = _exif_orientation(data)
    if number > 4:
        picture = picture.swapaxes(0, 1)
    if number in (3, 4, 7, 8):
        picture = picture[::-1]
    if number in (2, 3, 6, 7):
        picture = picture[:, ::-1]
    return np.ascontiguousarray(picture)


def _exif_orientation(data: bytes) -> int:
    """1 to 8, as in TIFF; 1 where there is none, and of other files, which OpenCV turns by itself."""
    if data.startswith(b"\x89PNG"):
        _, found, rest = data.partition(b"eXIf")
    elif data[8:12] == b"WEBP":
        _, found, rest = data.partition(b"EXIF")
        rest = rest[4:].removeprefix(b"Exif\0\0")  # behind the chunk's size
    else:
        return 1
    if not found or rest[:4] not in (b"II*\0", b"MM\0*"):
        return 1
    order: Literal["little", "big"] = "little" if rest.startswith(b"II") else "big"
    begin = int.from_bytes(rest[4:8], order) + 2
    count = int.from_bytes(rest[begin - 2 : begin], order)
    for at in range(begin, begin + 12 * count, 12):
        if int.from_bytes(rest[at : at + 2], order) == EXIF_ORIENTATION:
            number = int.from_bytes(rest[at + 8 : at + 10], order)
            return number if number in range(1, 9) else 1
    return 1


def _on_white(bgra: npt.NDArray[Any]) -> Picture:
    full = np.iinfo(bgra.dtype).max if bgra.dtype.kind == "u" else 1.0  # OpenCV gives floats for HDR formats only
    values = bgra.astype(np.float32) / full
    alpha = values[:, :, 3:]
    rgb = values[:, :, 2::-1] * alpha + (1 - alpha)
    return np.ascontiguousarray(np.rint(rgb * 255).clip(0, 255), dtype=np.uint8)
