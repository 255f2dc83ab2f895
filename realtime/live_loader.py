"""Styles for a live run, loaded and warmed one after the other while the one before paints on."""

import logging
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from queue import SimpleQueue

from .engine import Engine
from .errors import EngineError, ImpastoError
from .governor import Rung
from .live_painter import LoadedStyle, Painter, SharedEngine, Size, work_size
from .live_settings import Tier
from .slot import LatestSlot

logger = logging.getLogger(__name__)

OpenStyle = Callable[[str, Tier], Engine]
"""Load a style by name and tier; an `ImpastoError` says why not."""

MOST_LOADED = 4
"""Engines kept warm: two tiers of this style and of the last one."""


class StyleLoader:
    """Loads what was asked for last, and keeps a few engines warm. One thread is in `run`, others may call the rest."""

    def __init__(
        self,
        painter: Painter,
        open_style: OpenStyle,
        *,
        rungs: Callable[[], Sequence[Rung]],
        on_event: Callable[[str], None],
        on_failure: Callable[[str, ImpastoError], None],
        on_refused: Callable[[str, Collection[Rung]], None],
    ) -> None:
        """
        Args:
            painter: what the styles are for; its size is warmed, and an engine that it uses is not closed.
            open_style: loads a style.
            rungs: what the governor may choose at the moment, the largest first.
            on_event: gets one line for what a person should know of.
            on_failure: gets the name of a style that cannot be painted with, and why.
            on_refused: gets the name of a style that is ready, and those of the rungs that it cannot be painted at.
        """
        self.loading = ""
        """The style that is being loaded, or ""."""
        self._painter, self._open_style, self._rungs = painter, open_style, rungs
        self._on_event, self._on_failure, self._on_refused = on_event, on_failure, on_refused
        self._wanted: LatestSlot[tuple[str, Tier]] = LatestSlot()
        self._ready: LatestSlot[LoadedStyle] = LatestSlot()
        self._loaded: OrderedDict[tuple[str, str], LoadedStyle] = OrderedDict()
        self._warm_sizes: set[tuple[tuple[str, str], Size]] = set()
        self._retired: list[Engine] = []
        self._removed: SimpleQueue[tuple[str, Tier]] = SimpleQueue()

    def ask(self, style: str, tier: Tier) -> None:
        """Load this next; what was asked for before and is not begun yet is forgotten."""
        self._wanted.put((style, tier))

    def forget(self, style: str, tier: Tier) -> None:
        """Its artifact is gone, and another one may come under its name: load that when it is asked for."""
        self._removed.put((style, tier))

    def take(self) -> LoadedStyle | None:
        """A style that has become ready since the last call."""
        return self._ready.take(0.0)

    def stop(self) -> None:
        """Let `run` return once the engine allows it."""
        self._wanted.close()

    def close(self) -> None:
        """Close all engines, after `stop`, when nothing paints any more."""
        for engine in (*self._retired, *(style.engine for style in self._loaded.values())):
            _close(engine)

    def run(self) -> None:
        """Load until `stop`."""
        while not self._wanted.closed:
            try:
                self._load_next()
            except Exception:  # without this thread no style could be changed any more
                logger.exception("loading was disturbed")

    def _load_next(self) -> None:
        wanted = self._wanted.take(0.25)
        self._close_retired()
        self._forget_removed()
        if wanted is None or self._wanted.closed:
            return
        self.loading = wanted[0]
        try:
            self._load(*wanted)
        except ImpastoError as exc:
            self._failed(wanted[0], exc)
        except Exception as exc:  # what a broken artifact makes an engine raise is anybody's guess
            logger.exception("style %s did not load", wanted[0])
            self._failed(wanted[0], EngineError(f"{type(exc).__name__}: {exc}"))
        finally:
            self.loading = ""

    def _load(self, style: str, tier: Tier) -> None:
        first = self._painter.look is None
        refused = [] if first else self._warm_rungs(style)  # the one before paints on, so there is time
        loaded = self._opened(style, tier)
        self._warm(loaded, self._painter.work_size)
        self._forget_removed()
        if self._loaded.get(loaded.key) is not loaded:  # removed while it was loading
            return
        self._ready.put(loaded)
        self.loading = ""
        if first:
            refused = self._warm_rungs(style)
        if refused and not self._wanted.closed:
            self._on_refused(style, refused)

    def _failed(self, style: str, reason: ImpastoError) -> None:
        if not self._wanted.closed:
            self._on_failure(style, reason)

    def _opened(self, style: str, tier: Tier) -> LoadedStyle:
        loaded = self._loaded.get((style, tier))
        if loaded is None:
            loaded = LoadedStyle(style, tier, SharedEngine(self._open_style(style, tier)))
            self._loaded[loaded.key] = loaded
        if self._wanted.closed:
            raise EngineError("the run has ended")
        self._loaded.move_to_end(loaded.key)
        while len(self._loaded) > MOST_LOADED:
            self._forget_oldest()
        return loaded

    def _forget_oldest(self) -> None:
        self._retire(next(iter(self._loaded)))

    def _forget_removed(self) -> None:
        while not self._removed.empty():
            key = self._removed.get()
            if key in self._loaded:
                self._retire(key)

    def _retire(self, key: tuple[str, str]) -> None:
        self._warm_sizes = {entry for entry in self._warm_sizes if entry[0] != key}
        self._retired.append(self._loaded.pop(key).engine)

    def _close_retired(self) -> None:
        """An engine holds tens of megabytes and threads: it goes as soon as no fade paints with it any more."""
        used = self._painter.engines
        for engine in [engine for engine in self._retired if engine not in used]:
            self._retired.remove(engine)
            _close(engine)

    def _warm_rungs(self, style: str) -> list[Rung]:
        """Every size and tier the governor may choose is run once, so that a step costs nothing; returns those that
        the style cannot be painted at.

        The smallest first: an engine that keeps a graph for one size only should end with a likely one.
        """
        refused: list[Rung] = []
        missing: set[Tier] = set()
        for rung in reversed(self._rungs()):
            if self._wanted.closed:
                break
            if rung.tier in missing:
                refused.append(rung)
                continue
            try:
                loaded = self._opened(style, rung.tier)
            except Exception as exc:
                missing.add(rung.tier)
                self._refuse(rung, refused, f"{style} has no {rung.tier} tier here", exc)
                continue
            try:
                self._warm(loaded, work_size(self._painter.size, rung.short_side))
            except Exception as exc:
                self._refuse(rung, refused, f"{style} cannot be painted at {rung}", exc)
        return refused

    def _refuse(self, rung: Rung, refused: list[Rung], what: str, exc: Exception) -> None:
        refused.append(rung)
        if self._wanted.closed:
            return
        if not isinstance(exc, ImpastoError):
            logger.warning("%s", what, exc_info=exc)
        self._on_event(f"{what}: {exc}")

    def _warm(self, loaded: LoadedStyle, size: Size) -> None:
        if (loaded.key, size) not in self._warm_sizes:
            loaded.engine.warmup(*_padded(size, loaded.engine.stride))
            self._warm_sizes.add((loaded.key, size))


def _close(engine: Engine) -> None:
    try:
        engine.close()
    except Exception:  # it is not used again, and others wait to be closed
        logger.exception("an engine did not close")


def _padded(size: Size, stride: int) -> Size:
    height, width = (edge + -edge % stride for edge in size)
    return height, width
