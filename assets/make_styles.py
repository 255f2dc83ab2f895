"""Train, export and preview the styles that ship, by the commands that users have.

    python -m impasto.assets.make_styles mosaic udnie --tier fast --paintings DIR --photos DIR --output DIR

`styles.toml` says what each style is learned from; `--paintings` is the folder with those pictures. A run that was
stopped goes on where it was, and one that is done is only exported again. `--only int8` makes nothing but the int8
version of what is there, on a machine that is quiet enough to see whether it is faster; `--only parity` prints how near
every engine and precision came to PyTorch, as the artifacts say it.
"""

import argparse
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import av
import numpy as np

from ..export.artifact import load_artifact, quantized_path
from ..realtime.picture_files import StillPicture, write_picture
from . import DEMO_CLIP

REFUSED = 3
"""Exit code of a command that found an artifact not good enough."""
STEPS = {"fast": 2500, "quality": 6700}


def main() -> None:
    styles = tomllib.loads(Path(__file__).with_name("styles.toml").read_text(encoding="utf-8"))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("style", nargs="*", help=f"among {', '.join(styles)}; default all")
    parser.add_argument("--tier", choices=tuple(STEPS), default="fast")
    parser.add_argument("--only", choices=("int8", "parity"), help="no training and no export")
    parser.add_argument("--paintings", type=Path, help="needed to train")
    parser.add_argument("--photos", type=Path, help="to train on and to calibrate int8 with")
    parser.add_argument("--validation", type=Path, help="to prove the export on; default the demo clip")
    parser.add_argument("--loss-weights", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("styles"))
    options = parser.parse_args()
    names = options.style or list(styles)
    if unknown := set(names) - styles.keys():
        parser.error(f"style must be among {', '.join(styles)}, got {', '.join(unknown)}")
    if options.only != "parity" and options.photos is None:
        parser.error("--photos must be given")
    if options.only is None and options.paintings is None:
        parser.error("--paintings must be given")
    if options.only == "parity":
        return print_parity(names, options)
    for name in names:
        if options.only is None:
            make(name, styles[name], options)
        make_int8(name, options)


def make(name: str, style: dict[str, Any], options: argparse.Namespace) -> None:
    """Train one style, or go on with its run, and write NAME.TIER.onnx and its preview NAME.TIER.jpg."""
    run = options.runs / f"{name}.{options.tier}"
    train = ["train", str(options.paintings / style["image"]), "--photos", str(options.photos), "-o", str(run)]
    train += ["--name", name, "--tier", options.tier, "--licence", "public domain"]
    train += [argument for key in ("title", "artist", "year") for argument in (f"--{key}", style[key])]
    settings = {"steps": STEPS[options.tier], **style[options.tier]}
    train += [text for key, value in settings.items() for text in (f"--{key.replace('_', '-')}", str(value))]
    train += ["--loss-weights", str(options.loss_weights)] if options.loss_weights else []
    train += ["--resume"] if (run / "state.pt").exists() else []
    impasto(*train)
    artifact = options.output / f"{name}.{options.tier}.onnx"
    export = ["export", str(run / "checkpoint.safetensors"), "-o", str(artifact)]
    export += ["--photos", str(options.validation)] if options.validation else []
    options.output.mkdir(parents=True, exist_ok=True)
    impasto(*export, "--overwrite")
    with tempfile.TemporaryDirectory() as folder:
        photograph = _last_frame_of_demo(Path(folder) / "photograph.png")
        preview = artifact.with_suffix(".jpg")
        impasto(
            "image", str(photograph), "-o", str(preview), "--style", str(artifact), "--size", "480x270", "--overwrite"
        )


def make_int8(name: str, options: argparse.Namespace) -> None:
    """Write NAME.TIER.int8.onnx if the command finds it worth a file; else remove what an earlier run left."""
    artifact = options.output / f"{name}.{options.tier}.onnx"
    checkpoint = options.runs / f"{name}.{options.tier}" / "checkpoint.safetensors"
    words = ["export", "int8", str(artifact), "--photos", str(options.photos)]
    words += ["--validation", str(options.validation)] if options.validation else []
    words += ["--checkpoint", str(checkpoint)] if checkpoint.exists() else []
    quantized_path(artifact).unlink(missing_ok=True)
    try:
        impasto(*words)
    except subprocess.CalledProcessError as exc:
        if exc.returncode != REFUSED:
            raise
        print(f"no int8 version of {name}")


def print_parity(names: list[str], options: argparse.Namespace) -> None:
    """Markdown: style by engine and precision, from the artifacts' own metadata."""
    print("| style | engine | precision | PSNR, dB | largest difference | pixels off by more than 2 | photographs |")
    print("|---|---|---|---|---|---|---|")
    for name in names:
        artifact = options.output / f"{name}.{options.tier}.onnx"
        for path in (path for path in (artifact, quantized_path(artifact)) if path.exists()):
            for parity in load_artifact(path).metadata.parity:
                print(
                    f"| {name} | {parity.engine} | {parity.precision} | {parity.psnr_db:.1f} | "
                    f"{parity.max_difference} | {parity.share_over_2:.3%} | {parity.pictures} |"
                )


def _last_frame_of_demo(path: Path) -> Path:
    with av.open(str(DEMO_CLIP)) as clip:
        *_, last = clip.decode(video=0)
        picture = np.ascontiguousarray(last.to_ndarray(format="rgb24"), np.uint8)
    write_picture(StillPicture(picture), path)
    return path


def impasto(*arguments: str) -> None:
    print("impasto", *arguments, flush=True)
    subprocess.run([sys.executable, "-c", "from impasto.realtime.cli import main; main()", *arguments], check=True)


if __name__ == "__main__":
    main()
