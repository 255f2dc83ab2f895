"""The PyTorch engine rebuilds its network from the artifact alone."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the PyTorch engine needs impasto[train]")
pytest.importorskip("onnxscript", reason="exporting needs impasto[train]")

from impasto.export.artifact import Artifact  # noqa: E402
from impasto.export.errors import ArtifactError  # noqa: E402
from impasto.export.parity import compare  # noqa: E402
from impasto.export.to_onnx import build_graph, torch_reference  # noqa: E402
from impasto.export.to_torch import rebuild_checkpoint, rebuild_network  # noqa: E402
from impasto.realtime.engine import PictureEngine  # noqa: E402
from impasto.realtime.engine_torch import TorchRunner, _Captured  # noqa: E402
from impasto.realtime.errors import EngineError  # noqa: E402
from impasto.training.networks import NetworkConfig, build_network  # noqa: E402


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    network = build_network(NetworkConfig("fast", width=4, blocks=1)).eval()
    with torch.no_grad():  # fresh normalisations are all alike, and the exporter stores equal tensors once
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return network


@pytest.fixture(scope="module")
def artifact(make_artifact: Callable[..., Artifact], network: torch.nn.Module) -> Artifact:
    training = {"network": network.config.to_dict()}
    rng = np.random.default_rng(0)
    photographs = [rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)]  # centred activations change epsilons too
    return make_artifact(build_graph(network, photographs=photographs), stride=4, training=training)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_same_picture_as_the_network_that_was_exported(
    artifact: Artifact, network: torch.nn.Module, precision: str
) -> None:
    """On the processor; the card differs in graphs and memory, not in arithmetic."""
    y, x = np.mgrid[0:64, 0:96]
    frame = np.stack([x * 2, y * 3, x + y], -1).astype(np.uint8)
    engine = PictureEngine(TorchRunner(artifact, "cpu", precision), stride=4)
    painted = engine(frame[np.newaxis])[0]
    wanted = torch_reference(network)(frame)
    assert compare([(wanted, painted)], precision=precision, engine="").psnr_db > (50 if precision == "fp32" else 38)
    engine.close()
    with pytest.raises(EngineError, match="after it was closed"):
        engine(frame[np.newaxis])


def test_an_artifact_that_does_not_say_what_it_holds(small_artifact: Artifact) -> None:
    with pytest.raises(ArtifactError, match="must say which network it holds"):
        rebuild_network(small_artifact)
    with pytest.raises(EngineError, match="must say which network it holds"):
        TorchRunner(small_artifact, "cpu", "fp32")


def test_the_checkpoint_that_was_exported_comes_back(artifact: Artifact, network: torch.nn.Module) -> None:
    """To train on: not as it was made for engines, with folded upsampling and centred activations."""
    restored = rebuild_checkpoint(artifact)
    assert restored.config == network.config
    before_norms = {f"{name}.bias" for name in ("down.0", "down.1", "body.0.conv1", "body.0.conv2")}
    before_norms |= {"up.0.conv.bias", "up.1.conv.bias"}  # centred: a mean that the normalisation takes out again
    for name, wanted in network.state_dict().items():
        if name not in before_norms:
            assert torch.allclose(restored.state_dict[name], wanted, rtol=2e-3, atol=1e-3 * wanted.abs().max()), name
    pictures = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0)) * 255
    with torch.inference_mode():
        wanted, painted = network(pictures), restored.build()(pictures)
    assert (painted - wanted).abs().max() < 0.5
    assert wanted.std() > 5


def test_an_epsilon_of_zero_is_one_clear_error(
    make_artifact: Callable[..., Artifact], network: torch.nn.Module
) -> None:
    model = build_graph(network)
    for attribute in (a for node in model.graph.node for a in node.attribute if a.name == "epsilon"):
        attribute.f = 0.0
    damaged = make_artifact(model, stride=4, training={"network": network.config.to_dict()})
    with pytest.raises(ArtifactError, match="must have epsilons above 0 to be trained on, got 0"):
        rebuild_checkpoint(damaged)


def test_a_second_card_captures_and_replays_its_own_graph() -> None:
    """With a PyTorch that only notes on which card it is asked to do what."""
    current, seen = ["cuda:0"], []
    fake = MagicMock()

    @contextmanager
    def device(name: str) -> Iterator[None]:
        current.append(name)
        yield
        current.pop()

    @contextmanager
    def graph(made: object, stream: Any, capture_error_mode: str) -> Iterator[None]:
        seen.append((current[-1], stream.card, capture_error_mode))
        yield

    fake.cuda.device, fake.cuda.graph = device, graph
    fake.cuda.Stream = lambda device: MagicMock(spec=["wait_stream"], card=device)
    fake.cuda.CUDAGraph.return_value.replay = lambda: seen.append(current[-1])
    frames = np.zeros((1, 4, 4, 3), np.uint8)
    fake.empty.return_value.numpy.return_value = frames.copy()
    _Captured(fake, lambda frames: frames, frames.shape, "cuda:1").run(frames)
    assert seen == [("cuda:1", "cuda:1", "thread_local"), "cuda:1"]
    assert current == ["cuda:0"]
