"""A video file as a sink: encoded, tagged, muxed at the original times, and renamed only when whole."""

import errno
import logging
import os
import secrets
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, cast

import av
import numpy as np
from av.container import OutputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from .color import H273_CODES, YuvWriter
from .copy_streams import StreamCopier
from .errors import SinkError
from .frame import Frame, Picture, StreamInfo

logger = logging.getLogger(__name__)

Codec = Literal["h264", "ffv1"]


@dataclass(frozen=True)
class CodecChoice:
    """One way to encode: FFmpeg's encoder, its pixel format and what it is opened with."""

    encoder: str
    pixel_format: str
    options: dict[str, str]


CODECS: dict[Codec, CodecChoice] = {
    "h264": CodecChoice("libx264", "yuv420p", {"crf": "18", "preset": "veryfast"}),
    "ffv1": CodecChoice("ffv1", "yuv444p", {}),
}

CONTAINERS = {
    ".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".avi": "avi", ".nut": "nut",
}  # fmt: skip

MAX_REORDER = 64
"""No encoder here holds a frame back by more packets than this once its neighbours are out (H.264 allows 16)."""

DEFAULT_TIME_BASE = Fraction(1, 90_000)
"""For sources without one: exact for 24, 25, 30, 50, 60 and the 1001 rates' rounding below 6 µs."""


class VideoFileWriter:
    """Encode frames into one file; nothing stands under its final name before it is whole."""

    def __init__(
        self,
        path: str | Path,
        info: StreamInfo,
        *,
        codec: Codec = "h264",
        copy_from: str | Path | None = None,
        overwrite: bool = False,
    ) -> None:
        """
        Args:
            path: the file; its suffix picks the container.
            info: of the frames to come: rate, time base, pixel aspect and colour tags.
            codec: how to encode.
            copy_from: an input whose sound and subtitles are carried over.
            overwrite: whether an existing file may be replaced.
        """
        if codec not in CODECS:
            raise ValueError(f"codec must be one of {', '.join(CODECS)}, got {codec!r}")
        self._path = Path(path)
        self._info = info
        self._choice = CODECS[codec]
        self._overwrite = overwrite
        self._copy_from = copy_from
        self._time_base = info.time_base or DEFAULT_TIME_BASE
        self._clock = FrameClock(self._time_base, info.frame_rate)
        self._container: OutputContainer | None = None
        self._stream: VideoStream | None = None
        self._copier: StreamCopier | None = None
        self._closed = False
        check_target(self._path, overwrite=overwrite)
        # Hidden and beside the target: same file system, so the last rename is atomic.
        self._part = self._path.with_name(f".{self._path.name}.{secrets.token_hex(4)}.part")

    def write(self, frame: Frame) -> None:
        try:
            if self._container is None:
                self._open(frame)
            self._encode(frame)
        except (av.FFmpegError, OSError) as exc:
            raise self._failure(exc) from exc

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            if error is None and self._container is not None:
                self._finish()
            elif error is None:
                raise SinkError(f"{self._path} must get at least one frame, got none")
        except (av.FFmpegError, OSError) as exc:
            raise self._failure(exc) from exc
        finally:
            self._release()

    def _open(self, frame: Frame) -> None:
        height, width = _even(frame.data).shape[:2]
        ticks = self._time_base.denominator
        container = av.open(
            str(self._part),
            "w",
            format=CONTAINERS[self._path.suffix.lower()],
            # movie_timescale: the edit list of a late start is written in it; its default of 1/1000 would round.
            options={"movflags": "+faststart", "movie_timescale": str(ticks)} if self._is_mp4 else {},
        )
        self._container = container
        stream = cast(
            VideoStream,
            container.add_stream(self._choice.encoder, rate=self._info.frame_rate, options=dict(self._choice.options)),
        )
        self._stream = stream
        self._writer = YuvWriter(self._choice.pixel_format, self._info.color.matrix)
        context = stream.codec_context
        context.width, context.height = width, height
        context.pix_fmt = self._choice.pixel_format
        # The encoder counts frames at the nominal rate, so that its headers say 29.97 and not 30000 per second
        # and every encoder is content; `FrameClock` puts the real times back onto its packets.
        context.time_base = 1 / self._info.frame_rate
        stream.time_base = self._time_base
        context.framerate = self._info.frame_rate
        context.sample_aspect_ratio = self._info.sample_aspect_ratio
        context.color_range = 1
        context.colorspace = H273_CODES[self._info.color.matrix]
        context.color_primaries = self._info.color.primaries
        context.color_trc = self._info.color.transfer
        context.thread_type = "AUTO"
        if self._copy_from is not None:
            self._copier = StreamCopier(self._copy_from)
            self._copier.attach(container)

    def _encode(self, frame: Frame) -> None:
        raw = self._writer(_even(frame.data))
        raw.pts, raw.time_base = self._clock.add(frame), 1 / self._info.frame_rate
        self._mux(raw)
        if self._copier and self._container:
            self._copier.copy_until(self._container, frame.pts)

    def _mux(self, raw: av.VideoFrame | None) -> None:
        if self._stream is None or self._container is None:
            raise ValueError("the file must be open, got a closed one")
        for packet in self._stream.encode(raw):
            self._clock.restore(packet)
            self._container.mux_one(packet)

    def _finish(self) -> None:
        self._mux(None)
        if self._container is None:
            return
        if self._copier:
            self._copier.copy_until(self._container, None)
        self._container.close()
        self._container = None
        publish(self._part, self._path, overwrite=self._overwrite)

    def _release(self) -> None:
        """Close what is still open and remove the unfinished file, whatever state they are in."""
        if self._copier:
            self._copier.close()
        if self._container is not None:
            try:
                self._container.close()
            except (av.FFmpegError, OSError) as exc:
                logger.debug("abandoned output did not close: %s", exc)
            self._container = None
        self._part.unlink(missing_ok=True)

    def _failure(self, exc: BaseException) -> SinkError:
        if getattr(exc, "errno", None) == errno.ENOSPC:
            return SinkError(f"the disk must have room for {self._path}, got a full one; free some and start again")
        return SinkError(f"{self._path} cannot be written: {getattr(exc, 'strerror', None) or exc}")

    @property
    def _is_mp4(self) -> bool:
        return CONTAINERS[self._path.suffix.lower()] in ("mp4", "mov")


class FrameClock:
    """Counts frames for the encoder and gives its packets the real times.

    Decode times are the presentation times in order, late by the encoder's reordering delay: never above a
    packet's own pts, always rising, and the same whether a film is encoded in one go or in segments.
    """

    def __init__(self, time_base: Fraction, frame_rate: Fraction) -> None:
        self._time_base = time_base
        self._nominal = max(1, round(1 / (frame_rate * time_base)))
        self._first = 0
        self._count = self._packets = self._delay = 0
        self._times: dict[int, tuple[int, int]] = {}

    def add(self, frame: Frame) -> int:
        """Note a frame's time; returns its number, the encoder's pts."""
        pts = round(frame.pts / self._time_base)
        duration = 0 if frame.duration is None else round(frame.duration / self._time_base)
        if not self._count:
            self._first = pts
        self._times[self._count] = (pts, duration)
        self._count += 1
        return self._count - 1

    def restore(self, packet: "Packet[VideoStream]") -> None:
        """Replace the encoder's numbers by ticks of the time base."""
        number = packet.pts or 0
        if not self._packets and packet.dts is not None:
            self._delay = number - packet.dts
        late = self._packets - self._delay
        packet.pts, packet.duration = self._times[number]
        packet.dts = self._times[late][0] if late >= 0 else self._first + late * self._nominal
        packet.time_base = self._time_base
        self._packets += 1
        # Packets come in decode order: a number this far back was handed out already, as pts and as dts.
        self._times.pop(late - MAX_REORDER, None)


def check_target(path: Path, *, overwrite: bool) -> None:
    """Refuse a target that cannot be written, before any work is done."""
    if path.suffix.lower() not in CONTAINERS:
        raise SinkError(f"output must end in one of {', '.join(CONTAINERS)}, got {path.name}")
    if path.is_dir():
        raise SinkError(f"output must be a file, got the folder {path}")
    if path.exists() and not overwrite:
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


def _even(picture: Picture) -> Picture:
    """Repeat the last row or column where a side is odd: 4:2:0 has no half chroma pixels."""
    height, width = picture.shape[:2]
    if height % 2 == 0 and width % 2 == 0:
        return picture
    return np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
