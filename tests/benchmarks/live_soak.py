"""A long live run with everything that happens to one: style switches, lost cameras, viewers that come and go.

    python tests/benchmarks/live_soak.py --minutes 30
    python tests/benchmarks/live_soak.py --minutes 4 --churn switches --pace 4      # which of them makes it grow?

Prints memory, threads and open files of the program as it goes, and at the end a table: each figure at the start
(the first tenth of the run is not counted: caches fill), at the end, the growth and what it may be. Ends with 1 if
anything grew too much.
"""

import argparse
import http.client
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from dataclasses import dataclass, field
from typing import Any

import psutil

STYLES = ["mosaic", "starry-night", "great-wave", "udnie", "woodcut", "the-scream"]
"""More than the program keeps warm, so that networks come and go."""
SECONDS_BETWEEN = {"switches": 4.0, "reconnects": 20.0, "viewers": 3.0}
LIMITS = {"memory_mb": 20.0, "threads": 1.0, "files": 2.0, "children": 0.0}
"""The most that may be more at the end; a viewer that has just left may still hold a file and a thread."""
AVERAGED_ROWS = 5
"""Memory goes up and down with every network that comes and goes: a median of rows at either end is compared."""
UNITS = {"memory_mb": "memory, MB", "threads": "threads", "files": "open files", "children": "child processes"}


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
        while json.loads(self.ask("/api/state"))["counts"]["painted"] == 0:
            time.sleep(0.5)

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
            [sys.executable, "-c", command, arguments.source, "--style", arguments.styles[0], "--port", "0", "--json"],
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
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--styles", nargs="+", default=STYLES)
    parser.add_argument("--source", default="lavfi:testsrc2=size=640x360:rate=30")
    parser.add_argument("--churn", nargs="+", choices=tuple(SECONDS_BETWEEN), default=list(SECONDS_BETWEEN))
    parser.add_argument("--pace", type=float, default=1.0, help="so many times as often as a person would")
    return parser.parse_args()


def soak(arguments: argparse.Namespace, run: Run) -> list[dict[str, float]]:
    """Figures of the program at even distances, while things happen to it."""
    rng, program = random.Random(0), psutil.Process(run.program.pid)
    seconds = 60 * arguments.minutes
    between = {name: SECONDS_BETWEEN[name] / arguments.pace for name in arguments.churn} | {"row": seconds / 60}
    due = dict(between)
    viewers = [urllib.request.urlopen(run.urls["players"], timeout=5)]  # somebody always looks
    run.wait_painted()
    started, now = time.monotonic(), 0.0
    rows: list[dict[str, float]] = []
    while now < seconds:
        time.sleep(0.02)
        now = time.monotonic() - started
        read_some(viewers)
        for name in [name for name, when in due.items() if now >= when]:
            due[name] += between[name]
            if name == "switches":
                run.set(a_look(rng, arguments.styles))
            elif name == "viewers":
                come_and_go(rng, viewers, run.urls["players"])
            elif name == "reconnects":
                for child in program.children():
                    child.kill()
            else:
                rows.append(row(program, now))
                print(json.dumps(rows[-1]), flush=True)
                continue
            setattr(run.counts, name, getattr(run.counts, name) + 1)
    for viewer in viewers:
        viewer.close()
    return rows


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
        "minute": round(now / 60, 2), "memory_mb": round(program.memory_info().rss / 2**20, 1),
        "threads": program.num_threads(), "files": program.num_fds(), "children": len(program.children()),
    }  # fmt: skip


def verdict(rows: list[dict[str, float]], counts: Counts) -> bool:
    """Print what grew; True if nothing grew too much."""
    counted = rows[len(rows) // 10 :]
    first, last = counted[:AVERAGED_ROWS], counted[-AVERAGED_ROWS:]
    done = ", ".join(f"{value} {name}" for name, value in vars(counts).items() if value)
    print(f"\nminutes {counted[0]['minute']} to {counted[-1]['minute']}: {done}")
    print(f"{'':16} {'start':>8} {'end':>8} {'growth':>8} {'may be':>8}")
    fine = True
    for name, limit in LIMITS.items():
        start, end = (statistics.median(entry[name] for entry in part) for part in (first, last))
        fine &= end - start <= limit
        print(
            f"{UNITS[name]:16} {start:8.1f} {end:8.1f} {end - start:+8.1f} {limit:+8.1f}"
            f"  {'ok' if end - start <= limit else 'TOO MUCH'}"
        )
    return fine


if __name__ == "__main__":
    main()
