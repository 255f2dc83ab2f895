"""The panel's requests that read or change the state of the run; see `panel.py` for the whole interface."""

import asyncio
import json
import secrets
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from aiohttp import web

from .errors import ArtifactError
from .live_controls import HOTKEYS, KEYS
from .live_settings import delete_preset
from .panel_guard import Refused
from .panel_run import PanelRun

MOST_JSON_BYTES = 64 * 1024
MOST_UPLOAD_BYTES = 128 * 2**20
"""As large as an artifact may be."""
MOST_PAINTING_BYTES = 32 * 2**20


class PanelApi:
    """Handlers, in the order of the routes. A `ValueError` or an `ImpastoError` becomes the answer's `error`."""

    def __init__(self, run: PanelRun) -> None:
        self._run = run
        self._one_painting, self._one_preview = asyncio.Lock(), asyncio.Lock()

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/api/state", self.state),
            web.get("/api/styles", self.styles),
            web.get("/api/styles/{name}/preview", self.preview),
            web.get("/api/cameras", self.cameras),
            web.post("/api/settings", self.set),
            web.post("/api/key", self.key),
            web.post("/api/record", self.record),
            web.post("/api/snapshot", self.snapshot),
            web.post("/api/camera", self.camera),
            web.post("/api/presets", self.presets),
            web.post("/api/styles", self.upload),
            web.post("/api/styles/{name}/remove", self.remove),
            web.post("/api/paintings", self.upload_painting),
        ]

    async def state(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(await self._run.call(self._run.controls.state))

    async def styles(self, request: web.Request) -> web.StreamResponse:
        shelf = self._run.controls.shelf
        version = await self._run.call(shelf.version)  # before the entries: what comes in between is told once more
        styles = [asdict(entry) for entry in await self._run.call(shelf.entries)]
        return web.json_response({"styles": styles, "version": version, "hotkeys": dict(HOTKEYS)})

    async def preview(self, request: web.Request) -> web.StreamResponse:
        async with self._one_preview:  # a gallery that is being painted leaves the other threads to the controls
            jpeg = await self._run.call(self._run.controls.shelf.preview, request.match_info["name"])
        if jpeg is None:
            raise Refused(404, "no such style")
        return web.Response(body=jpeg, content_type="image/jpeg", headers={"Cache-Control": "private, max-age=300"})

    async def cameras(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"cameras": await self._run.call(self._run.controls.cameras)})

    async def set(self, request: web.Request) -> web.StreamResponse:
        changes = await _json(request)
        if "style" in changes:
            _text(changes, "style")
        return web.json_response(asdict(await self._run.call(self._run.controls.set, changes)))

    async def key(self, request: web.Request) -> web.StreamResponse:
        key = _text(await _json(request), "key")
        if key not in KEYS:
            raise ValueError(f"key must be one of {', '.join(HOTKEYS)}, got {key!r}")
        await self._run.call(self._run.controls.press, key)
        return web.json_response({})

    async def record(self, request: web.Request) -> web.StreamResponse:
        on = (await _json(request)).get("on")
        if not isinstance(on, bool):
            raise ValueError(f"on must be true or false, got {on!r}")
        path = await self._run.call(self._run.controls.start_recording if on else self._run.controls.stop_recording)
        return web.json_response({"name": path.name if path else None})

    async def snapshot(self, request: web.Request) -> web.StreamResponse:
        png = await self._run.call(self._run.controls.snapshot_png)
        return web.Response(body=png, content_type="image/png")

    async def camera(self, request: web.Request) -> web.StreamResponse:
        await self._run.call(self._run.controls.set_camera, _text(await _json(request), "id"))
        return web.json_response({})

    async def presets(self, request: web.Request) -> web.StreamResponse:
        body = await _json(request)
        overwrite = body.get("overwrite", False)
        if not isinstance(overwrite, bool):
            raise ValueError(f"overwrite must be true or false, got {overwrite!r}")
        save = partial(self._run.controls.save_preset, overwrite=overwrite)
        actions: dict[str, Callable[[str], object]] = {
            "save": save, "load": self._run.controls.load_preset, "delete": delete_preset,
        }  # fmt: skip
        action = _text(body, "action")
        if action not in actions:
            raise ValueError(f"action must be one of {', '.join(actions)}, got {action!r}")
        await self._run.call(actions[action], _text(body, "name"))
        return web.json_response(await self._run.call(self._run.controls.state))

    async def upload(self, request: web.Request) -> web.StreamResponse:
        """The body is the file; its name is of no interest, the artifact says its own."""
        if request.content_type != "application/octet-stream":
            raise Refused(415, "upload must be application/octet-stream")
        if request.content_length is not None and request.content_length > MOST_UPLOAD_BYTES:
            raise Refused(413, f"upload must be at most {MOST_UPLOAD_BYTES >> 20} MB")
        path = await self._run.call(_new_upload)
        try:
            with path.open("wb") as file:
                size = 0
                async for chunk in request.content.iter_chunked(1 << 16):
                    size += len(chunk)
                    if size > MOST_UPLOAD_BYTES:
                        raise Refused(413, f"upload must be at most {MOST_UPLOAD_BYTES >> 20} MB")
                    file.write(chunk)
            entry = await self._run.call(self._run.controls.shelf.add, path)
        except ArtifactError as exc:
            # The message names our temporary file; the person knows another name, or none.
            raise ValueError(str(exc).replace(str(path), "the file")) from exc
        finally:
            path.unlink(missing_ok=True)
        return web.json_response(asdict(entry))

    async def remove(self, request: web.Request) -> web.StreamResponse:
        await _json(request)
        await self._run.call(self._run.controls.remove_style, request.match_info["name"])
        return web.json_response(await self._run.call(self._run.controls.state))

    async def upload_painting(self, request: web.Request) -> web.StreamResponse:
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
            entry = await self._run.call(self._run.controls.shelf.add_painting, bytes(data), name)
        return web.json_response(asdict(entry))


async def _json(request: web.Request) -> dict[str, Any]:
    if request.content_type != "application/json":  # also what no cross-site form can send
        raise Refused(415, "body must be application/json")
    try:
        body = json.loads(await request.read())
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
