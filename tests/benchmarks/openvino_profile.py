"""Where a frame's time goes on a processor: OpenVINO's own counters, by kind of operator and for the slowest ones.

    python tests/benchmarks/openvino_profile.py STYLE.onnx [--size 1280x720] [--precision bf16] [--rounds 15]

For each operator the fastest of all rounds is taken, so that a busy machine distorts less; their sum is below the
time of a whole frame. The convolutions' own speed stands beside the matrix products of `impasto bench`: what a whole
frame lacks of that peak is what the other operators take. An int8 artifact runs its other operators in --precision.
"""

import argparse
from collections import Counter
from pathlib import Path

import numpy as np
import openvino

from impasto.export.artifact import load_artifact, parse_model
from impasto.export.graph import multiply_adds_per_pixel
from impasto.realtime.bench import matrix_peak_tflops
from impasto.realtime.engine import BACKENDS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("style", type=Path)
    parser.add_argument("--size", default="1280x720")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16")
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    width, height = map(int, given.size.split("x"))
    core = openvino.Core()
    artifact = load_artifact(given.style)
    model = core.read_model(artifact.read())
    model.reshape([1, height, width, 3])
    hint = {"fp32": "f32", "bf16": "bf16"}[given.precision]
    settings = {"PERF_COUNT": True, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": hint}
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    frame = np.random.default_rng(0).integers(0, 256, (1, height, width, 3), dtype=np.uint8)
    fastest: dict[tuple[str, str, str], float] = {}
    for _ in range(given.rounds):
        request.infer({0: frame})
        for entry in request.get_profiling_info():
            key = (entry.node_name, entry.node_type, entry.exec_type)
            taken_ms = entry.real_time.total_seconds() * 1e3
            fastest[key] = min(taken_ms, fastest.get(key, taken_ms))
    total = sum(fastest.values())
    kinds: Counter[str] = Counter()
    for (_, kind, _), taken_ms in fastest.items():
        kinds[kind] += taken_ms
    backend = next(one for one in BACKENDS if (one.library, one.device) == ("openvino", "cpu"))
    peak = matrix_peak_tflops(artifact, backend, given.precision if artifact.metadata.precision != "int8" else "int8")
    operations = 2 * multiply_adds_per_pixel(parse_model(artifact)) * height * width / 1e9
    convolutions = sum(taken_ms for kind, taken_ms in kinds.items() if kind.startswith("Convolution"))
    print(f"{total:.1f} ms in {len(fastest)} operators: {operations / total:.2f} TFLOP/s")
    print(f"matrix products: {peak:.2f} TFLOP/s; the frame has {operations / total / peak:.0%} of it,", end=" ")
    print(f"its convolutions alone {operations / convolutions / peak:.0%}")
    for kind, taken_ms in kinds.most_common(8):
        print(f"{taken_ms / total:6.1%} {taken_ms:7.2f} ms  {kind}")
    print()
    for (name, kind, how), taken_ms in sorted(fastest.items(), key=lambda item: -item[1])[:12]:
        print(f"{taken_ms / total:6.1%} {taken_ms:7.2f} ms  {kind} {name} ({how})")


if __name__ == "__main__":
    main()
