"""Painted keyframes as training pairs: a network fitted to one film.

The network's answer to a keyframe's frame is pulled towards the keyframe, at relu2_2 and relu3_1 of the loss network,
where brush marks are, and in its pixels, where colours are.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .data import Picture, read_picture, resize_short_side, to_tensor
from .errors import TrainingError
from .loss_network import LossNetwork
from .losses import content_loss

INDEX = "keyframes.json"
KEYFRAME_LAYERS = ("relu2_2", "relu3_1")
_PIXEL_WEIGHT = 10.0  # squares of a [0, 1] picture: brings 0.1 of mean difference to what a feature loss of 0.1 counts


@dataclass(frozen=True)
class Keyframe:
    """One line of the index."""

    number: int
    """Of the frame in the film, from 0."""
    seconds: float
    frame: str
    """File of the frame, in the index's folder."""
    painted: str
    """File of the painted picture, as large as the frame."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def read_keyframes(folder: Path) -> list[Keyframe]:
    """What `impasto gatys video` wrote.

    Raises:
        TrainingError: there is no index, or it is damaged or empty.
    """
    try:
        listed = json.loads((folder / INDEX).read_text())["keyframes"]
        found = [Keyframe(**entry) for entry in listed]
        if not all(isinstance(name, str) for key in found for name in (key.frame, key.painted)):
            raise TypeError("frame and painted must be names of files")
    except OSError as exc:
        raise TrainingError(f"keyframes must be a folder that `impasto gatys video` wrote, got {folder}") from exc
    except (ValueError, TypeError, KeyError) as exc:
        raise TrainingError(f"damaged index of keyframes: {folder / INDEX}: {exc}") from exc
    if not found:
        raise TrainingError(f"there are no keyframes in {folder}")
    return found


@dataclass(frozen=True)
class KeyframePairs:
    """Random square crops of frames and of what was painted on them, a pure function of seed and step."""

    pairs: tuple[tuple[Picture, Picture], ...]
    """(H, W, 3) uint8 frame and painted picture."""
    crop_size: int
    seed: int

    @classmethod
    def load(cls, folder: Path, *, crop_size: int, seed: int) -> "KeyframePairs":
        """Read all pairs of a folder; small ones are enlarged to `crop_size`.

        Raises:
            TrainingError: pictures are missing, damaged or of different sizes.
        """
        pairs = []
        for keyframe in read_keyframes(folder):
            frame, painted = read_picture(folder / keyframe.frame), read_picture(folder / keyframe.painted)
            if frame.shape != painted.shape:
                raise TrainingError(
                    f"{keyframe.painted} must be as large as {keyframe.frame}, "
                    f"{frame.shape[1]}x{frame.shape[0]}, got {painted.shape[1]}x{painted.shape[0]}"
                )
            if min(frame.shape[:2]) < crop_size:
                frame, painted = resize_short_side(frame, crop_size), resize_short_side(painted, crop_size)
            pairs.append((frame, painted))
        return cls(tuple(pairs), crop_size, seed)

    def batch(self, step: int, size: int) -> tuple[Tensor, Tensor]:
        """Frames and paintings, each (N, 3, S, S) float32 in [0, 255], the same places of both."""
        rng = np.random.default_rng([self.seed, step, 2])
        frames, paintings = [], []
        for _ in range(size):
            frame, painted = self.pairs[rng.integers(len(self.pairs))]
            top = rng.integers(frame.shape[0] - self.crop_size + 1)
            left = rng.integers(frame.shape[1] - self.crop_size + 1)
            window = slice(top, top + self.crop_size), slice(left, left + self.crop_size)
            flipped = slice(None, None, -1 if rng.random() < 0.5 else 1)
            frames.append(to_tensor(frame[window][:, flipped]))
            paintings.append(to_tensor(painted[window][:, flipped]))
        return torch.cat(frames), torch.cat(paintings)


def keyframe_loss(stylized: Tensor, painted: Tensor, loss_network: LossNetwork) -> Tensor:
    """Distance of the network's answers to the keyframes, both (N, 3, H, W) in [0, 255]; scalar."""
    features = loss_network(stylized, KEYFRAME_LAYERS)
    with torch.no_grad():
        wanted = loss_network(painted, KEYFRAME_LAYERS)
    pixels = ((stylized.float() - painted) / 255).square().mean()
    apart = torch.stack([content_loss(features[layer], wanted[layer]) for layer in KEYFRAME_LAYERS])
    return _PIXEL_WEIGHT * pixels + apart.sum()
