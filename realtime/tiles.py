"""Frames larger than memory: an engine that paints in tiles with the whole frame's statistics.

The method is `engine_statistics.paint_tiled`'s; here it stands behind the `Engine` contract, for films and pictures.
"""

import logging

import numpy as np

from ..export.artifact import Artifact
from .engine import BACKENDS, Batch, EngineInfo, EngineOptions, Library, PrecisionChoice, check_batch, load_engine
from .engine_statistics import DEFAULT_TILE, StatisticsEngine, paint_tiled
from .errors import EngineError

logger = logging.getLogger(__name__)

ONE_PIECE_PIXELS = 4096 * 2304
"""Larger frames are painted in tiles unless the user says otherwise: one piece of 4K takes 1.8 GB, of 8K four times
as much."""
MIN_TILE = 256


class TiledEngine:
    """Paints each frame in tiles as if in one piece, within 1/255. Slow: as many passes as there are normalisations."""

    def __init__(self, engine: StatisticsEngine, *, tile: int = DEFAULT_TILE) -> None:
        """
        Args:
            engine: owned from here on.
            tile: side of a window in pixels, its margins included.
        """
        if tile < MIN_TILE:
            raise ValueError(f"tile must be at least {MIN_TILE} pixels, got {tile}")
        self._engine = engine
        self._tile = tile

    @property
    def info(self) -> EngineInfo:
        return self._engine.info

    @property
    def stride(self) -> int:
        return self._engine.stride

    def __call__(self, frames: Batch) -> Batch:
        check_batch(frames, self.stride)
        return np.stack([paint_tiled(self._engine, frame, tile=self._tile)[0] for frame in frames])

    def warmup(self, height: int, width: int) -> None:
        """Nothing to gain: a frame takes seconds, and its tiles have one size from the first on."""

    def close(self) -> None:
        self._engine.close()


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
    engine = load_engine(artifact, device=device, precision=precision, library=library, threads=threads)
    info = engine.info
    engine.close()
    chosen: PrecisionChoice = info.precision
    hardware = "cpu" if info.device.upper().startswith("CPU") else "gpu"
    for backend in BACKENDS:
        if (backend.library, backend.hardware) != (info.name, hardware):
            continue
        tiled = TiledEngine(
            StatisticsEngine(artifact, backend, EngineOptions(precision=chosen, threads=threads)), tile=tile
        )
        try:
            if tiled.info == info:
                return tiled
        except EngineError as exc:
            logger.debug("no tiles with %s: %s", backend, exc)
        tiled.close()
    raise EngineError(f"tiles must be painted by a library that can hold statistics, got {info}")


def tile_for(height: int, width: int, wanted: int | None) -> int | None:
    """The tile to paint a frame of this size with; None for one piece.

    `wanted` is the user's: None leaves it to the frame's size, 0 is one piece.
    """
    if wanted is not None:
        return wanted or None
    if height * width <= ONE_PIECE_PIXELS:
        return None
    logger.warning(
        "%dx%d is painted in tiles to fit into memory, which takes several times as long; --tile 0 paints in one piece",
        width,
        height,
    )
    return DEFAULT_TILE
