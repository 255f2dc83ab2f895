"""The live path: newest frame in, painted picture to any number of outputs, never late, never raw by accident.

feed → slot → painter thread → one slot and thread per output. Every hop holds one picture, the newest. A watchdog
beside them puts the neutral card out when nothing was painted for a second, whatever the reason: camera away,
engine broken, style damaged, or a call that never returns.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from ..export.arbitrary import Vector
from .capture import Feed, FeedStatus
from .errors import ImpastoError
from .frame import Frame, Picture
from .governor import Governor, Rung, Step
from .live_loader import OpenStyle, StyleLoader
from .live_meter import LatencyMeter, LatencySummary
from .live_output import Outlet, OutputStatus, Painting
from .live_painter import Painter, Size, neutral_card, work_size
from .live_settings import LiveSettings, Tier
from .slot import LatestSlot
from .time_code import paint_time_code

logger = logging.getLogger(__name__)

HOLD_SECONDS = 1.0
"""How long the last painted picture may stand when no new one comes."""
CARD_EVERY_SECONDS = 0.5
"""The card is sent again and again: a viewer may arrive, and a virtual camera wants a stream."""
WATCHDOG_SECONDS = 0.05
IDLE_AFTER_SECONDS = 2.0
JOIN_SECONDS = 3.0
"""How long the end waits for a thread that an engine holds up."""
RESTART_SECONDS = 1.0
"""Pause after an engine failed before it is asked again."""


@dataclass(frozen=True)
class LiveStatus:
    """The whole run at one moment."""

    settings: LiveSettings
    feed: FeedStatus
    painting_style: str
    """What really paints, "" before the first style is warm."""
    loading: str
    """The style that is being loaded, or ""."""
    engine: str
    output_size: Size
    work_size: Size
    captured: int
    dropped: int
    """Frames that came while the painter was busy."""
    painted: int
    cards: int
    idle: bool
    latency: LatencySummary
    """From capture to painted, over the last seconds."""
    outputs: tuple[OutputStatus, ...]
    budget_ms: float | None
    """What the latency is kept under, or None."""
    problem: str
    """Why there is no painted picture, or ""."""


class LiveSession:
    """Owns the threads of a live run; a context manager. Methods may be called from any thread."""

    def __init__(
        self,
        feed: Feed,
        open_style: OpenStyle,
        *,
        vector_of: Callable[[str], Vector | None] = lambda style: None,
        tiers_of: Callable[[str], Collection[str]] = lambda style: ("fast", "quality"),
        settings: LiveSettings,
        size: Size,
        frame_rate: Fraction = Fraction(30),
        short_side: int = 720,
        latency_budget_ms: float | None = None,
        time_code: bool = False,
        on_event: Callable[[str], None] = lambda line: None,
    ) -> None:
        """
        Args:
            feed: where pictures come from.
            open_style: loads a style.
            vector_of: the style vector of a painting by its style's name, for `mix_with`.
            tiers_of: the tiers that a style has, by its name; the governor chooses between these.
            settings: the look to begin with.
            size: (height, width) of what goes out, fixed for the whole run.
            frame_rate: nominal rate of the outputs.
            short_side: largest shorter side that is painted; larger outputs are enlarged from it.
            latency_budget_ms: from capture to painted; None leaves size and tier alone.
            time_code: paint the time of capture into every picture, for measuring (`time_code.py`).
            on_event: gets one line for every change a person should know of.
        """
        self.size, self.frame_rate = size, frame_rate
        self._feed, self._on_event = feed, on_event
        self._settings = settings
        self._time_code = time_code
        self._lock = threading.RLock()
        self._frames: LatestSlot[Frame] = LatestSlot()
        self._outputs: tuple[Outlet, ...] = ()
        self._painter = Painter(size=size, settings=settings, vector_of=vector_of)
        self._painter.work_size = work_size(size, short_side)
        self._tiers_of = tiers_of
        self._governor: Governor | None = None
        if latency_budget_ms is not None:
            rungs = _rungs(size, short_side, settings.tier, tiers_of(settings.style))
            self._governor = Governor(budget_ms=latency_budget_ms, rungs=rungs)
        self._loader = StyleLoader(
            self._painter, open_style, rungs=lambda: () if self._governor is None else self._governor.rungs,
            on_event=self._tell, on_failure=self._style_failed, on_refused=self._rungs_refused,
        )  # fmt: skip
        self._stop = threading.Event()
        self._is_new_feed = threading.Event()
        self._idle = False
        self._seen_at = time.monotonic()
        self._captured = self._painted = self._cards = 0
        self._painted_at = self._card_at = 0.0
        self._problem = ""
        self.first_error: ImpastoError | None = None
        """Why the first style could not be loaded; later styles that fail leave the one before painting."""
        self._last: Painting | None = None
        self.meter = LatencyMeter()
        self.compare: Callable[[], bool] = lambda: False
        """Asked for every frame: whether the panel's comparison view wants the camera's own picture as well."""
        self.still_there: Callable[[str, Tier], tuple[str, Tier]] = lambda style, tier: (style, tier)
        """Asked when another style failed to load: what paints, style and tier, or others where that was removed."""
        self._threads = [
            # Daemons: an engine that never returns must not keep the program from ending.
            threading.Thread(target=target, name=f"impasto-{name}", daemon=True)
            for name, target in (("paint", self._paint_loop), ("load", self._loader.run), ("watch", self._watch_loop))
        ]

    def __enter__(self) -> "LiveSession":
        self._loader.ask(self._settings.style, self._settings.tier)
        for thread in self._threads:
            thread.start()
        self._feed.start(self._captured_frame)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._feed.close()
        self._frames.close()
        self._loader.stop()
        for output in self._outputs:
            output.close()
        for thread in self._threads:
            thread.join(JOIN_SECONDS)
        self._loader.close()

    # What a person does

    @property
    def settings(self) -> LiveSettings:
        """The look as it was last asked for."""
        return self._settings

    def change(self, changes: Mapping[str, Any]) -> LiveSettings:
        """Replace some settings; a new style or tier is loaded in the background and fades in when it is warm."""
        with self._lock:
            before, after = self._settings, self._settings.changed(changes)
            self._take_settings(after)
            if (after.style, after.tier) != (before.style, before.tier):
                self._loader.ask(after.style, after.tier if self._governor is None else self._governor.rung.tier)
        return after

    def forget(self, style: str, tier: Tier) -> None:
        """A style was removed in this tier: what comes under its name from now on is another one."""
        self._loader.forget(style, tier)

    def _take_settings(self, after: LiveSettings) -> None:
        """With the lock held. The governor's ladder is that of the tier, of a style that has both."""
        before, self._settings = self._settings, after
        self._painter.settings = after
        governor = self._governor
        if governor is None or (after.style, after.tier) == (before.style, before.tier):
            return
        top = governor.rungs[0].short_side
        rungs = _rungs(self.size, top, after.tier, self._tiers_of(after.style))
        if rungs != list(governor.rungs):
            self._governor = Governor(budget_ms=governor.budget_ms, rungs=rungs)
            self._painter.work_size = work_size(self.size, top)

    def add_output(self, output: Outlet) -> None:
        """Send pictures to `output` from now on; the session closes it in the end."""
        with self._lock:
            self._outputs = (*self._outputs, output)
        self.wake()

    def remove_output(self, output: Outlet) -> None:
        """Stop sending to `output` and let it finish."""
        with self._lock:
            self._outputs = tuple(o for o in self._outputs if o is not output)
        output.close()

    def replace_feed(self, feed: Feed) -> None:
        """Go over to another camera; the outputs keep their size."""
        with self._lock:
            old, self._feed = self._feed, feed
        old.close()
        self._frames.clear()
        self._is_new_feed.set()
        feed.start(self._captured_frame)
        feed.set_idle(self._idle)

    def wake(self) -> None:
        """Somebody began to watch: paint again at once."""
        self._seen_at = time.monotonic()
        if self._idle:
            self._set_idle(False)

    @property
    def outputs(self) -> tuple[Outlet, ...]:
        """Where pictures go at the moment."""
        return self._outputs

    def snapshot(self, *, since: float = 0.0) -> Picture | None:
        """The last painted picture, (H, W, 3) uint8 RGB, if it was captured after `since`; never the camera's."""
        last = self._last
        return None if last is None or last.frame.pts <= since else last.frame.data

    @property
    def status(self) -> LiveStatus:
        """Everything worth showing."""
        look = self._painter.look
        return LiveStatus(
            settings=self._settings,
            feed=self._feed.status,
            painting_style=look.style if look else "",
            loading=self._loader.loading,
            engine=str(look.engine.info) if look else "",
            output_size=self.size,
            work_size=self._painter.work_size,
            captured=self._captured,
            dropped=self._frames.dropped,
            painted=self._painted,
            cards=self._cards,
            idle=self._idle,
            latency=self.meter.recent(),
            outputs=tuple(output.status for output in self._outputs),
            budget_ms=None if self._governor is None else self._governor.budget_ms,
            problem=self._problem,
        )

    # The threads

    def _captured_frame(self, frame: Frame) -> None:
        self._captured += 1
        if not self._idle:
            self._frames.put(frame)

    def _paint_loop(self) -> None:
        while not self._stop.is_set():
            if (look := self._loader.take()) is not None:
                self._painter.show(look)
            frame = self._frames.take(0.25)
            if frame is None or self._painter.look is None:
                continue
            try:
                if self._is_new_feed.is_set():
                    self._is_new_feed.clear()
                    self._painter.reset()
                original = self._painter.original(frame) if self.compare() else None
                painting = Painting(Frame(self._painter(frame), frame.pts), original, card=False)
                if self._time_code:
                    paint_time_code(painting.frame.data, painting.frame.pts)
            except Exception as exc:  # an engine may raise anything; no picture leaves, the watchdog shows the card
                self._engine_failed(exc)
                continue
            self._publish_painting(painting)

    def _publish_painting(self, painting: Painting) -> None:
        now = time.monotonic()
        self._painted_at, self._problem, self._last = now, "", painting
        self._painted += 1
        latency_ms = (now - float(painting.frame.pts)) * 1e3
        self.meter.add(latency_ms, now=now)
        self._publish(painting)
        if self._governor is not None and (step := self._governor.observe(latency_ms, now)) is not None:
            self._take_step(step)

    def _publish(self, painting: Painting) -> None:
        for output in self._outputs:
            output.slot.put(painting)

    def _engine_failed(self, exc: Exception) -> None:
        if not self._problem:
            logger.exception("painting failed")
            self._tell(f"painting failed: {exc}; showing a neutral card until it works again")
        self._problem = f"painting failed: {exc}"
        self._stop.wait(RESTART_SECONDS)

    def _take_step(self, step: Step) -> None:
        self._painter.work_size = work_size(self.size, step.rung.short_side)
        self._tell(f"now painting at {step.rung}: {step.reason}")
        look = self._painter.look
        if look is not None and look.tier != step.rung.tier:
            self._loader.ask(self._settings.style, step.rung.tier)

    def _rungs_refused(self, style: str, refused: Collection[Rung]) -> None:
        """What the style cannot be painted at is no choice for the governor."""
        with self._lock:
            governor = self._governor
            if governor is None or self._settings.style != style:
                return
            left = [rung for rung in governor.rungs if rung not in refused]
            if not left:
                return
            below = [rung for rung in governor.rungs[governor.rungs.index(governor.rung) :] if rung in left]
            rung = below[0] if below else left[-1]
            self._governor = Governor(budget_ms=governor.budget_ms, rungs=left, start=left.index(rung))
            if rung != governor.rung:
                self._take_step(Step(rung, f"{style} cannot be painted at {governor.rung}"))

    def _style_failed(self, style: str, reason: ImpastoError) -> None:
        look = self._painter.look
        if look is None:
            self._problem, self.first_error = str(reason), reason
            return
        self._tell(f"style {style} cannot be used: {reason}; still painting {look.style}")
        back = self.still_there(*look.key)
        with self._lock:
            if self._settings.style != style:
                return
            changes = dict(zip(("style", "tier"), back, strict=True))
            if back == look.key:
                self._take_settings(self._settings.changed(changes))
            else:
                self.change(changes)

    def _tell(self, line: str) -> None:
        try:
            self._on_event(line)
        except Exception:  # a terminal that was closed; the threads must go on
            logger.exception("nobody could be told: %s", line)

    def _watch_loop(self) -> None:
        cards: dict[str, Picture] = {}
        while not self._stop.wait(WATCHDOG_SECONDS):
            try:
                self._watch(time.monotonic(), cards)
            except Exception:  # without this thread there would be no card
                logger.exception("the watchdog was disturbed")

    def _watch(self, now: float, cards: dict[str, Picture]) -> None:
        if self._is_watched():
            self._seen_at = now
            if self._idle:
                self._set_idle(False)
        elif self._painted and not self._idle and now - self._seen_at > IDLE_AFTER_SECONDS:
            # Not before the first painting: a snapshot may be asked for, and --seconds counts from there.
            self._set_idle(True)
        if self._idle or now - self._painted_at < HOLD_SECONDS - 2 * WATCHDOG_SECONDS:
            return
        if now - self._card_at >= CARD_EVERY_SECONDS:
            text = self._card_text()
            if text not in cards:
                cards.clear()
                cards[text] = neutral_card(self.size, text)
            self._card_at = now
            self._cards += 1
            self._publish(Painting(Frame(cards[text], Fraction(time.monotonic_ns(), 10**9)), None, card=True))

    def _is_watched(self) -> bool:
        try:
            return any(output.watched() for output in self._outputs)
        except Exception:
            logger.exception("an output does not know whether it is watched: somebody is taken to look")
            return True

    def _card_text(self) -> str:
        if self._feed.status.state not in ("live", "opening"):
            return "The camera is away for a moment"
        if self._problem:
            return "Back in a moment"
        return "" if self._painted else "Mixing the paint"

    def _set_idle(self, idle: bool) -> None:
        self._idle = idle
        self._painted_at = time.monotonic()  # no card while the first picture after the rest is on its way
        self._frames.clear()
        self._feed.set_idle(idle)
        self._tell("nobody watches: resting" if idle else "somebody watches: painting")


LADDER = (1080, 720, 540, 432, 360, 288, 240, 192)
"""Shorter sides that the governor may choose, in pixels; each has about two thirds of the last one's area."""


def _rungs(size: Size, short_side: int, tier: Tier, tiers: Collection[str]) -> list[Rung]:
    """What the governor may choose for a style that has `tiers`, when `tier` is asked for."""
    top = min(short_side, *size)
    sides = [top, *(side for side in LADDER if side < 0.95 * top)]
    fast, quality = [Rung("fast", side) for side in sides], [Rung("quality", side) for side in sides]
    if list(tiers) == ["quality"]:
        return quality
    return quality[:2] + fast if tier == "quality" else fast
