"""`stylize-webcam`: repaint a camera live. Imports what is heavy only once it runs."""

import json
import logging
import os
import sys
import threading
from typing import Any

import typer

from . import cli_webcam_options as option
from .cli_common import EXIT_INTERRUPTED, Command
from .cli_options import Device, Precision, Quiet, Tier
from .live_options import LiveOptions, parse_budget, parse_size

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


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
    source: option.Source = "0",
    # Look
    style: option.Style = None, tier: Tier = None, strength: option.Strength = None,
    keep_colors: option.KeepColors = None, smooth: option.Smooth = None, normalization: option.Normalization = "frame",
    mirror: option.Mirror = None, crossfade: option.Crossfade = None, preset: option.Preset = None,
    # Camera
    size: option.Size = None, fps: option.Fps = None, pixel_format: option.PixelFormat = None,
    backend: option.Backend = "auto", wait: option.Wait = False, list_cameras: option.ListCameras = False,
    # Outputs
    virtual_camera: option.VirtualCamera = False, virtual_camera_device: option.VirtualCameraDevice = None,
    window: option.Window = False, record: option.Record = None, microphone: option.Microphone = None,
    push: option.Push = None, bitrate: option.Bitrate = 4000, stdout: option.Stdout = False,
    folder: option.Folder = None, overwrite: option.Overwrite = False,
    # Panel
    panel: option.Panel = True, open_browser: option.OpenBrowser = True, port: option.Port = None,
    listen: option.Listen = "127.0.0.1", allow_host: option.AllowHost = None,
    # Run
    paint_size: option.PaintSize = 720, latency_budget: option.LatencyBudget = "80ms", device: Device = "auto",
    precision: Precision = "auto", seconds: option.Seconds = None, time_code: option.TimeCode = False,
    as_json: option.AsJson = False, quiet: Quiet = False,
) -> None:  # fmt: skip
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
        print(json.dumps(report), file=sys.stderr if stdout else sys.stdout)
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
