"""What a live run says in the terminal: events as lines, the status as one line that is written over, the report."""

import logging
import sys
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .live import LiveStatus

logger = logging.getLogger(__name__)


class Console:
    """Prints on standard error; methods may be called from any thread."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._lock = threading.Lock()
        self._line_open = False
        """Whether the cursor stands in a status line."""

    def say(self, line: str) -> None:
        if self._quiet:
            return
        with self._lock:
            start = "\r\x1b[2K" if self._line_open else ""
            self._line_open = False
            self._print(start + line, end="\n")

    def show_status(self, status: "LiveStatus") -> None:
        """Frames per second, latency, drops, size: over the last status where there is a terminal."""
        if self._quiet:
            return
        latency = status.latency
        text = (
            "resting, nobody watches" if status.idle
            else f"{latency.fps:4.1f} fps  {latency.p50_ms:3.0f}/{latency.p95_ms:3.0f} ms  dropped {status.dropped}"
            f"  {status.painting_style} at {status.work_size[1]}x{status.work_size[0]}  camera {status.feed.state}"
        )  # fmt: skip
        with self._lock:
            if sys.stderr.isatty():
                self._print(f"\r\x1b[2K{text}", end="")
                self._line_open = True
            else:
                self._print(text, end="\n")

    @staticmethod
    def _print(text: str, *, end: str) -> None:
        try:
            print(text, end=end, file=sys.stderr, flush=True)
        except (OSError, ValueError):  # the terminal was closed: no reason to end a recording or a stream
            logger.debug("nobody reads any more")

    def show_report(self, report: dict[str, Any]) -> None:
        """The figures of the whole run."""
        painted = report["capture_to_painted"]
        self.say(
            f"{report['painted']} painted, {report['dropped']} dropped; camera to painted"
            f" {painted['p50_ms']:.0f} ms half, {painted['p95_ms']:.0f} ms 95 %, {painted['max_ms']:.0f} ms most"
        )
        for name, output in report["outputs"].items():
            if output["count"]:
                self.say(
                    f"  {name}: {output['count']} delivered, {output['dropped']} dropped;"
                    f" {output['p50_ms']:.0f}/{output['p95_ms']:.0f}/{output['max_ms']:.0f} ms"
                )
