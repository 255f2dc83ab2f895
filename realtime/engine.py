"""Engines: a loaded style that turns pictures into pictures. The only place that picks a back end."""

import importlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt

from ..export.artifact import Artifact, Precision, load_artifact
from ..export.parity import Candidate, Paint
from .errors import EngineError

__all__ = [
    "BACKENDS",
    "Backend",
    "Batch",
    "Device",
    "Engine",
    "EngineInfo",
    "EngineOptions",
    "Precision",
    "PrecisionChoice",
    "check_batch",
    "load_engine",
    "proof_candidates",
]

logger = logging.getLogger(__name__)

Batch = npt.NDArray[np.uint8]
"""(N, H, W, 3) uint8 RGB."""

Device = Literal["auto", "cpu", "cuda", "tensorrt", "directml", "coreml", "torch", "intel-gpu"]
PrecisionChoice = Literal["auto", "fp32", "bf16", "fp16", "int8"]
Library = Literal["openvino", "onnxruntime", "tensorrt", "torch"]


@dataclass(frozen=True)
class EngineInfo:
    """What really runs, as opposed to what was asked for."""

    name: str
    """Library, e.g. "openvino" or "onnxruntime"."""
    device: str
    """Device in the library's own words, e.g. "CPU" or "CUDA:0"."""
    precision: Precision

    def __str__(self) -> str:
        return f"{self.name} on {self.device} in {self.precision}"


class Engine(Protocol):
    """A style, loaded. Calls may come from any one thread at a time."""

    @property
    def info(self) -> EngineInfo: ...

    @property
    def stride(self) -> int:
        """H and W of a batch must be multiples of this."""

    def __call__(self, frames: Batch) -> Batch:
        """Stylize (N, H, W, 3) uint8 RGB; returns a new array of the same shape and dtype."""

    def warmup(self, height: int, width: int) -> None:
        """Run once at this size so that the next call does not pay for compilation."""

    def close(self) -> None:
        """Free the engine. Safe to call twice; no call may follow."""


@dataclass(frozen=True)
class EngineOptions:
    """How a back end is asked to run."""

    index: int = 0
    """Which of several devices of a kind."""
    precision: PrecisionChoice = "auto"
    """auto: the fastest float precision that the device has in hardware and that passes the parity gate."""
    threads: int = 0
    """Threads of a CPU engine; 0 for the library's own choice."""


@dataclass(frozen=True)
class Backend:
    """A library on a kind of device. Its module has these two functions, plus `version() -> str`."""

    library: Library
    device: Device
    module: str
    hardware: Literal["gpu", "cpu"]

    def open(self, artifact: Artifact, options: EngineOptions) -> Engine:
        """An engine that has been opened but not yet run.

        Raises:
            EngineError: the library or the device is missing; the message says how to get it.
        """
        engine: Engine = self._module.open_engine(artifact, self.device, options)
        return engine

    def precisions(self, index: int = 0) -> tuple[Precision, ...]:
        """Float precisions that the device computes in by its own hardware, fastest first.

        Raises:
            EngineError: as for `open`.
        """
        able: tuple[Precision, ...] = self._module.precisions(self.device, index)
        return able

    def version(self) -> str:
        """Version of the library, without loading it; `EngineError` where it is not installed."""
        text: str = self._module.version()
        return text

    @property
    def _module(self) -> Any:
        return importlib.import_module(self.module, __package__)


BACKENDS: Sequence[Backend] = (
    Backend("openvino", "cpu", ".engine_openvino", "cpu"),
    Backend("onnxruntime", "cpu", ".engine_onnxruntime", "cpu"),
)
"""Best first among those of one kind of hardware."""


def load_engine(
    artifact: Artifact | Path | str,
    *,
    device: str = "auto",
    precision: str = "auto",
    library: Library | None = None,
    threads: int = 0,
    on_choice: Callable[[str], None] = lambda line: None,
) -> Engine:
    """A style, ready to paint.

    Args:
        artifact: an artifact or its path.
        device: one of `Device`, with `:index` where there are several. `auto` runs one real inference on each
            candidate and keeps the fastest; a device that is named is used or is an error.
        precision: one of `PrecisionChoice`; a precision that is named is used or is an error.
        library: narrows the choice to one library.
        threads: threads of a CPU engine; 0 for the library's own choice.
        on_choice: gets one line that names what was chosen and why.

    Raises:
        ArtifactError: the file is no safe artifact.
        EngineError: nothing that was asked for can run here; the message says what is missing.
    """
    kind, index = parse_device(device)
    wanted = parse_precision(precision)
    if library is not None and library not in get_args(Library):
        raise ValueError(f"library must be one of {', '.join(get_args(Library))}, got {library!r}")
    if not isinstance(artifact, Artifact):
        artifact = load_artifact(artifact)
    options = EngineOptions(index=index, precision=wanted, threads=threads)
    candidates = [
        backend for backend in BACKENDS if kind in ("auto", backend.device) and library in (None, backend.library)
    ]
    if not candidates:
        raise EngineError(f"device and library must go together, got {device!r} and {library!r}")
    return _choose(candidates, artifact, options, compare=kind == "auto", on_choice=on_choice)


def proof_candidates() -> list[Candidate]:
    """Every engine and precision of this machine, for the parity gate of an export."""
    candidates = []
    for backend in BACKENDS:
        try:
            candidates += [_proof_candidate(backend, precision) for precision in backend.precisions()]
        except EngineError as exc:
            logger.info("no parity check with %s on %s: %s", backend.library, backend.device, exc)
    return candidates


def _proof_candidate(backend: Backend, precision: Precision) -> Candidate:
    @contextmanager
    def opened(artifact: Artifact) -> Iterator[Paint]:
        engine = backend.open(artifact, EngineOptions(precision=precision))
        try:
            yield lambda picture: engine(picture[np.newaxis])[0]
        finally:
            engine.close()

    return Candidate(f"{backend.library} {backend.version()} {backend.device}", precision, opened)


def parse_device(device: str) -> tuple[Device, int]:
    """("cuda", 1) of "cuda:1"."""
    kind, _, index = device.partition(":")
    for known in get_args(Device):
        if kind == known and (index.isdecimal() or (not index and ":" not in device)):
            return known, int(index or 0)
    raise ValueError(f"device must be one of {', '.join(get_args(Device))}, with :index if wanted, got {device!r}")


def parse_precision(precision: str) -> PrecisionChoice:
    """The precision of that name."""
    for known in get_args(PrecisionChoice):
        if precision == known:
            choice: PrecisionChoice = known
            return choice
    raise ValueError(f"precision must be one of {', '.join(get_args(PrecisionChoice))}, got {precision!r}")


def check_batch(frames: Batch, stride: int) -> None:
    """Refuse what no engine can take, before a library does so in its own words."""
    if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8:
        raise ValueError(f"frames must be (N, H, W, 3) uint8, got {frames.shape} {frames.dtype}")
    if not frames.size or frames.shape[1] % stride or frames.shape[2] % stride:
        raise ValueError(f"height and width must be positive multiples of {stride}, got {frames.shape[1:3]}")


def installed_version(*distributions: str, mend: str) -> str:
    """Version of the first of these packages that is installed."""
    for name in distributions:
        with suppress(PackageNotFoundError):
            return package_version(name)
    raise EngineError(f"{distributions[0]} must be installed: {mend}")


def _choose(
    candidates: Sequence[Backend],
    artifact: Artifact,
    options: EngineOptions,
    *,
    compare: bool,
    on_choice: Callable[[str], None],
) -> Engine:
    """The first candidate that works or, to `compare`, the fastest of the first kind of hardware that works."""
    best: Engine | None = None
    best_ms = float("inf")
    hardware = ""
    failures: list[str] = []
    rejected: list[str] = []
    for backend in candidates:
        if best is not None and (not compare or backend.hardware != hardware):
            break
        try:
            engine = backend.open(artifact, options)
            taken_ms = one_inference_ms(engine)
        except EngineError as exc:
            failures.append(f"{backend.library} on {backend.device}: {exc}")
            continue
        if taken_ms < best_ms:
            engine, best, best_ms = best, engine, taken_ms  # type: ignore[assignment]
            hardware = backend.hardware
        if engine is not None:
            rejected.append(str(engine.info))
            engine.close()
    if best is None:
        raise EngineError("; ".join(failures))
    line = f"{best.info}: {best_ms:.1f} ms for 640x360"
    on_choice(line + (f", faster than {', '.join(rejected)}" if rejected else ""))
    return best


def one_inference_ms(engine: Engine, *, height: int = 360, width: int = 640) -> float:
    """Milliseconds of one real inference after a warm-up, at a size that every stride up to 8 divides."""
    frame = np.random.default_rng(0).integers(0, 256, (1, height, width, 3), dtype=np.uint8)
    engine.warmup(height, width)
    start = time.perf_counter()
    engine(frame)
    return (time.perf_counter() - start) * 1e3
