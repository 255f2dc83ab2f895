"""The styles of a look, loaded for a film: which engine, in how many tiles, how many frames at once."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self, cast

from ..export.artifact import Artifact, load_style
from .engine import Engine, EngineInfo, Library
from .engine_carried import load_carried_engine
from .engine_choice import has_int8, load_engine
from .errors import ArtifactError
from .frame import StreamInfo
from .look import Cue, FilmStylizer, Look, load_timeline, plain_look
from .options import VideoOptions
from .paintings import Palette, absorbed, is_painting, key_of, resolve, style_file
from .regions import Region, RegionOption
from .stylizer import padded_size
from .tiles import load_tiled_engine, tile_for

logger = logging.getLogger(__name__)


IN_FLIGHT = 2
"""Frames that an engine works on at once; see tests/benchmarks/overlap.py."""

IN_FLIGHT_SMOOTHED = 3
"""The same with `--smooth`, which takes cores from the engine's threads: those of one frame wait for each other, so it
is better to have fewer on each. Whole process, 720p, 4 cores, 289 frames: 14.5 s, with two 15.3, with four 14.6."""


IN_FLIGHT_PIXELS = 2048 * 1152
"""Larger frames are painted one at a time: two of 4K take 2.5 GB, one 1.8, and each keeps all cores busy alone."""


class Engines:
    """The styles of a look, loaded once for many videos. A context manager; frees them at its end."""

    def __init__(self, options: VideoOptions, *, paths: Mapping[str, Path] | None = None) -> None:
        """`paths` says where the look's artifacts lie, if not where `find_artifact` looks."""
        self.look = look_of(options)
        self._palette: Palette | None = None
        has_painting = paths is not None
        self.artifacts: dict[str, Artifact]
        if paths is not None:
            self.look = _look_with(self.look, paths)
            self.artifacts = {style: load_style(paths[style]) for style in self.look.styles}
        elif any(map(is_painting, self.look.styles)):
            resolved = resolve(
                self.look, lambda style: load_style(find_artifact(style, options.tier)), scale=options.style_scale
            )
            has_painting = True
            self.look, self._palette, self.artifacts = resolved.look, resolved.palette, dict(resolved.artifacts)
        else:
            self.artifacts = {style: load_style(find_artifact(style, options.tier)) for style in self.look.styles}
        self._regions: list[Region] = []
        for number, text in enumerate(options.regions, 1):
            option, key = RegionOption.parse(text), f"region {number}"
            if option.style == "none":
                key = ""
            elif paths is not None:
                self.artifacts[key] = load_style(paths[key])
            else:
                made = style_file(option.style, scale=options.style_scale)
                has_painting = has_painting or made is not None
                self.artifacts[key] = load_style(made or find_artifact(option.style, options.tier))
            self._regions.append(Region.read(option, key))
        if options.style_scale != 1.0 and not has_painting:
            logger.warning("--style-scale does nothing: no style here is a painting")
        self._options = options
        self._engines: dict[str, Engine] = {}
        self._fit: _Fit | None = None
        self._is_pinned = False

    @property
    def name(self) -> str:
        """What an output is named after: the styles, or "timeline"."""
        if self._options.timeline is not None:
            return self._options.timeline.stem
        return "+".join(dict.fromkeys(artifact.metadata.name for artifact in self.artifacts.values()))

    @property
    def info(self) -> EngineInfo:
        return next(iter(self._load().values())).info

    def fit(self, height: int, width: int, *, film: bool = True) -> None:
        """Choose tiles and frames in flight for a film or picture of this size; loads anew only if that changes."""
        tile = tile_for(height, width, self._options.tile) if self._palette is None else None
        many = film and tile is None and height * width <= IN_FLIGHT_PIXELS
        fit = _Fit(tile, (IN_FLIGHT_SMOOTHED if self._options.smooth else IN_FLIGHT) if many else 1)
        if fit == self._fit:
            return
        if tile is not None and self._options.tile is None:
            logger.warning(
                "%dx%d is painted in tiles to fit into memory, which takes several times as long; "
                "--tile 0 paints in one piece", width, height,
            )  # fmt: skip
        self._close_all()
        self._fit = fit

    def stylizer(self, options: VideoOptions, info: StreamInfo | None = None) -> FilmStylizer:
        """What paints; ready for frames of this size, where it is known."""
        if info is not None:
            self.fit(info.height, info.width)
        engines = self._load()
        if info is not None:
            for engine in engines.values():
                engine.warmup(*padded_size(info.height, info.width, engine.stride))
        return FilmStylizer(
            engines,
            self.look,
            keep_colors=options.keep_colors,
            smooth=options.smooth,
            palette=self._palette,
            regions=self._regions,
            origin=info.origin if info is not None else Fraction(0),
        )

    def pin(self, engine: Mapping[str, str]) -> None:
        """Where the user left the choice open, take the engine that an earlier run took: a race may end otherwise."""
        options = self._options
        library, precision, device = cast(Library, engine["name"]), engine["precision"], engine["device"].lower()
        agrees = (
            options.library in (None, library)
            and options.precision in ("auto", precision)
            and (options.device == "auto" or device.startswith(options.device))
        )
        if agrees and not self._engines:
            self._is_pinned = options.precision == "auto"
            self._options = replace(options, library=library, precision=precision)

    def _options_of(self, artifact: Artifact) -> VideoOptions:
        # A film may mix styles with and without an int8 version; the earlier run took the float one of the latter.
        if self._is_pinned and self._options.precision == "int8" and not has_int8(artifact):
            return replace(self._options, precision="auto")
        return self._options

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close_all()

    def _close_all(self) -> None:
        for engine in self._engines.values():
            engine.close()
        self._engines.clear()

    def _load(self) -> Mapping[str, Engine]:
        fit = self._fit or _Fit(None, 1)
        for style, artifact in self.artifacts.items():
            if style not in self._engines:
                self._engines[style] = _load_engine(artifact, self._options_of(artifact), fit)
        return self._engines


@dataclass(frozen=True)
class _Fit:
    """How engines are set up for a size of frames."""

    tile: int | None
    in_flight: int


def _load_engine(artifact: Artifact, options: VideoOptions, fit: _Fit) -> Engine:
    if artifact.metadata.kind == "arbitrary":  # its style changes with the frames, and statistics with the style
        if options.normalization != "frame":
            logger.warning("statistics must be each frame's own where paintings change over time: they are now")
        options, fit = replace(options, normalization="frame"), replace(fit, tile=None)
    if options.normalization != "frame":
        return load_carried_engine(
            artifact, options.normalization, tile=fit.tile, device=options.device, precision=options.precision,
            library=options.library, threads=options.threads, in_flight=fit.in_flight,
        )  # fmt: skip
    if fit.tile is not None:
        return load_tiled_engine(
            artifact, tile=fit.tile, device=options.device, precision=options.precision, library=options.library,
            threads=options.threads,
        )  # fmt: skip
    return load_engine(
        artifact, device=options.device, precision=options.precision, library=options.library,
        threads=options.threads, in_flight=fit.in_flight,
    )  # fmt: skip


def find_artifact(style: str | Path, tier: str | None = None) -> Path:
    """The artifact that `style` means: a path if it looks like one, else an installed style's."""
    if str(style).endswith((".onnx", ".engine")):
        return Path(style)
    from ..assets import find_style

    return find_style(str(style), tier)


def look_of(options: VideoOptions) -> Look:
    """What the options say the film looks like over time."""
    if options.timeline is not None:
        return load_timeline(options.timeline, style=options.style, strength=options.strength)
    return plain_look(options.style, options.strength)


def _look_with(look: Look, given: Mapping[str, Path]) -> Look:
    """A look whose paintings were made a style elsewhere: `given` names it like the first of them."""
    missing = {style for style in look.styles if style not in given or is_painting(style)}
    if not missing:
        return look
    if len(look.cues) > 1:
        raise ArtifactError("paintings that change over time must be painted on this machine: leave --cluster out")
    mix = look.cues[0].mix
    return Look([Cue(0.0, absorbed(mix, missing, key_of(mix))[0])])
