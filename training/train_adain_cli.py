"""`impasto train-adain`: learn to paint like any painting. Imports torch only once the command runs."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from .cli_common import needs_train_extra, parse_style_weight, run_training, some_pictures

if TYPE_CHECKING:
    from .adain_config import AdainTrainConfig

train_adain_app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

_NUM_SAMPLES = 5


@train_adain_app.command()
def train_adain(
    photos: Annotated[Path, typer.Option(help="Folder of photographs to practise on; a thousand or more.")],
    paintings: Annotated[Path, typer.Option(help="Folder of paintings; several hundred, as different as can be.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder of the run; default runs/NAME.KIND.")
    ] = None,
    kind: Annotated[
        Literal["compact", "reference"], typer.Option(help="compact ships; reference is Huang and Belongie's.")
    ] = "compact",
    name: Annotated[str, typer.Option(help="What the network will be called.")] = "any",
    steps: Annotated[int | None, typer.Option(help="Training steps.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Pictures a step, over all processes.")] = None,
    crop_size: Annotated[int | None, typer.Option(help="Side of a training crop, pixels.")] = None,
    zoom: Annotated[
        tuple[float, float] | None, typer.Option(help="Short side of pictures before cropping, in crops: from, to.")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Highest learning rate.")] = None,
    content_weight: Annotated[float | None, typer.Option(help="How much the photograph counts.")] = None,
    style_weight: Annotated[
        str, typer.Option(help="How much the painting counts: a number; auto: found for --structure, reference: 10.")
    ] = "auto",
    structure: Annotated[
        float | None, typer.Option(help="compact: share of the photograph to keep, 0 to 1.")
    ] = None,
    tv_weight: Annotated[float | None, typer.Option(help="compact: smoothness.")] = None,
    motion_weight: Annotated[float | None, typer.Option(help="Steadiness in videos; 0 is off.")] = None,
    identity_weight: Annotated[
        float | None, typer.Option(help="compact: how exactly alpha 0 gives the photograph back.")
    ] = None,
    warm_start: Annotated[
        Path | None, typer.Option(help="compact: checkpoint of a fast-tier style to begin with.")
    ] = None,
    loss_network: Annotated[Literal["vgg16", "vgg19"], typer.Option(help="Fetched unless --loss-weights.")] = "vgg19",
    loss_weights: Annotated[
        Path | None, typer.Option(help="Local weight file of the loss network, and of the reference's encoder.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same machine: same losses.")] = None,
    checkpoint_every: Annotated[int | None, typer.Option(help="Steps between checkpoints.")] = None,
    sample_every: Annotated[int | None, typer.Option(help="Steps between reports with sample pictures.")] = None,
    samples: Annotated[Path | None, typer.Option(help="Folder of photographs to show in the report.")] = None,
    sample_paintings: Annotated[Path | None, typer.Option(help="Folder of paintings to show in the report.")] = None,
    precision: Annotated[Literal["auto", "fp32", "bf16"], typer.Option(help="auto: bf16 where it is faster.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps …")] = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only errors.")] = False,
) -> None:  # fmt: skip
    """Learn to paint like any painting, from folders of photographs and paintings; torchrun uses several processes."""
    with needs_train_extra("training"):
        from .adain_config import AdainTrainConfig
    chosen = {
        "steps": steps, "batch_size": batch_size, "crop_size": crop_size, "zoom": zoom, "learning_rate": learning_rate,
        "content_weight": content_weight, "structure": structure, "tv_weight": tv_weight,
        "motion_weight": motion_weight, "identity_weight": identity_weight, "seed": seed,
        "checkpoint_every": checkpoint_every, "sample_every": sample_every, "warm_start": warm_start,
        "style_weight": parse_style_weight(style_weight),
    }  # fmt: skip
    config = AdainTrainConfig.of(
        kind, photos, paintings, output or Path("runs") / f"{name}.{kind}", name=name,
        loss_network=loss_network, loss_weights=loss_weights, precision=precision, device=device,
        **{key: value for key, value in chosen.items() if value is not None},
    )  # fmt: skip
    _run(config, samples=samples, sample_paintings=sample_paintings, resume=resume, quiet=quiet)


def _run(
    config: "AdainTrainConfig", *, samples: Path | None, sample_paintings: Path | None, resume: bool, quiet: bool
) -> None:
    from .adain_report import AdainReport
    from .train_adain import train_adain as learn

    report = AdainReport(
        config.output,
        photographs=some_pictures(samples or config.photos, _NUM_SAMPLES),
        paintings=some_pictures(sample_paintings or config.paintings, _NUM_SAMPLES),
        style_side=config.style_size,
    )
    run_training(
        partial(learn, config, resume=resume, sample=report.sample),
        report,
        name=config.name,
        steps=config.steps,
        next_command=lambda checkpoint: f"impasto export onnx {checkpoint} -o {config.name}.stylizer.onnx",
        quiet=quiet,
    )
