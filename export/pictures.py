"""Photographs to prove and calibrate with."""

import logging
import math
from itertools import chain, islice
from pathlib import Path

import numpy as np

from ..training.decoding import READABLE
from .errors import ArtifactError
from .parity import Picture

log = logging.getLogger(__name__)

MAX_PIXELS = 2**20
"""Larger photographs are scaled down: a network in fp32 takes a gigabyte for each megapixel."""
_MAX_PIXELS_OF_FILE = 2**28  # as wherever pictures are read


def load_photographs(folder: Path, *, count: int) -> list[Picture]:
    """Up to `count` pictures below a folder, evenly spread over its names, of a megapixel at most; others stand in for
    damaged ones."""
    if not folder.is_dir():
        raise ArtifactError(f"--photos must be a folder of photographs, got {folder}")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in READABLE and path.is_file())
    if not paths:
        raise ArtifactError(f"--photos must be a folder with {', '.join(sorted(READABLE))} files, got {folder}")
    evenly = paths[:: max(1, len(paths) // count)][:count]
    others = (path for path in paths if path not in evenly)
    read = map(_read_picture, chain(evenly, others))
    pictures = list(islice((picture for picture in read if picture is not None), count))
    if not pictures:
        raise ArtifactError(f"--photos must be a folder of pictures that can be read, got {folder}")
    return pictures


def clip_frames(clip: Path, *, count: int) -> list[Picture]:
    """Up to `count` frames of a video, evenly spread."""
    import av

    if not clip.is_file():
        raise ArtifactError("photographs must be given, since the demo clip is not installed: pass --photos DIR")
    with av.open(str(clip)) as container:
        frames = [frame.to_ndarray(format="rgb24").astype(np.uint8) for frame in container.decode(video=0)]
    return frames[:: max(1, len(frames) // count)][:count]


def crop_to_stride(picture: Picture, stride: int) -> Picture:
    """The top left part whose sides are multiples of `stride`."""
    height, width = (size - size % stride for size in picture.shape[:2])
    if not height or not width:
        raise ValueError(f"a picture must be at least {stride}x{stride}, got {picture.shape[1]}x{picture.shape[0]}")
    return np.ascontiguousarray(picture[:height, :width])


def _read_picture(path: Path) -> Picture | None:
    import cv2

    from ..training.decoding import decode_picture

    try:
        picture = decode_picture(path.read_bytes(), max_pixels=_MAX_PIXELS_OF_FILE, name=path)
    except (OSError, ValueError):
        log.warning("skipped: not a picture, or damaged: %s", path)
        return None
    scale = math.sqrt(MAX_PIXELS / (picture.shape[0] * picture.shape[1]))
    if scale < 1:
        height, width = (max(1, int(side * scale)) for side in picture.shape[:2])
        return np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    return picture
