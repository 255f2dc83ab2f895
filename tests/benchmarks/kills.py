"""SIGKILL at random moments, resumed until it is done: does the film always come out the same?

    python tests/benchmarks/kills.py CLIP --style ARTIFACT [--kills 20] [--smooth 0.8] [--normalization carried]
        [--precision bf16]

Each life of the job is a process of its own with the real engine; it is killed after a random share of the time that
an undisturbed run took, counted from when its first frame may be painted. Compares FFmpeg's framemd5 of the results.
Name a precision on a busy machine: every film begins with a race of its own, which may end otherwise there.
"""

import argparse
import multiprocessing
import random
import subprocess
import tempfile
import time
from pathlib import Path


def paint(clip, out, look, started):
    from impasto.realtime.video import stylize_video

    started.set()
    stylize_video(clip, out, library="openvino", segment_frames=24, resume=True, **look)


def framemd5(path):
    command = ["ffmpeg", "-v", "error", "-i", path, "-map", "0:v", "-fps_mode", "passthrough", "-f", "framemd5", "-"]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True).stdout


def live(context, clip, out, look):
    started = context.Event()
    process = context.Process(target=paint, args=(clip, out, look, started))
    process.start()
    started.wait()
    return process


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clip", type=Path)
    parser.add_argument("--style", required=True)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smooth", type=float, default=0.0)
    parser.add_argument("--normalization", default="frame")
    parser.add_argument("--precision", default="auto")
    given = parser.parse_args()
    look = {"style": given.style, "smooth": given.smooth, "normalization": given.normalization}
    look["precision"] = given.precision
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["impasto.realtime.video", "openvino", "cv2"])
    rng = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as folder:
        whole, out = Path(folder) / "whole.mp4", Path(folder) / "out.mp4"
        for _ in range(2):  # the first warms caches
            whole.unlink(missing_ok=True)
            began = time.perf_counter()
            live(context, given.clip, whole, look).join()
            seconds = time.perf_counter() - began
        expected = framemd5(whole)
        kills = finished = same = 0
        while kills < given.kills:
            process = live(context, given.clip, out, look)
            process.join(rng.uniform(0, seconds))
            if process.is_alive():
                process.kill()
                kills += 1
            process.join()
            if out.exists():
                finished += 1
                same += framemd5(out) == expected
                out.unlink()
        live(context, given.clip, out, look).join()
        finished, same = finished + 1, same + (framemd5(out) == expected)
        left = sorted(path.name for path in Path(folder).iterdir())
        print(f"{kills} kills, {finished} films finished, {same} the same as undisturbed; left in the folder: {left}")


if __name__ == "__main__":
    main()
