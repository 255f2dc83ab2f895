"""Stand-ins for the live tests: a feed without a camera, engines that paint, fail or hang on command."""

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from impasto.export.statistics import Layer, StatisticsLayout
from impasto.realtime.capture import FeedInfo, FeedStatus
from impasto.realtime.engine import Done, EngineInfo
from impasto.realtime.frame import Frame, StreamInfo
from impasto.realtime.live_output import LiveOutput
from impasto.realtime.time_code import paint_time_code

HEIGHT, WIDTH = 96, 160
CAMERA_VALUE = 40
"""The fake camera's pictures are this everywhere, so that a raw one is known at sight."""
RATE = 30
SINK_INFO = StreamInfo(161, 97, Fraction(30), live=True)
needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs the ffmpeg program")


class Clock:
    """Stands in for the module `time` in one of ours: it goes by `tick` seconds at every look, or when it is set."""

    def __init__(self, *, tick: float = 0.0) -> None:
        self.now, self.tick = 1000.0, tick

    def monotonic(self) -> float:
        self.now += self.tick
        return self.now


class HandFeed:
    """A camera that sends a picture when the test says so; `sent` holds their times of capture."""

    def __init__(self) -> None:
        self.sent: list[Fraction] = []
        info = FeedInfo(WIDTH, HEIGHT, RATE, "fake", "fake")
        self.status = FeedStatus("live", "fake camera", "fake camera is live", info)

    def start(self, on_frame: Callable[[Frame], None]) -> None:
        self._on_frame = on_frame

    def send(self) -> None:
        self.sent.append(Fraction(time.monotonic_ns(), 10**9))
        self._on_frame(Frame(np.full((HEIGHT, WIDTH, 3), CAMERA_VALUE, np.uint8), self.sent[-1]))

    def set_idle(self, idle: bool) -> None: ...

    def close(self) -> None: ...


class FakeFeed:
    """A camera in a thread: grey pictures at a steady rate, lost and found on command."""

    def __init__(self, *, rate: float = RATE, size: tuple[int, int] = (HEIGHT, WIDTH), picture: object = None) -> None:
        self.rate = rate
        self.idle = False
        self.sending = threading.Event()
        self.sending.set()
        self.picture = np.full((*size, 3), CAMERA_VALUE, np.uint8) if picture is None else picture
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def status(self) -> FeedStatus:
        info = FeedInfo(WIDTH, HEIGHT, self.rate, "fake", "fake")
        state = "live" if self.sending.is_set() else "lost"
        return FeedStatus(state, "fake camera", f"fake camera is {state}", info)

    def start(self, on_frame: Callable[[Frame], None]) -> None:
        self._thread = threading.Thread(target=self._run, args=(on_frame,), name="impasto-fake-feed")
        self._thread.start()

    def set_idle(self, idle: bool) -> None:
        self.idle = idle

    def close(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self, on_frame: Callable[[Frame], None]) -> None:
        due = time.monotonic()
        while not self._stop.wait(max(due - time.monotonic(), 0.0)):
            due += 1 / self.rate
            if self.sending.is_set():
                on_frame(Frame(self.picture.copy(), Fraction(time.monotonic_ns(), 10**9)))


class FakeEngine:
    """Adds 100 to every value; slow, broken or stuck when it is told to be."""

    info = EngineInfo("fake", "CPU", "fp32")
    stride = 4

    def __init__(self, *, plus: int = 100, seconds: float = 0.0) -> None:
        self.plus, self.seconds = plus, seconds
        self.broken = False
        self.stuck = threading.Event()
        self.stuck.set()
        self.begun = 0
        """Calls so far."""
        self.closed = 0
        self.warm: list[tuple[int, int]] = []

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        self.begun += 1
        self.stuck.wait(600.0)
        time.sleep(self.seconds)
        if self.broken:
            raise RuntimeError("the engine broke")
        return frames + np.uint8(self.plus)

    def warmup(self, height: int, width: int) -> None:
        self.warm.append((height, width))

    def close(self) -> None:
        self.closed += 1


class Measurable:
    """For `CarriedEngine`: its one statistic is a picture's mean, it paints nothing, and keeps what it was to use."""

    info = EngineInfo("fake", "CPU", "fp32")
    stride = 4
    layout = StatisticsLayout((Layer(np.ones(1), np.zeros(1), 0.0, 1),))

    def __init__(self) -> None:
        self.summands: list[float] = []

    def start(self, frame: np.ndarray, affine: np.ndarray) -> Done:
        self.summands.append(round(float(affine[0, 1])))
        return Done({"stylized": frame})

    def start_measuring(self, frame: np.ndarray) -> Callable[[], np.ndarray]:
        return lambda: np.array([frame.mean(), 1.0])

    def warmup(self, height: int, width: int) -> None:
        pass

    def close(self) -> None:
        pass


class Gallery:
    """A sink that keeps what it is given; stuck or failing when it is told to be."""

    def __init__(self, *, fail_after: int | None = None) -> None:
        self.frames: list[Frame] = []
        self.fail_after = fail_after
        self.stuck = threading.Event()
        self.stuck.set()
        self.begun = self.opened = self.closed = 0

    def __enter__(self) -> "Gallery":
        self.opened += 1
        return self

    def __exit__(self, *_: object) -> None:
        self.closed += 1

    def write(self, frame: Frame) -> None:
        from impasto.realtime.errors import SinkError

        self.begun += 1
        if self.fail_after is not None and len(self.frames) >= self.fail_after:
            self.fail_after = None
            raise SinkError("the sink broke")
        self.stuck.wait(600.0)
        self.frames.append(frame)

    def kinds(self) -> list[str]:
        """painted, raw or card, for every picture."""
        return [kind_of(frame.data) for frame in self.frames]

    def painted(self) -> list[Fraction]:
        """When the painted pictures were captured."""
        return [frame.pts for frame in self.frames if kind_of(frame.data) == "painted"]

    def output(self, name: str = "gallery", **options: object) -> LiveOutput:
        return LiveOutput(name, lambda info: self, frame_rate=Fraction(30), **options)


def kind_of(picture: np.ndarray) -> str:
    """By its value: the camera's, what the fake engine makes of it, or the card."""
    middle = int(picture[picture.shape[0] // 2, picture.shape[1] // 2, 1])
    if np.ptp(picture) > 3:
        return "card"
    return "raw" if abs(middle - CAMERA_VALUE) <= 2 else "painted"


def wait_until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait for something that another thread does; fails the test if it does not come, however busy the machine."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


def build_shim(name: str, folder: Path) -> Path:
    """Compile tests/shims/NAME.c; skips where that is not possible."""
    if sys.platform != "linux" or shutil.which("gcc") is None:
        pytest.skip("the device shims need Linux and gcc")
    target = folder / f"{name}.so"
    source = Path(__file__).with_name("shims") / f"{name}.c"
    subprocess.run(["gcc", "-O1", "-shared", "-fPIC", str(source), "-o", str(target), "-ldl"], check=True)
    return target


def coded_picture() -> np.ndarray:
    """A grey picture with the time of now painted in."""
    picture = np.full((HEIGHT, WIDTH, 3), CAMERA_VALUE, np.uint8)
    paint_time_code(picture, Fraction(time.monotonic_ns(), 10**9))
    return picture


def pictures(count: int, start: float = 0.0, *, noise: bool = False):
    """Frames of 161x97 at 30 per second from `start` seconds; noise is what no encoder makes small."""
    rng = np.random.default_rng(0)
    for n in range(count):
        picture = np.full((97, 161, 3), (n * 3) % 200, np.uint8)
        if noise:
            picture = rng.integers(0, 255, picture.shape).astype(np.uint8)
        yield Frame(picture, Fraction(start) + Fraction(n, 30))


def read(path: Path) -> list[av.VideoFrame]:
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


def readable_frames(path: Path) -> int:
    """Pictures that a player shows of a file whose last bytes are missing."""
    count = 0
    with av.open(str(path)) as container:
        try:
            for _ in container.decode(video=0):
                count += 1
        except av.InvalidDataError:
            pass  # the fragment that was cut off
    return count
