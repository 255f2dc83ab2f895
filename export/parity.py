"""Parity: is an engine's picture the picture that PyTorch paints in fp32? Nothing ships below its floor."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from .artifact import Artifact, Parity, Precision
from .errors import ArtifactError

Picture = npt.NDArray[np.uint8]
"""(H, W, 3) uint8 RGB."""
Batch = npt.NDArray[np.uint8]
"""(N, H, W, 3) uint8 RGB."""
Paint = Callable[[Picture], Picture]
"""Stylizes one picture whose sides are multiples of the artifact's stride."""
PSNR_FLOOR_DB: Mapping[Precision, float] = {"fp32": 50.0, "bf16": 38.0, "fp16": 38.0, "int8": 30.0}
"""50 dB is a mean error below 1/255; 38 dB about 3/255, unseen beside brush marks; 30 dB about 8/255."""

PSNR_OF_EQUAL_DB = 100.0
"""What identical pictures count as: infinity is no JSON."""


class Painter(Protocol):
    """An artifact, opened in an engine."""

    def __call__(self, picture: Picture) -> Picture:
        """One picture of any size; sides that are no multiples of the stride are padded as for users' frames."""

    def batch(self, pictures: Batch) -> Batch:
        """(N, H, W, 3) uint8 RGB to the same, in one inference; H and W multiples of the stride."""

    def several(self, pictures: Sequence[Picture]) -> Sequence[Picture]:
        """Pictures with sides that are multiples of the stride, as many at once as the artifact was opened for."""


class Opener(Protocol):
    """Opens an artifact in one engine and precision."""

    def __call__(self, artifact: Artifact, in_flight: int = 1) -> AbstractContextManager[Painter]: ...


@dataclass(frozen=True)
class Candidate:
    """An engine to prove an artifact with. The caller brings them, because engines are not export's business."""

    name: str
    """Library and version, for the metadata."""
    precision: Precision
    """Of float artifacts; a quantised one runs in int8."""
    open: Opener


def prove(
    candidates: Sequence[Candidate],
    wanted: Sequence[Picture],
    paint: Callable[[Candidate], Sequence[Picture]],
    *,
    on_progress: Callable[[str], None],
) -> tuple[Parity, ...]:
    """How near every candidate comes to PyTorch in fp32.

    Args:
        wanted: PyTorch's pictures.
        paint: a candidate's, in the same order.
        on_progress: gets one line for each.

    Raises:
        ArtifactError: one of them is below its precision's floor.
    """
    proven = []
    for candidate in candidates:
        pairs = zip(wanted, paint(candidate), strict=True)
        parity = compare(pairs, precision=candidate.precision, engine=candidate.name)
        on_progress(f"{parity.engine} {parity.precision}: {parity.psnr_db:.1f} dB to PyTorch fp32")
        check_floor(parity)
        proven.append(parity)
    return tuple(proven)


def compare(pictures: Iterable[tuple[Picture, Picture]], *, precision: Precision, engine: str) -> Parity:
    """Difference of (reference, candidate) pairs, all values of all pictures pooled."""
    squared = values = pixels = off = 0
    largest = count = 0
    for reference, candidate in pictures:
        if reference.shape != candidate.shape:
            raise ValueError(f"pictures must have one shape, got {reference.shape} and {candidate.shape}")
        difference = np.abs(reference.astype(np.int32) - candidate.astype(np.int32))
        squared += int((difference**2).sum(dtype=np.int64))  # Windows' own sums are of 32 bits before NumPy 2
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
    if not parity.psnr_db >= floor:  # no number is no proof
        raise ArtifactError(
            f"{parity.engine} in {parity.precision} must be within {floor:g} dB of PyTorch on photographs, "
            f"got {parity.psnr_db:.1f} dB (largest difference {parity.max_difference}/255)"
        )


CHECKED_SIZES = ((64, 64), (65, 67), (68, 132), (360, 640), (539, 403), (1080, 1920), (2160, 3840))
"""Height and width: the smallest, odd, narrow, tall and the largest that every engine must take."""
CHECKED_BATCHES = (1, 2, 5)
"""Pictures in one inference."""


def check_sizes(artifact: Artifact, candidates: Sequence[Candidate], photograph: Picture) -> Iterator[Parity]:
    """Paint a photograph at every size, and batches of it, with every engine; compare with the first fp32 engine.

    Every picture of a batch must also be what the engine paints of it alone.

    Raises:
        ArtifactError: an engine's pictures are too far from the reference's.
    """
    reference = next((candidate for candidate in candidates if candidate.precision == "fp32"), None)
    if reference is None:
        raise ArtifactError("an engine must be installed to check sizes: pip install 'impasto[cpu]'")
    frames = [_resized(photograph, size) for size in CHECKED_SIZES]
    batches = [np.stack([np.roll(frames[2], 9 * n, axis=1) for n in range(count)]) for count in CHECKED_BATCHES]
    stride = artifact.metadata.stride
    batches = [batch[:, : batch.shape[1] // stride * stride, : batch.shape[2] // stride * stride] for batch in batches]
    with reference.open(artifact) as paint:
        wanted = [paint(frame) for frame in frames]
    quantized = artifact.metadata.precision == "int8"
    if quantized:  # one network whatever the candidate's precision: every library once
        candidates = [candidate for candidate in candidates if candidate.precision == "fp32"]
    for candidate in candidates:
        precision: Precision = "int8" if quantized else candidate.precision
        with candidate.open(artifact) as paint:
            pairs = [(picture, paint(frame)) for picture, frame in zip(wanted, frames, strict=True)]
            alone = [np.concatenate([paint.batch(frame[np.newaxis]) for frame in batch]) for batch in batches]
            together = [(picture, paint.batch(batch)) for picture, batch in zip(alone, batches, strict=True)]
        counts = ", ".join(map(str, CHECKED_BATCHES))
        check_floor(compare(together, precision=precision, engine=f"{candidate.name}, batches of {counts}"))
        parity = compare(pairs, precision=precision, engine=candidate.name)
        check_floor(parity)
        yield parity


def _resized(photograph: Picture, size: tuple[int, int]) -> Picture:
    import cv2

    return cv2.resize(photograph, size[::-1], interpolation=cv2.INTER_CUBIC).astype(np.uint8, copy=False)
