"""Sizes as users write them: 720p, 1280x720, 0.5x."""

import re

from ..export.sides import parse_sides

MIN_SIDE, MAX_SIDE = 16, 16_384


def parse_size(text: str, height: int, width: int) -> tuple[int, int]:
    """(height, width) in pixels, both even, for a video of this height and width.

    Args:
        text: "720p" sets the shorter side and keeps the proportions, "WxH" sets both, "0.5x" scales.
    """
    if match := re.fullmatch(r"(\d+)p", text):
        scale = int(match[1]) / min(height, width)
        wanted = (height * scale, width * scale)
    elif match := re.fullmatch(r"(\d*\.?\d+)x", text):
        wanted = (height * float(match[1]), width * float(match[1]))
    else:
        wanted = parse_sides(text, "size", "720p", "0.5x")
    even = (round(wanted[0] / 2) * 2, round(wanted[1] / 2) * 2)
    if not all(MIN_SIDE <= side <= MAX_SIDE for side in even):
        raise ValueError(f"size must give sides of {MIN_SIDE} to {MAX_SIDE} pixels, got {even[1]}x{even[0]}")
    return even
