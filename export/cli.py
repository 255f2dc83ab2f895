"""`impasto export`: freeze a style and prove it."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from typer.core import TyperGroup

from .artifact import load_artifact
from .errors import ArtifactError

if TYPE_CHECKING:
    from .parity import Candidate, Picture

Candidates = Callable[[], Sequence["Candidate"]]
"""Engines of this machine. The caller hands them in: engines live in `realtime`, which imports this package."""

PICTURE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
NUM_PHOTOGRAPHS = 8


class OnnxByDefault(TyperGroup):
    """`impasto export CHECKPOINT -o …` is `impasto export onnx CHECKPOINT -o …`."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        if args and args[0] not in self.commands and args[0] not in ("--help", "-h"):
            args = ["onnx", *args]
        return super().parse_args(ctx, args)


def export_app(candidates: Candidates) -> typer.Typer:
    """The `export` command group; failures leave it as `ImpastoError`s."""
    app = typer.Typer(
        cls=OnnxByDefault,
        add_completion=False,
        help="Freeze a trained style and prove that it paints the same everywhere.",
    )

    @app.command("onnx")
    def onnx_command(
        checkpoint: Annotated[Path, typer.Argument(help="What `impasto train` wrote.")],
        output: Annotated[Path, typer.Option("-o", "--output", help="The artifact to write, e.g. mosaic.fast.onnx.")],
        photos: Annotated[
            Path | None, typer.Option(help="Folder of photographs for the parity check; default: the demo clip.")
        ] = None,
        full_weights: Annotated[
            bool, typer.Option("--full-weights", help="Store weights as fp32: twice the file, exactly the checkpoint.")
        ] = False,
        overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing artifact.")] = False,
        quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")] = False,
    ) -> None:
        """Checkpoint to ONNX artifact, written only if its pictures equal PyTorch's."""
        from .to_onnx import export_onnx

        console = Console(stderr=True, quiet=quiet, highlight=False)
        artifact = export_onnx(
            checkpoint,
            output,
            photographs=load_photographs(photos),
            candidates=candidates(),
            half_weights=not full_weights,
            overwrite=overwrite,
            on_progress=console.print,
        )
        console.print(f"wrote {artifact.path} ({artifact.path.stat().st_size / 1e6:.2f} MB)", soft_wrap=True)

    @app.command("check")
    def check_command(
        artifact: Annotated[Path, typer.Argument(help="An artifact file.")],
        as_json: Annotated[bool, typer.Option("--json", help="Print the metadata as JSON.")] = False,
    ) -> None:
        """Say what an artifact is, after every safety check."""
        checked = load_artifact(artifact)
        if as_json:
            typer.echo(json.dumps({"path": str(checked.path), "sha256": checked.sha256} | asdict(checked.metadata)))
            return
        style = checked.metadata.style
        typer.echo(f"{checked.metadata.name} ({checked.metadata.tier}): {style.artist}, {style.title}, {style.year}")
        for parity in checked.metadata.parity:
            typer.echo(
                f"{parity.engine} {parity.precision}: {parity.psnr_db:.1f} dB, largest difference "
                f"{parity.max_difference}, {parity.share_over_2:.2%} of pixels off by more than 2"
            )

    return app


def load_photographs(folder: Path | None, *, count: int = NUM_PHOTOGRAPHS) -> "list[Picture]":
    """Up to `count` pictures of a folder, evenly spread over its names, or frames of the demo clip."""
    if folder is None:
        return _demo_frames(count)
    if not folder.is_dir():
        raise ArtifactError(f"--photos must be a folder of photographs, got {folder}")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES)
    if not paths:
        raise ArtifactError(f"--photos must be a folder with {', '.join(sorted(PICTURE_SUFFIXES))} files, got {folder}")
    step = max(1, len(paths) // count)
    return [_read_picture(path) for path in paths[::step][:count]]


def _read_picture(path: Path) -> "Picture":
    import cv2

    picture = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
    if picture is None:
        raise ArtifactError(f"{path} must be a picture that can be read")
    result: Picture = picture.astype("uint8", copy=False)
    return result


def _demo_frames(count: int) -> "list[Picture]":
    from importlib import resources

    import av

    clips = [entry for entry in resources.files("impasto.assets").iterdir() if entry.name.endswith(".mp4")]
    if not clips:
        raise ArtifactError("photographs for the parity check must be given: pass --photos DIR")
    with resources.as_file(clips[0]) as path, av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24").astype("uint8", copy=False) for frame in container.decode(video=0)]
    return frames[:: max(1, len(frames) // count)][:count]
