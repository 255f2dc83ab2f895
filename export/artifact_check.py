"""The checks that make a stranger's network safe to run: what it may be built of, take in, give out and fill."""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Literal

from .errors import ArtifactError

if TYPE_CHECKING:
    import onnx

Kind = Literal["single", "arbitrary", "style-encoder"]
"""One painting; any painting (second input `style`); what turns a painting into that input."""

SIGNATURES: Mapping[Kind, tuple[frozenset[str], frozenset[str]]] = {
    "single": (frozenset({"frame"}), frozenset({"stylized"})),
    "arbitrary": (frozenset({"frame", "style"}), frozenset({"stylized"})),
    "style-encoder": (frozenset({"frame"}), frozenset({"style"})),
}
"""Names of inputs and outputs by kind. `frame` and `stylized` are (N, H, W, 3) uint8, `style` is (N, K) float32."""

MAX_BYTES = 128 * 2**20
"""The largest network of the reports has 7 MB of weights; a file far beyond that is no style of ours."""
MAX_VALUES_PER_PIXEL = 1024
"""No tensor inside may hold more values per pixel of the frame: 8 GB in float at 1080p. Johnson's network needs 128."""
OPERATORS = frozenset(
    name
    for line in (
        "Abs Add AveragePool Cast Clip Concat Constant Conv ConvTranspose DepthToSpace DequantizeLinear Div Exp Expand",
        "Flatten Floor Gather Gemm GlobalAveragePool HardSigmoid Identity InstanceNormalization LeakyRelu MatMul Max",
        "MaxPool Min Mul Neg Pad Pow PRelu QuantizeLinear ReduceMean ReduceSum Reciprocal Relu Reshape Resize Round",
        "Shape Sigmoid Slice SpaceToDepth Split Sqrt Squeeze Sub Tanh Transpose Unsqueeze",
    )
    for name in line.split()
)
"""Standard operators that a stylizing network may use: no control flow, no loops, nothing that reads files."""

_OPSETS = range(13, 24)
_IR_VERSIONS = range(7, 12)
_FRAMES = ((1, 256, 256, 3), (16, 15_360, 16_384, 3))
"""Sizes that shapes are worked out for: one that constants show up beside, and one beyond any video, for what grows
faster than the frame. Sides are multiples of 64, the largest stride allowed."""
_MOST_SIZES = 64
"""Values of the longest tensor that may be taken as sizes."""


def check_model(model: "onnx.ModelProto", kind: Kind) -> None:
    """Refuse, cheapest check first, all that an honest artifact cannot contain."""
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    if set(opsets) != {""} or opsets[""] not in _OPSETS:
        raise ArtifactError(f"operators must be ONNX's own, opset {_OPSETS[0]} to {_OPSETS[-1]}, got {opsets}")
    if model.ir_version not in _IR_VERSIONS:
        raise ArtifactError(f"IR version must be {_IR_VERSIONS[0]} to {_IR_VERSIONS[-1]}, got {model.ir_version}")
    if model.functions or model.training_info or model.graph.sparse_initializer:
        raise ArtifactError("functions, training information and sparse tensors must be absent")
    for node in model.graph.node:
        if node.domain or node.op_type not in OPERATORS:
            raise ArtifactError(f"operators must be standard ones for pictures, got {_name(node)}")
        if any(a.HasField("g") or a.graphs for a in node.attribute):
            raise ArtifactError(f"nodes must not contain graphs, got one in {_name(node)}")
        if any(a.HasField("sparse_tensor") or a.sparse_tensors for a in node.attribute):
            raise ArtifactError(f"nodes must not contain sparse tensors, got one in {_name(node)}")
    for tensor in _tensors(model.graph):
        _check_tensor(tensor)
    _check_signature(model.graph, kind)
    _check_memory(model)


def _name(node: "onnx.NodeProto") -> str:
    return f"{node.domain}.{node.op_type}"[:80] if node.domain else node.op_type[:80]


def _tensors(graph: "onnx.GraphProto") -> Iterator["onnx.TensorProto"]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def _check_tensor(tensor: "onnx.TensorProto") -> None:
    from onnx import TensorProto, numpy_helper

    if tensor.data_location != TensorProto.DEFAULT or tensor.external_data:
        raise ArtifactError(f"weights must lie inside the file, got external data for {tensor.name[:80]!r}")
    if any(size < 0 for size in tensor.dims) or math.prod(tensor.dims) > MAX_BYTES:
        raise ArtifactError(f"tensor {tensor.name[:80]!r} must have a sane shape, got {list(tensor.dims)[:8]}")
    try:
        numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError, IndexError, OverflowError) as exc:
        raise ArtifactError(f"tensor {tensor.name[:80]!r} must hold the values of its shape") from exc


def _check_signature(graph: "onnx.GraphProto", kind: Kind) -> None:
    inputs, outputs = SIGNATURES[kind]
    for what, values, names in (("inputs", graph.input, inputs), ("outputs", graph.output, outputs)):
        if len(values) != len(names) or {value.name for value in values} != names:
            got = ", ".join(value.name[:80] for value in values) or "none"
            raise ArtifactError(f"{what} must be {', '.join(sorted(names))}, got {got}")
        for value in values:
            _check_value(value)


def _check_value(value: "onnx.ValueInfoProto") -> None:
    from onnx import TensorProto

    picture = value.name != "style"
    tensor = value.type.tensor_type
    wanted, rank = (TensorProto.UINT8, 4) if picture else (TensorProto.FLOAT, 2)
    dims = [dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim]
    if tensor.elem_type != wanted or len(dims) != rank:
        raise ArtifactError(f"{value.name} must be {'(N, H, W, 3) uint8' if picture else '(N, K) float32'}")
    if picture and (dims[3] != 3 or any(size is not None for size in dims[:3])):
        raise ArtifactError(f"{value.name} must be (N, H, W, 3) with free N, H and W, got {dims}")
    if not picture and (dims[1] is None or not 0 < dims[1] <= 65536):
        raise ArtifactError(f"{value.name} must be (N, K) with K given, got {dims}")


def _check_memory(model: "onnx.ModelProto") -> None:
    """Work out every shape for frames of two sizes and refuse what is unknown, wrong or too large."""
    import onnx

    concrete = onnx.ModelProto()
    concrete.CopyFrom(model)
    del concrete.graph.value_info[:]  # a stranger's word; it is worked out below
    try:
        _set_inputs(concrete.graph, _FRAMES[0])
        onnx.checker.check_model(concrete)
        for value in concrete.graph.output:
            value.type.tensor_type.ClearField("shape")
        _drop_weights(concrete.graph)
        for frames in _FRAMES:
            _set_inputs(concrete.graph, frames)
            inferred = onnx.shape_inference.infer_shapes(concrete, check_type=True, strict_mode=True, data_prop=True)
            _check_sizes(inferred.graph, frames)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, RuntimeError, ValueError) as exc:
        raise ArtifactError(f"the graph must be well formed: {exc}") from exc


def _set_inputs(graph: "onnx.GraphProto", frames: tuple[int, int, int, int]) -> None:
    for value in graph.input:
        _set_shape(value, frames if value.name == "frame" else (1, value.type.tensor_type.shape.dim[1].dim_value))


def _drop_weights(graph: "onnx.GraphProto") -> None:
    """Values that are no sizes: shapes do not depend on them, and to hand them over takes most of the time."""
    for tensor in graph.initializer:
        if math.prod(tensor.dims) > _MOST_SIZES:
            for name in ("raw_data", "float_data", "double_data", "int32_data", "int64_data", "uint64_data"):
                tensor.ClearField(name)


def _check_sizes(graph: "onnx.GraphProto", frames: tuple[int, int, int, int]) -> None:
    """Of a graph whose shapes were worked out for `frames`."""
    known = {value.name: _values(value) for value in (*graph.value_info, *graph.output)}
    names = {name for node in graph.node for name in node.output if name}
    for name in sorted(names):
        values = known.get(name)
        if values is None or values < 0:
            raise ArtifactError(f"the size of every tensor must follow from the frame's, not that of {name[:80]!r}")
        if values > MAX_VALUES_PER_PIXEL * math.prod(frames[:3]):
            raise ArtifactError(
                f"a tensor must hold at most {MAX_VALUES_PER_PIXEL} values per pixel, {name[:80]!r} holds more"
            )
    for value in graph.output:
        sizes = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        if value.name == "stylized" and sizes != frames:
            raise ArtifactError(f"stylized must have the frame's size, got {sizes} for {frames}")


def _set_shape(value: "onnx.ValueInfoProto", sizes: Iterable[int]) -> None:
    shape = value.type.tensor_type.shape
    del shape.dim[:]
    for size in sizes:
        shape.dim.add(dim_value=size)


def _values(value: "onnx.ValueInfoProto") -> int | None:
    """Number of elements, or None where a size is unknown."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape") or not all(dim.HasField("dim_value") for dim in tensor.shape.dim):
        return None
    return math.prod(int(dim.dim_value) for dim in tensor.shape.dim)
