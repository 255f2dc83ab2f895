"""A video file as a sink: encoded, tagged, muxed at the original times, and renamed only when whole."""

from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self, cast

import av
import numpy as np
from av.container import OutputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from .codecs import Encoding, PipeFormat, check_container
from .color import H273_CODES, YuvWriter
from .copy_streams import StreamCopier
from .errors import EngineError, SinkError
from .frame import Frame, Picture, StreamInfo
from .frame_clock import FrameClock
from .output_file import OutputFile, check_target, write_failure
from .palette import GifWriter

DEFAULT_TIME_BASE = Fraction(1, 90_000)
"""For sources without one: exact for 24, 25, 30, 50 and 60 per second, and for the 1001 rates to 6 µs."""


class VideoFileWriter:
    """Encode frames into one file, or to standard output; nothing has its final name before it is whole."""

    def __init__(
        self,
        path: str | Path,
        info: StreamInfo,
        *,
        encoding: Encoding | None = None,
        copier: StreamCopier | None = None,
        overwrite: bool = False,
        pipe_format: PipeFormat = "matroska",
    ) -> None:
        """
        Args:
            path: the file, whose suffix picks the container, or "-" for standard output.
            info: of the frames to come: rate, time base, pixel aspect and colour tags.
            encoding: how to encode.
            copier: carries over the other streams of an input; closed with this sink.
            overwrite: whether an existing file may be replaced.
            pipe_format: the container on standard output.
        """
        self._encoding = encoding or Encoding()
        self._path = None if str(path) == "-" else Path(path)
        self._info = info
        self._copier = copier
        self._overwrite = overwrite
        self._pipe_format: PipeFormat = pipe_format
        self._clock = FrameClock(info.time_base or DEFAULT_TIME_BASE, info.frame_rate)
        self._encoder: PictureEncoder | None = None
        self._stack = ExitStack()
        self._closed = False
        if self._path is not None:
            check_target(self._path, overwrite=overwrite)
            check_container(self._path.suffix, self._encoding.codec)

    def write(self, frame: Frame) -> None:
        try:
            if self._encoder is None:
                self._open(frame)
            self._encode(frame)
        except (av.FFmpegError, OSError) as exc:
            raise write_failure(self._path, exc) from exc

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._closed:
            return
        self._closed = True
        if self._copier:
            self._stack.callback(self._copier.close)
        try:
            if error is None:
                self._finish()
        except BaseException as exc:
            self._stack.__exit__(type(exc), exc, exc.__traceback__)
            if isinstance(exc, (av.FFmpegError, OSError)):
                raise write_failure(self._path, exc) from exc
            raise
        self._stack.__exit__(kind, error, trace)

    def _open(self, frame: Frame) -> None:
        tags = frozenset(self._copier.tags) if self._copier else frozenset()
        self._file = self._stack.enter_context(
            OutputFile(
                self._path,
                time_base=self._clock.time_base,
                overwrite=self._overwrite,
                pipe_format=self._pipe_format,
                tags=tags,
            )
        )
        height, width = frame.data.shape[:2]
        self._encoder = PictureEncoder(
            self._file.container, self._info, self._encoding, height, width, self._clock.time_base,
            raw=self._path is None and self._pipe_format == "y4m",
        )  # fmt: skip
        if self._copier:
            self._copier.attach(self._file.container)

    def _encode(self, frame: Frame) -> None:
        number = self._clock.add(*self._clock.ticks(frame))
        self._mux(number, frame.data)
        if self._copier:
            self._copier.copy_until(self._file.container, frame.pts)

    def _mux(self, number: int, picture: Picture | None) -> None:
        if self._encoder is None:
            raise ValueError("the file must be open, got a closed one")
        for packet in self._encoder.encode(number, picture):
            self._clock.restore(packet, packet.pts or 0)
            self._file.container.mux_one(packet)

    def _finish(self) -> None:
        if self._encoder is None:
            raise SinkError(f"{self._path or 'standard output'} must get at least one frame, got none")
        self._mux(0, None)
        if self._copier:
            self._copier.copy_until(self._file.container, None)


class PictureEncoder:
    """The video stream of an output container: pictures in, packets numbered by picture out."""

    def __init__(
        self,
        container: OutputContainer,
        info: StreamInfo,
        encoding: Encoding,
        height: int,
        width: int,
        time_base: Fraction,
        *,
        raw: bool = False,
    ) -> None:
        """`raw` leaves the pictures as they are, for formats like y4m. `time_base` is the container's stream's."""
        self._rate = info.frame_rate
        pixel_format = "yuv420p" if raw else encoding.pixel_format
        name = "wrapped_avframe" if raw else encoding.encoder_name
        options = {} if raw else encoding.options_for(height, width)
        try:
            self.stream = cast(VideoStream, container.add_stream(name, rate=info.frame_rate, options=options))
        except (av.FFmpegError, ValueError) as exc:
            raise EngineError(f"encoder must be one that FFmpeg has here, got {name}: {exc}") from exc
        is_yuv = pixel_format.startswith("yuv")
        context = self.stream.codec_context
        self._even = is_yuv and "444" not in pixel_format
        context.width, context.height = (width + width % 2, height + height % 2) if self._even else (width, height)
        context.pix_fmt = pixel_format
        context.time_base = 1 / info.frame_rate
        self.stream.time_base = time_base
        context.framerate = info.frame_rate
        context.sample_aspect_ratio = info.sample_aspect_ratio
        if is_yuv:
            context.color_range = 1
            context.colorspace = H273_CODES[info.color.matrix]
        context.color_primaries = info.color.primaries
        context.color_trc = info.color.transfer
        context.thread_type = "AUTO"
        self._convert = GifWriter() if encoding.codec == "gif" else YuvWriter(pixel_format, info.color.matrix)
        if not raw:
            self._open_encoder(name)

    def encode(self, number: int, picture: Picture | None) -> "list[Packet[VideoStream]]":
        """Packets that are ready after this picture, their pts its number; None drains the encoder."""
        if picture is None:
            return self.stream.encode(None)
        frame = self._convert(even(picture) if self._even else picture)
        frame.pts, frame.time_base = number, 1 / self._rate
        return self.stream.encode(frame)

    def _open_encoder(self, name: str) -> None:
        try:
            self.stream.codec_context.open()
        except (av.FFmpegError, ValueError) as exc:
            raise EngineError(f"encoder must be one that works on this machine, got {name}: {exc}") from exc


def even(picture: Picture) -> Picture:
    """Repeat the last row or column where a side is odd: 4:2:0 has no half chroma pixels."""
    height, width = picture.shape[:2]
    if height % 2 == 0 and width % 2 == 0:
        return picture
    return np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
