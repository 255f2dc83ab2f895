"""Networks for any painting, judged: one Gatys curve for all of them, figures that mean what they say."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

torch = pytest.importorskip("torch", reason="evaluating needs torch")

from impasto.training.adain_checkpoint import AdainCheckpoint, save_adain_checkpoint  # noqa: E402
from impasto.training.adain_networks import CompactConfig, CompactNetworks  # noqa: E402
from impasto.training.evaluate import LossSettings  # noqa: E402
from impasto.training.evaluate_any import Contender, adain_style_loss, evaluate_any  # noqa: E402
from impasto.training.evaluate_cli import evaluate_app  # noqa: E402
from impasto.training.loss_network import LossNetwork, load_loss_network  # noqa: E402

SETTINGS = LossSettings(content_weight=1.0, style_weight=5.0, tv_weight=0.5, style_side=96)


def drawn(seed: int) -> np.ndarray:
    cells = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    return cv2.resize(cells, (128, 96), interpolation=cv2.INTER_CUBIC)


@pytest.fixture
def loss_network(tiny_loss_weights: Path) -> LossNetwork:
    return load_loss_network(weights=tiny_loss_weights)


def test_networks_share_a_curve_and_the_better_one_equals_more_of_it(loss_network: LossNetwork) -> None:
    copy = Contender("copy", lambda painting: lambda picture: picture, SETTINGS, "numpy")
    grey = Contender("grey", lambda painting: lambda picture: np.full_like(picture, 128), SETTINGS)
    photos, paintings = {"p": drawn(0), "q": drawn(1)}, {"a": drawn(2), "b": drawn(3), "c": drawn(4)}
    report = evaluate_any([copy, grey], photos, paintings, loss_network, evaluations=(2, 5))
    assert [(pair.photo, pair.painting) for pair in report.pairs] == [("p", "a"), ("q", "b"), ("p", "c")]
    for pair in report.pairs:
        assert pair.networks["copy"].content < 1e-6
        assert pair.networks["copy"].structure_kept == pytest.approx(1.0)
        assert pair.gatys_equivalent["copy"] in (1, 2)  # Gatys starts with the photograph and a little noise
        assert pair.gatys[5].total <= pair.gatys[2].total <= pair.networks["copy"].total
        assert set(pair.pictures) == {"photo", "painting", "copy", "grey", "gatys"}
    figures = json.loads(json.dumps(report.to_json()))
    assert figures["networks"]["copy"]["engine"] == "numpy"
    assert figures["networks"]["copy"]["gatys_equivalent"] <= 2
    assert len(figures["pairs"]) == 3


def test_a_stop_keeps_what_is_done(loss_network: LossNetwork) -> None:
    copy = Contender("copy", lambda painting: lambda picture: picture, SETTINGS)
    count = iter(range(100))
    arguments = [copy], {"p": drawn(0)}, {"a": drawn(2), "b": drawn(3)}, loss_network
    report = evaluate_any(*arguments, evaluations=(3,), should_stop=lambda: next(count) >= 4)
    assert [pair.painting for pair in report.pairs] == ["a"]
    with pytest.raises(ValueError, match="stopped before the first pair"):
        evaluate_any(*arguments, evaluations=(3,), should_stop=lambda: True)
    with pytest.raises(ValueError, match="at least one each"):
        evaluate_any([], *arguments[1:], evaluations=(3,))


def test_the_papers_style_loss_of_a_picture(loss_network: LossNetwork) -> None:
    a, b = drawn(0), drawn(1)
    assert adain_style_loss(a, a, loss_network) == pytest.approx(0.0, abs=1e-9)
    assert adain_style_loss(a, b, loss_network) > 1e-3


@pytest.fixture
def arguments(tmp_path: Path, tiny_loss_weights: Path) -> list[str]:
    """Of the command, for a checkpoint, two photographs and one painting."""
    torch.manual_seed(0)
    config = CompactConfig(width=4, blocks=1, encoder_width=4, hidden=8)
    training = {"content_weight": 1.0, "final_style_weight": 5.0, "tv_weight": 0.5, "style_size": 96}
    checkpoint = AdainCheckpoint(
        "compact", config.to_dict(), CompactNetworks(config).state_dict(), {"name": "any", "training": training}
    )
    save_adain_checkpoint(tmp_path / "checkpoint.safetensors", checkpoint)
    for folder, seeds in (("photos", (0, 1)), ("paintings", (2, 3))):
        (tmp_path / folder).mkdir()
        for seed in seeds:
            cv2.imwrite(str(tmp_path / folder / f"{seed}.png"), drawn(seed)[..., ::-1])
    arguments = [
        tmp_path, "--photos", tmp_path / "photos", "--paintings", tmp_path / "paintings", "--num-paintings", 1,
        "--evaluations", "2", "--loss-weights", tiny_loss_weights, "-o", tmp_path / "out.json",
        "--sheet", tmp_path / "sheet.png", "--quiet",
    ]  # fmt: skip
    return [str(argument) for argument in arguments]


def test_the_command_judges_a_checkpoint(arguments: list[str], tmp_path: Path) -> None:
    result = CliRunner().invoke(evaluate_app(lambda text, device: pytest.fail(text)), arguments)
    assert result.exit_code == 0, result.output
    assert "any compact, torch on cpu in fp32" in " ".join(result.output.split())
    figures = json.loads((tmp_path / "out.json").read_text())
    assert figures["settings"]["style_weight"] == 5.0
    assert len(figures["pairs"]) == 1
    assert cv2.imread(str(tmp_path / "sheet.png")) is not None


def test_ctrl_c_in_the_first_pair_is_no_error(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def interrupted(said: str) -> Iterator[threading.Event]:
        stop = threading.Event()
        stop.set()
        yield stop

    monkeypatch.setattr("impasto.training.evaluate_cli.stop_on_interrupt", interrupted)
    result = CliRunner().invoke(evaluate_app(lambda text, device: pytest.fail(text)), arguments)
    assert result.exit_code == 130, result.output
    assert result.stderr == "stopped; there are no figures yet\n"
    assert not (tmp_path / "out.json").exists()
