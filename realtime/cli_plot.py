"""Plots that commands write. Light to import."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..training.whole_file import whole_file
from .errors import SinkError


def check_plot(target: Path | None, *, overwrite: bool) -> None:
    """Said before the minutes of measuring, not after.

    Raises:
        SinkError: the file exists, its folder does not, or matplotlib is missing or cannot write such a file.
    """
    if target is None:
        return
    if target.exists() and not overwrite:
        raise SinkError(f"{target} must not exist yet: choose another name or pass --overwrite")
    if find_spec("matplotlib") is None:
        raise SinkError("matplotlib must be installed for a plot: pip install 'impasto[train]'")
    if not target.parent.is_dir():
        raise SinkError(f"{target.parent} must be a folder")
    from matplotlib.backend_bases import FigureCanvasBase

    endings = FigureCanvasBase.get_supported_filetypes()
    if target.suffix and target.suffix.lower().lstrip(".") not in endings:
        raise SinkError(f"a plot's name must end in .{', .'.join(sorted(endings))}, got {target}")


def write_plot(figure: Any, target: Path) -> None:
    """A figure of matplotlib, whole or not at all.

    Raises:
        SinkError: it cannot be written, or not as such a file.
    """
    try:
        with whole_file(target) as part:
            figure.savefig(part, format=target.suffix.lstrip(".") or "png", dpi=120)
    except (OSError, ValueError) as exc:
        raise SinkError(f"cannot write {target}: {exc}") from exc
