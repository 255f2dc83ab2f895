"""What a training for any painting leaves to look at: `log.csv` with the losses, and `report.png` with curves and a
sheet of photographs × paintings, beside each photograph what comes back of it at alpha 0."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from .adain_reference import AdainNetworks
from .data import Picture, middle_square, read_picture, resize_short_side, to_picture, to_tensor
from .loop import Progress
from .run_log import RunLog, write_figure

CURVES = ("total", "content", "style", "distance", "tv", "motion", "identity", "hint", "structure")
_SIDE = 256
"""Pixels, height and width of a picture on the sheet."""


class AdainReport:
    """Collects the losses of a run and draws them. Call it with every `Progress`; `sample` with the networks."""

    def __init__(
        self, folder: Path, *, photographs: Sequence[Path], paintings: Sequence[Path], style_side: int
    ) -> None:
        """Start or go on with `folder`/log.csv; every photograph is painted like every painting in each report."""
        self._folder, self._style_side = folder, style_side
        self._photographs = [middle_square(read_picture(path), _SIDE) for path in photographs]
        self._paintings = [read_picture(path) for path in paintings]
        self._log = RunLog(folder / "log.csv", CURVES)

    def __call__(self, progress: Progress) -> None:
        self._log.add(progress)

    def write_log(self) -> None:
        """Rewrite log.csv."""
        self._log.write()

    def sample(self, networks: AdainNetworks, step: int) -> None:
        """Paint the sheet and rewrite log.csv and report.png."""
        self._log.write()
        sheet = paint_sheet(networks, self._photographs, self._paintings, style_side=self._style_side)
        _draw(self._folder / "report.png", self._log, sheet, step)


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
    rows = [np.hstack([blank, blank, *(middle_square(painting, side) for painting in paintings)])]
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


def _draw(path: Path, log: RunLog, sheet: Picture, step: int) -> None:
    from matplotlib.figure import Figure  # late: a second to import

    height = 14 * sheet.shape[0] / sheet.shape[1]
    figure = Figure(figsize=(14, height + 4), layout="constrained")
    curves, pictures = figure.subplots(2, 1, height_ratios=(4, height))
    log.draw(curves)
    pictures.imshow(sheet)
    pictures.set_title(f"step {step}: photograph, alpha 0, and painted like each of the paintings above", fontsize=9)
    pictures.axis("off")
    write_figure(figure, path, dpi=110)
