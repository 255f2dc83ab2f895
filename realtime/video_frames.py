"""An input as the options want it: its frames, its other streams, and a stylizer that may begin anywhere in it."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path

from .copy_streams import SideChannel, Span, StreamCopier
from .engine_carried import EVERY, RUN_UP, SAMPLES
from .frame import Frame, StreamInfo
from .frame_rate import at_frame_rate, later, not_empty, part
from .input_file import open_input, origin_of, pick_video
from .look import AtSegments, FilmStylizer, run_up_of
from .options import VideoOptions
from .sink_file import DEFAULT_TIME_BASE
from .size import parse_size
from .source import Source
from .source_file import VideoFile


@dataclass(frozen=True)
class Probe:
    """What is known of a result before anything is decoded."""

    time_base: Fraction
    origin: Fraction
    """See `StreamInfo`."""
    height: int
    width: int


def probe_video(source: str | Path, options: VideoOptions) -> Probe:
    """Look at an input's header. Height and width may be swapped, the turn of a phone stands in the first picture."""
    with open_input(source) as container:
        stream = pick_video(container, str(source))
        context = stream.codec_context
        height, width = (context.height, context.width) if context is not None else (0, 0)
        if options.size is not None and height and width:
            height, width = parse_size(options.size, height, width)
        time_base = Fraction(stream.time_base or DEFAULT_TIME_BASE)
        origin = origin_of(container, time_base)
    return Probe(time_base if options.fps is None else 1 / options.fps, origin, height, width)


@contextmanager
def open_frames(
    source: str | Path, options: VideoOptions, *, after: Fraction | None
) -> Iterator[tuple[VideoFile, Source]]:
    """The file, and its frames as the options want them, later than `after` of the output."""
    with VideoFile(
        source, size=options.size, deinterlace=options.deinterlace, hdr=options.hdr,
        decoder=options.decoder, keep_others=options.audio and str(source) == "-",
    ) as video:  # fmt: skip
        shift = Fraction(0) if options.start is None else video.info.origin + options.start
        # A frame rate of one's own needs the frame before as well, however long ago that was.
        if options.fps is None and (after is not None or options.start is not None):
            video.skip_to(shift + (after if after is not None else -Fraction(1, 10**6)))
        frames: Source = video
        rate = options.fps
        if rate is None and options.is_y4m:
            rate = video.info.frame_rate  # y4m knows no times, only a rate
        if rate is not None:
            frames = at_frame_rate(frames, rate)
        if options.start is not None or options.end is not None:
            frames = part(frames, options.start, options.end)
            if after is None:  # of a job that is resumed, the part may be done already
                frames = not_empty(frames, _nothing_in(options, video.info))
        if after is not None:
            frames = later(frames, after)
        yield video, frames


def _nothing_in(options: VideoOptions, info: StreamInfo) -> ValueError:
    wanted = f"from {float(options.start or 0):g} s" + (f" to {float(options.end):g} s" if options.end else " on")
    length = f"; it lasts {float(info.duration):.1f} s" if info.duration is not None else ""
    return ValueError(f"start and end must leave a part of the film, got nothing {wanted}{length}")


def step_for(
    stylizer: FilmStylizer, source: str | Path, options: VideoOptions, info: StreamInfo, earlier: Sequence[Fraction]
) -> "FilmStylizer | AtSegments":
    """The stylizer, made independent of where the film was cut or resumed if it remembers frames.

    `earlier` are the times of all frames before the first one to come.
    """
    freeze(stylizer, source, options)
    run_up = run_up_of(options.smooth, info.height * info.width)
    needed = max(run_up, RUN_UP if options.normalization == "carried" else 0)
    if not needed:
        return stylizer
    # From a frame on that is measured in any case.
    first = max(0, len(earlier) - needed) // EVERY * EVERY
    stylizer.number = first
    with ExitStack() as stack:
        before: Iterable[Frame] = ()
        if earlier:
            after = earlier[first - 1] if first else None
            _, frames = stack.enter_context(open_frames(source, options, after=after))
            before = islice(frames, len(earlier) - first)
        return AtSegments(stylizer, every=options.segment_length, run_up=run_up, before=before)


def freeze(stylizer: FilmStylizer, source: str | Path, options: VideoOptions) -> None:
    """Where frozen statistics are wanted, take those of frames from all over the film.

    Of an input that cannot be read twice they are the first frame's, without help from here; where times cannot be
    reached at once, the first frame's of the part that is painted.
    """
    if options.normalization != "frozen" or str(source) == "-":
        return
    first = options.start or Fraction(0)
    with VideoFile(source) as video:
        origin, end = video.info.origin, options.end or video.info.duration
        count = SAMPLES if video.seeks and end is not None and end > first else 1
    times = [first + (end - first) * number / count for number in range(count)] if end else [first]
    pictures = []
    for seconds in times:
        after = origin + seconds - Fraction(1, 10**6)
        with VideoFile(
            source, size=options.size, after=after, deinterlace=options.deinterlace, hdr=options.hdr,
            decoder=options.decoder,
        ) as video:  # fmt: skip
            pictures += [frame.data for frame in islice(video, 1)]
    if pictures:
        stylizer.freeze(pictures)


def copier_for(source: str | Path, video: VideoFile, options: VideoOptions) -> StreamCopier | None:
    if not options.audio:
        return None
    wanted = (None if seconds is None else video.info.origin + seconds for seconds in (options.start, options.end))
    span = Span(*wanted)
    if str(source) == "-":
        return StreamCopier(video.container, span=span, packets=SideChannel(video.others))
    return StreamCopier(open_input(source), span=span)
