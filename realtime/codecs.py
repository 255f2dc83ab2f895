"""How a result may be encoded: codecs by name, the encoders that make them, and where each fits."""

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal, cast, get_args

from .errors import EngineError, SinkError

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
        quality="global_quality", speed=None,
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

PRORES_QUALITY_UNIT = 118
"""FFmpeg's FF_QP2LAMBDA: the unit in which prores_ks takes its quantiser."""

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
        least = 1 if self.codec == "prores" else 0
        if self.crf is not None and (self.choice.quality is None or not least <= self.crf <= 63):
            rule = f"between {least} and 63" if self.choice.quality else f"left out for {self.codec}"
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
    def is_hardware(self) -> bool:
        return self.encoder_name.endswith(HARDWARE_SUFFIXES)

    @property
    def quality_option(self) -> str | None:
        """The encoder's own name for `crf`, None where it has none."""
        if self.is_hardware:
            names = {"_nvenc": "cq", "_qsv": "global_quality"}
            return next((name for suffix, name in names.items() if self.encoder_name.endswith(suffix)), None)
        if self.codec == "prores" and self.encoder_name != "prores_ks":
            return None
        return self.choice.quality

    @property
    def speed_option(self) -> str | None:
        """The encoder's own name for `preset`, None where it has none."""
        return "preset" if self.is_hardware else self.choice.speed

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
        if self.is_hardware:
            options = {self.quality_option: str(crf)} if self.quality_option and crf is not None else {}
            return options | ({"preset": self.preset} if self.preset else {})
        options = dict(choice.options)
        if self.encoder_name == "libx264" and _has_avx512():
            options["x264-params"] = REPEATABLE_X264
        if self.quality_option and crf is not None:
            options[self.quality_option] = str(crf * PRORES_QUALITY_UNIT if self.codec == "prores" else crf)
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


def check_encoder(encoding: Encoding) -> None:
    """Before any work is done, try what the user named of an encoder, its quality and its speed.

    Raises:
        EngineError: no encoder for video of this name works on this machine.
        ValueError: the encoder does not take this quality or speed.
    """
    import av

    name = encoding.encoder_name
    if (encoding.encoder, encoding.crf, encoding.preset) == (None, None, None):
        return
    try:
        unknown = _try_encoder(encoding)
    except (av.FFmpegError, ValueError) as exc:
        trials = (
            ("preset", encoding.preset, replace(encoding, preset=None)),
            ("crf", encoding.crf, replace(encoding, crf=None)),
            ("preset and crf", f"{encoding.preset} and {encoding.crf}", replace(encoding, preset=None, crf=None)),
        )
        for what, given, without in trials:
            if without != encoding and _works(without):
                raise ValueError(f"{what} must be one that {name} takes, got {given}") from exc
        raise EngineError(f"encoder must be one that works on this machine, got {name}: {exc}") from exc
    options = {"crf": encoding.quality_option, "preset": encoding.speed_option}
    for key, option in options.items():
        value = getattr(encoding, key)
        if value is not None and (option is None or option in unknown):
            raise ValueError(f"{key} must be left out for the encoder {name}, which has none, got {value}")


def _try_encoder(encoding: Encoding) -> set[str]:
    """Open it for a small picture; which of its options it did not know."""
    import av

    codec = av.Codec(encoding.encoder_name, "w")
    if codec.type != "video":
        raise EngineError(f"encoder must be one for video, got {codec.name} for {codec.type}")
    context = cast(av.VideoCodecContext, av.CodecContext.create(codec, "w"))
    context.width, context.height, context.pix_fmt = 640, 360, encoding.pixel_format
    context.time_base, context.framerate = Fraction(1, 25), Fraction(25)
    context.options = encoding.options_for(360, 640)
    context.open()
    return set(context.options)


def _works(encoding: Encoding) -> bool:
    import av

    try:
        _try_encoder(encoding)
    except (av.FFmpegError, ValueError):
        return False
    return True


def _has_avx512() -> bool:
    import cv2

    avx512f = 13  # OpenCV's CPU_AVX_512F, which Python's bindings leave out
    return bool(cv2.checkHardwareSupport(avx512f))
