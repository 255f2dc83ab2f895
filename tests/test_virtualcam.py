"""The virtual camera: the real pyvirtualcam against a loopback device that is not there (a preloaded shim)."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from impasto.realtime.loopback_readers import LoopbackReaders

from .live_helpers import build_shim, wait_until

pytest.importorskip("pyvirtualcam")

WRITE = """
import sys
from fractions import Fraction
import numpy as np
from impasto.realtime.errors import SinkError
from impasto.realtime.frame import Frame, StreamInfo
from impasto.realtime.sink_virtualcam import VirtualCamera

height, width = 101, 161
picture = np.zeros((height, width, 3), np.uint8)
for i, colour in enumerate(((220, 20, 60), (255, 255, 255), (0, 0, 0), (20, 200, 40), (30, 60, 220))):
    picture[:, i * 32 : (i + 1) * 32] = colour
try:
    with VirtualCamera(StreamInfo(width, height, Fraction(30)), device=sys.argv[1] or None) as camera:
        for n in range(3):
            camera.write(Frame(picture, Fraction(n, 30)))
        print(camera.device)
except SinkError as exc:
    print("error:", exc)
"""


def run(device: str, tmp_path: Path, **environment: str) -> str:
    shim = build_shim("fakeloop", tmp_path)
    variables = os.environ | {"LD_PRELOAD": str(shim), "FAKELOOP_FILE": str(tmp_path / "loop.raw")} | environment
    done = subprocess.run(
        [sys.executable, "-c", WRITE, device], env=variables, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("device", ["", "/dev/video7"])
def test_frames_arrive_in_their_colours(device: str, tmp_path: Path) -> None:
    assert run(device, tmp_path) == "/dev/video7"
    assert (tmp_path / "loop.raw.format").read_text().split() == ["YU12", "160", "100"]  # even edges
    frames = np.frombuffer((tmp_path / "loop.raw").read_bytes(), np.uint8).reshape(3, 150, 160)
    rgb = cv2.cvtColor(frames[2], cv2.COLOR_YUV2RGB_I420).astype(int)
    colours = [(220, 20, 60), (255, 255, 255), (0, 0, 0), (20, 200, 40), (30, 60, 220)]
    seen = [rgb[50, i * 32 + 16] for i in range(5)]
    assert np.abs(np.array(seen) - colours).max() <= 2


def test_a_busy_device_is_one_clear_line(tmp_path: Path) -> None:
    said = run("/dev/video7", tmp_path, FAKELOOP_FAULT="busy")
    assert said.startswith("error: virtual camera cannot be opened")
    assert "busy" in said.lower()


def test_a_missing_device_is_one_clear_line(tmp_path: Path) -> None:
    if Path("/dev/video9").exists():
        pytest.skip("this machine has a device of that name")
    said = run("/dev/video9", tmp_path)
    assert "does not exist" in said


@pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's")
def test_readers_of_a_device_are_noticed(tmp_path: Path) -> None:
    device = tmp_path / "device"
    device.touch()
    readers = LoopbackReaders(str(device))
    assert not readers.any()
    with device.open() as opened:
        other = subprocess.Popen(["sleep", "600"], stdin=opened)
    wait_until(readers.any)
    assert LoopbackReaders(str(device)).any()  # also one that came first
    other.kill()
    other.wait()
    wait_until(lambda: not readers.any())
    readers.close()
    assert LoopbackReaders("/no/such/device").any()


@pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's")
def test_readers_may_be_asked_for_while_another_thread_closes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = tmp_path / "device"
    device.touch()
    readers, reads = LoopbackReaders(str(device)), threading.Event()

    def read(fd: int, count: int) -> bytes:
        reads.set()
        closing.join(0.3)  # as long as it likes, if nothing keeps it from closing
        return real_read(fd, count)

    closing = threading.Thread(target=lambda: (reads.wait(), readers.close()))
    real_read = os.read
    monkeypatch.setattr("impasto.realtime.loopback_readers.os.read", read)
    closing.start()
    assert not readers.any()
    closing.join()
    assert readers.any()  # nobody knows any more
