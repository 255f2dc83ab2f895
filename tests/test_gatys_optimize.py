"""Gatys' optimiser on functions whose minimum is known: its trouble handled, its evaluations counted."""

import math
from dataclasses import dataclass

import pytest
import torch

from impasto.training.gatys_optimize import minimise


@dataclass
class Bowl:
    """A quadratic bowl that breaks at chosen evaluations."""

    target: torch.Tensor
    broken: frozenset[int] = frozenset()
    value: float = math.nan
    calls: int = 0

    def losses(self, picture):
        self.calls += 1
        # Steep in some pixels, shallow in others: no method is there in a step or two.
        slopes = torch.linspace(0.05, 1, picture.numel()).reshape(picture.shape)
        total = (slopes * ((picture - self.target) / 255).square()).sum()
        if self.calls in self.broken:
            total = total * self.value
        return {"total": total}


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
@pytest.mark.parametrize("value", [math.nan, math.inf, 1e9])
def test_divergence_goes_back_to_the_best_with_half_the_step_and_says_so(optimizer, value, caplog):
    bowl = Bowl(torch.full((1, 3, 8, 8), 120.0), frozenset({3, 6}), value)
    found = minimise(bowl, torch.full((1, 3, 8, 8), 60.0), optimizer=optimizer, evaluations=120)
    assert len(found.notes) == 2
    assert "evaluation 3: diverged, went back to the best picture with step" in found.notes[0]
    assert found.notes[0] in caplog.text
    steps = [float(note.rsplit(" ", 1)[1]) for note in found.notes]
    assert steps[1] == steps[0] / 2
    assert found.curve[-1] < 0.05 * found.curve[0]
    assert all(math.isfinite(total) for total in found.curve)
    assert found.curve == sorted(found.curve, reverse=True)


@pytest.mark.parametrize(("total", "diverged"), [(1e-9, False), (1e-2, True)])
def test_rounding_at_the_bottom_is_no_divergence(total, diverged):
    """The third total is a thousand times the second or more, but what matters is whether it is much at all."""

    class Steps:
        scales = iter([1.0, 1e-12, total, 1e-12])

        def losses(self, picture):
            return {"total": (picture / 255).square().mean() * next(self.scales)}

    found = minimise(Steps(), torch.full((1, 3, 8, 8), 200.0), evaluations=4)
    assert bool(found.notes) is diverged


def test_what_never_works_ends_with_the_best_or_with_an_error():
    always = Bowl(torch.zeros(1, 3, 8, 8), frozenset(range(2, 1000)))
    start = torch.full((1, 3, 8, 8), 9.0)
    found = minimise(always, start, evaluations=100)
    assert torch.equal(found.picture, start)
    assert "ended with the best picture" in found.notes[-1]
    with pytest.raises(ValueError, match="finite at the start"):
        minimise(Bowl(start, frozenset({1})), start)


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
def test_pixels_stay_in_range_and_evaluations_are_counted(optimizer):
    far = Bowl(torch.tensor([-400.0, 100.0, 700.0]).reshape(1, 3, 1, 1).expand(1, 3, 8, 8))
    found = minimise(far, torch.full((1, 3, 8, 8), 128.0), optimizer=optimizer, evaluations=150)
    assert len(found.curve) <= 150
    wanted = torch.tensor([0.0, 100.0, 255.0]).reshape(1, 3, 1, 1)
    assert (found.picture - wanted).abs().mean() < 1.5
    assert 0 <= found.picture.min() <= found.picture.max() <= 255
    numbers = []
    bowl = Bowl(torch.rand(1, 3, 8, 8) * 255)
    report = lambda evaluation: numbers.append(evaluation.number)  # noqa: E731
    minimise(bowl, torch.zeros(1, 3, 8, 8), optimizer=optimizer, evaluations=5, callback=report)
    assert numbers == [1, 2, 3, 4, 5]
    assert bowl.calls == 5
