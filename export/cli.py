"""`impasto export`: freeze a style and prove it."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from .artifact import Artifact, Precision, load_artifact
from .sides import parse_sides

if TYPE_CHECKING:
    from .artifact import Parity
    from .parity import Candidate, Picture
    from .to_tensorrt import Machine

NUM_PHOTOGRAPHS = 8
NUM_CALIBRATION = 64

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")]


class OnnxByDefault(TyperGroup):
    """`impasto export CHECKPOINT -o …` is `impasto export onnx CHECKPOINT -o …`."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        if args and args[0] not in self.commands and args[0] not in ("--help", "-h"):
            args = ["onnx", *args]
        return super().parse_args(ctx, args)


@dataclass(frozen=True)
class Host:
    """What this package cannot have of its own: engines live in `realtime`, which imports it."""

    candidates: "Callable[[], Sequence[Candidate]]"
    """Engines of this machine, to prove artifacts with."""
    demo_clip: Path
    """A video whose frames serve where no photographs are given."""
    tensorrt_target: "Callable[[Artifact, Precision], tuple[Path, Machine]]"
    """Where an engine is looked for that was built for an artifact, and what it belongs to."""


def export_app(host: Host) -> typer.Typer:
    """The `export` command group; failures leave it as `ImpastoError`s."""
    app = typer.Typer(
        cls=OnnxByDefault,
        add_completion=False,
        context_settings={"obj": host},
        help="Freeze a trained style and prove that it paints the same everywhere.",
    )
    for command in (onnx, int8, tensorrt, check):
        app.command()(command)
    return app


def onnx(
    context: typer.Context,
    checkpoint: Annotated[Path, typer.Argument(help="What `impasto train` or `train-adain` wrote.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The artifact to write, e.g. mosaic.fast.onnx.")],
    photos: Annotated[
        Path | None, typer.Option(help="Folder of photographs for the parity check; default: the demo clip.")
    ] = None,
    full_weights: Annotated[
        bool, typer.Option("--full-weights", help="Store weights as fp32: twice the file, exactly the checkpoint.")
    ] = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Checkpoint to ONNX artifact, written only if its pictures equal PyTorch's."""
    from .adain_to_onnx import export_any, is_for_any_painting
    from .to_onnx import export_onnx

    host: Host = context.obj
    say = _console(quiet=quiet).print
    options: dict[str, Any] = {
        "photographs": _photographs(photos, host, count=NUM_PHOTOGRAPHS),
        "candidates": host.candidates(),
        "half_weights": not full_weights,
        "overwrite": overwrite,
        "on_progress": say,
    }
    if is_for_any_painting(checkpoint):
        pair = export_any(checkpoint, output, **options)
        written = [pair.stylizer, pair.encoder]
    else:
        written = [export_onnx(checkpoint, output, **options)]
    for artifact in written:
        say(_written(artifact.path))


def int8(
    context: typer.Context,
    artifact: Annotated[Path, typer.Argument(help="What `impasto export onnx` wrote.")],
    photos: Annotated[Path, typer.Option(help="Folder of photographs to calibrate with.")],
    validation: Annotated[
        Path | None, typer.Option(help="Folder of photographs to check with; default: some of --photos.")
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="What it must look like: the checkpoint behind the artifact; default: the artifact."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The artifact to write; default: NAME.TIER.int8.onnx.")
    ] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """The 8-bit version of an artifact for CPUs, written only if it is faster here and near enough to PyTorch."""
    from .quantize import checkpoint_reference, pytorch_reference, quantize

    host: Host = context.obj
    say = _console(quiet=quiet).print
    calibration = _photographs(photos, host, count=NUM_CALIBRATION + NUM_PHOTOGRAPHS)
    if validation is not None:
        checked = _photographs(validation, host, count=NUM_PHOTOGRAPHS)
    else:
        calibration, checked = _split(calibration)
    written = quantize(
        artifact,
        output,
        calibration=calibration[:NUM_CALIBRATION],
        photographs=checked,
        candidates=[candidate for candidate in host.candidates() if candidate.name.endswith(" cpu")],
        reference=pytorch_reference if checkpoint is None else lambda _: checkpoint_reference(checkpoint),
        overwrite=overwrite,
        on_progress=say,
    )
    say(_written(written.path))


def tensorrt(
    context: typer.Context,
    artifact: Annotated[Path, typer.Argument(help="What `impasto export onnx` wrote.")],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="The .engine to write; default: where --device tensorrt looks."),
    ] = None,
    precision: Annotated[str, typer.Option(help="fp16 or fp32.")] = "fp16",
    smallest: Annotated[str, typer.Option(help="WIDTHxHEIGHT that it takes at least.")] = "64x64",
    best: Annotated[str, typer.Option(help="WIDTHxHEIGHT that it is fastest at.")] = "1280x720",
    largest: Annotated[str, typer.Option(help="WIDTHxHEIGHT that it takes at most.")] = "3840x2160",
    max_batch: Annotated[int, typer.Option(help="Frames in one inference at most.")] = 1,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Artifact to TensorRT engine, for this machine's card and a range of sizes; takes minutes."""
    from .to_tensorrt import ShapeRange, export_tensorrt

    if precision not in ("fp16", "fp32"):
        raise ValueError(f"--precision must be fp16 or fp32, got {precision!r}")
    chosen: Precision = "fp16" if precision == "fp16" else "fp32"
    shapes = ShapeRange(
        parse_sides(smallest, "--smallest"), parse_sides(best, "--best"), parse_sides(largest, "--largest"), max_batch
    )
    if output is None and shapes != ShapeRange():
        raise ValueError("-o must be given with sizes of your own: --device tensorrt looks for the default ones")
    host: Host = context.obj
    checked = load_artifact(artifact)
    kept, machine = host.tensorrt_target(checked, chosen)
    target = output or kept
    console = _console(quiet=quiet)
    with console.status("starting") as status:
        export_tensorrt(checked, target, chosen, shapes, machine, on_progress=status.update, overwrite=overwrite)
    console.print(_written(target))


def check(
    context: typer.Context,
    artifact: Annotated[Path, typer.Argument(help="An artifact file.")],
    run: Annotated[
        bool, typer.Option("--run", help="Also paint odd and large sizes and batches with every engine here.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the metadata as JSON.")] = False,
) -> None:
    """Say what an artifact is, after every safety check."""
    checked = load_artifact(artifact)
    if as_json:
        typer.echo(json.dumps({"path": str(checked.path), "sha256": checked.sha256} | asdict(checked.metadata)))
    else:
        style = checked.metadata.style
        typer.echo(f"{checked.metadata.name} ({checked.metadata.tier}): {style.artist}, {style.title}, {style.year}")
        for parity in checked.metadata.parity:
            typer.echo(_parity_line(parity))
    if run:
        from .parity import check_sizes

        host: Host = context.obj
        photograph = _photographs(None, host, count=1)[0]
        for parity in check_sizes(checked, host.candidates(), photograph):
            typer.echo(f"64x64 to 3840x2160, odd sizes, batches: {_parity_line(parity)}", err=as_json)


def _console(*, quiet: bool) -> Console:
    # No markup: brackets in paths and pip commands are not tags.
    return Console(stderr=True, quiet=quiet, highlight=False, markup=False, soft_wrap=True)


def _written(path: Path) -> str:
    return f"wrote {path} ({path.stat().st_size / 1e6:.2f} MB)"


def _split(photographs: "list[Picture]") -> "tuple[list[Picture], list[Picture]]":
    """Most to calibrate with, and some, evenly spread, to check with."""
    step = max(2, len(photographs) // NUM_PHOTOGRAPHS)
    checked = range(0, len(photographs), step)[:NUM_PHOTOGRAPHS]
    return [picture for n, picture in enumerate(photographs) if n not in checked], [photographs[n] for n in checked]


def _parity_line(parity: "Parity") -> str:
    return (
        f"{parity.engine} {parity.precision}: {parity.psnr_db:.1f} dB, largest difference {parity.max_difference}, "
        f"{parity.share_over_2:.2%} of pixels off by more than 2"
    )


def _photographs(folder: Path | None, host: Host, *, count: int) -> "list[Picture]":
    from .pictures import clip_frames, load_photographs

    return clip_frames(host.demo_clip, count=count) if folder is None else load_photographs(folder, count=count)
