"""The preview window, with hotkeys. OpenCV's window, because it is there on all three systems."""

import os
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Self

from .errors import SinkError
from .frame import Frame, StreamInfo

TITLE = "Impasto"


class PreviewWindow:
    """Shows frames in a window; keys go to `on_key`, closing the window to `on_closed`."""

    def __init__(
        self, info: StreamInfo, *, on_key: Callable[[str], None], on_closed: Callable[[], None] = lambda: None
    ) -> None:
        self._info = info
        self._on_key, self._on_closed = on_key, on_closed

    def __enter__(self) -> Self:
        if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise SinkError("a window needs a display, got none (DISPLAY is not set); use the panel in a browser")
        if sys.platform == "darwin":
            raise SinkError("a window is not possible on macOS, whose windows belong to the main thread; use the panel")
        # OpenCV's Qt complains about fonts that it does not ship; nothing in our window is text.
        os.environ.setdefault("QT_LOGGING_RULES", "default.warning=false")
        import cv2

        self._cv2 = cv2
        try:
            cv2.namedWindow(TITLE, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
            cv2.resizeWindow(TITLE, self._info.width, self._info.height)
        except cv2.error as exc:
            raise SinkError(f"a window cannot be opened: {exc.err}; use the panel in a browser") from exc
        return self

    def write(self, frame: Frame) -> None:
        """Show one frame and hand on at most one key."""
        cv2 = self._cv2
        cv2.imshow(TITLE, cv2.cvtColor(frame.data, cv2.COLOR_RGB2BGR))
        code = cv2.waitKey(1) & 0xFF
        if code != 0xFF:
            self._on_key("esc" if code == 27 else chr(code))
        if cv2.getWindowProperty(TITLE, cv2.WND_PROP_VISIBLE) < 1:
            self._on_closed()
            raise SinkError("the window was closed")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._cv2.getWindowProperty(TITLE, self._cv2.WND_PROP_VISIBLE) >= 1:
            self._cv2.destroyWindow(TITLE)
