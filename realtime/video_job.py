"""One video on its way through a style: in closed segments that can be resumed, or straight into a pipe."""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import av

from .codecs import Encoding, check_container, check_encoder
from .engine import EngineInfo
from .errors import SinkError, SourceError, without_password
from .frame import StreamInfo
from .input_file import check_reopens
from .options import VideoOptions
from .output_file import check_target
from .pipeline import Pipeline, Progress, Report
from .regions import RegionOption
from .segments import Job, SegmentWriter, address_hash, join, open_job_folder, recorded_identity
from .sink_file import VideoFileWriter
from .source_file import VideoFile
from .video_engines import Engines
from .video_frames import copier_for, freeze, open_frames, probe_video, step_for

logger = logging.getLogger(__name__)


OnProgress = Callable[[Progress], None]

DEFAULT_SUFFIX = ".mp4"
KEPT_SUFFIXES = (".mp4", ".mov", ".mkv", ".m4v")
"""Containers that a default output shares with its input; all others become MP4."""

FINISH_SECONDS = 1.5
"""What a stop may spend on finishing a segment; what remains of 2 s empties the encoder and frees the engine."""

HASHED_BYTES = 1 << 20
"""Of the start and of the end of an input: enough to tell two videos apart without reading hours of film."""


class VideoJob(Protocol):
    """One video on its way through a style. `run()` it once; `stop()` it from any thread."""

    target: Path
    info: StreamInfo
    engine_info: EngineInfo
    is_resumable: bool
    """Whether a stopped run can be resumed; otherwise what is painted becomes the output."""

    @property
    def frames_kept(self) -> int:
        """Frames that are safe, those of earlier runs included."""

    def run(self) -> Report:
        """Paint to the end, a stop request or a failure.

        Raises:
            ImpastoError: whatever went wrong, after everything finished has been brought to safety.
        """

    def stop(self) -> None:
        """Ask for a clean end within 2 s."""


@contextmanager
def open_job(
    source: str | Path,
    output: str | Path | None,
    options: VideoOptions,
    engines: Engines,
    *,
    on_progress: OnProgress | None = None,
) -> Iterator[VideoJob]:
    """Everything opened and warm inside the block: `run()` the job when you like."""
    target = Path(output) if output is not None else default_output(source, engines.name)
    _check(source, target, options)
    encoding = options.encoding(target.suffix)
    options = replace(options, is_y4m=str(target) == "-" and options.pipe_format == "y4m")
    if not options.is_y4m:
        check_encoder(encoding)
    direct = str(target) == "-" or str(source) == "-" or encoding.codec == "gif"
    _say_what_does_nothing(target, options, direct=direct)
    opened = _open_direct if direct else _open_segmented
    with opened(source, target, options, encoding, engines, on_progress or (lambda progress: None)) as job:
        yield job


@contextmanager
def _open_direct(
    source: str | Path, target: Path, options: VideoOptions, encoding: Encoding, engines: Engines,
    on_progress: OnProgress,
) -> Iterator[VideoJob]:  # fmt: skip
    with open_frames(source, options, after=None) as (video, frames):
        stylizer = engines.stylizer(options, frames.info)
        freeze(stylizer, source, options)
        writer = VideoFileWriter(
            target, frames.info, encoding=encoding, copier=copier_for(source, video, options),
            overwrite=options.overwrite, pipe_format=options.pipe_format,
        )  # fmt: skip
        pipeline = Pipeline(frames, stylizer, [writer], on_progress=on_progress)
        yield _DirectJob(target, frames.info, engines.info, video, pipeline, writer)


@contextmanager
def _open_segmented(
    source: str | Path, target: Path, options: VideoOptions, encoding: Encoding, engines: Engines,
    on_progress: OnProgress,
) -> Iterator[VideoJob]:  # fmt: skip
    check_target(target, overwrite=options.overwrite)
    check_container(target.suffix, encoding.codec)
    probe = probe_video(source, options)
    engines.fit(probe.height, probe.width)
    if options.resume and (before := recorded_identity(target)) is not None:
        engines.pin(before["engine"])
    identity = identity_of(source, options, engines)
    resume = goes_on(target, identity, options)
    with ExitStack() as stack:
        segments = stack.enter_context(
            open_job_folder(target, identity, probe.time_base, resume=resume, overwrite=options.overwrite)
        )
        video, frames = stack.enter_context(open_frames(source, options, after=segments.last_pts))
        info = frames.info
        stylizer = engines.stylizer(options, info)
        writer = SegmentWriter(segments, info, encoding, frames=options.segment_length)
        step = step_for(stylizer, source, options, info, segments.times)

        def finish(path: Path) -> None:
            overwrite = options.overwrite or path != target
            join(segments, path, info, copier=copier_for(source, video, options), overwrite=overwrite)

        job = _SegmentedJob(target, info, engines.info, video, segments, writer, finish, options.keep_partial)
        job.pipeline = Pipeline(frames, step, [writer], on_progress=job.watch(on_progress))
        yield job


@dataclass
class _DirectJob:
    """For pipes and formats that cannot be cut: one stream from end to end, nothing to resume."""

    target: Path
    info: StreamInfo
    engine_info: EngineInfo
    _video: VideoFile
    _pipeline: Pipeline
    _writer: VideoFileWriter
    is_resumable: bool = False
    frames_kept: int = 0

    def run(self) -> Report:
        with self._writer:
            report = self._pipeline.run()
        return _report_damage(self._video, report)

    def stop(self) -> None:
        self._pipeline.stop(drain=False)


@dataclass
class _SegmentedJob:
    """For files: closed segments, joined at the end."""

    target: Path
    info: StreamInfo
    engine_info: EngineInfo
    _video: VideoFile
    _segments: Job
    _writer: SegmentWriter
    _finish: Callable[[Path], None]
    _keep_partial: bool
    is_resumable: bool = True
    pipeline: Pipeline = field(init=False)
    _deadline: float | None = None
    """When a stop no longer waits for the segment under way to become whole; of `time.monotonic`."""
    _progress: Progress | None = None

    @property
    def frames_kept(self) -> int:
        return sum(len(segment.times) for segment in self._segments.segments if segment.whole)

    def watch(self, on_progress: OnProgress) -> OnProgress:
        """A callback that also ends the run where a stop has asked for it."""

        def after_frame(progress: Progress) -> None:
            self._progress = progress
            if self._deadline is not None and (not self._writer.missing or time.monotonic() > self._deadline):
                self.pipeline.stop(drain=False)
            on_progress(progress)

        return after_frame

    def stop(self) -> None:
        """Finish the segment under way if that takes no longer than `FINISH_SECONDS`; else leave it at once."""
        done = self._progress
        needed = self._writer.missing * done.seconds / done.frames_out if done is not None else float("inf")
        self._deadline = time.monotonic() + FINISH_SECONDS
        if not 0 < needed <= FINISH_SECONDS:
            self.pipeline.stop(drain=False)

    def run(self) -> Report:
        try:
            with self._writer:
                report = self.pipeline.run()
                if report.stopped:
                    self._writer.cut(keep=self._keep_partial)
        except BaseException:
            self._save_partial()
            raise
        if report.stopped:
            self._save_partial()
        else:
            self._finish(self.target)
            self._segments.remove()
        return _report_damage(self._video, report)

    def _save_partial(self) -> None:
        if self._keep_partial and self._segments.segments:
            self._finish(self.target.with_name(f"{self.target.stem}.partial{self.target.suffix}"))


def default_output(source: str | Path, style: str, *, folder: Path | None = None) -> Path:
    """`in.mosaic.mp4` beside the input or in a folder; for standard input standard output, or a file in the folder."""
    if str(source) == "-":
        return Path("-") if folder is None else folder / f"stdin.{style}{DEFAULT_SUFFIX}"
    is_url = "://" in str(source)
    name = Path(without_password(str(source)) if is_url else source)
    suffix = name.suffix.lower() if name.suffix.lower() in KEPT_SUFFIXES else DEFAULT_SUFFIX
    beside = Path() if is_url else name.parent
    return (folder or beside) / f"{name.stem}.{style}{suffix}"


def identity_of(source: str | Path, options: VideoOptions, engines: Engines) -> dict[str, Any]:
    """What a job's finished segments depend on; a resumed run must agree in all of it."""
    shaping = (
        "style_scale", "regions", "strength", "keep_colors", "smooth", "normalization", "size", "tile", "fps",
        "start", "end", "deinterlace", "hdr", "codec", "encoder", "crf", "preset", "segment_frames",
    )  # fmt: skip
    return {
        "input": fingerprint(Path(source)) if "://" not in str(source) else address_hash(str(source)),
        "masks": [fingerprint(RegionOption.parse(text).mask) for text in options.regions],
        "styles": {style: artifact.sha256 for style, artifact in engines.artifacts.items()},
        "look": [[cue.at, dict(cue.mix), cue.fade] for cue in engines.look.cues],
        "engine": asdict(engines.info),
        "libraries": {name: ".".join(map(str, version)) for name, version in av.library_versions.items()},
        **{name: _plain(getattr(options, name)) for name in shaping},
    }


def goes_on(target: Path, identity: dict[str, Any], options: VideoOptions) -> bool:
    """Whether to go on with what an earlier run left; with `overwrite` only if it is this very job."""
    if not (options.resume and options.overwrite):
        return options.resume
    before = recorded_identity(target)
    if before is not None and before != json.loads(json.dumps(identity)):
        logger.warning("what was begun of %s is of another input, style or setting: starting anew", target)
        return False
    return before is not None


def fingerprint(path: Path) -> str:
    """Size and a SHA-256 over the file's first and last bytes."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            digest = hashlib.sha256(file.read(HASHED_BYTES))
            file.seek(max(0, size - HASHED_BYTES))
            digest.update(file.read(HASHED_BYTES))
    except OSError as exc:
        raise SourceError(f"input must be readable, got {path}: {exc.strerror}") from exc
    return f"{size}:{digest.hexdigest()}"


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Fraction) else value


def _check(source: str | Path, target: Path, options: VideoOptions) -> None:
    """Refuse what cannot end well before anything is opened."""
    if str(source) != "-":
        check_reopens(source, hint="; a pipe is given as -")
    if str(target) == "-" or str(source) == "-":
        if options.resume:
            raise ValueError("resume must be left out for pipes, got --resume: what went through is gone")
        return
    if target.exists() and Path(source).exists() and target.samefile(source):
        raise SinkError(f"output must not be the input itself, got {target}")
    if options.resume and options.encoding(target.suffix).codec == "gif":
        raise ValueError("resume must be left out for GIF, got --resume: it is painted in one piece")
    if options.resume and recorded_identity(target) is None:
        logger.info("nothing to resume for %s, starting at the beginning", target)


def _say_what_does_nothing(target: Path, options: VideoOptions, *, direct: bool) -> None:
    if direct and options.keep_partial:
        logger.warning("--keep-partial does nothing for pipes and GIF: they are painted in one piece")
    if str(target) != "-" and options.pipe_format != VideoOptions.pipe_format:
        logger.warning("--format is for standard output: %s is written as its suffix says", target)


def _report_damage(video: VideoFile, report: Report) -> Report:
    if video.damage:
        # What is missing from a result must be said even to those who asked for silence.
        logger.error("the input is damaged: %s", video.damage)
    return report
