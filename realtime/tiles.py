"""Frames larger than memory: an engine that paints in tiles with the whole frame's statistics.

The method is `engine_statistics.measure_tiled`'s; here it stands behind the `Engine` contract, for films and pictures.
"""

from collections.abc import Callable

import numpy as np

from ..export.artifact import Artifact
from ..export.statistics import StatisticsLayout, Vector, Vectors
from .engine import Batch, Done, EngineInfo, Library, Pending, check_batch
from .engine_statistics import DEFAULT_TILE, StatisticsEngine, load_statistics_engine, measure_tiled, paint_tiles
from .frame import Picture

ONE_PIECE_PIXELS = 4096 * 2304
"""Larger frames are painted in tiles unless the user says otherwise: one piece of 4K takes 1.8 GB, of 8K four times
as much."""
MIN_TILE = 256


class TiledEngine:
    """Paints each frame in tiles as if in one piece, within 1/255. Slow: a part of the network runs again and again.

    Called as an `Engine`, it measures each frame before it paints it; with given statistics, `start`, it paints in one
    pass, as `StatisticsEngine` does frames that fit into memory.
    """

    def __init__(self, engine: StatisticsEngine, *, tile: int = DEFAULT_TILE) -> None:
        """
        Args:
            engine: owned from here on.
            tile: side of a window in pixels, its margins included.
        """
        check_tile(tile)
        self._engine = engine
        self._tile = tile

    @property
    def info(self) -> EngineInfo:
        return self._engine.info

    @property
    def stride(self) -> int:
        return self._engine.stride

    @property
    def layout(self) -> StatisticsLayout:
        return self._engine.layout

    def __call__(self, frames: Batch) -> Batch:
        check_batch(frames, self.stride)
        return np.stack([self._paint(frame, self.layout.affine(self._measure(frame))) for frame in frames])

    def start(self, frame: Batch, affine: Vectors) -> Pending:
        """See `StatisticsEngine.start`; everything is done when it returns."""
        return Done({"stylized": self._paint(frame[0], affine)[np.newaxis]})

    def start_measuring(self, frame: Batch) -> Callable[[], Vector]:
        """See `StatisticsEngine.start_measuring`; takes as many passes as there are normalisations."""
        statistics = self._measure(frame[0])
        return lambda: statistics

    def warmup(self, height: int, width: int) -> None:
        """Nothing to gain: a frame takes seconds, and its tiles have one size from the first on."""

    def close(self) -> None:
        self._engine.close()

    def _measure(self, frame: Picture) -> Vector:
        return measure_tiled(self._engine, frame, tile=self._tile)

    def _paint(self, frame: Picture, affine: Vectors) -> Picture:
        return paint_tiles(self._engine, frame, affine, tile=self._tile)


def load_tiled_engine(
    artifact: Artifact,
    *,
    tile: int = DEFAULT_TILE,
    device: str = "auto",
    precision: str = "auto",
    library: Library | None = None,
    threads: int = 0,
) -> TiledEngine:
    """As `load_engine`, in tiles, on whatever that would choose."""
    check_tile(tile)
    engine = load_statistics_engine(artifact, device=device, precision=precision, library=library, threads=threads)
    return TiledEngine(engine, tile=tile)


def check_tile(tile: int) -> None:
    """Refuse a window that would be mostly margin."""
    if tile < MIN_TILE:
        raise ValueError(f"tile must be at least {MIN_TILE} pixels, got {tile}")


def tile_for(height: int, width: int, wanted: int | None) -> int | None:
    """The tile to paint a frame of this size with; None for one piece.

    `wanted` is the user's: None leaves it to the frame's size, 0 is one piece.
    """
    if wanted is not None:
        return wanted or None
    return None if height * width <= ONE_PIECE_PIXELS else DEFAULT_TILE
