"""Parity: is an engine's picture the picture that PyTorch paints in fp32? Nothing ships below its floor."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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


CHECKED_SIZES = ((64, 64), (68, 132), (360, 640), (540, 404), (1080, 1920), (2160, 3840))
"""Height and width in multiples of 4: the smallest, narrow, tall and the largest that every engine must take."""


def check_sizes(artifact: Artifact, candidates: Sequence[Candidate], photograph: Picture) -> Iterator[Parity]:
    """Paint a photograph at every size with every engine, and compare with the first engine that runs in fp32.

    Raises:
        ArtifactError: an engine's pictures are too far from the reference's.
    """
    import cv2

    reference = next((candidate for candidate in candidates if candidate.precision == "fp32"), None)
    if reference is None:
        raise ArtifactError("an engine must be installed to check sizes: pip install 'impasto[cpu]'")
    stride = artifact.metadata.stride
    sizes = [(height - height % stride, width - width % stride) for height, width in CHECKED_SIZES]
    frames = [cv2.resize(photograph, size[::-1], interpolation=cv2.INTER_CUBIC).astype(np.uint8) for size in sizes]
    with reference.open(artifact) as paint:
        wanted = [paint(frame) for frame in frames]
    for candidate in candidates:
        with candidate.open(artifact) as paint:
            pairs = [(picture, paint(frame)) for picture, frame in zip(wanted, frames, strict=True)]
        precision = "int8" if artifact.metadata.precision == "int8" else candidate.precision
        parity = compare(pairs, precision=precision, engine=candidate.name)
        check_floor(parity)
        yield parity
