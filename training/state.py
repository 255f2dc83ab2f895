"""`state.pt`: what a training needs beside its checkpoint to go on as if it had not been stopped."""

import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from .errors import TrainingError
from .whole_file import discard_parts, whole_file

_FILE = "state.pt"


def holds_run(folder: Path) -> bool:
    """Whether there is something to resume."""
    return (folder / _FILE).exists()


def begin_run(folder: Path) -> None:
    """Make the folder; refuse one that another training would be lost from, or that cannot be made."""
    if holds_run(folder):
        raise TrainingError(f"{folder} already holds a training run; give --resume or another folder")
    for name in ("checkpoint.safetensors", "log.csv", "report.png"):
        if (folder / name).exists():
            raise TrainingError(f"{folder / name} must not exist yet: choose another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise TrainingError(f"cannot make the folder {folder}: {exc.strerror or exc}") from exc


def save_state(folder: Path, settings: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Write `state`, tensors and plain values, whole or not at all; `settings` are what makes two runs the same run."""
    serialised = io.BytesIO()  # torch hides what is wrong with a file that it writes itself
    torch.save({"settings": settings, **state}, serialised)
    try:
        with whole_file(folder / _FILE) as part:
            part.write_bytes(serialised.getbuffer())
    except OSError as exc:
        raise TrainingError(f"cannot write {folder / _FILE}: {exc.strerror or exc}") from exc


def load_state(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The state that a run of the same settings left, on the CPU; the run's own are under `settings`.

    A precision of "auto" agrees with what the run took, and a setting that older versions did not write with anything.

    Raises:
        TrainingError: there is none, it is damaged, or another run's.
    """
    path = folder / _FILE
    if not path.is_file():
        raise TrainingError(f"nothing to resume: {path} not found")
    discard_parts(folder)
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        saved = state["settings"]
    except Exception as exc:  # torch has many errors for a damaged file
        raise TrainingError(f"cannot resume from {path}: {exc}") from exc
    for name, wanted in settings.items():
        if (name, wanted) != ("precision", "auto") and saved.get(name, wanted) != wanted:
            raise TrainingError(f"{name} must be as in the run to resume ({saved[name]!r}), got {wanted!r}: {path}")
    return state


def paths_to_state(paths: set[Path]) -> list[str]:
    """As plain values; the readers' threads may add to the set meanwhile."""
    return sorted(map(str, paths.copy()))


def paths_from_state(paths: Iterable[str]) -> set[Path]:
    """Those that are still there."""
    return {path for path in map(Path, paths) if path.is_file()}
