"""This machine's engines as the parity gate of an export wants them."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import numpy as np

from ..export.artifact import Artifact, Precision
from ..export.parity import Candidate, Picture
from .engine import BACKENDS, Backend, Batch, EngineOptions, PictureEngine, PrecisionChoice
from .errors import EngineError

logger = logging.getLogger(__name__)


def proof_candidates() -> list[Candidate]:
    """Every engine and precision of this machine, for the parity gate of an export.

    Where ONNX Runtime is installed, its processor kernels also run the fp16 graph that cards will get, rounding to
    fp16 after every operator: a card's own kernels can still differ, but an overflow or a lost digit shows here.
    """
    candidates = []
    for backend in BACKENDS:
        try:
            candidates += [_proof_candidate(backend, precision) for precision in backend.precisions()]
        except EngineError as exc:
            logger.info("no parity check with %s: %s", backend, exc)
    if not any(candidate.precision == "fp16" for candidate in candidates):
        with suppress(EngineError):
            candidates.append(_fp16_graph_candidate())
    return candidates


def _fp16_graph_candidate() -> Candidate:
    from .engine_onnxruntime import open_runner, version

    @contextmanager
    def opened(artifact: Artifact, in_flight: int = 1) -> Iterator[_Painter]:
        runner = open_runner(artifact, artifact.read(), "cpu", "fp16", EngineOptions())
        engine = PictureEngine(runner, stride=artifact.metadata.stride)
        try:
            yield _Painter(engine)
        finally:
            engine.close()

    return Candidate(f"onnxruntime {version('cpu')} cpu, fp16 graph", "fp16", opened)


def _proof_candidate(backend: Backend, precision: Precision) -> Candidate:
    @contextmanager
    def opened(artifact: Artifact, in_flight: int = 1) -> Iterator[_Painter]:
        # A quantised artifact has one precision, whatever the device's float precisions are.
        wanted: PrecisionChoice = "auto" if artifact.metadata.precision == "int8" else precision
        engine = backend.open(artifact, EngineOptions(precision=wanted, in_flight=in_flight))
        try:
            yield _Painter(engine)
        finally:
            engine.close()

    return Candidate(f"{backend.library} {backend.version()} {backend.device}", precision, opened)


@dataclass(frozen=True)
class _Painter:
    """A `parity.Painter`: an engine as the gate wants it."""

    engine: PictureEngine

    def __call__(self, picture: Picture) -> Picture:
        from .stylizer import submit_picture  # it imports this module

        if any(side % self.engine.stride for side in picture.shape[:2]):
            return submit_picture(self.engine, picture)()
        painted: Picture = self.engine(picture[np.newaxis])[0]
        return painted

    def batch(self, pictures: Batch) -> Batch:
        return self.engine(pictures)

    def several(self, pictures: Sequence[Picture]) -> Sequence[Picture]:
        pending = [self.engine.submit(picture[np.newaxis]) for picture in pictures]
        return [painted.result()[0] for painted in pending]
