"""All inputs of one `stylize-video`, one after the other: skipped, painted, stopped by Ctrl-C, and told about."""

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from .cli_common import EXIT_INTERRUPTED, EXIT_SINK, exit_code_of, fail
from .errors import ImpastoError, name_of

if TYPE_CHECKING:
    from .cli_progress import Display
    from .options import VideoOptions
    from .video_engines import Engines
    from .video_job import VideoJob


ALREADY_THERE = "already there"
NOTHING_TO_RESUME = "finished already"


@dataclass(frozen=True)
class Outcome:
    """How one input ended."""

    source: str
    target: str
    state: str
    """done, skipped, stopped or failed."""
    code: int = 0
    frames: int = 0
    seconds: float = 0.0
    fps: float = 0.0
    note: str = ""


class Run:
    """All inputs of one call, one after the other, with the engines loaded once."""

    def __init__(
        self, options: "VideoOptions", output: str | None, *, preview: str | None, quiet: bool, as_json: bool,
        cluster: str | None,
    ) -> None:  # fmt: skip
        self._options = options
        self._output = output
        self._preview = preview
        self._quiet = quiet
        self._as_json = as_json
        self._cluster = cluster
        self._made: set[Path] = set()

    def all(self, inputs: list[str]) -> int:
        """Paint them; the exit code is that of the first that did not end well."""
        import cv2

        from .cli_progress import progress_display
        from .video_engines import Engines

        # Smoothing runs beside the engine: more threads of OpenCV's only wait for one another, and cost a twentieth.
        cv2.setNumThreads(1)
        # Only errors: SVT-AV1 introduces itself in 20 lines for every segment.
        os.environ.setdefault("SVT_LOG", "1")
        outcomes: list[Outcome] = []
        with Engines(self._options) as engines, progress_display(quiet=self._quiet, preview=self._preview) as display:
            for source in inputs:
                outcome = self._one(source, engines, display, alone=len(inputs) == 1)
                outcome = replace(outcome, source=source if source == "-" else name_of(source))
                outcomes.append(outcome)
                display.close()
                self._say(outcome)
                if outcome.state == "stopped":
                    break
        if len(inputs) > 1 and not self._quiet and not self._as_json:
            print_table(outcomes)
        return next((outcome.code for outcome in outcomes if outcome.code), 0)

    def _one(self, source: str, engines: "Engines", display: "Display", *, alone: bool) -> Outcome:
        target = self._target(source, engines)
        if target in self._made:
            fail(f"{name_of(source)}: another input has become {target} already; give them different names")
            return Outcome(source, str(target), "failed", EXIT_SINK, note="same output as another input")
        self._made.add(target)
        if not alone and target.exists() and not self._options.overwrite:
            return Outcome(source, str(target), "skipped", note=ALREADY_THERE)
        if self._options.resume and not self._options.overwrite and _is_finished(source, target):
            return Outcome(source, str(target), "skipped", note=NOTHING_TO_RESUME)
        try:
            return self._paint(source, target, engines, display)
        except (ImpastoError, ValueError) as exc:
            if alone and not self._as_json:
                raise
            fail(f"{name_of(source)}: {exc}")
            return Outcome(source, str(target), "failed", exit_code_of(exc), note=str(exc))

    def _paint(self, source: str, target: Path, engines: "Engines", display: "Display") -> Outcome:
        from .video_job import open_job

        if self._cluster is not None:
            return self._paint_on_cluster(source, target, self._cluster, engines, display)
        with open_job(source, target, self._options, engines, on_progress=display.update) as job:
            display.start(name_of(source), job.info, job.engine_info, frames_before=job.frames_kept)
            with _stop_on_interrupt(job.stop):
                report = job.run()
            if not report.stopped:
                return Outcome(source, str(target), "done", 0, report.frames_out, report.seconds, report.fps)
            return Outcome(
                source, str(target), "stopped", EXIT_INTERRUPTED, report.frames_out, report.seconds, report.fps,
                _how_to_go_on(job),
            )  # fmt: skip

    def _paint_on_cluster(
        self, source: str, target: Path, address: str, engines: "Engines", display: "Display"
    ) -> Outcome:
        from .cluster import stylize_on_cluster
        from .input_file import check_reopens
        from .video_frames import open_frames

        check_reopens(source)
        with open_frames(source, self._options, after=None) as (_, frames):
            engines.fit(frames.info.height, frames.info.width)
            display.start(name_of(source), frames.info, engines.info)
        try:
            report = stylize_on_cluster(
                source, target, self._options, address=address, on_progress=display.update_count
            )
        except KeyboardInterrupt:
            note = "the same command with --resume goes on after the segments that are here already"
            return Outcome(source, str(target), "stopped", EXIT_INTERRUPTED, note=note)
        return Outcome(source, str(target), "done", 0, report.frames_out, report.seconds, report.fps)

    def _target(self, source: str, engines: "Engines") -> Path:
        from .video_job import default_output

        if self._output is not None and Path(self._output).is_dir():
            return default_output(source, engines.name, folder=Path(self._output))
        return Path(self._output) if self._output is not None else default_output(source, engines.name)

    def _say(self, outcome: Outcome) -> None:
        if self._as_json:
            print(json.dumps(vars(outcome)), file=sys.stderr if outcome.target == "-" else sys.stdout, flush=True)
        elif not self._quiet and outcome.state != "failed":
            # Standard output may carry the film itself.
            print(_line(outcome), file=sys.stderr if outcome.target == "-" else sys.stdout, flush=True)


def _is_finished(source: str, target: Path) -> bool:
    """Whether an output is there and nothing unfinished beside it: it gets its name only when it is whole."""
    from .segments import job_folder

    if not target.is_file() or job_folder(target).exists():
        return False
    return not (Path(source).exists() and target.samefile(source))


def print_table(outcomes: list[Outcome]) -> None:
    """What became of every input."""
    from rich.console import Console
    from rich.table import Table

    table = Table("input", "result", "frames", "frames/s", "output or reason")
    for o in outcomes:
        last = o.note if o.state in ("failed", "skipped") else o.target
        table.add_row(Path(o.source).name, o.state, str(o.frames or ""), f"{o.fps:.1f}" if o.fps else "", last)
    Console().print(table)


def _line(outcome: Outcome) -> str:
    if outcome.note == NOTHING_TO_RESUME:
        return f"{outcome.source}: nothing to resume, {outcome.target} is finished already"
    if outcome.state == "skipped":
        return f"{outcome.source}: skipped, {outcome.target} is already there"
    text = f"{outcome.target}: {outcome.frames} frames in {outcome.seconds:.1f} s, {outcome.fps:.1f} frames/s"
    return f"{text}; stopped early, {outcome.note}" if outcome.state == "stopped" else text


def _how_to_go_on(job: "VideoJob") -> str:
    if not job.is_resumable:
        return "the output ends here"
    if not job.frames_kept:
        return "before anything was finished: the same command begins anew"
    return f"the same command with --resume goes on after frame {job.frames_kept}"


@contextmanager
def _stop_on_interrupt(stop: Callable[[], None]) -> Iterator[None]:
    """The first Ctrl-C ends the job cleanly, the second at once."""

    def on_signal(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        print("\nfinishing what is under way, 2 s at most; Ctrl-C again stops at once", file=sys.stderr)
        stop()

    before = signal.signal(signal.SIGINT, on_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
