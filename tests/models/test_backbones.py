"""Backbones: body and last layer are the network they were taken from, and stay so when norms are folded."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from pipelines.dataset.augment import normalise
from pipelines.models import backbones
from pipelines.models.backbones import Backbone, build_backbone, fold_norms, stages
from pipelines.system.errors import UserError
from tests.support.networks import outputs, pictures, save_network, settled

SHARED = Path(__file__).parents[3] / "shared"
MOBILENET = SHARED / "weights/mobilenet_v2-imagenet.pth"
PHOTOS = SHARED / "data/dog-breed-identification-300photos.zip"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RESNET_STAGES = ["conv1", "layer1", "layer2", "layer3", "layer4"]
slow = pytest.mark.slow


def together(backbone: Backbone, classifier: nn.Linear, inputs: Tensor) -> Tensor:
    with torch.inference_mode():
        logits: Tensor = classifier(backbone.eval()(inputs))
    return logits


def relative_difference(left: Tensor, right: Tensor) -> float:
    return float((left - right).norm() / right.norm())


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "mobilenet_v2",
        "shufflenet_v2_x0_5",
        "densenet121",
        *(
            pytest.param(name, marks=slow)
            for name in ("resnet101", "vgg16", "efficientnet_b0", "vgg11_bn", "mnasnet0_5")
        ),
    ],
)
def test_body_and_last_layer_give_the_networks_own_outputs(tmp_path: Path, name: str) -> None:
    network = save_network(tmp_path / "weights.pth", name, size=64 if name.startswith("vgg") else 32)
    backbone, classifier = build_backbone(name, tmp_path / "weights.pth")
    inputs = pictures()
    assert torch.equal(together(backbone, classifier, inputs), outputs(network, inputs))
    assert backbone(inputs).shape == (2, backbone.dimensions)
    assert classifier.out_features == 1000


@pytest.mark.parametrize("name", ["resnet34", *(pytest.param(name, marks=slow) for name in ("vit_b_32", "swin_t"))])
def test_without_a_file_the_weights_are_fresh_ones(name: str) -> None:
    size = 224 if name == "vit_b_32" else 64
    torch.manual_seed(0)
    network = models.get_model(name, weights=None)
    torch.manual_seed(0)
    backbone, classifier = build_backbone(name, None)
    assert torch.equal(together(backbone, classifier, pictures(size=size)), outputs(network, pictures(size=size)))


@pytest.mark.parametrize("name", ["googlenet", pytest.param("inception_v3", marks=slow)])
def test_auxiliary_heads_are_left_away_and_published_weights_keep_their_change_of_the_input(
    tmp_path: Path, name: str
) -> None:
    options = {"aux_logits": True, "init_weights": False}
    network: Any = save_network(tmp_path / "weights.pth", name, size=299 if name == "inception_v3" else 64, **options)
    inputs = pictures(size=96)
    for published_size in (None, 224):
        network.transform_input = published_size is not None
        backbone, classifier = build_backbone(name, tmp_path / "weights.pth", published_size)
        assert torch.equal(together(backbone, classifier, inputs), outputs(network, inputs))
        logits = classifier(backbone.train()(inputs))  # one tensor, not a tuple
        assert logits.shape == (2, 1000)


def test_every_weight_can_learn_and_none_is_left_on_meta(tmp_path: Path) -> None:
    save_network(tmp_path / "weights.pth", "shufflenet_v2_x0_5")
    backbone, classifier = build_backbone("shufflenet_v2_x0_5", tmp_path / "weights.pth")
    for parameter in (*backbone.parameters(), *classifier.parameters()):
        assert (parameter.requires_grad, parameter.is_leaf, parameter.is_meta) == (True, True, False)
    assert not [buffer for buffer in backbone.buffers() if buffer.is_meta]


@pytest.mark.parametrize("name", ["squeezenet1_0", "squeezenet1_1"])
def test_a_network_without_a_linear_last_layer_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=rf"'{name}' does not end in a linear layer"):
        build_backbone(name, None)


@pytest.mark.parametrize(
    ("name", "near"), [("resnet43", "resnet34"), ("mobilenetv2", "mobilenet_v2"), ("vgg61", "vgg16")]
)
def test_an_unknown_name_gets_the_near_ones(name: str, near: str) -> None:
    with pytest.raises(UserError, match=rf"model\.name is '{name}'.* Did you mean .*'{near}'.* Valid: alexnet, "):
        build_backbone(name, None)


@pytest.mark.parametrize("name", ["convnet", "resnet18-small", "resnet50_quantized", "fcn_resnet50", ""])
def test_our_own_networks_and_those_of_other_tasks_have_no_backbone(name: str) -> None:
    with pytest.raises(UserError, match=r"torchvision has no weights for"):
        build_backbone(name, None)


def on_meta(name: str, monkeypatch: pytest.MonkeyPatch) -> Backbone:
    """The backbone without memory for its weights."""
    monkeypatch.setattr(backbones, "load_into", lambda *_: None)
    return build_backbone(name, Path("unread"))[0]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18", RESNET_STAGES),
        ("resnet101", RESNET_STAGES),
        ("vgg16", ["features.0", "features.5", "features.10", "features.17", "features.24", "classifier"]),
        ("vgg16_bn", ["features.0", "features.7", "features.14", "features.24", "features.34", "classifier"]),
        ("mobilenet_v2", [f"features.{number}" for number in range(19)]),
        ("shufflenet_v2_x0_5", ["conv1", "stage2", "stage3", "stage4", "conv5"]),
        ("regnet_y_400mf", ["stem", *(f"trunk_output.block{number}" for number in range(1, 5))]),
    ],
)
def test_stages_from_the_bottom_up(name: str, expected: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert [stage.name for stage in stages(on_meta(name, monkeypatch))] == expected


SOME = ("alexnet", "resnet34", "vgg11_bn", "mobilenet_v3_small", "densenet121", "googlenet", "vit_b_32", "swin_t")
HUGE = ("regnet_y_128gf", "regnet_x_32gf", "regnet_y_32gf")  # which need memory, for the others' sake
OTHERS = [
    name for name in models.list_models(module=models) if name not in (*SOME, *HUGE) and not name.startswith("squeeze")
]


@pytest.mark.parametrize("name", [*SOME, *(pytest.param(name, marks=slow) for name in OTHERS)])
def test_every_parameter_is_in_one_stage_before_and_after_folding(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = on_meta(name, monkeypatch)
    folded = fold_norms(backbone)
    for each in (backbone, folded):
        found = [parameter for stage in stages(each) for parameter in stage.parameters]
        assert sorted(found) == sorted(parameter for parameter, _ in each.named_parameters())
    assert [stage.name for stage in stages(folded)] == [stage.name for stage in stages(backbone)]
    assert len(stages(backbone)) > 3


def test_a_resnets_stages_hold_its_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    stem, first, *_ = stages(on_meta("resnet18", monkeypatch))
    assert stem.parameters == ["body.conv1.weight", "body.bn1.weight", "body.bn1.bias"]
    assert {parameter.split(".")[1] for parameter in first.parameters} == {"layer1"}


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "mobilenet_v2",
        "shufflenet_v2_x0_5",
        "googlenet",
        "densenet121",
        *(pytest.param(name, marks=slow) for name in ("resnet34", "vgg11_bn", "efficientnet_b0", "maxvit_t", "swin_t")),
    ],
)
def test_folding_norms_changes_nothing(name: str) -> None:
    options: dict[str, Any] = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    options |= {"input_size": (224, 224)} if name == "maxvit_t" else {}
    size = 224 if name == "maxvit_t" else 64
    torch.manual_seed(0)
    backbone = Backbone(settled(models.get_model(name, weights=None, **options), size), 1000)
    before = copy.deepcopy(backbone.state_dict())
    folded = fold_norms(backbone)
    inputs = pictures(size=size)
    expected = outputs(backbone, inputs)
    assert expected.std(dim=0).max() > 1e-3  # or there were nothing to compare
    assert relative_difference(outputs(folded, inputs), expected) < 1e-4
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())


def folded_shufflenet() -> tuple[Backbone, Backbone]:
    torch.manual_seed(0)
    backbone = Backbone(settled(models.shufflenet_v2_x0_5()), 1000)
    return backbone, fold_norms(backbone)


def test_a_folded_network_has_no_norms_and_keeps_the_names_of_its_convolutions() -> None:
    backbone, folded = folded_shufflenet()
    assert not [module for module in folded.modules() if isinstance(module, nn.BatchNorm2d)]
    convolutions = {name for name, module in backbone.named_modules() if isinstance(module, nn.Conv2d)}
    assert {name for name, module in folded.named_modules() if isinstance(module, nn.Conv2d)} == convolutions
    assert {f"{name}.weight" for name in convolutions} < set(folded.state_dict())


def test_a_folded_network_can_be_copied_saved_and_trained() -> None:
    _, folded = folded_shufflenet()
    expected = outputs(folded, pictures())
    assert torch.equal(outputs(copy.deepcopy(folded), pictures()), expected)
    other = fold_norms(Backbone(models.shufflenet_v2_x0_5(), 1000))
    other.load_state_dict(folded.state_dict())
    assert torch.equal(outputs(other, pictures()), expected)
    folded.train()(pictures()).sum().backward()
    assert all(parameter.is_leaf and parameter.grad is not None for parameter in folded.parameters())


def test_folding_what_was_frozen_or_folded_before() -> None:
    backbone, folded = folded_shufflenet()
    backbone.requires_grad_(False)
    again = fold_norms(fold_norms(backbone.train()))
    assert torch.equal(outputs(again, pictures()), outputs(folded, pictures()))
    assert all(parameter.requires_grad for parameter in again.parameters())


def test_folding_keeps_the_change_of_normalisation() -> None:
    backbone, _ = folded_shufflenet()
    backbone.renormalise((0.5, 0.5, 0.5), (0.25, 0.25, 0.25), MEAN, STD)
    assert relative_difference(outputs(fold_norms(backbone), pictures()), outputs(backbone, pictures())) < 1e-4


class Untraceable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.network = models.shufflenet_v2_x0_5()

    def forward(self, inputs: Tensor) -> Tensor:
        if inputs.sum() > 0:
            inputs = -inputs
        features: Tensor = self.network(inputs)
        return features


def test_what_cannot_be_traced_is_copied_as_it_is() -> None:
    backbone = Backbone(settled(Untraceable()), 1000)
    folded = fold_norms(backbone)
    assert torch.equal(outputs(folded, pictures()), outputs(backbone, pictures()))
    with torch.no_grad():
        next(folded.parameters()).zero_()
    assert next(backbone.parameters()).any()
    assert all(not module.training for module in folded.modules())


def test_stochastic_depth_still_drops_after_folding() -> None:
    """It is a regulariser of the weights that learn, not a norm."""
    torch.manual_seed(0)
    network = models.efficientnet_b0(stochastic_depth_prob=0.9)
    folded = fold_norms(Backbone(network, 1000)).train()
    dropout: Any = folded.get_submodule("body.classifier.0")
    dropout.p = 0.0
    with torch.no_grad():
        first, second = folded(pictures()), folded(pictures())
    assert not torch.equal(first, second)


def test_images_in_another_normalisation_give_the_same_features() -> None:
    torch.manual_seed(0)
    backbone = Backbone(settled(models.shufflenet_v2_x0_5()), 1000)
    pixels = torch.rand(2, 3, 64, 64)
    theirs, ours = ((0.4, 0.5, 0.6), (0.2, 0.3, 0.4)), (MEAN, STD)
    expected = outputs(backbone, normalise(pixels, *ours))
    backbone.renormalise(*theirs, *ours)
    assert relative_difference(outputs(backbone, normalise(pixels, *theirs)), expected) < 1e-5
    assert backbone.rescale is not None


def test_the_own_normalisation_needs_no_rescaling() -> None:
    backbone = Backbone(nn.Identity(), 3)
    backbone.renormalise(MEAN, STD, MEAN, STD)
    assert backbone.rescale is None
