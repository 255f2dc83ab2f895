"""Pictures from disk: style images, and endless seeded batches of random crops from a folder of photographs."""

import itertools
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .decoding import READABLE, decode_picture
from .decoding import Picture as Picture
from .errors import TrainingError

log = logging.getLogger(__name__)

_MAX_PIXELS = 178_956_970  # the bound at which Pillow speaks of a decompression bomb
_PREFETCH = 4  # batches decoded ahead; decoding a batch is ten times faster than a step


def read_picture(path: Path) -> Picture:
    """Any picture that OpenCV reads, as (H, W, 3) uint8 sRGB: grey, 16-bit, palette and other colour spaces are
    converted, transparency is laid on white, the camera's rotation is applied.

    Raises:
        TrainingError: missing, not a picture, damaged, or larger than 179 megapixels.
    """
    if path.exists() and not path.is_file():  # a named pipe would be waited for without end
        raise TrainingError(f"cannot read picture {path}: must be a file")
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise TrainingError(f"cannot read picture {path}: {exc.strerror or exc}") from exc
    try:
        return decode_picture(data, max_pixels=_MAX_PIXELS, name=path)
    except ValueError as exc:
        raise TrainingError(f"not a picture, or damaged: {path}") from exc


def resize_short_side(picture: Picture, size: int) -> Picture:
    """Resize so that the short side is `size` pixels: area averaging down, cubic up. (H, W, 3) uint8."""
    height, width = picture.shape[:2]
    scale = size / min(height, width)
    target = (max(1, round(width * scale)), max(1, round(height * scale)))
    resized = cv2.resize(picture, target, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    return np.asarray(resized, dtype=np.uint8)


def middle_square(picture: Picture, side: int) -> Picture:
    """The middle of a picture as (side, side, 3)."""
    resized = resize_short_side(picture, side)
    top, left = ((length - side) // 2 for length in resized.shape[:2])
    return np.ascontiguousarray(resized[top : top + side, left : left + side])


def to_tensor(picture: Picture) -> Tensor:
    """(H, W, 3) uint8 to (1, 3, H, W) float32 in [0, 255]."""
    return torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1))).float()[None]


def to_picture(tensor: Tensor) -> Picture:
    """(1, 3, H, W) or (3, H, W) float in [0, 255] to (H, W, 3) uint8, rounded and clamped."""
    chw = tensor.detach().float().squeeze(0).clamp(0, 255).round().to(torch.uint8).cpu()
    return np.ascontiguousarray(chw.permute(1, 2, 0).numpy())


def find_pictures(folder: Path) -> list[Path]:
    """All pictures below the folder by their names' endings, sorted.

    Raises:
        TrainingError: no such folder, or none in it.
    """
    if not folder.is_dir():
        raise TrainingError(f"folder of photographs not found: {folder}")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in READABLE and path.is_file())
    if not paths:
        raise TrainingError(f"no pictures ({', '.join(sorted(READABLE))}) in {folder}")
    return paths


def count_other_files(folder: Path) -> int:
    """Files below the folder that `find_pictures` leaves out, but for hidden ones, which systems put there unasked."""
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sum(
        path.suffix.lower() not in READABLE and not any(part.startswith(".") for part in path.parts) for path in files
    )


@dataclass
class PhotoCrops:
    """Random square crops, a pure function of seed and step: a resumed run sees what an uninterrupted one would.

    A photograph that cannot be read is skipped, remembered in `bad_files` and replaced by the next one.
    """

    paths: list[Path]
    batch_size: int
    crop_size: int
    """Pixels of a crop's side."""
    seed: int
    zoom: tuple[float, float] = (1.0, 1.6)
    """Short side, in crops, that a photograph is scaled to: marks must look right on near and far views of a thing."""
    bad_files: set[Path] = field(default_factory=set)

    def batches(self, start: int = 0) -> Iterator[Tensor]:
        """(N, 3, S, S) float32 in [0, 255] for step `start`, `start` + 1, …, decoded ahead in threads."""
        with ThreadPoolExecutor(_PREFETCH, thread_name_prefix="impasto-photos") as pool:
            steps = itertools.count(start)
            ahead = [pool.submit(self.batch, step) for step in itertools.islice(steps, _PREFETCH)]
            try:
                while True:
                    ahead.append(pool.submit(self.batch, next(steps)))
                    yield ahead.pop(0).result()
            finally:
                for future in ahead:
                    future.cancel()

    def batch(self, step: int) -> Tensor:
        """The crops of one step.

        Raises:
            TrainingError: not one of the photographs can be read.
        """
        return torch.cat([self._crop(step * self.batch_size + i) for i in range(self.batch_size)])

    def _crop(self, index: int) -> Tensor:
        epoch, position = divmod(index, len(self.paths))
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.paths))
        rng = np.random.default_rng([self.seed, index, 1])
        photo = self._read(order, position)
        photo = resize_short_side(photo, round(self.crop_size * rng.uniform(*self.zoom)))
        top = rng.integers(photo.shape[0] - self.crop_size + 1)
        left = rng.integers(photo.shape[1] - self.crop_size + 1)
        crop = photo[top : top + self.crop_size, left : left + self.crop_size]
        return to_tensor(crop[:, ::-1] if rng.random() < 0.5 else crop)

    def _read(self, order: npt.NDArray[np.int64], position: int) -> Picture:
        for shift in range(len(self.paths)):
            path = self.paths[order[(position + shift) % len(self.paths)]]
            if path in self.bad_files:
                continue
            try:
                return read_picture(path)
            except TrainingError as exc:
                log.warning("skipped: %s", exc)
                self.bad_files.add(path)
        raise TrainingError(f"none of the {len(self.paths)} photographs can be read")
