"""What the program costs when nobody watches, and how soon somebody who comes sees a painted picture.

    python tests/benchmarks/live_idle.py --arrivals 20

A real run with its panel on a camera of 640x360 at 30 frames a second. Between two viewers it is left alone until it
rests; its processor time is counted while it does, the camera's process included. Then a viewer connects, and the
clock runs from the request to the end of the first picture whose painted time code is newer than the request: a
picture kept from before, or the neutral card, does not count. Prints JSON and a table of what was promised; ends with
1 if a promise was not kept.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from typing import Any

import cv2
import numpy as np
import psutil
from live_latency import parts

from impasto.realtime.time_code import read_time_code

MOST_IDLE_PERCENT = 5.0
"""Of one core."""
MOST_FIRST_MS = 500.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--style", default="mosaic")
    parser.add_argument("--source", default="lavfi:testsrc2=size=640x360:rate=30")
    parser.add_argument("--arrivals", type=int, default=10)
    parser.add_argument("--rest-seconds", type=float, default=3.0, help="of rest counted before each arrival")
    arguments = parser.parse_args()
    command = "from impasto.realtime.cli import stylize_webcam; stylize_webcam()"
    with tempfile.TemporaryDirectory() as config:
        program = subprocess.Popen(
            [sys.executable, "-c", command, arguments.source, "--style", arguments.style, "--port", "0",
             "--time-code", "--json"],
            stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=os.environ | {"IMPASTO_CONFIG": config},
        )  # fmt: skip
        try:
            measured = measure(arguments, program)
        finally:
            program.send_signal(2)
            program.wait(30)
    print(json.dumps(measured, indent=2))
    raise SystemExit(not verdict(measured))


def measure(arguments: argparse.Namespace, program: "subprocess.Popen[str]") -> dict[str, Any]:
    urls = {}
    for line in program.stderr or []:
        name, _, rest = line.partition(":")
        urls[name] = rest.strip()
        if name == "players":
            break
    else:
        raise SystemExit("the program ended at its start")
    threading.Thread(target=lambda: [None for _ in program.stderr or []], daemon=True).start()
    watch(urls["players"])
    shares, firsts = [], []
    for _ in range(arguments.arrivals):
        wait_for_rest(urls["panel"])
        shares.append(share_of_a_core(program, arguments.rest_seconds))
        firsts.append(watch(urls["players"]))
    return {
        "arrivals": len(firsts),
        "idle_percent": {"median": round(float(np.median(shares)), 2), "max": round(max(shares), 2)},
        "first_painted_ms": {
            "median": round(float(np.median(firsts))), "p95": round(float(np.percentile(firsts, 95))),
            "max": round(max(firsts)),
        },
    }  # fmt: skip


def wait_for_rest(panel: str) -> None:
    base, token = panel.split("/?token=")
    request = urllib.request.Request(base + "/api/state", headers={"Authorization": f"Bearer {token}"})
    while not json.loads(urllib.request.urlopen(request, timeout=10).read())["idle"]:
        time.sleep(0.2)
    time.sleep(0.5)


def share_of_a_core(program: "subprocess.Popen[str]", seconds: float) -> float:
    """Percent of one core that the program and its camera's process take."""
    before, started = processor_seconds(program), time.monotonic()
    time.sleep(seconds)
    return 100 * (processor_seconds(program) - before) / (time.monotonic() - started)


def processor_seconds(program: "subprocess.Popen[str]") -> float:
    main_process = psutil.Process(program.pid)
    times = [process.cpu_times() for process in (main_process, *main_process.children(recursive=True))]
    return sum(taken.user + taken.system for taken in times)


def watch(url: str) -> float:
    """Milliseconds from the request to the first picture that was captured after it; then this viewer leaves."""
    asked = time.monotonic()
    for jpeg in parts(url):
        arrived = time.monotonic()
        code = read_time_code(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR))
        if code is not None and code > asked:
            return (arrived - asked) * 1e3
    raise SystemExit("the stream ended without a painted picture")


def verdict(measured: dict[str, Any]) -> bool:
    """Print what was promised beside what was measured; True if all of it was kept."""
    promises = [
        ("idle, % of a core", measured["idle_percent"]["max"], MOST_IDLE_PERCENT),
        ("first painted picture, ms", measured["first_painted_ms"]["max"], MOST_FIRST_MS),
    ]
    print(f"\n{'':26} {'worst':>9} {'at most':>9}")
    for name, value, limit in promises:
        print(f"{name:26} {value:9.2f} {limit:9.2f}  {'ok' if value <= limit else 'TOO MUCH'}")
    return all(value <= limit for _, value, limit in promises)


if __name__ == "__main__":
    main()
