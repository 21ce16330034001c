"""LPIPS: the package's own layers on the given VGG16, or a refusal; never random weights."""

import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from sd_core.model.weights import WeightsError, check_weights
from sd_core.training.perceptual import PerceptualConfig, load_perceptual_loss

CPU = torch.device("cpu")
WIDTHS = {0: 64, 2: 64, 5: 128, 7: 128, 10: 256, 12: 256, 14: 256}
WIDTHS |= dict.fromkeys((17, 19, 21, 24, 26, 28), 512)
POOLS, TAPS = (4, 9, 16, 23), (3, 8, 15, 22, 29)


def vgg_state():
    """Made-up weights in torchvision's layout."""
    generator = torch.Generator().manual_seed(0)
    state, width = {}, 3
    for layer, wider in WIDTHS.items():
        scale = (2 / (9 * width)) ** 0.5
        state[f"features.{layer}.weight"] = scale * torch.randn(
            wider, width, 3, 3, generator=generator
        )
        state[f"features.{layer}.bias"] = 0.1 * torch.randn(wider, generator=generator)
        width = wider
    state["classifier.6.bias"] = torch.zeros(1000)
    return state


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    path = tmp_path_factory.mktemp("vgg") / "vgg16.safetensors"
    save_file(vgg_state(), path)
    return path


@pytest.fixture(scope="module")
def loss(backbone):
    return load_perceptual_loss(PerceptualConfig(backbone=str(backbone)), device=CPU)


def features(state, images):
    """What VGG16 gives after the last activation of each of its five blocks."""
    shift = torch.tensor([-0.030, -0.088, -0.188]).reshape(1, 3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450]).reshape(1, 3, 1, 1)
    value, found = (images - shift) / scale, []
    for layer in range(30):
        if layer in WIDTHS:
            weight, bias = state[f"features.{layer}.weight"], state[f"features.{layer}.bias"]
            value = functional.conv2d(value, weight, bias, padding=1)
        elif layer in POOLS:
            value = functional.max_pool2d(value, 2)
        else:
            value = value.relu()
        if layer in TAPS:
            found.append(value)
    return found


def test_the_distance_is_the_paper_s_over_the_given_backbone(loss, backbone):
    import lpips

    folder = lpips.__path__[0]
    layers = torch.load(f"{folder}/weights/v0.1/vgg.pth", map_location="cpu", weights_only=True)
    one, other = torch.rand(2, 2, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    state = load_file(backbone)

    expected = torch.zeros(2)
    for block, (a, b) in enumerate(zip(features(state, one), features(state, other), strict=True)):
        difference = functional.normalize(a, dim=1) - functional.normalize(b, dim=1)
        weight = layers[f"lin{block}.model.1.weight"]
        expected += functional.conv2d(difference.square(), weight).mean(dim=(1, 2, 3))

    torch.testing.assert_close(loss(one, other), expected)
    assert loss(one, one).abs().max() == 0


def test_nothing_of_it_is_trained_and_gradients_reach_the_images(loss):
    images = torch.rand(1, 3, 32, 32, requires_grad=True)

    loss(images, torch.zeros(1, 3, 32, 32)).sum().backward()

    assert images.grad.abs().sum() > 0
    assert not any(value.requires_grad for value in loss.parameters())


def test_torchvision_s_own_file_gives_the_same_loss(loss, tmp_path):
    path = tmp_path / "vgg16-397923af.pth"
    torch.save(vgg_state(), path)
    again = load_perceptual_loss(PerceptualConfig(backbone=str(path)), device=CPU)
    images = torch.rand(1, 3, 32, 32)

    assert torch.equal(again(images, -images), loss(images, -images))


def test_no_weights_at_all_are_refused_with_what_to_do():
    config = PerceptualConfig()

    with pytest.raises(
        WeightsError, match=r"(?s)no weights; give VGG16.*vgg16-397923af\.pth.*to 0"
    ):
        load_perceptual_loss(config, device=CPU)
    with pytest.raises(WeightsError, match="no weights; give VGG16"):
        config.weight_needs()


def test_a_file_that_is_not_there_is_refused_with_its_key(tmp_path):
    config = PerceptualConfig(backbone=str(tmp_path / "vgg16.pth"))

    with pytest.raises(WeightsError, match=r"losses\.perceptual\.backbone.*there is nothing"):
        load_perceptual_loss(config, device=CPU)
    with pytest.raises(WeightsError, match=r"losses\.perceptual\.backbone.*there is nothing"):
        check_weights(config.weight_needs())


def test_another_network_s_weights_are_refused(tmp_path):
    state = {name: value for name, value in vgg_state().items() if "28" not in name}
    path = tmp_path / "vgg13.safetensors"
    save_file(state, path)

    with pytest.raises(WeightsError, match=r"not VGG16: 2 of 26 .*features\.28\.weight"):
        load_perceptual_loss(PerceptualConfig(backbone=str(path)), device=CPU)


class Unpickled:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path):
    path, trace = tmp_path / "vgg16.pth", tmp_path / "trace"
    path.write_bytes(pickle.dumps(Unpickled(str(trace))))

    with pytest.raises(WeightsError, match="backbone"):
        load_perceptual_loss(PerceptualConfig(backbone=str(path)), device=CPU)
    assert not trace.exists()


def test_weight_0_switches_it_off():
    config = PerceptualConfig(weight=0.0)

    assert load_perceptual_loss(config, device=CPU) is None
    assert config.weight_needs() == []
