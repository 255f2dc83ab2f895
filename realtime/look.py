"""What a film looks like over time: which styles, how much of each, and how much of the video shines through."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from .engine import Engine
from .errors import ArtifactError
from .frame import Frame, Picture
from .options import parse_time
from .smoothing import Smoother
from .stylizer import Stylizer, blend, with_colors_of

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
        current: Mix = self.cues[0].mix
        for number, cue in enumerate(self.cues[1:], 1):
            if seconds < cue.at:
                break
            done = 1.0 if cue.fade <= 0 else min(1.0, (seconds - cue.at) / cue.fade)
            before = current if done >= 1.0 or number == 1 else Look(self.cues[:number]).mix(cue.at)
            current = _between(before, cue.mix, done)
        return {style: share for style, share in current.items() if share >= SMALLEST_SHARE}


class FilmStylizer:
    """A look applied to frames, each by its own time.

    All blending with the video happens in the last line of `__call__`, where a mask per pixel would take the place
    of the single share.
    """

    def __init__(
        self, engines: Mapping[str, Engine], look: Look, *, keep_colors: bool = False, smooth: float = 0.0
    ) -> None:
        self._painters = {style: Stylizer(engine) for style, engine in engines.items()}
        self._look = look
        self._keep_colors = keep_colors
        self._smoother = Smoother(smooth)
        self._last_mix: Mix = {}

    def __call__(self, frame: Frame) -> Frame:
        mix = self._look.mix(float(frame.pts))
        share = min(1.0, sum(mix.values()))
        if _jumps(self._last_mix, mix):
            self._smoother.reset()
        self._last_mix = mix
        if not mix:
            return frame
        picture = self._smoother.paint(frame.data, lambda: self._paint(frame, mix))
        if self._keep_colors:
            picture = with_colors_of(frame.data, picture)
        return Frame(picture if share >= 1.0 else blend(frame.data, picture, share), frame.pts, frame.duration)

    def reset(self) -> None:
        """Forget earlier frames, at a seek."""
        self._smoother.reset()

    def _paint(self, frame: Frame, mix: Mix) -> Picture:
        if len(mix) == 1:
            return self._painters[next(iter(mix))](frame).data
        total = sum(mix.values())
        paintings = [(self._painters[style](frame).data, share / total) for style, share in mix.items()]
        mixed = np.zeros(frame.data.shape, np.float32)
        for painting, share in paintings:
            mixed += painting * np.float32(share)
        return np.rint(mixed).astype(np.uint8)


def parse_blend(style: str | Path) -> dict[str, float]:
    """{"a": 0.7, "b": 0.3} of "a:0.7,b:0.3", {"a": 1.0} of "a"; the shares are scaled to a sum of 1."""
    shares: dict[str, float] = {}
    text = str(style)
    if Path(text).is_file():  # a path may hold commas and colons of its own
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
        cues = tomllib.loads(path.read_text(encoding="utf-8")).get("cue", [])
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ArtifactError(f"timeline must be a TOML file, got {path}: {exc}") from exc
    look = [*plain_look(style, strength).cues]
    try:
        for cue in cues:
            style, strength = str(cue.get("style", style)), float(cue.get("strength", strength))
            look.append(_cue(cue, style, strength, after=look[-1].at))
    except (AttributeError, TypeError, ValueError) as exc:
        raise ArtifactError(f"timeline {path} must hold [[cue]] tables as described: {exc}") from exc
    return Look(look)


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


def _between(before: Mix, after: Mix, done: float) -> dict[str, float]:
    styles = dict.fromkeys([*before, *after])
    return {s: (1 - done) * before.get(s, 0.0) + done * after.get(s, 0.0) for s in styles}


def _jumps(before: Mix, after: Mix) -> bool:
    """Whether the look changes at once, which smoothing must not soften; a fade is no jump."""
    return bool(before) != bool(after) or any(
        abs(before.get(style, 0.0) - after.get(style, 0.0)) > 0.25 for style in {*before, *after}
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
