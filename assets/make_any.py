"""Train and export the networks that paint like any painting, and encode the paintings of the styles that ship.

    python -m impasto.assets.make_any --photos DIR --paintings DIR --styles DIR --warm-start mosaic --output DIR

Writes any.stylizer.onnx, any.style-encoder.onnx, and any.styles.npz with the style vector of every trained style's
painting, so that `--style mine.jpg:0.6,mosaic:0.4` is one network and one pass. A run that was stopped goes on where it
was, and one that is done is only exported again.
"""

import argparse
import subprocess
import sys
import tomllib
from pathlib import Path

from .make_styles import impasto


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, required=True, help="photographs to train on")
    parser.add_argument("--paintings", type=Path, required=True, help="paintings to train on")
    parser.add_argument("--styles", type=Path, required=True, help="paintings of the styles in styles.toml")
    parser.add_argument("--warm-start", help="style, artifact or checkpoint of the fast tier")
    parser.add_argument("--validation", type=Path, help="photographs to prove the export on; default the demo clip")
    parser.add_argument("--loss-weights", type=Path)
    parser.add_argument("--run", type=Path, default=Path("runs/any.compact"))
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("styles"))
    options = parser.parse_args()
    train = ["train-adain", "--photos", str(options.photos), "--paintings", str(options.paintings)]
    train += ["-o", str(options.run)]
    train += ["--loss-weights", str(options.loss_weights)] if options.loss_weights else []
    train += ["--warm-start", options.warm_start] if options.warm_start else []
    train += ["--resume"] if (options.run / "state.pt").exists() else []
    impasto(*train)
    stylizer = options.output / "any.stylizer.onnx"
    export = ["export", "onnx", str(options.run / "checkpoint.safetensors"), "-o", str(stylizer), "--overwrite"]
    export += ["--photos", str(options.validation)] if options.validation else []
    options.output.mkdir(parents=True, exist_ok=True)
    impasto(*export)
    styles = tomllib.loads(Path(__file__).with_name("styles.toml").read_text(encoding="utf-8"))
    pairs = [f"{name}={options.styles / style['image']}" for name, style in styles.items()]
    subprocess.run([sys.executable, "-m", "impasto.realtime.known_styles", str(stylizer), *pairs], check=True)


if __name__ == "__main__":
    main()
