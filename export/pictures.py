"""Photographs to prove and calibrate with."""

from pathlib import Path

import numpy as np

from .errors import ArtifactError
from .parity import Picture

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})


def load_photographs(folder: Path, *, count: int) -> list[Picture]:
    """Up to `count` pictures of a folder, evenly spread over its names."""
    if not folder.is_dir():
        raise ArtifactError(f"--photos must be a folder of photographs, got {folder}")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise ArtifactError(f"--photos must be a folder with {', '.join(sorted(SUFFIXES))} files, got {folder}")
    step = max(1, len(paths) // count)
    return [_read_picture(path) for path in paths[::step][:count]]


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


def _read_picture(path: Path) -> Picture:
    import cv2

    picture = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
    if picture is None:
        raise ArtifactError(f"{path} must be a picture that can be read")
    return picture.astype(np.uint8, copy=False)
