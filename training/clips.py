"""Steadiness learned from real clips: two frames of a film, painted, must agree along its motion.

The second stage beside the made-up motion of `motion.py`: real occlusions, compression and changes of light. Motion is
estimated on the *input* by DIS (Kroeger et al. 2016, arXiv 1603.03590) as OpenCV has it, and pixels that cannot be
followed are left out, as Ruder et al. 2016 (arXiv 1604.08610, equations 5 and 6) do.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from .data import Picture, resize_short_side, to_tensor
from .errors import TrainingError

log = logging.getLogger(__name__)

CLIP_SUFFIXES = frozenset({".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".gif"})
GAPS = (1, 2, 4)
"""Frames between the two of a pair, in turn: flicker from frame to frame, and what creeps."""
MAX_PAIRS = 240
"""Over all clips: 1.2 MB each at a crop of 256."""
PAIRS_A_CLIP = 24
LEAST_FOLLOWED = 0.5
"""Share of the pixels that must be followed; less is a cut, or motion that DIS cannot see."""
_ROOM = 1.25  # short side of a kept frame in crops: room to crop at random

_Flow = npt.NDArray[np.float16]
_Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class ClipPair:
    """Two frames of a clip."""

    first: Picture
    """(H, W, 3) uint8."""
    second: Picture
    flow: _Flow
    """(H, W, 2) pixels: what stands at x in the first stands at x + flow(x) in the second."""
    followed: _Mask
    """(H, W): pixels of the first that are seen in both and on no motion boundary."""


@dataclass(frozen=True)
class ClipBatch:
    """Crops of pairs, the same place of both frames."""

    first: Tensor
    """(N, 3, S, S) float32 in [0, 255]."""
    second: Tensor
    grid: Tensor
    """(N, S, S, 2) in [-1, 1] as grid_sample takes it: where each pixel of the first is found in the second."""
    followed: Tensor
    """(N, 1, S, S) in {0, 1}: pixels of the first that are found there."""

    def part(self, first: int, step: int) -> "ClipBatch":
        """Every `step`-th pair from `first` on; may be empty."""
        return ClipBatch(*(x[first::step] for x in (self.first, self.second, self.grid, self.followed)))

    def to(self, device: torch.device) -> "ClipBatch":
        return ClipBatch(*(x.to(device) for x in (self.first, self.second, self.grid, self.followed)))


@dataclass(frozen=True)
class ClipPairs:
    """Random square crops of pairs of frames, a pure function of seed and step."""

    pairs: tuple[ClipPair, ...]
    crop_size: int
    seed: int

    @classmethod
    def load(cls, folder: Path, *, crop_size: int, seed: int) -> "ClipPairs":
        """Pairs spread over all clips below the folder.

        Raises:
            TrainingError: no such folder, or no clip with frames that can be followed in it.
        """
        paths = find_clips(folder)
        each = min(PAIRS_A_CLIP, max(1, MAX_PAIRS // len(paths)))
        pairs: list[ClipPair] = []
        for path in paths[:MAX_PAIRS]:
            try:
                pairs += pairs_of(path, each, short_side=round(crop_size * _ROOM))
            except (av.FFmpegError, ValueError) as exc:
                log.warning("skipped: not a clip, or damaged: %s: %s", path, exc)
        if not pairs:
            raise TrainingError(f"clips in {folder} must have frames whose motion can be followed, found none")
        return cls(tuple(pairs), crop_size, seed)

    def batch(self, step: int, size: int) -> ClipBatch:
        """The crops of one step."""
        rng = np.random.default_rng([self.seed, step, 3])
        return _stack([self._crop(self.pairs[rng.integers(len(self.pairs))], rng) for _ in range(size)])

    def _crop(self, pair: ClipPair, rng: np.random.Generator) -> ClipBatch:
        side = self.crop_size
        top = rng.integers(pair.first.shape[0] - side + 1)
        left = rng.integers(pair.first.shape[1] - side + 1)
        window = slice(top, top + side), slice(left, left + side)
        flow, followed = pair.flow[window].astype(np.float32), pair.followed[window]
        y, x = np.mgrid[0:side, 0:side].astype(np.float32)
        # Pixel centres, as grid_sample counts them with align_corners=False.
        grid = (np.dstack([x, y]) + flow + 0.5) * (2 / side) - 1
        followed = followed & (np.abs(grid) < 1).all(2)
        return ClipBatch(
            to_tensor(pair.first[window]),
            to_tensor(pair.second[window]),
            torch.from_numpy(grid)[None],
            torch.from_numpy(followed)[None, None].float(),
        )


def clip_loss(first: Tensor, second: Tensor, batch: ClipBatch) -> Tensor:
    """Mean squared difference, in units of a [0, 1] picture, of two painted frames along the motion of the input.

    Args:
        first: the painted first frames, (N, 3, S, S) in [0, 255].
        second: the painted second frames.
        batch: the frames that were painted.
    """
    moved = functional.grid_sample(
        second.float(), batch.grid, mode="bilinear", padding_mode="border", align_corners=False
    )
    error = (moved - first.float()).square() / 255**2 * batch.followed
    return error.sum() / (3 * batch.followed.sum().clamp_min(1))


def find_clips(folder: Path) -> list[Path]:
    """All clips below the folder by their names' endings, sorted.

    Raises:
        TrainingError: no such folder, or none in it.
    """
    if not folder.is_dir():
        raise TrainingError(f"folder of clips not found: {folder}")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in CLIP_SUFFIXES and path.is_file())
    if not paths:
        raise TrainingError(f"no clips ({', '.join(sorted(CLIP_SUFFIXES))}) in {folder}")
    return paths


def pairs_of(path: Path, count: int, *, short_side: int) -> list[ClipPair]:
    """Up to `count` pairs spread evenly over a clip, scaled to `short_side` pixels, over no cut or change of size."""
    pairs = []
    for index in range(count):
        gap = GAPS[index % len(GAPS)]
        with av.open(str(path.absolute())) as container:
            frames = _frames_from(container, Fraction(index, count))
            found = list(islice(frames, 0, gap + 1, gap))
        if len(found) == 2 and found[0].shape == found[1].shape:
            pairs.append(_pair(*(resize_short_side(frame, short_side) for frame in found)))
    return [pair for pair in pairs if pair.followed.mean() >= LEAST_FOLLOWED]


def _frames_from(container: av.container.InputContainer, share: Fraction) -> Iterator[Picture]:
    """(H, W, 3) uint8 frames from a share of the clip's length on."""
    if not container.streams.video:
        raise ValueError("it has no pictures")
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    start = stream.start_time or 0
    duration: Fraction | int = stream.duration or 0
    if not duration and container.duration and stream.time_base:  # Matroska says it of the whole file only
        duration = Fraction(container.duration, av.time_base) / stream.time_base
    target = start + round(share * duration)
    if target > start:
        container.seek(target, stream=stream)
    for frame in container.decode(stream):
        if (frame.pts or 0) >= target:
            yield np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)


def _pair(first: Picture, second: Picture) -> ClipPair:
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    grey = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in (first, second)]
    forth = np.asarray(dis.calc(grey[0], grey[1], None), np.float32)  # type: ignore[call-overload]
    back = np.asarray(dis.calc(grey[1], grey[0], None), np.float32)  # type: ignore[call-overload]
    return ClipPair(first, second, forth.astype(np.float16), _followed(forth, back))


def _followed(flow: npt.NDArray[np.float32], reverse: npt.NDArray[np.float32]) -> _Mask:
    """|flow + warped reverse|² ≤ 0.01 (|flow|² + |warped reverse|²) + 0.5, and |∇flow|² ≤ 0.01 |flow|² + 0.002."""
    height, width = flow.shape[:2]
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    where = np.dstack([x, y]) + flow
    back = cv2.remap(reverse, where, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[call-overload]
    energy = np.square(flow).sum(2)
    consistent = np.square(flow + back).sum(2) <= 0.01 * (energy + np.square(back).sum(2)) + 0.5
    steps = np.square(np.diff(flow, axis=0, append=flow[-1:])) + np.square(np.diff(flow, axis=1, append=flow[:, -1:]))
    smooth = steps.sum(2) <= 0.01 * energy + 0.002
    return np.asarray(consistent & smooth, np.bool_)


def _stack(crops: list[ClipBatch]) -> ClipBatch:
    return ClipBatch(
        torch.cat([crop.first for crop in crops]),
        torch.cat([crop.second for crop in crops]),
        torch.cat([crop.grid for crop in crops]),
        torch.cat([crop.followed for crop in crops]),
    )
