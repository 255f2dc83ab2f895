"""A video file, pipe or URL as a source: decoded once, upright, RGB by the stream's own tags, with exact times."""

import heapq
import logging
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from .color import RgbReader, tags_of
from .errors import SourceError
from .frame import Frame, Picture, StreamInfo

logger = logging.getLogger(__name__)

DECODE_ORDER_FORMATS = frozenset({"avi", "h264", "hevc", "m4v", "mpegvideo", "obu"})
"""Containers that store no presentation times: what FFmpeg reports there counts packets in decode order."""

MAX_REORDER = 64
"""Most packets a decoder may hold: 16 frames of reordering and as many threads, generously."""

MAX_BROKEN_READS = 64
"""Reads in a row that may fail before a damaged input counts as over."""


@dataclass(frozen=True)
class Damage:
    """What had to be mended or left out of a damaged input."""

    broken_packets: int = 0
    mended_times: int = 0

    def __bool__(self) -> bool:
        return bool(self.broken_packets or self.mended_times)

    def __str__(self) -> str:
        parts = []
        if self.broken_packets:
            parts.append(f"{self.broken_packets} damaged packets left out")
        if self.mended_times:
            parts.append(f"{self.mended_times} missing or repeated timestamps mended")
        return ", ".join(parts) or "none"


class VideoFile:
    """The first real video stream of anything that FFmpeg opens.

    Frames come upright (the phone's rotation applied), in presentation order, with the container's own
    timestamps as exact fractions. Damaged packets are left out and counted in `damage`, not fatal.
    """

    def __init__(self, path: str | Path) -> None:
        self._name = str(path)
        self._busy = threading.Lock()
        self._closed = False
        self._container = open_input(path)
        try:
            self._stream = self._pick_stream()
            self._stream.thread_type = "AUTO"
            self._head = self._first_frame()
            self.info = self._describe()
        except BaseException:
            self._container.close()
            raise
        self._reader = RgbReader(self.info.color.matrix)

    @property
    def damage(self) -> Damage:
        return Damage(self._broken_packets, self._mended_times)

    def __iter__(self) -> Iterator[Frame]:
        """Frames in presentation order; `data` (H, W, 3) uint8 RGB of `info`'s size."""
        tick = self._time_base
        last: int | None = None
        raw_frames = self._raw_frames()
        while (raw := self._next(raw_frames)) is not None:
            ticks = self._ticks_of(raw)
            if ticks is None or (last is not None and ticks <= last):
                self._mended_times += 1
                ticks = 0 if last is None else last + 1
            last = ticks
            duration = raw.duration * tick if raw.duration else None
            yield Frame(self._upright(raw), ticks * tick, duration)

    def close(self) -> None:
        # FFmpeg must not be closed under a read, so another thread waits here for the read to end.
        self._closed = True
        with self._busy:
            self._container.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _pick_stream(self) -> VideoStream:
        covers = av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails
        streams = [s for s in self._container.streams.video if not s.disposition & covers]
        if not streams:
            raise SourceError(f"{self._name} must have a video stream, got none")
        return streams[0]

    def _first_frame(self) -> VideoFrame:
        """Decode up to the first picture: only a picture knows its rotation and real format."""
        self._broken_packets = self._mended_times = 0
        self._decode_times: list[int] | None = None
        if self._container.format.name in DECODE_ORDER_FORMATS:
            self._decode_times = []
        self._decoded = self._decode()
        try:
            head = next(self._decoded, None)
        except av.FFmpegError as exc:
            raise SourceError(f"{self._name} cannot be decoded: {_reason(exc)}") from exc
        if head is None:
            raise SourceError(f"{self._name} must hold at least one readable picture, got none")
        return head

    def _describe(self) -> StreamInfo:
        stream, head = self._stream, self._head
        if stream.time_base is None:
            raise SourceError(f"{self._name} must have timestamps, got a stream without a time base")
        self._time_base = stream.time_base
        rotation = round(head.rotation / 90) * 90 % 360
        aspect = stream.sample_aspect_ratio or Fraction(1)
        if rotation in (90, 270):
            aspect = 1 / aspect
        sideways = rotation in (90, 270)
        return StreamInfo(
            width=head.height if sideways else head.width,
            height=head.width if sideways else head.height,
            frame_rate=stream.average_rate or stream.guessed_rate or Fraction(25),
            num_frames=self._count_frames(),
            duration=self._duration(),
            rotation=rotation,
            sample_aspect_ratio=aspect,
            time_base=self._time_base,
            color=tags_of(head),
        )

    def _duration(self) -> Fraction | None:
        if self._stream.duration:
            return self._stream.duration * self._time_base
        if self._container.duration:
            return Fraction(self._container.duration, av.time_base)
        return None

    def _count_frames(self) -> int | None:
        if self._stream.frames:
            return self._stream.frames
        duration, rate = self._duration(), self._stream.average_rate
        return round(duration * rate) if duration and rate else None

    def _next(self, raw_frames: Iterator[VideoFrame]) -> VideoFrame | None:
        with self._busy:
            return None if self._closed else next(raw_frames, None)

    def _raw_frames(self) -> Iterator[VideoFrame]:
        head, self._head = self._head, None  # type: ignore[assignment]
        if head is None:
            raise ValueError(f"{self._name} may be iterated once, got a second iteration")
        yield head
        try:
            yield from self._decoded
        except av.FFmpegError as exc:
            raise SourceError(f"{self._name} cannot be decoded: {_reason(exc)}") from exc

    def _decode(self) -> Iterator[VideoFrame]:
        for packet in self._packets():
            if self._decode_times is not None and packet.dts is not None:
                heapq.heappush(self._decode_times, packet.dts)
            try:
                yield from self._stream.decode(packet)
            except (av.error.InvalidDataError, av.error.PatchWelcomeError, av.error.BugError):
                self._broken_packets += 1
        with suppress(av.error.InvalidDataError, av.error.EOFError):
            yield from self._stream.decode(None)

    def _packets(self) -> "Iterator[Packet[VideoStream]]":
        """Packets of the stream; goes on behind a read that fails, as a player would."""
        failures = 0
        while failures < MAX_BROKEN_READS:
            try:
                for packet in self._container.demux(self._stream):
                    if packet.size:
                        failures = 0
                        yield packet
                return
            except av.error.EOFError:
                return
            except av.FFmpegError as exc:
                failures += 1
                self._broken_packets += 1
                logger.debug("%s: a read failed: %s", self._name, exc)

    def _ticks_of(self, raw: VideoFrame) -> int | None:
        if not self._decode_times:
            return raw.pts if raw.pts is not None else raw.dts
        # The k-th frame shown has the k-th smallest time; entries of packets that gave no frame age out.
        while len(self._decode_times) > MAX_REORDER:
            heapq.heappop(self._decode_times)
        return heapq.heappop(self._decode_times)

    def _upright(self, raw: VideoFrame) -> Picture:
        sideways = self.info.rotation in (90, 270)
        height, width = (self.info.width, self.info.height) if sideways else (self.info.height, self.info.width)
        picture = self._reader(raw, height, width)
        if self.info.rotation:
            picture = np.ascontiguousarray(np.rot90(picture, self.info.rotation // 90))
        return picture


def open_input(path: str | Path) -> InputContainer:
    """Open for demuxing; every failure becomes one clear `SourceError`."""
    name = str(path)
    if "://" not in name and Path(name).is_dir():
        raise SourceError(f"input must be a file, got the folder {name}")
    try:
        return av.open(name, mode="r", metadata_errors="replace")
    except FileNotFoundError as exc:
        raise SourceError(f"input must exist, got {name}") from exc
    except PermissionError as exc:
        raise SourceError(f"input must be readable, got {name}: permission denied") from exc
    except (av.FFmpegError, OSError, ValueError) as exc:
        raise SourceError(f"{name} is not a video that FFmpeg can open: {_reason(exc)}") from exc


def _reason(exc: BaseException) -> str:
    return getattr(exc, "strerror", None) or str(exc)
