"""Networks that settings can name, with images of any size."""

import pytest
import torch
from torch import nn

from pipelines.models.networks import Whitening, build_model, check_model, whitening_of
from pipelines.settings.training_sections import ModelSettings
from pipelines.system.errors import UserError


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 2), (3, 3), (4, 5), (8, 8), (9, 7), (32, 32)])
def test_the_convnet_takes_images_of_any_size(height: int, width: int) -> None:
    model = build_model(ModelSettings(widths=(8, 8, 8)), 5).eval()
    logits = model(torch.rand(2, 3, height, width))
    assert logits.shape == (2, 5)
    assert logits.isfinite().all()


@pytest.mark.parametrize("widths", [(1,), (8,), (4, 6, 5)])
def test_the_convnet_has_a_block_for_each_width(widths: tuple[int, ...]) -> None:
    model = build_model(ModelSettings(widths=widths), 3)
    halvings: list[int] = []
    for block in model.blocks:  # type: ignore[union-attr]
        block.register_forward_hook(lambda _module, _inputs, output: halvings.append(output.shape[3]))
    assert model(torch.rand(2, 3, 16, 16)).shape == (2, 3)
    assert halvings == [8, 4, 2][: len(widths)]


def test_every_parameter_of_the_convnet_learns() -> None:
    model = build_model(ModelSettings(widths=(8, 8)), 3)
    nn.functional.cross_entropy(model(torch.rand(4, 3, 8, 8)), torch.tensor([0, 1, 2, 0])).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


@pytest.mark.parametrize("depth", [(1,), (2,), (3, 1), (1, 2)])
def test_a_block_has_as_many_convolutions_as_the_depth_says(depth: tuple[int, ...]) -> None:
    model = build_model(ModelSettings(widths=(8, 8), depth=depth), 3)
    for block, expected in zip(model.blocks, depth * 2 if len(depth) == 1 else depth, strict=True):  # type: ignore[arg-type]
        assert sum(isinstance(module, nn.Conv2d) for module in block.modules()) == expected
    assert model(torch.rand(2, 3, 8, 8)).shape == (2, 3)


@pytest.mark.parametrize("identity", [True, False])
def test_blocks_have_a_residual_path_unless_their_convolutions_copy(identity: bool) -> None:
    model = build_model(ModelSettings(widths=(8, 8), identity_start=identity), 3)
    for block in model.blocks:  # type: ignore[union-attr]
        nn.init.zeros_(block.refine[0][0].weight)
        answer = block.eval()(torch.rand(2, block.widen.in_channels, 8, 8))
        assert bool(answer.any()) != identity


def test_norms_without_scales_learn_their_biases_alone() -> None:
    model = build_model(ModelSettings(widths=(8, 8), norm_scales=False), 3)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 5
    assert not any(norm.weight.requires_grad for norm in norms)
    assert all(norm.bias.requires_grad for norm in norms)


def test_at_first_convolutions_copy_their_inputs() -> None:
    model = build_model(ModelSettings(widths=(8, 12), identity_start=True), 3)
    for module in model.double().modules():
        if isinstance(module, nn.Conv2d):
            inputs = torch.rand(2, module.in_channels, 6, 6, dtype=torch.float64)
            outputs = module(inputs)
            copied = min(module.in_channels, module.out_channels)
            assert torch.allclose(outputs[:, :copied], inputs[:, :copied], atol=1e-12)
            assert not outputs[:, copied:].eq(0).any()  # the others are random
    assert model(torch.rand(2, 3, 6, 6, dtype=torch.float64)).isfinite().all()


@pytest.mark.parametrize("side", [1, 2, 3])
def test_whitened_patches_are_uncorrelated_and_of_variance_1(side: int) -> None:
    noise = torch.randn(40, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    smooth = noise + nn.functional.avg_pool2d(noise, 3, 1, 1)
    images = smooth + smooth.mean(dim=1, keepdim=True)  # neighbours and colours are correlated
    whitening = Whitening(side).double()
    images = images.double()
    whitening.fit(images.split(7))
    answers = whitening.convolution(images)
    count = 3 * side**2
    assert answers.shape[1] == 2 * count
    assert torch.allclose(answers[:, :count], -answers[:, count:])
    values = answers[:, :count].transpose(0, 1).flatten(1)
    moments = values @ values.T / values.shape[1]
    assert torch.allclose(moments, torch.eye(count, dtype=torch.float64), atol=0.05)
    assert torch.allclose(whitening(images), nn.functional.gelu(answers))


def test_a_colour_that_never_varies_is_not_amplified() -> None:
    images = torch.randn(10, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    images[:, 2] = images[:, 0]
    whitening = Whitening(2)
    for epsilon in (5e-4, 1e-2):
        whitening.fit(images.split(7), epsilon)
        lengths = whitening.convolution.weight.flatten(1).norm(dim=1)
        assert lengths.max() == pytest.approx(epsilon**-0.5, rel=1e-3)  # of a direction without variance


def test_the_whitening_is_found_and_its_filters_do_not_learn() -> None:
    model = build_model(ModelSettings(widths=(8,), whitening=3), 3)
    whitening = whitening_of(model)
    assert whitening is not None
    assert whitening.convolution.weight.shape == (54, 3, 3, 3)
    assert [name for name, each in whitening.named_parameters() if each.requires_grad] == ["convolution.bias"]
    assert not whitening.convolution.bias.any()  # type: ignore[union-attr]
    assert whitening_of(build_model(ModelSettings(widths=(8,)), 3)) is None
    assert whitening_of(build_model(ModelSettings(name="resnet18-small"), 3)) is None


@pytest.mark.parametrize("size", [4, 5, 8, 32])
def test_a_whitened_network_takes_images_of_any_size_that_settings_allow(size: int) -> None:
    model = build_model(ModelSettings(widths=(8, 8, 8), whitening=3, depth=(1, 2, 3)), 5).eval()
    assert model(torch.rand(2, 3, size, size)).shape == (2, 5)


def test_dropout_acts_in_training_only() -> None:
    images = torch.rand(4, 3, 8, 8)
    torch.manual_seed(0)
    model = build_model(ModelSettings(widths=(32,), dropout=0.5), 3)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = 0.0
    assert not torch.equal(model.train()(images), model(images))
    assert torch.allclose(model.eval()(images), model(images), atol=1e-6)
    without = build_model(ModelSettings(widths=(32,)), 3).train()
    without.load_state_dict(model.state_dict())
    assert torch.allclose(without.eval()(images), model(images), atol=1e-6)
    assert torch.allclose(without.train()(images), without(images), atol=1e-6)


def test_the_small_resnet_keeps_the_resolution_at_its_stem() -> None:
    model = build_model(ModelSettings(name="resnet18-small"), 7)
    shapes: list[tuple[int, ...]] = []
    model.layer1.register_forward_hook(lambda _module, _inputs, output: shapes.append(tuple(output.shape)))  # type: ignore[union-attr]
    assert model(torch.rand(2, 3, 16, 16)).shape == (2, 7)
    assert shapes == [(2, 64, 16, 16)]
    # The parameters of ResNet-18 for 7 classes, with a 3x3 stem.
    assert check_model(model, "resnet18-small", 16) == 11_172_423


# With their auxiliary heads, the outputs of googlenet and inception_v3 in training would be tuples.
@pytest.mark.parametrize(("name", "size"), [("squeezenet1_1", 32), ("googlenet", 64), ("inception_v3", 96)])
@pytest.mark.parametrize("training", [True, False])
def test_a_torchvision_classifier_answers_with_logits(name: str, size: int, training: bool) -> None:
    with torch.device("meta"):  # shapes only
        model = build_model(ModelSettings(name=name), 7).train(training)
        logits = model(torch.empty(2, 3, size, size))
    assert isinstance(logits, torch.Tensor)
    assert logits.shape == (2, 7)


def test_weights_are_fresh_and_follow_torchs_seed() -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return nn.utils.parameters_to_vector(build_model(ModelSettings(widths=(8,)), 3).parameters())

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


@pytest.mark.parametrize("name", ["resnet81", "fasterrcnn_resnet50_fpn", ""])
def test_an_unknown_name_lists_the_known_ones(name: str) -> None:
    with pytest.raises(UserError, match=rf"model\.name is '{name}'.*Valid: convnet, resnet18-small, alexnet, .*vgg11"):
        build_model(ModelSettings(name=name), 3)


def test_a_misspelt_name_gets_the_near_one() -> None:
    with pytest.raises(UserError, match=r"Did you mean 'convnet'"):
        build_model(ModelSettings(name="convnett"), 3)


@pytest.mark.parametrize(("name", "size"), [("squeezenet1_1", 8), ("alexnet", 32)])
def test_a_size_that_the_network_cannot_take_is_named(name: str, size: int) -> None:
    with pytest.raises(UserError, match=rf"model\.name '{name}' cannot take images of input\.size {size}: "):
        check_model(build_model(ModelSettings(name=name), 3), name, size)


def test_the_smaller_sizes_of_training_are_tried_too() -> None:
    model = build_model(ModelSettings(widths=(8,), whitening=5), 3)
    check_model(model, "convnet", 32, smaller=(8, 32))
    with pytest.raises(UserError, match=r"'convnet' cannot take images of augment\.sizes 4: "):
        check_model(model, "convnet", 32, smaller=(4, 32))
