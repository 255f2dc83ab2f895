"""`impasto verify`: does a repainted video keep the times, sound and tags of its original?"""

import json
from pathlib import Path
from typing import Annotated

import typer

from .cli_common import Command

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

EXIT_DIFFERENT = 1


@app.command(cls=Command)
def verify(
    source: Annotated[Path, typer.Argument(metavar="IN", help="The original.")],
    result: Annotated[Path, typer.Argument(metavar="OUT", help="The repainted video.")],
    as_json: Annotated[bool, typer.Option("--json", help="The differences as a JSON list.")] = False,
) -> None:
    """Prove that a repainted video kept frames, times, sound, subtitles, cover, chapters and tags.

    Prints one line per difference; the exit code is 0 if there is none, 1 otherwise.
    """
    from .verify import verify as compare

    differences = compare(source, result)
    if as_json:
        print(json.dumps(differences))
    else:
        print("\n".join(differences) or "the same frames, times, sound and tags")
    if differences:
        raise typer.Exit(EXIT_DIFFERENT)
