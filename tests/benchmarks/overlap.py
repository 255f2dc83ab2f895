"""How well `stylize-video` overlaps its stages: whole process against each stage alone, in one process.

    python tests/benchmarks/overlap.py CLIP --style ARTIFACT [--in-flight 1 2 4] [--frames 120] [--threads 2]

`engine` paints decoded frames one after the other or several at once, with nothing beside it; `decode` and `encode`
likewise run alone; `whole` is the command itself, from file to file, loading left out. "At equal processor time"
divides the processor time of the engine alone by that of the whole process: on a processor that the engine keeps busy
with all its cores it is the most that whole/engine can be, and it can be measured on a machine that is shared.
With `--threads` below the number of cores the engine leaves room, and whole/slowest tells about overlap alone.
"""

import argparse
import itertools
import tempfile
import time
from collections import deque
from pathlib import Path

from impasto.realtime import video_engines
from impasto.realtime.options import VideoOptions
from impasto.realtime.sink_file import VideoFileWriter
from impasto.realtime.source_file import VideoFile
from impasto.realtime.video_job import open_job


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clip", type=Path)
    parser.add_argument("--style", required=True)
    parser.add_argument("--size")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--in-flight", type=int, nargs="+", default=[video_engines.IN_FLIGHT])
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--preset")
    parser.add_argument("--threads", type=int, default=0, help="of the engine; 0 for its own choice, all cores")
    given = parser.parse_args()
    frames, decode_fps, info = decode_alone(given.clip, given.size, given.frames)
    encode_fps = encode_alone(frames, info, given.preset)
    print(f"{given.clip.name} {info.width}x{info.height}: decode alone {decode_fps:.1f}, encode alone {encode_fps:.1f}")
    for in_flight in given.in_flight:
        video_engines.IN_FLIGHT = in_flight
        options = VideoOptions(style=given.style, size=given.size, precision=given.precision, overwrite=True,
                               preset=given.preset, end=frames[-1].pts, resume=False,
                               threads=given.threads)  # fmt: skip
        with video_engines.Engines(options) as engines, tempfile.TemporaryDirectory() as folder:
            stylizer = engines.stylizer(options, info)
            began = time.process_time()
            engine_fps = engine_alone(stylizer, frames)
            engine_cpu = time.process_time() - began
            with open_job(given.clip, Path(folder) / "out.mp4", options, engines) as job:
                began = time.process_time()
                report = job.run()
                whole_cpu = time.process_time() - began
            slowest = min(decode_fps, encode_fps, engine_fps)
            share = engine_cpu / whole_cpu
            print(
                f"  in flight {in_flight}: whole/slowest {report.fps / slowest:.3f}, "
                f"whole/engine {report.fps / engine_fps:.3f}, at equal processor time {share:.3f}; "
                f"whole {report.fps:.1f}, engine alone {engine_fps:.1f} frames/s; "
                + ", ".join(f"{name} {times.p50_ms:.1f} ms" for name, times in report.stages.items()),
                flush=True,
            )


def decode_alone(clip, size, count):
    with VideoFile(clip, size=size) as source:
        began = time.perf_counter()
        frames = list(itertools.islice(source, count))
        return frames, len(frames) / (time.perf_counter() - began), source.info


def encode_alone(frames, info, preset):
    from impasto.realtime.codecs import Encoding

    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        with VideoFileWriter(Path(folder) / "out.mp4", info, encoding=Encoding(preset=preset)) as sink:
            for frame in frames:
                sink.write(frame)
        return len(frames) / (time.perf_counter() - began)


def engine_alone(stylizer, frames):
    waiting = deque()
    for frame in frames[: max(4, stylizer.in_flight)]:
        stylizer(frame)
    began = time.perf_counter()
    for frame in frames:
        waiting.append(stylizer.submit(frame))
        if len(waiting) == stylizer.in_flight:
            waiting.popleft().result()
    while waiting:
        waiting.popleft().result()
    return len(frames) / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
