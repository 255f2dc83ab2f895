"""The control panel: one page, its REST and WebSocket interface, and the pages that OBS and players read.

Interface (JSON in and out; `Authorization: Bearer TOKEN` for programs, a cookie for the page):

| request | does |
|---|---|
| GET /?token=T | the page; the token moves into a cookie |
| GET /api/state | everything: settings, camera, latency, drops, outputs, engine |
| GET /api/styles, /api/styles/NAME/preview | the gallery, a JPEG |
| POST /api/styles (application/octet-stream) | take in a style artifact |
| POST /api/paintings?name=N (application/octet-stream) | make a style of a picture |
| POST /api/styles/NAME/remove {} | take away a style of the user's own |
| POST /api/settings {style, tier, strength, keep_colors, smoothing, mirror, crossfade_seconds, mix_with, mix} | any |
| POST /api/key {key} | what a hotkey does |
| POST /api/record {on} | start or finish a recording; the name of its file comes back, null where none was saved |
| POST /api/snapshot | the painted picture, a PNG |
| GET /api/cameras, POST /api/camera {id} | list, change |
| POST /api/presets {action: save, load or delete; name; overwrite} | kept looks |
| WebSocket /api/live | state as text twice a second, pictures as binary, newest only, one per `ack`; takes |
|   | {"ack": true}, {"view": "painted", "compare" or "off"}, {"set": {…}}, {"key": "n"} |
| GET /output?token=V, WebSocket /output/live, GET /output.mjpeg?token=V | the painted picture alone, to look at |
| POST /output/whep (application/sdp) with V or T as bearer | the same by WebRTC (WHEP) |

T may do everything and is new in every run; V may only look and stays, because OBS keeps the address.
"""

import asyncio
import errno
import logging
import secrets
import socket
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from pathlib import Path

from aiohttp import web

from .errors import ImpastoError, SinkError
from .live_controls import LiveControls
from .live_jpeg import JpegHub
from .live_webrtc import WebRtcHub
from .panel_api import MOST_JSON_BYTES, PanelApi
from .panel_connections import ConnectionLimit
from .panel_guard import (
    SECURITY_HEADERS,
    Asked,
    PanelGuard,
    Refused,
    Role,
    content_security_policy,
    reachable_address,
)
from .panel_run import PanelRun
from .panel_viewers import PanelViewers

logger = logging.getLogger(__name__)

VIEW_ROUTES = ("/output", "/output/live", "/output.mjpeg", "/output/whep")
QUERY_TOKEN_ROUTES = ("/", "/output", "/output/live", "/output.mjpeg")
"""Pages that a person opens, or a player reads, by the address alone."""
EARLY_ROUTES = ("/", "/output")
"""Pages that are there before the run has begun: their scripts try again until it has."""
EXPIRED = "Impasto: this address is of an earlier run. Open the one that the program printed last, after `panel:`.\n"
BACKLOG = 128

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
        self._loop = asyncio.new_event_loop()
        self._live = PanelRun(self._loop)
        self.hub = JpegHub(self._loop)
        self.webrtc = WebRtcHub(self._loop)
        self._viewers = PanelViewers(self._live, self.hub, self.webrtc)
        self.connections = ConnectionLimit(self._loop)
        self._thread = threading.Thread(target=self._run, name="impasto-panel", daemon=True)
        self._started: Future[None] = Future()
        self._finish = asyncio.Event()

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
        """Give the panel the run it controls; until then all but its pages answer 503."""
        controls.session.compare = self.hub.compared
        self._live.attach(controls)

    def __enter__(self) -> "Panel":
        self._thread.start()
        try:
            self._started.result()
        except Exception:
            self.hub.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.hub.close()
        self._loop.call_soon_threadsafe(self._finish.set)
        self._thread.join(5.0)
        self._live.close()

    @property
    def _base_url(self) -> str:
        return f"http://{reachable_address(self._address)}:{self._port}"

    # The server

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        except Exception as exc:
            if self._started.done():
                raise
            self._started.set_exception(exc)
        finally:
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()

    async def _serve(self) -> None:
        app = web.Application(middlewares=[self._guarded], client_max_size=MOST_JSON_BYTES)
        app.add_routes([web.get("/", self._page), web.get("/output", self._output_page)])
        app.add_routes(self._viewers.routes())
        app.add_routes(PanelApi(self._live).routes())
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await runner.setup()
        try:
            server = await self._listen(self.connections.protocols(runner.server))
        except (OSError, ValueError) as exc:
            await runner.cleanup()
            raise _listen_error(self._address, self._wanted_port, exc) from exc
        self._port: int = server.sockets[0].getsockname()[1]
        self._guard = self._make_guard(self._port)
        self._started.set_result(None)
        await self._finish.wait()
        server.close()
        await self._viewers.close()
        await runner.cleanup()

    async def _listen(self, protocols: Callable[[], asyncio.Protocol]) -> asyncio.Server:
        where = self._address, self._wanted_port
        if self._address != "::":
            return await self._loop.create_server(protocols, *where, backlog=BACKLOG)
        # asyncio's own socket would answer to IPv6 alone.
        both = socket.create_server(where, family=socket.AF_INET6, dualstack_ipv6=True, backlog=BACKLOG)
        return await self._loop.create_server(protocols, sock=both, backlog=BACKLOG)

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
            if not self._live.attached and request.path not in EARLY_ROUTES:
                raise Refused(503, "the program is still starting")
            response = await handler(request)
        except Refused as exc:
            response = web.json_response({"error": str(exc)}, status=exc.status)
            if request.path == "/" and exc.status == 401:  # a person reads this
                response = web.Response(text=EXPIRED, status=exc.status)
        except web.HTTPException as exc:
            response = web.json_response({"error": exc.reason}, status=exc.status)
        except (ValueError, ImpastoError) as exc:
            response = web.json_response({"error": str(exc)}, status=400)
        except Exception as exc:
            if request.writer.output_size:
                raise  # a stream that broke: nothing more can be said on it
            logger.debug("%s %s failed", request.method, request.path, exc_info=True)
            response = web.json_response({"error": _reason(exc)}, status=500)
        if not response.prepared:
            response.headers.update(SECURITY_HEADERS | dict(response.headers))
        return response

    @property
    def _cookie(self) -> str:
        return f"impasto-{self._port}"  # cookies are shared between the ports of a host

    # Pages

    async def _page(self, request: web.Request) -> web.StreamResponse:
        if "token" in request.query:
            response = web.Response(status=303, headers={"Location": "/"})
            response.set_cookie(self._cookie, self._guard.control_token, httponly=True, samesite="Strict", path="/")
            return response
        return _html("panel.html")

    async def _output_page(self, request: web.Request) -> web.StreamResponse:
        return _html("output.html")


def _listen_error(address: str, port: int, exc: OSError | ValueError) -> SinkError | ValueError:
    code = exc.errno if isinstance(exc, OSError) else None
    if isinstance(exc, socket.gaierror) or code in (None, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
        return ValueError(f"listen must be an address of this machine, got {address!r}")
    where = f"panel cannot listen on {address}:{port}"
    if code == errno.EADDRINUSE:
        return SinkError(f"{where}: another program does; try another --port")
    return SinkError(f"{where}: {(exc.strerror if isinstance(exc, OSError) else None) or exc}")


def _reason(exc: Exception) -> str:
    if not isinstance(exc, OSError):
        return f"internal error, {type(exc).__name__}: {exc}"
    reason = (exc.strerror or str(exc)).lower()
    return f"{exc.filename} cannot be used: {reason}" if exc.filename else reason


def _html(name: str) -> web.Response:
    nonce = secrets.token_urlsafe(12)
    text = Path(__file__).with_name(name).read_text(encoding="utf-8").replace("{nonce}", nonce)
    return web.Response(
        text=text, content_type="text/html", headers={"Content-Security-Policy": content_security_policy(nonce)}
    )
