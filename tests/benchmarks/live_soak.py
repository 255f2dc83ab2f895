"""A long live run with everything that happens to one: style switches, lost cameras, viewers that come and go.

    python tests/benchmarks/live_soak.py --minutes 30 --styles mosaic starry-night

Prints memory, threads and open files of the program every minute, and the growth from the second minute to the end.
"""

import argparse
import http.client
import json
import random
import subprocess
import sys
import threading
import time
import urllib.request
from typing import Any

import psutil

SWITCH_SECONDS = 4.0
LOSE_CAMERA_SECONDS = 20.0
VIEWER_SECONDS = 3.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--styles", nargs="+", default=["mosaic"])
    parser.add_argument("--source", default="lavfi:testsrc2=size=640x360:rate=30")
    arguments = parser.parse_args()
    command = "from impasto.realtime.cli import stylize_webcam; stylize_webcam()"
    program = subprocess.Popen(
        [sys.executable, "-c", command, arguments.source, "--style", arguments.styles[0], "--port", "0", "--json"],
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    said: list[str] = []
    urls = addresses(program, said)
    threading.Thread(target=lambda: said.extend(program.stderr or []), daemon=True).start()
    try:
        rows = churn(arguments, psutil.Process(program.pid), urls)
    finally:
        program.send_signal(2)
    report = json.loads(program.communicate()[0])
    first, last = rows[min(1, len(rows) - 1)], rows[-1]
    growth = {name: round(last[name] - first[name], 1) for name in ("memory_mb", "threads", "files", "children")}
    lost = sum("crashed" in line for line in said)
    print(
        json.dumps({"growth": growth, "reconnects": lost, "exit_code": program.returncode, "report": report}, indent=2)
    )


def addresses(program: subprocess.Popen[str], said: list[str]) -> dict[str, str]:
    """The panel's and the stream's addresses, from what the program prints at its start."""
    found = {}
    for line in program.stderr or []:
        said.append(line)
        for name in ("panel", "players"):
            if line.startswith(f"{name}:"):
                found[name] = line.split()[1]
        if "players" in found:
            return found
    raise SystemExit("".join(said))


def churn(arguments: argparse.Namespace, program: psutil.Process, urls: dict[str, str]) -> list[dict[str, float]]:
    base, token = urls["panel"].split("/?token=")
    rng, rows = random.Random(0), []
    end = time.monotonic() + 60 * arguments.minutes
    due = {"switch": 0.0, "lose": LOSE_CAMERA_SECONDS, "viewer": 0.0, "row": 60.0}
    started = time.monotonic()
    viewers: list[Any] = []
    while time.monotonic() < end:
        time.sleep(0.1)
        now = time.monotonic() - started
        for viewer in viewers[:2]:  # the others never read, and are let go in the end
            try:
                viewer.read1(1 << 20)
            except (http.client.HTTPException, OSError):
                viewers.remove(viewer)
        if now >= due["switch"]:
            due["switch"] += SWITCH_SECONDS
            post(f"{base}/api/settings", token, {
                "style": rng.choice(arguments.styles), "strength": rng.choice([0.5, 1.0]),
                "keep_colors": rng.random() < 0.3, "smoothing": rng.choice([0.0, 0.6]), "mirror": rng.random() < 0.5,
            })  # fmt: skip
        if now >= due["viewer"]:
            due["viewer"] += VIEWER_SECONDS
            viewers.append(urllib.request.urlopen(urls["players"], timeout=5))
            if len(viewers) > 4:
                viewers.pop(rng.randrange(len(viewers))).close()
        if now >= due["lose"]:
            due["lose"] += LOSE_CAMERA_SECONDS
            for child in program.children():
                child.kill()
        if now >= due["row"]:
            due["row"] += 60.0
            rows.append(row(program, now))
            print(json.dumps(rows[-1]), flush=True)
    for viewer in viewers:
        viewer.close()
    time.sleep(1.0)
    rows.append(row(program, time.monotonic() - started))
    return rows


def row(program: psutil.Process, now: float) -> dict[str, float]:
    return {
        "minute": round(now / 60, 1), "memory_mb": round(program.memory_info().rss / 2**20, 1),
        "threads": program.num_threads(), "files": program.num_fds(), "children": len(program.children()),
    }  # fmt: skip


def post(url: str, token: str, body: dict[str, Any]) -> None:
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers), timeout=20).read()


if __name__ == "__main__":
    main()
