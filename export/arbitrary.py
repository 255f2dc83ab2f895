"""A painting folded into the stylizer that paints like any: what is left is a single style, as fast as a trained one.

Everything that depends on the style alone is worked out once, and every scale and shift that then is constant goes
into the normalisation or convolution before it. The runtime's own folding is not relied on: it differs by engine, and
graphs of one kind are what tiling, held statistics and 8-bit conversion know how to change.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .errors import ArtifactError

if TYPE_CHECKING:
    import onnx

Vector = npt.NDArray[np.float32]
"""(K,): a style, as a style encoder answers or as a sum of such, each times its share."""


def style_size(model: "onnx.ModelProto") -> int:
    """K of a stylizer's `style` input or of an encoder's `style` output.

    Raises:
        ArtifactError: it has none.
    """
    for value in (*model.graph.input, *model.graph.output):
        if value.name == "style":
            return int(value.type.tensor_type.shape.dim[1].dim_value)
    raise ArtifactError("a graph must have a style as input or output, got one for a single painting")


def bake(model: "onnx.ModelProto", style: Vector) -> "onnx.ModelProto":
    """The graph of a single style: `frame` to `stylized`.

    Args:
        model: of a stylizer with a `style` input.
        style: (K,) float32.
    """
    import onnx

    if style.shape != (style_size(model),) or not np.isfinite(style).all():
        raise ArtifactError(f"style must be {style_size(model)} finite numbers, got {style.shape}")
    baked = onnx.ModelProto()
    baked.CopyFrom(model)
    _fold_style(baked, style.astype(np.float32))
    _merge_factors(baked.graph)
    _drop_unused(baked.graph)
    return baked


def _fold_style(model: "onnx.ModelProto", style: Vector) -> None:
    """Replace the input, and all that follows from it and constants, by constants."""
    from onnx import helper, numpy_helper
    from onnx.reference import ReferenceEvaluator

    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    known, folded, kept = {"style"}, [], []
    for node in graph.node:
        of_style = any(name in known for name in node.input)
        if of_style and all(name in known or name in constants or not name for name in node.input):
            folded.append(node)
            known.update(node.output)
        else:
            kept.append(node)
    wanted = sorted({name for node in kept for name in node.input if name in known and name != "style"})
    part = helper.make_graph(
        folded, "style", [value for value in graph.input if value.name == "style"],
        [helper.make_empty_tensor_value_info(name) for name in wanted], list(graph.initializer),
    )  # fmt: skip
    values = ReferenceEvaluator(helper.make_model(part, opset_imports=list(model.opset_import))).run(
        wanted, {"style": style[np.newaxis]}
    )
    frame = [value for value in graph.input if value.name == "frame"]
    del graph.node[:], graph.input[:]
    graph.node.extend(kept)
    graph.input.extend(frame)
    graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in zip(wanted, values, strict=True)
    )


def _merge_factors(graph: Any) -> None:
    """y = x · factor + summand with constants per channel, after a normalisation or transposed convolution, becomes
    part of it."""
    from onnx import numpy_helper

    weights = {tensor.name: tensor for tensor in graph.initializer}
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    stored_as = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Cast"}
    gone: set[int] = set()
    for node in graph.node:
        if node.op_type not in ("InstanceNormalization", "ConvTranspose"):
            continue
        multiply = _only_reader(readers, node.output[0], "Mul")
        add = _only_reader(readers, multiply.output[0], "Add") if multiply is not None else None
        if multiply is None or add is None:
            continue
        factor = _per_channel(weights, multiply, node.output[0])
        summand = _per_channel(weights, add, multiply.output[0])
        if factor is None or summand is None:
            continue
        index, name = len(gone) // 2, node.input[1]
        scale = numpy_helper.to_array(weights[stored_as.get(name, name)]).astype(np.float32)
        bias = numpy_helper.to_array(weights[node.input[2]]).astype(np.float32)
        shape = (1, -1, 1, 1) if scale.ndim == 4 else (-1,)
        merged = scale * factor.reshape(shape), bias * factor + summand
        for position, values in enumerate(merged, 1):
            new = f"merged.{index}.{position}"
            graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values, np.float32), new))
            node.input[position] = new
        node.output[0] = add.output[0]
        gone |= {id(multiply), id(add)}
    left = [node for node in graph.node if id(node) not in gone]
    del graph.node[:]
    graph.node.extend(left)


def _only_reader(readers: dict[str, list[Any]], name: str, op_type: str) -> Any:
    found = readers.get(name, [])
    return found[0] if len(found) == 1 and found[0].op_type == op_type else None


def _per_channel(weights: dict[str, Any], node: Any, other: str) -> npt.NDArray[np.float32] | None:
    """(C,) of the constant (1, C, 1, 1) that a node combines `other` with."""
    from onnx import numpy_helper

    names = [name for name in node.input if name != other]
    if len(names) != 1 or names[0] not in weights:
        return None
    values = numpy_helper.to_array(weights[names[0]])
    is_per_channel = values.ndim == 4 and values.shape[0] == values.shape[2] == values.shape[3] == 1
    return values.reshape(-1).astype(np.float32) if is_per_channel else None


def _drop_unused(graph: Any) -> None:
    """Casts and constants that nothing reads any more."""
    while True:
        read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
        dead = [node for node in graph.node if not read & set(node.output)]
        if not dead:
            break
        for node in dead:
            graph.node.remove(node)
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)
