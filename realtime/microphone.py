"""Sound for a recording: the microphone, read in its own thread, stamped with the monotonic clock."""

import logging
import math
import sys
import threading
import time
from collections.abc import Callable

import av
from av.audio.resampler import AudioResampler

from .errors import SourceError, reason_of

logger = logging.getLogger(__name__)

Hear = Callable[[av.AudioFrame, float], None]
"""Takes sound (48 kHz, stereo, planar float, AAC's 1024 samples) and when its first sample was captured."""
SoundEnded = Callable[[str], None]
"""Gets why no more sound comes, as a sentence."""

SAMPLE_RATE = 48_000
SAMPLES = 1024
DRIFT_SECONDS = 0.1
"""When the sound card's clock and ours have parted so far, the sound is moved once instead of drifting on."""
DRIFT_WINDOW_SECONDS = 1.0
"""Sound that was held up somewhere arrives late and then at once; only what is late for so long has another time."""


class SoundClock:
    """Times of capture on the monotonic clock for sound that a card counts in samples and hands over in bursts."""

    def __init__(self) -> None:
        self._started: float | None = None
        self._samples = 0
        self._window_began = 0.0
        self._least_late = math.inf

    def captured_at(self, arrived: float, samples: int) -> float:
        """When the first of the next `samples` samples was captured, the last of which arrived at `arrived`."""
        begun = arrived - samples / SAMPLE_RATE
        if self._started is None:
            self._started, self._window_began = begun, arrived
        self._least_late = min(self._least_late, begun - (self._started + self._samples / SAMPLE_RATE))
        if arrived - self._window_began >= DRIFT_WINDOW_SECONDS:
            if abs(self._least_late) > DRIFT_SECONDS:
                self._started += self._least_late
            self._window_began, self._least_late = arrived, math.inf
        captured = self._started + self._samples / SAMPLE_RATE
        self._samples += samples
        return captured


class Microphone:
    """An audio input of FFmpeg's: `default`, a device name, or `lavfi:GRAPH` for a generated sound."""

    def __init__(self, name: str = "default") -> None:
        self._name = name
        self._stop = threading.Event()
        self._container: av.container.InputContainer | None = None
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Open the device; `SourceError` says why that cannot be."""
        address, driver = _device(self._name)
        try:
            container = av.open(address, format=driver, timeout=(5.0, 2.0))
        except (OSError, ValueError, av.FFmpegError) as exc:
            raise SourceError(
                f"microphone must be one that can be opened, got {self._name!r}: {reason_of(exc)}"
            ) from exc
        if not container.streams.audio:
            container.close()
            raise SourceError(f"microphone must have sound, got {self._name!r}")
        self._container = container

    def start(self, hear: Hear, on_end: SoundEnded) -> None:
        """Begin, once it is open. Both are called from the microphone's thread; `on_end` not after `stop`."""
        self._stop.clear()
        self._thread = threading.Thread(
            target=self._run, args=(self._container, hear, on_end), name="impasto-mic", daemon=True
        )
        self._container = None
        self._thread.start()

    def stop(self) -> None:
        """Stop; returns at once if it never started."""
        self._stop.set()
        if self._container is not None:
            self._container.close()
            self._container = None
        if self._thread is not None:
            self._thread.join(3.0)
            self._thread = None

    def _run(self, container: av.container.InputContainer, hear: Hear, on_end: SoundEnded) -> None:
        resampler = AudioResampler("fltp", "stereo", SAMPLE_RATE, SAMPLES)
        started = time.monotonic()
        clock = SoundClock()
        reason = "the microphone has ended"
        try:
            for frame in container.decode(audio=0):
                if self._stop.is_set():
                    break
                if frame.time is not None and self._name.startswith("lavfi:"):
                    self._stop.wait(max(started + frame.time - time.monotonic(), 0.0))
                for sound in resampler.resample(frame):
                    hear(sound, clock.captured_at(time.monotonic(), sound.samples))
        except (OSError, ValueError, av.FFmpegError) as exc:
            reason = f"the microphone stopped: {reason_of(exc)}"
        finally:
            container.close()
        if not self._stop.is_set():
            logger.warning("%s", reason)
            on_end(reason)


def _device(name: str) -> tuple[str, str]:
    if name.startswith("lavfi:"):
        return name.removeprefix("lavfi:"), "lavfi"
    if sys.platform == "win32":
        return f"audio={name}", "dshow"
    if sys.platform == "darwin":
        return f"none:{'default' if name == 'default' else name}", "avfoundation"
    return name, "alsa"  # PulseAudio and PipeWire both answer to ALSA's "default"
