"""`impasto train-adain`: learn to paint like any painting. Imports torch only once the command runs.

As in `cli.py`, it is made with a function that opens a warm start.
"""

from functools import partial
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from . import cli_options as option
from .cli_common import needs_train_extra, parse_style_weight, run_training, some_pictures

if TYPE_CHECKING:
    from .adain_config import AdainTrainConfig
    from .checkpoint import LoadCheckpoint

_NUM_SAMPLES = 5


def train_adain_app(open_warm_start: option.OpenWarmStart) -> typer.Typer:
    """The command."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(context_settings={"obj": open_warm_start})(train_adain)
    return app


def train_adain(
    context: typer.Context,
    photos: option.Photos,
    paintings: Annotated[Path, typer.Option(help="Folder of paintings; several hundred, as different as can be.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder of the run; default runs/NAME.KIND.")
    ] = None,
    kind: Annotated[
        Literal["compact", "reference"], typer.Option(help="compact ships; reference is Huang and Belongie's.")
    ] = "compact",
    name: Annotated[str, typer.Option(help="What the network will be called.")] = "any",
    steps: Annotated[int | None, typer.Option(help="Training steps; default 6000, reference 40000.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Pictures a step, over all processes; default 4, reference 8.")
    ] = None,
    crop_size: Annotated[
        int | None, typer.Option(help="Side of a training crop, pixels; default 192, reference 256.")
    ] = None,
    zoom: Annotated[
        tuple[float, float] | None,
        typer.Option(help="Short side before cropping, in crops: from, to; default 1.3 2.1, reference 2 2."),
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Highest learning rate; default 0.001, reference 0.0001.")
    ] = None,
    content_weight: option.ContentWeight = None,
    style_weight: Annotated[
        str, typer.Option(help="How much the painting counts: a number; auto: found for --structure, reference: 10.")
    ] = "auto",
    structure: Annotated[
        float | None, typer.Option(help="compact: share of the photograph to keep, 0 to 1; default 0.62.")
    ] = None,
    tv_weight: Annotated[float | None, typer.Option(help="compact: smoothness; default 0.5.")] = None,
    motion_weight: Annotated[
        float | None, typer.Option(help="Steadiness in videos; 0 is off; default 40, reference 0.")
    ] = None,
    identity_weight: Annotated[
        float | None, typer.Option(help="compact: how exactly alpha 0 gives the photograph back; default 100.")
    ] = None,
    warm_start: Annotated[
        Path | None,
        typer.Option(metavar="STYLE", help="compact: installed style, artifact or checkpoint of the fast tier."),
    ] = None,
    loss_network: option.LossNetwork = "vgg19",
    loss_weights: Annotated[
        Path | None, typer.Option(help="Local weight file of the loss network, and of the reference's encoder.")
    ] = None,
    seed: option.Seed = None, checkpoint_every: option.CheckpointEvery = None,
    sample_every: option.SampleEvery = None, samples: option.Samples = None,
    sample_paintings: Annotated[Path | None, typer.Option(help="Folder of paintings to show in the report.")] = None,
    precision: option.Precision = "auto", device: option.Device = "auto", resume: option.Resume = False,
    quiet: option.Quiet = False,
) -> None:  # fmt: skip
    """Learn to paint like any painting, from folders of photographs and paintings; torchrun uses several processes."""
    with needs_train_extra("training"):
        from .adain_config import AdainTrainConfig
    config = AdainTrainConfig.of(
        kind, photos, paintings, output or Path("runs") / f"{name}.{kind}", name=name,
        loss_network=loss_network, precision=precision, device=device,
        **option.chosen(
            steps=steps, batch_size=batch_size, crop_size=crop_size, zoom=zoom, learning_rate=learning_rate,
            content_weight=content_weight, style_weight=parse_style_weight(style_weight), structure=structure,
            tv_weight=tv_weight, motion_weight=motion_weight, identity_weight=identity_weight, warm_start=warm_start,
            loss_weights=loss_weights, seed=seed, checkpoint_every=checkpoint_every, sample_every=sample_every,
        ),
    )  # fmt: skip
    load_earlier = partial(context.obj, tier="fast")
    _run(config, load_earlier, samples=samples, sample_paintings=sample_paintings, resume=resume, quiet=quiet)


def _run(
    config: "AdainTrainConfig",
    load_earlier: "LoadCheckpoint",
    *,
    samples: Path | None,
    sample_paintings: Path | None,
    resume: bool,
    quiet: bool,
) -> None:
    from .adain_report import AdainReport
    from .train_adain import train_adain as learn

    report = AdainReport(
        config.output,
        photographs=some_pictures(samples or config.photos, _NUM_SAMPLES),
        paintings=some_pictures(sample_paintings or config.paintings, _NUM_SAMPLES),
        style_side=config.style_size,
    )
    artifact = f"{config.name}.stylizer.onnx"
    run_training(
        partial(
            learn,
            config,
            resume=resume,
            load_earlier=load_earlier,
            before_save=report.write_log,
            sample=report.sample,
        ),
        report,
        name=config.name,
        steps=config.steps,
        folders=[config.photos, config.paintings],
        next_command=lambda checkpoint: f"impasto export onnx {quote(str(checkpoint))} -o {quote(artifact)}",
        quiet=quiet,
    )
