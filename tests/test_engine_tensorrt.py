"""TensorRT without TensorRT: what is built, under which name, what is refused, and how it runs, with a fake library.

The fake keeps the graph that it is given as its plan and paints by ONNX Runtime, so what comes out of the engine is
what the built graph paints.
"""

import ctypes
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from impasto.export import to_tensorrt
from impasto.export.artifact import ENGINE_MAGIC, Artifact, load_artifact, parse_model
from impasto.export.errors import ArtifactError
from impasto.export.parity import compare
from impasto.export.to_tensorrt import EngineFile, Machine, ShapeRange, cache_key, export_tensorrt, read_engine
from impasto.realtime import engine_tensorrt, nvidia
from impasto.realtime.engine import BACKENDS, EngineOptions
from impasto.realtime.engine_choice import load_engine
from impasto.realtime.engine_takeover import TakeoverEngine
from impasto.realtime.errors import EngineError

onnxruntime = pytest.importorskip("onnxruntime", reason="the fake TensorRT paints with ONNX Runtime")

FRAMES = np.random.default_rng(0).integers(0, 256, (1, 64, 96, 3), dtype=np.uint8)
HERE = Machine("10.7.0", "NVIDIA Test 9000", "550.54.15")
STEPS = 5


class FakeTensorRt:
    """As much of TensorRT's Python interface as is used."""

    NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
    BuilderFlag = SimpleNamespace(TF32="tf32")
    IProgressMonitor = object

    def __init__(self) -> None:
        self.builds = 0
        self.flags: list[int] = []
        self.cleared: list[str] = []
        self.profiles: list[tuple[Any, ...]] = []
        self.go = threading.Event()
        self.go.set()
        fake = self

        class Logger:
            ERROR = 1

            def __init__(self, level: int) -> None: ...

        class Parser:
            num_errors = 1

            def __init__(self, network: Any, logger: Any) -> None:
                self.network = network

            def parse(self, graph: bytes) -> bool:
                self.network.graph = graph
                return b"Nonsense" not in graph

            def get_error(self, index: int) -> str:
                return "no importer\nfor Nonsense"

        class Builder:
            def __init__(self, logger: Any) -> None: ...

            def create_network(self, flags: int) -> Any:
                fake.flags.append(flags)
                return SimpleNamespace()

            def create_builder_config(self) -> Any:
                return SimpleNamespace(
                    clear_flag=fake.cleared.append, add_optimization_profile=lambda profile: None, progress_monitor=None
                )

            def create_optimization_profile(self) -> Any:
                return SimpleNamespace(set_shape=lambda *shape: fake.profiles.append(shape))

            def build_serialized_network(self, network: Any, config: Any) -> bytes | None:
                fake.builds += 1
                config.progress_monitor.phase_start("tactics", None, STEPS)
                for step in range(STEPS):
                    while not fake.go.wait(0.005):
                        if not config.progress_monitor.step_complete("tactics", 0):
                            return None
                    if not config.progress_monitor.step_complete("tactics", step):
                        return None
                config.progress_monitor.phase_finish("tactics")
                return network.graph

        class Runtime:
            def __init__(self, logger: Any) -> None: ...

            def deserialize_cuda_engine(self, plan: bytes) -> Any:
                if b"frame" not in plan:
                    return None
                return SimpleNamespace(create_execution_context=lambda: Context(plan))

        self.Logger, self.OnnxParser, self.Builder, self.Runtime = Logger, Parser, Builder, Runtime


class Context:
    """An execution context on memory of the processor."""

    def __init__(self, plan: bytes) -> None:
        self.session = onnxruntime.InferenceSession(plan, providers=["CPUExecutionProvider"])
        self.addresses: dict[str, int] = {}
        self.shape: tuple[int, ...] = ()

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shape = tuple(shape)
        return shape[1] <= 2160

    def set_tensor_address(self, name: str, address: int) -> None:
        self.addresses[name] = address

    def execute_async_v3(self, stream: int) -> bool:
        size = int(np.prod(self.shape))
        frame, target = (
            np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(self.addresses[name])).reshape(self.shape)
            for name in ("frame", "stylized")
        )
        target[...] = self.session.run(["stylized"], {"frame": frame})[0]
        return True


class FakeCuda:
    """CUDA's runtime on the processor's memory; counts what is allocated."""

    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)

    def __init__(self) -> None:
        self.memory: dict[int, Any] = {}
        self.streams = 0

    def cudaSetDevice(self, index: int) -> tuple[int]:
        return (0,)

    def cudaStreamCreate(self) -> tuple[int, int]:
        self.streams += 1
        return 0, 7

    def cudaStreamDestroy(self, stream: int) -> tuple[int]:
        self.streams -= 1
        return (0,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[int]:
        return (0,)

    def cudaMalloc(self, size: int) -> tuple[int, int]:
        buffer = (ctypes.c_uint8 * size)()
        self.memory[ctypes.addressof(buffer)] = buffer
        return 0, ctypes.addressof(buffer)

    def cudaFree(self, address: int) -> tuple[int]:
        del self.memory[address]
        return (0,)

    def cudaMemcpyAsync(self, target: int, source: int, size: int, kind: int, stream: int) -> tuple[int]:
        ctypes.memmove(target, source, size)
        return (0,)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeTensorRt:
    """TensorRT, CUDA, a driver and a card, all of them pretended; an empty cache."""
    library = FakeTensorRt()
    library.cuda = FakeCuda()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorrt", library)  # type: ignore[arg-type]
    monkeypatch.setattr(engine_tensorrt, "_libraries", lambda: (library, library.cuda))  # type: ignore[attr-defined]
    monkeypatch.setattr(engine_tensorrt, "version", lambda device: HERE.tensorrt)
    card = nvidia.Card(HERE.card, (9, 0))
    monkeypatch.setattr(nvidia, "driver", lambda: nvidia.Driver((12, 4), (card,)))
    monkeypatch.setattr(nvidia, "driver_version", lambda: HERE.driver)
    monkeypatch.setenv("IMPASTO_CACHE", str(tmp_path / "cache"))
    return library


@pytest.fixture
def built(fake: FakeTensorRt, small_artifact: Artifact, tmp_path: Path) -> Path:
    path = tmp_path / "small.engine"
    export_tensorrt(small_artifact, path, "fp16", ShapeRange(), HERE, on_progress=lambda line: None, overwrite=False)
    return path


def test_an_engines_name_says_all_that_it_depends_on() -> None:
    key = cache_key("ab" * 32, ShapeRange(), "fp16", HERE)
    for part in (
        "abababababab",
        "fp16",
        "64x64-1280x720-3840x2160-b1",
        "trt10.7.0",
        "NVIDIA_Test_9000",
        "driver550.54.15",
    ):
        assert part in key
    others = {
        cache_key("cd" * 32, ShapeRange(), "fp16", HERE),
        cache_key("ab" * 32, ShapeRange(best=(360, 640)), "fp16", HERE),
        cache_key("ab" * 32, ShapeRange(max_batch=2), "fp16", HERE),
        cache_key("ab" * 32, ShapeRange(), "fp32", HERE),
        *(
            cache_key("ab" * 32, ShapeRange(), "fp16", replace(HERE, **{name: "x"}))
            for name in ("tensorrt", "card", "driver")
        ),
    }
    assert len(others | {key}) == 8
    for wrong in ({"smallest": (720, 1280), "best": (360, 640)}, {"max_batch": 0}):
        with pytest.raises(ValueError, match=r"sizes must rise|max_batch must be"):
            ShapeRange(**wrong)


def test_what_is_built_and_what_it_paints(fake: FakeTensorRt, small_artifact: Artifact) -> None:
    """Strongly typed, normalisation in fp32, bytes at the border alone; the second start finds the engine."""
    engine = load_engine(small_artifact, device="tensorrt", library="tensorrt", precision="fp16", build="wait")
    assert str(engine.info) == "tensorrt on CUDA:0 in fp16"
    assert fake.flags == [2]
    assert fake.profiles == [("frame", (1, 64, 64, 3), (1, 720, 1280, 3), (1, 2160, 3840, 3))]
    (path,) = (Path(engine_tensorrt.cache_folder("tensorrt"))).iterdir()
    kept = read_engine(path.read_bytes(), path.name)
    assert (kept.machine, kept.precision, kept.metadata) == (HERE, "fp16", small_artifact.metadata)
    graph = onnx.ModelProto.FromString(kept.plan).graph
    kinds = {t.name: t.data_type for t in graph.initializer}
    norm = next(node for node in graph.node if node.op_type == "InstanceNormalization")
    convolution = next(node for node in graph.node if node.op_type == "Conv")
    assert kinds[norm.input[1]] == onnx.TensorProto.FLOAT
    assert kinds[convolution.input[1]] == onnx.TensorProto.FLOAT16

    plain = load_engine(small_artifact, device="cpu", precision="fp32")
    for shape in ((1, 64, 96, 3), (2, 32, 48, 3), (1, 128, 64, 3)):
        frames = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
        assert compare([(plain(frames), engine(frames))], precision="fp16", engine="").psnr_db > 38
    with pytest.raises(EngineError, match="size that the engine was built for, 64x64-1280x720-3840x2160-b1"):
        engine(np.zeros((1, 2162, 64, 3), np.uint8))
    plain.close()
    engine.close()
    assert (fake.cuda.memory, fake.cuda.streams) == ({}, 0)  # type: ignore[attr-defined]

    again = load_engine(small_artifact, device="tensorrt", library="tensorrt", precision="fp16", build="never")
    again.close()
    assert fake.builds == 1
    full = load_engine(small_artifact, device="tensorrt", library="tensorrt", precision="fp32", build="wait")
    full.close()
    assert (fake.builds, fake.cleared) == (2, ["tf32"])


@pytest.mark.parametrize("name", ["card", "tensorrt", "driver"])
def test_another_machine_builds_anew(
    fake: FakeTensorRt, small_artifact: Artifact, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    load_engine(small_artifact, device="tensorrt", library="tensorrt", build="wait").close()
    monkeypatch.setattr(engine_tensorrt, "machine", lambda index=0: replace(HERE, **{name: "other"}))
    with pytest.raises(EngineError, match="impasto export tensorrt"):
        load_engine(small_artifact, device="tensorrt", library="tensorrt", build="never")
    load_engine(small_artifact, device="tensorrt", library="tensorrt", build="wait").close()
    assert fake.builds == 2


def test_a_damaged_engine_in_the_cache_is_removed(fake: FakeTensorRt, small_artifact: Artifact) -> None:
    load_engine(small_artifact, device="tensorrt", library="tensorrt", build="wait").close()
    (path,) = (Path(engine_tensorrt.cache_folder("tensorrt"))).iterdir()
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(EngineError, match="does not match its sum: it has been removed, try again"):
        load_engine(small_artifact, device="tensorrt", library="tensorrt", build="wait")
    assert not path.exists()
    load_engine(small_artifact, device="tensorrt", library="tensorrt", build="wait").close()


def test_a_full_card_keeps_what_was_built_and_never_paints_in_freed_memory(
    fake: FakeTensorRt, small_artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    how: dict[str, Any] = {"device": "tensorrt", "library": "tensorrt", "precision": "fp16", "build": "wait"}
    engine = load_engine(small_artifact, **how)
    painted = engine(FRAMES)
    with monkeypatch.context() as full:
        full.setattr(FakeCuda, "cudaMalloc", lambda self, size: (2,))
        for _ in range(2):
            with pytest.raises(EngineError, match="CUDA must succeed"):
                engine(np.zeros((1, 1024, 1024, 3), np.uint8))
            with pytest.raises(EngineError, match="CUDA must succeed"):
                engine(FRAMES)
    assert np.array_equal(engine(FRAMES), painted)
    engine.close()
    assert fake.cuda.memory == {}  # type: ignore[attr-defined]

    (path,) = (Path(engine_tensorrt.cache_folder("tensorrt"))).iterdir()
    with monkeypatch.context() as full:
        full.setattr(FakeCuda, "cudaStreamCreate", lambda self: (2,))
        with pytest.raises(EngineError, match="CUDA must succeed"):
            load_engine(small_artifact, **how)
    plan = SimpleNamespace(create_execution_context=lambda: None)
    monkeypatch.setattr(fake.Runtime, "deserialize_cuda_engine", lambda self, _: plan)  # type: ignore[attr-defined]
    with pytest.raises(EngineError, match="card must have memory"):
        load_engine(small_artifact, **how)
    assert path.is_file()
    monkeypatch.setattr(fake.Runtime, "deserialize_cuda_engine", lambda self, _: None)  # type: ignore[attr-defined]
    with pytest.raises(EngineError, match="it has been removed, try again"):
        load_engine(small_artifact, **how)
    assert not path.exists()


def test_the_build_runs_beside_another_engine_and_takes_over(fake: FakeTensorRt, small_artifact: Artifact) -> None:
    fake.go.clear()
    lines: list[str] = []
    engine = load_engine(small_artifact, device="tensorrt", on_choice=lines.append)
    assert isinstance(engine, TakeoverEngine)
    assert lines[0].startswith("until TensorRT's engine is built, ")
    first = engine(FRAMES)
    assert engine.info.name != "tensorrt"
    fake.go.set()
    engine._thread.join()
    assert np.array_equal(engine(FRAMES), first), "the frame of the change is still the first engine's"
    assert compare([(first, engine(FRAMES))], precision="fp16", engine="").psnr_db > 38
    assert engine.info.name == "tensorrt"
    assert lines[1].startswith("now tensorrt on CUDA:0 in fp16 (")
    engine.close()


def test_closing_stops_a_build_and_leaves_no_file(fake: FakeTensorRt, small_artifact: Artifact) -> None:
    fake.go.clear()
    engine = load_engine(small_artifact, device="tensorrt")
    engine(FRAMES)
    engine.close()
    assert list(Path(engine_tensorrt.cache_folder("tensorrt")).iterdir()) == []


def test_progress_is_told(fake: FakeTensorRt, small_artifact: Artifact, tmp_path: Path) -> None:
    lines: list[str] = []
    target = tmp_path / "a.engine"
    export_tensorrt(small_artifact, target, "fp32", ShapeRange(), HERE, on_progress=lines.append, overwrite=False)
    assert lines == [f"TensorRT: tactics, {step} of 5" for step in range(1, 6)]
    with pytest.raises(ArtifactError, match="--overwrite"):
        export_tensorrt(small_artifact, target, "fp32", ShapeRange(), HERE, on_progress=lines.append, overwrite=False)
    nowhere = tmp_path / "none" / "a.engine"
    with pytest.raises(ArtifactError, match="folder that exists"):
        export_tensorrt(small_artifact, nowhere, "fp32", ShapeRange(), HERE, on_progress=lines.append, overwrite=False)


def test_a_graph_that_tensorrt_cannot_read(
    fake: FakeTensorRt, small_artifact: Artifact, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(to_tensorrt, "casts_at_the_border", lambda graph: graph + b"Nonsense")
    with pytest.raises(ArtifactError, match="able to read the graph: no importer for Nonsense"):
        export_tensorrt(
            small_artifact, tmp_path / "a.engine", "fp32", ShapeRange(), HERE, on_progress=print, overwrite=False
        )
    assert list(tmp_path.iterdir()) == []


def test_an_engine_file_is_loaded_by_its_path(fake: FakeTensorRt, built: Path, small_artifact: Artifact) -> None:
    found = load_artifact(built)
    assert (found.is_built, found.metadata) == (True, small_artifact.metadata)
    lines: list[str] = []
    for device in ("auto", "tensorrt"):
        engine = load_engine(built, device=device, on_choice=lines.append)
        assert (engine.info.name, engine.stride) == ("tensorrt", small_artifact.metadata.stride)
        assert engine(FRAMES).shape == FRAMES.shape
        engine.close()
    assert all("tensorrt on CUDA:0 in fp16" in line for line in lines)
    assert fake.builds == 1, "nothing is built again"
    with pytest.raises(EngineError, match=r"must run on device tensorrt, got cpu: give its \.onnx file"):
        load_engine(built, device="cpu")
    with pytest.raises(EngineError, match="precision must be fp16"):
        load_engine(built, precision="fp32")
    with pytest.raises(ArtifactError, match=r"must be a \.onnx file for this"):
        parse_model(found)
    onnx_runtime = next(one for one in BACKENDS if (one.library, one.device) == ("onnxruntime", "cpu"))
    with pytest.raises(EngineError, match="must run in TensorRT"):
        onnx_runtime.open(found, EngineOptions())


def test_an_engine_of_another_machine_is_refused_before_tensorrt_sees_it(
    fake: FakeTensorRt, built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake, "Runtime", None)
    monkeypatch.setattr(engine_tensorrt, "machine", lambda index=0: replace(HERE, card="Other"))
    with pytest.raises(
        EngineError, match=r"must have been built here \(Other, .* but is for NVIDIA Test 9000, TensorRT"
    ):
        load_engine(built)


def test_an_engine_without_tensorrt_names_what_is_missing(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(EngineError, match=r"pip install 'impasto\[tensorrt\]'"):
        load_engine(built)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: b"ftrt" + data,
        lambda data: data[: len(ENGINE_MAGIC)],
        lambda data: data[:-1],
        lambda data: data[:200],
        lambda data: data.replace(b'"card"', b'"cart"'),
        lambda data: data.replace(b'"smallest": [64, 64]', b'"smallest": [64, 9999999]'),
        lambda data: data.replace(b'"stride": 2', b'"stride": -2'),
        lambda data: data.replace(b'"shapes": {', b'"shapes": {"x": [[[['),
        lambda data: ENGINE_MAGIC + b"[]\n" + data,
    ],
)
def test_a_bad_engine_file_is_one_line(built: Path, damage: Callable[[bytes], bytes]) -> None:
    built.write_bytes(damage(built.read_bytes()))
    with pytest.raises(ArtifactError) as caught:
        load_artifact(built)
    assert "\n" not in str(caught.value)
    assert str(built) in str(caught.value)


def test_every_bit_of_an_engine_counts(built: Path) -> None:
    """A flip in the header may be another valid header; one in what TensorRT gets never passes."""
    data = built.read_bytes()
    plan = read_engine(data, "x").plan
    rng = np.random.default_rng(0)
    for place in rng.integers(len(data) - len(plan), len(data), 50):
        damaged = bytearray(data)
        damaged[place] ^= 1 << int(rng.integers(8))
        with pytest.raises(ArtifactError, match="does not match its sum"):
            read_engine(bytes(damaged), "x")


def test_an_engine_survives_its_file(small_artifact: Artifact) -> None:
    engine = EngineFile(HERE, "fp32", ShapeRange(max_batch=3), small_artifact.metadata, b"plan\nwith\nlines")
    assert read_engine(engine.serialize(), "x") == engine


def test_the_drivers_version(monkeypatch: pytest.MonkeyPatch) -> None:
    class Management:
        def nvmlInit_v2(self) -> int:
            return 0

        def nvmlShutdown(self) -> int:
            return 0

        def nvmlSystemGetDriverVersion(self, text: Any, size: int) -> int:
            text.value = b"550.54.15"
            return 0

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Management())
    assert nvidia.driver_version() == "550.54.15"

    def missing(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert nvidia.driver_version() is None
