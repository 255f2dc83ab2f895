"""Speed on this machine: styles, sizes, engines and precisions, beside the most the machine can multiply.

The bound is measured, not read from a data sheet: a chain of matrix products in the same library, device and
precision. A network that reaches a good share of it is limited by arithmetic; the rest is memory traffic.
"""

import logging
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from ..export.artifact import Artifact, Precision, load_artifact, parse_model, quantized_path
from ..export.graph import multiply_adds_per_pixel
from .engine import (
    BACKENDS,
    MAX_THREADS,
    Backend,
    Device,
    EngineOptions,
    PendingPicture,
    PictureEngine,
    missing,
    one_line,
)
from .errors import ImpastoError
from .pipeline import Stage

log = logging.getLogger(__name__)

Size = tuple[int, int]
"""Height, width."""

PEAK_SHAPES = ((1024, 8), (2048, 4))
"""Sides of the matrices and products in a row; the best one counts: small ones stay in the cache."""
PEAK_SECONDS = 1.0
CARD_PEAK_SIDE = 8192
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

    def __post_init__(self) -> None:
        kinds = [kind for kind in get_args(Device) if kind != "auto"]
        for device in self.devices:
            if device not in kinds:
                raise ValueError(f"device must be one of {', '.join(kinds)}, got {device!r}")
        if not 0 <= self.seconds <= 3600:
            raise ValueError(f"seconds must be 0 to 3600, got {self.seconds:g}")
        for threads in self.threads:
            if not 0 <= threads <= MAX_THREADS:
                raise ValueError(f"threads must be 0 to {MAX_THREADS}, got {threads}")
        for in_flight in self.in_flight:
            if in_flight < 1:
                raise ValueError(f"in_flight must be 1 or more, got {in_flight}")


@dataclass(frozen=True)
class Setup:
    """What is measured."""

    style: str
    tier: str
    engine: str
    precision: Precision
    height: int
    width: int
    threads: int

    @classmethod
    def of(cls, artifact: Artifact, backend: Backend, precision: Precision, size: Size, threads: int) -> "Setup":
        return cls(artifact.metadata.name, artifact.metadata.tier, str(backend), precision, *size, threads)


@dataclass(frozen=True)
class Measurement(Setup):
    """One engine at one size, nothing beside it."""

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

    @property
    def peer_device(self) -> "PeerDevice":
        """Where its peer runs: beside an engine on an NVIDIA card on that card, else on the processor."""
        return "cuda" if self.engine.endswith((" on cuda", " on tensorrt", " on torch")) else "cpu"


PeerDevice = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class Peer:
    """Johnson's network, the quality tier's, in plain PyTorch: eager, fp32 with PyTorch's defaults, one frame after the
    other, uint8 to uint8 as engines do. Its weights are random, on which speed does not depend."""

    device: PeerDevice
    height: int
    width: int
    threads: int
    """0 is PyTorch's own choice; on a card always 0."""
    median_ms: float
    fps: float

    def is_of(self, result: Measurement) -> bool:
        same_threads = self.device == "cuda" or self.threads == result.threads
        return same_threads and (self.device, self.height, self.width) == (
            result.peer_device, result.height, result.width
        )  # fmt: skip


def times_peer(result: Measurement, peers: Sequence[Peer]) -> float | None:
    """How many times as many frames a second an engine paints as its peer; None where that was not measured."""
    return next((result.fps / peer.fps for peer in peers if peer.is_of(result)), None)


@dataclass(frozen=True)
class EndToEnd(Setup):
    """A whole video from file to file with one engine: decoding, painting and encoding share the machine."""

    frames: int
    fps: float
    """Frames written a second, the engine's loading left out."""
    decode_ms: float
    """Median a frame, waiting left out; so are the next two."""
    stylize_ms: float
    encode_ms: float


def bench(
    styles: Sequence[Path],
    options: BenchOptions,
    *,
    on_progress: Callable[[str], None] = lambda line: None,
    on_skipped: Callable[[str], None] = lambda line: None,
) -> Iterator[Measurement]:
    """Measure everything that works here, engine by engine; what does not work, and why, is told to `on_skipped`."""
    peaks: dict[tuple[str, Precision], float | None] = {}
    for artifact, backend, precision in _combinations(styles, options, on_skipped):
        key = (str(backend), precision)
        if key not in peaks:
            on_progress(f"{backend} {precision}: matrix products")
            peaks[key] = matrix_peak_tflops(artifact, backend, precision)
        on_progress(f"{artifact.metadata.name} ({artifact.metadata.tier}) with {backend} in {precision}")
        yield from _measurements(artifact, backend, precision, options, peaks[key], on_skipped)


def bench_end_to_end(
    styles: Sequence[Path],
    clip: Path,
    options: BenchOptions,
    folder: Path,
    *,
    on_progress: Callable[[str], None] = lambda line: None,
    on_skipped: Callable[[str], None] = lambda line: None,
) -> Iterator[EndToEnd]:
    """Paint a video, scaled to each size, with everything that works here; `folder` takes the results.

    An engine that cannot be had is passed over as by `bench`, which tells; why a video was not painted is told to
    `on_skipped`.
    """
    for artifact, backend, precision in _combinations(styles, options, lambda line: None):
        for threads in options.threads:
            for size in options.sizes:
                on_progress(
                    f"{artifact.metadata.name} with {backend} in {precision}, {size[1]}x{size[0]}, file to file"
                )
                try:
                    yield _end_to_end(artifact, backend, precision, size, threads, clip, folder)
                except ImpastoError as exc:
                    on_skipped(f"{backend} in {precision}, {size[1]}x{size[0]}, file to file: {exc}")


def check_peer() -> None:
    """Said before the minutes of measuring.

    Raises:
        EngineError: PyTorch is missing.
    """
    if find_spec("torch") is None:
        raise missing("torch", "PyTorch", "pip install 'impasto[train]', or leave out --peer")


def bench_peers(
    results: Sequence[Measurement], *, seconds: float, on_progress: Callable[[str], None] = lambda line: None
) -> Iterator[Peer]:
    """Measure what the results are compared with, after them: PyTorch's threads shall not stand beside theirs. What
    cannot be measured is left out with a warning."""
    for device, height, width, threads in dict.fromkeys(
        (one.peer_device, one.height, one.width, 0 if one.peer_device == "cuda" else one.threads) for one in results
    ):
        on_progress(f"Johnson's network in plain PyTorch on {device}, {width}x{height}")
        try:
            times = _peer_seconds(device, (height, width), threads, seconds=seconds)
        except RuntimeError as exc:  # 4K takes several gigabytes
            log.warning("nothing to compare with on %s at %dx%d: %s", device, width, height, one_line(exc))
            continue
        fps = len(times) / sum(times)
        yield Peer(device, height, width, threads, round(statistics.median(times) * 1e3, 2), round(fps, 3))


def _peer_seconds(device: PeerDevice, size: Size, threads: int, *, seconds: float) -> list[float]:
    import torch

    from ..training.networks import NetworkConfig, build_network

    if device == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("PyTorch sees no card")
    network = build_network(NetworkConfig.for_tier("quality")).eval().to(device)
    frame = np.random.default_rng(0).integers(0, 256, (1, *size, 3), dtype=np.uint8)

    @torch.inference_mode()
    def paint() -> None:
        picture = torch.from_numpy(frame).to(device).permute(0, 3, 1, 2).float().contiguous()
        network(picture).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu()

    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        return _timed(paint, seconds=seconds)
    finally:
        torch.set_num_threads(before)


def matrix_peak_tflops(artifact: Artifact, backend: Backend, precision: Precision) -> float | None:
    """1e12 operations a second of matrix products; None where the back end cannot run a graph of them.

    int8 is measured with quantised products, of which each rounds its input anew, as the convolutions do.
    """
    if backend.library in ("torch", "tensorrt"):
        return _card_peak_tflops(precision)
    peaks = [_peak(artifact, backend, precision, side, count) for side, count in PEAK_SHAPES]
    return max((peak for peak in peaks if peak is not None), default=None)


def _peak(artifact: Artifact, backend: Backend, precision: Precision, side: int, count: int) -> float | None:
    try:
        graph = products_graph(side, count, quantized=precision == "int8")
        runner = backend.open_runner(artifact, graph, EngineOptions(precision=precision))
    except ImpastoError:
        return None
    rows = np.random.default_rng(0).normal(size=(side, side)).astype(np.float32)
    try:
        times = _timed(lambda: runner.start({"frame": rows}).result(), seconds=PEAK_SECONDS)
    except ImpastoError:
        return None
    finally:
        runner.close()
    return count * 2 * side**3 / min(times) / 1e12


def _card_peak_tflops(precision: Precision) -> float | None:
    """The same by PyTorch on the first card; None where it has none."""
    try:
        import torch
    except ImportError:
        return None
    if precision not in ("fp16", "fp32") or not torch.cuda.is_available():
        return None
    dtype = torch.float16 if precision == "fp16" else torch.float32
    matrix = torch.randn(CARD_PEAK_SIDE, CARD_PEAK_SIDE, device="cuda", dtype=dtype)

    def product() -> None:
        matrix @ matrix
        torch.cuda.synchronize()

    return float(2 * CARD_PEAK_SIDE**3 / min(_timed(product, seconds=PEAK_SECONDS)) / 1e12)


def _combinations(
    styles: Sequence[Path], options: BenchOptions, on_skipped: Callable[[str], None]
) -> Iterator[tuple[Artifact, Backend, Precision]]:
    for path in styles:
        for artifact in _versions(load_artifact(path)):
            for backend in BACKENDS:
                if options.devices and backend.device not in options.devices:
                    continue
                try:
                    precisions = backend.precisions()
                except ImpastoError as exc:
                    on_skipped(f"{backend}: {exc}")
                    continue
                own: Sequence[Precision] = ("int8",) if artifact.metadata.precision == "int8" else precisions
                for precision in own:
                    if not options.precisions or precision in options.precisions:
                        yield artifact, backend, precision


def _end_to_end(
    artifact: Artifact,
    backend: Backend,
    precision: Precision,
    size: Size,
    threads: int,
    clip: Path,
    folder: Path,
) -> EndToEnd:
    from .video import stylize_video

    height, width = size
    report = stylize_video(
        clip,
        folder / "bench.mp4",
        style=artifact.path,
        device=backend.device,
        library=backend.library,
        precision=precision,
        threads=threads,
        size=f"{width}x{height}",
        overwrite=True,
    )
    medians = [report.stages[stage].p50_ms if stage in report.stages else 0.0 for stage in get_args(Stage)]
    return EndToEnd(
        **vars(Setup.of(artifact, backend, precision, size, threads)),
        frames=report.frames_out,
        fps=round(report.fps, 2),
        decode_ms=round(medians[0], 2),
        stylize_ms=round(medians[1], 2),
        encode_ms=round(medians[2], 2),
    )


def _versions(artifact: Artifact) -> list[Artifact]:
    path = quantized_path(artifact.path)
    return [artifact, load_artifact(path)] if path.is_file() else [artifact]


def _measurements(
    artifact: Artifact,
    backend: Backend,
    precision: Precision,
    options: BenchOptions,
    peak: float | None,
    on_skipped: Callable[[str], None],
) -> Iterator[Measurement]:
    operations = 2 * multiply_adds_per_pixel(parse_model(artifact))
    for threads in options.threads:
        for in_flight in options.in_flight:
            settings = EngineOptions(precision=precision, threads=threads, in_flight=in_flight, build="never")
            try:
                engine = backend.open(artifact, settings)
            except ImpastoError as exc:
                on_skipped(f"{backend} in {precision}: {exc}")
                return
            with closing(engine):
                for height, width in options.sizes:
                    try:
                        latencies_ms, fps = _speed(engine, (height, width), options.seconds)
                    except ImpastoError as exc:
                        on_skipped(f"{backend} in {precision}, {width}x{height}: {exc}")
                        continue
                    yield Measurement(
                        **vars(Setup.of(artifact, backend, precision, (height, width), threads)),
                        in_flight=in_flight,
                        median_ms=round(statistics.median(latencies_ms), 2),
                        p95_ms=round(float(np.percentile(latencies_ms, 95)), 2),
                        fps=round(fps, 2),
                        tflops=round(operations * height * width * fps / 1e12, 4),
                        peak_tflops=None if peak is None else round(peak, 4),
                    )


def _speed(engine: PictureEngine, size: Size, seconds: float) -> tuple[list[float], float]:
    """Milliseconds per frame from submission to result, and frames a second, with the engine's number in flight."""
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (1, *size, 3), dtype=np.uint8) for _ in range(4)]
    engine.warmup(*size)
    engine(frames[0])
    pending: deque[tuple[float, PendingPicture]] = deque()
    latencies_ms: list[float] = []
    index = 0
    start = time.perf_counter()
    while len(latencies_ms) < MIN_ROUNDS or time.perf_counter() - start < seconds:
        pending.append((time.perf_counter(), engine.submit(frames[index % len(frames)])))
        index += 1
        if index < engine.in_flight:  # speed counts from when all places are taken
            start = time.perf_counter()
        if len(pending) == engine.in_flight:
            submitted, picture = pending.popleft()
            picture.result()
            latencies_ms.append((time.perf_counter() - submitted) * 1e3)
    elapsed = time.perf_counter() - start
    for _, picture in pending:
        picture.result()
    return latencies_ms, len(latencies_ms) / elapsed


def _timed(call: Callable[[], object], *, seconds: float) -> list[float]:
    call()
    times: list[float] = []
    while len(times) < MIN_ROUNDS or sum(times) < seconds:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return times


def products_graph(side: int, count: int, *, quantized: bool = False) -> bytes:
    """A chain of `count` products of a (side, side) input with a constant matrix that keeps its scale."""
    from onnx import TensorProto, helper, numpy_helper

    deviation = side**-0.5
    matrix = np.random.default_rng(1).normal(0, deviation, (side, side)).astype(np.float32)
    weights: dict[str, npt.ArrayLike] = {"matrix": matrix}
    if quantized:
        step = 4 * deviation / 127
        weights = {
            "matrix": np.clip(np.rint(matrix / step), -127, 127).astype(np.int8),
            "matrix_step": np.float32(step),
            "step": np.float32(4 / 127),
            "zero": np.int8(0),
        }
    nodes = []
    for index in range(count):
        a, b = "frame" if index == 0 else f"product.{index}", "matrix"
        if quantized:
            nodes += [
                helper.make_node("QuantizeLinear", [a, "step", "zero"], [f"rounded.{index}"]),
                helper.make_node("DequantizeLinear", [f"rounded.{index}", "step", "zero"], [f"left.{index}"]),
                helper.make_node("DequantizeLinear", ["matrix", "matrix_step", "zero"], [f"right.{index}"]),
            ]
            a, b = f"left.{index}", f"right.{index}"
        nodes.append(helper.make_node("MatMul", [a, b], ["product" if index == count - 1 else f"product.{index + 1}"]))
    graph = helper.make_graph(
        nodes,
        "products",
        [helper.make_tensor_value_info("frame", TensorProto.FLOAT, [side, side])],
        [helper.make_tensor_value_info("product", TensorProto.FLOAT, [side, side])],
        [numpy_helper.from_array(np.asarray(values), name) for name, values in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    serialized: bytes = model.SerializeToString()
    return serialized
