"""ONNX Runtime: the common denominator of processors and graphics cards."""

from typing import Any

import numpy as np

from ..export.artifact import Artifact, Precision
from .engine import Batch, Device, EngineInfo, EngineOptions, check_batch, installed_version
from .errors import EngineError

_MEND = "pip install onnxruntime"


def open_engine(artifact: Artifact, device: Device, options: EngineOptions) -> "OnnxRuntimeEngine":
    """An engine with the execution provider that belongs to the device."""
    return OnnxRuntimeEngine(artifact, device, options)


def precisions(device: Device, index: int = 0) -> tuple[Precision, ...]:
    """See `engine.Backend.precisions`."""
    _library()
    return ("fp32",)


def version() -> str:
    """Version of the installed package."""
    return installed_version("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", mend=_MEND)


class OnnxRuntimeEngine:
    """An artifact in an ONNX Runtime session on the CPU."""

    def __init__(self, artifact: Artifact, device: Device, options: EngineOptions) -> None:
        onnxruntime = _library()
        precision = _precision(artifact, options)
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 3
        if options.threads:
            settings.intra_op_num_threads = options.threads
        try:
            self._session: Any = onnxruntime.InferenceSession(
                artifact.read(), settings, providers=["CPUExecutionProvider"]
            )
        except Exception as exc:  # its exception classes share no base but Exception
            raise EngineError(f"ONNX Runtime must be able to run {artifact.path}: {_one_line(exc)}") from exc
        self._info = EngineInfo("onnxruntime", "CPU", precision)
        self._stride = artifact.metadata.stride

    @property
    def info(self) -> EngineInfo:
        return self._info

    @property
    def stride(self) -> int:
        return self._stride

    def __call__(self, frames: Batch) -> Batch:
        check_batch(frames, self._stride)
        try:
            (painted,) = self._session.run(None, {"frame": np.ascontiguousarray(frames)})
        except Exception as exc:
            raise EngineError(f"ONNX Runtime failed on {frames.shape}: {_one_line(exc)}") from exc
        result: Batch = painted
        return result

    def warmup(self, height: int, width: int) -> None:
        self(np.zeros((1, height, width, 3), np.uint8))

    def close(self) -> None:
        self._session = None


def _library() -> Any:
    try:
        import onnxruntime
    except ImportError as exc:
        raise EngineError(f"ONNX Runtime must be installed: {_MEND}") from exc
    return onnxruntime


def _precision(artifact: Artifact, options: EngineOptions) -> Precision:
    """ONNX Runtime's CPU kernels compute these graphs in fp32, or in int8 where the graph says so."""
    own: Precision = artifact.metadata.precision if artifact.metadata.precision == "int8" else "fp32"
    if options.precision not in ("auto", own):
        raise EngineError(f"precision must be {own} for {artifact.path} in ONNX Runtime, got {options.precision}")
    return own


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
