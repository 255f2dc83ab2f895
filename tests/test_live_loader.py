"""Loading styles beside the picture: what is refused, what is told, and that the thread goes on whatever happens."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from impasto.realtime.errors import ArtifactError, EngineError
from impasto.realtime.governor import Rung
from impasto.realtime.live_loader import MOST_LOADED, StyleLoader
from impasto.realtime.live_painter import Painter
from impasto.realtime.live_settings import LiveSettings

from .live_helpers import FakeEngine, wait_until

SIZE = (480, 640)
RUNGS = [Rung("fast", 480), Rung("fast", 360), Rung("fast", 240)]


class NotBelow(FakeEngine):
    """Cannot be warmed for pictures lower than `least`, for whatever reason it is given."""

    def __init__(self, least: int, reason: Exception | None = None) -> None:
        super().__init__()
        self._least, self._reason = least, reason or EngineError("no memory for this size")

    def warmup(self, height: int, width: int) -> None:
        if height < self._least:
            raise self._reason
        super().warmup(height, width)


@contextmanager
def loading(open_style: Callable[..., FakeEngine], rungs: list[Rung] = RUNGS) -> Iterator[SimpleNamespace]:
    """A loader at work; what it tells is kept."""
    told = SimpleNamespace(events=[], failures=[], refused=[], painter=Painter(size=SIZE, settings=LiveSettings("a")))
    loader = told.loader = StyleLoader(
        told.painter, open_style, rungs=lambda: rungs, on_event=told.events.append,
        on_failure=lambda style, reason: told.failures.append((style, str(reason))),
        on_refused=lambda style, refused: told.refused.append((style, [str(rung) for rung in refused])),
    )  # fmt: skip
    thread = threading.Thread(target=loader.run)
    thread.start()
    try:
        yield told
    finally:
        loader.stop()
        thread.join()
        loader.close()


def show(told: SimpleNamespace, style: str) -> None:
    """Ask for a style and bring it in as soon as it is ready."""
    ready = []
    told.loader.ask(style, "fast")
    wait_until(lambda: ready.append(told.loader.take()) or ready[-1])
    told.painter.show(ready[-1])


@pytest.mark.parametrize("reason", [EngineError("no memory for this size"), RuntimeError("CL_OUT_OF_RESOURCES")])
def test_a_size_that_cannot_be_warmed_does_not_refuse_the_style(reason: Exception) -> None:
    engines = {"a": NotBelow(300, reason), "b": NotBelow(300, reason)}
    with loading(lambda style, tier: engines[style]) as told:
        for style in engines:  # the first is ready before other sizes are warmed, the second after that
            show(told, style)
            wait_until(lambda style=style: (style, ["fast 240p"]) in told.refused)
    assert engines["b"].warm == [(360, 480), (480, 640)]
    assert told.failures == []
    assert told.events == [f"{style} cannot be painted at fast 240p: {reason}" for style in engines]


def test_a_tier_that_is_missing_is_told_once() -> None:
    def open_style(style: str, tier: str) -> FakeEngine:
        if tier == "quality":
            raise ArtifactError("there is no such file")
        return FakeEngine()

    with loading(open_style, [Rung("quality", 480), Rung("quality", 360), *RUNGS]) as told:
        show(told, "a")
        wait_until(lambda: told.refused)
    assert told.refused == [("a", ["quality 360p", "quality 480p"])]
    assert told.events == ["a has no quality tier here: there is no such file"]


@pytest.mark.parametrize("reason", [EngineError("no memory"), RuntimeError("CL_OUT_OF_RESOURCES"), MemoryError()])
def test_what_cannot_be_warmed_at_the_size_that_is_painted_is_refused(reason: Exception) -> None:
    with loading(lambda style, tier: FakeEngine() if style != "b" else NotBelow(10_000, reason)) as told:
        show(told, "a")
        told.loader.ask("b", "fast")
        wait_until(lambda: told.failures)
        show(told, "c")
    assert [style for style, _ in told.failures] == ["b"]
    assert told.refused == []


def test_an_engine_that_does_not_close_keeps_nobody_from_closing() -> None:
    class Clinging(FakeEngine):
        def close(self) -> None:
            super().close()
            raise RuntimeError("the driver is gone")

    engines = [Clinging() for _ in range(MOST_LOADED + 2)]
    left = iter(engines)
    with loading(lambda style, tier: next(left)) as told:
        for style in "abcdef":
            show(told, style)
        told.painter.settings = LiveSettings("f", crossfade_seconds=0.0)
        wait_until(lambda: engines[0].closed == 1)
    assert [engine.closed for engine in engines] == [1] * len(engines)


def test_the_thread_survives_those_that_it_tells() -> None:
    def nobody(*what: object) -> None:
        raise RuntimeError("nobody listens")

    with loading(lambda style, tier: NotBelow(300) if style == "a" else FakeEngine()) as told:
        told.loader._on_failure = told.loader._on_refused = nobody
        show(told, "a")
        show(told, "b")


def test_a_style_that_was_removed_is_opened_anew_under_its_name() -> None:
    engines: dict[str, list[FakeEngine]] = {"a": [], "b": []}

    def open_style(style: str, tier: str) -> FakeEngine:
        engines[style].append(FakeEngine())
        return engines[style][-1]

    with loading(open_style) as told:
        show(told, "a")
        show(told, "b")
        told.loader.forget("a", "fast")
        show(told, "a")
        assert [len(engines[style]) for style in "ab"] == [2, 1]
        assert engines["a"][1].warm == engines["b"][0].warm
        wait_until(lambda: engines["a"][0].closed == 1)
        assert engines["a"][1].closed == engines["b"][0].closed == 0


def test_a_style_that_is_removed_while_it_loads_is_never_ready() -> None:
    engines, may_load = {"a": FakeEngine(), "b": FakeEngine()}, threading.Event()

    def open_style(style: str, tier: str) -> FakeEngine:
        if style == "b":
            may_load.wait(60.0)
        return engines[style]

    with loading(open_style) as told:
        show(told, "a")
        told.loader.ask("b", "fast")
        wait_until(lambda: told.loader.loading == "b")
        told.loader.forget("b", "fast")
        may_load.set()
        wait_until(lambda: engines["b"].closed)
        assert told.loader.take() is None
    assert told.failures == []
