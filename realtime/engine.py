"""Engines: a loaded style that turns pictures into pictures. The only place that picks a back end.

`load_engine` is the door. Behind it, a `Backend` is a library on a kind of device; its module opens a `Runner`, which
knows nothing of styles and runs one graph; `PictureEngine` makes an `Engine` of a runner and an artifact. A new back
end is a module with four functions and a line in `BACKENDS`.
"""

import importlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt

from ..export.artifact import Artifact, Precision, load_artifact, quantized_path
from ..export.parity import PSNR_FLOOR_DB, Candidate, Picture
from .errors import ArtifactError, EngineError

if TYPE_CHECKING:
    from .engine_takeover import TakeoverEngine

__all__ = [
    "BACKENDS",
    "Backend",
    "Batch",
    "Device",
    "Engine",
    "EngineInfo",
    "EngineOptions",
    "Pending",
    "PictureEngine",
    "Precision",
    "PrecisionChoice",
    "Runner",
    "check_batch",
    "load_engine",
    "proof_candidates",
    "run_once",
]

logger = logging.getLogger(__name__)

Batch = npt.NDArray[np.uint8]
"""(N, H, W, 3) uint8 RGB."""
Tensors = Mapping[str, npt.NDArray[Any]]
"""Inputs or outputs of a graph by name."""

Device = Literal["auto", "cpu", "cuda", "tensorrt", "directml", "coreml", "torch", "intel-gpu"]
PrecisionChoice = Literal["auto", "fp32", "bf16", "fp16", "int8"]
Build = Literal["background", "wait", "never"]
Library = Literal["openvino", "onnxruntime", "tensorrt", "torch"]
Hardware = Literal["gpu", "torch", "cpu"]
"""Tried in this order by auto; torch takes seconds to import, so its card comes after every other way to a card."""


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
    in_flight: int = 1
    """Frames that `PictureEngine.submit` works on at once: 1 for the least delay, more for the most frames a second."""
    build: Build = "wait"
    """Whether to wait for an engine that takes minutes to build (TensorRT) or to use it only if it is there."""
    cancelled: Callable[[], bool] = lambda: False
    """Asked while such an engine is built."""


class Pending(Protocol):
    """Outputs that may still be computed."""

    def result(self) -> Tensors:
        """Wait for the outputs: new arrays that nothing will write to again."""


class Runner(Protocol):
    """A graph, compiled by a library for a device. Calls may come from any one thread at a time."""

    @property
    def info(self) -> EngineInfo: ...

    def start(self, inputs: Tensors) -> Pending:
        """Begin to run the graph. The inputs must not change until the result is there."""

    def prepare(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Compile for inputs of these shapes, where the library gains by it."""

    def close(self) -> None:
        """Free the graph. Safe to call twice."""


@dataclass(frozen=True)
class Done:
    """Outputs that are there already."""

    outputs: Tensors

    def result(self) -> Tensors:
        return self.outputs


@dataclass(frozen=True)
class PendingPicture:
    """A batch that may still be painted."""

    pending: Pending

    def result(self) -> Batch:
        """Wait for the (N, H, W, 3) uint8 RGB batch."""
        painted: Batch = self.pending.result()["stylized"]
        return painted


class PictureEngine:
    """An `Engine`: an artifact's graph in a runner."""

    def __init__(self, runner: Runner, *, stride: int, in_flight: int = 1, inputs: Tensors | None = None) -> None:
        self._runner = runner
        self._stride = stride
        self.in_flight = in_flight
        """How many batches may be submitted and not yet collected."""
        self.inputs: Tensors = inputs or {}
        """What the graph takes beside the frame: `style` (1, K) float32 for an arbitrary style. May be replaced between
        two frames; the arrays themselves must not change while a result is awaited."""

    @property
    def info(self) -> EngineInfo:
        return self._runner.info

    @property
    def stride(self) -> int:
        return self._stride

    def __call__(self, frames: Batch) -> Batch:
        return self.submit(frames).result()

    def submit(self, frames: Batch) -> PendingPicture:
        """Begin to stylize; `result()` of what comes back waits for it.

        Results may be collected in any order. Beyond `in_flight` batches, submitting waits for the oldest.

        Args:
            frames: (N, H, W, 3) uint8 RGB, which must not change until the result is there.
        """
        check_batch(frames, self._stride)
        return PendingPicture(self._runner.start({"frame": np.ascontiguousarray(frames), **self.inputs}))

    def warmup(self, height: int, width: int) -> None:
        others = {name: array.shape for name, array in self.inputs.items()}
        self._runner.prepare({"frame": (1, height, width, 3), **others})
        self(np.zeros((1, height, width, 3), np.uint8))

    def close(self) -> None:
        self._runner.close()


@dataclass(frozen=True)
class Backend:
    """A library on a kind of device. Its module has these three functions, with the device as an argument."""

    library: Library
    device: Device
    module: str
    hardware: Hardware

    def open(self, artifact: Artifact, options: EngineOptions) -> PictureEngine:
        """An engine that has been opened but not yet run.

        Raises:
            EngineError: the library, the device or the precision is missing; the message says how to get it.
        """
        if artifact.is_built and self.library != "tensorrt":
            raise EngineError(f"{artifact.path} must run in TensorRT, got {self}")
        if artifact.metadata.kind == "style-encoder":
            raise EngineError(f"{artifact.path} must be a style that paints, got the encoder of one")
        graph = artifact.read()
        inputs = {"style": no_style(graph)} if artifact.metadata.kind == "arbitrary" else {}
        runner = self.open_runner(artifact, graph, options)
        return PictureEngine(runner, stride=artifact.metadata.stride, in_flight=options.in_flight, inputs=inputs)

    def open_runner(self, artifact: Artifact, graph: bytes, options: EngineOptions) -> Runner:
        """A runner of the artifact's graph or of one that was made from it."""
        precision = choose_precision(artifact, options, self.precisions(options.index), where=str(self))
        runner: Runner = self._module.open_runner(artifact, graph, self.device, precision, options)
        return runner

    def precisions(self, index: int = 0) -> tuple[Precision, ...]:
        """Float precisions that the device computes in by its own hardware, fastest first.

        Raises:
            EngineError: as for `open`.
        """
        able: tuple[Precision, ...] = self._module.precisions(self.device, index)
        return able

    def version(self) -> str:
        """Version of the library, without loading it; `EngineError` where it is not installed."""
        text: str = self._module.version(self.device)
        return text

    def __str__(self) -> str:
        return f"{self.library} on {self.device}"

    @property
    def _module(self) -> Any:
        return importlib.import_module(self.module, __package__)


BACKENDS: Sequence[Backend] = (
    Backend("tensorrt", "tensorrt", ".engine_tensorrt", "gpu"),
    Backend("onnxruntime", "cuda", ".engine_onnxruntime", "gpu"),
    Backend("onnxruntime", "tensorrt", ".engine_onnxruntime", "gpu"),
    Backend("onnxruntime", "directml", ".engine_onnxruntime", "gpu"),
    Backend("onnxruntime", "coreml", ".engine_onnxruntime", "gpu"),
    Backend("openvino", "intel-gpu", ".engine_openvino", "gpu"),
    Backend("torch", "torch", ".engine_torch", "torch"),
    Backend("openvino", "cpu", ".engine_openvino", "cpu"),
    Backend("onnxruntime", "cpu", ".engine_onnxruntime", "cpu"),
)
"""Best first among those of one kind of hardware."""


INT8_GAIN = 1.5
"""How much faster than a float precision int8 must be to be chosen unasked. Its pictures are a little coarser, and
between two nearly equal times chance would choose: a job that is resumed must paint as it did before. Measured: 1.1
times bf16 with AMX, so bf16 stays; 1.7 and 1.9 times fp32 where only VNNI is to be had (the same processor held to
AVX512-VNNI and AVX2-VNNI), so int8 is chosen; 1.4 with plain AVX2."""


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
    if threads < 0 or in_flight < 1:
        raise ValueError(f"threads must be 0 or more and in_flight 1 or more, got {threads} and {in_flight}")
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


def choose_precision(artifact: Artifact, options: EngineOptions, able: Sequence[Precision], *, where: str) -> Precision:
    """The precision to compute in: exactly the one asked for, or the fastest that passed the artifact's parity gate."""
    if artifact.metadata.precision == "int8":
        if options.precision not in ("auto", "int8"):
            raise EngineError(f"precision must be int8 for {artifact.path}, got {options.precision}")
        return "int8"
    if options.precision == "auto":
        failed = {p.precision for p in artifact.metadata.parity if p.psnr_db < PSNR_FLOOR_DB[p.precision]}
        return next((precision for precision in able if precision not in failed), "fp32")
    if options.precision not in able:
        raise EngineError(f"precision must be {' or '.join(able)} with {where}, got {options.precision}")
    return options.precision


def no_style(graph: bytes) -> npt.NDArray[np.float32]:
    """(1, K) zeros for the `style` input of an arbitrary style, until it is given one."""
    import onnx

    inputs = {value.name: value for value in onnx.ModelProto.FromString(graph).graph.input}
    return np.zeros((1, inputs["style"].type.tensor_type.shape.dim[1].dim_value), np.float32)


def proof_candidates() -> list[Candidate]:
    """Every engine and precision of this machine, for the parity gate of an export.

    Where ONNX Runtime is installed, its processor kernels also run the fp16 graph that cards will get, rounding to
    fp16 after every operator: a card's own kernels can still differ, but an overflow or a lost digit shows here.
    """
    candidates = []
    for backend in BACKENDS:
        try:
            candidates += [_proof_candidate(backend, precision) for precision in backend.precisions()]
        except EngineError as exc:
            logger.info("no parity check with %s: %s", backend, exc)
    if not any(candidate.precision == "fp16" for candidate in candidates):
        with suppress(EngineError):
            candidates.append(_fp16_graph_candidate())
    return candidates


def _fp16_graph_candidate() -> Candidate:
    from .engine_onnxruntime import open_runner, version

    @contextmanager
    def opened(artifact: Artifact, in_flight: int = 1) -> Iterator[_Painter]:
        runner = open_runner(artifact, artifact.read(), "cpu", "fp16", EngineOptions())
        engine = PictureEngine(runner, stride=artifact.metadata.stride)
        try:
            yield _Painter(engine)
        finally:
            engine.close()

    return Candidate(f"onnxruntime {version('cpu')} cpu, fp16 graph", "fp16", opened)


def _proof_candidate(backend: Backend, precision: Precision) -> Candidate:
    @contextmanager
    def opened(artifact: Artifact, in_flight: int = 1) -> Iterator[_Painter]:
        # A quantised artifact has one precision, whatever the device's float precisions are.
        wanted: PrecisionChoice = "auto" if artifact.metadata.precision == "int8" else precision
        engine = backend.open(artifact, EngineOptions(precision=wanted, in_flight=in_flight))
        try:
            yield _Painter(engine)
        finally:
            engine.close()

    return Candidate(f"{backend.library} {backend.version()} {backend.device}", precision, opened)


@dataclass(frozen=True)
class _Painter:
    """A `parity.Painter`: an engine as the gate wants it."""

    engine: PictureEngine

    def __call__(self, picture: Picture) -> Picture:
        from .stylizer import submit_picture  # it imports this module

        if any(side % self.engine.stride for side in picture.shape[:2]):
            return submit_picture(self.engine, picture)()
        painted: Picture = self.engine(picture[np.newaxis])[0]
        return painted

    def batch(self, pictures: Batch) -> Batch:
        return self.engine(pictures)

    def several(self, pictures: Sequence[Picture]) -> Sequence[Picture]:
        pending = [self.engine.submit(picture[np.newaxis]) for picture in pictures]
        return [painted.result()[0] for painted in pending]


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


def _choose(
    candidates: Sequence[tuple[Backend, Artifact]], options: EngineOptions, *, on_choice: Callable[[str], None]
) -> PictureEngine:
    """The fastest of the first kind of hardware that works."""
    working: list[tuple[float, PictureEngine]] = []
    handicaps: dict[int, float] = {}
    hardware = first = ""
    failures: list[str] = []
    for backend, artifact in candidates:
        if working and backend.hardware != hardware:
            break
        try:
            engine = backend.open(artifact, options)
            working.append((one_inference_ms(engine), engine))
            hardware, first = backend.hardware, first or backend.library
            handicaps[id(engine)] = LATER_GAIN if backend.library != first else 1.0
            handicaps[id(engine)] *= INT8_GAIN if engine.info.precision == "int8" else 1.0
        except EngineError as exc:
            failures.append(f"{backend}: {exc}" if len(candidates) > 1 else str(exc))
            logger.info("not %s: %s", backend, exc)
    if not working:
        raise EngineError("; ".join(failures))
    working.sort(key=lambda entry: entry[0] * handicaps[id(entry[1])])
    (best_ms, best), *others = working
    for _, engine in others:
        engine.close()
    comparison = ", ".join(f"{engine.info} {taken_ms:.1f} ms" for taken_ms, engine in others)
    on_choice(f"{best.info}: {best_ms:.1f} ms for 640x360" + (f" ({comparison})" if others else ""))
    return best


def one_inference_ms(engine: Engine, *, height: int = 360, width: int = 640) -> float:
    """Milliseconds of one real inference after a first, at a size that every stride up to 8 divides.

    The best of a few: on a busy machine a single one may take ten times as long, and the race be lost by the fastest.
    """
    frame = np.random.default_rng(0).integers(0, 256, (1, height, width, 3), dtype=np.uint8)
    engine(frame)
    taken = []
    for _ in range(RACE_ROUNDS):
        start = time.perf_counter()
        engine(frame)
        taken.append(time.perf_counter() - start)
    return min(taken) * 1e3


RACE_ROUNDS = 5
LATER_GAIN = 1.5
"""How much faster than the best-placed library another must be: chance must not take one that is a tenth as fast at
full size, as it did on a machine with three jobs a core."""


def missing(distribution: str, what: str, mend: str) -> EngineError:
    """The error for a library that cannot be imported."""
    return EngineError(f"{what} ({distribution}) must be installed: {mend}")


def one_line(error: BaseException) -> str:
    """A library's error text, fit for one line of ours."""
    return " ".join(str(error).split())[:300]
