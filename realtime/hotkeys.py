"""Single keys from the terminal, without Return."""

import logging
import re
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

logger = logging.getLogger(__name__)

TICK_SECONDS = 0.2
ESCAPE_SEQUENCE = re.compile(r"\x1b(\[\[?[0-9;?]*[ -/]*[@-~]|O.|.)?", re.DOTALL)
"""What a terminal sends for keys that are no characters: arrows, Delete, F5, and any key with Alt."""


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

    def _press(self, key: str) -> None:
        try:
            self._on_key(key)
        except Exception:  # one key that fails must not take the others with it
            logger.exception("key %r failed", key)

    def _run_posix(self) -> None:
        import os
        import select
        import termios
        import tty

        terminal = sys.stdin.fileno()
        before = termios.tcgetattr(terminal)
        key_by_key = False
        try:
            while not self._stop.is_set():
                if not _is_ours(terminal):  # the shell reads it, and whoever touches it in the background is stopped
                    key_by_key = False
                    self._stop.wait(TICK_SECONDS)
                    continue
                if not key_by_key:
                    now = termios.tcgetattr(terminal)
                    before = now if now[3] & termios.ICANON else before  # not as a shell's own line editor has it
                    tty.setcbreak(terminal, termios.TCSANOW)  # Ctrl-C stays a signal; what was typed already counts
                    key_by_key = True
                if select.select([terminal], [], [], TICK_SECONDS)[0] and _is_ours(terminal):
                    # Not sys.stdin: it would read ahead what select cannot see.
                    text = os.read(terminal, 4096).decode("utf-8", "ignore")
                    for key in ESCAPE_SEQUENCE.sub("", text):
                        self._press(key)
        finally:
            if key_by_key and _is_ours(terminal):
                termios.tcsetattr(terminal, termios.TCSADRAIN, before)

    def _run_windows(self) -> None:
        if sys.platform == "win32":
            import msvcrt

            while not self._stop.wait(TICK_SECONDS):
                while msvcrt.kbhit():
                    key = msvcrt.getwch()
                    if key in "\0\xe0":  # an arrow, Delete, F5 …: its number follows
                        msvcrt.getwch()
                    else:
                        self._press(key)


def _is_ours(terminal: int) -> bool:
    """Whether this program is in the foreground of a terminal, or the terminal knows no such thing."""
    import os

    if sys.platform == "win32":
        return True
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:  # a terminal of another session: whoever holds it may read it
        return True
