"""Maps side by side: the same convolution, forward and backward, for every shape and batch, under the same names."""

import copy

import pytest
import torch
from torch import Tensor, nn

from pipelines.models.networks import build_model
from pipelines.models.side_by_side import (
    ROW,
    SideBySide,
    arrangement,
    can_lie_side_by_side,
    divide,
    join,
    lay_side_by_side,
)
from pipelines.settings.training_sections import ModelSettings

CHANNELS, FILTERS = 3, 5


def double(kernel: tuple[int, int] = (3, 3), bias: bool = True) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(CHANNELS, FILTERS, kernel, padding="same", bias=bias).double()


def gradients(layer: nn.Module, images: Tensor) -> list[Tensor]:
    """The outputs, and the gradients of inputs and weights, of a step whose loss weighs every output differently."""
    images = images.clone().requires_grad_()
    outputs = layer(images)
    weights = torch.linspace(-1, 1, outputs.numel(), dtype=outputs.dtype).view(outputs.shape)
    (outputs * weights).sum().backward()
    found = [outputs.detach(), images.grad, *(each.grad for each in layer.parameters())]
    return [each for each in found if each is not None]


def wide(layer: nn.Module, widest: int = 8) -> nn.Module:
    """A copy of `layer` that lays maps side by side."""
    layer = copy.deepcopy(layer).train()
    lay_side_by_side(layer, widest)
    return layer


@pytest.mark.parametrize("count", [1, 2, 6, 53, 97, 130])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 2), (7, 7), (3, 8), (8, 3)])
@pytest.mark.parametrize("kernel", [(3, 3), (1, 5), (5, 3)])
def test_the_convolution_is_the_same(count: int, height: int, width: int, kernel: tuple[int, int]) -> None:
    layer = double(kernel)
    images = torch.rand(count, CHANNELS, height, width, dtype=torch.float64)
    for ours, plain in zip(gradients(wide(layer), images), gradients(layer, images), strict=True):
        torch.testing.assert_close(ours, plain)


@pytest.mark.parametrize("count", [1, 50, 53])
def test_activations_may_work_in_place_on_the_maps(count: int) -> None:
    layer = nn.Sequential(double(), nn.ReLU(inplace=True))
    images = torch.rand(count, CHANNELS, 4, 4, dtype=torch.float64)
    for ours, plain in zip(gradients(wide(layer), images), gradients(layer, images), strict=True):
        torch.testing.assert_close(ours, plain)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_layout_in_memory_changes_nothing(layout: torch.memory_format) -> None:
    layer = double(bias=False)
    images = torch.rand(50, CHANNELS, 4, 4, dtype=torch.float64).contiguous(memory_format=layout)
    for ours, plain in zip(gradients(wide(layer), images), gradients(layer, images), strict=True):
        torch.testing.assert_close(ours, plain)
    assert wide(layer)(images).is_contiguous(memory_format=torch.channels_last)


def test_second_derivatives_are_those_of_the_convolution() -> None:
    layer = wide(double())
    images = torch.rand(5, CHANNELS, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(layer, images)


@pytest.mark.parametrize("count", [1, 3, 40, 53, 54, 499, 500])
@pytest.mark.parametrize("pitch", [2, 3, 9, 200])
def test_maps_are_divided_evenly_over_rows_of_limited_length(count: int, pitch: int) -> None:
    rows, columns = arrangement(count, pitch)
    assert (rows - 1) * columns < count <= rows * columns
    assert columns * pitch <= max(ROW, pitch)
    maps = torch.arange(count * 2 * 3.0).view(count, 1, 2, 3)
    joined = join(maps, rows, gap=1)
    assert joined.shape == (rows, 1, 2, columns * 4)
    assert joined.sum() == maps.sum()  # gaps and empty places are zeros
    assert torch.equal(divide(joined, count, 3), maps)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 4, 3),
        nn.Conv2d(4, 4, 1),
        nn.Conv2d(4, 4, 4, padding="same"),
        nn.Conv2d(4, 4, 3, padding=2),
        nn.Conv2d(4, 4, 3, padding=1, stride=2),
        nn.Conv2d(4, 4, 3, padding=2, dilation=2),
        nn.Conv2d(4, 4, 3, padding=1, groups=4),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
        nn.LazyConv2d(4, 3, padding=1),
        nn.ConvTranspose2d(4, 4, 3, padding=1),
        nn.Linear(4, 4),
    ],
)
def test_other_layers_stay_as_they_are(layer: nn.Module) -> None:
    assert not can_lie_side_by_side(layer)
    kind = type(layer)
    lay_side_by_side(layer, 8)
    assert type(layer) is kind


@pytest.mark.parametrize("name", ["convnet", "resnet18-small", "resnet18", "mobilenet_v2"])
def test_a_network_keeps_the_names_and_objects_of_its_weights(name: str) -> None:
    network = build_model(ModelSettings(name=name, widths=(8, 8)), 3)
    before = list(network.named_parameters())
    names = list(network.state_dict())
    laid = wide(network)
    lay_side_by_side(network, 8)
    assert list(network.state_dict()) == names == list(laid.state_dict())
    assert all(ours is theirs for (_, ours), (_, theirs) in zip(network.named_parameters(), before, strict=True))
    assert any(isinstance(module, SideBySide) for module in network.modules()) == (name != "mobilenet_v2")
    laid.load_state_dict(network.state_dict())


def test_evaluation_and_wider_maps_use_the_ordinary_convolution() -> None:
    layer = nn.Conv2d(CHANNELS, FILTERS, 3, padding=1)
    laid, images = wide(layer, widest=4), torch.rand(7, CHANNELS, 4, 4)
    assert torch.equal(laid.eval()(images), layer(images))
    assert torch.equal(wide(layer, widest=3)(images), layer(images))
    assert torch.equal(wide(layer, widest=0)(images), layer(images))


def test_a_copy_computes_with_its_own_weights() -> None:
    laid = wide(double())
    images = torch.rand(7, CHANNELS, 4, 4, dtype=torch.float64)
    copied = copy.deepcopy(laid)
    with torch.no_grad():
        for parameter in laid.parameters():
            parameter.zero_()
    assert copied(images).abs().sum() > 0


def test_frozen_weights_and_inputs_without_gradient_need_none() -> None:
    layer = double()
    layer.weight.requires_grad_(False)
    images = torch.rand(7, CHANNELS, 4, 4, dtype=torch.float64)
    laid = wide(layer)
    for ours, plain in zip(gradients(laid, images), gradients(layer, images), strict=True):
        torch.testing.assert_close(ours, plain)
    laid = wide(double())
    laid(images).sum().backward()
    assert all(parameter.grad is not None for parameter in laid.parameters())


def test_autocast_gives_the_type_of_the_ordinary_convolution() -> None:
    layer = nn.Conv2d(CHANNELS, FILTERS, 3, padding=1)
    images = torch.rand(7, CHANNELS, 4, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours, plain = wide(layer)(images), layer(images)
    assert ours.dtype == plain.dtype == torch.bfloat16
    torch.testing.assert_close(ours, plain, atol=0.02, rtol=0.02)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the compiler, about itself
def test_a_compiled_convolution_is_the_same() -> None:
    layer = double()
    images = torch.rand(53, CHANNELS, 4, 4, dtype=torch.float64)
    laid = wide(layer)
    laid.compile()
    for ours, plain in zip(gradients(laid, images), gradients(layer, images), strict=True):
        torch.testing.assert_close(ours, plain)
