"""What a large Gatys picture costs, and what coarse to fine gains: python tests/benchmarks/gatys.py WEIGHTS PHOTO STYLE

For each way the picture is painted for the same processor time, which is fair on a machine that others use as well;
the total of the final size is compared. Totals of one size are comparable, whatever way led to them. Peak memory is of
this process, less what it held before: run one way at a time to see each one's.
"""

import argparse
import resource
import time
from dataclasses import replace
from pathlib import Path

import torch

from impasto.training.data import read_picture, to_tensor
from impasto.training.gatys import StyleImage, _objective, check_memory, paint, resize, scale_sizes
from impasto.training.gatys_config import GatysConfig
from impasto.training.loss_network import load_loss_network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", type=Path)
    parser.add_argument("photo", type=Path)
    parser.add_argument("style", type=Path)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--seconds", type=float, default=120.0, help="of processor time, all threads together")
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--ways", default="single,coarse-to-fine")
    parser.add_argument("--statistics", default="gram")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    network = load_loss_network(weights=options.weights)
    photo, style = read_picture(options.photo), StyleImage(read_picture(options.style))
    config = GatysConfig(size=options.size, min_size=options.size, statistics=options.statistics)
    height, width = scale_sizes(*photo.shape[:2], options.size, options.size)[0]
    needed = check_memory((height, width), [style], network, config)
    print(f"{width}x{height}, estimated {needed / 2**30:.2f} GB", flush=True)
    for way in options.ways.split(","):
        report(way, config, photo, style, network, options.seconds, (height, width))


def report(way, config, photo, style, network, seconds, shape) -> None:  # type: ignore[no-untyped-def]
    """One way, for so many seconds."""
    here = replace(config, iterations=100_000)
    if way == "coarse-to-fine":
        here = replace(
            here, min_size=min(256, config.size), iterations=_iterations(photo, style, network, here, seconds)
        )
    before = rss()
    begun = time.process_time()
    last = [0]

    def count(iterate) -> None:  # type: ignore[no-untyped-def]
        last[0] = iterate.iteration

    def late() -> bool:
        return time.process_time() - begun > seconds

    painted = paint(photo, [style], network, here, callback=count, should_stop=late)
    gone = time.process_time() - begun
    canvas = to_tensor(resize(painted.picture, *shape))
    with torch.no_grad():
        objective = _objective(photo, [style], None, network, config, *shape)
        losses = {name: float(value) for name, value in objective.losses(canvas).items()}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    evaluations = [len(curve) for curve in painted.curves]
    shown = "  ".join(f"{name} {value:.4g}" for name, value in losses.items())
    times = f"{gone:.1f} s of processor time, {painted.seconds:.1f} s"
    print(f"{way}: {times}, evaluations {evaluations}, {shown}, peak +{peak / 2**30:.2f} GB", flush=True)


def _iterations(photo, style, network, config, seconds) -> int:  # type: ignore[no-untyped-def]
    """As many at each scale as fill the time, from one timed evaluation at the largest."""
    begun = time.process_time()
    paint(photo, [style], network, replace(config, min_size=config.size, iterations=4))
    each = (time.process_time() - begun) / 4
    return max(1, int(0.9 * seconds / (2 * each)))  # the smaller scales together cost as much as the largest


def rss() -> int:
    """Bytes of memory in use."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


if __name__ == "__main__":
    main()
