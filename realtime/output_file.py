"""A media file being written: under a hidden name beside its target until it is whole, then renamed in one step."""

import errno
import logging
import os
import secrets
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

import av
from av.container import OutputContainer

from .codecs import CONTAINERS, PIPE_MUXERS, PipeFormat
from .errors import SinkError, reason_of

logger = logging.getLogger(__name__)

# Tags that MP4 and MOV store in their classic form, which every player shows; others need the newer one.
CLASSIC_TAGS = frozenset(
    """title artist album_artist composer album date comment genre copyright description synopsis show episode_id
    network lyrics encoder major_brand minor_version compatible_brands creation_time grouping track disc compilation
    episode_sort season_number media_type hd_video gapless_playback year""".split()
)

_levels_lock = threading.Lock()
_levels: list[int | None] = []
"""FFmpeg's log level, one for all threads, as it was before the first of those in `reasons_kept`; once for each."""


class OutputFile:
    """An open output container. Leaving the block without an error publishes the file, with one removes it.

    `path` may be a file, or None for standard output in `pipe_format`.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        time_base: Fraction,
        overwrite: bool = False,
        pipe_format: PipeFormat = "matroska",
        tags: frozenset[str] = frozenset(),
    ) -> None:
        self.path = path
        self._overwrite = overwrite
        if path is None:
            self._part = None
            self.container = self._open(sys.stdout.buffer, PIPE_MUXERS[pipe_format], {})
            return
        check_target(path, overwrite=overwrite)
        # Hidden and beside the target: same file system, so the last rename is atomic.
        self._part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        muxer = CONTAINERS[path.suffix.lower()]
        options = mp4_options(time_base, tags) if muxer in ("mp4", "mov") else {}
        self.container = self._open(str(self._part.absolute()), muxer, options)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with reasons_kept():
                self.container.close()
            if error is None and self.path is not None and self._part is not None:
                publish(self._part, self.path, overwrite=self._overwrite)
        except (av.FFmpegError, OSError) as exc:
            # An abandoned file may fail to close for the very reason that it is abandoned.
            if error is None:
                raise write_failure(self.path, exc) from exc
        finally:
            if self._part is not None:
                self._part.unlink(missing_ok=True)

    def _open(self, file: object, muxer: str, options: dict[str, str]) -> OutputContainer:
        try:
            return av.open(file, "w", format=muxer, options=options)
        except (av.FFmpegError, OSError) as exc:
            raise write_failure(self.path, exc) from exc


def mp4_options(time_base: Fraction, tags: frozenset[str] = frozenset()) -> dict[str, str]:
    """Index in front; edit lists as exact as the frames; phones' own tags kept where the input has any."""
    flags = "+faststart"
    if not {tag.lower() for tag in tags} <= CLASSIC_TAGS:
        flags += "+use_metadata_tags"
    # movie_timescale: the edit list of a late start is written in it; its default of 1/1000 would round.
    return {"movflags": flags, "movie_timescale": str(time_base.denominator)}


def check_target(path: Path, *, overwrite: bool) -> None:
    """Refuse a target that cannot be written, before any work is done."""
    if path.suffix.lower() not in CONTAINERS:
        raise SinkError(f"output must end in one of {', '.join(CONTAINERS)}, got {path.name}")
    if path.is_dir():
        raise SinkError(f"output must be a file, got the folder {path}")
    if os.path.lexists(path) and not overwrite:  # a link that leads nowhere is in the way as well
        raise SinkError(f"output must not exist yet, got {path}; --overwrite replaces it")
    folder = path.parent
    if not folder.is_dir():
        raise SinkError(f"the output's folder must exist, got {folder}")
    if not os.access(folder, os.W_OK):
        raise SinkError(f"the output's folder must be writable, got {folder}")


def publish(part: Path, path: Path, *, overwrite: bool) -> None:
    """Give a whole file its name, in one step; a file that appeared meanwhile is not replaced unasked."""
    if overwrite:
        os.replace(part, path)
        return
    try:
        os.link(part, path)
    except FileExistsError as exc:
        raise SinkError(f"output must not exist yet, got {path}; --overwrite replaces it") from exc
    except OSError:
        # A file system without hard links: the check and the rename are two steps there.
        check_target(path, overwrite=False)
        os.replace(part, path)


def write_failure(path: Path | None, exc: BaseException) -> SinkError:
    """One clear line for a write that failed."""
    name = path or "standard output"
    number = getattr(exc, "errno", None)
    if number == errno.ENOSPC:
        return SinkError(f"the disk must have room for {name}, got a full one; free some, then go on with --resume")
    if number == errno.EPIPE:
        return SinkError(f"{name} was closed by its reader")
    if path is not None and not path.parent.is_dir():
        return SinkError(f"the output's folder must exist, but it is gone: {path.parent}")
    return SinkError(f"{name} cannot be written: {reason_of(exc)}")


@contextmanager
def reasons_kept() -> Iterator[None]:
    """FFmpeg's errors inside the block carry its last log line. For short calls: logging takes Python's lock."""
    with _levels_lock:
        before = _levels[0] if _levels else av.logging.get_level()
        _levels.append(before)
        av.logging.set_level(av.logging.PANIC if before is None else before)
    try:
        yield
    finally:
        with _levels_lock:
            _levels.pop()
            if not _levels:
                av.logging.set_level(before)
