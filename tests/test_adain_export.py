"""Networks for any painting, frozen: both artifacts of both kinds say what PyTorch says, or are not written."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="exporting needs impasto[train]")

from impasto.export import adain_to_onnx  # noqa: E402
from impasto.export.adain_to_onnx import (  # noqa: E402
    ArtifactPair,
    build_stylizer,
    encoder_path,
    export_any,
    is_for_any_painting,
    torch_reference,
)
from impasto.export.arbitrary import bake, style_size  # noqa: E402
from impasto.export.artifact import parse_model  # noqa: E402
from impasto.export.errors import ArtifactError  # noqa: E402
from impasto.export.parity import Candidate  # noqa: E402
from impasto.export.statistics import hold_statistics, layout_of  # noqa: E402
from impasto.realtime.engine_choice import load_engine, run_once  # noqa: E402
from impasto.realtime.engine_proof import proof_candidates  # noqa: E402
from impasto.training.adain_checkpoint import AdainCheckpoint, save_adain_checkpoint  # noqa: E402
from impasto.training.adain_networks import CompactConfig, CompactNetworks  # noqa: E402
from impasto.training.adain_reference import ReferenceNetworks  # noqa: E402
from impasto.training.loss_network import load_loss_network  # noqa: E402

from .conftest import exports_remembered  # noqa: E402

TINY = CompactConfig(width=4, blocks=1, encoder_width=4, hidden=8, padding="replicate")


def drawn(seed: int) -> np.ndarray:
    cells = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return cv2.resize(cells, (112, 80), interpolation=cv2.INTER_CUBIC)


@pytest.fixture(scope="module", autouse=True)
def one_export_per_network() -> Iterator[None]:
    with exports_remembered(adain_to_onnx):
        yield


@pytest.fixture(scope="module", params=["compact", "reference"])
def networks(request: pytest.FixtureRequest, tiny_loss_weights: Path) -> CompactNetworks | ReferenceNetworks:
    torch.manual_seed(0)
    if request.param == "reference":
        return ReferenceNetworks.of(load_loss_network(weights=tiny_loss_weights)).eval()
    compact = CompactNetworks(TINY).eval()
    with torch.no_grad():
        compact.encoder.to_style.weight.normal_(0, 0.3)
    return compact


@pytest.fixture(scope="module")
def checkpoint(networks: CompactNetworks | ReferenceNetworks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    kind = "reference" if isinstance(networks, ReferenceNetworks) else "compact"
    metadata = {"name": "any", "training": {"style_size": 80}, "step": 7, "losses": {"total": 1.0}}
    path = tmp_path_factory.mktemp("run") / "checkpoint.safetensors"
    save_adain_checkpoint(path, AdainCheckpoint(kind, networks.config.to_dict(), networks.state_dict(), metadata))
    return path


@pytest.fixture(scope="module")
def pair(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> ArtifactPair:
    path = tmp_path_factory.mktemp("export") / "mine.stylizer.onnx"
    candidates = [candidate for candidate in proof_candidates() if candidate.precision == "fp32"][:1]
    return export_any(checkpoint, path, photographs=[drawn(0), drawn(1)], candidates=candidates)


def test_both_artifacts_are_written_and_know_each_other(pair: ArtifactPair) -> None:
    assert pair.encoder.path == encoder_path(pair.stylizer.path)
    assert pair.encoder.path.name == "mine.style-encoder.onnx"
    assert [a.metadata.kind for a in (pair.stylizer, pair.encoder)] == ["arbitrary", "style-encoder"]
    assert pair.stylizer.metadata.training == pair.encoder.metadata.training
    assert pair.stylizer.metadata.training["step"] == 7
    assert pair.stylizer.metadata.parity[0].psnr_db > 50


@torch.inference_mode()
def test_engines_say_what_pytorch_says(pair: ArtifactPair, networks: CompactNetworks | ReferenceNetworks) -> None:
    photo, painting = drawn(2), drawn(3)
    vector = run_once(pair.encoder, {"frame": painting[np.newaxis]})["style"]
    wanted = networks.encoder(torch.from_numpy(painting.copy()).permute(2, 0, 1)[None].float())
    # Weights are stored as fp16: a relative error of 5e-4 each.
    np.testing.assert_allclose(vector, wanted.numpy(), atol=0.02 * float(wanted.abs().max()))
    engine = load_engine(pair.stylizer, device="cpu", precision="fp32")
    for share in (0.0, 0.5, 1.0):
        engine.inputs = {"style": (share * vector).astype(np.float32)}
        painted = engine(photo[np.newaxis])[0].astype(int)
        reference = torch_reference(networks, torch.from_numpy(share * vector))(photo)
        assert np.abs(painted - reference).max() <= 3
    engine.close()


def test_a_folded_graph_is_one_of_a_single_style(pair: ArtifactPair) -> None:
    model = parse_model(pair.stylizer)
    folded = bake(model, np.full(style_size(model), 0.1, np.float32))
    assert [value.name for value in folded.graph.input] == ["frame"]
    assert len(folded.graph.node) < len(model.graph.node)


def test_a_folded_graph_can_hold_its_statistics(networks: CompactNetworks | ReferenceNetworks) -> None:
    if isinstance(networks, ReferenceNetworks):
        pytest.skip("its upsampling is not folded")
    model = build_stylizer(networks)
    folded = bake(model, networks.stylizer.neutral_style().numpy())
    assert layout_of(folded).size == layout_of(model).size
    held = hold_statistics(folded)
    assert not [node for node in held.graph.node if node.op_type == "InstanceNormalization"]


def test_what_cannot_be_exported(checkpoint: Path, pair: ArtifactPair, tmp_path: Path) -> None:
    photographs = [drawn(0), drawn(1)]
    with pytest.raises(ArtifactError, match="must not exist yet"):
        export_any(checkpoint, pair.stylizer.path, photographs=photographs, candidates=[])
    with pytest.raises(ArtifactError, match="must be at least 2, got 1"):
        export_any(checkpoint, tmp_path / "a.onnx", photographs=photographs[:1], candidates=[])
    with pytest.raises(ArtifactError, match="must be a folder that exists"):
        export_any(checkpoint, tmp_path / "no" / "a.onnx", photographs=photographs, candidates=[])


def test_an_engine_that_paints_otherwise_stops_the_export(checkpoint: Path, tmp_path: Path) -> None:
    @contextmanager
    def liar(artifact: object):
        yield lambda picture: 255 - picture

    with pytest.raises(ArtifactError):
        export_any(
            checkpoint, tmp_path / "a.stylizer.onnx", photographs=[drawn(0), drawn(1)],
            candidates=[Candidate("liar", "fp32", liar)],
        )  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_checkpoints_are_told_apart(checkpoint: Path, tmp_path: Path) -> None:
    assert is_for_any_painting(checkpoint)
    for data in (b"", b"junk" * 100, checkpoint.read_bytes()[:40]):
        (tmp_path / "x.safetensors").write_bytes(data)
        assert not is_for_any_painting(tmp_path / "x.safetensors")
    assert not is_for_any_painting(tmp_path / "missing")
