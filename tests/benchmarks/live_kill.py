"""SIGKILL a recording program at random moments: how much of what the camera saw is missing from each file?

    python tests/benchmarks/live_kill.py --runs 20 --style mosaic

The clock that is painted into each picture says when the last readable one was captured; the loss is the time from
then to the kill. Each file must also play without a single error in FFmpeg.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import av

from impasto.realtime.time_code import read_time_code


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--style", default="mosaic")
    parser.add_argument("--source", default="lavfi:testsrc2=size=640x360:rate=30")
    arguments = parser.parse_args()
    rng, losses, broken = random.Random(arguments.seed), [], 0
    with tempfile.TemporaryDirectory() as folder:
        for number in range(arguments.runs):
            path = Path(folder) / f"{number}.mp4"
            killed = record_and_kill(arguments, path, rng.uniform(1.5, 4.5))
            losses.append(killed - last_seen(path))
            played = subprocess.run(
                ["ffmpeg", "-v", "error", "-i", str(path), "-enc_time_base", "1:90000", "-f", "null", "-"],
                capture_output=True, text=True,
            )  # fmt: skip
            broken += bool(played.returncode or played.stderr)
            print(f"{number}: {losses[-1]:.2f} s lost {played.stderr}", flush=True)
    losses.sort()
    print(json.dumps({
        "runs": len(losses), "unplayable": broken, "median_loss_seconds": round(losses[len(losses) // 2], 3),
        "worst_loss_seconds": round(losses[-1], 3),
    }))  # fmt: skip


def record_and_kill(arguments: argparse.Namespace, path: Path, seconds: float) -> float:
    """The monotonic time of the kill, `seconds` after the recording began."""
    command = "from impasto.realtime.cli import stylize_webcam; stylize_webcam()"
    program = subprocess.Popen(
        [sys.executable, "-c", command, arguments.source, "--style", arguments.style, "--no-panel", "--time-code",
         "--record", str(path)],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    for line in program.stderr or []:
        if line.startswith("recording: running"):
            break
    time.sleep(1.5 + seconds)
    program.kill()
    killed = time.monotonic()
    program.wait()
    return killed


def last_seen(path: Path) -> float:
    """When the last readable picture was captured."""
    seen = 0.0
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            seen = read_time_code(frame.to_ndarray(format="rgb24")) or seen
    return seen


if __name__ == "__main__":
    main()
