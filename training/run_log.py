"""`log.csv`: the losses of a run, row by row, kept when it is resumed; and the curves in its report."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .errors import TrainingError
from .loop import Progress
from .whole_file import whole_file

LOG_EVERY = 10
"""Steps between two rows."""


class RunLog:
    """The rows, one every `LOG_EVERY` steps and one at the end."""

    def __init__(self, path: Path, curves: Sequence[str]) -> None:
        """Start or go on with the file.

        Args:
            curves: names of the losses, in the order of the columns.

        Raises:
            TrainingError: the file is there and cannot be read.
        """
        self._path, self._curves = path, curves
        self.rows = _read(path)
        """Step, losses, style weight and pictures a second; what a step did not have is missing."""

    def add(self, progress: Progress) -> bool:
        """Whether this step got a row."""
        if progress.step % LOG_EVERY and progress.step != progress.steps:
            return False
        row: dict[str, float] = {
            "step": progress.step,
            **progress.losses,
            "style_weight": progress.style_weight,
            "pictures_per_second": progress.pictures_per_second,
        }
        # A resumed run repeats the steps after its last checkpoint.
        self.rows = [old for old in self.rows if old["step"] < progress.step] + [row]
        return True

    def write(self) -> None:
        """Write the file anew, whole or not at all.

        Raises:
            TrainingError: it cannot be written.
        """
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(self._path) as part, part.open("w", newline="") as file:
                columns = ("step", *self._curves, "style_weight", "pictures_per_second")
                writer = csv.DictWriter(file, columns, restval="")
                writer.writeheader()
                writer.writerows(
                    {name: f"{value:.0f}" if name == "step" else f"{value:.6g}" for name, value in row.items()}
                    for row in self.rows
                )
        except OSError as exc:
            raise TrainingError(f"cannot write {self._path}: {exc.strerror or exc}") from exc

    def draw(self, axes: Any) -> None:
        """The curves, on axes of matplotlib."""
        for name in self._curves:
            points = [(row["step"], row[name]) for row in self.rows if name in row]
            if points:
                axes.plot(*zip(*points, strict=True), label=name)
        axes.set(xlabel="step", ylabel="loss", yscale="log")
        if self.rows:
            axes.legend(ncols=len(self._curves))
        axes.grid(alpha=0.3)


def write_figure(figure: Any, path: Path, *, dpi: int) -> None:
    """A figure of matplotlib as PNG, whole or not at all.

    Raises:
        TrainingError: it cannot be written.
    """
    try:
        with whole_file(path) as part:
            figure.savefig(part, format="png", dpi=dpi)
    except OSError as exc:
        raise TrainingError(f"cannot write {path}: {exc.strerror or exc}") from exc


def _read(path: Path) -> list[dict[str, float]]:
    if not path.exists():
        return []
    try:
        with path.open(newline="") as file:
            return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
    except (OSError, ValueError, TypeError) as exc:
        raise TrainingError(f"cannot go on with {path}: {exc}") from exc
