"""Networks for colour images take one, two, four and more channels."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from pipelines.models.backbones import build_backbone
from pipelines.models.building import build_network
from pipelines.models.device import choose_hardware
from pipelines.models.features import compute_features
from pipelines.models.first_layer import spread, take_channels
from pipelines.models.networks import build_model, check_model, whitening_of
from pipelines.models.transfer import FineTuned, build_fine_tuned
from pipelines.models.weights import find_origins, resolve
from pipelines.settings.loading import merge
from pipelines.settings.schema import Settings
from pipelines.settings.training_sections import ModelSettings
from pipelines.system.errors import UserError
from tests.support.tiny import Tiny, pretrained

SMALL = "shufflenet_v2_x0_5"


@pytest.mark.parametrize("channels", [1, 2, 4])
@pytest.mark.parametrize("settings", [ModelSettings(widths=(8, 8)), ModelSettings(widths=(8,), whitening=2)])
def test_the_own_network_takes_any_number_of_channels(settings: ModelSettings, channels: int) -> None:
    model = build_model(settings, 5, channels)
    if whitening := whitening_of(model):
        whitening.fit([torch.randn(4, channels, 8, 8)])
    assert check_model(model, "convnet", 8, channels=channels)
    assert model(torch.zeros(2, channels, 8, 8)).shape == (2, 5)


@pytest.mark.parametrize("name", ["resnet18-small", SMALL])
def test_other_networks_take_any_number_of_channels(name: str) -> None:
    for channels in (1, 5):
        model = build_model(ModelSettings(name=name), 3, channels).eval()
        assert model(torch.zeros(1, channels, 32, 32)).shape == (1, 3)
    torch.manual_seed(0)
    three = build_model(ModelSettings(name=name), 3, 3).state_dict()
    torch.manual_seed(0)
    default = build_model(ModelSettings(name=name), 3).state_dict()
    assert all(torch.equal(three[key], default[key]) for key in default)


def test_pretrained_weights_are_summed_for_grey_and_repeated_for_more() -> None:
    backbone, _ = build_backbone(SMALL, None)
    first = backbone.body.get_submodule("conv1.0")
    assert isinstance(first, nn.Conv2d)
    old, grey = first.weight.detach().clone(), torch.rand(2, 1, 32, 32)
    backbone.eval()
    expected = backbone(grey.expand(-1, 3, -1, -1))
    take_channels(backbone.body, SMALL, 1, pretrained=True)
    torch.testing.assert_close(backbone(grey), expected, rtol=1e-4, atol=1e-5)  # grey, as three equal channels
    backbone, _ = build_backbone(SMALL, None)
    backbone.body.get_submodule("conv1.0").load_state_dict({"weight": old})
    take_channels(backbone.body, SMALL, 5, pretrained=True)
    new = backbone.body.get_submodule("conv1.0").get_parameter("weight")
    assert torch.equal(new, old[:, [0, 1, 2, 0, 1]] * (3 / 5))


@torch.no_grad()
def test_random_weights_of_more_channels_differ_and_keep_the_size_of_outputs() -> None:
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Conv2d(3, 64, 7))
    spread_of_three = float(layer(torch.randn(8, 3, 16, 16)).std())
    for channels in (1, 12):
        made = take_channels(nn.Sequential(nn.Conv2d(3, 64, 7)), SMALL, channels, pretrained=False)
        assert 0.7 < float(made(torch.randn(8, channels, 16, 16)).std()) / spread_of_three < 1.4
    weight = made.get_submodule("0").get_parameter("weight")
    assert not torch.equal(weight[:, 0], weight[:, 3])


def test_networks_that_cannot_be_adapted_are_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"'googlenet' cannot take input\.channels = 4"):
        take_channels(nn.Sequential(nn.Conv2d(3, 4, 1)), "googlenet", 4, pretrained=True)
    with pytest.raises(UserError, match=r"Choose another network, or set input\.channels = 3"):
        take_channels(nn.Sequential(nn.Linear(3, 4)), "other", 1, pretrained=False)


@pytest.mark.parametrize(
    ("channels", "mean"), [(1, (0.2,)), (2, (0.1, 0.2)), (3, (0.1, 0.2, 0.3)), (4, (0.1, 0.2, 0.3, 0.1))]
)
def test_the_normalisation_of_other_channels(channels: int, mean: tuple[float, ...]) -> None:
    assert spread((0.1, 0.2, 0.3), channels) == pytest.approx(mean)


def test_a_fine_tuned_network_of_two_channels(tiny: Tiny, small_weights: Path) -> None:
    names = [each for each in pretrained(small_weights) if not each.startswith(("input.mean", "input.std"))]
    settings = tiny.settings(*names, "input.channels=2", "input.mean=[0.5, 0.5]", "input.std=[0.25, 0.25]")
    found = find_origins(settings.model, tiny.layout.weights)
    network = build_fine_tuned(resolve(settings, found), tiny.classes, found).eval()
    assert network(torch.zeros(1, 2, 32, 32)).shape == (1, 3)


def test_features_of_one_channel_are_stored_apart_from_those_of_colours(tiny: Tiny, small_weights: Path) -> None:
    counts = []
    for channels, values in ((3, "[0.5, 0.5, 0.5]"), (1, "[0.5]"), (1, "[0.5]")):
        image = (f"input.channels={channels}", f"input.mean={values}", f"input.std={values}")
        settings = tiny.settings(*pretrained(small_weights)[:3], *image, "finetune.frozen_stages=-1")
        network = build_network(settings, tiny.classes, find_origins(settings.model, tiny.layout.weights))
        assert isinstance(network, FineTuned)
        images = replace(tiny.part("valid"), channels=channels)
        found = compute_features(settings, images, network, choose_hardware(settings.hardware))
        assert found.values[0].shape[1] == 1024
        counts.append(found.computed)
    assert counts == [12, 12, 0]  # six images, each with its mirror image


def test_published_weights_give_the_normalisation_of_one_channel(tmp_path: Path) -> None:
    model = {"name": "resnet18", "weights": "IMAGENET1K_V1", "pretrained": False}
    settings = merge(Settings("x"), {"model": model, "input": {"channels": 1}}, "here")
    image = resolve(settings, find_origins(settings.model, tmp_path)).input
    assert (image.mean, image.std) == (pytest.approx((0.449,)), pytest.approx((0.226,)))
