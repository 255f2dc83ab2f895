"""Threads share the C library's arenas once they are limited."""

import subprocess
import sys

import pytest

ARENAS_OF_THREADS = """
import ctypes, pathlib, sys, threading
from impasto.realtime.heap import keep_heap_together
limited = keep_heap_together() if sys.argv[1] == "limited" else True
c = ctypes.CDLL(None)
c.malloc.restype = ctypes.c_void_p
held, release = threading.Barrier(25), threading.Event()
def hold():
    c.malloc(1000)
    held.wait()
    release.wait()
threads = [threading.Thread(target=hold, daemon=True) for _ in range(24)]
for thread in threads: thread.start()
held.wait()
starts = [line.split("-")[0] for line in pathlib.Path("/proc/self/maps").read_text().splitlines()
          if "rw-p" in line and line.rstrip().endswith(" 0")]
print(int(limited), sum(int(start, 16) % 2**26 == 0 for start in starts))  # an arena begins at a multiple of 64 MB
release.set()
"""


def arenas(how: str) -> tuple[int, int]:
    done = subprocess.run([sys.executable, "-c", ARENAS_OF_THREADS, how], capture_output=True, text=True, check=True)
    limited, count = done.stdout.split()
    return int(limited), int(count)


def test_threads_share_two_arenas() -> None:
    limited, count = arenas("limited")
    if not limited:
        pytest.skip("this C library has no arenas to limit")
    assert count <= 2
    assert arenas("free")[1] >= 6
