"""Long jobs as closed segments: what is finished survives any end of the program, and `--resume` goes on from there.

A job's folder stands beside its output. Its manifest says what the job depends on. Every segment is a small Matroska
file that starts with a key frame, and a note beside it with its frames' times makes it finished. The joined film is
the same whether it was painted in one go or in twenty, because segments begin at the same frames and their encoders
know nothing of one another.
"""

import hashlib
import json
import logging
import os
import re
import sys
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av
import numpy as np
import numpy.typing as npt
from av.packet import Packet
from av.video.stream import VideoStream

from .codecs import Encoding
from .copy_streams import StreamCopier
from .errors import SinkError
from .frame import Frame, StreamInfo
from .frame_clock import FrameClock
from .output_file import OutputFile, reasons_kept, write_failure
from .sink_file import DEFAULT_TIME_BASE, PictureEncoder

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
MANIFEST_VERSION = 2
NOTE_SUFFIX = ".json"
OWN_NAMES = re.compile(
    r"lock|manifest\.json(\.part)?|\d{5,}\.(mkv|mov)(\.json(\.part)?)?|\.\d{5,}\.(mkv|mov)\.\w+\.part", re.ASCII
)
"""What a job writes into its folder; nothing else there is ever removed."""
SEGMENT_FRAMES = 120
"""4 to 5 seconds: what a kill costs at most, for 1 to 2 % more bytes in key frames."""
MAX_SEGMENT_DELAY = 16
"""Packets that decoding may run ahead inside a segment's file, as much as any codec here allows."""
SEGMENT_RATE = Fraction(25)
"""Segments count frames at this rate; the real times stand in the manifest."""


Times = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Segment:
    """A finished piece of the film."""

    name: str
    """File in the job's folder."""
    times: Times
    """(N, 2) int64: pts and duration of every frame in ticks of the job's time base, in presentation order."""
    delay: int
    """Packets that decoding runs ahead of showing."""
    whole: bool = True
    """False for one that was cut short by an interrupt; painted again on resuming."""


@dataclass
class Job:
    """The folder of one output, with its manifest. One process at a time."""

    folder: Path
    identity: dict[str, Any]
    time_base: Fraction
    target: Path
    """The output that it is for."""
    segments: list[Segment] = field(default_factory=list)

    @property
    def frames(self) -> int:
        return sum(len(segment.times) for segment in self.segments)

    @property
    def times(self) -> list[Fraction]:
        """Of every frame that is done, in seconds."""
        return [int(pts) * self.time_base for segment in self.segments for pts in segment.times[:, 0]]

    @property
    def last_pts(self) -> Fraction | None:
        """Time of the last frame that is done."""
        return int(self.segments[-1].times[-1, 0]) * self.time_base if self.segments else None

    def add(self, segment: Segment) -> None:
        """Note a segment as finished; its file lies in the folder already."""
        note = {"times": segment.times.tolist(), "delay": segment.delay, "whole": segment.whole}
        _write_json(self.folder / f"{segment.name}{NOTE_SUFFIX}", note)
        self.segments.append(segment)

    def save(self) -> None:
        """Write the manifest."""
        manifest = {"version": MANIFEST_VERSION, "identity": self.identity, "time_base": str(self.time_base)}
        _write_json(self.folder / MANIFEST, manifest)

    def remove(self) -> None:
        _remove(self.folder)


def job_folder(target: Path) -> Path:
    """`.out.mp4.impasto` beside `out.mp4`."""
    return target.with_name(f".{target.name}.impasto")


def recorded_identity(target: Path) -> dict[str, Any] | None:
    """What an earlier, unfinished run for this output depended on; None if there is none or its manifest is damaged."""
    try:
        identity = _identity_in(json.loads((job_folder(target) / MANIFEST).read_text()))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return identity if isinstance(identity.get("engine"), dict) else None


def address_hash(url: str) -> str:
    """What a manifest holds of an input's address, in which a password may stand."""
    return hashlib.sha256(url.encode()).hexdigest()


def _identity_in(manifest: Any) -> dict[str, Any]:
    identity = dict(manifest["identity"])
    name = str(identity.get("input"))
    if "://" in name:  # written before addresses were hashed
        identity["input"] = address_hash(name)
    return identity


@contextmanager
def open_job_folder(
    target: Path, identity: dict[str, Any], time_base: Fraction, *, resume: bool, overwrite: bool
) -> Iterator[Job]:
    """A new job's folder, or with `resume` the one that an earlier run left; locked inside the block.

    Raises:
        SinkError: an earlier run's folder stands there and neither `resume` nor `overwrite` says what to do with
            it; or it belongs to another input, style or setting; or it is no job's.
    """
    folder = job_folder(target)
    try:
        if folder.is_symlink():
            raise SinkError(f"{folder} must be a job's own folder, got a link")
        folder.mkdir(exist_ok=True)
        strangers = sorted(path.name for path in folder.iterdir() if not OWN_NAMES.fullmatch(path.name))
        if strangers and recorded_identity(target) is None:
            raise SinkError(f"{folder} must be a job's folder, got one with {strangers[0]}: move it away")
        with _locked(folder):
            try:
                yield _begin(folder, target, identity, time_base, resume=resume, overwrite=overwrite)
            finally:
                _remove_if_empty(folder)
    except OSError as exc:
        raise write_failure(target, exc) from exc


def _begin(
    folder: Path, target: Path, identity: dict[str, Any], time_base: Fraction, *, resume: bool, overwrite: bool
) -> Job:
    if any(folder.glob("0*.m??")) and (folder / MANIFEST).is_file():
        if resume:
            return _load(folder, target, identity, time_base)
        if not overwrite:
            raise SinkError(f"{target} was begun before: --resume goes on with it, --overwrite starts it anew")
    _clear(folder)
    job = Job(folder, identity, time_base, target)
    job.save()
    return job


class SegmentWriter:
    """A sink that cuts the film into closed segments of a job."""

    def __init__(self, job: Job, info: StreamInfo, encoding: Encoding, *, frames: int = SEGMENT_FRAMES) -> None:
        self._job = job
        self._info = info
        self._encoding = encoding
        self._length = frames
        self._open: _OpenSegment | None = None
        self._clock = FrameClock(job.time_base, info.frame_rate)
        self._closed = False
        self._whole = True

    @property
    def missing(self) -> int:
        """Frames until the segment under way is whole; 0 between two segments."""
        under_way = self._open
        return 0 if under_way is None else self._length - len(under_way.times)

    def cut(self, *, keep: bool) -> None:
        """Before leaving the block, say that the film did not end by itself: the segment under way is no whole one.

        A resumed job paints it again. `keep` closes it nevertheless, for a film of what there is.
        """
        self._whole = False
        if not keep and self._open is not None:
            under_way, self._open = self._open, None
            under_way.abandon(SinkError("the segment was cut short"))

    def write(self, frame: Frame) -> None:
        try:
            if self._open is None:
                name = f"{len(self._job.segments):05d}{segment_suffix(self._encoding)}"
                self._open = _OpenSegment(self._job.folder / name, self._info, self._encoding, frame)
            self._open.add(frame, self._clock.ticks(frame))
            if len(self._open.times) == self._length:
                self._close_segment()
        except (av.FFmpegError, OSError) as exc:
            raise write_failure(self._job.target, exc) from exc

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._closed:
            return
        self._closed = True
        if self._open is None:
            return
        if error is not None:
            self._open.abandon(error)
            return
        try:
            self._close_segment(whole=self._whole)
        except (av.FFmpegError, OSError) as exc:
            raise write_failure(self._job.target, exc) from exc

    def _close_segment(self, *, whole: bool = True) -> None:
        if self._open is None:
            return
        done, self._open = self._open, None
        self._job.add(done.finish(whole=whole))


def segment_suffix(encoding: Encoding) -> str:
    """Matroska, which takes every codec here but one."""
    return ".mov" if encoding.codec == "png" else ".mkv"


class _OpenSegment:
    """A segment that is being written."""

    def __init__(self, path: Path, info: StreamInfo, encoding: Encoding, frame: Frame) -> None:
        self._path = path
        self._stack = ExitStack()
        tick = 1 / SEGMENT_RATE
        self._file = self._stack.enter_context(OutputFile(path, time_base=tick, overwrite=True))
        height, width = frame.data.shape[:2]
        self._encoder = PictureEncoder(self._file.container, info, encoding, height, width, tick)
        self._delay = self._packets = 0
        self.times: list[tuple[int, int]] = []

    def add(self, frame: Frame, times: tuple[int, int]) -> None:
        self._mux(self._encoder.encode(len(self.times), frame.data))
        self.times.append(times)

    def finish(self, *, whole: bool) -> Segment:
        try:
            self._mux(self._encoder.encode(0, None))
        except BaseException as exc:
            self.abandon(exc)
            raise
        self._stack.close()
        with self._path.open("r+b") as file:  # Windows flushes only what it may write
            os.fsync(file.fileno())
        return Segment(self._path.name, np.array(self.times, np.int64), self._delay, whole)

    def abandon(self, error: BaseException) -> None:
        self._stack.__exit__(type(error), error, error.__traceback__)

    def _mux(self, packets: "list[Packet[VideoStream]]") -> None:
        for packet in packets:
            number = packet.pts or 0
            # Not by the encoder's word: x265 leaves the times of very short films unset.
            self._delay = max(self._delay, self._packets - number)
            packet.dts = self._packets - MAX_SEGMENT_DELAY
            self._packets += 1
            packet.time_base = 1 / SEGMENT_RATE
            packet.duration = 1
            self._file.container.mux_one(packet)


def join(job: Job, target: Path, info: StreamInfo, *, copier: StreamCopier | None, overwrite: bool) -> None:
    """The finished segments as one film at its real times, with the other streams of the input, without encoding.

    Closes `copier`.
    """
    try:
        if not job.segments:
            raise SinkError(f"{target} must get at least one frame, got none")
        tags = frozenset(copier.tags) if copier else frozenset()
        clock = FrameClock(job.time_base or DEFAULT_TIME_BASE, info.frame_rate)
        if copier and target != job.target:
            copier.end_at(_end_of(job, info))  # a film of what there is: its sound ends with its picture
        with (
            OutputFile(target, time_base=job.time_base, overwrite=overwrite, tags=tags) as file,
            closing(_packets(job, clock)) as packets,
        ):
            stream: VideoStream | None = None
            for packet in packets:
                if stream is None:
                    stream = _declare(file, packet.stream, job.time_base, copier)
                packet.stream = stream
                seconds = (packet.dts or 0) * job.time_base
                file.container.mux_one(packet)
                if copier:
                    copier.copy_until(file.container, seconds)
            if copier:
                copier.copy_until(file.container, None)
    except (av.FFmpegError, OSError) as exc:
        raise write_failure(target, exc) from exc
    finally:
        if copier:
            copier.close()


def _end_of(job: Job, info: StreamInfo) -> Fraction:
    pts, duration = (int(ticks) * job.time_base for ticks in job.segments[-1].times[-1])
    return pts + (duration or 1 / info.frame_rate)


def _packets(job: Job, clock: FrameClock) -> "Generator[Packet[VideoStream], None, None]":
    """Those of all segments, at the film's real times; each is to be used before the next is asked for."""
    delay = max(segment.delay for segment in job.segments)
    first = 0
    for segment in job.segments:
        for pts, duration in segment.times.tolist():
            clock.add(pts, duration)
        with av.open(str((job.folder / segment.name).absolute())) as piece:
            for packet in piece.demux(piece.streams.video[0]):
                if packet.pts is None:
                    continue
                number = round(packet.pts * packet.time_base * SEGMENT_RATE)
                clock.restore(packet, first + number, delay)
                yield packet
        first += len(segment.times)


def _declare(file: OutputFile, template: VideoStream, time_base: Fraction, copier: StreamCopier | None) -> VideoStream:
    stream = file.container.add_stream_from_template(template, opaque=True)
    stream.time_base = time_base
    if copier:
        copier.attach(file.container)
    with reasons_kept():
        file.container.start_encoding()
    return stream


def _load(folder: Path, target: Path, identity: dict[str, Any], time_base: Fraction) -> Job:
    try:
        data = json.loads((folder / MANIFEST).read_text())
        if data["version"] != MANIFEST_VERSION:
            raise ValueError(f"version must be {MANIFEST_VERSION}, got {data['version']}")
        found = _identity_in(data)
    except (ValueError, KeyError, TypeError) as exc:
        raise SinkError(f"{folder / MANIFEST} must be a job's manifest: {exc}; --overwrite starts anew") from exc
    wanted = json.loads(json.dumps(identity))
    for key in sorted(found.keys() | wanted.keys()):
        if found.get(key) != wanted.get(key):
            raise SinkError(
                f"{key} must be as before to resume, got {wanted.get(key)} after {found.get(key)}; "
                "--overwrite starts anew"
            )
    segments = list(_finished(folder))
    kept = {folder / segment.name for segment in segments} | {folder / f"{s.name}{NOTE_SUFFIX}" for s in segments}
    for stray in set(_own_files(folder)) - kept - {folder / MANIFEST, folder / "lock"}:
        stray.unlink(missing_ok=True)
    job = Job(folder, identity, time_base, target, segments)
    if found != data["identity"]:
        job.save()
    return job


def _finished(folder: Path) -> Iterator[Segment]:
    """Whole segments from the first on, up to the first that is missing, cut short or noted in part."""
    for number in count():
        note = next(iter(folder.glob(f"{number:05d}.*{NOTE_SUFFIX}")), None)
        if note is None:
            return
        try:
            data = json.loads(note.read_text())
            times = np.array(data["times"], np.int64).reshape(-1, 2)
            segment = Segment(note.name.removesuffix(NOTE_SUFFIX), times, int(data["delay"]), bool(data["whole"]))
        except (ValueError, KeyError, TypeError):
            return
        if not segment.whole or not len(times) or not (folder / segment.name).is_file():
            return
        yield segment


def _write_json(path: Path, data: dict[str, Any]) -> None:
    """In one step and down to the disk: after a power cut it is there whole or not at all."""
    part = path.with_name(f"{path.name}.part")
    with part.open("w") as file:
        file.write(json.dumps(data))
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; the system frees it when the process ends, however it ends."""
    if sys.platform == "win32":  # two runs at once for one output are the user's own doing there
        yield
        return
    import fcntl

    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise SinkError(f"only one process may write an output, but another is at work in {folder}") from exc
        yield


def _own_files(folder: Path) -> list[Path]:
    """The manifest last: until all else is gone, it tells whose folder it is."""
    return sorted(path for path in folder.iterdir() if OWN_NAMES.fullmatch(path.name))


def _clear(folder: Path) -> None:
    for path in _own_files(folder):
        if path.name != "lock":
            path.unlink()


def _remove(folder: Path) -> None:
    """Unless somebody put something else there, the folder as well."""
    with suppress(OSError):
        for path in _own_files(folder):
            with suppress(OSError):
                path.unlink()
        folder.rmdir()


def _remove_if_empty(folder: Path) -> None:
    """A job without a finished segment leaves nothing behind."""
    if not any(folder.glob("0*.m??")):
        _remove(folder)
