"""What a film looks like over time: which styles, how much of each, and how much of the video shines through."""

import os
import tomllib
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, log
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..export.statistics import Vectors
from .engine import Engine
from .engine_carried import CarriedEngine
from .errors import ArtifactError
from .frame import Frame, Picture
from .options import parse_time
from .smoothing import MOST_KEPT, Smoother
from .stylizer import blend, submit_picture, with_colors_of

if TYPE_CHECKING:
    from .paintings import Palette
    from .regions import Region

Mix = Mapping[str, float]
"""Share of each style in the picture; what is missing to 1 is the video itself."""

SMALLEST_SHARE = 1 / 512
"""Less than half a step of 8 bits: not worth an inference."""


@dataclass(frozen=True)
class Cue:
    """From this time on, the film looks like this."""

    at: float
    """Seconds."""
    mix: Mix
    fade: float = 0.0
    """Seconds of cross-fade from what was before."""


@dataclass(frozen=True)
class Look:
    """The cues of a film in order; the first counts from the start."""

    cues: Sequence[Cue]

    @property
    def styles(self) -> list[str]:
        """Every style that occurs, each once."""
        return list(dict.fromkeys(style for cue in self.cues for style in cue.mix))

    def mix(self, seconds: float) -> Mix:
        """The shares at a time. A fade runs linearly from what was seen at its start, itself perhaps a fade."""
        last = self.cues[0]
        before: Mix = last.mix
        for cue in self.cues[1:]:
            if seconds < cue.at:
                break
            before, last = _faded(before, last, cue.at), cue
        return {style: share for style, share in _faded(before, last, seconds).items() if share >= SMALLEST_SHARE}


class FilmStylizer:
    """A look applied to frames, each by its own time."""

    def __init__(
        self,
        engines: Mapping[str, Engine],
        look: Look,
        *,
        keep_colors: bool = False,
        smooth: float = 0.0,
        palette: "Palette | None" = None,
        regions: "Sequence[Region]" = (),
        origin: Fraction = Fraction(0),
    ) -> None:
        """
        Args:
            engines: every style of the look, loaded.
            look: the styles' shares over time.
            regions: parts of the picture that other engines paint, the last on top.
            palette: paintings of the look that one of the engines paints, given their style with every frame.
            keep_colors: luminance of the painting, chroma of the frame.
            smooth: 0 paints every frame by itself, 1 holds on to the last painting most; frames must come in order.
            origin: time of the film's beginning, from which the look counts.
        """
        self._engines = dict(engines)
        self._look = look
        self._origin = origin
        self._palette = palette
        self._regions = tuple(regions)
        self._keep_colors = keep_colors
        self._smooth = smooth
        self._smoother = Smoother(smooth)
        self._last_mix: Mix = {}
        self._followers = {name: engine for name, engine in engines.items() if isinstance(engine, CarriedEngine)}
        self.number = 0
        """Of the next frame to plan, counted from the film's first."""
        self.reset()

    @property
    def in_flight(self) -> int:
        """Frames that may be submitted at once: those that the engines work on, one that waits for them and one that is
        finished here, so that none of them waits."""
        at_once = min(getattr(engine, "in_flight", 1) for engine in self._engines.values())
        return at_once + 2 if at_once > 1 else 1

    def __call__(self, frame: Frame) -> Frame:
        return self.submit(frame).result()

    def submit(self, frame: Frame) -> "PendingFilmFrame":
        """Begin to paint the film's next frame; see `pipeline.SubmittingStep`. Results are collected in order."""
        return self.carry_out(self.plan(frame))

    def plan(self, frame: Frame) -> "Plan":
        """How the film's next frame is painted; for every frame in order."""
        mix = self._look.mix(float(frame.pts - self._origin))
        if self._palette is not None and mix:
            mix = self._palette.mix(mix)
        statistics = {}
        for style, engine in self._followers.items():
            if style in mix or any(region.style == style for region in self._regions):
                statistics[style] = engine.follow(frame.data, self.number)
            else:
                engine.reset()
        self.number += 1
        return Plan(frame, mix, statistics)

    def carry_out(self, plan: "Plan") -> "PendingFilmFrame":
        """Begin to paint; plans that smoothing connects come in order, and their results are collected in order."""
        frame, mix = plan.frame, plan.mix
        if _jumps(self._last_mix, mix):
            self.forget()
        self._last_mix = mix
        if not mix:
            return PendingFilmFrame(lambda: frame)
        # Frames in flight keep theirs when another takes its place.
        smoother = self._smoother
        wait = self._start(plan)
        search = smoother.begin(frame.data)

        def result() -> Frame:
            try:
                painted = wait()
            except BaseException:
                smoother.abandon(search)
                raise
            return self._finish(frame, mix, smoother.finish(search, painted))

        return PendingFilmFrame(result)

    def forget(self) -> None:
        """Begin to smooth anew with the next plan, as after a cut."""
        self._smoother = Smoother(self._smooth)
        self._last_mix = {}

    def reset(self) -> None:
        """Begin another film, or go on elsewhere in this one."""
        self.forget()
        self.number = 0
        for engine in self._followers.values():
            engine.reset()

    def freeze(self, pictures: Sequence[Picture]) -> None:
        """Pictures of the whole film, for styles whose statistics are frozen."""
        for engine in self._followers.values():
            engine.freeze(pictures)

    def _start(self, plan: "Plan") -> Callable[[], Picture]:
        """Begin to paint with every style of the mix; the call waits for all and mixes them."""
        frame, mix = plan.frame, plan.mix
        if self._palette is not None:
            self._palette.hand_over(mix, self._engines)
        waiting = [(self._submit(plan, style), share) for style, share in mix.items()]
        parts = [(self._submit(plan, region.style), region) for region in self._regions]
        if len(waiting) == 1 and not parts:
            return waiting[0][0]
        total = sum(mix.values())

        def mixed() -> Picture:
            if len(waiting) == 1:
                picture = waiting[0][0]()
            else:
                sum_of_all = np.zeros(frame.data.shape, np.float32)
                for wait, share in waiting:
                    sum_of_all += wait() * np.float32(share / total)
                picture = np.rint(sum_of_all).astype(np.uint8)
            for wait, region in parts:
                picture = region.compose(picture, wait())
            return picture

        return mixed

    def _submit(self, plan: "Plan", style: str) -> Callable[[], Picture]:
        if not style:  # a region that shows the video itself
            return lambda: plan.frame.data
        return submit_picture(self._engines[style], plan.frame.data, plan.statistics.get(style))

    def _finish(self, frame: Frame, mix: Mix, picture: Picture) -> Frame:
        share = min(1.0, sum(mix.values()))
        if self._keep_colors:
            picture = with_colors_of(frame.data, picture)
        return Frame(picture if share >= 1.0 else blend(frame.data, picture, share), frame.pts, frame.duration)


@dataclass(frozen=True)
class PendingFilmFrame:
    """A frame that may still be painted."""

    result: Callable[[], Frame]
    """Waits for it."""


@dataclass(frozen=True, eq=False)
class Plan:
    """How a frame is painted: with what depends on the frames before it, so that it can be painted later and again."""

    frame: Frame
    mix: Mix
    statistics: Mapping[str, Vectors]
    """(1, K) factors and summands by style, for those that are told them."""


class AtSegments:
    """A stylizer whose smoothing forgets at every segment and then looks again at the few frames before.

    So a segment depends on its own frames and a short run-up alone: it comes out the same whether the film is painted
    in one go, resumed there, or on another machine.
    """

    def __init__(self, stylizer: FilmStylizer, *, every: int, run_up: int, before: Iterable[Frame] = ()) -> None:
        """
        Args:
            stylizer: what paints.
            every: frames of a segment.
            run_up: frames that smoothing remembers.
            before: the last frames before the first one to come, as many as are needed; read now.
        """
        self._stylizer = stylizer
        self._every = every
        self._before: deque[Plan] = deque((stylizer.plan(frame) for frame in before), maxlen=run_up)
        self._count = 0

    @property
    def in_flight(self) -> int:
        """See `FilmStylizer`."""
        return self._stylizer.in_flight

    def __call__(self, frame: Frame) -> Frame:
        return self.submit(frame).result()

    def submit(self, frame: Frame) -> PendingFilmFrame:
        """See `FilmStylizer`."""
        plan = self._stylizer.plan(frame)
        if self._count % self._every == 0:
            self._stylizer.forget()
            for earlier in self._before:
                self._stylizer.carry_out(earlier).result()
        self._count += 1
        self._before.append(plan)
        return self._stylizer.carry_out(plan)


def run_up_of(smooth: float, pixels: int) -> int:
    """Frames of so many pixels that smoothing of this amount looks at before a segment, to go on as if it had not
    forgotten: until what is missing counts for less than 1/64 where something moves, and for less than a quarter of the
    noise where nothing does; but no more than memory should hold."""
    kept = MOST_KEPT * smooth
    return 0 if kept <= 0 else min(ceil(log(1 / 64) / log(kept)), max(1, RUN_UP_BYTES // (3 * pixels)))


RUN_UP_BYTES = 256 << 20


def parse_blend(style: str | Path) -> dict[str, float]:
    """{"a": 0.7, "b": 0.3} of "a:0.7,b:0.3", {"a": 1.0} of "a"; the shares are scaled to a sum of 1."""
    shares: dict[str, float] = {}
    text = str(style)
    if os.path.isfile(text):  # a path may hold commas and colons of its own; unlike Path.is_file no text is an error
        return {text: 1.0}
    for part in text.split(","):
        name, colon, number = part.strip().rpartition(":")
        if not colon or not _is_number(number):
            name, number = part.strip(), "1"
        if not name or name in shares or not 0 < float(number) < float("inf"):
            raise ValueError(f"style must be NAME or NAME:SHARE,NAME:SHARE with shares above 0, got {text!r}")
        shares[name] = float(number)
    total = sum(shares.values())
    return {name: share / total for name, share in shares.items()}


def plain_look(style: str | Path, strength: float) -> Look:
    """The same style or blend from start to end."""
    return Look([Cue(0.0, {name: share * strength for name, share in parse_blend(style).items()})])


def load_timeline(path: Path, *, style: str | Path, strength: float) -> Look:
    """A look from a TOML file.

    The film starts with `style` at `strength`; then each table [[cue]] of the file changes it:
        at = "0:05"         # or seconds
        style = "candy"     # or a blend "candy:0.5,mosaic:0.5"; left out: as before
        strength = 0.3      # left out: as before
        fade = 1            # seconds of cross-fade; left out: none
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ArtifactError(f"timeline must be a readable file, got {path}: {exc.strerror}") from exc
    except (ValueError, RecursionError) as exc:
        raise ArtifactError(f"timeline must be a TOML file, got {path}: {_one_line(exc)}") from exc
    look = [*plain_look(style, strength).cues]
    try:
        for cue in _cue_tables(content):
            style, strength = str(cue.get("style", style)), float(cue.get("strength", strength))
            look.append(_cue(cue, style, strength, after=look[-1].at))
    except (AttributeError, TypeError, ValueError, OverflowError) as exc:
        raise ArtifactError(f"timeline {path} must hold [[cue]] tables as described: {_one_line(exc)}") from exc
    return Look(look)


def _cue_tables(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    if unknown := set(content) - {"cue"}:
        raise ValueError(f"it must hold nothing else, got {', '.join(sorted(unknown))}")
    tables = content.get("cue", [])
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        found = "a single table [cue]" if isinstance(tables, dict) else repr(tables)
        raise ValueError(f"it must hold at least one [[cue]], got {found}")
    return tables


def _cue(table: Mapping[str, Any], style: str, strength: float, *, after: float) -> Cue:
    if unknown := set(table) - {"at", "style", "strength", "fade"}:
        raise ValueError(f"a cue must have at, style, strength, fade, got {', '.join(sorted(unknown))}")
    if "at" not in table:
        raise ValueError("a cue must have a time `at`, got none")
    at, fade = float(_seconds(table["at"])), float(_seconds(table.get("fade", 0)))
    if at < after:
        raise ValueError(f"cues must be in order of time, got {at} after {after}")
    if not 0.0 <= strength <= 1.0:
        raise ValueError(f"strength must be between 0 and 1, got {strength}")
    return Cue(at, {name: share * strength for name, share in parse_blend(style).items()}, fade)


def _seconds(value: Any) -> Fraction:
    return parse_time(str(value))


def _faded(before: Mix, cue: Cue, seconds: float) -> Mix:
    """The shares at a time after a cue, which began to fade in over `before`."""
    done = 1.0 if cue.fade <= 0 else min(1.0, max(0.0, (seconds - cue.at) / cue.fade))
    styles = dict.fromkeys([*before, *cue.mix])
    return {s: (1 - done) * before.get(s, 0.0) + done * cue.mix.get(s, 0.0) for s in styles}


def _jumps(before: Mix, after: Mix) -> bool:
    """Whether the look changes at once, which smoothing must not soften; a fade is no jump."""
    before, after = (getattr(mix, "shares", mix) for mix in (before, after))  # paintings by name, not as one engine
    return bool(before) != bool(after) or any(
        abs(before.get(style, 0.0) - after.get(style, 0.0)) > 0.25 for style in {*before, *after}
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _one_line(error: BaseException) -> str:
    """An error's text, which may quote the file, fit for one line."""
    return " ".join(str(error).split())[:300]
