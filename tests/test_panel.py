"""The panel: who may do what (the attack list), the interface, slow viewers, and a real browser."""

import asyncio
import contextlib
import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

import impasto.assets

aiohttp = pytest.importorskip("aiohttp")

from impasto.realtime.engine_choice import load_engine  # noqa: E402
from impasto.realtime.live import LiveSession  # noqa: E402
from impasto.realtime.live_controls import LiveControls  # noqa: E402
from impasto.realtime.live_output import LiveOutput  # noqa: E402
from impasto.realtime.live_settings import LiveSettings  # noqa: E402
from impasto.realtime.live_styles import StyleShelf  # noqa: E402
from impasto.realtime.panel import Panel  # noqa: E402
from impasto.realtime.panel_connections import MOST_CONNECTIONS  # noqa: E402
from impasto.realtime.panel_guard import (  # noqa: E402
    Asked,
    PanelGuard,
    Refused,
    allowed_hosts,
    kept_token,
    reachable_address,
)

from .live_helpers import CAMERA_VALUE, FakeEngine, FakeFeed, Gallery, wait_until  # noqa: E402
from .test_paintings import bomb  # noqa: E402

CONTROL, VIEW = "control-token-0123456789", "view-token-0123456789ab"

# The rules by themselves

GUARD = PanelGuard(CONTROL, VIEW, allowed_hosts("127.0.0.1", 8420, ["studio.local"]))
GOOD = {"host": "127.0.0.1:8420", "authorization": f"Bearer {CONTROL}"}


def ask(method: str = "POST", *, need: str = "control", page: bool = False, query: str = "", **headers: str) -> int:
    """The status that a request gets: 200 or the refusal's."""
    named = {name.replace("_", "-"): value for name, value in headers.items() if value}
    try:
        GUARD.check(Asked(method, named, query_token=query, takes_query_token=page), need=need)
    except Refused as exc:
        return exc.status
    return 200


@pytest.mark.parametrize(
    "host",
    ["evil.example:8420", "127.0.0.1.evil.com:8420", "127.0.0.1", "127.0.0.1:80", "127.0.0.1:84200", "localhost", "",
     "127.0.0.1:8420.evil.com", "evil.com#127.0.0.1:8420", "[::]:8420", "2130706433:8420", "localhost.:8420",
     "127.0.0.1:8420@evil.com", "0.0.0.0:8420"],
)  # fmt: skip
def test_a_foreign_host_is_refused(host: str) -> None:
    assert ask(**(GOOD | {"host": host})) == 403


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8420", "localhost:8420", "LOCALHOST:8420", "[::1]:8420", "studio.local:8420"]
)
def test_our_own_names_are_let_in(host: str) -> None:
    assert ask(**(GOOD | {"host": host})) == 200


@pytest.mark.parametrize(
    ("header", "value"),
    [("origin", "http://evil.example"), ("origin", "null"), ("origin", "http://127.0.0.1.evil.com:8420"),
     ("origin", "http://127.0.0.1:9999"), ("origin", "http://localhost:8420"), ("origin", "file://"),
     ("sec_fetch_site", "cross-site"), ("sec_fetch_site", "same-site")],
)  # fmt: skip
def test_another_site_is_refused_whatever_token_it_has(header: str, value: str) -> None:
    assert ask(**(GOOD | {header: value})) == 403
    assert ask("GET", **(GOOD | {header: value})) == 403


def test_a_server_on_all_addresses_answers_to_its_own_number_and_to_no_name() -> None:
    hosts = allowed_hosts("0.0.0.0", 8420)
    assert f"{reachable_address('0.0.0.0')}:8420" in hosts
    assert all(host.split(":")[0].replace(".", "").isdigit() for host in hosts if host[0] not in "l[")
    assert "0.0.0.0:8420" not in hosts


def test_a_link_opens_the_page_and_nothing_else() -> None:
    followed = {"host": "127.0.0.1:8420", "sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"}
    assert ask("GET", page=True, query=CONTROL, sec_fetch_dest="document", **followed) == 200
    assert ask("GET", page=True, query=CONTROL, sec_fetch_dest="iframe", **followed) == 403
    assert ask("POST", page=True, query=CONTROL, sec_fetch_dest="document", **followed) == 403
    assert ask("GET", page=False, query=CONTROL, sec_fetch_dest="document", **followed) == 403


def test_tokens() -> None:
    host = {"host": "127.0.0.1:8420"}
    assert ask(**host) == 401
    assert ask(**host, authorization="Bearer wrong") == 401
    assert ask(**host, authorization="Bearer ") == 401
    assert ask(**host, authorization=f"Bearer {VIEW}") == 403
    assert ask("GET", need="view", **host, authorization=f"Bearer {VIEW}") == 200
    assert ask("GET", need="view", page=True, query=VIEW, **host) == 200
    assert ask("GET", query=CONTROL, **host) == 401  # the address is no place for it elsewhere
    assert ask("POST", page=True, query=CONTROL, **host) == 401


def test_the_kept_token_is_private_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "view-token"
    token = kept_token(path)
    assert kept_token(path) == token
    assert path.stat().st_mode & 0o077 == 0
    path.write_text("short\n")
    assert len(kept_token(path)) == 22


# A running panel

MARK = SimpleNamespace(plus={"calm": 30, "storm": 160})


@pytest.fixture
def run(tmp_path: Path, make_artifact, identity_model, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """A session with two styles and its panel on a free port."""
    styles = tmp_path / "styles"
    styles.mkdir()
    monkeypatch.setenv("IMPASTO_STYLES", str(styles))
    monkeypatch.setattr("impasto.assets.style_folders", lambda: (styles,))  # these, not those that ship
    monkeypatch.setenv("IMPASTO_CONFIG", str(tmp_path / "config"))
    for name in MARK.plus:
        make_artifact(identity_model, name=name).path.rename(styles / f"{name}.fast.onnx")
    engines: list[FakeEngine] = []

    def load(artifact) -> FakeEngine:
        engines.append(FakeEngine(plus=MARK.plus.get(artifact.metadata.name, 90)))
        return engines[-1]

    shelf = StyleShelf(load=load)
    feed = FakeFeed(size=(180, 320))
    session = LiveSession(
        feed, shelf.open, vector_of=shelf.vector, settings=LiveSettings("calm", crossfade_seconds=0.0), size=(180, 320)
    )  # fmt: skip
    recordings: list[Gallery] = []

    def open_recording(path: Path) -> LiveOutput:
        recordings.append(Gallery())
        return recordings[-1].output("recording")

    quit_asked = threading.Event()
    controls = LiveControls(
        session, shelf, folder=tmp_path / "out", open_recording=open_recording,
        open_feed=lambda name: FakeFeed(size=(180, 320)), camera="0", on_event=lambda line: None,
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
                base=f"http://127.0.0.1:{panel.port}", tmp=tmp_path, recordings=recordings, quit=quit_asked,
            )  # fmt: skip


def fetch(run: SimpleNamespace, method: str, path: str, **options: object) -> SimpleNamespace:
    """One request, as a program with the control token unless `headers` say otherwise."""
    headers = {"Authorization": f"Bearer {CONTROL}"} | dict(options.pop("headers", {}))

    async def go() -> SimpleNamespace:
        async with aiohttp.ClientSession() as client:
            async with client.request(
                method,
                run.base + path,
                headers={k: v for k, v in headers.items() if v},
                allow_redirects=False,
                **options,
            ) as answer:
                body = await answer.read()
        parsed = json.loads(body) if answer.content_type == "application/json" else None
        return SimpleNamespace(status=answer.status, headers=answer.headers, body=body, json=parsed)

    return asyncio.run(go())


def test_the_attacks_on_a_running_panel(run: SimpleNamespace) -> None:
    before = run.session.settings
    change = {"json": {"strength": 0.1}}
    attacks = [
        ("POST", "/api/settings", {"headers": {"Host": "evil.example"}} | change, 403),
        ("POST", "/api/settings", {"headers": {"Host": f"127.0.0.1.evil.com:{run.panel.port}"}} | change, 403),
        ("POST", "/api/settings", {"headers": {"Origin": "http://evil.example"}} | change, 403),
        ("POST", "/api/settings", {"headers": {"Sec-Fetch-Site": "cross-site"}} | change, 403),
        ("POST", "/api/settings", {"headers": {"Authorization": ""}} | change, 401),
        ("POST", "/api/settings", {"headers": {"Authorization": f"Bearer {VIEW}"}} | change, 403),
        ("POST", f"/api/settings?token={CONTROL}", {"headers": {"Authorization": ""}} | change, 401),
        ("POST", "/api/settings", {"data": {"strength": "0.1"}}, 415),  # what an HTML form can send
        ("POST", "/api/settings", {"data": b"not json", "headers": {"Content-Type": "application/json"}}, 400),
        ("POST", "/api/settings", {"data": b"[" * 50_000, "headers": {"Content-Type": "application/json"}}, 400),
        ("POST", "/api/settings", {"data": b" " * 70_000, "headers": {"Content-Type": "application/json"}}, 413),
        ("POST", "/api/settings", {"json": {"style": "../../etc/passwd"}}, 400),
        ("POST", "/api/settings", {"json": {"__class__": 1}}, 400),
        ("POST", "/api/camera", {"json": {"id": "/etc/passwd"}}, 400),
        ("POST", "/api/camera", {"json": {"id": "http://169.254.169.254/"}}, 400),
        ("POST", "/api/camera", {"json": {"id": "lavfi:movie=/etc/passwd"}}, 400),
        ("POST", "/api/presets", {"json": {"action": "save", "name": "../../evil"}}, 400),
        ("POST", "/api/presets", {"json": {"action": "load", "name": "..%2f..%2fevil"}}, 400),
        ("POST", "/api/record", {"json": {"on": True, "path": 5} | {"on": "yes"}}, 400),
        ("GET", "/api/settings", {}, 405),
        ("GET", "/api/record", {}, 405),
        ("GET", "/api/styles/..%2f..%2f..%2fetc%2fpasswd/preview", {}, 404),
        ("GET", "/api/styles/%2e%2e/preview", {}, 404),
        ("GET", "/../../../etc/passwd", {}, 404),
        ("GET", "/panel.py", {}, 404),
        ("OPTIONS", "/api/settings", {"headers": {"Origin": "http://evil.example"}}, 403),
        ("GET", "/output", {"headers": {"Authorization": ""}}, 401),
        ("GET", "/output.mjpeg", {"headers": {"Authorization": "", "Sec-Fetch-Site": "cross-site"}}, 403),
    ]
    for method, path, options, status in attacks:
        answer = fetch(run, method, path, **options)
        assert answer.status == status, (method, path, options, answer.status, answer.body[:200])
        assert "Access-Control-Allow-Origin" not in answer.headers
    assert run.session.settings == before
    assert list(run.styles.iterdir()).__len__() == 2


def test_a_socket_from_another_site_is_refused(run: SimpleNamespace) -> None:
    async def status(**headers: str) -> int:
        async with aiohttp.ClientSession() as client:
            try:
                async with client.ws_connect(run.base + "/api/live", headers=headers):
                    return 101
            except aiohttp.WSServerHandshakeError as exc:
                return exc.status

    good = {"Authorization": f"Bearer {CONTROL}"}
    assert asyncio.run(status(**good)) == 101
    assert asyncio.run(status(**good, Origin=run.base)) == 101
    assert asyncio.run(status(**good, Origin="http://evil.example")) == 403
    assert asyncio.run(status(**good, Host=f"evil.example:{run.panel.port}")) == 403
    assert asyncio.run(status()) == 401
    assert asyncio.run(status(Authorization=f"Bearer {VIEW}")) == 403


def test_a_viewer_of_the_output_cannot_control(run: SimpleNamespace) -> None:
    async def go() -> None:
        async with aiohttp.ClientSession() as client:
            async with client.ws_connect(f"{run.base}/output/live?token={VIEW}") as socket:
                await socket.send_json({"set": {"strength": 0.0}, "key": "q", "view": "compare"})
                picture = await socket.receive_bytes(timeout=5)
                assert picture[:2] in (b"\0\0", b"\0\1")  # never the comparison
                await asyncio.sleep(0.3)

    asyncio.run(go())
    assert run.session.settings.strength == 1.0
    assert not run.quit.is_set()


def test_the_page_and_its_headers(run: SimpleNamespace) -> None:
    opened = fetch(run, "GET", f"/?token={CONTROL}", headers={"Authorization": ""})
    assert opened.status == 303
    cookie = opened.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    page = fetch(run, "GET", "/", headers={"Authorization": "", "Cookie": cookie.split(";")[0]})
    assert page.status == 200
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    text = page.body.decode()
    assert "{nonce}" not in text
    assert not [line for line in text.splitlines() if ' style="' in line or " onclick=" in line]
    for marker in ("https://", "//cdn", "@import"):  # one self-contained page
        assert marker not in text.replace("http://www.w3.org", "")
    for name in ("X-Content-Type-Options", "Cross-Origin-Resource-Policy", "Referrer-Policy", "Cache-Control"):
        assert name in page.headers


def test_uploads(run: SimpleNamespace, make_artifact, identity_model) -> None:
    send = {"headers": {"Content-Type": "application/octet-stream"}}
    good = make_artifact(identity_model, name="fresh").path.read_bytes()
    added = fetch(run, "POST", "/api/styles", data=good, **send)
    assert (added.status, added.json["name"]) == (200, "fresh")
    assert (run.styles / "fresh.fast.onnx").read_bytes() == good
    assert fetch(run, "POST", "/api/styles", data=good, **send).status == 200  # again: nothing new
    other = make_artifact(identity_model, name="fresh", stride=4).path.read_bytes()
    bad = [(other, 400), (b"", 400), (b"junk" * 1000, 400), (good[:-5], 400), (good[:200] + b"x" + good[201:], 400)]
    for data, status in bad:
        answer = fetch(run, "POST", "/api/styles", data=data, **send)
        assert answer.status == status, answer.json
        assert str(run.tmp) not in answer.json["error"]
    assert fetch(run, "POST", "/api/styles", data={"file": good}).status == 415
    assert sorted(p.name for p in run.styles.iterdir()) == ["calm.fast.onnx", "fresh.fast.onnx", "storm.fast.onnx"]


def test_pictures_become_styles(run: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMPASTO_CACHE", str(tmp_path / "cache"))
    networks = tuple((Path(impasto.assets.__file__).parent / "styles").glob("any.*.onnx"))
    monkeypatch.setattr("impasto.realtime.paintings.any_painting", lambda: sorted(networks, reverse=True))
    send = {"headers": {"Content-Type": "application/octet-stream"}}
    only_look = {"headers": send["headers"] | {"Authorization": f"Bearer {VIEW}"}}
    blocks = np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)
    picture = cv2.imencode(".png", blocks)[1].tobytes()
    added = fetch(run, "POST", "/api/paintings?name=Blocks", data=picture, **send)
    assert (added.status, added.json["name"], added.json["painting"]) == (200, "blocks", True)
    assert (run.styles / "blocks.fast.onnx").is_file()
    named = fetch(run, "POST", "/api/paintings?name=..%2F..%2Fevil%00.sh", data=picture, **send)
    assert (named.status, named.json["name"]) == (200, "evil-sh")
    for data in (b"", b"junk" * 1000, picture[:100], bomb(20_000)):
        answer = fetch(run, "POST", "/api/paintings?name=x", data=data, **send)
        assert answer.status == 400, answer.json
        assert "must be a picture of at most 67 megapixels" in answer.json["error"]
    assert fetch(run, "POST", "/api/paintings", data={"file": picture}).status == 415
    monkeypatch.setattr("impasto.realtime.panel_api.MOST_PAINTING_BYTES", 1000)
    assert fetch(run, "POST", "/api/paintings", data=b"x" * 2000, **send).status == 413
    assert fetch(run, "POST", "/api/paintings", data=picture, **only_look).status == 403
    assert fetch(run, "POST", "/api/settings", json={"mix_with": "blocks", "mix": 0.3}).status == 200
    assert fetch(run, "POST", "/api/settings", json={"mix_with": "calm"}).status == 400
    assert sorted(p.name for p in run.styles.iterdir()) == [
        "blocks.fast.onnx", "calm.fast.onnx", "evil-sh.fast.onnx", "storm.fast.onnx",
    ]  # fmt: skip


def test_an_upload_that_is_too_large_is_cut_off(run: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("impasto.realtime.panel_api.MOST_UPLOAD_BYTES", 1 << 20)

    async def endless():
        for _ in range(64):
            yield b"x" * 65536

    send = {"headers": {"Content-Type": "application/octet-stream"}}
    with contextlib.suppress(aiohttp.ClientError):  # the server may hang up in the middle
        assert fetch(run, "POST", "/api/styles", data=endless(), **send).status == 413
    assert fetch(run, "POST", "/api/styles", data=b"x" * (2 << 20), **send).status == 413
    assert len(list(run.styles.iterdir())) == 2


def test_the_interface_controls_the_run(run: SimpleNamespace) -> None:
    wait_until(lambda: run.session.status.painting_style == "calm")
    names = [style["name"] for style in fetch(run, "GET", "/api/styles").json["styles"]]
    assert names == ["calm", "storm"]
    assert fetch(run, "GET", "/api/styles/calm/preview").headers["Content-Type"] == "image/jpeg"
    assert fetch(run, "POST", "/api/settings", json={"style": "storm", "strength": 0.5}).status == 200
    wait_until(lambda: run.session.status.painting_style == "storm")
    state = fetch(run, "GET", "/api/state").json
    assert state["settings"]["strength"] == 0.5
    assert state["camera"]["state"] == "live"
    fetch(run, "POST", "/api/key", json={"key": "m"})
    assert run.session.settings.mirror
    fetch(run, "POST", "/api/presets", json={"action": "save", "name": "night"})
    fetch(run, "POST", "/api/settings", json={"style": "calm", "mirror": False})
    assert fetch(run, "POST", "/api/presets", json={"action": "load", "name": "night"}).json["settings"]["mirror"]
    assert run.session.settings.style == "storm"
    assert fetch(run, "POST", "/api/camera", json={"id": "test"}).status == 200
    assert fetch(run, "POST", "/api/record", json={"on": True}).json["name"].endswith(".mp4")
    wait_until(lambda: run.recordings and len(run.recordings[0].frames) > 3)
    assert fetch(run, "POST", "/api/record", json={"on": False}).json["name"]
    assert run.recordings[0].closed == 1
    snapshot = fetch(run, "POST", "/api/snapshot", json={})
    assert snapshot.body.startswith(b"\x89PNG")


def mjpeg_url(run: SimpleNamespace) -> str:
    return f"{run.base}/output.mjpeg?token={VIEW}"


def test_opencv_reads_the_mjpeg_stream(run: SimpleNamespace) -> None:
    cv2 = pytest.importorskip("cv2")
    capture = cv2.VideoCapture(mjpeg_url(run), cv2.CAP_FFMPEG)
    pictures = [capture.read()[1] for _ in range(30)]
    capture.release()
    painted = [p for p in pictures if p is not None and abs(int(p[90, 160, 1]) - CAMERA_VALUE - 30) <= 2]
    assert len(painted) > 15
    assert not [p for p in pictures if p is not None and abs(int(p[90, 160, 1]) - CAMERA_VALUE) <= 2]
    wait_until(lambda: not run.panel.hub.watched())


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg")
def test_ffmpeg_reads_the_mjpeg_stream(run: SimpleNamespace) -> None:
    """As OBS' media source does."""
    done = subprocess.run(
        ["ffmpeg", "-v", "error", "-f", "mpjpeg", "-i", mjpeg_url(run), "-frames:v", "30", "-pix_fmt", "rgb24",
         "-f", "rawvideo", "-"],
        capture_output=True, timeout=60,
    )  # fmt: skip
    pictures = np.frombuffer(done.stdout, np.uint8).reshape(-1, 180, 320, 3)
    assert len(pictures) == 30, done.stderr
    assert abs(float(np.median(pictures[-1])) - CAMERA_VALUE - 30) <= 2
    wait_until(lambda: not run.panel.hub.watched())


def test_readers_that_never_read_harm_nobody(run: SimpleNamespace) -> None:
    stuck = []
    for _ in range(2):
        lazy = socket.create_connection(("127.0.0.1", run.panel.port))
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        lazy.sendall(f"GET /output.mjpeg?token={VIEW} HTTP/1.1\r\nHost: 127.0.0.1:{run.panel.port}\r\n\r\n".encode())
        stuck.append(lazy)
    rng = np.random.default_rng(0)
    run.feed.picture = rng.integers(0, 90, (180, 320, 3)).astype(np.uint8)  # large JPEGs, so that buffers fill
    wait_until(lambda: run.panel.hub.dropped > 20, 8.0)

    async def read_some() -> int:
        count = 0
        async with aiohttp.ClientSession() as client:
            async with client.get(mjpeg_url(run)) as answer:
                end = time.monotonic() + 1.5
                while time.monotonic() < end:
                    count += (await answer.content.readuntil(b"--frame")).count(b"--frame")
        return count

    assert asyncio.run(read_some()) >= 30
    for lazy in stuck:
        lazy.close()


def test_a_thousand_connections(run: SimpleNamespace) -> None:
    flood = []
    for _ in range(1000):
        connection = socket.socket()
        connection.setblocking(False)
        connection.connect_ex(("127.0.0.1", run.panel.port))
        flood.append(connection)
    time.sleep(0.5)
    assert run.panel.connections.open <= MOST_CONNECTIONS
    painted = run.session.status.painted
    time.sleep(0.2)
    for connection in flood:
        connection.close()
    wait_until(lambda: run.panel.connections.open < 10)
    assert fetch(run, "GET", "/api/state").status == 200
    assert run.session.status.painted >= painted


def test_pictures_wait_for_the_page(run: SimpleNamespace) -> None:
    """Without acknowledgements two pictures come and no more; the newest comes after each acknowledgement."""

    async def go() -> list[float]:
        ages = []
        async with aiohttp.ClientSession() as client:
            async with client.ws_connect(f"{run.base}/output/live?token={VIEW}") as socket:
                await socket.receive_bytes(timeout=5)
                await socket.receive_bytes(timeout=5)
                with pytest.raises(asyncio.TimeoutError):
                    await socket.receive_bytes(timeout=0.5)
                for _ in range(10):
                    await socket.send_json({"ack": True})
                    asked = time.monotonic()
                    await socket.receive_bytes(timeout=5)
                    ages.append(time.monotonic() - asked)
                    await asyncio.sleep(0.1)
        return ages

    assert np.median(asyncio.run(go())) < 0.1  # the worst waits for whatever else this machine does


def test_a_webrtc_viewer_sees_the_painting(run: SimpleNamespace) -> None:
    aiortc = pytest.importorskip("aiortc")

    async def go() -> list[float]:
        peer, means = aiortc.RTCPeerConnection(), []
        peer.addTransceiver("video", direction="recvonly")
        tracks: list[object] = []
        peer.on("track", tracks.append)
        await peer.setLocalDescription(await peer.createOffer())
        headers = {"Authorization": f"Bearer {VIEW}", "Content-Type": "application/sdp"}
        async with aiohttp.ClientSession() as client:
            url = f"{run.base}/output/whep"
            async with client.post(url, data="v=0 nonsense", headers=headers) as answer:
                assert answer.status == 400
            async with client.post(url, data=peer.localDescription.sdp, headers=headers) as answer:
                assert answer.status == 201
                sdp = await answer.text()
        await peer.setRemoteDescription(aiortc.RTCSessionDescription(sdp, "answer"))
        for _ in range(10):
            frame = await asyncio.wait_for(tracks[0].recv(), 10)
            means.append(float(frame.to_ndarray(format="rgb24")[60:, :, 1].mean()))
        await peer.close()
        return means

    assert np.median(asyncio.run(go())) == pytest.approx(CAMERA_VALUE + 30, abs=4)
    wait_until(lambda: not run.panel.webrtc.watched(), 8.0)


# A real browser

MEANS = """() => {
  const canvas = document.getElementById("picture");
  const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  const sums = [0, 0, 0];
  for (let i = 0; i < data.length; i += 4) for (let k = 0; k < 3; k++) sums[k] += data[i + k];
  return sums.map((sum) => (4 * sum) / data.length);
}"""
"""The mean of the shown picture's red, green and blue."""


@pytest.fixture
def browser() -> Iterator[object]:
    sync_api = pytest.importorskip("playwright.sync_api")
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium on this machine")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-background-networking"]
        )
        yield opened
        opened.close()


@pytest.fixture
def page(browser, run: SimpleNamespace) -> Iterator[object]:
    """The panel in a browser; an error in its console fails the test."""
    opened = browser.new_page()
    problems: list[str] = []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    opened.goto(run.panel.control_url)
    assert opened.url == run.base + "/"  # the token is gone from the address
    yield opened
    assert not problems


def drag(page, slider: str, start: float, end: float) -> None:
    """With the mouse, from one share of a slider to another; its knob is 22 pixels wide."""
    page.locator(slider).scroll_into_view_if_needed()
    box = page.locator(slider).bounding_box()
    across = [box["x"] + 11 + share * (box["width"] - 22) for share in (start, end)]
    page.mouse.move(across[0], box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(across[1], box["y"] + box["height"] / 2, steps=5)
    page.mouse.up()


def test_a_browser_paints_switches_and_drags(run: SimpleNamespace, browser, page) -> None:
    middle = "() => [...document.getElementById('picture').getContext('2d').getImageData(160, 90, 1, 1).data]"

    def shows(value: int, tolerance: int = 3) -> None:
        wait_until(lambda: abs(page.evaluate(middle)[1] - value) <= tolerance, 8.0)

    shows(CAMERA_VALUE + 30)
    page.click("[data-name=storm]")
    shows(CAMERA_VALUE + 160)
    drag(page, "#strength", 1.0, 0.5)
    shows(CAMERA_VALUE + 80, 8)
    assert run.session.settings.strength == pytest.approx(0.5, abs=0.03)
    page.keyboard.press("b")
    wait_until(lambda: page.locator("#split").is_visible())
    left = "() => [...document.getElementById('picture').getContext('2d').getImageData(40, 90, 1, 1).data]"
    wait_until(lambda: abs(page.evaluate(left)[1] - CAMERA_VALUE) <= 3)
    output = browser.new_page()
    output.goto(run.panel.output_url)
    wait_until(lambda: abs(output.evaluate(middle)[1] - CAMERA_VALUE - 80) <= 8, 8.0)  # never the comparison


def test_a_browser_adds_paintings_and_mixes_them(
    run: SimpleNamespace, page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMPASTO_CACHE", str(tmp_path / "cache"))
    networks = tuple((Path(impasto.assets.__file__).parent / "styles").glob("any.*.onnx"))
    monkeypatch.setattr("impasto.realtime.paintings.any_painting", lambda: sorted(networks, reverse=True))
    monkeypatch.setattr(run.controls.shelf, "_load", lambda artifact: load_engine(artifact, device="cpu"))
    noise = np.random.default_rng(0).integers(0, 60, (120, 160, 3), dtype=np.uint8)
    means = {}
    for name, blue_green_red in (("red_one", (20, 40, 190)), ("blue_one", (190, 40, 20))):
        path = tmp_path / f"{name}.png"
        cv2.imwrite(str(path), noise + np.array(blue_green_red, np.uint8))
        page.set_input_files("#file", path)
        wait_until(lambda name=name: page.text_content("#now") == name.capitalize().replace("_", " "), 60.0)
        wait_until(lambda: not page.evaluate("state.loading"), 60.0)
        page.wait_for_timeout(500)
        means[name] = page.evaluate(MEANS)
    assert means["red_one"][0] > means["red_one"][2] + 10, means
    assert means["blue_one"][2] > means["blue_one"][0] + 10, means
    assert page.locator("#mix").is_hidden()
    page.select_option("#mix_with", "red_one")
    wait_until(lambda: run.session.settings.mix == 0.5)  # seen at once
    drag(page, "#mix", 0.5, 1.0)
    wait_until(lambda: run.session.settings.mix == 1.0)
    wait_until(lambda: np.abs(np.subtract(page.evaluate(MEANS), means["red_one"])).max() < 4, 8.0)
    drag(page, "#mix", 1.0, 0.0)
    wait_until(lambda: np.abs(np.subtract(page.evaluate(MEANS), means["blue_one"])).max() < 4, 8.0)
