"""Regions of the picture with a style of their own, by masks: `--region mask.png:painting.jpg`.

White is where the region's style paints, black where the look does, grey is a mix; several regions lie on one another
in the order they are named. After Gatys et al. 2017 (arXiv 1611.07865, section 4), who guide the optimisation by masks;
a feed-forward network paints the whole picture in each style, and the masks choose.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..training.decoding import READABLE
from .errors import SourceError
from .frame import Picture

_REGION = re.compile(rf"(?P<mask>.+?(?:{'|'.join(map(re.escape, sorted(READABLE)))})):(?P<style>.+)", re.IGNORECASE)
_SOFT = 1 / 300
"""Standard deviation of a region's border over the picture's long side: no seam, and no halo."""


@dataclass(frozen=True)
class RegionOption:
    """What a user asks for."""

    mask: Path
    style: str
    """An installed style, an artifact, a painting, or a mix of paintings."""

    @classmethod
    def parse(cls, text: str) -> "RegionOption":
        """`MASK:STYLE`, the mask being a picture file."""
        match = _REGION.fullmatch(text)
        if match is None:
            raise ValueError(f"region must be MASK:STYLE with a picture file as the mask, got {text!r}")
        return cls(Path(match["mask"]), match["style"])


@dataclass(eq=False)
class Region:
    """A mask and the engine's name that paints where it is white."""

    style: str
    mask: npt.NDArray[np.float32]
    """(H, W) in [0, 1], of any size; stretched over the picture."""
    _fitted: dict[tuple[int, int], npt.NDArray[np.float32]] = field(default_factory=dict)

    @classmethod
    def read(cls, option: RegionOption, style: str) -> "Region":
        """From the mask's file; what is transparent in it does not count, as black.

        Raises:
            SourceError: it cannot be read.
        """
        from .picture_files import read_picture

        if not option.mask.is_file():  # a named pipe would be waited for without end
            raise SourceError(f"mask must be a readable file, got {option.mask}")
        picture = read_picture(option.mask)
        mask = picture.data.mean(axis=2, dtype=np.float32) / np.float32(255)
        if picture.alpha is not None:
            mask *= picture.alpha / np.float32(255)
        return cls(style, mask)

    def compose(self, below: Picture, above: Picture) -> Picture:
        """(1 - mask) · below + mask · above, rounded; both (H, W, 3) uint8."""
        weight = self._weight(below.shape[0], below.shape[1])
        mixed = below + weight * (above.astype(np.float32) - below)
        return np.rint(mixed).astype(np.uint8)

    def _weight(self, height: int, width: int) -> npt.NDArray[np.float32]:
        import cv2

        if (height, width) not in self._fitted:
            shrinks = height < self.mask.shape[0]
            method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
            fitted = cv2.resize(self.mask, (width, height), interpolation=method)
            soft = cv2.GaussianBlur(fitted, (0, 0), max(0.5, _SOFT * max(height, width)))
            self._fitted = {(height, width): np.asarray(soft, np.float32)[..., np.newaxis]}
        return self._fitted[height, width]
