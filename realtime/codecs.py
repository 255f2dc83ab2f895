"""How a result may be encoded: codecs by name, the encoders that make them, and where each fits."""

from dataclasses import dataclass
from typing import Literal, get_args

from .errors import SinkError

Codec = Literal["h264", "hevc", "av1", "vp9", "prores", "ffv1", "gif", "png"]

DEFAULT_CODEC: Codec = "h264"


@dataclass(frozen=True)
class CodecChoice:
    """One way to encode."""

    encoder: str
    """FFmpeg's encoder where none is named."""
    pixel_format: str
    deep_format: str | None
    """The 10-bit format for a result that stays HDR, None where the codec has none here."""
    containers: tuple[str, ...]
    """Suffixes, the default first."""
    options: dict[str, str]
    quality: str | None
    """The encoder option that --crf sets."""
    speed: str | None
    """The encoder option that --preset sets."""
    crf: int | None = None
    """Default quality; lower is better."""
    preset: str | None = None


# Defaults: veryfast leaves the processor to the style (medium takes 3 times as long for 10 % smaller files);
# crf 18 because brush strokes are nearly noise to a codec and block early.
CODECS: dict[Codec, CodecChoice] = {
    "h264": CodecChoice(
        "libx264", "yuv420p", "yuv420p10le", (".mp4", ".mov", ".m4v", ".mkv", ".nut"),
        {},
        quality="crf", speed="preset", crf=18, preset="veryfast",
    ),
    "hevc": CodecChoice(
        "libx265", "yuv420p", "yuv420p10le", (".mp4", ".mov", ".m4v", ".mkv", ".nut"),
        {"x265-params": "log-level=error"}, quality="crf", speed="preset", crf=20, preset="fast",
    ),
    "av1": CodecChoice(
        "libsvtav1", "yuv420p", "yuv420p10le", (".mp4", ".mkv", ".webm", ".nut"), {},
        quality="crf", speed="preset", crf=28, preset="10",
    ),
    "vp9": CodecChoice(
        "libvpx-vp9", "yuv420p", "yuv420p10le", (".webm", ".mkv", ".mp4", ".nut"),
        {"b": "0", "row-mt": "1", "deadline": "good"}, quality="crf", speed="cpu-used", crf=28, preset="5",
    ),
    "prores": CodecChoice(
        "prores_ks", "yuv422p10le", "yuv422p10le", (".mov", ".mkv"), {"profile": "3", "vendor": "apl0"},
        quality="qscale", speed=None,
    ),
    # 10 bits: the fewest in which YCbCr gives 8-bit RGB back.
    "ffv1": CodecChoice("ffv1", "yuv444p10le", "yuv444p10le", (".mkv", ".nut"), {"level": "3", "slicecrc": "1"},
        quality=None, speed=None),
    "gif": CodecChoice("gif", "pal8", None, (".gif",), {}, quality=None, speed=None),
    "png": CodecChoice("png", "rgb24", None, (".mov",), {}, quality=None, speed=None),
}  # fmt: skip

CONTAINERS = {
    ".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm", ".nut": "nut",
    ".gif": "gif",
}  # fmt: skip
"""Suffix to FFmpeg's muxer. AVI and MPEG-TS are left out: they cannot hold every frame's own time."""

PipeFormat = Literal["matroska", "nut", "y4m"]
PIPE_MUXERS: dict[PipeFormat, str] = {"matroska": "matroska", "nut": "nut", "y4m": "yuv4mpegpipe"}

ENCODER_THREADS = 8
"""The same everywhere, because x264 makes other bytes with other numbers: a film may be painted by several machines."""
LARGE_PIXELS = 2048 * 1152
LARGE_ENCODER_THREADS = 4
LARGE_X264 = "rc-lookahead=5:sync-lookahead=0"
"""For frames larger than that, which x264 holds by the dozen: 0.45 GB less at 4K together with half the threads, in
the same processor time. The style is far slower there anyway."""

REPEATABLE_X264 = "asm=avx2"
"""x264's AVX-512 code for macroblock trees reads memory that nobody wrote: the same pictures give other bytes at every
other run (33 of 250 runs at veryfast; none with this, at the same speed). A resumed job must not differ."""

HARDWARE_SUFFIXES = ("_nvenc", "_qsv", "_videotoolbox", "_amf", "_vaapi")


@dataclass(frozen=True)
class Encoding:
    """What a user asked of the encoder; None takes the codec's default."""

    codec: Codec = DEFAULT_CODEC
    encoder: str | None = None
    """FFmpeg's encoder by name, e.g. "h264_nvenc"; it must make `codec`."""
    crf: int | None = None
    preset: str | None = None
    reorder: bool = True
    """Whether pictures may be coded out of order; pipes go without for less delay, NUT because its times begin at 0."""
    keep_hdr: bool = False
    """10 bits and the stream's own HDR tags."""

    def __post_init__(self) -> None:
        if self.codec not in CODECS:
            raise ValueError(f"codec must be one of {', '.join(get_args(Codec))}, got {self.codec!r}")
        if self.crf is not None and (self.choice.quality is None or not 0 <= self.crf <= 63):
            rule = "between 0 and 63" if self.choice.quality else f"left out for {self.codec}"
            raise ValueError(f"crf must be {rule}, got {self.crf}")
        if self.preset is not None and self.choice.speed is None:
            raise ValueError(f"preset must be left out for {self.codec}, got {self.preset!r}")

    @property
    def choice(self) -> CodecChoice:
        return CODECS[self.codec]

    @property
    def encoder_name(self) -> str:
        return self.encoder or self.choice.encoder

    @property
    def pixel_format(self) -> str:
        if self.keep_hdr:
            if self.choice.deep_format is None:
                raise SinkError(f"codec must have 10 bits to keep HDR, got {self.codec}: use hevc, av1, vp9 or prores")
            return self.choice.deep_format
        return self.choice.pixel_format

    def options_for(self, height: int, width: int) -> dict[str, str]:
        """For FFmpeg's encoder of this name and frames of this size, its number of threads among them."""
        if height * width <= LARGE_PIXELS:
            return self.options | {"threads": str(ENCODER_THREADS)}
        options = self.options | {"threads": str(LARGE_ENCODER_THREADS)}
        if self.encoder_name == "libx264":
            given = options.get("x264-params")
            options["x264-params"] = f"{given}:{LARGE_X264}" if given else LARGE_X264
        return options

    @property
    def options(self) -> dict[str, str]:
        """The same for any size."""
        choice = self.choice
        crf = self.crf if self.crf is not None else choice.crf
        if self.encoder_name.endswith(HARDWARE_SUFFIXES):
            quality = {"_nvenc": "cq", "_qsv": "global_quality", "_videotoolbox": "q:v"}
            name = next((q for suffix, q in quality.items() if self.encoder_name.endswith(suffix)), None)
            options = {name: str(crf)} if name and crf is not None else {}
            return options | ({"preset": self.preset} if self.preset else {})
        options = dict(choice.options)
        if self.encoder_name == "libx264" and _has_avx512():
            options["x264-params"] = REPEATABLE_X264
        if choice.quality and crf is not None:
            options[choice.quality] = str(crf)
        if not self.reorder and self.codec in ("h264", "hevc"):
            options["bf"] = "0"
        preset = self.preset or choice.preset
        if choice.speed and preset is not None:
            options[choice.speed] = preset
        return options


def check_container(suffix: str, codec: Codec) -> None:
    """Refuse a file name whose container cannot hold the codec."""
    fitting = CODECS[codec].containers
    if suffix.lower() not in fitting:
        raise SinkError(f"output must end in {' or '.join(fitting)} for {codec}, got {suffix or 'no suffix'}")


def _has_avx512() -> bool:
    import cv2

    avx512f = 13  # OpenCV's CPU_AVX_512F, which Python's bindings leave out
    return bool(cv2.checkHardwareSupport(avx512f))
