"""A moment of the fuzzing that `tests/fuzz.py` can do for hours; the same cases every time."""

import random
from itertools import islice
from pathlib import Path

import pytest

from impasto.export.artifact import Metadata, load_artifact, seal

from .fuzz import TARGETS, small_model

CASES = {"artifact": 250, "timeline": 500}


@pytest.mark.parametrize("target", TARGETS)
def test_no_file_gets_more_than_one_line_of_refusal(target: str, tmp_path: Path) -> None:
    accepted = list(islice(TARGETS[target](random.Random(1), tmp_path / "case"), CASES[target]))
    assert len(accepted) == CASES[target]
    # Were all refused, the first check would have been tried and none behind it.
    assert 0.01 < sum(accepted) / len(accepted) < 0.9


def test_what_is_damaged_was_whole_before(tmp_path: Path) -> None:
    path = tmp_path / "whole.onnx"
    path.write_bytes(seal(small_model(), Metadata(name="fuzz", tier="fast", stride=2)))
    assert load_artifact(path).metadata.name == "fuzz"
