"""Paints live frames: a chosen work size, cross-fades between looks, strength, colours, smoothing."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..export.arbitrary import Vector
from .engine import Batch, Engine, EngineInfo
from .engine_carried import CarriedEngine
from .errors import EngineError
from .frame import Frame, Picture
from .live_paintings import PaintingEngine
from .live_settings import LiveSettings, Tier
from .smoothing import Smoother
from .stylizer import Stylizer, blend, pad, with_colors_of

Size = tuple[int, int]
"""(height, width) in pixels."""

CLOSE_SECONDS = 2.0
SMOOTHING_PATIENCE_MS = 8.0
"""How long a painted picture may wait for its smoothing; what takes longer goes out without."""


@dataclass(frozen=True, eq=False)
class LoadedStyle:
    """A loaded style of one tier, warm and ready to paint."""

    style: str
    tier: Tier
    engine: Engine

    @property
    def key(self) -> tuple[str, Tier]:
        """What tells loaded styles apart."""
        return self.style, self.tier


class SharedEngine:
    """An engine that one thread warms for another size while another thread paints with it: they take turns."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._turn = threading.Lock()
        self._closed = False

    @property
    def info(self) -> EngineInfo:
        return self._engine.info

    @property
    def stride(self) -> int:
        return self._engine.stride

    @property
    def paintings(self) -> PaintingEngine | None:
        """The engine itself where it paints like any painting."""
        return self._engine if isinstance(self._engine, PaintingEngine) else None

    def __call__(self, frames: Batch) -> Batch:
        with self._turn:
            if self._closed:
                raise EngineError("the style was put away")
            return self._engine(frames)

    def paint(self, frames: Batch, vector: Vector) -> Batch:
        """With a style (K,) of the caller's; for engines with `paintings`."""
        with self._turn:
            if self._closed or not isinstance(self._engine, PaintingEngine):
                raise EngineError("the style was put away")
            return self._engine.paint(frames, vector)

    def warmup(self, height: int, width: int) -> None:
        with self._turn:
            if not self._closed:
                self._engine.warmup(height, width)

    def reset(self) -> None:
        """Forget earlier frames: where the engine carries statistics, they are of another place or time."""
        with self._turn:
            if isinstance(self._engine, CarriedEngine):
                self._engine.reset()

    def close(self) -> None:
        self._closed = True
        if self._turn.acquire(timeout=CLOSE_SECONDS):  # an engine that never returns is left behind
            try:
                self._engine.close()
            finally:
                self._turn.release()


class Painter:
    """From a camera's frame to a painted picture of one fixed size. Used by one thread.

    `settings` and `work_size` may be replaced between two frames, `show` brings another look in.
    """

    def __init__(
        self, *, size: Size, settings: LiveSettings, vector_of: Callable[[str], Vector | None] = lambda style: None
    ) -> None:
        """
        Args:
            size: of every picture that comes out, whatever the camera sends.
            settings: the look to begin with.
            vector_of: the style vector (K,) of a painting by its style's name, without delay.
        """
        self.size = size
        self._vector_of = vector_of
        self.work_size = size
        self.settings = settings
        self._stylizer: Stylizer | None = None
        self._look: LoadedStyle | None = None
        self._leaving: tuple[Stylizer, float, float] | None = None
        """The look that fades out, when it began to, and for how many seconds."""
        self._vector: Vector | None = None
        """What painted last, where that was a style vector; in a fade, somewhere between two."""
        self._leaving_vector: Vector | None = None
        """What the look that fades out painted with last, where that was a style vector."""
        self._was_at_strength = False
        self._smoother = Smoother(0.0, patience_ms=SMOOTHING_PATIENCE_MS)

    @property
    def look(self) -> LoadedStyle | None:
        """The look that paints, or fades in."""
        return self._look

    @property
    def engines(self) -> tuple[Engine, ...]:
        """Those that paint: one, in a fade two."""
        stylizers = (self._stylizer, None if (leaving := self._leaving) is None else leaving[0])
        return tuple(stylizer.engine for stylizer in stylizers if stylizer is not None)

    def show(self, look: LoadedStyle) -> None:
        """Paint with `look` from now on, fading over from what painted until now."""
        if look.engine not in self.engines:
            _reset(look.engine)
        seconds = self.settings.crossfade_seconds
        if self._stylizer is not None and seconds > 0 and self._look is not None and self._look.style != look.style:
            self._leaving = (self._stylizer, time.monotonic(), seconds)
            self._leaving_vector = None if _painting_engine(self._stylizer) is None else self._vector
        else:
            self._smoother.reset()  # or the last picture of another look would fade out slowly
        self._look, self._stylizer = look, Stylizer(look.engine)

    def reset(self) -> None:
        """Forget earlier frames: the next one is another camera's."""
        self._smoother.reset()
        for engine in self.engines:
            _reset(engine)

    def original(self, frame: Frame) -> Picture:
        """The camera's picture as it would stand beside the painting: same size, mirrored alike."""
        return self._fitted(frame.data)

    def __call__(self, frame: Frame) -> Picture:
        """(H, W, 3) uint8 RGB of `size`. Raises what the engine raises."""
        settings, original = self.settings, self._fitted(frame.data)
        if settings.strength == 0.0:
            self._smoother.reset()
            return original
        small = resize(original, self.work_size)
        self._smoother.amount = settings.smoothing
        eased, at_strength = self._faded(), self._is_at_strength
        if settings.strength < 1.0 and at_strength != self._was_at_strength:
            self._smoother.reset()  # or a painting in full would linger where it is weakened from now on
        self._was_at_strength = at_strength
        painting = self._smoother.paint(small, lambda: self._paint(Frame(small, frame.pts), eased))
        picture = resize(painting, self.size)
        if settings.keep_colors:
            picture = with_colors_of(original, picture)
        if settings.strength < 1.0 and not at_strength:
            return blend(original, picture, settings.strength)
        return picture

    @property
    def _is_at_strength(self) -> bool:
        """Whether `_paint` brings the picture to the strength, as it does where a style vector has a part in it."""
        return _painting_engine(self._stylizer) is not None or self._leaving_vector is not None

    def _paint(self, frame: Frame, eased: float) -> Picture:
        if self._stylizer is None:
            raise RuntimeError("no style is loaded yet")
        engine = _painting_engine(self._stylizer)
        if engine is not None and engine.paintings is not None:
            return self._paint_with_vector(frame, engine, engine.paintings.vector, eased)
        self._vector = None
        painting = self._stylizer(frame).data
        if self._leaving is None:
            return painting
        engine, vector = _painting_engine(self._leaving[0]), self._leaving_vector
        if engine is None or vector is None:
            return blend(self._leaving[0](frame).data, painting, eased)
        leaving = self._painted(frame, lambda batch: engine.paint(batch, vector), engine.stride)
        return blend(leaving, blend(frame.data, painting, self.settings.strength), eased)

    def _paint_with_vector(self, frame: Frame, engine: SharedEngine, vector: Vector, eased: float) -> Picture:
        """One pass, also in a fade from one painting to another and with a second painting mixed in."""
        settings = self.settings
        if settings.mix > 0 and (other := self._vector_of(settings.mix_with)) is not None:
            vector = vector + np.float32(settings.mix) * (other - vector)
        vector = np.float32(settings.strength) * vector  # alpha: the drawing stays single where a blend shows it twice
        if self._leaving is not None and self._leaving_vector is not None:
            vector = self._leaving_vector + np.float32(eased) * (vector - self._leaving_vector)
        self._vector = vector
        painting = self._painted(frame, lambda batch: engine.paint(batch, vector), engine.stride)
        if self._leaving is None or self._leaving_vector is not None:
            return painting
        leaving = blend(frame.data, self._leaving[0](frame).data, settings.strength)
        return blend(leaving, painting, eased)

    @staticmethod
    def _painted(frame: Frame, paint: Callable[[Batch], Batch], stride: int) -> Picture:
        height, width = frame.data.shape[:2]
        painted = paint(pad(frame.data, stride)[np.newaxis])[0]
        return np.ascontiguousarray(painted[:height, :width])

    def _faded(self) -> float:
        """How far a fade is, 0 to 1, slow at both ends; a fade that is over is forgotten."""
        if self._leaving is None:
            return 1.0
        _, since, seconds = self._leaving
        progress = (time.monotonic() - since) / seconds
        if progress >= 1.0:
            self._leaving = self._leaving_vector = None
            return 1.0
        return progress * progress * (3.0 - 2.0 * progress)

    def _fitted(self, picture: Picture) -> Picture:
        import cv2

        fitted = cover(picture, self.size)
        return np.asarray(cv2.flip(fitted, 1), np.uint8) if self.settings.mirror else fitted


def _reset(engine: Engine) -> None:
    if isinstance(engine, SharedEngine):
        engine.reset()


def _painting_engine(stylizer: Stylizer | None) -> SharedEngine | None:
    """Its engine where that paints like any painting."""
    engine = None if stylizer is None else stylizer.engine
    return engine if isinstance(engine, SharedEngine) and engine.paintings is not None else None


def resize(picture: Picture, size: Size) -> Picture:
    """Scaled to (height, width): by area when it shrinks, bicubic when it grows."""
    import cv2

    height, width = size
    if picture.shape[:2] == size:
        return picture
    shrinks = height < picture.shape[0]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(picture, (width, height), interpolation=method), np.uint8)


def cover(picture: Picture, size: Size) -> Picture:
    """Scaled and cropped at the middle so that it fills (height, width) without being stretched."""
    height, width = size
    if picture.shape[:2] == size:
        return picture
    have_height, have_width = picture.shape[:2]
    scale = max(height / have_height, width / have_width)
    crop_height, crop_width = min(round(height / scale), have_height), min(round(width / scale), have_width)
    top, left = (have_height - crop_height) // 2, (have_width - crop_width) // 2
    cropped = np.ascontiguousarray(picture[top : top + crop_height, left : left + crop_width])
    return resize(cropped, size)


def work_size(size: Size, short_side: int) -> Size:
    """(height, width) for painting `size` at a shorter side of at most `short_side`; even, never enlarged."""
    scale = min(1.0, short_side / min(size))
    height, width = (max(2 * round(edge * scale / 2), 2) if scale < 1.0 else edge for edge in size)
    return height, width


def neutral_card(size: Size, text: str = "") -> Picture:
    """What outputs show when there is nothing painted to show: (H, W, 3) uint8 RGB, calm and without any camera in it.

    A dusk gradient with a canvas weave and, in small type, why there is no picture.
    """
    import cv2

    height, width = size
    down, across = np.linspace(0, 1, height)[:, None, None], np.linspace(0, 1, width)[None, :, None]
    top, bottom, glow = (np.array(c, float) for c in ((34, 40, 62), (22, 20, 30), (84, 58, 62)))
    light = np.exp(-(((across - 0.5) / 0.45) ** 2 + ((down - 0.62) / 0.35) ** 2))
    card = top * (1 - down) + bottom * down + (glow - bottom) * light * 0.8
    weave = np.sin(np.arange(height) * np.pi / 2)[:, None, None] * np.sin(np.arange(width) * np.pi / 2)[None, :, None]
    picture: Picture = np.ascontiguousarray(np.clip(card + 1.5 * weave, 0, 255).astype(np.uint8))
    if text:
        scale = max(min(height / 720, width / (len(text) * 16.0)), 0.3)
        thickness = max(round(scale), 1)
        (text_width, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_DUPLEX, scale, thickness)
        at = ((width - text_width) // 2, round(height * 0.62))
        cv2.putText(picture, text, at, cv2.FONT_HERSHEY_DUPLEX, scale, (214, 200, 190), thickness, cv2.LINE_AA)
    return picture
