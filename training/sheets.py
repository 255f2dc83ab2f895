"""Labelled grids of pictures: contact sheets of an evaluation, sweeps of a setting."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np

from .decoding import WRITABLE, Picture
from .errors import TrainingError
from .whole_file import whole_file

_CAPTION = 24  # pixels, height of a line of text
_GAP = 4
_INK = (40, 40, 40)
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def contact_sheet(rows: Sequence[Sequence[tuple[str, Picture | None]]], *, cell: int = 320) -> Picture:
    """Rows of captioned pictures on white, each fitted into a square of `cell` pixels; None leaves a place empty.

    Captions must be ASCII; one too long for its cell is set smaller.
    """
    width = max(len(row) for row in rows) * (cell + _GAP) + _GAP
    height = len(rows) * (cell + _CAPTION + _GAP) + _GAP
    sheet = np.full((height, width, 3), 255, np.uint8)
    for y, row in enumerate(rows):
        for x, (caption, picture) in enumerate(row):
            top, left = _GAP + y * (cell + _CAPTION + _GAP), _GAP + x * (cell + _GAP)
            _write_text(sheet, caption, top, left, cell)
            if picture is not None:
                fitted = _fit(picture, cell)
                h, w = fitted.shape[:2]
                sheet[top + _CAPTION : top + _CAPTION + h, left : left + w] = fitted
    return sheet


def check_no_original(path: Path, originals: Iterable[Path]) -> None:
    """Refuse to replace a picture that is made from, whatever was said of overwriting.

    Raises:
        TrainingError: the file is one of them.
    """
    if path.exists() and any(original.exists() and path.samefile(original) for original in originals):
        raise TrainingError(f"{path} must not be one of the pictures that it is made from")


def check_target(path: Path, *, overwrite: bool) -> None:
    """Refuse what `write_picture` could not write, before hours of work.

    Raises:
        TrainingError: the file exists, or its folder does not.
        ValueError: its ending is not that of a picture.
    """
    if path.suffix.lower() not in WRITABLE:
        raise ValueError(f"a picture's name must end in one of {', '.join(WRITABLE)}, got {path}")
    if path.exists() and not overwrite:
        raise TrainingError(f"{path} must not exist yet; pass --overwrite to replace it")
    if not path.parent.is_dir():
        raise TrainingError(f"{path.parent} must be a folder")


def write_picture(path: Path, picture: Picture) -> None:
    """(H, W, 3) uint8 RGB to a file of the kind that its name says, whole or not at all.

    Raises:
        TrainingError: it cannot be written.
    """
    try:
        options = [cv2.IMWRITE_JPEG_QUALITY, 95] if path.suffix.lower() in {".jpg", ".jpeg"} else []
        is_encoded, encoded = cv2.imencode(path.suffix, picture[:, :, ::-1], options)
        if not is_encoded:
            raise TrainingError(f"cannot write {path}")
        with whole_file(path) as part:
            part.write_bytes(encoded.tobytes())  # OpenCV itself opens no names beyond ASCII on Windows
    except cv2.error as exc:
        raise TrainingError(f"cannot write {path}: {exc}") from exc
    except OSError as exc:
        raise TrainingError(f"cannot write {path}: {exc.strerror or exc}") from exc


def _fit(picture: Picture, cell: int) -> Picture:
    height, width = picture.shape[:2]
    scale = cell / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    resized = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    return np.asarray(resized, dtype=np.uint8)


def _write_text(sheet: Picture, text: str, top: int, left: int, width: int) -> None:
    scale = 0.5
    needed = cv2.getTextSize(text, _FONT, scale, 1)[0][0]
    scale = min(scale, scale * (width - 4) / max(1, needed))
    cv2.putText(sheet, text, (left + 2, top + _CAPTION - 8), _FONT, scale, _INK, 1, cv2.LINE_AA)
