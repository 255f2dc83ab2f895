"""Single keys from the terminal, without Return."""

import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

TICK_SECONDS = 0.2


class TerminalKeys:
    """Calls `on_key` for every key that is pressed in the terminal; does nothing where there is none."""

    def __init__(self, on_key: Callable[[str], None]) -> None:
        self._on_key = on_key
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        if not sys.stdin or not sys.stdin.isatty():
            return self
        target = self._run_windows if sys.platform == "win32" else self._run_posix
        self._thread = threading.Thread(target=target, name="impasto-keys", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(2 * TICK_SECONDS + 1.0)

    def _run_posix(self) -> None:
        import os
        import select
        import termios
        import tty

        terminal = sys.stdin.fileno()
        before = termios.tcgetattr(terminal)
        try:
            tty.setcbreak(terminal, termios.TCSANOW)  # Ctrl-C stays a signal; what was typed already counts
            while not self._stop.is_set():
                if select.select([terminal], [], [], TICK_SECONDS)[0]:
                    # Not sys.stdin: it would read ahead what select cannot see.
                    for key in os.read(terminal, 64).decode("utf-8", "ignore"):
                        self._on_key(key)
        finally:
            termios.tcsetattr(terminal, termios.TCSADRAIN, before)

    def _run_windows(self) -> None:
        if sys.platform == "win32":
            import msvcrt

            while not self._stop.wait(TICK_SECONDS):
                while msvcrt.kbhit():
                    self._on_key(msvcrt.getwch())
