"""`stylize-video`: repaint videos. Imports what is heavy only once it runs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .cli_common import Command, warnings_on_stderr
from .cli_video_run import Run

if TYPE_CHECKING:
    pass

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

LOOK, PART, CODING, RUN = "Look", "Picture and part", "Coding", "Run"


@app.command(cls=Command)
def video(
    sources: Annotated[
        list[str], typer.Argument(metavar="IN...", help="Videos, URLs, or - for standard input.", show_default=False)
    ],
    output: Annotated[
        str | None,
        typer.Option("-o", "--output", help="File, folder for many inputs, or - for standard output. "
                     "Default: IN.STYLE.mp4 beside each input."),
    ] = None,
    style: Annotated[
        str, typer.Option("--style", "-s", rich_help_panel=LOOK,
                          help="Installed style, artifact (.onnx), painting (a picture file), or a blend a:0.7,b:0.3.")
    ] = "mosaic",
    tier: Annotated[
        str | None, typer.Option(rich_help_panel=LOOK, help="fast or quality; default: what is installed, fast first.")
    ] = None,
    strength: Annotated[
        float, typer.Option(min=0.0, max=1.0, rich_help_panel=LOOK, help="0 is the video itself, 1 the painting.")
    ] = 1.0,
    style_scale: Annotated[
        float, typer.Option(min=0.25, max=4.0, rich_help_panel=LOOK, help="Of a painting: larger, larger marks.")
    ] = 1.0,
    region: Annotated[
        list[str] | None, typer.Option(rich_help_panel=LOOK, metavar="MASK:STYLE",
                                       help="Another style where a mask is white, or none; may be repeated.")
    ] = None,
    keep_colors: Annotated[
        bool, typer.Option("--keep-colors", rich_help_panel=LOOK, help="Light from the painting, colours of the video.")
    ] = False,
    smooth: Annotated[
        float, typer.Option(min=0.0, max=1.0, rich_help_panel=LOOK, help="Steadier over time; try 0.8.")
    ] = 0.0,
    normalization: Annotated[
        str, typer.Option(rich_help_panel=LOOK, help="Against pulsing colours: frame, carried (over time) or frozen.")
    ] = "frame",
    timeline: Annotated[
        Path | None, typer.Option(rich_help_panel=LOOK, help="TOML file of cues: style and strength over time.")
    ] = None,
    size: Annotated[
        str | None, typer.Option(rich_help_panel=PART, help="720p, WxH or 0.5x; smaller is faster.")
    ] = None,
    tile: Annotated[
        int | None, typer.Option(rich_help_panel=PART, help="Paint in tiles of this side, exactly but slower; 0 never.")
    ] = None,
    fps: Annotated[
        str | None, typer.Option(rich_help_panel=PART, help="Frames per second, e.g. 24 or 30000/1001; default: kept.")
    ] = None,
    start: Annotated[str | None, typer.Option(rich_help_panel=PART, help="Begin here, e.g. 1:15 or 75.5.")] = None,
    end: Annotated[str | None, typer.Option(rich_help_panel=PART, help="End here.")] = None,
    no_deinterlace: Annotated[
        bool, typer.Option("--no-deinterlace", rich_help_panel=PART, help="Paint interlaced frames as they are.")
    ] = False,
    hdr: Annotated[
        str, typer.Option(rich_help_panel=PART, help="sdr tone-maps HDR video, keep makes a 10-bit HDR result.")
    ] = "sdr",
    no_audio: Annotated[
        bool, typer.Option("--no-audio", rich_help_panel=PART, help="Leave sound, subtitles and chapters out.")
    ] = False,
    codec: Annotated[
        str | None, typer.Option(rich_help_panel=CODING, help="h264, hevc, av1, vp9, prores, ffv1, gif or png.")
    ] = None,
    encoder: Annotated[
        str | None, typer.Option(rich_help_panel=CODING, help="FFmpeg's encoder by name, e.g. h264_nvenc.")
    ] = None,
    crf: Annotated[int | None, typer.Option(rich_help_panel=CODING, help="Quality, lower is better.")] = None,
    preset: Annotated[str | None, typer.Option(rich_help_panel=CODING, help="The encoder's speed.")] = None,
    decoder: Annotated[
        str | None, typer.Option(rich_help_panel=CODING, help="FFmpeg's decoder by name, e.g. h264_cuvid.")
    ] = None,
    pipe_format: Annotated[
        str, typer.Option("--format", rich_help_panel=CODING, help="On standard output: matroska, nut or y4m.")
    ] = "matroska",
    device: Annotated[str, typer.Option(rich_help_panel=RUN, help="auto, or the device that must be used.")] = "auto",
    precision: Annotated[str, typer.Option(rich_help_panel=RUN, help="auto, fp32, bf16, fp16 or int8.")] = "auto",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", rich_help_panel=RUN, help="Replace existing outputs and unfinished jobs.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", rich_help_panel=RUN, help="Go on with what an interrupted run left.")
    ] = False,
    keep_partial: Annotated[
        bool, typer.Option("--keep-partial", rich_help_panel=RUN,
                           help="When stopped or failed, join what is finished into OUT.partial.mp4.")
    ] = False,
    cluster: Annotated[
        str | None, typer.Option(rich_help_panel=RUN, help="Address of a Ray cluster that paints the segments.")
    ] = None,
    preview: Annotated[
        str | None, typer.Option(rich_help_panel=RUN, help="A picture file renewed every 2 s, or: window.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", rich_help_panel=RUN, help="Only errors.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", rich_help_panel=RUN, help="One JSON object per input on standard output.")
    ] = False,
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
