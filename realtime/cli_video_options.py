"""The options of `stylize-video`, in the order of its `--help`; those that it shares are in `cli_options.py`."""

from pathlib import Path
from typing import Annotated

import typer

from .cli_options import look, run, shown_under

part, coding = shown_under("Picture and part"), shown_under("Coding")

Sources = Annotated[
    list[str], typer.Argument(metavar="IN", help="Videos, URLs, or - for standard input.", show_default=False)
]
Output = Annotated[
    str | None,
    typer.Option(
        "-o",
        "--output",
        help="File, folder for many inputs, or - for standard output. Default: IN.STYLE.mp4 beside each input.",
    ),
]

Style = Annotated[
    str,
    look("Installed style, artifact (.onnx), painting (a picture file), or a blend a:0.7,b:0.3.", "--style", "-s"),
]
Strength = Annotated[float, look("0 is the video itself, 1 the painting.", min=0.0, max=1.0)]
StyleScale = Annotated[float, look("Size of the marks of a painting: 2 is twice as large.", min=0.25, max=4.0)]
Region = Annotated[
    list[str] | None, look("Another style where a mask is white, or none; may be repeated.", metavar="MASK:STYLE")
]
KeepColors = Annotated[bool, look("Light from the painting, colours of the video.", "--keep-colors")]
Smooth = Annotated[float, look("Steadier over time; try 0.8.", min=0.0, max=1.0)]
Normalization = Annotated[str, look("Against pulsing colours: frame, carried (over time) or frozen.")]
Timeline = Annotated[Path | None, look("TOML file of cues: style and strength over time.")]

Size = Annotated[str | None, part("720p, WxH or 0.5x; smaller is faster.")]
Tile = Annotated[int | None, part("Paint in tiles of this side, exactly but slower; 0: never; default: above 4K.")]
Fps = Annotated[str | None, part("Frames per second, e.g. 24 or 30000/1001; default: kept.")]
Start = Annotated[str | None, part("Begin here, e.g. 1:15 or 75.5.")]
End = Annotated[str | None, part("End here.")]
NoDeinterlace = Annotated[bool, part("Paint interlaced frames as they are.", "--no-deinterlace")]
Hdr = Annotated[str, part("sdr tone-maps HDR video, keep makes a 10-bit HDR result.")]
NoAudio = Annotated[bool, part("Leave sound, subtitles and chapters out.", "--no-audio")]

Codec = Annotated[str | None, coding("h264, hevc, av1, vp9, prores, ffv1, gif or png; default: by the output's name.")]
Encoder = Annotated[str | None, coding("FFmpeg's encoder by name, e.g. h264_nvenc.")]
Crf = Annotated[int | None, coding("Quality, lower is better; default: by the codec, 18 for h264.")]
Preset = Annotated[
    str | None, coding("The encoder's speed, e.g. slow, or 6 for av1; default: by the codec, veryfast for h264.")
]
Decoder = Annotated[str | None, coding("FFmpeg's decoder by name, e.g. h264_cuvid.")]
PipeFormat = Annotated[str, coding("On standard output: matroska, nut or y4m.", "--format")]

Overwrite = Annotated[bool, run("Replace existing outputs and unfinished jobs.", "--overwrite")]
Resume = Annotated[bool, run("Go on with what an interrupted run left; a finished output stays as it is.", "--resume")]
KeepPartial = Annotated[
    bool, run("When stopped or failed, join what is finished into OUT.partial.mp4.", "--keep-partial")
]
Cluster = Annotated[str | None, run("Address of a Ray cluster that paints the segments.")]
Preview = Annotated[str | None, run("A picture file renewed every 2 s, or: window.")]
AsJson = Annotated[bool, run("One JSON object per input on standard output.", "--json")]
