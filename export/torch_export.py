"""PyTorch's exporter, run so that sizes stay free and only what is wrong is said."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .errors import ArtifactError

if TYPE_CHECKING:
    import onnx
    import torch

OPSET = 18
"""IR 10 and opset 18 are read by ONNX Runtime 1.20, OpenVINO 2024.6 and TensorRT 10, and by all that follow."""


def example_frame(stride: int) -> "torch.Tensor":
    """(N, H, W, 3) uint8 for a network of that stride."""
    import torch

    # Distinct sizes: the exporter would take equal ones for one and the same dimension.
    return torch.zeros(2, 16 * stride, 24 * stride, 3, dtype=torch.uint8)


def torch_export(
    module: "torch.nn.Module", examples: "tuple[torch.Tensor, ...]", *, inputs: list[str], output: str
) -> "onnx.ModelProto":
    """The graph of a module in evaluation mode.

    Args:
        examples: an input each; of frames, (N, H, W, 3), the first three sizes stay free, of others the first.

    Raises:
        ArtifactError: PyTorch cannot export it.
    """
    import torch

    free = torch.export.Dim.DYNAMIC
    shapes = tuple({0: free, 1: free, 2: free} if x.ndim == 4 else {0: free} for x in examples)
    with _quiet_exporter():
        program = torch.onnx.export(
            module, examples, dynamic_shapes=shapes, input_names=inputs, output_names=[output], opset_version=OPSET,
            dynamo=True, verbose=False,
        )  # fmt: skip
    if program is None:
        raise ArtifactError("the network must be one that PyTorch can export")
    model: Any = program.model_proto
    return model  # type: ignore[no-any-return]


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    exporter_log = logging.getLogger("torch.onnx")
    level = exporter_log.level
    exporter_log.setLevel(logging.ERROR)  # it reports every torchvision operator that it does without
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        exporter_log.setLevel(level)
