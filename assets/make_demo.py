"""Render the demo clip: a camera moves over a public-domain photograph while a guitar is plucked.

    pip install scikit-image && python -m impasto.assets.make_demo demo.mp4

The photograph is NASA's portrait of Eileen Collins, which scikit-image bundles; the sound is synthesised here
(Karplus and Strong, Digital Synthesis of Plucked-String and Drum Timbres, 1983).
"""

import argparse
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

WIDTH, HEIGHT = 640, 360
FRAME_RATE = 25
SECONDS = 4
SAMPLE_RATE = 44_100
_NOTES_HZ = (196.0, 246.9, 293.7, 392.0, 493.9, 392.0, 293.7, 246.9)  # G major, half a second each


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    render(parser.parse_args().output)


def render(path: Path) -> None:
    """Write the clip as H.264 and AAC in MP4."""
    from skimage import data

    photograph = np.asarray(data.astronaut(), dtype=np.uint8)
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
        video = container.add_stream("libx264", rate=FRAME_RATE, options={"crf": "23", "preset": "veryslow"})
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        audio = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono", bit_rate=64_000)
        for number in range(FRAME_RATE * SECONDS):
            picture = camera(photograph, number / (FRAME_RATE * SECONDS - 1))
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode())
        sound = av.AudioFrame.from_ndarray(guitar()[None], format="fltp", layout="mono")
        sound.sample_rate, sound.pts, sound.time_base = SAMPLE_RATE, 0, Fraction(1, SAMPLE_RATE)
        container.mux(audio.encode(sound))
        container.mux(audio.encode())


def camera(photograph: npt.NDArray[np.uint8], progress: float) -> npt.NDArray[np.uint8]:
    """The view at `progress` in [0, 1]: from the whole portrait towards the face, with a hand's sway."""
    import cv2

    eased = progress * progress * (3 - 2 * progress)
    width = 500 - 180 * eased
    centre_x = 250 - 20 * eased + 6 * np.sin(7.0 * progress)
    centre_y = 172 - 34 * eased + 4 * np.sin(11.0 * progress + 1)
    scale = width / WIDTH
    angle = 0.015 * np.sin(5.0 * progress)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    offset = np.array([centre_x, centre_y]) - turn @ np.array([WIDTH / 2, HEIGHT / 2])
    matrix = np.column_stack([turn, offset])
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    view = cv2.warpAffine(photograph, matrix, (WIDTH, HEIGHT), flags=flags, borderMode=cv2.BORDER_REFLECT)
    return np.asarray(view, dtype=np.uint8)


def guitar() -> npt.NDArray[np.float32]:
    """The melody: (SECONDS · SAMPLE_RATE,) float32 in [-1, 1]."""
    rng = np.random.default_rng(0)
    sound = np.zeros(SECONDS * SAMPLE_RATE)
    for number, pitch in enumerate(_NOTES_HZ):
        start = number * SAMPLE_RATE // 2
        string = rng.uniform(-1, 1, round(SAMPLE_RATE / pitch))
        played = np.empty(min(2 * SAMPLE_RATE, len(sound) - start))
        for i in range(len(played)):
            place = i % len(string)
            played[i] = string[place]
            string[place] = 0.498 * (string[place] + string[(i + 1) % len(string)])
        sound[start : start + len(played)] += 0.25 * played
    fade = np.minimum(1, (len(sound) - np.arange(len(sound))) / (0.3 * SAMPLE_RATE))
    return (sound * fade).astype(np.float32)


if __name__ == "__main__":
    main()
