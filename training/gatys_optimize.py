"""Minimise an objective over the pixels of one picture: L-BFGS as Gatys et al. 2015, or Adam.

Pixels are kept in [0, 255]: the loss is taken of the clamped picture, and what lies outside is pulled back. Without
that, and most implementations go without, half of the decrease lives in colours that no file can hold: a total of
0.31 reached in 100 evaluations was 0.90 once clamped. L-BFGS-B, which honours bounds, reaches a 2 % lower loss than
this in the same number of evaluations but needs five times as long for each.
"""

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .gatys_config import LBFGS_HISTORY, Optimizer
from .gatys_lbfgs import Curvature
from .gatys_objective import Objective

log = logging.getLogger(__name__)

_MAX_RESTARTS = 8
_OUTSIDE = 10.0  # pull on pixels outside the range, relative to the first total; 4 to 120 end within 1 %
_DIVERGED = 100.0  # times the lowest total so far; L-BFGS recovers from jumps of up to about ten by itself
_ZERO = 1e-6  # of the first total: what is less is rounding in float32, and a hundred times as much no divergence


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of the objective and its gradient."""

    number: int
    """From 1."""
    losses: Mapping[str, float]
    """`content`, `style`, `tv`, `total` at the picture tried."""
    best: float
    """Lowest total so far."""
    seconds: float
    """Since the start."""
    picture: Tensor
    """(1, 3, H, W) in [0, 255], the best so far; changes after the call: copy what you keep."""


@dataclass(frozen=True)
class Minimum:
    """What was reached."""

    picture: Tensor
    """(1, 3, H, W) float in [0, 255], the one of the lowest total."""
    losses: Mapping[str, float]
    """At that picture."""
    curve: list[float]
    """Lowest total after each evaluation."""
    seconds: float
    stopped: bool
    """`should_stop` ended it."""
    notes: tuple[str, ...] = ()
    """What went wrong and was mended, one line each."""


class _Stop(Exception):
    """Leaves the optimiser from within its closure."""


class _Diverged(Exception):
    """The loss is not finite, or far above the lowest."""


@dataclass
class _Search:
    """What lives through restarts."""

    objective: Objective
    evaluations: int
    callback: Callable[[Evaluation], None] | None
    should_stop: Callable[[], bool]
    picture: Tensor
    """The best so far, clamped."""
    begun: float = field(default_factory=time.perf_counter)
    losses: dict[str, float] = field(default_factory=lambda: {"total": math.inf})
    curve: list[float] = field(default_factory=list)
    first: float = math.nan
    """The total at the start."""
    stopped: bool = False

    def evaluate(self, free: Tensor) -> Tensor:
        """The total at unbounded pixels, its gradient left behind.

        Raises:
            _Stop: there are no more to be had.
            _Diverged: the loss is not finite or has exploded.
        """
        picture = free.clamp(0, 255)
        losses = self.objective.losses(picture)
        self._take_note(picture, losses)
        outside = _OUTSIDE * self.first * ((free - picture.detach()) / 255).square().mean()
        total = losses["total"] + outside
        total.backward()  # type: ignore[no-untyped-call]
        return total.detach()

    def _take_note(self, picture: Tensor, losses: Mapping[str, Tensor]) -> None:
        values = {name: float(value.detach()) for name, value in losses.items()}
        finite = math.isfinite(values["total"])
        lowest = max(self.losses["total"], _ZERO * self.first)
        exploded = not finite or values["total"] > _DIVERGED * lowest
        if finite and values["total"] < self.losses["total"]:
            self.losses = values
            self.picture.copy_(picture.detach())
        if not self.curve:
            self.first = values["total"]
        self.curve.append(self.losses["total"])
        if self.callback:
            seconds = time.perf_counter() - self.begun
            self.callback(Evaluation(len(self.curve), values, self.curve[-1], seconds, self.picture))
        if self.should_stop():
            self.stopped = True
            raise _Stop
        if len(self.curve) >= self.evaluations:
            raise _Stop
        if exploded:
            raise _Diverged


def white_noise(picture: Tensor, seed: int) -> Tensor:
    """(1, 3, H, W) to begin with instead of a picture: white noise around its mean colour, not clamped.

    Gatys et al. take it around grey of VGG's mean, which is a colour cast for most photographs.
    """
    noise = torch.randn(picture.shape, generator=torch.Generator().manual_seed(seed)).to(picture.device)
    return picture.mean(dim=(2, 3), keepdim=True) + 40 * noise


def minimise(
    objective: Objective,
    start: Tensor,
    *,
    optimizer: Optimizer = "lbfgs",
    evaluations: int = 400,
    learning_rate: float | None = None,
    curvature: Curvature | None = None,
    callback: Callable[[Evaluation], None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Minimum:
    """Optimise from `start` (1, 3, H, W) in [0, 255] with exactly `evaluations` of the objective, unless stopped.

    A loss that is not finite, or a hundred times the lowest so far, sends the search back to the best picture with
    half the step; that is noted in the result and logged.

    Args:
        learning_rate: of Adam in grey levels per step, falling linearly to 0; of L-BFGS as a factor of its step.
            None for the optimiser's usual one.
        curvature: what L-BFGS knows to begin with, and learns in place; None for nothing.
        should_stop: asked after every evaluation.

    Raises:
        ValueError: the loss is not finite at the start.
    """
    if evaluations < 1:
        raise ValueError(f"evaluations must be at least 1, got {evaluations}")
    curvature = Curvature(LBFGS_HISTORY) if curvature is None else curvature
    search = _Search(objective, evaluations, callback, should_stop, start.detach().clone())
    notes: list[str] = []
    step = _STEPS[optimizer] if learning_rate is None else learning_rate
    while True:
        try:
            if optimizer == "lbfgs":
                _lbfgs(search, step, curvature)
            else:
                _adam(search, step)
        except _Stop:
            break
        except _Diverged:
            if not math.isfinite(search.losses["total"]):
                raise ValueError("the loss must be finite at the start; the weights are too large") from None
            if len(notes) == _MAX_RESTARTS:
                notes.append(f"evaluation {len(search.curve)}: diverged again, ended with the best picture")
                log.warning(notes[-1])
                break
            step /= 2
            curvature.known.clear()
            notes.append(f"evaluation {len(search.curve)}: diverged, went back to the best picture with step {step:g}")
            log.warning(notes[-1])
        else:
            break  # the optimiser found nothing better: the gradient vanishes in float32
    return Minimum(
        search.picture,
        search.losses,
        search.curve,
        time.perf_counter() - search.begun,
        search.stopped,
        tuple(notes),
    )


_STEPS: dict[Optimizer, float] = {"lbfgs": 1.0, "adam": 5.0}


def _lbfgs(search: _Search, factor: float, curvature: Curvature) -> None:
    picture = search.picture.clone()
    last: tuple[Tensor, Tensor] | None = None  # the step that led here, and the gradient where it began
    while True:
        picture.requires_grad_()
        search.evaluate(picture)
        gradient = picture.grad
        assert gradient is not None
        if last is not None:
            curvature.learn(last[0], gradient - last[1])
        step = factor * curvature.step(gradient)
        if not step.any():
            return
        last = step, gradient
        picture = picture.detach() + step


def _adam(search: _Search, step: float) -> None:
    picture = search.picture.clone().requires_grad_()
    optimizer = torch.optim.Adam([picture], lr=step)
    while True:
        for group in optimizer.param_groups:
            # Linear decay to 0; the reports found it to end lower than a constant rate.
            group["lr"] = step * (1 - len(search.curve) / search.evaluations)
        optimizer.zero_grad(set_to_none=True)
        search.evaluate(picture)
        optimizer.step()
