"""Paint at once, faster later: an engine that takes minutes to build takes over from one that is ready."""

import logging
import threading
from collections.abc import Callable
from contextlib import suppress

import numpy as np

from ..export.artifact import Artifact, Precision
from ..export.parity import PSNR_FLOOR_DB, compare
from .engine import (
    BACKENDS,
    Batch,
    Done,
    Engine,
    EngineInfo,
    EngineOptions,
    PendingPicture,
    PictureEngine,
    PrecisionChoice,
)
from .engine_choice import load_engine
from .errors import EngineError, ImpastoError

logger = logging.getLogger(__name__)

DIFFERENT_ENGINES_DB: float = PSNR_FLOOR_DB["fp16"]
"""Two engines that both passed their gates may differ by as much as the coarser of them from PyTorch."""


def open_tensorrt(
    artifact: Artifact, *, index: int, precision: PrecisionChoice, on_choice: Callable[[str], None]
) -> "PictureEngine | TakeoverEngine":
    """TensorRT where its engine has been built; else the best other engine, and TensorRT as soon as it is built.

    Raises:
        EngineError: TensorRT cannot run here at all.
    """
    from . import engine_tensorrt

    engine_tensorrt.precisions("tensorrt", index)  # what is missing is said now, not when the build fails
    device = f"tensorrt:{index}"
    with suppress(EngineError):
        return load_engine(
            artifact, device=device, precision=precision, library="tensorrt", build="never", on_choice=on_choice
        )
    first = load_engine(artifact, on_choice=lambda line: on_choice(f"until TensorRT's engine is built, {line}"))

    def build(cancelled: Callable[[], bool]) -> Engine:
        backend = next(backend for backend in BACKENDS if backend.library == "tensorrt")
        return backend.open(artifact, EngineOptions(index, precision, build="wait", cancelled=cancelled))

    return TakeoverEngine(first, build, on_change=on_choice)


class TakeoverEngine:
    """An `Engine` that changes its engine between two frames, once.

    The better engine is opened in a thread of this object, which `close` joins. Before it takes over it paints the
    frame at hand beside the first one; pictures that differ by more than the floor of fp16 keep the first engine.
    """

    in_flight = 1

    def __init__(
        self,
        first: Engine,
        open_better: Callable[[Callable[[], bool]], Engine],
        *,
        on_change: Callable[[str], None] = lambda line: None,
    ) -> None:
        """
        Args:
            first: paints until the better engine is there; owned from here on.
            open_better: opens the better engine; it is given a function that says whether to give up.
            on_change: gets one line when the engine changes or when it stays after all.
        """
        self._engine = first
        self._on_change = on_change
        self._better: Engine | None = None
        self._failure = ""
        self._closing = threading.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._open, args=(open_better,), name="impasto-engine-builder")
        self._thread.start()

    @property
    def info(self) -> EngineInfo:
        return self._engine.info

    @property
    def stride(self) -> int:
        return self._engine.stride

    def __call__(self, frames: Batch) -> Batch:
        if not self._ready.is_set():
            return self._engine(frames)
        self._ready.clear()
        return self._change(frames)

    def submit(self, frames: Batch) -> PendingPicture:
        """As `PictureEngine.submit`, one at a time."""
        return PendingPicture(Done({"stylized": self(frames)}))

    def warmup(self, height: int, width: int) -> None:
        self._engine.warmup(height, width)

    def close(self) -> None:
        """Waits for a build under way to notice that it is no longer wanted."""
        self._closing.set()
        self._thread.join()
        if self._better is not None:
            self._better.close()
            self._better = None
        self._engine.close()

    def _open(self, open_better: Callable[[Callable[[], bool]], Engine]) -> None:
        try:
            self._better = open_better(self._closing.is_set)
        except ImpastoError as exc:
            self._failure = str(exc)
        except Exception as exc:  # a library's own error must end in a line, not in a thread that nobody watches
            logger.exception("the better engine could not be opened")
            self._failure = f"{type(exc).__name__}: {exc}"
        self._ready.set()

    def _change(self, frames: Batch) -> Batch:
        painted = self._engine(frames)
        better, self._better = self._better, None
        if better is None:
            self._on_change(f"staying with {self._engine.info}: {self._failure}")
            return painted
        precision: Precision = better.info.precision
        try:
            parity = compare([(painted, better(np.array(frames)))], precision=precision, engine=better.info.name)
        except ImpastoError as exc:
            self._on_change(f"staying with {self._engine.info}: {exc}")
            better.close()
            return painted
        if parity.psnr_db < DIFFERENT_ENGINES_DB:
            self._on_change(f"staying with {self._engine.info}: {better.info} differs ({parity.psnr_db:.1f} dB)")
            better.close()
            return painted
        previous, self._engine = self._engine, better
        previous.close()
        self._on_change(f"now {better.info} ({parity.psnr_db:.1f} dB to {previous.info})")
        return painted
