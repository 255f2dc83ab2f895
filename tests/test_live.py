"""The live session: newest only, outputs apart, fails closed, switches styles, rests when nobody watches."""

import math
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from fractions import Fraction

import numpy as np
import pytest

from impasto.realtime.capture import Feed
from impasto.realtime.engine_carried import CarriedEngine
from impasto.realtime.errors import ArtifactError, EngineError
from impasto.realtime.live import WATCHDOG_SECONDS, LiveSession
from impasto.realtime.live_painter import work_size
from impasto.realtime.live_settings import LiveSettings

from .live_helpers import (
    CAMERA_VALUE,
    HEIGHT,
    WIDTH,
    Clock,
    FakeEngine,
    FakeFeed,
    Gallery,
    HandFeed,
    Measurable,
    kind_of,
    wait_until,
)


@pytest.fixture
def no_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is held up for a second puts no card between the pictures that a test counts."""
    monkeypatch.setattr("impasto.realtime.live.HOLD_SECONDS", math.inf)


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes a second or more in a real run, so that no test has to wait for it."""
    for name, seconds in {"HOLD_SECONDS": 0.3, "CARD_EVERY_SECONDS": 0.05, "RESTART_SECONDS": 0.05}.items():
        monkeypatch.setattr(f"impasto.realtime.live.{name}", seconds)
    monkeypatch.setattr("impasto.realtime.governor.OVER_SECONDS", 0.5)
    monkeypatch.setattr("impasto.realtime.governor.UNDER_SECONDS", math.inf)


@contextmanager
def session_with(
    gallery: Gallery, engine: FakeEngine | None = None, *, feed: Feed | None = None,
    open_style: Callable[..., FakeEngine] | None = None, watched: Callable[[], bool] = lambda: True,
    latency_budget_ms: float | None = None, **settings: object,
):  # fmt: skip
    engine = engine or FakeEngine()
    session = LiveSession(
        feed or FakeFeed(),
        open_style or (lambda name, tier: engine),
        settings=LiveSettings("a", **settings),
        size=(HEIGHT, WIDTH),
        latency_budget_ms=latency_budget_ms,
    )
    session.add_output(gallery.output(watched=watched))
    with session:
        yield session


def send(feed: HandFeed, gallery: Gallery) -> None:
    """One picture, through to the gallery. Needs `no_cards`: a card would take a picture's place."""
    feed.send()
    wait_until(lambda: feed.sent[-1] in gallery.painted())


@pytest.mark.usefixtures("no_cards")
def test_pictures_are_painted_and_arrive_fresh() -> None:
    """Each is out before the next one is captured: none lies anywhere until it is pushed on."""
    gallery, feed = Gallery(), HandFeed()
    with session_with(gallery, feed=feed) as session:
        wait_until(lambda: session.status.painting_style == "a")
        for _ in range(30):
            send(feed, gallery)
        status = session.status
    assert gallery.kinds() == ["painted"] * 30
    assert (status.dropped, session.meter.total().count) == (0, 30)
    assert status.latency.p50_ms > 0  # how long is for tests/benchmarks/live_latency.py
    assert gallery.opened == gallery.closed == 1


@pytest.mark.usefixtures("no_cards")
def test_a_slow_network_shows_new_pictures_not_old_ones() -> None:
    """Three pictures come while one is painted: a queue would be ever further behind, here the newest is next."""

    class Slow(FakeEngine):
        def __call__(self, frames: np.ndarray) -> np.ndarray:
            painted = super().__call__(frames)
            may_end.acquire()
            return painted

    gallery, engine, feed, may_end = Gallery(), Slow(), HandFeed(), threading.Semaphore(0)
    with session_with(gallery, engine, feed=feed) as session:
        wait_until(lambda: session.status.painting_style == "a")
        feed.send()
        wait_until(lambda: engine.begun == 1)
        for painted in range(1, 21):
            for _ in range(3):
                feed.send()
            may_end.release()
            wait_until(lambda painted=painted: (engine.begun, len(gallery.frames)) == (painted + 1, painted))
        dropped = session.status.dropped
        may_end.release()
    assert gallery.painted()[:20] == feed.sent[:60:3]
    assert dropped == 20 * 2


@pytest.mark.usefixtures("no_cards")
def test_a_slow_output_harms_only_itself() -> None:
    slow, quick, feed = Gallery(), Gallery(), HandFeed()
    slow.stuck.clear()
    with session_with(quick, feed=feed) as session:
        stuck = slow.output("slow")
        session.add_output(stuck)
        wait_until(lambda: session.status.painting_style == "a")
        send(feed, quick)
        wait_until(lambda: slow.begun == 1)
        for _ in range(40):
            send(feed, quick)
        dropped = {output.name: output.dropped for output in session.status.outputs}
        slow.stuck.set()
        wait_until(lambda: len(slow.frames) == 2)
        session.remove_output(stuck)
    assert quick.painted() == feed.sent
    assert slow.painted() == [feed.sent[0], feed.sent[-1]]  # then the newest
    assert dropped == {"gallery": 0, "slow": 39}


def test_an_output_that_fails_is_opened_again_or_given_up() -> None:
    returning, lost = Gallery(fail_after=3), Gallery(fail_after=3)
    with session_with(Gallery()) as session:
        session.add_output(returning.output("returning", retry_seconds=(0.1,)))
        session.add_output(lost.output("lost"))
        wait_until(lambda: len(returning.frames) > 6 and lost.closed)
        wanted = {"gallery": "running", "returning": "running", "lost": "failed"}
        wait_until(lambda: {output.name: output.state for output in session.status.outputs} == wanted)
    assert returning.opened == returning.closed == 2
    assert lost.opened == lost.closed == 1


# Fail closed: whatever goes wrong, what leaves is painted or the card, and no painted picture stands for over a second


def break_engine(session: LiveSession, engine: FakeEngine, feed: FakeFeed) -> None:
    engine.broken = True


def stick_engine(session: LiveSession, engine: FakeEngine, feed: FakeFeed) -> None:
    engine.stuck.clear()


def lose_camera(session: LiveSession, engine: FakeEngine, feed: FakeFeed) -> None:
    feed.sending.clear()


def damage_pictures(session: LiveSession, engine: FakeEngine, feed: FakeFeed) -> None:
    feed.picture = np.zeros((3, 0, 3), np.uint8)


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("harm", [break_engine, stick_engine, lose_camera, damage_pictures])
def test_no_raw_picture_leaves_when(harm: Callable[..., None]) -> None:
    gallery, engine, feed = Gallery(), FakeEngine(), FakeFeed()
    sound = feed.picture
    with session_with(gallery, engine, feed=feed) as session:
        wait_until(lambda: gallery.kinds().count("painted") > 10)
        harm(session, engine, feed)
        wait_until(lambda: gallery.kinds()[-3:] == ["card"] * 3)
        engine.broken, feed.picture = False, sound
        engine.stuck.set()
        feed.sending.set()
        wait_until(lambda: gallery.kinds()[-1] == "painted")
    assert "raw" not in gallery.kinds()


@pytest.mark.parametrize("phase", [0.0, 0.01, 0.03, 0.049])
def test_a_painted_picture_stands_for_a_second_at_most(phase: float) -> None:
    session = LiveSession(FakeFeed(), lambda name, tier: FakeEngine(), settings=LiveSettings("a"), size=(96, 160))
    session._painted, session._painted_at, session._seen_at = 1, 1000.0, 1000.0
    carded = []
    for look in range(40):
        now = 1000.0 + phase + look * WATCHDOG_SECONDS
        before = session.status.cards
        session._watch(now, {})
        carded += [now - 1000.0] * (session.status.cards - before)
    assert 0.8 < carded[0] <= 1.0
    assert np.diff(carded) == pytest.approx([0.5] * (len(carded) - 1), abs=WATCHDOG_SECONDS)


@pytest.mark.usefixtures("soon")
def test_the_card_comes_though_an_output_cannot_say_whether_it_is_watched() -> None:
    def disturbed() -> bool:
        raise OSError(9, "Bad file descriptor")

    gallery, feed = Gallery(), FakeFeed()
    with session_with(gallery, feed=feed, watched=disturbed):
        wait_until(lambda: "painted" in gallery.kinds())
        feed.sending.clear()
        wait_until(lambda: gallery.kinds()[-1] == "card")


@pytest.mark.usefixtures("soon")
def test_no_raw_picture_leaves_when_the_style_that_fades_out_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    gallery, engines = Gallery(), {"a": FakeEngine(plus=100), "b": FakeEngine(plus=160)}
    clock = Clock()
    monkeypatch.setattr("impasto.realtime.live_painter.time", clock)
    settings = LiveSettings("a", crossfade_seconds=1.5)
    session = LiveSession(
        FakeFeed(), lambda name, tier: engines[name], settings=settings, size=(HEIGHT, WIDTH), frame_rate=Fraction(30)
    )
    session.add_output(gallery.output())
    with session:
        wait_until(lambda: session.status.painted > 10)
        session.change({"style": "b"})
        wait_until(lambda: session.status.painting_style == "b")
        engines["a"].broken = True
        wait_until(lambda: session.status.problem)
        clock.now += 1.5
        wait_until(lambda: not session.status.problem and (session.snapshot() == CAMERA_VALUE + 160).all())
    assert "raw" not in gallery.kinds()


def test_no_raw_picture_leaves_while_the_first_style_loads() -> None:
    gallery, may_load = Gallery(), threading.Event()

    def slow(name: str, tier: str) -> FakeEngine:
        may_load.wait(600.0)
        return FakeEngine()

    with session_with(gallery, open_style=slow) as session:
        wait_until(lambda: gallery.frames and session.status.captured > 10)
        may_load.set()
        wait_until(lambda: "painted" in gallery.kinds())
    assert set(gallery.kinds()) == {"card", "painted"}


def test_a_first_style_that_cannot_load_is_told() -> None:
    def broken(name: str, tier: str) -> FakeEngine:
        raise ArtifactError("the file is damaged")

    gallery = Gallery()
    with session_with(gallery, open_style=broken) as session:
        wait_until(lambda: session.first_error is not None)
        wait_until(lambda: gallery.frames)
    assert set(gallery.kinds()) == {"card"}


def test_the_camera_itself_leaves_only_at_strength_zero() -> None:
    gallery = Gallery()
    with session_with(gallery) as session:
        wait_until(lambda: "painted" in gallery.kinds())
        session.change({"strength": 0.0})
        wait_until(lambda: gallery.kinds()[-1] == "raw")
        session.change({"strength": 1.0})
        changed = time.monotonic()
        wait_until(lambda: len([captured for captured in gallery.painted() if captured > changed]) > 5)
    assert "raw" not in [kind_of(frame.data) for frame in gallery.frames if frame.pts > changed]


@pytest.mark.usefixtures("no_cards")
def test_styles_change_without_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    gallery, engines, feed = Gallery(), {"a": FakeEngine(), "b": FakeEngine(plus=180)}, HandFeed()
    loading, may_load = threading.Event(), threading.Event()
    monkeypatch.setattr("impasto.realtime.live_painter.time", Clock(tick=0.02))

    def open_style(name: str, tier: str) -> FakeEngine:
        if name == "b":
            loading.set()
            may_load.wait(600.0)
        return engines[name]

    def shown() -> float:
        send(feed, gallery)
        return float(gallery.frames[-1].data.mean())

    with session_with(gallery, feed=feed, open_style=open_style, crossfade_seconds=0.3) as session:
        wait_until(lambda: session.status.painting_style == "a")
        session.change({"style": "b"})
        loading.wait(60.0)
        before = [shown() for _ in range(10)]
        may_load.set()
        wait_until(lambda: session.status.painting_style == "b")
        fade = [shown() for _ in range(20)]
    assert before == [CAMERA_VALUE + 100] * 10  # the old one painted while the new one loaded
    assert [value < CAMERA_VALUE + 180 for value in fade] == [True] * 14 + [False] * 6
    assert np.diff(fade).max() < 20  # it faded
    assert gallery.painted() == feed.sent
    assert engines["b"].warm
    assert engines["a"].closed >= 1
    assert engines["b"].closed >= 1


def test_a_style_that_breaks_leaves_the_old_one_painting() -> None:
    gallery = Gallery()

    def open_style(name: str, tier: str) -> FakeEngine:
        if name == "b":
            raise ArtifactError("the file is damaged")
        return FakeEngine()

    with session_with(gallery, open_style=open_style) as session:
        wait_until(lambda: "painted" in gallery.kinds())
        session.change({"style": "b"})
        wait_until(lambda: session.settings.style == "a")
        seen = len(gallery.frames)
        wait_until(lambda: gallery.kinds()[seen:].count("painted") > 10)
    assert "raw" not in gallery.kinds()


def test_a_style_that_breaks_after_the_old_one_was_removed_gives_way_to_another() -> None:
    def open_style(name: str, tier: str) -> FakeEngine:
        if name == "b":
            raise ArtifactError("the file is damaged")
        return FakeEngine()

    with session_with(Gallery(), open_style=open_style) as session:
        wait_until(lambda: session.status.painting_style == "a")
        session.still_there = lambda style, tier: ("c", "fast") if (style, tier) == ("a", "fast") else (style, tier)
        session.change({"style": "b"})
        wait_until(lambda: session.status.painting_style == "c")
        assert session.settings.style == "c"


def test_a_tier_that_breaks_leaves_other_styles_to_be_chosen() -> None:
    opened: list[tuple[str, str]] = []

    def open_style(name: str, tier: str) -> FakeEngine:
        opened.append((name, tier))
        if tier == "quality":
            raise ArtifactError("there is no such file")
        return FakeEngine()

    with session_with(Gallery(), open_style=open_style, latency_budget_ms=10_000) as session:
        wait_until(lambda: session.status.painting_style == "a")
        session.change({"tier": "quality"})
        wait_until(lambda: ("a", "quality") in opened and session.settings.tier == "fast")
        session.change({"style": "b"})
        wait_until(lambda: session.status.painting_style == "b")
    assert ("b", "quality") not in opened


def test_the_governor_leaves_out_a_size_that_cannot_be_warmed() -> None:
    class NotSmall(FakeEngine):
        def warmup(self, height: int, width: int) -> None:
            if height < 300:
                raise EngineError("no memory for this size")
            super().warmup(height, width)

    session = LiveSession(
        FakeFeed(), lambda name, tier: NotSmall(), settings=LiveSettings("a"), size=(480, 640), latency_budget_ms=10_000
    )
    session.add_output(Gallery().output())
    with session:
        wait_until(lambda: [rung.short_side for rung in session._governor.rungs] == [480, 432, 360])
        session.change({"style": "b"})
        wait_until(lambda: session.status.painting_style == "b")


def test_of_two_changes_at_once_the_last_one_is_loaded() -> None:
    session = LiveSession(FakeFeed(), lambda name, tier: FakeEngine(), settings=LiveSettings("a"), size=(96, 160))
    asked: list[str] = []

    def ask(style: str, tier: str) -> None:
        if style == "b":
            time.sleep(0.2)  # the thread that changed first is held up
        asked.append(style)

    session._loader.ask = ask
    first = threading.Thread(target=session.change, args=({"style": "b"},))
    first.start()
    wait_until(lambda: session.settings.style == "b")
    session.change({"style": "c"})
    first.join()
    assert asked == ["b", "c"]


@pytest.mark.usefixtures("soon")
def test_painting_goes_on_though_nobody_can_be_told() -> None:
    def closed(line: str) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    gallery, feed = Gallery(), FakeFeed()
    engine = FakeEngine()
    session = LiveSession(
        feed, lambda name, tier: engine, settings=LiveSettings("a"), size=(HEIGHT, WIDTH), on_event=closed
    )
    session.add_output(gallery.output())
    with session:
        wait_until(lambda: "painted" in gallery.kinds())
        engine.broken = True
        wait_until(lambda: session.status.problem)
        engine.broken = False
        wait_until(lambda: not session.status.problem)


def test_another_camera_is_painted_with_statistics_of_its_own() -> None:
    """Not with those of the room before, which frozen statistics would keep for ever."""
    measurable = Measurable()
    engine = CarriedEngine(measurable, frozen=True)
    dark, bright = (FakeFeed(picture=np.full((HEIGHT, WIDTH, 3), value, np.uint8)) for value in (20, 220))
    with session_with(Gallery(), feed=dark, open_style=lambda name, tier: engine) as session:
        wait_until(lambda: session.status.painted > 2)
        assert measurable.summands[-1] == -20
        session.replace_feed(bright)
        wait_until(lambda: measurable.summands[-1] == -220)


def test_a_session_changes_cameras() -> None:
    gallery, second = Gallery(), FakeFeed(size=(300, 400))
    with session_with(gallery) as session:
        wait_until(lambda: "painted" in gallery.kinds())
        session.replace_feed(second)
        seen = len(gallery.frames)
        wait_until(lambda: gallery.kinds()[seen:].count("painted") > 5)
    assert {frame.data.shape for frame in gallery.frames} == {(HEIGHT, WIDTH, 3)}


def test_it_rests_when_nobody_watches_and_wakes_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("impasto.realtime.live.IDLE_AFTER_SECONDS", 0.2)
    gallery, engine, feed, watching = Gallery(), FakeEngine(), FakeFeed(), [True]
    with session_with(gallery, engine, feed=feed, watched=lambda: watching[0]) as session:
        wait_until(lambda: "painted" in gallery.kinds())
        watching[0] = False
        wait_until(lambda: session.status.idle)
        rested, captured = time.monotonic(), session.status.captured
        wait_until(lambda: session.status.captured > captured + 15)
        woken = time.monotonic()
        assert feed.idle
        watching[0] = True
        session.wake()
        assert not session.status.idle
        assert not feed.idle
        wait_until(lambda: gallery.painted()[-1] > rested)
    unwatched = [captured for captured in gallery.painted() if rested < captured < woken]
    assert len(unwatched) <= 1  # of 15: it was under way


def test_a_slow_start_ends_with_a_painting_before_any_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("impasto.realtime.live.IDLE_AFTER_SECONDS", 0.1)

    def open_slowly(name: str, tier: str) -> FakeEngine:
        time.sleep(0.3)
        return FakeEngine()

    with session_with(Gallery(), open_style=open_slowly, watched=lambda: False) as session:
        wait_until(lambda: session.status.idle)
        assert session.snapshot() is not None


class BySize(FakeEngine):
    """Over the latency budget above 400 lines, once it is told to be."""

    is_slow = False

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        time.sleep(0.15 if self.is_slow and frames.shape[1] >= 400 else 0.005)
        return super().__call__(frames)


@pytest.mark.usefixtures("soon")
def test_the_governor_chooses_sizes_that_are_warm() -> None:
    gallery, engine = Gallery(), BySize()
    session = LiveSession(
        FakeFeed(), lambda name, tier: engine, settings=LiveSettings("a"), size=(480, 640), latency_budget_ms=80,
    )  # fmt: skip
    session.add_output(gallery.output())
    with session:
        sizes = {work_size((480, 640), rung.short_side) for rung in session._governor.rungs}
        assert len(sizes) == 6
        wait_until(lambda: sizes == set(engine.warm))
        engine.is_slow = True
        wait_until(lambda: session.status.work_size[0] < 400)
        assert session.status.work_size in sizes
        assert session.snapshot() is not None
        assert session.snapshot().shape == (480, 640, 3)


@pytest.mark.usefixtures("no_cards")
def test_the_time_code_tells_the_latency() -> None:
    from impasto.realtime.time_code import read_time_code

    gallery = Gallery()
    session = LiveSession(
        FakeFeed(), lambda name, tier: FakeEngine(), settings=LiveSettings("a"), size=(HEIGHT, WIDTH),
        frame_rate=Fraction(30), time_code=True,
    )  # fmt: skip
    session.add_output(gallery.output())
    with session:
        wait_until(lambda: len(gallery.frames) > 20)
    coded = [(frame, code) for frame in gallery.frames if (code := read_time_code(frame.data)) is not None]
    assert len(coded) > 15
    assert all(code == pytest.approx(float(frame.pts), abs=2e-6) for frame, code in coded)


def test_an_engine_that_never_returns_does_not_keep_the_session_from_ending(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("impasto.realtime.live.JOIN_SECONDS", 0.3)
    monkeypatch.setattr("impasto.realtime.live_painter.CLOSE_SECONDS", 0.3)
    gallery, engine = Gallery(), FakeEngine()
    with session_with(gallery, engine):
        wait_until(lambda: "painted" in gallery.kinds())
        engine.stuck.clear()
        begun = engine.begun
        wait_until(lambda: engine.begun > begun)
        ending = time.monotonic()
    assert time.monotonic() - ending < 60.0  # it would be ten minutes
    engine.stuck.set()


@pytest.mark.usefixtures("soon")
def test_the_governor_goes_down_a_tier_and_a_new_style_stays_there() -> None:
    """The quality tier is over budget: fast takes over; a style chosen then comes in its fast tier too."""
    opened: list[tuple[str, str]] = []

    def open_style(name: str, tier: str) -> FakeEngine:
        opened.append((name, tier))
        return FakeEngine(seconds=0.15 if tier == "quality" else 0.0)

    gallery = Gallery()
    with session_with(gallery, open_style=open_style, tier="quality", latency_budget_ms=80) as session:
        wait_until(lambda: session._painter.look is not None and session._painter.look.tier == "fast")
        session.change({"style": "b"})
        wait_until(lambda: session.status.painting_style == "b")
        assert session._painter.look.tier == "fast"
    assert opened[0] == ("a", "quality")


@pytest.mark.usefixtures("soon")
def test_a_style_without_a_fast_tier_goes_down_in_size() -> None:
    def open_style(name: str, tier: str) -> BySize:
        if (name, tier) == ("a", "fast"):
            raise ArtifactError("tier of a must be quality")
        engine = BySize()
        engine.is_slow = True
        return engine

    gallery, said = Gallery(), []
    session = LiveSession(
        FakeFeed(), open_style, tiers_of=lambda name: ("quality",) if name == "a" else ("fast", "quality"),
        settings=LiveSettings("a", tier="quality"), size=(480, 640), latency_budget_ms=80, on_event=said.append,
    )  # fmt: skip
    session.add_output(gallery.output())
    with session:
        wait_until(lambda: session.status.work_size[0] < 450)
        assert session._painter.look.tier == "quality"
        session.change({"style": "b"})
        wait_until(lambda: session._painter.look.style == "b")
    assert not any("cannot be used" in line or "no fast tier" in line for line in said)
