"""The stylizer: any size, strength, colours kept."""

from fractions import Fraction

import numpy as np
import pytest

from impasto.realtime.engine import EngineInfo
from impasto.realtime.frame import Frame
from impasto.realtime.stylizer import Stylizer


class FakeEngine:
    """Inverts; refuses what is not a multiple of the stride, as a real engine would."""

    info = EngineInfo("fake", "CPU", "fp32")

    def __init__(self, stride: int = 4) -> None:
        self.stride = stride

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        assert frames.ndim == 4
        assert frames.shape[1] % self.stride == frames.shape[2] % self.stride == 0
        return 255 - frames

    def warmup(self, height: int, width: int) -> None: ...

    def close(self) -> None: ...


def a_frame(height: int, width: int) -> Frame:
    rng = np.random.default_rng(height * 1000 + width)
    return Frame(rng.integers(0, 256, (height, width, 3), np.uint8), Fraction(7, 25), Fraction(1, 25))


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (3, 2), (47, 63), (48, 64)])
@pytest.mark.parametrize("stride", [1, 4, 16])
def test_any_size_keeps_size_time_and_place(size: tuple[int, int], stride: int) -> None:
    frame = a_frame(*size)
    painted = Stylizer(FakeEngine(stride))(frame)
    np.testing.assert_array_equal(painted.data, 255 - frame.data)
    assert (painted.pts, painted.duration) == (frame.pts, frame.duration)
    assert painted.data.flags.c_contiguous


@pytest.mark.parametrize("strength", [0.0, 0.25, 0.5, 1.0])
def test_strength_is_a_linear_blend(strength: float) -> None:
    frame = a_frame(9, 7)
    painted = Stylizer(FakeEngine(), strength=strength)(frame).data
    expected = (1 - strength) * frame.data.astype(float) + strength * (255.0 - frame.data)
    assert np.abs(painted - expected).max() <= 0.5 + 1e-3


@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan")])
def test_strength_outside_its_range_is_refused(strength: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        Stylizer(FakeEngine(), strength=strength)


def test_kept_colors_have_the_paintings_luminance_and_the_frames_chroma() -> None:
    # Mid-range colours, so that nothing clips.
    rng = np.random.default_rng(0)
    frame = Frame(rng.integers(110, 146, (16, 16, 3)).astype(np.uint8), Fraction(0))
    painted = Stylizer(FakeEngine(), keep_colors=True)(frame).data.astype(float)
    weights = np.array([0.299, 0.587, 0.114])
    content = frame.data.astype(float)
    np.testing.assert_allclose(painted @ weights, (255 - content) @ weights, atol=1.5)
    chroma = content - (content @ weights)[..., None]
    np.testing.assert_allclose(painted - (painted @ weights)[..., None], chroma, atol=2.5)
