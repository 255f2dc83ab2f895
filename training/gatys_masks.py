"""Which part of the picture gets which part of the painting: masks in flat colours.

Gatys, Ecker, Bethge, Hertzmann, Shechtman 2017 (arXiv 1611.07865, section 4): each region is compared by its own
normalised Gram matrix. A mask is a picture in K flat colours; regions of the two masks belong together by colour.
What we do differently: borders are soft, so that no seam is left, and each region counts by its share of the picture,
so that the style is as strong in a small region as in a large one (the paper weights regions by hand).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from .data import Picture
from .errors import TrainingError

Color = tuple[int, int, int]
"""RGB, 0 to 255."""
Weights = npt.NDArray[np.float32]
"""(H, W) in [0, 1]."""

TOLERANCE = 60.0
"""Euclidean distance in RGB below which two colours are the same; half of what lies between neighbours on a cube of
27 colours."""
SOFTNESS = 1 / 200
"""Standard deviation of a region's border over the picture's long side: what a brush blurs, not what an eye sees."""
_MIN_PIXELS = 16  # fewer are specks of compression
_MAX_REGIONS = 24


@dataclass(frozen=True)
class Regions:
    """A mask, understood."""

    masks: Mapping[Color, npt.NDArray[np.bool_]]
    """Colour to (H, W); every pixel is in exactly one."""

    @property
    def colors(self) -> tuple[Color, ...]:
        return tuple(self.masks)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width, pixels."""
        height, width = next(iter(self.masks.values())).shape
        return height, width


def find_regions(mask: Picture, *, what: str) -> Regions:
    """The flat colours of a mask (H, W, 3) uint8 RGB, and where they are.

    Anti-aliased borders and the noise of JPEG go to the nearest flat colour. A colour counts as flat if it covers
    ground, or if it is thin but no mixture of two others.

    Args:
        what: names the mask in errors.

    Raises:
        TrainingError: too many colours to be a mask.
    """
    colors = _flat_colors(mask)
    if len(colors) > _MAX_REGIONS:
        raise TrainingError(f"the {what} must be in at most {_MAX_REGIONS} flat colours, got more: is it a photograph?")
    palette = np.array(colors, np.float32)
    distances = np.stack([np.linalg.norm(mask.astype(np.float32) - color, axis=2) for color in palette])
    nearest = distances.argmin(axis=0)
    found = {color: nearest == i for i, color in enumerate(colors)}
    return Regions({color: where for color, where in found.items() if where.sum() >= _MIN_PIXELS})


def match_regions(content: Regions, styles: Sequence[Regions]) -> dict[Color, list[tuple[int, Color]]]:
    """Each colour of the content mask, with the style masks' colours that are the same: (number of the mask, colour).

    Raises:
        TrainingError: a region has no partner; the message names its colour.
    """
    pairs: dict[Color, list[tuple[int, Color]]] = {color: [] for color in content.colors}
    for number, regions in enumerate(styles):
        for color in regions.colors:
            partner = min(content.colors, key=lambda other: _distance(color, other))
            if _distance(color, partner) > TOLERANCE:
                raise TrainingError(
                    f"every colour of the style mask must be in the content mask, which lacks {name_color(color)}; "
                    f"it has {_names(content.colors)}"
                )
            pairs[partner].append((number, color))
    for color, partners in pairs.items():
        if not partners:
            theirs = [color for regions in styles for color in regions.colors]
            raise TrainingError(
                f"every colour of the content mask must be in a style mask, which lacks {name_color(color)}; "
                f"it has {_names(theirs)}"
            )
    return pairs


def soft_weights(where: npt.NDArray[np.bool_], height: int, width: int) -> Weights:
    """A region resized to (height, width) with a soft border; over all regions of a mask the weights add up to 1.

    The paper takes hard or eroded masks. Blurring is linear, so the sum over the regions stays 1.
    """
    small = cv2.resize(where.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    blurred = cv2.GaussianBlur(small, (0, 0), SOFTNESS * max(height, width), borderType=cv2.BORDER_REFLECT)
    return np.asarray(blurred, dtype=np.float32)


def name_color(color: Color) -> str:
    """As in HTML, and in words for the colours that masks are painted in."""
    red, green, blue = color
    text = f"#{red:02x}{green:02x}{blue:02x}"
    word = min(_WORDS, key=lambda name: _distance(_WORDS[name], color))
    return f"{text} ({word})" if _distance(_WORDS[word], color) <= TOLERANCE else text


_WORDS: dict[str, Color] = {
    "black": (0, 0, 0), "white": (255, 255, 255), "grey": (128, 128, 128), "red": (255, 0, 0), "green": (0, 255, 0),
    "blue": (0, 0, 255), "yellow": (255, 255, 0), "magenta": (255, 0, 255), "cyan": (0, 255, 255),
    "orange": (255, 128, 0), "dark green": (0, 128, 0), "dark red": (128, 0, 0), "dark blue": (0, 0, 128),
    "purple": (128, 0, 128),
}  # fmt: skip


def _flat_colors(mask: Picture) -> list[Color]:
    """Largest first."""
    quantised = (mask >> 4).astype(np.int64)
    codes = (quantised[:, :, 0] << 8) | (quantised[:, :, 1] << 4) | quantised[:, :, 2]
    found: list[Color] = []
    values, counts = np.unique(codes, return_counts=True)
    for code in values[np.argsort(-counts, kind="stable")]:
        where = codes == code
        if where.sum() < _MIN_PIXELS:
            break
        red, green, blue = (int(value) for value in np.median(mask[where], axis=0))
        color = (red, green, blue)
        if any(_distance(color, other) <= TOLERANCE for other in found):
            continue
        if _is_mixture(color, found) and not _covers_ground(mask, color):
            continue
        found.append(color)
        if len(found) > _MAX_REGIONS:
            break
    return found


def _covers_ground(mask: Picture, color: Color) -> bool:
    """Anti-aliased and blurred borders are a few pixels wide; ground leaves something when five are taken off."""
    near = (np.linalg.norm(mask.astype(np.float32) - np.array(color, np.float32), axis=2) <= TOLERANCE / 2).astype(
        np.uint8
    )
    return bool(cv2.erode(near, np.ones((5, 5), np.uint8)).any())


def _is_mixture(color: Color, others: Sequence[Color]) -> bool:
    """Near the line between two other colours, as borders are; JPEG's halved chroma takes them off it."""
    point = np.array(color, float)
    for i, a in enumerate(others):
        for b in others[i + 1 :]:
            start, along = np.array(a, float), np.array(b, float) - np.array(a, float)
            share = float(np.clip((point - start) @ along / (along @ along), 0, 1))
            if np.linalg.norm(start + share * along - point) <= TOLERANCE:
                return True
    return False


def _distance(a: Color, b: Color) -> float:
    return float(np.linalg.norm(np.subtract(a, b)))


def _names(colors: Sequence[Color]) -> str:
    return ", ".join(name_color(color) for color in colors)
