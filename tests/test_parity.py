"""Exports are checked with every engine, size and batch."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from impasto.export import parity as parity_module
from impasto.export.artifact import Artifact
from impasto.export.parity import Candidate, Painter, check_sizes
from impasto.realtime.engine import Batch
from impasto.realtime.engine_proof import proof_candidates
from impasto.realtime.errors import ArtifactError

from .conftest import noise


def test_check_paints_every_size_and_batch_with_every_engine(
    small_artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidates = proof_candidates()
    if not candidates:
        pytest.skip("no engine is installed")
    monkeypatch.setattr(parity_module, "CHECKED_SIZES", ((64, 64), (65, 67), (68, 132)))
    seen: list[tuple[int, ...]] = []

    class Watched:
        def __init__(self, paint: Painter) -> None:
            self.paint = paint

        def __call__(self, picture: np.ndarray) -> np.ndarray:
            return self.paint(picture)

        def batch(self, pictures: Batch) -> Batch:
            seen.append(pictures.shape)
            return self.paint.batch(pictures)

    def watched(candidate: Candidate) -> Candidate:
        @contextmanager
        def opened(artifact: Artifact, in_flight: int = 1) -> Iterator[Painter]:
            with candidate.open(artifact, in_flight) as paint:
                yield Watched(paint)

        return Candidate(candidate.name, candidate.precision, opened)

    found = list(check_sizes(small_artifact, [watched(one) for one in candidates], noise(1, 90, 70, 3)[0]))
    assert [parity.engine for parity in found] == [one.name for one in candidates]
    assert {shape[0] for shape in seen} == {1, 2, 5}
    assert all(parity.pictures == 3 for parity in found)


def test_check_finds_an_engine_that_mixes_a_batch(small_artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    candidates = [one for one in proof_candidates() if one.precision == "fp32"]
    if not candidates:
        pytest.skip("no engine is installed")
    monkeypatch.setattr(parity_module, "CHECKED_SIZES", ((64, 64), (65, 67), (68, 132)))

    class Mixing:
        def __init__(self, paint: Painter) -> None:
            self.paint = paint

        def __call__(self, picture: np.ndarray) -> np.ndarray:
            return self.paint(picture)

        def batch(self, pictures: Batch) -> Batch:
            return np.roll(self.paint.batch(pictures), 1, axis=0)

    @contextmanager
    def mixing(artifact: Artifact, in_flight: int = 1) -> Iterator[Painter]:
        with candidates[0].open(artifact, in_flight) as paint:
            yield Mixing(paint)

    with pytest.raises(ArtifactError, match="batches of 1, 2, 5 in fp32 must be within 50 dB"):
        list(check_sizes(small_artifact, [candidates[0], Candidate("bad", "fp32", mixing)], noise(1, 90, 70, 3)[0]))
