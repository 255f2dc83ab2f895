"""`stylize-video`: repaint a video file. Imports what is heavy only once it runs."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from .cli_common import EXIT_INTERRUPTED, Command

if TYPE_CHECKING:
    from .pipeline import Report

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(cls=Command)
def video(
    source: Annotated[str, typer.Argument(metavar="IN", help="The video to repaint.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Where to write; default IN.STYLE.mp4 beside the input.")
    ] = None,
    style: Annotated[
        str, typer.Option("--style", "-s", help="An installed style's name, or the path of an artifact (.onnx).")
    ] = "mosaic",
    tier: Annotated[str | None, typer.Option(help="fast or quality; default: what is installed, fast first.")] = None,
    strength: Annotated[float, typer.Option(min=0.0, max=1.0, help="0 is the video itself, 1 the painting.")] = 1.0,
    keep_colors: Annotated[
        bool, typer.Option("--keep-colors", help="Luminance from the painting, colours from the video.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, or the device that must be used.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16, fp16 or int8.")] = "auto",
    no_audio: Annotated[bool, typer.Option("--no-audio", help="Leave sound and subtitles out.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only errors.")] = False,
) -> None:
    """Repaint a video in the manner of a painting. Sound, timing and colours tags stay as they are."""
    from . import video as library
    from .cli_progress import progress_display

    target = output or library.default_output(Path(source), library.find_artifact(style, tier))
    with progress_display(quiet=quiet) as display:
        with library.open_job(
            source, target, style=style, tier=tier, strength=strength, keep_colors=keep_colors, device=device,
            precision=precision, audio=not no_audio, overwrite=overwrite, on_progress=display.update,
        ) as job:  # fmt: skip
            display.start(Path(source).name, job.info, job.engine_info)
            with _stop_on_interrupt(job.stop):
                report = job.run()
    if not quiet:
        print(_summary(target, report))
    if report.stopped:
        raise typer.Exit(EXIT_INTERRUPTED)


@contextmanager
def _stop_on_interrupt(stop: Callable[[], None]) -> Iterator[None]:
    """The first Ctrl-C ends the job cleanly, the second at once."""

    def on_signal(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        print("\nstopping: the frames painted so far are being written; Ctrl-C again drops them", file=sys.stderr)
        stop()

    before = signal.signal(signal.SIGINT, on_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _summary(target: Path, report: "Report") -> str:
    text = f"{target}: {report.frames_out} frames in {report.seconds:.1f} s, {report.fps:.1f} frames/s"
    return f"{text} (stopped early)" if report.stopped else text
