"""A video painted by many machines: its segments as tasks of Ray, joined here to the same film as from one machine.

Ray schedules, retries tasks whose worker is lost, and carries segments back; this module only says what a task is.
The input must be readable under the same path, or URL, on every machine; styles travel with the tasks.
"""

import logging
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, cast

from ..export.artifact import Artifact, Precision, load_artifact, quantized_path
from .codecs import Encoding, check_container, check_encoder
from .engine import Library
from .errors import EngineError, ImpastoError, SourceError, name_of
from .frame_rate import first as first_frames
from .input_file import check_reopens
from .options import VideoOptions
from .output_file import check_target
from .pipeline import Pipeline, Report
from .segments import Job, Segment, SegmentWriter, join, open_job_folder
from .verify import read_film
from .video_engines import Engines
from .video_frames import copier_for, open_frames, probe_video, step_for
from .video_job import goes_on, identity_of

logger = logging.getLogger(__name__)

MAX_RETRIES = 5
"""How often a segment is begun anew after its worker was lost."""
CPUS_PER_TASK = 4
"""A task gets this many, or all of a smaller machine; its engine uses as many threads."""
TASKS_PER_SLOT = 2
"""Tasks handed out at once per task that can run: the next is there when one ends, and few results wait in memory."""


@dataclass(frozen=True)
class PaintedSegment:
    """What a task brings back."""

    data: bytes
    """The segment's file."""
    segment: Segment
    engine: str


@dataclass(frozen=True)
class _Plan:
    """What all tasks of a film share."""

    source: str
    options: VideoOptions
    styles: dict[str, bytes]
    """Artifact files by style."""
    time_base: Fraction
    encoding: Encoding
    times: list[Fraction]
    """Of every frame of the result."""


def stylize_on_cluster(
    source: str | Path,
    target: Path,
    options: VideoOptions,
    *,
    address: str,
    on_progress: Callable[[int, float], None] = lambda frames, seconds: None,
) -> Report:
    """Repaint a video on a Ray cluster, resumable like any other job.

    Args:
        source: a file or URL that every machine can read.
        target: the file to write, here.
        options: how to repaint; without a frame rate of its own.
        address: of the cluster, as Ray takes it: "auto", "HOST:PORT", "ray://HOST:PORT", or "local".
        on_progress: called with frames finished and seconds passed after every segment.

    Raises:
        ImpastoError: as `stylize_video`, or the cluster cannot be reached.
    """
    if options.fps is not None:
        raise ValueError(f"fps must be left out on a cluster, got {options.fps}")
    check_reopens(source)
    check_target(target, overwrite=options.overwrite)
    check_container(target.suffix, options.encoding(target.suffix).codec)
    check_encoder(options.encoding(target.suffix))
    began = time.perf_counter()
    with _connected(address) as ray, Engines(options) as engines:
        probe = probe_video(source, options)
        engines.fit(probe.height, probe.width)
        plan = _plan(source, options, engines, options.encoding(target.suffix))
        identity = identity_of(source, options, engines)
        with open_job_folder(
            target, identity, plan.time_base, resume=goes_on(target, identity, options), overwrite=options.overwrite
        ) as job:
            before = job.frames
            for _ in _paint_segments(ray, plan, job, engine=str(engines.info)):
                on_progress(job.frames - before, time.perf_counter() - began)
            with open_frames(source, options, after=None) as (video, frames):
                copier = copier_for(source, video, options)
                join(job, target, frames.info, copier=copier, overwrite=options.overwrite)
            job.remove()
            return Report(job.frames - before, job.frames - before, 0, time.perf_counter() - began)


def _plan(source: str | Path, options: VideoOptions, engines: Engines, encoding: Encoding) -> _Plan:
    film, probe = read_film(source), probe_video(source, options)
    start = Fraction(0) if options.start is None else probe.origin + options.start
    shift = round(start / film.tick) * film.tick
    times = [
        t - shift for t in film.times if t >= start and (options.end is None or t < probe.origin + options.end)
    ]  # fmt: skip
    if not times:
        raise SourceError(f"{name_of(source)} must have frames in the part that is wanted, got none")
    # Everyone paints with what was chosen here: the race of `auto` may end otherwise on another machine.
    chosen = engines.info
    plain = replace(options, library=cast(Library, chosen.name), precision=chosen.precision, overwrite=False)
    plain = replace(plain, resume=False, keep_partial=False)
    styles = {style: _version(artifact, chosen.precision).read() for style, artifact in engines.artifacts.items()}
    return _Plan(str(source), plain, styles, probe.time_base, encoding, times)


def _version(artifact: Artifact, precision: Precision) -> Artifact:
    """The file that paints: int8 lies beside the artifact, and would not be found where that is sent to."""
    quantized = precision == "int8" and artifact.metadata.precision != "int8"
    return load_artifact(quantized_path(artifact.path)) if quantized else artifact


def _paint_segments(ray: Any, plan: _Plan, job: Job, *, engine: str) -> Iterator[None]:
    """Hand out what is missing and add the segments to the job in order; yields after each."""
    cpus, slots = _slots(ray)
    task = ray.remote(num_cpus=cpus, max_retries=MAX_RETRIES)(paint_segment)
    shared = ray.put(plan)
    length = plan.options.segment_length
    waiting = iter(range(len(job.segments), -(-len(plan.times) // length)))
    running: dict[Any, int] = {}
    done: dict[int, PaintedSegment] = {}
    while True:
        for number in islice(waiting, slots * TASKS_PER_SLOT - len(running) - len(done)):
            running[task.remote(shared, number, cpus)] = number
        if not running:
            return
        ready, _ = ray.wait(list(running), num_returns=1)
        done[running.pop(ready[0])] = _result(ray, ready[0])
        while (painted := done.pop(len(job.segments), None)) is not None:
            _check(painted, plan, len(job.segments), engine)
            (job.folder / painted.segment.name).write_bytes(painted.data)
            job.add(painted.segment)
            yield


def paint_segment(plan: _Plan, number: int, threads: int) -> PaintedSegment:
    """One segment, on whichever machine this runs."""
    length = plan.options.segment_length
    first, wanted = number * length, plan.times[number * length : (number + 1) * length]
    options = replace(plan.options, threads=threads)
    engines = _engines(_Key(options, tuple(sorted(plan.styles.items()))))
    after = plan.times[first - 1] if first else None
    with (
        tempfile.TemporaryDirectory(prefix="impasto-") as folder,
        open_frames(plan.source, options, after=after) as (_, frames),
    ):
        job = Job(Path(folder), {}, plan.time_base, Path(folder))
        stylizer = engines.stylizer(options, frames.info)
        step = step_for(stylizer, plan.source, options, frames.info, plan.times[:first])
        with SegmentWriter(job, frames.info, plan.encoding, frames=len(wanted)) as writer:
            Pipeline(first_frames(frames, len(wanted)), step, [writer]).run()
        if not job.segments:
            raise SourceError(f"{name_of(plan.source)} must hold frame {first}, but it cannot be read there")
        painted = job.segments[0]
        data = (job.folder / painted.name).read_bytes()
    named = replace(painted, name=f"{number:05d}{Path(painted.name).suffix}")
    return PaintedSegment(data, named, str(engines.info))


@dataclass(frozen=True)
class _Key:
    """What a worker's engines depend on; a worker keeps them from task to task."""

    options: VideoOptions
    styles: tuple[tuple[str, bytes], ...]


@lru_cache(maxsize=1)
def _engines(key: _Key) -> Engines:
    folder = tempfile.TemporaryDirectory(prefix="impasto-styles-")
    paths = {}
    for number, (style, data) in enumerate(key.styles):
        paths[style] = Path(folder.name) / f"{number}.onnx"
        paths[style].write_bytes(data)
    engines = Engines(key.options, paths=paths)
    weakref.finalize(engines, folder.cleanup)
    return engines


def _check(painted: PaintedSegment, plan: _Plan, number: int, engine: str) -> None:
    """The same frames by the same arithmetic as on one machine, or none."""
    length = plan.options.segment_length
    expected = plan.times[number * length : (number + 1) * length]
    if [int(pts) * plan.time_base for pts in painted.segment.times[:, 0]] != expected:
        raise SourceError(f"{name_of(plan.source)} must be undamaged for a cluster: paint it without --cluster")
    if painted.engine != engine:
        raise EngineError(
            f"all machines must paint with {engine}, got {painted.engine} on one: name --device and --precision"
        )


def _result(ray: Any, reference: Any) -> PaintedSegment:
    try:
        painted: PaintedSegment = ray.get(reference)
    except ray.exceptions.RayTaskError as exc:
        cause = getattr(exc, "cause", None)
        if isinstance(cause, (ImpastoError, ValueError)):
            raise cause from exc
        raise EngineError(f"a task on the cluster failed: {exc}") from exc
    except ray.exceptions.RayError as exc:
        raise EngineError(f"the cluster lost a segment {MAX_RETRIES + 1} times: {exc}") from exc
    return painted


def _slots(ray: Any) -> tuple[int, int]:
    """CPUs of a task, and how many tasks run at once."""
    nodes = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    able = [cpus for cpus in nodes if cpus]
    if not able:
        raise EngineError("the cluster must have a machine with CPUs, got none")
    cpus = min(CPUS_PER_TASK, *able)
    return cpus, max(1, sum(node // cpus for node in able))


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    try:
        import ray
    except ImportError as exc:
        raise EngineError("a cluster needs Ray: pip install 'impasto[cluster]'") from exc
    if ray.is_initialized():
        yield ray
        return
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    except Exception as exc:  # Ray raises plain Exceptions, for a start that takes too long among others
        raise EngineError(f"cluster must be reachable, got {address}: {exc}") from exc
    try:
        yield ray
    finally:
        ray.shutdown()
