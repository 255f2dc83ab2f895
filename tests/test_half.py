"""Half precision: the same picture, normalised in fp32, with types that a strongly typed engine accepts."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from impasto.export.artifact import Artifact, parse_model
from impasto.export.half import casts_at_the_border, to_half
from impasto.export.parity import PSNR_FLOOR_DB, compare
from impasto.export.statistics import hold_statistics, layout_of


def types_of(model: onnx.ModelProto) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    values = (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output)
    return {value.name: value.type.tensor_type.elem_type for value in values}


@pytest.fixture
def frames() -> np.ndarray:
    y, x = np.mgrid[0:64, 0:96]
    return np.stack([x * 2, y * 3, (x + y)], axis=-1).astype(np.uint8)[np.newaxis]


def test_same_picture_within_the_floor(small_artifact: Artifact, frames: np.ndarray) -> None:
    half = to_half(small_artifact.read())
    (wanted,) = ReferenceEvaluator(parse_model(small_artifact)).run(None, {"frame": frames})
    (painted,) = ReferenceEvaluator(onnx.ModelProto.FromString(half)).run(None, {"frame": frames})
    assert compare([(wanted[0], painted[0])], precision="fp16", engine="").psnr_db >= PSNR_FLOOR_DB["fp16"]


def test_convolutions_are_half_and_normalisation_is_not(small_artifact: Artifact) -> None:
    model = onnx.ModelProto.FromString(to_half(small_artifact.read()))
    types = types_of(model)
    weights = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    kinds: dict[str, set[int]] = {}
    for node in model.graph.node:
        kinds.setdefault(node.op_type, set()).update(types[name] for name in node.output)
        if node.op_type in ("Conv", "ConvTranspose"):
            assert {weights[name] for name in node.input[1:]} == {TensorProto.FLOAT16}
    assert kinds["Conv"] == kinds["ConvTranspose"] == kinds["Add"] == kinds["Relu"] == {TensorProto.FLOAT16}
    assert kinds["InstanceNormalization"] == kinds["Round"] == {TensorProto.FLOAT}
    assert types["frame"] == types["stylized"] == TensorProto.UINT8


def test_weights_that_are_stored_as_half_are_used_as_they_are(
    make_artifact: Callable[..., Artifact], small_model: onnx.ModelProto
) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(small_model)
    stored = next(tensor for tensor in model.graph.initializer if tensor.name == "body")
    values = numpy_helper.to_array(stored).astype(np.float16)
    stored.CopyFrom(numpy_helper.from_array(values, "body.half"))
    model.graph.node.insert(0, helper.make_node("Cast", ["body.half"], ["body"], to=TensorProto.FLOAT))
    half = onnx.ModelProto.FromString(to_half(make_artifact(model, stride=2).read()))
    used = next(numpy_helper.to_array(t) for t in half.graph.initializer if t.name.startswith("body"))
    assert np.array_equal(used, values)
    assert not any(node.op_type == "Cast" and node.output[0] == "body" for node in half.graph.node)


def test_no_overflow_where_fp16_sums_would(
    make_artifact: Callable[..., Artifact], small_model: onnx.ModelProto, frames: np.ndarray
) -> None:
    """Activations of some hundreds: their squares add up to far more than 65504."""
    model = onnx.ModelProto()
    model.CopyFrom(small_model)
    down = next(tensor for tensor in model.graph.initializer if tensor.name == "down")
    down.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(down) * 100, "down"))
    artifact = make_artifact(model, stride=2)
    (wanted,) = ReferenceEvaluator(parse_model(artifact)).run(None, {"frame": frames})
    half = onnx.ModelProto.FromString(to_half(artifact.read()))
    (painted,) = ReferenceEvaluator(half).run(None, {"frame": frames})
    assert compare([(wanted[0], painted[0])], precision="fp16", engine="").psnr_db >= PSNR_FLOOR_DB["fp16"]


def test_a_variant_with_outer_statistics_converts_too(small_artifact: Artifact, frames: np.ndarray) -> None:
    model = parse_model(small_artifact)
    held = hold_statistics(model)
    layout = layout_of(model)
    inputs = {"frame": frames, "affine": layout.affine(np.ones(layout.size))}
    (wanted,) = ReferenceEvaluator(held).run(None, inputs)
    half = onnx.ModelProto.FromString(to_half(held.SerializeToString()))
    (painted,) = ReferenceEvaluator(half).run(None, inputs)
    assert compare([(wanted[0], painted[0])], precision="fp16", engine="").psnr_db >= PSNR_FLOOR_DB["fp16"]


def test_bytes_are_cast_at_the_border(
    small_artifact: Artifact, make_artifact: Callable[..., Artifact], frames: np.ndarray
) -> None:
    """PyTorch's exporter transposes the bytes first; TensorRT cannot."""
    model = parse_model(small_artifact)
    first, second = model.graph.node[0], model.graph.node[1]
    assert (first.op_type, second.op_type) == ("Cast", "Transpose")
    first.op_type, second.op_type = "Transpose", "Cast"
    attributes = list(first.attribute)
    del first.attribute[:]
    first.attribute.extend(second.attribute)
    del second.attribute[:]
    second.attribute.extend(attributes)
    artifact = make_artifact(model, stride=2)
    swapped = onnx.ModelProto.FromString(casts_at_the_border(artifact.read()))
    onnx.checker.check_model(swapped, full_check=True)
    bytes_tensors = {name for name, kind in types_of(swapped).items() if kind == TensorProto.UINT8}
    assert bytes_tensors == {"frame", "stylized"}
    (wanted,) = ReferenceEvaluator(parse_model(artifact)).run(None, {"frame": frames})
    (painted,) = ReferenceEvaluator(swapped).run(None, {"frame": frames})
    assert np.array_equal(wanted, painted)


def test_a_normalised_picture_that_is_read_in_both_precisions() -> None:
    """As the reference AdaIN does: a convolution takes it as half, its statistics are taken in fp32."""
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.normal(size=(3, 3, 1, 1)), "w2": rng.normal(size=(3, 3, 1, 1)), "one": np.ones(3), "zero": np.zeros(3)
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("InstanceNormalization", ["a", "one", "zero"], ["b"]),
        helper.make_node("Conv", ["b", "w2"], ["c"]),
        helper.make_node("Abs", ["b"], ["d"]),
        helper.make_node("Mul", ["c", "d"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 8, 8]) for name in "xy")
    tensors = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "both", [x], [y], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    half = onnx.ModelProto.FromString(to_half(model.SerializeToString()))
    onnx.checker.check_model(half, full_check=True)
    picture = rng.normal(size=(1, 3, 8, 8)).astype(np.float32)
    (wanted,) = ReferenceEvaluator(model).run(None, {"x": picture})
    (painted,) = ReferenceEvaluator(half).run(None, {"x": picture})
    np.testing.assert_allclose(painted, wanted, atol=0.02)
