"""Engines for the live path: chosen once by measurement, remembered, and loaded while the camera opens."""

import json
import logging
import platform
import threading
from collections.abc import Callable
from concurrent.futures import Future
from importlib import metadata
from pathlib import Path
from typing import Any

from ..export.artifact import Artifact, Precision
from .engine import Engine, passes
from .engine_carried import CarriedEngine, Normalization
from .engine_choice import has_int8, load_engine
from .engine_statistics import open_statistics
from .live_settings import Tier, config_folder

logger = logging.getLogger(__name__)

LIVE_EVERY = 24
"""Frames from one measurement of a live picture's statistics to the next: each delays its frame by up to a half."""
LIVE_SETTLE_FRAMES = 48
"""A camera needs a second or two to find its exposure, before statistics can be frozen."""
CLOSE_SECONDS = 2.0
"""How long the end waits for a style still being loaded; what takes longer is left behind."""
LIBRARIES = ("openvino", "onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "tensorrt", "torch")


class LiveEngines:
    """Loads engines for one run: on a CPU the comparison of the libraries is made once and kept for the next runs.

    It takes three seconds, in which a streamer would look at a card. Whatever could change its outcome is part of
    the record: the libraries' versions, the processor, a graphics driver. A device that the user names is not
    compared in any case. Nor are the precisions of later styles: the networks are of one kind, and a change of style is
    ready in 0.18 s instead of 0.57 (640x360, 4 cores with AMX) when int8 is not compiled beside bf16 to be compared.
    """

    def __init__(
        self, *, device: str, precision: str, on_choice: Callable[[str], None], normalization: Normalization = "frame"
    ) -> None:
        self._precision, self._on_choice, self._normalization = precision, on_choice, normalization
        self._how: dict[str, Any] = {"device": device}
        self._chosen: Precision | None = None
        """What the first style's comparison chose."""
        if device == "auto" and (library := _remembered()) is not None:
            self._how = {"device": "cpu", "library": library}

    def load(self, artifact: Artifact) -> Engine:
        """A style, ready to paint; an `ImpastoError` says why not."""
        engine = load_engine(artifact, precision=self._precision_for(artifact), on_choice=self._on_choice, **self._how)
        if self._chosen is None and engine.info.device.lower() == "cpu" and _may_speak_for_others(artifact):
            self._chosen = engine.info.precision
        if self._how == {"device": "auto"} and engine.info.device.lower() == "cpu":
            self._how = {"device": "cpu", "library": engine.info.name}
            _remember(engine.info.name)
        if self._normalization == "frame":
            return engine
        engine.close()
        measurable = open_statistics(artifact, engine.info)
        return CarriedEngine(
            measurable, frozen=self._normalization == "frozen", every=LIVE_EVERY, settle_frames=LIVE_SETTLE_FRAMES
        )

    def _precision_for(self, artifact: Artifact) -> str:
        """What the run's first style was chosen to paint in, where this one has it too and it is good enough there."""
        if self._precision != "auto" or self._chosen is None or not has_int8(artifact):
            return self._precision
        return self._chosen if passes(artifact, self._chosen) else "auto"


class FirstStyle:
    """Begins to load the first style before the session exists, and hands it over when it is asked for."""

    def __init__(self, open_style: Callable[[str, Tier], Engine], style: str, tier: Tier) -> None:
        self._open_style, self._key = open_style, (style, tier)
        self._loaded: Future[Engine] = Future()
        self._asked = False
        self._thread = threading.Thread(target=self._load, name="impasto-first-style", daemon=True)
        self._thread.start()

    def open(self, style: str, tier: Tier) -> Engine:
        """Load a style: the first time, the first one, which is under way."""
        if (style, tier) == self._key and not self._asked:
            self._asked = True
            return self._loaded.result()
        return self._open_style(style, tier)

    def close(self) -> None:
        """Put away what nobody asked for; a load that takes long is left behind (its thread is a daemon)."""
        self._thread.join(CLOSE_SECONDS)
        if not self._asked and self._loaded.done() and self._loaded.exception() is None:
            self._loaded.result().close()

    def _load(self) -> None:
        try:
            self._loaded.set_result(self._open_style(*self._key))
        except BaseException as exc:  # whatever it is, the caller of `open` gets it
            self._loaded.set_exception(exc)


def _may_speak_for_others(artifact: Artifact) -> bool:
    """Whether the comparison was one between int8 and the precision that other styles would be painted in."""
    return has_int8(artifact) and all(passes(artifact, parity.precision) for parity in artifact.metadata.parity)


def _record() -> Path:
    return config_folder() / "engine.json"


def _circumstances() -> dict[str, str]:
    found = {"processor": platform.processor() or platform.machine(), "nvidia": str(Path("/dev/nvidia0").exists())}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _remembered() -> str | None:
    try:
        record = json.loads(_record().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(record, dict) or record.get("circumstances") != _circumstances():
        return None
    return str(record["library"]) if record.get("library") in ("openvino", "onnxruntime") else None


def _remember(library: str) -> None:
    try:
        _record().parent.mkdir(parents=True, exist_ok=True)
        _record().write_text(json.dumps({"library": library, "circumstances": _circumstances()}), encoding="utf-8")
    except OSError as exc:
        logger.info("the choice of engine is not kept: %s", exc)
