"""OpenVINO: the fastest way through these networks on CPUs, and the way to Intel's GPUs."""

from typing import TYPE_CHECKING, Any

import numpy as np

from ..export.artifact import Artifact, Precision
from .engine import Batch, Device, EngineInfo, EngineOptions, check_batch, installed_version
from .errors import EngineError

if TYPE_CHECKING:
    import openvino

OPENVINO_DEVICE = {"cpu": "CPU", "intel-gpu": "GPU"}
_MEND = "pip install 'impasto[cpu]'"
_HINT = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}


def open_engine(artifact: Artifact, device: Device, options: EngineOptions) -> "OpenVinoEngine":
    """An engine on the CPU or an Intel GPU."""
    return OpenVinoEngine(artifact, OPENVINO_DEVICE[device], options)


def precisions(device: Device, index: int = 0) -> tuple[Precision, ...]:
    """See `engine.Backend.precisions`."""
    core = _core()
    return _able(core, _device_name(core, OPENVINO_DEVICE[device], index))


def version() -> str:
    """Version of the installed package."""
    return installed_version("openvino", mend=_MEND)


class OpenVinoEngine:
    """An artifact compiled by OpenVINO."""

    def __init__(self, artifact: Artifact, device: str, options: EngineOptions) -> None:
        core = _core()
        name = _device_name(core, device, options.index)
        precision = _precision(core, name, artifact, options)
        settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
        if precision in _HINT:
            settings["INFERENCE_PRECISION_HINT"] = _HINT[precision]
        if options.threads and device == "CPU":
            settings["INFERENCE_NUM_THREADS"] = options.threads
        try:
            model = core.read_model(artifact.read())
            self._request: Any = core.compile_model(model, name, settings).create_infer_request()
        except RuntimeError as exc:
            raise EngineError(f"OpenVINO must be able to run {artifact.path}: {_one_line(exc)}") from exc
        self._info = EngineInfo("openvino", name, precision)
        self._stride = artifact.metadata.stride

    @property
    def info(self) -> EngineInfo:
        return self._info

    @property
    def stride(self) -> int:
        return self._stride

    def __call__(self, frames: Batch) -> Batch:
        import openvino

        check_batch(frames, self._stride)
        # OpenVINO's shared tensors do not keep their arrays alive: both must have a name here until infer() is over.
        source = np.ascontiguousarray(frames)
        painted = np.empty(frames.shape, np.uint8)
        self._request.set_input_tensor(openvino.Tensor(source, shared_memory=True))
        self._request.set_output_tensor(openvino.Tensor(painted, shared_memory=True))
        try:
            self._request.infer()
        except RuntimeError as exc:
            raise EngineError(f"OpenVINO failed on {frames.shape}: {_one_line(exc)}") from exc
        return painted

    def warmup(self, height: int, width: int) -> None:
        self(np.zeros((1, height, width, 3), np.uint8))

    def close(self) -> None:
        self._request = None


def _core() -> "openvino.Core":
    try:
        import openvino
    except ImportError as exc:
        raise EngineError(f"OpenVINO must be installed: {_MEND}") from exc
    return openvino.Core()


def _device_name(core: "openvino.Core", device: str, index: int) -> str:
    """OpenVINO's own name of the device: CPU, GPU, GPU.1 ..."""
    same_kind = [name for name in core.available_devices if name.partition(".")[0] == device]
    if index >= len(same_kind):
        raise EngineError(
            f"OpenVINO must see {device} number {index}, got {', '.join(core.available_devices) or 'nothing'}: "
            "install the device's driver"
        )
    name: str = same_kind[index]
    return name


def _precision(core: "openvino.Core", device: str, artifact: Artifact, options: EngineOptions) -> Precision:
    """The precision to compute in: the hardware's best for auto, else exactly the one asked for."""
    if artifact.metadata.precision == "int8":
        if options.precision not in ("auto", "int8"):
            raise EngineError(f"precision must be int8 for {artifact.path}, got {options.precision}")
        return "int8"
    able = _able(core, device)
    if options.precision == "auto":
        return able[0]
    if options.precision not in able:
        raise EngineError(f"precision must be {' or '.join(able)} on {device}, got {options.precision}")
    return options.precision


def _able(core: "openvino.Core", device: str) -> tuple[Precision, ...]:
    """Fastest first. A CPU lists FP16 as well, but in these networks it was slower than fp32 even with AVX512-FP16."""
    capabilities = core.get_property(device, "OPTIMIZATION_CAPABILITIES")
    if device == "CPU":
        return ("bf16", "fp32") if "BF16" in capabilities else ("fp32",)
    return ("fp16", "fp32") if "FP16" in capabilities else ("fp32",)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
