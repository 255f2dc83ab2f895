"""Any painting as a style: read safely, encoded once, mixed, and folded into a style or morphed while painting.

`StyleBook` is the door. A painting becomes a vector (`export.arbitrary`), kept by the picture's sum, so that the same
painting is encoded once; vectors are weighted and added, and what comes out is a style. Where a look does not change
over time, its vector is folded into an ordinary artifact, kept as well, which every engine runs as fast as a trained
style. Where it does, one engine paints with a vector of its own for every frame.

A stranger's picture is measured before it is decoded: a small file that claims gigapixels never gets them.
"""

import base64
import hashlib
import logging
import math
import os
import re
import zlib
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from ..assets import any_painting, find_style, installed_styles, style_folders
from ..export.arbitrary import Vector, bake
from ..export.artifact import Artifact, StyleOrigin, load_artifact, parse_model, save_artifact
from ..training.decoding import READABLE, check_claim, decode_picture
from ..training.whole_file import whole_file
from .cache import cache_folder
from .engine import Engine, one_line
from .engine_choice import run_once
from .errors import ArtifactError
from .frame import Picture
from .look import Cue, Look, parse_blend

logger = logging.getLogger(__name__)

MAX_FILE_BYTES = 128 * 2**20
MAX_PIXELS = 2**27
"""134 megapixels: the largest scans of museums for print, 400 MB while they are read."""
MIN_SIDE = 16
"""Pixels. Smaller pictures have colours but no marks; they are repeated until they are large enough."""
SCALES = (0.25, 4.0)
"""What --style-scale may be: smaller and the encoder sees a stamp, larger and it sees blur."""
_ENCODER_STRIDE = 16
_LONGEST = 3.0  # long side over short side that the encoder looks at; of a scroll it sees the middle
_KEPT_STYLES = 64
_KEPT_VECTORS = 4096  # of a few kilobytes each


@dataclass(frozen=True)
class AnyPainting:
    """The artifacts that paint like any painting."""

    stylizer: Artifact
    encoder: Artifact
    side: int
    """Short side, pixels, at which the encoder learned to look at paintings."""

    @classmethod
    def installed(cls) -> "AnyPainting":
        """Those that ship, or that the user has put in their place.

        Raises:
            ArtifactError: there are none, or they are not a pair.
        """
        return cls.of(*any_painting())

    @classmethod
    def of(cls, stylizer: Path, encoder: Path) -> "AnyPainting":
        """From their files."""
        pair = load_artifact(stylizer), load_artifact(encoder)
        for artifact, kind in zip(pair, ("arbitrary", "style-encoder"), strict=True):
            if artifact.metadata.kind != kind:
                raise ArtifactError(f"{artifact.path} must be of kind {kind}, got {artifact.metadata.kind}")
        trainings = [artifact.metadata.training for artifact in pair]
        if trainings[0] != trainings[1]:
            raise ArtifactError(f"{encoder} must be from the same training as {stylizer}: install both again")
        return cls(*pair, side=int(trainings[0].get("style_size", 384)))


def is_painting(style: str) -> bool:
    """Whether a style is named by a picture's path."""
    return Path(style).suffix.lower() in READABLE and style not in installed_styles()


def read_painting(data: bytes, *, where: str, max_pixels: int = MAX_PIXELS) -> Picture:
    """A style picture as (H, W, 3) uint8 RGB: upright, transparency laid on white, grey and 16 bits brought to RGB.

    Raises:
        ArtifactError: it is no picture, damaged, or too large; `where` names it.
    """
    try:
        check_claim(data, max_pixels=max_pixels, strangers=True)
        return decode_picture(data, max_pixels=max_pixels, name=where)
    except ValueError as exc:
        raise ArtifactError(f"{where} {exc}") from exc


def prepared(painting: Picture, side: int) -> Picture:
    """What the encoder looks at: short side `side` pixels, the middle of very long pictures, sides multiples of 16."""
    import cv2

    height, width = painting.shape[:2]
    if min(height, width) < MIN_SIDE:
        times = math.ceil(MIN_SIDE / min(height, width))
        painting = np.tile(painting, (times if height < MIN_SIDE else 1, times if width < MIN_SIDE else 1, 1))
        height, width = painting.shape[:2]
    longest = round(min(height, width) * _LONGEST)
    top, left = (max(0, (length - longest) // 2) for length in (height, width))
    painting = painting[top : top + longest, left : left + longest]
    scale = side / min(painting.shape[:2])
    sizes = [max(1, round(length * scale / _ENCODER_STRIDE)) * _ENCODER_STRIDE for length in painting.shape[:2]]
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    resized = cv2.resize(np.ascontiguousarray(painting), (sizes[1], sizes[0]), interpolation=method)
    return np.ascontiguousarray(resized, np.uint8)


class StyleBook:
    """Vectors of paintings and of installed styles, and the styles that are made of them."""

    def __init__(self, networks: AnyPainting | None = None) -> None:
        """`networks`: those that are installed unless others are given; loaded when first needed."""
        self._networks = networks

    @property
    def networks(self) -> AnyPainting:
        if self._networks is None:
            self._networks = AnyPainting.installed()
        return self._networks

    def vector(self, style: str, *, scale: float = 1.0) -> Vector:
        """(K,) of a painting's path, or of an installed style that one is known of.

        Args:
            scale: of the painting's marks: larger, larger marks.

        Raises:
            ArtifactError: no such picture or style, or none of which a vector is known.
        """
        if not is_painting(style):
            known = self.known(style)
            if known is None:
                raise ArtifactError(
                    f"{style} must be mixed as a picture: give its painting's file, for it is known as a network only"
                )
            return known
        if Path(style).exists() and not Path(style).is_file():  # a named pipe would be waited for without end
            raise ArtifactError(f"painting must be a file, got {style}")
        try:
            with Path(style).open("rb") as file:
                data = file.read(MAX_FILE_BYTES + 1)
        except OSError as exc:
            raise ArtifactError(f"painting must be a readable file, got {style}: {exc.strerror}") from exc
        return self.encode(data, where=style, scale=scale)

    def encode(self, data: bytes, *, where: str, scale: float = 1.0, max_pixels: int = MAX_PIXELS) -> Vector:
        """(K,) of a picture file's bytes; from the cache if it was encoded before."""
        if not SCALES[0] <= scale <= SCALES[1]:
            raise ValueError(f"style scale must be in {SCALES[0]:g}…{SCALES[1]:g}, got {scale}")
        if len(data) > MAX_FILE_BYTES:
            raise ArtifactError(f"{where} must be at most {MAX_FILE_BYTES // 2**20} MiB to be a painting")
        key = hashlib.sha256(f"{self.networks.encoder.sha256} {scale!r} ".encode() + data).hexdigest()
        kept = _cached(f"{key}.npy")
        if kept is not None and kept.is_file():
            known = _read_vector(kept)
            if known is not None:
                return known
        picture = prepared(
            read_painting(data, where=where, max_pixels=max_pixels),
            max(_ENCODER_STRIDE, round(self.networks.side * scale)),
        )
        vector: Vector = run_once(self.networks.encoder, {"frame": picture[np.newaxis]})["style"][0]
        if not np.isfinite(vector).all():
            raise ArtifactError(f"{where} cannot be taken as a style: the encoder's answer is not finite")
        _write_vector(kept, vector)
        return vector

    def known(self, style: str) -> Vector | None:
        """(K,) of an installed style, where one ships or was kept when the style was made of a painting."""
        vectors = _known_vectors(self.networks)
        try:
            path = Path(style) if style.endswith(".onnx") else find_style(style)
            # A user's style that has the name of ours is another painting.
            if style in vectors and path.parent in (style_folders()[-1], self.networks.stylizer.path.parent):
                return vectors[style]
            artifact = load_artifact(path)
        except ArtifactError:
            return None
        return vector_of(artifact, self.networks)

    def mixed(self, shares: Mapping[str, float], *, scale: float = 1.0) -> Vector:
        """(K,): Σ share · vector. Shares that sum to 1 are a mix, to less a weaker one: alpha, in the paper's words."""
        vectors = [np.float32(share) * self.vector(style, scale=scale) for style, share in shares.items()]
        total: Vector = np.sum(vectors, axis=0, dtype=np.float32)
        return total

    def style(self, vector: Vector, *, name: str, origin: StyleOrigin | None = None) -> Artifact:
        """An ordinary artifact that paints with this vector; made once and kept."""
        stylizer = self.networks.stylizer
        digest = hashlib.sha256(f"{stylizer.sha256} {name} ".encode() + vector.astype("<f4").tobytes()).hexdigest()
        path = _cached(f"{digest}.onnx")
        if path is not None and path.is_file():
            try:
                os.utime(path)
                return load_artifact(path)
            except (ArtifactError, OSError) as exc:
                logger.info("made again: %s", exc)
        if path is None:
            raise ArtifactError("a painting's style must be kept in a cache folder, set IMPASTO_CACHE to one")
        artifact = self.write_style(vector, path, name=name, origin=origin, overwrite=True)
        _forget_oldest(path.parent, ".onnx", _KEPT_STYLES)
        return artifact

    def write_style(
        self, vector: Vector, path: Path, *, name: str, origin: StyleOrigin | None = None, overwrite: bool = False
    ) -> Artifact:
        """The same under a path of the caller's."""
        stylizer = self.networks.stylizer
        encoded = base64.b64encode(vector.astype("<f2").tobytes()).decode()
        metadata = replace(
            stylizer.metadata,
            name=name,
            kind="single",
            style=origin or StyleOrigin(),
            training={**stylizer.metadata.training, "stylizer": stylizer.sha256, "style_vector": encoded},
        )
        return save_artifact(bake(parse_model(stylizer), vector), metadata, path, overwrite=overwrite)


def style_file(text: str, *, scale: float = 1.0, book: StyleBook | None = None) -> Path | None:
    """The artifact that a painting, or a mix `a.jpg:0.6,b.jpg:0.4` with at least one, becomes; None for others."""
    shares = parse_blend(text) if text else {}
    if not any(map(is_painting, shares)):
        return None
    book = book or StyleBook()
    return book.style(book.mixed(shares, scale=scale), name=name_of(shares), origin=_origin(shares)).path


def vector_of(artifact: Artifact, networks: AnyPainting) -> Vector | None:
    """(K,) of a style that was made of a painting by these networks."""
    training = artifact.metadata.training
    if training.get("stylizer") != networks.stylizer.sha256:
        return None
    try:
        return np.frombuffer(base64.b64decode(training["style_vector"], validate=True), "<f2").astype(np.float32)
    except (KeyError, ValueError, TypeError):
        return None


def name_of(styles: Mapping[str, float]) -> str:
    """What an output painted with these is named after: the paintings' file names, tidied."""
    names = (re.sub(r"[^a-z0-9_-]+", "-", Path(style).stem.lower()).strip("-") or "painting" for style in styles)
    return "+".join(names)[:80]


def _known_vectors(networks: AnyPainting) -> dict[str, Vector]:
    """Of the styles that ship, by name: `NAME.styles.npz` beside the stylizer, made by the same encoder."""
    path = known_vectors_path(networks.stylizer.path)
    if not path.is_file():
        return {}
    try:
        with np.load(path, allow_pickle=False) as file:
            if str(file["encoder"]) != networks.encoder.sha256:
                return {}
            return {name: file[name].astype(np.float32) for name in file.files if name != "encoder"}
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile, zlib.error) as exc:
        raise ArtifactError(f"{path} must hold the styles' vectors, but it is damaged: {one_line(exc)}") from exc


def known_vectors_path(stylizer: Path) -> Path:
    """any.stylizer.onnx -> any.styles.npz."""
    return stylizer.with_name(stylizer.name.removesuffix(".onnx").removesuffix(".stylizer") + ".styles.npz")


def _cached(name: str) -> Path | None:
    """A file of the cache, or None where there is no place for one."""
    try:
        return cache_folder("paintings") / name
    except OSError as exc:
        logger.info("paintings are not kept: %s", exc)
        return None


def _read_vector(path: Path) -> Vector | None:
    try:
        vector = np.load(path, allow_pickle=False)
    except (OSError, ValueError):
        return None
    return vector if vector.ndim == 1 and vector.dtype == np.float32 and np.isfinite(vector).all() else None


def _write_vector(path: Path | None, vector: Vector) -> None:
    if path is None:
        return
    try:
        with whole_file(path) as part, part.open("wb") as file:
            np.save(file, vector)
        _forget_oldest(path.parent, ".npy", _KEPT_VECTORS)
    except OSError as exc:
        logger.info("a painting is not kept: %s", exc)


def _forget_oldest(folder: Path, suffix: str, kept: int) -> None:
    dated = []
    for path in folder.glob(f"*{suffix}"):
        with suppress(OSError):  # another process forgets, too
            dated.append((path.stat().st_mtime, path))
    for _, path in sorted(dated)[:-kept]:
        with suppress(OSError):
            path.unlink()


@dataclass(frozen=True)
class Palette:
    """The paintings of a look that changes over time, for one engine that paints them all."""

    vectors: Mapping[str, Vector]
    """(K,) by style."""
    stylizer: Artifact

    def mix(self, shares: Mapping[str, float]) -> "PaintedMix":
        """Shares of a moment with all paintings as one style; see `absorbed`."""
        rest, inside = absorbed(shares, self.vectors.keys(), MORPH)
        if not inside:
            return PaintedMix(rest, shares, None)
        vectors = [np.float32(share) * self.vectors[style] for style, share in inside.items()]
        total: Vector = np.sum(vectors, axis=0, dtype=np.float32)
        return PaintedMix(rest, shares, total[np.newaxis])

    def hand_over(self, mix: Mapping[str, float], engines: Mapping[str, Engine]) -> None:
        """Tell the engine what the next frame's style is."""
        if isinstance(mix, PaintedMix) and mix.style is not None:
            engine: Any = engines[MORPH]
            engine.inputs = {"style": mix.style}


class PaintedMix(dict[str, float]):
    """Shares as engines see them, where every painting is `MORPH`."""

    def __init__(self, engines: Mapping[str, float], shares: Mapping[str, float], style: "Vector | None") -> None:
        super().__init__(engines)
        self.shares = shares
        """As the look has them, by painting."""
        self.style = style
        """(1, K) for the engine of `MORPH`, where it paints at all."""


MORPH = "paintings"
"""The engine that paints every painting of a look that changes over time."""


def absorbed(
    shares: Mapping[str, float], paintings: Collection[str], key: str
) -> tuple[dict[str, float], dict[str, float]]:
    """Shares with all paintings as one style `key`, and what that style is mixed of.

    Beside other styles, paintings keep their share of the picture. Alone, they take all of it and what is missing to 1
    weakens their vector: that is alpha, which keeps the video's drawing where blending would show it twice.
    """
    inside = {style: share for style, share in shares.items() if style in paintings}
    outside = {style: share for style, share in shares.items() if style not in paintings}
    total = sum(inside.values())
    if not inside or total <= 0:
        return dict(shares) if not inside else {**outside, key: 0.0}, {}
    if not outside:
        return {key: 1.0}, inside
    return {**outside, key: total}, {style: share / total for style, share in inside.items()}


@dataclass(frozen=True)
class ResolvedLook:
    """A look whose paintings have become artifacts."""

    look: Look
    artifacts: Mapping[str, Artifact]
    """Of every style of `look`, by name; of `MORPH` too where there is a palette."""
    palette: Palette | None = None


def resolve(
    look: Look, find: Callable[[str], Artifact], *, scale: float = 1.0, book: StyleBook | None = None
) -> ResolvedLook:
    """Make styles of a look's paintings: one where it stays the same, a palette where it changes.

    Installed styles that a vector is known of are mixed with paintings as if they were paintings too.

    Args:
        find: the artifact of a style that is no painting.
        scale: of the paintings' marks.
    """
    book = book or StyleBook()
    paintings = {style for style in look.styles if is_painting(style) or book.known(style) is not None}
    others = {style: find(style) for style in look.styles if style not in paintings}
    if len(look.cues) > 1:
        vectors = {style: book.vector(style, scale=scale) for style in sorted(paintings)}
        palette = Palette(vectors, book.networks.stylizer)
        return ResolvedLook(look, {**others, MORPH: book.networks.stylizer}, palette)
    mix = look.cues[0].mix
    key = key_of(mix)
    merged, shares = absorbed(mix, paintings, key)
    vector = book.mixed(shares or dict.fromkeys(paintings, 0.0), scale=scale)
    names = {style: share for style, share in mix.items() if style in paintings}
    artifact = book.style(vector, name=name_of(names), origin=_origin(names))
    return ResolvedLook(Look([Cue(0.0, merged)]), {**others, key: artifact})


def key_of(mix: Mapping[str, float]) -> str:
    """What the one style that paintings are merged to is called: like the first of them."""
    return next(style for style in mix if is_painting(style))


def _origin(paintings: Mapping[str, float]) -> StyleOrigin:
    files = [Path(style) for style in paintings if is_painting(style)]
    sums = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
    return StyleOrigin(title=" + ".join(path.stem for path in files), sha256=sums[0] if len(sums) == 1 else "")
