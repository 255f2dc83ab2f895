"""`impasto doctor`: the truth about this machine."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from .cli_common import EXIT_ENGINE, Command

if TYPE_CHECKING:
    from pathlib import Path

    from .doctor import Diagnosis

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(cls=Command)
def doctor(as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False) -> None:
    """Try every engine, camera and virtual camera; say what is missing and how to get it.

    Ends with exit code 0 only if at least one engine paints.
    """
    from rich.console import Console

    from .doctor import diagnose

    err = Console(stderr=True, highlight=False)
    with err.status("looking around") as status:
        found = diagnose(styles_to_try(), on_progress=lambda name: status.update(f"trying {name}"))
    if as_json:
        typer.echo(json.dumps(asdict(found) | {"paints": found.paints}, indent=2))
    else:
        _print(found)
    if not found.paints:
        raise typer.Exit(EXIT_ENGINE)


def styles_to_try() -> "dict[str, Path]":
    """One installed artifact per tier, and one int8 version where a style of that tier has one."""
    from ..assets import installed_styles
    from ..export.artifact import quantized_path

    chosen: dict[str, Path] = {}
    for tiers in installed_styles().values():
        for tier, path in tiers.items():
            chosen.setdefault(tier, path)
            if quantized_path(path).is_file():
                chosen.setdefault(f"{tier} int8", quantized_path(path))
    return dict(sorted(chosen.items()))


def _print(found: "Diagnosis") -> None:
    from rich.console import Console
    from rich.table import Table

    # No markup: brackets in pip commands are not tags.
    console = Console(highlight=False, markup=False)
    console.print(found.system, soft_wrap=True)
    working = [engine for engine in found.engines if engine.works]
    sizes = list(dict.fromkeys(_size(name) for engine in working for name in engine.milliseconds))
    table = Table("engine", "version", "precisions", "style", *(f"{size} ms" for size in sizes), box=None)
    for engine in working:
        said = [engine.name, engine.version, engine.detail]
        for style in dict.fromkeys(name.removesuffix(f" {_size(name)}") for name in engine.milliseconds):
            times = (engine.milliseconds.get(f"{style} {size}") for size in sizes)
            table.add_row(*said, style, *("" if time is None else f"{time:.1f}" for time in times))
            said = ["", "", ""]
    if working:
        console.print(table)
    for check in found.devices:
        if check.works:
            console.print(f" {check.name}: {check.detail}", soft_wrap=True)
    console.print("not available:")
    for check in (*found.engines, *found.devices):
        if not check.works:
            version = f" {check.version}" if check.version else ""
            console.print(f" {check.name}{version}: {check.detail}", soft_wrap=True)
    for note in found.notes:
        console.print(f"note: {note}", soft_wrap=True)
    if not found.paints:
        console.print("no engine paints on this machine: pip install 'impasto[cpu]'")


def _size(name: str) -> str:
    """ "720p" of "fast int8 720p"."""
    return name.rsplit(" ", 1)[1]
