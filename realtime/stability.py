"""How steady a painted film is: the warping error of Lai et al. 2018, near and far, and pulsing of the brightness.

E = Σ M·(warp(V_t) - V_t-1)² / Σ M, pictures in 0…1, mean of the channels, with the motion of the *input* (estimated,
or ground truth) and M the pixels that can be followed (`optical_flow.followed`). Mean over pairs, then over clips.
Unlike Lai et al., pixels that leave the picture are left out too, and pairs across a cut. Absolute values depend on
the clip, its size and noise: compare only rows of one table, and the input's own error is always one of them.
"""

import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from statistics import fmean
from types import TracebackType
from typing import Self

import numpy as np

from .cuts import CutDetector
from .errors import SourceError
from .frame import Frame, Picture, StreamInfo
from .optical_flow import Flow, FlowEstimator, Grey, Mask, followed, read_flow, to_grey, warp

FAR = 10
"""Frames between the pictures of a far pair; one such pair is measured every FAR / 2 frames."""
LEAST_FOLLOWED = 0.01
"""Share of pixels below which a pair says nothing."""
WARM_UP_FRAMES = 2
"""First frames whose time does not count: an engine's first run, a smoother's first flow. Of 2 or 3 frames, one."""
GROUND_TRUTH = ("flow_", "invalid_", "occlusions_")
"""Beginnings of the names of pictures that belong to the ground truth and are no frames."""


@dataclass(frozen=True)
class Contestant:
    """A way of painting a film, compared with others on the same frames."""

    name: str
    paint: Callable[[Frame], Picture]
    """Called with every frame in order."""
    after: str | None = None
    """Another contestant whose painting this one goes on from, and whose time it therefore takes as well."""


@dataclass(frozen=True)
class PairError:
    """A warping error and when it occurred."""

    seconds: float
    error: float


@dataclass
class Steadiness:
    """What was measured of one contestant on one clip."""

    near: list[PairError] = field(default_factory=list)
    far: list[PairError] = field(default_factory=list)
    true: list[PairError] = field(default_factory=list)
    """As `near`, by ground-truth motion, where that was given."""
    luminance: list[list[float]] = field(default_factory=list)
    """Mean of each picture, 0…1, by shot."""
    milliseconds: list[float] = field(default_factory=list)
    """Of each frame."""

    @property
    def luminance_variance(self) -> float:
        """Variance of the pictures' mean luminance, in (1/255)²: pulsing, and whatever the scene itself does.

        Within each shot, then mean over shots by their frames; a shot of one frame says nothing.
        """
        shots = [shot for shot in self.luminance if len(shot) > 1]
        if not shots:
            return float("nan")
        return float(np.average([np.var(shot) for shot in shots], weights=[len(shot) for shot in shots])) * 255**2

    @property
    def pulse(self) -> float:
        """Root mean square of the mean luminance's change from frame to frame, cuts left out, in 1/255."""
        steps = [step for shot in self.luminance for step in np.diff(shot)]
        return float(np.sqrt(np.mean(np.square(steps)))) * 255 if steps else float("nan")

    @property
    def cost_ms(self) -> float:
        """Mean time per frame after the warm-up. No median: it would hide what is done every n-th frame only."""
        counted = self.milliseconds[min(WARM_UP_FRAMES, len(self.milliseconds) // 2) :]
        return fmean(counted) if counted else float("nan")


def mean_error(pairs: Sequence[PairError]) -> float:
    """Mean over the pairs of a clip; not a number where there is none."""
    return fmean(pair.error for pair in pairs) if pairs else float("nan")


@dataclass(frozen=True)
class ClipResult:
    """One clip's measurements by contestant."""

    clip: str
    contestants: Mapping[str, Steadiness]
    frames: int
    cuts: int
    followed: float
    """Mean share of the pixels that could be followed from one frame to the next."""
    longest_shot: int
    """Frames without a cut."""


@dataclass(frozen=True)
class TrueMotion:
    """Ground truth from one frame to the next."""

    flow: Flow
    usable: Mask | None = None
    """Pixels neither occluded nor invalid; None where only the flow is known."""


def measure(
    clip: str,
    frames: Iterable[Frame],
    contestants: Sequence[Contestant],
    *,
    true_motion: Callable[[int], TrueMotion | None] = lambda number: None,
    on_frame: Callable[[Frame, Mapping[str, Picture]], None] = lambda frame, pictures: None,
) -> ClipResult:
    """Paint a clip by all contestants and compare every picture with those before it.

    Args:
        clip: its name, for the result.
        frames: of one size.
        contestants: painted in this order; the input itself is one only if it is among them.
        true_motion: from the frame of that number to the next, where it is known.
        on_frame: gets every frame and its pictures by contestant.

    Raises:
        SourceError: there is no pair of neighbouring frames, or none that can be followed by either motion.
    """
    meter = _Meter([contestant.name for contestant in contestants])
    is_cut = CutDetector()
    cuts = number = 0
    for number, frame in enumerate(frames, 1):
        pictures: dict[str, Picture] = {}
        spent: dict[str, float] = {}
        for contestant in contestants:
            began = time.perf_counter()
            pictures[contestant.name] = contestant.paint(frame)
            spent[contestant.name] = (time.perf_counter() - began) * 1e3
            if contestant.after is not None:
                spent[contestant.name] += spent[contestant.after]
            meter.results[contestant.name].milliseconds.append(spent[contestant.name])
        if is_cut(frame.data):
            cuts += 1
            meter.begin_shot()
        meter.add(frame, pictures, true_motion(number - 2) if number > 1 else None)
        on_frame(frame, pictures)
    if number < 2:
        raise SourceError(f"{clip} must have at least 2 frames, got {number}")
    if not any(found.near or found.true for found in meter.results.values()):
        raise SourceError(
            f"{clip} must move in a way that can be followed from frame to frame, got {number} frames with {cuts} cuts "
            "and no such pair: are they one film, in order?"
        )
    share = fmean(meter.followed) if meter.followed else float("nan")
    return ClipResult(clip, meter.results, number, cuts, share, meter.longest_shot)


def warping_error(first: Picture, second: Picture, flow: Flow, mask: Mask) -> float:
    """E of two (H, W, 3) uint8 pictures: flow from the first to the second, mask of the first's pixels that count."""
    counted = int(mask.sum())
    if not counted:
        return float("nan")
    difference = warp(second.astype(np.float32), flow) - first
    squared = np.einsum("hwc,hwc->hw", difference, difference)
    return float(squared[mask].sum(dtype=np.float64)) / (3 * counted * 255**2)


class NaiveAverage:
    """The smoothing that everyone tries first: out = kept·last + (1 - kept)·new, wherever things are. It ghosts."""

    def __init__(self, kept: float) -> None:
        self._kept = np.float32(kept)
        self._last: np.ndarray[tuple[int, ...], np.dtype[np.float32]] | None = None

    def __call__(self, painted: Picture) -> Picture:
        """(H, W, 3) uint8."""
        new = painted.astype(np.float32)
        if self._last is not None and self._last.shape == new.shape:
            new = self._kept * self._last + (1 - self._kept) * new
        self._last = new
        return np.rint(new).astype(np.uint8)


class PictureFolder:
    """A clip as numbered pictures in a folder, such as rendered sequences with ground truth come. A `Source`."""

    def __init__(self, folder: Path, pattern: str = "*", *, frame_rate: Fraction = Fraction(24)) -> None:
        """
        Args:
            folder: may hold ground truth beside them; what begins as `GROUND_TRUTH` is left out.
            pattern: of the names that count.
            frame_rate: of the film.

        Raises:
            SourceError: no such picture, or two of the same number: two films, or two passes of one.
        """
        paths = sorted(
            path
            for path in folder.glob(pattern)
            if path.suffix.lower() in (".png", ".jpg", ".ppm") and not path.name.startswith(GROUND_TRUTH)
        )
        if not paths:
            raise SourceError(f"{folder} must hold pictures named {pattern} besides ground truth, got none")
        numbers = _numbers(paths)
        _check_one_film(folder, paths, numbers)
        order = sorted(range(len(paths)), key=lambda i: int(numbers[i])) if all(numbers) else range(len(paths))
        self._paths = [paths[i] for i in order]
        self.numbers = [numbers[i] for i in order]
        """Of each picture, as written in its name: the last number there that is not the same in all of them.
        The film's order is theirs, or that of the names where one has no number."""
        height, width = _read(self._paths[0]).shape[:2]
        self.info = StreamInfo(width, height, frame_rate, len(self._paths))

    def __iter__(self) -> Iterator[Frame]:
        for index, path in enumerate(self._paths):
            picture = _read(path)
            if picture.shape != (self.info.height, self.info.width, 3):
                raise SourceError(f"{path} must be {self.info.width}x{self.info.height}, got {picture.shape[1::-1]}")
            yield Frame(picture, index / self.info.frame_rate, 1 / self.info.frame_rate)

    def close(self) -> None:
        """Nothing is open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def _numbers(paths: Sequence[Path]) -> list[str]:
    found = [re.findall(r"\d+", path.stem) or [""] for path in paths]
    for place in range(1, min(len(numbers) for numbers in found) + 1):
        if len({numbers[-place] for numbers in found}) > 1:  # not the 4 of frame_0001_x4
            return [numbers[-place] for numbers in found]
    return [numbers[-1] for numbers in found]


def _check_one_film(folder: Path, paths: Sequence[Path], numbers: Sequence[str]) -> None:
    seen: dict[int, Path] = {}
    for path, number in zip(paths, numbers, strict=True):
        if number and (other := seen.setdefault(int(number), path)) is not path:
            raise SourceError(
                f"{folder} must hold every number once, got {other.name} and {path.name}: "
                "choose the pictures of one film with --pattern, such as 'clean_*'"
            )


def true_motion_from(folder: Path, numbers: Sequence[str]) -> Callable[[int], TrueMotion | None]:
    """Ground truth of `flow_NNNN.npz` or `.flo`, with `occlusions_NNNN.png` and `invalid_NNNN.png` (white: not usable)
    where they exist; NNNN is the number of a pair's first picture."""
    if not any((folder / f"flow_{number}{suffix}").is_file() for number in numbers for suffix in (".npz", ".flo")):
        raise SourceError(f"{folder} must hold flow_{numbers[0]}.npz or .flo for some picture, got none")

    def motion(index: int) -> TrueMotion | None:
        paths = [folder / f"flow_{numbers[index]}{suffix}" for suffix in (".npz", ".flo")]
        path = next((path for path in paths if path.is_file()), None)
        if path is None:
            return None
        flow = read_flow(path)
        masks = [folder / f"{kind}_{numbers[index]}.png" for kind in ("occlusions", "invalid")]
        if not masks[0].is_file():
            return TrueMotion(flow)
        lost = [_read(mask)[..., 0] > 0 for mask in masks if mask.is_file()]
        return TrueMotion(flow, ~np.logical_or.reduce(lost))

    return motion


class _Meter:
    """Holds the pictures that later ones are compared with."""

    def __init__(self, names: Sequence[str]) -> None:
        self.results = {name: Steadiness() for name in names}
        self.followed: list[float] = []
        self.longest_shot = 0
        self._estimate = FlowEstimator("medium")
        self._shot: deque[tuple[Grey, Mapping[str, Picture]]] = deque(maxlen=FAR)
        self._frames = 0

    def begin_shot(self) -> None:
        self._shot.clear()
        self._frames = 0

    def add(self, frame: Frame, pictures: Mapping[str, Picture], true: TrueMotion | None) -> None:
        grey, seconds = to_grey(frame.data), float(frame.pts)
        for name, picture in pictures.items():
            result, mean = self.results[name], float(to_grey(picture).mean()) / 255
            if not self._shot:
                result.luminance.append([])
            result.luminance[-1].append(mean)
        if self._shot:
            self._compare(self._shot[-1], grey, pictures, seconds, true)
        if len(self._shot) == FAR and self._frames % (FAR // 2) == 0:
            flow, mask = self._motion(self._shot[0][0], grey)
            for name, error in _errors(self._shot[0][1], pictures, flow, mask):
                self.results[name].far.append(PairError(seconds, error))
        self._shot.append((grey, pictures))
        self._frames += 1
        self.longest_shot = max(self.longest_shot, self._frames)

    def _compare(
        self,
        before: tuple[Grey, Mapping[str, Picture]],
        grey: Grey,
        pictures: Mapping[str, Picture],
        seconds: float,
        true: TrueMotion | None,
    ) -> None:
        flow, mask = self._motion(before[0], grey)
        self.followed.append(float(mask.mean()))
        for name, error in _errors(before[1], pictures, flow, mask):
            self.results[name].near.append(PairError(seconds, error))
        if true is None:
            return
        if true.flow.shape[:2] != grey.shape:
            raise SourceError(f"flow must be of the pictures' size {grey.shape}, got {true.flow.shape[:2]}")
        # Ground truth knows only the way there; where it names no occlusions, the way back is estimated.
        usable = true.usable if true.usable is not None else followed(true.flow, self._estimate(grey, before[0]))
        for name, error in _errors(before[1], pictures, true.flow, usable):
            self.results[name].true.append(PairError(seconds, error))

    def _motion(self, first: Grey, second: Grey) -> tuple[Flow, Mask]:
        flow = self._estimate(first, second)
        return flow, followed(flow, self._estimate(second, first))


def _errors(
    before: Mapping[str, Picture], now: Mapping[str, Picture], flow: Flow, mask: Mask
) -> Iterator[tuple[str, float]]:
    if mask.mean() >= LEAST_FOLLOWED:
        for name, picture in now.items():
            yield name, warping_error(before[name], picture, flow, mask)


def _read(path: Path) -> Picture:
    from .picture_files import read_picture

    return read_picture(path).data
