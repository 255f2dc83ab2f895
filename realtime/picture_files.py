"""Pictures on disk: read upright, painted by the same styles as videos, written beside the original."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import cast

import numpy as np

from ..training.decoding import READABLE, WRITABLE, Alpha, check_claim, decode
from ..training.whole_file import whole_file
from .errors import SinkError, SourceError
from .frame import Frame, Picture
from .look import FilmStylizer
from .size import parse_size

JPEG_QUALITY = 95
"""Below this, 8x8 blocks show in the flat parts of a painting."""
MAX_PIXELS = 2**28
"""A header that claims more is damaged or hostile: 805 MB as RGB."""
LARGEST_SIDES = {".webp": 16_383, ".jpg": 65_500, ".jpeg": 65_500}
"""In pixels; where the format, or the library behind it, has a bound."""


@dataclass(frozen=True)
class StillPicture:
    """A picture read from disk."""

    data: Picture
    """(H, W, 3) uint8 sRGB, upright."""
    alpha: Alpha | None = None
    """(H, W) uint8, where the file has transparency."""


def find_pictures(sources: Sequence[str | Path]) -> list[tuple[Path, Path]]:
    """Every picture of files and folders (with what is inside them), and its path below the folder it was found in.

    Raises:
        SourceError: a source is missing, or a folder holds no picture.
    """
    found: list[tuple[Path, Path]] = []
    for source in map(Path, sources):
        if source.is_dir():
            inside = [path for path in sorted(source.rglob("*")) if path.suffix.lower() in READABLE and path.is_file()]
            if not inside:
                raise SourceError(f"folder must hold pictures ({', '.join(sorted(READABLE))}), got none in {source}")
            found += [(path, path.relative_to(source)) for path in inside]
        elif source.is_file():
            found.append((source, Path(source.name)))
        else:
            raise SourceError(f"input must exist, got {source}")
    return found


def read_picture(path: Path) -> StillPicture:
    """A picture upright, in sRGB, its transparency apart, 16 bits brought to 8."""
    try:
        content = path.read_bytes()
    except OSError as exc:
        raise SourceError(f"input must be readable, got {path}: {exc.strerror}") from exc
    try:
        check_claim(content, max_pixels=MAX_PIXELS, strangers=False)
        return StillPicture(*decode(content, max_pixels=MAX_PIXELS, name=path))
    except ValueError as exc:
        raise SourceError(f"{path} {exc}") from exc


def resized(picture: StillPicture, size: str | None) -> StillPicture:
    """At another size, as `size.parse_size` reads it; None leaves it."""
    import cv2

    if size is None:
        return picture
    height, width = parse_size(size, *picture.data.shape[:2])
    shrinks = height * width < picture.data.shape[0] * picture.data.shape[1]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    data = cast(Picture, cv2.resize(picture.data, (width, height), interpolation=how))
    alpha = picture.alpha
    alpha = None if alpha is None else cast(Alpha, cv2.resize(alpha, (width, height), interpolation=how))
    return StillPicture(data, alpha)


def paint_picture(picture: StillPicture, stylizer: FilmStylizer) -> StillPicture:
    """The painting of a picture; transparency stays."""
    stylizer.reset()
    return StillPicture(stylizer(Frame(np.ascontiguousarray(picture.data), Fraction(0))).data, picture.alpha)


def write_picture(picture: StillPicture, path: Path, *, overwrite: bool = False) -> None:
    """Write by the suffix; whole or not at all. Transparency only where the format has it."""
    import cv2

    check_picture_target(path, overwrite=overwrite)
    check_sides(path, picture)
    bgr = cv2.cvtColor(picture.data, cv2.COLOR_RGB2BGR)
    if picture.alpha is not None and path.suffix.lower() not in (".jpg", ".jpeg"):
        bgr = np.dstack([bgr, picture.alpha])
    flags = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if path.suffix.lower() in (".jpg", ".jpeg") else []
    try:
        is_encoded, encoded = cv2.imencode(path.suffix, bgr, flags)
    except cv2.error as exc:
        raise SinkError(f"{path} cannot be written: {exc.err}") from exc
    if not is_encoded:
        raise SinkError(f"{path} cannot be written: {path.suffix} does not take this picture")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as part:
            part.write_bytes(encoded.tobytes())
    except OSError as exc:
        raise SinkError(f"{path} cannot be written: {exc.strerror}") from exc


def check_picture_target(path: Path, *, overwrite: bool) -> None:
    """Refuse a target that cannot be written, before any work is done."""
    if path.suffix.lower() not in WRITABLE:
        raise SinkError(f"output must end in one of {', '.join(WRITABLE)}, got {path.name}")
    if os.path.lexists(path) and not overwrite:
        raise SinkError(f"output must not exist yet, got {path}; --overwrite replaces it")


def check_sides(path: Path, picture: StillPicture) -> None:
    """Refuse a picture that is too large for the format."""
    height, width = picture.data.shape[:2]
    largest = LARGEST_SIDES.get(path.suffix.lower())
    if largest is not None and max(height, width) > largest:
        raise SinkError(
            f"{path.suffix} must have sides of at most {largest} pixels, got {width}x{height}; .png takes larger ones"
        )


def picture_targets(
    found: Sequence[tuple[Path, Path]], output: Path | None, style: str, *, is_folder: bool
) -> Iterator[tuple[Path, Path]]:
    """Each picture with where its painting goes: `in.mosaic.jpg` beside it, or the same tree below a folder.

    What such a run made before is no picture to paint again: an `in.mosaic.jpg` beside its `in.jpg`, and whatever lies
    in an output folder inside the folder that is gone through.
    """
    beside = {path: path.with_name(f"{path.stem}.{style}{_writable_suffix(path)}") for path, _ in found}
    made = set(beside.values())
    for path, relative in found:
        if output is None:
            if path not in made:
                yield path, beside[path]
        elif is_folder:
            within = path.parents[len(relative.parts) - 1]
            if not (_is_inside(output, within) and _is_inside(path, output)):
                yield path, output / relative.with_suffix(_writable_suffix(path))
        else:
            yield path, output


def _writable_suffix(path: Path) -> str:
    return path.suffix if path.suffix.lower() in WRITABLE else ".png"


def _is_inside(path: Path, folder: Path) -> bool:
    return folder.resolve() in path.resolve().parents
