"""Parity: is an engine's picture the picture that PyTorch paints in fp32? Nothing ships below its floor."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .artifact import Artifact, Parity, Precision
from .errors import ArtifactError

Picture = npt.NDArray[np.uint8]
"""(H, W, 3) uint8 RGB."""
Paint = Callable[[Picture], Picture]
"""Stylizes one picture whose sides are multiples of the artifact's stride."""

PSNR_FLOOR_DB: Mapping[Precision, float] = {"fp32": 50.0, "bf16": 38.0, "fp16": 38.0, "int8": 30.0}
"""50 dB is a mean error below 1/255; 38 dB about 3/255, unseen beside brush marks; 30 dB about 8/255."""

PSNR_OF_EQUAL_DB = 100.0
"""What identical pictures count as: infinity is no JSON."""


@dataclass(frozen=True)
class Candidate:
    """An engine to prove an artifact with. The caller brings them, because engines are not export's business."""

    name: str
    """Library and version, for the metadata."""
    precision: Precision
    open: Callable[[Artifact], AbstractContextManager[Paint]]


def compare(pictures: Iterable[tuple[Picture, Picture]], *, precision: Precision, engine: str) -> Parity:
    """Difference of (reference, candidate) pairs, all values of all pictures pooled."""
    squared = values = pixels = off = 0
    largest = count = 0
    for reference, candidate in pictures:
        if reference.shape != candidate.shape:
            raise ValueError(f"pictures must have one shape, got {reference.shape} and {candidate.shape}")
        difference = np.abs(reference.astype(np.int32) - candidate.astype(np.int32))
        squared += int((difference**2).sum())
        values += difference.size
        pixels += difference[..., 0].size
        off += int((difference.max(axis=-1) > 2).sum())
        largest = max(largest, int(difference.max(initial=0)))
        count += 1
    if not values:
        raise ValueError("pictures must be at least one, got none")
    psnr = 10 * np.log10(255.0**2 * values / squared) if squared else PSNR_OF_EQUAL_DB
    return Parity(
        precision=precision,
        engine=engine,
        psnr_db=round(float(psnr), 2),
        max_difference=largest,
        share_over_2=round(off / pixels, 6),
        pictures=count,
    )


def check_floor(parity: Parity) -> None:
    """Raise an `ArtifactError` when the pictures are too far from PyTorch's to ship."""
    floor = PSNR_FLOOR_DB[parity.precision]
    if parity.psnr_db < floor:
        raise ArtifactError(
            f"{parity.engine} in {parity.precision} must be within {floor:g} dB of PyTorch on photographs, "
            f"got {parity.psnr_db:.1f} dB (largest difference {parity.max_difference}/255)"
        )
