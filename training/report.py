"""What a training run leaves to look at: `log.csv` with the losses, `report.png` with curves and pictures."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .data import Picture, read_picture, resize_short_side, to_picture, to_tensor
from .errors import TrainingError
from .loop import Progress
from .run_log import RunLog, write_figure

CURVES = ("total", "content", "style", "tv", "range", "grid", "motion", "keyframes", "videos", "structure")
_SAMPLE_SIDE = 320  # pixels, short side of a sample picture


class RunReport:
    """Collects the losses of a run and draws them. Call it with every `Progress`; `sample` with the network."""

    def __init__(
        self, folder: Path, *, style_image: Path, photographs: Sequence[Path], tensorboard: bool = False
    ) -> None:
        """Start or go on with `folder`/log.csv; `photographs` are painted in each report.

        Raises:
            TrainingError: TensorBoard is asked for and missing, or the log cannot be read.
        """
        self._folder = folder
        self._style_image = style_image
        self._photographs = [resize_short_side(read_picture(path), _SAMPLE_SIDE) for path in photographs]
        self._log = RunLog(folder / "log.csv", CURVES)
        self._open_writer = _tensorboard_writer(folder) if tensorboard else None
        self._writer: Any = None

    def __call__(self, progress: Progress) -> None:
        if self._log.add(progress) and self._open_writer is not None:
            # Not before: several processes have a report, and only the first is told of steps.
            self._writer = self._writer or self._open_writer()
            for name, value in progress.losses.items():
                self._writer.add_scalar(f"loss/{name}", value, progress.step)

    def write_log(self) -> None:
        """Rewrite log.csv, and have TensorBoard's file written out."""
        self._log.write()
        if self._writer is not None:
            self._writer.flush()

    def sample(self, network: nn.Module, step: int) -> None:
        """Paint the sample photographs and rewrite log.csv and report.png."""
        self._log.write()
        pictures = [paint(network, photo) for photo in self._photographs]
        _draw(self._folder / "report.png", self._log, read_picture(self._style_image), self._photographs, pictures)
        if self._writer is not None:
            for i, picture in enumerate(pictures):
                self._writer.add_image(f"sample/{i}", picture, step, dataformats="HWC")
            self._writer.flush()


def paint(network: nn.Module, photo: Picture) -> Picture:
    """(H, W, 3) uint8 RGB through a transformation network, cropped to multiples of four; same layout back."""
    height, width = (side // 4 * 4 for side in photo.shape[:2])
    device = next(network.parameters()).device
    was_training = network.training
    network.eval()
    with torch.inference_mode():
        painted = to_picture(network(to_tensor(photo[:height, :width]).to(device)))
    network.train(was_training)
    return painted


def _draw(
    path: Path,
    log: RunLog,
    style: Picture,
    photographs: Sequence[Picture],
    painted: Sequence[Picture],
) -> None:
    from matplotlib.figure import Figure  # late: a second to import

    columns = max(2, 1 + len(photographs))
    figure = Figure(figsize=(max(16, 3.2 * columns), 10), layout="constrained")  # as wide as the legend
    grid = figure.add_gridspec(3, columns, height_ratios=(1.1, 1, 1))
    log.draw(figure.add_subplot(grid[0, :]))
    _show(figure.add_subplot(grid[1:, 0]), style, "style image")
    for i, (photo, picture) in enumerate(zip(photographs, painted, strict=True), 1):
        _show(figure.add_subplot(grid[1, i]), photo, "photograph")
        _show(figure.add_subplot(grid[2, i]), picture, "stylized")
    write_figure(figure, path, dpi=90)


def _show(axes: Any, picture: Picture, title: str) -> None:
    axes.imshow(picture)
    axes.set_title(title, fontsize=9)
    axes.axis("off")


def _tensorboard_writer(folder: Path) -> Callable[[], Any]:
    """What opens one; TensorBoard is found missing here."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as exc:
        raise TrainingError("--tensorboard needs the tensorboard package: pip install tensorboard") from exc
    return partial(SummaryWriter, folder / "tensorboard")
