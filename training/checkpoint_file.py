"""Weights with a header that says what they are, as safetensors, which cannot carry code."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .errors import TrainingError
from .whole_file import whole_file

FORMAT_VERSION = 1

Header = dict[str, Any]
"""JSON values: `format_version`, `metadata`, and what the kind of checkpoint adds."""


def write_checkpoint(path: Path, key: str, header: Header, weights: Mapping[str, Tensor]) -> None:
    """Write under a temporary name, then rename: a reader never sees half a checkpoint.

    Args:
        key: under which the header stands; one for each kind, so that none is taken for another.
    """
    text = json.dumps({"format_version": FORMAT_VERSION, **header})
    # Cloned: safetensors refuses tensors that share memory.
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in weights.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as part:
            save_file(tensors, part, metadata={key: text})
    except (OSError, SafetensorError) as exc:
        raise TrainingError(f"cannot write checkpoint {path}: {exc}") from exc


def read_checkpoint(path: Path, key: str) -> tuple[Header, dict[str, Tensor]]:
    """The header of that key and the weights, on the CPU.

    Raises:
        TrainingError: the file is missing or damaged, or of another kind or format.
    """
    if not path.is_file():
        raise TrainingError(f"checkpoint not found: {path}")
    try:
        with safe_open(path, framework="pt") as file:
            texts = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as exc:
        raise TrainingError(f"not a checkpoint: {path}: {exc}") from exc
    try:
        header: Header = json.loads(texts[key])
        version = header["format_version"]
    except (KeyError, TypeError, ValueError) as exc:
        raise not_a_checkpoint(path, key, exc) from exc
    if version != FORMAT_VERSION:
        raise TrainingError(f"checkpoint format must be {FORMAT_VERSION}, got {version}: {path}")
    return header, tensors


def not_a_checkpoint(path: Path, key: str, reason: Exception) -> TrainingError:
    """What to raise where a header does not say what it must."""
    return TrainingError(f"not a checkpoint of {key}: {path}: {reason}")


def has_header(path: Path, key: str) -> bool:
    """Whether a file is a checkpoint with a header of that key."""
    try:
        with safe_open(path, framework="pt") as file:
            return key in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False
