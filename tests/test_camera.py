"""Cameras: naming, choosing a mode, reading one that is not there (a preloaded shim), and its ways to fail."""

import errno
import itertools
import json
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from impasto.realtime import capture_child
from impasto.realtime.camera import CameraMode, CaptureFault, choose_mode, fault_of_errno, parse_input
from impasto.realtime.capture import CameraFeed, CaptureProcess, FeedInfo, FeedStatus
from impasto.realtime.errors import SourceError
from impasto.realtime.frame import Frame

from .live_helpers import Clock, build_shim, wait_until

COLOURS = [(220, 20, 60), (255, 255, 255), (0, 0, 0), (20, 200, 40), (30, 60, 220), (128, 128, 128), (250, 220, 0)]


def mode(text: str) -> CameraMode:
    pixel_format, size, rate = text.split()
    width, height = size.split("x")
    return CameraMode(pixel_format, int(width), int(height), Fraction(rate))


LAPTOP = [mode(m) for m in ("YUYV 640x480 30", "YUYV 1280x720 10", "MJPG 640x480 30", "MJPG 1280x720 30")]


@pytest.mark.parametrize(
    ("modes", "wish", "chosen"),
    [
        (LAPTOP, {}, "MJPG 1280x720 30"),  # raw 720p is slow
        (LAPTOP, {"size": (480, 640)}, "YUYV 640x480 30"),  # raw is fast enough and sharper
        (LAPTOP, {"size": (480, 640), "pixel_format": "mjpeg"}, "MJPG 640x480 30"),
        (LAPTOP, {"size": (720, 1280), "pixel_format": "yuyv422", "frame_rate": 10}, "YUYV 1280x720 10"),
        (LAPTOP, {"size": (1080, 1920)}, None),
        (LAPTOP, {"frame_rate": 60}, None),
        ([mode("YUYV 160x120 30"), mode("YUYV 2592x1944 2")], {}, "YUYV 160x120 30"),  # 2 frames/s is no video
        ([mode("YUYV 1920x1080 60"), mode("MJPG 1920x1080 60")], {}, "MJPG 1920x1080 60"),
        ([], {}, None),
    ],
)
def test_the_mode_that_fits(modes: list[CameraMode], wish: dict[str, object], chosen: str | None) -> None:
    assert choose_mode(modes, **wish) == (mode(chosen) if chosen else None)


def test_what_a_name_means(tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    clip.touch()
    assert parse_input("test").kind == "lavfi"
    assert parse_input("lavfi:mandelbrot").address == "mandelbrot"
    assert parse_input("screen").kind == "screen"
    assert parse_input(str(clip)).kind == "file"
    for address in ("rtsp://me:secret@host/cam", "rtsp://me:s@cret@host/cam", "rtsp://host/cam?user=me&pwd=s@cret"):
        url = parse_input(address)
        assert (url.kind, url.label, url.address) == ("url", "rtsp://host/cam", address)
    with pytest.raises(SourceError, match="source must be a camera's number"):
        parse_input("no such thing")


def test_a_camera_that_is_not_there_is_told_with_those_that_are() -> None:
    with pytest.raises(SourceError, match=r"camera must be one of this machine's .*, got 77"):
        parse_input("77")


@pytest.mark.parametrize(
    ("platform", "devices", "paths"),
    [
        ("win32", [("@device_pnp_1", "HD Webcam", ["video"]), ("@device_cm_2", "Microphone", ["audio"])],
         ["video=@device_pnp_1"]),
        ("darwin", [("0", "FaceTime HD", ["video"]), ("1", "Capture screen 0", ["video"]), ("0", "Mic", ["audio"])],
         ["0:none"]),
    ],
)  # fmt: skip
def test_cameras_of_other_systems(monkeypatch: pytest.MonkeyPatch, platform: str, devices: list, paths: list) -> None:
    """What FFmpeg lists there; no such system here, so its answer is made up after PyAV's own documentation."""
    from av.device import DeviceInfo

    from impasto.realtime import camera

    answer = [DeviceInfo(name, description, False, kinds) for name, description, kinds in devices]
    monkeypatch.setattr(camera.sys, "platform", platform)
    monkeypatch.setattr("av.enumerate_input_devices", lambda driver: answer)
    assert [c.path for c in camera.list_cameras()] == paths
    request = camera.parse_input(devices[0][1].split()[0].lower())
    assert (request.kind, request.address) == ("camera", paths[0])


def test_every_fault_says_what_to_do() -> None:
    seen = {CaptureFault(fault_of_errno(code, was_live=False)).sentence("camera 0") for code in (2, 13, 16, 22, 110)}
    assert len(seen) == 5  # absent, denied, busy, wrong mode and frozen are told apart
    assert fault_of_errno(19, was_live=True) == "unplugged"
    assert fault_of_errno(19, was_live=False) == "absent"


class NotFound(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(404)

    def log_message(self, *_: object) -> None: ...


def test_a_server_that_refuses_does_not_make_us_tell_the_password() -> None:
    with HTTPServer(("127.0.0.1", 0), NotFound) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"127.0.0.1:{server.server_port}/cam"
        told: list[str] = []
        feed = CameraFeed(parse_input(f"http://me:secret@{address}"), on_status=lambda s: told.append(s.message))
        with pytest.raises(SourceError, match=f"http://{address} failed .server returned 404 not found."):
            feed.wait_live()
        feed.close()
        server.shutdown()
    assert "secret" not in " ".join(told)


def test_a_server_that_says_nothing_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture_child, "OPEN_TIMEOUT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        request = parse_input(f"http://me:secret@127.0.0.1:{server.getsockname()[1]}/cam")
        with pytest.raises(capture_child._OpenError) as caught:
            capture_child._open(request)
    assert caught.value.fault == CaptureFault("unreachable", "no answer in time")


def test_a_file_plays_as_a_camera_for_ever(make_clip) -> None:
    clip = make_clip()  # 12 pictures, 25 a second
    frames: list[Frame] = []
    feed = CameraFeed(parse_input(str(clip)))
    info = feed.wait_live()
    feed.start(frames.append)
    wait_until(lambda: len(frames) >= 25)  # twice round
    now = time.monotonic()
    feed.close()
    assert (info.width, info.height) == (frames[0].data.shape[1], frames[0].data.shape[0])
    assert now - 60 < frames[0].pts < frames[24].pts < now


def test_a_file_is_played_at_its_own_speed(make_clip, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = make_clip()  # 12 pictures, 25 a second
    clock = Clock()
    clock.monotonic_ns = lambda: round(clock.now * 1e9)
    clock.sleep = lambda seconds: setattr(clock, "now", clock.now + seconds)
    monkeypatch.setattr(capture_child, "time", clock)
    _, pictures = capture_child._open(parse_input(str(clip)))
    times = [captured_ns / 1e9 for captured_ns, _ in itertools.islice(pictures, 30)]
    pictures.close()
    assert np.diff(times) == pytest.approx([0.04] * 29)


def test_a_photograph_is_sent_as_a_camera_would(tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    cv2.imwrite(str(photo), np.full((48, 64, 3), 90, np.uint8))
    frames: list[Frame] = []
    feed = CameraFeed(parse_input(str(photo)))
    rate = feed.wait_live().frame_rate
    feed.start(frames.append)
    wait_until(lambda: len(frames) >= 6)
    feed.close()
    gaps = np.diff([float(frame.pts) for frame in frames])
    assert min(gaps) > 0.9 / rate  # every round begins anew, so none makes up for another


def test_a_killed_reader_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("impasto.realtime.capture.STALL_LEAST_SECONDS", 60.0)
    told: list[FeedStatus] = []
    feed = CameraFeed(parse_input("lavfi:testsrc2=size=160x96:rate=30"), on_status=told.append)
    feed.wait_live(60.0)
    feed._process._process.kill()
    wait_until(lambda: [status.state for status in told].count("live") == 2)
    feed.close()
    assert [status.state for status in told[:5]] == ["opening", "live", "lost", "opening", "live"]
    assert "crashed" in told[2].message
    assert feed.status.state == "closed"


@pytest.mark.parametrize("idle", [True, False])
def test_a_rest_that_begins_or_ends_while_the_camera_is_started_is_not_lost(
    monkeypatch: pytest.MonkeyPatch, idle: bool
) -> None:
    starting, may_start = threading.Event(), threading.Event()
    children: list[CaptureProcess] = []

    class Child(CaptureProcess):
        """A process that takes its time to start and only listens."""

        def __init__(self, request: object, on_frame: object, *, idle: bool = False) -> None:
            self.info = self.fault = self.last_frame_at = None
            self.idle = idle
            children.append(self)
            starting.set()
            may_start.wait(60.0)

        def set_idle(self, idle: bool) -> None:
            self.idle = idle

        def close(self) -> None:
            pass

    monkeypatch.setattr("impasto.realtime.capture.CaptureProcess", Child)
    with closing(CameraFeed(parse_input("test"))) as feed:
        feed.set_idle(not idle)
        feed.start(lambda frame: None)
        starting.wait(60.0)
        feed.set_idle(idle)
        may_start.set()
        wait_until(lambda: feed._process is not None)
    assert [child.idle for child in children] == [idle]


def test_a_process_that_has_ended_is_told_nothing() -> None:
    process = CaptureProcess(parse_input("lavfi:testsrc2=size=160x96:rate=30"), lambda frame: None)
    process.close()
    process.set_idle(True)


def test_a_process_that_cannot_be_started_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **options: object) -> None:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    with closing(CameraFeed(parse_input("lavfi:testsrc2=size=160x96:rate=30"))) as feed:
        with monkeypatch.context() as patched:
            patched.setattr("subprocess.Popen", full)
            with pytest.raises(SourceError, match="cannot be started: Resource temporarily unavailable"):
                feed.wait_live(60.0)
        wait_until(lambda: feed.status.state == "live")


# With the shim, in a process of its own

READ = """
import json, sys, threading, time
from pathlib import Path
from impasto.realtime import capture
from impasto.realtime.camera import list_cameras, parse_input
from impasto.realtime.capture import CameraFeed
from impasto.realtime.errors import SourceError

capture.STALL_LEAST_SECONDS = float(sys.argv[4])
fault, options, script = Path(sys.argv[1]) / "fault", json.loads(sys.argv[2]), json.loads(sys.argv[3])
out = {"cameras": [[c.name, [str(m) for m in c.modes]] for c in list_cameras()], "states": [], "frames": 0}
frames, ages = [], []
feed = CameraFeed(parse_input("0", **options), on_status=lambda s: out["states"].append(
    [s.state, s.message]))
def keep(frame):
    ages.append(time.monotonic() - float(frame.pts))
    frames.append(frame)
try:
    out["info"] = str(feed.wait_live(60.0))
    feed.start(keep)
    for what, until in script:
        fault.write_text(what)
        seen, end = len(frames), time.monotonic() + 60
        while feed.status.state != until and time.monotonic() < end:
            time.sleep(0.01)
        while until == "live" and len(frames) < seen + 10 and time.monotonic() < end:
            time.sleep(0.01)
except SourceError as exc:
    out["error"] = str(exc)
feed.close()
if frames:
    last = frames[-1].data
    out["shape"] = last.shape
    out["colours"] = [last[last.shape[0] // 2, int((i + 0.5) * last.shape[1] / 8)].tolist() for i in range(7)]
    out["age"] = min(ages[-8:])
out["frames"] = len(frames)
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def fake_camera(tmp_path_factory: pytest.TempPathFactory):
    """read(fault="", script=[(fault, wait for this state), …], **options): what a program sees of the shim's camera."""
    folder = tmp_path_factory.mktemp("fakecam")
    shim = build_shim("fakecam", folder)
    bars = np.zeros((480, 640, 3), np.uint8)
    for i, colour in enumerate(COLOURS):
        bars[:, i * 80 : (i + 1) * 80] = colour
    (folder / "frames.yuyv").write_bytes(yuyv(bars))
    cv2.imwrite(str(folder / "frame.jpg"), cv2.resize(bars, (1280, 720))[..., ::-1])

    def read(
        *, fault: str = "", script: list[list[str]] | None = None, mjpeg: bool = False,
        stall_seconds: float = 60.0,  # a busy machine holds a camera up for longer than a second
        **options: object,
    ):  # fmt: skip
        (folder / "fault").write_text(fault)
        environment = os.environ | {
            "LD_PRELOAD": str(shim), "FAKECAM_DIR": str(folder), "FAKECAM_MJPEG": "1" if mjpeg else "0",
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", READ, str(folder), json.dumps(options), json.dumps(script or []),
             str(stall_seconds)],
            env=environment, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return read


def yuyv(picture: np.ndarray) -> bytes:
    """BT.601, limited range, two pixels to four bytes."""
    ycc = cv2.cvtColor(picture, cv2.COLOR_RGB2YCrCb).astype(float)
    packed = np.empty((*picture.shape[:2], 2))
    packed[..., 0] = 16 + ycc[..., 0] * 219 / 255
    packed[:, 0::2, 1] = 128 + (ycc[:, 0::2, 2] - 128) * 224 / 255
    packed[:, 1::2, 1] = 128 + (ycc[:, 0::2, 1] - 128) * 224 / 255
    return np.round(packed).astype(np.uint8).tobytes()


@pytest.mark.parametrize("backend", ["pyav", "opencv"])
def test_a_camera_is_listed_and_read_in_its_colours(fake_camera, backend: str) -> None:
    seen = fake_camera(backend=backend, script=[["", "live"]])
    assert seen["cameras"] == [["Fake Camera", ["640x480 30 fps YUYV"]]]
    assert seen["shape"] == [480, 640, 3]
    assert np.abs(np.array(seen["colours"]) - COLOURS).max() <= 2
    assert seen["age"] < 0.5


def test_mjpeg_is_chosen_where_it_is_larger(fake_camera) -> None:
    seen = fake_camera(mjpeg=True, script=[["", "live"]])
    assert "1280x720 30 fps mjpeg" in seen["info"]
    assert np.abs(np.array(seen["colours"]).astype(int) - COLOURS).max() <= 4  # JPEG


@pytest.mark.parametrize(
    ("fault", "words"),
    [("busy", "in use by another program"), ("denied", "may not be opened"), ("format", "does not offer this size")],
)
def test_a_camera_that_does_not_open_says_why(fake_camera, fault: str, words: str) -> None:
    seen = fake_camera(fault=fault, backend="pyav")
    assert words in seen["error"]


def test_an_unplugged_camera_comes_back(fake_camera) -> None:
    seen = fake_camera(script=[["", "live"], ["unplug", "lost"], ["", "live"]])
    states = [state for state, _ in seen["states"]]
    assert states[:4] == ["opening", "live", "lost", "opening"]
    assert states[-2:] == ["live", "closed"]
    assert "was unplugged" in seen["states"][2][1]


def test_a_frozen_camera_is_noticed_and_does_not_hang_the_program(fake_camera) -> None:
    seen = fake_camera(script=[["", "live"], ["freeze", "lost"]], stall_seconds=1.0)
    states = [state for state, _ in seen["states"]]
    lost = states.index("lost")
    assert states[lost - 1] == "stalled"
    assert states[-1] == "closed"
    assert "open but sends no pictures" in seen["states"][lost][1]


def test_a_camera_stalls_after_a_second_and_is_lost_after_three(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that goes while the feed waits."""
    clock, told = Clock(), []
    process = SimpleNamespace(info=FeedInfo(640, 480, 30.0, "YUYV", "fake"), fault=None, last_frame_at=clock.now)
    feed = CameraFeed(parse_input("test"), on_status=lambda status: told.append((status.state, clock.now - 1000.0)))

    class Ticking(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            clock.now += timeout
            return False

    feed._stop = Ticking()
    monkeypatch.setattr("impasto.realtime.capture.time", clock)
    fault, was_live = feed._watch(process)
    assert told == [("live", pytest.approx(0.0, abs=0.06)), ("stalled", pytest.approx(1.0, abs=0.06))]
    assert (fault.kind, was_live) == ("frozen", True)
    assert clock.now - 1000.0 == pytest.approx(3.0, abs=0.06)
