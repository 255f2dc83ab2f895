"""The same network in half precision, for graphics cards.

Convolutions, ReLUs and sums run in fp16. Normalisation runs in fp32, because the squares it adds up overflow fp16
(65504) and because ONNX Runtime's and TensorRT's fp16 kernels for it have been wrong before; so do the scaling of bytes
at both ends and rounding. The types stand in the graph, which is what TensorRT's strongly typed networks want.
"""

from typing import Any

import numpy as np

_IN_HALF = frozenset({"Conv", "ConvTranspose"})
_AS_INPUTS = frozenset({"Relu", "LeakyRelu", "Add", "Mul", "Split", "Reshape", "Concat", "Pad", "Identity"})


def to_half(graph: bytes) -> bytes:
    """A serialized artifact's graph with fp16 convolutions; inputs and outputs stay as they are."""
    import onnx

    model = onnx.ModelProto.FromString(graph)
    converter = _Converter(model.graph)
    for node in list(model.graph.node):
        converter.convert(node)
    del model.graph.node[:]
    model.graph.node.extend(converter.nodes)
    kept = {name for node in converter.nodes for name in node.input}
    weights = [tensor for tensor in model.graph.initializer if tensor.name in kept]
    del model.graph.initializer[:]
    model.graph.initializer.extend(weights)
    halved: bytes = model.SerializeToString()
    return halved


def casts_at_the_border(graph: bytes) -> bytes:
    """Bytes become floats before anything else and again after all else: TensorRT takes uint8 at the border alone."""
    import onnx

    model = onnx.ModelProto.FromString(graph)
    nodes = {node.output[0]: node for node in model.graph.node}
    readers: dict[str, list[Any]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    first = readers["frame"]
    if len(first) == 1 and first[0].op_type == "Transpose":
        (cast,) = readers[first[0].output[0]]
        _swap(first[0], cast)
    last = nodes["stylized"]
    if last.op_type == "Transpose":
        _swap(nodes[last.input[0]], last)
    swapped: bytes = model.SerializeToString()
    return swapped


def _swap(first: Any, second: Any) -> None:
    """Exchange what two nodes in a row do, keeping the names of the tensors at both ends."""
    kind, attributes = first.op_type, list(first.attribute)
    first.op_type = second.op_type
    del first.attribute[:]
    first.attribute.extend(second.attribute)
    second.op_type = kind
    del second.attribute[:]
    second.attribute.extend(attributes)


class _Converter:
    """Walks a graph in order and knows which tensors are halves by now."""

    def __init__(self, graph: Any) -> None:
        from onnx import numpy_helper

        self.nodes: list[Any] = []
        self._graph = graph
        self._weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        self._halves: set[str] = set()
        self._casts: dict[tuple[str, bool], str] = {}

    def convert(self, node: Any) -> None:
        if node.op_type == "Cast" and self._weights.get(node.input[0], np.empty(0)).dtype == np.float16:
            self._weights[node.output[0]] = self._weights[node.input[0]]  # stored as half, wanted as half
            return
        half = node.op_type in _IN_HALF or (node.op_type in _AS_INPUTS and self._all_halves(node))
        for index, name in enumerate(node.input):
            if name:
                node.input[index] = self._weight(name, half) if name in self._weights else self._tensor(name, half)
        self.nodes.append(node)
        if node.op_type == "InstanceNormalization":
            self._back_to_half(node)
        elif half:
            self._halves.update(node.output)

    def _back_to_half(self, node: Any) -> None:
        """What comes after a normalisation is small again: half the memory traffic for ReLUs, sums and convolutions."""
        from onnx import TensorProto, helper

        y = node.output[0]
        node.output[0] = f"{y}.float32"
        self.nodes.append(helper.make_node("Cast", [node.output[0]], [y], to=TensorProto.FLOAT16))
        self._halves.add(y)
        self._casts[y, False] = node.output[0]  # for readers that want it in fp32 all the same

    def _all_halves(self, node: Any) -> bool:
        """Every picture is a half, and no constant is a mere number: those scale bytes and stay fp32."""
        constants = [self._weights[name] for name in node.input if name in self._weights]
        pictures = [name for name in node.input if name and name not in self._weights]
        return bool(pictures) and all(name in self._halves for name in pictures) and all(c.size > 1 for c in constants)

    def _weight(self, name: str, half: bool) -> str:
        from onnx import numpy_helper

        values = self._weights[name]
        if values.dtype not in (np.float16, np.float32):
            return name
        wanted = np.float16 if half else np.float32
        key = (name, half)
        if key not in self._casts:
            self._casts[key] = f"{name}.{np.dtype(wanted).name}"
            self._graph.initializer.append(numpy_helper.from_array(values.astype(wanted), self._casts[key]))
        return self._casts[key]

    def _tensor(self, name: str, half: bool) -> str:
        from onnx import TensorProto, helper

        if (name in self._halves) == half:
            return name
        key = (name, half)
        if key not in self._casts:
            self._casts[key] = f"{name}.{'float16' if half else 'float32'}"
            to = TensorProto.FLOAT16 if half else TensorProto.FLOAT
            self.nodes.append(helper.make_node("Cast", [name], [self._casts[key]], to=to))
            if half:
                self._halves.add(self._casts[key])
        return self._casts[key]
