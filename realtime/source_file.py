"""A video file, pipe or URL as a source: decoded once, upright, RGB by the stream's own tags, with exact times."""

import heapq
import logging
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, cast

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from .color import RgbReader, tags_of
from .deinterlace import deinterlaced
from .errors import SourceError, name_of, reason_of
from .frame import ColorTags, Frame, Picture, StreamInfo
from .input_file import is_cover, open_input, origin_of, pick_video
from .orientation import orientation_of
from .size import parse_size
from .tonemap import HLG, PQ, ToneMapper

logger = logging.getLogger(__name__)

Hdr = Literal["sdr", "keep"]

DECODE_ORDER_FORMATS = frozenset({"avi", "h264", "hevc", "m4v", "mpegvideo", "obu"})
"""Containers that store no presentation times: what FFmpeg reports there counts packets in decode order."""

MAX_REORDER = 64
"""Most packets a decoder may hold: 16 frames of reordering and as many threads, generously."""

MAX_BROKEN_READS = 64
"""Reads in a row that may fail before a damaged input counts as over."""

MAX_PIXELS = 16_384 * 16_384
"""A header that claims more is damaged or hostile: one such frame is 805 MB."""

LEAST_MISSING_SECONDS = Fraction(1, 2)
"""An input that ends this much before its announced end was cut off."""

SEEK_MARGIN_SECONDS = 5
"""A seek lands this much early, so that the decoder has recovered from the jump by the wanted frame."""


@dataclass(frozen=True)
class Damage:
    """What had to be mended or left out of a damaged input."""

    broken_packets: int = 0
    mended_times: int = 0
    missing_seconds: float = 0.0
    """By how much the input ends before the end that it announces."""

    def __bool__(self) -> bool:
        return bool(self.broken_packets or self.mended_times or self.missing_seconds)

    def __str__(self) -> str:
        parts = []
        if self.broken_packets:
            parts.append(f"{self.broken_packets} damaged packets left out")
        if self.mended_times:
            parts.append(f"{self.mended_times} missing or repeated timestamps mended")
        if self.missing_seconds:
            parts.append(f"the last {self.missing_seconds:.1f} s are missing")
        return ", ".join(parts) or "none"


class VideoFile:
    """The first real video stream of anything that FFmpeg opens.

    Frames come upright (the phone's rotation applied), progressive, in presentation order, with the container's own
    timestamps as exact fractions. Damaged packets are left out and counted in `damage`, not fatal.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        size: str | None = None,
        after: Fraction | None = None,
        deinterlace: bool = True,
        hdr: Hdr = "sdr",
        decoder: str | None = None,
        keep_others: bool = False,
    ) -> None:
        """
        Args:
            path: a file, a URL, or "-" for standard input.
            size: of the frames to give: "720p" (height, width to match), "WxH" or "0.5x"; None keeps the video's.
            after: give only frames later than this, in seconds; seeks there where the input allows it.
            deinterlace: whether interlaced video becomes progressive.
            hdr: "sdr" tone-maps PQ and HLG video to BT.709; "keep" hands out its signal values as they are.
            decoder: an FFmpeg decoder by name, e.g. "h264_cuvid"; None for the default.
            keep_others: set the other streams' packets aside in `others`, for an input that can be read only once.
        """
        self._name = name_of(path)
        self._path = path
        self._after: Fraction | None = None
        self._deinterlace = deinterlace
        self._hdr = hdr
        self._decoder = decoder
        self._size = size
        self._keep_others = keep_others
        self.others: deque[Packet[Stream]] = deque()
        self._busy = threading.Lock()
        self._closed = False
        self._container = open_input(path)
        try:
            self._open_stream()
            self.info = self._describe()
            if after is not None:
                self.skip_to(after)
        except BaseException:
            self._container.close()
            raise
        self._reader = RgbReader(self._matrix)

    @property
    def damage(self) -> Damage:
        return Damage(self._broken_packets, self._mended_times, self._missing_seconds)

    @property
    def seeks(self) -> bool:
        """Whether a time in the middle can be reached without decoding all before it."""
        return self._decode_times is None and self._is_seekable

    @property
    def container(self) -> InputContainer:
        """The open input, for those who copy its other streams."""
        return self._container

    def skip_to(self, after: Fraction) -> None:
        """As the argument `after`, for what only `info` tells; before the iteration."""
        self._after = after
        self._seek(after)

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
            # Filters count in a time base of their own.
            duration = raw.duration * (raw.time_base or tick) if raw.duration else None
            end = ticks * tick + (duration or 1 / self.info.frame_rate)
            if self._after is not None and ticks * tick <= self._after:
                continue
            yield Frame(self._picture(raw), ticks * tick, duration)
        if last is not None and not self._closed:
            self._missing_seconds = self._missing_after(end)

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

    def _open_stream(self) -> None:
        self._stream = pick_video(self._container, self._name)
        if not self._stream.time_base:
            raise SourceError(f"{self._name} must have timestamps, got a stream without a time base")
        self._time_base = Fraction(self._stream.time_base)
        self._codec = self._stream.codec_context
        if self._codec is None:
            raise SourceError(f"{self._name} must be in a codec that FFmpeg decodes, got an unknown one")
        self._peeked: deque[Packet[VideoStream]] = deque()
        if self._decoder:
            self._codec = _named_decoder(self._decoder, self._codec)
        if not self._codec.is_open:
            self._codec.thread_type = "AUTO"
        self._broken_packets = self._mended_times = 0
        self._missing_seconds = 0.0
        self._decode_times: list[int] | None = [] if self._container.format.name in DECODE_ORDER_FORMATS else None
        upright = self._peek() if self._decoder else None
        self._decoded = self._decode()
        self._head: VideoFrame | None = self._first_frame()
        self._orientation = orientation_of(upright or self._head)
        # Filters below replace frames by new ones: what is looked at is the decoder's own first picture.
        self._first = self._head

    def _first_frame(self) -> VideoFrame:
        """Decode up to the first picture: only a picture knows its rotation and real format."""
        try:
            head = next(self._decoded, None)
        except (av.FFmpegError, ValueError, MemoryError) as exc:
            raise SourceError(f"{self._name} cannot be decoded: {reason_of(exc)}") from exc
        if head is None:
            raise SourceError(f"{self._name} must hold at least one readable picture, got none")
        if head.width * head.height > MAX_PIXELS:
            raise SourceError(f"{self._name} must be at most {MAX_PIXELS} pixels, got {head.width}x{head.height}")
        return head

    def _peek(self) -> VideoFrame | None:
        """The first picture by FFmpeg's own choice of a decoder, the only one that is told the display matrix.

        The packets that it takes are kept for the decoder that was named.
        """
        for packet in islice(self._packets(), MAX_REORDER):
            self._peeked.append(packet)
            with suppress(av.FFmpegError):  # the named decoder will say what is wrong
                for frame in self._stream.codec_context.decode(packet):
                    return frame
        return None

    def _describe(self) -> StreamInfo:
        stream, head = self._stream, self._first
        color = tags_of(head)
        self._matrix = color.matrix
        self._mapper = ToneMapper(head.color_trc) if self._needs_tone_mapping(head) else None
        if any(part.is_alpha for part in head.format.components) and self._container.format.name != "gif":
            logger.warning("the video has transparency, which is ignored")
        aspect = Fraction(stream.sample_aspect_ratio or 1)
        height, width = head.height, head.width
        if self._orientation.transpose:
            aspect, height, width = 1 / aspect, width, height
        if self._size is not None:
            coded = Fraction(width, height)
            height, width = parse_size(self._size, height, width)
            stretch = coded / Fraction(width, height)
            # Within 1 % it is the rounding to even sides, not a wish for other proportions.
            aspect *= stretch if abs(stretch - 1) > Fraction(1, 100) else 1
        return StreamInfo(
            width=width,
            height=height,
            frame_rate=Fraction(stream.average_rate or stream.guessed_rate or 25),
            num_frames=self._count_frames(),
            duration=self._duration(),
            origin=origin_of(self._container, self._time_base),
            rotation=self._orientation.rotation,
            sample_aspect_ratio=aspect,
            time_base=self._time_base,
            color=ColorTags() if self._mapper else color,
        )

    def _needs_tone_mapping(self, head: VideoFrame) -> bool:
        if head.color_trc not in (PQ, HLG):
            return False
        if self._hdr == "keep":
            return False
        logger.warning("the video is HDR: tone-mapped to SDR; --hdr keep paints and keeps its signal instead")
        return True

    def _missing_after(self, end: Fraction) -> float:
        """Seconds from the end of the last frame to the end that the stream itself announces; 0 if it is about there.

        Not the container's end, which is that of the longest stream.
        """
        stream = self._stream
        if stream.duration:
            announced = (stream.start_time or 0) * self._time_base + stream.duration * self._time_base
        else:
            try:  # Matroska's, as FFmpeg and mkvmerge write it
                hours, minutes, seconds = (Fraction(part) for part in stream.metadata["DURATION"].split(":"))
            except (KeyError, ValueError):
                return 0.0
            announced = hours * 3600 + minutes * 60 + seconds
        missing = announced - end
        return float(missing) if missing > max(LEAST_MISSING_SECONDS, 3 / self.info.frame_rate) else 0.0

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

    def _seek(self, after: Fraction) -> None:
        """Jump close before `after` where that is safe; otherwise decoding starts at the beginning and skips."""
        if not self.seeks:
            return
        target = round((after - SEEK_MARGIN_SECONDS) / self._time_base)
        try:
            self._container.seek(target, stream=self._stream)
            self._peeked.clear()
            self._codec.flush_buffers()
            self._decoded = self._decode()
            self._head = next(self._decoded, None)
        except av.FFmpegError:
            self._head = None
        landed = None if self._head is None else self._head.pts
        if landed is None or landed * self._time_base > after:
            logger.debug("%s: seek to %s missed, reading from the start", self._name, after)
            self._container.close()
            self._container = open_input(self._path)
            self._open_stream()

    @property
    def _is_seekable(self) -> bool:
        return str(self._path) != "-" and "://" not in str(self._path)

    def _next(self, raw_frames: Iterator[VideoFrame]) -> VideoFrame | None:
        with self._busy:
            return None if self._closed else next(raw_frames, None)

    def _raw_frames(self) -> Iterator[VideoFrame]:
        if self._head is None:
            raise ValueError(f"{self._name} may be iterated once, got a second iteration")
        frames = self._with_head(self._head)
        self._head = None
        try:
            yield from deinterlaced(frames) if self._deinterlace else frames
        except av.FFmpegError as exc:
            raise SourceError(f"{self._name} cannot be decoded: {reason_of(exc)}") from exc

    def _with_head(self, head: VideoFrame) -> Iterator[VideoFrame]:
        yield head
        yield from self._decoded

    def _decode(self) -> Iterator[VideoFrame]:
        for packet in chain(_drain(self._peeked), self._packets()):
            if self._decode_times is not None and packet.dts is not None:
                heapq.heappush(self._decode_times, packet.dts)
            try:
                yield from self._codec.decode(packet)
            except av.FFmpegError as exc:  # decoders say "operation not permitted" and other things of a damaged packet
                if isinstance(exc, MemoryError):
                    raise
                self._broken_packets += 1
                logger.debug("%s: a packet cannot be decoded: %s", self._name, exc)
        with suppress(av.error.InvalidDataError, av.error.EOFError):
            yield from self._codec.decode(None)

    def _packets(self) -> "Iterator[Packet[VideoStream]]":
        """Packets of the stream; goes on behind a read that fails, as a player would."""
        failures = 0
        while failures < MAX_BROKEN_READS:
            try:
                for packet in self._container.demux(*self._demuxed):
                    if not packet.size:
                        continue
                    failures = 0
                    if packet.stream_index == self._stream.index:
                        yield cast("Packet[VideoStream]", packet)
                    else:
                        self.others.append(packet)
                return
            except av.error.EOFError:
                return
            except av.FFmpegError as exc:
                failures += 1
                self._broken_packets += 1
                logger.debug("%s: a read failed: %s", self._name, exc)

    @property
    def _demuxed(self) -> "list[Stream]":
        if not self._keep_others:
            return [self._stream]
        others = [s for s in self._container.streams if s.type in ("audio", "subtitle") or is_cover(s)]
        return [self._stream, *others]

    def _ticks_of(self, raw: VideoFrame) -> int | None:
        if not self._decode_times:
            ticks = raw.pts if raw.pts is not None else raw.dts
            if ticks is None or not raw.time_base or raw.time_base == self._time_base:
                return ticks
            return round(ticks * raw.time_base / self._time_base)
        # The k-th frame shown has the k-th smallest time; entries of packets that gave no frame age out.
        while len(self._decode_times) > MAX_REORDER:
            heapq.heappop(self._decode_times)
        return heapq.heappop(self._decode_times)

    def _picture(self, raw: VideoFrame) -> Picture:
        mapped = self._mapper(raw) if self._mapper else raw
        height, width = self.info.height, self.info.width
        if self._orientation.transpose:
            height, width = width, height
        return self._orientation.apply(self._reader(mapped, height, width))


def _drain(packets: "deque[Packet[VideoStream]]") -> "Iterator[Packet[VideoStream]]":
    while packets:
        yield packets.popleft()


def _named_decoder(name: str, default: VideoCodecContext) -> VideoCodecContext:
    """A decoder that the user asked for, set up as FFmpeg's own; one that fails is an error, not a fallback."""
    try:
        context = av.CodecContext.create(name, "r")
        if not isinstance(context, VideoCodecContext):
            raise ValueError(f"it decodes {context.type}")
        context.extradata = default.extradata
        context.width, context.height = default.width, default.height
        # Often only the container knows them; a decoder that reads other values in its packets overrides these.
        context.colorspace, context.color_range = default.colorspace, default.color_range
        context.color_primaries, context.color_trc = default.color_primaries, default.color_trc
        context.thread_type = "AUTO"
        context.open()
    except (av.FFmpegError, ValueError) as exc:
        wanted = f"one that works here for {default.name}"
        raise SourceError(f"decoder must be {wanted}, got {name}: {reason_of(exc)}") from exc
    return context
