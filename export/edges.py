"""Repeated edges without the operator `Pad`, for back ends that do not have it."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx


def pad_by_concat(graph: bytes) -> bytes:
    """A serialized graph in which every `Pad` that repeats edges is a `Slice` and a `Concat` along each axis.

    ONNX Runtime's Core ML provider has no `Pad`: every one would end a part of the graph that runs on the chip.
    """
    import onnx
    from onnx import numpy_helper

    model = onnx.ModelProto.FromString(graph)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    nodes = []
    for node in model.graph.node:
        mode = next((attribute.s for attribute in node.attribute if attribute.name == "mode"), b"constant")
        if node.op_type == "Pad" and mode == b"edge" and node.input[1] in constants and len(node.input) < 4:
            nodes += _sliced(model.graph, node, constants[node.input[1]].tolist())
        else:
            nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    rewritten: bytes = model.SerializeToString()
    return rewritten


def _sliced(graph: "onnx.GraphProto", pad: "onnx.NodeProto", pads: list[int]) -> "list[onnx.NodeProto]":
    """`pads` as the operator has them: a number for the beginning of each axis, then one for the end of each."""
    import numpy as np
    from onnx import helper, numpy_helper

    def constant(name: str, value: int) -> str:
        graph.initializer.append(numpy_helper.from_array(np.array([value], np.int64), name))
        return name

    nodes, x, out = [], pad.input[0], pad.output[0]
    rank = len(pads) // 2
    padded = [axis for axis in range(rank) if pads[axis] or pads[rank + axis]]
    for axis in padded:
        parts = [x]
        axes = constant(f"{out}.axis.{axis}", axis)
        for side, (start, end, count) in {"first": (0, 1, pads[axis]), "last": (-1, 2**31, pads[rank + axis])}.items():
            name = f"{out}.{axis}.{side}"
            if not count:
                continue
            inputs = [x, constant(f"{name}.start", start), constant(f"{name}.end", end), axes]
            nodes.append(helper.make_node("Slice", inputs, [name]))
            parts = [name] * count + parts if side == "first" else parts + [name] * count
        x = out if axis == padded[-1] else f"{out}.{axis}"
        nodes.append(helper.make_node("Concat", parts, [x], axis=axis))
    return nodes
