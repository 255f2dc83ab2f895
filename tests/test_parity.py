"""Exports are checked with every engine, size and batch."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from impasto.export import parity as parity_module
from impasto.export.artifact import Artifact, Parity
from impasto.export.parity import Candidate, Painter, check_floor, check_sizes
from impasto.realtime.engine import Batch
from impasto.realtime.engine_proof import proof_candidates
from impasto.realtime.errors import ArtifactError

from .conftest import noise


@pytest.fixture
def candidates(monkeypatch: pytest.MonkeyPatch) -> list[Candidate]:
    """The engines of this machine; few sizes."""
    monkeypatch.setattr(parity_module, "CHECKED_SIZES", ((64, 64), (65, 67), (68, 132)))
    return list(proof_candidates()) or pytest.skip("no engine is installed")


def with_batches(candidate: Candidate, change: Callable[[Batch], Batch]) -> Candidate:
    """A candidate whose painted batches (N, H, W, 3) go through a function."""

    class Changed:
        def __init__(self, paint: Painter) -> None:
            self.paint = paint

        def __call__(self, picture: np.ndarray) -> np.ndarray:
            return self.paint(picture)

        def batch(self, pictures: Batch) -> Batch:
            return change(self.paint.batch(pictures))

    @contextmanager
    def opened(artifact: Artifact, in_flight: int = 1) -> Iterator[Painter]:
        with candidate.open(artifact, in_flight) as paint:
            yield Changed(paint)

    return Candidate(candidate.name, candidate.precision, opened)


def test_check_paints_every_size_and_batch_with_every_engine(
    small_artifact: Artifact, candidates: list[Candidate]
) -> None:
    seen: list[tuple[int, ...]] = []

    def watch(painted: Batch) -> Batch:
        seen.append(painted.shape)
        return painted

    watched = [with_batches(candidate, watch) for candidate in candidates]
    found = list(check_sizes(small_artifact, watched, noise(1, 90, 70, 3)[0]))
    assert [parity.engine for parity in found] == [candidate.name for candidate in candidates]
    assert {shape[0] for shape in seen} == {1, 2, 5}
    assert all(parity.pictures == 3 for parity in found)


def test_check_finds_an_engine_that_mixes_a_batch(small_artifact: Artifact, candidates: list[Candidate]) -> None:
    right = next(candidate for candidate in candidates if candidate.precision == "fp32")
    wrong = with_batches(right, lambda painted: np.roll(painted, 1, axis=0))
    with pytest.raises(ArtifactError, match="batches of 1, 2, 5 in fp32 must be within 50 dB"):
        list(check_sizes(small_artifact, [right, wrong], noise(1, 90, 70, 3)[0]))


def test_what_is_no_number_is_no_proof() -> None:
    with pytest.raises(ArtifactError, match="must be within 50 dB"):
        check_floor(Parity("fp32", "any", float("nan"), 255, 1.0))
