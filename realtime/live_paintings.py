"""Paintings in a live run: one engine paints them all, so that a change between them is a straight line of vectors.

A style that was made of a painting opens in no time once the engine is there, fades over to another in one pass, and
can be mixed with one by a slider. What it costs: the style comes in with every picture instead of being folded into the
graph, 1.4 times the time of a trained style at 1280x720.
"""

import threading
from collections.abc import Callable

import numpy as np

from ..export.arbitrary import Vector
from .engine import Batch, Engine, EngineInfo, PictureEngine
from .errors import EngineError


class PaintingEngines:
    """Hands out engines for vectors; behind all of them is one, loaded with the first and closed with the last."""

    def __init__(self, load: Callable[[], Engine]) -> None:
        self._load = load
        self._lock = threading.Lock()
        self._engine: PictureEngine | None = None
        self._users = 0

    def open(self, vector: Vector) -> "PaintingEngine":
        """An engine that paints with (K,) `vector`; an `ImpastoError` says why not."""
        with self._lock:
            if self._engine is None:
                engine = self._load()
                if not isinstance(engine, PictureEngine):
                    engine.close()
                    raise EngineError(f"paintings must be painted by an engine that takes a style, got {engine.info}")
                self._engine = engine
            self._users += 1
            return PaintingEngine(self, vector, self._engine.info, self._engine.stride)

    def paint(self, frames: Batch, vector: Vector) -> Batch:
        """One batch with one vector; callers take turns."""
        with self._lock:
            engine = self._opened()
            engine.inputs = {"style": np.ascontiguousarray(vector[np.newaxis], np.float32)}
            return engine(frames)

    def warmup(self, height: int, width: int) -> None:
        """See `Engine`."""
        with self._lock:
            self._opened().warmup(height, width)

    def release(self) -> None:
        """One of those handed out is closed."""
        with self._lock:
            self._users -= 1
            if self._users == 0 and self._engine is not None:
                self._engine.close()
                self._engine = None

    def _opened(self) -> PictureEngine:
        if self._engine is None:
            raise EngineError("the style was put away")
        return self._engine


class PaintingEngine:
    """An `Engine` that paints like one painting, or like any mix of paintings when it is asked to."""

    def __init__(self, shared: PaintingEngines, vector: Vector, info: EngineInfo, stride: int) -> None:
        self.vector = vector
        """(K,)"""
        self.info, self.stride = info, stride
        self._shared = shared
        self._closed = False

    def __call__(self, frames: Batch) -> Batch:
        return self._shared.paint(frames, self.vector)

    def paint(self, frames: Batch, vector: Vector) -> Batch:
        """The same with another style (K,)."""
        return self._shared.paint(frames, vector)

    def warmup(self, height: int, width: int) -> None:
        self._shared.warmup(height, width)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._shared.release()
