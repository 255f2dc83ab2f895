"""Everything that is not the picture: sound, subtitles, covers, chapters, attachments, tags, carried over.

Packets are copied bit for bit where the container takes their codec; `stream_routes.py` has what becomes of the others.
What cannot be carried over is named.
"""

import logging
import math
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import cast

import av
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.stream import AttachmentStream, Disposition, Stream

from .input_file import STILLS, is_cover
from .stream_routes import Route, SoundRoute, codec_of, due, find_route

logger = logging.getLogger(__name__)

INTERLEAVED_SECONDS = 10
"""Packets of the same moment lie closer together than this in a file: behind it, nothing of a part is left."""
COVERS = {"mjpeg": ("cover.jpg", "image/jpeg"), "png": ("cover.png", "image/png")}
"""Codec of a cover picture to its name and type as a Matroska attachment."""
MUXERS_WITH_ATTACHMENTS = frozenset({"matroska"})
MUXERS_WITH_CHAPTERS = frozenset({"matroska", "webm", "mp4", "mov", "nut"})
INPUT_ONLY_TAGS = frozenset({"encoder", "duration", "major_brand", "minor_version", "compatible_brands"})
"""Tags that describe the input file itself, not the film."""


@dataclass(frozen=True)
class Span:
    """A part of the input, in seconds; its start becomes time 0 of the output."""

    start: Fraction | None = None
    end: Fraction | None = None

    def holds(self, seconds: Fraction) -> bool:
        return (self.start is None or seconds >= self.start) and (self.end is None or seconds < self.end)

    @property
    def shift(self) -> Fraction:
        """Seconds to take off every time."""
        return self.start or Fraction(0)


class SideChannel:
    """Packets that a source set aside while it read its video: an iterator that may run dry and go on later."""

    def __init__(self, packets: "deque[Packet[Stream]]") -> None:
        self._packets = packets

    def __iter__(self) -> "Iterator[Packet[Stream]]":
        return self

    def __next__(self) -> "Packet[Stream]":
        try:
            return self._packets.popleft()
        except IndexError:
            raise StopIteration from None


class StreamCopier:
    """Hands the other streams' packets of an input over as the picture's clock moves on."""

    def __init__(
        self, container: InputContainer, *, span: Span | None = None, packets: SideChannel | None = None
    ) -> None:
        """
        Args:
            container: the input; this copier's own, opened a second time, unless `packets` come from elsewhere.
            span: the part of the input that is wanted.
            packets: for an input that can be read only once.
        """
        self._container = container
        self._side_channel = packets
        self._span = span or Span()
        self._routes: dict[int, Route] = {}
        self._covers: list[Packet[Stream]] = []
        self._ended: set[int] = set()
        self._pending: Packet[Stream] | None = None
        self._packets: Iterator[Packet[Stream]] = iter(())
        self._finished = False
        self._refused = 0

    @property
    def tags(self) -> set[str]:
        """Names of the film's tags."""
        return set(kept_tags(self._container.metadata))

    def end_at(self, seconds: Fraction) -> None:
        """Leave out what comes after `seconds` of the output; to be said before `attach`."""
        end = seconds + self._span.shift
        self._span = Span(self._span.start, end if self._span.end is None else min(end, self._span.end))

    def attach(self, output: OutputContainer) -> None:
        """Declare the streams, chapters and tags in `output`, before its header is written."""
        covers = [stream for stream in self._container.streams if is_cover(stream)]
        pictures = [s for s in self._container.streams.video if not s.disposition & STILLS]
        for stream in self._container.streams:
            if stream.type == "attachment":
                self._attach_file(cast(AttachmentStream, stream), output)
            elif stream.type in ("audio", "subtitle"):
                self._add_route(stream, output)
            elif stream in covers or stream in pictures[:1]:
                continue
            elif stream.type == "video" or (stream.type == "data" and stream.codec_context is not None):
                logger.warning("%s stream %d left out", stream.type, stream.index)
        self._tag_video(output)
        output.metadata.update(self._film_tags(self._container.metadata))
        self._copy_chapters(output)
        if self._side_channel is not None:
            self._packets = self._side_channel
        elif self._routes or covers:
            # The picture's packets tell how far the file is read, where the others are far between.
            clock = pictures[:1] if self._span.end is not None else []
            wanted = {*self._routes, *(stream.index for stream in [*covers, *clock])}
            self._packets = self._read([s for s in self._container.streams if s.index in wanted])
        self._attach_covers(covers, output)

    def copy_until(self, output: OutputContainer, seconds: Fraction | None) -> None:
        """Mux every packet that is due before `seconds` of the output; all that are left if None."""
        for cover in self._covers:
            output.mux_one(cover)
        self._covers.clear()
        while (packet := self._next()) is not None:
            if self._is_over(packet):
                self._packets = iter(())
                break
            if packet.stream_index not in self._routes or not self._is_wanted(packet):
                continue
            if seconds is not None and due(packet) - self._span.shift > seconds:
                self._pending = packet
                return
            self._mux(output, packet.stream_index, packet)
        if seconds is None and not self._finished:
            self._finished = True
            for index, route in self._routes.items():
                self._mux(output, index, None)
                self._refused += route.damaged if isinstance(route, SoundRoute) else 0
            if self._refused:
                logger.warning("%d damaged packets of sound or subtitles left out", self._refused)

    def close(self) -> None:
        if self._side_channel is None:
            self._container.close()

    def _is_over(self, packet: "Packet[Stream]") -> bool:
        """Whether nothing of the part is left to come: of a live input, the rest would take for ever."""
        late = None if self._span.end is None else due(packet) - self._span.end
        if late is None or late < 0:
            return False
        self._ended.add(packet.stream_index)
        return self._ended >= self._routes.keys() or late > INTERLEAVED_SECONDS

    def _is_wanted(self, packet: "Packet[Stream]") -> bool:
        """Whether the part holds the packet; a subtitle that crosses an end of the part is shortened."""
        if packet.stream.type != "subtitle" or packet.pts is None or not packet.duration:
            return self._span.holds(due(packet))
        tick = packet.time_base
        begin, end = packet.pts * tick, (packet.pts + packet.duration) * tick
        first = begin if self._span.start is None else max(begin, self._span.start)
        last = end if self._span.end is None else min(end, self._span.end)
        if first >= last:
            return False
        if (first, last) != (begin, end):
            packet.pts = packet.dts = round(first / tick)
            packet.duration = round(last / tick) - packet.pts
        return True

    def _add_route(self, stream: Stream, output: OutputContainer) -> None:
        route = find_route(stream, output)
        if route is None:
            return
        route.target.metadata.update(kept_tags(stream.metadata))
        route.target.disposition = stream.disposition
        self._routes[stream.index] = route

    def _tag_video(self, output: OutputContainer) -> None:
        """The picture's own language, title, time code and disposition."""
        for stream in self._container.streams.video:
            if not stream.disposition & STILLS and output.streams.video:
                tags = {k: v for k, v in self._film_tags(stream.metadata).items() if k.lower() != "rotate"}
                output.streams.video[0].metadata.update(tags)
                output.streams.video[0].disposition = stream.disposition
                return

    def _film_tags(self, tags: dict[str, str]) -> dict[str, str]:
        """Tags of the part: a time code is that of its first picture."""
        kept = kept_tags(tags)
        key = next((key for key in kept if key.lower() == "timecode"), None)
        video = next((s for s in self._container.streams.video if not s.disposition & STILLS), None)
        if self._span.start is None or key is None or video is None or not video.average_rate:
            return kept
        begins = (video.start_time or 0) * (video.time_base or Fraction(0))
        rate = Fraction(video.average_rate)
        moved = moved_time_code(kept.pop(key), math.ceil((self._span.start - begins) * rate), rate)
        return kept if moved is None else kept | {key: moved}

    def _attach_file(self, stream: AttachmentStream, output: OutputContainer) -> None:
        name = stream.metadata.get("filename", f"attachment-{stream.index}")
        if output.format.name not in MUXERS_WITH_ATTACHMENTS:
            logger.warning("attachment %s left out: %s has no attachments", name, output.format.name)
            return
        output.add_attachment(name, stream.mimetype or "application/octet-stream", stream.data)

    def _attach_covers(self, covers: list[Stream], output: OutputContainer) -> None:
        """Cover pictures: an input gives their packets before all others, and without times."""
        indices = {stream.index for stream in covers}
        packets: dict[int, Packet[Stream]] = {}
        while packets.keys() != indices and (packet := self._next()) is not None:
            if packet.stream_index not in indices:
                self._pending = packet
                break
            packets[packet.stream_index] = packet
        for stream in covers:
            self._attach_cover(stream, packets.get(stream.index), output)

    def _attach_cover(self, stream: Stream, packet: "Packet[Stream] | None", output: OutputContainer) -> None:
        codec, muxer = codec_of(stream), output.format.name
        if codec not in COVERS or packet is None:
            logger.warning("cover picture %d left out: it must be JPEG or PNG, got %s", stream.index, codec)
        elif muxer == "matroska":
            name, mimetype = COVERS[codec]
            output.add_attachment(stream.metadata.get("filename", name), mimetype, bytes(packet))
        elif muxer == "mp4" and "use_metadata_tags" not in output.container_options.get("movflags", ""):
            packet.stream = output.add_stream_from_template(stream, opaque=True)
            packet.stream.disposition = Disposition.attached_pic
            packet.pts = packet.dts = 0
            self._covers.append(packet)
        else:
            beside = " beside tags like those of phones" if muxer == "mp4" else ""
            logger.warning("cover picture %d left out: %s has none%s", stream.index, muxer, beside)

    def _copy_chapters(self, output: OutputContainer) -> None:
        chapters = self._container.chapters()
        if not chapters:
            return
        if output.format.name not in MUXERS_WITH_CHAPTERS:
            logger.warning("%d chapters left out: %s has none", len(chapters), output.format.name)
            return
        kept = []
        for chapter in chapters:
            tick = chapter["time_base"] or Fraction(1, av.time_base)
            start, end = chapter["start"] * tick, chapter["end"] * tick
            if (self._span.end is not None and start >= self._span.end) or end <= self._span.shift:
                continue
            moved = round(self._span.shift / tick)
            first = max(0, chapter["start"] - moved) if self._span.start is not None else chapter["start"]
            last = chapter["end"] if self._span.end is None else min(chapter["end"], round(self._span.end / tick))
            kept.append({**chapter, "start": first, "end": last - moved})
        output.set_chapters(cast("list[av.container.core.Chapter]", kept))

    def _mux(self, output: OutputContainer, index: int, packet: "Packet[Stream] | None") -> None:
        for ready in self._routes[index].convert(packet):
            if self._span.start is not None:
                moved = round(self._span.shift / ready.time_base)
                ready.pts = None if ready.pts is None else ready.pts - moved
                ready.dts = None if ready.dts is None else ready.dts - moved
            try:
                output.mux_one(ready)
            except av.error.ArgumentError:
                # Times that run backwards: this packet is damaged, the file goes on.
                self._refused += 1

    def _next(self) -> "Packet[Stream] | None":
        packet, self._pending = self._pending, None
        return packet if packet is not None else next(self._packets, None)

    def _read(self, streams: list[Stream]) -> "Iterator[Packet[Stream]]":
        try:
            for packet in self._container.demux(streams):
                if packet.dts is not None or packet.pts is not None or (packet.size and is_cover(packet.stream)):
                    yield packet
        except av.FFmpegError as exc:
            logger.warning("sound and subtitles end early, the input is damaged there: %s", exc)


def kept_tags(tags: dict[str, str]) -> dict[str, str]:
    """Tags of the film, without those that describe the input file."""
    return {key: value for key, value in tags.items() if key.lower() not in INPUT_ONLY_TAGS}


def moved_time_code(code: str, frames: int, rate: Fraction) -> str | None:
    """The time code (SMPTE 12M) so many frames later, as HH:MM:SS:FF, with ; where it drops numbers; None if not one.

    At 29.97 frames a second, drop-frame codes leave out the first two numbers of every minute but the tenth.
    """
    found = re.fullmatch(r"(\d+):(\d+):(\d+)([:;.])(\d+)", code)
    if found is None:
        return None
    hours, minutes, seconds, frame = (int(found[n]) for n in (1, 2, 3, 5))
    base = round(rate)
    dropped = 0 if found[4] == ":" else base // 30 * 2
    minutes += 60 * hours
    number = (60 * minutes + seconds) * base + frame - dropped * (minutes - minutes // 10) + frames
    tens, rest = divmod(number, 600 * base - 9 * dropped)
    number += dropped * (9 * tens + max(0, rest - dropped) // (60 * base - dropped))
    seconds, frame = divmod(number, base)
    return f"{seconds // 3600 % 24:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{found[4]}{frame:02}"
