"""A better engine takes over between two frames, or not at all."""

import threading
from collections.abc import Callable

import numpy as np
import pytest

from impasto.export.artifact import Artifact
from impasto.realtime import engine as engine_module
from impasto.realtime import engine_tensorrt
from impasto.realtime.engine import Batch, EngineInfo, EngineOptions
from impasto.realtime.engine_choice import load_engine
from impasto.realtime.engine_takeover import TakeoverEngine
from impasto.realtime.errors import EngineError

FRAMES = np.random.default_rng(0).integers(0, 200, (1, 8, 8, 3), dtype=np.uint8)


class Brush:
    """Adds a constant to every value."""

    stride = 4

    def __init__(self, name: str, added: int) -> None:
        self.info = EngineInfo(name, "fake", "fp16")
        self.added = added
        self.closed = 0

    def __call__(self, frames: Batch) -> Batch:
        return frames + np.uint8(self.added)

    def warmup(self, height: int, width: int) -> None: ...

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def lines() -> list[str]:
    return []


def opened(first: Brush, better: Callable[[], Brush], lines: list[str]) -> tuple[TakeoverEngine, threading.Event]:
    """The engine, and what lets its build go on."""
    go = threading.Event()

    def build(cancelled: Callable[[], bool]) -> Brush:
        while not go.wait(0.005):
            if cancelled():
                raise EngineError("cancelled")
        return better()

    return TakeoverEngine(first, build, on_change=lines.append), go


def wait_until_built(engine: TakeoverEngine) -> None:
    engine._thread.join()


def test_the_better_engine_takes_over_between_two_frames(lines: list[str]) -> None:
    first, better = Brush("first", 0), Brush("better", 1)
    engine, go = opened(first, lambda: better, lines)
    assert np.array_equal(engine(FRAMES), FRAMES)
    assert engine.info.name == "first"
    assert engine.stride == 4
    go.set()
    wait_until_built(engine)
    assert np.array_equal(engine(FRAMES), FRAMES), "the frame of the change is still the first engine's"
    assert np.array_equal(engine(FRAMES), FRAMES + 1)
    assert engine.info.name == "better"
    assert first.closed == 1
    assert lines == ["now better on fake in fp16 (48.1 dB to first on fake in fp16)"]
    engine.close()
    assert better.closed == 1


def test_another_picture_is_refused(lines: list[str]) -> None:
    first, better = Brush("first", 0), Brush("better", 40)
    engine, go = opened(first, lambda: better, lines)
    go.set()
    wait_until_built(engine)
    for _ in range(3):
        assert np.array_equal(engine(FRAMES), FRAMES)
    assert "staying with first on fake in fp16: better on fake in fp16 differs (16.1 dB)" in lines[0]
    assert better.closed == 1
    engine.close()
    assert first.closed == 1


@pytest.mark.parametrize("error", [EngineError("no room"), RuntimeError("boom")])
def test_a_build_that_fails_is_told_once(lines: list[str], error: Exception) -> None:
    def fail() -> Brush:
        raise error

    engine, go = opened(Brush("first", 0), fail, lines)
    go.set()
    wait_until_built(engine)
    engine(FRAMES)
    engine(FRAMES)
    assert len(lines) == 1
    assert str(error) in lines[0]
    engine.close()


def test_closing_stops_the_build_and_leaves_no_thread(lines: list[str]) -> None:
    first = Brush("first", 0)
    engine, _ = opened(first, lambda: Brush("better", 0), lines)
    engine.close()
    assert not engine._thread.is_alive()
    assert first.closed == 1
    assert lines == []


def test_closing_before_the_change_closes_both(lines: list[str]) -> None:
    first, better = Brush("first", 0), Brush("better", 0)
    engine, go = opened(first, lambda: better, lines)
    go.set()
    wait_until_built(engine)
    engine.close()
    assert (first.closed, better.closed) == (1, 1)


def test_tensorrt_that_is_not_built_yet_paints_at_once(
    monkeypatch: pytest.MonkeyPatch, small_artifact: Artifact, lines: list[str]
) -> None:
    """TensorRT itself is simulated: its engine is another one that appears after a while."""
    go = threading.Event()
    real = next(b for b in engine_module.BACKENDS if (b.library, b.device) == ("openvino", "cpu"))
    try:
        real.precisions()
    except EngineError as exc:
        pytest.skip(str(exc))

    def open_tensorrt(self: object, artifact: Artifact, options: EngineOptions) -> object:
        if self.library != "tensorrt":  # type: ignore[attr-defined]
            return really_open(self, artifact, options)
        if options.build == "never":
            raise EngineError("not built yet")
        while not go.wait(0.005):
            if options.cancelled():
                raise EngineError("cancelled")
        return really_open(real, artifact, EngineOptions(precision="fp32"))

    really_open = engine_module.Backend.open
    monkeypatch.setattr(engine_module.Backend, "open", open_tensorrt)
    monkeypatch.setattr(engine_tensorrt, "precisions", lambda device, index: ("fp16", "fp32"))
    engine = load_engine(small_artifact, device="tensorrt", on_choice=lines.append)
    assert isinstance(engine, TakeoverEngine)
    assert lines[0].startswith("until TensorRT's engine is built, ")
    frames = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    engine(frames)
    go.set()
    wait_until_built(engine)
    engine.submit(frames).result()
    assert lines[1].startswith("now openvino on CPU in fp32")
    engine.close()

    go.clear()
    waiting = load_engine(small_artifact, device="tensorrt")
    waiting.close()  # joins the build


def test_tensorrt_that_cannot_run_is_said_at_once(monkeypatch: pytest.MonkeyPatch, small_artifact: Artifact) -> None:
    def missing(device: str, index: int) -> tuple[str, ...]:
        raise EngineError("TensorRT must be installed")

    monkeypatch.setattr(engine_tensorrt, "precisions", missing)
    with pytest.raises(EngineError, match="TensorRT must be installed"):
        load_engine(small_artifact, device="tensorrt")
