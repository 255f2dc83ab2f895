"""Times across an encoder: it counts frames at the nominal rate, its packets get the frames' own times back."""

from fractions import Fraction

from av.packet import Packet
from av.video.stream import VideoStream

from .frame import Frame

MAX_REORDER = 64
"""No encoder here holds a frame back by more packets than this once its neighbours are out (H.264 allows 16)."""


MAX_DELAY = 16
"""Packets that decoding may run ahead of showing, as much as any codec here allows."""


class FrameClock:
    """Counts frames for the encoder and gives its packets the real times.

    Encoders then write 29.97 and not 30000 per second into their headers, and none stumbles over variable rates.
    Decode times are the presentation times in order, late by the encoder's reordering delay: never above a packet's
    own pts, always rising, and the same whether a film is encoded in one go or in segments.
    """

    def __init__(self, time_base: Fraction, frame_rate: Fraction) -> None:
        self.time_base = time_base
        self._nominal = max(1, round(1 / (frame_rate * time_base)))
        self._first = 0
        self._count = self._packets = self._delay = 0
        self._times: dict[int, tuple[int, int]] = {}

    def ticks(self, frame: Frame) -> tuple[int, int]:
        """A frame's pts and duration in ticks; 0 for a duration that is not known."""
        duration = 0 if frame.duration is None else round(frame.duration / self.time_base)
        return round(frame.pts / self.time_base), duration

    def add(self, pts: int, duration: int) -> int:
        """Note the next frame's time in ticks; returns its number, the encoder's pts."""
        if not self._count:
            self._first = pts
        self._times[self._count] = (pts, duration)
        self._count += 1
        return self._count - 1

    def restore(self, packet: "Packet[VideoStream]", number: int, delay: int | None = None) -> None:
        """Give the packet of frame `number` its times; packets come in decode order.

        Args:
            packet: as the encoder made it.
            number: of its frame, as `add` counted.
            delay: packets that decoding runs ahead; None takes it from the first packet.
        """
        if not self._packets:
            told = number - (packet.dts if packet.dts is not None else number)
            # Out of its range the encoder's word is no time at all: x265 leaves it unset for very short films.
            self._delay = delay if delay is not None else min(max(told, 0), MAX_DELAY)
        late = self._packets - self._delay
        packet.pts, packet.duration = self._times[number]
        packet.dts = self._times[late][0] if late >= 0 else self._first + late * self._nominal
        packet.time_base = self.time_base
        self._packets += 1
        # Packets come in decode order: a number this far back was handed out already, as pts and as dts.
        self._times.pop(late - MAX_REORDER, None)
