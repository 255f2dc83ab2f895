"""`stylize-webcam`: repaint a camera live. Imports what is heavy only once it runs."""

import json
import logging
import os
import sys
import threading
from pathlib import Path
from typing import Annotated, Any

import typer

from .cli_common import EXIT_INTERRUPTED, Command
from .live_options import DEFAULT_PORT, LiveOptions, parse_budget, parse_size

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

LOOK, CAMERA, OUTPUTS, PANEL, RUN = "Look", "Camera", "Outputs", "Panel", "Run"


class LiveCommand(Command):
    """Leaves the process at once where a thread is still busy in a driver or an inference library.

    The interpreter's own end would wait for such a thread for ever, or have the library abort the program.
    """

    def invoke(self, ctx: Any) -> Any:
        code = 1
        try:
            result = super().invoke(ctx)
            code = 0
            return result
        except typer.Exit as end:
            code = end.exit_code
            raise
        finally:
            if any(thread.name.startswith("impasto-") for thread in threading.enumerate()):
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)


@app.command(cls=LiveCommand)
def webcam(
    source: Annotated[
        str,
        typer.Argument(
            metavar="[SOURCE]",
            help="A camera's number, name or path; a video file; an rtsp:// or http:// address; screen; test.",
        ),
    ] = "0",
    style: Annotated[
        str | None,
        typer.Option(
            "--style",
            "-s",
            rich_help_panel=LOOK,
            help="An installed style, artifact (.onnx) or painting (picture file).",
        ),
    ] = None,
    tier: Annotated[
        str | None, typer.Option(rich_help_panel=LOOK, help="fast or quality; default: what is installed, fast first.")
    ] = None,
    strength: Annotated[
        float | None, typer.Option(rich_help_panel=LOOK, help="0 is the camera itself, 1 the painting.  [default: 1]")
    ] = None,
    keep_colors: Annotated[
        bool | None,
        typer.Option(
            "--keep-colors/--paint-colors", rich_help_panel=LOOK, help="Luminance from the painting, colours from you."
        ),
    ] = None,
    smooth: Annotated[
        float | None, typer.Option(rich_help_panel=LOOK, help="0 to 1: steadier over time; try 0.8.  [default: 0]")
    ] = None,
    normalization: Annotated[
        str,
        typer.Option(
            rich_help_panel=LOOK,
            help="Against pulsing colours: frame, carried (over time) or frozen after two seconds.",
        ),
    ] = "frame",
    mirror: Annotated[
        bool | None, typer.Option("--mirror/--no-mirror", rich_help_panel=LOOK, help="As in a mirror.")
    ] = None,
    crossfade: Annotated[
        float | None, typer.Option(rich_help_panel=LOOK, help="Seconds from style to style.  [default: 0.6]")
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(rich_help_panel=LOOK, help="A look that was saved in the panel; options above override it."),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(rich_help_panel=CAMERA, help="Of camera and outputs: 720p or 1280x720; default: the camera's."),
    ] = None,
    fps: Annotated[
        float | None, typer.Option(min=1, max=240, rich_help_panel=CAMERA, help="Frame rate to ask the camera for.")
    ] = None,
    pixel_format: Annotated[
        str | None, typer.Option(rich_help_panel=CAMERA, help="Pixel format to ask the camera for, e.g. mjpeg.")
    ] = None,
    backend: Annotated[
        str, typer.Option(rich_help_panel=CAMERA, help="How cameras are read: auto, pyav or opencv.")
    ] = "auto",
    wait: Annotated[
        bool, typer.Option("--wait", rich_help_panel=CAMERA, help="If the camera is not there yet, wait for it.")
    ] = False,
    list_cameras: Annotated[
        bool, typer.Option("--list-cameras", rich_help_panel=CAMERA, help="Show cameras and their modes, and end.")
    ] = False,
    virtual_camera: Annotated[
        bool, typer.Option("--virtual-camera", "-v", rich_help_panel=OUTPUTS, help="Be a camera for other programs.")
    ] = False,
    virtual_camera_device: Annotated[
        str | None, typer.Option(rich_help_panel=OUTPUTS, help="Which one, e.g. /dev/video10.")
    ] = None,
    window: Annotated[bool, typer.Option("--window", rich_help_panel=OUTPUTS, help="Show a preview window.")] = False,
    record: Annotated[
        Path | None, typer.Option(rich_help_panel=OUTPUTS, help="Record to this .mp4, .mov or .mkv.")
    ] = None,
    microphone: Annotated[
        str | None,
        typer.Option(rich_help_panel=OUTPUTS, help="Record this microphone's sound too: `default` or a device's name."),
    ] = None,
    push: Annotated[
        list[str] | None,
        typer.Option(rich_help_panel=OUTPUTS, help="Stream to this address (rtmp, rtsp, srt, udp …). May be repeated."),
    ] = None,
    bitrate: Annotated[
        int, typer.Option(min=100, max=100_000, rich_help_panel=OUTPUTS, help="Of --push, kbit/s.")
    ] = 4000,
    stdout: Annotated[
        bool, typer.Option("--stdout", rich_help_panel=OUTPUTS, help="Raw pictures (NUT) on standard output.")
    ] = False,
    folder: Annotated[
        Path | None, typer.Option(rich_help_panel=OUTPUTS, help="For recordings and snapshots started from the panel.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", rich_help_panel=OUTPUTS, help="Let --record replace a file.")
    ] = False,
    panel: Annotated[bool, typer.Option(rich_help_panel=PANEL, help="The control panel in the browser.")] = True,
    open_browser: Annotated[
        bool, typer.Option("--open/--no-open", rich_help_panel=PANEL, help="Open the panel at the start.")
    ] = True,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, rich_help_panel=PANEL, help=f"Of the panel.  [default: {DEFAULT_PORT}]"),
    ] = None,
    listen: Annotated[
        str,
        typer.Option(
            rich_help_panel=PANEL, help="Address that the panel binds to; others than this machine can then reach it."
        ),
    ] = "127.0.0.1",
    allow_host: Annotated[
        list[str] | None,
        typer.Option(rich_help_panel=PANEL, help="A further name under which the panel may be reached."),
    ] = None,
    paint_size: Annotated[
        int, typer.Option(min=96, max=2160, rich_help_panel=RUN, help="Largest shorter side that is painted, pixels.")
    ] = 720,
    latency_budget: Annotated[
        str,
        typer.Option(
            rich_help_panel=RUN, help="Camera to painting, e.g. 80ms: sizes and tiers change to keep it. `off`: never."
        ),
    ] = "80ms",
    device: Annotated[str, typer.Option(rich_help_panel=RUN, help="auto, or the device that must be used.")] = "auto",
    precision: Annotated[str, typer.Option(rich_help_panel=RUN, help="auto, fp32, bf16, fp16 or int8.")] = "auto",
    seconds: Annotated[
        float | None, typer.Option(min=0.1, rich_help_panel=RUN, help="Stop so long after the first painting.")
    ] = None,
    time_code: Annotated[
        bool, typer.Option("--time-code", rich_help_panel=RUN, help="Paint a machine-readable clock, for measuring.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", rich_help_panel=RUN, help="The final report as JSON on standard output.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", rich_help_panel=RUN, help="Only errors.")] = False,
) -> None:
    """Repaint a camera live: panel in the browser, virtual camera, OBS, recording, streams."""
    if not os.environ.get("IMPASTO_DEBUG"):  # what a person should know is printed; the rest is for developers
        logging.getLogger().addHandler(logging.NullHandler())
    if list_cameras:
        _print_cameras()
        return
    from .live_run import LiveRun

    look = {
        "style": style, "tier": tier, "strength": strength, "keep_colors": keep_colors, "smoothing": smooth,
        "mirror": mirror, "crossfade_seconds": crossfade,
    }  # fmt: skip
    options = LiveOptions(
        source=source, look={k: v for k, v in look.items() if v is not None}, preset=preset, size=parse_size(size),
        fps=fps, pixel_format=pixel_format, backend=backend, paint_size=paint_size,
        latency_budget_ms=parse_budget(latency_budget), virtual_camera=virtual_camera or bool(virtual_camera_device),
        virtual_camera_device=virtual_camera_device, window=window, record=record, microphone=microphone,
        push=tuple(push or ()), bitrate=bitrate, stdout=stdout, panel=panel, open_browser=open_browser, port=port,
        listen=listen, allow_host=tuple(allow_host or ()), folder=folder, normalization=normalization,
        device=device, precision=precision, wait=wait, seconds=seconds, time_code=time_code, overwrite=overwrite,
        quiet=quiet, as_json=as_json,
    )  # fmt: skip
    report, interrupted = LiveRun(options).run()
    if as_json and report:
        print(json.dumps(report))
    if interrupted:
        raise typer.Exit(EXIT_INTERRUPTED)


def _print_cameras() -> None:
    from .camera import list_cameras

    cameras = list_cameras()
    if not cameras:
        print("no camera found")
    for camera in cameras:
        print(f"{camera.index}: {camera.name} ({camera.path})" + (f": {camera.note}" if camera.note else ""))
        for mode in camera.modes:
            print(f"   {mode}")
