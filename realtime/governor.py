"""Keeps a live run inside its latency budget by choosing between sizes and tiers that are already warm."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from .live_settings import Tier

OVER_SECONDS = 2.0
"""Over budget for so long before a step down: one slow second (a page fault, another program) is not a trend."""
UNDER_SECONDS = 10.0
"""Below the comfort line for so long before a step up."""
COMFORT = 0.7
"""A step up costs up to twice the pixels; below 70 % of the budget there may be room for it."""
LONGEST_WAIT_SECONDS = 160.0
"""A rung that failed is tried again ever more rarely, but it is tried."""
WINDOW_SECONDS = 1.0


@dataclass(frozen=True)
class Rung:
    """One step of the ladder: what is painted, and how large."""

    tier: Tier
    short_side: int
    """Pixels of the painted picture's shorter side; it is enlarged to the output's size afterwards."""

    def __str__(self) -> str:
        return f"{self.tier} {self.short_side}p"


@dataclass(frozen=True)
class Step:
    """A change of rung and why."""

    rung: Rung
    reason: str


class Governor:
    """Steps down the ladder after 2 s over budget and up after 10 s below 70 % of it.

    What "over" means is the 95th percentile of the last second. After a step up that had to be taken back, the
    wait before the next try doubles: without it the picture would pump between two sizes for ever.
    """

    def __init__(self, *, budget_ms: float, rungs: Sequence[Rung], start: int = 0) -> None:
        if not budget_ms > 0:
            raise ValueError(f"latency budget must be above 0 ms, got {budget_ms}")
        if not rungs:
            raise ValueError("rungs must hold at least one size, got none")
        self.budget_ms = budget_ms
        self.rungs = tuple(rungs)
        self._index = start
        self._recent: deque[tuple[float, float]] = deque()
        self._over_since: float | None = None
        self._under_since: float | None = None
        self._wait_up_seconds = UNDER_SECONDS
        self._stepped_up_at: float | None = None

    @property
    def rung(self) -> Rung:
        """Where we stand now."""
        return self.rungs[self._index]

    def observe(self, latency_ms: float, now: float) -> Step | None:
        """Take one painted picture's latency at the monotonic time `now`; returns a step if one is due."""
        if self._recent and now - self._recent[-1][0] > WINDOW_SECONDS:  # a rest is time neither over nor under
            self._recent.clear()
            self._over_since = self._under_since = None
        self._recent.append((now, latency_ms))
        while now - self._recent[0][0] > WINDOW_SECONDS:
            self._recent.popleft()
        p95_ms = sorted(value for _, value in self._recent)[int(0.95 * (len(self._recent) - 1))]
        self._over_since = _since(self._over_since, p95_ms > self.budget_ms, now)
        self._under_since = _since(self._under_since, p95_ms < COMFORT * self.budget_ms, now)
        if self._over_since is not None and now - self._over_since >= OVER_SECONDS:
            return self._down(p95_ms, now)
        if self._under_since is not None and now - self._under_since >= self._wait_up_seconds:
            return self._up(p95_ms, now)
        return None

    def _down(self, p95_ms: float, now: float) -> Step | None:
        if self._index + 1 >= len(self.rungs):
            return None
        if self._stepped_up_at is not None and now - self._stepped_up_at < 2 * UNDER_SECONDS:
            self._wait_up_seconds = min(2 * self._wait_up_seconds, LONGEST_WAIT_SECONDS)
        self._stepped_up_at = None
        return self._move(self._index + 1, f"p95 {p95_ms:.0f} ms over the budget of {self.budget_ms:.0f} ms")

    def _up(self, p95_ms: float, now: float) -> Step | None:
        if self._index == 0:
            return None
        if self._stepped_up_at is not None:  # the last step up held
            self._wait_up_seconds = UNDER_SECONDS
        self._stepped_up_at = now
        return self._move(self._index - 1, f"p95 {p95_ms:.0f} ms leaves room in {self.budget_ms:.0f} ms")

    def _move(self, index: int, reason: str) -> Step:
        self._index = index
        self._recent.clear()
        self._over_since = self._under_since = None
        return Step(self.rung, reason)


def _since(start: float | None, holds: bool, now: float) -> float | None:
    """When a condition that holds began to hold."""
    if not holds:
        return None
    return now if start is None else start
