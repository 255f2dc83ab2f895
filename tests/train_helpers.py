"""What the suites of the training share: a training of seconds, and how two of them are compared."""

import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from impasto.training.checkpoint import load_checkpoint  # noqa: E402
from impasto.training.loop import Progress  # noqa: E402
from impasto.training.train import train  # noqa: E402
from impasto.training.train_config import TrainConfig  # noqa: E402

MakeConfig = Callable[..., TrainConfig]


def striped(size: int, colours: tuple[tuple[int, int, int], ...], width: int = 7) -> np.ndarray:
    lines = np.arange(size) // width % len(colours)
    return np.ascontiguousarray(np.broadcast_to(np.array(colours, np.uint8)[lines][:, None], (size, size, 3)))


def config_maker(tmp_path: Path, tiny_loss_weights: Path) -> MakeConfig:
    """A training of seconds: six photographs of coloured blocks, a striped painting, the tiny loss network."""
    photos = tmp_path / "photos"
    photos.mkdir()
    rng = np.random.default_rng(0)
    for i in range(6):
        coarse = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        cv2.imwrite(str(photos / f"{i}.png"), cv2.resize(coarse, (96, 80), interpolation=cv2.INTER_NEAREST))
    painting = tmp_path / "stripes.png"
    cv2.imwrite(str(painting), striped(96, ((20, 40, 200), (240, 240, 90)))[:, :, ::-1])

    def make(run: str = "run", **options: object) -> TrainConfig:
        defaults = {
            "style_image": painting, "photos": photos, "output": tmp_path / run, "name": "stripes",
            "loss_weights": tiny_loss_weights, "steps": 8, "batch_size": 2, "crop_size": 64, "style_size": 64,
            "checkpoint_every": 4, "precision": "fp32",
        }  # fmt: skip
        return TrainConfig(**{**defaults, **options})

    return make


def run_losses(config: TrainConfig, **options: object) -> list[Progress]:
    reports: list[Progress] = []
    train(config, callback=reports.append, **options)
    return reports


def stop_after(steps: int) -> Callable[[], bool]:
    asked: list[int] = []
    return lambda: asked.append(1) or len(asked) > steps


def weights_of(config: TrainConfig) -> dict:
    return load_checkpoint(config.output / "checkpoint.safetensors").state_dict


def assert_same_weights(a: TrainConfig, b: TrainConfig) -> None:
    first, second = weights_of(a), weights_of(b)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def assert_same_pictures(a: TrainConfig, b: TrainConfig, *, levels: float) -> None:
    """Weights differ where they do not matter: a bias before a normalisation gets only rounding noise, which Adam
    scales up. So the pictures are compared: largest mean difference over a photograph, in 1/255."""
    photo = torch.from_numpy(np.random.default_rng(1).uniform(0, 255, (1, 3, 64, 64)).astype(np.float32))
    with torch.inference_mode():
        first, second = (load_checkpoint(c.output / "checkpoint.safetensors").build()(photo) for c in (a, b))
    assert (first - second).abs().mean() < levels
    assert first.std() > 1


def train_command(config: TrainConfig, *, should_stop: str = "lambda: False") -> list[str]:
    """A child process that trains and prints each step."""
    script = config.photos.parent / f"train_{config.output.name}.py"
    fields = {name: getattr(config, name) for name in config.__dataclass_fields__ if name != "style"}
    arguments = ", ".join(
        f"{name}=Path({str(value)!r})" if isinstance(value, Path) else f"{name}={value!r}"
        for name, value in fields.items()
    )
    script.write_text(
        "import os\n"
        "from pathlib import Path\n"
        "from impasto.training import TrainConfig, train_style as train\n"
        f"train(TrainConfig({arguments}), callback=lambda p: print(p.step, flush=True), should_stop={should_stop})\n"
    )
    return [sys.executable, str(script)]


def panning(number: int, height: int, width: int) -> np.ndarray:
    coarse = np.random.default_rng(0).integers(30, 226, (16, 30, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width + 60, height), interpolation=cv2.INTER_CUBIC)[:, 2 * number :][:, :width]
