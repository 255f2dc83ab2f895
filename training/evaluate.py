"""Judge networks against Gatys' optimisation: the same losses on the same photographs, side by side.

For each network and photograph: content, style, TV and total loss of the network's picture, and of the picture that
L-BFGS has reached after 25, 50, 100 … evaluations of the same total, started from the photograph. The number of
evaluations at which L-BFGS reaches the network's total is its *Gatys-equivalent*. Johnson et al. 2016, section 4.1,
report 50 to 100, but of an optimisation that starts from white noise (`start`), which takes two to four times as many.
Structure kept and style distance (`quality.py`) stand beside it, since the total alone can be bought by destroying the
photograph.

The steadiness term of the training is left out on both sides: Gatys' optimisation knows no motion.
"""

import hashlib
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from .data import Picture, find_pictures, read_picture, resize_short_side, to_picture, to_tensor
from .decoding import READABLE
from .errors import TrainingError
from .gatys_config import Statistics
from .gatys_objective import Objective, StyleTerm, content_terms, style_terms
from .gatys_optimize import Evaluation, minimise, white_noise
from .loss_network import CONTENT_LAYER, STYLE_LAYERS, LossNetwork
from .quality import StyleTarget, evaluation_picture, grid_pattern, structure_kept

EVALUATIONS = (25, 50, 100, 200, 400)
"""After which the Gatys reference is looked at."""
ReferenceStart = Literal["content", "noise"]
"""What the Gatys reference begins with: the photograph, or white noise."""
_TIMED_RUNS = 3
_SEARCHED = 2000  # pictures looked at for a painting whose folder nobody has named: seconds, not minutes


@dataclass(frozen=True)
class LossSettings:
    """The total that a network was trained for."""

    content_weight: float
    style_weight: float
    tv_weight: float
    style_side: int
    """Short side at which the painting is looked at, pixels."""
    content_layers: tuple[str, ...] = (CONTENT_LAYER,)
    style_layers: tuple[str, ...] = STYLE_LAYERS
    statistics: Statistics = "gram"

    @classmethod
    def of_training(cls, training: Mapping[str, Any], *, where: str) -> "LossSettings":
        """From the `training` entry of a checkpoint's or an artifact's metadata; `where` is named in errors.

        Raises:
            TrainingError: the settings do not say what is needed.
        """
        try:
            return cls(
                content_weight=float(training["content_weight"]),
                style_weight=float(training["final_style_weight"]),
                tv_weight=float(training["tv_weight"]),
                style_side=round(float(training["style_size"]) * float(training.get("style_scale", 1.0))),
                content_layers=(str(training.get("content_layer", CONTENT_LAYER)),),
                style_layers=tuple(training.get("style_layers", STYLE_LAYERS)),
                statistics=_statistics(training.get("statistics", "gram")),
            )
        except (KeyError, TypeError, ValueError) as exc:
            raise TrainingError(f"training settings must hold the weights of the losses: {exc} in {where}") from exc

    def style(self, painting: Picture, loss_network: LossNetwork) -> tuple[StyleTerm, ...]:
        """What the loss network says of a painting (H, W, 3) uint8 RGB."""
        seen = to_tensor(resize_short_side(painting, self.style_side)).to(loss_network.device)
        return style_terms(seen, loss_network, dict.fromkeys(self.style_layers, 1.0), statistics=self.statistics)

    def objective(self, photo: Picture, style: Sequence[StyleTerm], loss_network: LossNetwork) -> Objective:
        """The total for a photograph (H, W, 3) uint8 RGB."""
        seen = to_tensor(photo).to(loss_network.device)
        content = content_terms(seen, loss_network, dict.fromkeys(self.content_layers, 1.0))
        return Objective(loss_network, content, style, self.content_weight, self.style_weight, self.tv_weight)


def _statistics(name: object) -> Statistics:
    for known in get_args(Statistics):
        if name == known:
            return known  # type: ignore[no-any-return]
    raise ValueError(f"statistics must be one of {', '.join(get_args(Statistics))}, got {name!r}")


@dataclass(frozen=True)
class Subject:
    """A network to judge."""

    name: str
    tier: str
    paint: Callable[[Picture], Picture]
    """(480, 480, 3) uint8 RGB to the same."""
    settings: LossSettings
    painting: Picture
    """The style image it was trained on."""
    engine: str = ""
    """What runs it, for the report."""


@dataclass(frozen=True)
class Score:
    """One picture, judged."""

    content: float
    style: float
    tv: float
    total: float
    structure_kept: float
    style_distance: float
    grid: float
    """1/255."""
    seconds: float
    """To paint it."""


@dataclass(frozen=True)
class PhotoReport:
    """One photograph by one network, and by Gatys."""

    photo: str
    network: Score
    gatys: Mapping[int, Score]
    """By evaluations; without those beyond the last one asked for."""
    gatys_equivalent: int | None
    """Evaluations that L-BFGS needs for the network's total; None if it needs more than it was given."""
    speed_up: float
    """Time of L-BFGS to the network's total, over the network's time; to its last evaluation if it did not get there,
    so that the truth is larger."""
    pictures: Mapping[str, Picture]
    """`photo`, `network`, `gatys` (after the last evaluation)."""


@dataclass(frozen=True)
class NetworkReport:
    """One network on all photographs."""

    subject: Subject
    photos: Sequence[PhotoReport]
    evaluations: Sequence[int]
    start: ReferenceStart = "content"

    @property
    def network(self) -> Score:
        """Medians over the photographs."""
        return median_score([photo.network for photo in self.photos])

    @property
    def gatys(self) -> dict[int, Score]:
        """Medians over the photographs, by evaluations."""
        return {count: median_score([photo.gatys[count] for photo in self.photos]) for count in self.evaluations}

    @property
    def gatys_equivalent(self) -> float | None:
        """Median over the photographs; None if at least half of them need more evaluations than were given."""
        median = statistics.median(
            float("inf") if photo.gatys_equivalent is None else photo.gatys_equivalent for photo in self.photos
        )
        return None if median == float("inf") else median

    @property
    def speed_up(self) -> float:
        """Median over the photographs."""
        return statistics.median(photo.speed_up for photo in self.photos)

    def to_json(self) -> dict[str, Any]:
        """All figures, JSON values only."""
        return {
            "name": self.subject.name,
            "tier": self.subject.tier,
            "engine": self.subject.engine,
            "settings": asdict(self.subject.settings),
            "network": asdict(self.network),
            "gatys": {str(count): asdict(score) for count, score in self.gatys.items()},
            "gatys_start": self.start,
            "gatys_equivalent": self.gatys_equivalent,
            "speed_up": self.speed_up,
            "photos": [
                {
                    "photo": photo.photo,
                    "network": asdict(photo.network),
                    "gatys": {str(count): asdict(score) for count, score in photo.gatys.items()},
                    "gatys_equivalent": photo.gatys_equivalent,
                    "speed_up": photo.speed_up,
                }
                for photo in self.photos
            ],
        }


def evaluate(
    subject: Subject,
    photos: Mapping[str, Picture],
    loss_network: LossNetwork,
    *,
    evaluations: Sequence[int] = EVALUATIONS,
    start: ReferenceStart = "content",
    callback: Callable[[str, Evaluation], None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> NetworkReport:
    """Judge one network.

    Args:
        photos: (H, W, 3) uint8 RGB by name; their middle squares are used, at 480x480.
        evaluations: of the Gatys reference after which it is looked at; the largest decides how long this takes.
        start: what the reference begins with.
        callback: told of the photograph's name and of every evaluation.
        should_stop: asked after every evaluation; True ends with the photographs done so far.

    Raises:
        ValueError: no photographs, or an unusable list of evaluations.
    """
    counts = sorted(set(evaluations))
    if not photos:
        raise ValueError("photos must be at least one photograph, got none")
    if not counts or counts[0] < 1:
        raise ValueError(f"evaluations must be numbers from 1, got {', '.join(map(str, evaluations)) or 'none'}")
    style = subject.settings.style(subject.painting, loss_network)
    yardstick = StyleTarget.of(subject.painting, loss_network)
    done = []
    for name, photo in photos.items():
        square = evaluation_picture(photo)
        judge = Judge(subject.settings.objective(square, style, loss_network), square, yardstick, start)
        report = _one_photo(subject, name, judge, counts, callback, should_stop)
        if report is None:
            break
        done.append(report)
    if not done:
        raise ValueError("stopped before the first photograph was done")
    return NetworkReport(subject, done, counts, start)


def checkpoint_painter(network: torch.nn.Module) -> Callable[[Picture], Picture]:
    """PyTorch in fp32; H and W must be multiples of four."""
    return painter(network, next(network.parameters()).device)


def painter(network: Callable[[Tensor], Tensor], device: torch.device) -> Callable[[Picture], Picture]:
    """The same of any function from (1, 3, H, W) to the same, in [0, 255]."""

    @torch.inference_mode()
    def paint(picture: Picture) -> Picture:
        return to_picture(network(to_tensor(picture).to(device)))

    return paint


class Paintings:
    """Style images that networks were trained on, found by the SHA-256 of their files, whatever they are called."""

    def __init__(self, folder: Path | None = None) -> None:
        """`folder`: where they lie, at any depth; None to look in the current folder, the folders in it and beside
        each network's file."""
        self._folder = folder
        self._sha256 = cache(_sha256)  # several networks look through the same files

    def find(self, sha256: str, *, what: str, recorded: str = "", beside: Path | None = None) -> Picture:
        """The picture.

        Args:
            what: whose painting, for the error.
            recorded: path or file name that its training wrote down.
            beside: folder of the network's file.

        Raises:
            TrainingError: it is not there.
        """
        seen = 0
        for path in self._candidates(recorded, beside):
            seen += 1
            if self._sha256(path) == sha256:
                return read_picture(path)
        where = self._folder or "the current folder, a folder in it or beside the network's file"
        raise TrainingError(
            f"{what} must lie in {where}, got no SHA-256 {sha256[:12]}… among {seen} pictures; "
            "name its folder with --paintings"
        )

    def _candidates(self, recorded: str, beside: Path | None) -> Iterator[Path]:
        if self._folder is not None:
            yield from find_pictures(self._folder)
            return
        here = Path()
        near = [here] if beside is None else [beside, here]
        if recorded:
            yield from (path for path in (folder / recorded for folder in near) if _is_file(path))
        # The largest folders last: photographs to practise on come by the thousand.
        inside = sorted((_pictures_in(folder) for folder in _folders_in(here)), key=len)
        everything = [*(_pictures_in(folder) for folder in near), *inside]
        yield from islice(dict.fromkeys(path for paths in everything for path in paths), _SEARCHED)


def _sha256(path: Path) -> str:
    """Hexadecimal; empty where the file cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def _is_file(path: Path) -> bool:
    with suppress(OSError, ValueError):  # a name that no file can have
        return path.is_file()
    return False


def _pictures_in(folder: Path) -> list[Path]:
    return [path for path in _entries(folder) if path.suffix.lower() in READABLE and path.is_file()]


def _folders_in(folder: Path) -> Iterable[Path]:
    return (path for path in _entries(folder) if not path.name.startswith(".") and path.is_dir())


def _entries(folder: Path) -> list[Path]:
    """Sorted; none of a folder that may not be read."""
    with suppress(OSError):
        return sorted(folder.iterdir())
    return []


@dataclass(frozen=True)
class Judge:
    """Scores pictures of one photograph against one painting."""

    objective: Objective
    photo: Picture
    yardstick: StyleTarget
    start: ReferenceStart = "content"

    def score(self, painted: Picture, seconds: float) -> Score:
        with torch.no_grad():
            device = self.objective.loss_network.device
            losses = self.objective.losses(to_tensor(painted).to(device))
        return Score(
            **{name: float(losses[name]) for name in ("content", "style", "tv", "total")},
            structure_kept=structure_kept(self.photo, painted),
            style_distance=self.yardstick.distance(painted),
            grid=grid_pattern(painted),
            seconds=seconds,
        )


def _one_photo(
    subject: Subject,
    name: str,
    judge: Judge,
    counts: Sequence[int],
    callback: Callable[[str, Evaluation], None] | None,
    should_stop: Callable[[], bool],
) -> PhotoReport | None:
    painted, seconds = timed(subject.paint, judge.photo)
    network = judge.score(painted, seconds)
    tell = None if callback is None else partial(callback, name)
    reference = run_reference(judge, {subject.name: network.total}, counts, callback=tell, should_stop=should_stop)
    if reference is None:
        return None
    equivalent, gatys_seconds = reference.reached.get(subject.name, (None, reference.seconds))
    return PhotoReport(
        photo=name,
        network=network,
        gatys={count: judge.score(*reference.pictures[count]) for count in counts},
        gatys_equivalent=equivalent,
        speed_up=gatys_seconds / max(1e-9, network.seconds),
        pictures={"photo": judge.photo, "network": painted, "gatys": reference.pictures[counts[-1]][0]},
    )


@dataclass(frozen=True)
class Reference:
    """Gatys' optimisation of one photograph, looked at on its way."""

    pictures: Mapping[int, tuple[Picture, float]]
    """After so many evaluations: the best so far, and seconds gone."""
    reached: Mapping[str, tuple[int, float]]
    """Network to the evaluations and seconds that its total took; those that it did not reach are missing."""
    seconds: float


def run_reference(
    judge: Judge,
    totals: Mapping[str, float],
    counts: Sequence[int],
    *,
    callback: Callable[[Evaluation], None] | None,
    should_stop: Callable[[], bool],
) -> Reference | None:
    """Paint `judge.photo` by L-BFGS; None if it was stopped.

    Args:
        totals: of the networks' pictures.
        counts: evaluations after which to look, rising; the last one ends it.
    """
    pictures: dict[int, tuple[Picture, float]] = {}
    reached: dict[str, tuple[int, float]] = {}

    def on_evaluation(evaluation: Evaluation) -> None:
        for name, total in totals.items():
            if evaluation.best <= total:
                reached.setdefault(name, (evaluation.number, evaluation.seconds))
        if evaluation.number in counts:
            pictures[evaluation.number] = to_picture(evaluation.picture), evaluation.seconds
        if callback:
            callback(evaluation)

    start = to_tensor(judge.photo).to(judge.objective.loss_network.device)
    if judge.start == "noise":
        start = white_noise(start, seed=0).clamp(0, 255)
    minimum = minimise(judge.objective, start, evaluations=counts[-1], callback=on_evaluation, should_stop=should_stop)
    if minimum.stopped:
        return None
    for count in counts:  # L-BFGS that has converged in float32 ends early and stays where it is
        pictures.setdefault(count, (to_picture(minimum.picture), minimum.seconds))
    return Reference(pictures, reached, minimum.seconds)


def timed(paint: Callable[[Picture], Picture], photo: Picture) -> tuple[Picture, float]:
    """The picture, and the median time after one run to warm up, seconds."""
    painted = paint(photo)
    times = []
    for _ in range(_TIMED_RUNS):
        begun = time.perf_counter()
        paint(photo)
        times.append(time.perf_counter() - begun)
    return painted, statistics.median(times)


def median_score(scores: Sequence[Score]) -> Score:
    """The median of every figure by itself."""
    values = [asdict(score) for score in scores]
    return Score(**{name: statistics.median(value[name] for value in values) for name in values[0]})
