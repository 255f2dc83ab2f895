"""Repaint videos: the library behind `stylize-video`.

from impasto.realtime.video import stylize_video
stylize_video("in.mp4", "out.mp4", style="mosaic", on_progress=lambda p: print(p.frames_out))

from impasto.realtime.video import stylized_frames
for frame in stylized_frames("in.mp4", style="mosaic"):
    show(frame.data, frame.pts)  # (H, W, 3) uint8 RGB, seconds as an exact fraction
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from .frame import Frame
from .options import VideoOptions
from .pipeline import Report
from .video_engines import Engines
from .video_frames import freeze, open_frames
from .video_job import OnProgress, open_job


def stylize_video(
    source: str | Path,
    output: str | Path | None = None,
    *,
    on_progress: OnProgress | None = None,
    options: VideoOptions | None = None,
    **changes: Any,
) -> Report:
    """Repaint `source` into `output`, keeping every timestamp and the sound bit for bit.

    Args:
        source: a video file, a URL, or "-" for standard input.
        output: the file to write, or "-" for standard output; None is `in.STYLE.mp4` beside the input.
        on_progress: called after every frame written, from the encoding thread.
        options: how to repaint.
        changes: single options by name, e.g. `style="candy", strength=0.8`; see `VideoOptions`.

    Raises:
        ImpastoError: the input, style, device or output is not as it must be.
    """
    options = replace(options or VideoOptions(), **changes)
    with Engines(options) as engines, open_job(source, output, options, engines, on_progress=on_progress) as job:
        return job.run()


def stylized_frames(source: str | Path, *, options: VideoOptions | None = None, **changes: Any) -> Iterator[Frame]:
    """The painted frames of a video, one after the other, in the caller's thread."""
    options = replace(options or VideoOptions(), **changes)
    with Engines(options) as engines, open_frames(source, options, after=None) as (_, frames):
        stylizer = engines.stylizer(options, frames.info)
        freeze(stylizer, source, options)
        for frame in frames:
            yield stylizer(frame)
