"""Paint one picture by optimising its pixels: Gatys, Ecker, Bethge 2015 (arXiv 1508.06576), coarse to fine.

The quality reference of every network here, and the tool for a poster or a keyframe. Where we differ from the paper:
losses are relative to the target's energy (`gatys_objective.py`), pixels stay in [0, 255] (`gatys_optimize.py`), the
start is the photograph, and large pictures are painted at growing scales as in Gatys et al. 2017, section 6: the
receptive field of the loss network is fixed, so marks much larger than its 200 pixels can only be laid while the
picture is small.
"""

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from torch import Tensor
from torch.nn import functional

from .data import Picture, to_picture, to_tensor
from .errors import TrainingError
from .gatys_color import finish_colors, prepare_colors
from .gatys_config import SMALLEST, STYLE_WEIGHTS, GatysConfig
from .gatys_lbfgs import Curvature
from .gatys_memory import available_memory, largest_size, memory_needed
from .gatys_objective import Objective, StyleTerm, content_terms, style_terms
from .gatys_optimize import Evaluation, minimise, white_noise
from .gatys_regions import MatchedRegions, regions_of
from .loss_network import LossNetwork

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StyleImage:
    """A painting to paint like."""

    picture: Picture
    weight: float = 1.0
    """Against the other paintings; only the ratio counts."""
    mask: Picture | None = None
    """(H, W, 3) uint8, as large as the painting, in flat colours."""


@dataclass(frozen=True)
class Iterate:
    """What an evaluation reports."""

    scale: int
    """From 0."""
    scales: Sequence[tuple[int, int]]
    """(height, width) of every scale, pixels."""
    iteration: int
    """At this scale, from 1."""
    iterations: int
    losses: Mapping[str, float]
    """`content`, `style`, `tv` unweighted, `total` weighted, at the picture tried."""
    best: float
    """Lowest total at this scale."""
    seconds: float
    """Since the beginning."""
    seconds_left: float
    picture: Callable[[], Picture]
    """The best so far as bytes, colours not yet finished; call it only when you need it."""


@dataclass(frozen=True)
class Painting:
    """What was painted."""

    picture: Picture
    losses: Mapping[str, float]
    """At the end of the last scale."""
    curves: Sequence[Sequence[float]]
    """Lowest total after each evaluation, by scale."""
    seconds: float
    stopped: bool
    """It was asked to stop; the picture is the best so far, at the size of the scale it had come to."""
    notes: tuple[str, ...]
    """What went wrong and was mended, one line each."""


def paint(
    content: Picture,
    styles: Sequence[StyleImage],
    loss_network: LossNetwork,
    config: GatysConfig | None = None,
    *,
    content_mask: Picture | None = None,
    start: Picture | None = None,
    callback: Callable[[Iterate], None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Painting:
    """Paint a photograph in the manner of one or several paintings.

    Args:
        content: (H, W, 3) uint8 RGB.
        styles: needed unless `style_weight` is 0.
        content_mask: (H, W, 3) uint8, as large as `content`, in the flat colours of the styles' masks.
        start: picture to begin with instead of `config.start`, of any size.
        callback: told of every evaluation.
        should_stop: asked after every evaluation; True ends with the best picture so far.

    Raises:
        TrainingError: the size does not fit into memory, or the masks do not fit one another.
        ValueError: options that contradict one another.
    """
    config = GatysConfig() if config is None else config
    scales = scale_sizes(content.shape[0], content.shape[1], config.min_size, config.size)
    task = _Task.of(content, styles, loss_network, config, content_mask=content_mask, largest=scales[-1])
    clock = _Clock(scales, config.iterations)
    curvature = Curvature(config.history)
    picture = task.first_picture(start, *scales[0])
    curves: list[list[float]] = []
    notes: list[str] = []
    for scale, (height, width) in enumerate(scales):
        if scale:
            picture = task.next_picture(picture, height, width)
            curvature.enlarge(height, width)
        if config.color == "luminance":
            picture = picture.mean(dim=1, keepdim=True)  # one channel: Gatys et al. 2016, section 4
        minimum = minimise(
            task.objective(height, width),
            picture,
            optimizer=config.optimizer,
            evaluations=config.iterations,
            learning_rate=config.learning_rate,
            curvature=curvature,
            callback=None if callback is None else _reporter(callback, clock, scale),
            should_stop=should_stop,
        )
        picture = minimum.picture.expand(-1, 3, -1, -1)
        curves.append(minimum.curve)
        notes += [f"{width}x{height}, {note}" for note in minimum.notes]
        if minimum.stopped:
            break
    painted = to_picture(picture)
    painted = finish_colors(painted, resize(content, *painted.shape[:2]), config.color)
    return Painting(painted, minimum.losses, curves, clock.seconds, minimum.stopped, tuple(notes))


@dataclass(frozen=True)
class _Task:
    """What is painted like what: the same at every scale."""

    photo: Picture
    styles: Sequence[StyleImage]
    """As large as they were given, recoloured like the photograph or it like them if that was asked for."""
    regions: MatchedRegions | None
    loss_network: LossNetwork
    config: GatysConfig

    @classmethod
    def of(
        cls,
        content: Picture,
        styles: Sequence[StyleImage],
        loss_network: LossNetwork,
        config: GatysConfig,
        *,
        content_mask: Picture | None,
        largest: tuple[int, int],
    ) -> "_Task":
        """Checked and recoloured; `largest` is the last scale, (height, width)."""
        if config.style_weight != 0 and not styles:
            raise ValueError("styles must be at least one painting unless style_weight is 0")
        pictures = [style.picture for style in styles]
        regions = regions_of(content, content_mask, pictures, [style.mask for style in styles])
        check_memory(largest, styles, loss_network, config)
        for picture in pictures:
            _check_detail(picture, min(largest), config.style_scale)
        photo, paintings = prepare_colors(
            content, pictures, config.color, transform=config.color_transform, direction=config.color_direction
        )
        recoloured = [StyleImage(picture, style.weight) for picture, style in zip(paintings, styles, strict=True)]
        return cls(photo, recoloured, regions, loss_network, config)

    def first_picture(self, start: Picture | None, height: int, width: int) -> Tensor:
        """(1, 3, height, width) in [0, 255] to begin with."""
        if start is not None:
            return self._canvas(start, height, width)
        canvas = self._canvas(self.photo, height, width)
        if self.config.start == "content":
            return canvas
        noise = white_noise(canvas, self.config.seed)
        share = 1.0 if self.config.start == "noise" else self.config.noise
        return ((1 - share) * canvas + share * noise).clamp(0, 255)

    def next_picture(self, picture: Tensor, height: int, width: int) -> Tensor:
        """A painted (1, 3, h, w) at (height, width), with what the photograph has there and had not at the last scale.

        Gatys et al. 2017 only enlarge. What is then missing is found again, but not all: content losses end higher.
        """
        enlarged = enlarge(picture, height, width)
        if self.config.start == "noise":
            return enlarged
        last = enlarge(self._canvas(self.photo, *picture.shape[-2:]), height, width)
        detail = self._canvas(self.photo, height, width) - last
        return (enlarged + detail).clamp(0, 255)

    def objective(self, height: int, width: int) -> Objective:
        """The losses at one scale; the paintings grow and shrink with the picture."""
        config, network = self.config, self.loss_network
        layers = config.content_layers if config.content_weight else {}
        content = content_terms(self._canvas(self.photo, height, width), network, layers)
        style: list[StyleTerm] = []
        weights = [image.weight for image in self.styles]
        for number, image in enumerate(self.styles if config.style_weight != 0 else ()):
            seen = scaled_style(image.picture, min(height, width), config.style_scale)
            painting = to_tensor(seen).to(network.device)
            if self.regions is None:
                weight = image.weight / sum(weights)
                style += style_terms(
                    painting, network, config.style_layers, statistics=config.statistics, weight=weight
                )
            else:
                style += self.regions.terms(number, weights, painting, network, config, height, width)
        style_weight = STYLE_WEIGHTS[config.statistics] if config.style_weight is None else config.style_weight
        return Objective(network, content, style, config.content_weight, style_weight, config.tv_weight)

    def _canvas(self, picture: Picture, height: int, width: int) -> Tensor:
        return to_tensor(resize(picture, height, width)).to(self.loss_network.device)


def scale_sizes(height: int, width: int, min_size: int, size: int) -> list[tuple[int, int]]:
    """(height, width) of the scales, smallest first: long sides `size`, `size`/√2, `size`/2 … not below `min_size`."""
    long_sides = [float(size)]
    while long_sides[-1] / math.sqrt(2) >= min_size - 0.5:
        long_sides.append(long_sides[-1] / math.sqrt(2))
    return [
        (max(1, round(height * side / max(height, width))), max(1, round(width * side / max(height, width))))
        for side in reversed(long_sides)
    ]


def check_memory(
    shape: tuple[int, int], styles: Sequence[StyleImage], loss_network: LossNetwork, config: GatysConfig
) -> int:
    """Bytes that painting at (height, width) takes.

    Raises:
        TrainingError: there are not so many; the message names the largest size that fits.
        ValueError: a layer that the loss network does not have.
    """
    layers = _all_layers(config)
    if unknown := layers - set(loss_network.layers):
        raise ValueError(f"layers must be among {', '.join(loss_network.layers)}, got {', '.join(sorted(unknown))}")
    sides = [_style_shape(style.picture, min(shape), config.style_scale) for style in styles]
    share = max((height * width for height, width in sides), default=0) / (shape[0] * shape[1])
    needed = memory_needed(
        *shape, loss_network, layers, optimizer=config.optimizer, history=config.history, painting_share=share
    )
    available = available_memory(loss_network.device)
    if available is None or needed <= available:
        return needed
    aspect = min(shape) / max(shape)
    largest = largest_size(
        available,
        aspect,
        loss_network,
        layers,
        optimizer=config.optimizer,
        history=config.history,
        painting_share=share,
    )
    raise TrainingError(
        f"size must be at most {largest} to fit into the {available / 2**30:.1f} GB of memory that are free, got "
        f"{max(shape)}, which needs {needed / 2**30:.1f} GB; a smaller --history, --style-scale or --optimizer adam "
        "needs less"
    )


def resize(picture: Picture, height: int, width: int) -> Picture:
    """(H, W, 3) uint8: area averaging down, cubic up."""
    if picture.shape[:2] == (height, width):
        return picture
    smaller = height * width < picture.shape[0] * picture.shape[1]
    resized = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)
    return np.asarray(resized, dtype=np.uint8)


def enlarge(picture: Tensor, height: int, width: int) -> Tensor:
    """(1, C, h, w) in [0, 255] to (1, C, height, width), bicubic."""
    if picture.shape[-2:] == (height, width):
        return picture
    return functional.interpolate(picture, (height, width), mode="bicubic", align_corners=False).clamp(0, 255)


def _all_layers(config: GatysConfig) -> set[str]:
    content = config.content_layers if config.content_weight else {}
    style = config.style_layers if config.style_weight != 0 else {}
    return {*content, *style}


def _check_detail(painting: Picture, short_side: int, style_scale: float) -> None:
    enlarged = min(_style_shape(painting, short_side, style_scale)) / min(painting.shape[:2])
    if enlarged > 2:
        log.warning(
            "the painting is %dx%d and is enlarged %.1f times: its marks will be soft; a smaller --style-scale helps",
            painting.shape[1], painting.shape[0], enlarged,
        )  # fmt: skip


def scaled_style(painting: Picture, short_side: int, style_scale: float) -> Picture:
    """The painting at `style_scale` times the picture's short side, never so small that a layer vanishes."""
    return resize(painting, *_style_shape(painting, short_side, style_scale))


def _style_shape(painting: Picture, short_side: int, style_scale: float) -> tuple[int, int]:
    height, width = painting.shape[:2]
    factor = max(short_side * style_scale, SMALLEST) / min(height, width)
    return max(1, round(height * factor)), max(1, round(width * factor))


class _Clock:
    """Time gone and time left: an evaluation costs what its pixels cost."""

    def __init__(self, scales: Sequence[tuple[int, int]], iterations: int) -> None:
        self.scales, self.iterations = scales, iterations
        self.begun = time.perf_counter()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.begun

    def left(self, scale: int, iteration: int) -> float:
        pixels = [height * width for height, width in self.scales]
        done = self.iterations * sum(pixels[:scale]) + iteration * pixels[scale]
        return self.seconds * (self.iterations * sum(pixels) / done - 1)


def _reporter(callback: Callable[[Iterate], None], clock: _Clock, scale: int) -> Callable[[Evaluation], None]:
    def report(evaluation: Evaluation) -> None:
        callback(
            Iterate(
                scale=scale,
                scales=clock.scales,
                iteration=evaluation.number,
                iterations=clock.iterations,
                losses=evaluation.losses,
                best=evaluation.best,
                seconds=clock.seconds,
                seconds_left=clock.left(scale, evaluation.number),
                picture=lambda: to_picture(evaluation.picture.expand(-1, 3, -1, -1)),
            )
        )

    return report
