"""Parity and speed on a graphics card, in one go: every way to a card, both tiers, 720p, 1080p and 4K.

    python tests/benchmarks/gpu_table.py [--checkpoint FILE ...] [--photos DIR] [--seconds 3] [-o table.json]

Needs impasto[gpu,tensorrt,train] with a CUDA build of PyTorch; TensorRT's engines take minutes to build. `--hardware
cpu --size 360p` tries the script itself without a card.

Without checkpoints it paints with fresh random networks of both tiers: their speed is that of trained ones. Parity is
against PyTorch in fp32 on the processor, on photographs or, without --photos, on the demo clip's frames. The share of
the peak is of a measured fp16 matrix product (8192) on the same card. What is not installed is named and left out.
Target: quality tier at 1080p, 300 frames/s on an H100.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from impasto.assets import DEMO_CLIP
from impasto.export.artifact import Artifact, Metadata, Precision, parse_model, save_artifact
from impasto.export.graph import multiply_adds_per_pixel
from impasto.export.parity import Picture, compare
from impasto.export.pictures import clip_frames, crop_to_stride, load_photographs
from impasto.export.to_onnx import build_graph, metadata_of, torch_reference
from impasto.realtime import nvidia
from impasto.realtime.engine import BACKENDS, Backend, EngineOptions, PictureEngine
from impasto.realtime.errors import ImpastoError

SIZES = {"360p": (360, 640), "720p": (720, 1280), "1080p": (1080, 1920), "4k": (2160, 3840)}


TARGET_FPS = 300
"""For the quality tier at 1080p on an H100."""


@dataclass(frozen=True)
class Row:
    """One engine in one precision at one size."""

    style: str
    engine: str
    precision: str
    size: str
    median_ms: float
    p95_ms: float
    fps: float
    tflops: float
    share_of_fp16_peak: float | None
    psnr_db: float
    max_difference: int
    share_over_2: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, action="append", default=[])
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--size", choices=tuple(SIZES), action="append", default=[])
    parser.add_argument("--tier", choices=("fast", "quality"), action="append", default=[])
    parser.add_argument("--hardware", choices=("card", "cpu"), default="card")
    parser.add_argument("-o", "--output", type=Path)
    given = parser.parse_args()
    driver = nvidia.driver()
    print("driver:", driver or nvidia.diagnosis(), file=sys.stderr)
    photos = load_photographs(given.photos, count=6) if given.photos else clip_frames(DEMO_CLIP, count=6)
    peak = fp16_peak_tflops()
    sizes = {name: SIZES[name] for name in given.size or ("720p", "1080p", "4k")}
    backends = [one for one in BACKENDS if (one.hardware == "cpu") == (given.hardware == "cpu")]
    rows: list[Row] = []
    with TemporaryDirectory() as folder:
        for artifact, references in artifacts(given.checkpoint, given.tier, photos, Path(folder)):
            for backend in backends:
                for row in measure(backend, artifact, photos, references, peak, sizes, given.seconds):
                    rows.append(row)
                    print(line(row), flush=True)
                    if given.output:  # what a crash leaves is worth having
                        report = {"driver": str(driver), "fp16_peak_tflops": peak}
                        given.output.write_text(json.dumps(report | {"rows": [asdict(one) for one in rows]}, indent=2))
    if not rows:
        sys.exit("no engine for a graphics card works here: impasto doctor says what is missing")
    print(f"fp16 matrix products: {'none' if peak is None else f'{peak:.0f} TFLOP/s'}")
    at_target = [row.fps for row in rows if row.style.endswith(" quality") and row.size == "1080p"]
    if at_target:
        verdict = "reached" if max(at_target) >= TARGET_FPS else "missed"
        print(f"quality tier at 1080p: {max(at_target):.0f} frames/s, target of {TARGET_FPS} {verdict}")


def line(row: Row) -> str:
    """The row as text."""
    share = f"{row.share_of_fp16_peak:6.1%}" if row.share_of_fp16_peak is not None else "     -"
    return (
        f"{row.style:16} {row.engine:30} {row.precision:5} {row.size:6} {row.median_ms:8.2f} ms p95 {row.p95_ms:8.2f} "
        f"{row.fps:8.1f} fps {row.tflops:8.2f} TFLOP/s {share} {row.psnr_db:6.1f} dB max {row.max_difference} "
        f"over 2: {row.share_over_2:.3%}"
    )


def artifacts(
    checkpoints: list[Path], tiers: list[str], photos: list[Picture], folder: Path
) -> list[tuple[Artifact, list[Picture]]]:
    """Artifacts of the given checkpoints, or of random networks of both tiers, with PyTorch's fp32 pictures."""
    import torch

    from impasto.training.checkpoint import load_checkpoint
    from impasto.training.networks import NetworkConfig, build_network

    made = []
    networks = []
    for path in checkpoints:
        loaded = load_checkpoint(path)
        networks.append((loaded.build(), metadata_of(loaded, stride=4)))
    if not checkpoints:
        for tier in tiers or ("fast", "quality"):
            torch.manual_seed(0)
            network = build_network(NetworkConfig.for_tier(tier)).eval()
            with torch.no_grad():  # equal tensors would be stored once, and PyTorch could not find its weights
                for parameter in network.parameters():
                    parameter.add_(0.001 * torch.randn_like(parameter))
            training = {"network": network.config.to_dict()}
            networks.append((network, Metadata(name="random", tier=tier, stride=4, training=training)))
    for index, (network, metadata) in enumerate(networks):
        model = build_graph(network, photographs=photos)
        artifact = save_artifact(model, metadata, folder / f"{index}.onnx")
        reference = torch_reference(network)
        made.append((artifact, [reference(crop_to_stride(photo, 4)) for photo in photos]))
    return made


def measure(
    backend: Backend,
    artifact: Artifact,
    photos: list[Picture],
    references: list[Picture],
    peak: float | None,
    sizes: dict[str, tuple[int, int]],
    seconds: float,
) -> Iterator[Row]:
    """All precisions and sizes of one back end; what does not work is said on standard error."""
    try:
        precisions = backend.precisions()
    except ImpastoError as exc:
        print(f"not {backend}: {exc}", file=sys.stderr)
        return
    for precision in precisions:
        try:
            yield from measure_precision(backend, precision, artifact, photos, references, peak, sizes, seconds)
        except Exception as exc:  # the others are still worth measuring
            print(f"not {backend} in {precision}: {type(exc).__name__}: {exc}", file=sys.stderr)


def measure_precision(
    backend: Backend,
    precision: Precision,
    artifact: Artifact,
    photos: list[Picture],
    references: list[Picture],
    peak: float | None,
    sizes: dict[str, tuple[int, int]],
    seconds: float,
) -> Iterator[Row]:
    """Parity on the photographs, then the speed at every size."""
    operations = 2 * multiply_adds_per_pixel(parse_model(artifact))
    engine = backend.open(artifact, EngineOptions(precision=precision))
    pairs = [
        (wanted, engine(crop_to_stride(photo, 4)[np.newaxis])[0])
        for wanted, photo in zip(references, photos, strict=True)
    ]
    parity = compare(pairs, precision=precision, engine=str(backend))
    for name, (height, width) in sizes.items():
        times = timed(engine, height, width, seconds)
        median = statistics.median(times)
        tflops = operations * height * width / median / 1e12
        yield Row(
            style=f"{artifact.metadata.name} {artifact.metadata.tier}",
            engine=f"{backend} {backend.version()}",
            precision=precision,
            size=name,
            median_ms=median * 1e3,
            p95_ms=float(np.percentile(times, 95)) * 1e3,
            fps=1 / median,
            tflops=tflops,
            share_of_fp16_peak=tflops / peak if peak and precision == "fp16" else None,
            psnr_db=parity.psnr_db,
            max_difference=parity.max_difference,
            share_over_2=parity.share_over_2,
        )
    engine.close()


def timed(engine: PictureEngine, height: int, width: int, seconds: float) -> list[float]:
    """Seconds of each frame, copies to and from the card included."""
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (1, height, width, 3), dtype=np.uint8) for _ in range(4)]
    engine.warmup(height, width)
    for frame in frames:
        engine(frame)
    times: list[float] = []
    while sum(times) < seconds or len(times) < 20:
        start = time.perf_counter()
        engine(frames[len(times) % 4])
        times.append(time.perf_counter() - start)
    return times


def fp16_peak_tflops(side: int = 8192, rounds: int = 50) -> float | None:
    """1e12 operations a second of an fp16 matrix product on the card; None without PyTorch for CUDA."""
    import torch

    if not torch.cuda.is_available():
        return None
    a = torch.randn(side, side, device="cuda", dtype=torch.float16)
    for _ in range(5):
        a @ a
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(rounds):
        a @ a
    torch.cuda.synchronize()
    return rounds * 2 * side**3 / (time.perf_counter() - start) / 1e12


if __name__ == "__main__":
    main()
