"""Pictures for browsers: each frame is compressed once and every viewer takes the newest when it is ready."""

import asyncio
import logging
import threading
import time
from dataclasses import dataclass

import numpy as np

from .frame import Picture
from .live_meter import LatencyMeter
from .live_output import OutputState, OutputStatus, Painting
from .live_painter import resize
from .slot import LatestSlot

logger = logging.getLogger(__name__)

QUALITY = 85
MOST_VIEWERS = 32
COMPARE_LIMIT = 720
"""Shorter side of each half of the comparison view."""


@dataclass(frozen=True, eq=False)
class Jpeg:
    """A compressed picture and when it was captured, in seconds of the monotonic clock."""

    data: bytes
    captured_at: float
    card: bool


class Viewer:
    """One reader: a slot of its own in the event loop's thread. Slow readers lose frames, nobody else does."""

    def __init__(self, hub: "JpegHub", *, compare: bool) -> None:
        self.compare = compare
        self.dropped = 0
        self._hub = hub
        self._latest: Jpeg | None = None
        self._ready = asyncio.Event()
        self._gone = False

    def offer(self, jpeg: Jpeg) -> None:
        """Leave a picture, replacing one that was not taken."""
        if self._latest is not None:
            self.dropped += 1
            self._hub.dropped += 1
        self._latest = jpeg
        self._ready.set()

    async def take(self) -> Jpeg | None:
        """The newest picture, waiting for it; None once the reader has left."""
        while not self._gone:
            await self._ready.wait()
            self._ready.clear()
            jpeg, self._latest = self._latest, None
            if jpeg is not None:
                return jpeg
        return None

    def leave(self) -> None:
        """Let go of who waits for a picture: none will come."""
        self._gone = True
        self._ready.set()

    def delivered(self, jpeg: Jpeg) -> None:
        """Say that the picture has reached the reader."""
        if not jpeg.card:
            self._hub.meter.add((time.monotonic() - jpeg.captured_at) * 1e3)


class JpegHub:
    """An output of the session (it has `slot`, `watched`, `status` and `close` as `LiveOutput` does).

    Painting arrives in its own thread, is compressed there, and goes to the viewers in the event loop's thread.
    """

    name = "browser"

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.slot: LatestSlot[Painting] = LatestSlot()
        self.meter = LatencyMeter()
        self.dropped = 0
        self._loop = loop
        self._viewers: set[Viewer] = set()
        self._latest: Jpeg | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="impasto-jpeg", daemon=True)
        self._thread.start()

    def watched(self) -> bool:
        """Whether any viewer is connected."""
        return bool(self._viewers)

    def compared(self) -> bool:
        """Whether any viewer wants the camera's picture beside the painting."""
        return any(viewer.compare for viewer in self._viewers)

    @property
    def status(self) -> OutputStatus:
        count = len(self._viewers)
        state: OutputState = "running" if count else "waiting"
        message = f"{count} viewer{'s' if count != 1 else ''}"
        return OutputStatus(self.name, state, message, self.dropped, self.meter.recent())

    def join(self, *, compare: bool = False) -> Viewer:
        """A new viewer, or `ConnectionRefusedError` if there are too many. Call from the event loop."""
        if len(self._viewers) >= MOST_VIEWERS:
            raise ConnectionRefusedError(f"viewers must be at most {MOST_VIEWERS}")
        viewer = Viewer(self, compare=compare)
        self._viewers = {*self._viewers, viewer}
        return viewer

    def leave(self, viewer: Viewer) -> None:
        """Forget a viewer."""
        self._viewers = self._viewers - {viewer}
        viewer.leave()

    def close(self) -> None:
        """Stop compressing; viewers are the server's to close."""
        self._stop.set()
        self.slot.close()
        if threading.current_thread() is not self._thread:
            self._thread.join(5.0)

    def _run(self) -> None:
        while not self._stop.is_set():
            painting = self.slot.take(1.0)
            if painting is None or not self._viewers:
                continue
            try:
                self._compress(painting)
            except RuntimeError:  # the event loop has closed
                return

    def _compress(self, painting: Painting) -> None:
        captured_at = float(painting.frame.pts)
        viewers = self._viewers
        if plain := [viewer for viewer in viewers if not viewer.compare]:
            self._hand_over(plain, Jpeg(encode_jpeg(painting.frame.data), captured_at, painting.card))
        if compare := [viewer for viewer in viewers if viewer.compare]:
            original = painting.original if painting.original is not None else painting.frame.data
            stacked = np.concatenate([_limited(painting.frame.data), _limited(original)])
            self._hand_over(compare, Jpeg(encode_jpeg(stacked), captured_at, painting.card))

    def _hand_over(self, viewers: list[Viewer], jpeg: Jpeg) -> None:
        def offer() -> None:
            for viewer in viewers:
                viewer.offer(jpeg)

        self._loop.call_soon_threadsafe(offer)


def encode_jpeg(picture: Picture) -> bytes:
    """A JPEG file of (H, W, 3) uint8 RGB."""
    return _encode(picture, ".jpg", "IMWRITE_JPEG_QUALITY", QUALITY)


def encode_png(picture: Picture) -> bytes:
    """A PNG file of (H, W, 3) uint8 RGB."""
    return _encode(picture, ".png", "IMWRITE_PNG_COMPRESSION", 3)


def _encode(picture: Picture, suffix: str, option: str, value: int) -> bytes:
    import cv2

    ok, data = cv2.imencode(suffix, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [getattr(cv2, option), value])
    if not ok:
        raise ValueError(f"picture must be one that {suffix} can hold, got {picture.shape}")
    return bytes(data)


def _limited(picture: Picture) -> Picture:
    scale = min(1.0, COMPARE_LIMIT / min(picture.shape[:2]))
    height, width = (round(edge * scale) for edge in picture.shape[:2])
    return resize(picture, (height, width))
