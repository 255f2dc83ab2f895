"""What a live run says in the terminal: events as lines, the status as one line that is written over, the report."""

import sys
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .live import LiveStatus


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
            if self._line_open:
                print("\r\x1b[2K", end="", file=sys.stderr)
                self._line_open = False
            print(line, file=sys.stderr, flush=True)

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
                print(f"\r\x1b[2K{text}", end="", file=sys.stderr, flush=True)
                self._line_open = True
            else:
                print(text, file=sys.stderr, flush=True)

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
