"""A long live run with everything that happens to one: style switches, lost cameras, viewers that come and go.

    python tests/benchmarks/live_soak.py --minutes 30
    python tests/benchmarks/live_soak.py --minutes 4 --churn switches --pace 4      # which of them makes it grow?

How it counts. The churn is cut into up to ten equal stretches. After each, everything rests for a moment in the same
state: one viewer, a live camera, and the same four networks kept warm, whichever came and went before; there memory
(resident), threads, open files and child processes of the program are read. The growth is that from the first rest
to the last, so like is compared with like, and what the first stretch fills (caches, libraries) does not count.
Between the rests, in a fade or while a style is loaded, two networks more may be open: such peaks are compared with
peaks, the highest in the last third of the stretches with the highest in the first third, the very first left out
because libraries are compared in it. Ends with 1 if anything grew too much.
"""

import argparse
import http.client
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import psutil

STYLES = ["mosaic", "starry-night", "great-wave", "udnie", "woodcut", "the-scream"]
"""More than the program keeps warm, so that networks come and go."""
SECONDS_BETWEEN = {"switches": 4.0, "reconnects": 20.0, "viewers": 3.0}
LIMITS = {"memory_mb": 20.0, "peak_mb": 20.0, "threads": 1.0, "files": 2.0, "children": 0.0}
"""The most that may be more at the end; a viewer that has just left may still hold a file and a thread."""
MOST_RESTS = 10
"""Of which the first is where the growth is counted from: by then every cache is full."""
REST_SECONDS = 4.0
KEPT_WARM = 4
"""Networks that the program keeps: to compare like with like, the last ones before a rest are always the same."""
PEAK_EVERY_SECONDS = 0.25
UNITS = {
    "memory_mb": "memory at rest, MB", "peak_mb": "highest memory, MB", "threads": "threads", "files": "open files",
    "children": "child processes",
}  # fmt: skip


@dataclass
class Counts:
    """What was done to the program."""

    switches: int = 0
    reconnects: int = 0
    viewers: int = 0


@dataclass
class Run:
    """A program that runs, and where it is reached."""

    program: subprocess.Popen[str]
    said: list[str] = field(default_factory=list)
    urls: dict[str, str] = field(default_factory=dict)
    counts: Counts = field(default_factory=Counts)

    def __post_init__(self) -> None:
        for line in self.program.stderr or []:
            self.said.append(line)
            for name in ("panel", "players"):
                if line.startswith(f"{name}:"):
                    self.urls[name] = line.split()[1]
            if "players" in self.urls:
                break
        else:
            raise SystemExit("".join(self.said))
        threading.Thread(target=lambda: self.said.extend(self.program.stderr or []), daemon=True).start()

    def wait_painted(self) -> None:
        """The first time on a machine the libraries are compared, which is no part of a soak."""
        self.wait([], lambda state: state["counts"]["painted"] > 0)

    def wait(self, viewers: list[Any], done: Callable[[dict[str, Any]], bool]) -> None:
        while not done(json.loads(self.ask("/api/state"))):
            for _ in range(20):
                time.sleep(0.02)
                read_some(viewers)

    def set(self, changes: dict[str, Any]) -> None:
        self.ask("/api/settings", json.dumps(changes).encode())

    def ask(self, path: str, body: bytes | None = None) -> bytes:
        base, token = self.urls["panel"].split("/?token=")
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        answer: bytes = urllib.request.urlopen(urllib.request.Request(base + path, body, headers), timeout=30).read()
        return answer


def main() -> None:
    arguments = parse()
    command = "from impasto.realtime.cli import stylize_webcam; stylize_webcam()"
    with tempfile.TemporaryDirectory() as config:
        run = Run(subprocess.Popen(
            [sys.executable, "-c", command, arguments.source, "--style", arguments.styles[0], "--port", "0", "--json",
             "--latency-budget", arguments.latency_budget],
            stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | {"IMPASTO_CONFIG": config},
        ))  # fmt: skip
        try:
            rows = soak(arguments, run)
        finally:
            run.program.send_signal(2)
        report = json.loads(run.program.communicate(timeout=30)[0])
    if run.program.returncode != 130:  # as Ctrl-C has it
        print("".join(run.said[-5:]), file=sys.stderr)
    print(json.dumps({"exit_code": run.program.returncode, "churn": vars(run.counts), "report": report}))
    raise SystemExit(not verdict(rows, run.counts))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0, help="of churn; the rests come on top")
    parser.add_argument("--styles", nargs="+", default=STYLES)
    parser.add_argument("--source", default="lavfi:testsrc2=size=640x360:rate=30")
    parser.add_argument("--churn", nargs="+", choices=tuple(SECONDS_BETWEEN), default=list(SECONDS_BETWEEN))
    parser.add_argument("--pace", type=float, default=1.0, help="so many times as often as a person would")
    parser.add_argument("--latency-budget", default="80ms", help="off keeps the painted size, and so memory, the same")
    return parser.parse_args()


def soak(arguments: argparse.Namespace, run: Run) -> list[dict[str, float]]:
    """Figures of the program in the rests between times in which things happen to it."""
    viewers = [urllib.request.urlopen(run.urls["players"], timeout=5)]  # somebody always looks
    run.wait_painted()
    rng, rows, started = random.Random(0), [], time.monotonic()
    rests = min(max(round(arguments.minutes), 3), MOST_RESTS)
    for _ in range(rests):
        peak_mb = churn(arguments, run, viewers, rng, seconds=60 * arguments.minutes / rests)
        rest(arguments, run, viewers)
        painted_at = json.loads(run.ask("/api/state"))["work"]["height"]
        rows.append(
            row(psutil.Process(run.program.pid), time.monotonic() - started)
            | {"peak_mb": peak_mb, "painted_at": painted_at}
        )
        print(json.dumps(rows[-1]), flush=True)
    for viewer in viewers:
        viewer.close()
    return rows


def churn(arguments: argparse.Namespace, run: Run, viewers: list[Any], rng: random.Random, *, seconds: float) -> float:
    """Let things happen for so long; the highest memory of the program meanwhile, in MB."""
    started, program = time.monotonic(), psutil.Process(run.program.pid)
    peak, look_at = 0.0, started
    between = {name: min(SECONDS_BETWEEN[name] / arguments.pace, seconds / 2) for name in arguments.churn}
    due = {name: started + gap for name, gap in between.items()}
    while (now := time.monotonic()) < started + seconds:
        time.sleep(0.02)
        read_some(viewers)
        if now >= look_at:
            peak, look_at = max(peak, resident_mb(program)), now + PEAK_EVERY_SECONDS
        if not viewers:  # let go while we waited for an answer; without a viewer the program rests
            viewers.append(urllib.request.urlopen(run.urls["players"], timeout=5))
        for name in [name for name, when in due.items() if now >= when]:
            due[name] += between[name]
            if name == "switches":
                run.set(a_look(rng, arguments.styles))
            elif name == "viewers":
                come_and_go(rng, viewers, run.urls["players"])
            else:
                for child in psutil.Process(run.program.pid).children():
                    child.kill()
            setattr(run.counts, name, getattr(run.counts, name) + 1)
    return peak


def rest(arguments: argparse.Namespace, run: Run, viewers: list[Any]) -> None:
    """Bring the program into the same state every time: the same networks kept warm, one viewer, a camera."""
    while len(viewers) > 1:
        viewers.pop().close()
    for style in arguments.styles[:KEPT_WARM] if "switches" in arguments.churn else ():
        run.set({"style": style, "smoothing": 0.0, "strength": 1.0, "keep_colors": False, "mirror": False})
        run.wait(viewers, lambda state, style=style: state["painting"] == style and not state["loading"])
    run.wait(viewers, lambda state: state["camera"]["state"] == "live")
    end = time.monotonic() + REST_SECONDS
    run.wait(viewers, lambda state: time.monotonic() > end)


def a_look(rng: random.Random, styles: list[str]) -> dict[str, Any]:
    return {
        "style": rng.choice(styles), "strength": rng.choice([0.5, 1.0]), "keep_colors": rng.random() < 0.3,
        "smoothing": rng.choice([0.0, 0.6]), "mirror": rng.random() < 0.5,
    }  # fmt: skip


def read_some(viewers: list[Any]) -> None:
    """The first two read; the others never do, and are let go in the end."""
    for viewer in viewers[:2]:
        try:
            viewer.read1(1 << 20)
        except (http.client.HTTPException, OSError):
            viewers.remove(viewer)


def come_and_go(rng: random.Random, viewers: list[Any], url: str) -> None:
    viewers.append(urllib.request.urlopen(url, timeout=5))
    if len(viewers) > 4:
        viewers.pop(rng.randrange(1, len(viewers))).close()


def row(program: psutil.Process, now: float) -> dict[str, float]:
    return {
        "minute": round(now / 60, 2), "memory_mb": resident_mb(program),
        "threads": program.num_threads(), "files": program.num_fds(), "children": len(program.children()),
    }  # fmt: skip


def resident_mb(program: psutil.Process) -> float:
    return round(program.memory_info().rss / 2**20, 1)


def verdict(rows: list[dict[str, float]], counts: Counts) -> bool:
    """Print what grew; True if nothing grew too much."""
    first, last = dict(rows[0]), dict(rows[-1])
    third = max((len(rows) - 1) // 3, 1)
    first["peak_mb"] = max(entry["peak_mb"] for entry in rows[1 : 1 + third])
    last["peak_mb"] = max(entry["peak_mb"] for entry in rows[-third:])
    done = ", ".join(f"{value} {name}" for name, value in vars(counts).items() if value)
    print(f"\nminutes {first['minute']} to {last['minute']}: {done}")
    if first["painted_at"] != last["painted_at"]:
        print("memory is not comparable: the governor painted at another size; give --latency-budget off")
    print(f"{'':18} {'start':>8} {'end':>8} {'growth':>8} {'may be':>8}")
    fine = True
    for name, limit in LIMITS.items():
        start, end = first[name], last[name]
        fine &= end - start <= limit
        print(
            f"{UNITS[name]:18} {start:8.1f} {end:8.1f} {end - start:+8.1f} {limit:+8.1f}"
            f"  {'ok' if end - start <= limit else 'TOO MUCH'}"
        )
    return fine


if __name__ == "__main__":
    main()
