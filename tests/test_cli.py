"""What all commands share."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np

NEED_TORCH = (
    "train PICTURE --photos .",
    "train-adain --photos . --paintings .",
    "evaluate mosaic --photos .",
    "gatys PICTURE PICTURE -o out.png",
    "gatys sweep PICTURE PICTURE -o out.png --vary seed=1,2",
    "gatys video clip.mp4 PICTURE -o keyframes --at-cuts",
    "export checkpoint.safetensors -o out.onnx",
)
RUN_WITHOUT_TORCH = """
import json, sys
sys.modules["torch"] = None
from typer.testing import CliRunner
from impasto.realtime.cli import app
said = {}
for command in json.loads(sys.argv[1]):
    done = CliRunner().invoke(app, command.split())
    said[command] = [done.exit_code, done.output]
print(json.dumps(said))
"""


def test_what_needs_torch_says_how_to_get_it(tmp_path: Path) -> None:
    """Painting does without: only who trains, judges or exports needs its gigabyte."""
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((64, 64, 3), np.uint8))
    commands = json.dumps([command.replace("PICTURE", "a.png") for command in NEED_TORCH])
    done = subprocess.run(
        [sys.executable, "-c", RUN_WITHOUT_TORCH, commands], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    for command, (code, output) in json.loads(done.stdout).items():
        assert code == 3, (command, output)
        assert output.startswith("error: "), command
        assert "pip install 'impasto[train]'" in output, (command, output)
        assert output.count("\n") == 1, (command, output)
