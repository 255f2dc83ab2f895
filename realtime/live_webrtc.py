"""The painted picture by WebRTC, for viewers elsewhere: less than a tenth of MJPEG's bandwidth, no waiting for TCP.

One request, as WHEP has it (draft-ietf-wish-whep): the viewer posts its offer, the answer comes back with all
candidates in it. aiortc encodes (VP8 or H.264, at most 3 Mbit/s by its own constants), one encoder per viewer. No STUN
server is asked, which would tell a stranger of every viewer: who is neither in this network nor in a VPN with it
reads MJPEG or a `--push`.
"""

import asyncio
import importlib
import logging
import time
from fractions import Fraction
from typing import Any

from .errors import SinkError
from .live_meter import LatencyMeter
from .live_output import OutputState, OutputStatus, Painting
from .slot import LatestSlot

logger = logging.getLogger(__name__)

MOST_PEERS = 8
CONNECT_SECONDS = 20.0
"""A viewer that made an offer and has not connected by then is gone: it would keep the program painting for ever."""
TIME_BASE = Fraction(1, 90_000)


class WebRtcHub:
    """An output of the session, as `JpegHub` is. Everything but `slot.put` happens in the event loop's thread."""

    name = "webrtc"

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.slot: LatestSlot[Painting] = _LoopSlot(self, loop)
        self.meter = LatencyMeter()
        self.dropped = 0
        self._peers: dict[Any, _Newest] = {}
        self._patience: set[asyncio.Task[None]] = set()

    def watched(self) -> bool:
        """Whether any viewer is connected."""
        return bool(self._peers)

    @property
    def status(self) -> OutputStatus:
        count = len(self._peers)
        state: OutputState = "running" if count else "waiting"
        return OutputStatus(
            self.name, state, f"{count} viewer{'s' if count != 1 else ''}", self.dropped, self.meter.recent()
        )

    def close(self) -> None:
        """Take no more pictures; `hang_up` ends the connections."""
        self.slot.close()

    async def answer(self, offer: str) -> str:
        """The session description for a viewer's; the viewer counts until its connection ends."""
        try:
            aiortc: Any = importlib.import_module("aiortc")
        except ImportError as exc:
            raise SinkError("WebRTC needs aiortc: pip install 'impasto[webrtc]'") from exc
        if len(self._peers) >= MOST_PEERS:
            raise ConnectionRefusedError(f"WebRTC viewers must be at most {MOST_PEERS}")
        peer = aiortc.RTCPeerConnection(aiortc.RTCConfiguration(iceServers=[]))  # None would ask a server of Google's
        newest = self._peers[peer] = _Newest()

        async def changed() -> None:
            if peer.connectionState in ("failed", "closed", "disconnected"):
                await self._let_go(peer)

        peer.on("connectionstatechange", changed)
        try:
            peer.addTrack(_track(newest, self))
            await peer.setRemoteDescription(aiortc.RTCSessionDescription(sdp=offer, type="offer"))
            await peer.setLocalDescription(await peer.createAnswer())
        except Exception as exc:  # aiortc raises whatever its parser met in a stranger's text
            await self._let_go(peer)
            raise ValueError(f"offer must be a session description that asks for video: {exc}") from exc
        patience = asyncio.create_task(self._let_go_unless_connected(peer))
        self._patience.add(patience)
        patience.add_done_callback(self._patience.discard)
        return str(peer.localDescription.sdp)

    async def hang_up(self) -> None:
        """End every connection."""
        for patience in self._patience:
            patience.cancel()
        peers, self._peers = list(self._peers), {}
        await asyncio.gather(*(peer.close() for peer in peers), return_exceptions=True)

    def offer(self, painting: Painting) -> None:
        """Give a picture to every viewer, in place of one that was not sent."""
        for newest in self._peers.values():
            self.dropped += newest.put(painting)

    async def _let_go_unless_connected(self, peer: Any) -> None:
        await asyncio.sleep(CONNECT_SECONDS)
        if peer.connectionState != "connected":
            await self._let_go(peer)

    async def _let_go(self, peer: Any) -> None:
        self._peers.pop(peer, None)
        await peer.close()


class _LoopSlot(LatestSlot[Painting]):
    """Hands pictures to the event loop, if anybody is there to see them."""

    def __init__(self, hub: WebRtcHub, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._hub, self._loop = hub, loop

    def put(self, item: Painting) -> None:
        if self._hub.watched() and not self.closed:
            try:
                self._loop.call_soon_threadsafe(self._hub.offer, item)
            except RuntimeError:
                logger.debug("the event loop has closed")


class _Newest:
    """A viewer's one place for a picture."""

    def __init__(self) -> None:
        self._painting: Painting | None = None
        self._ready = asyncio.Event()

    def put(self, painting: Painting) -> bool:
        """True if a picture was replaced."""
        replaced, self._painting = self._painting is not None, painting
        self._ready.set()
        return replaced

    async def take(self) -> Painting:
        while self._painting is None:
            self._ready.clear()
            await self._ready.wait()
        painting, self._painting = self._painting, None
        return painting


def _track(newest: _Newest, hub: WebRtcHub) -> Any:
    import av

    mediastreams: Any = importlib.import_module("aiortc.mediastreams")

    class PaintedTrack(mediastreams.VideoStreamTrack):  # type: ignore[misc]
        """The newest picture whenever the encoder asks."""

        async def recv(self) -> av.VideoFrame:
            painting = await newest.take()
            frame = av.VideoFrame.from_ndarray(painting.frame.data, format="rgb24")
            frame.pts, frame.time_base = round(painting.frame.pts / TIME_BASE), TIME_BASE
            if not painting.card:
                hub.meter.add((time.monotonic() - float(painting.frame.pts)) * 1e3)
            return frame

    return PaintedTrack()
