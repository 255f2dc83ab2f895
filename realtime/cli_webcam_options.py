"""The options of `stylize-webcam`, in the order of its `--help`; those that it shares are in `cli_options.py`."""

from pathlib import Path
from typing import Annotated

import typer

from .cli_options import look, run, shown_under
from .live_options import DEFAULT_PORT

camera, outputs, panel = shown_under("Camera"), shown_under("Outputs"), shown_under("Panel")

Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="A camera's number, name or path; a video file; an rtsp:// or http:// address; screen; test.",
    ),
]

Style = Annotated[str | None, look("An installed style, artifact (.onnx) or painting (picture file).", "--style", "-s")]
Strength = Annotated[float | None, look("0 is the camera itself, 1 the painting; default: 1.")]
KeepColors = Annotated[
    bool | None, look("Luminance from the painting, colours from you; default: off.", "--keep-colors/--paint-colors")
]
Smooth = Annotated[float | None, look("0 to 1: steadier over time; try 0.8; default: 0.")]
Normalization = Annotated[str, look("Against pulsing colours: frame, carried (over time) or frozen after two seconds.")]
Mirror = Annotated[bool | None, look("As in a mirror; default: off.", "--mirror/--no-mirror")]
Crossfade = Annotated[float | None, look("Seconds from style to style; default: 0.6.")]
Preset = Annotated[str | None, look("A look that was saved in the panel; options above override it.")]

Size = Annotated[str | None, camera("Of camera and outputs: 720p or 1280x720; default: the camera's.")]
Fps = Annotated[float | None, camera("Frame rate to ask the camera for.", min=1, max=240)]
PixelFormat = Annotated[str | None, camera("Pixel format to ask the camera for, e.g. mjpeg.")]
Backend = Annotated[str, camera("How cameras are read: auto, pyav or opencv.")]
Wait = Annotated[bool, camera("If the camera is not there yet, wait for it.", "--wait")]
ListCameras = Annotated[bool, camera("Show cameras and their modes, and end.", "--list-cameras")]

VirtualCamera = Annotated[bool, outputs("Be a camera for other programs.", "--virtual-camera", "-v")]
VirtualCameraDevice = Annotated[str | None, outputs("Which one, e.g. /dev/video10.")]
Window = Annotated[bool, outputs("Show a preview window.", "--window")]
Record = Annotated[Path | None, outputs("Record to this .mp4, .mov or .mkv.")]
Microphone = Annotated[str | None, outputs("Record this microphone's sound too: `default` or a device's name.")]
Push = Annotated[list[str] | None, outputs("Stream to this address (rtmp, rtsp, srt, udp …). May be repeated.")]
Bitrate = Annotated[int, outputs("Of --push, kbit/s.", min=100, max=100_000)]
Stdout = Annotated[bool, outputs("Raw pictures (NUT) on standard output.", "--stdout")]
Folder = Annotated[Path | None, outputs("For recordings from the panel and snapshots by key.")]
Overwrite = Annotated[bool, outputs("Let --record replace a file.", "--overwrite")]

Panel = Annotated[bool, panel("The control panel in the browser.")]
OpenBrowser = Annotated[bool, panel("Open the panel at the start.", "--open/--no-open")]
Port = Annotated[
    int | None, panel(f"Of the panel; default: {DEFAULT_PORT}, or any other if that is taken.", min=0, max=65535)
]
Listen = Annotated[str, panel("Address that the panel binds to; others than this machine can then reach it.")]
AllowHost = Annotated[list[str] | None, panel("A further name under which the panel may be reached.")]

PaintSize = Annotated[int, run("Largest shorter side that is painted, pixels.", min=96, max=2160)]
LatencyBudget = Annotated[str, run("Camera to painting, e.g. 80ms: sizes and tiers change to keep it. `off`: never.")]
Seconds = Annotated[float | None, run("Stop so long after the first painting.", min=0.1)]
TimeCode = Annotated[bool, run("Paint a machine-readable clock, for measuring.", "--time-code")]
AsJson = Annotated[
    bool, run("The final report as JSON on standard output; with --stdout, on standard error.", "--json")
]
