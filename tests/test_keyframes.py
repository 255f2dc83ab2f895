"""Keyframes as training pairs: the loss against numpy, and a network that learns them."""

import json

import cv2
import numpy as np
import pytest
import torch

from impasto.training.checkpoint import load_checkpoint
from impasto.training.data import read_picture
from impasto.training.errors import TrainingError
from impasto.training.evaluate import checkpoint_painter
from impasto.training.keyframes import KEYFRAME_LAYERS, KeyframePairs, keyframe_loss
from impasto.training.loss_network import load_loss_network
from impasto.training.train import train
from impasto.training.train_config import TrainConfig


def blobs(seed, height=96, width=128):
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.fixture
def folder(tmp_path):
    """Photographs, a painting, and two keyframes that are the frames' negatives."""
    for name in ("photos", "keys"):
        (tmp_path / name).mkdir()
    for i in range(4):
        cv2.imwrite(str(tmp_path / "photos" / f"{i}.png"), blobs(i))
    cv2.imwrite(str(tmp_path / "style.png"), blobs(8))
    index = []
    for i in (10, 11):
        names = f"{i:06d}.frame.png", f"{i:06d}.painted.png"
        cv2.imwrite(str(tmp_path / "keys" / names[0]), blobs(i))
        cv2.imwrite(str(tmp_path / "keys" / names[1]), 255 - blobs(i))
        index.append({"number": i, "seconds": i / 25, "frame": names[0], "painted": names[1]})
    (tmp_path / "keys" / "keyframes.json").write_text(json.dumps({"keyframes": index}))
    return tmp_path


def test_the_loss_is_that_of_numpy(tiny_loss_weights):
    network = load_loss_network(weights=tiny_loss_weights)
    a, b = (torch.rand(1, 3, 32, 40) * 255 for _ in range(2))
    wanted = 10 * ((a - b).double().numpy() ** 2).mean() / 255**2
    for layer in KEYFRAME_LAYERS:
        f, g = (network(x, [layer])[layer].detach().double().numpy() for x in (a, b))
        wanted += ((f - g) ** 2).sum() / (g**2).sum()
    assert float(keyframe_loss(a, b, network)) == pytest.approx(wanted, rel=1e-4)
    assert float(keyframe_loss(a, a, network)) == 0


def test_pairs_of_different_sizes_are_refused(folder):
    cv2.imwrite(str(folder / "keys" / "000011.painted.png"), blobs(1, 48, 64))
    with pytest.raises(
        TrainingError, match=r"000011.painted.png must be as large as 000011.frame.png, 128x96, got 64x48"
    ):
        KeyframePairs.load(folder / "keys", crop_size=64, seed=0)


def test_training_with_keyframes_comes_nearer_to_them(folder, tiny_loss_weights):
    distances = {}
    for weight in (0.0, 5.0):
        config = TrainConfig(
            folder / "style.png", folder / "photos", folder / f"run{weight}", "s", loss_weights=tiny_loss_weights,
            steps=25, batch_size=2, crop_size=64, style_weight=0.1, motion_weight=1.0, style_size=64, precision="fp32",
            keyframes=folder / "keys", keyframe_weight=weight,
        )  # fmt: skip
        losses = []
        checkpoint = train(config, callback=lambda progress: losses.append(dict(progress.losses)))  # noqa: B023
        assert losses[0]["keyframes"] > 0
        paint = checkpoint_painter(load_checkpoint(checkpoint).build())
        frame = read_picture(folder / "keys" / "000010.frame.png")
        distances[weight] = np.abs(paint(frame).astype(int) - (255 - frame)).mean()
    assert distances[5.0] < 0.8 * distances[0.0]
