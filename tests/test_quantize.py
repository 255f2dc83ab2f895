"""int8: an artifact of its own, kept only where it is near enough and faster."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from impasto.export import quantize as quantize_module
from impasto.export.artifact import Artifact, load_artifact, parse_model, quantized_path
from impasto.export.errors import ArtifactError
from impasto.export.parity import Candidate, Paint, Picture, compare
from impasto.export.quantize import quantize
from impasto.realtime import cluster
from impasto.realtime.engine_choice import load_engine
from impasto.realtime.engine_proof import proof_candidates
from impasto.realtime.errors import EngineError

if not find_spec("nncf"):  # not imported here: quantising sets its environment first
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
    return lambda ratio: monkeypatch.setattr(quantize_module, "_time_ratios", lambda *_: [ratio, 0.9 * ratio])


@pytest.fixture(autouse=True)
def reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """The miniature is no network of ours, so PyTorch cannot rebuild it: ONNX's own evaluator stands in."""

    def paints(artifact: Artifact) -> Paint:
        evaluator = ReferenceEvaluator(parse_model(artifact))
        return lambda picture: evaluator.run(None, {"frame": picture[np.newaxis]})[0][0]

    monkeypatch.setattr(quantize_module, "pytorch_reference", paints)


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
    assert "int8 is kept: 1.43 times as fast" in lines[-1]

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
        def opened(given: Artifact, in_flight: int = 1) -> Iterator[Paint]:
            with candidate.open(given) as paint:
                if given.metadata.precision == "int8":
                    yield lambda picture: paint(picture) ^ 15
                else:
                    yield paint

        return Candidate(candidate.name, candidate.precision, opened)

    with pytest.raises(ArtifactError, match="in int8 must be within 30 dB"):
        quantize(artifact, calibration=waves(4), photographs=waves(2), candidates=[spoilt(one) for one in candidates])
    assert not quantized_path(artifact.path).exists()


def test_speed_is_measured_with_one_frame_and_with_several(artifact: Artifact, candidates: list[Candidate]) -> None:
    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantize_module, "TIMED_SIZE", (64, 96))
        patch.setattr(quantize_module, "TIMED_ROUNDS", 2)
        ratios = quantize_module._time_ratios(artifact, artifact, candidates, lines.append)
    assert len(ratios) == 2
    assert all(ratio > 0 for ratio in ratios)
    assert "one frame at a time: int8 " in lines[0]
    assert "4 in flight: int8 " in lines[1]


def test_quantising_leaves_other_peoples_log_handlers_alone(
    artifact: Artifact, candidates: list[Candidate], as_fast_as: Callable[[float], None]
) -> None:
    """A test runner hangs its handler on NNCF's logger too: its level must stay, or later tests see no warnings."""
    as_fast_as(0.7)
    handler = logging.NullHandler(logging.DEBUG)
    logger = logging.getLogger("nncf")
    logger.addHandler(handler)
    try:
        quantize(artifact, calibration=waves(2), photographs=waves(1), candidates=candidates)
    finally:
        logger.removeHandler(handler)
    assert handler.level == logging.DEBUG


def test_what_cannot_be_quantised_is_said(artifact: Artifact, candidates: list[Candidate]) -> None:
    with pytest.raises(ArtifactError, match="photographs must be there"):
        quantize(artifact, calibration=[], photographs=waves(1), candidates=candidates)
    int8 = replace(artifact, metadata=replace(artifact.metadata, precision="int8"))
    with pytest.raises(ArtifactError, match="one style in float"):
        quantize(int8, calibration=waves(1), photographs=waves(1), candidates=candidates)
    with pytest.raises(ArtifactError, match=r"must end in \.onnx"):
        quantize(
            artifact,
            artifact.path.with_suffix(".txt"),
            calibration=waves(1),
            photographs=waves(1),
            candidates=candidates,
        )
    (artifact.path.parent / "taken.onnx").write_text("mine")
    with pytest.raises(ArtifactError, match="--overwrite"):
        quantize(
            artifact,
            artifact.path.parent / "taken.onnx",
            calibration=waves(1),
            photographs=waves(1),
            candidates=candidates,
        )


def test_the_gate_is_pytorch_itself(make_artifact: Callable[..., Artifact]) -> None:
    """A real network: rebuilt from the artifact, or as it was trained."""
    torch = pytest.importorskip("torch", reason="PyTorch is the reference")
    pytest.importorskip("onnxscript", reason="exporting needs impasto[train]")
    from impasto.export.to_onnx import build_graph, torch_reference
    from impasto.export.to_torch import rebuild_network
    from impasto.training.checkpoint import Checkpoint, save_checkpoint
    from impasto.training.networks import NetworkConfig, build_network

    torch.manual_seed(0)
    network = build_network(NetworkConfig("fast", width=4, blocks=1)).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    artifact = make_artifact(build_graph(network), stride=4, training={"network": network.config.to_dict()})
    checkpoint = artifact.path.with_suffix(".safetensors")
    save_checkpoint(checkpoint, Checkpoint(network.config, network.state_dict()))
    picture = np.ascontiguousarray(waves(1)[0][:64, :96])
    trained = quantize_module.checkpoint_reference(checkpoint)(picture)
    rebuilt = torch_reference(rebuild_network(artifact))(picture)
    assert compare([(trained, rebuilt)], precision="fp32", engine="").psnr_db > 50


@pytest.mark.parametrize("damaged", [False, True])
def test_an_int8_version_of_another_style_is_left_alone(
    make_artifact: Callable[..., Artifact],
    small_model: onnx.ModelProto,
    artifact: Artifact,
    damaged: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    other = make_artifact(small_model, name="small", stride=2, precision="int8", training={"steps": 1})
    quantized_path(artifact.path).write_bytes(other.read()[: -5 if damaged else None])
    with pytest.raises(ArtifactError, match="must be undamaged|sum is missing" if damaged else "got another style"):
        load_engine(artifact.path, precision="int8")
    engine = load_engine(artifact.path)
    assert engine.info.precision != "int8"
    assert "int8 is not tried" in caplog.text
    engine.close()


def test_int8_travels_to_other_machines(
    artifact: Artifact, candidates: list[Candidate], as_fast_as: Callable[[float], None]
) -> None:
    """A cluster's workers get one file for a style, and nothing that lies beside it."""
    as_fast_as(0.7)
    written = quantize(artifact, calibration=waves(2), photographs=waves(1), candidates=candidates)
    assert cluster._version(artifact, "int8").sha256 == written.sha256
    assert cluster._version(artifact, "bf16") is artifact
    assert cluster._version(written, "int8") is written


def test_int8_that_was_never_made(artifact: Artifact) -> None:
    with pytest.raises(EngineError, match="impasto export int8"):
        load_engine(artifact.path, precision="int8")
