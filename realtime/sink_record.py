"""Recording that survives: an MP4 that plays to within a second of whatever ended it.

Written as a fragmented file inside an ordinary one ("hybrid", FFmpeg 7.1 and later, as in OBS 30.2): until the end
every fragment stands on its own, and a clean end turns the whole into a plain MP4.
"""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

import av
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.video.stream import VideoStream

from .errors import SinkError, SourceError, reason_of
from .frame import Frame, StreamInfo
from .live_h264 import LiveH264
from .microphone import SAMPLE_RATE, SAMPLES, Microphone

logger = logging.getLogger(__name__)

FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
KEYFRAME_SECONDS = Fraction(1)
FRAGMENT_MICROSECONDS = 400_000
"""A fragment is safe once the next one begins; with two of them open at most 0.8 s are at risk."""
LEAST_FREE_BYTES = 64 * 2**20
"""Less free space than this at the start is refused: it would end within seconds."""
COMMON_OPTIONS = {
    "flush_packets": "1",
    # Microseconds that pictures wait for the sound that belongs beside them; 10 s unless told otherwise.
    "max_interleave_delta": "200000",
}
OPTIONS = COMMON_OPTIONS | {
    "movflags": "hybrid_fragmented+frag_keyframe",
    "frag_duration": str(FRAGMENT_MICROSECONDS),
}
ENCODER_OPTIONS = {"crf": "20"}


class Recording:
    """A sink that writes H.264 (and AAC if a microphone is given) in real time to a crash-safe MP4 or MOV."""

    def __init__(
        self,
        path: Path,
        info: StreamInfo,
        *,
        overwrite: bool = False,
        microphone: Microphone | None = None,
        on_warning: Callable[[str], None] = lambda message: None,
    ) -> None:
        """
        Args:
            path: ends in .mp4, .mov or .mkv; written under its own name from the start, because a recording
                that a crash leaves behind must be found.
            info: of the frames to come; odd edges lose their last row or column, which H.264 cannot hold.
            overwrite: whether an existing file may be replaced.
            microphone: where sound comes from; started and stopped by this sink.
            on_warning: gets a line when the sound ends before the recording; called from the microphone's thread.
        """
        check_recording(path, overwrite=overwrite)
        self._path = path
        self._info = info
        self._microphone = microphone
        self._on_warning = on_warning
        self._sound_end = 0
        self._lock = threading.Lock()
        self._failure: SinkError | None = None
        self._ended = False
        """A microphone that hangs may be heard after the end."""

    def __enter__(self) -> Self:
        try:
            if self._microphone is not None:
                self._microphone.open()  # first: one that fails must leave no file behind
        except SourceError as exc:
            raise SinkError(str(exc)) from exc
        try:
            with ExitStack() as undo:
                if self._microphone is not None:
                    undo.callback(self._microphone.stop)
                self._container = undo.enter_context(closing(self._open_container()))
                self._video = LiveH264(
                    self._container, self._info, keyframe_seconds=KEYFRAME_SECONDS, options=ENCODER_OPTIONS
                )
                self._audio = self._add_audio() if self._microphone is not None else None
                self._container.start_encoding()
                undo.pop_all()
        except (OSError, ValueError, av.FFmpegError) as exc:
            raise SinkError(f"{self._path} cannot be written: {reason_of(exc)}") from exc
        if self._microphone is not None:
            self._microphone.start(self._hear, self._sound_ended)
        return self

    def write(self, frame: Frame) -> None:
        """Encode one frame at its own time; frames that are not newer than the last are left out."""
        if self._failure is not None:
            raise self._failure
        picture = self._video.picture(frame)
        if picture is not None:
            self._mux(self._video.stream, picture)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._microphone is not None:
            self._microphone.stop()
        try:
            with self._lock:
                self._ended = True
                if self._failure is None and kind is None:
                    for stream in (self._video.stream, self._audio):
                        if stream is not None:
                            self._container.mux(stream.encode(None))
        except (OSError, av.FFmpegError) as exc:
            raise SinkError(f"{self._path} could not be finished: {reason_of(exc)}; what is there plays") from exc
        finally:
            try:
                self._container.close()
            except (OSError, av.FFmpegError) as exc:  # a full disk: the fragments that were written stay readable
                logger.warning("%s could not be completed: %s", self._path, exc)
        if self._failure is not None and kind is None:  # from the microphone's thread, after the last picture
            raise self._failure

    def _open_container(self) -> OutputContainer:
        form = FORMATS[self._path.suffix.lower()]
        options = OPTIONS if form != "matroska" else COMMON_OPTIONS | {"cluster_time_limit": "400"}
        return av.open(str(self._path.absolute()), "w", format=form, container_options=options)

    def _add_audio(self) -> AudioStream:
        return self._container.add_stream("aac", rate=48_000, options={"b": "160k"})

    def _hear(self, sound: av.AudioFrame, captured_at: float) -> None:
        """From the microphone's thread: `captured_at` on the monotonic clock, as the frames' pts."""
        if self._video.started is None or self._audio is None or self._failure is not None:
            return
        pts = round((captured_at - float(self._video.started)) * SAMPLE_RATE)
        if pts < self._sound_end - SAMPLES // 2:
            return  # before the first picture, or again: the sound card's clock is ahead and was set back
        sound.pts, sound.time_base = max(pts, self._sound_end), Fraction(1, SAMPLE_RATE)
        self._sound_end = sound.pts + sound.samples
        try:
            self._mux(self._audio, sound)
        except SinkError as exc:
            self._failure = exc

    def _sound_ended(self, reason: str) -> None:
        self._on_warning(f"{reason}; recording goes on without sound")

    def _mux(self, stream: VideoStream | AudioStream, frame: av.VideoFrame | av.AudioFrame) -> None:
        try:
            with self._lock:
                if self._ended:
                    return
                packets = stream.encode(frame)  # type: ignore[arg-type]
                self._container.mux(packets)
        except (OSError, av.FFmpegError) as exc:
            self._failure = SinkError(f"recording to {self._path} stopped: {reason_of(exc)}; what is there plays")
            raise self._failure from exc


def check_recording(path: Path, *, overwrite: bool) -> None:
    """Refuse, before anything is opened, what a recording could not be written to.

    Raises:
        SinkError: its name, its folder or the space there will not do.
    """
    if path.suffix.lower() not in FORMATS:
        raise SinkError(f"recording must end in {', '.join(FORMATS)}, got {path.name}")
    if path.exists() and not overwrite:
        raise SinkError(f"{path} exists; choose another name or give --overwrite")
    _check_space(path)


def _check_space(path: Path) -> None:
    import shutil

    try:
        free = shutil.disk_usage(path.parent).free
    except OSError as exc:
        raise SinkError(f"{path.parent} must be a folder that can be written: {reason_of(exc)}") from exc
    if free < LEAST_FREE_BYTES:
        raise SinkError(f"{path.parent} must have {LEAST_FREE_BYTES >> 20} MB free, got {free >> 20} MB")


def recording_name(folder: Path, suffix: str = ".mp4") -> Path:
    """A name in `folder` that no file has, from the time of day."""
    stem = time.strftime("impasto-%Y-%m-%d-%H-%M-%S")
    candidates = (folder / f"{stem}{number}{suffix}" for number in ("", *(f"-{n}" for n in range(2, 100))))
    return next(path for path in candidates if not path.exists())
