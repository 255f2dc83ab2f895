"""Training in several processes: they learn what one does, and begin and end together."""

import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from impasto.training import loop  # noqa: E402
from impasto.training import train as train_module  # noqa: E402
from impasto.training.adain_objectives import Batch  # noqa: E402
from impasto.training.checkpoint import load_checkpoint  # noqa: E402
from impasto.training.clips import ClipPairs  # noqa: E402
from impasto.training.device import torch_device  # noqa: E402
from impasto.training.errors import TrainingError  # noqa: E402
from impasto.training.keyframes import KeyframePairs  # noqa: E402
from impasto.training.loop import Process  # noqa: E402
from impasto.training.train import _inputs, _start, _Targets, _terms  # noqa: E402

from .train_helpers import MakeConfig, assert_same_pictures, panning, run_losses, striped, train_command  # noqa: E402


@pytest.mark.parametrize("batch_size", [2, 6])  # one picture each; three and three, two of them and one moved
def test_two_processes_equal_one(make_config: MakeConfig, batch_size: int) -> None:
    one, two = (make_config(run, batch_size=batch_size, steps=4) for run in ("one", "two"))
    run_losses(one)
    _torchrun(train_command(two))
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
    clips = make_clip("pan.mkv", height=96, width=128, codec="ffv1", pixel_format="bgr0", draw=panning).parent
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


@pytest.mark.parametrize("world", [2, 4])
def test_processes_move_the_photographs_that_one_alone_moves(world: int) -> None:
    """Of any painting; two of four are moved, so that two of four processes have none."""
    photos, paintings = torch.rand(2, 4, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 255

    def found(rank: int, world: int) -> tuple[Batch, float]:
        process = Process(rank, world, torch.device("cpu"), bf16=False)
        batch = Batch.of(photos, paintings, torch.Generator().manual_seed(1), process, move=True)
        return batch, batch.motion_term(255 - batch.inputs)["motion"].item()

    alone, wanted = found(0, 1)
    parts = [found(rank, world) for rank in range(world)]
    for rank, (part, _) in enumerate(parts):
        moved = torch.cat([alone.photos[rank::world], alone.inputs[4:][rank::world]])
        assert torch.allclose(part.inputs, moved, atol=1e-3)
        assert torch.equal(part.paintings, alone.paintings[rank::world])
    assert np.mean([term for _, term in parts]) == pytest.approx(wanted, rel=1e-4)


def test_processes_end_together_though_one_alone_is_told(make_config: MakeConfig) -> None:
    config = make_config(batch_size=4, steps=50, motion_weight=0.0)
    third = "lambda asked=[]: asked.append(1) or os.environ['RANK'] == '1' and len(asked) > 3"
    _torchrun(train_command(config, should_stop=third))
    assert load_checkpoint(config.output / "checkpoint.safetensors").metadata["step"] == 3


def test_every_process_refuses_a_folder_that_holds_a_run(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the first one leaves, and the others fail without a word of why."""
    config = make_config()
    config.output.mkdir()
    (config.output / "state.pt").write_bytes(b"")
    second = Process(1, 2, torch.device("cpu"), bf16=False)
    monkeypatch.setattr(train_module, "training_process", lambda config: nullcontext(second))
    with pytest.raises(TrainingError, match="already holds a training run"):
        train_module.train(config)


def _torchrun(command: list[str]) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run(torchrun + command[1:], check=True, capture_output=True, timeout=120)


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


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_each_process_gets_a_card_of_its_own(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [str(torch_device(name, rank)) for rank in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a card")
def test_without_a_card_only_auto_is_content() -> None:
    assert torch_device("auto", 1).type == "cpu"
    with pytest.raises(TrainingError, match="device must be one that torch can use here, got 'cuda'"):
        torch_device("cuda")
