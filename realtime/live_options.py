"""Everything that a live run can be told on the command line. Light to import."""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..export.sides import parse_sides
from .size import MAX_SIDE, MIN_SIDE

DEFAULT_PORT = 8420


@dataclass(frozen=True)
class LiveOptions:
    """The command line of `stylize-webcam`, parsed."""

    source: str
    look: dict[str, Any]
    preset: str | None
    size: tuple[int, int] | None
    """(height, width)."""
    fps: float | None
    pixel_format: str | None
    backend: str
    paint_size: int
    latency_budget_ms: float | None
    virtual_camera: bool
    virtual_camera_device: str | None
    window: bool
    record: Path | None
    microphone: str | None
    push: Sequence[str]
    bitrate: int
    stdout: bool
    panel: bool
    open_browser: bool
    port: int | None
    listen: str
    allow_host: Sequence[str]
    folder: Path | None
    normalization: str
    device: str
    precision: str
    wait: bool
    seconds: float | None
    time_code: bool
    overwrite: bool
    as_json: bool
    quiet: bool


def parse_size(text: str | None) -> tuple[int, int] | None:
    """(height, width) of "720p" (16:9) or "1280x720"."""
    if text is None:
        return None
    if match := re.fullmatch(r"(\d{2,4})p", text):
        height = int(match[1])
        size = height, round(height * 16 / 9 / 2) * 2
    else:
        size = parse_sides(text, "--size", "720p")
    if not all(MIN_SIDE <= side <= MAX_SIDE for side in size):
        raise ValueError(f"--size must give sides of {MIN_SIDE} to {MAX_SIDE} pixels, got {text!r}")
    return size


def parse_budget(text: str) -> float | None:
    """Milliseconds of "80ms", "80" or "0.08s"; None of "off"."""
    if text == "off":
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s)?", text)
    if not match or float(match[1]) == 0:
        raise ValueError(f"latency budget must be like 80ms, or off, got {text!r}")
    return float(match[1]) * (1000.0 if match[2] == "s" else 1.0)


def default_folder() -> Path:
    """Where this user keeps films, with a folder of ours in it."""
    videos = Path.home() / ("Movies" if sys.platform == "darwin" else "Videos")
    return (videos if videos.is_dir() else Path.home()) / "Impasto"
