"""Repaint videos: the library behind `stylize-video`.

from impasto.realtime.video import stylize_video
stylize_video("in.mp4", "out.mp4", style="mosaic", on_progress=lambda p: print(p.frames_out))

from impasto.realtime.video import stylized_frames
for frame in stylized_frames("in.mp4", style="mosaic"):
    show(frame.data, frame.pts)  # (H, W, 3) uint8 RGB, seconds as an exact fraction
"""

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import av

from ..export.artifact import Artifact, load_artifact
from .codecs import check_container
from .copy_streams import SideChannel, Span, StreamCopier
from .engine import Engine, EngineInfo, Library, has_int8, load_engine
from .engine_carried import EVERY, RUN_UP, SAMPLES, load_carried_engine
from .errors import ArtifactError, SinkError, SourceError
from .frame import Frame, StreamInfo
from .frame_rate import at_frame_rate, later, part
from .look import AtSegments, Cue, FilmStylizer, Look, load_timeline, plain_look, run_up_of
from .options import VideoOptions
from .output_file import check_target
from .paintings import Palette, absorbed, is_painting, key_of, resolve, style_file
from .pipeline import Pipeline, Progress, Report
from .regions import Region, RegionOption
from .segments import Job, SegmentWriter, join, open_job_folder, recorded_identity
from .sink_file import DEFAULT_TIME_BASE, VideoFileWriter
from .size import parse_size
from .source import Source
from .source_file import VideoFile, open_input, pick_video
from .stylizer import padded_size
from .tiles import load_tiled_engine, tile_for

logger = logging.getLogger(__name__)

OnProgress = Callable[[Progress], None]

DEFAULT_SUFFIX = ".mp4"
KEPT_SUFFIXES = (".mp4", ".mov", ".mkv", ".m4v")
"""Containers that a default output shares with its input; all others become MP4."""

IN_FLIGHT = 2
"""Frames that an engine works on at once; see tests/benchmarks/overlap.py."""
IN_FLIGHT_PIXELS = 2048 * 1152
"""Larger frames are painted one at a time: two of 4K take 2.5 GB, one 1.8, and each keeps all cores busy alone."""

HASHED_BYTES = 1 << 20
"""Of the start and of the end of an input: enough to tell two videos apart without reading hours of film."""


def stylize_video(
    source: str | Path,
    output: str | Path | None = None,
    *,
    on_progress: OnProgress | None = None,
    options: VideoOptions | None = None,
    **changes: Any,
) -> Report:
    """Repaint `source` into `output`, keeping every timestamp and the sound bit for bit.

    Args:
        source: a video file, a URL, or "-" for standard input.
        output: the file to write, or "-" for standard output; None is `in.STYLE.mp4` beside the input.
        on_progress: called after every frame written, from the encoding thread.
        options: how to repaint.
        changes: single options by name, e.g. `style="candy", strength=0.8`; see `VideoOptions`.

    Raises:
        ImpastoError: the input, style, device or output is not as it must be.
    """
    options = replace(options or VideoOptions(), **changes)
    with Engines(options) as engines, open_job(source, output, options, engines, on_progress=on_progress) as job:
        return job.run()


def stylized_frames(source: str | Path, *, options: VideoOptions | None = None, **changes: Any) -> Iterator[Frame]:
    """The painted frames of a video, one after the other, in the caller's thread."""
    options = replace(options or VideoOptions(), **changes)
    with Engines(options) as engines, open_frames(source, options, after=None) as (_, frames):
        stylizer = engines.stylizer(options, frames.info)
        freeze(stylizer, source, options)
        for frame in frames:
            yield stylizer(frame)


class Engines:
    """The styles of a look, loaded once for many videos. A context manager; frees them at its end."""

    def __init__(self, options: VideoOptions, *, paths: Mapping[str, Path] | None = None) -> None:
        """`paths` says where the look's artifacts lie, if not where `find_artifact` looks."""
        self.look = look_of(options)
        self._palette: Palette | None = None
        self.artifacts: dict[str, Artifact]
        if paths is not None:
            self.look = _look_with(self.look, paths)
            self.artifacts = {style: load_artifact(paths[style]) for style in self.look.styles}
        elif any(map(is_painting, self.look.styles)):
            resolved = resolve(
                self.look, lambda style: load_artifact(find_artifact(style, options.tier)), scale=options.style_scale
            )
            self.look, self._palette, self.artifacts = resolved.look, resolved.palette, dict(resolved.artifacts)
        else:
            self.artifacts = {style: load_artifact(find_artifact(style, options.tier)) for style in self.look.styles}
        self._regions: list[Region] = []
        for number, text in enumerate(options.regions, 1):
            option, key = RegionOption.parse(text), f"region {number}"
            if option.style == "none":
                key = ""
            elif paths is not None:
                self.artifacts[key] = load_artifact(paths[key])
            else:
                made = style_file(option.style, scale=options.style_scale)
                self.artifacts[key] = load_artifact(made or find_artifact(option.style, options.tier))
            self._regions.append(Region.read(option, key))
        self._options = options
        self._engines: dict[str, Engine] = {}
        self._fit: _Fit | None = None
        self._is_pinned = False

    @property
    def name(self) -> str:
        """What an output is named after: the styles, or "timeline"."""
        if self._options.timeline is not None:
            return self._options.timeline.stem
        return "+".join(dict.fromkeys(artifact.metadata.name for artifact in self.artifacts.values()))

    @property
    def info(self) -> EngineInfo:
        return next(iter(self._load().values())).info

    def fit(self, height: int, width: int, *, film: bool = True) -> None:
        """Choose tiles and frames in flight for a film or picture of this size; loads anew only if that changes."""
        tile = tile_for(height, width, self._options.tile) if self._palette is None else None
        many = film and tile is None and height * width <= IN_FLIGHT_PIXELS
        fit = _Fit(tile, IN_FLIGHT if many else 1)
        if fit != self._fit:
            self._close_all()
            self._fit = fit

    def stylizer(self, options: VideoOptions, info: StreamInfo | None = None) -> FilmStylizer:
        """What paints; ready for frames of this size, where it is known."""
        if info is not None:
            self.fit(info.height, info.width)
        engines = self._load()
        if info is not None:
            for engine in engines.values():
                engine.warmup(*padded_size(info.height, info.width, engine.stride))
        return FilmStylizer(
            engines,
            self.look,
            keep_colors=options.keep_colors,
            smooth=options.smooth,
            palette=self._palette,
            regions=self._regions,
        )

    def pin(self, engine: Mapping[str, str]) -> None:
        """Where the user left the choice open, take the engine that an earlier run took: a race may end otherwise."""
        if not self._engines and self._options.device == "auto" and self._options.library is None:
            library, precision = cast(Library, engine["name"]), engine["precision"]
            if self._options.precision in ("auto", precision):
                self._is_pinned = self._options.precision == "auto"
                self._options = replace(self._options, library=library, precision=precision)

    def _options_of(self, artifact: Artifact) -> VideoOptions:
        # A film may mix styles with and without an int8 version; the earlier run took the float one of the latter.
        if self._is_pinned and self._options.precision == "int8" and not has_int8(artifact):
            return replace(self._options, precision="auto")
        return self._options

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close_all()

    def _close_all(self) -> None:
        for engine in self._engines.values():
            engine.close()
        self._engines.clear()

    def _load(self) -> Mapping[str, Engine]:
        fit = self._fit or _Fit(None, 1)
        for style, artifact in self.artifacts.items():
            if style not in self._engines:
                self._engines[style] = _load_engine(artifact, self._options_of(artifact), fit)
        return self._engines


@dataclass(frozen=True)
class _Fit:
    """How engines are set up for a size of frames."""

    tile: int | None
    in_flight: int


def _load_engine(artifact: Artifact, options: VideoOptions, fit: _Fit) -> Engine:
    if artifact.metadata.kind == "arbitrary":  # its style changes with the frames, and statistics with the style
        if options.normalization != "frame":
            logger.warning("statistics must be each frame's own where paintings change over time: they are now")
        options, fit = replace(options, normalization="frame"), replace(fit, tile=None)
    if options.normalization != "frame":
        return load_carried_engine(
            artifact, options.normalization, tile=fit.tile, device=options.device, precision=options.precision,
            library=options.library, threads=options.threads, in_flight=fit.in_flight,
        )  # fmt: skip
    if fit.tile is not None:
        return load_tiled_engine(
            artifact, tile=fit.tile, device=options.device, precision=options.precision, library=options.library,
            threads=options.threads,
        )  # fmt: skip
    return load_engine(
        artifact, device=options.device, precision=options.precision, library=options.library,
        threads=options.threads, in_flight=fit.in_flight,
    )  # fmt: skip


class VideoJob:
    """One video on its way through a style. `run()` it once; `stop()` it from any thread."""

    def __init__(self, target: Path, info: StreamInfo, engine_info: EngineInfo) -> None:
        self.target = target
        self.info = info
        self.engine_info = engine_info
        self.frames_before = 0
        """Frames that an earlier run has finished."""
        self._pipeline: Pipeline | None = None
        self._run: Callable[[], Report]

    @property
    def is_resumable(self) -> bool:
        """Whether a stopped run can be resumed; otherwise what is painted becomes the output."""
        return isinstance(self, _SegmentedJob)

    def run(self) -> Report:
        """Paint to the end, a stop request or a failure.

        Raises:
            ImpastoError: whatever went wrong, after everything finished has been brought to safety.
        """
        return self._run()

    def stop(self) -> None:
        """Ask for an early, clean end within the time of a frame."""
        if self._pipeline is not None:
            self._pipeline.stop(drain=not self.is_resumable)


class _DirectJob(VideoJob):
    """For pipes and formats that cannot be cut: one stream from end to end, nothing to resume."""

    def __init__(self, video: VideoFile, pipeline: Pipeline, writer: VideoFileWriter, *args: Any) -> None:
        super().__init__(*args)
        self._pipeline = pipeline
        self._run = lambda: _report_damage(video, self._paint(pipeline, writer))

    @staticmethod
    def _paint(pipeline: Pipeline, writer: VideoFileWriter) -> Report:
        with writer:
            return pipeline.run()


class _SegmentedJob(VideoJob):
    """For files: closed segments, joined at the end."""

    def __init__(
        self, video: VideoFile, pipeline: Pipeline, writer: SegmentWriter, job: Job, finish: Callable[[Path], None],
        options: VideoOptions, *args: Any,
    ) -> None:  # fmt: skip
        super().__init__(*args)
        self._pipeline = pipeline
        self._writer = writer
        self._job = job
        self._finish = finish
        self._keep_partial = options.keep_partial
        self.frames_before = job.frames
        self._run = lambda: _report_damage(video, self._paint(pipeline))

    def _paint(self, pipeline: Pipeline) -> Report:
        try:
            with self._writer:
                report = pipeline.run()
                self._writer.whole = not report.stopped
        except BaseException:
            self._save_partial()
            raise
        if report.stopped:
            self._save_partial()
            return report
        self._finish(self.target)
        self._job.remove()
        return report

    def _save_partial(self) -> None:
        if self._keep_partial and self._job.segments:
            self._finish(self.target.with_name(f"{self.target.stem}.partial{self.target.suffix}"))


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
    direct = str(target) == "-" or str(source) == "-" or encoding.codec == "gif"
    with ExitStack() as stack:
        if direct:
            video, frames = stack.enter_context(open_frames(source, options, after=None))
            stylizer = engines.stylizer(options, frames.info)
            freeze(stylizer, source, options)
            writer = VideoFileWriter(
                target, frames.info, encoding=encoding, copier=copier_for(source, video, options),
                overwrite=options.overwrite, pipe_format=options.pipe_format,
            )  # fmt: skip
            pipeline = Pipeline(frames, stylizer, [writer], on_progress=on_progress)
            yield _DirectJob(video, pipeline, writer, target, frames.info, engines.info)
            return
        check_target(target, overwrite=options.overwrite)
        check_container(target.suffix, encoding.codec)
        probe = probe_video(source, options)
        time_base = probe.time_base
        engines.fit(probe.height, probe.width)
        if options.resume and (before := recorded_identity(target)) is not None:
            engines.pin(before["engine"])
        identity = identity_of(source, options, engines)
        job = stack.enter_context(
            open_job_folder(target, identity, time_base, resume=options.resume, overwrite=options.overwrite)
        )
        video, frames = stack.enter_context(open_frames(source, options, after=job.last_pts))
        stylizer = engines.stylizer(options, frames.info)
        segments = SegmentWriter(job, frames.info, encoding, frames=options.segment_length)
        step = step_for(stylizer, source, options, frames.info, job.times)
        pipeline = Pipeline(frames, step, [segments], on_progress=on_progress)
        info = frames.info

        def finish(path: Path) -> None:
            overwrite = options.overwrite or path != target
            join(job, path, info, copier=copier_for(source, video, options), overwrite=overwrite)

        yield _SegmentedJob(video, pipeline, segments, job, finish, options, target, info, engines.info)


def find_artifact(style: str | Path, tier: str | None = None) -> Path:
    """The artifact that `style` means: a path if it looks like one, else an installed style's."""
    if str(style).endswith((".onnx", ".engine")):
        return Path(style)
    from ..assets import find_style

    return find_style(str(style), tier)


def _look_with(look: Look, given: Mapping[str, Path]) -> Look:
    """A look whose paintings were made a style elsewhere: `given` names it like the first of them."""
    missing = {style for style in look.styles if style not in given or is_painting(style)}
    if not missing:
        return look
    if len(look.cues) > 1:
        raise ArtifactError("paintings that change over time must be painted on this machine: leave --cluster out")
    mix = look.cues[0].mix
    return Look([Cue(0.0, absorbed(mix, missing, key_of(mix))[0])])


def look_of(options: VideoOptions) -> Look:
    """What the options say the film looks like over time."""
    if options.timeline is not None:
        return load_timeline(options.timeline, style=options.style, strength=options.strength)
    return plain_look(options.style, options.strength)


def default_output(source: str | Path, style: str, *, folder: Path | None = None) -> Path:
    """`in.mosaic.mp4` beside the input or in a folder; standard output for standard input."""
    if str(source) == "-":
        return Path("-")
    name = Path(str(source).partition("?")[0])
    suffix = name.suffix.lower() if name.suffix.lower() in KEPT_SUFFIXES else DEFAULT_SUFFIX
    beside = Path() if "://" in str(source) else name.parent
    return (folder or beside) / f"{name.stem}.{style}{suffix}"


def identity_of(source: str | Path, options: VideoOptions, engines: Engines) -> dict[str, Any]:
    """What a job's finished segments depend on; a resumed run must agree in all of it."""
    shaping = (
        "style_scale", "regions", "strength", "keep_colors", "smooth", "normalization", "size", "tile", "fps",
        "start", "end", "deinterlace", "hdr", "codec", "encoder", "crf", "preset", "segment_frames",
    )  # fmt: skip
    return {
        "input": fingerprint(Path(source)) if "://" not in str(source) else str(source),
        "masks": [fingerprint(RegionOption.parse(text).mask) for text in options.regions],
        "styles": {style: artifact.sha256 for style, artifact in engines.artifacts.items()},
        "look": [[cue.at, dict(cue.mix), cue.fade] for cue in engines.look.cues],
        "engine": asdict(engines.info),
        "libraries": {name: ".".join(map(str, version)) for name, version in av.library_versions.items()},
        **{name: _plain(getattr(options, name)) for name in shaping},
    }


@dataclass(frozen=True)
class Probe:
    """What is known of a result before anything is decoded."""

    time_base: Fraction
    height: int
    width: int


def probe_video(source: str | Path, options: VideoOptions) -> Probe:
    """Look at an input's header. Height and width may be swapped, the turn of a phone stands in the first picture."""
    with open_input(source) as container:
        stream = pick_video(container, str(source))
        context = stream.codec_context
        height, width = (context.height, context.width) if context is not None else (0, 0)
        if options.size is not None and height and width:
            height, width = parse_size(options.size, height, width)
        time_base = Fraction(stream.time_base or DEFAULT_TIME_BASE)
    return Probe(time_base if options.fps is None else 1 / options.fps, height, width)


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


@contextmanager
def open_frames(
    source: str | Path, options: VideoOptions, *, after: Fraction | None
) -> Iterator[tuple[VideoFile, Source]]:
    """The file, and its frames as the options want them, later than `after` of the output."""
    shift = options.start or Fraction(0)
    # A frame rate of one's own needs the frame before as well, however long ago that was.
    skip = None if after is None or options.fps is not None else after + shift
    if skip is None and options.start is not None and options.fps is None:
        skip = options.start - Fraction(1, 10**6)
    with VideoFile(
        source, size=options.size, after=skip, deinterlace=options.deinterlace, hdr=options.hdr,
        decoder=options.decoder, keep_others=options.audio and str(source) == "-",
    ) as video:  # fmt: skip
        frames: Source = video
        rate = options.fps
        if rate is None and options.is_y4m:
            rate = video.info.frame_rate  # y4m knows no times, only a rate
        if rate is not None:
            frames = at_frame_rate(frames, rate)
        if options.start is not None or options.end is not None:
            frames = part(frames, options.start, options.end)
        if after is not None:
            frames = later(frames, after)
        yield video, frames


def step_for(
    stylizer: FilmStylizer, source: str | Path, options: VideoOptions, info: StreamInfo, earlier: Sequence[Fraction]
) -> "FilmStylizer | AtSegments":
    """The stylizer, made independent of where the film was cut or resumed if it remembers frames.

    `earlier` are the times of all frames before the first one to come.
    """
    freeze(stylizer, source, options)
    run_up = run_up_of(options.smooth, info.height * info.width)
    needed = max(run_up, RUN_UP if options.normalization == "carried" else 0)
    if not needed:
        return stylizer
    # From a frame on that is measured in any case.
    first = max(0, len(earlier) - needed) // EVERY * EVERY
    stylizer.number = first
    with ExitStack() as stack:
        before: Iterable[Frame] = ()
        if earlier:
            after = earlier[first - 1] if first else None
            _, frames = stack.enter_context(open_frames(source, options, after=after))
            before = islice(frames, len(earlier) - first)
        return AtSegments(stylizer, every=options.segment_length, run_up=run_up, before=before)


def freeze(stylizer: FilmStylizer, source: str | Path, options: VideoOptions) -> None:
    """Where frozen statistics are wanted, take those of frames from all over the film.

    Of an input that cannot be read twice they are the first frame's, without help from here; where times cannot be
    reached at once, the first frame's of the part that is painted.
    """
    if options.normalization != "frozen" or str(source) == "-":
        return
    first = options.start or Fraction(0)
    with VideoFile(source) as video:
        end = options.end or video.info.duration
        count = SAMPLES if video.seeks and end is not None and end > first else 1
    times = [first + (end - first) * number / count for number in range(count)] if end else [first]
    pictures = []
    for seconds in times:
        after = seconds - Fraction(1, 10**6)
        with VideoFile(
            source, size=options.size, after=after, deinterlace=options.deinterlace, hdr=options.hdr,
            decoder=options.decoder,
        ) as video:  # fmt: skip
            pictures += [frame.data for frame in islice(video, 1)]
    if pictures:
        stylizer.freeze(pictures)


def copier_for(source: str | Path, video: VideoFile, options: VideoOptions) -> StreamCopier | None:
    if not options.audio:
        return None
    span = Span(options.start, options.end)
    if str(source) == "-":
        return StreamCopier(video.container, span=span, packets=SideChannel(video.others))
    return StreamCopier(open_input(source), span=span)


def _check(source: str | Path, target: Path, options: VideoOptions) -> None:
    """Refuse what cannot end well before anything is opened."""
    if str(target) == "-" or str(source) == "-":
        if options.resume:
            raise ValueError("resume must be left out for pipes, got --resume: what went through is gone")
        return
    if target.exists() and Path(source).exists() and target.samefile(source):
        raise SinkError(f"output must not be the input itself, got {target}")
    if options.resume and recorded_identity(target) is None:
        logger.info("nothing to resume for %s, starting at the beginning", target)


def _report_damage(video: VideoFile, report: Report) -> Report:
    if video.damage:
        # What is missing from a result must be said even to those who asked for silence.
        logger.error("the input is damaged: %s", video.damage)
    return report


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Fraction) else value
