"""Edges repeated without `Pad`: the same numbers."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from impasto.assets import find_style
from impasto.export.artifact import load_artifact
from impasto.export.edges import pad_by_concat
from impasto.export.half import to_half


def a_pad(pads: list[int], mode: str) -> onnx.ModelProto:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Pad", ["x", "pads"], ["y"], mode=mode)],
        "pad",
        [value("x", TensorProto.FLOAT, [1, 2, None, None])],
        [value("y", TensorProto.FLOAT, [1, 2, None, None])],
        [numpy_helper.from_array(np.array(pads, np.int64), "pads")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


@pytest.mark.parametrize(
    "pads", [[0, 0, 1, 1, 0, 0, 1, 1], [0, 0, 4, 4, 0, 0, 4, 4], [0, 0, 2, 0, 0, 0, 0, 1], [0, 0, 0, 3, 0, 0, 0, 0]]
)
def test_the_same_numbers(pads: list[int]) -> None:
    model = a_pad(pads, "edge")
    x = np.random.default_rng(0).random((1, 2, 5, 7)).astype(np.float32)
    rewritten = onnx.ModelProto.FromString(pad_by_concat(model.SerializeToString()))
    onnx.checker.check_model(rewritten, full_check=True)
    assert {node.op_type for node in rewritten.graph.node} == {"Slice", "Concat"}
    (wanted,), (got,) = (ReferenceEvaluator(m).run(None, {"x": x}) for m in (model, rewritten))
    np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("mode", ["constant", "reflect"])
def test_other_padding_is_left_alone(mode: str) -> None:
    graph = a_pad([0, 0, 1, 1, 0, 0, 1, 1], mode).SerializeToString()
    assert [node.op_type for node in onnx.ModelProto.FromString(pad_by_concat(graph)).graph.node] == ["Pad"]


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "fp16"])
def test_a_style_without_pad_paints_the_same_picture(half: bool) -> None:
    graph = load_artifact(find_style("mosaic", "fast")).read()
    graph = to_half(graph) if half else graph
    rewritten = pad_by_concat(graph)
    assert "Pad" in {node.op_type for node in onnx.ModelProto.FromString(graph).graph.node}
    assert "Pad" not in {node.op_type for node in onnx.ModelProto.FromString(rewritten).graph.node}
    frames = np.random.default_rng(0).integers(0, 256, (1, 32, 48, 3), np.uint8)
    (wanted,), (got,) = (
        ReferenceEvaluator(onnx.ModelProto.FromString(g)).run(None, {"frame": frames}) for g in (graph, rewritten)
    )
    np.testing.assert_array_equal(got, wanted)
