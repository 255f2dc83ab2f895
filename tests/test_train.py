"""The training loop: it learns, resumes exactly, runs in several processes, and survives what users feed it."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

torch = pytest.importorskip("torch", reason="training needs torch")

from impasto.training import loop  # noqa: E402
from impasto.training.balance import StyleBalance  # noqa: E402
from impasto.training.checkpoint import load_checkpoint  # noqa: E402
from impasto.training.cli import train_app  # noqa: E402
from impasto.training.clips import ClipPairs  # noqa: E402
from impasto.training.errors import TrainingError  # noqa: E402
from impasto.training.keyframes import KeyframePairs  # noqa: E402
from impasto.training.loop import Process, Progress, learning_rate  # noqa: E402
from impasto.training.train import _inputs, _start, _Targets, _terms, train  # noqa: E402
from impasto.training.train_config import TrainConfig  # noqa: E402

MakeConfig = Callable[..., TrainConfig]


def striped(size: int, colours: tuple[tuple[int, int, int], ...], width: int = 7) -> np.ndarray:
    lines = np.arange(size) // width % len(colours)
    return np.ascontiguousarray(np.broadcast_to(np.array(colours, np.uint8)[lines][:, None], (size, size, 3)))


@pytest.fixture
def make_config(tmp_path: Path, tiny_loss_weights: Path) -> MakeConfig:
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


def test_the_loss_falls(make_config: MakeConfig) -> None:
    reports = run_losses(make_config(steps=30, style_weight=5.0))
    assert reports[-1].losses["total"] < 0.7 * reports[0].losses["total"]
    assert [report.step for report in reports] == list(range(1, 31))
    assert set(reports[-1].losses) == {
        "content", "style", "tv", "range", "grid", "motion", "structure", "total",
    }  # fmt: skip


def test_a_network_overfits_one_picture(make_config: MakeConfig, tmp_path: Path) -> None:
    """Without style it must learn to copy a photograph."""
    from impasto.training.data import read_picture
    from impasto.training.report import paint

    single = tmp_path / "single"
    single.mkdir()
    (single / "0.png").write_bytes((tmp_path / "photos" / "0.png").read_bytes())
    config = make_config(
        photos=single, steps=100, style_weight=0.0, tv_weight=0.0, motion_weight=0.0, learning_rate=3e-3
    )
    reports = run_losses(config)
    assert reports[-1].losses["content"] < 0.3 * reports[0].losses["content"]
    photo = read_picture(single / "0.png")
    painted = paint(load_checkpoint(config.output / "checkpoint.safetensors").build(), photo)
    grey = [picture[:80, :96].astype(float).mean(axis=2).ravel() for picture in (photo, painted)]
    assert np.corrcoef(grey[0], grey[1])[0, 1] > 0.6


def test_the_same_seed_gives_the_same_losses(make_config: MakeConfig) -> None:
    first, again, other = (run_losses(make_config(run, seed=seed)) for run, seed in (("a", 1), ("b", 1), ("c", 2)))
    assert [r.losses for r in first] == [r.losses for r in again]
    assert first[-1].losses != other[-1].losses


def test_a_stopped_and_resumed_run_equals_an_uninterrupted_one(make_config: MakeConfig) -> None:
    whole, halves = make_config("whole"), make_config("halves")
    run_losses(whole)
    seen: list[int] = []
    train(halves, callback=lambda p: seen.append(p.step), should_stop=lambda: len(seen) >= 3)
    assert load_checkpoint(halves.output / "checkpoint.safetensors").metadata["step"] == 3
    train(halves, resume=True, callback=lambda p: seen.append(p.step))
    assert seen == list(range(1, 9))
    assert_same_weights(whole, halves)


def test_a_warm_start_begins_with_the_weights_of_another_run(make_config: MakeConfig) -> None:
    first = make_config("first")
    run_losses(first)
    checkpoint = first.output / "checkpoint.safetensors"
    second = make_config("second", warm_start=checkpoint, steps=1, learning_rate=1e-9)
    run_losses(second)
    assert_same_pictures(first, second, levels=0.01)
    assert load_checkpoint(second.output / "checkpoint.safetensors").metadata["training"]["warm_start"] == "first"
    with pytest.raises(TrainingError, match=r"warm start must be a checkpoint of .*johnson.*, got .*fast"):
        train(make_config("third", warm_start=checkpoint, tier="quality"))


def test_a_checkpoint_says_how_each_of_its_stages_was_made(make_config: MakeConfig) -> None:
    """Into the artifact, after a resume, and with the earlier checkpoints gone."""
    from impasto.export.artifact import metadata_from_json
    from impasto.export.to_onnx import metadata_of

    before = None
    for name, steps in (("first", 2), ("second", 3), ("third", 4)):
        config = make_config(name, warm_start=before, steps=steps, seed=steps, structure=steps / 10)
        train(config, should_stop=stop_after(2))
        before = config.output / "checkpoint.safetensors"
    (make_config("second").output / "checkpoint.safetensors").unlink()
    train(config, resume=True)

    artifact = metadata_of(load_checkpoint(before), stride=4)
    known = metadata_from_json(json.loads(json.dumps(asdict(artifact)))).training
    stages = [known, known["before"], known["before"]["before"]]
    assert [stage["step"] for stage in stages] == [4, 2, 2]
    assert [stage["seed"] for stage in stages] == [4, 3, 2]
    assert [stage["structure"] for stage in stages] == [0.4, 0.3, 0.2]
    assert len({stage["style"]["sha256"] for stage in stages[1:]}) == 1
    assert "before" not in stages[-1]


def test_samples_are_painted_every_so_often_and_at_the_end(make_config: MakeConfig) -> None:
    config = make_config(steps=7, sample_every=3)
    sampled: list[int] = []
    train(config, sample=lambda network, step: sampled.append(step), should_stop=lambda: sampled == [3, 6])
    assert sampled == [3, 6]  # stopped where one had just been painted
    train(config, resume=True, sample=lambda network, step: sampled.append(step))
    assert sampled == [3, 6, 7]


def test_clips_join_in_for_the_last_part_and_resume(make_config: MakeConfig, make_clip: Callable[..., Path]) -> None:
    clips = make_clip("pan.mkv", height=96, width=128, codec="ffv1", pixel_format="bgr0", draw=_panning).parent
    whole, halves, without = make_config("whole", videos=clips), make_config("halves", videos=clips), make_config("no")
    reports = run_losses(whole)
    assert ["videos" in report.losses for report in reports] == [False] * 5 + [True] * 3
    assert reports[-1].losses["videos"] > 0
    seen: list[int] = []
    train(halves, callback=lambda p: seen.append(p.step), should_stop=lambda: len(seen) >= 6)
    train(halves, resume=True, callback=lambda p: seen.append(p.step))
    assert_same_weights(whole, halves)
    run_losses(without)
    with pytest.raises(AssertionError):
        assert_same_weights(whole, without)


def test_a_run_killed_at_once_resumes_to_the_same_step(make_config: MakeConfig) -> None:
    whole, killed = make_config("whole", steps=30), make_config("killed", steps=30)
    run_losses(whole)
    process = subprocess.Popen(_train_command(killed), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == "9":  # two checkpoints written, the third not
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    resumed = run_losses(killed, resume=True)
    assert resumed[0].step in (9, 13, 17)  # the step after the last whole checkpoint
    assert resumed[-1].step == 30
    assert_same_pictures(whole, killed, levels=0.05)  # another process may sum in another order


@pytest.mark.parametrize("batch_size", [2, 6])  # one picture each; three and three, two of them and one moved
def test_two_processes_equal_one(make_config: MakeConfig, batch_size: int) -> None:
    one, two = (make_config(run, batch_size=batch_size, steps=4) for run in ("one", "two"))
    run_losses(one)
    _torchrun(_train_command(two))
    assert_same_pictures(
        one, two, levels=1.0
    )  # gradients that are not averaged give 18, a motion of its own for each 8
    assert load_checkpoint(two.output / "checkpoint.safetensors").metadata["losses"] == pytest.approx(
        load_checkpoint(one.output / "checkpoint.safetensors").metadata["losses"], rel=0.01
    )


@pytest.mark.parametrize("world", [2, 4])
def test_the_mean_over_processes_is_what_one_alone_finds(
    make_config: MakeConfig, make_clip: Callable[..., Path], world: int
) -> None:
    """All terms and their gradients, those too of which a process has no picture."""
    config = make_config(batch_size=4, steps=1)
    clips = make_clip("pan.mkv", height=96, width=128, codec="ffv1", pixel_format="bgr0", draw=_panning).parent
    photo = striped(64, ((200, 0, 90), (0, 120, 30)))
    targets = replace(
        _Targets.load(config, torch.device("cpu")),
        keyframes=KeyframePairs(((photo, 255 - photo),), 64, 0),
        clips=ClipPairs.load(clips, crop_size=64, seed=0),
    )
    batch = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 255
    torch.manual_seed(0)
    network = _start(config, torch.device("cpu"), set()).network

    def found(process: Process) -> tuple[dict[str, float], torch.Tensor]:
        photos, inputs = process.share(batch), _inputs(1, batch, targets, config, process)
        painted = network(torch.cat([photos, inputs.disturbed, inputs.frames, *inputs.clip_frames]))
        terms = _terms(photos, painted, inputs, targets, process)
        network.zero_grad()
        sum(terms.values()).backward()
        return {name: term.item() for name, term in terms.items()}, network.to_rgb.weight.grad.clone()

    alone, gradient = found(Process(0, 1, torch.device("cpu"), bf16=False))
    parts = [found(Process(rank, world, torch.device("cpu"), bf16=False)) for rank in range(world)]
    assert {"motion", "keyframes", "videos"} <= alone.keys()
    assert {name: np.mean([part[name] for part, _ in parts]) for name in alone} == pytest.approx(alone, rel=1e-4)
    mean = torch.stack([part for _, part in parts]).mean(dim=0)
    assert (mean - gradient).norm() < 1e-3 * gradient.norm()


def _panning(number: int, height: int, width: int) -> np.ndarray:
    coarse = np.random.default_rng(0).integers(30, 226, (16, 30, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width + 60, height), interpolation=cv2.INTER_CUBIC)[:, 2 * number :][:, :width]


def test_processes_end_together_though_one_alone_is_told(make_config: MakeConfig) -> None:
    config = make_config(batch_size=4, steps=50, motion_weight=0.0)
    third = "lambda asked=[]: asked.append(1) or os.environ['RANK'] == '1' and len(asked) > 3"
    _torchrun(_train_command(config, should_stop=third))
    assert load_checkpoint(config.output / "checkpoint.safetensors").metadata["step"] == 3


def _torchrun(command: list[str]) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run(torchrun + command[1:], check=True, capture_output=True, timeout=120)


def _train_command(config: TrainConfig, *, should_stop: str = "lambda: False") -> list[str]:
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


def test_a_second_run_never_overwrites_the_first(make_config: MakeConfig) -> None:
    config = make_config(steps=2)
    train(config)
    with pytest.raises(TrainingError, match="--resume"):
        train(config)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("seed", 5), ("steps", 9), ("style_weight", 3.0), ("tier", "quality"), ("crop_size", 68),
        ("keyframe_weight", 2.0), ("precision", "bf16"),
    ],
)  # fmt: skip
def test_a_run_is_not_resumed_with_other_settings(make_config: MakeConfig, option: str, value: object) -> None:
    config = make_config(steps=2)
    train(config)
    with pytest.raises(TrainingError, match=option):
        train(replace(config, **{option: value}), resume=True)


def test_a_run_is_not_resumed_with_another_loss_network(make_config: MakeConfig, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    config = make_config(steps=4)
    train(config, should_stop=stop_after(2))
    weights = load_file(config.loss_weights)
    save_file({"conv1_1.bias": weights.pop("conv1_1.bias") + 1, **weights}, tmp_path / "other.safetensors")
    with pytest.raises(TrainingError, match="loss_network_sha256 must be as in the run to resume"):
        train(replace(config, loss_weights=tmp_path / "other.safetensors"), resume=True)
    torch.save(load_file(config.loss_weights), tmp_path / "the same.pth")
    train(replace(config, loss_weights=tmp_path / "the same.pth"), resume=True)


def test_a_resumed_run_keeps_the_precision_that_auto_once_came_to(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, halves = make_config("whole", precision="bf16"), make_config("halves", precision="auto")
    run_losses(whole)
    for resume, faster in ((False, True), (True, False)):
        monkeypatch.setattr(loop, "bf16_is_faster", lambda device, faster=faster: faster)
        run_losses(halves, resume=resume, should_stop=stop_after(8 if resume else 3))
    assert_same_weights(whole, halves)
    assert load_checkpoint(halves.output / "checkpoint.safetensors").metadata["training"]["precision"] == "bf16"
    with pytest.raises(TrainingError, match=r"precision must be as in the run to resume \('bf16'\), got 'fp32'"):
        train(replace(halves, precision="fp32"), resume=True)


def test_a_state_of_an_older_version_can_be_gone_on_from(make_config: MakeConfig) -> None:
    whole, halves = make_config("whole"), make_config("halves")
    run_losses(whole)
    train(halves, should_stop=stop_after(3))
    state = torch.load(halves.output / "state.pt", weights_only=True)
    del state["bad_files"], state["before"]
    for name in ("precision", "loss_network_sha256", "keyframe_weight"):
        del state["settings"][name]
    torch.save(state, halves.output / "state.pt")
    train(halves, resume=True)
    assert_same_weights(whole, halves)


def _fake_processes(monkeypatch: pytest.MonkeyPatch, *, rank: int, said: float) -> list[str]:
    """As if `torchrun` had started two; the first one says `said`. The backends that are asked for."""
    begun: list[str] = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(
        loop, "dist", SimpleNamespace(
            init_process_group=begun.append, destroy_process_group=lambda: None, is_initialized=lambda: True,
            get_rank=lambda: rank, get_world_size=lambda: 2,
            broadcast=lambda tensor, source: tensor.fill_(said) if rank != source else None,
        ),
    )  # fmt: skip
    return begun


@pytest.mark.parametrize(
    ("rank", "ours", "said", "bf16"), [(0, True, 0, True), (1, True, 0, False), (1, False, 1, True)]
)
def test_the_first_process_decides_on_the_precision(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, rank: int, ours: bool, said: int, bf16: bool
) -> None:
    _fake_processes(monkeypatch, rank=rank, said=said)
    monkeypatch.setattr(loop, "bf16_is_faster", lambda device: ours)
    with loop.training_process(make_config(precision="auto", device="cpu")) as process:
        assert process.bf16 is bf16


@pytest.mark.parametrize(("device", "backend"), [("cpu", "gloo"), ("auto", "nccl")])
def test_processes_talk_by_what_their_device_understands(
    monkeypatch: pytest.MonkeyPatch, device: str, backend: str
) -> None:
    begun = _fake_processes(monkeypatch, rank=1, said=0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with loop._process_group(device) as place:
        assert place == (1, 2)
    assert begun == [backend]


def test_nothing_to_resume_is_said(make_config: MakeConfig) -> None:
    with pytest.raises(TrainingError, match="nothing to resume"):
        train(make_config(), resume=True)


@pytest.mark.parametrize("content", [b"", b"garbage"])
def test_a_damaged_state_is_one_clear_error(make_config: MakeConfig, content: bytes) -> None:
    config = make_config()
    config.output.mkdir()
    (config.output / "state.pt").write_bytes(content)
    with pytest.raises(TrainingError, match="cannot resume"):
        train(config, resume=True)


def test_bad_photographs_are_skipped_and_counted(make_config: MakeConfig) -> None:
    config = make_config()
    (config.photos / "bad.jpg").write_bytes(b"not a picture")
    assert run_losses(config, should_stop=stop_after(4))[-1].bad_files == 1
    # As in a run that was not interrupted, it stays counted and is not tried again.
    (config.photos / "bad.jpg").write_bytes((config.photos / "0.png").read_bytes())
    assert run_losses(config, resume=True)[0].bad_files == 1


def test_damaged_photographs_do_not_end_the_command(make_config: MakeConfig) -> None:
    """Nor do they get into the report, which begins with the first ones of the folder."""
    config = make_config()
    for name in "01234":
        path = config.photos / f"{name}.png"
        path.write_bytes(path.read_bytes()[:60])
    (config.photos / "notes.txt").write_text("no picture")
    (config.photos / ".hidden").write_text("no picture either")
    done = CliRunner().invoke(train_app, _arguments(config, "--steps", "4"))
    assert done.exit_code == 0, (done.output, done.exception)
    assert "done; skipped files: 5 could not be read, 1 not a picture; next: impasto export" in done.stdout
    assert cv2.imread(str(config.output / "report.png")) is not None

    (config.photos / "5.png").write_bytes(b"")
    none = CliRunner().invoke(train_app, _arguments(make_config("none"), "--steps", "4"))
    assert isinstance(none.exception, TrainingError)
    assert "none of the 6 pictures" in str(none.exception)


def test_tensorboard_gets_losses_and_pictures(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    scalars: list[tuple[str, int]] = []
    images: list[tuple[str, tuple[int, ...], int]] = []

    class Writer:
        def __init__(self, folder: Path) -> None:
            self.folder = folder

        def add_scalar(self, name: str, value: float, step: int) -> None:
            scalars.append((name, step))

        def add_image(self, name: str, picture: np.ndarray, step: int, *, dataformats: str) -> None:
            images.append((name, picture.shape, step))

        def flush(self) -> None:
            scalars.append(("flush", 0))

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer))
    done = CliRunner().invoke(train_app, _arguments(make_config(), "--steps", "12", "--tensorboard", "--quiet"))
    assert done.exit_code == 0, (done.output, done.exception)
    assert [step for name, step in scalars if name == "loss/total"] == [10, 12]
    assert scalars[-1] == ("flush", 0)
    assert images == [(f"sample/{i}", (320, 384, 3), 12) for i in range(4)]

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    missing = CliRunner().invoke(train_app, _arguments(make_config("missing"), "--tensorboard"))
    assert "pip install tensorboard" in str(missing.exception)


def _arguments(config: TrainConfig, *more: str) -> list[str]:
    """Of `impasto train`."""
    return [
        str(config.style_image), "--photos", str(config.photos), "-o", str(config.output),
        "--loss-weights", str(config.loss_weights), "--batch-size", "2", "--crop-size", "64", "--style-size", "64",
        "--precision", "fp32", *more,
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["tiny", "grey", "alpha", "sixteen"])
def test_odd_paintings_can_be_learned(make_config: MakeConfig, tmp_path: Path, kind: str) -> None:
    stripes = striped(96, ((20, 40, 200), (240, 240, 90)))
    painting = {
        "tiny": stripes[:20, :30],
        "grey": stripes[:, :, 0],
        "alpha": np.dstack([stripes, np.full((96, 96), 128, np.uint8)]),
        "sixteen": stripes.astype(np.uint16) * 257,
    }[kind]
    path = tmp_path / f"{kind}.png"
    assert cv2.imwrite(str(path), painting)
    reports = run_losses(make_config(style_image=path, steps=3))
    assert np.isfinite(reports[-1].losses["total"])


def test_the_style_weight_is_found_for_two_paintings(make_config: MakeConfig, shared_data: Path) -> None:
    """The structure kept ends within 20 % of what was chosen, whatever the painting; with the weight of the start these
    end at 0.58 and 0.59. Needs a real loss network: the tiny one sees too little of a photograph to keep any of it."""
    found = []
    for name in ("mosaic-metzinger", "udnie"):
        config = make_config(
            name, style_image=shared_data / "styles" / f"{name}.jpg", photos=shared_data / "photos" / "validation",
            loss_weights=shared_data / "loss_network" / "vgg19_slim16x.safetensors",
            steps=140, crop_size=96, style_size=192, structure=0.45, learning_rate=2e-3, precision="auto",
        )  # fmt: skip
        reports = run_losses(config)
        assert reports[-1].losses["structure"] == pytest.approx(0.45, rel=0.2)
        found.append(reports[-1].style_weight)
    assert found[0] != pytest.approx(found[1], rel=0.2)


def test_the_balance_raises_and_lowers_the_weight_and_then_holds_it() -> None:
    def update(structure: float, step: int) -> float:
        return balance.update(content=1.0, style=0.5, structure=structure, step=step, steps=100)

    balance = StyleBalance(structure=0.6, content_weight=2.0, fixed=None)
    start = update(0.1, 0)
    assert start == pytest.approx(StyleBalance.START * 2.0 * 1.0 / 0.5)
    assert update(0.1, 1) == start  # an untrained network keeps nothing yet
    raised = update(0.9, 10)
    assert raised > start
    held = update(0.3, 20)
    assert held < raised
    assert update(0.3, 90) == held
    fixed = StyleBalance(0.6, 1.0, fixed=3.0)
    assert fixed.update(content=0.1, style=0.1, structure=0.1, step=50, steps=100) == 3.0


def test_the_learning_rate_is_one_cycle() -> None:
    rates = [learning_rate(step, 200, 1e-3) for step in range(200)]
    assert rates[0] == pytest.approx(1e-4)
    assert max(rates) == pytest.approx(1e-3)
    assert rates.index(max(rates)) == 9
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[-1] == pytest.approx(1e-5, rel=0.1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"steps": 0}, "steps"), ({"crop_size": 66}, "crop_size"), ({"style_size": 20}, "style_size"),
        ({"style_weight": -1.0}, "style_weight"), ({"learning_rate": float("nan")}, "learning_rate"),
        ({"statistics": "mean"}, "statistics"),
        ({"structure": 1.0}, "structure"), ({"tv_weight": float("inf")}, "tv_weight"),
    ],
)  # fmt: skip
def test_wrong_settings_are_refused(make_config: MakeConfig, options: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make_config(**options)


def test_the_command_trains_reports_and_stops_cleanly_on_ctrl_c(make_config: MakeConfig) -> None:
    config = make_config()
    program = [sys.executable, "-c", "from impasto.realtime.cli import main; main()", "train"]
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    done = subprocess.run(
        [*program, *_arguments(config, "--steps", "12", "--sample-every", "6")],
        capture_output=True, text=True, env=environment, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = done.stderr.splitlines()
    assert said[-1].startswith("step 12/12")
    assert all(line.startswith("step ") and line.endswith(" s left") for line in said), said  # one line a report
    rows = list(csv.DictReader((config.output / "log.csv").read_text().splitlines()))
    assert [row["step"] for row in rows] == ["10", "12"]
    assert cv2.imread(str(config.output / "report.png")) is not None

    other = config.output.with_name("interrupted")
    process = subprocess.Popen(
        [*program, *_arguments(replace(config, output=other), "--steps", "100000", "--checkpoint-every", "10")],
        stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    deadline = time.monotonic() + 90
    while not (other / "state.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    # What SIGKILL would leave: the rows up to the checkpoint.
    rows = list(csv.DictReader((other / "log.csv").read_text().splitlines()))
    assert rows[0]["step"] == "10"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "--resume" in said
    assert "Traceback" not in said
    assert load_checkpoint(other / "checkpoint.safetensors").metadata["step"] >= 10


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["missing.jpg", "--photos", "PHOTOS"], 3, "missing.jpg"),
        (["STYLE", "--photos", "nowhere"], 3, "nowhere"),
        (["STYLE", "--photos", "PHOTOS", "--loss-weights", "none.pth"], 3, "none.pth"),
        (["STYLE", "--photos", "PHOTOS", "--style-weight", "much"], 2, "--style-weight"),
        (["STYLE", "--photos", "PHOTOS", "--steps", "0"], 2, "steps"),
    ],
)
def test_wrong_input_is_one_line_and_an_exit_code(
    make_config: MakeConfig,
    tmp_path: Path,
    arguments: list[str],
    code: int,
    said: str,
) -> None:
    config = make_config()
    names = {"STYLE": str(config.style_image), "PHOTOS": str(config.photos)}
    command = [sys.executable, "-c", "from impasto.realtime.cli import main; main()", "train"]
    extra = [] if "--loss-weights" in arguments else ["--loss-weights", str(config.loss_weights)]
    done = subprocess.run(
        [*command, *(names.get(a, a) for a in arguments), *extra, "-o", str(tmp_path / "out")],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
