"""One run of `stylize-webcam`: builds the session and its outputs, waits for the end, reports. Heavy to import."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from ..assets import find_style, installed_styles
from .camera import parse_input
from .capture import CameraFeed, FeedInfo, FeedStatus
from .engine_carried import check_normalization
from .errors import ArtifactError, SinkError, SourceError
from .heap import keep_heap_together
from .hotkeys import TerminalKeys
from .live import LiveSession
from .live_console import Console
from .live_controls import LiveControls
from .live_engine import FirstStyle, LiveEngines
from .live_options import LiveOptions, default_folder
from .live_output import LiveOutput, OutputStatus
from .live_outputs import RECORDING, VIRTUAL_CAMERA, named_outputs, open_panel, recording_output
from .live_settings import LiveSettings, load_preset
from .live_styles import StyleShelf
from .paintings import style_file
from .sink_stream import check_push
from .sink_virtualcam import REMEDY

if TYPE_CHECKING:
    from .panel import Panel

PLAIN_SECONDS = 10.0
"""Between two status lines where there is no terminal."""
TICK_SECONDS = 0.1
START_PICTURES = 100
"""An output that fails before so many were painted was broken from the start, and ends the run."""


class LiveRun:
    """`run` goes through a whole run in order; the methods below it stand in the order in which they are needed."""

    def __init__(self, options: LiveOptions) -> None:
        self._options = options
        self._console = Console(quiet=options.quiet)
        self._say = self._console.say
        self._done = threading.Event()
        self._interrupted = False
        self._failure: Exception | None = None
        self._session: LiveSession | None = None

    def run(self) -> tuple[dict[str, Any], bool]:
        """The report, and whether Ctrl-C ended it; raises what went wrong at the start."""
        options = self._options
        keep_heap_together()
        for url in options.push:
            check_push(url)
        if options.record is not None:
            from .sink_record import check_recording

            check_recording(options.record, overwrite=options.overwrite)
            if _are_one_file(options.source, options.record):
                raise SinkError(f"recording must not be the source itself, got {options.record}")
        shelf = self._shelf()
        settings = self._settings(shelf)
        with ExitStack() as stack:
            stack.enter_context(self._signals())
            feed = self._feed(options.source)
            stack.callback(feed.close)
            panel = stack.enter_context(open_panel(options, say=self._say)) if options.panel else None
            if panel is not None and options.wait:
                self._show_panel(panel)  # its pages wait for the camera as well
            # The style loads while the camera opens.
            first = FirstStyle(shelf.open, settings.style, settings.tier)
            stack.callback(first.close)
            info = self._first_picture(feed)
            if info is None:
                return {}, self._interrupted
            session = self._session = self._make_session(feed, info, first, shelf, settings)
            controls = self._controls(session, shelf)
            if panel is not None:
                session.add_output(panel.hub)
                session.add_output(panel.webrtc)
            stack.enter_context(session)
            self._add_outputs(session, controls)
            if panel is not None:
                panel.attach(controls)
                if not options.wait:
                    self._show_panel(panel)
            stack.enter_context(TerminalKeys(controls.press))
            self._say(f"{feed.status.message}; painting {settings.style}")
            self._wait(session)
            report = _report(session)
        if not options.as_json:
            self._console.show_report(report)
        if self._failure is not None:
            raise self._failure
        return report, self._interrupted

    def _shelf(self) -> StyleShelf:
        style, options = str(self._options.look.get("style", "")), self._options
        engines = LiveEngines(
            device=options.device, precision=options.precision, on_choice=self._say,
            normalization=check_normalization(options.normalization),
        )  # fmt: skip
        extra = Path(style) if style.endswith((".onnx", ".engine")) else style_file(style)
        return StyleShelf(extra=extra, load=engines.load)

    def _settings(self, shelf: StyleShelf) -> LiveSettings:
        named, styles = self._options.look, installed_styles()
        look = (load_preset(self._options.preset) if self._options.preset else {}) | named
        name = shelf.extra_name or look.get("style") or ("mosaic" if "mosaic" in styles else next(iter(styles), ""))
        if not shelf.extra_name:
            find_style(name)  # raises, and says what there is
        tiers = shelf.tiers(name)
        tier = look.get("tier")
        if tier not in tiers and "style" in named and "tier" not in named:
            tier = None  # the preset's is of another style
        tier = tier or shelf.extra_tier or ("fast" if "fast" in tiers else "quality")
        if tier not in tiers:
            raise ArtifactError(f"tier of {name} must be one of {', '.join(sorted(tiers))}, got {tier!r}")
        return LiveSettings(style=name).changed({k: v for k, v in look.items() if k != "style"} | {"tier": tier})

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

    def _feed(self, source: str) -> CameraFeed:
        options = self._options
        if options.backend not in ("auto", "pyav", "opencv"):
            raise ValueError(f"backend must be one of auto, pyav, opencv, got {options.backend!r}")
        request = parse_input(
            source, size=options.size, frame_rate=options.fps, pixel_format=options.pixel_format,
            backend=options.backend,  # type: ignore[arg-type]
        )  # fmt: skip
        return CameraFeed(request, on_status=self._camera_changed)

    def _camera_changed(self, status: FeedStatus) -> None:
        if status.state != "closed":
            self._say(status.message)

    def _first_picture(self, feed: CameraFeed) -> FeedInfo | None:
        """What the camera sends; None if the run was ended before it sent anything."""
        while not self._done.is_set():
            try:
                return feed.wait_live(TICK_SECONDS)  # not at once: a signal may come while a camera hangs
            except SourceError:
                status = feed.status
                if status.fault is None:  # still opening
                    continue
                if not self._options.wait and not self._done.is_set():
                    raise SourceError(status.fault.sentence(status.label)) from None
                self._done.wait(TICK_SECONDS)
        return None

    def _make_session(
        self, feed: CameraFeed, info: FeedInfo, first: FirstStyle, shelf: StyleShelf, settings: LiveSettings
    ) -> LiveSession:
        options = self._options
        return LiveSession(
            feed,
            first.open,
            vector_of=shelf.vector,
            tiers_of=shelf.tiers,
            settings=settings,
            size=options.size or (info.height, info.width),
            frame_rate=Fraction(options.fps or info.frame_rate).limit_denominator(1001),
            short_side=options.paint_size,
            latency_budget_ms=options.latency_budget_ms,
            time_code=options.time_code,
            on_event=self._say,
        )

    def _controls(self, session: LiveSession, shelf: StyleShelf) -> LiveControls:
        options = self._options

        def open_recording(path: Path) -> LiveOutput:
            return recording_output(options, path, frame_rate=session.frame_rate, on_change=self._output_changed)

        return LiveControls(
            session, shelf, folder=options.folder or default_folder(), open_recording=open_recording,
            open_feed=self._feed, camera=options.source, on_event=self._say, on_quit=self._done.set,
        )  # fmt: skip

    def _add_outputs(self, session: LiveSession, controls: LiveControls) -> None:
        outputs = named_outputs(
            self._options, frame_rate=session.frame_rate, on_change=self._output_changed, on_key=controls.press,
            on_closed=self._done.set,
        )  # fmt: skip
        for output in outputs:
            session.add_output(output)
        if self._options.record is not None:
            controls.start_recording(self._options.record)

    def _output_changed(self, status: OutputStatus) -> None:
        if status.message:
            self._say(_named(status))
        elif status.state == "running":
            self._say(f"{status.name}: running")
        if status.state == "failed" and not status.latency.count:
            if status.name == VIRTUAL_CAMERA:
                self._say(REMEDY)
            if self._was_asked_for(status.name):
                # It never delivered anything and was asked for on the command line: not a run that anyone wanted.
                self._failure = SinkError(_named(status))
                self._done.set()

    def _was_asked_for(self, name: str) -> bool:
        asked = name != RECORDING or self._options.record is not None
        return asked and (self._session is None or self._session.meter.total().count < START_PICTURES)

    def _show_panel(self, panel: "Panel") -> None:
        self._say(f"panel:        {panel.control_url}")
        self._say(f"OBS browser:  {panel.output_url}")
        self._say(f"players:      {panel.mjpeg_url}")
        if self._options.open_browser and sys.stderr.isatty() and not self._options.quiet:
            import webbrowser

            threading.Thread(target=webbrowser.open, args=(panel.control_url,), daemon=True).start()

    def _wait(self, session: LiveSession) -> None:
        end, shown = float("inf"), time.monotonic()
        while not self._done.wait(TICK_SECONDS) and time.monotonic() < end:
            if self._options.seconds and end == float("inf") and session.meter.total().count:
                end = time.monotonic() + self._options.seconds
            if session.first_error is not None:
                self._failure = session.first_error
                return
            pause = 0.5 if sys.stderr.isatty() else PLAIN_SECONDS
            if time.monotonic() - shown >= pause:
                shown = time.monotonic()
                self._console.show_status(session.status)


def _are_one_file(source: str, target: Path) -> bool:
    return os.path.isfile(source) and os.path.exists(target) and os.path.samefile(source, target)


def _named(status: OutputStatus) -> str:
    """Its message, with its name where the message does not begin with it."""
    return status.message if status.message.startswith(status.name) else f"{status.name}: {status.message}"


def _report(session: LiveSession) -> dict[str, Any]:
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
