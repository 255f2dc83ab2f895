"""Keys in the terminal: single ones, without Return, and only while the terminal is ours."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from impasto.realtime.hotkeys import ESCAPE_SEQUENCE, TerminalKeys

from .live_helpers import wait_until

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """(keyboard, what a program has as standard input), as descriptors."""
    import pty

    ends = pty.openpty()
    yield ends
    for end in ends:
        os.close(end)


def is_line_by_line(terminal: int) -> bool:
    import termios

    return bool(termios.tcgetattr(terminal)[3] & termios.ICANON)


def test_a_key_that_fails_leaves_the_others(terminal: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    keyboard, theirs = terminal
    pressed: list[str] = []

    def on_key(key: str) -> None:
        pressed.append(key)
        if key == "²":
            raise ValueError("no such number")

    with os.fdopen(theirs, closefd=False) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        with TerminalKeys(on_key):
            os.write(keyboard, "m²\x1b[3~s".encode())
            wait_until(lambda: "s" in pressed)
    assert pressed == ["m", "²", "s"]
    assert is_line_by_line(theirs)


@pytest.mark.parametrize(
    "sequence",
    ["\x1b[3~", "\x1b[5~", "\x1b[15~", "\x1b[1;5C", "\x1b[A", "\x1bOH", "\x1bOP", "\x1b[[A", "\x1bq", "\x1b"],
    ids=["Delete", "PageUp", "F5", "Ctrl-right", "up", "Home", "F1", "F1 of the console", "Alt-q", "Esc"],
)
def test_a_key_that_is_no_character_is_no_key_of_ours(sequence: str) -> None:
    assert ESCAPE_SEQUENCE.sub("", f"m{sequence}") == "m"
    if len(sequence) > 1:
        assert ESCAPE_SEQUENCE.sub("", f"m{sequence}s") == "ms"


JOB = """
import os, queue, signal, time
from impasto.realtime.hotkeys import TICK_SECONDS, TerminalKeys

keys = queue.Queue()
with TerminalKeys(keys.put):
    time.sleep(3 * TICK_SECONDS)  # in the background
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    os.tcsetpgrp(0, os.getpgrp())  # as `fg` does
    print("foreground", flush=True)
    print(keys.get(timeout=60), flush=True)
"""

SHELL = """
import fcntl, os, subprocess, sys, termios

fcntl.ioctl(0, termios.TIOCSCTTY, 0)
job = subprocess.Popen([sys.executable, "-c", sys.argv[1]], process_group=0)
if os.WIFSTOPPED(os.waitpid(job.pid, os.WUNTRACED)[1]):
    print("stopped", flush=True)
    os.kill(job.pid, 9)
"""


def test_a_job_in_the_background_leaves_the_terminal_alone(terminal: tuple[int, int]) -> None:
    """Whoever changes a terminal from the background is stopped by it."""
    keyboard, theirs = terminal
    said = []
    with subprocess.Popen(
        [sys.executable, "-c", SHELL, JOB], stdin=theirs, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as shell:
        late = threading.Timer(90, shell.kill)
        late.start()
        for line in shell.stdout:
            said.append(line.strip())
            if said == ["foreground"]:
                os.write(keyboard, b"m")
        late.cancel()
    assert said == ["foreground", "m"]
    assert is_line_by_line(theirs)
