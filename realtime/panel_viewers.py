"""Pictures to whoever looks: MJPEG, WebRTC and WebSockets; a slow reader loses pictures, and nobody else does."""

import asyncio
import json
import logging
import socket
import struct

from aiohttp import WSMsgType, web

from .live_jpeg import Jpeg, JpegHub, Viewer
from .live_webrtc import WebRtcHub
from .panel_api import MOST_JSON_BYTES
from .panel_guard import SECURITY_HEADERS, Refused
from .panel_run import PanelRun

logger = logging.getLogger(__name__)

STUCK_SECONDS = 10.0
"""A viewer that takes no picture for so long is let go."""
STATE_SECONDS = 0.5
SEND_BUFFER_BYTES = 64 * 1024
"""Small, so that a slow reader waits for new pictures instead of working through old ones."""

_PICTURE = struct.Struct("<BB")
"""Before each picture: 1 if the camera's own stands below the painting in one tall picture; 1 for the neutral card."""


class PanelViewers:
    """Handlers that stay open as long as somebody looks."""

    def __init__(self, run: PanelRun, hub: JpegHub, webrtc: WebRtcHub) -> None:
        self._run, self._hub, self._webrtc = run, hub, webrtc
        self._finish = asyncio.Event()
        self._sockets: set[web.WebSocketResponse] = set()

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/output.mjpeg", self.mjpeg),
            web.post("/output/whep", self.whep),
            web.get("/output/live", self.output_socket),
            web.get("/api/live", self.live_socket),
        ]

    async def close(self) -> None:
        """Say good-bye to everybody."""
        self._finish.set()
        await self._webrtc.hang_up()
        for open_socket in tuple(self._sockets):
            await open_socket.close(code=1001, message=b"the program ends")

    async def mjpeg(self, request: web.Request) -> web.StreamResponse:
        viewer = self.join(compare=False)
        response = web.StreamResponse(
            headers={"Content-Type": "multipart/x-mixed-replace; boundary=frame"} | SECURITY_HEADERS
        )
        try:
            await response.prepare(request)
            _keep_buffer_small(request)
            while not self._finish.is_set():
                jpeg = await next_picture(viewer)
                if jpeg is None:
                    continue
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg.data)}\r\n\r\n"
                await asyncio.wait_for(response.write(head.encode() + jpeg.data + b"\r\n"), STUCK_SECONDS)
                viewer.delivered(jpeg)
        except (ConnectionError, TimeoutError):
            logger.debug("an MJPEG viewer left")
            if request.transport is not None:
                request.transport.abort()
        finally:
            self._hub.leave(viewer)
        return response

    async def whep(self, request: web.Request) -> web.StreamResponse:
        if request.content_type != "application/sdp":
            raise Refused(415, "offer must be application/sdp")
        try:
            answer = await self._webrtc.answer((await request.read()).decode())
        except ConnectionRefusedError as exc:
            raise Refused(503, str(exc)) from exc
        self._run.wake()
        return web.Response(
            status=201, text=answer, content_type="application/sdp", headers={"Location": "/output/whep"}
        )

    async def output_socket(self, request: web.Request) -> web.StreamResponse:
        return await self._talk(request, control=False)

    async def live_socket(self, request: web.Request) -> web.StreamResponse:
        return await self._talk(request, control=True)

    async def _talk(self, request: web.Request, *, control: bool) -> web.StreamResponse:
        socket = web.WebSocketResponse(max_msg_size=MOST_JSON_BYTES, heartbeat=STUCK_SECONDS, compress=False)
        await socket.prepare(request)
        _keep_buffer_small(request)
        self._sockets.add(socket)
        try:
            await _Client(self, self._run, socket, control=control).serve()
        except (ConnectionError, Refused) as exc:
            logger.debug("a socket ended: %s", exc)
        finally:
            self._sockets.discard(socket)
            await socket.close()
        return socket

    def join(self, *, compare: bool) -> Viewer:
        try:
            viewer = self._hub.join(compare=compare)
        except ConnectionRefusedError as exc:
            raise Refused(503, str(exc)) from exc
        self._run.wake()
        return viewer

    def leave(self, viewer: Viewer) -> None:
        """A viewer has gone."""
        self._hub.leave(viewer)


class _Client:
    """One open page: pictures as fast as it acknowledges them; for a panel also the state, twice a second.

    Two pictures may be under way, so that one travels while the other is drawn.
    """

    def __init__(self, viewers: "PanelViewers", run: PanelRun, socket: web.WebSocketResponse, *, control: bool) -> None:
        self._viewers, self._run, self._socket, self._control = viewers, run, socket, control
        self._viewer: Viewer | None = None
        self._joined = asyncio.Event()
        self._acks = asyncio.Semaphore(2)
        self._awaiting: list[tuple[Viewer, Jpeg]] = []

    async def serve(self) -> None:
        tasks = [asyncio.create_task(self._send_pictures())]
        if self._control:
            tasks.append(asyncio.create_task(self._send_state()))
        else:
            self._view("painted")
        try:
            async for message in self._socket:
                if message.type is WSMsgType.TEXT:
                    await self._obey(message.data)
        finally:
            self._view("off")
            for task in tasks:
                await _cancelled(task)

    async def _obey(self, text: str) -> None:
        try:
            try:
                command = json.loads(text)
            except (json.JSONDecodeError, RecursionError) as exc:
                raise ValueError(f"message must be JSON: {exc}") from exc
            if not isinstance(command, dict):
                raise ValueError("message must be a JSON object")
            if "ack" in command:
                self._acknowledged()
            if not self._control:
                return
            if "view" in command:
                self._view(command["view"])
            if "set" in command:
                if not isinstance(command["set"], dict):
                    raise ValueError(f"set must be a JSON object, got {type(command['set']).__name__}")
                await self._run.call(self._run.controls.set, command["set"])
            if "key" in command:
                await self._run.call(self._run.controls.press, str(command["key"]))
        except (ValueError, AttributeError, TypeError) as exc:
            await self._socket.send_json({"error": str(exc)})

    def _acknowledged(self) -> None:
        if self._awaiting:
            viewer, jpeg = self._awaiting.pop(0)
            viewer.delivered(jpeg)
            self._acks.release()

    def _view(self, what: object) -> None:
        if what not in ("painted", "compare", "off"):
            raise ValueError(f"view must be painted, compare or off, got {what!r}")
        if self._viewer is not None:
            self._viewers.leave(self._viewer)
            self._viewer = None
            self._joined.clear()
        if what != "off":
            self._viewer = self._viewers.join(compare=what == "compare")
            self._joined.set()

    async def _send_state(self) -> None:
        while not self._socket.closed:
            state = await self._run.call(self._run.controls.state)
            await self._socket.send_json(state)
            await asyncio.sleep(STATE_SECONDS)

    async def _send_pictures(self) -> None:
        while not self._socket.closed:
            await self._acks.acquire()  # first, or the picture would be one from before the page had room for it
            viewer, jpeg = await self._newest()
            self._awaiting.append((viewer, jpeg))
            await self._socket.send_bytes(_PICTURE.pack(viewer.compare, jpeg.card) + jpeg.data)

    async def _newest(self) -> tuple[Viewer, Jpeg]:
        while True:
            await self._joined.wait()
            viewer = self._viewer
            if viewer is not None and (jpeg := await next_picture(viewer)) is not None and viewer is self._viewer:
                return viewer, jpeg


async def next_picture(viewer: Viewer) -> Jpeg | None:
    """The newest picture that the viewer has not seen; None if none comes for a second, or none ever will."""
    try:
        return await asyncio.wait_for(viewer.take(), 1.0)
    except TimeoutError:
        return None


def _keep_buffer_small(request: web.Request) -> None:
    if request.transport is None:
        return
    request.transport.set_write_buffer_limits(high=SEND_BUFFER_BYTES)
    raw = request.transport.get_extra_info("socket")
    if raw is not None:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)


async def _cancelled(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
