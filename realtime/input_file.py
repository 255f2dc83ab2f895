"""Opening an input, and what is true of its streams as a whole: which one is the film, and where its clock begins."""

import sys
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
from av.container import InputContainer
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

from .errors import SourceError, name_of, reason_of

NETWORK_TIMEOUT_SECONDS = 30.0
STILLS = Disposition.attached_pic | Disposition.timed_thumbnails
"""Of video streams that are no film: a cover, or pictures of the chapters, which count as attached as well."""

# Tags in another encoding than UTF-8 must not refuse the file; PyAV cares for them by itself from version 19 on (whose
# rational numbers, too, are no `Fraction` any more).
_METADATA: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}


def open_input(path: str | Path) -> InputContainer:
    """Open for demuxing; every failure becomes one clear `SourceError`."""
    name = str(path)
    if name == "-":
        return _open(sys.stdin.buffer, name_of(name))
    if "://" in name:
        return _open(name, name_of(name))
    if Path(name).is_dir():
        raise SourceError(f"input must be a file, got the folder {name}")
    # Of a relative 10:30.mp4 FFmpeg thinks that 10 is a protocol; so wherever it is given a file.
    return _open(str(Path(name).absolute()), name)


def check_reopens(path: str | Path, *, hint: str = "") -> None:
    """Refuse what is gone once it was read, for those who read an input more than once; `hint` says what to do."""
    name = str(path)
    if name == "-" or ("://" not in name and Path(name).exists() and not (Path(name).is_file() or Path(name).is_dir())):
        raise SourceError(f"input must be a file, which is read more than once, got {name}{hint}")


def pick_video(container: InputContainer, name: str) -> VideoStream:
    """The first video stream that is no cover picture."""
    for stream in container.streams.video:
        if not stream.disposition & STILLS:
            return stream
    raise SourceError(f"{name_of(name)} must have a video stream, got none")


def is_cover(stream: Stream) -> bool:
    """Whether it is a single picture that stands for the film."""
    return stream.type == "video" and stream.disposition & STILLS == Disposition.attached_pic


def origin_of(container: InputContainer, tick: Fraction) -> Fraction:
    """Where the first of all streams begins, in seconds, as a whole number of ticks; at least 0."""
    microseconds = max(0, container.start_time or 0)
    # Rounded by FFmpeg: half a unit more, or a picture at that very time would come before it.
    return (microseconds + Fraction(1, 2)) / av.time_base // tick * tick


def _open(file: object, name: str) -> InputContainer:
    timeout = NETWORK_TIMEOUT_SECONDS if "://" in name else None
    try:
        return cast(InputContainer, av.open(file, mode="r", timeout=timeout, **_METADATA))
    except FileNotFoundError as exc:
        raise SourceError(f"input must exist, got {name}") from exc
    except PermissionError as exc:
        raise SourceError(f"input must be readable, got {name}: permission denied") from exc
    except (av.FFmpegError, OSError, ValueError) as exc:
        raise SourceError(f"{name} is not a video that FFmpeg can open: {reason_of(exc)}") from exc
