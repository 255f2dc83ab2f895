"""The artifact: one self-contained ONNX file per style and tier, and the checks that make a stranger's file safe.

Input `frame` (N, H, W, 3) uint8 RGB, output `stylized` of the same shape and type; N, H and W are dynamic, H and W
multiples of `stride`. What the style is and where it came from stands as JSON under one metadata key.

The file ends with a SHA-256 of everything before it, as one more metadata entry: protobuf messages that are
concatenated merge, so any ONNX reader sees an ordinary model while damage to a single bit is noticed. The sum
protects against damage, not against malice; the rules below do that. Only `onnx` is needed to read an artifact.
"""

import hashlib
import json
import math
import os
import tempfile
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from .errors import ArtifactError

if TYPE_CHECKING:
    import onnx

FORMAT_VERSION = 1
"""Raised when an older Impasto could misread the file."""

Tier = Literal["fast", "quality"]
Kind = Literal["single", "arbitrary", "style-encoder"]
"""One painting; any painting (second input `style`); what turns a painting into that input."""
Precision = Literal["fp32", "bf16", "fp16", "int8"]

SIGNATURES: Mapping[Kind, tuple[frozenset[str], frozenset[str]]] = {
    "single": (frozenset({"frame"}), frozenset({"stylized"})),
    "arbitrary": (frozenset({"frame", "style"}), frozenset({"stylized"})),
    "style-encoder": (frozenset({"frame"}), frozenset({"style"})),
}
"""Names of inputs and outputs by kind. `frame` and `stylized` are (N, H, W, 3) uint8, `style` is (N, K) float32."""

MAX_BYTES = 128 * 2**20
"""The largest network of the reports has 7 MB of weights; a file far beyond that is no style of ours."""
MAX_VALUES_PER_PIXEL = 1024
"""No tensor inside may hold more values per pixel of the frame: 8 GB in float at 1080p. Johnson's network needs 128."""
MAX_TEXT = 1000
"""Characters of a title and the like."""
OPERATORS = frozenset(
    name
    for line in (
        "Abs Add AveragePool Cast Clip Concat Constant Conv ConvTranspose DepthToSpace DequantizeLinear Div Exp Expand",
        "Flatten Floor Gather Gemm GlobalAveragePool HardSigmoid Identity InstanceNormalization LeakyRelu MatMul Max",
        "MaxPool Min Mul Neg Pad Pow PRelu QuantizeLinear ReduceMean ReduceSum Reciprocal Relu Reshape Resize Round",
        "Shape Sigmoid Slice SpaceToDepth Split Sqrt Squeeze Sub Tanh Transpose Unsqueeze",
    )
    for name in line.split()
)
"""Standard operators that a stylizing network may use: no control flow, no loops, nothing that reads files."""

ENGINE_MAGIC = b"IMPASTO TENSORRT ENGINE 1\n"
"""How a `.engine` begins that `to_tensorrt` wrote: an artifact, built for one card."""

_METADATA_KEY = "impasto"
_DIGEST_KEY = "impasto.sha256"
_OPSETS = range(13, 24)
_IR_VERSIONS = range(7, 12)
_FRAMES = ((1, 256, 256, 3), (16, 15_360, 16_384, 3))
"""Sizes that shapes are worked out for: one that constants show up beside, and one beyond any video, for what grows
faster than the frame. Sides are multiples of 64, the largest stride allowed."""
_MOST_SIZES = 64
"""Values of the longest tensor that may be taken as sizes."""


@dataclass(frozen=True)
class StyleOrigin:
    """The painting that a style was learned from."""

    title: str = ""
    artist: str = ""
    year: str = ""
    licence: str = ""
    sha256: str = ""
    """Of the style image file, hexadecimal."""


@dataclass(frozen=True)
class Parity:
    """How far an engine's pictures are from PyTorch's in fp32, over photographs."""

    precision: Precision
    engine: str
    """Library and version that was measured, e.g. "openvino 2026.4"."""
    psnr_db: float
    """Over all pictures together."""
    max_difference: int
    """Largest difference of any value, 0 to 255."""
    share_over_2: float
    """Share of pixels with any channel off by more than 2, 0 to 1."""
    pictures: int = 0
    """Photographs compared."""


@dataclass(frozen=True)
class Metadata:
    """What an artifact says of itself."""

    name: str
    """What a user types after --style."""
    tier: Tier
    stride: int
    """Height and width of a frame must be multiples of this."""
    kind: Kind = "single"
    precision: Precision = "fp32"
    """fp32 for a network that an engine may run in any float precision, int8 for a quantised one."""
    style: StyleOrigin = StyleOrigin()
    training: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the training run."""
    losses: Mapping[str, float] = field(default_factory=dict)
    """Losses at the end of training, by name."""
    code_version: str = ""
    """Version of Impasto that wrote the file."""
    parity: tuple[Parity, ...] = ()
    format_version: int = FORMAT_VERSION


@dataclass(frozen=True)
class Artifact:
    """A checked artifact on disk."""

    path: Path
    metadata: Metadata
    sha256: str
    """Of the whole file, hexadecimal."""
    is_built: bool = False
    """Whether it is a `.engine`, which TensorRT alone runs, and on one machine; else an ONNX model."""

    def read(self) -> bytes:
        """The file's bytes, proven to be those that were checked: an engine gets nothing else."""
        data = _read_bounded(self.path)
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise ArtifactError(f"{self.path} must stay as it was when it was checked, but it has changed: try again")
        return data

    def read_graph(self) -> bytes:
        """As `read`, where nothing but an ONNX model will do."""
        if self.is_built:
            raise ArtifactError(f"{self.path} must be a .onnx file for this, got an engine that has been built")
        return self.read()


def load_artifact(path: Path | str) -> Artifact:
    """Read and check an artifact. Whatever is wrong with it is an `ArtifactError` of one line."""
    path = Path(path)
    data = _read_bounded(path)
    if data.startswith(ENGINE_MAGIC) or path.suffix == ".engine":
        from .to_tensorrt import read_engine

        built = read_engine(data, str(path))
        return Artifact(path, built.metadata, hashlib.sha256(data).hexdigest(), is_built=True)
    body = _check_digest(path, data)
    model = _parse(path, body)
    metadata = _read_metadata(path, model)
    try:
        _check_model(model, metadata)
    except ArtifactError as exc:
        raise ArtifactError(f"{path} must be a safe artifact: {_one_line(exc)}") from exc  # it may quote a stranger
    except (TypeError, UnicodeError) as exc:  # protobuf hands over text that is no UTF-8 as bytes
        raise ArtifactError(f"{path} must be a safe artifact, but it has a damaged name") from exc
    return Artifact(path=path, metadata=metadata, sha256=hashlib.sha256(data).hexdigest())


def load_style(path: Path | str) -> Artifact:
    """As `load_artifact`, of what paints by itself: a network that any painting goes into gives its input back."""
    artifact = load_artifact(path)
    if artifact.metadata.kind != "single":
        raise ArtifactError(
            f"{path} must be the style of one painting, got an artifact of kind {artifact.metadata.kind}"
        )
    return artifact


def save_artifact(
    model: "onnx.ModelProto", metadata: Metadata, path: Path | str, *, overwrite: bool = False
) -> Artifact:
    """Write a model with its metadata; nothing stands under `path` before it has passed `load_artifact`'s checks.

    Titles come from file names, too: those of several lines become one, and characters that no one sees are left out.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise ArtifactError(f"{path} must not exist yet: choose another name or pass --overwrite")
    texts = {name: _visible(" ".join(text.split()))[:MAX_TEXT] for name, text in asdict(metadata.style).items()}
    data = seal(model, replace(metadata, style=StyleOrigin(**texts)))
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    except OSError as exc:
        raise ArtifactError(f"{path.parent} must be a folder that can be written to: {exc.strerror}") from exc
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        temporary.chmod(0o644)  # mkstemp's 0600 would hide an installed style from its users
        checked = load_artifact(temporary)
        temporary.replace(path)
    except OSError as exc:
        raise ArtifactError(f"{path} must be writable: {exc.strerror}") from exc
    finally:
        temporary.unlink(missing_ok=True)
    return replace(checked, path=path)


def seal(model: "onnx.ModelProto", metadata: Metadata) -> bytes:
    """The bytes of an artifact: the model, its metadata and the closing sum."""
    import onnx

    sealed = onnx.ModelProto()
    sealed.CopyFrom(model)
    del sealed.metadata_props[:]
    sealed.metadata_props.add(key=_METADATA_KEY, value=json.dumps(asdict(metadata), sort_keys=True))
    body: bytes = sealed.SerializeToString(deterministic=True)
    return body + _digest_entry(body)


def quantized_path(path: Path) -> Path:
    """Where an artifact's int8 version lies: mosaic.fast.onnx -> mosaic.fast.int8.onnx."""
    return path.with_name(f"{path.name.removesuffix('.onnx')}.int8.onnx")


def parse_model(artifact: Artifact) -> "onnx.ModelProto":
    """The checked model, for those who change or inspect graphs."""
    return _parse(artifact.path, artifact.read_graph())


def _digest_entry(body: bytes) -> bytes:
    import onnx

    entry = onnx.ModelProto()
    entry.metadata_props.add(key=_DIGEST_KEY, value=hashlib.sha256(body).hexdigest())
    serialized: bytes = entry.SerializeToString(deterministic=True)
    return serialized


def _read_bounded(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise ArtifactError(f"{path} must be an artifact file, but there is none") from None
    except OSError as exc:
        raise ArtifactError(f"{path} must be a readable artifact file: {exc.strerror}") from exc
    if len(data) > MAX_BYTES:
        raise ArtifactError(f"{path} must be at most {MAX_BYTES // 2**20} MiB to be a style")
    return data


def _check_digest(path: Path, data: bytes) -> bytes:
    """The bytes before the closing sum."""
    size = len(_digest_entry(b""))
    body, entry = data[:-size], data[-size:]
    if _DIGEST_KEY.encode() not in entry:
        raise ArtifactError(f"{path} must be a whole Impasto artifact, but its closing sum is missing")
    if entry != _digest_entry(body):
        raise ArtifactError(f"{path} must be undamaged, but its content does not match its sum: get it again")
    return body


def _parse(path: Path, data: bytes) -> "onnx.ModelProto":
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model: onnx.ModelProto = onnx.ModelProto.FromString(data)
    except DecodeError as exc:
        raise ArtifactError(f"{path} must be an ONNX model, but it cannot be decoded") from exc
    return model


def _read_metadata(path: Path, model: "onnx.ModelProto") -> Metadata:
    texts = [entry.value for entry in model.metadata_props if entry.key == _METADATA_KEY]
    if len(texts) != 1:
        raise ArtifactError(f"{path} must be an Impasto artifact, but it has no metadata of ours")
    try:
        return metadata_from_json(json.loads(texts[0]))
    except (ValueError, TypeError, KeyError, RecursionError) as exc:
        raise ArtifactError(f"{path} must have valid metadata: {_one_line(exc)}") from exc


def metadata_from_json(values: Any) -> Metadata:
    """Metadata as a file holds it; `ValueError`, `TypeError` or `KeyError` where it does not."""
    if not isinstance(values, dict):
        raise ValueError(f"metadata must be an object, got {type(values).__name__}")
    version = values.get("format_version")
    if version != FORMAT_VERSION:
        raise ValueError(f"format_version must be {FORMAT_VERSION}, got {version!r}: update Impasto")
    values = {key: values[key] for key in values.keys() & {item.name for item in fields(Metadata)}}
    values["style"] = StyleOrigin(**values.get("style", {}))
    values["parity"] = tuple(Parity(**item) for item in values.get("parity", ()))
    metadata = Metadata(**values)
    for name, given, choices in (
        ("tier", metadata.tier, get_args(Tier)),
        ("kind", metadata.kind, get_args(Kind)),
        ("precision", metadata.precision, get_args(Precision)),
    ):
        if given not in choices:
            raise ValueError(f"{name} must be one of {', '.join(choices)}, got {given!r}")
    if type(metadata.stride) is not int or not 1 <= metadata.stride <= 64:
        raise ValueError(f"stride must be 1 to 64, got {metadata.stride!r}")
    if not isinstance(metadata.name, str) or not metadata.name.isprintable() or not 0 < len(metadata.name) <= 100:
        raise ValueError("name must be 1 to 100 printable characters")
    _check_texts(metadata)
    for name, mapping in (("training", metadata.training), ("losses", metadata.losses)):
        if not isinstance(mapping, dict):
            raise ValueError(f"{name} must be an object, got {type(mapping).__name__}")
    for parity in metadata.parity:
        _check_parity(parity)
    return metadata


def _check_texts(metadata: Metadata) -> None:
    """What is shown to users must be text of one line: a terminal obeys what else stands in it."""
    texts = asdict(metadata.style) | {"code_version": metadata.code_version}
    for name, text in (*texts.items(), *(("engine", parity.engine) for parity in metadata.parity)):
        if not isinstance(text, str) or len(text) > MAX_TEXT or text != _visible(text):
            raise ValueError(f"{name} must be text of one line, at most {MAX_TEXT} characters")


def _check_parity(parity: Parity) -> None:
    if parity.precision not in get_args(Precision):
        raise ValueError(f"precision must be one of {', '.join(get_args(Precision))}, got {parity.precision!r}")
    for name in ("psnr_db", "max_difference", "share_over_2", "pictures"):
        value = getattr(parity, name)
        if not isinstance(value, int | float) or not abs(value) < 1e9:
            raise ValueError(f"{name} must be a number of a sane size, got {value!r}")


def _visible(text: str) -> str:
    """Text without line breaks, control characters and the like; spaces of any width stay."""
    return "".join(c for c in text if c.isprintable() or unicodedata.category(c) == "Zs")


def _check_model(model: "onnx.ModelProto", metadata: Metadata) -> None:
    """Refuse, cheapest check first, all that an honest artifact cannot contain."""
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    if set(opsets) != {""} or opsets[""] not in _OPSETS:
        raise ArtifactError(f"operators must be ONNX's own, opset {_OPSETS[0]} to {_OPSETS[-1]}, got {opsets}")
    if model.ir_version not in _IR_VERSIONS:
        raise ArtifactError(f"IR version must be {_IR_VERSIONS[0]} to {_IR_VERSIONS[-1]}, got {model.ir_version}")
    if model.functions or model.training_info or model.graph.sparse_initializer:
        raise ArtifactError("functions, training information and sparse tensors must be absent")
    for node in model.graph.node:
        if node.domain or node.op_type not in OPERATORS:
            raise ArtifactError(f"operators must be standard ones for pictures, got {_name(node)}")
        if any(a.HasField("g") or a.graphs for a in node.attribute):
            raise ArtifactError(f"nodes must not contain graphs, got one in {_name(node)}")
        if any(a.HasField("sparse_tensor") or a.sparse_tensors for a in node.attribute):
            raise ArtifactError(f"nodes must not contain sparse tensors, got one in {_name(node)}")
    for tensor in _tensors(model.graph):
        _check_tensor(tensor)
    _check_signature(model.graph, metadata.kind)
    _check_memory(model)


def _name(node: "onnx.NodeProto") -> str:
    return f"{node.domain}.{node.op_type}"[:80] if node.domain else node.op_type[:80]


def _tensors(graph: "onnx.GraphProto") -> Iterator["onnx.TensorProto"]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def _check_tensor(tensor: "onnx.TensorProto") -> None:
    from onnx import TensorProto, numpy_helper

    if tensor.data_location != TensorProto.DEFAULT or tensor.external_data:
        raise ArtifactError(f"weights must lie inside the file, got external data for {tensor.name[:80]!r}")
    if any(size < 0 for size in tensor.dims) or math.prod(tensor.dims) > MAX_BYTES:
        raise ArtifactError(f"tensor {tensor.name[:80]!r} must have a sane shape, got {list(tensor.dims)[:8]}")
    try:
        numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError, IndexError, OverflowError) as exc:
        raise ArtifactError(f"tensor {tensor.name[:80]!r} must hold the values of its shape") from exc


def _check_signature(graph: "onnx.GraphProto", kind: Kind) -> None:
    inputs, outputs = SIGNATURES[kind]
    for what, values, names in (("inputs", graph.input, inputs), ("outputs", graph.output, outputs)):
        if len(values) != len(names) or {value.name for value in values} != names:
            got = ", ".join(value.name[:80] for value in values) or "none"
            raise ArtifactError(f"{what} must be {', '.join(sorted(names))}, got {got}")
        for value in values:
            _check_value(value)


def _check_value(value: "onnx.ValueInfoProto") -> None:
    from onnx import TensorProto

    picture = value.name != "style"
    tensor = value.type.tensor_type
    wanted, rank = (TensorProto.UINT8, 4) if picture else (TensorProto.FLOAT, 2)
    dims = [dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim]
    if tensor.elem_type != wanted or len(dims) != rank:
        raise ArtifactError(f"{value.name} must be {'(N, H, W, 3) uint8' if picture else '(N, K) float32'}")
    if picture and (dims[3] != 3 or any(size is not None for size in dims[:3])):
        raise ArtifactError(f"{value.name} must be (N, H, W, 3) with free N, H and W, got {dims}")
    if not picture and (dims[1] is None or not 0 < dims[1] <= 65536):
        raise ArtifactError(f"{value.name} must be (N, K) with K given, got {dims}")


def _check_memory(model: "onnx.ModelProto") -> None:
    """Work out every shape for frames of two sizes and refuse what is unknown, wrong or too large."""
    import onnx

    concrete = onnx.ModelProto()
    concrete.CopyFrom(model)
    del concrete.graph.value_info[:]  # a stranger's word; it is worked out below
    try:
        _set_inputs(concrete.graph, _FRAMES[0])
        onnx.checker.check_model(concrete)
        for value in concrete.graph.output:
            value.type.tensor_type.ClearField("shape")
        _drop_weights(concrete.graph)
        for frames in _FRAMES:
            _set_inputs(concrete.graph, frames)
            inferred = onnx.shape_inference.infer_shapes(concrete, check_type=True, strict_mode=True, data_prop=True)
            _check_sizes(inferred.graph, frames)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, RuntimeError, ValueError) as exc:
        raise ArtifactError(f"the graph must be well formed: {_one_line(exc)}") from exc


def _set_inputs(graph: "onnx.GraphProto", frames: tuple[int, int, int, int]) -> None:
    for value in graph.input:
        _set_shape(value, frames if value.name == "frame" else (1, value.type.tensor_type.shape.dim[1].dim_value))


def _drop_weights(graph: "onnx.GraphProto") -> None:
    """Values that are no sizes: shapes do not depend on them, and to hand them over takes most of the time."""
    for tensor in graph.initializer:
        if math.prod(tensor.dims) > _MOST_SIZES:
            for name in ("raw_data", "float_data", "double_data", "int32_data", "int64_data", "uint64_data"):
                tensor.ClearField(name)


def _check_sizes(graph: "onnx.GraphProto", frames: tuple[int, int, int, int]) -> None:
    """Of a graph whose shapes were worked out for `frames`."""
    known = {value.name: _values(value) for value in (*graph.value_info, *graph.output)}
    names = {name for node in graph.node for name in node.output if name}
    for name in sorted(names):
        values = known.get(name)
        if values is None or values < 0:
            raise ArtifactError(f"the size of every tensor must follow from the frame's, not that of {name[:80]!r}")
        if values > MAX_VALUES_PER_PIXEL * math.prod(frames[:3]):
            raise ArtifactError(
                f"a tensor must hold at most {MAX_VALUES_PER_PIXEL} values per pixel, {name[:80]!r} holds more"
            )
    for value in graph.output:
        sizes = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        if value.name == "stylized" and sizes != frames:
            raise ArtifactError(f"stylized must have the frame's size, got {sizes} for {frames}")


def _set_shape(value: "onnx.ValueInfoProto", sizes: Iterable[int]) -> None:
    shape = value.type.tensor_type.shape
    del shape.dim[:]
    for size in sizes:
        shape.dim.add(dim_value=size)


def _values(value: "onnx.ValueInfoProto") -> int | None:
    """Number of elements, or None where a size is unknown."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape") or not all(dim.HasField("dim_value") for dim in tensor.shape.dim):
        return None
    return math.prod(int(dim.dim_value) for dim in tensor.shape.dim)


def _one_line(error: BaseException) -> str:
    return _visible(" ".join(str(error).split()))[:200]
