"""What the commands that train and judge share. Light to import."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import typer

from .errors import TrainingError
from .interrupt import stop_on_interrupt

if TYPE_CHECKING:
    from .loop import Progress

EXIT_INTERRUPTED = 130
_LINE_EVERY_SECONDS = 10.0


@contextmanager
def needs_train_extra(what: str) -> Iterator[None]:
    """Say what to install where a package is missing; `what` is what it is needed for."""
    try:
        yield
    except ModuleNotFoundError as exc:
        raise TrainingError(f"{what} needs {exc.name}: pip install 'impasto[train]'") from exc


def parse_style_weight(text: str) -> float | None:
    """--style-weight: a number, or None for auto."""
    if text == "auto":
        return None
    try:
        return float(text)
    except ValueError as exc:
        raise ValueError(f"--style-weight must be a number or auto, got {text!r}") from exc


def some_pictures(folder: Path, count: int) -> list[Path]:
    """Up to `count` pictures of a folder that can be read, evenly over it; the first others stand in for damaged ones.

    Raises:
        TrainingError: no such folder, or no picture in it can be read.
    """
    from .data import find_pictures

    found = find_pictures(folder)
    evenly = found[:: max(1, len(found) // count)][:count]
    others = (path for path in found if path not in evenly)
    readable = list(islice(filter(_can_be_read, chain(evenly, others)), count))
    if not readable:
        raise TrainingError(f"none of the {len(found)} pictures in {folder} can be read")
    return sorted(readable)


def _can_be_read(path: Path) -> bool:
    from .data import read_picture

    try:
        read_picture(path)
    except TrainingError:
        return False
    return True


class Learn(Protocol):
    """A training loop with its configuration bound."""

    def __call__(self, *, callback: "Callable[[Progress], None]", should_stop: Callable[[], bool]) -> Path: ...


def run_training(
    learn: Learn,
    log: "Callable[[Progress], None]",
    *,
    name: str,
    steps: int,
    folders: Sequence[Path],
    next_command: Callable[[Path], str],
    quiet: bool,
) -> None:
    """Train with a progress display; the first Ctrl-C ends in good order, and says how to go on.

    Args:
        log: called after every step.
        folders: where the pictures are; how many files were of no use is said at the end.
        next_command: what to do with the checkpoint.
    """
    from .state import holds_run

    first = os.environ.get("RANK", "0") == "0"  # of those that torchrun started; the others have nothing to add
    quiet = quiet or not first
    stopping = "stopping after this step; Ctrl-C again stops at once" if first else ""
    bad_files = 0
    with stop_on_interrupt(stopping) as stop, _progress_display(name, steps, quiet=quiet) as show:

        def on_step(progress: "Progress") -> None:
            nonlocal bad_files
            bad_files = progress.bad_files
            log(progress)
            show(progress)

        checkpoint = learn(callback=on_step, should_stop=stop.is_set)
    if stop.is_set():
        if first and holds_run(checkpoint.parent):
            print(f"stopped; the same command with --resume goes on from {checkpoint}", file=sys.stderr)
        elif first:
            print("stopped before the first step: there is nothing to go on from", file=sys.stderr)
        raise typer.Exit(EXIT_INTERRUPTED)
    if not quiet:
        print(f"{checkpoint}: done; {_skipped(bad_files, folders)}next: {next_command(checkpoint)}")


def _skipped(bad_files: int, folders: Sequence[Path]) -> str:
    from .data import count_other_files

    counts = {"could not be read": bad_files, "not a picture": sum(map(count_other_files, folders))}
    said = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    return f"skipped files: {said}; " if said else ""


def every_so_often() -> Callable[[], bool]:
    """True when asked for the first time, and then ten seconds after it was last True."""
    last = -_LINE_EVERY_SECONDS

    def is_time() -> bool:
        nonlocal last
        if time.monotonic() - last < _LINE_EVERY_SECONDS:
            return False
        last = time.monotonic()
        return True

    return is_time


@contextmanager
def _progress_display(name: str, steps: int, *, quiet: bool) -> "Iterator[Callable[[Progress], None]]":
    """A bar on a terminal, elsewhere a line now and then, whole however wide the console is taken to be."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True, quiet=quiet, highlight=False)
    if not console.is_terminal:
        is_time = every_so_often()

        def print_line(progress: "Progress") -> None:
            if is_time() or progress.step == progress.steps:
                console.print(
                    f"step {progress.step}/{progress.steps}, {_losses(progress)}, "
                    f"{progress.pictures_per_second:.1f} pictures/s, {progress.seconds_left:.0f} s left",
                    soft_wrap=True,
                )

        yield print_line
        return
    with Bar(
        TextColumn(name), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[text]}"),
        TimeRemainingColumn(), console=console,
    ) as bar:  # fmt: skip
        task = bar.add_task("", total=steps, text="")
        yield lambda progress: bar.update(
            task,
            completed=progress.step,
            text=f"{_losses(progress)}, {progress.pictures_per_second:.1f} pictures/s",
        )


def _losses(progress: "Progress") -> str:
    shown = "  ".join(f"{name} {value:.3g}" for name, value in progress.losses.items())
    skipped = f"  ({progress.bad_files} bad files skipped)" if progress.bad_files else ""
    return f"{shown}  style weight {progress.style_weight:.3g}{skipped}"
