"""`impasto export`, with this machine's engines as its proof."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..assets import DEMO_CLIP
from ..export.cli import Host, export_app

if TYPE_CHECKING:
    from ..export.artifact import Artifact, Precision
    from ..export.parity import Candidate
    from ..export.to_tensorrt import Machine


def _candidates() -> "Sequence[Candidate]":
    from .engine_proof import proof_candidates

    return proof_candidates()


def _tensorrt_target(artifact: "Artifact", precision: "Precision") -> "tuple[Path, Machine]":
    from .engine_tensorrt import engine_path, machine

    return engine_path(artifact.read_graph(), precision), machine()


app = export_app(Host(_candidates, DEMO_CLIP, _tensorrt_target))
