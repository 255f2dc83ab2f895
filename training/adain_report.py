"""What a training for any painting leaves to look at: `log.csv` with the losses, and `report.png` with curves and a
sheet of photographs × paintings, beside each photograph what comes back of it at alpha 0."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from .adain_reference import AdainNetworks
from .data import Picture, read_picture, resize_short_side, to_picture, to_tensor
from .report import read_log
from .train import Progress

CURVES = ("total", "content", "style", "distance", "tv", "motion", "identity", "hint", "structure")
_COLUMNS = ("step", *CURVES, "style_weight", "pictures_per_second")
_SIDE = 256
"""Pixels, height and width of a picture on the sheet."""


class AdainReport:
    """Collects the losses of a run and draws them. Call it with every `Progress`; `sample` with the networks."""

    LOG_EVERY = 10
    """Steps between two rows of `log.csv`."""

    def __init__(
        self, folder: Path, *, photographs: Sequence[Path], paintings: Sequence[Path], style_side: int
    ) -> None:
        """Start or go on with `folder`/log.csv; every photograph is painted like every painting in each report."""
        self._folder, self._style_side = folder, style_side
        self._photographs = [square(read_picture(path), _SIDE) for path in photographs]
        self._paintings = [read_picture(path) for path in paintings]
        self._rows = read_log(folder / "log.csv")

    def __call__(self, progress: Progress) -> None:
        if progress.step % self.LOG_EVERY and progress.step != progress.steps:
            return
        row: dict[str, float] = {
            "step": progress.step,
            **progress.losses,
            "style_weight": progress.style_weight,
            "pictures_per_second": progress.pictures_per_second,
        }
        # A resumed run repeats the steps after its last checkpoint.
        self._rows = [old for old in self._rows if old["step"] < progress.step] + [row]

    def sample(self, networks: AdainNetworks, step: int) -> None:
        """Paint the sheet and rewrite log.csv and report.png."""
        self._folder.mkdir(parents=True, exist_ok=True)
        _write_log(self._folder / "log.csv", self._rows)
        sheet = paint_sheet(networks, self._photographs, self._paintings, style_side=self._style_side)
        _draw(self._folder / "report.png", self._rows, sheet, step)


def paint_sheet(
    networks: AdainNetworks, photographs: Sequence[Picture], paintings: Sequence[Picture], *, style_side: int
) -> Picture:
    """Photographs in the first column, each given back in the second, painted like each painting in the others.

    Args:
        photographs: (S, S, 3) uint8 RGB of one size, a multiple of four.
        style_side: short side at which paintings are looked at, pixels.
    """
    was_training = networks.stylizer.training
    networks.stylizer.eval()
    styles = [encode(networks.encoder, painting, style_side=style_side) for painting in paintings]
    side = photographs[0].shape[0]
    blank = np.full((side, side, 3), 255, np.uint8)
    rows = [np.hstack([blank, blank, *(square(painting, side) for painting in paintings)])]
    with torch.inference_mode():
        for photo in photographs:
            x = to_tensor(photo).to(styles[0].device)
            painted = [to_picture(networks.stylizer(x, style)) for style in (torch.zeros_like(styles[0]), *styles)]
            rows.append(np.hstack([photo, *painted]))
    networks.stylizer.train(was_training)
    return np.vstack(rows)


@torch.inference_mode()
def encode(encoder: nn.Module, painting: Picture, *, style_side: int) -> Tensor:
    """A painting (H, W, 3) uint8 RGB, looked at with a short side of `style_side` pixels, as its (1, K) style."""
    device = next(encoder.parameters()).device
    seen = resize_short_side(painting, style_side)
    height, width = (length // 16 * 16 for length in seen.shape[:2])
    style: Tensor = encoder(to_tensor(seen[:height, :width]).to(device))
    return style


def square(picture: Picture, side: int) -> Picture:
    """The middle of a picture as (side, side, 3)."""
    resized = resize_short_side(picture, side)
    top, left = ((length - side) // 2 for length in resized.shape[:2])
    return np.ascontiguousarray(resized[top : top + side, left : left + side])


def _write_log(path: Path, rows: Sequence[Mapping[str, float]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, _COLUMNS, restval="")
        writer.writeheader()
        writer.writerows({name: f"{value:.6g}" for name, value in row.items()} for row in rows)


def _draw(path: Path, rows: Sequence[Mapping[str, float]], sheet: Picture, step: int) -> None:
    from matplotlib.figure import Figure  # late: a second to import

    height = 14 * sheet.shape[0] / sheet.shape[1]
    figure = Figure(figsize=(14, height + 4), layout="constrained")
    curves, pictures = figure.subplots(2, 1, height_ratios=(4, height))
    for name in CURVES:
        points = [(row["step"], row[name]) for row in rows if name in row]
        if points:
            curves.plot(*zip(*points, strict=True), label=name)
    curves.set(xlabel="step", ylabel="loss", yscale="log")
    if rows:
        curves.legend(ncols=len(CURVES))
    curves.grid(alpha=0.3)
    pictures.imshow(sheet)
    pictures.set_title(f"step {step}: photograph, alpha 0, and painted like each of the paintings above", fontsize=9)
    pictures.axis("off")
    part = path.with_name(f".{path.stem}.part.png")
    figure.savefig(part, dpi=110)
    part.replace(path)
