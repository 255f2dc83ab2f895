"""Whether any program looks at a Linux virtual camera, so that painting can rest while none does.

The kernel tells of every open and close of the device (inotify); only then are the open files of this user's
processes counted anew. Programs of other users cannot be counted, so what inotify saw of opens and closes counts too.
"""

import ctypes
import logging
import os
import struct
import threading
from pathlib import Path

logger = logging.getLogger(__name__)

IN_CLOSE_WRITE, IN_CLOSE_NOWRITE, IN_OPEN = 0x8, 0x10, 0x20
EVENT = struct.Struct("iIII")


class LoopbackReaders:
    """Counts who has a device open besides this process. `any()` is cheap enough to ask twenty times a second."""

    def __init__(self, device: str) -> None:
        """`device` is a path, e.g. /dev/video10; where it cannot be watched, somebody is taken to look."""
        self._device = device
        self._balance = 0
        self._count = 0
        self._lock = threading.Lock()  # one thread asks while another closes
        self._fd = _watch(device)
        if self._fd >= 0:
            self._count = count_readers(device)

    def any(self) -> bool:
        """True if somebody looks, or if that cannot be known."""
        with self._lock:
            if self._fd < 0:
                return True
            if self._take_events():
                self._count = count_readers(self._device)
            return self._count > 0 or self._balance > 0

    def close(self) -> None:
        """Stop watching. Safe to call twice."""
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    def _take_events(self) -> bool:
        try:
            data = os.read(self._fd, 65536)
        except BlockingIOError:
            return False
        at = 0
        while at < len(data):
            _, mask, _, name_length = EVENT.unpack_from(data, at)
            at += EVENT.size + name_length
            self._balance += bool(mask & IN_OPEN) - bool(mask & (IN_CLOSE_WRITE | IN_CLOSE_NOWRITE))
        self._balance = max(self._balance, 0)  # a close of one that was open before we looked
        return True


def _watch(path: str) -> int:
    """A non-blocking inotify descriptor, or -1 where there is no such thing."""
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        fd = int(libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
    except (OSError, AttributeError):
        return -1
    mask = IN_OPEN | IN_CLOSE_WRITE | IN_CLOSE_NOWRITE
    if fd >= 0 and libc.inotify_add_watch(fd, os.fsencode(path), mask) < 0:
        logger.debug("%s cannot be watched: %s", path, os.strerror(ctypes.get_errno()))
        os.close(fd)
        return -1
    return fd


def count_readers(path: str) -> int:
    """Open files of other processes of this user that are `path`."""
    count = 0
    try:
        target = os.stat(path)
        processes = [p for p in Path("/proc").iterdir() if p.name.isdigit() and int(p.name) != os.getpid()]
    except OSError:
        return 0
    for process in processes:
        try:
            files = list((process / "fd").iterdir())
        except OSError:
            continue  # another user's, or one that has just ended
        for file in files:
            try:
                count += os.path.samestat(os.stat(file), target)
            except OSError:
                continue  # closed meanwhile
    return count
