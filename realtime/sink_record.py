"""Recording that survives: an MP4 that plays to within a second of whatever ended it.

Written as a fragmented file inside an ordinary one ("hybrid", FFmpeg 7.1 and later, as in OBS 30.2): until the end
every fragment stands on its own, and a clean end turns the whole into a plain MP4.
"""

import errno
import logging
import threading
import time
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

import av
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.video.frame import PictureType
from av.video.stream import VideoStream

from .color import H273_CODES, YuvWriter
from .errors import SinkError
from .frame import Frame, Matrix, StreamInfo
from .microphone import Microphone

logger = logging.getLogger(__name__)

FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
TIME_BASE = Fraction(1, 90_000)
KEYFRAME_SECONDS = 1.0
FRAGMENT_MICROSECONDS = 400_000
"""A fragment is safe once the next one begins; with two of them open at most 0.8 s are at risk."""
LEAST_FREE_BYTES = 64 * 2**20
"""Less free space than this at the start is refused: it would end within seconds."""
OPTIONS = {
    "movflags": "hybrid_fragmented+frag_keyframe",
    "frag_duration": str(FRAGMENT_MICROSECONDS),
    "flush_packets": "1",
}
# No look-ahead and no B-frames: both hold pictures back that a crash would take along.
ENCODER_OPTIONS = {"preset": "veryfast", "crf": "20", "tune": "zerolatency", "bf": "0", "threads": "2"}


class Recording:
    """A sink that writes H.264 (and AAC if a microphone is given) in real time to a crash-safe MP4 or MOV."""

    def __init__(
        self, path: Path, info: StreamInfo, *, overwrite: bool = False, microphone: Microphone | None = None
    ) -> None:
        """
        Args:
            path: ends in .mp4, .mov or .mkv; written under its own name from the start, because a recording
                that a crash leaves behind must be found.
            info: of the frames to come; odd edges lose their last row or column, which H.264 cannot hold.
            overwrite: whether an existing file may be replaced.
            microphone: where sound comes from; started and stopped by this sink.
        """
        if path.suffix.lower() not in FORMATS:
            raise SinkError(f"recording must end in {', '.join(FORMATS)}, got {path.name}")
        if path.exists() and not overwrite:
            raise SinkError(f"{path} exists; choose another name or give --overwrite")
        self._path = path
        self._height, self._width = info.height & ~1, info.width & ~1
        self._frame_rate = info.frame_rate
        self._microphone = microphone
        self._lock = threading.Lock()
        self._started: Fraction | None = None
        self._last_ticks = -1
        self._last_key_at = -KEYFRAME_SECONDS
        self._failure: SinkError | None = None

    def __enter__(self) -> Self:
        _check_space(self._path)
        try:
            self._container = self._open_container()
            self._video = self._add_video()
            self._audio = self._add_audio() if self._microphone is not None else None
            self._container.start_encoding()
        except (OSError, ValueError) as exc:
            raise SinkError(f"{self._path} cannot be written: {_reason(exc)}") from exc
        if self._microphone is not None:
            self._microphone.start(self._hear)
        return self

    def write(self, frame: Frame) -> None:
        """Encode one frame at its own time; frames that are not newer than the last are left out."""
        if self._failure is not None:
            raise self._failure
        if self._started is None:
            self._started = frame.pts
        seconds = frame.pts - self._started
        ticks = round(seconds / TIME_BASE)
        if ticks <= self._last_ticks:
            return
        self._last_ticks = ticks
        picture = self._to_yuv(frame.data[: self._height, : self._width])
        picture.pts, picture.time_base = ticks, TIME_BASE
        if seconds - Fraction(self._last_key_at) >= KEYFRAME_SECONDS:
            picture.pict_type = PictureType.I
            self._last_key_at = float(seconds)
        self._mux(self._video, picture)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._microphone is not None:
            self._microphone.stop()
        try:
            with self._lock:
                if self._failure is None and kind is None:
                    for stream in (self._video, self._audio):
                        if stream is not None:
                            self._container.mux(stream.encode(None))
        except OSError as exc:
            raise SinkError(f"{self._path} could not be finished: {_reason(exc)}; what is there plays") from exc
        finally:
            try:
                self._container.close()
            except OSError as exc:  # a full disk: the fragments that were written stay readable
                logger.warning("%s could not be completed: %s", self._path, exc)

    def _open_container(self) -> OutputContainer:
        form = FORMATS[self._path.suffix.lower()]
        options = OPTIONS if form != "matroska" else {"flush_packets": "1", "cluster_time_limit": "400"}
        return av.open(str(self._path), "w", format=form, container_options=options)

    def _add_video(self) -> VideoStream:
        stream = self._container.add_stream("libx264", rate=self._frame_rate, options=dict(ENCODER_OPTIONS))
        stream.width, stream.height, stream.pix_fmt = self._width, self._height, "yuv420p"
        stream.time_base = stream.codec_context.time_base = TIME_BASE
        matrix: Matrix = "bt601" if self._height <= 576 else "bt709"
        context = stream.codec_context
        context.colorspace = H273_CODES[matrix]
        context.color_primaries = context.color_trc = 6 if matrix == "bt601" else 1
        context.color_range = 1
        self._to_yuv = YuvWriter("yuv420p", matrix)
        return stream

    def _add_audio(self) -> AudioStream:
        return self._container.add_stream("aac", rate=48_000, options={"b": "160k"})

    def _hear(self, sound: av.AudioFrame, captured_at: float) -> None:
        """From the microphone's thread: `captured_at` on the monotonic clock, as the frames' pts."""
        if self._started is None or self._audio is None or self._failure is not None:
            return
        seconds = captured_at - float(self._started)
        if seconds < 0:
            return
        sound.pts, sound.time_base = round(seconds * 48_000), Fraction(1, 48_000)
        try:
            self._mux(self._audio, sound)
        except SinkError as exc:
            self._failure = exc

    def _mux(self, stream: VideoStream | AudioStream, frame: av.VideoFrame | av.AudioFrame) -> None:
        try:
            with self._lock:
                packets = stream.encode(frame)  # type: ignore[arg-type]
                self._container.mux(packets)
        except OSError as exc:
            self._failure = SinkError(f"recording to {self._path} stopped: {_reason(exc)}; what is there plays")
            raise self._failure from exc


def _check_space(path: Path) -> None:
    import shutil

    try:
        free = shutil.disk_usage(path.parent).free
    except OSError as exc:
        raise SinkError(f"{path.parent} must be a folder that can be written: {_reason(exc)}") from exc
    if free < LEAST_FREE_BYTES:
        raise SinkError(f"{path.parent} must have {LEAST_FREE_BYTES >> 20} MB free, got {free >> 20} MB")


def _reason(exc: Exception) -> str:
    if isinstance(exc, OSError) and exc.errno == errno.ENOSPC:
        return "the disk is full"
    return ((exc.strerror if isinstance(exc, OSError) else None) or str(exc)).lower()


def recording_name(folder: Path) -> Path:
    """A name in `folder` that no file has, from the time of day."""
    stem = time.strftime("impasto-%Y-%m-%d-%H-%M-%S")
    candidates = (folder / f"{stem}{suffix}.mp4" for suffix in ("", *(f"-{n}" for n in range(2, 100))))
    return next(path for path in candidates if not path.exists())
