"""Statistics in the caller's hands: pictures that do not breathe, and frames larger than memory.

`export.statistics` says what the statistics are and makes the graphs; here they are run.
"""

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..export.artifact import Artifact, parse_model
from ..export.graph import receptive_margin
from ..export.statistics import (
    INSET,
    StatisticsLayout,
    Vector,
    Vectors,
    hold_statistics,
    layout_of,
    measure_statistics,
)
from .engine import (
    BACKENDS,
    Backend,
    Batch,
    EngineInfo,
    EngineOptions,
    Library,
    Pending,
    PrecisionChoice,
    Runner,
    Tensors,
    check_batch,
)
from .engine_choice import load_engine
from .errors import EngineError

logger = logging.getLogger(__name__)

Picture = npt.NDArray[np.uint8]
"""(H, W, 3) uint8 RGB."""

DEFAULT_TILE = 1024
"""Pixels. A tile of the fast network then needs some 150 MB, and a margin of 48 costs a fifth of the work."""
MeasureLayer = Callable[[Batch, Vectors, tuple[int, int, int, int]], Vectors]
"""The (2C,) moments of a layer in a (1, H, W, 3) window, all layers before normalised by (1, K) factors and summands.
So many pixels at the window's top, left, bottom and right, multiples of the stride, are not measured."""


class StatisticsEngine:
    """A style that paints with given statistics, and tells those of a frame. One thread at a time."""

    def __init__(self, artifact: Artifact, backend: Backend, options: EngineOptions = EngineOptions()) -> None:  # noqa: B008 (frozen)
        self._artifact, self._backend, self._options = artifact, backend, options
        self._model = parse_model(artifact)
        self._runners: dict[str, Runner] = {}
        self.layout = layout_of(self._model)
        """What the numbers of a (K,) vector of statistics are."""
        self.stride = artifact.metadata.stride
        self.margin = math.ceil(receptive_margin(self._model) / self.stride) * self.stride
        """Pixels around a tile that its inner part depends on, rounded up to the stride."""

    @property
    def info(self) -> EngineInfo:
        return self._runner("held").info

    def measure(self, frame: Batch) -> tuple[Batch, Vector]:
        """The (1, H, W, 3) frame painted as the plain engine paints it, and its (K,) statistics."""
        self._check(frame)
        outputs = self._runner("measuring").start({"frame": np.ascontiguousarray(frame)}).result()
        return outputs["stylized"], self.layout.statistics([(outputs["moments"][0], _area(frame))])

    def start_measuring(self, frame: Batch) -> Callable[[], Vector]:
        """Begin to measure a (1, H, W, 3) frame, which must not change; the call waits for its (K,) statistics."""
        self._check(frame)
        pending = self._runner("only measuring").start({"frame": np.ascontiguousarray(frame)})
        return lambda: self.layout.statistics([(pending.result()["moments"][0], _area(frame))])

    def paint(self, frame: Batch, statistics: Vector) -> Batch:
        """The (1, H, W, 3) frame painted with (K,) statistics; takes less time than with its own."""
        painted: Batch = self.start(frame, self.layout.affine(statistics)).result()["stylized"]
        return painted

    def start(self, frame: Batch, affine: Vectors) -> Pending:
        """Begin to paint with (1, K) factors and summands; the picture is the result's `stylized`."""
        self._check(frame)
        return self._runner("held").start({"frame": np.ascontiguousarray(frame), "affine": affine})

    @contextmanager
    def measuring(self, index: int, shape: tuple[int, ...]) -> "Iterator[MeasureLayer]":
        """What measures one layer, computing no further than that, for windows of one (1, H, W, 3) `shape`.

        A graph of its own, freed at the end of the block: the memory of all of them would be that of as many networks.
        """
        graph = hold_statistics(self._model, measure=index).SerializeToString()
        runner = self._backend.open_runner(self._artifact, graph, self._options)
        runner.prepare({"frame": shape, "affine": (1, self.layout.size), INSET: (4,)})

        def measure(frame: Batch, affine: Vectors, inset: tuple[int, int, int, int]) -> Vectors:
            self._check(frame)
            inputs: Tensors = {
                "frame": np.ascontiguousarray(frame), "affine": affine, INSET: np.array(inset, np.int64)
            }  # fmt: skip
            moments: Vectors = runner.start(inputs).result()["moments"][0]
            return moments

        try:
            yield measure
        finally:
            runner.close()

    def warmup(self, height: int, width: int) -> None:
        """Compile what measures and what paints for this size, so that a film is painted by one graph throughout."""
        frame = np.zeros((1, height, width, 3), np.uint8)
        self._runner("only measuring").prepare({"frame": frame.shape})
        self._runner("held").prepare({"frame": frame.shape, "affine": (1, self.layout.size)})
        self.paint(frame, self.start_measuring(frame)())

    def close(self) -> None:
        for runner in self._runners.values():
            runner.close()
        self._runners.clear()

    def _runner(self, kind: str) -> Runner:
        if kind not in self._runners:
            if kind in ("measuring", "only measuring"):
                changed = measure_statistics(self._model, paint=kind == "measuring")
            else:
                changed = hold_statistics(self._model)
            graph = changed.SerializeToString()
            self._runners[kind] = self._backend.open_runner(self._artifact, graph, self._options)
        return self._runners[kind]

    def _check(self, frame: Batch) -> None:
        check_batch(frame, self.stride)
        if len(frame) != 1:
            raise ValueError(f"a frame must be (1, H, W, 3), got {frame.shape}")


def load_statistics_engine(
    artifact: Artifact,
    *,
    device: str = "auto",
    precision: str = "auto",
    library: Library | None = None,
    threads: int = 0,
    in_flight: int = 1,
) -> StatisticsEngine:
    """A style with its statistics in the caller's hands, on whatever `load_engine` would choose.

    Raises:
        EngineError: nothing that was asked for can run here, or not with statistics from outside.
    """
    if precision == "int8":
        raise EngineError("precision must be one of fp32, bf16, fp16 for carried statistics or tiles, got int8")
    engine = load_engine(artifact, device=device, precision=precision, library=library, threads=threads)
    engine.close()
    return open_statistics(artifact, engine.info, threads=threads, in_flight=in_flight)


def open_statistics(artifact: Artifact, info: EngineInfo, *, threads: int = 0, in_flight: int = 1) -> StatisticsEngine:
    """As `load_statistics_engine`, where it is known what the style runs on."""
    hardware = "cpu" if info.device.upper().startswith("CPU") else "gpu"
    # Where int8 won, the float precision that the device is fastest in.
    precision: PrecisionChoice = "auto" if info.precision == "int8" else info.precision
    options = EngineOptions(index=info.index, precision=precision, threads=threads, in_flight=in_flight)
    for backend in BACKENDS:
        if (backend.library, backend.hardware) != (info.name, hardware):
            continue
        engine = StatisticsEngine(artifact, backend, options)
        try:
            if engine.info.device == info.device:
                return engine
        except EngineError as exc:
            logger.debug("no statistics with %s: %s", backend, exc)
        engine.close()
    raise EngineError(f"statistics from outside need a library that takes any graph, got {info}")


@dataclass(frozen=True)
class Tile:
    """A window of the frame and its inner part, which is the tile's own; rows and columns of the frame."""

    window: tuple[slice, slice]
    inner: tuple[slice, slice]

    @property
    def inset(self) -> tuple[int, int, int, int]:
        """Pixels of the window at the top, left, bottom and right that belong to other tiles."""
        (rows, columns), (own_rows, own_columns) = self.window, self.inner
        return (
            own_rows.start - rows.start,
            own_columns.start - columns.start,
            rows.stop - own_rows.stop,
            columns.stop - own_columns.stop,
        )

    @property
    def area(self) -> int:
        """Pixels of the inner part."""
        return math.prod(part.stop - part.start for part in self.inner)


def measure_tiled(engine: StatisticsEngine, frame: Picture, *, tile: int = DEFAULT_TILE) -> Vector:
    """The (K,) statistics that a frame has in one piece, measured in tiles.

    A layer can only be measured once the statistics of all layers before it are right, so each takes a pass over the
    tiles of its own, which computes no further than that layer. With the picture, all passes of the fast network take
    about 7 times as long as painting in tiles with known statistics.
    Chen et al. 2022 (URST, arXiv 2103.11784) take those of a thumbnail, which shifts colours: here the later layers
    moved by hundreds of deviations.

    Args:
        engine: the style.
        frame: (H, W, 3) uint8 RGB, sides multiples of the stride.
        tile: side of a window in pixels, its margins included.
    """
    check_batch(frame[np.newaxis], engine.stride)
    tiles = list(tiles_of(frame.shape[0], frame.shape[1], tile=tile, margin=engine.margin, stride=engine.stride))
    statistics = np.zeros(engine.layout.size)  # a layer's zeros are read by no layer before it
    start = 0
    for index, layer in enumerate(engine.layout.layers):
        alone = StatisticsLayout((layer,))
        affine = engine.layout.affine(statistics)
        with engine.measuring(index, frame[tiles[0].window][np.newaxis].shape) as measure:
            parts = [(measure(frame[part.window][np.newaxis], affine, part.inset), part.area) for part in tiles]
        statistics[start : start + alone.size] = alone.statistics(parts)
        start += alone.size
    return statistics


def paint_tiles(engine: StatisticsEngine, frame: Picture, affine: Vectors, *, tile: int = DEFAULT_TILE) -> Picture:
    """A frame painted in tiles with (1, K) factors and summands: one pass. (H, W, 3) as for `measure_tiled`."""
    check_batch(frame[np.newaxis], engine.stride)
    painted = np.empty_like(frame)
    for part in tiles_of(frame.shape[0], frame.shape[1], tile=tile, margin=engine.margin, stride=engine.stride):
        painted[part.inner] = _inner(engine.start(frame[part.window][np.newaxis], affine).result()["stylized"][0], part)
    return painted


def tiles_of(height: int, width: int, *, tile: int, margin: int, stride: int) -> Iterator[Tile]:
    """Tiles whose inner parts cover a frame exactly once; all windows have one size and stay inside the frame."""
    for window_rows, inner_rows in _spans(height, tile, margin, stride):
        for window_columns, inner_columns in _spans(width, tile, margin, stride):
            yield Tile((window_rows, window_columns), (inner_rows, inner_columns))


def _spans(size: int, tile: int, margin: int, stride: int) -> Iterator[tuple[slice, slice]]:
    """Windows along one axis with the part that is each one's own."""
    window = tile - tile % stride
    if size <= window:
        yield slice(0, size), slice(0, size)
        return
    step = window - 2 * margin
    if step < stride:
        raise ValueError(f"tile must be at least {2 * margin + stride} pixels for this style, got {tile}")
    start = 0
    while start < size:
        # The first and the last window lie at the frame's border, where there is no margin to leave.
        first = max(0, min(start - margin, size - window))
        stop = size if first + window >= size else first + window - margin
        yield slice(first, first + window), slice(start, stop)
        start = stop


def _inner(picture: Picture, tile: Tile) -> Picture:
    top, left, bottom, right = tile.inset
    return picture[top : picture.shape[0] - bottom, left : picture.shape[1] - right]


def _area(frame: Batch) -> int:
    return int(frame.shape[1] * frame.shape[2])
