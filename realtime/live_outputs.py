"""The outputs that a live run was asked for: what opens each, and when it counts as watched."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import SinkError
from .live_options import DEFAULT_PORT, LiveOptions
from .live_output import RECONNECT_SECONDS, LiveOutput, OpenSink, OutputStatus

if TYPE_CHECKING:
    from .loopback_readers import LoopbackReaders
    from .panel import Panel

VIRTUAL_CAMERA = "virtual camera"
RECORDING = "recording"

OnChange = Callable[[OutputStatus], None]


def named_outputs(
    options: LiveOptions,
    *,
    frame_rate: Fraction,
    on_change: OnChange,
    on_key: Callable[[str], None],
    on_closed: Callable[[], None],
) -> Iterator[LiveOutput]:
    """Those of the command line but for the recording, which may also be started later.

    Args:
        options: of the run.
        frame_rate: nominal, of the session.
        on_change: see `LiveOutput`.
        on_key: gets keys that are pressed in the window.
        on_closed: called when the window is closed or the reader of standard output goes away.
    """
    from .sink_stream import PipeStream, check_push
    from .sink_virtualcam import VirtualCamera
    from .sink_window import PreviewWindow

    if options.virtual_camera:
        watch = _VirtualCameraWatch()
        yield LiveOutput(
            VIRTUAL_CAMERA,
            lambda info: VirtualCamera(
                info, device=options.virtual_camera_device, on_open=watch.opened, on_close=watch.closed
            ),
            frame_rate=frame_rate, on_change=on_change, watched=watch.watched,
        )  # fmt: skip
    if options.window:
        window: OpenSink = lambda info: PreviewWindow(info, on_key=on_key, on_closed=on_closed)  # noqa: E731
        yield LiveOutput("window", window, frame_rate=frame_rate, on_change=on_change)
    if options.stdout:
        pipe: OpenSink = lambda info: PipeStream(info, on_closed=on_closed)  # noqa: E731
        yield LiveOutput("stdout", pipe, frame_rate=frame_rate, on_change=on_change)
    names: list[str] = []
    for url in options.push:
        scheme = check_push(url)
        names.append(f"push {scheme}")
        number = names.count(names[-1])
        yield LiveOutput(
            names[-1] if number == 1 else f"{names[-1]} {number}", _pusher(url, options.bitrate),
            frame_rate=frame_rate, on_change=on_change, retry_seconds=RECONNECT_SECONDS,
        )  # fmt: skip


def recording_output(options: LiveOptions, path: Path, *, frame_rate: Fraction, on_change: OnChange) -> LiveOutput:
    """An output that records to `path`, with the microphone's sound if that was asked for."""
    from .microphone import Microphone
    from .sink_record import Recording

    name = options.microphone
    output = LiveOutput(
        RECORDING,
        lambda info: Recording(
            path, info, overwrite=options.overwrite, microphone=Microphone(name) if name else None,
            on_warning=output.warn,
        ),
        frame_rate=frame_rate, begin_with_card=False, on_change=on_change,
    )  # fmt: skip
    return output


@contextmanager
def open_panel(options: LiveOptions, *, say: Callable[[str], None]) -> Iterator["Panel"]:
    """The panel's server: on the port that was named, or on the usual one, or on any that is free."""
    from .live_settings import config_folder

    try:
        from .panel import Panel
        from .panel_guard import PanelGuard, allowed_hosts, kept_token, new_token
    except ImportError as exc:
        raise SinkError("the panel needs aiohttp: pip install 'impasto[panel]', or give --no-panel") from exc
    control, view = new_token(), kept_token(config_folder() / "view-token")

    def open_on(port: int) -> Panel:
        def guard(port: int) -> PanelGuard:
            return PanelGuard(control, view, allowed_hosts(options.listen, port, options.allow_host))

        return Panel(guard, address=options.listen, port=port)

    if options.port is not None:
        with open_on(options.port) as panel:
            yield panel
        return
    panel = open_on(DEFAULT_PORT)
    try:
        panel.__enter__()
    except SinkError:
        say(f"port {DEFAULT_PORT} is taken by another program; using another")
        panel = open_on(0)
        panel.__enter__()
    try:
        yield panel
    finally:
        panel.__exit__(None, None, None)


def _pusher(url: str, bitrate_kbps: int) -> OpenSink:
    from .sink_stream import NetworkStream

    return lambda info: NetworkStream(url, info, bitrate_kbps=bitrate_kbps)


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
