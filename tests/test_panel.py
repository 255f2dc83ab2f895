"""A running panel: the attack list, the page, uploads, and the interface."""

import asyncio
import contextlib
import io
import socket
import threading
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

import impasto.assets

aiohttp = pytest.importorskip("aiohttp")
from impasto.realtime.errors import SinkError  # noqa: E402
from impasto.realtime.live_outputs import open_panel  # noqa: E402
from impasto.realtime.live_settings import LiveSettings  # noqa: E402
from impasto.realtime.panel import Panel  # noqa: E402
from impasto.realtime.panel_api import PanelApi  # noqa: E402
from impasto.realtime.panel_guard import PanelGuard, allowed_hosts  # noqa: E402
from impasto.realtime.panel_run import MOST_CALLS  # noqa: E402

from .live_helpers import CAMERA_VALUE, wait_until  # noqa: E402
from .panel_helpers import CONTROL, PLUS, VIEW, fetch  # noqa: E402
from .test_paintings import bomb  # noqa: E402


def test_the_attacks_on_a_running_panel(served: SimpleNamespace) -> None:
    before = served.session.settings
    change = {"json": {"strength": 0.1}}
    attacks = [
        ("POST", "/api/settings", {"headers": {"Host": "evil.example"}} | change, 403),
        ("POST", "/api/settings", {"headers": {"Host": f"127.0.0.1.evil.com:{served.panel.port}"}} | change, 403),
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
        answer = fetch(served, method, path, **options)
        assert answer.status == status, (method, path, options, answer.status, answer.body[:200])
        assert "Access-Control-Allow-Origin" not in answer.headers
    assert served.session.settings == before
    assert list(served.styles.iterdir()).__len__() == 2


def test_a_socket_from_another_site_is_refused(served: SimpleNamespace) -> None:
    async def status(**headers: str) -> int:
        async with aiohttp.ClientSession() as client:
            try:
                async with client.ws_connect(served.base + "/api/live", headers=headers):
                    return 101
            except aiohttp.WSServerHandshakeError as exc:
                return exc.status

    good = {"Authorization": f"Bearer {CONTROL}"}
    assert asyncio.run(status(**good)) == 101
    assert asyncio.run(status(**good, Origin=served.base)) == 101
    assert asyncio.run(status(**good, Origin="http://evil.example")) == 403
    assert asyncio.run(status(**good, Host=f"evil.example:{served.panel.port}")) == 403
    assert asyncio.run(status()) == 401
    assert asyncio.run(status(Authorization=f"Bearer {VIEW}")) == 403


def test_a_viewer_of_the_output_cannot_control(served: SimpleNamespace) -> None:
    async def go() -> None:
        async with aiohttp.ClientSession() as client:
            async with client.ws_connect(f"{served.base}/output/live?token={VIEW}") as socket:
                await socket.send_json({"set": {"strength": 0.0}, "key": "q", "view": "compare"})
                picture = await socket.receive_bytes(timeout=60)
                assert picture[:2] in (b"\0\0", b"\0\1")  # never the comparison
                await socket.send_str("nojson")
                while "error" not in str((await socket.receive(timeout=60)).data):  # it has come to the end
                    pass

    asyncio.run(go())
    assert served.session.settings.strength == 1.0
    assert not served.quit.is_set()


def test_the_page_and_its_headers(served: SimpleNamespace) -> None:
    opened = fetch(served, "GET", f"/?token={CONTROL}", headers={"Authorization": ""})
    assert opened.status == 303
    cookie = opened.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    page = fetch(served, "GET", "/", headers={"Authorization": "", "Cookie": cookie.split(";")[0]})
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


def test_uploads(served: SimpleNamespace, make_artifact, identity_model) -> None:
    send = {"headers": {"Content-Type": "application/octet-stream"}}
    good = make_artifact(identity_model, name="fresh").path.read_bytes()
    added = fetch(served, "POST", "/api/styles", data=good, **send)
    assert (added.status, added.json["name"]) == (200, "fresh")
    assert (served.styles / "fresh.fast.onnx").read_bytes() == good
    assert fetch(served, "POST", "/api/styles", data=good, **send).status == 200  # again: nothing new
    other = make_artifact(identity_model, name="fresh", stride=4).path.read_bytes()
    bad = [(other, 400), (b"", 400), (b"junk" * 1000, 400), (good[:-5], 400), (good[:200] + b"x" + good[201:], 400)]
    for data, status in bad:
        answer = fetch(served, "POST", "/api/styles", data=data, **send)
        assert answer.status == status, answer.json
        assert str(served.tmp) not in answer.json["error"]
    assert fetch(served, "POST", "/api/styles", data={"file": io.BytesIO(good)}).status == 415
    assert sorted(p.name for p in served.styles.iterdir()) == ["calm.fast.onnx", "fresh.fast.onnx", "storm.fast.onnx"]


def test_pictures_become_styles(served: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMPASTO_CACHE", str(tmp_path / "cache"))
    networks = tuple((Path(impasto.assets.__file__).parent / "styles").glob("any.*.onnx"))
    monkeypatch.setattr("impasto.realtime.paintings.any_painting", lambda: sorted(networks, reverse=True))
    send = {"headers": {"Content-Type": "application/octet-stream"}}
    only_look = {"headers": send["headers"] | {"Authorization": f"Bearer {VIEW}"}}
    blocks = np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)
    picture = cv2.imencode(".png", blocks)[1].tobytes()
    added = fetch(served, "POST", "/api/paintings?name=Blocks", data=picture, **send)
    assert (added.status, added.json["name"], added.json["painting"]) == (200, "blocks", True)
    assert (served.styles / "blocks.fast.onnx").is_file()
    named = fetch(served, "POST", "/api/paintings?name=..%2F..%2Fevil%00.sh", data=picture, **send)
    assert (named.status, named.json["name"]) == (200, "evil-sh")
    assert fetch(served, "POST", "/api/paintings?name=.", data=picture, **send).json["title"] == ""
    (served.styles / "painting.fast.onnx").unlink()
    for data in (b"", b"junk" * 1000, picture[:100], bomb(20_000)):
        answer = fetch(served, "POST", "/api/paintings?name=x", data=data, **send)
        assert answer.status == 400, answer.json
        assert "must be a picture of at most 67 megapixels" in answer.json["error"]
    assert fetch(served, "POST", "/api/paintings", data={"file": io.BytesIO(picture)}).status == 415
    monkeypatch.setattr("impasto.realtime.panel_api.MOST_PAINTING_BYTES", 1000)
    assert fetch(served, "POST", "/api/paintings", data=b"x" * 2000, **send).status == 413
    assert fetch(served, "POST", "/api/paintings", data=picture, **only_look).status == 403
    assert fetch(served, "POST", "/api/settings", json={"mix_with": "blocks", "mix": 0.3}).status == 200
    assert fetch(served, "POST", "/api/settings", json={"mix_with": "calm"}).status == 400
    assert sorted(p.name for p in served.styles.iterdir()) == [
        "blocks.fast.onnx", "calm.fast.onnx", "evil-sh.fast.onnx", "storm.fast.onnx",
    ]  # fmt: skip


def test_a_style_of_ones_own_is_removed(
    served: SimpleNamespace, make_artifact, identity_model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def remove(name: str, **options: object) -> SimpleNamespace:
        return fetch(served, "POST", f"/api/styles/{name}/remove", **({"json": {}} | options))

    own = served.tmp / "own"
    monkeypatch.setenv("IMPASTO_STYLES", str(own))
    monkeypatch.setattr("impasto.assets.style_folders", lambda: (own, served.styles))
    own.mkdir()
    for tier in ("fast", "fast.int8", "quality"):
        make_artifact(identity_model, name="mine").path.rename(own / f"mine.{tier}.onnx")
    make_artifact(identity_model, name="storm").path.rename(own / "storm.fast.onnx")
    (own / "broken.fast.onnx").write_bytes(b"broken")
    cards = fetch(served, "GET", "/api/styles").json["styles"]
    removable = {card["name"]: card["removable"] for card in cards}
    assert removable == {"calm": False, "storm": True, "mine": True, "broken": True}
    before = fetch(served, "GET", "/api/state").json["styles"]
    assert fetch(served, "POST", "/api/settings", json={"style": "mine"}).status == 200
    wait_until(lambda: served.session.status.painting_style == "mine")
    assert remove("mine", headers={"Authorization": f"Bearer {VIEW}"}).status == 403
    assert remove("mine", json=None, data=b"{}").status == 415
    assert fetch(served, "GET", "/api/styles/mine/remove").status == 405
    for name in ("calm", "nobody", "..%2Fstyles%2Fcalm", "mine*"):
        refused = remove(name)
        assert refused.status == 400
        assert refused.json["error"].startswith("style must be one of your own to be removed (")
    assert (own / "mine.fast.onnx").is_file()
    gone = remove("mine")
    assert (gone.status, gone.json["settings"]["style"]) == (200, "calm")
    assert gone.json["styles"] != before  # which tells every page
    wait_until(lambda: served.session.status.painting_style == "calm")
    assert remove("mine").status == 400
    monkeypatch.setitem(PLUS, "mine", 50)  # another one under its name
    make_artifact(identity_model, name="mine").path.rename(own / "mine.fast.onnx")
    assert fetch(served, "POST", "/api/settings", json={"style": "mine"}).status == 200
    wait_until(lambda: served.session.status.painting_style == "mine")
    png = fetch(served, "POST", "/api/snapshot", json={}).body
    assert cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR).mean() == CAMERA_VALUE + 50
    assert remove("mine").status == 200
    assert remove("broken").status == 200
    assert remove("storm").json["settings"]["style"] == "calm"
    assert list(own.iterdir()) == []
    cards = fetch(served, "GET", "/api/styles").json["styles"]
    assert [(card["name"], card["removable"]) for card in cards] == [("calm", False), ("storm", False)]  # ours is back


def test_an_upload_that_is_too_large_is_cut_off(served: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("impasto.realtime.panel_api.MOST_UPLOAD_BYTES", 1 << 20)

    async def endless():
        for _ in range(64):
            yield b"x" * 65536

    send = {"headers": {"Content-Type": "application/octet-stream"}}
    with contextlib.suppress(aiohttp.ClientError):  # the server may hang up in the middle
        assert fetch(served, "POST", "/api/styles", data=endless(), **send).status == 413
    assert fetch(served, "POST", "/api/styles", data=io.BytesIO(b"x" * (2 << 20)), **send).status == 413
    assert len(list(served.styles.iterdir())) == 2


def test_the_interface_controls_the_run(served: SimpleNamespace) -> None:
    wait_until(lambda: served.session.status.painting_style == "calm")
    names = [style["name"] for style in fetch(served, "GET", "/api/styles").json["styles"]]
    assert names == ["calm", "storm"]
    assert fetch(served, "GET", "/api/styles/calm/preview").headers["Content-Type"] == "image/jpeg"
    assert fetch(served, "POST", "/api/settings", json={"style": "storm", "strength": 0.5}).status == 200
    wait_until(lambda: served.session.status.painting_style == "storm")
    state = fetch(served, "GET", "/api/state").json
    assert state["settings"]["strength"] == 0.5
    assert state["camera"]["state"] == "live"
    fetch(served, "POST", "/api/key", json={"key": "m"})
    assert served.session.settings.mirror
    fetch(served, "POST", "/api/presets", json={"action": "save", "name": "night"})
    fetch(served, "POST", "/api/settings", json={"style": "calm", "mirror": False})
    assert fetch(served, "POST", "/api/presets", json={"action": "load", "name": "night"}).json["settings"]["mirror"]
    assert served.session.settings.style == "storm"
    assert fetch(served, "POST", "/api/camera", json={"id": "test"}).status == 200
    cameras = fetch(served, "GET", "/api/cameras").json["cameras"]
    current = {camera["id"]: camera["current"] for camera in cameras}  # beside them, those of this machine
    assert current["test"]
    assert not current["start"]
    assert fetch(served, "POST", "/api/camera", json={"id": "start"}).status == 200  # and back, by no path
    assert served.opened == ["test", "rtsp://user:secret@camera.example/1"]
    assert "secret" not in str(cameras)
    assert fetch(served, "POST", "/api/record", json={"on": True}).json["name"].endswith(".mp4")
    wait_until(lambda: served.recordings and len(served.recordings[0].frames) > 3)
    assert fetch(served, "POST", "/api/record", json={"on": False}).json["name"]
    assert served.recordings[0].closed == 1
    snapshot = fetch(served, "POST", "/api/snapshot", json={})
    assert snapshot.body.startswith(b"\x89PNG")


def test_mistakes_are_answered_in_json(
    served: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("IMPASTO_CONFIG", str(tmp_path / "file" / "config"))
    monkeypatch.setenv("IMPASTO_STYLES", str(tmp_path / "file" / "styles"))
    unwritable = fetch(served, "POST", "/api/presets", json={"action": "save", "name": "night"})
    assert (unwritable.status, "cannot be used: not a directory" in unwritable.json["error"]) == (500, True)
    upload = fetch(served, "POST", "/api/styles", data=b"x", headers={"Content-Type": "application/octet-stream"})
    assert (upload.status, "cannot be used: not a directory" in upload.json["error"]) == (500, True)
    listed = fetch(served, "POST", "/api/settings", json={"style": ["calm"]})
    assert (listed.status, listed.json["error"]) == (400, "style must be a text, got ['calm']")
    charset = {"Content-Type": "application/json; charset=nope"}
    assert fetch(served, "POST", "/api/settings", data=b'{"strength": 0.5}', headers=charset).status == 200
    monkeypatch.setattr(served.controls, "state", lambda: 1 / 0)
    broken = fetch(served, "GET", "/api/state")
    assert (broken.status, broken.json["error"]) == (500, "internal error, ZeroDivisionError: division by zero")


def test_the_pages_are_there_before_the_run(served: SimpleNamespace) -> None:
    served.panel._live._controls = None  # as while the program waits for its camera
    for path in ("/", f"/output?token={VIEW}"):
        answer = fetch(served, "GET", path)
        assert (answer.status, answer.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert fetch(served, "GET", "/output", headers={"Authorization": ""}).status == 401
    for path in ("/api/state", "/output/live", "/output.mjpeg"):
        assert fetch(served, "GET", path).status == 503


def test_previews_that_are_being_made_leave_the_controls_alone(
    served: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = threading.Event()

    def slow(name: str) -> bytes:
        finish.wait(600.0)
        return b"jpeg"

    monkeypatch.setattr(served.controls.shelf, "preview", slow)

    async def go() -> None:
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {CONTROL}"}) as client:
            previews = [
                asyncio.create_task(client.get(f"{served.base}/api/styles/calm/preview")) for _ in range(2 * MOST_CALLS)
            ]
            try:
                async with asyncio.timeout(60.0):
                    while served.panel.connections.open < len(previews):
                        await asyncio.sleep(0.01)
                    await asyncio.sleep(0.3)  # for as many as would begin
                    answer = await client.post(f"{served.base}/api/settings", json={"strength": 0.5})
                assert answer.status == 200
                assert not any(preview.done() for preview in previews)
            finally:
                finish.set()
            assert [preview.status for preview in await asyncio.gather(*previews)] == [200] * 2 * MOST_CALLS

    asyncio.run(go())


def make_panel(address: str, port: int = 0) -> Panel:
    return Panel(lambda port: PanelGuard(CONTROL, VIEW, allowed_hosts(address, port)), address=address, port=port)


@pytest.mark.parametrize("address", ["192.0.2.1", "studio..lan"])
def test_an_address_of_another_machine(address: str) -> None:
    said: list[str] = []
    with pytest.raises(ValueError, match=f"listen must be an address of this machine, got '{address}'"):
        with open_panel(SimpleNamespace(port=None, listen=address, allow_host=()), say=said.append):
            pass
    assert not said  # nothing about a port


def test_a_port_that_is_taken(served: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SinkError, match="another program does; try another --port"):
        with make_panel("127.0.0.1", served.panel.port):
            pass
    monkeypatch.setattr("impasto.realtime.live_outputs.DEFAULT_PORT", served.panel.port)
    said: list[str] = []
    with open_panel(SimpleNamespace(port=None, listen="127.0.0.1", allow_host=()), say=said.append) as panel:
        assert panel.port != served.panel.port
    assert said == [f"port {served.panel.port} is taken by another program; using another"]


def test_a_panel_that_cannot_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("impasto.realtime.panel.PanelViewers.routes", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        with make_panel("127.0.0.1"):
            pass


def test_all_addresses_means_both_families() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 on this machine")
    with make_panel("::") as panel:
        for host in ("127.0.0.1", "[::1]"):
            served = SimpleNamespace(base=f"http://{host}:{panel.port}")
            assert fetch(served, "GET", f"/output?token={VIEW}", headers={"Authorization": ""}).status == 200


def test_the_guide_names_every_request() -> None:
    guide = (Path(__file__).parents[1] / "realtime/README.md").read_text(encoding="utf-8")
    table = guide.partition("## Remote control")[2]
    for route in PanelApi(SimpleNamespace()).routes():
        assert f"`{route.path.replace('{name}', 'NAME')}" in table, route.path
    for setting in fields(LiveSettings):
        assert f"`{setting.name}`" in table, setting.name


def test_only_what_was_saved_is_called_so(served: SimpleNamespace) -> None:
    def record(on: bool) -> str | None:
        return fetch(served, "POST", "/api/record", json={"on": on}).json["name"]

    record(on=True)
    wait_until(lambda: served.recordings[0].frames)
    served.recordings[0].fail_after = 0
    wait_until(lambda: served.controls.recording[1].state == "failed")
    assert record(on=False) is None
    assert served.controls.recording is None

    record(on=True)
    wait_until(lambda: served.recordings[1].frames)
    served.recordings[1].fail_after = 0
    wait_until(lambda: served.controls.recording[1].state == "failed")
    served.controls.press("r")  # nothing to stop: another one begins, and the broken one is gone
    assert len(served.recordings) == 3
    assert [output.name for output in served.session.outputs].count("recording") == 1
    wait_until(lambda: served.recordings[2].frames)
    served.controls.press("r")
    assert (served.controls.recording, served.recordings[2].closed) == (None, 1)

    for _ in range(3):
        served.controls.press("s")
    assert len(list((served.tmp / "out").glob("*.png"))) == 3

    served.feed.sending.clear()
    cards = served.session.status.cards
    wait_until(lambda: served.session.status.cards > cards)
    record(on=True)
    assert record(on=False) is None  # no picture came
    assert served.recordings[3].opened == 0


def test_a_snapshot_of_a_run_that_rests_is_of_this_moment(
    served: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("impasto.realtime.live.IDLE_AFTER_SECONDS", 0.1)
    wait_until(lambda: served.session.status.idle)
    served.controls.set({"style": "storm"})
    served.feed.picture[:, :160] += 20
    wait_until(lambda: served.session.status.painting_style == "storm")
    assert served.session.status.idle  # nothing was painted since
    answer = fetch(served, "POST", "/api/snapshot", json={})
    picture = cv2.imdecode(np.frombuffer(answer.body, np.uint8), cv2.IMREAD_COLOR)
    assert picture[90, [80, 240], 1].tolist() == [CAMERA_VALUE + 160 + 20, CAMERA_VALUE + 160]
    served.feed.sending.clear()
    monkeypatch.setattr("impasto.realtime.live_controls.SNAPSHOT_SECONDS", 0.5)
    answer = fetch(served, "POST", "/api/snapshot", json={})
    assert (answer.status, answer.json["error"]) == (400, "a snapshot needs a painted picture, got none within 0.5 s")


def test_a_preset_is_overwritten_only_on_request(served: SimpleNamespace) -> None:
    def save(**more: object) -> SimpleNamespace:
        return fetch(served, "POST", "/api/presets", json={"action": "save", "name": "night"} | more)

    kept = served.tmp / "config/presets/night.toml"
    assert save().status == 200
    served.controls.set({"style": "storm"})
    refused = save()
    assert (refused.status, refused.json["error"]) == (400, "preset must have a new name, got 'night', which exists")
    assert save(overwrite="yes").json["error"] == "overwrite must be true or false, got 'yes'"
    assert 'style = "calm"' in kept.read_text()
    assert save(overwrite=True).status == 200
    assert 'style = "storm"' in kept.read_text()


def test_a_style_that_is_replaced_has_a_preview_of_its_own(
    served: SimpleNamespace, make_artifact, identity_model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def preview() -> bytes:
        return fetch(served, "GET", "/api/styles/calm/preview").body

    before, version = preview(), fetch(served, "GET", "/api/state").json["styles"]
    assert preview() == before
    assert fetch(served, "GET", "/api/styles").json["version"] == version
    monkeypatch.setitem(PLUS, "calm", 90)
    make_artifact(identity_model, name="calm", stride=4).path.replace(served.styles / "calm.fast.onnx")
    assert preview() != before
    assert fetch(served, "GET", "/api/state").json["styles"] != version


def test_an_address_of_an_earlier_run_is_explained(served: SimpleNamespace) -> None:
    page = fetch(served, "GET", "/?token=old", headers={"Authorization": ""})
    assert (page.status, page.headers["Content-Type"]) == (401, "text/plain; charset=utf-8")
    assert b"Open the one that the program printed last" in page.body


def test_a_key_that_is_none_is_refused(served: SimpleNamespace) -> None:
    refused = fetch(served, "POST", "/api/key", json={"key": "zz"})
    assert (refused.status, refused.json["error"][:22]) == (400, "key must be one of n, ")
    for key in "npcfmth9 +=-?":
        assert fetch(served, "POST", "/api/key", json={"key": key}).status == 200
