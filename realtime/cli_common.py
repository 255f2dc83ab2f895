"""What every command shares: one line for an error, and the exit code that goes with it. Light to import."""

import io
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperCommand

from ..training.errors import ImpastoError, TrainingError
from .errors import ArtifactError, EngineError, SinkError, SourceError

EXIT_USAGE = 2
EXIT_ARTIFACT = 3
EXIT_SOURCE = 4
EXIT_ENGINE = 5
EXIT_SINK = 6
EXIT_INTERRUPTED = 130

EXIT_CODES: dict[type[ImpastoError], int] = {
    ArtifactError: EXIT_ARTIFACT,
    TrainingError: EXIT_ARTIFACT,
    SourceError: EXIT_SOURCE,
    EngineError: EXIT_ENGINE,
    SinkError: EXIT_SINK,
}


def fail(message: str) -> None:
    """One line on standard error."""
    print(f"error: {message}", file=sys.stderr)


def exit_code_of(error: BaseException) -> int:
    """The code by the error's class; 1 for an `ImpastoError` without a class of its own, and for a bug."""
    for kind, code in EXIT_CODES.items():
        if isinstance(error, kind):
            return code
    if isinstance(error, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    return EXIT_USAGE if isinstance(error, ValueError) else 1


@contextmanager
def errors_as_exit_codes() -> Iterator[None]:
    """Turn what a command may raise into one line and an exit code; IMPASTO_DEBUG=1 shows the traceback."""
    try:
        try:
            yield
        except typer.Exit:
            _flush()
            raise
        _flush()
    except KeyboardInterrupt:
        fail("interrupted")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except (ImpastoError, ValueError) as exc:
        if os.environ.get("IMPASTO_DEBUG"):
            raise
        fail(" ".join(str(exc).split()))
        raise typer.Exit(exit_code_of(exc)) from exc
    except (typer.Exit, typer.Abort):
        raise
    except Exception as exc:
        # click's own usage errors carry an exit code and know how to show themselves.
        if os.environ.get("IMPASTO_DEBUG") or hasattr(exc, "exit_code"):
            raise
        if isinstance(exc, OSError) and (failure := _output_failure()) is not None:
            if not isinstance(failure, BrokenPipeError):  # a reader that has left, as `head` does, needs no word
                fail(f"standard output cannot be written: {failure.strerror}")
            raise typer.Exit(EXIT_SINK) from exc
        fail(f"internal error, {type(exc).__name__}: {exc}; IMPASTO_DEBUG=1 shows where. Please report it.")
        raise typer.Exit(1) from exc


def _flush() -> None:
    """What was printed goes out here, where a failure can still be answered."""
    print(end="", flush=True)


def _output_failure() -> OSError | None:
    """Why standard output takes nothing any more, if so; what is still printed then goes nowhere."""
    try:
        print(flush=True)
    except OSError as exc:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        return exc
    return None


def print_any_name() -> None:
    """Let standard output show names of files that are no text in its encoding, with escapes, rather than fail."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


@contextmanager
def warnings_on_stderr(*, quiet: bool = False) -> Iterator[None]:
    """Show what the library logs as a warning, each as one line; nothing with `quiet`."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("warning: %(message)s"))
    handler.setLevel(logging.ERROR if quiet else logging.WARNING)
    logger = logging.getLogger("impasto")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


class Command(TyperCommand):
    """A command that ends in one line and an exit code, never in a traceback. `app.command(cls=Command)`."""

    def invoke(self, ctx: Any) -> Any:
        with errors_as_exit_codes():
            return super().invoke(ctx)
