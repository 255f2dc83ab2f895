"""Who watches the panel's outputs: programs, slow readers, floods, pages, WebRTC."""

import asyncio
import math
import shutil
import socket
import subprocess
import time
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

aiohttp = pytest.importorskip("aiohttp")

from impasto.realtime import panel_viewers  # noqa: E402
from impasto.realtime.live_jpeg import Jpeg, Viewer  # noqa: E402
from impasto.realtime.panel_connections import MOST_CONNECTIONS  # noqa: E402

from .live_helpers import CAMERA_VALUE, wait_until  # noqa: E402
from .panel_helpers import CONTROL, VIEW, fetch, mjpeg_url  # noqa: E402


@pytest.fixture
def painting(served: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """It paints, and no card comes though the machine is held up."""
    monkeypatch.setattr("impasto.realtime.live.HOLD_SECONDS", math.inf)
    wait_until(lambda: served.session.status.painted)


@pytest.mark.usefixtures("painting")
def test_opencv_reads_the_mjpeg_stream(served: SimpleNamespace) -> None:
    capture = cv2.VideoCapture(mjpeg_url(served), cv2.CAP_FFMPEG)
    pictures = [capture.read()[1] for _ in range(30)]
    capture.release()
    painted = [p for p in pictures if p is not None and abs(int(p[90, 160, 1]) - CAMERA_VALUE - 30) <= 2]
    assert len(painted) > 15
    assert not [p for p in pictures if p is not None and abs(int(p[90, 160, 1]) - CAMERA_VALUE) <= 2]
    wait_until(lambda: not served.panel.hub.watched())


@pytest.mark.usefixtures("painting")
@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg")
def test_ffmpeg_reads_the_mjpeg_stream(served: SimpleNamespace) -> None:
    """As OBS' media source does."""
    done = subprocess.run(
        ["ffmpeg", "-v", "error", "-f", "mpjpeg", "-i", mjpeg_url(served), "-frames:v", "30", "-pix_fmt", "rgb24",
         "-f", "rawvideo", "-"],
        capture_output=True, timeout=300,
    )  # fmt: skip
    pictures = np.frombuffer(done.stdout, np.uint8).reshape(-1, 180, 320, 3)
    assert len(pictures) == 30, done.stderr
    assert abs(float(np.median(pictures[-1])) - CAMERA_VALUE - 30) <= 2
    wait_until(lambda: not served.panel.hub.watched())


def test_readers_that_never_read_harm_nobody(served: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    stuck = []
    for _ in range(2):
        lazy = socket.create_connection(("127.0.0.1", served.panel.port))
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        lazy.sendall(f"GET /output.mjpeg?token={VIEW} HTTP/1.1\r\nHost: 127.0.0.1:{served.panel.port}\r\n\r\n".encode())
        stuck.append(lazy)
    rng = np.random.default_rng(0)
    monkeypatch.setattr("impasto.realtime.panel_viewers.STUCK_SECONDS", 600.0)  # none is let go
    served.feed.picture = rng.integers(0, 90, (180, 320, 3)).astype(np.uint8)  # large JPEGs, so that buffers fill
    served.feed.rate = 120
    wait_until(lambda: served.panel.hub.dropped > 20)

    async def read_some() -> None:
        async with aiohttp.ClientSession() as client, asyncio.timeout(60.0):
            async with client.get(mjpeg_url(served)) as answer:
                for _ in range(30):
                    await answer.content.readuntil(b"--frame")

    asyncio.run(read_some())
    for lazy in stuck:
        lazy.close()


def test_a_thousand_connections(served: SimpleNamespace) -> None:
    flood = []
    for _ in range(1000):
        connection = socket.socket()
        connection.setblocking(False)
        connection.connect_ex(("127.0.0.1", served.panel.port))
        flood.append(connection)
    time.sleep(0.5)
    assert served.panel.connections.open <= MOST_CONNECTIONS
    painted = served.session.status.painted
    wait_until(lambda: served.session.status.painted > painted)  # while the flood stands
    for connection in flood:
        connection.close()
    wait_until(lambda: served.panel.connections.open < 10)
    assert fetch(served, "GET", "/api/state").status == 200


@pytest.mark.usefixtures("painting")
def test_pictures_wait_for_the_page(served: SimpleNamespace) -> None:
    """Without acknowledgements two pictures come and no more; the newest comes after each acknowledgement."""
    hub = served.panel.hub

    async def go() -> None:
        async with aiohttp.ClientSession() as client:
            async with client.ws_connect(f"{served.base}/output/live?token={VIEW}") as socket:
                await socket.receive_bytes(timeout=60)
                await socket.receive_bytes(timeout=60)
                with pytest.raises(asyncio.TimeoutError):
                    await socket.receive_bytes(timeout=0.5)
                for value in range(60, 90, 3):
                    served.feed.picture = np.full((180, 320, 3), value, np.uint8)
                    while served.session.snapshot().mean() != value + 30:
                        await asyncio.sleep(0.01)
                    dropped = hub.dropped
                    while hub.dropped < dropped + 3:  # what was under way has come
                        await asyncio.sleep(0.01)
                    await socket.send_json({"ack": True})
                    jpeg = (await socket.receive_bytes(timeout=60))[2:]
                    picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
                    assert abs(int(picture[90, 160, 1]) - value - 30) <= 1

    asyncio.run(asyncio.wait_for(go(), 120.0))


def test_the_comparison_comes_at_once(served: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A viewer that changes over must not wait for a picture of the view that it left."""

    async def next_picture(socket: aiohttp.ClientWebSocketResponse) -> bytes:
        while (message := await socket.receive(timeout=60)).type is not aiohttp.WSMsgType.BINARY:
            pass
        await socket.send_json({"ack": True})
        return bytes(message.data)

    async def go() -> None:
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {CONTROL}"}) as client:
            async with client.ws_connect(f"{served.base}/api/live") as socket:
                await socket.send_json({"view": "painted"})
                for _ in range(5):
                    await next_picture(socket)
                await socket.send_json({"view": "compare"})
                while not (await next_picture(socket))[0]:
                    pass

    async def patiently(viewer: Viewer) -> Jpeg | None:
        return await viewer.take()  # without a time limit

    monkeypatch.setattr(panel_viewers, "next_picture", patiently)
    asyncio.run(asyncio.wait_for(go(), 60.0))


@pytest.mark.usefixtures("painting")
def test_a_webrtc_viewer_sees_the_painting(served: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    aiortc = pytest.importorskip("aiortc")
    asked: list[list[object] | None] = []

    class Noting(aiortc.RTCPeerConnection):
        """Which servers a connection asks for its own address."""

        def __init__(self, configuration: object) -> None:
            asked.append(configuration.iceServers)
            super().__init__(configuration)

    viewer = aiortc.RTCPeerConnection(aiortc.RTCConfiguration(iceServers=[]))
    monkeypatch.setattr(aiortc, "RTCPeerConnection", Noting)

    async def go() -> list[float]:
        peer, means = viewer, []
        peer.addTransceiver("video", direction="recvonly")
        tracks: list[object] = []
        peer.on("track", tracks.append)
        await peer.setLocalDescription(await peer.createOffer())
        headers = {"Authorization": f"Bearer {VIEW}", "Content-Type": "application/sdp"}
        async with aiohttp.ClientSession() as client:
            url = f"{served.base}/output/whep"
            async with client.post(url, data="v=0 nonsense", headers=headers) as answer:
                assert answer.status == 400
            async with client.post(url, data=peer.localDescription.sdp, headers=headers) as answer:
                assert answer.status == 201
                sdp = await answer.text()
        await peer.setRemoteDescription(aiortc.RTCSessionDescription(sdp, "answer"))
        for _ in range(10):
            frame = await asyncio.wait_for(tracks[0].recv(), 60)
            means.append(float(frame.to_ndarray(format="rgb24")[60:, :, 1].mean()))
        await peer.close()
        return means

    assert np.median(asyncio.run(go())) == pytest.approx(CAMERA_VALUE + 30, abs=4)
    wait_until(lambda: not served.panel.webrtc.watched())
    assert asked == [[], []]  # no stranger learns of a viewer


def test_a_webrtc_viewer_that_never_connects_is_forgotten(
    served: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    aiortc = pytest.importorskip("aiortc")
    monkeypatch.setattr("impasto.realtime.live_webrtc.CONNECT_SECONDS", 0.3)

    async def go() -> int:
        peer = aiortc.RTCPeerConnection(aiortc.RTCConfiguration(iceServers=[]))
        peer.addTransceiver("video", direction="recvonly")
        await peer.setLocalDescription(await peer.createOffer())
        offer = "\r\n".join(line for line in peer.localDescription.sdp.split("\r\n") if "candidate" not in line)
        await peer.close()
        headers = {"Authorization": f"Bearer {VIEW}", "Content-Type": "application/sdp"}
        async with aiohttp.ClientSession() as client:
            async with client.post(f"{served.base}/output/whep", data=offer, headers=headers) as answer:
                return answer.status

    assert asyncio.run(go()) == 201
    wait_until(lambda: not served.panel.webrtc.watched())


def test_a_message_that_is_none_is_answered_in_plain_words(served: SimpleNamespace) -> None:
    async def answer(text: str) -> str:
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {CONTROL}"}) as client:
            async with client.ws_connect(f"{served.base}/api/live") as socket:
                await socket.send_str(text)
                while "error" not in (message := await socket.receive_json(timeout=60)):
                    pass
                return str(message["error"])

    assert asyncio.run(answer("nojson")).startswith("message must be JSON: ")
    assert asyncio.run(answer("[]")) == "message must be a JSON object"
    assert asyncio.run(answer('{"set": 5}')) == "set must be a JSON object, got int"
    assert asyncio.run(answer('{"set": [1]}')) == "set must be a JSON object, got list"
