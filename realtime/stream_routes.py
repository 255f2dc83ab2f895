"""How one stream of sound or subtitles gets into another container: copied, encoded anew, rewritten, or not at all."""

import io
import logging
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from functools import partial
from typing import TypeVar, cast

import av
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.packet import Packet
from av.stream import Stream
from av.subtitles.codeccontext import SubtitleCodecContext

from .errors import reason_of
from .output_file import reasons_kept

logger = logging.getLogger(__name__)

TEXT_SUBTITLES = frozenset({"subrip", "ass", "ssa", "webvtt", "mov_text", "text"})
SUBTITLE_CODECS = {"mp4": "mov_text", "mov": "mov_text", "matroska": "subrip", "webm": "webvtt"}
"""Muxer to the text subtitles it takes."""
SOUND_CODECS = {"mp4": "aac", "mov": "aac", "webm": "libopus", "matroska": "flac", "nut": "flac"}
"""Muxer to the sound encoder for what it does not take."""
REENCODED_BIT_RATE = 192_000
REENCODED_RATE = 48_000
"""Samples a second where the encoder does not take the stream's own rate."""
DEFAULT_LAYOUTS = {1: "mono", 2: "stereo", 3: "2.1", 4: "4.0", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}
"""Channel count to FFmpeg's layout for streams that do not say which loudspeaker is which, as in AVI and Matroska."""

T = TypeVar("T")


class CopyRoute:
    """A stream whose packets go over untouched."""

    def __init__(self, source: Stream, target: Stream) -> None:
        self.target = target

    def convert(self, packet: "Packet[Stream] | None") -> "Iterator[Packet[Stream]]":
        if packet is not None:
            packet.stream = self.target
            yield packet


class SoundRoute:
    """Sound in a codec that the container does not take: decoded and encoded anew."""

    def __init__(self, source: AudioStream, target: AudioStream) -> None:
        self._source = source
        self.target = target
        self._resampler: AudioResampler | None = None
        self._form: tuple[str, str, int] | None = None
        self.damaged = 0
        """Packets that cannot be decoded, or what they hold not be encoded; left out."""

    def convert(self, packet: "Packet[Stream] | None") -> "Iterator[Packet[Stream]]":
        frames = self._kept(partial(self._source.decode, cast("Packet[AudioStream] | None", packet)))
        for frame in [*frames, *([None] if packet is None else [])]:
            yield from self._kept(partial(self._encoded, frame))
        if packet is None:
            yield from self._kept(self._last_packets)

    def _kept(self, step: Callable[[], Iterable[T]]) -> list[T]:
        """What the step gives; nothing where it fails, which codecs name in many ways: the film goes on."""
        try:
            return list(step())
        except av.FFmpegError as exc:
            if isinstance(exc, MemoryError):
                raise
            self.damaged += 1
            logger.debug("a packet of sound cannot be encoded anew: %s", exc)
            return []

    def _encoded(self, frame: AudioFrame | None) -> "Iterator[Packet[Stream]]":
        try:
            for piece in self._resampled(frame):
                yield from self.target.encode(piece)
        except av.FFmpegError:
            self._resampler = None
            raise

    def _resampled(self, frame: AudioFrame | None) -> Iterator[AudioFrame]:
        """The frame as the encoder wants it: broadcasts change channels and rate between programmes. None drains."""
        form = None if frame is None else (frame.format.name, frame.layout.name, frame.sample_rate)
        if self._resampler is not None and form != self._form:
            yield from self._resampler.resample(None)
            self._resampler = None
        self._form = form
        if frame is not None:
            context = self.target.codec_context
            if self._resampler is None:
                self._resampler = AudioResampler(context.format, context.layout, context.sample_rate)
            yield from self._resampler.resample(frame)

    def _last_packets(self) -> "Iterator[Packet[Stream]]":
        for packet in self.target.encode(None):
            # FLAC's last one holds a checksum for the header and no sound: Matroska takes it, NUT would store nothing.
            if packet.size or self.target.container.format.name == "matroska":
                yield packet


class SubtitleRoute:
    """Text subtitles rewritten in the container's own codec."""

    def __init__(self, source: Stream, target: Stream) -> None:
        self._decoder = cast(SubtitleCodecContext, source.codec_context)
        self._encoder = cast(SubtitleCodecContext, target.codec_context)
        self.target = target

    def convert(self, packet: "Packet[Stream] | None") -> "Iterator[Packet[Stream]]":
        if packet is None or not packet.size:
            return
        try:
            subtitle = self._decoder.decode2(packet)
            if subtitle is None:
                return
            written = self._encoder.encode_subtitle(subtitle)
        except av.FFmpegError as exc:
            logger.warning("a subtitle at %.1f s cannot be rewritten: %s", float(due(packet)), exc)
            return
        written.pts, written.dts, written.duration = packet.pts, packet.pts, packet.duration
        written.time_base = packet.time_base
        written.stream = self.target
        yield written


Route = CopyRoute | SoundRoute | SubtitleRoute


def find_route(stream: Stream, output: OutputContainer) -> Route | None:
    """How a stream gets into the output; None if it does not, which is said."""
    muxer = output.format.name
    codec = codec_of(stream)
    try:
        if codec is None:
            raise ValueError("its codec is unknown")
        if stream.type == "audio" and not _is_sound(cast(AudioStream, stream)):
            raise ValueError("it has no sample rate or no channels, as a track without sound")
        if _takes(output, stream.type, codec):
            try:
                return _rehearsed(output, partial(_copy_route, stream))
            except (ValueError, av.FFmpegError) as exc:
                logger.debug("%s stream %d cannot be copied: %s", stream.type, stream.index, exc)
        if stream.type == "audio":
            return _sound_route(cast(AudioStream, stream), output, codec)
        if stream.type == "subtitle" and codec in TEXT_SUBTITLES and muxer in SUBTITLE_CODECS:
            return _subtitle_route(stream, output, codec)
        raise ValueError(f"{muxer} does not take {codec}")
    except (ValueError, av.FFmpegError) as exc:
        logger.warning("%s stream %d left out: %s", stream.type, stream.index, reason_of(exc))
        return None


def _rehearsed(output: OutputContainer, add: "Callable[[OutputContainer], Route]") -> Route:
    """Add a stream to the output once a small file with it could be written: the film's own comes after the work."""
    with reasons_kept(), av.open(io.BytesIO(), "w", format=output.format.name) as rehearsal:
        target = add(rehearsal).target
        rehearsal.start_encoding()
        if isinstance(target, AudioStream) and (codec_of(target) or "").startswith("pcm_"):
            # Of PCM, MP4 looks at the channels only when it writes its end.
            packet = av.Packet(bytes(24 * target.codec_context.layout.nb_channels))
            packet.stream, packet.pts, packet.dts = target, 0, 0
            rehearsal.mux_one(packet)
    return add(output)


def _copy_route(stream: Stream, output: OutputContainer) -> CopyRoute:
    target = output.add_stream_from_template(stream, opaque=True)
    if isinstance(stream, AudioStream) and (layout := _layout_of(stream)) is not None:
        cast(AudioStream, target).codec_context.layout = layout
    return CopyRoute(stream, target)


def _sound_route(stream: AudioStream, output: OutputContainer, codec: str) -> Route:
    muxer = output.format.name
    encoder = SOUND_CODECS.get(muxer)
    if encoder is None:
        raise ValueError(f"{muxer} takes no sound")
    layout, count = _layout_of(stream), stream.codec_context.layout.nb_channels
    if layout is None:
        raise ValueError(f"it does not say what its {count} channels are")
    rate, rates = stream.codec_context.sample_rate, av.Codec(encoder, "w").audio_rates
    if encoder == "libopus" or (rates and rate not in rates):
        rate = REENCODED_RATE
    failure: Exception | None = None
    for wanted in dict.fromkeys((layout, DEFAULT_LAYOUTS.get(count, "stereo"), "stereo")):
        try:
            route = _rehearsed(output, partial(_encoded_route, stream, encoder, rate, wanted))
        except (ValueError, av.FFmpegError) as exc:
            failure = failure or exc
            continue
        mixed = "" if wanted == layout else f" in {wanted}"
        logger.warning(
            "audio stream %d encoded anew as %s%s: %s does not take %s", stream.index, encoder, mixed, muxer, codec
        )
        return route
    raise ValueError(f"{encoder} does not take it: {reason_of(failure)}")


def _encoded_route(stream: AudioStream, encoder: str, rate: int, layout: str, output: OutputContainer) -> SoundRoute:
    target = output.add_stream(encoder, rate=rate, layout=layout)
    if encoder != "flac":
        target.codec_context.bit_rate = REENCODED_BIT_RATE
    return SoundRoute(stream, cast(AudioStream, target))


def _is_sound(stream: AudioStream) -> bool:
    """Television announces tracks that stay empty; nothing is known of these."""
    return bool(stream.codec_context.sample_rate and stream.codec_context.layout.nb_channels)


def _layout_of(stream: AudioStream) -> str | None:
    """The channel layout, the default for so many channels where the stream names none; None if there is no default."""
    layout = stream.codec_context.layout
    unnamed = layout.name == f"{layout.nb_channels} channels"
    return DEFAULT_LAYOUTS.get(layout.nb_channels) if unnamed else layout.name


def _subtitle_route(stream: Stream, output: OutputContainer, codec: str) -> SubtitleRoute:
    wanted = SUBTITLE_CODECS[output.format.name]
    logger.warning("subtitle stream %d rewritten as %s: %s does not take %s",
                   stream.index, wanted, output.format.name, codec)  # fmt: skip
    decoder = cast(SubtitleCodecContext, stream.codec_context)
    decoder.open(strict=False)
    target = output.add_stream(wanted)
    context = cast(SubtitleCodecContext, target.codec_context)
    context.subtitle_header = decoder.subtitle_header
    # Text subtitles count milliseconds; a muxer takes what it is given.
    context.time_base = Fraction(1, 1000)
    return SubtitleRoute(stream, target)


def _takes(output: OutputContainer, kind: str, codec: str) -> bool:
    """Whether the container holds the codec. Matroska lists only what FFmpeg can encode, but holds nearly all."""
    if output.format.name in ("matroska", "nut") and codec != "mov_text":
        return True
    return codec in output.supported_codecs


def codec_of(stream: Stream) -> str | None:
    """FFmpeg's name of the codec; None where it is unknown."""
    context = stream.codec_context
    return None if context is None else context.codec.canonical_name


def due(packet: "Packet[Stream]") -> Fraction:
    """Seconds at which a muxer wants the packet."""
    ticks = packet.dts if packet.dts is not None else packet.pts
    return (ticks or 0) * packet.time_base
