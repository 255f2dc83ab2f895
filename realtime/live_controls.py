"""What a person can do to a live run, once: the panel, the terminal and the window all come here."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .camera import find_camera, list_cameras
from .capture import Feed
from .errors import SinkError, SourceError
from .live import LiveSession
from .live_jpeg import encode_png
from .live_output import LiveOutput, OutputStatus
from .live_settings import LiveSettings, Tier, load_preset, preset_names, save_preset
from .live_styles import StyleEntry, StyleShelf

HOTKEYS: Mapping[str, str] = {
    "n": "next style", "p": "previous style", "1": "first style, 2 second … 9",
    "+": "stronger", "-": "weaker", "c": "keep colours", "f": "smoothing on or off", "m": "mirror",
    "t": "tier fast or quality", "r": "record on or off", "s": "snapshot", "h": "this list", "q": "quit",
}  # fmt: skip
"""Key and what it does, in the order they are shown."""
KEYS = frozenset([*"npcfmtrshq123456789+-=? ", "esc"])
"""All that `LiveControls.press` knows."""

STRENGTH_STEP = 0.1
SMOOTHING = 0.8
"""What the smoothing key switches on."""
SNAPSHOT_SECONDS = 5.0
"""How long a snapshot waits for its picture."""
TEST = "test"
STARTED_WITH = "start"
"""How the panel calls a file, an address or a screen that the run was started with: by no path and no password."""


class LiveControls:
    """The actions of a live run. Every method may be called from any thread."""

    def __init__(
        self,
        session: LiveSession,
        shelf: StyleShelf,
        *,
        folder: Path,
        open_recording: Callable[[Path], LiveOutput],
        open_feed: Callable[[str], Feed],
        camera: str,
        on_event: Callable[[str], None],
        on_quit: Callable[[], None],
    ) -> None:
        """
        Args:
            session: the run.
            shelf: its styles.
            folder: where recordings and snapshots go whose name nobody chose.
            open_recording: makes the output that records to a file.
            open_feed: opens another camera by number, name or path.
            camera: what the run was started with: a camera's number, name or path, a file, an address.
            on_event: gets one line for what happened.
            on_quit: ends the run.
        """
        self.session, self.shelf = session, shelf
        self._folder = folder
        self._open_recording, self._open_feed = open_recording, open_feed
        self._started_with, self._started_label = camera, session.status.feed.label
        self._camera = ""
        self._on_event, self._on_quit = on_event, on_quit
        session.still_there = lambda style, tier: _one_of(self.usable_styles(), style, tier)
        self._recording: tuple[Path, LiveOutput] | None = None
        self._lock = threading.Lock()

    def set(self, changes: Mapping[str, Any]) -> LiveSettings:
        """Change settings; `ValueError` says what is wrong."""
        if "style" in changes or "tier" in changes:
            now = self.session.settings
            self._check_style(changes.get("style", now.style), changes.get("tier", now.tier))
        if changes.get("mix_with") and self.shelf.vector(str(changes["mix_with"])) is None:
            raise ValueError(f"mix_with must be a style made of a painting, got {changes['mix_with']!r}")
        return self.session.change(changes)

    def step_style(self, step: int) -> None:
        """The next style, or the one before."""
        names = [entry.name for entry in self.usable_styles()]
        if names:
            current = self.session.settings.style
            here = names.index(current) if current in names else -step
            self._show(names[(here + step) % len(names)])

    def nth_style(self, number: int) -> None:
        """The style with this number, from 1, in the order of `StyleShelf.entries`."""
        entries = self.usable_styles()
        if 1 <= number <= len(entries):
            self._show(entries[number - 1].name)

    def usable_styles(self) -> list[StyleEntry]:
        """Styles that are whole."""
        return [entry for entry in self.shelf.entries() if not entry.problem]

    def remove_style(self, name: str) -> None:
        """Take away a style of the user's own. If it was asked for, the style that paints goes on, else the first.

        Raises:
            ValueError: it is none of theirs, or the only style that can paint.
        """
        own = [entry.name for entry in self.shelf.entries() if entry.removable]
        if name not in own:
            raise ValueError(
                f"style must be one of your own to be removed ({', '.join(own) or 'none yet'}), got {name!r}"
            )
        if self.session.settings.style == name and all(entry.name == name for entry in self.usable_styles()):
            raise ValueError(f"{name} must stay as long as there is no other style to paint with")
        gone = self.shelf.remove(name)
        for style, tier in gone:
            self.session.forget(style, tier)
        names = {style for style, _ in gone}
        settings, painting = self.session.settings, self.session.status.painting_style
        changes: dict[str, Any] = {"mix_with": ""} if settings.mix_with in names else {}
        if (settings.style, settings.tier) in gone:
            others = [entry for entry in self.usable_styles() if entry.name not in names]
            changes["style"], changes["tier"] = _one_of(others, painting, settings.tier)
        if changes:
            self.session.change(changes)
        self._on_event(f"removed style {name}")

    def start_recording(self, path: Path | None = None) -> Path:
        """Record to `path`, or to a new file named after the time; returns the file."""
        from .sink_record import recording_name

        with self._lock:
            if self._recording is not None:
                if self._recording[1].status.state not in ("failed", "closed"):
                    return self._recording[0]
                self.session.remove_output(self._recording[1])
            if path is None:
                try:
                    self._folder.mkdir(parents=True, exist_ok=True)
                except OSError as exc:
                    raise SinkError(f"{self._folder} cannot be made: {exc.strerror}") from exc
                path = recording_name(self._folder)
            output = self._open_recording(path)
            self._recording = path, output
        self.session.add_output(output)
        self._on_event(f"recording to {path}")
        return path

    def stop_recording(self) -> Path | None:
        """Finish the recording; returns the file, or None if there is no whole one."""
        with self._lock:
            if self._recording is None:
                return None
            (path, output), self._recording = self._recording, None
        self.session.remove_output(output)
        if output.status.state == "failed":  # which it has told itself
            return None
        if not output.meter.total().count:
            self._on_event("nothing was recorded: no picture came")
            return None
        self._on_event(f"recorded {path}")
        return path

    @property
    def recording(self) -> tuple[Path, OutputStatus] | None:
        """The file that is being written, and how that goes."""
        recording = self._recording
        return None if recording is None else (recording[0], recording[1].status)

    def snapshot_png(self) -> bytes:
        """A picture of this moment, painted, as a PNG file; a run that rests wakes up for it."""
        asked = time.monotonic()
        while (picture := self.session.snapshot(since=asked)) is None:
            if time.monotonic() - asked > SNAPSHOT_SECONDS:
                raise ValueError(f"a snapshot needs a painted picture, got none within {SNAPSHOT_SECONDS:g} s")
            self.session.wake()
            time.sleep(0.01)
        return encode_png(picture)

    def save_snapshot(self) -> Path:
        """Keep a picture of this moment as a new PNG file beside the recordings."""
        from .sink_record import recording_name

        data = self.snapshot_png()
        self._folder.mkdir(parents=True, exist_ok=True)
        path = recording_name(self._folder, ".png")
        path.write_bytes(data)
        self._on_event(f"saved {path}")
        return path

    def set_camera(self, name: str) -> None:
        """Go over to another camera of this machine, the test pattern, or what the run was started with. Nothing else:
        a name from the panel must never open a file or an address."""
        allowed = [camera["id"] for camera in self.cameras()]
        if name not in allowed:
            raise ValueError(f"camera must be one of {', '.join(allowed)}, got {name!r}")
        try:
            feed = self._open_feed(self._started_with if name == STARTED_WITH else name)
        except SourceError as exc:
            raise ValueError(str(exc)) from exc
        self._camera = name
        self.session.replace_feed(feed)

    def cameras(self) -> list[dict[str, Any]]:
        """Cameras for a menu, the current one marked; a file or an address goes by its label, never by itself."""
        known = list_cameras()
        found = [{"id": str(c.index), "name": c.name, "modes": [str(m) for m in c.modes]} for c in known]
        found.append({"id": TEST, "name": "Test pattern", "modes": []})
        started_with = self._started_with
        if started_with != TEST:
            camera = find_camera(started_with, known)
            started_with = STARTED_WITH if camera is None else str(camera.index)
        if started_with == STARTED_WITH:
            found.insert(0, {"id": STARTED_WITH, "name": self._started_label, "modes": []})
        current = self._camera or started_with
        return [camera | {"current": camera["id"] == current} for camera in found]

    def save_preset(self, name: str, *, overwrite: bool = False) -> None:
        """Keep the look under a name; `ValueError` if that is taken and may not be overwritten."""
        save_preset(name, self.session.settings, overwrite=overwrite)
        self._on_event(f"saved preset {name}")

    def load_preset(self, name: str) -> LiveSettings:
        """Take a kept look."""
        return self.set(load_preset(name))

    def press(self, key: str) -> None:
        """Do what a key stands for; unknown keys do nothing."""
        settings = self.session.settings
        match key:
            case "q" | "esc":
                self._on_quit()
            case "n" | "p":
                self.step_style(1 if key == "n" else -1)
            case "+" | "=" | "-":
                step = -STRENGTH_STEP if key == "-" else STRENGTH_STEP
                self._say({"strength": round(min(max(settings.strength + step, 0.0), 1.0), 2)})
            case "c":
                self._say({"keep_colors": not settings.keep_colors})
            case "f":
                self._say({"smoothing": 0.0 if settings.smoothing else SMOOTHING})
            case "m":
                self._say({"mirror": not settings.mirror})
            case "t":
                self._say({"tier": "quality" if settings.tier == "fast" else "fast"})
            case "r":
                recording = self.recording
                on = recording is not None and recording[1].state != "failed"
                self._try(self.stop_recording if on else self.start_recording)
            case "s" | " ":
                self._try(self.save_snapshot)
            case "h" | "?":
                self._on_event("keys: " + ", ".join(f"{k} {what}" for k, what in HOTKEYS.items()))
            case _ if key in list("123456789"):
                self.nth_style(int(key))

    def state(self) -> dict[str, Any]:
        """Everything that changes while it runs, for the panel; times in milliseconds."""
        status = self.session.status
        recording = self.recording
        return {
            "settings": asdict(status.settings),
            "painting": status.painting_style,
            "loading": status.loading,
            "problem": status.problem,
            "engine": status.engine,
            "camera": {"state": status.feed.state, "message": status.feed.message, "label": status.feed.label},
            "output": {"width": status.output_size[1], "height": status.output_size[0]},
            "work": {"width": status.work_size[1], "height": status.work_size[0]},
            "counts": {
                "captured": status.captured, "dropped": status.dropped,
                "painted": status.painted, "cards": status.cards,
            },
            "idle": status.idle,
            "latency": asdict(status.latency),
            "budget_ms": status.budget_ms,
            "outputs": [asdict(output) for output in status.outputs],
            "recording": None if recording is None else {
                "name": recording[0].name, "state": recording[1].state, "message": recording[1].message,
            },
            "presets": preset_names(),
            "styles": self.shelf.version(),
        }  # fmt: skip

    def _check_style(self, style: object, tier: object) -> None:
        known = {entry.name: entry for entry in self.usable_styles()}
        if style not in list(known):  # a program may send anything, also what no dictionary can look up
            raise ValueError(f"style must be one of {', '.join(known)}, got {style!r}")
        entry = known[str(style)]
        if tier not in entry.tiers:
            raise ValueError(f"tier of {entry.name} must be one of {', '.join(entry.tiers)}, got {tier!r}")

    def _show(self, name: str) -> None:
        entry = next(entry for entry in self.usable_styles() if entry.name == name)
        tier = self.session.settings.tier
        self._say({"style": name, "tier": tier if tier in entry.tiers else entry.tiers[0]})

    def _say(self, changes: Mapping[str, Any]) -> None:
        try:
            self.set(changes)
        except ValueError as exc:
            self._on_event(str(exc))
            return
        self._on_event(", ".join(f"{name.replace('_', ' ')} {value}" for name, value in changes.items()))

    def _try(self, action: Callable[[], object]) -> None:
        try:
            action()
        except (SinkError, ValueError, OSError) as exc:
            self._on_event(str(exc))


def _one_of(entries: Sequence[StyleEntry], style: str, tier: Tier) -> tuple[str, Tier]:
    """`style` if it is among the entries, else the first of them; in `tier` if it has that."""
    entry = next((entry for entry in entries if entry.name == style), entries[0] if entries else None)
    if entry is None:
        return style, tier
    return entry.name, tier if tier in entry.tiers else entry.tiers[0]
