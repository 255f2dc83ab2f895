"""A camera for other programs: OBS' virtual camera on Windows and macOS, v4l2loopback on Linux, by pyvirtualcam."""

import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from .errors import SinkError
from .frame import Frame, StreamInfo

REMEDY_LINUX = """no virtual camera: load the v4l2loopback kernel module:
  sudo apt install v4l2loopback-dkms        (Fedora: sudo dnf install akmod-v4l2loopback)
  sudo modprobe v4l2loopback devices=1 exclusive_caps=1 card_label=Impasto
or use OBS without any driver: add a browser source with the address that is printed at the start"""
REMEDY_DARWIN = """no virtual camera: install OBS 30 or later (brew install --cask obs), open it once, press
  "Start Virtual Camera", allow the extension in System Settings, then "Stop Virtual Camera"
or use OBS without it: add a browser source with the address that is printed at the start"""
REMEDY_WINDOWS = """no virtual camera: install OBS (winget install OBSProject.OBSStudio) and start it once
or use OBS without it: add a browser source with the address that is printed at the start"""
REMEDY = {"linux": REMEDY_LINUX, "darwin": REMEDY_DARWIN}.get(sys.platform, REMEDY_WINDOWS)


class VirtualCamera:
    """Sends frames to a virtual camera device."""

    def __init__(
        self,
        info: StreamInfo,
        *,
        device: str | None = None,
        on_open: Callable[[str], None] = lambda device: None,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        """
        Args:
            info: of the frames to come; odd edges lose a row or column (v4l2loopback refuses odd widths).
            device: /dev/videoN, or OBS' or Unity Capture's device name; None for the first.
            on_open: gets the device's name once it is open.
            on_close: called when it is closed again.
        """
        try:
            import pyvirtualcam
        except ImportError as exc:
            raise SinkError("a virtual camera needs pyvirtualcam: pip install 'impasto[camera]'") from exc
        self._library: Any = pyvirtualcam
        self._height, self._width = info.height & ~1, info.width & ~1
        self._frame_rate = float(info.frame_rate)
        self._device = device
        self._camera: Any = None
        self._on_open, self._on_close = on_open, on_close

    @property
    def device(self) -> str:
        """The name under which other programs see it."""
        return str(self._camera.device) if self._camera is not None else ""

    def __enter__(self) -> Self:
        try:
            self._camera = self._library.Camera(
                width=self._width, height=self._height, fps=self._frame_rate, device=self._device
            )
        except (RuntimeError, OSError, ValueError) as exc:
            detail = " ".join(str(exc).split())
            raise SinkError(f"virtual camera cannot be opened: {detail}") from exc
        self._on_open(self.device)
        return self

    def write(self, frame: Frame) -> None:
        """Send one frame; (H, W, 3) uint8 RGB, converted to the device's format by pyvirtualcam (BT.601)."""
        try:
            self._camera.send(frame.data[: self._height, : self._width].copy(order="C"))
        except (RuntimeError, OSError) as exc:
            raise SinkError(f"the virtual camera was lost: {exc}") from exc

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._camera is not None:
            self._on_close()
            self._camera.close()
            self._camera = None
