"""The README's figures: whole-process speed of `stylize-video` beside what others do, and the network alone.

    python tests/benchmarks/compare_video.py [CLIP …] [--style mosaic] [--tier fast] [--json FILE] [--against FILE]

Without a clip the demo clip is painted. Baselines, each timed in its own process over the same clip, files read and
written included, since that is what a user waits for:

- `eager`: Johnson's network in plain PyTorch eager fp32, one frame after the other, decoded and encoded by PyAV: what
  the well-known examples do.
- `onnxruntime`: the same artifact in ONNX Runtime fp32 on the CPU, one frame after the other.
- `opencv`: the network of the artifact in OpenCV's DNN module, one frame after the other.
- `transcode`: decode and encode alone.

Then the network alone, milliseconds a frame at 1280x720, in every precision of OpenVINO on the CPU. Ratios first:
absolute times hold for one machine on one day. `--json` keeps a run, `--against` shows how the ratios have changed
since one that was kept.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import av

from impasto.assets import DEMO_CLIP

RUNS = 3
SLOW_FRAMES = 8
"""The slow baselines paint only this many frames of the clip; their start-up is not counted."""


@dataclass(frozen=True)
class Speed:
    """Frames per second of one way to paint one clip."""

    way: str
    fps: float
    frames: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clips", nargs="*", type=Path)
    parser.add_argument("--style", default="mosaic")
    parser.add_argument("--tier", default="fast")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--ways", nargs="*", default=list(BASELINES), help="baselines to measure")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--against", type=Path, help="compare with figures that --json wrote")
    parser.add_argument("--way", help=argparse.SUPPRESS)  # a baseline in its own process
    options = parser.parse_args()
    if options.way:
        print(BASELINES[options.way](options.clips[0], options))
        return
    before = json.loads(options.against.read_text()) if options.against else {}
    report: dict[str, Any] = {"machine": machine(), "versions": versions(), "clips": {}}
    print(report["machine"])
    print(", ".join(f"{name} {version}" for name, version in report["versions"].items()))
    for clip in options.clips or [DEMO_CLIP]:
        speeds = [measure_ours(clip, options)]
        speeds += [measure_baseline(clip, options, way) for way in options.ways]
        show(clip, speeds, before.get("clips", {}).get(clip.name, []))
        report["clips"][clip.name] = [asdict(speed) for speed in speeds]
    report["engine_ms"] = engine_alone(options)
    show_engine(report["engine_ms"], before.get("engine_ms", {}))
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


def machine() -> str:
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        model = next((x.split(":")[1].strip() for x in cpuinfo.read_text().splitlines() if "model name" in x), model)
    return f"{model}, {os.cpu_count()} cores, {platform.system()}"


def versions() -> dict[str, str]:
    found = {"Python": platform.python_version()}
    for name in ("impasto", "av", "openvino", "onnxruntime", "opencv-python", "torch"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def engine_alone(options: argparse.Namespace) -> dict[str, float]:
    """Median milliseconds of a 1280x720 frame by precision, one at a time."""
    from impasto.assets import find_style
    from impasto.realtime.bench import BenchOptions, bench

    wanted = BenchOptions(sizes=((720, 1280),), devices=("cpu",), seconds=3.0)
    found = bench([find_style(options.style, options.tier)], wanted)
    return {one.precision: one.median_ms for one in found if one.engine.startswith("openvino")}


def show_engine(now: dict[str, float], before: dict[str, float]) -> None:
    fastest = min(now.values(), default=0.0)
    print("\nnetwork alone, 1280x720, OpenVINO on the CPU")
    for precision, taken_ms in sorted(now.items(), key=lambda entry: entry[1]):
        change = f"   was {before[precision] / min(before.values()):.2f} x" if precision in before else ""
        print(f"  {taken_ms / fastest:8.2f} x   {taken_ms:8.2f} ms         {precision}{change}")


def show(clip: Path, speeds: list[Speed], before: list[dict[str, Any]]) -> None:
    ours = speeds[0].fps
    earlier = {entry["way"]: before[0]["fps"] / entry["fps"] for entry in before}
    with av.open(str(clip)) as container:
        size = f"{container.streams.video[0].width}x{container.streams.video[0].height}"
    print(f"\n{clip.name} ({size})")
    for speed in speeds:
        change = f"   was {earlier[speed.way]:.2f} x" if speed.way in earlier else ""
        print(f"  {ours / speed.fps:8.2f} x   {speed.fps:8.2f} frames/s   {speed.way} ({speed.frames} frames){change}")


def measure_ours(clip: Path, options: argparse.Namespace) -> Speed:
    """The median of several whole processes, start-up included."""
    frames = count_frames(clip)
    seconds = []
    for _ in range(options.runs):
        with tempfile.TemporaryDirectory() as folder:
            command = [
                sys.executable,
                "-c",
                "from impasto.realtime.cli import stylize_video; stylize_video()",
                str(clip),
            ]
            command += ["-o", f"{folder}/out.mp4", "--style", options.style, "--tier", options.tier]
            command += ["--precision", options.precision, "--quiet"]
            begun = time.perf_counter()
            subprocess.run(command, check=True)
            seconds.append(time.perf_counter() - begun)
    return Speed("stylize-video", frames / sorted(seconds)[len(seconds) // 2], frames)


def measure_baseline(clip: Path, options: argparse.Namespace, way: str) -> Speed:
    command = [sys.executable, __file__, str(clip), "--way", way, "--style", options.style, "--tier", options.tier]
    fps, frames = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-2:]
    return Speed(way, float(fps), int(frames))


def count_frames(clip: Path) -> int:
    with av.open(str(clip)) as container:
        return sum(1 for _ in container.decode(video=0))


def through(clip: Path, paint, frames: int | None) -> str:
    """Decode, paint and encode up to `frames` frames one after the other; the first, which warms up, is not timed."""
    with tempfile.TemporaryDirectory() as folder, av.open(str(clip)) as source, av.open(f"{folder}/o.mp4", "w") as out:
        stream = None
        done, begun = -1, 0.0
        for frame in source.decode(video=0):
            painted = paint(frame.to_ndarray(format="rgb24"))
            if stream is None:
                stream = out.add_stream("libx264", rate=source.streams.video[0].average_rate)
                stream.height, stream.width, stream.pix_fmt = (
                    painted.shape[0] // 2 * 2,
                    painted.shape[1] // 2 * 2,
                    "yuv420p",
                )
            picture = painted[: stream.height, : stream.width].copy()
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            done += 1
            if done == 0:
                begun = time.perf_counter()
            if done == frames:
                break
        out.mux(stream.encode())
    return f"{done / (time.perf_counter() - begun)} {done}"


def eager(clip: Path, options: argparse.Namespace) -> str:
    import numpy as np
    import torch

    from impasto.training.networks import NetworkConfig, build_network

    network = build_network(NetworkConfig.for_tier("quality")).eval()

    def paint(picture: np.ndarray) -> np.ndarray:
        height, width = (side // 4 * 4 for side in picture.shape[:2])
        with torch.no_grad():
            x = torch.from_numpy(picture[:height, :width].copy()).permute(2, 0, 1).float()[None]
            y = network(x)[0].clamp(0, 255).permute(1, 2, 0).byte().numpy()
        return y

    return through(clip, paint, SLOW_FRAMES)


def onnxruntime(clip: Path, options: argparse.Namespace) -> str:
    from fractions import Fraction

    from impasto.assets import find_style
    from impasto.realtime.engine_choice import load_engine
    from impasto.realtime.frame import Frame
    from impasto.realtime.stylizer import Stylizer

    engine = load_engine(find_style(options.style, options.tier), device="cpu", precision="fp32", library="onnxruntime")
    stylizer = Stylizer(engine)
    return through(clip, lambda picture: stylizer(Frame(picture, Fraction(0))).data, SLOW_FRAMES)


def opencv(clip: Path, options: argparse.Namespace) -> str:
    """OpenCV's DNN module knows no uint8 network inputs, so it gets the same network without its two ends."""
    import cv2
    import numpy as np
    import torch

    from impasto.training.networks import NetworkConfig, build_network, for_export

    network = for_export(build_network(NetworkConfig.for_tier(options.tier)))
    with av.open(str(clip)) as container:
        stream = container.streams.video[0]
        height, width = stream.height // 4 * 4, stream.width // 4 * 4
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/network.onnx"
        torch.onnx.export(network, (torch.zeros(1, 3, height, width),), path, dynamo=False, opset_version=17)
        net = cv2.dnn.readNetFromONNX(path)

    def paint(picture: np.ndarray) -> np.ndarray:
        net.setInput(picture[:height, :width].transpose(2, 0, 1)[None].astype(np.float32))
        return net.forward()[0].clip(0, 255).transpose(1, 2, 0).astype(np.uint8)

    return through(clip, paint, SLOW_FRAMES)


def transcode(clip: Path, options: argparse.Namespace) -> str:
    return through(clip, lambda picture: picture, None)


BASELINES = {"eager": eager, "onnxruntime": onnxruntime, "opencv": opencv, "transcode": transcode}


if __name__ == "__main__":
    main()
