"""`impasto export`: freeze a style and prove it."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from typer.core import TyperGroup

from .artifact import Artifact, Precision, load_artifact

if TYPE_CHECKING:
    from .artifact import Parity
    from .parity import Candidate, Picture
    from .to_tensorrt import Machine

Candidates = Callable[[], Sequence["Candidate"]]
"""Engines of this machine. The caller hands them in: engines live in `realtime`, which imports this package."""

NUM_PHOTOGRAPHS = 8
NUM_CALIBRATION = 64


class OnnxByDefault(TyperGroup):
    """`impasto export CHECKPOINT -o …` is `impasto export onnx CHECKPOINT -o …`."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        if args and args[0] not in self.commands and args[0] not in ("--help", "-h"):
            args = ["onnx", *args]
        return super().parse_args(ctx, args)


def export_app(
    candidates: Candidates, *, demo_clip: Path, tensorrt_target: Callable[[Artifact, Precision], "tuple[Path, Machine]"]
) -> typer.Typer:
    """The `export` command group; failures leave it as `ImpastoError`s.

    Args:
        candidates: engines to prove artifacts with.
        demo_clip: a video whose frames serve where no photographs are given.
        tensorrt_target: where an engine is looked for that was built for an artifact, and what it belongs to.
    """
    app = typer.Typer(
        cls=OnnxByDefault,
        add_completion=False,
        help="Freeze a trained style and prove that it paints the same everywhere.",
    )

    @app.command("onnx")
    def onnx_command(
        checkpoint: Annotated[Path, typer.Argument(help="What `impasto train` or `train-adain` wrote.")],
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
        from .adain_to_onnx import export_any, is_for_any_painting
        from .to_onnx import export_onnx

        console = Console(stderr=True, quiet=quiet, highlight=False)
        if is_for_any_painting(checkpoint):
            pair = export_any(
                checkpoint,
                output,
                photographs=_photographs(photos, demo_clip, count=NUM_PHOTOGRAPHS),
                candidates=candidates(),
                half_weights=not full_weights,
                overwrite=overwrite,
                on_progress=lambda line: console.print(line, soft_wrap=True),
            )
            for written in (pair.stylizer, pair.encoder):
                console.print(f"wrote {written.path} ({written.path.stat().st_size / 1e6:.2f} MB)", soft_wrap=True)
            return
        artifact = export_onnx(
            checkpoint,
            output,
            photographs=_photographs(photos, demo_clip, count=NUM_PHOTOGRAPHS),
            candidates=candidates(),
            half_weights=not full_weights,
            overwrite=overwrite,
            on_progress=lambda line: console.print(line, soft_wrap=True),
        )
        console.print(f"wrote {artifact.path} ({artifact.path.stat().st_size / 1e6:.2f} MB)", soft_wrap=True)

    @app.command("int8")
    def int8_command(
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
        overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing artifact.")] = False,
        quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")] = False,
    ) -> None:
        """The 8-bit version of an artifact for CPUs, written only if it is faster here and near enough to PyTorch."""
        from .quantize import checkpoint_reference, pytorch_reference, quantize

        console = Console(stderr=True, quiet=quiet, highlight=False)
        calibration = _photographs(photos, demo_clip, count=NUM_CALIBRATION + NUM_PHOTOGRAPHS)
        if validation is not None:
            checked = _photographs(validation, demo_clip, count=NUM_PHOTOGRAPHS)
        else:
            checked = calibration[:: max(2, len(calibration) // NUM_PHOTOGRAPHS)][:NUM_PHOTOGRAPHS]
            known = {id(picture) for picture in checked}
            calibration = [picture for picture in calibration if id(picture) not in known]
        written = quantize(
            artifact,
            output,
            calibration=calibration[:NUM_CALIBRATION],
            photographs=checked,
            candidates=[candidate for candidate in candidates() if candidate.name.endswith(" cpu")],
            reference=pytorch_reference if checkpoint is None else lambda _: checkpoint_reference(checkpoint),
            overwrite=overwrite,
            on_progress=lambda line: console.print(line, soft_wrap=True),
        )
        console.print(f"wrote {written.path} ({written.path.stat().st_size / 1e6:.2f} MB)", soft_wrap=True)

    @app.command("tensorrt")
    def tensorrt_command(
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
        overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
        quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")] = False,
    ) -> None:
        """Artifact to TensorRT engine, for this machine's card and a range of sizes; takes minutes."""
        from .to_tensorrt import ShapeRange, export_tensorrt

        if precision not in ("fp16", "fp32"):
            raise ValueError(f"--precision must be fp16 or fp32, got {precision!r}")
        shapes = ShapeRange(_size(smallest), _size(best), _size(largest), max_batch)
        if output is None and shapes != ShapeRange():
            raise ValueError("-o must be given with sizes of your own: --device tensorrt looks for the default ones")
        checked = load_artifact(artifact)
        kept, machine = tensorrt_target(checked, "fp16" if precision == "fp16" else "fp32")
        target = output or kept
        console = Console(stderr=True, quiet=quiet, highlight=False)
        with console.status("starting") as status:
            export_tensorrt(
                checked,
                target,
                "fp16" if precision == "fp16" else "fp32",
                shapes,
                machine,
                on_progress=status.update,
                overwrite=overwrite,
            )
        console.print(f"wrote {target} ({target.stat().st_size / 1e6:.2f} MB)", soft_wrap=True)

    @app.command("check")
    def check_command(
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
            typer.echo(
                f"{checked.metadata.name} ({checked.metadata.tier}): {style.artist}, {style.title}, {style.year}"
            )
            for parity in checked.metadata.parity:
                typer.echo(_parity_line(parity))
        if run:
            from .parity import check_sizes

            photograph = _photographs(None, demo_clip, count=1)[0]
            for parity in check_sizes(checked, candidates(), photograph):
                typer.echo(f"64x64 to 3840x2160, odd sizes, batches: {_parity_line(parity)}", err=as_json)

    return app


def _size(text: str) -> tuple[int, int]:
    """(height, width) of "1280x720"."""
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise ValueError(f"a size must be WIDTHxHEIGHT, got {text!r}")
    return int(height), int(width)


def _parity_line(parity: "Parity") -> str:
    return (
        f"{parity.engine} {parity.precision}: {parity.psnr_db:.1f} dB, largest difference {parity.max_difference}, "
        f"{parity.share_over_2:.2%} of pixels off by more than 2"
    )


def _photographs(folder: Path | None, demo_clip: Path, *, count: int) -> "list[Picture]":
    from .pictures import clip_frames, load_photographs

    if folder is None:
        return clip_frames(demo_clip, count=count)
    return load_photographs(folder, count=count)
