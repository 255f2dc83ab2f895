"""`impasto export`, with this machine's engines as its proof."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..assets import DEMO_CLIP
from ..export.cli import export_app

if TYPE_CHECKING:
    from ..export.parity import Candidate


def _candidates() -> "Sequence[Candidate]":
    from .engine import proof_candidates

    return proof_candidates()


app = export_app(_candidates, demo_clip=DEMO_CLIP)
