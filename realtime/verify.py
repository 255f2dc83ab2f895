"""Proof that a repainted video kept what it had to keep: frames, times, sound, subtitles, cover, chapters, tags.

Works on packets alone: nothing is decoded, hours of film take seconds.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.stream import VideoStream

from .color import tags_of
from .copy_streams import kept_tags
from .errors import SourceError, name_of
from .input_file import check_reopens, is_cover, open_input, pick_video
from .orientation import orientation_of
from .source_file import DECODE_ORDER_FORMATS
from .stream_routes import codec_of
from .tonemap import HLG, PQ

MAX_LISTED = 3
"""Differences of one kind that are named one by one; the rest is counted."""

COMPARED_TAGS = frozenset({"title", "artist", "album", "date", "comment", "genre", "copyright", "description"})
STREAM_TAGS = frozenset({"language", "title"})


@dataclass(frozen=True)
class Track:
    """A stream that must come over bit for bit."""

    kind: str
    codec: str
    times: list[Fraction]
    digests: list[str]
    tags: dict[str, str]


@dataclass(frozen=True)
class Film:
    """What a file holds, as far as it must survive."""

    times: list[Fraction]
    """Of every picture shown, in order, in seconds."""
    durations: list[Fraction]
    tick: Fraction
    """What the container rounds times to."""
    height: int
    width: int
    """Upright."""
    rotation: int
    aspect: Fraction
    color: tuple[str, int, int]
    is_hdr: bool
    tracks: list[Track] = field(default_factory=list)
    chapters: list[tuple[Fraction, str]] = field(default_factory=list)
    attachments: list[str] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)


def verify(source: Path, result: Path) -> list[str]:
    """One line per difference that repainting must not make; empty if there is none.

    Times may differ by half of what the coarser of both containers can express (1 ms in Matroska).
    """
    before, after = read_film(source), read_film(result)
    return [
        *_compare_times(before, after),
        *_compare_pictures(before, after),
        *_compare_tracks(before, after),
        *_compare_rest(before, after),
    ]


def read_film(path: str | Path) -> Film:
    """Look through a file's packets.

    Raises:
        SourceError: it cannot be read.
    """
    check_reopens(path)
    container = open_input(path)
    with container:
        video = pick_video(container, str(path))
        try:
            head = next(container.decode(video), None)
        except av.FFmpegError as exc:
            raise SourceError(f"{name_of(path)} cannot be decoded: {exc.strerror}") from exc
        if head is None or not video.time_base:
            raise SourceError(f"{name_of(path)} must hold at least one readable picture, got none")
        orientation, color = orientation_of(head), tags_of(head)
        upright = (head.width, head.height) if orientation.transpose else (head.height, head.width)
        aspect = Fraction(video.sample_aspect_ratio or 1)
    # From the start again: not every input can seek back.
    with open_input(path) as container:
        video = pick_video(container, str(path))
        times, durations, tracks = _read_packets(container, video)
        return Film(
            times=times,
            durations=durations,
            tick=Fraction(video.time_base or Fraction(1, 1000)),
            height=upright[0],
            width=upright[1],
            rotation=orientation.rotation,
            aspect=1 / aspect if orientation.transpose else aspect,
            color=(color.matrix, color.primaries, color.transfer),
            is_hdr=head.color_trc in (PQ, HLG),
            tracks=tracks,
            chapters=[
                (c["start"] * (c["time_base"] or Fraction(1, av.time_base)), c["metadata"].get("title", ""))
                for c in container.chapters()
            ],
            attachments=[
                hashlib.md5(s.data).hexdigest()  # type: ignore[attr-defined]
                for s in container.streams
                if s.type == "attachment"
            ],
            tags={k.lower(): v for k, v in kept_tags(container.metadata).items() if k.lower() in COMPARED_TAGS},
        )


def _read_packets(container: InputContainer, video: VideoStream) -> tuple[list[Fraction], list[Fraction], list[Track]]:
    others = [s for s in container.streams if s.type in ("audio", "subtitle") or is_cover(s)]
    tracks = {s.index: _track(s) for s in others}
    decode_order = container.format.name in DECODE_ORDER_FORMATS
    shown: list[tuple[int, int]] = []
    for packet in _packets(container, [video, *others]):
        if packet.stream_index == video.index:
            ticks = packet.dts if decode_order or packet.pts is None else packet.pts
            if ticks is not None and not packet.is_discard:
                shown.append((ticks, packet.duration or 0))
        elif tracks[packet.stream_index].kind == "cover":
            tracks[packet.stream_index].digests.append(hashlib.md5(bytes(packet)).hexdigest())
        elif packet.pts is not None or packet.dts is not None:
            track = tracks[packet.stream_index]
            ticks = packet.pts if packet.pts is not None else packet.dts
            track.times.append((ticks or 0) * packet.time_base)
            track.digests.append(hashlib.md5(_payload(packet, track.codec)).hexdigest())
    shown.sort()
    tick = Fraction(video.time_base or Fraction(1, 1000))
    return (
        [t * tick for t, _ in shown],
        [d * tick for _, d in shown],
        [track for track in tracks.values() if track.digests],
    )


def _packets(container: InputContainer, streams: Sequence[Stream]) -> "Iterator[Packet[Stream]]":
    """Packets that hold something, up to the end or to where the file is damaged beyond reading."""
    try:
        for packet in container.demux(*streams):
            if packet.size:
                yield packet
    except av.FFmpegError:
        return


def _payload(packet: "Packet[Stream]", codec: str) -> bytes:
    """What must come over: of AAC without the header that MPEG-TS puts before every packet, and MP4 only once."""
    data = bytes(packet)
    if codec == "aac" and len(data) > 1 and data[0] == 0xFF and data[1] & 0xF6 == 0xF0:
        return data[7 if data[1] & 1 else 9 :]  # ISO 13818-7, 6.2: with a checksum, two bytes more
    return data


def _compare_times(before: Film, after: Film) -> Iterator[str]:
    if len(before.times) != len(after.times):
        yield f"frames: {len(before.times)} in the input, {len(after.times)} in the output"
        return
    slack = max(before.tick, after.tick) / 2 if before.tick != after.tick else Fraction(0)
    wrong = [n for n, (a, b) in enumerate(zip(before.times, after.times, strict=True)) if abs(a - b) > slack]
    for n in wrong[:MAX_LISTED]:
        yield f"frame {n}: shown at {_ms(before.times[n])} in the input, at {_ms(after.times[n])} in the output"
    if len(wrong) > MAX_LISTED:
        yield f"frames: {len(wrong) - MAX_LISTED} more are shown at another time"
    last = before.durations[-1] - after.durations[-1] if before.times else Fraction(0)
    # MP4 keeps durations in decode order: with B-frames and a variable rate the last frame shown has another one's.
    known = [duration for duration in before.durations if duration]
    spread = max(known) - min(known) if known else Fraction(0)
    allowed = 2 * slack + after.tick + spread
    if before.durations and before.durations[-1] and after.durations[-1] and abs(last) > allowed:
        yield f"last frame: lasts {_ms(before.durations[-1])} in the input, {_ms(after.durations[-1])} in the output"


def _compare_pictures(before: Film, after: Film) -> Iterator[str]:
    if after.rotation:
        yield f"rotation: the output must be upright, got a turn of {after.rotation} degrees"
    grown = (before.height + before.height % 2, before.width + before.width % 2)
    if (after.height, after.width) not in (grown, (before.height, before.width)):
        yield f"size: {before.width}x{before.height} in the input, {after.width}x{after.height} in the output"
    if abs(before.aspect / after.aspect - 1) > Fraction(1, 1000):
        yield f"pixel aspect: {before.aspect} in the input, {after.aspect} in the output"
    if not (before.is_hdr and not after.is_hdr) and before.color != after.color:
        yield f"colour tags: {_color(before)} in the input, {_color(after)} in the output"


def _compare_tracks(before: Film, after: Film) -> Iterator[str]:
    for kind in ("audio", "subtitle", "cover"):
        ours, theirs = ([t for t in film.tracks if t.kind == kind] for film in (before, after))
        if len(ours) != len(theirs):
            yield f"{kind} tracks: {len(ours)} in the input, {len(theirs)} in the output"
        for number, (a, b) in enumerate(zip(ours, theirs, strict=False)):
            yield from _compare_track(f"{kind} track {number}", a, b, before, after)


def _compare_track(name: str, a: Track, b: Track, before: Film, after: Film) -> Iterator[str]:
    if a.codec != b.codec:
        yield f"{name}: {a.codec} in the input, {b.codec} in the output"
        return
    if a.digests != b.digests:
        same = sum(x == y for x, y in zip(a.digests, b.digests, strict=False))
        yield f"{name}: {same} of {len(a.digests)} packets are the same, the output has {len(b.digests)}"
        return
    slack = Fraction(1, 1000) if a.times != b.times and _is_coarse(before, after) else Fraction(1, 40_000)
    wrong = [n for n, (x, y) in enumerate(zip(a.times, b.times, strict=True)) if abs(x - y) > slack]
    if wrong:
        n = wrong[0]
        yield f"{name}: {len(wrong)} packets at another time, first {_ms(a.times[n])} against {_ms(b.times[n])}"
    for tag in STREAM_TAGS & (a.tags.keys() | b.tags.keys()):
        if a.tags.get(tag, "und") != b.tags.get(tag, "und"):
            yield f"{name}: {tag} is {a.tags.get(tag)} in the input, {b.tags.get(tag)} in the output"


def _compare_rest(before: Film, after: Film) -> Iterator[str]:
    if [title for _, title in before.chapters] != [title for _, title in after.chapters]:
        yield f"chapters: {len(before.chapters)} in the input, {len(after.chapters)} in the output"
    elif any(abs(a - b) > Fraction(1, 1000) for (a, _), (b, _) in zip(before.chapters, after.chapters, strict=True)):
        yield "chapters: begin at other times"
    if before.attachments != after.attachments:
        yield f"attachments: {len(before.attachments)} in the input, {len(after.attachments)} in the output"
    for tag, value in before.tags.items():
        if after.tags.get(tag) != value:
            yield f"tag {tag}: {value!r} in the input, {after.tags.get(tag)!r} in the output"


def _is_coarse(*films: Film) -> bool:
    return any(film.tick >= Fraction(1, 1000) for film in films)


def _track(stream: Stream) -> Track:
    kind = "cover" if is_cover(stream) else stream.type
    return Track(kind, codec_of(stream) or "unknown", [], [], _language(stream))


def _language(stream: Stream) -> dict[str, str]:
    return {key.lower(): value for key, value in stream.metadata.items() if key.lower() in STREAM_TAGS}


def _color(film: Film) -> str:
    matrix, primaries, transfer = film.color
    return f"{matrix}, primaries {primaries}, transfer {transfer}"


def _ms(seconds: Fraction) -> str:
    return f"{float(seconds) * 1000:.3f} ms"
