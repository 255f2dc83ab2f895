"""Turning a coded picture upright: the display matrix of a container, as phones write it."""

from dataclasses import dataclass
from typing import cast

import numpy as np
from av.sidedata.sidedata import Type
from av.video.frame import VideoFrame

from .frame import Picture


@dataclass(frozen=True)
class Orientation:
    """Swap rows and columns first, then mirror."""

    transpose: bool = False
    mirror_rows: bool = False
    """The top row becomes the bottom row."""
    mirror_columns: bool = False
    """The left column becomes the right column."""

    @property
    def rotation(self) -> int:
        """Degrees counter-clockwise, mirroring left out: 0, 90, 180 or 270."""
        if self.transpose:
            return 90 if self.mirror_rows else 270
        return 180 if self.mirror_rows and self.mirror_columns else 0

    def apply(self, picture: Picture) -> Picture:
        """(H, W, 3) uint8 upright and C-contiguous; (W, H, 3) where rows and columns are swapped."""
        import cv2

        if self.transpose:
            picture = cast(Picture, cv2.transpose(picture))
        if self.mirror_rows or self.mirror_columns:
            axis = -1 if self.mirror_rows and self.mirror_columns else int(self.mirror_columns)
            picture = cast(Picture, cv2.flip(picture, axis))
        return picture


def orientation_of(frame: VideoFrame) -> Orientation:
    """By the frame's display matrix, rounded to quarter turns: x' = a·x + c·y and y' = b·x + d·y, y downwards."""
    matrix = frame.side_data.get(Type.DISPLAYMATRIX)  # type: ignore[call-overload]
    if matrix is None:
        return Orientation()
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5]
    if abs(int(a)) >= abs(int(b)):
        return Orientation(mirror_rows=bool(d < 0), mirror_columns=bool(a < 0))
    return Orientation(transpose=True, mirror_rows=bool(b < 0), mirror_columns=bool(c < 0))
