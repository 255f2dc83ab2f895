"""PyTorch: for those who train, and the reference that the others are measured against.

An artifact holds weights and the network's configuration, so PyTorch can rebuild the network without a checkpoint.
On a CUDA card: channels-last fp16, one CUDA graph per size, pinned memory both ways.
"""

import hashlib
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as package_version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..export.artifact import Artifact, Precision
from ..export.to_torch import rebuild_network
from . import nvidia
from .engine import Device, Done, EngineInfo, EngineOptions, Tensors, missing, one_line
from .errors import ArtifactError, EngineError

if TYPE_CHECKING:
    import torch

_MEND = "pip install 'impasto[train]'"
_INDEX_URL = "pytorch.org/get-started"


def open_runner(
    artifact: Artifact, graph: bytes, device: Device, precision: Precision, options: EngineOptions
) -> "TorchRunner":
    """The artifact's network on a CUDA card, rebuilt from its weights."""
    _check_card(options.index)
    if hashlib.sha256(graph).hexdigest() != artifact.sha256:
        raise EngineError("PyTorch runs artifacts as they are, not graphs made from them")
    return TorchRunner(artifact, f"cuda:{options.index}", precision)


def precisions(device: Device, index: int = 0) -> tuple[Precision, ...]:
    """See `engine.Backend.precisions`."""
    _check_card(index)
    return ("fp16", "fp32")


def version(device: Device) -> str:
    """Version of the installed package, for whichever device."""
    try:
        return package_version("torch")
    except PackageNotFoundError:
        raise missing("torch", "PyTorch", _MEND) from None


class TorchRunner:
    """The network in eager PyTorch on a processor, as a CUDA graph per size on a card."""

    def __init__(self, artifact: Artifact, device: str, precision: Precision) -> None:
        torch = _library()
        self._torch: Any = torch
        self._device = torch.device(device)
        dtype = torch.float16 if precision == "fp16" else torch.float32
        try:
            network = rebuild_network(artifact).to(device=self._device, dtype=dtype)
        except ArtifactError as exc:  # another engine may still run it
            raise EngineError(str(exc)) from exc
        except RuntimeError as exc:
            raise EngineError(f"PyTorch must be able to use {device}: {one_line(exc)}") from exc
        self._network: Any = network.to(memory_format=torch.channels_last).eval().requires_grad_(False)  # type: ignore[call-overload]
        self._dtype = dtype
        self._captured: dict[tuple[int, ...], _Captured] = {}
        self.info = EngineInfo("torch", device.upper(), precision)

    def start(self, inputs: Tensors) -> Done:
        if self._network is None:
            raise EngineError("the engine must not be used after it was closed")
        frames = inputs["frame"]
        try:
            with self._torch.inference_mode():
                if self._device.type == "cuda":
                    return Done({"stylized": self._captured_for(frames.shape).run(frames)})
                painted = self.paint(self._torch.from_numpy(np.array(frames)))
                return Done({"stylized": painted.numpy()})
        except RuntimeError as exc:
            raise EngineError(f"PyTorch failed on {frames.shape}: {one_line(exc)}") from exc

    def paint(self, frames: "torch.Tensor") -> "torch.Tensor":
        """(N, H, W, 3) uint8 to the same, on the network's device."""
        picture = frames.permute(0, 3, 1, 2).to(self._dtype)  # channels-last bytes are channels-last floats
        painted = self._network(picture).float().round().clamp(0, 255).to(self._torch.uint8)
        result: torch.Tensor = painted.permute(0, 2, 3, 1).contiguous()
        return result

    def prepare(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        if self._device.type == "cuda":
            with self._torch.inference_mode():
                self._captured_for(shapes["frame"])

    def close(self) -> None:
        self._captured.clear()
        self._network = None

    def _captured_for(self, shape: tuple[int, ...]) -> "_Captured":
        if shape not in self._captured:
            self._captured.clear()  # each holds the activations of its size
            self._captured[shape] = _Captured(self._torch, self.paint, shape, self._device)
        return self._captured[shape]


class _Captured:
    """One size as a CUDA graph with fixed buffers: a replay is one launch instead of some sixty."""

    def __init__(self, torch: Any, paint: Any, shape: tuple[int, ...], device: Any) -> None:
        self._torch, self._device = torch, device
        self._sent = torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        self._frames = torch.zeros(shape, dtype=torch.uint8, device=device)
        self._returned = torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        with torch.cuda.device(device):  # a graph is captured on the current one
            self._capture(paint)

    def _capture(self, paint: Any) -> None:
        torch, device = self._torch, self._device
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):  # cuDNN chooses its kernels before the capture
            for _ in range(3):
                paint(self._frames)
        torch.cuda.current_stream(device).wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        # PyTorch's own stream lies on the card of its first capture. Another thread may paint meanwhile: what it does
        # must not end this capture.
        with torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local"):
            self._painted = paint(self._frames)

    def run(self, frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        self._sent.numpy()[...] = frames
        with self._torch.cuda.device(self._device):
            self._frames.copy_(self._sent, non_blocking=True)
            self._graph.replay()
            self._returned.copy_(self._painted, non_blocking=True)
            self._torch.cuda.current_stream(self._device).synchronize()
        painted: npt.NDArray[np.uint8] = self._returned.numpy().copy()
        return painted


def _library() -> Any:
    try:
        import torch
    except ImportError as exc:
        raise missing("torch", "PyTorch", _MEND) from exc
    return torch


def _check_card(index: int) -> None:
    """Refuses what cannot run; without a card before PyTorch is imported, which takes longer than a short clip."""
    if find_spec("torch") is None:
        raise missing("torch", "PyTorch", _MEND)
    found = nvidia.driver()
    if found is None or not found.cards:
        raise EngineError(f"PyTorch must see a CUDA card, but: {nvidia.diagnosis()}: see {_INDEX_URL}")
    torch = _library()
    if torch.version.cuda is None:
        raise EngineError(
            f"PyTorch must be built for CUDA, got {torch.__version__}: choose a CUDA build at {_INDEX_URL}"
        )
    if not torch.cuda.is_available():
        raise EngineError(f"PyTorch must see a CUDA card, but: {nvidia.diagnosis()}: see {_INDEX_URL}")
    if index >= torch.cuda.device_count():
        raise EngineError(f"device index must be below {torch.cuda.device_count()}, got {index}")
