"""Interlaced video to progressive, one picture per frame, by FFmpeg's bwdif."""

import logging
from collections.abc import Iterable, Iterator
from fractions import Fraction

import av
from av.filter import Graph
from av.video.frame import VideoFrame

logger = logging.getLogger(__name__)


def deinterlaced(frames: Iterable[VideoFrame]) -> Iterator[VideoFrame]:
    """The same frames at the same times, those flagged as interlaced rebuilt from their first field.

    From the first of those on everything goes through bwdif, which looks at the frames before and behind: its last
    answer therefore comes at the end, or where the picture changes its size.
    """
    graph: Graph | None = None
    before: VideoFrame | None = None
    said = False
    for frame in frames:
        if before is not None and _layout(frame) != _layout(before):
            yield from _end(graph)
            graph = before = None
        if graph is not None:
            graph.vpush(frame)
        elif frame.interlaced_frame:
            if not said:
                logger.warning("the video is interlaced: deinterlaced, one picture per frame")
                said = True
            graph = _build(frame)
            if before is not None:
                graph.vpush(before)
            graph.vpush(frame)
            if before is not None:
                graph.vpull()  # that one is out already
        else:
            yield frame
        before = frame
        if graph is not None:
            yield from _ready(graph)
    yield from _end(graph)


def _layout(frame: VideoFrame) -> tuple[int, int, str]:
    return frame.width, frame.height, frame.format.name


def _end(graph: Graph | None) -> Iterator[VideoFrame]:
    if graph is not None:
        graph.vpush(None)
        yield from _ready(graph)


def _build(frame: VideoFrame) -> Graph:
    graph = Graph()
    tick = frame.time_base or Fraction(1, 1000)
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=tick)
    bwdif = graph.add("bwdif", mode="send_frame", parity="auto", deint="interlaced")
    graph.link_nodes(source, bwdif, graph.add("buffersink"))
    graph.configure(auto_buffer=False)
    return graph


def _ready(graph: Graph) -> Iterator[VideoFrame]:
    while True:
        try:
            yield graph.vpull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return
