"""One contract for every engine that is installed here; the others skip and say why."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from impasto.assets import find_style
from impasto.export import parity as parity_module
from impasto.export.artifact import Artifact, load_artifact, parse_model
from impasto.export.parity import PSNR_FLOOR_DB, Candidate, Painter, check_sizes, compare
from impasto.realtime import engine_choice
from impasto.realtime.engine import (
    BACKENDS,
    Backend,
    Batch,
    Done,
    Engine,
    EngineInfo,
    EngineOptions,
    PendingPicture,
    Precision,
    parse_device,
)
from impasto.realtime.engine_choice import load_engine
from impasto.realtime.engine_proof import proof_candidates
from impasto.realtime.errors import ArtifactError, EngineError
from impasto.realtime.frame import Frame
from impasto.realtime.stylizer import Stylizer


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


def noise(*shape: int, seed: int = 0) -> Batch:
    """Blurred random pictures (N, H, W, 3): smooth as photographs are, and different everywhere."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (shape[0], 9, 9, 3)).astype(np.float32)
    rows, columns = (np.linspace(0, 7.999, size) for size in shape[1:3])
    r, c = rows.astype(int), columns.astype(int)
    fr, fc = (rows - r)[None, :, None, None], (columns - c)[None, None, :, None]
    top = coarse[:, r][:, :, c] * (1 - fc) + coarse[:, r][:, :, c + 1] * fc
    below = coarse[:, r + 1][:, :, c] * (1 - fc) + coarse[:, r + 1][:, :, c + 1] * fc
    return np.rint(top * (1 - fr) + below * fr).astype(np.uint8)


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
    psutil = pytest.importorskip("psutil", reason="resident memory is asked of psutil")
    engine = opened(backend, precision)
    frames = [noise(1, 128, 160, 3), noise(1, 96, 160, 3)]
    process = psutil.Process()
    for index in range(60):
        engine(frames[index // 20 % 2])
    before = process.memory_info().rss
    for index in range(500):
        engine(frames[index // 50 % 2])
    assert process.memory_info().rss - before < 15e6


@every_engine
def test_memory_stays_with_a_style_that_ships(backend: Backend, precision: Precision) -> None:
    """500 inferences of a real network, at two sizes in turn, which compile graphs of their own: as above."""
    psutil = pytest.importorskip("psutil", reason="resident memory is asked of psutil")
    artifact = load_artifact(find_style("mosaic", "fast"))
    engine = backend.open(artifact, EngineOptions(precision=precision))
    frames = [noise(1, 64, 96, 3), noise(1, 96, 64, 3)]
    process = psutil.Process()
    for index in range(200):
        engine(frames[index // 20 % 2])
    before = process.memory_info().rss
    for index in range(500):
        engine(frames[index // 50 % 2])
    assert process.memory_info().rss - before < 15e6
    engine.close()


@every_engine
def test_two_stylizers_in_one_process(backend: Backend, precision: Precision) -> None:
    """Two styles that ship, each in its own thread with its own smoothing: neither sees the other."""
    frames = [Frame(picture, Fraction(index, 25)) for index, picture in enumerate(noise(4, 72, 96, 3))]
    engines = [
        backend.open(load_artifact(find_style(name, "fast")), EngineOptions(precision=precision))
        for name in ("mosaic", "udnie")
    ]
    for engine in engines:
        engine.warmup(88, 112)

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


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("auto", ("auto", 0)), ("cpu", ("cpu", 0)), ("cuda:1", ("cuda", 1)), ("torch:12", ("torch", 12))],
)
def test_device_names(text: str, wanted: tuple[str, int]) -> None:
    assert parse_device(text) == wanted


@pytest.mark.parametrize("text", ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "CPU", "cuda:1:2"])
def test_bad_device_names(text: str) -> None:
    with pytest.raises(ValueError, match="device must be one of auto, cpu, cuda"):
        parse_device(text)


def test_load_engine_says_what_it_chose(small_artifact: Artifact) -> None:
    lines: list[str] = []
    engine = load_engine(small_artifact.path, on_choice=lines.append)
    assert len(lines) == 1
    assert str(engine.info) in lines[0]
    engine.close()


def test_load_engine_checks_the_file_and_the_words(tmp_path: object, small_artifact: Artifact) -> None:
    with pytest.raises(ArtifactError, match="there is none"):
        load_engine(f"{tmp_path}/none.onnx")
    with pytest.raises(ValueError, match="precision must be one of"):
        load_engine(small_artifact, precision="fp8")


def test_check_paints_every_size_and_batch_with_every_engine(
    small_artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidates = proof_candidates()
    if not candidates:
        pytest.skip("no engine is installed")
    monkeypatch.setattr(parity_module, "CHECKED_SIZES", ((64, 64), (65, 67), (68, 132)))
    seen: list[tuple[int, ...]] = []

    class Watched:
        def __init__(self, paint: Painter) -> None:
            self.paint = paint

        def __call__(self, picture: np.ndarray) -> np.ndarray:
            return self.paint(picture)

        def batch(self, pictures: Batch) -> Batch:
            seen.append(pictures.shape)
            return self.paint.batch(pictures)

    def watched(candidate: Candidate) -> Candidate:
        @contextmanager
        def opened(artifact: Artifact, in_flight: int = 1) -> Iterator[Painter]:
            with candidate.open(artifact, in_flight) as paint:
                yield Watched(paint)

        return Candidate(candidate.name, candidate.precision, opened)

    found = list(check_sizes(small_artifact, [watched(one) for one in candidates], noise(1, 90, 70, 3)[0]))
    assert [parity.engine for parity in found] == [one.name for one in candidates]
    assert {shape[0] for shape in seen} == {1, 2, 5}
    assert all(parity.pictures == 3 for parity in found)


def test_check_finds_an_engine_that_mixes_a_batch(small_artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    candidates = [one for one in proof_candidates() if one.precision == "fp32"]
    if not candidates:
        pytest.skip("no engine is installed")
    monkeypatch.setattr(parity_module, "CHECKED_SIZES", ((64, 64), (65, 67), (68, 132)))

    class Mixing:
        def __init__(self, paint: Painter) -> None:
            self.paint = paint

        def __call__(self, picture: np.ndarray) -> np.ndarray:
            return self.paint(picture)

        def batch(self, pictures: Batch) -> Batch:
            return np.roll(self.paint.batch(pictures), 1, axis=0)

    @contextmanager
    def mixing(artifact: Artifact, in_flight: int = 1) -> Iterator[Painter]:
        with candidates[0].open(artifact, in_flight) as paint:
            yield Mixing(paint)

    with pytest.raises(ArtifactError, match="batches of 1, 2, 5 in fp32 must be within 50 dB"):
        list(check_sizes(small_artifact, [candidates[0], Candidate("bad", "fp32", mixing)], noise(1, 90, 70, 3)[0]))


class FakeEngine:
    """Answers with its input."""

    stride = 1

    def __init__(self, name: str, precision: Precision = "fp32") -> None:
        self.info = EngineInfo(name, "fake", precision)
        self.closed = False

    def __call__(self, frames: Batch) -> Batch:
        return frames.copy()

    def warmup(self, height: int, width: int) -> None: ...

    def close(self) -> None:
        self.closed = True


class FakeBackend:
    def __init__(self, library: str, device: str, hardware: str, outcome: FakeEngine | EngineError) -> None:
        self.library, self.device, self.hardware, self.outcome = library, device, hardware, outcome
        self.asked = 0

    def open(self, artifact: Artifact, options: EngineOptions) -> FakeEngine:
        self.asked += 1
        if isinstance(self.outcome, EngineError):
            raise self.outcome
        return self.outcome


@pytest.fixture
def choose(monkeypatch: pytest.MonkeyPatch, small_artifact: Artifact) -> Callable[..., tuple[Engine, list[str]]]:
    """Choose among fake back ends whose engines take the milliseconds of their names."""
    monkeypatch.setattr(engine_choice, "one_inference_ms", lambda engine, **_: float(engine.info.name))

    def run(backends: list[FakeBackend], **options: object) -> tuple[Engine, list[str]]:
        monkeypatch.setattr(engine_choice, "BACKENDS", backends)
        lines: list[str] = []
        return load_engine(small_artifact, on_choice=lines.append, **options), lines

    return run


def test_auto_keeps_the_fastest_and_closes_the_others(choose: Callable[..., tuple[Engine, list[str]]]) -> None:
    slow, fast, last = FakeEngine("30"), FakeEngine("10"), FakeEngine("20")
    backends = [FakeBackend("onnxruntime", "cpu", "cpu", engine) for engine in (slow, fast, last)]
    engine, lines = choose(backends)
    assert engine is fast
    assert (slow.closed, fast.closed, last.closed) == (True, False, True)
    assert lines == ["10 on fake in fp32: 10.0 ms for 640x360 (20 on fake in fp32 20.0 ms, 30 on fake in fp32 30.0 ms)"]


def test_a_favourite_that_was_held_up_once_is_kept(
    choose: Callable[..., tuple[Engine, list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    favourite, later = FakeEngine("10", "bf16"), FakeEngine("9", "int8")
    held_up = iter([40.0, 10.0])
    monkeypatch.setattr(
        engine_choice, "one_inference_ms", lambda engine, **_: next(held_up) if engine is favourite else 9.0
    )
    engine, _ = choose([FakeBackend("openvino", "cpu", "cpu", engine) for engine in (favourite, later)])
    assert engine is favourite


@pytest.mark.parametrize(("later_ms", "chosen"), [("9", "9"), ("11", "15")])
def test_a_library_that_is_placed_later_must_win_clearly(
    choose: Callable[..., tuple[Engine, list[str]]], later_ms: str, chosen: str
) -> None:
    backends = [
        FakeBackend("openvino", "cpu", "cpu", FakeEngine("15")),
        FakeBackend("onnxruntime", "cpu", "cpu", FakeEngine(later_ms)),
    ]
    assert choose(backends)[0].info.name == chosen


def test_a_library_that_was_beaten_by_far_is_asked_once(choose: Callable[..., tuple[Engine, list[str]]]) -> None:
    beaten, its_int8 = FakeEngine("100"), FakeEngine("1")  # which would win
    backends = [FakeBackend("onnxruntime", "cpu", "cpu", engine) for engine in (beaten, its_int8)]
    engine, lines = choose([FakeBackend("openvino", "cpu", "cpu", FakeEngine("15")), *backends])
    assert engine.info.name == "15"
    assert beaten.closed
    assert its_int8.closed
    assert lines == ["15 on fake in fp32: 15.0 ms for 640x360 (100 on fake in fp32 100.0 ms)"]


def test_an_engine_that_fails_to_paint_is_closed_and_the_next_is_chosen(
    choose: Callable[..., tuple[Engine, list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    failing, working = FakeEngine("5"), FakeEngine("9")

    def taken_ms(engine: FakeEngine, **_: object) -> float:
        if engine is failing:
            raise EngineError("out of memory")
        return 9.0

    monkeypatch.setattr(engine_choice, "one_inference_ms", taken_ms)
    backends = [FakeBackend("onnxruntime", "cuda", "gpu", failing), FakeBackend("openvino", "cpu", "cpu", working)]
    engine, _ = choose(backends)
    assert engine is working
    assert failing.closed


def test_frames_in_flight_count_in_the_race() -> None:
    submitted: list[int] = []

    class Counting(FakeEngine):
        in_flight = 4

        def submit(self, frames: Batch) -> PendingPicture:
            submitted.append(len(frames))
            time.sleep(0.01)
            return PendingPicture(Done({"stylized": frames}))

    assert 10 <= engine_choice.one_inference_ms(Counting("any")) < 40  # a frame, not a round
    assert len(submitted) == 4 * engine_choice.RACE_ROUNDS
    submitted.clear()
    assert engine_choice.one_inference_ms(Counting("any"), hopeless=5.0) >= 10
    assert len(submitted) == 4


@pytest.mark.parametrize(("int8_ms", "chosen"), [("9", "int8"), ("11", "bf16")])
def test_int8_is_chosen_unasked_only_where_it_gains_much(
    choose: Callable[..., tuple[Engine, list[str]]], int8_ms: str, chosen: str
) -> None:
    engines = [FakeEngine("15", "bf16"), FakeEngine(int8_ms, "int8")]
    engine, _ = choose([FakeBackend("openvino", "cpu", "cpu", engine) for engine in engines])
    assert engine.info.precision == chosen


def test_auto_does_not_try_processors_when_a_graphics_card_works(
    choose: Callable[..., tuple[Engine, list[str]]],
) -> None:
    gpu = FakeBackend("onnxruntime", "cuda", "gpu", FakeEngine("5"))
    cpu = FakeBackend("openvino", "cpu", "cpu", FakeEngine("1"))
    engine, _ = choose([gpu, cpu])
    assert engine is gpu.outcome
    assert cpu.asked == 0


def test_auto_falls_to_processors_and_a_named_device_does_not(
    choose: Callable[..., tuple[Engine, list[str]]],
) -> None:
    missing = EngineError("CUDA must be there, got nothing: install it")
    backends = [
        FakeBackend("onnxruntime", "cuda", "gpu", missing),
        FakeBackend("openvino", "cpu", "cpu", FakeEngine("1")),
    ]
    assert choose(backends)[0] is backends[1].outcome
    with pytest.raises(EngineError, match="CUDA must be there"):
        choose(backends, device="cuda")


def test_no_engine_at_all_names_every_reason(choose: Callable[..., tuple[Engine, list[str]]]) -> None:
    backends = [
        FakeBackend("openvino", "cpu", "cpu", EngineError("pip install a")),
        FakeBackend("onnxruntime", "cpu", "cpu", EngineError("pip install b")),
    ]
    with pytest.raises(EngineError, match=r"pip install a.*pip install b"):
        choose(backends)
