"""Options that `stylize-video` and `stylize-webcam` share, and how such options are written. Light to import."""

from collections.abc import Callable
from typing import Annotated, Any

import typer


def shown_under(heading: str) -> Callable[..., Any]:
    """What makes options that `--help` lists under this heading: (help, *names, **more), as `typer.Option` has them."""

    def option(help: str, *names: str, **more: Any) -> Any:
        return typer.Option(*names, help=help, rich_help_panel=heading, **more)

    return option


look, run = shown_under("Look"), shown_under("Run")

Tier = Annotated[str | None, look("fast or quality; default: what is installed, fast first.")]
Device = Annotated[str, run("auto, or the device that must be used.")]
Precision = Annotated[str, run("auto, fp32, bf16, fp16 or int8.")]
Quiet = Annotated[bool, run("Only errors.", "--quiet", "-q")]
