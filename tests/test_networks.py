"""Shapes, equal answers after folding, and checkpoints."""

import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from impasto.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint  # noqa: E402
from impasto.training.errors import TrainingError  # noqa: E402
from impasto.training.instance_norm import InstanceNorm  # noqa: E402
from impasto.training.networks import NetworkConfig, UpsampleConv, build_network, for_export  # noqa: E402
from impasto.training.padding import Conv2d  # noqa: E402

SMALL = [
    NetworkConfig("fast", width=4, blocks=1, padding="replicate"),
    NetworkConfig("johnson", width=4, blocks=1, padding="replicate"),
    NetworkConfig("fast", width=4, blocks=1, padding="zeros"),
]


def random_network(config: NetworkConfig):
    torch.manual_seed(0)
    network = build_network(config).eval()
    for parameter in network.parameters():  # norms start as identities, which would hide a mistake in them
        torch.nn.init.normal_(parameter, std=0.3)
    return network


@pytest.mark.parametrize("config", SMALL, ids=lambda config: f"{config.architecture}-{config.padding}")
@pytest.mark.parametrize("size", [(64, 64), (68, 100)])
def test_a_picture_keeps_its_size(config: NetworkConfig, size: tuple[int, int]) -> None:
    assert build_network(config)(torch.zeros(2, 3, *size)).shape == (2, 3, *size)


def test_tiers_have_the_published_sizes() -> None:
    parameters = {
        tier: sum(p.numel() for p in build_network(NetworkConfig.for_tier(tier)).parameters())
        for tier in ("fast", "quality")
    }
    # 1,679,235: the well-known implementations of Johnson's network with instance normalisation.
    assert parameters == {"fast": 329_955, "quality": 1_679_235}


@pytest.mark.parametrize("config", SMALL, ids=lambda config: f"{config.architecture}-{config.padding}")
def test_folding_for_export_keeps_the_answers(config: NetworkConfig) -> None:
    network = random_network(config)
    picture = torch.rand(1, 3, 32, 48) * 255
    with torch.inference_mode():
        # 1e-3 of 255: float32 sums in another order.
        torch.testing.assert_close(for_export(network)(picture), network(picture), atol=1e-2, rtol=1e-4)


@pytest.mark.parametrize("padding", ["zeros", "replicate"])
def test_folded_upsampling_is_exact_at_the_border(padding: str) -> None:
    layer = UpsampleConv(3, 2, padding)
    x = torch.randn(1, 3, 5, 4)
    with torch.inference_mode():
        torch.testing.assert_close(layer.as_transposed()(x), layer(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("tier", ["fast", "quality"])
def test_a_flat_surface_stays_flat_up_to_the_edge_of_the_picture(tier: str) -> None:
    """Zeros around the maps painted a frame there."""
    network = random_network(NetworkConfig.for_tier(tier))
    picture = torch.full((1, 3, 96, 288), 200.0)
    picture[..., 176:] = torch.rand(3, 96, 112) * 255
    with torch.inference_mode():
        flat = network(picture)[..., :64]
    tile = flat[..., 40:44, 40:44].repeat(1, 1, 24, 16)
    assert (flat - tile).abs().max() < 0.01 * network(picture).std()


@pytest.mark.parametrize(("mode", "margin"), [("replicate", 1), ("replicate", 4), ("reflect", 1)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_padding_while_training_is_that_of_pytorch(mode: str, margin: int, layout: torch.memory_format) -> None:
    """Answers and gradients."""
    kwargs = {"padding": margin, "padding_mode": mode, "stride": 2, "dtype": torch.float64}
    ours, theirs = (kind(3, 4, 2 * margin + 1, **kwargs) for kind in (Conv2d, torch.nn.Conv2d))
    theirs.load_state_dict(ours.state_dict())
    answers, gradients = [], []
    for layer in (ours, theirs):
        x = torch.randn(2, 3, 9, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        x = x.to(memory_format=layout).requires_grad_()
        answers.append(layer(x))
        answers[-1].square().sum().backward()
        gradients += [x.grad, layer.weight.grad, layer.bias.grad]
    torch.testing.assert_close(answers[0], answers[1])
    torch.testing.assert_close(gradients[:3], gradients[3:])


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize(("dtype", "channels"), [(torch.float32, 16), (torch.bfloat16, 16), (torch.bfloat16, 64)])
@pytest.mark.parametrize("pictures", [1, 2])
def test_normalisation_while_training_is_the_formula(
    pictures: int, dtype: torch.dtype, channels: int, layout: torch.memory_format
) -> None:
    """Answers and gradients; PyTorch's own are wrong for one picture, channels last."""
    generator = torch.Generator().manual_seed(3)
    norm = InstanceNorm(channels)
    torch.nn.init.normal_(norm.weight, 1, 0.3, generator=generator)
    torch.nn.init.normal_(norm.bias, generator=generator)
    x = (torch.randn(pictures, channels, 24, 28, generator=generator) * 3 + 2).to(dtype).to(memory_format=layout)
    slope = torch.randn(x.shape, generator=generator).to(dtype).to(memory_format=layout)
    answer = norm(x.requires_grad_())
    answer.backward(slope)
    exact, weight, bias = (t.detach().double().requires_grad_() for t in (x, norm.weight, norm.bias))
    variance, mean = torch.var_mean(exact, (2, 3), correction=0, keepdim=True)
    wanted = (exact - mean) / (variance + norm.eps).sqrt() * weight[:, None, None] + bias[:, None, None]
    wanted.backward(slope.double())
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    pairs = [(answer, wanted), (x.grad, exact.grad), (norm.weight.grad, weight.grad), (norm.bias.grad, bias.grad)]
    for ours, theirs in pairs:
        assert ours is not None
        assert theirs is not None
        assert (ours - theirs).norm() < tolerance * theirs.norm()
    assert answer.dtype == dtype


def test_a_brighter_and_flatter_copy_of_a_picture_gets_nearly_the_same_answer() -> None:
    """Instance normalisation takes contrast away; zeros around the maps would be why it is only nearly so."""
    network = random_network(SMALL[2])
    picture = torch.rand(1, 3, 64, 64) * 255
    with torch.inference_mode():
        first, second = network(picture), network(picture * 0.5 + 60)
    assert (first - second).square().mean() < 0.05 * first.var()


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"architecture": "unet"}, "architecture"),
        ({"width": 0}, "width"),
        ({"blocks": -1}, "blocks"),
        ({"padding": "mirror"}, "padding"),
    ],
)
def test_a_wrong_configuration_is_refused(kwargs: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        NetworkConfig(**{"architecture": "fast", "width": 4, "blocks": 1, **kwargs})


def test_a_checkpoint_comes_back_as_it_was(tmp_path) -> None:
    network = random_network(SMALL[0])
    path = tmp_path / "sub" / "checkpoint.safetensors"
    save_checkpoint(path, Checkpoint(SMALL[0], network.state_dict(), {"name": "été", "step": 7}))
    loaded = load_checkpoint(path)
    assert loaded.metadata == {"name": "été", "step": 7}
    picture = torch.rand(1, 3, 16, 16) * 255
    with torch.inference_mode():
        torch.testing.assert_close(loaded.build()(picture), network(picture), atol=0, rtol=0)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "text", "foreign"])
def test_a_damaged_checkpoint_is_one_clear_error(tmp_path, damage: str) -> None:
    path = tmp_path / "checkpoint.safetensors"
    if damage == "foreign":
        from safetensors.torch import save_file

        save_file({"x": torch.zeros(1)}, path)
    elif damage != "missing":
        save_checkpoint(path, Checkpoint(SMALL[0], build_network(SMALL[0]).state_dict()))
        data = path.read_bytes()
        path.write_bytes({"empty": b"", "truncated": data[: len(data) // 2], "text": b"not weights at all"}[damage])
    with pytest.raises(TrainingError, match="checkpoint"):
        load_checkpoint(path)


def test_weights_of_another_network_are_refused() -> None:
    state = build_network(SMALL[1]).state_dict()
    with pytest.raises(TrainingError, match="fit"):
        Checkpoint(SMALL[0], state).build()
