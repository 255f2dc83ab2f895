"""Run a style: source to stylizer to sink, offline and live.

Repaint a video, as `stylize-video` does; every option of the command is a keyword:

>>> from impasto.assets import DEMO_CLIP
>>> from impasto.realtime import stylize_video
>>> report = stylize_video(DEMO_CLIP, "painted.mp4", style="mosaic", size="160x90", end=1)
>>> report.frames_out, report.frames_dropped
(25, 0)

Or take the painted pictures one by one, (H, W, 3) uint8 RGB, each with its exact time in seconds:

>>> from impasto.realtime import stylized_frames
>>> frame = next(iter(stylized_frames(DEMO_CLIP, style="mosaic", size="160x90")))
>>> frame.data.shape, frame.data.dtype, frame.pts
((90, 160, 3), dtype('uint8'), Fraction(0, 1))

Or put the parts together: a `Source`, a `Stylizer` around an `Engine`, any number of `Sink`s, a `Pipeline`. What is
wrong with the world is an `ImpastoError` of one line.

The guide, with the panel's interface and clusters, is README.md in this package's folder.
"""

from typing import TYPE_CHECKING

from ..training.lazy import lazy_names

if TYPE_CHECKING:
    from .codecs import Encoding
    from .engine import Engine, EngineInfo
    from .engine_choice import load_engine
    from .errors import ArtifactError, EngineError, ImpastoError, SinkError, SourceError
    from .frame import ColorTags, Frame, Picture, StreamInfo
    from .look import Cue, Look, load_timeline
    from .options import VideoOptions
    from .pipeline import Pipeline, Progress, Report
    from .sink import Sink
    from .sink_file import VideoFileWriter
    from .source import Source
    from .source_file import VideoFile
    from .stylizer import Stylizer
    from .video import stylize_video, stylized_frames

__all__ = [
    "ArtifactError",
    "ColorTags",
    "Cue",
    "Encoding",
    "Engine",
    "EngineError",
    "EngineInfo",
    "Frame",
    "ImpastoError",
    "Look",
    "Picture",
    "Pipeline",
    "Progress",
    "Report",
    "Sink",
    "SinkError",
    "Source",
    "SourceError",
    "StreamInfo",
    "Stylizer",
    "VideoFile",
    "VideoFileWriter",
    "VideoOptions",
    "load_engine",
    "load_timeline",
    "stylize_video",
    "stylized_frames",
]

if not TYPE_CHECKING:  # with a `__getattr__`, checkers would let any name pass
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "ArtifactError": ".errors",
            "ColorTags": ".frame",
            "Cue": ".look",
            "Encoding": ".codecs",
            "Engine": ".engine",
            "EngineError": ".errors",
            "EngineInfo": ".engine",
            "Frame": ".frame",
            "ImpastoError": ".errors",
            "Look": ".look",
            "Picture": ".frame",
            "Pipeline": ".pipeline",
            "Progress": ".pipeline",
            "Report": ".pipeline",
            "Sink": ".sink",
            "SinkError": ".errors",
            "Source": ".source",
            "SourceError": ".errors",
            "StreamInfo": ".frame",
            "Stylizer": ".stylizer",
            "VideoFile": ".source_file",
            "VideoFileWriter": ".sink_file",
            "VideoOptions": ".options",
            "load_engine": ".engine_choice",
            "load_timeline": ".look",
            "stylize_video": ".video",
            "stylized_frames": ".video",
        },
    )
