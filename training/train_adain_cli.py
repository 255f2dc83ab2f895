"""`impasto train-adain`: learn to paint like any painting. Imports torch only once the command runs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from .cli import EXIT_INTERRUPTED, STOPPING, show_progress
from .interrupt import stop_on_interrupt

if TYPE_CHECKING:
    from .adain_config import AdainTrainConfig
    from .train import Progress

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
    try:
        from .adain_config import AdainTrainConfig
    except ModuleNotFoundError as exc:
        from .errors import TrainingError

        raise TrainingError(f"training needs {exc.name}: pip install 'impasto[train]'") from exc
    chosen = {
        "steps": steps, "batch_size": batch_size, "crop_size": crop_size, "zoom": zoom, "learning_rate": learning_rate,
        "content_weight": content_weight, "structure": structure, "tv_weight": tv_weight,
        "motion_weight": motion_weight, "identity_weight": identity_weight, "seed": seed,
        "checkpoint_every": checkpoint_every, "sample_every": sample_every, "warm_start": warm_start,
        "style_weight": _number(style_weight),
    }  # fmt: skip
    config = AdainTrainConfig.of(
        kind, photos, paintings, output or Path("runs") / f"{name}.{kind}", name=name,
        loss_network=loss_network, loss_weights=loss_weights, precision=precision, device=device,
        **{key: value for key, value in chosen.items() if value is not None},
    )  # fmt: skip
    _run(config, samples=samples, sample_paintings=sample_paintings, resume=resume, quiet=quiet)


def _number(text: str) -> float | None:
    if text == "auto":
        return None
    try:
        return float(text)
    except ValueError as exc:
        raise ValueError(f"--style-weight must be a number or auto, got {text!r}") from exc


def _run(
    config: "AdainTrainConfig", *, samples: Path | None, sample_paintings: Path | None, resume: bool, quiet: bool
) -> None:
    from .adain_report import AdainReport
    from .train_adain import train_adain as learn

    report = AdainReport(
        config.output,
        photographs=_some(samples or config.photos),
        paintings=_some(sample_paintings or config.paintings),
        style_side=config.style_size,
    )
    with stop_on_interrupt(STOPPING) as stop, show_progress(config.name, config.steps, quiet=quiet) as show:

        def on_step(progress: "Progress") -> None:
            report(progress)
            show(progress)

        checkpoint = learn(config, resume=resume, callback=on_step, sample=report.sample, should_stop=stop.is_set)
    if stop.is_set():
        print(f"stopped; the same command with --resume goes on from {checkpoint}")
        raise typer.Exit(EXIT_INTERRUPTED)
    if not quiet:
        print(f"{checkpoint}: done; next: impasto export onnx {checkpoint} -o {config.name}.fast.onnx")


def _some(folder: Path) -> list[Path]:
    from .data import find_pictures

    found = find_pictures(folder)
    return found[:: max(1, len(found) // _NUM_SAMPLES)][:_NUM_SAMPLES]
