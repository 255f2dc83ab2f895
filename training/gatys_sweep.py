"""A labelled grid of pictures over one or two settings, with the curves of the losses beside it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

from .data import Picture
from .errors import TrainingError
from .gatys import Iterate, Painting, StyleImage, check_memory, paint, scale_sizes
from .gatys_config import STYLE_WEIGHTS, GatysConfig, parse_layers
from .loss_network import LossNetwork
from .whole_file import whole_file


def _layer_set(text: str) -> dict[str, float]:
    return parse_layers(text.replace("+", ","))


_PARSERS: Mapping[str, Callable[[str], Any]] = {
    "content-weight": float, "style-weight": float, "tv-weight": float, "learning-rate": float, "style-scale": float,
    "noise": float, "iterations": int, "min-size": int, "history": int, "seed": int, "optimizer": str, "start": str,
    "statistics": str, "color": str, "content-layers": _layer_set, "style-layers": _layer_set,
}  # fmt: skip


@dataclass(frozen=True)
class Axis:
    """One option and the values that it takes."""

    name: str
    """As on the command line, without the dashes."""
    values: Sequence[tuple[str, Any]]
    """As typed, and parsed."""

    def change(self, number: int) -> dict[str, Any]:
        """Of a `GatysConfig`."""
        return {self.name.replace("-", "_"): self.values[number][1]}

    def label(self, number: int) -> str:
        return f"{self.name} {self.values[number][0]}"


def parse_axis(text: str) -> Axis:
    """ "style-weight=10,100,1000"; values are checked by `GatysConfig` in `combinations`.

    Raises:
        ValueError: an option that cannot be varied, or a value that cannot be read.
    """
    name, _, listed = text.partition("=")
    name = name.strip().lstrip("-").replace("_", "-")
    if name not in _PARSERS or not listed:
        raise ValueError(f"--vary must be OPTION=A,B,... with one of {', '.join(_PARSERS)}, got {text!r}")
    try:
        values = [(part.strip(), _PARSERS[name](part.strip())) for part in listed.split(",")]
    except ValueError as exc:
        raise ValueError(f"--vary {name} must have values that can be read, got {listed!r}: {exc}") from exc
    return Axis(name, values)


def combinations(config: GatysConfig, axes: Sequence[Axis]) -> list[list[tuple[str, GatysConfig]]]:
    """Label and settings of every picture, by row and column.

    Args:
        axes: one (columns) or two (columns, rows).

    Raises:
        ValueError: values that a picture cannot be painted with, or not with one another.
    """
    columns, rows = axes[0], axes[1] if len(axes) > 1 else None
    return [
        [
            (
                columns.label(column) + (f", {rows.label(row)}" if rows else ""),
                replace(config, **columns.change(column), **(rows.change(row) if rows else {})),
            )
            for column in range(len(columns.values))
        ]
        for row in range(len(rows.values) if rows else 1)
    ]


def check_figure(path: Path, *, overwrite: bool) -> None:
    """Refuse what could not be written, before hours of work.

    Raises:
        TrainingError: the file exists, or its folder does not.
        ValueError: its ending is not that of a figure.
    """
    if path.suffix.lower() not in {".png", ".pdf", ".svg", ".jpg"}:
        raise ValueError(f"a figure's name must end in .png, .jpg, .pdf or .svg, got {path}")
    if path.exists() and not overwrite:
        raise TrainingError(f"{path} must not exist yet; pass --overwrite to replace it")
    if not path.parent.is_dir():
        raise TrainingError(f"{path.parent} must be a folder")


def run_sweep(
    photo: Picture,
    styles: Sequence[StyleImage],
    loss_network: LossNetwork,
    config: GatysConfig,
    axes: Sequence[Axis],
    output: Path,
    *,
    callback: Callable[[str, Iterate], None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> int:
    """Paint every combination and draw the figure; stopped, it is drawn with those that are done. Returns how many.

    Args:
        axes: one (columns) or two (columns, rows).
        callback: told of the label of the picture in work and of every evaluation.

    Raises:
        TrainingError: one of the pictures does not fit into memory, which is checked before the first is painted, or
            the figure cannot be written.
        ValueError: as `combinations`, or a layer that the loss network does not have.
    """
    wanted = combinations(config, axes)
    for _, here in (cell for cells in wanted for cell in cells):
        largest = scale_sizes(photo.shape[0], photo.shape[1], here.min_size, here.size)[-1]
        check_memory(largest, styles, loss_network, here)
    grid: list[list[tuple[str, GatysConfig, Painting] | None]] = []
    for cells in wanted:
        grid.append([])
        for label, here in cells:
            painted = None
            if not should_stop():
                report = None if callback is None else (lambda it, label=label: callback(label, it))
                painted = paint(photo, styles, loss_network, here, callback=report, should_stop=should_stop)
            grid[-1].append(None if painted is None or painted.stopped else (label, here, painted))
    count = sum(cell is not None for cells in grid for cell in cells)
    if count:
        _draw(grid, output)
    return count


def _draw(grid: Sequence[Sequence[tuple[str, GatysConfig, Painting] | None]], output: Path) -> None:
    from matplotlib.figure import Figure  # late: a second to import

    columns = len(grid[0]) + 1
    figure = Figure(figsize=(3.4 * columns, 3.4 * len(grid)), layout="constrained")
    for row, cells in enumerate(grid):
        curves = figure.add_subplot(len(grid), columns, (row + 1) * columns)
        for column, cell in enumerate(cells):
            if cell is None:
                continue
            label, config, painted = cell
            axes = figure.add_subplot(len(grid), columns, row * columns + column + 1)
            axes.imshow(painted.picture)
            axes.axis("off")
            axes.set_title(f"{label}\n{_caption(config, painted)}", fontsize=8)
            # Scales follow one another; a total of another size is another function, so each starts anew.
            steps = list(accumulate((len(curve) for curve in painted.curves), initial=0))
            for scale, curve in enumerate(painted.curves):
                numbers = range(steps[scale] + 1, steps[scale + 1] + 1)
                curves.plot(numbers, curve, color=f"C{column}", label=label if scale == 0 else None)
        curves.set(xlabel="evaluation", ylabel="lowest total", yscale="log")
        curves.grid(alpha=0.3)
        if any(cells):
            curves.legend(fontsize=6)
    try:
        with whole_file(output) as part:
            kind = output.suffix.lstrip(".")
            figure.savefig(part, format=kind, dpi=130, bbox_inches="tight")  # titles of three lines overflow the layout
    except OSError as exc:
        raise TrainingError(f"cannot write {output}: {exc.strerror or exc}") from exc


def _caption(config: GatysConfig, painted: Painting) -> str:
    weight = STYLE_WEIGHTS[config.statistics] if config.style_weight is None else config.style_weight
    losses = "  ".join(f"{name} {painted.losses[name]:.3g}" for name in ("content", "style", "tv", "total"))
    return f"{losses}\n(style weight {weight:g}, {painted.seconds:.0f} s)"
