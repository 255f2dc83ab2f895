"""Keeps the C library's memory in few pieces, so that a run of hours with many styles does not grow.

glibc gives every few threads an arena of their own, up to eight for each core, and a thread takes memory from its own
alone. Engines are compiled and closed by whichever of OpenVINO's threads is free, so each arena in turn grows to what
an engine needs and is left full of holes that the others cannot use. Measured over 177 changes of style in three
minutes, four engines kept warm, on 4 cores (`tests/benchmarks/live_soak.py --churn switches`): 38 arenas, and 763 MB
that became 810; with 2 arenas 676 that became 677, in a second run 675 and 686. Giving free memory back (malloc_trim)
after each change did no more.
"""

import ctypes
import sys

MOST_ARENAS = 2
"""One for the threads that were there first and one for the others."""

_M_ARENA_MAX = -8
"""As malloc.h has it."""


def keep_heap_together() -> bool:
    """Limit the arenas from here on; call it before threads are started. False where the C library has none.

    Windows, macOS and musl have one heap for all threads, or return what is free by themselves.
    """
    if sys.platform != "linux":
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    return bool(library.mallopt(_M_ARENA_MAX, MOST_ARENAS))
