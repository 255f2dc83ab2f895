"""The picture that walks through the program, and the description of the stream it belongs to."""

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]
"""An RGB picture: (H, W, 3) uint8, sRGB, full range."""


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture and when it is shown."""

    data: Picture
    """(H, W, 3) uint8 RGB, sRGB, full range, C-contiguous."""
    pts: Fraction
    """Presentation time in seconds, exact; may be negative or start late."""
    duration: Fraction | None = None
    """Seconds the picture is shown for; None where the stream does not say."""

    def __post_init__(self) -> None:
        if self.data.ndim != 3 or self.data.shape[2] != 3 or self.data.dtype != np.uint8:
            raise ValueError(f"data must be (H, W, 3) uint8, got {self.data.shape} {self.data.dtype}")

    def __repr__(self) -> str:
        height, width, _ = self.data.shape
        return f"Frame({width}x{height}, pts={float(self.pts):.4f} s)"


Matrix = Literal["bt601", "bt709", "bt2020"]
"""Which weights of red, green and blue make luma."""


@dataclass(frozen=True)
class ColorTags:
    """How a stream of RGB pictures wants to be labelled when it is stored as YUV."""

    matrix: Matrix = "bt709"
    primaries: int = 1
    """Code point of ISO/IEC 23091-2 (H.273); 1 is BT.709, 6 is SMPTE 170M."""
    transfer: int = 1
    """Code point of ISO/IEC 23091-2 (H.273); 1 is BT.709, 13 is sRGB."""


@dataclass(frozen=True)
class StreamInfo:
    """What is known of a stream of pictures before the first one is read."""

    width: int
    """Pixels, after rotation has been applied."""
    height: int
    """Pixels, after rotation has been applied."""
    frame_rate: Fraction
    """Nominal pictures per second; the truth is in each frame's pts."""
    num_frames: int | None = None
    """Number of pictures, where the container says or allows an estimate; may be off by a few."""
    duration: Fraction | None = None
    """Seconds, where known."""
    origin: Fraction = Fraction(0)
    """Seconds at which the film begins; recordings of broadcasts may begin anywhere."""
    rotation: int = 0
    """Degrees counter-clockwise that were applied to turn the coded picture upright: 0, 90, 180 or 270."""
    sample_aspect_ratio: Fraction = field(default=Fraction(1))
    """Width of a pixel divided by its height."""
    time_base: Fraction | None = None
    """Unit of seconds in which every pts is a whole number, where the stream has one."""
    color: ColorTags = ColorTags()
    live: bool = False
    """True for a camera or a network feed: it cannot wait, so frames may be dropped."""
