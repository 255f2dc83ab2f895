"""What is missing, and the command that mends it; nothing falls back in silence."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from impasto.export.artifact import Artifact
from impasto.realtime import engine_onnxruntime, nvidia
from impasto.realtime.engine import BACKENDS, Backend, EngineOptions
from impasto.realtime.engine_choice import load_engine
from impasto.realtime.errors import EngineError


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
    monkeypatch: pytest.MonkeyPatch,
    small_artifact: Artifact,
    driver: None,
    library: str,
    device: str,
    package: str,
    words: str,
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
