"""`impasto styles`: what is installed; add, remove and preview styles."""

import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from ..assets import DEMO_CLIP, installed_styles, remove_style, user_styles
from ..training.whole_file import whole_file
from .errors import ArtifactError, EngineError, SinkError, SourceError

if TYPE_CHECKING:
    from ..export.artifact import Artifact
    from .frame import Picture

_PREVIEW = "styles.png"


class _PreviewNeedsNoName(TyperGroup):
    """`--preview` alone is `--preview styles.png`: Typer has no option whose value may be left out."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        words = []
        for word, following in zip(args, [*args[1:], "-"], strict=False):
            words.append(word)
            if word == "--preview" and following.startswith("-"):
                words.append(_PREVIEW)
        return super().parse_args(ctx, words)


app = typer.Typer(cls=_PreviewNeedsNoName, add_completion=False, pretty_exceptions_enable=False)

_CELL_HEIGHT = 270  # pixels of a picture on the contact sheet
_CELL_WIDTH = 480
_CAPTION_HEIGHT = 26
_COLUMNS = 3
_WHOLE = ("style", "tier", "MB", "year")
_PIPED_WIDTH = 240
"""Columns where there is no terminal: a line for each style, whatever its painting is called."""


@app.callback(invoke_without_command=True)
def styles(
    context: typer.Context,
    preview: Annotated[
        Path | None,
        typer.Option(metavar="[FILE]", help=f"Write a contact sheet of all styles to this picture, or to {_PREVIEW}."),
    ] = None,
    photo: Annotated[Path | None, typer.Option(help="With --preview: the picture to paint.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing contact sheet.")] = False,
) -> None:
    """List the installed styles; add, remove and preview them."""
    if context.invoked_subcommand is not None:
        return
    artifacts = _load_all()
    if preview is not None:
        _write_preview(artifacts, preview, photo, overwrite=overwrite)
    elif as_json:
        print(json.dumps([asdict(a.metadata) | {"path": str(a.path), "bytes": _size(a)} for a in artifacts], indent=2))
    else:
        _print_table(artifacts)


@app.command()
def add(
    artifact: Annotated[Path, typer.Argument(help="A .onnx file that `impasto export` wrote, or a painting.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a style of the same name and tier.")] = False,
) -> None:
    """Install a style of your own under the name that it carries; a painting under its file's."""
    from ..export.artifact import load_style, quantized_path
    from .paintings import style_file

    artifact = style_file(str(artifact)) or artifact
    metadata = load_style(artifact).metadata
    target = user_styles() / f"{metadata.name}.{metadata.tier}.onnx"
    target = quantized_path(target) if metadata.precision == "int8" else target
    if target.exists() and not overwrite:
        raise ArtifactError(
            f"style {metadata.name} ({metadata.tier}) must not exist yet, got {target}; pass --overwrite"
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(target) as part:
            shutil.copyfile(artifact, part)
            if target.exists():  # the gallery goes by this time: the place stays, and yet it is another file
                old = target.stat()
                os.utime(part, ns=(old.st_atime_ns, old.st_mtime_ns + 1000))
    except OSError as exc:
        raise SinkError(f"cannot write {target}: {exc.strerror or exc}") from exc
    print(f"added {metadata.name} ({metadata.tier}): {target}")


@app.command()
def remove(
    name: Annotated[str, typer.Argument(help="A style of your own.")],
    tier: Annotated[str | None, typer.Option(help="Only this tier.")] = None,
) -> None:
    """Remove a style that `add` installed; those that ship stay."""
    for path in remove_style(name, tier):
        print(f"removed {path}")


def _load_all() -> "list[Artifact]":
    """Those that are whole; what is wrong with another is a line on standard error."""
    from ..export.artifact import load_style

    whole = []
    for path in (path for tiers in installed_styles().values() for path in tiers.values()):
        try:
            whole.append(load_style(path))
        except ArtifactError as exc:
            print(f"warning: {exc}", file=sys.stderr)
    return whole


def _size(artifact: "Artifact") -> int:
    return artifact.path.stat().st_size


def _print_table(artifacts: "list[Artifact]") -> None:
    from rich.console import Console
    from rich.table import Table

    titles: tuple[str, ...] = ("style", "tier", "MB", "year", "painter", "painting", "licence")
    rows = [_row(artifact) for artifact in artifacts]
    shared = {row[-1] for row in rows}
    if len(shared) == 1:  # said once below, which leaves room for what differs
        titles, rows = titles[:-1], [row[:-1] for row in rows]
    table = Table(box=None, pad_edge=False)
    for number, title in enumerate(titles):
        # A style is a line. What is typed must be whole on the narrowest terminal; titles may end in an ellipsis.
        widest = max((len(row[number]) for row in rows), default=0) if title in _WHOLE else None
        table.add_column(title, no_wrap=True, overflow="ellipsis", min_width=widest)
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False)
    console.width = console.width if console.is_terminal else _PIPED_WIDTH
    console.print(table)
    if len(shared) == 1:
        console.print(f"licence of all paintings: {shared.pop()}")


def _row(artifact: "Artifact") -> tuple[str, ...]:
    meta, style = artifact.metadata, artifact.metadata.style
    size = f"{_size(artifact) / 1e6:.1f}"
    return meta.name, meta.tier, size, style.year, style.artist, style.title, style.licence


def _write_preview(artifacts: "list[Artifact]", target: Path, photo: Path | None, *, overwrite: bool) -> None:
    import numpy as np

    from .picture_files import StillPicture, check_picture_target, write_picture

    check_picture_target(target, overwrite=overwrite)
    if photo is not None and photo.exists() and target.exists() and target.samefile(photo):
        raise SinkError(f"output must not be the photograph itself, got {target}")
    picture = _demo_picture() if photo is None else _read(photo)
    cells = [_cell(picture, "the photograph")]
    cells += [
        _cell(painted, f"{artifact.metadata.name} ({artifact.metadata.tier})")
        for artifact, painted in zip(artifacts, _paint_each(artifacts, picture), strict=True)
    ]
    blank = np.full_like(cells[0], 255)
    cells += [blank] * (-len(cells) % _COLUMNS)
    rows = [np.hstack(cells[i : i + _COLUMNS]) for i in range(0, len(cells), _COLUMNS)]
    write_picture(StillPicture(np.vstack(rows)), target, overwrite=overwrite)
    print(f"wrote {target}")


def _paint_each(artifacts: "list[Artifact]", picture: "Picture") -> "Iterator[Picture]":
    """The picture in every style. The first style, and the first with an int8 version, choose the engine for those
    after them: a race for each would take longer than the pictures."""
    from contextlib import closing
    from fractions import Fraction

    from .engine_choice import has_int8, load_engine
    from .frame import Frame
    from .stylizer import Stylizer

    chosen: dict[bool, dict[str, Any]] = {}
    for artifact in artifacts:
        kind = has_int8(artifact)
        try:
            engine = load_engine(artifact, **chosen.get(kind, {}))
        except EngineError:  # not all may have been built for a card
            engine = load_engine(artifact)
        with closing(engine):
            chosen[kind] = {"library": engine.info.name, "precision": engine.info.precision}
            yield Stylizer(engine)(Frame(picture, Fraction(0))).data


def _cell(picture: "Picture", caption: str) -> "Picture":
    """The picture inside a white cell, its caption below."""
    import cv2
    import numpy as np

    scale = min(_CELL_WIDTH / picture.shape[1], _CELL_HEIGHT / picture.shape[0])
    size = (round(picture.shape[1] * scale), round(picture.shape[0] * scale))
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    cell = np.full((_CELL_HEIGHT + _CAPTION_HEIGHT + 8, _CELL_WIDTH + 8, 3), 255, np.uint8)
    cell[4 : 4 + size[1], 4 : 4 + size[0]] = small
    place = (8, _CELL_HEIGHT + _CAPTION_HEIGHT - 4)
    cv2.putText(cell, caption, place, cv2.FONT_HERSHEY_SIMPLEX, 0.55, (40, 40, 40), 1, cv2.LINE_AA)
    return cell


def _demo_picture() -> "Picture":
    """The last frame of the demo clip: a face."""
    import av
    import numpy as np

    with av.open(str(DEMO_CLIP)) as container:
        *_, last = container.decode(video=0)
        return np.ascontiguousarray(last.to_ndarray(format="rgb24"), dtype=np.uint8)


def _read(path: Path) -> "Picture":
    from .picture_files import read_picture

    if not path.is_file():
        raise SourceError(f"--photo must be a picture, got {path}")
    return read_picture(path).data
