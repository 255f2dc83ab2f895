"""The process that reads one camera: a driver that blocks or crashes takes this process down and nothing else.

Started by `capture.py` as `python -m impasto.realtime.capture_child`. The request comes as one line of JSON on
standard input, then lines `idle` and `live`; the end of standard input ends the process. Messages leave on standard
output: `HEADER`, then `size` bytes, which are JSON for INFO and FAIL and (height, width, 3) uint8 RGB for a FRAM.
"""

import json
import os
import signal
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import TYPE_CHECKING

import av
import numpy as np

from .camera import CaptureFault, CaptureRequest, fault_of_errno
from .errors import SourceError
from .frame import Picture

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

HEADER = struct.Struct("<4sIIIq")
"""Kind, size of the payload in bytes, height, width, time of capture in nanoseconds of the monotonic clock."""

OPEN_TIMEOUT_SECONDS = 10.0
READ_TIMEOUT_SECONDS = 5.0
INTRA_ONLY = ("rawvideo", "mjpeg", "wrapped_avframe")
"""Codecs whose pictures stand alone: while nobody watches they need not be decoded."""
DRIVERS = {"linux": "v4l2", "win32": "dshow", "darwin": "avfoundation"}

Grab = Callable[[], Picture | None]
"""Decode and convert the picture that was just received; not called while nobody watches. None: damaged."""
Pictures = Iterator[tuple[int, Grab]]
"""(monotonic time of capture in nanoseconds, grab)."""


class _OpenError(Exception):
    """The device or stream did not open or broke."""

    def __init__(self, fault: CaptureFault) -> None:
        super().__init__(fault.detail)
        self.fault = fault


class _Wire:
    """Standard output as a stream of messages, and standard input as a stream of commands."""

    def __init__(self) -> None:
        self._out = os.dup(1)
        # Libraries that print would corrupt the stream of pictures.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        self.awake = threading.Event()
        self.awake.set()

    def obey(self) -> None:
        """Follow commands; when the parent is gone, leave at once even if the driver blocks."""
        for line in sys.stdin:
            (self.awake.clear if line.strip() == "idle" else self.awake.set)()
        os._exit(0)

    def tell(self, kind: bytes, message: dict[str, object]) -> None:
        payload = json.dumps(message).encode()
        self._write(HEADER.pack(kind, len(payload), 0, 0, time.monotonic_ns()) + payload)

    def send(self, picture: Picture, captured_ns: int) -> None:
        height, width, _ = picture.shape
        self._write(HEADER.pack(b"FRAM", picture.nbytes, height, width, captured_ns))
        self._write(picture.data.cast("B"))

    def _write(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._out, view) :]


def main() -> None:
    """Open what standard input asks for and send pictures until told to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    wire = _Wire()
    request = CaptureRequest(**json.loads(sys.stdin.readline()))
    threading.Thread(target=wire.obey, daemon=True).start()
    live = False
    try:
        info, pictures = _open(request)
        wire.tell(b"INFO", info)
        last_sent = 0.0
        for captured_ns, grab in pictures:
            if not wire.awake.is_set():
                if request.kind in ("file", "lavfi"):  # nothing queues up behind these, so they can wait
                    wire.awake.wait(1.0)
                    captured_ns = time.monotonic_ns()
                elif time.monotonic() - last_sent < 1.0:
                    continue
                # While nobody watches one picture a second proves that the camera lives.
            if (picture := grab()) is not None:
                wire.send(picture, captured_ns)
                last_sent = time.monotonic()
                live = True
        fault = CaptureFault("ended" if request.kind != "camera" else "unplugged")
    except _OpenError as exc:
        fault = exc.fault
    except BrokenPipeError:
        return
    except (OSError, SourceError, ValueError, av.FFmpegError) as exc:
        fault = _fault_of(exc, live)
    except Exception as exc:  # the process boundary: the parent must learn of anything at all in words
        fault = CaptureFault("failed", f"{type(exc).__name__}: {exc}")
    wire.tell(b"FAIL", {"kind": fault.kind, "detail": fault.detail})


def _fault_of(exc: Exception, live: bool) -> CaptureFault:
    if isinstance(exc, av.ExitError):  # how FFmpeg puts it that the timeout is over
        return CaptureFault("frozen" if live else "unreachable", "no answer in time")
    # FFmpeg's errors carry a code whichever built-in they derive from. Their str() holds the address and its password.
    code, words = getattr(exc, "errno", None), getattr(exc, "strerror", None)
    return CaptureFault(fault_of_errno(code, was_live=live), (words or str(exc)).lower())


def _open(request: CaptureRequest) -> tuple[dict[str, object], Pictures]:
    if request.kind == "file":
        return _open_file(request)
    if request.kind == "camera" and request.backend == "opencv":
        return _open_opencv(request)
    try:
        return _open_pyav(request)
    except _OpenError as exc:
        # A driver that FFmpeg cannot talk to may still work in OpenCV; one that is busy or away will not.
        if request.kind == "camera" and request.backend == "auto" and exc.fault.kind in ("failed", "format"):
            return _open_opencv(request)
        raise


def _open_file(request: CaptureRequest) -> tuple[dict[str, object], Pictures]:
    """A file as if it were a camera: at its own speed, for ever."""
    from .source_file import VideoFile

    with VideoFile(request.address) as video:
        info = video.info

    def pictures() -> Pictures:
        while True:
            with VideoFile(request.address) as again:
                clock, end = _Pacer(), Fraction(0)
                for frame in again:
                    clock.wait_for(frame.pts)
                    data, end = frame.data, frame.pts + 1 / info.frame_rate
                    yield time.monotonic_ns(), lambda data=data: data  # type: ignore[misc]
                clock.wait_for(end)  # the last picture has its time too; a photograph is nothing but a last one

    return _info(info.width, info.height, float(info.frame_rate), "file", "VideoFile"), pictures()


class _Pacer:
    """Holds pictures back until they are due."""

    def __init__(self) -> None:
        self._origin: float | None = None

    def wait_for(self, pts: Fraction | float) -> None:
        now = time.monotonic()
        if self._origin is None:
            self._origin = now - float(pts)
        due = self._origin + float(pts)
        if due > now:
            time.sleep(min(due - now, 10.0))
        elif now - due > 1.0:  # too slow for real time: go on from here instead of racing after the clock
            self._origin = now - float(pts)


def _open_pyav(request: CaptureRequest) -> tuple[dict[str, object], Pictures]:
    av.logging.set_level(None)
    fault = CaptureFault("failed", "no way to open it")
    for address, driver, options in _attempts(request):
        try:
            container = av.open(
                address, format=driver, options=options, timeout=(OPEN_TIMEOUT_SECONDS, READ_TIMEOUT_SECONDS)
            )
        except (OSError, ValueError, av.FFmpegError) as exc:
            fault = _fault_of(exc, live=False)
            if fault.kind in ("format", "failed"):
                continue  # a plainer mode may do
            break
        return _read_pyav(container, request, driver)
    raise _OpenError(fault)


def _attempts(request: CaptureRequest) -> Iterator[tuple[str, str | None, dict[str, str]]]:
    """(address, FFmpeg format, options) from the mode we want to the driver's own choice."""
    if request.kind == "url":
        yield request.address, None, {"fflags": "nobuffer", "flags": "low_delay", "rtsp_transport": "tcp"}
        return
    if request.kind == "lavfi":
        yield request.address, "lavfi", {}
        return
    if request.kind == "screen":
        yield _screen(request)
        return
    driver = DRIVERS.get(sys.platform, "v4l2")
    size = {"video_size": f"{request.width}x{request.height}"} if request.width and request.height else {}
    rate = {"framerate": f"{request.frame_rate:g}"} if request.frame_rate else {}
    form = {}
    if request.pixel_format:
        # Compressed formats are codecs to DirectShow and V4L2's "input_format" takes both.
        key = "input_format" if driver == "v4l2" else "vcodec" if request.pixel_format == "mjpeg" else "pixel_format"
        form = {key: request.pixel_format}
    yield request.address, driver, size | rate | form
    if not request.mode_named:
        yield request.address, driver, size | rate
        yield request.address, driver, rate or {"framerate": "30"}
        yield request.address, driver, {}


def _screen(request: CaptureRequest) -> tuple[str, str, dict[str, str]]:
    options = {"framerate": f"{request.frame_rate or 30:g}"}
    if request.width and request.height:
        options["video_size"] = f"{request.width}x{request.height}"
    if sys.platform == "win32":
        return "desktop", "gdigrab", options
    if sys.platform == "darwin":
        return f"Capture screen {request.address or 0}:none", "avfoundation", options
    return request.address or os.environ.get("DISPLAY", ":0"), "x11grab", options


def _read_pyav(container: object, request: CaptureRequest, driver: str | None) -> tuple[dict[str, object], Pictures]:
    from av.container import InputContainer

    from .color import RgbReader, tags_of

    if not isinstance(container, InputContainer) or not container.streams.video:
        raise _OpenError(CaptureFault("format", "no video stream"))
    stream = container.streams.video[0]
    stream.thread_type = "SLICE"  # frame threads would hold pictures back
    context = stream.codec_context
    rate = float(stream.average_rate or stream.guessed_rate or 30)
    info = _info(context.width, context.height, rate, context.name, f"FFmpeg {driver or 'network'}")
    paced = _Pacer() if request.kind == "lavfi" else None

    def pictures() -> Pictures:
        reader: RgbReader | None = None

        def to_rgb(frame: "VideoFrame") -> Picture:
            nonlocal reader
            if reader is None:
                # Cameras do not tag their pictures and use BT.601 at every size; streams say or follow players.
                reader = RgbReader("bt601" if request.kind == "camera" else tags_of(frame).matrix)
            return reader(frame, frame.height, frame.width)

        def decode(packet: "Packet[VideoStream]") -> Picture | None:
            try:
                return next((to_rgb(frame) for frame in packet.decode()), None)
            except av.InvalidDataError:  # half a JPEG: cheap cameras send some, the first ones above all
                return None

        for packet in container.demux(stream):
            if packet.pts is None and not packet.size:
                continue
            if paced is not None and packet.pts is not None and packet.time_base:
                paced.wait_for(packet.pts * Fraction(packet.time_base))
            arrived_ns = time.monotonic_ns()
            captured_ns = _driver_time(packet.pts, packet.time_base, arrived_ns) if driver == "v4l2" else arrived_ns
            if context.name in INTRA_ONLY:
                yield captured_ns, lambda packet=packet: decode(packet)  # type: ignore[misc]
            elif (picture := decode(packet)) is not None:  # later pictures need this one, watched or not
                yield captured_ns, lambda picture=picture: picture  # type: ignore[misc]

    return info, pictures()


def _driver_time(pts: int | None, time_base: Fraction | None, arrived_ns: int) -> int:
    """When the driver says the picture was taken, if its clock is the monotonic one; else when it arrived."""
    if pts is None or not time_base:
        return arrived_ns
    taken_ns = int(pts * time_base * 1_000_000_000)
    return taken_ns if 0 <= arrived_ns - taken_ns < 1_000_000_000 else arrived_ns


def _open_opencv(request: CaptureRequest) -> tuple[dict[str, object], Pictures]:
    import cv2

    backend = {"win32": cv2.CAP_DSHOW, "darwin": cv2.CAP_AVFOUNDATION}.get(sys.platform, cv2.CAP_V4L2)
    address: str | int = request.address if sys.platform == "linux" else request.index
    capture = cv2.VideoCapture(address, backend)
    if not capture.isOpened():  # OpenCV does not say why
        raise _OpenError(CaptureFault("failed", "OpenCV cannot open it: absent, busy or not allowed"))
    if request.pixel_format == "mjpeg":
        capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"))
    if request.width and request.height:
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, request.width)
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, request.height)
    if request.frame_rate:
        capture.set(cv2.CAP_PROP_FPS, request.frame_rate)
    width, height = (int(capture.get(p)) for p in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
    info = _info(width, height, capture.get(cv2.CAP_PROP_FPS) or 30.0, "unknown format", "OpenCV")

    def grab() -> Picture:
        ok, bgr = capture.retrieve()
        if not ok:
            raise _OpenError(CaptureFault("failed", "OpenCV could not decode a picture"))
        return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)

    def pictures() -> Pictures:
        # isOpened() stays true after an unplug; grab() failing is the only sign OpenCV gives.
        while capture.grab():
            yield time.monotonic_ns(), grab

    return info, pictures()


def _info(width: int, height: int, frame_rate: float, pixel_format: str, backend: str) -> dict[str, object]:
    return {
        "width": width, "height": height, "frame_rate": frame_rate if frame_rate > 0 else 30.0,
        "pixel_format": pixel_format, "backend": backend,
    }  # fmt: skip


if __name__ == "__main__":
    main()
