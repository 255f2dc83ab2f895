"""Where a frame's time goes on a processor: OpenVINO's own counters, by kind of operator and for the slowest ones.

    python tests/benchmarks/openvino_profile.py STYLE.onnx [--size 1280x720] [--precision bf16] [--rounds 15]

For each operator the fastest of all rounds is taken, so that a busy machine distorts less; their sum is below the
time of a whole frame.
"""

import argparse
from collections import Counter
from pathlib import Path

import numpy as np
import openvino

from impasto.export.artifact import load_artifact


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("style", type=Path)
    parser.add_argument("--size", default="1280x720")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16")
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    width, height = map(int, given.size.split("x"))
    core = openvino.Core()
    model = core.read_model(load_artifact(given.style).read())
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
    print(f"{total:.1f} ms in {len(fastest)} operators")
    for kind, taken_ms in kinds.most_common(8):
        print(f"{taken_ms / total:6.1%} {taken_ms:7.2f} ms  {kind}")
    print()
    for (name, kind, how), taken_ms in sorted(fastest.items(), key=lambda item: -item[1])[:12]:
        print(f"{taken_ms / total:6.1%} {taken_ms:7.2f} ms  {kind} {name} ({how})")


if __name__ == "__main__":
    main()
