"""`impasto gatys`, with this package's reader of films."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..training.gatys_cli import gatys_app

if TYPE_CHECKING:
    from ..training.gatys_video import Film


@contextmanager
def _open_film(path: Path) -> "Iterator[Film]":
    from .gatys_film import open_film

    with open_film(path) as film:
        yield film


app = gatys_app(_open_film)
