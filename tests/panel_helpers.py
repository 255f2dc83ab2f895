"""A running panel for the tests: a session with stand-ins behind it, and requests to it."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest

aiohttp = pytest.importorskip("aiohttp")

from impasto.export.artifact import Artifact  # noqa: E402
from impasto.realtime.live import LiveSession  # noqa: E402
from impasto.realtime.live_controls import LiveControls  # noqa: E402
from impasto.realtime.live_output import LiveOutput  # noqa: E402
from impasto.realtime.live_settings import LiveSettings  # noqa: E402
from impasto.realtime.live_styles import StyleShelf  # noqa: E402
from impasto.realtime.panel import Panel  # noqa: E402
from impasto.realtime.panel_guard import PanelGuard, allowed_hosts  # noqa: E402

from .live_helpers import FakeEngine, FakeFeed, Gallery  # noqa: E402

CONTROL, VIEW = "control-token-0123456789", "view-token-0123456789ab"
PLUS = {"calm": 30, "storm": 160}
"""What each of the two styles adds to a picture."""


@contextmanager
def serve(
    folder: Path,
    make_artifact: Callable[..., Artifact],
    model: onnx.ModelProto,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[SimpleNamespace]:
    """A session with two styles and its panel on a free port."""
    styles = folder / "styles"
    styles.mkdir()
    monkeypatch.setenv("IMPASTO_STYLES", str(styles))
    monkeypatch.setattr("impasto.assets.style_folders", lambda: (styles,))  # these, not those that ship
    monkeypatch.setenv("IMPASTO_CONFIG", str(folder / "config"))
    for name in PLUS:
        make_artifact(model, name=name).path.rename(styles / f"{name}.fast.onnx")
    engines: list[FakeEngine] = []

    def load(artifact) -> FakeEngine:
        engines.append(FakeEngine(plus=PLUS.get(artifact.metadata.name, 90)))
        return engines[-1]

    shelf = StyleShelf(load=load)
    feed = FakeFeed(size=(180, 320))
    session = LiveSession(
        feed, shelf.open, vector_of=shelf.vector, settings=LiveSettings("calm", crossfade_seconds=0.0), size=(180, 320)
    )  # fmt: skip
    recordings: list[Gallery] = []

    def open_recording(path: Path) -> LiveOutput:
        recordings.append(Gallery())
        return recordings[-1].output("recording", begin_with_card=False)

    opened: list[str] = []

    def open_feed(name: str) -> FakeFeed:
        opened.append(name)
        return FakeFeed(size=(180, 320))

    quit_asked = threading.Event()
    controls = LiveControls(
        session, shelf, folder=folder / "out", open_recording=open_recording,
        open_feed=open_feed, camera="rtsp://user:secret@camera.example/1", on_event=lambda line: None,
        on_quit=quit_asked.set,
    )  # fmt: skip
    panel = Panel(lambda port: PanelGuard(CONTROL, VIEW, allowed_hosts("127.0.0.1", port)), address="127.0.0.1", port=0)
    with panel:
        session.add_output(panel.hub)
        session.add_output(panel.webrtc)
        with session:
            panel.attach(controls)
            yield SimpleNamespace(
                panel=panel, session=session, controls=controls, feed=feed, engines=engines, styles=styles,
                base=f"http://127.0.0.1:{panel.port}", tmp=folder, recordings=recordings, opened=opened,
                quit=quit_asked,
            )  # fmt: skip


def fetch(served: SimpleNamespace, method: str, path: str, **options: object) -> SimpleNamespace:
    """One request, as a program with the control token unless `headers` say otherwise."""
    headers = {"Authorization": f"Bearer {CONTROL}"} | dict(options.pop("headers", {}))

    async def go() -> SimpleNamespace:
        async with aiohttp.ClientSession() as client:
            async with client.request(
                method,
                served.base + path,
                headers={k: v for k, v in headers.items() if v},
                allow_redirects=False,
                **options,
            ) as answer:
                body = await answer.read()
        parsed = json.loads(body) if answer.content_type == "application/json" else None
        return SimpleNamespace(status=answer.status, headers=answer.headers, body=body, json=parsed)

    return asyncio.run(go())


def mjpeg_url(served: SimpleNamespace) -> str:
    return f"{served.base}/output.mjpeg?token={VIEW}"
