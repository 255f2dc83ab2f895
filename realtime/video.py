"""Repaint a video file: the library behind `stylize-video`.

from impasto.realtime.video import stylize_video
stylize_video("in.mp4", "out.mp4", style="mosaic", on_progress=lambda p: print(p.frames_out))
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from .errors import SinkError
from .pipeline import Pipeline, Progress, Report
from .sink_file import Codec, VideoFileWriter
from .source_file import VideoFile
from .stylizer import Stylizer

logger = logging.getLogger(__name__)

DEFAULT_SUFFIX = ".mp4"
KEPT_SUFFIXES = (".mp4", ".mov", ".mkv", ".m4v")
"""Containers that a default output shares with its input; all others become MP4."""


class VideoJob:
    """One video on its way through a style. `run()` it once; `stop()` it from any thread."""

    def __init__(
        self,
        source: VideoFile,
        stylizer: Stylizer,
        writer: VideoFileWriter,
        *,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self.info = source.info
        self.engine_info = stylizer.engine.info
        self._source = source
        self._writer = writer
        self._pipeline = Pipeline(source, stylizer, [writer], on_progress=on_progress)

    def run(self) -> Report:
        with self._writer:
            report = self._pipeline.run()
        if self._source.damage:
            logger.warning("the input is damaged: %s", self._source.damage)
        return report

    def stop(self) -> None:
        """Ask for an early, clean end: what is painted so far becomes the output."""
        self._pipeline.stop()


def stylize_video(
    source: str | Path,
    output: str | Path | None = None,
    *,
    style: str | Path,
    tier: str | None = None,
    strength: float = 1.0,
    keep_colors: bool = False,
    device: str = "auto",
    precision: str = "auto",
    codec: Codec = "h264",
    audio: bool = True,
    overwrite: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> Report:
    """Repaint `source` into `output`, keeping every timestamp and the sound bit for bit.

    Args:
        source: a video file or URL.
        output: the file to write; None is `in.STYLE.mp4` beside the input.
        style: the name of an installed style, or the path of an artifact.
        tier: "fast" or "quality"; None takes what is installed, fast first.
        strength: 0 leaves the video as it is, 1 is the whole painting.
        keep_colors: luminance of the painting, chroma of the video.
        device: "auto" or a device's name; a named one never falls back in silence.
        precision: "auto" or the arithmetic to use.
        codec: how to encode.
        audio: whether sound and subtitles are carried over.
        overwrite: whether an existing output may be replaced.
        on_progress: called after every frame written, from the encoding thread.

    Raises:
        ImpastoError: the input, style, device or output is not as it must be.
    """
    with open_job(
        source, output, style=style, tier=tier, strength=strength, keep_colors=keep_colors, device=device,
        precision=precision, codec=codec, audio=audio, overwrite=overwrite, on_progress=on_progress,
    ) as job:  # fmt: skip
        return job.run()


@contextmanager
def open_job(
    source: str | Path,
    output: str | Path | None = None,
    *,
    style: str | Path,
    tier: str | None = None,
    strength: float = 1.0,
    keep_colors: bool = False,
    device: str = "auto",
    precision: str = "auto",
    codec: Codec = "h264",
    audio: bool = True,
    overwrite: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> Iterator[VideoJob]:
    """`stylize_video` in two steps: everything opened and warm inside the block, `run()` when you like."""
    from ..export.artifact import load_artifact
    from .engine import load_engine

    path = find_artifact(style, tier)
    target = Path(output) if output is not None else default_output(Path(source), path)
    if target.exists() and Path(source).exists() and target.samefile(source):
        raise SinkError(f"output must not be the input itself, got {target}")
    with VideoFile(source) as video:
        writer = VideoFileWriter(
            target, video.info, codec=codec, copy_from=source if audio else None, overwrite=overwrite
        )
        with closing(load_engine(load_artifact(path), device=device, precision=precision)) as engine:
            engine.warmup(video.info.height, video.info.width)
            stylizer = Stylizer(engine, strength=strength, keep_colors=keep_colors)
            yield VideoJob(video, stylizer, writer, on_progress=on_progress)


def find_artifact(style: str | Path, tier: str | None = None) -> Path:
    """The artifact that `style` means: a path if it looks like one, else an installed style's."""
    if str(style).endswith(".onnx"):
        return Path(style)
    from ..assets import find_style

    return find_style(str(style), tier)


def default_output(source: Path, artifact: Path) -> Path:
    """`in.mosaic.mp4` beside the input, for the style `mosaic`."""
    name = artifact.name.removesuffix(".onnx").removesuffix(".fast").removesuffix(".quality")
    suffix = source.suffix.lower() if source.suffix.lower() in KEPT_SUFFIXES else DEFAULT_SUFFIX
    return source.with_name(f"{source.stem}.{name}{suffix}")
