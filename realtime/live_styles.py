"""The styles a live run can choose from: what is installed, how it looks, and taking in new ones."""

import logging
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..assets import DEMO_CLIP, find_style, installed_styles, user_styles
from ..export.artifact import Artifact, load_artifact
from .engine import Engine, load_engine
from .errors import ArtifactError, EngineError, ImpastoError
from .frame import Picture
from .live_painter import cover
from .live_settings import Tier, config_folder

logger = logging.getLogger(__name__)

STYLE_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,47}")
PREVIEW_SIZE = (180, 320)
"""(height, width) of a gallery picture."""


@dataclass(frozen=True)
class StyleEntry:
    """One card of the gallery."""

    name: str
    tiers: tuple[str, ...]
    title: str = ""
    artist: str = ""
    year: str = ""
    licence: str = ""
    problem: str = ""
    """Why it cannot be used, or ""."""


class StyleShelf:
    """Installed styles, and one more that was named by its path. Methods may be called from any thread."""

    def __init__(
        self,
        *,
        extra: Path | None = None,
        load: Callable[[Artifact], Engine] = load_engine,
    ) -> None:
        """
        Args:
            extra: an artifact outside the style folders; it is known by the name in its metadata.
            load: turns an artifact into an engine: device and precision are its business.
        """
        self._load = load
        self._lock, self._previewing = threading.Lock(), threading.Lock()
        self._artifacts: dict[tuple[Path, int], Artifact | ArtifactError] = {}
        self._previews: dict[str, bytes] = {}
        self._extra = load_artifact(extra) if extra is not None else None

    @property
    def extra_name(self) -> str:
        """Name of the artifact that was given by its path, or ""."""
        return self._extra.metadata.name if self._extra else ""

    @property
    def extra_tier(self) -> str:
        """Its tier, or ""."""
        return self._extra.metadata.tier if self._extra else ""

    def entries(self) -> list[StyleEntry]:
        """Every style, by name."""
        styles = {name: dict(tiers) for name, tiers in installed_styles().items()}
        if self._extra is not None:
            styles.setdefault(self._extra.metadata.name, {})[self._extra.metadata.tier] = self._extra.path
        return [self._entry(name, styles[name]) for name in sorted(styles)]

    def open(self, name: str, tier: Tier) -> Engine:
        """Load a style; an `ImpastoError` says why not."""
        return self._load(self._find(name, tier))

    def preview(self, name: str) -> bytes | None:
        """A JPEG of the style on a photograph: the one that ships beside it, else one painted here and now."""
        entry = next((entry for entry in self.entries() if entry.name == name), None)
        if entry is None:
            return None
        with self._previewing:  # one after the other: a gallery must not slow the live picture down
            if name not in self._previews:
                self._previews[name] = self._shipped_preview(name) or self._kept_preview(entry)
            return self._previews[name] or None

    def add(self, upload: Path) -> StyleEntry:
        """Check an uploaded artifact and move it to the user's styles under the name in its own metadata.

        Raises:
            ArtifactError: it is no safe artifact, or another style has that name.
        """
        artifact = load_artifact(upload)
        name, tier = artifact.metadata.name, artifact.metadata.tier
        if artifact.metadata.kind != "single":
            raise ArtifactError(
                f"style must be learned from one painting, got an artifact for {artifact.metadata.kind}"
            )
        if not STYLE_NAME.fullmatch(name):
            raise ArtifactError(f"style name must be lower-case letters, digits, '-' or '_', got {name!r}")
        target = user_styles() / f"{name}.{tier}.onnx"
        if name in installed_styles() and tier in installed_styles()[name]:
            if load_artifact(find_style(name, tier)).sha256 == artifact.sha256:
                upload.unlink()
                return self._entry(name, installed_styles()[name])
            raise ArtifactError(f"style must have a new name, got {name} ({tier}), which is installed")
        target.parent.mkdir(parents=True, exist_ok=True)
        upload.replace(target)
        return self._entry(name, installed_styles()[name])

    def _find(self, name: str, tier: Tier) -> Artifact:
        if self._extra is not None and (name, tier) == (self._extra.metadata.name, self._extra.metadata.tier):
            return self._extra
        return self._artifact(find_style(name, tier))

    def _entry(self, name: str, tiers: dict[Tier, Path]) -> StyleEntry:
        path = tiers.get("fast") or next(iter(tiers.values()))
        try:
            artifact = self._artifact(path)
        except ArtifactError as exc:
            return StyleEntry(name, tuple(sorted(tiers)), problem=str(exc))
        style = artifact.metadata.style
        return StyleEntry(name, tuple(sorted(tiers)), style.title, style.artist, style.year, style.licence)

    def _artifact(self, path: Path) -> Artifact:
        try:
            key = (path, path.stat().st_mtime_ns)
        except OSError as exc:
            raise ArtifactError(f"{path} cannot be read: {exc.strerror}") from exc
        with self._lock:
            if key not in self._artifacts:
                try:
                    self._artifacts[key] = load_artifact(path)
                except ArtifactError as exc:
                    self._artifacts[key] = exc
            artifact = self._artifacts[key]
        if isinstance(artifact, ArtifactError):
            raise artifact
        return artifact

    def _shipped_preview(self, name: str) -> bytes:
        for path in installed_styles().get(name, {}).values():
            for picture in (path.with_name(f"{name}.jpg"), path.with_suffix(".jpg")):
                if picture.is_file():
                    return picture.read_bytes()
        return b""

    def _kept_preview(self, entry: StyleEntry) -> bytes:
        """Painted once and kept beside the user's settings, under the artifact's own sum."""
        if entry.problem:
            return b""
        tier: Tier = "fast" if "fast" in entry.tiers else "quality"
        try:
            kept = config_folder() / "previews" / f"{self._find(entry.name, tier).sha256}.jpg"
            if kept.is_file():
                return kept.read_bytes()
            jpeg = self._painted_preview(entry.name, tier)
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_bytes(jpeg)
        except (ImpastoError, OSError) as exc:
            logger.warning("no preview of %s: %s", entry.name, exc)
            return b""
        return jpeg

    def _painted_preview(self, name: str, tier: Tier) -> bytes:
        import cv2

        engine = self.open(name, tier)
        try:
            still = _still()
            height, width = (edge + -edge % engine.stride for edge in still.shape[:2])
            painted = engine(cover(still, (height, width))[np.newaxis])[0]
        except Exception as exc:  # whatever a strange artifact does to an engine, the gallery goes on without it
            raise EngineError(f"{name} cannot paint: {exc}") from exc
        finally:
            engine.close()
        _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(painted, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 85])
        return bytes(jpeg)


def _still() -> Picture:
    from .source_file import VideoFile

    with VideoFile(DEMO_CLIP) as clip:
        return cover(next(iter(clip)).data, PREVIEW_SIZE)
