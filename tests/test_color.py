"""Colour conversion against the matrices of the standards, written out in numpy."""

from typing import get_args

import numpy as np
import pytest
from av.video.frame import VideoFrame

from impasto.realtime.color import H273_CODES, RgbReader, YuvWriter, tags_of
from impasto.realtime.frame import Matrix

WEIGHTS = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722), "bt2020": (0.2627, 0.0593)}


def smooth_picture() -> np.ndarray:
    y, x = np.mgrid[0:96, 0:128]
    return np.stack([2 * x, 255 * y // 96, 255 - x - y], -1).astype(np.uint8)


def to_yuv(rgb: np.ndarray, matrix: str, *, full: bool) -> np.ndarray:
    """(3, H, W) float: the definition in BT.601, BT.709 and BT.2020."""
    kr, kb = WEIGHTS[matrix]
    red, green, blue = np.moveaxis(rgb.astype(float), -1, 0)
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    chroma = (blue - luma) / (2 - 2 * kb), (red - luma) / (2 - 2 * kr)
    if full:
        return np.stack([luma, chroma[0] + 128, chroma[1] + 128])
    return np.stack([16 + luma * 219 / 255, 128 + chroma[0] * 224 / 255, 128 + chroma[1] * 224 / 255])


@pytest.mark.parametrize("matrix", get_args(Matrix))
def test_writing_follows_the_standard(matrix: Matrix) -> None:
    rgb = smooth_picture()
    planes = YuvWriter("yuv444p", matrix)(rgb).to_ndarray()
    np.testing.assert_allclose(planes, to_yuv(rgb, matrix, full=False), atol=1.0)


@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("matrix", get_args(Matrix))
@pytest.mark.parametrize("pixel_format", ["yuv444p", "yuv444p10le"])
def test_reading_follows_the_streams_own_tags(matrix: Matrix, full: bool, pixel_format: str) -> None:
    rgb = smooth_picture()
    yuv = to_yuv(rgb, matrix, full=full)
    frame = VideoFrame.from_ndarray(np.rint(yuv).clip(0, 255).astype(np.uint8), format="yuv444p")
    frame.colorspace, frame.color_range = H273_CODES[matrix], 2 if full else 1
    if pixel_format == "yuv444p10le":
        scale = 1023 / 255 if full else 4
        planes = np.rint(yuv * scale).clip(0, 1023).astype("<u2")
        frame = VideoFrame(rgb.shape[1], rgb.shape[0], pixel_format)
        for plane, values in zip(frame.planes, planes, strict=True):
            padded = np.zeros((rgb.shape[0], plane.line_size // 2), "<u2")
            padded[:, : rgb.shape[1]] = values
            plane.update(padded.tobytes())
        frame.colorspace, frame.color_range = H273_CODES[matrix], 2 if full else 1
    # The other matrix as the fallback: the frame's tag must win.
    read = RgbReader("bt601" if matrix != "bt601" else "bt709")(frame, *rgb.shape[:2])
    assert np.abs(read.astype(int) - rgb).max() <= 2


@pytest.mark.parametrize("matrix", ["bt601", "bt709"])
def test_there_and_back_through_420(matrix: Matrix) -> None:
    """Within 2/255 on a smooth picture: chroma at half size holds it."""
    rgb = smooth_picture()
    frame = YuvWriter("yuv420p", matrix)(rgb)
    frame.colorspace = H273_CODES[matrix]
    read = RgbReader(matrix)(frame, *rgb.shape[:2])
    assert np.abs(read.astype(int) - rgb)[2:-2, 2:-2].max() <= 2


def test_untagged_video_is_601_when_small_and_709_when_large() -> None:
    assert tags_of(VideoFrame(720, 576, "yuv420p")).matrix == "bt601"
    assert tags_of(VideoFrame(1280, 720, "yuv420p")).matrix == "bt709"
