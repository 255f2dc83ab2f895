"""Keyframes of a film: each begun from the last one moved along with the picture, so that they agree.

After Ruder, Dosovitskiy, Brox 2016 (arXiv 1604.08610, section 4.2), whose frames start from the last one warped by
optical flow; here between keyframes seconds apart, with the flow followed from frame to frame. What comes into view
between two keyframes starts from the photograph.
"""

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

from .data import Picture
from .errors import TrainingError
from .gatys import Iterate, StyleImage, paint, resize
from .gatys_config import GatysConfig
from .gatys_masks import SOFTNESS
from .keyframes import INDEX, Keyframe
from .loss_network import LossNetwork
from .sheets import write_picture
from .whole_file import whole_file

log = logging.getLogger(__name__)

MOVED_ITERATIONS = 0.5
"""Share of the iterations for a keyframe that begins from the last one: the way is shorter, and a long one would lead
it away from where the others are."""
_SLACK = 5e-4  # seconds: 2 s must be frame 50 of a film of 25 a second, whatever floats make of it


class Motion(Protocol):
    """Where the pixels of the last keyframe have gone to."""

    def start(self, frame: Picture) -> None:
        """This frame is a keyframe."""

    def follow(self, frame: Picture) -> None:
        """The next frame of the film."""

    def carry(self, painted: Picture) -> tuple[Picture, npt.NDArray[np.bool_]]:
        """A picture as large as the frames, painted on the keyframe, moved to the present frame; (H, W) True where it
        can be trusted."""


@dataclass(frozen=True)
class FilmFrame:
    """One frame."""

    number: int
    """From 0."""
    seconds: float
    picture: Picture
    is_cut: bool
    """It begins a shot."""


@dataclass(frozen=True)
class Film:
    """A film to be read once."""

    name: str
    frames: Iterator[FilmFrame]
    motion: Motion


def paint_keyframes(
    film: Film,
    styles: Sequence[StyleImage],
    loss_network: LossNetwork,
    config: GatysConfig,
    folder: Path,
    *,
    every_seconds: float | None,
    callback: Callable[[Iterate], None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> int:
    """Write keyframes with their frames and an index; returns how many.

    Args:
        folder: gets `000042.frame.png`, `000042.painted.png` … and `keyframes.json`.
        every_seconds: between keyframes of a shot; None for one at the beginning of each shot.

    Raises:
        TrainingError: the film has no frames, or the folder cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise TrainingError(f"cannot write to {folder}: {exc.strerror or exc}") from exc
    done: list[Keyframe] = []
    last: tuple[float, Picture] | None = None  # seconds and painted picture at the frames' size
    for frame in film.frames:
        if should_stop():
            break
        moving = last is not None and not frame.is_cut
        if moving:
            film.motion.follow(frame.picture)
        if moving and not (every_seconds is not None and last and frame.seconds - last[0] >= every_seconds - _SLACK):
            continue
        start = _moved(last[1], frame, film.motion) if moving and last else None
        painted = _paint_one(frame, start, styles, loss_network, config, callback, should_stop)
        if painted is None:
            break
        done.append(_write(folder, frame, painted))
        film.motion.start(frame.picture)
        last = frame.seconds, painted
        _write_index(folder, film.name, config, done)
    if not done and not should_stop():
        raise TrainingError(f"the film must have at least one frame: {film.name}")
    return len(done)


def _moved(last: Picture, frame: FilmFrame, motion: Motion) -> Picture:
    """The last keyframe where it can be followed, the frame itself elsewhere."""
    moved, trusted = motion.carry(last)
    # Inwards only: what cannot be trusted must not show through. A hard edge would stay visible in the painting.
    radius = max(1, round(SOFTNESS * max(trusted.shape)))
    inner = cv2.erode(trusted.astype(np.float32), np.ones((4 * radius + 1, 4 * radius + 1)), borderValue=1.0)
    share = cv2.GaussianBlur(inner, (0, 0), radius)[:, :, None] * trusted[:, :, None]
    return np.asarray(np.rint(share * moved + (1 - share) * frame.picture), dtype=np.uint8)


def _paint_one(
    frame: FilmFrame,
    start: Picture | None,
    styles: Sequence[StyleImage],
    loss_network: LossNetwork,
    config: GatysConfig,
    callback: Callable[[Iterate], None] | None,
    should_stop: Callable[[], bool],
) -> Picture | None:
    """One keyframe at the frame's size, None if stopped."""
    if start is not None:
        # One scale: a coarse one would undo what was carried over.
        iterations = max(1, round(config.iterations * MOVED_ITERATIONS))
        config = replace(config, min_size=config.size, iterations=iterations)
    painted = paint(
        frame.picture, styles, loss_network, config, start=start, callback=callback, should_stop=should_stop
    )
    return None if painted.stopped else resize(painted.picture, *frame.picture.shape[:2])


def _write(folder: Path, frame: FilmFrame, painted: Picture) -> Keyframe:
    names = f"{frame.number:06d}.frame.png", f"{frame.number:06d}.painted.png"
    write_picture(folder / names[0], frame.picture)
    write_picture(folder / names[1], painted)
    return Keyframe(frame.number, frame.seconds, *names)


def _write_index(folder: Path, film: str, config: GatysConfig, done: Sequence[Keyframe]) -> None:
    index = {"film": film, "size": config.size, "keyframes": [keyframe.to_json() for keyframe in done]}
    try:
        with whole_file(folder / INDEX) as part:
            part.write_text(json.dumps(index, indent=2) + "\n")
    except OSError as exc:
        raise TrainingError(f"cannot write {folder / INDEX}: {exc.strerror or exc}") from exc
