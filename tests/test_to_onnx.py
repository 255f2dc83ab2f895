"""Export: the artifact paints what PyTorch paints, or is not written."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator
from typer.testing import CliRunner

from impasto.export.artifact import Artifact, load_artifact, parse_model
from impasto.export.cli import Host, export_app
from impasto.export.errors import ArtifactError
from impasto.export.half import to_half
from impasto.export.parity import Candidate, Paint, Picture, check_floor, compare
from impasto.export.pictures import load_photographs
from impasto.export.to_tensorrt import Machine

torch = pytest.importorskip("torch", reason="exporting needs impasto[train]")

from impasto.export import to_onnx  # noqa: E402
from impasto.export.to_onnx import build_graph, export_onnx, torch_reference  # noqa: E402
from impasto.realtime.engine_choice import load_engine  # noqa: E402
from impasto.realtime.engine_proof import proof_candidates  # noqa: E402
from impasto.training.checkpoint import Checkpoint, save_checkpoint  # noqa: E402
from impasto.training.networks import NetworkConfig, build_network, for_export  # noqa: E402

from .conftest import exports_remembered  # noqa: E402

SMALL = {"fast": NetworkConfig("fast", width=4, blocks=1), "quality": NetworkConfig("johnson", width=4, blocks=1)}


@pytest.fixture(scope="module", autouse=True)
def one_export_per_network() -> Iterator[None]:
    with exports_remembered(to_onnx):
        yield


@pytest.fixture(scope="module")
def photographs() -> list[Picture]:
    """Two pictures of soft shapes; (H, W, 3) uint8, sides no multiples of 4."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:99, 0:130] / 20.0
    waves = [np.sin(a * y + b * x + c) for a, b, c in rng.uniform(0, 3, (6, 3))]
    pictures = [np.stack(waves[:3], -1), np.stack(waves[3:], -1)]
    return [np.rint(127.5 + 127.5 * picture).astype(np.uint8) for picture in pictures]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    network = build_network(SMALL["fast"])
    path = tmp_path / "style.safetensors"
    known = {
        "name": "mosaic",
        "tier": "fast",
        "style": {"title": "Jean Metzinger", "artist": "Robert Delaunay", "year": 1906, "licence": "public domain"},
        "step": 7,
        "losses": {"style": 1.5},
        "training": {"seed": 3},
    }
    save_checkpoint(path, Checkpoint(network.config, network.state_dict(), known))
    return path


def wrong(artifact: Artifact) -> object:
    """An engine whose pictures are off by 9/255 everywhere: 29 dB."""

    @contextmanager
    def opened() -> Iterator[Paint]:
        engine = load_engine(artifact, device="cpu", precision="fp32")
        yield lambda picture: (engine(picture[np.newaxis])[0] ^ 9).astype(np.uint8)

    return opened()


def test_the_artifact_says_what_it_is_and_how_well_it_paints(
    checkpoint: Path, tmp_path: Path, photographs: list[Picture]
) -> None:
    lines: list[str] = []
    artifact = export_onnx(
        checkpoint,
        tmp_path / "mosaic.fast.onnx",
        photographs=photographs,
        candidates=proof_candidates(),
        on_progress=lines.append,
    )
    found = load_artifact(artifact.path).metadata
    assert (found.name, found.stride, found.style.artist, found.style.year) == ("mosaic", 4, "Robert Delaunay", "1906")
    assert found.training["seed"] == 3
    assert found.training["step"] == 7
    assert found.losses == {"style": 1.5}
    assert found.code_version
    assert {parity.precision for parity in found.parity} >= {"fp32"}
    assert all(parity.pictures == 2 for parity in found.parity)
    assert min(parity.psnr_db for parity in found.parity if parity.precision == "fp32") >= 50
    assert len(lines) == 1 + len(found.parity)


def test_nothing_is_written_below_the_floor(checkpoint: Path, tmp_path: Path, photographs: list[Picture]) -> None:
    target = tmp_path / "out" / "mosaic.fast.onnx"
    target.parent.mkdir()
    with pytest.raises(ArtifactError, match="must be within 50 dB of PyTorch"):
        export_onnx(checkpoint, target, photographs=photographs, candidates=[Candidate("broken", "fp32", wrong)])
    assert list(target.parent.iterdir()) == []


def test_no_proof_no_artifact(checkpoint: Path, tmp_path: Path, photographs: list[Picture]) -> None:
    with pytest.raises(ArtifactError, match="an engine for the parity check"):
        export_onnx(checkpoint, tmp_path / "a.onnx", photographs=photographs, candidates=[])
    with pytest.raises(ArtifactError, match="photographs for the parity check"):
        export_onnx(checkpoint, tmp_path / "a.onnx", photographs=[], candidates=proof_candidates())
    assert not (tmp_path / "a.onnx").exists()


def test_a_name_that_no_command_would_take_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"must end in \.onnx, got .*a\.txt"):
        export_onnx(checkpoint, tmp_path / "a.txt", photographs=[], candidates=proof_candidates())


def test_a_missing_package_names_its_extra(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Path, tmp_path: Path, photographs: list[Picture]
) -> None:
    monkeypatch.setattr(to_onnx, "find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(ArtifactError, match=r"onnxscript must be installed .* pip install 'impasto\[train\]'"):
        export_onnx(checkpoint, tmp_path / "a.onnx", photographs=photographs, candidates=[])


@pytest.mark.parametrize(("architecture", "half"), [("fast", True), ("quality", False)])
def test_dynamic_sizes_and_batches(
    architecture: str, half: bool, make_artifact: Callable[..., Artifact], photographs: list[Picture]
) -> None:
    torch.manual_seed(0)
    network = build_network(SMALL[architecture]).eval()
    artifact = make_artifact(build_graph(network, half_weights=half), stride=4)
    reference = torch_reference(network)
    engine = load_engine(artifact, device="cpu", precision="fp32")
    for height, width in ((64, 64), (4, 8), (92, 36)):
        frames = np.stack([photo[:height, :width] for photo in photographs] * 2)
        if frames.shape[1:3] != (height, width):
            frames = np.resize(frames, (4, height, width, 3))
        painted = engine(frames)
        pairs = [(reference(frame), picture) for frame, picture in zip(frames, painted, strict=True)]
        parity = compare(pairs, precision="fp32", engine="cpu")
        assert parity.psnr_db >= (50 if half else 58), (height, width, parity)
    engine.close()


def test_half_weights_halve_the_file_and_leave_no_trace_of_this_machine() -> None:
    torch.manual_seed(0)
    network = build_network(SMALL["quality"])
    half, full = build_graph(network).SerializeToString(), build_graph(network, half_weights=False).SerializeToString()
    weights = 4 * sum(tensor.numel() for tensor in for_export(network).parameters())
    assert len(full) - len(half) > 0.45 * weights
    for trace in (b"/home", b"/work", b"site-packages", b".py"):
        assert trace not in half


def test_only_plain_operators(make_artifact: Callable[..., Artifact]) -> None:
    """No back end falls back on these, and a folded upsampling has no Resize."""
    torch.manual_seed(0)
    artifact = make_artifact(build_graph(build_network(SMALL["quality"])), stride=4)
    used = {node.op_type for node in parse_model(artifact).graph.node}
    assert used == {
        "Add", "Cast", "Clip", "Conv", "ConvTranspose", "Div", "InstanceNormalization", "Mul", "Relu", "Round", "Sub",
        "Transpose",
    }  # fmt: skip


def test_centred_activations_paint_the_same_and_lose_less(
    make_artifact: Callable[..., Artifact], photographs: list[Picture]
) -> None:
    """A layer whose mean is far from zero, as smooth pictures make them: bf16 has 8 bits for mean and deviation."""
    torch.manual_seed(0)
    network = build_network(SMALL["fast"]).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.startswith("down.") and name.endswith("bias"):
                parameter.add_(20.0)
    plain = build_graph(network, half_weights=False)
    centred = build_graph(network, photographs=photographs, half_weights=False)
    photo = photographs[0][:96, :128]
    wanted = torch_reference(network)(photo)
    (painted,) = ReferenceEvaluator(centred).run(None, {"frame": photo[np.newaxis]})
    assert compare([(wanted, painted[0])], precision="fp32", engine="").psnr_db > 60
    in_half = []
    for model in (plain, centred):
        half = onnx.ModelProto.FromString(to_half(model.SerializeToString()))
        (picture,) = ReferenceEvaluator(half).run(None, {"frame": photo[np.newaxis]})
        in_half.append(compare([(wanted, picture[0])], precision="fp16", engine="").psnr_db)
    assert in_half[1] > in_half[0] + 6, in_half


def test_compare_against_its_formula() -> None:
    reference = np.zeros((4, 5, 3), np.uint8)
    candidate = reference.copy()
    candidate[0, 0, 1] = 10
    candidate[1, 0] = 2
    parity = compare([(reference, candidate)], precision="fp32", engine="x")
    assert parity.psnr_db == pytest.approx(10 * np.log10(255**2 / ((100 + 3 * 4) / 60)), abs=0.01)
    assert parity.max_difference == 10
    assert parity.share_over_2 == pytest.approx(1 / 20)
    assert compare([(reference, reference)], precision="fp32", engine="x").psnr_db == 100
    with pytest.raises(ArtifactError, match="largest difference 10/255"):
        check_floor(parity)


APP = export_app(
    Host(
        proof_candidates,
        Path("none.mp4"),
        tensorrt_target=lambda artifact, precision: (Path("none.engine"), Machine("10", "card", "driver")),
    )
)


@pytest.mark.parametrize("option", ["--smallest", "--best", "--largest"])
@pytest.mark.parametrize("text", ["720p", "0x720", "1280x", "1280 x 720"])
def test_a_size_that_is_none_is_refused_by_its_options_name(option: str, text: str) -> None:
    refused = CliRunner().invoke(APP, ["tensorrt", "mosaic.onnx", option, text])
    assert str(refused.exception) == f"{option} must be WIDTHxHEIGHT, got {text!r}"


def test_photographs_are_found_below_the_folder_scaled_down_and_damaged_ones_skipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cv2 = pytest.importorskip("cv2")
    (tmp_path / "some" / "deep.jpg").mkdir(parents=True)
    (tmp_path / "a.png").write_bytes(b"damaged")
    with pytest.raises(ArtifactError, match="pictures that can be read"):
        load_photographs(tmp_path, count=1)
    wide = np.full((1500, 3000, 3), (10, 20, 30), np.uint8)
    cv2.imwrite(str(tmp_path / "some" / "wide.tif"), wide)
    (picture,) = load_photographs(tmp_path, count=1)
    assert 0.98 * 2**20 < picture.shape[0] * picture.shape[1] <= 2**20
    assert picture.shape[1] / picture.shape[0] == pytest.approx(2, rel=0.01)
    assert picture[0, 0].tolist() == [30, 20, 10]
    assert "a.png" in caplog.text


@pytest.mark.usefixtures("windows_names")
def test_photographs_may_have_any_name(tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    _, encoded = cv2.imencode(".png", np.full((8, 8, 3), (10, 20, 30), np.uint8))
    (tmp_path / "Gärten").mkdir()
    (tmp_path / "Gärten" / "Frühling.png").write_bytes(encoded.tobytes())
    (picture,) = load_photographs(tmp_path / "Gärten", count=1)
    assert picture[0, 0].tolist() == [30, 20, 10]


def test_command_line(checkpoint: Path, tmp_path: Path, photographs: list[Picture]) -> None:
    cv2 = pytest.importorskip("cv2")
    folder = tmp_path / "photos"
    folder.mkdir()
    for index, photo in enumerate(photographs):
        cv2.imwrite(str(folder / f"{index}.png"), photo[..., ::-1])
    assert np.array_equal(load_photographs(folder, count=8)[0], photographs[0])
    app, target = APP, tmp_path / "mosaic.onnx"
    runner = CliRunner()
    for words in (["onnx", str(checkpoint)], [str(checkpoint), "--overwrite"]):
        done = runner.invoke(app, [*words, "-o", str(target), "--photos", str(folder)])
        assert done.exit_code == 0, done.output
        assert "wrote" in done.output
        assert "dB to PyTorch" in done.output
    checked = runner.invoke(app, ["check", str(target)])
    assert "Robert Delaunay, Jean Metzinger, 1906" in checked.output
    assert "fp32" in checked.output
    refused = runner.invoke(app, [str(checkpoint), "-o", str(target), "--photos", str(folder)])
    assert isinstance(refused.exception, ArtifactError)
    assert runner.invoke(app, [str(checkpoint)]).exit_code == 2
