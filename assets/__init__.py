"""The styles that ship and the demo clip, as files beside this one, and the user's own styles.

>>> from impasto.assets import DEMO_CLIP, find_style, installed_styles
>>> "starry-night" in installed_styles()
True
>>> find_style("starry-night").name
'starry-night.fast.onnx'
>>> DEMO_CLIP.is_file()
True
"""

import os
import secrets
import sys
from contextlib import suppress
from pathlib import Path
from typing import Literal, get_args

from ..export.errors import ArtifactError

Tier = Literal["fast", "quality"]

__all__ = [
    "DEMO_CLIP",
    "Tier",
    "find_style",
    "installed_styles",
    "remove_style",
    "shipped_styles",
    "style_folders",
    "user_styles",
]

DEMO_CLIP = Path(__file__).with_name("demo.mp4")
"""Four seconds of 640x360 with sound."""


def style_folders() -> tuple[Path, ...]:
    """Where styles are looked for, the user's own first: a style of theirs hides all of ours of the same name."""
    return user_styles(), Path(__file__).with_name("styles")


def user_styles() -> Path:
    """Folder of the user's own styles; IMPASTO_STYLES names another. It need not exist."""
    if named := os.environ.get("IMPASTO_STYLES"):
        return Path(named)
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME", Path.home() / ".local" / "share"))
    return base / "impasto" / "styles"


def installed_styles() -> dict[str, dict[Tier, Path]]:
    """Style name to its artifacts by tier, sorted by name. Files are `NAME.TIER.onnx`; nothing is opened."""
    found: dict[str, dict[Tier, Path]] = {}
    for folder in reversed(style_folders()):
        found |= _styles_in(folder)  # a style hides another whole: tiers of two paintings are no style
    return dict(sorted(found.items()))


def shipped_styles() -> frozenset[str]:
    """Names of the styles that ship, also of one that a style of the user's own hides."""
    return frozenset(_styles_in(style_folders()[-1]))


def _styles_in(folder: Path) -> dict[str, dict[Tier, Path]]:
    found: dict[str, dict[Tier, Path]] = {}
    for path in sorted(folder.glob("*.*.onnx")) if folder.is_dir() else ():  # fast before quality
        name, tier = path.name.removesuffix(".onnx").rsplit(".", 1)
        if tier in get_args(Tier):
            found.setdefault(name, {})[tier] = path  # type: ignore[index]
    return found


def remove_style(name: str, tier: str | None = None) -> list[Path]:
    """Take away a style of the user's own, or one tier of it; returns the files that are gone.

    Raises:
        ArtifactError: there is none (those that ship stay), or a file cannot be removed; then all of them are left.
    """
    wanted = {f"{name}.{one}{kind}.onnx" for one in ((tier,) if tier else get_args(Tier)) for kind in ("", ".int8")}
    own = sorted(path for path in user_styles().glob("*.*.onnx") if path.name in wanted)
    if not own:
        raise ArtifactError(f"no style of your own is called {name!r}{f' ({tier})' if tier else ''} in {user_styles()}")
    hidden: dict[Path, Path] = {}  # first all are put aside, where a failure can be taken back
    try:
        for path in own:
            aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
            with suppress(FileNotFoundError):  # somebody else removes it as well
                hidden[path] = path.rename(aside)
    except OSError as exc:
        for before, aside in hidden.items():
            aside.rename(before)
        raise ArtifactError(f"{path} cannot be removed: {exc.strerror or exc}") from exc
    for aside in hidden.values():
        with suppress(OSError):
            aside.unlink()
    return own


def find_style(name: str, tier: str | None = None) -> Path:
    """The artifact of an installed style; without a tier the fast one, else what there is.

    Raises:
        ArtifactError: no such style or tier; the message names those that are there.
    """
    styles = installed_styles()
    if name not in styles:
        raise ArtifactError(
            f"style must be one of {', '.join(styles) or 'none installed'}, or a .onnx file, got {name!r}; videos, "
            "pictures and cameras also take a painting (a picture file), the first two a blend a:0.7,b:0.3"
        )
    tiers = styles[name]
    if tier is None:
        return tiers.get("fast") or next(iter(tiers.values()))
    for known, path in tiers.items():
        if known == tier:
            return path
    raise ArtifactError(f"tier of {name} must be one of {', '.join(sorted(tiers))}, got {tier!r}")


def any_painting() -> tuple[Path, Path]:
    """Stylizer and style encoder that paint like any painting: the user's own if there are some, else ours.

    Raises:
        ArtifactError: there are none.
    """
    for folder in style_folders():
        stylizer, encoder = folder / "any.stylizer.onnx", folder / "any.style-encoder.onnx"
        if stylizer.is_file() and encoder.is_file():
            return stylizer, encoder
    raise ArtifactError(
        f"any.stylizer.onnx and any.style-encoder.onnx must lie in {user_styles()} to paint like a picture"
    )
