"""`stylize-video`: repaint videos. Imports what is heavy only once it runs."""

from pathlib import Path
from typing import Any

import typer

from . import cli_video_options as option
from .cli_common import Command, warnings_on_stderr
from .cli_options import Device, Precision, Quiet, Tier
from .cli_video_run import Run

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(cls=Command)
def video(
    sources: option.Sources,
    output: option.Output = None,
    # Look
    style: option.Style = "mosaic", tier: Tier = None, strength: option.Strength = 1.0,
    style_scale: option.StyleScale = 1.0, region: option.Region = None, keep_colors: option.KeepColors = False,
    smooth: option.Smooth = 0.0, normalization: option.Normalization = "frame", timeline: option.Timeline = None,
    # Picture and part
    size: option.Size = None, tile: option.Tile = None, fps: option.Fps = None, start: option.Start = None,
    end: option.End = None, no_deinterlace: option.NoDeinterlace = False, hdr: option.Hdr = "sdr",
    no_audio: option.NoAudio = False,
    # Coding
    codec: option.Codec = None, encoder: option.Encoder = None, crf: option.Crf = None, preset: option.Preset = None,
    decoder: option.Decoder = None, pipe_format: option.PipeFormat = "matroska",
    # Run
    device: Device = "auto", precision: Precision = "auto", overwrite: option.Overwrite = False,
    resume: option.Resume = False, keep_partial: option.KeepPartial = False, cluster: option.Cluster = None,
    preview: option.Preview = None, quiet: Quiet = False, as_json: option.AsJson = False,
) -> None:  # fmt: skip
    """Repaint videos in the manner of a painting. Sound, timing and colour tags stay as they are."""
    from .options import VideoOptions, parse_fps, parse_time

    options = VideoOptions(
        style=style, tier=tier, strength=strength, style_scale=style_scale, regions=tuple(region or ()),
        keep_colors=keep_colors, smooth=smooth, normalization=normalization, timeline=timeline,  # type: ignore[arg-type]
        device=device, precision=precision, size=size, tile=tile, fps=None if fps is None else parse_fps(fps),
        start=None if start is None else parse_time(start), end=None if end is None else parse_time(end),
        deinterlace=not no_deinterlace, hdr=_choice("hdr", hdr, ("sdr", "keep")), decoder=decoder,
        codec=codec, encoder=encoder, crf=crf, preset=preset,  # type: ignore[arg-type]
        audio=not no_audio, pipe_format=_choice("format", pipe_format, ("matroska", "nut", "y4m")),
        overwrite=overwrite, resume=resume, keep_partial=keep_partial,
    )  # fmt: skip
    inputs = _expand(sources)
    if len(inputs) > 1 and output is not None and not Path(output).is_dir():
        raise ValueError(f"output must be a folder that exists for {len(inputs)} inputs, got {output}")
    run = Run(options, output, preview=preview, quiet=quiet, as_json=as_json, cluster=cluster)
    with warnings_on_stderr(quiet=quiet):
        code = run.all(inputs)
    if code:
        raise typer.Exit(code)


def _choice(name: str, value: str, allowed: tuple[str, ...]) -> Any:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
    return value


def _expand(sources: list[str]) -> list[str]:
    """Patterns that the shell left alone, e.g. on Windows, become the files that match."""
    expanded: list[str] = []
    for source in sources:
        if any(sign in source for sign in "*?[") and "://" not in source and not Path(source).exists():
            folder = Path(source).parent
            matches = sorted(str(path) for path in folder.glob(Path(source).name))
            expanded += matches or [source]
        else:
            expanded.append(source)
    return expanded
