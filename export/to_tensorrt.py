"""Artifact to TensorRT engine, for a range of sizes. The engine belongs to one card, driver and TensorRT version.

The network is strongly typed: its types are those of the graph (`half.to_half`), so normalisation stays in fp32, where
TensorRT's own choice of precision has overflowed before.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..training.whole_file import whole_file
from .artifact import ENGINE_MAGIC, Artifact, Metadata, Precision, metadata_from_json
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
        if self.max_batch < 1:
            raise ValueError(f"max_batch must be 1 or more, got {self.max_batch}")
        for axis in range(2):
            if not 0 < self.smallest[axis] <= self.best[axis] <= self.largest[axis]:
                raise ValueError(f"sizes must rise from smallest over best to largest, got {self}")

    def __str__(self) -> str:
        sizes = "-".join(f"{width}x{height}" for height, width in (self.smallest, self.best, self.largest))
        return f"{sizes}-b{self.max_batch}"


@dataclass(frozen=True)
class Machine:
    """What an engine belongs to: it runs nowhere else."""

    tensorrt: str
    """Version of TensorRT."""
    card: str
    """What the card calls itself."""
    driver: str
    """Version of NVIDIA's driver."""

    def __str__(self) -> str:
        return f"{self.card}, TensorRT {self.tensorrt}, driver {self.driver}"


@dataclass(frozen=True)
class EngineFile:
    """What a `.engine` says of itself, and TensorRT's own bytes.

    A line of magic, a line of JSON, then the serialized engine. TensorRT trusts what it deserializes, and so must the
    user: an engine is to be built on the machine that runs it, not to be passed on.
    """

    machine: Machine
    precision: Precision
    shapes: ShapeRange
    metadata: Metadata
    """Of the artifact that it was built from."""
    plan: bytes

    def serialize(self) -> bytes:
        header = {
            "machine": asdict(self.machine),
            "precision": self.precision,
            "shapes": asdict(self.shapes),
            "metadata": asdict(self.metadata),
            "sha256": hashlib.sha256(self.plan).hexdigest(),
        }
        return ENGINE_MAGIC + json.dumps(header, sort_keys=True).encode() + b"\n" + self.plan


def read_engine(data: bytes, name: str) -> EngineFile:
    """The content of a `.engine`; `name` is for the error's text.

    Raises:
        ArtifactError: it was not written by `build_engine`, or is damaged.
    """
    if not data.startswith(ENGINE_MAGIC):
        raise ArtifactError(f"{name} must be an engine that `impasto export tensorrt` wrote")
    line, _, plan = data[len(ENGINE_MAGIC) :].partition(b"\n")
    try:
        header = json.loads(line)
        sizes = [
            (int(height), int(width)) for height, width in map(header["shapes"].get, ("smallest", "best", "largest"))
        ]
        shapes = ShapeRange(sizes[0], sizes[1], sizes[2], int(header["shapes"]["max_batch"]))
        precision: Precision = "fp32" if header["precision"] == "fp32" else "fp16"
        if hashlib.sha256(plan).hexdigest() != header["sha256"]:
            raise ValueError("its content does not match its sum")
        metadata = metadata_from_json(header["metadata"])
        return EngineFile(Machine(**header["machine"]), precision, shapes, metadata, plan)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
        raise ArtifactError(f"{name} must be an undamaged engine, but {' '.join(str(exc).split())[:200]}") from exc


def cache_key(artifact_sha256: str, shapes: ShapeRange, precision: Precision, machine: Machine) -> str:
    """File name of an engine: all that it depends on, readable, then a hash that keeps it unique and short."""
    parts = (artifact_sha256, str(shapes), precision, machine.tensorrt, machine.card, machine.driver)
    words = f"{machine.card}-trt{machine.tensorrt}-driver{machine.driver}"
    words = "".join(letter if letter.isalnum() or letter in ".-" else "_" for letter in words)
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    return f"{artifact_sha256[:12]}-{precision}-{shapes}-{words}-{digest}.engine"


def build_engine(
    graph: bytes,
    metadata: Metadata,
    precision: Precision,
    shapes: ShapeRange,
    machine: Machine,
    path: Path,
    *,
    on_progress: Progress = lambda line: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> None:
    """Build and write an engine; takes minutes. Nothing stands under `path` before it is whole.

    Args:
        graph: serialized artifact, or a graph made from it.
        metadata: the artifact's.
        precision: fp16 or fp32.
        shapes: the sizes to build for.
        machine: this one, as the file will say.
        path: the file to write.
        on_progress: gets a line per finished phase.
        cancelled: asked between steps; the build ends with an `ArtifactError` when it says yes.
    """
    try:
        import tensorrt
    except ImportError as exc:
        raise ArtifactError("TensorRT must be installed: pip install 'impasto[tensorrt]'") from exc
    graph = casts_at_the_border(to_half(graph) if precision == "fp16" else graph)
    plan = _build(tensorrt, graph, precision, shapes, on_progress, cancelled)
    try:
        with whole_file(path) as part:
            part.write_bytes(EngineFile(machine, precision, shapes, metadata, plan).serialize())
    except OSError as exc:
        raise ArtifactError(f"{path} must be writable: {exc.strerror}") from exc


def export_tensorrt(
    artifact: Artifact,
    path: Path,
    precision: Precision,
    shapes: ShapeRange,
    machine: Machine,
    *,
    on_progress: Progress,
    overwrite: bool,
) -> None:
    """`build_engine` for a file that the user named."""
    if path.exists() and not overwrite:
        raise ArtifactError(f"{path} must not exist yet: choose another name or pass --overwrite")
    if not path.parent.is_dir():
        raise ArtifactError(f"{path.parent} must be a folder that exists")
    if artifact.metadata.kind != "single" or artifact.metadata.precision == "int8":
        raise ArtifactError(f"{artifact.path} must hold one style in float to become a TensorRT engine")
    graph = artifact.read_graph()
    build_engine(graph, artifact.metadata, precision, shapes, machine, path, on_progress=on_progress)


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
