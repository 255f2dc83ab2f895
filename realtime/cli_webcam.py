"""`stylize-webcam`: repaint a camera live. Imports what is heavy only once it runs."""

import json
import logging
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .cli_common import EXIT_INTERRUPTED, Command

if TYPE_CHECKING:
    from .capture import CameraFeed, FeedStatus
    from .live import LiveSession
    from .live_controls import LiveControls
    from .live_engine import FirstStyle
    from .live_output import OpenSink, OutputStatus
    from .live_settings import LiveSettings
    from .live_styles import StyleShelf
    from .loopback_readers import LoopbackReaders
    from .panel import Panel

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

DEFAULT_PORT = 8420
PLAIN_SECONDS = 10.0
"""Between two status lines where there is no terminal."""


@app.command(cls=Command)
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
        typer.Option("--style", "-s", help="An installed style, artifact (.onnx) or painting (picture file)."),
    ] = None,
    tier: Annotated[str | None, typer.Option(help="fast or quality; default: what is installed, fast first.")] = None,
    strength: Annotated[
        float | None, typer.Option(help="0 is the camera itself, 1 the painting.  [default: 1]")
    ] = None,
    keep_colors: Annotated[
        bool | None, typer.Option("--keep-colors/--paint-colors", help="Luminance from the painting, colours from you.")
    ] = None,
    smooth: Annotated[float | None, typer.Option(help="0 to 1: steadier over time; try 0.8.  [default: 0]")] = None,
    normalization: Annotated[
        str, typer.Option(help="Against pulsing colours: frame, carried (over time) or frozen after two seconds.")
    ] = "frame",
    mirror: Annotated[bool | None, typer.Option("--mirror/--no-mirror", help="As in a mirror.")] = None,
    crossfade: Annotated[float | None, typer.Option(help="Seconds from style to style.  [default: 0.6]")] = None,
    preset: Annotated[
        str | None, typer.Option(help="A look that was saved in the panel; options above override it.")
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="Of camera and outputs: 720p or 1280x720; default: the camera's.")
    ] = None,
    fps: Annotated[float | None, typer.Option(min=1, max=240, help="Frame rate to ask the camera for.")] = None,
    pixel_format: Annotated[str | None, typer.Option(help="Pixel format to ask the camera for, e.g. mjpeg.")] = None,
    backend: Annotated[str, typer.Option(help="How cameras are read: auto, pyav or opencv.")] = "auto",
    paint_size: Annotated[
        int, typer.Option(min=96, max=2160, help="Largest shorter side that is painted, pixels.")
    ] = 720,
    latency_budget: Annotated[
        str, typer.Option(help="Camera to painting, e.g. 80ms: sizes and tiers change to keep it. `off`: never.")
    ] = "80ms",
    virtual_camera: Annotated[
        bool, typer.Option("--virtual-camera", "-v", help="Be a camera for other programs.")
    ] = False,
    virtual_camera_device: Annotated[str | None, typer.Option(help="Which one, e.g. /dev/video10.")] = None,
    window: Annotated[bool, typer.Option("--window", help="Show a preview window.")] = False,
    record: Annotated[Path | None, typer.Option(help="Record to this .mp4, .mov or .mkv.")] = None,
    microphone: Annotated[
        str | None, typer.Option(help="Record this microphone's sound too: `default` or a device's name.")
    ] = None,
    push: Annotated[
        list[str] | None, typer.Option(help="Stream to this address (rtmp, rtsp, srt, udp …). May be repeated.")
    ] = None,
    bitrate: Annotated[int, typer.Option(min=100, max=100_000, help="Of --push, kbit/s.")] = 4000,
    stdout: Annotated[bool, typer.Option("--stdout", help="Raw pictures (NUT) on standard output.")] = False,
    panel: Annotated[bool, typer.Option(help="The control panel in the browser.")] = True,
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="Open the panel at the start.")] = True,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help=f"Of the panel.  [default: {DEFAULT_PORT}]")
    ] = None,
    listen: Annotated[
        str, typer.Option(help="Address that the panel binds to; others than this machine can then reach it.")
    ] = "127.0.0.1",
    allow_host: Annotated[
        list[str] | None, typer.Option(help="A further name under which the panel may be reached.")
    ] = None,
    folder: Annotated[Path | None, typer.Option(help="For recordings and snapshots started from the panel.")] = None,
    device: Annotated[str, typer.Option(help="auto, or the device that must be used.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16, fp16 or int8.")] = "auto",
    wait: Annotated[bool, typer.Option("--wait", help="If the camera is not there yet, wait for it.")] = False,
    seconds: Annotated[float | None, typer.Option(min=0.1, help="Stop so long after the first painting.")] = None,
    time_code: Annotated[
        bool, typer.Option("--time-code", help="Paint a machine-readable clock, for measuring.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Let --record replace a file.")] = False,
    list_cameras: Annotated[
        bool, typer.Option("--list-cameras", help="Show cameras and their modes, and end.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The final report as JSON on standard output.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only errors.")] = False,
) -> None:
    """Repaint a camera live: panel in the browser, virtual camera, OBS, recording, streams."""
    if not os.environ.get("IMPASTO_DEBUG"):  # what a person should know is printed; the rest is for developers
        logging.getLogger().addHandler(logging.NullHandler())
    if list_cameras:
        _print_cameras()
        return
    look = {
        "style": style, "tier": tier, "strength": strength, "keep_colors": keep_colors, "smoothing": smooth,
        "mirror": mirror, "crossfade_seconds": crossfade,
    }  # fmt: skip
    options = _Options(
        source=source, look={k: v for k, v in look.items() if v is not None}, preset=preset, size=parse_size(size),
        fps=fps, pixel_format=pixel_format, backend=backend, paint_size=paint_size,
        latency_budget_ms=parse_budget(latency_budget), virtual_camera=virtual_camera or bool(virtual_camera_device),
        virtual_camera_device=virtual_camera_device, window=window, record=record, microphone=microphone,
        push=tuple(push or ()), bitrate=bitrate, stdout=stdout, panel=panel, open_browser=open_browser, port=port,
        listen=listen, allow_host=tuple(allow_host or ()), folder=folder, normalization=normalization,
        device=device, precision=precision, wait=wait, seconds=seconds, time_code=time_code, overwrite=overwrite,
        as_json=as_json, quiet=quiet,
    )  # fmt: skip
    if _Run(options).run():
        raise typer.Exit(EXIT_INTERRUPTED)


@dataclass(frozen=True)
class _Options:
    """The command line, parsed."""

    source: str
    look: dict[str, Any]
    preset: str | None
    size: tuple[int, int] | None
    """(height, width)."""
    fps: float | None
    pixel_format: str | None
    backend: str
    paint_size: int
    latency_budget_ms: float | None
    virtual_camera: bool
    virtual_camera_device: str | None
    window: bool
    record: Path | None
    microphone: str | None
    push: Sequence[str]
    bitrate: int
    stdout: bool
    panel: bool
    open_browser: bool
    port: int | None
    listen: str
    allow_host: Sequence[str]
    folder: Path | None
    normalization: str
    device: str
    precision: str
    wait: bool
    seconds: float | None
    time_code: bool
    overwrite: bool
    as_json: bool
    quiet: bool


def parse_size(text: str | None) -> tuple[int, int] | None:
    """(height, width) of "720p" (16:9) or "1280x720"."""
    if text is None:
        return None
    if match := re.fullmatch(r"(\d{2,4})p", text):
        height = int(match[1])
        return height, round(height * 16 / 9 / 2) * 2
    if match := re.fullmatch(r"(\d{2,5})x(\d{2,5})", text):
        return int(match[2]), int(match[1])
    raise ValueError(f"size must be like 720p or 1280x720, got {text!r}")


def parse_budget(text: str) -> float | None:
    """Milliseconds of "80ms", "80" or "0.08s"; None of "off"."""
    if text == "off":
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s)?", text)
    if not match or float(match[1]) == 0:
        raise ValueError(f"latency budget must be like 80ms, or off, got {text!r}")
    return float(match[1]) * (1000.0 if match[2] == "s" else 1.0)


def _print_cameras() -> None:
    from .camera import list_cameras

    cameras = list_cameras()
    if not cameras:
        print("no camera found")
    for camera in cameras:
        print(f"{camera.index}: {camera.name} ({camera.path})" + (f": {camera.note}" if camera.note else ""))
        for mode in camera.modes:
            print(f"   {mode}")


class _Run:
    """One run of the command: builds the session and its outputs, waits for the end, reports."""

    def __init__(self, options: _Options) -> None:
        self._options = options
        self._done = threading.Event()
        self._interrupted = False
        self._failure: Exception | None = None
        self._print_lock = threading.Lock()
        self._line_open = False
        self._session: LiveSession | None = None

    def run(self) -> bool:
        """True if Ctrl-C ended it."""
        from .live_engine import FirstStyle

        options = self._options
        shelf = self._shelf()
        settings = self._settings(shelf)
        with ExitStack() as stack:
            stack.enter_context(self._signals())
            feed = self._feed(options.source)
            stack.callback(feed.close)
            panel = stack.enter_context(self._panel()) if options.panel else None
            first = FirstStyle(shelf.open, settings.style, settings.tier)
            stack.callback(first.close)
            info = self._first_picture(feed)
            if info is None:
                return self._interrupted
            session = self._session = self._make_session(feed, info, first, shelf, settings)
            if panel is not None:
                session.add_output(panel.hub)
                session.add_output(panel.webrtc)
            controls = self._controls(session, shelf)
            stack.enter_context(session)
            self._add_outputs(session, controls)
            if panel is not None:
                panel.attach(controls)
                self._show_panel(panel)
            stack.enter_context(self._keys(controls))
            self._say(f"{feed.status.message}; painting {settings.style}")
            self._wait(session)
            report = self._report(session)
        self._print_report(report)
        if self._failure is not None:
            raise self._failure
        return self._interrupted

    # Building

    def _shelf(self) -> "StyleShelf":
        from .engine_carried import check_normalization
        from .live_engine import LiveEngines
        from .live_styles import StyleShelf
        from .paintings import style_file

        style, options = str(self._options.look.get("style", "")), self._options
        engines = LiveEngines(
            device=options.device, precision=options.precision, on_choice=self._say,
            normalization=check_normalization(options.normalization),
        )  # fmt: skip
        extra = Path(style) if style.endswith((".onnx", ".engine")) else style_file(style)
        return StyleShelf(extra=extra, load=engines.load)

    def _settings(self, shelf: "StyleShelf") -> "LiveSettings":
        from ..assets import find_style, installed_styles
        from .live_settings import LiveSettings, load_preset

        look = (load_preset(self._options.preset) if self._options.preset else {}) | self._options.look
        styles = installed_styles()
        name = shelf.extra_name or look.get("style") or ("mosaic" if "mosaic" in styles else next(iter(styles), ""))
        if name == shelf.extra_name:
            tier = look.get("tier") or shelf.extra_tier
        else:
            find_style(name)  # raises, and says what there is
            tier = look.get("tier") or ("fast" if "fast" in styles[name] else "quality")
            find_style(name, tier)
        return LiveSettings(style=name).changed({k: v for k, v in look.items() if k != "style"} | {"tier": tier})

    def _feed(self, source: str) -> "CameraFeed":
        from .camera import parse_input
        from .capture import CameraFeed

        options = self._options
        if options.backend not in ("auto", "pyav", "opencv"):
            raise ValueError(f"backend must be one of auto, pyav, opencv, got {options.backend!r}")
        request = parse_input(
            source, size=options.size, frame_rate=options.fps, pixel_format=options.pixel_format,
            backend=options.backend,  # type: ignore[arg-type]
        )  # fmt: skip
        return CameraFeed(request, on_status=self._camera_changed)

    def _camera_changed(self, status: "FeedStatus") -> None:
        if status.state != "closed":
            self._say(status.message)

    def _first_picture(self, feed: "CameraFeed") -> Any:
        from .errors import SourceError

        while not self._done.is_set():
            try:
                return feed.wait_live()
            except SourceError:
                if not self._options.wait:
                    raise
                self._done.wait(0.5)
        return None

    def _make_session(
        self, feed: "CameraFeed", info: Any, first: "FirstStyle", shelf: "StyleShelf", settings: "LiveSettings"
    ) -> "LiveSession":
        from fractions import Fraction

        from .live import LiveSession

        options = self._options
        return LiveSession(
            feed,
            first.open,
            vector_of=shelf.vector,
            settings=settings,
            size=options.size or (info.height, info.width),
            frame_rate=Fraction(options.fps or info.frame_rate).limit_denominator(1001),
            short_side=options.paint_size,
            latency_budget_ms=options.latency_budget_ms,
            time_code=options.time_code,
            on_event=self._say,
        )

    def _controls(self, session: "LiveSession", shelf: "StyleShelf") -> "LiveControls":
        from .live_controls import LiveControls
        from .live_output import LiveOutput

        def open_recording(path: Path) -> LiveOutput:
            return LiveOutput(
                "recording", self._recording_sink(path), frame_rate=session.frame_rate, begin_with_card=False,
                on_change=self._output_changed,
            )  # fmt: skip

        return LiveControls(
            session, shelf, folder=self._options.folder or default_folder(), open_recording=open_recording,
            open_feed=self._feed, camera=self._options.source, on_event=self._say, on_quit=self._done.set,
        )  # fmt: skip

    def _recording_sink(self, path: Path) -> "OpenSink":
        from .microphone import Microphone
        from .sink_record import Recording

        microphone = self._options.microphone
        return lambda info: Recording(
            path, info, overwrite=self._options.overwrite, microphone=Microphone(microphone) if microphone else None
        )

    def _add_outputs(self, session: "LiveSession", controls: "LiveControls") -> None:
        from .live_output import RECONNECT_SECONDS, LiveOutput
        from .sink_stream import NetworkStream, PipeStream
        from .sink_virtualcam import VirtualCamera
        from .sink_window import PreviewWindow

        options = self._options
        sinks: list[tuple[str, OpenSink, Sequence[float]]] = []
        watched: dict[str, Callable[[], bool]] = {}
        if options.virtual_camera:
            watch = _VirtualCameraWatch()
            sinks.append((VIRTUAL_CAMERA, lambda i: VirtualCamera(
                i, device=options.virtual_camera_device, on_open=watch.opened, on_close=watch.closed), ()))  # fmt: skip
            watched[VIRTUAL_CAMERA] = watch.watched
        if options.window:
            sinks.append(("window", lambda i: PreviewWindow(i, on_key=controls.press, on_closed=self._done.set), ()))
        if options.stdout:
            sinks.append(("stdout", lambda i: PipeStream(i, on_closed=self._done.set), ()))
        for url in options.push:
            sinks.append(
                (f"push {url.partition('://')[0]}", _pusher(NetworkStream, url, options.bitrate), RECONNECT_SECONDS)
            )
        for name, open_sink, retry in sinks:
            session.add_output(
                LiveOutput(
                    name, open_sink, frame_rate=session.frame_rate, retry_seconds=retry,
                    on_change=self._output_changed, watched=watched.get(name, lambda: True),
                )
            )  # fmt: skip
        if options.record is not None:
            controls.start_recording(options.record)

    @contextmanager
    def _panel(self) -> Iterator["Panel"]:
        from .errors import SinkError
        from .live_settings import config_folder

        try:
            from .panel import Panel
            from .panel_guard import PanelGuard, allowed_hosts, kept_token, new_token
        except ImportError as exc:
            raise SinkError("the panel needs aiohttp: pip install 'impasto[panel]', or give --no-panel") from exc
        options = self._options
        control, view = new_token(), kept_token(config_folder() / "view-token")

        def guard(port: int) -> PanelGuard:
            return PanelGuard(control, view, allowed_hosts(options.listen, port, options.allow_host))

        ports = [DEFAULT_PORT, 0] if options.port is None else [options.port]
        for port in ports:
            panel = Panel(guard, address=options.listen, port=port)
            try:
                panel.__enter__()
            except SinkError:
                if port == ports[-1]:
                    raise
                self._say(f"port {port} is taken by another program; using another")
                continue
            break
        try:
            yield panel
        finally:
            panel.__exit__(None, None, None)

    def _show_panel(self, panel: "Panel") -> None:
        self._say(f"panel:        {panel.control_url}")
        self._say(f"OBS browser:  {panel.output_url}")
        self._say(f"players:      {panel.mjpeg_url}")
        if self._options.open_browser and sys.stderr.isatty() and not self._options.quiet:
            import webbrowser

            threading.Thread(target=webbrowser.open, args=(panel.control_url,), daemon=True).start()

    def _keys(self, controls: "LiveControls") -> Any:
        from .hotkeys import TerminalKeys

        return TerminalKeys(controls.press)

    # Running

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """The first Ctrl-C ends the run cleanly, the second at once; SIGTERM as the first."""

        def on_signal(number: int, frame: FrameType | None) -> None:
            self._interrupted = number == signal.SIGINT
            signal.signal(signal.SIGINT, signal.default_int_handler)
            self._done.set()

        before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _wait(self, session: "LiveSession") -> None:
        end, shown = float("inf"), time.monotonic()
        while not self._done.wait(0.1) and time.monotonic() < end:
            if self._options.seconds and end == float("inf") and session.meter.total().count:
                end = time.monotonic() + self._options.seconds
            if session.first_error is not None:
                self._failure = session.first_error
                return
            pause = 0.5 if sys.stderr.isatty() else PLAIN_SECONDS
            if time.monotonic() - shown >= pause:
                shown = time.monotonic()
                self._show_status(session)

    def _show_status(self, session: "LiveSession") -> None:
        if self._options.quiet:
            return
        status = session.status
        latency = status.latency
        text = (
            "resting, nobody watches" if status.idle
            else f"{latency.fps:4.1f} fps  {latency.p50_ms:3.0f}/{latency.p95_ms:3.0f} ms  dropped {status.dropped}"
            f"  {status.painting_style} at {status.work_size[1]}x{status.work_size[0]}  camera {status.feed.state}"
        )  # fmt: skip
        with self._print_lock:
            if sys.stderr.isatty():
                print(f"\r\x1b[2K{text}", end="", file=sys.stderr, flush=True)
                self._line_open = True
            else:
                print(text, file=sys.stderr, flush=True)

    def _output_changed(self, status: "OutputStatus") -> None:
        from .errors import SinkError

        if status.state in ("failed", "retrying"):
            self._say(f"{status.name}: {status.message}")
        if status.state == "running":
            self._say(f"{status.name}: running")
        if status.state == "failed" and not status.latency.count:
            # It never delivered anything and was asked for on the command line: not a run that anyone wanted.
            if status.name == VIRTUAL_CAMERA:
                from .sink_virtualcam import REMEDY

                self._say(REMEDY)
            if self._named_at_start(status.name):
                self._failure = SinkError(f"{status.name}: {status.message}")
                self._done.set()

    def _named_at_start(self, name: str) -> bool:
        session, asked = self._session, name != "recording" or self._options.record is not None
        return asked and (session is None or session.meter.total().count < 100)

    def _say(self, line: str) -> None:
        if self._options.quiet:
            return
        with self._print_lock:
            if self._line_open:
                print("\r\x1b[2K", end="", file=sys.stderr)
                self._line_open = False
            print(line, file=sys.stderr, flush=True)

    # The end

    def _report(self, session: "LiveSession") -> dict[str, Any]:
        status = session.status
        return {
            "captured": status.captured, "painted": status.painted, "dropped": status.dropped,
            "cards": status.cards, "engine": status.engine,
            "capture_to_painted": asdict(session.meter.total()),
            "outputs": {
                output.name: asdict(output.meter.total()) | {"dropped": output.status.dropped}
                for output in session.outputs
            },
        }  # fmt: skip

    def _print_report(self, report: dict[str, Any]) -> None:
        if self._options.as_json:
            print(json.dumps(report))
            return
        painted = report["capture_to_painted"]
        self._say(
            f"{report['painted']} painted, {report['dropped']} dropped; camera to painted"
            f" {painted['p50_ms']:.0f} ms half, {painted['p95_ms']:.0f} ms 95 %, {painted['max_ms']:.0f} ms most"
        )
        for name, output in report["outputs"].items():
            if output["count"]:
                self._say(
                    f"  {name}: {output['count']} delivered, {output['dropped']} dropped;"
                    f" {output['p50_ms']:.0f}/{output['p95_ms']:.0f}/{output['max_ms']:.0f} ms"
                )


VIRTUAL_CAMERA = "virtual camera"


class _VirtualCameraWatch:
    """Whether a program looks at our virtual camera; known on Linux only, elsewhere one always seems to."""

    def __init__(self) -> None:
        self._readers: LoopbackReaders | None = None

    def opened(self, device: str) -> None:
        if device.startswith("/dev/"):
            from .loopback_readers import LoopbackReaders

            self._readers = LoopbackReaders(device)

    def closed(self) -> None:
        readers, self._readers = self._readers, None
        if readers is not None:
            readers.close()

    def watched(self) -> bool:
        readers = self._readers
        return readers is None or readers.any()


def _pusher(stream: Any, url: str, bitrate_kbps: int) -> "OpenSink":
    return lambda info: stream(url, info, bitrate_kbps=bitrate_kbps)


def default_folder() -> Path:
    """Where this user keeps films, with a folder of ours in it."""
    videos = Path.home() / ("Movies" if sys.platform == "darwin" else "Videos")
    return (videos if videos.is_dir() else Path.home()) / "Impasto"
