"""OpenVINO: the fastest way through these networks on CPUs, and the way to Intel's GPUs."""

from collections import deque
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as package_version
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..export.artifact import Artifact, Precision
from .engine import Device, EngineInfo, EngineOptions, Tensors, missing, one_line
from .errors import EngineError

if TYPE_CHECKING:
    import openvino

Shapes = tuple[tuple[str, tuple[int, ...]], ...]

_MEND = "pip install 'impasto[cpu]'"
_DEVICES = {"cpu": "CPU", "intel-gpu": "GPU"}
_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}

REPEATS_BEFORE_COMPILING = 3
"""A size that comes this often in a row gets a graph of its own: 1.2 times faster here for the plain network, twice for
one whose statistics are held; compiling takes about as long as painting ten frames."""


def open_runner(
    artifact: Artifact, graph: bytes, device: Device, precision: Precision, options: EngineOptions
) -> "OpenVinoRunner":
    """A graph on the CPU or an Intel GPU."""
    core = _core()
    return OpenVinoRunner(core, graph, _device_name(core, _DEVICES[device], options.index), precision, options)


def precisions(device: Device, index: int = 0) -> tuple[Precision, ...]:
    """See `engine.Backend.precisions`.

    A CPU lists FP16 as well, but in these networks it was slower than fp32 even with AVX512-FP16.
    """
    core = _core()
    name = _device_name(core, _DEVICES[device], index)
    capabilities = core.get_property(name, "OPTIMIZATION_CAPABILITIES")
    if name == "CPU":
        return ("bf16", "fp32") if "BF16" in capabilities else ("fp32",)
    return ("fp16", "fp32") if "FP16" in capabilities else ("fp32",)


def version(device: Device) -> str:
    """Version of the installed package, for whichever device."""
    try:
        return package_version("openvino")
    except PackageNotFoundError:
        raise missing("openvino", "OpenVINO", _MEND) from None


class OpenVinoRunner:
    """A graph compiled by OpenVINO: once for any size, and once more for a size that keeps coming."""

    def __init__(
        self, core: "openvino.Core", graph: bytes, device: str, precision: Precision, options: EngineOptions
    ) -> None:
        self.info = EngineInfo("openvino", device, precision)
        self._core: openvino.Core | None = core
        self._graph = graph
        # Threads and pinning stay OpenVINO's choice, which measured best (`impasto bench --threads 2 --threads 3 ...`,
        # 1280x720, 4 cores with AMX): file to file 33 frames/s with all 4 cores, 23 with 3 and 24 with 2 left to it, so
        # decoding and encoding do not starve; alone 18, 24 and 37 ms. Pinned or not, hyper-threading on or off: 0.97 to
        # 0.99 of that, within the noise.
        self._settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
        if options.in_flight > 1:
            self._settings = {"NUM_STREAMS": options.in_flight}
        if precision in _HINTS:
            self._settings["INFERENCE_PRECISION_HINT"] = _HINTS[precision]
        if options.threads and device == "CPU":
            self._settings["INFERENCE_NUM_THREADS"] = options.threads
        self._in_flight = options.in_flight
        self._any_size: _Compiled | None = self._compile(None)
        self._one_size: _Compiled | None = None
        self._last: Shapes = ()
        self._repeats = 0

    def start(self, inputs: Tensors) -> "_Pending":
        return self._compiled_for(tuple((name, array.shape) for name, array in inputs.items())).start(inputs)

    def prepare(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._last, self._repeats = tuple(shapes.items()), REPEATS_BEFORE_COMPILING
        self._compiled_for(self._last)

    def close(self) -> None:
        for compiled in (self._any_size, self._one_size):
            if compiled is not None:
                compiled.finish()
        self._core = self._any_size = self._one_size = None

    def _compiled_for(self, shapes: Shapes) -> "_Compiled":
        if self._one_size is not None and self._one_size.shapes == shapes:
            return self._one_size
        self._repeats = self._repeats + 1 if shapes == self._last else 1
        self._last = shapes
        if self._repeats >= REPEATS_BEFORE_COMPILING:
            if self._one_size is not None:
                self._one_size.finish()
            self._one_size = None  # its memory must go before that of its successor comes
            self._one_size = self._compile(shapes)
            return self._one_size
        if self._any_size is None:
            raise EngineError("the engine must not be used after it was closed")
        return self._any_size

    def _compile(self, shapes: Shapes | None) -> "_Compiled":
        if self._core is None:
            raise EngineError("the engine must not be used after it was closed")
        try:
            model = self._core.read_model(self._graph)
            if shapes is not None:
                model.reshape({name: list(shape) for name, shape in shapes})
            return _Compiled(self._core.compile_model(model, self.info.device, self._settings), shapes, self._in_flight)
        except RuntimeError as exc:
            raise EngineError(f"OpenVINO must be able to compile the graph, but: {one_line(exc)}") from exc


class _Compiled:
    """A compiled model with requests for as many as are worked on at once, and for one that waits its turn, so that no
    core waits for us; the oldest is waited for when all are taken."""

    def __init__(self, model: Any, shapes: Shapes | None, in_flight: int) -> None:
        self.shapes = shapes
        self._free = [model.create_infer_request() for _ in range(in_flight + 1 if in_flight > 1 else 1)]
        self._busy: deque[_Pending] = deque()

    def start(self, inputs: Tensors) -> "_Pending":
        if not self._free:
            self._busy[0].finish()
        request = self._free.pop()
        try:
            pending = _Pending(self, request, inputs)
        except Exception as exc:
            self._free.append(request)
            if isinstance(exc, RuntimeError):
                raise _failed(inputs, exc) from exc
            raise
        self._busy.append(pending)
        return pending

    def finish(self) -> None:
        """Wait for all that is under way: it writes into memory that may be freed once nobody waits for it."""
        while self._busy:
            self._busy[0].finish()

    def give_back(self, pending: "_Pending", request: Any) -> None:
        self._busy.remove(pending)
        self._free.append(request)


class _Pending:
    """One inference under way."""

    def __init__(self, owner: _Compiled, request: Any, inputs: Tensors) -> None:
        import openvino

        # OpenVINO's shared tensors do not keep their arrays alive: both stay named here until it is done with them.
        self._inputs = inputs
        self._bound: dict[str, npt.NDArray[Any]] = {}
        self._owner, self._request = owner, request
        self._outputs: Tensors | None = None
        self._error: EngineError | None = None
        for name, array in inputs.items():
            request.set_tensor(name, openvino.Tensor(array, shared_memory=True))
        if "stylized" in {name for output in request.model_outputs for name in output.names}:
            self._bound["stylized"] = np.empty(inputs["frame"].shape, np.uint8)
            request.set_tensor("stylized", openvino.Tensor(self._bound["stylized"], shared_memory=True))
        request.start_async()

    def result(self) -> Tensors:
        self.finish()
        if self._error is not None:
            raise self._error
        if self._outputs is None:
            raise EngineError("the inference must have an output")
        return self._outputs

    def finish(self) -> None:
        """Wait, take the outputs and give the request back; does nothing the second time."""
        if self._request is None:
            return
        request, self._request = self._request, None
        try:
            request.wait()
            others = [output for output in request.model_outputs if output.any_name not in self._bound]
            copies = {output.any_name: request.get_tensor(output).data.copy() for output in others}
            self._outputs = self._bound | copies
        except RuntimeError as exc:
            self._error = _failed(self._inputs, exc)
        self._inputs, self._bound = {}, {}
        self._owner.give_back(self, request)


def _failed(inputs: Tensors, error: RuntimeError) -> EngineError:
    shapes = {name: array.shape for name, array in inputs.items()}
    return EngineError(f"OpenVINO failed on {shapes}: {one_line(error)}")


def _core() -> "openvino.Core":
    try:
        import openvino
    except ImportError as exc:
        raise missing("openvino", "OpenVINO", _MEND) from exc
    return openvino.Core()


def _device_name(core: "openvino.Core", device: str, index: int) -> str:
    """OpenVINO's own name of the device: CPU, GPU, GPU.1 ..."""
    same_kind = [name for name in core.available_devices if name.partition(".")[0] == device]
    if index >= len(same_kind):
        seen = ", ".join(core.available_devices) or "nothing"
        driver = "install Intel's OpenCL driver (intel-opencl-icd)" if device == "GPU" else "use an index that exists"
        raise EngineError(f"OpenVINO must see {device} number {index}, but it sees {seen}: {driver}")
    name: str = same_kind[index]
    return name
