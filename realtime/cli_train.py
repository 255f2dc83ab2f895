"""`impasto train` and `impasto train-adain`, which may begin with a style that is installed."""

from pathlib import Path
from typing import TYPE_CHECKING

from ..training.cli import train_app
from ..training.train_adain_cli import train_adain_app

if TYPE_CHECKING:
    from ..training.checkpoint import Checkpoint
    from ..training.networks import Tier


def _open_warm_start(style: Path, /, *, tier: "Tier") -> "Checkpoint":
    from ..assets import find_style
    from ..export.artifact import load_artifact
    from ..export.to_torch import rebuild_checkpoint
    from ..training.checkpoint import load_checkpoint

    if style.suffix == ".onnx":
        return rebuild_checkpoint(load_artifact(style))
    if style.exists() or style.suffix == ".safetensors":
        return load_checkpoint(style / "checkpoint.safetensors" if style.is_dir() else style)
    return rebuild_checkpoint(load_artifact(find_style(str(style), tier)))


app = train_app(_open_warm_start)
adain_app = train_adain_app(_open_warm_start)
