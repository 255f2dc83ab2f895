"""Artifacts are data from strangers: whatever is wrong with one is an ArtifactError of one line."""

import json
import os
import pickle
import random
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from impasto.export import artifact as artifact_module
from impasto.export.artifact import (
    Artifact,
    Metadata,
    Parity,
    StyleOrigin,
    load_artifact,
    parse_model,
    save_artifact,
    seal,
)
from impasto.export.errors import ArtifactError

METADATA = Metadata(name="bad", tier="fast", stride=1)
PARITY = asdict(Parity("fp32", "openvino", 60.0, 1, 0.0))


def refused(path: Path) -> str:
    """The error's text; the test fails if there is none or if it has several lines."""
    with pytest.raises(ArtifactError) as caught:
        load_artifact(path)
    text = str(caught.value)
    assert text.isprintable()
    assert str(path) in text
    return text


@pytest.fixture
def sealed(tmp_path: Path) -> Callable[[onnx.ModelProto], Path]:
    """Write a model with a valid closing sum but without checking it first."""

    def write(model: onnx.ModelProto) -> Path:
        path = tmp_path / "bad.onnx"
        path.write_bytes(seal(model, METADATA))
        return path

    return write


@pytest.fixture
def model(small_model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(small_model)
    return copy


def test_metadata_survives_the_file(tmp_path: Path, small_model: onnx.ModelProto) -> None:
    metadata = Metadata(
        name="mosaic",
        tier="quality",
        stride=2,
        style=StyleOrigin(title="Jean Metzinger", artist="Robert Delaunay", year="1906", licence="public domain"),
        training={"steps": 3000, "photos": "many"},
        losses={"style": 0.25},
        code_version="0.1.0",
        parity=(Parity("bf16", "openvino", 45.5, 7, 0.01, 8),),
    )
    path = tmp_path / "mosaic.onnx"
    save_artifact(small_model, metadata, path)
    assert load_artifact(path).metadata == metadata


def test_a_title_of_several_lines_becomes_one(tmp_path: Path, small_model: onnx.ModelProto) -> None:
    origin = StyleOrigin(title="Les\xa0Nymphéas\n  \u200b(detail)\x07", licence="free " * 400)
    written = save_artifact(small_model, replace(METADATA, stride=2, style=origin), tmp_path / "a.onnx")
    assert written.metadata.style.title == "Les Nymphéas (detail)"
    assert len(written.metadata.style.licence) == 1000


def test_it_is_an_ordinary_onnx_model(small_artifact: Artifact) -> None:
    onnx.checker.check_model(onnx.load(small_artifact.path), full_check=True)


def test_existing_file_is_kept_without_overwrite(tmp_path: Path, identity_model: onnx.ModelProto) -> None:
    path = tmp_path / "a.onnx"
    path.write_text("mine")
    with pytest.raises(ArtifactError, match="--overwrite"):
        save_artifact(identity_model, METADATA, path)
    assert path.read_text() == "mine"
    save_artifact(identity_model, METADATA, path, overwrite=True)
    assert load_artifact(path).metadata == METADATA


def test_nothing_is_left_of_a_model_that_is_refused(tmp_path: Path, model: onnx.ModelProto) -> None:
    model.graph.input[0].name = "image"
    model.graph.node[0].input[0] = "image"
    with pytest.raises(ArtifactError, match="inputs must be frame, got image"):
        save_artifact(model, METADATA, tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_changes_after_the_check_is_not_run(tmp_path: Path, identity_model: onnx.ModelProto) -> None:
    checked = save_artifact(identity_model, METADATA, tmp_path / "a.onnx")
    save_artifact(identity_model, replace(METADATA, name="other"), checked.path, overwrite=True)
    with pytest.raises(ArtifactError, match="changed"):
        checked.read()


@pytest.mark.parametrize("content", [b"", b"\x00" * 500, b"not a model at all, but long enough to hold a sum" * 9])
def test_garbage(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(content)
    assert "closing sum is missing" in refused(path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    assert "there is none" in refused(tmp_path / "nowhere.onnx")
    refused(tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="has no such pipes")
def test_a_named_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.onnx")
    assert "a folder or a pipe" in refused(tmp_path / "pipe.onnx")


@pytest.mark.skipif(sys.platform == "win32", reason="has no umask")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_others_may_read_what_the_umask_lets_them(
    tmp_path: Path, identity_model: onnx.ModelProto, umask: int, mode: int
) -> None:
    before = os.umask(umask)
    try:
        written = save_artifact(identity_model, METADATA, tmp_path / "a.onnx")
    finally:
        os.umask(before)
    assert written.path.stat().st_mode & 0o777 == mode


@pytest.mark.parametrize("name", ["a+b", "The Wave (1831), no. 2", "_DSC'01.jpg", "星月夜", "any"])
def test_names_that_files_may_have(tmp_path: Path, identity_model: onnx.ModelProto, name: str) -> None:
    assert save_artifact(identity_model, replace(METADATA, name=name), tmp_path / "a.onnx").metadata.name == name


def test_every_truncation(tmp_path: Path, small_artifact: Artifact) -> None:
    data = small_artifact.path.read_bytes()
    path = tmp_path / "a.onnx"
    for length in np.linspace(0, len(data) - 1, 100, dtype=int):
        path.write_bytes(data[:length])
        refused(path)


def test_200_bit_flips(tmp_path: Path, small_artifact: Artifact) -> None:
    data = small_artifact.path.read_bytes()
    rng = random.Random(0)
    path = tmp_path / "a.onnx"
    for _ in range(200):
        damaged = bytearray(data)
        damaged[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        refused(path)


def test_200_bit_flips_by_someone_who_knows_the_sum(tmp_path: Path, model: onnx.ModelProto) -> None:
    """Malice can renew the sum: then the file is refused, or is still a model within the contract."""
    body = seal(model, METADATA)
    body = body[: -len(artifact_module._digest_entry(b""))]
    rng = random.Random(1)
    path = tmp_path / "a.onnx"
    accepted: list[Artifact] = []
    errors: list[str] = []
    for _ in range(200):
        damaged = bytearray(body)
        damaged[rng.randrange(len(body))] ^= 1 << rng.randrange(8)
        path.write_bytes(bytes(damaged) + artifact_module._digest_entry(bytes(damaged)))
        try:
            accepted.append(load_artifact(path))
        except ArtifactError as exc:
            errors.append(str(exc))
    assert not any("\n" in text for text in errors)
    assert len(accepted) > 0, "a weight may be any number"
    assert len(errors) > 0, "the structure may not be anything"


@pytest.mark.parametrize("location", ["secrets.bin", "../../etc/passwd", "/etc/passwd", "hardlink.bin"])
def test_external_data(
    tmp_path: Path, sealed: Callable[[onnx.ModelProto], Path], model: onnx.ModelProto, location: str
) -> None:
    if location == "hardlink.bin":
        (tmp_path / "victim").write_bytes(b"\0" * 4096)
        os.link(tmp_path / "victim", tmp_path / location)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    assert "external data" in refused(sealed(model))


def test_external_data_in_an_attribute(sealed: Callable[[onnx.ModelProto], Path], model: onnx.ModelProto) -> None:
    tensor = TensorProto(dims=[1], data_type=TensorProto.FLOAT, name="hidden")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="x")
    model.graph.node.insert(0, helper.make_node("Constant", [], ["unused"], value=tensor))
    assert "external data" in refused(sealed(model))


@pytest.mark.parametrize("where", [TensorProto.DEFAULT, TensorProto.EXTERNAL])
def test_sparse_constant(sealed: Callable[[onnx.ModelProto], Path], model: onnx.ModelProto, where: int) -> None:
    """Its values may lie in a file of the user's, which ONNX Runtime would paint."""
    values = TensorProto(dims=[1], data_type=TensorProto.FLOAT, name="hidden", data_location=where)
    if where == TensorProto.EXTERNAL:
        values.external_data.add(key="location", value="secret.bin")
    else:
        values.float_data.append(1)
    positions = numpy_helper.from_array(np.zeros(1, np.int64))
    node = helper.make_node("Constant", [], ["unused"], sparse_value=helper.make_sparse_tensor(values, positions, [4]))
    assert "sparse tensors, got one in Constant" in refused(sealed(with_nodes(model, node)))


def test_huge_dimensions(sealed: Callable[[onnx.ModelProto], Path], model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[0] = 2**40
    assert "sane shape" in refused(sealed(model))


def test_dimensions_without_values(sealed: Callable[[onnx.ModelProto], Path], model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[0] = 1000
    assert "values of its shape" in refused(sealed(model))


def with_nodes(model: onnx.ModelProto, *nodes: onnx.NodeProto, **weights: np.ndarray) -> onnx.ModelProto:
    """The model with nodes on a side path whose result nobody needs."""
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(numpy_helper.from_array(values, name) for name, values in weights.items())
    return model


def test_a_tensor_that_would_exhaust_memory(sealed: Callable[[onnx.ModelProto], Path], model: onnx.ModelProto) -> None:
    grow = helper.make_node("Resize", ["x", "", "factors"], ["giant"], mode="nearest")
    bad = with_nodes(model, grow, factors=np.array([1, 1, 64, 64], np.float32))
    assert "values per pixel" in refused(sealed(bad))


def test_padding_that_would_exhaust_memory(sealed: Callable[[onnx.ModelProto], Path], model: onnx.ModelProto) -> None:
    grow = helper.make_node("Pad", ["x", "pads"], ["giant"], mode="constant")
    bad = with_nodes(model, grow, pads=np.array([0, 0, 0, 0, 0, 0, 2**20, 2**20]))
    assert "values per pixel" in refused(sealed(bad))


def test_a_tensor_that_grows_faster_than_the_frame(
    sealed: Callable[[onnx.ModelProto], Path], model: onnx.ModelProto
) -> None:
    """(N, 3, H, W, H): 256 values per channel of a small frame, which passes, and 2160 of a large one."""
    bad = with_nodes(
        model,
        helper.make_node("ReduceMean", ["x", "across"], ["column"]),
        helper.make_node("Transpose", ["column"], ["row"], perm=[0, 1, 3, 2]),
        helper.make_node("Unsqueeze", ["x", "last"], ["deep"]),
        helper.make_node("Unsqueeze", ["row", "across"], ["flat"]),
        helper.make_node("Add", ["deep", "flat"], ["giant"]),
        across=np.array([3]),
        last=np.array([4]),
    )
    assert "values per pixel, 'giant'" in refused(sealed(bad))


def test_a_size_that_depends_on_the_picture(sealed: Callable[[onnx.ModelProto], Path], model: onnx.ModelProto) -> None:
    bad = with_nodes(
        model,
        helper.make_node("ReduceMean", ["x", "all"], ["mean"], keepdims=0),
        helper.make_node("Cast", ["mean"], ["size"], to=TensorProto.INT64),
        helper.make_node("Expand", ["one", "size"], ["giant"]),
        all=np.array([0, 1, 2]),
        one=np.ones(1, np.float32),
    )
    refused(sealed(bad))


@pytest.mark.parametrize(
    "node",
    [
        helper.make_node("Evil", ["x"], ["z"], domain="com.example"),
        helper.make_node("Relu", ["x"], ["z"], domain="com.microsoft"),
        helper.make_node("NonZero", ["x"], ["z"]),
        helper.make_node("Loop", ["x"], ["z"]),
    ],
)
def test_operators_of_others(
    sealed: Callable[[onnx.ModelProto], Path], model: onnx.ModelProto, node: onnx.NodeProto
) -> None:
    assert "operators must be" in refused(sealed(with_nodes(model, node)))


def test_subgraph(sealed: Callable[[onnx.ModelProto], Path], model: onnx.ModelProto) -> None:
    node = helper.make_node("Relu", ["x"], ["z"])
    node.attribute.append(helper.make_attribute("body", model.graph))
    assert "must not contain graphs" in refused(sealed(with_nodes(model, node)))


def test_foreign_domain_and_functions(sealed: Callable[[onnx.ModelProto], Path], model: onnx.ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    assert "ONNX's own" in refused(sealed(model))
    del model.opset_import[-1]
    model.functions.add(name="f")
    assert "must be absent" in refused(sealed(model))


def test_wrong_names_types_and_sizes(sealed: Callable[[onnx.ModelProto], Path], model: onnx.ModelProto) -> None:
    frame = model.graph.input[0].type.tensor_type
    frame.shape.dim[1].dim_value = 64
    assert "free N, H and W" in refused(sealed(model))
    frame.shape.dim[1].dim_param = "h"
    frame.elem_type = TensorProto.FLOAT
    assert "uint8" in refused(sealed(model))
    frame.elem_type = TensorProto.UINT8
    model.graph.output[0].name = "picture"
    assert "outputs must be stylized, got picture" in refused(sealed(model))


def test_an_output_of_another_size(sealed: Callable[[onnx.ModelProto], Path], model: onnx.ModelProto) -> None:
    first = next(node for node in model.graph.node if node.op_type == "Conv")
    next(attribute for attribute in first.attribute if attribute.name == "strides").ints[:] = [1, 1]
    assert "stylized must have the frame's size" in refused(sealed(model))


def test_names_that_are_no_text(tmp_path: Path, model: onnx.ModelProto) -> None:
    body = seal(model, METADATA)[: -len(artifact_module._digest_entry(b""))].replace(b"frame", b"fr\xffme")
    path = tmp_path / "a.onnx"
    path.write_bytes(body + artifact_module._digest_entry(body))
    assert "damaged name" in refused(path)


def test_a_file_beyond_the_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_artifact: Artifact) -> None:
    monkeypatch.setattr(artifact_module, "MAX_BYTES", 1000)
    with pytest.raises(ArtifactError, match="at most"):
        load_artifact(small_artifact.path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 99}, "update Impasto"),
        ({"tier": "best"}, "tier must be one of fast, quality"),
        ({"kind": "other"}, "kind must be one of"),
        ({"stride": 0}, "stride must be 1 to 64"),
        ({"name": ""}, "name must be"),
        ({"name": "a\nb"}, "name must be"),
        ({"name": "../../outside/a"}, "name must be 1 to 100 printable characters without / "),
        ({"name": "a\\b"}, "name must be"),
        ({"name": "C:a"}, "name must be"),
        ({"name": ".hidden"}, "name must be"),
        ({"name": "x" * 101}, "name must be"),
        ({"name": ["mosaic"]}, "name must be"),
        ({"style": 5}, "valid metadata"),
        ({"style": {"title": "\x1b]0;mine\x07"}}, "title must be text of one line"),
        ({"style": {"artist": ["x"]}}, "artist must be text of one line"),
        ({"style": {"\x1b[31m": ""}}, "valid metadata"),
        ({"style": {"licence": "x" * 1001}}, "licence must be text of one line"),
        ({"code_version": 1}, "code_version must be text"),
        ({"training": ["no"]}, "training must be an object"),
        ({"losses": "x"}, "losses must be an object"),
        ({"stride": True}, "stride must be 1 to 64"),
        ({"parity": [PARITY | {"psnr_db": "abc"}]}, "psnr_db must be a number"),
        ({"parity": [PARITY | {"psnr_db": float("nan")}]}, "psnr_db must be a number"),
        ({"parity": [PARITY | {"max_difference": 10**400}]}, "max_difference must be a number"),
        ({"parity": [PARITY | {"precision": "weird"}]}, "precision must be one of"),
        ({"parity": [PARITY | {"engine": "a\nb"}]}, "engine must be text"),
        ({"parity": [{"x": 1}]}, "valid metadata"),
    ],
)
def test_bad_metadata(tmp_path: Path, small_artifact: Artifact, change: dict[str, object], message: str) -> None:
    model = parse_model(small_artifact)
    entry = next(entry for entry in model.metadata_props if entry.key == "impasto")
    entry.value = json.dumps(json.loads(entry.value) | change)
    del model.metadata_props[1:]
    body = model.SerializeToString(deterministic=True)
    path = tmp_path / "a.onnx"
    path.write_bytes(body + artifact_module._digest_entry(body))
    assert message in refused(path)


def test_reading_an_artifact_needs_neither_torch_nor_an_engine(small_artifact: Artifact) -> None:
    import subprocess
    import sys

    code = (
        "import sys; from impasto.export.artifact import load_artifact; load_artifact(sys.argv[1]); "
        "print([m for m in ('torch', 'onnxruntime', 'openvino') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, small_artifact.path], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


class Code:
    """What a pickle from a stranger may do: here it leaves a file behind."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("suffix", [".ckpt", ".pth", ".pt", ".safetensors", ".onnx", ".engine"])
@pytest.mark.parametrize("container", ["pickle", "torch"])
def test_no_file_is_ever_unpickled(tmp_path: Path, suffix: str, container: str) -> None:
    """Every door that takes a file of weights: one line of ours, and the code inside has not run."""
    torch = pytest.importorskip("torch", reason="checkpoints need impasto[train]")
    from impasto.training.adain_checkpoint import load_adain_checkpoint
    from impasto.training.checkpoint import load_checkpoint
    from impasto.training.errors import TrainingError
    from impasto.training.loss_network import load_loss_network

    path, trace = tmp_path / f"style{suffix}", tmp_path / "it-ran"
    if container == "torch":
        torch.save({"state_dict": Code(trace)}, path)
    else:
        path.write_bytes(pickle.dumps(Code(trace)))
    doors: list[Callable[[], object]] = [
        lambda: load_artifact(path),
        lambda: load_checkpoint(path),
        lambda: load_adain_checkpoint(path),
        lambda: load_loss_network(weights=path),
    ]
    for door in doors:
        with pytest.raises((ArtifactError, TrainingError)):
            door()
    assert not trace.exists()
    pickle.loads(pickle.dumps(Code(trace)))
    assert trace.exists(), "the trap itself works"
