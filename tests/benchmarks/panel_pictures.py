"""Take the guide's pictures of the panel: a real run on the demo clip, a real browser.

    python tests/benchmarks/panel_pictures.py --style mosaic          # writes assets/pictures/panel-*.jpg

Needs playwright and Chromium.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from impasto.assets import DEMO_CLIP

VIEWS = {
    "dark": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"},
    "light": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"},
    "phone": {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark", "has_touch": True},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--style", default="mosaic")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parents[2] / "assets" / "pictures")
    arguments = parser.parse_args()
    command = "from impasto.realtime.cli import stylize_webcam; stylize_webcam()"
    program = subprocess.Popen(
        [sys.executable, "-c", command, str(DEMO_CLIP), "--style", arguments.style, "--port", "0"],
        stderr=subprocess.PIPE, text=True, env=os.environ | {"IMPASTO_STYLES": tempfile.mkdtemp()},
    )  # fmt: skip
    try:
        url = next(line.split()[1] for line in program.stderr or [] if line.startswith("panel:"))
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-background-networking"]
            )
            for name, options in VIEWS.items():
                page = browser.new_context(**options).new_page()
                page.goto(url)
                page.wait_for_timeout(30_000 if name == "dark" else 5_000)  # the graph wants to be filled
                if name == "light":
                    page.click("#compare")
                    page.wait_for_timeout(1_500)
                page.screenshot(path=arguments.folder / f"panel-{name}.jpg", type="jpeg", quality=72)
                page.close()
            browser.close()
    finally:
        program.send_signal(2)
        program.wait(10)


if __name__ == "__main__":
    main()
