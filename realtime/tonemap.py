"""HDR to SDR: PQ or HLG in BT.2020 to BT.709, through a 3D table that FFmpeg applies.

ITU-R BT.2100 (transfer functions), BT.2390-10 section 5.4.1 (the roll-off towards the target's peak, here applied
to the largest of R, G and B so that hues stay), BT.2087 (primaries). swscale can do this by itself since FFmpeg 8,
but clips everything above 203 cd/m² and stripes colours outside BT.709.
"""

import tempfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt
from av.filter import Graph
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

Values = npt.NDArray[np.float64]

PQ, HLG = 16, 18
"""Transfer codes of ISO/IEC 23091-2."""

SOURCE_PEAK = 1000.0
"""cd/m²: what nearly all HDR10 is mastered at, and HLG's nominal display."""
TARGET_PEAK = 203.0
"""cd/m²: diffuse white of HDR by BT.2408, which becomes SDR's white after the roll-off."""
TABLE_SIZE = 65
BT2020_TO_BT709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float64
)
LUMA_2020 = np.array([0.2627, 0.6780, 0.0593])
LUMA_709 = np.array([0.2126, 0.7152, 0.0722])


class ToneMapper:
    """Decoded HDR frames to SDR RGB frames (rgb24, BT.709); their times are not carried over."""

    def __init__(self, transfer: int) -> None:
        self._transfer = transfer
        self._reformatter = VideoReformatter()
        self._graph: Graph | None = None
        self._size = (0, 0)

    def __call__(self, frame: VideoFrame) -> VideoFrame:
        rgb = self._reformatter.reformat(
            frame,
            format="gbrp12le",
            src_colorspace=Colorspace.BT2020,
            src_color_range=ColorRange.MPEG if frame.color_range != ColorRange.JPEG else ColorRange.JPEG,
            dst_color_range=ColorRange.JPEG,
        )
        if self._graph is None or self._size != (rgb.width, rgb.height):
            self._graph, self._size = self._build(rgb), (rgb.width, rgb.height)
        self._graph.vpush(rgb)
        mapped = self._graph.vpull()
        return mapped

    def _build(self, frame: VideoFrame) -> Graph:
        graph = Graph()
        # Times do not pass through here: the filter answers at once, and its caller kept the frame.
        tick = frame.time_base or Fraction(1, 1000)
        source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=tick)
        with tempfile.TemporaryDirectory(prefix="impasto-") as folder:
            path = Path(folder) / "sdr.cube"
            write_cube(path, sdr_table(self._transfer))
            table = graph.add("lut3d", file=str(path), interp="tetrahedral")
            last = graph.add("format", "rgb24")
            sink = graph.add("buffersink")
            graph.link_nodes(source, table, last, sink)
            graph.configure(auto_buffer=False)
        return graph


def sdr_table(transfer: int, size: int = TABLE_SIZE) -> Values:
    """(size, size, size, 3) float in 0…1, indexed [red, green, blue] by HDR signal values 0…1."""
    axis = np.linspace(0.0, 1.0, size)
    signal = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1)
    return to_sdr(signal, transfer)


def to_sdr(signal: Values, transfer: int) -> Values:
    """HDR signal (…, 3) in 0…1, BT.2020, to SDR signal in 0…1, BT.709, for a display of gamma 2.4 (BT.1886)."""
    light = pq_to_light(signal) if transfer == PQ else hlg_to_light(signal)
    peak = light.max(-1, keepdims=True)
    rolled = pq_to_light(roll_off(light_to_pq(peak)))
    light = light * np.where(peak > 0, rolled / np.maximum(peak, 1e-9), 0.0) / TARGET_PEAK
    return np.asarray(into_gamut(light @ BT2020_TO_BT709.T) ** (1 / 2.4))


def pq_to_light(signal: Values) -> Values:
    """cd/m² of a PQ signal in 0…1 (BT.2100, table 4)."""
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    power = np.maximum(signal, 0.0) ** (1 / m2)
    return np.asarray(10_000.0 * (np.maximum(power - c1, 0.0) / (c2 - c3 * power)) ** (1 / m1))


def light_to_pq(light: Values) -> Values:
    """The inverse of `pq_to_light`."""
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    power = (np.maximum(light, 0.0) / 10_000.0) ** m1
    return np.asarray(((c1 + c2 * power) / (1 + c3 * power)) ** m2)


def hlg_to_light(signal: Values) -> Values:
    """cd/m² on a display of 1000 cd/m², system gamma 1.2 (BT.2100, table 5)."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    luma = (scene @ LUMA_2020)[..., None]
    return np.asarray(SOURCE_PEAK * np.maximum(luma, 1e-9) ** 0.2 * scene)


def roll_off(signal: Values) -> Values:
    """BT.2390's EETF: PQ signals up to a knee stay, those above bend towards the target's peak."""
    source = float(light_to_pq(np.array(SOURCE_PEAK)))
    target = float(light_to_pq(np.array(TARGET_PEAK))) / source
    knee = 1.5 * target - 0.5
    e = np.clip(signal / source, 0.0, 1.0)
    t = (e - knee) / (1 - knee)
    spline = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (-2 * t**3 + 3 * t**2) * target
    return np.asarray(np.where(e < knee, e, spline) * source)


def into_gamut(light: Values) -> Values:
    """Colours outside BT.709 pulled towards their own grey just far enough that no channel leaves 0…1."""
    grey = np.clip(light @ LUMA_709, 0.0, 1.0)[..., None]
    offset = light - grey
    low = np.where(offset < 0, grey / np.maximum(-offset, 1e-12), np.inf)
    high = np.where(offset > 0, (1 - grey) / np.maximum(offset, 1e-12), np.inf)
    scale = np.minimum(np.minimum(low, high).min(-1, keepdims=True), 1.0)
    return np.asarray(np.clip(grey + offset * scale, 0.0, 1.0))


def write_cube(path: Path, table: Values) -> None:
    """Adobe's .cube text: red runs fastest."""
    size = table.shape[0]
    rows = table.transpose(2, 1, 0, 3).reshape(-1, 3)
    lines = [f"LUT_3D_SIZE {size}", *(f"{r:.6f} {g:.6f} {b:.6f}" for r, g, b in rows)]
    path.write_text("\n".join(lines) + "\n")
