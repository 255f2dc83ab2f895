"""One output of a live run: its own thread, its own one-slot hand-over, its own counters and its own failures."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, Protocol

from .errors import SinkError
from .frame import Frame, Picture, StreamInfo
from .live_meter import LatencyMeter, LatencySummary
from .sink import Sink
from .slot import LatestSlot

logger = logging.getLogger(__name__)

OutputState = Literal["waiting", "running", "retrying", "failed", "closed"]
OpenSink = Callable[[StreamInfo], Sink]

RECONNECT_SECONDS = (1.0, 2.0, 5.0, 10.0)
"""Pauses before a network output is opened again; the last one for ever."""


@dataclass(frozen=True, eq=False)
class Painting:
    """What goes to the outputs."""

    frame: Frame
    """Painted, or a card; pts is the time of capture on the monotonic clock."""
    original: Picture | None
    """The camera's picture, only for the panel's own comparison view and only while it is asked for."""
    card: bool
    """True if this is the neutral card."""


@dataclass(frozen=True)
class OutputStatus:
    """An output at one moment."""

    name: str
    state: OutputState
    message: str
    dropped: int
    latency: LatencySummary


class Outlet(Protocol):
    """What the session needs of an output."""

    name: str
    slot: LatestSlot[Painting]
    meter: LatencyMeter

    @property
    def status(self) -> OutputStatus: ...

    def watched(self) -> bool:
        """Whether anybody sees this output; while nobody sees any, painting rests."""

    def close(self) -> None:
        """Finish; safe to call twice."""


class LiveOutput:
    """Runs a sink beside the others: whatever it does, nobody else waits for it.

    The sink is opened in this output's own thread when the first picture comes. If it fails it is closed and, when
    `retry_seconds` says so, opened again; the others go on either way.
    """

    def __init__(
        self,
        name: str,
        open_sink: OpenSink,
        *,
        frame_rate: Fraction,
        retry_seconds: Sequence[float] = (),
        begin_with_card: bool = True,
        watched: Callable[[], bool] = lambda: True,
        on_change: Callable[[OutputStatus], None] = lambda status: None,
    ) -> None:
        """
        Args:
            name: what messages and the panel call it.
            open_sink: gives the sink for a stream of the size that comes.
            frame_rate: nominal, for sinks that want one.
            retry_seconds: pauses before opening it again, the last for ever; empty for never.
            begin_with_card: False opens the sink only at the first painted picture, as a recording should.
            watched: tells whether anybody sees this output; while nobody sees any, painting rests.
            on_change: gets the status when the state changes; called from this output's thread.
        """
        self.name = name
        self._begin_with_card = begin_with_card
        self._watched = watched
        self.slot: LatestSlot[Painting] = LatestSlot()
        self.meter = LatencyMeter()
        self._open_sink = open_sink
        self._frame_rate = frame_rate
        self._retry_seconds = tuple(retry_seconds)
        self._on_change = on_change
        self._state: OutputState = "waiting"
        self._message = self._warning = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"impasto-out-{name}", daemon=True)
        self._thread.start()

    @property
    def status(self) -> OutputStatus:
        return OutputStatus(self.name, self._state, self._message, self.slot.dropped, self.meter.recent())

    def watched(self) -> bool:
        return self._state != "failed" and self._watched()

    def warn(self, message: str) -> None:
        """Tell of something that the sink goes on in spite of; may be called from any thread."""
        self._warning = message
        if self._state == "running":
            self._tell("running", message)

    def close(self, *, timeout_seconds: float = 5.0) -> None:
        """Let the sink finish; one that does not within the time is left behind (its thread is a daemon)."""
        self._stop.set()
        self.slot.close()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout_seconds)
            if self._thread.is_alive():
                logger.warning("%s did not close within %g s", self.name, timeout_seconds)

    def _run(self) -> None:
        failures = 0
        while not self._stop.is_set():
            first = self.slot.take(1.0)
            if first is None or (first.card and not self._begin_with_card):
                continue
            started = time.monotonic()
            try:
                self._serve(first)
            except SinkError as exc:
                failures = 0 if time.monotonic() - started > 30.0 else failures
                if not self._retry_seconds:
                    self._tell("failed", str(exc))
                    return
                pause = self._retry_seconds[min(failures, len(self._retry_seconds) - 1)]
                failures += 1
                self._tell("retrying", f"{exc}; trying again in {pause:g} s")
                self._stop.wait(pause)
                self.slot.clear()
            except Exception as exc:  # a sink of a stranger: it must not take the run down, nor vanish in silence
                logger.exception("output %s broke", self.name)
                self._tell("failed", f"{type(exc).__name__}: {exc}")
                return
        self._tell("closed", "")

    def _serve(self, first: Painting) -> None:
        height, width, _ = first.frame.data.shape
        info = StreamInfo(width=width, height=height, frame_rate=self._frame_rate, live=True)
        self._warning = ""
        with self._open_sink(info) as sink:
            self._tell("running", "")
            if self._warning:  # it came while the sink was being opened
                self._tell("running", self._warning)
            painting: Painting | None = first
            while not self._stop.is_set():
                if painting is not None:
                    sink.write(painting.frame)
                    if not painting.card:
                        self.meter.add((time.monotonic() - float(painting.frame.pts)) * 1e3)
                painting = self.slot.take(1.0)

    def _tell(self, state: OutputState, message: str) -> None:
        self._state, self._message = state, message
        self._on_change(self.status)
