"""What a picture's file says of its pixels and OpenCV does not heed: colours, orientation, transparency, animation.

OpenCV gives profiles in its newer versions only (5.0 does, 4.11 does not), and none of TIFF and AVIF. Needs no torch.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

_ORIENTATION, _EXTRA_SAMPLES, _PROFILE = 0x0112, 338, 34_675  # tags of TIFF, and of EXIF blocks
_TYPE_SIZES = {1: 1, 3: 2, 4: 4, 7: 1}  # bytes of a number, by TIFF's type of it: those that these tags have
_LARGEST_PROFILE = 2**24
_MOST_SEGMENTS = 10_000
_NO_FILL = re.compile(rb"[^\xff]")
_TURNS_OF_AVIF = {None: (1, 8, 3, 6), 0: (4, 5, 2, 7), 1: (2, 7, 4, 5)}
"""EXIF's orientation by the axis of `imir` and the quarter turns of `irot`, which come first."""


@dataclass(frozen=True)
class Metadata:
    profile: bytes = b""
    """ICC; empty where there is none."""
    primaries: int = 0
    transfer: int = 0
    """Of ITU-T H.273; 0 where the file names none."""
    orientation: int = 1
    """What is left to do, as in EXIF: 1 to 8."""
    extra_samples: int = 0
    """Of TIFF: 1 where colours are multiplied by their transparency, 2 where they are not."""
    white: int = 65_535
    """Of pictures that come as uint16."""
    is_animation: bool = False


def read_metadata(data: bytes) -> Metadata:
    """Of JPEG, PNG, WebP, TIFF, AVIF and GIF; nothing of others, nor what is damaged in it."""
    if data.startswith(b"\xff\xd8"):
        return _of_jpeg(data)
    if data.startswith(b"\x89PNG"):
        return _of_png(data)
    if data[8:12] == b"WEBP":
        return _of_webp(data)
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return _of_tiff(data)
    if data[4:8] == b"ftyp":
        return _of_avif(data)
    return Metadata(is_animation=data.startswith(b"GIF8") and _has_second_picture(data))


def png_of_pixels(data: bytes) -> bytes:
    """A PNG without what does not change its pixels: libpng writes to stderr what it thinks of the rest.

    Raises:
        ValueError: a checksum is wrong, or its end is missing.
    """
    kept = [data[:8]]
    for name, begin, end in _png_chunks(data):
        if name[:1].isupper() or name == b"tRNS":
            chunk = data[begin - 8 : end + 4]
            if zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:], "big"):
                raise ValueError("checksum is wrong")
            kept.append(chunk)
        if name == b"IEND":
            return b"".join(kept)
    raise ValueError("end is missing")


def webp_canvas(data: bytes) -> int:
    """Pixels of an animated WebP's canvas, which FFmpeg does not say; 0 of other files."""
    if data[8:16] != b"WEBPVP8X" or len(data) < 30 or not data[20] & 2:
        return 0
    return (int.from_bytes(data[24:27], "little") + 1) * (int.from_bytes(data[27:30], "little") + 1)


def _of_jpeg(data: bytes) -> Metadata:
    exif, parts, at = b"", dict[int, bytes](), 2
    for _ in range(_MOST_SEGMENTS):
        marker = _NO_FILL.search(data, at)  # any number of FF stands before it
        if marker is None or marker.start() == at or marker[0] == b"\xda":
            break
        at = marker.end()
        size = int.from_bytes(data[at : at + 2], "big")
        body = data[at + 2 : at + size]
        if marker[0] == b"\xe1" and body.startswith(b"Exif\0\0"):
            exif = exif or body[6:]
        elif marker[0] == b"\xe2" and body.startswith(b"ICC_PROFILE\0") and len(body) > 14:
            parts[body[12]] = body[14:]
        at += max(size, 2)
    return Metadata(profile=b"".join(parts[number] for number in sorted(parts)), orientation=_orientation(exif))


def _of_png(data: bytes) -> Metadata:
    profile, exif, numbers, is_animation = b"", b"", b"", False
    for name, begin, end in _png_chunks(data):
        if name == b"iCCP" and not profile:
            packed = data[begin:end].partition(b"\0")[2][1:]
            try:
                profile = zlib.decompressobj().decompress(packed, _LARGEST_PROFILE)
            except zlib.error:
                profile = b"damaged"
        elif name == b"eXIf":
            exif = data[begin:end]
        elif name == b"cICP":
            numbers = data[begin:end]
        is_animation |= name == b"acTL"
    primaries, transfer = numbers[:2] if len(numbers) == 4 else (0, 0)
    if primaries:  # goes before the profile (PNG, third edition)
        profile = b""
    return Metadata(profile, primaries, transfer, _orientation(exif), is_animation=is_animation)


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    at = 8
    while at + 12 <= len(data):
        size, name = struct.unpack_from(">I4s", data, at)
        yield name, at + 8, at + 8 + size
        at += 12 + size


def _of_webp(data: bytes) -> Metadata:
    profile, exif, at = b"", b"", 12
    while at + 8 <= len(data):
        name, size = struct.unpack_from("<4sI", data, at)
        if name == b"ICCP":
            profile = data[at + 8 : at + 8 + size]
        elif name == b"EXIF":
            exif = data[at + 8 : at + 8 + size].removeprefix(b"Exif\0\0")
        at += 8 + size + size % 2
    return Metadata(profile, orientation=_orientation(exif), is_animation=bool(webp_canvas(data)))


def _of_tiff(data: bytes) -> Metadata:
    fields = _tiff_fields(data)
    # OpenCV itself turns it.
    return Metadata(fields.get(_PROFILE, b""), extra_samples=_number(fields.get(_EXTRA_SAMPLES, b""), data))


def _of_avif(data: bytes) -> Metadata:
    """By the first property of each kind: those of the alpha plane, where they differ, stand behind."""
    spans = dict[bytes, tuple[int, int]]()
    begin, end = 0, len(data)
    for wanted, skipped in ((b"meta", 4), (b"iprp", 0), (b"ipco", 0)):
        inside = {name: span for name, *span in _boxes(data, begin, end)}
        begin, end = inside.get(wanted, (0, 0))
        begin += skipped
    profile, primaries, transfer = b"", 0, 0
    for name, start, stop in _boxes(data, begin, end):
        if name == b"colr" and data[start : start + 4] in (b"prof", b"rICC"):
            profile = profile or data[start + 4 : stop]
        elif name == b"colr" and not primaries and stop - start >= 8:
            primaries, transfer = struct.unpack_from(">HH", data, start + 4)
        else:
            spans.setdefault(name, (start, stop))
    first = {name: data[start] for name, (start, stop) in spans.items() if stop > start}
    third = spans.get(b"av1C", (0, 0))[0] + 2
    depth = data[third] if b"av1C" in first and third < len(data) else 0
    return Metadata(
        profile,
        0 if profile else primaries,
        0 if profile else transfer,
        _TURNS_OF_AVIF[first[b"imir"] & 1 if b"imir" in first else None][first.get(b"irot", 0) & 3],
        white=4095 if depth & 0x20 else 1023,
        is_animation=data[8:12] == b"avis",
    )


def _boxes(data: bytes, begin: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    while begin + 8 <= end:
        size, name = struct.unpack_from(">I4s", data, begin)
        if size < 8:  # to the end, or of 64 bits: neither stands before the pixels
            return
        yield name, begin + 8, min(begin + size, end)
        begin += size


def _has_second_picture(gif: bytes) -> bool:
    def colours(flags: int) -> int:
        return 3 << (flags & 7) + 1 if flags & 0x80 else 0

    at, count = 13 + colours(int.from_bytes(gif[10:11])), 0
    while count < 2 and gif[at : at + 1] in (b"!", b","):
        is_picture = gif[at : at + 1] == b","
        count += is_picture
        at += 11 + colours(int.from_bytes(gif[at + 9 : at + 10])) if is_picture else 2
        while size := int.from_bytes(gif[at : at + 1]):
            at += 1 + size
        at += 1
    return count == 2


def _orientation(exif: bytes) -> int:
    number = _number(_tiff_fields(exif).get(_ORIENTATION, b""), exif)
    return number if number in range(1, 9) else 1


def _number(field: bytes, tiff: bytes) -> int:
    return int.from_bytes(field[:2], "little" if tiff.startswith(b"II") else "big")


def _tiff_fields(tiff: bytes) -> dict[int, bytes]:
    """What is read of the first directory: values by tag, as they stand there."""
    if tiff[:2] not in (b"II", b"MM"):
        return {}
    order: Literal["little", "big"] = "little" if tiff.startswith(b"II") else "big"

    def number(at: int, size: int) -> int:
        return int.from_bytes(tiff[at : at + size], order)

    wide = 8 if number(2, 2) == 43 else 4  # BigTIFF
    begin = number(8, 8) if wide == 8 else number(4, 4)
    head = 8 if wide == 8 else 2
    count = min(number(begin, head), 4096)
    fields = {}
    for at in range(begin + head, begin + head + (4 + 2 * wide) * count, 4 + 2 * wide):
        if (tag := number(at, 2)) in (_ORIENTATION, _EXTRA_SAMPLES, _PROFILE):
            size = _TYPE_SIZES.get(number(at + 2, 2), 0) * number(at + 4, wide)
            value = at + 4 + wide if size <= wide else number(at + 4 + wide, wide)
            fields[tag] = tiff[value : value + size]
    return fields
