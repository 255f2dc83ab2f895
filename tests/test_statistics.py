"""Statistics outside the network change nothing when they are the frame's own, and hold still when they are held."""

from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from impasto.export.artifact import Artifact, parse_model
from impasto.export.errors import ArtifactError
from impasto.export.graph import multiply_adds_per_pixel, receptive_margin
from impasto.export.statistics import (
    StatisticsLayout,
    layout_of,
    measure_statistics,
)
from impasto.realtime.engine import BACKENDS, Backend, EngineInfo, EngineOptions, Library
from impasto.realtime.engine_statistics import (
    StatisticsEngine,
    measure_tiled,
    open_statistics,
    paint_tiles,
    tiles_of,
)
from impasto.realtime.errors import EngineError


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """(H, W, 3) uint8: waves, different from place to place."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / 17.0
    waves = [np.sin(a * y + b * x + c) + x / (width / 17) for a, b, c in rng.uniform(0, 3, (3, 3))]
    return np.clip(90 + 80 * np.stack(waves, -1), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module", params=["openvino", "onnxruntime"])
def engine(request: pytest.FixtureRequest, small_artifact: Artifact) -> Iterator[StatisticsEngine]:
    backend = next(b for b in BACKENDS if (b.library, b.device) == (request.param, "cpu"))
    try:
        backend.precisions()
    except EngineError as exc:
        pytest.skip(str(exc))
    opened = StatisticsEngine(small_artifact, backend, EngineOptions(precision="fp32"))
    yield opened
    opened.close()


def largest_difference(one: np.ndarray, other: np.ndarray) -> int:
    return int(np.abs(one.astype(int) - other.astype(int)).max())


def test_measured_numbers_are_means_and_variances(small_artifact: Artifact) -> None:
    frame = picture(64, 96)[np.newaxis]
    model = parse_model(small_artifact)
    layout = layout_of(model)
    plain, moments = ReferenceEvaluator(measure_statistics(model)).run(None, {"frame": frame})
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    exposed.graph.output.extend(helper.make_tensor_value_info(name, 1, None) for name in ("a", "d"))
    wanted, *maps = ReferenceEvaluator(exposed).run(None, {"frame": frame})
    assert np.array_equal(plain, wanted)
    statistics = layout.statistics([(moments[0], 64 * 96)])
    for (_, mean, variance), values in zip(layout.split(statistics), maps, strict=True):
        np.testing.assert_allclose(mean, values.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(variance, values.var((0, 2, 3)), rtol=1e-3)


def test_a_frames_own_statistics_give_its_own_picture(engine: StatisticsEngine, small_artifact: Artifact) -> None:
    frame = picture(64, 96)[np.newaxis]
    (wanted,) = ReferenceEvaluator(parse_model(small_artifact)).run(None, {"frame": frame})
    painted, statistics = engine.measure(frame)
    assert largest_difference(painted, wanted) <= 1  # rounding at .5
    assert largest_difference(engine.paint(frame, statistics), wanted) <= 1


def test_parts_of_each_layer_pool_to_the_whole(engine: StatisticsEngine) -> None:
    """Windows are the whole frame here, so that every layer sees all of it whatever part is measured."""
    frame = picture(64, 96)[np.newaxis]
    _, whole = engine.measure(frame)
    affine = engine.layout.affine(whole)
    for index, (layer, mean, variance) in enumerate(engine.layout.split(whole)):
        with engine.measuring(index, frame.shape) as measure:
            parts = [(measure(frame, affine, inset), 32 * 96) for inset in ((0, 0, 32, 0), (32, 0, 0, 0))]
        pooled = StatisticsLayout((layer,)).statistics(parts)
        np.testing.assert_allclose(pooled, [*mean, *variance], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("size", [(200, 260), (64, 300), (90, 64)], ids=str)
def test_tiles_have_no_seams(engine: StatisticsEngine, size: tuple[int, int]) -> None:
    frame = picture(*size)
    wanted, own = engine.measure(frame[np.newaxis])
    statistics = measure_tiled(engine, frame, tile=96)
    painted = paint_tiles(engine, frame, engine.layout.affine(statistics), tile=96)
    assert largest_difference(painted, wanted[0]) <= 1
    np.testing.assert_allclose(statistics, own, rtol=0.02, atol=0.02)


def test_tiles_cover_a_frame_once_with_margins() -> None:
    for height, width, tile in ((96, 96, 96), (100, 400, 96), (1080, 1920, 512), (2160, 3840, 1024)):
        count = np.zeros((height, width), int)
        shapes = set()
        for part in tiles_of(height, width, tile=tile, margin=16, stride=4):
            count[part.inner] += 1
            rows, columns = part.window
            shapes.add((rows.stop - rows.start, columns.stop - columns.start))
            edges = (rows.start == 0, columns.start == 0, rows.stop == height, columns.stop == width)
            assert all(inset >= 16 or edge for inset, edge in zip(part.inset, edges, strict=True))
            assert all(inset % 4 == 0 for inset in part.inset)
        assert (count == 1).all()
        assert len(shapes) == 1, "one size compiles once"
    with pytest.raises(ValueError, match="tile must be at least 36"):
        list(tiles_of(100, 100, tile=32, margin=16, stride=4))


def test_the_margin_is_the_sum_of_the_radii(small_artifact: Artifact) -> None:
    assert receptive_margin(parse_model(small_artifact)) == 1 + 2 + 4  # 3x3 at full size, 3x3 at half, 4x4 from half


def test_operations_are_counted_per_pixel_of_the_frame(small_artifact: Artifact) -> None:
    wanted = 3 * 8 * 9 / 4 + 8 * 8 * 9 / 4 + 8 * 3 * 16 / 4
    assert multiply_adds_per_pixel(parse_model(small_artifact)) == wanted


def test_networks_without_normalisation_say_so(identity_artifact: Artifact) -> None:
    with pytest.raises(ArtifactError, match="must have instance normalisations"):
        layout_of(parse_model(identity_artifact))


@pytest.mark.parametrize(
    ("library", "device", "index"),
    [("onnxruntime", "CUDA:0", 0), ("onnxruntime", "CUDA:1", 1), ("openvino", "GPU", 0), ("openvino", "GPU.1", 1)],
)
def test_statistics_come_from_the_card_that_paints(
    small_artifact: Artifact, monkeypatch: pytest.MonkeyPatch, library: Library, device: str, index: int
) -> None:
    asked: list[EngineOptions] = []

    def open_runner(self: Backend, artifact: Artifact, graph: bytes, options: EngineOptions) -> SimpleNamespace:
        asked.append(options)
        name = device if options.index == index else "another"
        return SimpleNamespace(info=EngineInfo(self.library, name, "fp32"), close=lambda: None)

    monkeypatch.setattr(Backend, "open_runner", open_runner)
    info = EngineInfo(library, device, "fp16")
    assert open_statistics(small_artifact, info).info.device == device
    assert [(options.index, options.precision) for options in asked] == [(index, "fp16")]
