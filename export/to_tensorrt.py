"""Artifact to TensorRT engine, for a range of sizes. The engine belongs to one card, driver and TensorRT version.

The network is strongly typed: its types are those of the graph (`half.to_half`), so normalisation stays in fp32, where
TensorRT's own choice of precision has overflowed before.
"""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .artifact import Artifact, Precision
from .errors import ArtifactError
from .half import casts_at_the_border, to_half

Size = tuple[int, int]
"""Height, width."""
Progress = Callable[[str], None]


@dataclass(frozen=True)
class ShapeRange:
    """Sizes that an engine takes. It is fastest at `best`."""

    smallest: Size = (64, 64)
    best: Size = (720, 1280)
    largest: Size = (2160, 3840)
    max_batch: int = 1

    def __post_init__(self) -> None:
        for axis in range(2):
            if not 0 < self.smallest[axis] <= self.best[axis] <= self.largest[axis]:
                raise ValueError(f"sizes must rise from smallest over best to largest, got {self}")

    def __str__(self) -> str:
        sizes = "-".join(f"{width}x{height}" for height, width in (self.smallest, self.best, self.largest))
        return f"{sizes}-b{self.max_batch}"


def cache_key(
    artifact_sha256: str, shapes: ShapeRange, precision: Precision, *, tensorrt: str, card: str, driver: str
) -> str:
    """File name of an engine: all that it depends on, readable, then a hash that keeps it unique and short."""
    parts = (artifact_sha256, str(shapes), precision, tensorrt, card, driver)
    words = "".join(letter if letter.isalnum() or letter in ".-" else "_" for letter in f"{card}-trt{tensorrt}")
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    return f"{artifact_sha256[:12]}-{precision}-{shapes}-{words}-driver{driver}-{digest}.engine"


def build_engine(
    graph: bytes,
    precision: Precision,
    shapes: ShapeRange,
    path: Path,
    *,
    on_progress: Progress = lambda line: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> None:
    """Build and write an engine; takes minutes. Nothing stands under `path` before it is whole.

    Args:
        graph: serialized artifact.
        precision: fp16 or fp32.
        shapes: the sizes to build for.
        path: the file to write.
        on_progress: gets a line per finished phase.
        cancelled: asked between steps; the build ends with an `ArtifactError` when it says yes.
    """
    try:
        import tensorrt
    except ImportError as exc:
        raise ArtifactError("TensorRT must be installed: pip install 'impasto[tensorrt]'") from exc
    graph = casts_at_the_border(to_half(graph) if precision == "fp16" else graph)
    serialized = _build(tensorrt, graph, precision, shapes, on_progress, cancelled)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(serialized)
        partial.replace(path)
    except OSError as exc:
        raise ArtifactError(f"{path} must be writable: {exc.strerror}") from exc
    finally:
        partial.unlink(missing_ok=True)


def export_tensorrt(
    artifact: Artifact, path: Path, precision: Precision, shapes: ShapeRange, *, on_progress: Progress, overwrite: bool
) -> None:
    """`build_engine` for a file that the user named."""
    if path.exists() and not overwrite:
        raise ArtifactError(f"{path} must not exist yet: choose another name or pass --overwrite")
    build_engine(artifact.read(), precision, shapes, path, on_progress=on_progress)


def _build(
    tensorrt: Any,
    graph: bytes,
    precision: Precision,
    shapes: ShapeRange,
    on_progress: Progress,
    cancelled: Callable[[], bool],
) -> bytes:
    logger = tensorrt.Logger(tensorrt.Logger.ERROR)
    builder = tensorrt.Builder(logger)
    # TensorRT 11 knows no other networks and has dropped the flag.
    flag = getattr(tensorrt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if flag is None else 1 << int(flag))
    parser = tensorrt.OnnxParser(network, logger)
    if not parser.parse(graph):
        reasons = "; ".join(str(parser.get_error(index)) for index in range(parser.num_errors))
        raise ArtifactError(f"TensorRT must be able to read the graph: {' '.join(reasons.split())[:300]}")
    config = builder.create_builder_config()
    if precision == "fp32":
        config.clear_flag(tensorrt.BuilderFlag.TF32)
    profile = builder.create_optimization_profile()
    profile.set_shape(
        "frame",
        (1, *shapes.smallest, 3),
        (1, *shapes.best, 3),
        (shapes.max_batch, *shapes.largest, 3),
    )
    config.add_optimization_profile(profile)
    config.progress_monitor = _monitor(tensorrt, on_progress, cancelled)
    serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        raise ArtifactError(
            "TensorRT must be able to build the engine, but gave none" if not cancelled() else "cancelled"
        )
    return bytes(serialized)


def _monitor(tensorrt: Any, on_progress: Progress, cancelled: Callable[[], bool]) -> Any:
    class Monitor(tensorrt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.steps[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            on_progress(f"TensorRT: {phase_name}, {step + 1} of {self.steps.get(phase_name, 0)}")
            return not cancelled()

        def phase_finish(self, phase_name: str) -> None:
            self.steps.pop(phase_name, None)

    return Monitor()
