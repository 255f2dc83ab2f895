"""Judge networks for any painting on photographs and paintings that they never saw, against Gatys' optimisation.

As `evaluate.py`, with a painting of its own for every photograph, and several networks beside one run of L-BFGS: for a
pair, its curve depends on the losses alone. All are judged by the same losses, those of the first network's training.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from .adain_losses import statistics_loss
from .adain_reference import STATISTICS_LAYERS, AdainNetworks
from .adain_report import encode
from .data import Picture, resize_short_side, to_tensor
from .evaluate import Judge, LossSettings, ReferenceStart, Score, median_score, painter, run_reference, timed
from .gatys_optimize import Evaluation
from .loss_network import LossNetwork
from .quality import StyleTarget, evaluation_picture


@dataclass(frozen=True)
class Contender:
    """A network for any painting."""

    name: str
    like: Callable[[Picture], Callable[[Picture], Picture]]
    """Given a painting (H, W, 3) uint8 RGB, what paints (480, 480, 3) uint8 RGB pictures like it."""
    settings: LossSettings
    engine: str = ""
    close: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class PairReport:
    """One photograph painted like one painting, by every network and by Gatys."""

    photo: str
    painting: str
    networks: Mapping[str, Score]
    statistics: Mapping[str, float]
    """AdaIN's own style loss by network: means and deviations at four layers, relative; `gatys` as well."""
    gatys: Mapping[int, Score]
    gatys_equivalent: Mapping[str, int | None]
    """Evaluations that L-BFGS needs for a network's total; None if it needs more than it was given."""
    gatys_seconds: float
    pictures: Mapping[str, Picture]
    """`photo`, `painting`, `gatys` (after the last evaluation), and by network."""


@dataclass(frozen=True)
class AnyReport:
    """All networks on all pairs."""

    contenders: Sequence[Contender]
    pairs: Sequence[PairReport]
    evaluations: Sequence[int]
    settings: LossSettings
    start: ReferenceStart = "content"

    def network(self, name: str) -> Score:
        """Medians over the pairs."""
        return median_score([pair.networks[name] for pair in self.pairs])

    def gatys(self, count: int) -> Score:
        """Medians over the pairs after so many evaluations."""
        return median_score([pair.gatys[count] for pair in self.pairs])

    def statistics(self, name: str) -> float:
        """Median over the pairs of AdaIN's own style loss."""
        return statistics.median(pair.statistics[name] for pair in self.pairs)

    def gatys_equivalent(self, name: str) -> float | None:
        """Median over the pairs; None if at least half of them need more evaluations than were given."""
        found = (pair.gatys_equivalent[name] for pair in self.pairs)
        median = statistics.median(float("inf") if count is None else count for count in found)
        return None if median == float("inf") else median

    def to_json(self) -> dict[str, Any]:
        """All figures, JSON values only."""
        return {
            "settings": asdict(self.settings),
            "networks": {
                c.name: {
                    "engine": c.engine,
                    "gatys_equivalent": self.gatys_equivalent(c.name),
                    "statistics": self.statistics(c.name),
                    **asdict(self.network(c.name)),
                }
                for c in self.contenders
            },
            "gatys": {str(count): asdict(self.gatys(count)) for count in self.evaluations},
            "gatys_start": self.start,
            "pairs": [
                {
                    "photo": pair.photo,
                    "painting": pair.painting,
                    "networks": {name: asdict(score) for name, score in pair.networks.items()},
                    "statistics": dict(pair.statistics),
                    "gatys": {str(count): asdict(score) for count, score in pair.gatys.items()},
                    "gatys_equivalent": dict(pair.gatys_equivalent),
                }
                for pair in self.pairs
            ],
        }


def evaluate_any(
    contenders: Sequence[Contender],
    photos: Mapping[str, Picture],
    paintings: Mapping[str, Picture],
    loss_network: LossNetwork,
    *,
    evaluations: Sequence[int],
    start: ReferenceStart = "content",
    callback: Callable[[str, Evaluation], None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> AnyReport:
    """Judge networks on every painting, each with the next of the photographs.

    Args:
        contenders: the first one's settings say what the losses are.
        photos: (H, W, 3) uint8 RGB by name; their middle squares are used, at 480x480.
        paintings: (H, W, 3) uint8 RGB by name.
        evaluations: of Gatys' optimisation after which it is looked at; the largest decides how long this takes.
        start: what it begins with.
        callback: told of the pair's name and of every evaluation.
        should_stop: asked after every evaluation; True ends with the pairs done so far.

    Raises:
        ValueError: nothing to judge, or stopped before anything was.
    """
    if not contenders or not photos or not paintings:
        raise ValueError("networks, photos and paintings must be at least one each")
    counts, settings = sorted(set(evaluations)), contenders[0].settings
    names = list(photos)
    pairs: list[PairReport] = []
    for index, (painting_name, painting) in enumerate(paintings.items()):
        photo_name = names[index % len(names)]
        pair = _Pair(photo_name, painting_name, evaluation_picture(photos[photo_name]), painting)
        report = _one_pair(pair, contenders, settings, loss_network, counts, start, callback, should_stop)
        if report is None:
            break
        pairs.append(report)
    if not pairs:
        raise ValueError("stopped before the first pair was done")
    return AnyReport(contenders, pairs, counts, settings, start)


def checkpoint_like(networks: AdainNetworks, *, style_side: int) -> Callable[[Picture], Callable[[Picture], Picture]]:
    """PyTorch in fp32. `style_side`: short side, pixels, at which paintings are looked at."""
    device = next(networks.stylizer.parameters()).device

    def like(painting: Picture) -> Callable[[Picture], Picture]:
        style = encode(networks.encoder, painting, style_side=style_side)
        return painter(lambda frames: networks.stylizer(frames, style), device)

    return like


@dataclass(frozen=True)
class _Pair:
    photo: str
    painting: str
    square: Picture
    style: Picture


def _one_pair(
    pair: _Pair,
    contenders: Sequence[Contender],
    settings: LossSettings,
    loss_network: LossNetwork,
    counts: Sequence[int],
    start: ReferenceStart,
    callback: Callable[[str, Evaluation], None] | None,
    should_stop: Callable[[], bool],
) -> PairReport | None:
    objective = settings.objective(pair.square, settings.style(pair.style, loss_network), loss_network)
    judge = Judge(objective, pair.square, StyleTarget.of(pair.style, loss_network), start)
    painted = {contender.name: timed(contender.like(pair.style), pair.square) for contender in contenders}
    scores = {name: judge.score(picture, seconds) for name, (picture, seconds) in painted.items()}
    totals = {name: score.total for name, score in scores.items()}
    tell = None if callback is None else partial(callback, f"{pair.photo} like {pair.painting}")
    reference = run_reference(judge, totals, counts, callback=tell, should_stop=should_stop)
    if reference is None:
        return None
    seen = resize_short_side(pair.style, settings.style_side)
    pictures = {name: picture for name, (picture, _) in painted.items()}
    pictures["gatys"] = reference.pictures[counts[-1]][0]
    return PairReport(
        photo=pair.photo,
        painting=pair.painting,
        networks=scores,
        statistics={name: adain_style_loss(picture, seen, loss_network) for name, picture in pictures.items()},
        gatys={count: judge.score(*reference.pictures[count]) for count in counts},
        gatys_equivalent={name: reference.reached.get(name, (None,))[0] for name in scores},
        gatys_seconds=reference.seconds,
        pictures={"photo": pair.square, "painting": pair.style, **pictures},
    )


@torch.inference_mode()
def adain_style_loss(picture: Picture, painting: Picture, loss_network: LossNetwork) -> float:
    """`adain_losses.statistics_loss` of two pictures (H, W, 3) uint8 RGB, at the paper's four layers."""
    device = loss_network.device
    features = [
        loss_network(to_tensor(np.ascontiguousarray(p)).to(device), STATISTICS_LAYERS) for p in (picture, painting)
    ]
    return float(statistics_loss(*([layers[name] for name in STATISTICS_LAYERS] for layers in features)))
