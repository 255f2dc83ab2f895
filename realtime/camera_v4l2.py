"""Linux cameras: names and modes, asked from the driver itself (V4L2 API, <linux/videodev2.h>)."""

import fcntl
import os
import re
import struct
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

from .camera import CameraInfo, CameraMode

VIDIOC_QUERYCAP = 0x80685600
VIDIOC_ENUM_FMT = 0xC0405602
VIDIOC_ENUM_FRAMESIZES = 0xC02C564A
VIDIOC_ENUM_FRAMEINTERVALS = 0xC034564B

CAPTURE = 1
"""V4L2_BUF_TYPE_VIDEO_CAPTURE and V4L2_CAP_VIDEO_CAPTURE."""
DISCRETE = 1
"""V4L2_FRMSIZE_TYPE_DISCRETE and V4L2_FRMIVAL_TYPE_DISCRETE."""
MOST_ENTRIES = 64
"""Bound on every list: a broken driver may answer for ever."""
COMMON_SIZES = ((320, 240), (640, 360), (640, 480), (960, 540), (1280, 720), (1920, 1080))
"""(width, height) offered where the driver says "anything between"."""


def list_cameras() -> list[CameraInfo]:
    """Every /dev/video node that captures, in order of its number."""
    nodes = sorted(_nodes(), key=lambda node: node[0])
    return [info for index, path in nodes if (info := _query(index, path)) is not None]


def _nodes() -> Iterator[tuple[int, str]]:
    for name in os.listdir("/dev"):
        if match := re.fullmatch(r"video(\d+)", name):
            yield int(match[1]), f"/dev/{name}"


def _query(index: int, path: str) -> CameraInfo | None:
    try:
        fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    except OSError as exc:
        return CameraInfo(index, _sysfs_name(path), path, note=os.strerror(exc.errno or 0).lower())
    try:
        # struct v4l2_capability: driver[16] card[32] bus_info[32] version capabilities device_caps reserved[3]
        answer = fcntl.ioctl(fd, VIDIOC_QUERYCAP, bytes(104))
        card, capabilities, device_caps = answer[16:48], *struct.unpack_from("<2I", answer, 84)
        has_device_caps = capabilities & 0x8000_0000
        if not (device_caps if has_device_caps else capabilities) & CAPTURE:
            return None
        return CameraInfo(index, _text(card), path, tuple(_modes(fd)))
    except OSError as exc:
        return CameraInfo(index, _sysfs_name(path), path, note=os.strerror(exc.errno or 0).lower())
    finally:
        os.close(fd)


def _sysfs_name(path: str) -> str:
    try:
        return Path("/sys/class/video4linux", Path(path).name, "name").read_text().strip()
    except OSError:
        return path


def _modes(fd: int) -> Iterator[CameraMode]:
    # struct v4l2_fmtdesc: index type flags description[32] pixelformat mbus_code reserved[3]
    for answer in _enumerate(fd, VIDIOC_ENUM_FMT, lambda i: struct.pack("<II", i, CAPTURE).ljust(64, b"\0")):
        fourcc = answer[44:48]
        for width, height in _sizes(fd, fourcc):
            if rate := _highest_rate(fd, fourcc, width, height):
                yield CameraMode(_text(fourcc), width, height, rate)


def _sizes(fd: int, fourcc: bytes) -> Iterator[tuple[int, int]]:
    # struct v4l2_frmsizeenum: index pixel_format type {width height | min max step…} reserved[2]
    def question(i: int) -> bytes:
        return (struct.pack("<I", i) + fourcc).ljust(44, b"\0")

    for answer in _enumerate(fd, VIDIOC_ENUM_FRAMESIZES, question):
        kind, a, b, _, c, d = struct.unpack_from("<6I", answer, 8)
        if kind == DISCRETE:
            yield a, b
        else:  # min_width max_width step min_height max_height step
            yield from ((w, h) for w, h in COMMON_SIZES if a <= w <= b and c <= h <= d)
            return


def _highest_rate(fd: int, fourcc: bytes, width: int, height: int) -> Fraction | None:
    # struct v4l2_frmivalenum: index pixel_format width height type {numerator denominator | min max step} reserved[2]
    def question(i: int) -> bytes:
        return (struct.pack("<I", i) + fourcc + struct.pack("<II", width, height)).ljust(52, b"\0")

    rates = []
    for answer in _enumerate(fd, VIDIOC_ENUM_FRAMEINTERVALS, question):
        kind, numerator, denominator = struct.unpack_from("<3I", answer, 16)
        if numerator:
            rates.append(Fraction(denominator, numerator))
        if kind != DISCRETE:
            break
    return max(rates, default=None)


def _enumerate(fd: int, request: int, question: Callable[[int], bytes]) -> Iterator[bytes]:
    for index in range(MOST_ENTRIES):
        try:
            yield fcntl.ioctl(fd, request, question(index))
        except OSError:
            return


def _text(raw: bytes) -> str:
    return raw.split(b"\0")[0].decode("utf-8", "replace").strip()
