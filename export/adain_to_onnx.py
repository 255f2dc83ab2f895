"""Networks for any painting to artifacts: `NAME.stylizer.onnx` and `NAME.style-encoder.onnx`, proven together."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from .arbitrary import Vector, bake
from .artifact import Artifact, Metadata, Parity, save_artifact
from .centre import Moments, centre_activations
from .parity import Candidate, Paint, Picture, prove
from .pictures import crop_to_stride
from .to_onnx import Progress, check_export, make_plain, store_weights_as_half
from .torch_export import example_frame, torch_export

if TYPE_CHECKING:
    import onnx
    import torch

    from ..training.adain_checkpoint import AdainCheckpoint
    from ..training.adain_reference import AdainNetworks

ENCODER_SUFFIX = ".style-encoder.onnx"
_STRIDE_OF_ENCODERS = 16


@dataclass(frozen=True)
class ArtifactPair:
    """What paints like any painting, as two artifacts."""

    stylizer: Artifact
    encoder: Artifact


def encoder_path(stylizer: Path) -> Path:
    """Where a stylizer's encoder lies: any.stylizer.onnx -> any.style-encoder.onnx."""
    return stylizer.with_name(stylizer.name.removesuffix(".onnx").removesuffix(".stylizer") + ENCODER_SUFFIX)


def is_for_any_painting(checkpoint: Path) -> bool:
    """Whether a checkpoint is one of `impasto train-adain`, by the header of its file."""
    if not checkpoint.is_file():  # a named pipe would be waited for without end
        return False
    try:
        with checkpoint.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(size, _MOST_HEADER_BYTES)))
        return "impasto-adain" in header.get("__metadata__", {})
    except (OSError, ValueError, AttributeError):
        return False  # whoever reads it for what it should be says what is wrong


_MOST_HEADER_BYTES = 16 * 2**20


def export_any(
    checkpoint: Path,
    path: Path,
    *,
    photographs: Sequence[Picture],
    candidates: Sequence[Candidate],
    half_weights: bool = True,
    overwrite: bool = False,
    on_progress: Progress = lambda line: None,
) -> ArtifactPair:
    """Freeze what `impasto train-adain` wrote.

    The stylizer is proven with each photograph painted like the next one: the style is folded into the graph as it is
    when a video is painted, and compared with PyTorch in fp32.

    Args:
        checkpoint: of `impasto train-adain`.
        path: the stylizer to write, e.g. any.stylizer.onnx; the encoder's name follows from it.
        photographs: (H, W, 3) uint8 RGB, at least two.
        candidates: engines to measure; at least one must run in fp32.
        half_weights: store convolutions as fp16 with casts that engines fold.
        on_progress: gets one line per step.

    Raises:
        ArtifactError: an engine's pictures differ from PyTorch's by more than the floor of its precision.
    """
    path, checkpoint = Path(path), Path(checkpoint)
    check_export([path, encoder_path(path)], photographs, candidates, fewest=2, overwrite=overwrite)
    from ..training.adain_checkpoint import load_adain_checkpoint

    loaded = load_adain_checkpoint(checkpoint)
    networks = loaded.build()
    on_progress(f"building the graphs of {loaded.kind} networks")
    metadata = _metadata_of(loaded, stride=networks.stylizer.stride)
    stylizer = build_stylizer(networks, photographs=photographs, half_weights=half_weights)
    encoder = build_encoder(networks, half_weights=half_weights)
    parity = _prove(stylizer, metadata, networks, photographs, candidates, on_progress=on_progress)
    encoder_metadata = replace(metadata, kind="style-encoder", stride=_STRIDE_OF_ENCODERS)
    return ArtifactPair(
        save_artifact(stylizer, replace(metadata, parity=parity), path, overwrite=overwrite),
        save_artifact(encoder, encoder_metadata, encoder_path(path), overwrite=overwrite),
    )


def build_stylizer(
    networks: "AdainNetworks", *, photographs: Sequence[Picture] = (), half_weights: bool = True
) -> "onnx.ModelProto":
    """`frame` (N, H, W, 3) uint8 and `style` (N, K) float32 to `stylized`, as an ONNX model under our contract.

    Args:
        photographs: to centre activations with; none leaves them as they are.
        half_weights: store convolutions as fp16.
    """
    import torch

    from ..training.adain_networks import CompactStylizer, for_export

    stylizer = networks.stylizer
    folded = for_export(stylizer) if isinstance(stylizer, CompactStylizer) else stylizer

    class Bytes(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = folded

        def forward(self, frame: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
            painted: torch.Tensor = self.inner(frame.permute(0, 3, 1, 2).float(), style)
            return painted.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)

    examples = (example_frame(stylizer.stride), torch.zeros(2, stylizer.style_size))
    model = _plain_export(Bytes().eval(), examples, inputs=["frame", "style"], output="stylized")
    if photographs and isinstance(folded, CompactStylizer):
        centre_activations(model, _norm_input_moments(networks, photographs))
    if half_weights:
        store_weights_as_half(model)
    return model


def build_encoder(networks: "AdainNetworks", *, half_weights: bool = True) -> "onnx.ModelProto":
    """`frame` (N, H, W, 3) uint8, a painting, to `style` (N, K) float32."""
    import torch

    class Bytes(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = networks.encoder

        def forward(self, frame: torch.Tensor) -> torch.Tensor:
            style: torch.Tensor = self.inner(frame.permute(0, 3, 1, 2).float())
            return style

    model = _plain_export(Bytes().eval(), (example_frame(_STRIDE_OF_ENCODERS),), inputs=["frame"], output="style")
    if half_weights:
        store_weights_as_half(model)
    return model


def _plain_export(
    module: "torch.nn.Module", examples: tuple["torch.Tensor", ...], *, inputs: list[str], output: str
) -> "onnx.ModelProto":
    """As `torch_export`, made plain, with the size of the style's vector in it."""
    model = torch_export(module, examples, inputs=inputs, output=output)
    make_plain(model)
    size = next((x.shape[1] for x in examples if x.ndim == 2), None)
    for value in (*model.graph.input, *model.graph.output):
        if value.name == "style":
            dims = value.type.tensor_type.shape.dim
            dims[1].dim_value = size or dims[1].dim_value or _last_size(module, examples)
    return model


def _last_size(module: "torch.nn.Module", examples: tuple["torch.Tensor", ...]) -> int:
    import torch

    with torch.inference_mode():
        return int(module(*examples).shape[-1])


def _norm_input_moments(networks: "AdainNetworks", photographs: Sequence[Picture]) -> list[Moments]:
    """What reaches each normalisation of the compact stylizer, in graph order, with photographs as each other's
    paintings. The first one's input is used twice and stays as it is."""
    import torch

    sums: dict[int, tuple[int, Any, Any]] = {}

    def collect(convolution: torch.nn.Module, inputs: tuple[Any, ...], x: torch.Tensor) -> None:
        x = x.double()
        count, total, squares = sums.get(id(convolution), (0, 0.0, 0.0))
        pixels = x.shape[0] * x.shape[2] * x.shape[3]
        sums[id(convolution)] = (count + pixels, total + x.sum((0, 2, 3)), squares + (x * x).sum((0, 2, 3)))

    body: Any = networks.stylizer.body
    hooks = [conv.register_forward_hook(collect) for block in body for conv in (block.conv1, block.conv2)]
    try:
        for photo, style in _pairs(networks, photographs):
            with torch.inference_mode():
                networks.stylizer(_to_tensor(photo), style)
    finally:
        for hook in hooks:
            hook.remove()
    first: Moments = (np.zeros(body[0].conv1.in_channels), 1.0)
    moments = [first]
    for count, total, squares in sums.values():
        mean = (total / count).numpy()
        variance = (squares / count).numpy() - mean**2
        moments.append((mean, float(np.sqrt(max(variance.mean(), 1e-12)))))
    return moments


def _pairs(networks: "AdainNetworks", photographs: Sequence[Picture]) -> "list[tuple[Picture, torch.Tensor]]":
    """Each photograph, cropped to the stride, with the style (1, K) of the next."""
    import torch

    pairs = []
    for photo, painting in zip(photographs, [*photographs[1:], photographs[0]], strict=True):
        with torch.inference_mode():
            style = networks.encoder(_to_tensor(crop_to_stride(painting, _STRIDE_OF_ENCODERS)))
        pairs.append((crop_to_stride(photo, networks.stylizer.stride), style))
    return pairs


def _to_tensor(picture: Picture) -> "torch.Tensor":
    import torch

    return torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float()


def _metadata_of(checkpoint: "AdainCheckpoint", *, stride: int) -> Metadata:
    from importlib.metadata import version

    known = checkpoint.metadata
    training = {"network": {"kind": checkpoint.kind} | checkpoint.network, "step": known.get("step")}
    return Metadata(
        name=known.get("name") or "any",
        tier="fast",
        stride=stride,
        kind="arbitrary",
        training=training | dict(known.get("training", {})),
        losses=dict(known.get("losses", {})),
        code_version=version("impasto"),
    )


def _prove(
    model: "onnx.ModelProto",
    metadata: Metadata,
    networks: "AdainNetworks",
    photographs: Sequence[Picture],
    candidates: Sequence[Candidate],
    *,
    on_progress: Progress,
) -> tuple[Parity, ...]:
    pairs = _pairs(networks, photographs)
    wanted = [torch_reference(networks, style)(photo) for photo, style in pairs]
    with TemporaryDirectory(prefix="impasto-") as folder:
        baked = [
            save_artifact(bake(model, _vector(style)), replace(metadata, kind="single"), Path(folder) / f"{i}.onnx")
            for i, (_, style) in enumerate(pairs)
        ]

        def painted(candidate: Candidate) -> Iterator[Picture]:
            for artifact, (photo, _) in zip(baked, pairs, strict=True):
                with candidate.open(artifact) as paint:
                    yield paint(photo)

        return prove(candidates, wanted, lambda candidate: list(painted(candidate)), on_progress=on_progress)


def torch_reference(networks: "AdainNetworks", style: "torch.Tensor") -> Paint:
    """PyTorch in fp32, eager, with a style (1, K): the picture that all others must match."""
    import torch

    def paint(picture: Picture) -> Picture:
        with torch.inference_mode():
            painted = networks.stylizer(_to_tensor(picture), style)[0]
        rounded: Picture = painted.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
        return rounded

    return paint


def _vector(style: "torch.Tensor") -> Vector:
    vector: Vector = style[0].numpy()
    return vector
