"""Engines: a loaded style that turns pictures into pictures.

`engine_choice.load_engine` is the door. Behind it, a `Backend` is a library on a kind of device; its module opens a
`Runner`, which knows nothing of styles and runs one graph; `PictureEngine` makes an `Engine` of a runner and an
artifact. A new back end is a module with four functions and a line in `BACKENDS`.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt

from ..export.artifact import Artifact, Precision
from ..export.parity import PSNR_FLOOR_DB
from .errors import EngineError

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
]

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

    @property
    def index(self) -> int:
        """Which of several devices of a kind, as in `EngineOptions`: 1 for "CUDA:1" and "GPU.1"."""
        return int(self.device.replace(".", ":").partition(":")[2] or 0)

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


MAX_THREADS = 1024
"""More than any machine has use for; so many more that the system has none left end the program without a word."""


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
        """How many batches are worked on at once."""
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

        Results may be collected in any order. Beyond `in_flight` batches and one that waits its turn, submitting waits
        for the oldest.

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
    """A library on a kind of device. Its module has the four functions below, with the device as an argument."""

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


def choose_precision(artifact: Artifact, options: EngineOptions, able: Sequence[Precision], *, where: str) -> Precision:
    """The precision to compute in: exactly the one asked for, or the fastest that passed the artifact's parity gate."""
    if artifact.metadata.precision == "int8":
        if options.precision not in ("auto", "int8"):
            raise EngineError(f"precision must be int8 for {artifact.path}, got {options.precision}")
        return "int8"
    if options.precision == "auto":
        return next((precision for precision in able if passes(artifact, precision)), "fp32")
    if options.precision not in able:
        raise EngineError(f"precision must be {' or '.join(able)} with {where}, got {options.precision}")
    return options.precision


def passes(artifact: Artifact, precision: Precision) -> bool:
    """Whether the artifact's picture is near enough in this precision; one that was not measured is taken to be."""
    return all(p.psnr_db >= PSNR_FLOOR_DB[p.precision] for p in artifact.metadata.parity if p.precision == precision)


def no_style(graph: bytes) -> npt.NDArray[np.float32]:
    """(1, K) zeros for the `style` input of an arbitrary style, until it is given one."""
    import onnx

    inputs = {value.name: value for value in onnx.ModelProto.FromString(graph).graph.input}
    return np.zeros((1, inputs["style"].type.tensor_type.shape.dim[1].dim_value), np.float32)


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


def missing(distribution: str, what: str, mend: str) -> EngineError:
    """The error for a library that cannot be imported."""
    return EngineError(f"{what} ({distribution}) must be installed: {mend}")


def one_line(error: BaseException) -> str:
    """A library's error text, fit for one line of ours."""
    return " ".join(str(error).split())[:300]
