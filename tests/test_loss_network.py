"""The loss network: names, layouts of weight files, preprocessing, and what is refused."""

from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from impasto.training.errors import TrainingError  # noqa: E402
from impasto.training.loss_network import STYLE_LAYERS, load_loss_network  # noqa: E402

SHARED_WEIGHTS = "loss_network/vgg19_slim16x.safetensors"


def torchvision_state(convolutions: list[int], last: int = 0) -> dict:
    """A VGG in torchvision's layout with `convolutions` per block, four channels everywhere."""
    state, index, inner = {}, 0, 3
    for count in convolutions:
        for _ in range(count):
            state[f"features.{index}.weight"] = torch.randn(4, inner, 3, 3)
            state[f"features.{index}.bias"] = torch.randn(4)
            index, inner = index + 2, 4
        index += 1
    return state


def test_it_has_the_layers_of_the_papers(tiny_loss_weights: Path) -> None:
    network = load_loss_network(weights=tiny_loss_weights)
    found = network(torch.rand(1, 3, 64, 64) * 255, STYLE_LAYERS)
    assert {name: tuple(x.shape[2:]) for name, x in found.items()} == {
        "relu1_1": (64, 64), "relu2_1": (32, 32), "relu3_1": (16, 16), "relu4_1": (8, 8), "relu5_1": (4, 4),
    }  # fmt: skip
    assert all((x >= 0).all() for x in found.values())


def test_nothing_is_computed_beyond_the_deepest_layer(tiny_loss_weights: Path) -> None:
    network = load_loss_network(weights=tiny_loss_weights)
    calls = []
    network.convolutions["conv3_2"].register_forward_hook(lambda *_: calls.append("conv3_2"))
    network(torch.zeros(1, 3, 32, 32), ["relu3_1"])
    assert not calls


@pytest.mark.parametrize(("blocks", "count"), [([2, 2, 3, 3, 3], 13), ([2, 2, 4, 4, 4], 16)])
def test_torchvision_layouts_get_the_names_of_the_papers(tmp_path: Path, blocks: list[int], count: int) -> None:
    path = tmp_path / "vgg.pth"
    torch.save(torchvision_state(blocks), path)
    layers = load_loss_network(weights=path).layers
    assert len(layers) == count
    assert layers[-1] == f"relu5_{blocks[-1]}"


def test_torchvision_pictures_are_normalised_as_imagenet(tmp_path: Path) -> None:
    path = tmp_path / "vgg.pth"
    torch.save(torchvision_state([2, 2, 3, 3, 3]), path)
    network = load_loss_network(weights=path)
    picture = torch.rand(1, 3, 8, 8)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = (picture - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(network.preprocess(picture), expected, atol=1e-5, rtol=1e-5)


def test_average_pooling_can_be_chosen(tiny_loss_weights: Path) -> None:
    picture = torch.rand(1, 3, 32, 32) * 255
    by_max = load_loss_network(weights=tiny_loss_weights)(picture, ["relu2_1"])["relu2_1"]
    by_mean = load_loss_network(weights=tiny_loss_weights, max_pooling=False)(picture, ["relu2_1"])["relu2_1"]
    assert not torch.equal(by_max, by_mean)


def test_gradients_reach_the_picture_but_not_the_weights(tiny_loss_weights: Path) -> None:
    network = load_loss_network(weights=tiny_loss_weights)
    picture = torch.rand(1, 3, 32, 32, requires_grad=True)
    network(picture, ["relu2_2"])["relu2_2"].sum().backward()
    assert picture.grad is not None
    assert picture.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in network.parameters())


def test_an_unknown_layer_is_refused_by_name(tiny_loss_weights: Path) -> None:
    with pytest.raises(ValueError, match="relu9_9"):
        load_loss_network(weights=tiny_loss_weights)(torch.zeros(1, 3, 32, 32), ["relu9_9"])


def test_a_picture_too_small_for_the_layer_is_refused(tiny_loss_weights: Path) -> None:
    with pytest.raises(ValueError, match="16x16"):
        load_loss_network(weights=tiny_loss_weights)(torch.zeros(1, 3, 16, 16), ["relu5_1"])


@pytest.mark.parametrize("content", [b"", b"garbage", None, "list", "empty", "odd"])
def test_unusable_weights_are_one_clear_error(tmp_path: Path, content: object) -> None:
    path = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        odd = torchvision_state([2, 2, 3, 3])
        torch.save({"list": [1, 2], "empty": {}, "odd": odd}[str(content)], path)
    with pytest.raises(TrainingError, match=r"weights|VGG"):
        load_loss_network(weights=path)


def test_code_in_a_weight_file_is_never_run(tmp_path: Path) -> None:
    import pickle

    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    path = tmp_path / "weights.pth"
    path.write_bytes(pickle.dumps({"features.0.weight": Evil()}))
    with pytest.raises(TrainingError):
        load_loss_network(weights=path)
    assert not (tmp_path / "ran").exists()


def test_the_slim_vgg19_sees_colours_and_textures(shared_data: Path) -> None:
    network = load_loss_network(weights=shared_data / SHARED_WEIGHTS)
    flat, noisy = torch.full((1, 3, 64, 64), 128.0), torch.rand(1, 3, 64, 64) * 255
    quiet, busy = (network(x, ["relu3_1"])["relu3_1"].std() for x in (flat, noisy))
    assert busy > 2 * quiet
