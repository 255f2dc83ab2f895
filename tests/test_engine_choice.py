"""What is missing, and the command that mends it; nothing falls back in silence."""

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from impasto.export.artifact import Artifact
from impasto.realtime import engine_onnxruntime, nvidia
from impasto.realtime.engine import BACKENDS, Backend, EngineOptions
from impasto.realtime.engine_choice import load_engine, run_once
from impasto.realtime.errors import EngineError
from impasto.realtime.options import VideoOptions
from impasto.realtime.video_engines import Engines


def backend(library: str, device: str) -> Backend:
    return next(one for one in BACKENDS if (one.library, one.device) == (library, device))


@pytest.fixture
def no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvidia, "driver", lambda: None)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> None:
    card = nvidia.Card("NVIDIA Test 9000", (9, 0))
    monkeypatch.setattr(nvidia, "driver", lambda: nvidia.Driver((12, 4), (card,)))


class Session:
    """A session that could not load the provider it was asked for, as ONNX Runtime's do without a word."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def get_providers(self) -> list[str]:
        return ["CPUExecutionProvider"]


def fake_onnxruntime(monkeypatch: pytest.MonkeyPatch, *providers: str) -> None:
    fake: Any = SimpleNamespace(
        InferenceSession=Session,
        SessionOptions=lambda: SimpleNamespace(),
        get_available_providers=lambda: list(providers),
    )
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)


@pytest.mark.parametrize(
    ("library", "device", "package", "words"),
    [
        ("openvino", "cpu", "openvino", "pip install 'impasto[cpu]'"),
        ("onnxruntime", "cpu", "onnxruntime", "pip install onnxruntime"),
        ("onnxruntime", "cuda", "onnxruntime", "pip install 'impasto[gpu]'"),
        ("tensorrt", "tensorrt", "tensorrt", "pip install 'impasto[tensorrt]'"),
        ("torch", "torch", "torch", "pip install 'impasto[train]'"),
    ],
)
def test_a_missing_package_names_its_command(
    monkeypatch: pytest.MonkeyPatch, small_artifact: Artifact, library: str, device: str, package: str, words: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # importing it now fails
    with pytest.raises(EngineError) as caught:
        backend(library, device).open(small_artifact, EngineOptions())
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_provider_that_is_not_in_the_package(
    monkeypatch: pytest.MonkeyPatch, small_artifact: Artifact, driver: None
) -> None:
    fake_onnxruntime(monkeypatch, "CPUExecutionProvider")
    monkeypatch.setattr(engine_onnxruntime, "installed_distributions", lambda: ["onnxruntime"])
    with pytest.raises(EngineError, match=r"pip uninstall -y .* && pip install 'impasto\[gpu\]'"):
        load_engine(small_artifact, device="cuda", library="onnxruntime")


def test_both_packages_installed(monkeypatch: pytest.MonkeyPatch, small_artifact: Artifact, driver: None) -> None:
    fake_onnxruntime(monkeypatch, "CPUExecutionProvider")
    monkeypatch.setattr(engine_onnxruntime, "installed_distributions", lambda: ["onnxruntime-gpu", "onnxruntime"])
    with pytest.raises(EngineError, match="onnxruntime-gpu and onnxruntime must not both be installed"):
        load_engine(small_artifact, device="cuda", library="onnxruntime")


def test_what_is_left_when_one_of_both_is_uninstalled(
    monkeypatch: pytest.MonkeyPatch, small_artifact: Artifact
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", SimpleNamespace())
    with pytest.raises(EngineError, match="must be whole"):
        backend("onnxruntime", "cpu").open(small_artifact, EngineOptions())


def test_a_provider_that_is_listed_but_does_not_load(
    monkeypatch: pytest.MonkeyPatch, small_artifact: Artifact, driver: None
) -> None:
    fake_onnxruntime(monkeypatch, "CUDAExecutionProvider", "CPUExecutionProvider")
    with pytest.raises(EngineError) as caught:
        load_engine(small_artifact, device="cuda", library="onnxruntime", precision="fp32")
    text = str(caught.value)
    assert "CUDAExecutionProvider must load, but it does not" in text
    assert "NVIDIA Test 9000" in text
    assert "pip install 'impasto[gpu]'" in text


def test_no_driver_is_said_before_packages_are(no_driver: None, small_artifact: Artifact) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(EngineError, match="no working NVIDIA driver"):
        load_engine(small_artifact, device="cuda", library="onnxruntime")


def test_a_driver_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    old = nvidia.Driver((11, 8), (nvidia.Card("Old", (7, 5)),))
    monkeypatch.setattr(nvidia, "driver", lambda: old)
    assert "too old, CUDA 11.8 where 12.0 is needed" in nvidia.diagnosis()
    monkeypatch.setattr(nvidia, "driver", lambda: nvidia.Driver((12, 4), ()))
    assert "no card" in nvidia.diagnosis()


@pytest.mark.skipif(sys.platform != "linux", reason="names what other systems lack")
@pytest.mark.parametrize(("device", "system"), [("directml", "Windows"), ("coreml", "macOS")])
def test_providers_of_other_systems(small_artifact: Artifact, device: str, system: str) -> None:
    with pytest.raises(EngineError, match=f"{device} exists on {system} only"):
        load_engine(small_artifact, device=device)


def test_a_precision_that_the_device_has_not(small_artifact: Artifact) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(EngineError, match="precision must be fp32 with onnxruntime on cpu, got bf16"):
        load_engine(small_artifact, device="cpu", library="onnxruntime", precision="bf16")


def test_an_index_that_does_not_exist(small_artifact: Artifact) -> None:
    pytest.importorskip("openvino")
    with pytest.raises(EngineError, match="CPU number 7"):
        load_engine(small_artifact, device="cpu:7", library="openvino")


def test_device_and_library_that_do_not_go_together(small_artifact: Artifact) -> None:
    with pytest.raises(EngineError, match="must go together"):
        load_engine(small_artifact, device="coreml", library="openvino")


def test_a_second_input_reaches_the_network(make_artifact: Callable[..., Artifact]) -> None:
    """An arbitrary style: every value is the frame's plus the style's three numbers."""
    nodes = [
        helper.make_node("Cast", ["frame"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["x", "style"], ["y"]),
        helper.make_node("Clip", ["y", "low", "high"], ["z"]),
        helper.make_node("Cast", ["z"], ["stylized"], to=TensorProto.UINT8),
    ]
    graph = helper.make_graph(
        nodes,
        "stylize",
        [
            helper.make_tensor_value_info("frame", TensorProto.UINT8, ["n", "h", "w", 3]),
            helper.make_tensor_value_info("style", TensorProto.FLOAT, ["m", 3]),
        ],
        [helper.make_tensor_value_info("stylized", TensorProto.UINT8, ["n", "h", "w", 3])],
        [helper.make_tensor("low", TensorProto.FLOAT, [], [0.0]), helper.make_tensor("high", 1, [], [255.0])],
    )
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    artifact = make_artifact(model, kind="arbitrary")
    frames = np.full((1, 8, 8, 3), 100, np.uint8)
    engine = load_engine(artifact, device="cpu", precision="fp32")
    engine.warmup(8, 8)
    assert np.array_equal(engine(frames), frames)
    engine.inputs = {"style": np.array([[1, 2, 3]], np.float32)}
    for _ in range(4):
        assert np.array_equal(engine(frames), frames + np.array([1, 2, 3], np.uint8))
    engine.close()


def test_a_style_encoder_runs_once_and_does_not_paint(make_artifact: Callable[..., Artifact]) -> None:
    """Here a painting's style is the mean of each channel."""
    nodes = [
        helper.make_node("Cast", ["frame"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["x", "axes"], ["style"], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "encode",
        [helper.make_tensor_value_info("frame", TensorProto.UINT8, ["n", "h", "w", 3])],
        [helper.make_tensor_value_info("style", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    artifact = make_artifact(model, kind="style-encoder")
    painting = np.random.default_rng(0).integers(0, 256, (1, 40, 30, 3), dtype=np.uint8)
    style = run_once(artifact, {"frame": painting})["style"]
    np.testing.assert_allclose(style, painting.mean((1, 2)), rtol=1e-4)
    with pytest.raises(EngineError, match="must be a style that paints"):
        load_engine(artifact)


def test_bound_buffers_follow_the_size(small_artifact: Artifact) -> None:
    """What a card gets, with buffers in the processor's memory."""
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(small_artifact.read(), providers=["CPUExecutionProvider"])
    bound = engine_onnxruntime.Bound(onnxruntime, session, "cpu", 0)
    rng = np.random.default_rng(0)
    for shape in ((1, 32, 48, 3), (1, 32, 48, 3), (2, 64, 32, 3), (1, 32, 48, 3)):
        frames = rng.integers(0, 256, shape, dtype=np.uint8)
        (wanted,) = session.run(None, {"frame": frames})
        assert np.array_equal(bound.run({"frame": frames})["stylized"], wanted)


def test_a_resumed_film_paints_styles_without_int8_as_before(identity_artifact: Artifact) -> None:
    options = VideoOptions(style=str(identity_artifact.path))
    with Engines(options) as engines:
        # What a shipped style of the same film took.
        engines.pin({"name": "onnxruntime", "device": "CPU", "precision": "int8"})
        assert (engines.info.name, engines.info.precision) == ("onnxruntime", "fp32")
