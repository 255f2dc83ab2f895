"""`impasto train`: learn a style. Imports torch only once a command runs."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from .cli_common import needs_train_extra, parse_style_weight, run_training, some_pictures
from .gatys_config import Statistics

if TYPE_CHECKING:
    from .train_config import TrainConfig

train_app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

_NUM_SAMPLES = 4


@train_app.command()
def train(
    style_image: Annotated[Path, typer.Argument(help="The painting to learn.")],
    photos: Annotated[Path, typer.Option(help="Folder of photographs to practise on; a thousand or more.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder of the run; default runs/NAME.TIER.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="What users will type; default: the painting's file name.")] = None,
    tier: Annotated[Literal["fast", "quality"], typer.Option(help="Network to train.")] = "fast",
    title: Annotated[str, typer.Option(help="The painting's title.")] = "",
    artist: Annotated[str, typer.Option(help="The painter.")] = "",
    year: Annotated[str, typer.Option(help="Year of the painting.")] = "",
    licence: Annotated[str, typer.Option(help="Licence of the painting's picture.")] = "",
    steps: Annotated[int | None, typer.Option(help="Training steps.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Pictures a step, over all processes.")] = None,
    crop_size: Annotated[int | None, typer.Option(help="Side of a training crop, pixels.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Highest rate of the one-cycle schedule.")] = None,
    content_weight: Annotated[float | None, typer.Option(help="How much the photograph counts.")] = None,
    style_weight: Annotated[
        str, typer.Option(help="How much the painting counts: a number, or auto to find it for --structure.")
    ] = "auto",
    structure: Annotated[
        float | None, typer.Option(help="With --style-weight auto: share of the photograph to keep, 0 to 1.")
    ] = None,
    tv_weight: Annotated[float | None, typer.Option(help="Smoothness.")] = None,
    motion_weight: Annotated[float | None, typer.Option(help="Steadiness in videos; 0 is off.")] = None,
    style_size: Annotated[int | None, typer.Option(help="Short side at which the painting is seen, pixels.")] = None,
    style_scale: Annotated[float | None, typer.Option(help="Multiplies --style-size: larger, larger marks.")] = None,
    statistics: Annotated[
        Statistics | None, typer.Option(help="What a style is: gram as in the paper, covariance with truer colours.")
    ] = None,
    keyframes: Annotated[
        Path | None, typer.Option(help="Folder of `impasto gatys video`: fit the style to this film's keyframes.")
    ] = None,
    keyframe_weight: Annotated[float | None, typer.Option(help="How much the keyframes count.")] = None,
    videos: Annotated[
        Path | None, typer.Option(help="Folder of clips: a second stage in which painted films learn to hold still.")
    ] = None,
    video_weight: Annotated[float | None, typer.Option(help="How much the clips count.")] = None,
    loss_network: Annotated[Literal["vgg16", "vgg19"], typer.Option(help="Fetched unless --loss-weights.")] = "vgg19",
    loss_weights: Annotated[Path | None, typer.Option(help="Local weight file of the loss network.")] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same machine: same losses.")] = None,
    checkpoint_every: Annotated[int | None, typer.Option(help="Steps between checkpoints.")] = None,
    sample_every: Annotated[int | None, typer.Option(help="Steps between reports with sample pictures.")] = None,
    samples: Annotated[Path | None, typer.Option(help="Folder of photographs to show in the report.")] = None,
    precision: Annotated[Literal["auto", "fp32", "bf16"], typer.Option(help="auto: bf16 where it is faster.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps …")] = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write TensorBoard events too.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only errors.")] = False,
) -> None:  # fmt: skip
    """Learn a painting's style from a folder of photographs. Start it with torchrun to use several processes."""
    with needs_train_extra("training"):
        from .train_config import StyleInfo, TrainConfig
    style_name = name or style_image.stem
    chosen = {
        "steps": steps, "batch_size": batch_size, "crop_size": crop_size, "learning_rate": learning_rate,
        "content_weight": content_weight, "structure": structure, "tv_weight": tv_weight,
        "motion_weight": motion_weight, "style_size": style_size, "style_scale": style_scale, "seed": seed,
        "keyframe_weight": keyframe_weight, "video_weight": video_weight,
        "statistics": statistics,
        "checkpoint_every": checkpoint_every, "sample_every": sample_every,
    }  # fmt: skip
    config = TrainConfig(
        style_image, photos, output or Path("runs") / f"{style_name}.{tier}", style_name, tier,
        style=StyleInfo(title, artist, year, licence),
        loss_network=loss_network, loss_weights=loss_weights, precision=precision, device=device,
        style_weight=parse_style_weight(style_weight), keyframes=keyframes, videos=videos,
        **{key: value for key, value in chosen.items() if value is not None},  # type: ignore[arg-type]
    )  # fmt: skip
    _run(config, samples=samples, resume=resume, tensorboard=tensorboard, quiet=quiet)


def _run(config: "TrainConfig", *, samples: Path | None, resume: bool, tensorboard: bool, quiet: bool) -> None:
    from .report import RunReport
    from .train import train as learn

    shown = some_pictures(samples or config.photos, _NUM_SAMPLES)
    report = RunReport(config.output, style_image=config.style_image, photographs=shown, tensorboard=tensorboard)
    run_training(
        partial(learn, config, resume=resume, sample=report.sample),
        report,
        name=config.name,
        steps=config.steps,
        next_command=lambda checkpoint: f"impasto export {checkpoint} -o {config.name}.{config.tier}.onnx",
        quiet=quiet,
    )
