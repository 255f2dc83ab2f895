"""`impasto image`: repaint pictures and folders of pictures. Imports what is heavy only once it runs."""

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .cli_common import Command, exit_code_of, fail, warnings_on_stderr
from .errors import ImpastoError, SinkError

if TYPE_CHECKING:
    from .options import VideoOptions
    from .video_engines import Engines

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(cls=Command)
def image(
    sources: Annotated[
        list[Path], typer.Argument(metavar="IN", help="Pictures or folders of pictures.", show_default=False)
    ],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="File, or folder; default: IN.STYLE.jpg beside each.")
    ] = None,
    style: Annotated[
        str,
        typer.Option(
            "--style",
            "-s",
            help="Installed style, artifact (.onnx), painting (a picture file), or a blend a:0.7,b:0.3.",
        ),
    ] = "mosaic",
    tier: Annotated[str | None, typer.Option(help="fast or quality; default: what is installed, fast first.")] = None,
    strength: Annotated[float, typer.Option(min=0.0, max=1.0, help="0 is the photo itself, 1 the painting.")] = 1.0,
    style_scale: Annotated[
        float, typer.Option(min=0.25, max=4.0, help="Size of the marks of a painting: 2 is twice as large.")
    ] = 1.0,
    region: Annotated[
        list[str] | None,
        typer.Option(metavar="MASK:STYLE", help="Another style where a mask is white, or none; may be repeated."),
    ] = None,
    keep_colors: Annotated[
        bool, typer.Option("--keep-colors", help="Light from the painting, colours of the photo.")
    ] = False,
    size: Annotated[str | None, typer.Option(help="720p, WxH or 0.5x.")] = None,
    tile: Annotated[
        int | None, typer.Option(help="Paint in tiles of this side, exactly but slower; 0: never; default: above 4K.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, or the device that must be used.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16, fp16 or int8.")] = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing outputs.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only errors.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per picture.")] = False,
) -> None:
    """Repaint pictures in the manner of a painting.

    They come out upright and in sRGB, whatever profile they have; of an animation, the first picture is taken.
    """
    from .options import VideoOptions

    options = VideoOptions(
        style=style, tier=tier, strength=strength, style_scale=style_scale, regions=tuple(region or ()),
        keep_colors=keep_colors, size=size, tile=tile, device=device, precision=precision, overwrite=overwrite,
    )  # fmt: skip
    with warnings_on_stderr(quiet=quiet):
        code = _paint_all(sources, output, options, quiet=quiet, as_json=as_json)
    if code:
        raise typer.Exit(code)


def _paint_all(sources: list[Path], output: Path | None, options: "VideoOptions", *, quiet: bool, as_json: bool) -> int:
    """Paint them one by one; the exit code is that of the first that failed."""
    from .picture_files import find_pictures, picture_targets
    from .video_engines import Engines

    found = find_pictures(sources)
    many = len(found) > 1 or any(source.is_dir() for source in sources)
    is_folder = output is not None and (many or output.is_dir())
    if is_folder and output is not None and output.is_file():
        raise ValueError(f"output must be a folder for {len(found)} pictures, got the file {output}")
    made: set[Path] = set()
    first_code = 0
    with Engines(options) as engines:
        pictures = list(picture_targets(found, output, engines.name, is_folder=is_folder))
        originals = {_file_id(source) for source, _ in pictures}
        for source, target in pictures:
            began = time.perf_counter()
            try:
                if target in made:
                    raise SinkError(f"{source}: another picture has become {target} already; give them different names")
                if target.exists() and _file_id(target) in originals:
                    raise SinkError(f"output must not be one of the inputs, got {target}")
                if many and target.exists() and not options.overwrite:
                    made.add(target)
                    _say(source, target, "skipped", 0.0, quiet=quiet, as_json=as_json)
                    continue
                _paint_one(source, target, options, engines)
                made.add(target)
            except (ImpastoError, ValueError) as exc:
                if not many and not as_json:
                    raise
                fail(str(exc) if isinstance(exc, ImpastoError) else f"{source}: {exc}")
                first_code = first_code or exit_code_of(exc)
                if as_json:
                    _print_json(source, target, "failed", 0.0, code=exit_code_of(exc), note=str(exc))
                continue
            _say(source, target, "done", time.perf_counter() - began, quiet=quiet, as_json=as_json)
    return first_code


def _paint_one(source: Path, target: Path, options: "VideoOptions", engines: "Engines") -> None:
    from .picture_files import check_picture_target, check_sides, paint_picture, read_picture, resized, write_picture

    check_picture_target(target, overwrite=options.overwrite)
    picture = resized(read_picture(source), options.size)
    check_sides(target, picture)
    engines.fit(*picture.data.shape[:2], film=False)
    painted = paint_picture(picture, engines.stylizer(options))
    write_picture(painted, target, overwrite=options.overwrite)


def _file_id(path: Path) -> tuple[int, int]:
    """The same for every name of a file."""
    status = path.stat()
    return status.st_dev, status.st_ino


def _say(source: Path, target: Path, state: str, seconds: float, *, quiet: bool, as_json: bool) -> None:
    if as_json:
        _print_json(source, target, state, seconds)
    elif not quiet:
        text = f"{target}: {seconds:.2f} s" if state == "done" else f"{source}: skipped, {target} is already there"
        print(text, file=sys.stdout, flush=True)


def _print_json(source: Path, target: Path, state: str, seconds: float, *, code: int = 0, note: str = "") -> None:
    outcome = {"source": str(source), "target": str(target), "state": state}
    print(json.dumps(outcome | {"code": code, "seconds": seconds, "note": note}), flush=True)
