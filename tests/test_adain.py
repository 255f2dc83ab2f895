"""Any painting, learned: AdaIN against numpy, what zeros and shares of a style mean, the two kinds of training."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

torch = pytest.importorskip("torch", reason="training needs torch")

from impasto.training.adain_checkpoint import is_adain_checkpoint, load_adain_checkpoint  # noqa: E402
from impasto.training.adain_config import AdainTrainConfig  # noqa: E402
from impasto.training.adain_losses import hint_loss, statistics_loss, style_distances, tempered  # noqa: E402
from impasto.training.adain_networks import (  # noqa: E402
    EPS,
    CompactConfig,
    CompactNetworks,
    adain,
    for_export,
    mean_and_deviation,
)
from impasto.training.adain_objectives import begin_with  # noqa: E402
from impasto.training.adain_reference import ENCODER_LAYER, ReferenceNetworks  # noqa: E402
from impasto.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint  # noqa: E402
from impasto.training.errors import TrainingError  # noqa: E402
from impasto.training.loop import Progress  # noqa: E402
from impasto.training.loss_network import load_loss_network  # noqa: E402
from impasto.training.losses import style_distance  # noqa: E402
from impasto.training.networks import NetworkConfig, build_network  # noqa: E402
from impasto.training.train_adain import train_adain  # noqa: E402

TINY = CompactConfig(width=4, blocks=1, encoder_width=4, hidden=8, padding="replicate")
MakeConfig = Callable[..., AdainTrainConfig]


def noise(*shape: int, seed: int = 0, high: float = 1.0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).uniform(0, high, shape).astype(np.float32))


def pictures(count: int, seed: int = 0) -> torch.Tensor:
    return noise(count, 3, 64, 64, seed=seed, high=255.0)


@pytest.fixture
def networks() -> CompactNetworks:
    torch.manual_seed(0)
    return CompactNetworks(TINY).eval()


@pytest.fixture
def reference(tiny_loss_weights: Path) -> ReferenceNetworks:
    torch.manual_seed(0)
    return ReferenceNetworks.of(load_loss_network(weights=tiny_loss_weights)).eval()


# The mathematics


def test_adain_is_the_papers_equation() -> None:
    x, scale, shift = noise(2, 3, 8, 9), noise(2, 3, seed=1), noise(2, 3, seed=2)
    a = x.double().numpy()
    normal = (a - a.mean((2, 3), keepdims=True)) / np.sqrt(a.var((2, 3), keepdims=True) + EPS)
    wanted = normal * scale.numpy()[:, :, None, None] + shift.numpy()[:, :, None, None]
    # float32 statistics of 72 values
    np.testing.assert_allclose(adain(x, scale, shift).numpy(), wanted, atol=1e-5)


def test_the_features_take_the_styles_statistics() -> None:
    content, style = noise(2, 5, 16, 16), 3 * noise(2, 5, 12, 20, seed=1) + 1
    mean, deviation = mean_and_deviation(style)
    got_mean, got_deviation = mean_and_deviation(adain(content, deviation, mean))
    torch.testing.assert_close(got_mean, mean, atol=1e-4, rtol=1e-4)
    # norm() divides by sqrt(var + EPS), so a deviation comes out short by EPS / (2 var): 6e-5 of values in 0…1
    torch.testing.assert_close(got_deviation, deviation, atol=1e-4, rtol=2e-4)


def test_distances_of_a_batch_are_those_of_each_picture() -> None:
    grams, targets = ({"a": noise(3, 4, 4, seed=s), "b": noise(3, 2, 2, seed=s + 1)} for s in (0, 5))
    together = style_distances(grams, targets)
    for i in range(3):
        alone = style_distance(*({k: v[i : i + 1] for k, v in group.items()} for group in (grams, targets)))
        torch.testing.assert_close(together[i], alone)


def test_a_far_painting_pulls_less() -> None:
    assert tempered(torch.tensor([0.1, 0.2]), 0.3) == pytest.approx(0.15)
    assert tempered(torch.tensor([1.2]), 0.3) == pytest.approx(2 * np.sqrt(0.36) - 0.3)
    slopes = []
    for value in (0.1, 0.2999, 0.3001, 30.0):
        d = torch.tensor([value], requires_grad=True)
        tempered(d, 0.3).backward()
        slopes.append(float(d.grad))
    assert slopes == pytest.approx([1.0, 1.0, 1.0, 0.1], rel=1e-3)


def test_statistics_and_hints_are_zero_where_they_agree_and_relative_elsewhere() -> None:
    a, b = noise(2, 3, 6, 6), noise(2, 3, 6, 6, seed=1)
    assert statistics_loss([a], [a]) == 0
    torch.testing.assert_close(statistics_loss([a, a], [b, b]), 2 * statistics_loss([a], [b]))
    torch.testing.assert_close(statistics_loss([9 * a], [9 * b]), statistics_loss([a], [b]), rtol=1e-3, atol=0)
    assert hint_loss(torch.ones(2, 4), torch.ones(2, 4)) == 0
    assert hint_loss(torch.zeros(2, 4), noise(2, 4)) == pytest.approx(1.0)


# The networks


@torch.inference_mode()
def test_zeros_are_the_photograph_alone(networks: CompactNetworks) -> None:
    photos, zeros = pictures(2), torch.zeros(2, networks.stylizer.style_size)
    assert torch.equal(networks.stylizer(photos, zeros), networks.stylizer.reconstruct(photos))
    assert torch.equal(networks(photos, pictures(2, seed=1), alpha=0.0), networks.stylizer(photos, zeros))


@torch.inference_mode()
def test_a_style_vector_has_nothing_of_where_things_are(networks: CompactNetworks) -> None:
    """A painting and its tiling twice over have the same statistics but for the seams."""
    small = cv2.GaussianBlur(np.random.default_rng(0).uniform(0, 255, (128, 128, 3)).astype(np.float32), (0, 0), 3)
    painting = torch.from_numpy(small).permute(2, 0, 1)[None]
    mirrored = torch.cat([painting, painting.flip(3)], dim=3)
    double = torch.cat([mirrored, mirrored.flip(2)], dim=2)
    one, four = (networks.encoder(p) for p in (painting, double))
    other = networks.encoder(255 - painting)
    assert (one - four).norm() < 0.15 * (one - other).norm()


@torch.inference_mode()
def test_folding_for_export_changes_nothing(networks: CompactNetworks) -> None:
    photo, style = pictures(1), networks.encoder(pictures(1, seed=1))
    folded = for_export(networks.stylizer)
    torch.testing.assert_close(folded(photo, style), networks.stylizer(photo, style), atol=2e-3, rtol=0)


@torch.inference_mode()
def test_the_reference_encodes_as_the_loss_network(reference: ReferenceNetworks, tiny_loss_weights: Path) -> None:
    photo = pictures(2)
    wanted = load_loss_network(weights=tiny_loss_weights)(photo, {ENCODER_LAYER})[ENCODER_LAYER]
    assert torch.equal(reference.stylizer.vgg(photo), wanted)
    assert reference(photo, photo).shape == photo.shape


@torch.inference_mode()
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_a_share_of_the_style_is_the_papers_alpha(reference: ReferenceNetworks, alpha: float) -> None:
    photo, painting = pictures(1), pictures(1, seed=1)
    f, g = (reference.stylizer.vgg(x) for x in (photo, painting))
    mean, deviation = mean_and_deviation(g)
    wanted = alpha * adain(f, deviation, mean) + (1 - alpha) * f  # equation 14
    got = reference.stylizer.target(photo, alpha * reference.encoder(painting))
    torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-4)


def test_only_the_decoder_of_the_reference_learns(reference: ReferenceNetworks) -> None:
    learning = {name.split(".")[1] for name, p in reference.named_parameters() if p.requires_grad}
    assert learning == {"decoder"}


def test_a_warm_start_paints_like_the_style_that_it_came_from() -> None:
    """With the one photograph that was measured, as its own painting, and nothing learned yet, exactly so."""
    torch.manual_seed(1)
    fast = build_network(NetworkConfig("fast", width=4, blocks=1, padding=TINY.padding))
    with torch.no_grad():
        for parameter in fast.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    networks, photo = CompactNetworks(TINY), pictures(1)
    begin_with(networks, Checkpoint(fast.config, fast.state_dict(), {}), photo)
    with torch.no_grad():
        networks.encoder.to_style.weight.zero_()
        wanted = fast.eval()(photo)
        got = networks(photo, photo)
    assert (got - wanted).abs().max() < 0.5
    assert wanted.std() > 5
    deeper = Checkpoint(NetworkConfig("fast", width=4, blocks=2), {}, {})
    with pytest.raises(TrainingError, match=r"fast-tier style of width 4 with 1 blocks, got .* with 2 blocks"):
        begin_with(networks, deeper, photo)


# The training


@pytest.fixture
def make_config(tmp_path: Path, tiny_loss_weights: Path) -> MakeConfig:
    """A training of seconds: blocks as photographs, stripes and dots as paintings, the tiny loss network."""
    rng = np.random.default_rng(0)
    for folder, count, cells in (("photos", 6, 6), ("paintings", 5, 24)):
        (tmp_path / folder).mkdir()
        for i in range(count):
            coarse = rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
            large = cv2.resize(coarse, (96, 80), interpolation=cv2.INTER_NEAREST)
            cv2.imwrite(str(tmp_path / folder / f"{i}.png"), large)

    def make(run: str = "run", kind: str = "compact", **options: object) -> AdainTrainConfig:
        chosen = {
            "network": TINY, "loss_weights": tiny_loss_weights, "steps": 6, "batch_size": 2, "crop_size": 64,
            "checkpoint_every": 3, "precision": "fp32", "zoom": (1.0, 1.2), "learning_rate": 1e-3,
        }  # fmt: skip
        folders = tmp_path / "photos", tmp_path / "paintings", tmp_path / run
        return AdainTrainConfig.of(kind, *folders, **{**chosen, **options})

    return make


def reports_of(config: AdainTrainConfig, **options: object) -> list[Progress]:
    reports: list[Progress] = []
    train_adain(config, callback=reports.append, **options)
    return reports


@pytest.mark.parametrize(
    ("kind", "rate", "names"),
    [
        ("compact", 1e-3, {"content", "style", "tv", "motion", "identity", "hint", "distance", "structure", "total"}),
        ("reference", 2e-2, {"content", "style", "tv", "motion", "distance", "structure", "total"}),
    ],
)
def test_the_loss_falls(make_config: MakeConfig, kind: str, rate: float, names: set[str]) -> None:
    reports = reports_of(make_config(kind=kind, steps=40, style_weight=5.0, motion_weight=5.0, learning_rate=rate))
    assert reports[-1].losses["total"] < 0.9 * reports[0].losses["total"]
    assert set(reports[-1].losses) == names


@pytest.mark.skipif(sys.platform == "win32", reason="repr of a path is no path's name there")
def test_two_processes_learn_what_one_does(make_config: MakeConfig, tmp_path: Path) -> None:
    one, two = (make_config(run, batch_size=4, steps=4) for run in ("one", "two"))
    reports_of(one)
    script = tmp_path / "two.py"
    script.write_text(
        "from pathlib import PosixPath\n"
        "from impasto.training.adain_config import AdainTrainConfig\n"
        "from impasto.training.adain_networks import CompactConfig\n"
        "from impasto.training.train_adain import train_adain\n"
        f"train_adain({two!r})\n"
    )
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run([*torchrun, script], check=True, capture_output=True, timeout=120)
    wanted, found = (load_adain_checkpoint(c.output / "checkpoint.safetensors").metadata["losses"] for c in (one, two))
    del wanted["distance"], found["distance"]  # the mean of each one's median
    assert found == pytest.approx(wanted, rel=0.01, abs=1e-3)


@pytest.mark.parametrize("kind", ["compact", "reference"])
def test_a_stopped_run_goes_on_as_if_it_had_not(make_config: MakeConfig, kind: str) -> None:
    whole, parts = make_config("whole", kind), make_config("parts", kind)
    reports_of(whole)
    count = iter(range(10))
    first = reports_of(parts, should_stop=lambda: next(count) >= 4)
    assert len(first) == 4
    with pytest.raises(TrainingError, match="already holds a training run"):
        train_adain(parts)
    assert reports_of(parts, resume=True)[-1].step == 6
    a, b = (load_adain_checkpoint(c.output / "checkpoint.safetensors").state_dict for c in (whole, parts))
    assert all(torch.equal(a[name], b[name]) for name in a)
    with pytest.raises(TrainingError, match="tv_weight must be as in the run to resume"):
        train_adain(replace(parts, tv_weight=9.0), resume=True)


def test_a_resumed_run_needs_no_warm_start_and_still_names_it(make_config: MakeConfig, tmp_path: Path) -> None:
    fast = build_network(NetworkConfig("fast", width=4, blocks=1, padding=TINY.padding))
    style = tmp_path / "style.safetensors"
    save_checkpoint(style, Checkpoint(fast.config, fast.state_dict(), {"step": 7, "training": {"name": "dots"}}))
    config = make_config(warm_start=style)
    count = iter(range(10))
    reports_of(config, should_stop=lambda: next(count) >= 4)
    style.unlink()
    reports_of(config, resume=True)
    training = load_adain_checkpoint(config.output / "checkpoint.safetensors").metadata["training"]
    assert training["before"] == {"name": "dots", "style": {}, "step": 7}


@pytest.mark.parametrize("kind", ["compact", "reference"])
def test_a_checkpoint_gives_the_networks_back(make_config: MakeConfig, kind: str, tmp_path: Path) -> None:
    seen = []
    path = train_adain(make_config(kind=kind, steps=2), sample=lambda networks, step: seen.append(networks))
    loaded = load_adain_checkpoint(path)
    built, photo = loaded.build(), pictures(1)
    with torch.inference_mode():
        # The trained one lies in channels-last memory and adds up in another order.
        torch.testing.assert_close(built(photo, photo), seen[-1].eval()(photo, photo), atol=1e-2, rtol=1e-4)
    assert loaded.kind == kind
    assert loaded.metadata["step"] == 2
    assert is_adain_checkpoint(path)
    with pytest.raises(TrainingError, match="not a checkpoint"):
        load_checkpoint(path)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(path.read_bytes()[:500])
    with pytest.raises(TrainingError, match="not a checkpoint"):
        load_adain_checkpoint(broken)


def test_settings_that_cannot_be() -> None:
    here = Path()
    for options, message in (
        ({"zoom": (2.0, 1.0)}, "zoom must be two numbers"),
        ({"crop_size": 100}, "crop_size must be a multiple of 16"),
        ({"structure": 1.0}, "structure must be between 0 and 1"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"identity_weight": -1.0}, "identity_weight must be 0 or more"),
    ):
        with pytest.raises(ValueError, match=message):
            AdainTrainConfig.of("compact", here, here, here, **options)
    with pytest.raises(ValueError, match="style_weight must be a number for the reference"):
        AdainTrainConfig.of("reference", here, here, here, style_weight=None)
    with pytest.raises(ValueError, match="warm_start must be none for the reference"):
        AdainTrainConfig.of("reference", here, here, here, warm_start=here)


def test_the_command_trains_and_reports(make_config: MakeConfig, tmp_path: Path) -> None:
    from impasto.realtime.cli_train import adain_app

    config = make_config()
    arguments = [
        "--photos", config.photos, "--paintings", config.paintings, "-o", config.output, "--kind", "reference",
        "--loss-weights", config.loss_weights, "--steps", 2, "--batch-size", 2, "--crop-size", 64, "--quiet",
    ]  # fmt: skip
    result = CliRunner().invoke(adain_app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    report = cv2.imread(str(config.output / "report.png"))
    assert report is not None
    assert report.std() > 10
    assert (config.output / "log.csv").read_text().startswith("step,total,content,style,distance")
