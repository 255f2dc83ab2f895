"""Between YUV and RGB: every stream by its own matrix and range, through swscale, on several threads.

Codes are those of ISO/IEC 23091-2 (H.273), which FFmpeg's enums share.
"""

from typing import get_args

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

from .frame import ColorTags, Matrix, Picture

SWSCALE_CODES: dict[Matrix, int] = {
    "bt601": Colorspace.ITU601,
    "bt709": Colorspace.ITU709,
    "bt2020": Colorspace.BT2020,
}
H273_CODES: dict[Matrix, int] = {"bt601": 6, "bt709": 1, "bt2020": 9}
MATRIX_OF_CODE: dict[int, Matrix] = {1: "bt709", 5: "bt601", 6: "bt601", 9: "bt2020", 10: "bt2020"}

# Without the two FULL_CHR flags swscale's fast paths are up to 5/255 off; with them 2/255 (tests/test_color.py).
ACCURATE = (
    Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
)

SINGLE_THREAD_PIXELS = 1920 * 1088
"""Up to this size one thread is enough (6 ms at 1080p, 3 at 720p), and more only take the processor from the style."""
MANY_THREADS = 4

SD_HEIGHT = 576
"""Untagged video up to this height is BT.601, above it BT.709: what players assume."""


class RgbReader:
    """Decoded frames to RGB pictures, at one size."""

    def __init__(self, matrix: Matrix) -> None:
        self._matrix = matrix
        self._reformatter = VideoReformatter()

    def __call__(self, frame: VideoFrame, height: int, width: int) -> Picture:
        """(height, width, 3) uint8 RGB, full range; scaled only if the frame's size changed midway."""
        rgb = self._reformatter.reformat(
            frame,
            width=width,
            height=height,
            format="rgb24",
            src_colorspace=SWSCALE_CODES[MATRIX_OF_CODE.get(frame.colorspace, self._matrix)],
            src_color_range=_range_of(frame),
            dst_color_range=ColorRange.JPEG,
            interpolation=ACCURATE,
            threads=_threads(height, width),
        )
        return np.ascontiguousarray(rgb.to_ndarray())


class YuvWriter:
    """RGB pictures to frames for an encoder."""

    def __init__(self, pixel_format: str, matrix: Matrix) -> None:
        if matrix not in get_args(Matrix):
            raise ValueError(f"matrix must be one of {get_args(Matrix)}, got {matrix!r}")
        self._format = pixel_format
        self._matrix = matrix
        self._reformatter = VideoReformatter()

    def __call__(self, picture: Picture) -> VideoFrame:
        """From (H, W, 3) uint8 RGB; limited range unless the format is RGB."""
        frame = VideoFrame.from_numpy_buffer(picture)
        if self._format == "rgb24":
            return frame
        return self._reformatter.reformat(
            frame,
            format=self._format,
            src_color_range=ColorRange.JPEG,
            dst_colorspace=SWSCALE_CODES[self._matrix],
            dst_color_range=ColorRange.MPEG,
            interpolation=ACCURATE,
            threads=_threads(*picture.shape[:2]),
        )


def tags_of(frame: VideoFrame) -> ColorTags:
    """The tags that a picture's RGB values deserve, guessed as players do where the stream is silent."""
    guess: Matrix = "bt601" if frame.height <= SD_HEIGHT else "bt709"
    matrix = MATRIX_OF_CODE.get(frame.colorspace, guess)
    unspecified = (0, 2, 3)
    default = 6 if matrix == "bt601" else 1
    return ColorTags(
        matrix=matrix,
        primaries=default if frame.color_primaries in unspecified else frame.color_primaries,
        transfer=default if frame.color_trc in unspecified else frame.color_trc,
    )


def _range_of(frame: VideoFrame) -> ColorRange:
    if frame.format.is_rgb or frame.format.name.startswith("yuvj") or frame.color_range == ColorRange.JPEG:
        return ColorRange.JPEG
    return ColorRange.MPEG


def _threads(height: int, width: int) -> int:
    return 1 if height * width <= SINGLE_THREAD_PIXELS else MANY_THREADS
