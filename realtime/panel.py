"""The control panel: one page, its REST and WebSocket interface, and the pages that OBS and players read.

Interface (JSON in and out; `Authorization: Bearer TOKEN` for programs, a cookie for the page):

| request | does |
|---|---|
| GET /?token=T | the page; the token moves into a cookie |
| GET /api/state | everything: settings, camera, latency, drops, outputs, engine |
| GET /api/styles, /api/styles/NAME/preview | the gallery, a JPEG |
| POST /api/styles (application/octet-stream) | take in a style artifact |
| POST /api/paintings?name=N (application/octet-stream) | make a style of a picture |
| POST /api/settings {style, tier, strength, keep_colors, smoothing, mirror, crossfade_seconds, mix_with, mix} | any |
| POST /api/key {key} | what a hotkey does |
| POST /api/record {on} | start or finish a recording; the file's name comes back |
| POST /api/snapshot | the painted picture, a PNG |
| GET /api/cameras, POST /api/camera {id} | list, change |
| POST /api/presets {action: save, load or delete; name} | kept looks |
| WebSocket /api/live | state as text twice a second, pictures as binary, newest only, one per `ack`; takes |
|   | {"ack": true}, {"view": "painted", "compare" or "off"}, {"set": {…}}, {"key": "n"} |
| GET /output?token=V, WebSocket /output/live, GET /output.mjpeg?token=V | the painted picture alone, to look at |
| POST /output/whep (application/sdp) with V or T as bearer | the same by WebRTC (WHEP) |

T may do everything and is new in every run; V may only look and stays, because OBS keeps the address.
"""

import asyncio
import json
import logging
import secrets
import struct
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from dataclasses import asdict
from pathlib import Path
from typing import Any

from aiohttp import WSMsgType, web

from .errors import ArtifactError, SinkError
from .live_controls import HOTKEYS, LiveControls
from .live_jpeg import Jpeg, JpegHub, Viewer
from .live_settings import delete_preset
from .live_webrtc import WebRtcHub
from .panel_guard import (
    SECURITY_HEADERS,
    Asked,
    PanelGuard,
    Refused,
    Role,
    content_security_policy,
    reachable_address,
)

logger = logging.getLogger(__name__)

MOST_CONNECTIONS = 256
FIRST_REQUEST_SECONDS = 10.0
"""A connection that has not asked for anything by then is closed."""
STUCK_SECONDS = 10.0
"""A viewer that takes no picture for so long is let go."""
STATE_SECONDS = 0.5
MOST_JSON_BYTES = 64 * 1024
MOST_UPLOAD_BYTES = 128 * 2**20
"""As large as an artifact may be."""
MOST_PAINTING_BYTES = 32 * 2**20
SEND_BUFFER_BYTES = 64 * 1024
"""Small, so that a slow reader waits for new pictures instead of working through old ones."""

VIEW_ROUTES = ("/output", "/output/live", "/output.mjpeg", "/output/whep")
QUERY_TOKEN_ROUTES = ("/", "/output", "/output/live", "/output.mjpeg")
"""Pages that a person opens, or a player reads, by the address alone."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Panel:
    """The server, in a thread of its own with its own event loop. A context manager.

    `hub` and `webrtc` are the outputs to add to the session.
    """

    def __init__(self, guard: Callable[[int], PanelGuard], *, address: str, port: int) -> None:
        """
        Args:
            guard: the rules for a port, known once the port is.
            address: to bind; 127.0.0.1 unless the user says otherwise.
            port: 0 for any free one.
        """
        self._make_guard, self._address, self._wanted_port = guard, address, port
        self._controls: LiveControls | None = None
        self._loop = asyncio.new_event_loop()
        self.hub = JpegHub(self._loop)
        self.webrtc = WebRtcHub(self._loop)
        self._wake: Callable[[], None] = lambda: None
        self._thread = threading.Thread(target=self._run, name="impasto-panel", daemon=True)
        self._started: Future[None] = Future()
        self._finish = asyncio.Event()
        self._sockets: set[web.WebSocketResponse] = set()
        self._connections = 0
        self._one_painting = asyncio.Lock()

    @property
    def port(self) -> int:
        """The port that was really bound."""
        return self._port

    @property
    def control_url(self) -> str:
        """The panel, for the user's browser."""
        return f"{self._base_url}/?token={self._guard.control_token}"

    @property
    def output_url(self) -> str:
        """The painted picture alone, for OBS' browser source."""
        return f"{self._base_url}/output?token={self._guard.view_token}"

    @property
    def mjpeg_url(self) -> str:
        """The painted picture alone, for players."""
        return f"{self._base_url}/output.mjpeg?token={self._guard.view_token}"

    def attach(self, controls: LiveControls) -> None:
        """Give the panel the run it controls; until then it answers 503."""
        controls.session.compare = self.hub.compared
        self._wake = controls.session.wake
        self._controls = controls

    def __enter__(self) -> "Panel":
        self._thread.start()
        self._started.result()
        return self

    def __exit__(self, *_: object) -> None:
        self.hub.close()
        self._loop.call_soon_threadsafe(self._finish.set)
        self._thread.join(5.0)

    @property
    def _base_url(self) -> str:
        return f"http://{reachable_address(self._address)}:{self._port}"

    # The server

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()

    async def _serve(self) -> None:
        app = web.Application(middlewares=[self._guarded], client_max_size=MOST_JSON_BYTES)
        app.add_routes(self._routes())
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await runner.setup()
        try:
            server = await self._loop.create_server(
                self._limited(runner.server), self._address, self._wanted_port, backlog=128
            )
        except OSError as exc:
            await runner.cleanup()
            where = f"{self._address}:{self._wanted_port}"
            self._started.set_exception(
                SinkError(f"panel cannot listen on {where}: {(exc.strerror or str(exc)).lower()}; try another --port")
            )
            return
        self._port: int = server.sockets[0].getsockname()[1]
        self._guard = self._make_guard(self._port)
        self._started.set_result(None)
        await self._finish.wait()
        server.close()
        await self.webrtc.hang_up()
        for socket in tuple(self._sockets):
            await socket.close(code=1001, message=b"the program ends")
        await runner.cleanup()

    def _limited(self, make: Any) -> Callable[[], asyncio.Protocol]:
        """The server's protocols, at most so many at once, none that stays silent from the start."""
        panel = self

        class Limited(web.RequestHandler):
            __slots__ = ("counted", "heard")

            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                self.heard = False
                self.counted = panel._connections < MOST_CONNECTIONS
                super().connection_made(transport)
                if not self.counted and isinstance(transport, asyncio.Transport):
                    transport.abort()
                    return
                panel._connections += 1
                panel._loop.call_later(FIRST_REQUEST_SECONDS, self.give_up)

            def data_received(self, data: bytes) -> None:
                self.heard = True
                super().data_received(data)

            def connection_lost(self, exc: BaseException | None) -> None:
                if self.counted:
                    self.counted = False
                    panel._connections -= 1
                super().connection_lost(exc)

            def give_up(self) -> None:
                if not self.heard and self.transport is not None:
                    self.transport.close()

        return lambda: Limited(make, loop=self._loop, keepalive_timeout=15.0)

    def _routes(self) -> Sequence[web.RouteDef]:
        return [
            web.get("/", self._page),
            web.get("/output", self._output_page),
            web.get("/output/live", self._output_socket),
            web.get("/output.mjpeg", self._mjpeg),
            web.post("/output/whep", self._whep),
            web.get("/api/state", self._state),
            web.get("/api/live", self._live_socket),
            web.get("/api/styles", self._styles),
            web.get("/api/styles/{name}/preview", self._preview),
            web.get("/api/cameras", self._cameras),
            web.post("/api/settings", self._set),
            web.post("/api/styles", self._upload),
            web.post("/api/paintings", self._upload_painting),
            web.post("/api/key", self._key),
            web.post("/api/record", self._record),
            web.post("/api/snapshot", self._snapshot),
            web.post("/api/camera", self._camera),
            web.post("/api/presets", self._presets),
        ]

    @web.middleware
    async def _guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        need: Role = "view" if request.path in VIEW_ROUTES else "control"
        asked = Asked(
            method=request.method,
            headers={name.lower(): value for name, value in request.headers.items()},
            query_token=request.query.get("token", ""),
            cookie_token=request.cookies.get(self._cookie, ""),
            takes_query_token=request.path in QUERY_TOKEN_ROUTES,
        )
        try:
            self._guard.check(asked, need=need)
            if self._controls is None:
                raise Refused(503, "the program is still starting")
            response = await handler(request)
        except Refused as exc:
            response = web.json_response({"error": str(exc)}, status=exc.status)
        except web.HTTPException as exc:
            response = web.json_response({"error": exc.reason}, status=exc.status)
        except (ValueError, ArtifactError, SinkError) as exc:
            response = web.json_response({"error": str(exc)}, status=400)
        if not response.prepared:
            response.headers.update(SECURITY_HEADERS | dict(response.headers))
        return response

    @property
    def _cookie(self) -> str:
        return f"impasto-{self._port}"  # cookies are shared between the ports of a host

    @property
    def controls(self) -> LiveControls:
        """The run; set before any handler is called."""
        if self._controls is None:
            raise Refused(503, "the program is still starting")
        return self._controls

    # Pages

    async def _page(self, request: web.Request) -> web.StreamResponse:
        if "token" in request.query:
            response = web.Response(status=303, headers={"Location": "/"})
            response.set_cookie(self._cookie, self._guard.control_token, httponly=True, samesite="Strict", path="/")
            return response
        return _html("panel.html")

    async def _output_page(self, request: web.Request) -> web.StreamResponse:
        return _html("output.html")

    # Pictures

    async def _mjpeg(self, request: web.Request) -> web.StreamResponse:
        viewer = self._join(compare=False)
        response = web.StreamResponse(
            headers={"Content-Type": "multipart/x-mixed-replace; boundary=frame"} | SECURITY_HEADERS
        )
        try:
            await response.prepare(request)
            _keep_buffer_small(request)
            while not self._finish.is_set():
                jpeg = await self._next(viewer)
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
            self.hub.leave(viewer)
        return response

    async def _whep(self, request: web.Request) -> web.StreamResponse:
        if request.content_type != "application/sdp":
            raise Refused(415, "offer must be application/sdp")
        try:
            answer = await self.webrtc.answer(await request.text())
        except ConnectionRefusedError as exc:
            raise Refused(503, str(exc)) from exc
        self._wake()
        return web.Response(
            status=201, text=answer, content_type="application/sdp", headers={"Location": "/output/whep"}
        )

    async def _output_socket(self, request: web.Request) -> web.StreamResponse:
        return await self._talk(request, control=False)

    async def _live_socket(self, request: web.Request) -> web.StreamResponse:
        return await self._talk(request, control=True)

    async def _talk(self, request: web.Request, *, control: bool) -> web.StreamResponse:
        socket = web.WebSocketResponse(max_msg_size=MOST_JSON_BYTES, heartbeat=STUCK_SECONDS, compress=False)
        await socket.prepare(request)
        _keep_buffer_small(request)
        self._sockets.add(socket)
        try:
            await _Client(self, socket, control=control).serve()
        except (ConnectionError, Refused) as exc:
            logger.debug("a socket ended: %s", exc)
        finally:
            self._sockets.discard(socket)
            await socket.close()
        return socket

    def _join(self, *, compare: bool) -> Viewer:
        try:
            viewer = self.hub.join(compare=compare)
        except ConnectionRefusedError as exc:
            raise Refused(503, str(exc)) from exc
        self._wake()
        return viewer

    async def _next(self, viewer: Viewer) -> Jpeg | None:
        try:
            return await asyncio.wait_for(viewer.take(), 1.0)
        except TimeoutError:
            return None

    # Reading and changing the state

    async def _state(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(await self._off_loop(self.controls.state))

    async def _styles(self, request: web.Request) -> web.StreamResponse:
        entries = await self._off_loop(self.controls.shelf.entries)
        return web.json_response({"styles": [asdict(entry) for entry in entries], "hotkeys": dict(HOTKEYS)})

    async def _preview(self, request: web.Request) -> web.StreamResponse:
        jpeg = await self._off_loop(self.controls.shelf.preview, request.match_info["name"])
        if jpeg is None:
            raise Refused(404, "no such style")
        return web.Response(body=jpeg, content_type="image/jpeg", headers={"Cache-Control": "private, max-age=300"})

    async def _cameras(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"cameras": await self._off_loop(self.controls.cameras)})

    async def _set(self, request: web.Request) -> web.StreamResponse:
        changes = await _json(request)
        return web.json_response(asdict(await self._off_loop(self.controls.set, changes)))

    async def _key(self, request: web.Request) -> web.StreamResponse:
        await self._off_loop(self.controls.press, _text(await _json(request), "key"))
        return web.json_response({})

    async def _record(self, request: web.Request) -> web.StreamResponse:
        on = (await _json(request)).get("on")
        if not isinstance(on, bool):
            raise ValueError(f"on must be true or false, got {on!r}")
        path = await self._off_loop(self.controls.start_recording if on else self.controls.stop_recording)
        return web.json_response({"name": path.name if path else None})

    async def _snapshot(self, request: web.Request) -> web.StreamResponse:
        png = await self._off_loop(self.controls.snapshot_png)
        return web.Response(body=png, content_type="image/png")

    async def _camera(self, request: web.Request) -> web.StreamResponse:
        await self._off_loop(self.controls.set_camera, _text(await _json(request), "id"))
        return web.json_response({})

    async def _presets(self, request: web.Request) -> web.StreamResponse:
        body = await _json(request)
        actions: dict[str, Callable[[str], object]] = {
            "save": self.controls.save_preset, "load": self.controls.load_preset, "delete": delete_preset,
        }  # fmt: skip
        action = _text(body, "action")
        if action not in actions:
            raise ValueError(f"action must be one of {', '.join(actions)}, got {action!r}")
        await self._off_loop(actions[action], _text(body, "name"))
        return web.json_response(await self._off_loop(self.controls.state))

    async def _upload(self, request: web.Request) -> web.StreamResponse:
        """The body is the file; its name is of no interest, the artifact says its own."""
        if request.content_type != "application/octet-stream":
            raise Refused(415, "upload must be application/octet-stream")
        if request.content_length is not None and request.content_length > MOST_UPLOAD_BYTES:
            raise Refused(413, f"upload must be at most {MOST_UPLOAD_BYTES >> 20} MB")
        path = await self._off_loop(_new_upload)
        try:
            with path.open("wb") as file:
                size = 0
                async for chunk in request.content.iter_chunked(1 << 16):
                    size += len(chunk)
                    if size > MOST_UPLOAD_BYTES:
                        raise Refused(413, f"upload must be at most {MOST_UPLOAD_BYTES >> 20} MB")
                    file.write(chunk)
            entry = await self._off_loop(self.controls.shelf.add, path)
        except ArtifactError as exc:
            # The message names our temporary file; the person knows another name, or none.
            raise ValueError(str(exc).replace(str(path), "the file")) from exc
        finally:
            path.unlink(missing_ok=True)
        return web.json_response(asdict(entry))

    async def _upload_painting(self, request: web.Request) -> web.StreamResponse:
        """The body is a picture file; the query says what the person calls it."""
        if request.content_type != "application/octet-stream":
            raise Refused(415, "upload must be application/octet-stream")
        too_large = Refused(413, f"painting must be at most {MOST_PAINTING_BYTES >> 20} MB")
        if request.content_length is not None and request.content_length > MOST_PAINTING_BYTES:
            raise too_large
        data = bytearray()
        async for chunk in request.content.iter_chunked(1 << 16):
            data += chunk
            if len(data) > MOST_PAINTING_BYTES:
                raise too_large
        async with self._one_painting:  # a picture takes memory while it is read
            name = request.query.get("name", "")[:200]
            entry = await self._off_loop(self.controls.shelf.add_painting, bytes(data), name)
        return web.json_response(asdict(entry))

    async def _off_loop(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await self._loop.run_in_executor(None, function, *arguments)


class _Client:
    """One open page: pictures as fast as it acknowledges them; for a panel also the state, twice a second.

    Two pictures may be under way, so that one travels while the other is drawn.
    """

    def __init__(self, panel: Panel, socket: web.WebSocketResponse, *, control: bool) -> None:
        self._panel, self._socket, self._control = panel, socket, control
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
            command = json.loads(text)
            if not isinstance(command, dict):
                raise ValueError("message must be a JSON object")
            if "ack" in command:
                self._acknowledged()
            if not self._control:
                return
            if "view" in command:
                self._view(command["view"])
            if "set" in command:
                await self._panel._off_loop(self._panel.controls.set, command["set"])
            if "key" in command:
                await self._panel._off_loop(self._panel.controls.press, str(command["key"]))
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
            self._panel.hub.leave(self._viewer)
            self._viewer = None
            self._joined.clear()
        if what != "off":
            self._viewer = self._panel._join(compare=what == "compare")
            self._joined.set()

    async def _send_state(self) -> None:
        while not self._socket.closed:
            state = await self._panel._off_loop(self._panel.controls.state)
            await self._socket.send_json(state)
            await asyncio.sleep(STATE_SECONDS)

    async def _send_pictures(self) -> None:
        while not self._socket.closed:
            await self._joined.wait()
            viewer = self._viewer
            if viewer is None or (jpeg := await self._panel._next(viewer)) is None or viewer is not self._viewer:
                continue
            await self._acks.acquire()
            self._awaiting.append((viewer, jpeg))
            await self._socket.send_bytes(_PICTURE.pack(viewer.compare, jpeg.card) + jpeg.data)


_PICTURE = struct.Struct("<BB")
"""Before each picture: 1 if the camera's own stands below the painting in one tall picture; 1 for the neutral card."""


def _html(name: str) -> web.Response:
    nonce = secrets.token_urlsafe(12)
    text = Path(__file__).with_name(name).read_text(encoding="utf-8").replace("{nonce}", nonce)
    return web.Response(
        text=text, content_type="text/html", headers={"Content-Security-Policy": content_security_policy(nonce)}
    )


async def _json(request: web.Request) -> dict[str, Any]:
    if request.content_type != "application/json":  # also what no cross-site form can send
        raise Refused(415, "body must be application/json")
    try:
        body = json.loads(await request.text())
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise ValueError(f"body must be JSON: {exc}") from exc
    if not isinstance(body, dict):
        raise ValueError(f"body must be a JSON object, got {type(body).__name__}")
    return body


def _text(body: dict[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a text, got {value!r}")
    return value


def _new_upload() -> Path:
    from ..assets import user_styles

    user_styles().mkdir(parents=True, exist_ok=True)
    return user_styles() / f".upload-{secrets.token_hex(8)}.onnx"


def _keep_buffer_small(request: web.Request) -> None:
    import socket

    if request.transport is None:
        return
    request.transport.set_write_buffer_limits(high=SEND_BUFFER_BYTES)
    raw = request.transport.get_extra_info("socket")
    if raw is not None:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)


async def _cancelled(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
