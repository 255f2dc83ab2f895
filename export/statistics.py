"""Normalisation statistics outside the network: measured, carried over time, frozen, or shared by tiles.

Instance normalisation (Ulyanov et al. 2016, arXiv 1607.08022) computes y = (x - mean) / sqrt(var + eps) * scale + bias
with the mean and variance of each channel of each picture. Two things follow that a user sees: a video pulses when
something enters the picture, and a picture cannot be painted in tiles. Both go away when the statistics come from
elsewhere: from earlier frames, or from the whole picture while a tile is painted.

An artifact is one file; these variants are made from its graph when they are wanted, without PyTorch:

`measure_statistics`  the same picture, and the frame's `moments` (N, K) as a second output;
`hold_statistics`     statistics come in as `affine` (1, K) instead of being computed: less work than the original.

K is twice the number of normalised channels. All vectors hold two numbers per channel, one layer after the other:
`moments` the means and Euclidean lengths that an engine measures, `statistics` the means and variances that follow,
`affine` the factors and summands of y = x * factor + summand. The conversions are `StatisticsLayout`'s, in float64 on
the host, so that an engine that computes in bf16 rounds only results.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .errors import ArtifactError
from .graph import picture_spans

if TYPE_CHECKING:
    import onnx

Vector = npt.NDArray[np.float64]
Vectors = npt.NDArray[np.float32]

INSET = "inset"
"""(4,) int64 input of a held, measuring graph: pixels at the top, left, bottom and right that are not measured."""


@dataclass(frozen=True, eq=False)
class Layer:
    """One instance normalisation of C channels."""

    scale: Vector
    """(C,)"""
    bias: Vector
    """(C,)"""
    epsilon: float
    pixels: int
    """How many pixels of the frame, along one axis, one value of this layer spans: 1, 2 or 4."""

    @property
    def channels(self) -> int:
        return len(self.scale)


@dataclass(frozen=True)
class StatisticsLayout:
    """Where each normalisation's numbers lie in a (K,) vector, and how to convert them."""

    layers: tuple[Layer, ...]

    @property
    def size(self) -> int:
        """K."""
        return 2 * sum(layer.channels for layer in self.layers)

    def statistics(self, parts: Iterable[tuple[Vectors, int]]) -> Vector:
        """(K,) means and variances of a picture from the (K,) moments of its parts and their areas in pixels."""
        total, area = np.zeros(self.size), 0
        for moments, pixels in parts:
            for (layer, total_sum, total_squares), (_, mean, length) in zip(
                self.split(total), self.split(moments.astype(np.float64)), strict=True
            ):
                total_sum += mean * (pixels / layer.pixels**2)
                total_squares += length**2
            area += pixels
        for layer, mean, variance in self.split(total):  # views: what follows turns sums into statistics in place
            count = area / layer.pixels**2
            mean /= count
            variance /= count
            variance -= mean**2
            np.maximum(variance, 0, out=variance)
        return total

    def affine(self, statistics: Vector) -> Vectors:
        """(1, K) factors and summands from (K,) means and variances: what `hold_statistics` takes as `affine`."""
        parts = []
        for layer, mean, variance in self.split(statistics):
            factor = layer.scale / np.sqrt(variance + layer.epsilon)
            parts += [factor, layer.bias - mean * factor]
        return np.concatenate(parts).astype(np.float32)[np.newaxis]

    def split(self, vector: Vector) -> Iterator[tuple[Layer, Vector, Vector]]:
        """Each layer with views of the two (C,) parts of a (K,) vector that are its own."""
        start = 0
        for layer in self.layers:
            middle, end = start + layer.channels, start + 2 * layer.channels
            yield layer, vector[start:middle], vector[middle:end]
            start = end


def layout_of(model: "onnx.ModelProto") -> StatisticsLayout:
    """The normalisations of an artifact's graph, in the order of the graph.

    Raises:
        ArtifactError: there are none, or their statistics cannot be told from outside.
    """
    from onnx import numpy_helper

    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    spans = picture_spans(model)
    layers = []
    for node in _norms(model):
        if not set(node.input[1:]) <= weights.keys():
            raise ArtifactError("scale and bias of a normalisation must be constant for its statistics to be held")
        scale, bias = (numpy_helper.to_array(weights[name]).astype(np.float64) for name in node.input[1:])
        epsilon = next((attribute.f for attribute in node.attribute if attribute.name == "epsilon"), 1e-5)
        layers.append(Layer(scale, bias, float(epsilon), spans[node.input[0]]))
    if not layers:
        raise ArtifactError("the network must have instance normalisations for their statistics to be known")
    return StatisticsLayout(tuple(layers))


def measure_statistics(model: "onnx.ModelProto", *, paint: bool = True) -> "onnx.ModelProto":
    """The same network with a second output, `moments` (N, K) float32, the frame's own.

    Without `paint` it is the only output, which takes two thirds of the time.
    """
    layout, changed = layout_of(model), _copy(model)
    for index, (node, layer) in enumerate(zip(_norms(changed), layout.layers, strict=True)):
        changed.graph.node.extend(_measuring_nodes(index, node.input[0], layer.channels))
    _add_moments_output(changed, layout)
    if not paint:
        moments = changed.graph.output[-1]
        del changed.graph.output[:]
        changed.graph.output.append(moments)
    return changed


def hold_statistics(model: "onnx.ModelProto", *, measure: int | None = None) -> "onnx.ModelProto":
    """The network with a second input `affine` (1, K) float32 in place of its own statistics.

    With the number of a layer to `measure`, it takes a third input, `inset` (4,) int64, and ends with that layer's
    `moments` (N, 2C): of the picture without a margin of `inset` pixels, all layers before normalised by `affine`.
    """
    from onnx import TensorProto, helper

    layout, changed = layout_of(model), _copy(model)
    graph = changed.graph
    sizes = [size for layer in layout.layers for size in (layer.channels, layer.channels)]
    parts = [f"affine.{index}" for index in range(len(sizes))]
    first = [helper.make_node("Split", ["affine", "affine.sizes"], parts, axis=1)]
    first += [helper.make_node("Reshape", [part, "affine.shape"], [f"{part}.channels"]) for part in parts]
    graph.initializer.append(_constant("affine.sizes", np.array(sizes, np.int64)))
    graph.initializer.append(_constant("affine.shape", np.array([1, -1, 1, 1], np.int64)))
    graph.input.append(helper.make_tensor_value_info("affine", TensorProto.FLOAT, [1, layout.size]))
    for index, (node, layer) in enumerate(zip(_norms(changed), layout.layers, strict=True)):
        if measure == index:
            graph.node.extend(_measuring_nodes(index, node.input[0], layer.channels, inset_pixels=layer.pixels))
        _replace_norm(graph, node, f"affine.{2 * index}.channels", f"affine.{2 * index + 1}.channels")
    nodes = list(graph.node)
    del graph.node[:]
    graph.node.extend([*first, *nodes])
    if measure is not None:
        pixels = layout.layers[measure].pixels
        graph.input.append(helper.make_tensor_value_info(INSET, TensorProto.INT64, [4]))
        graph.initializer.append(_constant("inset.axes", np.array([2, 3], np.int64)))
        graph.initializer.append(_constant(f"inset.{pixels}", np.array(pixels, np.int64)))
        del graph.output[:]
        _add_moments_output(changed, layout, [measure])
    _drop_unused(graph)
    return changed


def _norms(model: Any) -> list[Any]:
    return [node for node in model.graph.node if node.op_type == "InstanceNormalization"]


def _copy(model: "onnx.ModelProto") -> "onnx.ModelProto":
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def _constant(name: str, values: npt.NDArray[Any]) -> Any:
    from onnx import numpy_helper

    return numpy_helper.from_array(values, name)


def _replace_norm(graph: Any, node: Any, factor: str, summand: str) -> None:
    """y = x * factor + summand in the place of one normalisation."""
    from onnx import helper

    position = next(index for index, other in enumerate(graph.node) if other.output[0] == node.output[0])
    x, y = node.input[0], node.output[0]
    graph.node.remove(node)
    graph.node.insert(position, helper.make_node("Mul", [x, factor], [f"{y}.scaled"]))
    graph.node.insert(position + 1, helper.make_node("Add", [f"{y}.scaled", summand], [y]))


def _drop_unused(graph: Any) -> None:
    used = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)


def _measuring_nodes(index: int, x: str, channels: int, *, inset_pixels: int = 0) -> list[Any]:
    """Nodes that end in `moments.{index}` (N, 2C): mean and Euclidean length of each channel of x.

    Lengths rather than variances, because those need a second pass over the map. The product with the unit matrix
    is there for OpenVINO: below its last matrix product or convolution it computes in fp32, and a reduction at the
    end of the graph would pull transposed convolutions with it, at four times the cost.
    """
    from onnx import helper

    name = f"moments.{index}"
    nodes = []
    if inset_pixels:
        nodes, x = _inner_part(name, x, inset_pixels), f"{name}.inner"
    return [
        *nodes,
        helper.make_node("ReduceMean", [x, "moments.axes"], [f"{name}.mean"], keepdims=1),
        helper.make_node("ReduceL2", [x, "moments.axes"], [f"{name}.length"], keepdims=1),
        helper.make_node("Concat", [f"{name}.mean", f"{name}.length"], [f"{name}.both"], axis=1),
        helper.make_node("Flatten", [f"{name}.both"], [f"{name}.flat"], axis=1),
        helper.make_node("MatMul", [f"{name}.flat", f"moments.unit.{channels}"], [name]),
    ]


def _inner_part(name: str, x: str, pixels: int) -> list[Any]:
    """Nodes that cut `inset` pixels of the frame off the four sides of x: padding by a negative amount."""
    from onnx import helper

    return [
        helper.make_node("Div", [INSET, f"inset.{pixels}"], [f"{name}.inset"]),
        helper.make_node("Neg", [f"{name}.inset"], [f"{name}.cut"]),
        helper.make_node("Pad", [x, f"{name}.cut", "", "inset.axes"], [f"{name}.inner"], mode="constant"),
    ]


def _add_moments_output(model: Any, layout: StatisticsLayout, measured: Sequence[int] | None = None) -> None:
    """`moments` of the layers of these numbers, None for all, as an output."""
    from onnx import TensorProto, helper

    graph = model.graph
    graph.initializer.append(_constant("moments.axes", np.array([2, 3], np.int64)))
    numbers = range(len(layout.layers)) if measured is None else measured
    for channels in sorted({layout.layers[index].channels for index in numbers}):
        graph.initializer.append(_constant(f"moments.unit.{channels}", np.eye(2 * channels, dtype=np.float32)))
    size = sum(2 * layout.layers[index].channels for index in numbers)
    graph.node.append(helper.make_node("Concat", [f"moments.{index}" for index in numbers], ["moments"], axis=1))
    graph.output.append(helper.make_tensor_value_info("moments", TensorProto.FLOAT, ["n", size]))
