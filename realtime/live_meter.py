"""Measures of a live run: latency and frame rate, in bounded memory however long it lasts."""

import threading
import time
from collections import deque
from dataclasses import dataclass

import numpy as np

BINS = 10_000
"""Milliseconds that the histogram tells apart; anything slower counts as the last one."""


@dataclass(frozen=True)
class LatencySummary:
    """Latency of what was delivered, from the start or in the last seconds."""

    count: int
    """Pictures delivered."""
    p50_ms: float
    p95_ms: float
    max_ms: float
    fps: float
    """Pictures per second over the last seconds."""


class LatencyMeter:
    """Collects the latency of each delivered picture; written by one thread, read by any."""

    def __init__(self, *, window_seconds: float = 5.0) -> None:
        self._lock = threading.Lock()
        self._bins = np.zeros(BINS, dtype=np.int64)
        self._recent: deque[tuple[float, float]] = deque()
        self._window_seconds = window_seconds
        self._max_ms = 0.0

    def add(self, latency_ms: float, *, now: float | None = None) -> None:
        """Count one picture that was `latency_ms` old when it was delivered."""
        now = time.monotonic() if now is None else now
        with self._lock:
            self._bins[min(max(int(latency_ms), 0), BINS - 1)] += 1
            self._max_ms = max(self._max_ms, latency_ms)
            self._recent.append((now, latency_ms))
            self._forget(now)

    def total(self) -> LatencySummary:
        """Since the start; percentiles to the millisecond (upper edge of the bin)."""
        with self._lock:
            count = int(self._bins.sum())
            p50_ms, p95_ms = (self._percentile(q, count) for q in (0.50, 0.95))
            return LatencySummary(count, p50_ms, p95_ms, self._max_ms, self._fps(time.monotonic()))

    def recent(self, *, now: float | None = None) -> LatencySummary:
        """Over the last seconds only."""
        now = time.monotonic() if now is None else now
        with self._lock:
            self._forget(now)
            values = np.array([value for _, value in self._recent])
            if not len(values):
                return LatencySummary(0, 0.0, 0.0, 0.0, 0.0)
            p50_ms, p95_ms = (float(q) for q in np.percentile(values, (50, 95)))
            return LatencySummary(len(values), p50_ms, p95_ms, float(values.max()), self._fps(now))

    def _percentile(self, q: float, count: int) -> float:
        if not count:
            return 0.0
        edge = float(np.searchsorted(np.cumsum(self._bins), q * count)) + 1
        return min(edge, self._max_ms)

    def _forget(self, now: float) -> None:
        while self._recent and now - self._recent[0][0] > self._window_seconds:
            self._recent.popleft()

    def _fps(self, now: float) -> float:
        self._forget(now)
        if len(self._recent) < 2:
            return 0.0
        first = self._recent[0][0]
        return (len(self._recent) - 1) / max(now - first, 1e-6)
