"""TensorRT: fastest on NVIDIA. Engines are built once per card and kept in the user's cache."""

import hashlib
import logging
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

import numpy as np

from ..export.artifact import Artifact, Precision
from ..export.to_tensorrt import EngineFile, Machine, ShapeRange, build_engine, cache_key, read_engine
from . import nvidia
from .cache import cache_folder
from .engine import Device, Done, EngineInfo, EngineOptions, Tensors, missing, one_line
from .errors import ArtifactError, EngineError

logger = logging.getLogger(__name__)

_MEND = "pip install 'impasto[tensorrt]'"


def open_runner(
    artifact: Artifact, graph: bytes, device: Device, precision: Precision, options: EngineOptions
) -> "TensorRtRunner":
    """The graph's engine from the cache, built first if it is not there and may be; or the engine that is given."""
    if artifact.is_built:
        return TensorRtRunner(_for_this_machine(artifact, options), options)
    path = engine_path(graph, precision, options.index)
    if not path.is_file():
        if options.build != "wait":
            raise EngineError(f"no TensorRT engine has been built for it yet: impasto export tensorrt {artifact.path}")
        try:
            build_engine(
                graph,
                artifact.metadata,
                precision,
                ShapeRange(),
                machine(options.index),
                path,
                on_progress=logger.info,
                cancelled=options.cancelled,
            )
        except ArtifactError as exc:
            raise EngineError(str(exc)) from exc
    try:
        return TensorRtRunner(read_engine(path.read_bytes(), path.name), options)
    except (ArtifactError, _UnreadableEngine) as exc:
        path.unlink(missing_ok=True)  # of another version, or damaged; it is a cache
        raise EngineError(f"{exc}: it has been removed, try again") from exc


class _UnreadableEngine(EngineError):
    """What was built cannot be used; any other `EngineError` is no reason to build it again."""


def _for_this_machine(artifact: Artifact, options: EngineOptions) -> EngineFile:
    built = read_engine(artifact.read(), str(artifact.path))
    here = machine(options.index)
    if built.machine != here:
        raise EngineError(
            f"{artifact.path} must have been built here ({here}), but is for {built.machine}: "
            "impasto export tensorrt STYLE.onnx"
        )
    if options.precision not in ("auto", built.precision):
        raise EngineError(f"precision must be {built.precision} for {artifact.path}, got {options.precision}")
    return built


def engine_path(graph: bytes, precision: Precision, index: int = 0) -> Path:
    """Where the cache keeps the engine of a graph for this card, driver and TensorRT."""
    key = cache_key(hashlib.sha256(graph).hexdigest(), ShapeRange(), precision, machine(index))
    return cache_folder("tensorrt") / key


def machine(index: int = 0) -> Machine:
    """What an engine that is built here belongs to."""
    driver = _driver(index)
    dotted = ".".join(map(str, driver.cuda_version))
    return Machine(version("tensorrt"), driver.cards[index].name, nvidia.driver_version() or f"cuda{dotted}")


def precisions(device: Device, index: int = 0) -> tuple[Precision, ...]:
    """See `engine.Backend.precisions`."""
    _libraries()
    _driver(index)
    return ("fp16", "fp32")


def version(device: Device) -> str:
    """Version of the installed package, for whichever device."""
    try:
        return package_version("tensorrt")
    except PackageNotFoundError:
        raise missing("tensorrt", "TensorRT", _MEND) from None


class TensorRtRunner:
    """An engine with device buffers that grow to the largest size seen."""

    def __init__(self, built: EngineFile, options: EngineOptions) -> None:
        tensorrt, cudart = _libraries()
        self._cudart = cudart
        _check(cudart.cudaSetDevice(options.index))
        runtime = tensorrt.Runtime(tensorrt.Logger(tensorrt.Logger.ERROR))
        self._engine: Any = runtime.deserialize_cuda_engine(built.plan)
        if self._engine is None:
            raise _UnreadableEngine("TensorRT must be able to read the engine, but it cannot")
        self._context: Any = self._engine.create_execution_context()
        if self._context is None:
            raise EngineError("the card must have memory for what the engine computes, but TensorRT gets none")
        (self._stream,) = _check(cudart.cudaStreamCreate())
        self._buffers: dict[str, tuple[int, int]] = {}
        self._index = options.index
        self._shapes = built.shapes
        self.info = EngineInfo("tensorrt", f"CUDA:{options.index}", built.precision)

    def start(self, inputs: Tensors) -> Done:
        if self._context is None:
            raise EngineError("the engine must not be used after it was closed")
        frames = inputs["frame"]
        painted = np.empty(frames.shape, np.uint8)
        cudart, stream = self._cudart, self._stream
        _check(cudart.cudaSetDevice(self._index))  # the current device belongs to the calling thread
        if not self._context.set_input_shape("frame", frames.shape):
            raise EngineError(
                f"frames must be of a size that the engine was built for, {self._shapes}, got {frames.shape}"
            )
        source, target = self._buffer("frame", frames.nbytes), self._buffer("stylized", painted.nbytes)
        kinds = cudart.cudaMemcpyKind
        _check(cudart.cudaMemcpyAsync(source, frames.ctypes.data, frames.nbytes, kinds.cudaMemcpyHostToDevice, stream))
        if not self._context.execute_async_v3(int(stream)):
            raise EngineError(f"TensorRT failed on {frames.shape}")
        _check(
            cudart.cudaMemcpyAsync(painted.ctypes.data, target, painted.nbytes, kinds.cudaMemcpyDeviceToHost, stream)
        )
        _check(cudart.cudaStreamSynchronize(stream))
        return Done({"stylized": painted})

    def prepare(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Nothing to do: the engine was built for a range of sizes."""

    def close(self) -> None:
        if self._context is None:
            return
        self._context = self._engine = None
        for address, _ in self._buffers.values():
            _check(self._cudart.cudaFree(address))
        self._buffers.clear()
        _check(self._cudart.cudaStreamDestroy(self._stream))

    def _buffer(self, name: str, size: int) -> int:
        """Device address of a buffer of at least `size` bytes, bound to the tensor."""
        address, capacity = self._buffers.get(name, (0, 0))
        if capacity < size:
            if capacity:
                del self._buffers[name]  # what is freed must not be found again where the card has no more memory
                _check(self._cudart.cudaFree(address))
            (address,) = _check(self._cudart.cudaMalloc(size))
            self._buffers[name] = (int(address), size)
        self._context.set_tensor_address(name, int(address))
        return int(address)


def _check(answer: tuple[Any, ...]) -> tuple[Any, ...]:
    """The values of a CUDA call; an `EngineError` where it failed."""
    code, *values = answer
    if int(code) != 0:
        raise EngineError(f"CUDA must succeed, got {one_line(Exception(code))}: {nvidia.diagnosis()}")
    return tuple(values)


def _libraries() -> tuple[Any, Any]:
    try:
        import tensorrt
    except ImportError as exc:
        raise missing("tensorrt", "TensorRT", _MEND) from exc
    try:
        from cuda.bindings import runtime
    except ImportError as exc:
        raise missing("cuda-python", "CUDA's Python bindings", _MEND) from exc
    return tensorrt, runtime


def _driver(index: int) -> nvidia.Driver:
    driver = nvidia.driver()
    if driver is None or not driver.cards:
        raise EngineError(f"TensorRT must have a card, but: {nvidia.diagnosis()}: {_MEND}")
    if index >= len(driver.cards):
        raise EngineError(f"device index must be below {len(driver.cards)}, got {index}")
    return driver
