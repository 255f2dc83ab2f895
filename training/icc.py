"""Colours of other spaces brought to sRGB, which networks and losses take every picture for. Needs no torch.

Read are ICC profiles of a matrix and tone curves, those of cameras, phones and screens (Display P3, Adobe RGB,
ProPhoto), and grey ones. Those of lookup tables, which printers and scanners have, are not.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Curve = Callable[[Floats], Floats]
"""From values of a file, 0 to 1, to light, 0 to 1."""

_D50_OF_SRGB = np.array(
    [[0.4360747, 0.3850649, 0.1430804], [0.2225045, 0.7168786, 0.0606169], [0.0139322, 0.0971045, 0.7141733]]
)
"""Linear sRGB to CIE XYZ at the D50 white of profiles (ICC.1:2022, with the Bradford adaptation)."""
_PRIMARIES = {
    1: ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060)),  # BT.709 and sRGB
    9: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),  # BT.2020
    12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),  # Display P3
}
"""Chromaticities by number (ITU-T H.273), of white D65."""
_HDR = (16, 18)  # PQ and HLG, transfer characteristics of H.273
_COLUMNS = (b"rXYZ", b"gXYZ", b"bXYZ")
_CURVES = (b"rTRC", b"gTRC", b"bTRC")
_PARAMETERS = (1, 3, 4, 5, 7)  # of a curve that is a formula, by its kind
_LARGEST_TAG = 2**18  # a curve has 65,536 places at most
_STRIP = 2**16  # pixels converted at a time, as floats: they stay in the cache
_SAME = 1.0  # levels of 255: sRGB profiles differ by as much among themselves


@dataclass(frozen=True, eq=False)
class ColourSpace:
    """How values of a file become linear sRGB."""

    curves: tuple[Curve, ...]
    """One for each channel, or one for grey."""
    matrix: Floats | None
    """(3, 3), after the curves; None for grey."""

    @property
    def white(self) -> Floats:
        """Linear sRGB of a file's white."""
        light = np.stack([_light(curve, np.ones(())) for curve in self.curves])
        return light if self.matrix is None else self.matrix @ light

    @property
    def is_srgb(self) -> bool:
        """Whether no colour would change by more than rounding."""
        steps = np.linspace(0, 1, 9)
        if self.matrix is None:
            wanted, light = steps, _light(self.curves[0], steps)
        else:
            wanted = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(-1, 3)
            light = np.stack([_light(curve, wanted[:, n]) for n, curve in enumerate(self.curves)], -1) @ self.matrix.T
        return bool(np.abs(_encoded(light) - wanted).max() * 255 <= _SAME)


@lru_cache(16)
def space_of_profile(profile: bytes) -> ColourSpace | None:
    """The space of an ICC profile; None for sRGB.

    Raises:
        ValueError: it is damaged, or of a kind that is not read; says which.
    """
    kind = profile[16:20]
    if kind not in (b"RGB ", b"GRAY"):
        raise ValueError(f"its colour profile is not for RGB, but {kind.decode('ascii', 'replace').strip()!r}")
    try:
        tags = _tags(profile)
        if kind == b"GRAY":
            space = ColourSpace((_curve(tags[b"kTRC"]),), None)
        elif b"rXYZ" not in tags and b"A2B0" in tags:
            raise ValueError("its colour profile is one of lookup tables, which are not read")
        else:
            columns = [[value / 65536 for value in struct.unpack(">3i", tags[name][8:20])] for name in _COLUMNS]
            to_srgb = np.linalg.inv(_D50_OF_SRGB) @ np.array(columns).T
            space = ColourSpace(tuple(_curve(tags[name]) for name in _CURVES), to_srgb)
    except (KeyError, IndexError, ZeroDivisionError, struct.error) as exc:
        raise ValueError("its colour profile is damaged") from exc
    if space.white.min() < 0.5:
        raise ValueError("its colour profile is damaged: white would not be white")
    return None if space.is_srgb else space


@lru_cache(16)
def space_of_numbers(primaries: int, transfer: int) -> ColourSpace | None:
    """The space that two numbers of ITU-T H.273 name, as in PNG and AVIF; None for sRGB and what is not known.

    Raises:
        ValueError: its light is HDR's.
    """
    if transfer in _HDR:
        raise ValueError("it is an HDR picture")
    if primaries not in _PRIMARIES or primaries == 1:
        return None
    return ColourSpace((_decoded,) * 3, np.linalg.inv(_to_xyz(1)) @ _to_xyz(primaries))


def to_srgb(picture: npt.NDArray[Any], space: ColourSpace, full: int) -> npt.NDArray[np.uint8]:
    """(H, W) or (H, W, 3) uint8 or uint16 RGB, whose white is `full`, as uint8 sRGB of the same shape.

    Colours beyond sRGB are clipped, channel by channel, as colour management does between such profiles.
    """
    import cv2

    values = np.minimum(np.arange(np.iinfo(picture.dtype).max + 1) / full, 1)
    tables = [_light(curve, values).astype(np.float32) for curve in space.curves]
    if space.matrix is None:
        grey = _encoding()[np.rint(tables[0] * 65_535).astype(np.uint16)]
        return np.asarray(grey[picture], np.uint8)
    if picture.ndim == 2:
        picture = cv2.cvtColor(picture, cv2.COLOR_GRAY2RGB)
    matrix = space.matrix.astype(np.float32)
    result = np.empty(picture.shape, np.uint8)
    rows = max(1, _STRIP // picture.shape[1])
    for top in range(0, picture.shape[0], rows):
        strip = picture[top : top + rows]
        if strip.dtype == np.uint8:
            light = cv2.LUT(strip, np.stack(tables, -1)[np.newaxis])
        else:
            light = np.stack([table[strip[..., n]] for n, table in enumerate(tables)], -1)
        light = cv2.transform(light, matrix)
        rounded = cv2.addWeighted(light, 65_535, light, 0, 0, dtype=cv2.CV_16U)  # and clipped
        result[top : top + rows] = np.take(_encoding(), np.asarray(rounded, np.uint16))
    return result


def _tags(profile: bytes) -> dict[bytes, bytes]:
    count = min(struct.unpack(">I", profile[128:132])[0], 100)
    entries = (struct.unpack(">4sII", profile[at : at + 12]) for at in range(132, 132 + 12 * count, 12))
    return {name: profile[begin : begin + min(size, _LARGEST_TAG)] for name, begin, size in entries}


def _curve(tag: bytes) -> Curve:
    if tag.startswith(b"curv"):
        (count,) = struct.unpack(">I", tag[8:12])
        if count == 0:
            return lambda x: x
        numbers = struct.unpack(f">{count}H", tag[12 : 12 + 2 * count])
        if count == 1:
            return lambda x: x ** (numbers[0] / 256)
        places, table = np.linspace(0, 1, count), np.array(numbers) / 65535
        return lambda x: np.interp(x, places, table)
    if not tag.startswith(b"para"):
        raise KeyError(tag[:4])
    kind = struct.unpack(">H", tag[8:10])[0]
    count = _PARAMETERS[kind]
    read = [value / 65536 for value in struct.unpack(f">{count}i", tag[12 : 12 + 4 * count])]
    g, a, b, c, d, e, f = read + [1.0, 0.0, 0.0, 0.0, 0.0, 0.0][count - 1 :]
    if kind in (1, 2):  # flat below the place where the power begins
        c, d, e, f = 0.0, -b / a, c, c
    return lambda x: np.where(x >= d, np.maximum(a * x + b, 0) ** g + e, c * x + f)


def _to_xyz(primaries: int) -> Floats:
    columns = np.array([(x / y, 1, (1 - x - y) / y) for x, y in (*_PRIMARIES[primaries], (0.3127, 0.3290))]).T
    return np.asarray(columns[:, :3] * np.linalg.solve(columns[:, :3], columns[:, 3]), np.float64)


def _light(curve: Curve, values: Floats) -> Floats:
    with np.errstate(all="ignore"):  # a hostile curve
        return np.clip(np.nan_to_num(curve(values)), 0, 1)


def _decoded(values: Floats) -> Floats:
    return np.where(values > 0.04045, ((values + 0.055) / 1.055) ** 2.4, values / 12.92)


def _encoded(light: Floats) -> Floats:
    light = np.clip(light, 0, 1)
    return np.where(light > 0.0031308, 1.055 * light ** (1 / 2.4) - 0.055, 12.92 * light)


@cache
def _encoding() -> npt.NDArray[np.uint8]:
    """Levels of sRGB by light in 65,535ths, 1/20 of a level apart where they are closest."""
    return np.rint(_encoded(np.arange(65_536) / 65_535) * 255).astype(np.uint8)
