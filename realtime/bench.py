"""Speed on this machine: styles, sizes, engines and precisions, beside the most the machine can multiply.

The bound is measured, not read from a data sheet: a chain of matrix products in the same library, device and
precision. A network that reaches a good share of it is limited by arithmetic; the rest is memory traffic.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from ..export.artifact import Artifact, Precision, load_artifact, parse_model, quantized_path
from ..export.graph import multiply_adds_per_pixel
from .engine import BACKENDS, Backend, EngineOptions, PictureEngine
from .errors import ImpastoError

Size = tuple[int, int]
"""Height, width."""

PEAK_SIDE = 2048
PEAK_PRODUCTS = 4
PEAK_SECONDS = 1.5
MIN_ROUNDS = 5


@dataclass(frozen=True)
class BenchOptions:
    """What to measure, and how long."""

    sizes: Sequence[Size] = ((360, 640), (720, 1280))
    precisions: Sequence[Precision] = ()
    """Empty for all that a device has."""
    devices: Sequence[str] = ()
    """Empty for all; as for `load_engine`, without an index."""
    threads: Sequence[int] = (0,)
    """Each is measured; 0 is the library's own choice."""
    in_flight: Sequence[int] = (1,)
    """Frames at once; each is measured."""
    seconds: float = 3.0
    """For each measurement, after the warm-up."""


@dataclass(frozen=True)
class Measurement:
    """One engine at one size."""

    style: str
    tier: str
    engine: str
    precision: Precision
    height: int
    width: int
    threads: int
    in_flight: int
    median_ms: float
    """From a frame's submission to its picture; with several in flight it includes the wait for the others."""
    p95_ms: float
    fps: float
    """Frames a second with that many in flight."""
    tflops: float
    """Achieved, 1e12 operations a second, counting convolutions alone."""
    peak_tflops: float | None
    """Of matrix products with the same library, device and precision; None where they cannot be run."""

    @property
    def share_of_peak(self) -> float | None:
        return self.tflops / self.peak_tflops if self.peak_tflops else None


def bench(
    styles: Sequence[Path], options: BenchOptions, *, on_progress: Callable[[str], None] = lambda line: None
) -> Iterator[Measurement]:
    """Measure everything that works here, engine by engine; what does not work is told to `on_progress`."""
    peaks: dict[tuple[str, Precision], float | None] = {}
    for path in styles:
        for artifact in _versions(load_artifact(path)):
            for backend in BACKENDS:
                if options.devices and backend.device not in options.devices:
                    continue
                try:
                    precisions = backend.precisions()
                except ImpastoError as exc:
                    on_progress(f"not {backend}: {exc}")
                    continue
                own: Sequence[Precision] = ("int8",) if artifact.metadata.precision == "int8" else precisions
                for precision in own:
                    if options.precisions and precision not in options.precisions:
                        continue
                    key = (str(backend), precision)
                    if key not in peaks:
                        on_progress(f"{backend} {precision}: matrix products")
                        peaks[key] = matrix_peak_tflops(artifact, backend, precision)
                    on_progress(f"{artifact.metadata.name} ({artifact.metadata.tier}) with {backend} in {precision}")
                    yield from _measurements(artifact, backend, precision, options, peaks[key], on_progress)


def matrix_peak_tflops(artifact: Artifact, backend: Backend, precision: Precision) -> float | None:
    """1e12 operations a second of matrix products; None where the back end cannot run a graph of them.

    int8 has no figure: products of quantised matrices would need ranges of their own.
    """
    if precision == "int8" or backend.library in ("torch", "tensorrt"):
        return None
    try:
        runner = backend.open_runner(artifact, _products_graph(), EngineOptions(precision=precision))
    except ImpastoError:
        return None
    rows = np.random.default_rng(0).normal(size=(PEAK_SIDE, PEAK_SIDE)).astype(np.float32)
    try:
        times = _timed(lambda: runner.start({"frame": rows}).result(), seconds=PEAK_SECONDS)
    except ImpastoError:
        return None
    finally:
        runner.close()
    return PEAK_PRODUCTS * 2 * PEAK_SIDE**3 / min(times) / 1e12


def end_to_end_fps(clip: Path, style: Path, folder: Path) -> float:
    """Frames a second of a whole video, from file to file: decoding, painting, encoding."""
    from .video import stylize_video

    start = time.perf_counter()
    report = stylize_video(clip, folder / "bench.mp4", style=str(style), overwrite=True)
    return report.frames_out / (time.perf_counter() - start)


def _versions(artifact: Artifact) -> list[Artifact]:
    path = quantized_path(artifact.path)
    return [artifact, load_artifact(path)] if path.is_file() else [artifact]


def _measurements(
    artifact: Artifact,
    backend: Backend,
    precision: Precision,
    options: BenchOptions,
    peak: float | None,
    on_progress: Callable[[str], None],
) -> Iterator[Measurement]:
    operations = 2 * multiply_adds_per_pixel(parse_model(artifact))
    for threads in options.threads:
        for in_flight in options.in_flight:
            settings = EngineOptions(precision=precision, threads=threads, in_flight=in_flight, build="never")
            try:
                engine = backend.open(artifact, settings)
            except ImpastoError as exc:
                on_progress(f"not {backend} in {precision}: {exc}")
                return
            for height, width in options.sizes:
                latencies_ms, fps = _speed(engine, (height, width), options.seconds)
                yield Measurement(
                    style=artifact.metadata.name,
                    tier=artifact.metadata.tier,
                    engine=str(backend),
                    precision=precision,
                    height=height,
                    width=width,
                    threads=threads,
                    in_flight=in_flight,
                    median_ms=round(statistics.median(latencies_ms), 2),
                    p95_ms=round(float(np.percentile(latencies_ms, 95)), 2),
                    fps=round(fps, 2),
                    tflops=round(operations * height * width * fps / 1e12, 4),
                    peak_tflops=None if peak is None else round(peak, 4),
                )
            engine.close()


def _speed(engine: PictureEngine, size: Size, seconds: float) -> tuple[list[float], float]:
    """Milliseconds per frame from submission to result, and frames a second, with the engine's number in flight."""
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (1, *size, 3), dtype=np.uint8) for _ in range(4)]
    engine.warmup(*size)
    engine(frames[0])
    pending = []
    latencies_ms: list[float] = []
    finished = index = 0
    start = time.perf_counter()
    while finished < MIN_ROUNDS or time.perf_counter() - start < seconds:
        pending.append((time.perf_counter(), engine.submit(frames[index % len(frames)])))
        index += 1
        if len(pending) == engine.in_flight:
            submitted, picture = pending.pop(0)
            picture.result()
            latencies_ms.append((time.perf_counter() - submitted) * 1e3)
            finished += 1
    elapsed = time.perf_counter() - start
    for _, picture in pending:
        picture.result()
    return latencies_ms, finished / elapsed


def _timed(call: Callable[[], object], *, seconds: float) -> list[float]:
    call()
    times: list[float] = []
    while len(times) < MIN_ROUNDS or sum(times) < seconds:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return times


def _products_graph() -> bytes:
    """A chain of products of a (PEAK_SIDE, PEAK_SIDE) input with a constant matrix that keeps its scale."""
    from onnx import TensorProto, helper, numpy_helper

    matrix = np.random.default_rng(1).normal(0, PEAK_SIDE**-0.5, (PEAK_SIDE, PEAK_SIDE)).astype(np.float32)
    names = ["frame", *(f"product.{index}" for index in range(1, PEAK_PRODUCTS)), "product"]
    nodes = [helper.make_node("MatMul", [a, "matrix"], [b]) for a, b in pairwise(names)]
    shape = [PEAK_SIDE, PEAK_SIDE]
    graph = helper.make_graph(
        nodes,
        "products",
        [helper.make_tensor_value_info("frame", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("product", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(matrix, "matrix")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    serialized: bytes = model.SerializeToString()
    return serialized
