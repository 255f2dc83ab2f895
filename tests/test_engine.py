"""One contract for every engine that is installed here; the others skip and say why."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from fractions import Fraction

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from impasto.assets import find_style
from impasto.export.artifact import Artifact, load_artifact, parse_model
from impasto.export.parity import PSNR_FLOOR_DB, compare
from impasto.realtime import engine_onnxruntime
from impasto.realtime.engine import BACKENDS, Backend, Batch, Engine, EngineOptions, Precision
from impasto.realtime.engine_choice import load_engine, run_once
from impasto.realtime.errors import EngineError
from impasto.realtime.frame import Frame
from impasto.realtime.stylizer import Stylizer

from .conftest import noise


def installed() -> Iterator[pytest.param]:
    for backend in BACKENDS:
        label = f"{backend.library}-{backend.device}"
        try:
            precisions = backend.precisions()
        except EngineError as exc:
            yield pytest.param(backend, "fp32", id=label, marks=pytest.mark.skip(reason=str(exc)))
            continue
        for precision in precisions:
            yield pytest.param(backend, precision, id=f"{label}-{precision}")


every_engine = pytest.mark.parametrize(("backend", "precision"), list(installed()))


@pytest.fixture
def opened(small_artifact: Artifact) -> Iterator[Callable[..., Engine]]:
    engines: list[Engine] = []

    def open_engine(backend: Backend, precision: Precision, artifact: Artifact = small_artifact) -> Engine:
        engines.append(backend.open(artifact, EngineOptions(precision=precision)))
        return engines[-1]

    yield open_engine
    for engine in engines:
        engine.close()


@every_engine
@pytest.mark.parametrize("shape", [(1, 64, 64, 3), (2, 66, 90, 3), (5, 34, 130, 3)], ids=str)
def test_same_picture_as_the_reference(
    opened: Callable[..., Engine],
    small_artifact: Artifact,
    backend: Backend,
    precision: Precision,
    shape: tuple[int, ...],
) -> None:
    frames = noise(*shape)
    (wanted,) = ReferenceEvaluator(parse_model(small_artifact)).run(None, {"frame": frames})
    painted = opened(backend, precision)(frames)
    assert painted.shape == frames.shape
    assert painted.dtype == np.uint8
    parity = compare([(wanted, painted)], precision=precision, engine=backend.library)
    assert parity.psnr_db >= PSNR_FLOOR_DB[precision], parity


@every_engine
def test_identity_keeps_every_value(
    opened: Callable[..., Engine], identity_artifact: Artifact, backend: Backend, precision: Precision
) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, 17, 31, 3), dtype=np.uint8)
    assert np.array_equal(opened(backend, precision, identity_artifact)(frames), frames)


@every_engine
def test_sizes_may_change_between_calls(opened: Callable[..., Engine], backend: Backend, precision: Precision) -> None:
    engine = opened(backend, precision)
    first = engine(noise(1, 64, 96, 3))
    for height, width in ((32, 32), (128, 64), (66, 34)):
        engine.warmup(height, width)
        assert engine(noise(1, height, width, 3)).shape == (1, height, width, 3)
    assert np.array_equal(engine(noise(1, 64, 96, 3)), first)


@every_engine
def test_results_are_new_and_stay(opened: Callable[..., Engine], backend: Backend, precision: Precision) -> None:
    engine = opened(backend, precision)
    frames = noise(1, 64, 64, 3)
    before = frames.copy()
    first = engine(frames)
    kept = first.copy()
    second = engine(noise(1, 64, 64, 3, seed=1))
    assert np.array_equal(frames, before), "the input must stay as it is"
    assert np.array_equal(first, kept), "a result must not change with the next call"
    assert not np.array_equal(second, kept)
    assert first.flags.writeable
    assert not np.shares_memory(first, second)


@every_engine
def test_a_size_that_keeps_coming_gives_the_same_picture(
    opened: Callable[..., Engine], backend: Backend, precision: Precision
) -> None:
    """Engines may compile anew for it."""
    engine = opened(backend, precision)
    frames = noise(1, 48, 80, 3)
    pictures = [engine(frames) for _ in range(6)]
    engine(noise(1, 64, 64, 3))
    pictures.append(engine(frames))
    for picture in pictures[1:]:
        assert compare([(pictures[0], picture)], precision=precision, engine="").psnr_db > PSNR_FLOOR_DB[precision]


def test_openvino_goes_on_after_an_input_that_it_refuses(small_artifact: Artifact) -> None:
    pytest.importorskip("openvino")
    backend = next(backend for backend in BACKENDS if str(backend) == "openvino on cpu")
    runner = backend.open_runner(small_artifact, small_artifact.read(), EngineOptions(precision="fp32"))
    frames = np.ascontiguousarray(noise(1, 48, 80, 3))
    wanted = runner.start({"frame": frames}).result()["stylized"]
    for _ in range(3):
        with pytest.raises(EngineError, match=r"OpenVINO failed on \{'frame': \(1, 48, 80, 3\)\}"):
            runner.start({"frame": frames.astype(np.float32)})
    assert np.array_equal(runner.start({"frame": frames}).result()["stylized"], wanted)
    runner.close()


def test_closing_waits_for_what_nobody_collects() -> None:
    """As when a disk is full: frames under way are left alone, and must not write into memory that was freed."""
    script = (
        "import gc, numpy as np\n"
        "from impasto.assets import find_style\n"
        "from impasto.realtime.engine_choice import load_engine\n"
        "for _ in range(3):\n"
        "    engine = load_engine(find_style('mosaic', 'fast'), device='cpu', in_flight=2)\n"
        "    left = [engine.submit(np.zeros((1, 720, 1280, 3), np.uint8)) for _ in range(6)]\n"
        "    engine.close()\n"
        "    del left, engine\n"
        "    gc.collect()\n"
        "    [np.empty((720, 1280, 3), np.uint8).fill(1) for _ in range(20)]\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


@every_engine
@pytest.mark.parametrize("in_flight", [1, 3])
def test_several_frames_in_flight(
    small_artifact: Artifact, backend: Backend, precision: Precision, in_flight: int
) -> None:
    engine = backend.open(small_artifact, EngineOptions(precision=precision, in_flight=in_flight))
    frames = [noise(1, 64, 64 + 2 * index, 3, seed=index) for index in range(8)]
    wanted = [engine(frame) for frame in frames]
    pending = [engine.submit(frame) for frame in frames]  # more than may be in flight: the oldest are waited for
    for index in (5, 0, 7, 1, 2, 3, 4, 6):
        painted = pending[index].result()
        assert compare([(wanted[index], painted)], precision=precision, engine="").psnr_db > PSNR_FLOOR_DB[precision]
        assert np.array_equal(pending[index].result(), painted)
    assert engine.in_flight == in_flight
    engine.close()


@every_engine
def test_no_call_after_close(opened: Callable[..., Engine], backend: Backend, precision: Precision) -> None:
    engine = opened(backend, precision)
    engine.close()
    with pytest.raises(EngineError, match="after it was closed"):
        engine(noise(1, 64, 64, 3))


@every_engine
def test_frames_of_a_batch_do_not_mix(opened: Callable[..., Engine], backend: Backend, precision: Precision) -> None:
    engine = opened(backend, precision)
    frames = noise(2, 64, 64, 3)
    both = engine(frames)
    for index in range(2):
        alone = engine(frames[index : index + 1])
        assert compare([(alone[0], both[index])], precision=precision, engine="").psnr_db > PSNR_FLOOR_DB[precision]


@every_engine
def test_any_memory_layout(opened: Callable[..., Engine], backend: Backend, precision: Precision) -> None:
    engine = opened(backend, precision)
    frames = noise(1, 64, 64, 3)
    flipped = frames[:, :, ::-1]
    assert np.array_equal(engine(flipped), engine(np.ascontiguousarray(flipped)))
    frames.flags.writeable = False
    engine(frames)


@every_engine
@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((64, 64, 3), np.uint8),
        np.zeros((1, 64, 64, 4), np.uint8),
        np.zeros((1, 64, 64, 3), np.float32),
        np.zeros((1, 65, 64, 3), np.uint8),
        np.zeros((0, 64, 64, 3), np.uint8),
        np.zeros((1, 0, 64, 3), np.uint8),
    ],
    ids=lambda frames: f"{frames.shape}-{frames.dtype}",
)
def test_wrong_frames(
    opened: Callable[..., Engine], backend: Backend, precision: Precision, frames: np.ndarray
) -> None:
    with pytest.raises(ValueError, match="must be"):
        opened(backend, precision)(frames)


@every_engine
def test_close_twice(opened: Callable[..., Engine], backend: Backend, precision: Precision) -> None:
    engine = opened(backend, precision)
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="after it was closed"):
        engine.submit(noise(1, 64, 64, 3)).result()


@every_engine
def test_info_says_what_runs(opened: Callable[..., Engine], backend: Backend, precision: Precision) -> None:
    engine = opened(backend, precision)
    assert engine.info.name == backend.library
    assert engine.info.precision == precision
    assert engine.stride == 2
    assert backend.version()[0].isdigit()


@every_engine
def test_two_engines_in_two_threads(opened: Callable[..., Engine], backend: Backend, precision: Precision) -> None:
    engines = [opened(backend, precision) for _ in range(2)]
    frames = [noise(1, 64, 64, 3, seed=seed) for seed in range(2)]
    wanted = [engine(frame) for engine, frame in zip(engines, frames, strict=True)]
    faults: list[object] = []

    def work(index: int) -> None:
        try:
            for _ in range(30):
                if not np.array_equal(engines[index](frames[index]), wanted[index]):
                    faults.append(f"engine {index} painted something else")
        except Exception as exc:
            faults.append(exc)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults


@every_engine
def test_smallest_and_largest_sizes(opened: Callable[..., Engine], backend: Backend, precision: Precision) -> None:
    engine = opened(backend, precision)
    for height, width in ((64, 64), (2160, 3840)):
        frame = noise(1, height, width, 3)
        assert engine(frame).shape == frame.shape


@every_engine
@pytest.mark.parametrize("size", [(65, 67), (1, 1), (3, 200)], ids=str)
def test_odd_sizes_through_the_stylizer(
    opened: Callable[..., Engine], backend: Backend, precision: Precision, size: tuple[int, int]
) -> None:
    stylizer = Stylizer(opened(backend, precision))
    frame = Frame(noise(1, *size, 3)[0], Fraction(0))
    assert stylizer(frame).data.shape == (*size, 3)


@every_engine
def test_memory_stays(opened: Callable[..., Engine], backend: Backend, precision: Precision) -> None:
    """500 inferences at two sizes in turn: a leak of one 60 KB frame each would be 30 MB."""
    engine = opened(backend, precision)
    assert grown(engine, [noise(1, 128, 160, 3), noise(1, 96, 160, 3)], warm_up=60) < 15e6


@every_engine
def test_memory_stays_with_a_style_that_ships(
    opened: Callable[..., Engine], backend: Backend, precision: Precision
) -> None:
    """500 inferences of a real network, at two sizes in turn, which compile graphs of their own: as above."""
    engine = opened(backend, precision, load_artifact(find_style("mosaic", "fast")))
    assert grown(engine, [noise(1, 64, 96, 3), noise(1, 96, 64, 3)], warm_up=200) < 15e6


def grown(engine: Engine, frames: list[Batch], *, warm_up: int) -> int:
    """Bytes of resident memory that 500 inferences of two sizes in turn have added, after so many others."""
    psutil = pytest.importorskip("psutil", reason="resident memory is asked of psutil")
    process = psutil.Process()
    for index in range(warm_up):
        engine(frames[index // 20 % 2])
    before = process.memory_info().rss
    for index in range(500):
        engine(frames[index // 50 % 2])
    return process.memory_info().rss - before


@every_engine
def test_two_stylizers_in_one_process(backend: Backend, precision: Precision) -> None:
    """Two styles that ship, each in its own thread with its own smoothing: neither sees the other."""
    frames = [Frame(picture, Fraction(index, 25)) for index, picture in enumerate(noise(4, 72, 96, 3))]
    engines = [
        backend.open(load_artifact(find_style(name, "fast")), EngineOptions(precision=precision))
        for name in ("mosaic", "udnie")
    ]
    for engine in engines:
        engine.warmup(72, 96)

    def film(engine: Engine) -> list[np.ndarray]:
        stylizer = Stylizer(engine, smooth=0.5)
        return [stylizer(frame).data for frame in frames]

    alone = [film(engine) for engine in engines]
    together: list[list[np.ndarray]] = [[], []]
    threads = [
        threading.Thread(target=lambda index=index: together[index].extend(film(engines[index]))) for index in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for wanted, painted in zip(alone, together, strict=True):
        assert np.array_equal(wanted, painted)
    assert not np.array_equal(alone[0], alone[1])
    for engine in engines:
        engine.close()


@every_engine
def test_a_graph_that_cannot_run(
    make_artifact: Callable[..., Artifact], small_model: onnx.ModelProto, backend: Backend, precision: Precision
) -> None:
    """Channels that do not fit are beyond ONNX's checker: the engine must say so in one line."""
    model = onnx.ModelProto()
    model.CopyFrom(small_model)
    body = next(tensor for tensor in model.graph.initializer if tensor.name == "body")
    body.CopyFrom(numpy_helper.from_array(np.zeros((8, 9, 3, 3), np.float32), "body"))
    with pytest.raises(EngineError) as caught:
        backend.open(make_artifact(model), EngineOptions(precision=precision))(noise(1, 64, 64, 3))
    assert "\n" not in str(caught.value)


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
