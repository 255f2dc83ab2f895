"""Cameras and other live inputs: how the user names them, what they can do, and which mode to ask for.

Nothing here opens a device for reading; that happens in a child process (`capture_child.py`).
"""

import errno
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Literal

from .errors import SourceError, without_password

InputKind = Literal["camera", "screen", "url", "file", "lavfi"]
Backend = Literal["auto", "pyav", "opencv"]
Fault = Literal["absent", "unreachable", "busy", "denied", "unplugged", "frozen", "format", "ended", "failed"]

RAW_BYTES_PER_PIXEL = {"YUYV": 2.0, "UYVY": 2.0, "YUY2": 2.0, "NV12": 1.5, "I420": 1.5, "YU12": 1.5}
RAW_LIMIT_BYTES_PER_SECOND = 24_000_000
"""What a USB 2 camera can deliver uncompressed (40 MB/s on paper, about 24 MB/s in isochronous practice):
640x480 at 30 fps in YUYV is 18 MB/s and fits, 1280x720 is 55 MB/s and would come at 8 to 10 fps."""

TEST_PATTERN = "testsrc2=size={width}x{height}:rate={rate}"


@dataclass(frozen=True)
class CameraMode:
    """One thing a camera offers."""

    pixel_format: str
    """The driver's four letters, e.g. MJPG or YUYV."""
    width: int
    height: int
    frame_rate: Fraction
    """The highest at this size and format."""

    def __str__(self) -> str:
        return f"{self.width}x{self.height} {float(self.frame_rate):g} fps {self.pixel_format}"


@dataclass(frozen=True)
class CameraInfo:
    """A camera of this machine."""

    index: int
    name: str
    path: str
    """What the driver calls it: /dev/video0, a DirectShow or AVFoundation name."""
    modes: tuple[CameraMode, ...] = ()
    note: str = ""
    """Why no modes are known, where that is so."""


@dataclass(frozen=True)
class CaptureRequest:
    """What is to be opened, in a form that travels to the child process as JSON."""

    kind: InputKind
    address: str
    label: str
    """What messages call it."""
    index: int = 0
    """Number of the camera, for OpenCV."""
    backend: Backend = "auto"
    width: int | None = None
    height: int | None = None
    frame_rate: float | None = None
    pixel_format: str | None = None
    """One of the driver's formats, lower case as FFmpeg spells it (mjpeg, yuyv422)."""
    mode_named: bool = field(default=False)
    """True if the user named the mode: then nothing else will do."""

    def to_json(self) -> dict[str, object]:
        """For `CaptureRequest(**…)` at the other end."""
        return asdict(self)


@dataclass(frozen=True)
class CaptureFault:
    """Why there is no picture."""

    kind: Fault
    detail: str = ""

    def sentence(self, label: str) -> str:
        """One line for a person: what happened and what to do about it."""
        line = SENTENCES[self.kind].format(label=label)
        return f"{line} ({self.detail})" if self.detail else line


SENTENCES: dict[Fault, str] = {
    "absent": "{label} is not there; see --list-cameras",
    "unreachable": "{label} cannot be reached; does its server run?",
    "busy": "{label} is in use by another program; close that program",
    "denied": "{label} may not be opened: allow this program to use the camera (on Linux: join group 'video')",
    "unplugged": "{label} was unplugged",
    "frozen": "{label} is open but sends no pictures",
    "format": "{label} does not offer this size, frame rate or format; see --list-cameras",
    "ended": "{label} has ended",
    "failed": "{label} failed",
}

_FAULT_OF_ERRNO: dict[int, Fault] = {
    errno.EBUSY: "busy",
    errno.ENOENT: "absent",
    errno.ENXIO: "absent",
    errno.EACCES: "denied",
    errno.EPERM: "denied",
    errno.ENODEV: "unplugged",
    errno.ETIMEDOUT: "frozen",
    errno.EAGAIN: "frozen",
    errno.EINVAL: "format",
    errno.ECONNREFUSED: "unreachable",
    errno.EHOSTUNREACH: "unreachable",
    errno.ENETUNREACH: "unreachable",
}


def fault_of_errno(code: int | None, *, was_live: bool) -> Fault:
    """The fault that a driver's error code means; some mean another thing once pictures have come."""
    fault = _FAULT_OF_ERRNO.get(code or 0, "failed")
    if fault == "unplugged" and not was_live:
        return "absent"
    if was_live and fault in ("absent", "failed", "format"):
        return "unplugged" if code in (errno.ENOENT, errno.ENXIO, errno.EIO) else "failed"
    return fault


def parse_input(
    text: str,
    *,
    size: tuple[int, int] | None = None,
    frame_rate: float | None = None,
    pixel_format: str | None = None,
    backend: Backend = "auto",
) -> CaptureRequest:
    """What the user means by `text`: a camera's number, path or name, a file, a URL, `screen`, `test`, `lavfi:…`.

    `size` is (height, width) in pixels. Raises `SourceError` if nothing of that name exists.
    """
    height, width = size or (None, None)
    asked: dict[str, object] = {
        "width": width, "height": height, "frame_rate": frame_rate, "pixel_format": pixel_format,
        "backend": backend, "mode_named": bool(size or frame_rate or pixel_format),
    }  # fmt: skip
    if text == "test":
        graph = TEST_PATTERN.format(width=width or 1280, height=height or 720, rate=frame_rate or 30)
        return _request("lavfi", graph, "the test pattern", asked)
    if text.startswith("lavfi:"):
        return _request("lavfi", text.removeprefix("lavfi:"), "the generated picture", asked)
    if text == "screen" or text.startswith("screen:"):
        return _request("screen", text.partition(":")[2], "the screen", asked)
    if re.match(r"^[a-z][a-z0-9+.-]+://", text):
        return _request("url", text, without_password(text), asked)
    if not text.startswith("/dev/") and Path(text).is_file():
        return _request("file", str(Path(text)), Path(text).name, asked)
    return _camera_request(text, asked)


def _request(kind: InputKind, address: str, label: str, asked: dict[str, object]) -> CaptureRequest:
    return CaptureRequest(kind=kind, address=address, label=label, **asked)  # type: ignore[arg-type]


def _camera_request(text: str, asked: dict[str, object]) -> CaptureRequest:
    cameras = list_cameras()
    camera = find_camera(text, cameras)
    if camera is None and text.startswith("/dev/"):
        camera = CameraInfo(0, text, text)  # let the open say what is wrong with it
    if camera is None:
        known = ", ".join(f"{c.index} = {c.name}" for c in cameras) or "none"
        if re.fullmatch(r"\d+", text):
            raise SourceError(f"camera must be one of this machine's ({known}), got {text}; try `test` for a pattern")
        raise SourceError(
            f"source must be a camera's number, path or name ({known}), a file, a URL, `screen` or `test`, got {text!r}"
        )
    label = f"camera {camera.index} ({camera.name})" if camera.name != camera.path else f"camera {camera.path}"
    request = CaptureRequest(
        kind="camera", address=camera.path, label=label, index=camera.index, **asked  # type: ignore[arg-type]
    )  # fmt: skip
    return _with_best_mode(request, camera.modes)


def find_camera(text: str, cameras: Sequence[CameraInfo]) -> CameraInfo | None:
    """The camera of this number, path or name, or whose name contains the text."""
    if re.fullmatch(r"\d+", text):
        return next((c for c in cameras if c.index == int(text)), None)
    exact = [c for c in cameras if text in (c.path, c.name)]
    partly = [c for c in cameras if text.lower() in c.name.lower()]
    return next(iter(exact + partly), None)


def _with_best_mode(request: CaptureRequest, modes: Sequence[CameraMode]) -> CaptureRequest:
    mode = choose_mode(
        modes,
        size=(request.height, request.width) if request.height and request.width else None,
        frame_rate=request.frame_rate,
        pixel_format=request.pixel_format,
    )
    if mode is None:
        if modes and request.mode_named:
            offered = "; ".join(str(m) for m in modes)
            raise SourceError(f"mode of {request.label} must be one of: {offered}")
        return request
    chosen = asdict(request) | {
        "width": mode.width, "height": mode.height, "frame_rate": request.frame_rate or float(mode.frame_rate),
        "pixel_format": FFMPEG_FORMATS.get(mode.pixel_format, request.pixel_format),
    }  # fmt: skip
    return CaptureRequest(**chosen)


FFMPEG_FORMATS = {
    "MJPG": "mjpeg", "JPEG": "mjpeg", "YUYV": "yuyv422", "YUY2": "yuyv422", "UYVY": "uyvy422",
    "NV12": "nv12", "YU12": "yuv420p", "I420": "yuv420p", "H264": "h264",
}  # fmt: skip

DEFAULT_SIZE = (720, 1280)
DEFAULT_FRAME_RATE = 30.0


def choose_mode(
    modes: Sequence[CameraMode],
    *,
    size: tuple[int, int] | None = None,
    frame_rate: float | None = None,
    pixel_format: str | None = None,
) -> CameraMode | None:
    """The mode nearest to what is wanted, or None if the camera has none that keeps what the user named.

    `size` is (height, width). Unnamed, 1280x720 at 30 fps is wanted. Between formats a raw one wins while USB 2
    carries it at that rate (no JPEG damage, no decoding); above that MJPEG wins.
    """
    fits = [
        mode for mode in modes
        if (size is None or (mode.height, mode.width) == size)
        and (frame_rate is None or float(mode.frame_rate) >= frame_rate - 0.5)
        and (pixel_format is None or FFMPEG_FORMATS.get(mode.pixel_format) == pixel_format)
    ]  # fmt: skip
    if not fits:
        return None
    wanted_height, wanted_width = size or DEFAULT_SIZE
    wanted_rate = frame_rate or DEFAULT_FRAME_RATE

    def badness(mode: CameraMode) -> tuple[float, float, int, int]:
        area = mode.width * mode.height / (wanted_width * wanted_height)
        too_slow = max(wanted_rate - float(mode.frame_rate), 0.0)
        # A rate far below the wish is worse than any size; then nearness in size; then the format.
        return (too_slow > 0.2 * wanted_rate, max(area, 1 / area), _format_rank(mode, wanted_rate), int(too_slow))

    return min(fits, key=badness)


def _format_rank(mode: CameraMode, frame_rate: float) -> int:
    if mode.pixel_format in ("MJPG", "JPEG"):
        return 1
    bytes_per_second = RAW_BYTES_PER_PIXEL.get(mode.pixel_format, 1e9) * mode.width * mode.height * frame_rate
    return 0 if bytes_per_second <= RAW_LIMIT_BYTES_PER_SECOND else 2


def list_cameras() -> list[CameraInfo]:
    """The cameras of this machine, by number."""
    if sys.platform == "linux":
        from . import camera_v4l2

        return camera_v4l2.list_cameras()
    return _list_by_library()


def _list_by_library() -> list[CameraInfo]:
    """Names from FFmpeg's own device list (DirectShow, AVFoundation); it does not tell their modes."""
    import av

    driver = "dshow" if sys.platform == "win32" else "avfoundation"
    enumerate_devices = getattr(av, "enumerate_input_devices", None)
    if enumerate_devices is None:
        raise SourceError("listing cameras needs a newer PyAV: pip install -U av")
    try:
        devices = enumerate_devices(driver)
    except (ValueError, OSError) as exc:
        raise SourceError(f"cameras cannot be listed through {driver}: {exc}") from exc
    cameras: list[CameraInfo] = []
    for device in devices:
        if "video" not in (device.media_types or ["video"]) or device.description.startswith("Capture screen"):
            continue
        # What av.open takes: DirectShow wants the kind before the name, AVFoundation the sound after the number.
        path = f"video={device.name}" if driver == "dshow" else f"{device.name}:none"
        cameras.append(CameraInfo(len(cameras), device.description, path, note="modes are found when it is opened"))
    return cameras
