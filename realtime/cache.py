"""Where things that can be made again are kept between runs."""

import os
import sys
from pathlib import Path


def cache_folder(name: str) -> Path:
    """This user's cache folder of that name, created if need be. IMPASTO_CACHE overrides the place."""
    folder = _root() / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _root() -> Path:
    if place := os.environ.get("IMPASTO_CACHE"):
        return Path(place)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "impasto" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "impasto"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "impasto"
