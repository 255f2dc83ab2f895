"""The styles a live run can choose from: what is installed, how it looks, and taking in new ones."""

import hashlib
import itertools
import logging
import re
import threading
import time
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..assets import DEMO_CLIP, find_style, installed_styles, remove_style, shipped_styles, user_styles
from ..export.arbitrary import Vector
from ..export.artifact import Artifact, StyleOrigin, load_artifact, load_style
from .engine import Engine
from .engine_choice import load_engine
from .errors import ArtifactError, EngineError, ImpastoError
from .frame import Picture
from .live_painter import cover
from .live_paintings import PaintingEngines
from .live_settings import Tier, config_folder, styles_of_presets
from .paintings import StyleBook, vector_of

logger = logging.getLogger(__name__)

STYLE_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,47}")
MOST_UPLOADED_PIXELS = 2**26
"""67 megapixels, 200 MB while a painting is read: what a camera takes at most, and what a page may ask of us."""
PREVIEW_SIZE = (180, 320)
"""(height, width) of a gallery picture."""


@dataclass(frozen=True)
class StyleEntry:
    """One card of the gallery."""

    name: str
    tiers: tuple[Tier, ...]
    title: str = ""
    artist: str = ""
    year: str = ""
    licence: str = ""
    painting: bool = False
    """Made of a picture, and so mixed and faded by its vector."""
    problem: str = ""
    """Why it cannot be used, or ""."""
    sha256: str = ""
    """Of its artifact: another painting under the same name has another."""
    removable: bool = False
    """One of the user's own; those that ship stay."""


class StyleShelf:
    """Installed styles, and one more that was named by its path. Methods may be called from any thread."""

    def __init__(
        self,
        *,
        extra: Path | None = None,
        load: Callable[[Artifact], Engine] = load_engine,
        book: StyleBook | None = None,
    ) -> None:
        """
        Args:
            extra: an artifact outside the style folders; it is known by the name in its metadata.
            load: turns an artifact into an engine: device and precision are its business.
            book: makes styles of paintings.
        """
        self._book = book or StyleBook()
        self._paintings = PaintingEngines(lambda: self._load(self._book.networks.stylizer))
        self._vectors: dict[str, Vector | None] = {}
        self._load = load
        self._lock, self._previewing = threading.Lock(), threading.Lock()
        self._artifacts: dict[tuple[Path, int], Artifact | ArtifactError] = {}
        self._previews: dict[str, bytes] = {}
        """By the artifact's sum."""
        self._extra = load_style(extra) if extra is not None else None
        self._extra_since = time.time_ns()

    @property
    def extra_name(self) -> str:
        """Name of the artifact that was given by its path, or ""."""
        return self._extra.metadata.name if self._extra else ""

    @property
    def extra_tier(self) -> str:
        """Its tier, or ""."""
        return self._extra.metadata.tier if self._extra else ""

    def entries(self) -> list[StyleEntry]:
        """Every style: those that ship by name, then the user's own in the order in which they were added.

        A style of theirs gives no other another number.
        """
        return [self._entry(name, tiers) for name, tiers in self._styles().items()]

    def version(self) -> str:
        """Another one as soon as a style comes, goes or is replaced."""
        files = [path for tiers in self._styles().values() for path in tiers.values()]
        return hashlib.sha256(repr([(str(path), _changed_at(path)) for path in files]).encode()).hexdigest()[:16]

    def tiers(self, name: str) -> tuple[Tier, ...]:
        """Those that a style has; none if there is no such style."""
        return tuple(sorted(self._styles().get(name, {})))

    def _styles(self) -> dict[str, dict[Tier, Path]]:
        styles = {name: dict(tiers) for name, tiers in installed_styles().items()}
        ship = shipped_styles()
        added_at = {n: 0 if n in ship else min(map(_changed_at, tiers.values())) for n, tiers in styles.items()}
        if (extra := self._extra) is not None:
            added_at.setdefault(extra.metadata.name, self._extra_since)
            styles.setdefault(extra.metadata.name, {})[extra.metadata.tier] = extra.path
        return dict(sorted(styles.items(), key=lambda style: added_at[style[0]]))

    def open(self, name: str, tier: Tier) -> Engine:
        """Load a style; an `ImpastoError` says why not."""
        artifact = self._find(name, tier)
        vector = self._vector_in(artifact)
        if vector is None:
            return self._load(artifact)
        try:
            return self._paintings.open(vector)
        except EngineError as exc:  # what cannot take a style with every picture can paint the one in the artifact
            logger.info("%s is painted by itself: %s", name, exc)
            return self._load(artifact)

    def vector(self, name: str) -> Vector | None:
        """(K,) of a style that was made of a painting, or that ships with one; None for others."""
        if name not in self._vectors:
            if name not in self._styles():  # a name from the panel, which must never be opened as a path
                return None
            try:
                known = self._book.known(name)
                if known is None and self._extra is not None and name == self._extra.metadata.name:
                    known = self._vector_in(self._extra)
            except ArtifactError:
                known = None
            self._vectors[name] = known
        return self._vectors[name]

    def _vector_in(self, artifact: Artifact) -> Vector | None:
        if "style_vector" not in artifact.metadata.training:
            return None
        try:
            return vector_of(artifact, self._book.networks)
        except ArtifactError:
            return None  # the networks are gone; the style paints without them

    def preview(self, name: str) -> bytes | None:
        """A JPEG of the style on a photograph: the one that ships beside it, else one painted here and now."""
        entry = next((entry for entry in self.entries() if entry.name == name), None)
        if entry is None:
            return None
        with self._previewing:  # one after the other: a gallery must not slow the live picture down
            key = entry.sha256 or name
            if key not in self._previews:
                self._previews[key] = self._shipped_preview(name) or self._kept_preview(entry)
            return self._previews[key] or None

    def add(self, upload: Path) -> StyleEntry:
        """Check an uploaded artifact and move it to the user's styles under the name in its own metadata.

        Raises:
            ArtifactError: it is no safe artifact, or another style has that name.
        """
        artifact = load_style(upload)
        name, tier = artifact.metadata.name, artifact.metadata.tier
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

    def add_painting(self, data: bytes, name: str) -> StyleEntry:
        """Make a style of a picture file and keep it among the user's styles.

        Args:
            data: the file's bytes.
            name: what the person calls it; tidied, and numbered where another style or a preset has that name.

        Raises:
            ArtifactError: it is no picture, or too large.
        """
        plain = unicodedata.normalize("NFKD", name.casefold()).encode("ascii", "ignore").decode()  # without accents
        tidy = re.sub(r"[^a-z0-9_-]+", "-", plain.lower()).strip("-_")[:40].strip("-_") or "painting"
        vector = self._book.encode(data, where="painting", max_pixels=MOST_UPLOADED_PIXELS)
        taken = {*installed_styles(), *styles_of_presets()}  # a preset must not come to mean another painting
        names = itertools.chain([tidy], (f"{tidy}-{number}" for number in itertools.count(2)))
        free = next(name for name in names if name not in taken)
        user_styles().mkdir(parents=True, exist_ok=True)
        title = name[:100] if name.isprintable() and any(map(str.isalnum, name)) else ""
        origin = StyleOrigin(title=title, sha256=hashlib.sha256(data).hexdigest())
        self._book.write_style(vector, user_styles() / f"{free}.fast.onnx", name=free, origin=origin)
        self._vectors.pop(free, None)
        return self._entry(free, installed_styles()[free])

    def remove(self, name: str) -> set[tuple[str, Tier]]:
        """Take away a style of the user's own, as `impasto styles remove` does; an `ArtifactError` if it is none.

        Returns:
            The styles and tiers that are gone, or others from now on. The one that was given by its path may go under
            another name with it, or stay under the same name.
        """
        before = self._styles()
        remove_style(name)
        if self._extra is not None and not self._extra.path.exists():  # it was named by its path in that folder
            self._extra = None
        after = self._styles()
        gone = {(n, t) for n, tiers in before.items() for t, path in tiers.items() if after.get(n, {}).get(t) != path}
        for style, _ in gone:
            self._vectors.pop(style, None)
        return gone

    def _find(self, name: str, tier: Tier) -> Artifact:
        extra = self._extra
        if extra is not None and (name, tier) == (extra.metadata.name, extra.metadata.tier):
            return extra
        return self._artifact(find_style(name, tier))

    def _entry(self, name: str, tiers: dict[Tier, Path]) -> StyleEntry:
        path = tiers.get("fast") or next(iter(tiers.values()))
        removable = any((user_styles() / f"{name}.{tier}.onnx").is_file() for tier in tiers)
        try:
            artifact = self._artifact(path)
        except ArtifactError as exc:
            return StyleEntry(name, tuple(sorted(tiers)), problem=str(exc), removable=removable)
        style = artifact.metadata.style
        painting = self._vector_in(artifact) is not None
        return StyleEntry(
            name, tuple(sorted(tiers)), style.title, style.artist, style.year, style.licence, painting,
            sha256=artifact.sha256, removable=removable,
        )  # fmt: skip

    def _artifact(self, path: Path) -> Artifact:
        try:
            key = (path, path.stat().st_mtime_ns)
        except OSError as exc:
            raise ArtifactError(f"{path} cannot be read: {exc.strerror}") from exc
        with self._lock:
            if key not in self._artifacts:
                try:
                    self._artifacts[key] = load_style(path)
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


def _changed_at(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0  # it has just been removed


def _still() -> Picture:
    from .source_file import VideoFile

    with VideoFile(DEMO_CLIP) as clip:
        return cover(next(iter(clip)).data, PREVIEW_SIZE)
