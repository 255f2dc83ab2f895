"""What a person may change while the picture runs, and the presets it is kept in."""

import json
import os
import re
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from ..training.whole_file import whole_file

Tier = Literal["fast", "quality"]

PRESET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _-]{0,47}")
"""Names are chosen in a web page and become file names: no dots, no separators."""


@dataclass(frozen=True)
class LiveSettings:
    """The state of the look; every change makes a new one."""

    style: str
    tier: Tier = "fast"
    strength: float = 1.0
    """0 is the camera's own picture, 1 the painting."""
    keep_colors: bool = False
    """Luminance of the painting, chroma of the camera."""
    smoothing: float = 0.0
    """0 to 1: how much of the last painting stays where the camera's picture did not change."""
    mirror: bool = False
    crossfade_seconds: float = 0.6
    mix_with: str = ""
    """A second painting, by its style's name, for a style that was made of one."""
    mix: float = 0.0
    """How much of the second painting, 0 to 1."""

    def __post_init__(self) -> None:
        highest = {"strength": 1.0, "smoothing": 1.0, "crossfade_seconds": 10.0, "mix": 1.0}
        for name, high in highest.items():
            value = getattr(self, name)
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= high:
                raise ValueError(f"{name} must be between 0 and {high:g}, got {value!r}")
        for name in ("keep_colors", "mirror"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be true or false, got {getattr(self, name)!r}")
        if self.tier not in get_args(Tier):
            raise ValueError(f"tier must be one of {', '.join(get_args(Tier))}, got {self.tier!r}")
        if not isinstance(self.mix_with, str):
            raise ValueError(f"mix_with must be a style's name, got {self.mix_with!r}")
        if not isinstance(self.style, str) or not self.style:
            raise ValueError(f"style must be a name, got {self.style!r}")

    def changed(self, changes: Mapping[str, Any]) -> "LiveSettings":
        """These settings with some replaced; `ValueError` for an unknown name or a value out of range."""
        known = [f.name for f in fields(self)]
        for name in changes:
            if name not in known:
                raise ValueError(f"setting must be one of {', '.join(known)}, got {name!r}")
        return replace(self, **changes)


def config_folder() -> Path:
    """Where this user's presets, styles and keys are kept."""
    import typer

    return Path(os.environ.get("IMPASTO_CONFIG") or typer.get_app_dir("impasto"))


def preset_names() -> list[str]:
    """Presets of this user, sorted."""
    folder = config_folder() / "presets"
    return sorted(p.stem for p in folder.glob("*.toml")) if folder.is_dir() else []


def save_preset(name: str, settings: LiveSettings, *, overwrite: bool = False) -> Path:
    """Keep `settings` under `name`; returns the file."""
    path = _preset_path(name)
    if path.exists() and not overwrite:
        raise ValueError(f"preset must have a new name, got {name!r}, which exists")
    path.parent.mkdir(parents=True, exist_ok=True)
    # A JSON string, number or boolean is the same thing in TOML.
    text = "".join(f"{key} = {json.dumps(value)}\n" for key, value in asdict(settings).items())
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")
    return path


def load_preset(name: str) -> dict[str, Any]:
    """The settings kept under `name`, unchecked; `ValueError` names what exists."""
    path = _preset_path(name)
    if not path.is_file():
        raise ValueError(f"preset must be one of {', '.join(preset_names()) or '(none saved yet)'}, got {name!r}")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ValueError(f"preset {name!r} must be TOML, got {path}: {exc}") from exc


def styles_of_presets() -> set[str]:
    """The styles that this user's presets name, installed or not; presets that cannot be read name none."""
    named: set[str] = set()
    for name in preset_names():
        with suppress(ValueError, OSError):
            preset = load_preset(name)
            named |= {str(preset.get("style", "")), str(preset.get("mix_with", ""))}
    return named


def delete_preset(name: str) -> None:
    """Forget a preset; `ValueError` if there is none of that name."""
    load_preset(name)
    _preset_path(name).unlink()


def _preset_path(name: str) -> Path:
    if not PRESET_NAME.fullmatch(name):
        raise ValueError(f"preset name must be 1 to 48 of a to z, A to Z, 0 to 9, space, '-' and '_', got {name!r}")
    return config_folder() / "presets" / f"{name}.toml"
