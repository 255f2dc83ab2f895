"""Does a picture pulse when something enters it? A bright card slides over a still frame; the rest is watched.

python tests/benchmarks/breathing.py CLIP STYLE.onnx...

Prints, for statistics of each frame's own, carried and frozen: how far the mean of the untouched left 40 % moves, its
largest step from frame to frame, and the largest RMS change from the first frame, all in 1/255.
"""

import sys
from fractions import Fraction

import av
import numpy as np

from impasto.export.artifact import load_artifact
from impasto.realtime.engine_carried import load_carried_engine
from impasto.realtime.engine_choice import load_engine
from impasto.realtime.frame import Frame
from impasto.realtime.stylizer import Stylizer

WATCHED = 260
"""Columns of 640; the card never comes nearer than 80 pixels, the networks' reach."""


def frames_with_a_card(clip: str) -> list[np.ndarray]:
    """30 frames (360, 640, 3) uint8."""
    with av.open(clip) as file:
        still = next(file.decode(video=0)).to_ndarray(format="rgb24", width=640, height=360)
    frames = []
    for number in range(30):
        frame = np.ascontiguousarray(still.copy())
        covered = np.clip((number - 8) * 40 if number < 18 else 300 - (number - 18) * 40, 0, 300)
        frame[:, 640 - covered :] = (245, 240, 60)
        frames.append(frame)
    return frames


def main(clip: str, styles: list[str]) -> None:
    frames = frames_with_a_card(clip)
    for path in styles:
        artifact = load_artifact(path)
        engines = {
            "own": load_engine(artifact, device="cpu"),
            "carried": load_carried_engine(artifact, "carried", device="cpu"),
            "frozen": load_carried_engine(artifact, "frozen", device="cpu"),
        }
        for kind, engine in engines.items():
            stylizer = Stylizer(engine)
            seen = [
                stylizer(Frame(frame, Fraction(n, 25))).data[:, :WATCHED].astype(float)
                for n, frame in enumerate(frames)
            ]
            means = [picture.mean() for picture in seen]
            rms = max(float(np.sqrt(np.square(picture - seen[0]).mean())) for picture in seen)
            step = np.abs(np.diff(means)).max()
            print(f"{artifact.metadata.name:16}{kind:8} range {np.ptp(means):6.2f}  step {step:6.2f}  rms {rms:6.1f}")
            engine.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
