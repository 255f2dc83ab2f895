"""Which engine is taken: what was named, else the fastest that works."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from impasto.export.artifact import Artifact
from impasto.realtime import engine_choice
from impasto.realtime.engine import (
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
from impasto.realtime.errors import ArtifactError, EngineError
from impasto.realtime.options import VideoOptions
from impasto.realtime.video_engines import Engines


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


def test_an_engine_that_fails_at_its_second_go_is_out(
    choose: Callable[..., tuple[Engine, list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    favourite, later = FakeEngine("10"), FakeEngine("9", "int8")
    goes = iter([40.0])

    def taken_ms(engine: FakeEngine, **_: object) -> float:
        if engine is later:
            return 9.0
        for taken in goes:
            return taken
        raise EngineError("out of memory")

    monkeypatch.setattr(engine_choice, "one_inference_ms", taken_ms)
    engine, _ = choose([FakeBackend("openvino", "cpu", "cpu", engine) for engine in (favourite, later)])
    assert engine is later
    assert (favourite.closed, later.closed) == (True, False)


def test_no_engine_is_left_open_by_an_error_of_another_kind(
    choose: Callable[..., tuple[Engine, list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    engines = [FakeEngine("10"), FakeEngine("9")]

    def fails(engine: FakeEngine, **_: object) -> float:
        raise MemoryError

    monkeypatch.setattr(engine_choice, "one_inference_ms", fails)
    with pytest.raises(MemoryError):
        choose([FakeBackend("openvino", "cpu", "cpu", engine) for engine in engines])
    assert [engine.closed for engine in engines] == [True, True]


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
    assert lines == ["15 on fake in fp32: 15.0 ms for 640x360 (100 on fake in fp32 375.0 ms)"]


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


def test_frames_in_flight_count_in_the_race(monkeypatch: pytest.MonkeyPatch) -> None:
    submitted: list[int] = []
    clock = SimpleNamespace(now=0.0, perf_counter=lambda: clock.now)
    monkeypatch.setattr(engine_choice, "time", clock)

    class Counting(FakeEngine):
        in_flight = 4

        def submit(self, frames: Batch) -> PendingPicture:
            submitted.append(len(frames))
            clock.now += 0.01
            return PendingPicture(Done({"stylized": frames}))

    assert engine_choice.one_inference_ms(Counting("any")) == pytest.approx(10)  # a frame, not a round
    assert len(submitted) == 4 * engine_choice.RACE_ROUNDS


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


def test_a_resumed_film_paints_styles_without_int8_as_before(identity_artifact: Artifact) -> None:
    options = VideoOptions(style=str(identity_artifact.path))
    with Engines(options) as engines:
        # What a shipped style of the same film took.
        engines.pin({"name": "onnxruntime", "device": "CPU", "precision": "int8"})
        assert (engines.info.name, engines.info.precision) == ("onnxruntime", "fp32")
