"""Errors of running a style. Each class owns one exit code of the command line."""

import errno
import re
from pathlib import Path

from ..export.errors import ArtifactError, ImpastoError

__all__ = [
    "ArtifactError",
    "EngineError",
    "ImpastoError",
    "SinkError",
    "SourceError",
    "name_of",
    "reason_of",
    "without_password",
]


class SourceError(ImpastoError):
    """A video, stream or camera cannot be opened or read."""


class EngineError(ImpastoError):
    """No engine, or not the one that was named, can run the style on this machine."""


class SinkError(ImpastoError):
    """An output cannot be opened or written."""


def reason_of(exc: BaseException | None) -> str:
    """Why it failed, in the words of the system or of FFmpeg, with FFmpeg's last log line where that was kept."""
    if getattr(exc, "errno", None) == errno.ENOSPC:
        return "the disk is full"
    words = getattr(exc, "strerror", None) or str(exc)
    log = getattr(exc, "log", None)
    return f"{words} ({log[2].strip()})" if log else words


def name_of(path: str | Path) -> str:
    """What messages call an input: of an address without what may be a password."""
    name = str(path)
    if name == "-":
        return "standard input"
    return without_password(name) if "://" in name else name


def without_password(url: str) -> str:
    """The address for messages, up to the question mark: many cameras take a password behind it."""
    return re.sub(r"://[^/?#]*@", "://", url).partition("?")[0]  # up to the last @, as FFmpeg reads it
