"""RGB pictures to a GIF's 256 colours, a palette of its own for every picture, by FFmpeg's filters."""

from fractions import Fraction

from av.filter import Graph
from av.video.frame import VideoFrame

from .frame import Picture


class GifWriter:
    """(H, W, 3) uint8 RGB to pal8 frames."""

    def __init__(self) -> None:
        self._graph: Graph | None = None

    def __call__(self, picture: Picture) -> VideoFrame:
        frame = VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="bgra")
        if self._graph is None:
            self._graph = _build(frame)
        self._graph.vpush(frame)
        return self._graph.vpull()


def _build(frame: VideoFrame) -> Graph:
    graph = Graph()
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 100))
    split = graph.add("split")
    choose = graph.add("palettegen", stats_mode="single", reserve_transparent="0")
    use = graph.add("paletteuse", new="1", dither="sierra2_4a")
    sink = graph.add("buffersink")
    source.link_to(split)
    split.link_to(use, 0, 0)
    split.link_to(choose, 1, 0)
    choose.link_to(use, 0, 1)
    use.link_to(sink)
    graph.configure(auto_buffer=False)
    return graph
