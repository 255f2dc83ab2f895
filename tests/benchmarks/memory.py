"""Does `stylize-video` keep its memory on a long film? Resident memory between the first minute and the last.

    python tests/benchmarks/memory.py CLIP [--minutes 10] [--size 360p] [options of stylize-video]

The clip is repeated without encoding into one file that is longer than the time given, so that seeks, segments and
sound are as in a film of that length. Prints megabytes at every minute, the growth from minute 1 to the end, and the
slope of a straight line through all of it.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

EVERY_SECONDS = 1.0
REPEATS = 2000
COMMAND = (sys.executable, "-c", "from impasto.realtime.cli import stylize_video; stylize_video()")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clip", type=Path)
    parser.add_argument("--minutes", type=float, default=10.0)
    given, options = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        film = Path(folder) / f"film{given.clip.suffix}"
        copy = ["ffmpeg", "-v", "error", "-stream_loop", str(REPEATS), "-i", str(given.clip), "-c", "copy", str(film)]
        subprocess.run(copy, check=True)
        command = [*COMMAND, str(film), "-o", f"{folder}/out.mp4", "--quiet", *options]
        seconds, megabytes = watch(subprocess.Popen(command), given.minutes * 60)
    settled = seconds >= min(60, seconds[-1] / 2)
    slope = np.polyfit(seconds[settled] / 60, megabytes[settled], 1)[0]
    for minute in range(int(seconds[-1] // 60) + 1):
        print(f"minute {minute}: {np.interp(60 * minute, seconds, megabytes):7.1f} MB")
    first, last = (np.median(megabytes[settled][part]) for part in (slice(10), slice(-10, None)))
    print(
        f"from second {seconds[settled][0]:.0f} to {seconds[-1]:.0f}: {last - first:+.1f} MB, {slope:+.2f} MB a minute"
    )


def watch(process: subprocess.Popen[bytes], seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """Times in seconds and resident megabytes of the process and its children, until then; it is killed."""
    root, began = psutil.Process(process.pid), time.monotonic()
    times, sizes = [], []
    while (now := time.monotonic() - began) < seconds:
        if process.poll() is not None:
            raise SystemExit(f"the film must be longer than {seconds:.0f} s, but it ended after {now:.0f}")
        sizes.append(sum(one.memory_info().rss for one in [root, *root.children(recursive=True)]) / 1e6)
        times.append(now)
        time.sleep(EVERY_SECONDS)
    process.kill()
    process.wait()
    return np.array(times), np.array(sizes)


if __name__ == "__main__":
    main()
