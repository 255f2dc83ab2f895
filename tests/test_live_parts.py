"""The small parts of the live path: slot, meter, governor, time code, painter, settings and presets."""

import io
import threading
import time
from fractions import Fraction

import cv2
import numpy as np
import pytest

from impasto.realtime.engine_carried import CarriedEngine
from impasto.realtime.frame import Frame
from impasto.realtime.governor import Governor, Rung
from impasto.realtime.live_console import Console
from impasto.realtime.live_jpeg import encode_jpeg
from impasto.realtime.live_meter import LatencyMeter
from impasto.realtime.live_painter import LoadedStyle, Painter, SharedEngine, cover, neutral_card, work_size
from impasto.realtime.live_settings import LiveSettings, delete_preset, load_preset, preset_names, save_preset
from impasto.realtime.slot import LatestSlot
from impasto.realtime.time_code import paint_time_code, read_time_code

from .live_helpers import CAMERA_VALUE, Clock, FakeEngine, Measurable, wait_until


def test_the_newest_wins_and_losers_are_counted() -> None:
    slot: LatestSlot[int] = LatestSlot()
    for item in (1, 2, 3):
        slot.put(item)
    assert (slot.take(0.0), slot.dropped) == (3, 2)
    assert slot.take(0.01) is None


def test_a_reader_wakes_for_an_item_and_for_the_end() -> None:
    slot: LatestSlot[int] = LatestSlot()
    taken: list[int | None] = []
    reader = threading.Thread(target=lambda: [taken.append(slot.take(600.0)) for _ in range(2)], daemon=True)
    reader.start()
    slot.put(7)
    wait_until(lambda: taken)
    slot.close()
    reader.join(60.0)
    assert taken == [7, None]


def test_the_meter_agrees_with_numpy() -> None:
    values = np.random.default_rng(0).gamma(4.0, 10.0, 5000)
    meter = LatencyMeter(window_seconds=10.0)
    now = time.monotonic()
    for i, value in enumerate(values):
        meter.add(float(value), now=now - 2.0 + i / 2500)
    total, recent = meter.total(), meter.recent(now=now)
    assert total.count == recent.count == 5000
    assert total.max_ms == pytest.approx(values.max())
    for q, got in ((50, total.p50_ms), (95, total.p95_ms)):
        assert got == pytest.approx(np.percentile(values, q), abs=1.0)  # one bin
    assert recent.fps == pytest.approx(2500, rel=0.05)


RUNGS = [Rung("fast", 720), Rung("fast", 540), Rung("fast", 360)]


def drive(governor: Governor, latency_ms: float, seconds: float, start: float) -> list[tuple[float, str]]:
    steps = []
    for i in range(int(seconds * 30)):
        now = start + i / 30
        if (step := governor.observe(latency_ms, now)) is not None:
            steps.append((round(now - start, 1), str(step.rung)))
    return steps


def test_the_governor_steps_down_after_two_seconds_and_up_after_ten() -> None:
    governor = Governor(budget_ms=80, rungs=RUNGS)
    assert drive(governor, 100, 1.9, 0.0) == []
    assert drive(governor, 100, 1.0, 1.9) == [(0.1, "fast 540p")]
    assert drive(governor, 70, 30, 10.0) == []  # inside the budget, above 70 % of it: nothing to do
    assert drive(governor, 40, 11, 50.0)[0] == (pytest.approx(10.5, abs=0.7), "fast 720p")
    assert governor.rung == RUNGS[0]


def test_one_slow_moment_moves_nothing() -> None:
    governor = Governor(budget_ms=80, rungs=RUNGS)
    for i in range(600):
        assert governor.observe(300 if i % 90 == 0 else 60, i / 30) is None


@pytest.mark.parametrize(("latency_ms", "start"), [(100, 0), (40, 1)])
def test_a_rest_is_time_neither_over_the_budget_nor_below_it(latency_ms: float, start: int) -> None:
    governor = Governor(budget_ms=80, rungs=RUNGS, start=start)
    assert drive(governor, latency_ms, 1.0, 0.0) == []
    assert drive(governor, latency_ms, 1.0, 3600.0) == []


def test_a_step_up_that_failed_is_tried_ever_more_rarely() -> None:
    governor = Governor(budget_ms=80, rungs=RUNGS)
    ups, now = [], 0.0
    while now < 200:
        latency_ms = 100 if governor.rung == RUNGS[0] else 40
        step = governor.observe(latency_ms, now)
        if step is not None and step.rung == RUNGS[0]:
            ups.append(now)
        now += 1 / 30
    gaps = np.diff(ups)
    assert len(gaps) >= 3
    assert (np.diff(gaps) > 5).all()


def test_a_time_code_survives_jpeg_and_scaling() -> None:
    picture = np.random.default_rng(0).integers(0, 255, (360, 640, 3)).astype(np.uint8)
    moment = Fraction(time.monotonic_ns(), 10**9)
    paint_time_code(picture, moment)
    read = cv2.imdecode(np.frombuffer(encode_jpeg(picture), np.uint8), cv2.IMREAD_COLOR)
    assert read_time_code(read) == pytest.approx(float(moment), abs=2e-6)
    assert read_time_code(cv2.resize(read, (1280, 720))) == pytest.approx(float(moment), abs=2e-6)
    assert read_time_code(np.zeros_like(picture)) is None


def painter(**settings: object) -> Painter:
    result = Painter(size=(96, 160), settings=LiveSettings("a", **settings))
    result.show(LoadedStyle("a", "fast", FakeEngine()))
    return result


def test_strength_blends_and_zero_is_the_camera() -> None:
    frame = Frame(np.full((96, 160, 3), CAMERA_VALUE, np.uint8), Fraction(0))
    assert painter()(frame).mean() == CAMERA_VALUE + 100
    assert painter(strength=0.25)(frame).mean() == CAMERA_VALUE + 25
    assert painter(strength=0.0)(frame).mean() == CAMERA_VALUE


def test_the_output_keeps_its_size_whatever_comes() -> None:
    for shape in ((96, 160, 3), (480, 640, 3), (50, 333, 3)):
        picture = painter()(Frame(np.full(shape, CAMERA_VALUE, np.uint8), Fraction(0)))
        assert picture.shape == (96, 160, 3)
    ramp = np.broadcast_to(np.arange(160, dtype=np.uint8)[None, :, None], (96, 160, 3)).copy()
    mirrored = painter(mirror=True, strength=0.0)(Frame(ramp, Fraction(0)))
    assert (mirrored == ramp[:, ::-1]).all()


def test_a_new_look_fades_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("impasto.realtime.live_painter.time", Clock(tick=0.025))
    fading = painter(crossfade_seconds=0.3)
    frame = Frame(np.full((96, 160, 3), CAMERA_VALUE, np.uint8), Fraction(0))
    fading(frame)
    fading.show(LoadedStyle("b", "fast", FakeEngine(plus=200)))
    means = [fading(frame).mean() for _ in range(20)]
    assert means[0] < CAMERA_VALUE + 110
    assert means[-1] == CAMERA_VALUE + 200
    assert (np.diff(means) >= 0).all()
    assert len({round(value) for value in means}) > 4


@pytest.mark.parametrize("crossfade_seconds", [0.0, 0.5])
def test_a_look_that_comes_back_has_forgotten_the_room_it_saw(
    crossfade_seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, measurable = Clock(), Measurable()
    monkeypatch.setattr("impasto.realtime.live_painter.time", clock)
    carried = LoadedStyle("a", "fast", SharedEngine(CarriedEngine(measurable, frozen=True)))
    paints = Painter(size=(32, 64), settings=LiveSettings("a", crossfade_seconds=crossfade_seconds))
    dark, bright = (Frame(np.full((32, 64, 3), value, np.uint8), Fraction(0)) for value in (20, 220))
    paints.show(carried)
    paints(dark)
    paints.show(LoadedStyle("b", "fast", FakeEngine()))
    clock.now += crossfade_seconds
    paints(bright)
    paints.show(carried)
    paints(bright)
    assert measurable.summands[-1] == -220
    paints.show(carried)  # it paints already
    paints(dark)
    assert measurable.summands[-1] == -220


def test_sizes() -> None:
    assert work_size((720, 1280), 360) == (360, 640)
    assert work_size((480, 640), 720) == (480, 640)
    assert cover(np.zeros((480, 640, 3), np.uint8), (360, 640)).shape == (360, 640, 3)
    assert neutral_card((90, 160), "why").shape == (90, 160, 3)


@pytest.mark.parametrize(
    "changes",
    [{"strength": 1.5}, {"strength": "1"}, {"strength": True}, {"tier": "best"}, {"mirror": 1}, {"style": ""},
     {"smoothing": float("nan")}, {"unknown": 1}],
)  # fmt: skip
def test_settings_refuse_what_they_cannot_be(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="must be"):
        LiveSettings("mosaic").changed(changes)


def test_a_terminal_that_was_closed_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr("sys.stderr", closed)
    Console(quiet=False).say("recording to a.mp4")


def test_presets(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMPASTO_CONFIG", str(tmp_path))
    look = LiveSettings("mosaic", strength=0.5, keep_colors=True, crossfade_seconds=1.5)
    save_preset("my Look", look)
    assert preset_names() == ["my Look"]
    assert LiveSettings("other").changed(load_preset("my Look")) == look
    for name in ("../evil", "a/b", "", ".hidden", "x" * 49, "a\0b"):
        with pytest.raises(ValueError, match="preset name"):
            save_preset(name, look)
    (tmp_path / "presets" / "bad.toml").write_text("= nonsense")
    with pytest.raises(ValueError, match="must be TOML"):
        load_preset("bad")
    with pytest.raises(ValueError, match="must be one of bad, my Look"):
        load_preset("none")
    delete_preset("my Look")
    assert preset_names() == ["bad"]
