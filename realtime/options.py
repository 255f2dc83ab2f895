"""Everything that a video job can be told, with its defaults, once."""

import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from .codecs import Codec, Encoding, PipeFormat
from .engine import Library
from .engine_carried import Normalization, check_normalization
from .source_file import Hdr


@dataclass(frozen=True)
class VideoOptions:
    """How to repaint a video. Only what changes pictures or times is part of a job's identity."""

    style: str | Path = "mosaic"
    """An installed style, an artifact's or a painting's path, or a blend "a:0.7,b:0.3"."""
    tier: str | None = None
    """fast or quality; None takes what is installed, fast first."""
    style_scale: float = 1.0
    """Of a painting's marks, where the style is a picture: larger, larger marks."""
    regions: tuple[str, ...] = ()
    """Each MASK:STYLE: where the mask, a picture, is white, that style paints; `none` is the video itself."""
    strength: float = 1.0
    """0 is the video itself, 1 the painting."""
    keep_colors: bool = False
    """Luminance from the painting, chroma from the video."""
    smooth: float = 0.0
    """0 paints every frame by itself, 1 holds on to the last painting most."""
    normalization: Normalization = "frame"
    """Whose normalisation statistics frames are painted with: their own, carried over time, or frozen."""
    timeline: Path | None = None
    """A TOML file of cues that change style and strength over time."""
    device: str = "auto"
    precision: str = "auto"
    library: Library | None = None
    """Narrows the choice of engines to one library."""
    threads: int = 0
    """Of a CPU engine; 0 for its own choice."""
    size: str | None = None
    """720p, WxH or 0.5x."""
    fps: Fraction | None = None
    """Frames per second of the result; None keeps every frame and its time."""
    start: Fraction | None = None
    """Seconds; the part of the input to paint."""
    end: Fraction | None = None
    tile: int | None = None
    """Side in pixels of tiles painted with the whole frame's statistics; 0 for one piece, None by the frame's size."""
    deinterlace: bool = True
    hdr: Hdr = "sdr"
    decoder: str | None = None
    codec: Codec | None = None
    """None picks by the output's suffix, H.264 where it fits."""
    encoder: str | None = None
    crf: int | None = None
    preset: str | None = None
    audio: bool = True
    """Carry sound, subtitles, covers, chapters, attachments and tags over."""
    pipe_format: PipeFormat = "matroska"
    is_y4m: bool = False
    """Whether the result goes out as y4m, which needs a constant rate; set by the job."""
    overwrite: bool = False
    resume: bool = False
    """Go on with what an interrupted run left."""
    keep_partial: bool = False
    """Join what is finished when a run is stopped or fails."""
    segment_frames: int = 120
    """Frames per segment of a long job: what a kill costs at most. Three times as many with smoothing, which looks at
    some frames twice where segments meet."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.strength <= 1.0:
            raise ValueError(f"strength must be between 0 and 1, got {self.strength}")
        if not 0.0 <= self.smooth <= 1.0:
            raise ValueError(f"smooth must be between 0 and 1, got {self.smooth}")
        check_normalization(self.normalization)
        if self.fps is not None and not 0 < self.fps <= 1000:
            raise ValueError(f"fps must be above 0 and at most 1000, got {self.fps}")
        if self.start is not None and self.start < 0:
            raise ValueError(f"start must be at least 0, got {float(self.start)}")
        if self.end is not None and self.end <= (self.start or 0):
            raise ValueError(f"end must be after the start, got {float(self.end)}")
        if self.segment_frames < 1:
            raise ValueError(f"segment_frames must be at least 1, got {self.segment_frames}")

    @property
    def segment_length(self) -> int:
        """Frames of a segment as it is cut."""
        return self.segment_frames * (3 if self.smooth else 1)

    def encoding(self, suffix: str) -> Encoding:
        """For an output with this suffix; none is standard output."""
        codec = self.codec or _codec_for(suffix)
        reorder = suffix.lower() not in ("", ".nut")
        return Encoding(codec, self.encoder, self.crf, self.preset, reorder=reorder, keep_hdr=self.hdr == "keep")


def _codec_for(suffix: str) -> Codec:
    by_suffix: dict[str, Codec] = {".webm": "vp9", ".gif": "gif"}
    return by_suffix.get(suffix.lower(), "h264")


NUMBER = r"\s*([0-9]{1,12}(\.[0-9]{0,30})?|\.[0-9]{1,30})(e[+-]?[0-9]{1,2})?\s*"
"""As floats are written; bounded, because a `Fraction` of 1e999999999 takes all memory."""


MAX_RATE_DENOMINATOR = 100_000
"""Of every rate in use; FFmpeg holds both parts of one in 32 bits."""


def parse_time(text: str) -> Fraction:
    """Seconds of "75", "1:15", "1:02:03.5".

    >>> parse_time("1:02:03.5")
    Fraction(7447, 2)
    """
    parts = text.strip().split(":")
    if not 1 <= len(parts) <= 3 or not all(re.fullmatch(NUMBER, part) for part in parts):
        raise ValueError(f"a time must be like 75, 1:15 or 1:02:03.5, got {text[:50]!r}")
    seconds = Fraction(0)
    for part in parts:
        seconds = seconds * 60 + Fraction(part)
    return seconds


def parse_fps(text: str) -> Fraction:
    """Frames per second of "24", "23.976" or "30000/1001"; decimals that go on forever become the rate that was meant.

    >>> parse_fps("30000/1001")
    Fraction(30000, 1001)
    >>> parse_fps("29.97002997")
    Fraction(30000, 1001)
    """
    parts = text.split("/")
    if len(parts) > 2 or not all(re.fullmatch(NUMBER, part) for part in parts) or not Fraction(parts[-1]):
        raise ValueError(f"fps must be a number like 24 or 30000/1001, got {text[:50]!r}")
    rate = Fraction(parts[0]) / (Fraction(parts[1]) if len(parts) == 2 else 1)
    return rate.limit_denominator(MAX_RATE_DENOMINATOR)
