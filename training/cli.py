"""`impasto train`: learn a style. Imports torch only once a command runs.

Installed styles are found, and artifacts read, above this package, so the command is made by `train_app` with a
function that opens a warm start.
"""

from functools import partial
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from . import cli_options as option
from .cli_common import needs_train_extra, parse_style_weight, run_training, some_pictures
from .gatys_config import Statistics

if TYPE_CHECKING:
    from .checkpoint import LoadCheckpoint
    from .train_config import TrainConfig

_NUM_SAMPLES = 4


def train_app(open_warm_start: option.OpenWarmStart) -> typer.Typer:
    """The command."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(context_settings={"obj": open_warm_start})(train)
    return app


def train(
    context: typer.Context,
    style_image: Annotated[Path, typer.Argument(help="The painting to learn.")],
    photos: option.Photos,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder of the run; default runs/NAME.TIER.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="What users will type; default: the painting's file name.")] = None,
    tier: Annotated[Literal["fast", "quality"], typer.Option(help="Network to train.")] = "fast",
    title: Annotated[str, typer.Option(help="The painting's title.")] = "",
    artist: Annotated[str, typer.Option(help="The painter.")] = "",
    year: Annotated[str, typer.Option(help="Year of the painting.")] = "",
    licence: Annotated[str, typer.Option(help="Licence of the painting's picture.")] = "",
    steps: Annotated[int | None, typer.Option(help="Training steps; default 3000.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Pictures a step, over all processes; default 4.")
    ] = None,
    crop_size: Annotated[int | None, typer.Option(help="Side of a training crop, pixels; default 256.")] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Highest rate of the one-cycle schedule; default 0.001.")
    ] = None,
    content_weight: option.ContentWeight = None,
    style_weight: Annotated[
        str, typer.Option(help="How much the painting counts: a number, or auto to find it for --structure.")
    ] = "auto",
    structure: Annotated[
        float | None,
        typer.Option(help="With --style-weight auto: share of the photograph to keep, 0 to 1; default 0.65."),
    ] = None,
    tv_weight: Annotated[float | None, typer.Option(help="Smoothness; default 0.5.")] = None,
    motion_weight: Annotated[
        float | None, typer.Option(help="Steadiness in videos; 0 is off; default 20.")
    ] = None,
    style_size: Annotated[
        int | None, typer.Option(help="Short side at which the painting is seen, pixels; default 384.")
    ] = None,
    style_scale: Annotated[
        float | None, typer.Option(help="Size of the marks: 2 is twice as large; default 1.")
    ] = None,
    statistics: Annotated[
        Statistics | None,
        typer.Option(help="What a style is: gram as in the paper, covariance with truer colours; default gram."),
    ] = None,
    keyframes: Annotated[
        Path | None, typer.Option(help="Folder of `impasto gatys video`: fit the style to this film's keyframes.")
    ] = None,
    keyframe_weight: Annotated[float | None, typer.Option(help="How much the keyframes count; default 1.")] = None,
    videos: Annotated[
        Path | None, typer.Option(help="Folder of clips: a second stage in which painted films learn to hold still.")
    ] = None,
    video_weight: Annotated[float | None, typer.Option(help="How much the clips count; default 60.")] = None,
    warm_start: Annotated[
        Path | None,
        typer.Option(
            metavar="STYLE",
            help="Begin with a style of the same tier, this or another: an installed one, artifact or checkpoint.",
        ),
    ] = None,
    loss_network: option.LossNetwork = "vgg19", loss_weights: option.LossWeights = None, seed: option.Seed = None,
    checkpoint_every: option.CheckpointEvery = None, sample_every: option.SampleEvery = None,
    samples: option.Samples = None, precision: option.Precision = "auto", device: option.Device = "auto",
    resume: option.Resume = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write TensorBoard events too.")] = False,
    quiet: option.Quiet = False,
) -> None:  # fmt: skip
    """Learn a painting's style from a folder of photographs. Start it with torchrun to use several processes."""
    with needs_train_extra("training"):
        from .train_config import StyleInfo, TrainConfig
    for option_name, weight, material in (("keyframe", keyframe_weight, keyframes), ("video", video_weight, videos)):
        if weight is not None and material is None:
            raise ValueError(f"--{option_name}-weight must come with --{option_name}s")
    style_name = name or style_image.stem
    config = TrainConfig(
        style_image, photos, output or Path("runs") / f"{style_name}.{tier}", style_name, tier,
        style=StyleInfo(title, artist, year, licence),
        loss_network=loss_network, precision=precision, device=device,
        **option.chosen(
            steps=steps, batch_size=batch_size, crop_size=crop_size, learning_rate=learning_rate,
            content_weight=content_weight, style_weight=parse_style_weight(style_weight), structure=structure,
            tv_weight=tv_weight, motion_weight=motion_weight, style_size=style_size, style_scale=style_scale,
            statistics=statistics, keyframes=keyframes, keyframe_weight=keyframe_weight, videos=videos,
            video_weight=video_weight, warm_start=warm_start, loss_weights=loss_weights, seed=seed,
            checkpoint_every=checkpoint_every, sample_every=sample_every,
        ),
    )  # fmt: skip
    load_earlier = partial(context.obj, tier=tier)
    _run(config, load_earlier, samples=samples, resume=resume, tensorboard=tensorboard, quiet=quiet)


def _run(
    config: "TrainConfig",
    load_earlier: "LoadCheckpoint",
    *,
    samples: Path | None,
    resume: bool,
    tensorboard: bool,
    quiet: bool,
) -> None:
    from .report import RunReport
    from .train import train as learn

    shown = some_pictures(samples or config.photos, _NUM_SAMPLES)
    report = RunReport(config.output, style_image=config.style_image, photographs=shown, tensorboard=tensorboard)
    artifact = f"{config.name}.{config.tier}.onnx"
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
        folders=[config.photos],
        next_command=lambda checkpoint: f"impasto export {quote(str(checkpoint))} -o {quote(artifact)}",
        quiet=quiet,
    )
