"""Which back end paints: `load_engine` tries what is installed with one real inference each and keeps the fastest."""

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np

from ..export.artifact import Artifact, load_artifact, quantized_path
from .engine import (
    BACKENDS,
    MAX_THREADS,
    Backend,
    Build,
    EngineOptions,
    Library,
    PictureEngine,
    PrecisionChoice,
    Tensors,
    parse_device,
    parse_precision,
)
from .errors import ArtifactError, EngineError

if TYPE_CHECKING:
    from .engine_takeover import TakeoverEngine

logger = logging.getLogger(__name__)


INT8_GAIN = 1.5
"""How much faster than a float precision int8 must be to be chosen unasked. Its pictures are a little coarser, and
between two nearly equal times chance would choose: a job that is resumed must paint as it did before. Measured: 1.1
times bf16 with AMX, so bf16 stays; 1.7 and 1.9 times fp32 where only VNNI is to be had (the same processor held to
AVX512-VNNI and AVX2-VNNI), so int8 is chosen; 1.4 with plain AVX2."""
LATER_GAIN = 1.5
"""How much faster than the best-placed library another must be: chance must not take one that is a tenth as fast at
full size, as it did on a machine with three jobs a core."""
RACE_ROUNDS = 5
HOPELESS = 4.0
"""How many times slower than the best so far another library is, by a glance at a small picture, that does not run,
nor its int8 version: ONNX Runtime takes nine times OpenVINO's time for these networks, and half of the start-up went
to finding that out."""
GLANCE = (192, 320)
"""Height and width of that picture."""
FULL = (360, 640)
"""Height and width of what is raced with; every stride up to 8 divides them."""


def load_engine(
    artifact: Artifact | Path | str,
    *,
    device: str = "auto",
    precision: str = "auto",
    library: Library | None = None,
    threads: int = 0,
    in_flight: int = 1,
    build: Build = "background",
    on_choice: Callable[[str], None] = lambda line: None,
) -> "PictureEngine | TakeoverEngine":
    """A style, ready to paint.

    Args:
        artifact: an artifact or its path.
        device: one of `Device`, with `:index` where there are several. `auto` runs one real inference on each
            candidate and keeps the fastest; a device that is named is used or is an error.
        precision: one of `PrecisionChoice`; a precision that is named is used or is an error.
        library: narrows the choice to one library.
        threads: threads of a CPU engine; 0 for the library's own choice.
        in_flight: batches that `submit` works on at once: 1 for the least delay, more for the most frames a second.
        build: what to do where TensorRT is named and its engine has not been built yet, which takes minutes:
            paint with another engine until it is there, wait for it, or fail.
        on_choice: gets one line that names what was chosen and why.

    Raises:
        ArtifactError: the file is no safe artifact.
        EngineError: nothing that was asked for can run here; the message says what is missing.
    """
    kind, index = parse_device(device)
    wanted = parse_precision(precision)
    if library is not None and library not in get_args(Library):
        raise ValueError(f"library must be one of {', '.join(get_args(Library))}, got {library!r}")
    if not 0 <= threads <= MAX_THREADS or in_flight < 1:
        raise ValueError(f"threads must be 0 to {MAX_THREADS} and in_flight 1 or more, got {threads} and {in_flight}")
    if not isinstance(artifact, Artifact):
        artifact = load_artifact(artifact)
    if artifact.is_built:
        if kind not in ("auto", "tensorrt") or library not in (None, "tensorrt"):
            raise EngineError(f"{artifact.path} must run on device tensorrt, got {device}: give its .onnx file")
        kind, library = "tensorrt", "tensorrt"
    elif kind == "tensorrt" and library in (None, "tensorrt") and build == "background":
        from .engine_takeover import open_tensorrt

        return open_tensorrt(artifact, index=index, precision=wanted, on_choice=on_choice)
    options = EngineOptions(index=index, precision=wanted, threads=threads, in_flight=in_flight, build=build)
    backends = [b for b in BACKENDS if kind in ("auto", b.device) and library in (None, b.library)]
    if not backends:
        raise EngineError(f"device and library must go together, got {device!r} and {library!r}")
    if kind == "auto":  # what takes minutes to build is used when it is there and is not waited for unasked
        options = replace(options, build="never")
    candidates = [(backend, version) for backend in backends for version in _versions(artifact, backend, wanted)]
    return _choose(candidates, options, on_choice=on_choice)


def _versions(artifact: Artifact, backend: Backend, wanted: PrecisionChoice) -> list[Artifact]:
    """The artifact, and its int8 version where there is one that may be used."""
    path = quantized_path(artifact.path)
    if artifact.is_built or artifact.metadata.precision == "int8" or wanted not in ("auto", "int8"):
        return [artifact]
    if wanted == "auto" and (backend.hardware != "cpu" or not path.is_file()):
        return [artifact]
    if not path.is_file():
        raise EngineError(
            f"int8 must have been made for {artifact.path}: impasto export int8 {artifact.path} --photos DIR"
        )
    try:
        quantized = _int8_version(artifact, path)
    except ArtifactError as exc:
        if wanted == "int8":
            raise
        logger.warning("int8 is not tried: %s", exc)
        return [artifact]
    return [quantized] if wanted == "int8" else [artifact, quantized]


def has_int8(artifact: Artifact) -> bool:
    """Whether a style has an int8 version that `auto` may choose."""
    path = quantized_path(artifact.path)
    try:
        return not artifact.is_built and path.is_file() and bool(_int8_version(artifact, path))
    except ArtifactError:
        return False


def _int8_version(artifact: Artifact, path: Path) -> Artifact:
    quantized = load_artifact(path)
    if quantized.metadata.precision != "int8" or quantized.metadata.training != artifact.metadata.training:
        raise ArtifactError(
            f"{path} must be the int8 version of {artifact.path.name}, got another style: "
            f"impasto export int8 {artifact.path} --photos DIR --overwrite"
        )
    return quantized


def _choose(
    candidates: Sequence[tuple[Backend, Artifact]], options: EngineOptions, *, on_choice: Callable[[str], None]
) -> PictureEngine:
    """The fastest of the first kind of hardware that works."""
    failures: list[str] = []

    def refused(backend: Backend, exc: EngineError) -> None:
        failures.append(f"{backend}: {exc}" if len(candidates) > 1 else str(exc))
        logger.info("not %s: %s", backend, exc)

    for _, group in groupby(candidates, key=lambda candidate: candidate[0].hardware):
        opened: list[Racer] = []
        try:
            for backend, artifact in group:
                try:
                    opened.append(Racer(backend, backend.open(artifact, options)))
                except EngineError as exc:
                    refused(backend, exc)
            ranked = _race(opened, refused)
        except BaseException:
            for racer in opened:
                racer.engine.close()
            raise
        if ranked:
            best, *others = ranked
            for racer in others:
                racer.engine.close()
            comparison = ", ".join(f"{racer.engine.info} {racer.taken_ms:.1f} ms" for racer in others)
            on_choice(f"{best.engine.info}: {best.taken_ms:.1f} ms for 640x360" + f" ({comparison})" * bool(others))
            return best.engine
    raise EngineError("; ".join(failures))


@dataclass
class Racer:
    """An engine that may be chosen."""

    backend: Backend
    engine: PictureEngine
    taken_ms: float = math.inf
    """For one frame of 640x360."""


def _race(opened: Sequence[Racer], refused: Callable[[Backend, EngineError], None]) -> list[Racer]:
    """Those that work, best first."""
    working: list[Racer] = []
    beaten: set[Library] = set()
    for racer in opened:
        library = racer.backend.library
        if library in beaten:
            racer.engine.close()
            continue
        later = bool(working) and library != working[0].backend.library
        try:
            if later and (glance := glance_ms(racer.engine)) > HOPELESS * min(other.taken_ms for other in working):
                racer.taken_ms = glance
                beaten.add(library)
            else:
                racer.taken_ms = one_inference_ms(racer.engine, rounds=RACE_ROUNDS if len(opened) > 1 else 1)
            working.append(racer)
        except EngineError as exc:
            racer.engine.close()
            refused(racer.backend, exc)

    def handicapped(racer: Racer) -> float:
        gain = LATER_GAIN if racer.backend.library != working[0].backend.library else 1.0
        return racer.taken_ms * gain * (INT8_GAIN if racer.engine.info.precision == "int8" else 1.0)

    ranked = sorted(working, key=handicapped)
    if ranked and ranked[0] is not working[0]:  # a busy machine may have held up the favourite: each gets another go
        for racer in ranked:
            try:
                racer.taken_ms = min(racer.taken_ms, one_inference_ms(racer.engine))
            except EngineError as exc:
                working.remove(racer)
                racer.engine.close()
                refused(racer.backend, exc)
        ranked = sorted(working, key=handicapped)
    return ranked


def one_inference_ms(engine: PictureEngine, *, size: tuple[int, int] = FULL, rounds: int = RACE_ROUNDS) -> float:
    """Milliseconds a frame, with as many in flight as the engine was opened for.

    The best of a few rounds: on a busy machine a single one may take ten times as long, and the race be lost by the
    fastest.
    """
    frame = np.random.default_rng(0).integers(0, 256, (1, *size, 3), dtype=np.uint8)
    engine(frame)
    taken = math.inf
    for _ in range(rounds):
        start = time.perf_counter()
        for pending in [engine.submit(frame) for _ in range(engine.in_flight)]:
            pending.result()
        taken = min(taken, (time.perf_counter() - start) * 1e3 / engine.in_flight)
    return taken


def glance_ms(engine: PictureEngine) -> float:
    """What `one_inference_ms` may say, from a picture of a quarter of the size."""
    return one_inference_ms(engine, size=GLANCE, rounds=1) * (FULL[0] * FULL[1]) / (GLANCE[0] * GLANCE[1])


def run_once(artifact: Artifact, inputs: Tensors) -> Tensors:
    """Outputs of an artifact's graph, in fp32 on the processor: for a style encoder, once per painting.

    Raises:
        EngineError: no engine for the processor is installed.
    """
    failures = []
    for backend in (backend for backend in BACKENDS if backend.device == "cpu"):
        try:
            runner = backend.open_runner(artifact, artifact.read(), EngineOptions(precision="fp32"))
        except EngineError as exc:
            failures.append(str(exc))
            continue
        try:
            return runner.start(inputs).result()
        finally:
            runner.close()
    raise EngineError("; ".join(failures))
