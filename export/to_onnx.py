"""Checkpoint to artifact: PyTorch's own ONNX exporter, a graph made plain, parity proven before the final name."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from .artifact import Artifact, Metadata, Parity, StyleOrigin, Tier, save_artifact
from .centre import centre_activations, norm_input_moments
from .errors import ArtifactError
from .parity import Candidate, Paint, Picture, prove
from .pictures import crop_to_stride
from .torch_export import example_frame, torch_export

if TYPE_CHECKING:
    import onnx
    import torch

    from ..training.checkpoint import Checkpoint
    from ..training.networks import TransformationNetwork

Progress = Callable[[str], None]


def export_onnx(
    checkpoint: Path | str,
    path: Path | str,
    *,
    photographs: Sequence[Picture],
    candidates: Sequence[Candidate],
    half_weights: bool = True,
    overwrite: bool = False,
    on_progress: Progress = lambda line: None,
) -> Artifact:
    """Freeze a checkpoint.

    Args:
        checkpoint: what training wrote.
        path: the artifact to write, e.g. mosaic.fast.onnx.
        photographs: (H, W, 3) uint8 RGB, what parity is measured on.
        candidates: engines to measure; at least one must run in fp32.
        half_weights: store convolutions as fp16 with casts that engines fold: half the file.
        on_progress: gets one line per step.

    Raises:
        ArtifactError: an engine's pictures differ from PyTorch's by more than the floor of its precision.
    """
    path = Path(path)
    check_export([path], photographs, candidates, fewest=1, overwrite=overwrite)
    from ..training.checkpoint import load_checkpoint

    loaded = load_checkpoint(Path(checkpoint))
    network = loaded.build()
    on_progress(f"building the graph of {loaded.config.architecture}")
    model = build_graph(network, photographs=photographs, half_weights=half_weights)
    metadata = metadata_of(loaded, stride=network.stride)
    parity = _prove(model, metadata, network, photographs, candidates, on_progress=on_progress)
    return save_artifact(model, replace(metadata, parity=parity), path, overwrite=overwrite)


def check_export(
    targets: Sequence[Path],
    photographs: Sequence[Picture],
    candidates: Sequence[Candidate],
    *,
    fewest: int,
    overwrite: bool,
) -> None:
    """Refuse before minutes of work what would fail after it; `fewest` photographs are needed."""
    for package in ("torch", "safetensors", "onnxscript"):
        if find_spec(package) is None:
            raise ArtifactError(f"{package} must be installed to export a checkpoint: pip install 'impasto[train]'")
    for target in targets:
        if not target.parent.is_dir():
            raise ArtifactError(f"{target.parent} must be a folder that exists")
        if target.suffix != ".onnx":
            raise ArtifactError(f"an artifact's name must end in .onnx, got {target}")
        if target.exists() and not overwrite:
            raise ArtifactError(f"{target} must not exist yet: choose another name or pass --overwrite")
    if len(photographs) < fewest:
        raise ArtifactError(
            f"photographs for the parity check must be at least {fewest}, got {len(photographs)}: pass --photos DIR"
        )
    if not any(candidate.precision in ("fp32", "int8") for candidate in candidates):
        raise ArtifactError("an engine for the parity check must be installed: pip install 'impasto[cpu]'")


def build_graph(
    network: "TransformationNetwork", *, photographs: Sequence[Picture] = (), half_weights: bool = True
) -> "onnx.ModelProto":
    """The network as an ONNX model under the artifact's contract, bytes in and bytes out.

    Args:
        network: what was trained.
        photographs: (H, W, 3) uint8 RGB to centre activations with; none leaves them as they are.
        half_weights: store convolutions as fp16.
    """
    from ..training.networks import for_export

    folded = for_export(network)
    frame = example_frame(network.stride)
    model = torch_export(_bytes_to_bytes(folded), (frame,), inputs=["frame"], output="stylized")
    make_plain(model)
    if photographs:
        centre_activations(model, norm_input_moments(folded, photographs))
    if half_weights:
        store_weights_as_half(model)
    return model


def metadata_of(checkpoint: "Checkpoint", *, stride: int) -> Metadata:
    """What a checkpoint knows of its style, in the artifact's words."""
    known = checkpoint.metadata
    tier: Tier = known.get("tier", "fast")
    origin = {key: str(value) for key, value in known.get("style", {}).items() if key in StyleOrigin.__annotations__}
    training = {"network": checkpoint.config.to_dict(), "step": known.get("step")} | dict(known.get("training", {}))
    return Metadata(
        name=known.get("name") or "unnamed",
        tier=tier,
        stride=stride,
        style=StyleOrigin(**origin),
        training=training,
        losses=dict(known.get("losses", {})),
        code_version=version("impasto"),
    )


def _prove(
    model: "onnx.ModelProto",
    metadata: Metadata,
    network: "TransformationNetwork",
    photographs: Sequence[Picture],
    candidates: Sequence[Candidate],
    *,
    on_progress: Progress,
) -> tuple[Parity, ...]:
    photographs = [crop_to_stride(photo, metadata.stride) for photo in photographs]
    reference = torch_reference(network)
    with TemporaryDirectory(prefix="impasto-") as folder:
        artifact = save_artifact(model, metadata, Path(folder) / "candidate.onnx")

        def painted(candidate: Candidate) -> list[Picture]:
            with candidate.open(artifact) as paint:
                return [paint(photo) for photo in photographs]

        return prove(candidates, [reference(photo) for photo in photographs], painted, on_progress=on_progress)


def torch_reference(network: "torch.nn.Module") -> Paint:
    """PyTorch in fp32, eager, with the network as it was given: the picture that all others must match."""
    import torch

    module = _bytes_to_bytes(network).eval()

    def paint(picture: Picture) -> Picture:
        with torch.inference_mode():
            painted: Picture = module(torch.from_numpy(picture.copy())[None])[0].numpy()
        return painted

    return paint


def _bytes_to_bytes(network: "torch.nn.Module") -> "torch.nn.Module":
    """(N, H, W, 3) uint8 to the same, around a network on (N, 3, H, W) float in [0, 255]."""
    import torch

    class BytesToBytes(torch.nn.Module):
        def __init__(self, inner: torch.nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, frame: torch.Tensor) -> torch.Tensor:
            painted: torch.Tensor = self.inner(frame.permute(0, 3, 1, 2).float())
            return painted.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)

    return BytesToBytes(network).eval()


def make_plain(model: Any) -> None:
    """Drop what the exporter remembers of its own run (source paths, symbols) and name the dimensions."""
    model.producer_name, model.producer_version = "impasto", version("impasto")
    del model.metadata_props[:], model.functions[:], model.graph.value_info[:]
    model.graph.name, model.doc_string = "stylize", ""
    used = {node.domain for node in model.graph.node}
    for entry in [entry for entry in model.opset_import if entry.domain and entry.domain not in used]:
        model.opset_import.remove(entry)
    for part in (model.graph, *model.graph.node, *model.graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    for index, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{index}"
    for value in (*model.graph.input, *model.graph.output):
        del value.metadata_props[:]
        for dim, name in zip(value.type.tensor_type.shape.dim, ("n", "h", "w"), strict=False):
            dim.dim_param = name


def store_weights_as_half(model: Any) -> None:
    """Keep convolution weights as fp16 behind a Cast: half the file, and every engine folds the cast away.

    Biases and normalisation stay fp32: they are few, and their errors would not average out.
    """
    from onnx import helper, numpy_helper

    casts = []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.ndim < 2:
            continue
        if np.abs(values).max(initial=0) > np.finfo(np.float16).max:
            raise ArtifactError(f"weights must fit fp16, got {np.abs(values).max():g} in {tensor.name}")
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
        casts.append(helper.make_node("Cast", [tensor.name], [name], name=f"Cast_{name}", to=1))
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*casts, *nodes])
