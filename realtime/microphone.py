"""Sound for a recording: the microphone, read in its own thread, stamped with the monotonic clock."""

import logging
import sys
import threading
import time
from collections.abc import Callable

import av
from av.audio.resampler import AudioResampler

from .errors import SourceError

logger = logging.getLogger(__name__)

Hear = Callable[[av.AudioFrame, float], None]
"""Takes sound (48 kHz, stereo, planar float, AAC's 1024 samples) and when its first sample was captured."""

SAMPLE_RATE = 48_000
SAMPLES = 1024
DRIFT_SECONDS = 0.1
"""When the sound card's clock and ours have parted so far, the sound is moved once instead of drifting on."""


class Microphone:
    """An audio input of FFmpeg's: `default`, a device name, or `lavfi:GRAPH` for a generated sound."""

    def __init__(self, name: str = "default") -> None:
        self._name = name
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, hear: Hear) -> None:
        """Begin; `hear` is called from the microphone's thread. A microphone that fails is logged, not fatal."""
        address, driver = _device(self._name)
        try:
            container = av.open(address, format=driver, timeout=(5.0, 2.0))
        except (OSError, ValueError) as exc:
            raise SourceError(f"microphone must be one that can be opened, got {self._name!r}: {exc}") from exc
        if not container.streams.audio:
            container.close()
            raise SourceError(f"microphone must have sound, got {self._name!r}")
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, args=(container, hear), name="impasto-mic", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop; returns at once if it never started."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(3.0)
            self._thread = None

    def _run(self, container: av.container.InputContainer, hear: Hear) -> None:
        resampler = AudioResampler("fltp", "stereo", SAMPLE_RATE, SAMPLES)
        started = time.monotonic()
        samples = 0
        try:
            for frame in container.decode(audio=0):
                if self._stop.is_set():
                    break
                if frame.time is not None and self._name.startswith("lavfi:"):
                    self._stop.wait(max(started + frame.time - time.monotonic(), 0.0))
                for sound in resampler.resample(frame):
                    arrived = time.monotonic() - sound.samples / SAMPLE_RATE
                    if abs(arrived - (started + samples / SAMPLE_RATE)) > DRIFT_SECONDS:
                        started = arrived - samples / SAMPLE_RATE
                    hear(sound, started + samples / SAMPLE_RATE)
                    samples += sound.samples
        except (OSError, ValueError) as exc:
            logger.warning("the microphone stopped: %s", exc)
        finally:
            container.close()


def _device(name: str) -> tuple[str, str]:
    if name.startswith("lavfi:"):
        return name.removeprefix("lavfi:"), "lavfi"
    if sys.platform == "win32":
        return f"audio={name}", "dshow"
    if sys.platform == "darwin":
        return f"none:{'default' if name == 'default' else name}", "avfoundation"
    return name, "alsa"  # PulseAudio and PipeWire both answer to ALSA's "default"
