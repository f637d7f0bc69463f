"""Features of several depths: which stages they come from, and that folding norms leaves them equal."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from pipelines.models.backbones import build_backbone, fold_norms
from pipelines.models.stage_features import MOST_FEATURES, MOST_STAGES, StageFeatures, add_stages, moments

NETWORKS = {  # the modules whose maps are used; ResNet's stem is no block
    "resnet18": ["layer1", "layer2", "layer3", "layer4"],
    "shufflenet_v2_x0_5": ["conv1", "stage2", "stage3", "stage4", "conv5"],
}


@pytest.mark.parametrize("name", NETWORKS)
def test_moments_of_the_stages_stand_before_the_pooled_features(name: str) -> None:
    torch.manual_seed(0)
    backbone, classifier = build_backbone(name, None)
    backbone.eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        pooled = backbone(images)
        maps = dict[str, torch.Tensor]()
        for place in NETWORKS[name]:
            backbone.body.get_submodule(place).register_forward_hook(keeper(maps, place))
        backbone(images)
        expected = [torch.cat([maps[p].mean((2, 3)), maps[p].std((2, 3), correction=0)], 1) for p in NETWORKS[name]]
        add_stages(backbone, 3, 64)
        found = backbone(images)
    assert backbone.taps == NETWORKS[name]
    assert found.shape[1] == backbone.dimensions > classifier.in_features
    assert torch.equal(found[:, -classifier.in_features :], pooled)
    assert torch.allclose(found, torch.cat([*expected, pooled], dim=1), atol=1e-3)


def keeper(maps: dict[str, torch.Tensor], place: str) -> Callable[..., None]:
    def keep(module: nn.Module, inputs: object, output: torch.Tensor) -> None:
        maps[place] = output

    return keep


def test_folding_norms_keeps_the_features() -> None:
    torch.manual_seed(0)
    backbone, _ = build_backbone("shufflenet_v2_x0_5", None)
    add_stages(backbone, 3, 64)
    backbone.eval()
    images = torch.randn(2, 3, 64, 64)
    folded = fold_norms(backbone)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    with torch.inference_mode():
        for _ in range(2):
            assert torch.allclose(folded(images), backbone(images), rtol=1e-3, atol=1e-3)


def test_networks_of_single_layers_have_their_own_features_only() -> None:
    with torch.device("meta"):
        backbone, classifier = build_backbone("alexnet", None)
    backbone = backbone.to_empty(device="cpu")
    add_stages(backbone, 3, 64)
    assert backbone.taps == []
    assert backbone.dimensions == classifier.in_features


def test_stages_are_evenly_spaced_and_bounded() -> None:
    backbone, _ = build_backbone("mobilenet_v2", None)
    add_stages(backbone, 3, 32)
    assert len(backbone.taps) == MOST_STAGES
    assert backbone.taps[-1] == "features.18"
    gaps = np.diff([int(place.removeprefix("features.")) for place in backbone.taps])
    assert set(gaps) <= {2, 3}
    wide, _ = build_backbone("resnet50", None)
    own = wide.dimensions
    add_stages(wide, 3, 32)
    assert wide.taps[-1] == "layer4"
    assert wide.dimensions - own <= MOST_FEATURES


@pytest.mark.parametrize("shape", [(2, 6, 3, 3), (2, 3, 3, 6), (2, 9, 6)])
def test_moments_find_the_channels(shape: tuple[int, ...]) -> None:
    maps = torch.randn(shape, dtype=torch.float64).bfloat16()
    found = moments(maps)
    channels = maps if shape[1] == 6 else maps.flatten(1, -2).transpose(1, 2)
    values = channels.flatten(2).float()
    assert found.shape == (2, 12) and found.dtype == torch.float32
    assert torch.allclose(found[:, :6], values.mean(2), atol=1e-5)
    assert torch.allclose(found[:, 6:], values.std(2, correction=0), atol=1e-3)


def test_the_wrapper_keeps_nothing_between_calls() -> None:
    backbone, _ = build_backbone("shufflenet_v2_x0_5", None)
    add_stages(backbone, 3, 32)
    assert isinstance(backbone.body, StageFeatures)
    backbone(torch.zeros(2, 3, 32, 32))
    assert all(tap.heard is None for tap in backbone.body.taps)
