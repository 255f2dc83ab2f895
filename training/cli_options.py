"""Options that several of `train`, `train-adain`, `evaluate` and `gatys` have. Light to import."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

import typer

if TYPE_CHECKING:
    from .checkpoint import Checkpoint
    from .networks import Tier

Photos = Annotated[Path, typer.Option(help="Folder of photographs to practise on; a thousand or more.")]
ContentWeight = Annotated[float | None, typer.Option(help="How much the photograph counts; default 1.")]
Seed = Annotated[int | None, typer.Option(help="Same seed, same machine: same losses; default 0.")]
CheckpointEvery = Annotated[int | None, typer.Option(help="Steps between checkpoints; default 250.")]
SampleEvery = Annotated[int | None, typer.Option(help="Steps between reports with sample pictures; default 500.")]
Samples = Annotated[Path | None, typer.Option(help="Folder of photographs to show in the report.")]
Precision = Annotated[Literal["auto", "fp32", "bf16"], typer.Option(help="auto: bf16 where it is faster.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")]

LossNetwork = Annotated[Literal["vgg16", "vgg19"], typer.Option(help="Fetched unless --loss-weights.")]
LossWeights = Annotated[Path | None, typer.Option(help="Local weight file of the loss network.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps …")]
Threads = Annotated[int, typer.Option(min=0, max=1024, help="Of PyTorch on the CPU; 0 for its own choice.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only errors.")]


class OpenWarmStart(Protocol):
    """Opens what `--warm-start` names."""

    def __call__(self, style: Path, /, *, tier: "Tier") -> "Checkpoint":
        """An installed style's name, an artifact or a checkpoint; `tier` chooses among those of a name."""
        ...


def chosen(**options: Any) -> dict[str, Any]:
    """Those that were given; the defaults of the others stand in the configuration."""
    return {name: value for name, value in options.items() if value is not None}
