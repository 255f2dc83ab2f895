"""A style applied to frames: any size in, the same size and time out."""

from collections.abc import Callable
from typing import cast

import numpy as np

from ..export.statistics import Vectors
from .engine import Engine
from .frame import Frame, Picture
from .smoothing import Smoother


class Stylizer:
    """Pad to the stride, run, crop, smooth over time, blend."""

    def __init__(
        self, engine: Engine, *, strength: float = 1.0, keep_colors: bool = False, smooth: float = 0.0
    ) -> None:
        """
        Args:
            engine: the loaded style.
            strength: 0 is the frame itself, 1 the painting.
            keep_colors: luminance of the painting, chroma of the frame.
            smooth: 0 paints every frame by itself, 1 holds on to the last most; frames must come in order.
        """
        if not 0.0 <= strength <= 1.0:
            raise ValueError(f"strength must be between 0 and 1, got {strength}")
        self.engine = engine
        self.strength = strength
        self.keep_colors = keep_colors
        self._smoother = Smoother(smooth)

    def __call__(self, frame: Frame) -> Frame:
        picture = self._smoother.paint(frame.data, lambda: self._paint(frame.data))
        if self.keep_colors:
            picture = with_colors_of(frame.data, picture)
        if self.strength < 1.0:
            picture = blend(frame.data, picture, self.strength)
        return Frame(picture, frame.pts, frame.duration)

    def reset(self) -> None:
        """Forget earlier frames, at a seek; a cut is found without help."""
        self._smoother.reset()

    def _paint(self, picture: Picture) -> Picture:
        return submit_picture(self.engine, picture)()


def submit_picture(engine: Engine, picture: Picture, statistics: Vectors | None = None) -> Callable[[], Picture]:
    """Begin to paint (H, W, 3), any size; the call waits for the painting, of the same size.

    An engine that cannot work on several pictures at once paints when the call comes. `statistics` is for one that
    takes them with every picture (`engine_carried`).
    """
    height, width = picture.shape[:2]
    padded = pad(picture, engine.stride)[np.newaxis]
    submit = getattr(engine, "submit", None)
    others = () if statistics is None else (statistics,)
    pending = submit(padded, *others) if submit else None

    def wait() -> Picture:
        stylized: Picture = (pending.result() if pending else engine(padded))[0]
        return np.ascontiguousarray(stylized[:height, :width])

    return wait


def pad(picture: Picture, stride: int) -> Picture:
    """Extend (H, W, 3) by reflection, below and right, to multiples of `stride`."""
    import cv2

    height, width = picture.shape[:2]
    if height % stride == width % stride == 0:
        return np.ascontiguousarray(picture)
    return cast(Picture, cv2.copyMakeBorder(picture, 0, -height % stride, 0, -width % stride, cv2.BORDER_REFLECT_101))


def padded_size(height: int, width: int, stride: int) -> tuple[int, int]:
    """What `pad` makes of a picture's (height, width)."""
    return height + -height % stride, width + -width % stride


def blend(below: Picture, above: Picture, strength: float) -> Picture:
    """(1 - strength)·below + strength·above, rounded; both (H, W, 3) uint8."""
    import cv2

    return cast(Picture, cv2.addWeighted(below, 1.0 - strength, above, strength, 0.0))


def with_colors_of(content: Picture, painting: Picture) -> Picture:
    """Luminance of `painting`, chroma of `content` (Gatys et al. 2017, arXiv 1611.07865, section 5.3).

    Both (H, W, 3) uint8 RGB. In BT.601's full-range YCrCb, as they do in YIQ: Y from one, Cr and Cb from the other.
    """
    import cv2

    ycc = cv2.cvtColor(content, cv2.COLOR_RGB2YCrCb)
    ycc[..., 0] = cv2.cvtColor(painting, cv2.COLOR_RGB2GRAY)
    return cast(Picture, cv2.cvtColor(ycc, cv2.COLOR_YCrCb2RGB))
