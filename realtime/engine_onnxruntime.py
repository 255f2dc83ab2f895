"""ONNX Runtime: the common denominator of processors and graphics cards, one execution provider per device."""

import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as package_version
from typing import Any

import numpy as np

from ..export.artifact import Artifact, Precision
from . import nvidia
from .cache import cache_folder
from .engine import Device, Done, EngineInfo, EngineOptions, Tensors, missing, one_line
from .errors import EngineError

_PROVIDERS: dict[str, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "directml": "DmlExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
}
_MEND: dict[str, str] = {
    "cpu": "pip install onnxruntime",
    "cuda": "pip install 'impasto[gpu]'",
    "tensorrt": "pip install 'impasto[gpu,tensorrt]'",
    "directml": "pip install onnxruntime-directml",
    "coreml": "pip install onnxruntime",
}
_SYSTEMS = {"directml": ("win32", "Windows"), "coreml": ("darwin", "macOS")}
_DISTRIBUTIONS = ("onnxruntime-gpu", "onnxruntime-directml", "onnxruntime")


def open_runner(
    artifact: Artifact, graph: bytes, device: Device, precision: Precision, options: EngineOptions
) -> "OnnxRuntimeRunner":
    """A graph in a session whose first provider is the device's; there is no fallback to another."""
    if precision == "fp16":
        from ..export.half import to_half

        graph = to_half(graph)
    if device == "coreml":
        from ..export.edges import pad_by_concat

        graph = pad_by_concat(graph)
    return OnnxRuntimeRunner(graph, device, precision, options)


def precisions(device: Device, index: int = 0) -> tuple[Precision, ...]:
    """See `engine.Backend.precisions`."""
    _check_provider(_library(device), device)
    return ("fp16", "fp32") if device in ("cuda", "tensorrt", "directml") else ("fp32",)


def version(device: Device) -> str:
    """Version of the installed package; where there is none, the error names the one that serves the device."""
    _check_system(device)
    for name in _DISTRIBUTIONS:
        try:
            return package_version(name)
        except PackageNotFoundError:
            continue
    raise missing("onnxruntime", "ONNX Runtime", _MEND[device])


class OnnxRuntimeRunner:
    """A graph in an ONNX Runtime session."""

    def __init__(self, graph: bytes, device: Device, precision: Precision, options: EngineOptions) -> None:
        onnxruntime = _library(device)
        _check_provider(onnxruntime, device)
        provider = _PROVIDERS[device]
        try:
            self._session: Any = onnxruntime.InferenceSession(
                graph,
                _session_options(onnxruntime, device, options),
                providers=[(provider, _provider_options(device, options))],
                enable_fallback=0,
            )
        except Exception as exc:  # its exception classes share no base but Exception
            raise EngineError(f"ONNX Runtime must be able to run the graph on {device}: {_why(device, exc)}") from exc
        # A provider may be listed and still not load; the session then runs on the processor without a word.
        if provider not in self._session.get_providers():
            self._session = None
            raise EngineError(f"{provider} must load, but it does not: {_why(device, None)}")
        name = "CPU" if device == "cpu" else f"{device.upper()}:{options.index}"
        self.info = EngineInfo("onnxruntime", name, precision)
        on_card = device in ("cuda", "tensorrt")
        self._bound = Bound(onnxruntime, self._session, "cuda", options.index) if on_card else None

    def start(self, inputs: Tensors) -> Done:
        if self._session is None:
            raise EngineError("the engine must not be used after it was closed")
        try:
            if self._bound is not None:
                return Done(self._bound.run(inputs))
            names = [output.name for output in self._session.get_outputs()]
            return Done(dict(zip(names, self._session.run(names, dict(inputs)), strict=True)))
        except Exception as exc:
            shapes = {name: array.shape for name, array in inputs.items()}
            raise EngineError(f"ONNX Runtime failed on {shapes}: {one_line(exc)}") from exc

    def prepare(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Nothing to do: sessions take any size."""

    def close(self) -> None:
        self._session = self._bound = None


class Bound:
    """Inputs and outputs in device memory, allocated once per size: one copy in, one copy out."""

    def __init__(self, onnxruntime: Any, session: Any, memory: str, index: int) -> None:
        """`memory` is where the buffers lie: cuda, or cpu to try the same without a card."""
        self._ort, self._session, self._memory, self._index = onnxruntime, session, memory, index
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._inputs: dict[str, Any] = {}
        self._binding: Any = None

    def run(self, inputs: Tensors) -> Tensors:
        shapes = {name: array.shape for name, array in inputs.items()}
        if shapes != self._shapes:
            self._bind(inputs)
            self._shapes = shapes
        for name, array in inputs.items():
            self._inputs[name].update_inplace(array)
        self._session.run_with_iobinding(self._binding)
        outputs = zip(self._session.get_outputs(), self._binding.get_outputs(), strict=True)
        return {output.name: value.numpy() for output, value in outputs}

    def _bind(self, inputs: Tensors) -> None:
        self._binding = self._session.io_binding()
        for name, array in inputs.items():
            self._inputs[name] = self._ort.OrtValue.ortvalue_from_shape_and_type(
                array.shape, array.dtype, self._memory, self._index
            )
            self._binding.bind_ortvalue_input(name, self._inputs[name])
        for output in self._session.get_outputs():
            if output.name == "stylized":
                painted = self._ort.OrtValue.ortvalue_from_shape_and_type(
                    inputs["frame"].shape, np.uint8, self._memory, self._index
                )
                self._binding.bind_ortvalue_output(output.name, painted)
            else:
                self._binding.bind_output(output.name, self._memory, self._index)


def _check_system(device: Device) -> None:
    if device in _SYSTEMS and sys.platform != _SYSTEMS[device][0]:
        raise EngineError(f"{device} exists on {_SYSTEMS[device][1]} only")


def _library(device: Device) -> Any:
    _check_system(device)
    try:
        import onnxruntime
    except ImportError as exc:
        raise missing("onnxruntime", "ONNX Runtime", _MEND[device]) from exc
    if not hasattr(onnxruntime, "InferenceSession"):  # what is left when one of two packages is uninstalled
        raise EngineError(f"ONNX Runtime must be whole, but its files are gone: {_reinstall(_MEND[device])}")
    if device in ("cuda", "tensorrt") and hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()  # finds CUDA and cuDNN in the nvidia-* packages, without LD_LIBRARY_PATH
    return onnxruntime


def installed_distributions() -> list[str]:
    """Which of the packages that share the name `onnxruntime` are installed."""
    found = []
    for name in _DISTRIBUTIONS:
        try:
            package_version(name)
        except PackageNotFoundError:
            continue
        found.append(name)
    return found


def _check_provider(onnxruntime: Any, device: Device) -> None:
    available = onnxruntime.get_available_providers()
    if _PROVIDERS[device] in available:
        return
    if device in ("cuda", "tensorrt") and nvidia.driver() is None:
        raise EngineError(f"{nvidia.diagnosis()}: {_reinstall(_MEND[device])}")
    distributions = installed_distributions()
    if len(distributions) > 1:
        raise EngineError(
            f"{' and '.join(distributions)} must not both be installed, they overwrite one another and "
            f"{_PROVIDERS[device]} is gone: {_reinstall(_MEND[device])}"
        )
    raise EngineError(
        f"{_PROVIDERS[device]} must be in ONNX Runtime, got {', '.join(available)}: {_reinstall(_MEND[device])}"
    )


def _reinstall(mend: str) -> str:
    return f"pip uninstall -y {' '.join(_DISTRIBUTIONS)} && {mend}"


def _session_options(onnxruntime: Any, device: Device, options: EngineOptions) -> Any:
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4  # what matters comes as an exception
    if options.threads:
        settings.intra_op_num_threads = options.threads
    if device == "directml":  # DirectML requires both
        settings.enable_mem_pattern = False
        settings.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    return settings


def _provider_options(device: Device, options: EngineOptions) -> dict[str, Any]:
    if device == "cuda":
        # TF32 off: its 10 bits of mantissa are fp16's, and whoever asks for fp32 wants more.
        return {
            "device_id": options.index,
            "cudnn_conv_algo_search": "EXHAUSTIVE",
            "cudnn_conv_use_max_workspace": "1",
            "use_tf32": "0",
        }
    if device == "tensorrt":
        folder = str(cache_folder("onnxruntime-tensorrt"))
        return {
            "device_id": options.index,
            "trt_engine_cache_enable": True,
            "trt_engine_cache_path": folder,
            "trt_timing_cache_enable": True,
            "trt_timing_cache_path": folder,
        }
    if device == "directml":
        return {"device_id": options.index}
    if device == "coreml":
        return {"ModelFormat": "MLProgram", "MLComputeUnits": "ALL"}
    return {}


def _why(device: Device, error: BaseException | None) -> str:
    """What is missing, as far as it can be known, and the command that mends it."""
    text = one_line(error) if error is not None else "a library that it needs is missing"
    if device in ("cuda", "tensorrt"):
        return f"{text}. {nvidia.diagnosis()}: {_MEND[device]}"
    return text
