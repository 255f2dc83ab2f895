"""int8: an artifact of its own, kept only where it is near enough and faster."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest

from impasto.export import quantize as quantize_module
from impasto.export.artifact import Artifact, load_artifact, parse_model, quantized_path
from impasto.export.errors import ArtifactError
from impasto.export.parity import Candidate, Paint, Picture
from impasto.export.quantize import quantize
from impasto.realtime.engine import load_engine, proof_candidates
from impasto.realtime.errors import EngineError

if not find_spec("nncf"):  # not imported here: it would make the loggers of all later tests its own
    pytest.skip("int8 needs nncf: pip install 'impasto[quantize]'", allow_module_level=True)
pytest.importorskip("onnxruntime", reason="NNCF calibrates with ONNX Runtime")


def waves(count: int) -> list[Picture]:
    rng = np.random.default_rng(count)
    y, x = np.mgrid[0:66, 0:98] / 17.0
    return [
        np.rint(127 + 127 * np.stack([np.sin(a * y + b * x + c) for a, b, c in rng.uniform(0, 3, (3, 3))], -1)).astype(
            np.uint8
        )
        for _ in range(count)
    ]


@pytest.fixture
def artifact(make_artifact: Callable[..., Artifact], small_model: onnx.ModelProto) -> Artifact:
    return make_artifact(small_model, name="small", stride=2)


@pytest.fixture
def candidates() -> list[Candidate]:
    on_processors = [candidate for candidate in proof_candidates() if candidate.name.endswith(" cpu")]
    return [candidate for candidate in on_processors if candidate.name == on_processors[0].name]


@pytest.fixture
def as_fast_as(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Timing a network in miniature says nothing: the ratio is given."""
    return lambda ratio: monkeypatch.setattr(quantize_module, "_time_ratio", lambda *_: ratio)


def test_the_int8_version_lies_beside_and_is_found(
    artifact: Artifact, candidates: list[Candidate], as_fast_as: Callable[[float], None]
) -> None:
    as_fast_as(0.7)
    lines: list[str] = []
    written = quantize(
        artifact, calibration=waves(8), photographs=waves(3), candidates=candidates, on_progress=lines.append
    )
    assert written.path == quantized_path(artifact.path)
    found = load_artifact(written.path)
    assert found.metadata.precision == "int8"
    assert found.metadata.name == artifact.metadata.name
    (parity,) = found.metadata.parity
    assert parity.precision == "int8"
    assert parity.psnr_db >= 30
    assert len(lines) == 3

    engine = load_engine(artifact.path, device="cpu", precision="int8")
    assert engine.info.precision == "int8"
    engine.close()
    chosen: list[str] = []
    load_engine(artifact.path, on_choice=chosen.append).close()
    assert "int8" in chosen[0], "auto tries it too"
    with pytest.raises(EngineError, match="precision must be int8"):
        load_engine(written.path, precision="fp32")


def test_the_first_and_last_convolutions_stay(
    artifact: Artifact, candidates: list[Candidate], as_fast_as: Callable[[float], None]
) -> None:
    as_fast_as(0.7)
    written = quantize(artifact, calibration=waves(4), photographs=waves(2), candidates=candidates)
    model = parse_model(written)
    from_int8 = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    convolutions = [node for node in model.graph.node if node.op_type in ("Conv", "ConvTranspose")]
    assert [bool(set(node.input) & from_int8) for node in convolutions] == [False, True, False]


def test_no_file_where_int8_is_not_faster(
    artifact: Artifact, candidates: list[Candidate], as_fast_as: Callable[[float], None]
) -> None:
    as_fast_as(1.02)
    with pytest.raises(ArtifactError, match=r"must be faster to be worth a file, but takes 1\.02"):
        quantize(artifact, calibration=waves(4), photographs=waves(2), candidates=candidates)
    assert not quantized_path(artifact.path).exists()


def test_no_file_below_the_floor(
    artifact: Artifact, candidates: list[Candidate], as_fast_as: Callable[[float], None]
) -> None:
    as_fast_as(0.5)

    def spoilt(candidate: Candidate) -> Candidate:
        @contextmanager
        def opened(given: Artifact) -> Iterator[Paint]:
            with candidate.open(given) as paint:
                if given.metadata.precision == "int8":
                    yield lambda picture: paint(picture) ^ 15
                else:
                    yield paint

        return Candidate(candidate.name, candidate.precision, opened)

    with pytest.raises(ArtifactError, match="in int8 must be within 30 dB"):
        quantize(artifact, calibration=waves(4), photographs=waves(2), candidates=[spoilt(one) for one in candidates])
    assert not quantized_path(artifact.path).exists()


def test_an_int8_version_of_another_style_is_refused(
    make_artifact: Callable[..., Artifact], small_model: onnx.ModelProto, artifact: Artifact
) -> None:
    other = make_artifact(small_model, name="small", stride=2, precision="int8", training={"steps": 1})
    Path(quantized_path(artifact.path)).write_bytes(other.read())
    with pytest.raises(ArtifactError, match="got another style"):
        load_engine(artifact.path)


def test_int8_that_was_never_made(artifact: Artifact) -> None:
    with pytest.raises(EngineError, match="impasto export int8"):
        load_engine(artifact.path, precision="int8")
