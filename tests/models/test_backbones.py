"""Backbones: body and last layer compute what the whole network does, also with folded norms."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models.efficientnet import EfficientNet, MBConvConfig

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


# float32 networks that compute the same in the same order; float64 ones in another order.
SAME = 100 * torch.finfo(torch.float32).eps
EXACT = 1e4 * torch.finfo(torch.float64).eps


@pytest.mark.parametrize(
    "name",
    [
        "mobilenet_v2",  # ends in a sequence
        "shufflenet_v2_x0_5",
        *(
            pytest.param(name, marks=slow)
            for name in ("resnet18", "resnet101", "densenet121", "vgg16", "efficientnet_b0", "vgg11_bn", "mnasnet0_5")
        ),
    ],
)
def test_body_and_last_layer_give_the_networks_own_outputs(tmp_path: Path, name: str) -> None:
    size = 64 if name.startswith("vgg") else 32
    network = save_network(tmp_path / "weights.pth", name, size)
    backbone, classifier = build_backbone(name, tmp_path / "weights.pth")
    inputs = pictures(size=size)
    assert relative_difference(together(backbone, classifier, inputs), outputs(network, inputs)) < SAME
    assert backbone(inputs).shape == (2, backbone.dimensions)
    assert classifier.out_features == 1000


@pytest.mark.parametrize(
    "name", ["mobilenet_v2", *(pytest.param(name, marks=slow) for name in ("resnet34", "vit_b_32", "swin_t"))]
)
def test_without_a_file_the_weights_are_torchvisions_random_ones(name: str) -> None:
    torch.manual_seed(0)
    expected = models.get_model(name, weights=None).parameters()
    torch.manual_seed(0)
    backbone, classifier = build_backbone(name, None)
    found = [*backbone.parameters(), *classifier.parameters()]
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("name", ["googlenet", pytest.param("inception_v3", marks=slow)])
def test_auxiliary_heads_are_skipped_and_published_weights_transform_their_input(tmp_path: Path, name: str) -> None:
    options = {"aux_logits": True, "init_weights": False}
    network: Any = save_network(tmp_path / "weights.pth", name, size=299 if name == "inception_v3" else 32, **options)
    inputs = pictures(size=96 if name == "inception_v3" else 32)
    expected = []
    for published_size in (None, 224):
        network.transform_input = published_size is not None
        expected.append(outputs(network, inputs))
        backbone, classifier = build_backbone(name, tmp_path / "weights.pth", published_size)
        assert relative_difference(together(backbone, classifier, inputs), expected[-1]) < SAME
        logits = classifier(backbone.train()(inputs))  # one tensor, not a tuple
        assert logits.shape == (2, 1000)
    assert relative_difference(*expected) > 100 * SAME


def test_every_weight_can_learn_and_none_is_left_on_meta(tmp_path: Path) -> None:
    save_network(tmp_path / "weights.pth", "shufflenet_v2_x0_5")
    backbone, classifier = build_backbone("shufflenet_v2_x0_5", tmp_path / "weights.pth")
    for parameter in (*backbone.parameters(), *classifier.parameters()):
        assert (parameter.requires_grad, parameter.is_leaf, parameter.is_meta) == (True, True, False)
    assert not [buffer for buffer in backbone.buffers() if buffer.is_meta]


@pytest.mark.parametrize("name", ["squeezenet1_1"])
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
    """Return the backbone on the meta device."""
    monkeypatch.setattr(backbones, "load_into", lambda *_: [])
    return build_backbone(name, Path("unread"))[0]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18", RESNET_STAGES),
        pytest.param("resnet101", RESNET_STAGES, marks=slow),
        ("vgg16", ["features.0", "features.5", "features.10", "features.17", "features.24", "classifier"]),
        ("vgg16_bn", ["features.0", "features.7", "features.14", "features.24", "features.34", "classifier"]),
        ("mobilenet_v2", [f"features.{number}" for number in range(19)]),
        ("shufflenet_v2_x0_5", ["conv1", "stage2", "stage3", "stage4", "conv5"]),
        ("regnet_y_400mf", ["stem", *(f"trunk_output.block{number}" for number in range(1, 5))]),
    ],
)
def test_stages_from_the_bottom_up(name: str, expected: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert [stage.name for stage in stages(on_meta(name, monkeypatch))] == expected


SOME = ("alexnet", "resnet18", "vgg11_bn", "mobilenet_v3_small", "vit_b_32", "swin_t")
HUGE = ("regnet_y_128gf", "regnet_x_32gf", "regnet_y_32gf")  # they need too much memory
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
        *(
            pytest.param(name, marks=slow)
            for name in (
                "shufflenet_v2_x0_5",
                "googlenet",
                "densenet121",
                "resnet34",
                "vgg11_bn",
                "efficientnet_b0",
                "maxvit_t",
                "swin_t",
            )
        ),
    ],
)
def test_folding_norms_changes_nothing(name: str) -> None:
    options: dict[str, Any] = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    options |= {"input_size": (224, 224)} if name == "maxvit_t" else {}
    size = 224 if name == "maxvit_t" else 64 if name == "vgg11_bn" else 32
    torch.manual_seed(0)
    backbone = Backbone(settled(models.get_model(name, weights=None, **options), size), 1000).double()
    before = copy.deepcopy(backbone.state_dict())
    folded = fold_norms(backbone)
    inputs = pictures(size=size).double()
    expected = outputs(backbone, inputs)
    assert expected.std(dim=0).max() > 1e-3  # the outputs depend on the images
    assert relative_difference(outputs(folded, inputs), expected) < EXACT
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())


@pytest.fixture(scope="module")
def shufflenet() -> Backbone:
    """Never to be changed: it is shared."""
    torch.manual_seed(0)
    return Backbone(settled(models.shufflenet_v2_x0_5()), 1000).double()


@pytest.fixture(scope="module")
def folded_shufflenet(shufflenet: Backbone) -> Backbone:
    """Never to be changed: it is shared."""
    return fold_norms(shufflenet)


INPUTS = pictures(size=32).double()


def test_a_folded_network_has_no_norms_and_keeps_the_names_of_its_convolutions(
    shufflenet: Backbone, folded_shufflenet: Backbone
) -> None:
    backbone, folded = shufflenet, folded_shufflenet
    assert not [module for module in folded.modules() if isinstance(module, nn.BatchNorm2d)]
    convolutions = {name for name, module in backbone.named_modules() if isinstance(module, nn.Conv2d)}
    assert {name for name, module in folded.named_modules() if isinstance(module, nn.Conv2d)} == convolutions
    assert {f"{name}.weight" for name in convolutions} < set(folded.state_dict())


def test_a_folded_network_can_be_copied_saved_and_trained(folded_shufflenet: Backbone) -> None:
    expected = outputs(folded_shufflenet, INPUTS)
    copied = copy.deepcopy(folded_shufflenet)
    assert relative_difference(outputs(copied, INPUTS), expected) < EXACT
    other = fold_norms(Backbone(models.shufflenet_v2_x0_5(), 1000).double())
    other.load_state_dict(folded_shufflenet.state_dict())
    assert relative_difference(outputs(other, INPUTS), expected) < EXACT
    copied.train()(INPUTS).sum().backward()
    assert all(parameter.is_leaf and parameter.grad is not None for parameter in copied.parameters())


def test_folding_what_was_frozen_or_folded_before(shufflenet: Backbone, folded_shufflenet: Backbone) -> None:
    backbone = copy.deepcopy(shufflenet).requires_grad_(False)
    again = fold_norms(fold_norms(backbone.train()))
    assert relative_difference(outputs(again, INPUTS), outputs(folded_shufflenet, INPUTS)) < EXACT
    assert all(parameter.requires_grad for parameter in again.parameters())


def test_folding_keeps_the_change_of_normalisation(shufflenet: Backbone) -> None:
    backbone = copy.deepcopy(shufflenet)
    backbone.renormalise((0.5, 0.5, 0.5), (0.25, 0.25, 0.25), MEAN, STD)
    expected = outputs(backbone, INPUTS)
    assert relative_difference(outputs(fold_norms(backbone), INPUTS), expected) < EXACT
    assert relative_difference(outputs(shufflenet, INPUTS), expected) > 1e-3


class Untraceable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.network = models.shufflenet_v2_x0_5()

    def forward(self, inputs: Tensor) -> Tensor:
        if inputs.sum() > 0:
            inputs = -inputs
        features: Tensor = self.network(inputs)
        return features


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.network = models.shufflenet_v2_x0_5()

    def forward(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        features: Tensor = self.network(inputs if mask is None else inputs * mask)
        return features


def test_arguments_that_no_caller_gives_keep_their_defaults() -> None:
    backbone = Backbone(settled(Masked()), 1000).double()
    folded = fold_norms(backbone)
    assert relative_difference(outputs(folded, INPUTS), outputs(backbone, INPUTS)) < EXACT
    assert not [module for module in folded.modules() if isinstance(module, nn.BatchNorm2d)]


def test_what_cannot_be_traced_is_copied_unchanged() -> None:
    backbone = Backbone(Untraceable(), 1000).double()
    folded = fold_norms(backbone)
    assert relative_difference(outputs(folded, INPUTS), outputs(backbone, INPUTS)) < EXACT
    with torch.no_grad():
        next(folded.parameters()).zero_()
    assert next(backbone.parameters()).any()
    assert all(not module.training for module in folded.modules())


def test_stochastic_depth_still_drops_after_folding() -> None:
    torch.manual_seed(0)
    network = EfficientNet([MBConvConfig(1, 3, 1, 8, 8, 3, 1.0, 1.0)], dropout=0.0, stochastic_depth_prob=0.9)
    folded = fold_norms(Backbone(settled(network), 1000)).train()
    with torch.no_grad():
        first, second = folded(pictures(16, size=32)), folded(pictures(16, size=32))
    assert relative_difference(first, second) > 0.01  # other blocks are dropped


def test_images_in_another_normalisation_give_the_same_features(shufflenet: Backbone) -> None:
    backbone = copy.deepcopy(shufflenet)
    pixels = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    theirs, ours = ((0.4, 0.5, 0.6), (0.2, 0.3, 0.4)), (MEAN, STD)
    expected = outputs(backbone, normalise(pixels, *ours))
    backbone.renormalise(*theirs, *ours)
    assert relative_difference(outputs(backbone, normalise(pixels, *theirs)), expected) < EXACT
    assert backbone.rescale is not None


def test_the_own_normalisation_needs_no_rescaling() -> None:
    backbone = Backbone(nn.Identity(), 3)
    backbone.renormalise(MEAN, STD, MEAN, STD)
    assert backbone.rescale is None
