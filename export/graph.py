"""What can be read off an artifact's graph without running it."""

import math
from typing import TYPE_CHECKING

from .errors import ArtifactError

if TYPE_CHECKING:
    import onnx


def picture_spans(model: "onnx.ModelProto") -> dict[str, int]:
    """For each tensor that is a picture: how many pixels of the frame one of its values spans along an axis."""
    spans = {"frame": 1}
    for node in model.graph.node:
        span = next((spans[name] for name in node.input if name in spans), None)
        if span is None:
            continue
        stride = next((attribute.ints[0] for attribute in node.attribute if attribute.name == "strides"), 1)
        if node.op_type == "Conv":
            span *= stride
        elif node.op_type == "ConvTranspose":
            span //= stride
        elif node.op_type == "Resize":
            raise ArtifactError("a network must be exported with folded upsampling for its sizes to be known")
        spans.update(dict.fromkeys(node.output, span))
    return spans


def receptive_margin(model: "onnx.ModelProto") -> int:
    """How many pixels around a tile its inner part depends on: the radii of all convolutions, in pixels of the frame.

    The longest path through a residual network has every convolution on it, so the sum is the bound.
    """
    shapes, spans = _weight_shapes(model), picture_spans(model)
    margin = 0
    for node in model.graph.node:
        if node.op_type in ("Conv", "ConvTranspose"):
            sides = spans[node.input[0]], spans[node.output[0]]
            reach = shapes[node.input[1]][2] // 2
            margin += reach * (min(sides) if node.op_type == "Conv" else max(sides))
    return margin


def multiply_adds_per_pixel(model: "onnx.ModelProto") -> float:
    """Multiplications of all convolutions for one pixel of the frame; an operation count is twice that."""
    shapes, spans = _weight_shapes(model), picture_spans(model)
    total = 0.0
    for node in model.graph.node:
        if node.op_type in ("Conv", "ConvTranspose"):
            # Each value of a convolution's output, and of a transposed one's input, meets the whole kernel once.
            place = node.output[0] if node.op_type == "Conv" else node.input[0]
            total += math.prod(shapes[node.input[1]]) / spans[place] ** 2
    return total


def _weight_shapes(model: "onnx.ModelProto") -> dict[str, tuple[int, ...]]:
    """Shapes of constants, also of those that lie behind a cast from fp16 or the scales of int8."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in ("Cast", "DequantizeLinear") and node.input[0] in shapes:
            shapes[node.output[0]] = shapes[node.input[0]]
    return shapes
