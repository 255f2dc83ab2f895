"""The command line, composed: `impasto` and its short forms. Each command lives in a module of its own.

To add one, write a Typer app in a module that is light to import and name it in `COMMANDS`.
"""

import importlib
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from .cli_common import errors_as_exit_codes, print_any_name

COMMANDS: dict[str, str] = {
    "video": "impasto.realtime.cli_video:app",
    "webcam": "impasto.realtime.cli_webcam:app",
    "image": "impasto.realtime.cli_image:app",
    "styles": "impasto.realtime.cli_styles:app",
    "train": "impasto.realtime.cli_train:app",
    "train-adain": "impasto.realtime.cli_train:adain_app",
    "evaluate": "impasto.realtime.cli_evaluate:app",
    "gatys": "impasto.realtime.cli_gatys:app",
    "export": "impasto.realtime.cli_export:app",
    "doctor": "impasto.realtime.cli_doctor:app",
    "bench": "impasto.realtime.cli_bench:app",
    "stability": "impasto.realtime.cli_stability:app",
    "verify": "impasto.realtime.cli_verify:app",
}
"""Command to `module:app`. An app with one command is that command, one with several a group."""


class Commands(TyperGroup):
    """Imports a command's module only when it is run or listed."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return _load(cmd_name)

    def invoke(self, ctx: Any) -> Any:
        with errors_as_exit_codes():
            return super().invoke(ctx)


app = typer.Typer(
    cls=Commands, help="Repaint videos and cameras in the manner of a painting.", no_args_is_help=True,
    add_completion=False, pretty_exceptions_enable=False,
)  # fmt: skip


@app.callback()
def _root() -> None:
    pass


def main() -> None:
    """Entry point of `impasto`."""
    print_any_name()
    get_command(app)(prog_name="impasto")


def stylize_video() -> None:
    """Entry point of `stylize-video`, the same command as `impasto video`."""
    print_any_name()
    _load("video")(prog_name="stylize-video")


def stylize_webcam() -> None:
    """Entry point of `stylize-webcam`, the same command as `impasto webcam`."""
    print_any_name()
    _load("webcam")(prog_name="stylize-webcam")


def _load(name: str) -> Any:
    """The click command, or None for an unknown name."""
    if name not in COMMANDS:
        return None
    module, app_name = COMMANDS[name].split(":")
    command = get_command(getattr(importlib.import_module(module), app_name))
    command.name = name  # a group has none of its own, and would be listed without it
    return command
