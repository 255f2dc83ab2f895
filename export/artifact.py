"""The artifact: one self-contained ONNX file per style and tier, its metadata, and how both are read and written.

Input `frame` (N, H, W, 3) uint8 RGB, output `stylized` of the same shape and type; N, H and W are dynamic, H and W
multiples of `stride`. What the style is and where it came from stands as JSON under one metadata key.

The file ends with a SHA-256 of everything before it, as one more metadata entry: protobuf messages that are
concatenated merge, so any ONNX reader sees an ordinary model while damage to a single bit is noticed. The sum
protects against damage, not against malice; the rules of `artifact_check.py` do that. Only `onnx` is needed to read
an artifact.
"""

import hashlib
import json
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from ..training.checks import check_name
from ..training.whole_file import whole_file
from .artifact_check import MAX_BYTES, Kind, check_model
from .errors import ArtifactError

if TYPE_CHECKING:
    import onnx

FORMAT_VERSION = 1
"""Raised when an older Impasto could misread the file."""

Tier = Literal["fast", "quality"]
Precision = Literal["fp32", "bf16", "fp16", "int8"]

MAX_TEXT = 1000
"""Characters of a title and the like."""

ENGINE_MAGIC = b"IMPASTO TENSORRT ENGINE 1\n"
"""How a `.engine` begins that `to_tensorrt` wrote: an artifact, built for one card."""

_METADATA_KEY = "impasto"
_DIGEST_KEY = "impasto.sha256"


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
        check_model(model, metadata.kind)
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
        if not path.parent.is_dir():
            raise ArtifactError(f"{path.parent} must be a folder that exists")
        with whole_file(path) as part:
            part.write_bytes(data)
            checked = load_artifact(part)
    except OSError as exc:
        raise ArtifactError(f"{path} must be writable: {exc.strerror}") from exc
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
        if path.exists() and not path.is_file():  # a named pipe would be waited for without end
            raise ArtifactError(f"{path} must be an artifact file, got a folder or a pipe")
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
    check_name(metadata)
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


def _one_line(error: BaseException) -> str:
    return _visible(" ".join(str(error).split()))[:200]
