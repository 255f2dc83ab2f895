"""A clock painted into the picture, so that latency is measured where the picture arrives and nowhere else.

64 blocks, black or white, along the top: 56 bits of microseconds of the monotonic clock and 8 bits of check sum. It
survives JPEG, H.264 and scaling, and it does not survive a style: the session paints it after the style.
"""

from fractions import Fraction

import numpy as np

from .frame import Picture

BITS = 64
BAND = 24
"""Height of the blocks is the picture's divided by this."""


def paint_time_code(picture: Picture, seconds: Fraction) -> None:
    """Write `seconds` over the top of (H, W, 3) uint8 RGB, in place; W is at least 128."""
    micros = int(seconds * 1_000_000) & ((1 << 56) - 1)
    word = micros << 8 | _check(micros)
    bits = [(word >> (BITS - 1 - i)) & 1 for i in range(BITS)]
    height, width = picture.shape[:2]
    columns = (np.arange(width) * BITS) // width
    picture[: max(height // BAND, 8)] = (np.array(bits, np.uint8) * 255)[columns][None, :, None]


def read_time_code(picture: Picture) -> float | None:
    """Seconds of the monotonic clock out of (H, W, 3) uint8 RGB, or None if there is no sound time code."""
    height, width = picture.shape[:2]
    band = picture[2 : max(height // BAND, 8) - 2].mean(axis=(0, 2))
    centres = ((np.arange(BITS) + 0.5) * width / BITS).astype(int)
    word = 0
    for value in band[centres]:
        word = word << 1 | int(value > 127)
    micros, check = word >> 8, word & 0xFF
    return micros / 1e6 if check == _check(micros) else None


def _check(micros: int) -> int:
    return sum(micros.to_bytes(8, "big")) * 37 + 11 & 0xFF
