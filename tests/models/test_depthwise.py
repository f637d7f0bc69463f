"""Depthwise convolutions in bfloat16: the same gradients by other routines, and only where they are needed."""

import copy

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.overrides import _get_current_function_mode_stack

from pipelines.models.depthwise import DepthwiseGradients, _Depthwise, input_gradient, weight_gradient
from pipelines.models.device import Hardware

CHANNELS = 4
HALF = Hardware(torch.device("cpu"), torch.bfloat16)
SINGLE = Hardware(torch.device("cpu"), torch.float32)
OURS = "_DepthwiseBackward"

Pair = tuple[int, int]


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (2, 5), (3, 3), (4, 4), (7, 6), (9, 8)])
@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (3, 3), (1, 2)])
@pytest.mark.parametrize(
    ("kernel", "padding"),
    [
        *[((3, 3), (1, 1)), ((3, 3), (0, 0)), ((3, 3), (2, 2)), ((5, 5), (2, 2)), ((7, 7), (3, 3)), ((2, 2), (0, 0))],
        *[((1, 5), (0, 2)), ((5, 1), (2, 0)), ((3, 7), (1, 3)), ((4, 6), (1, 2)), ((9, 9), (4, 4)), ((1, 1), (0, 0))],
    ],
)
def test_gradients_are_those_of_the_convolution(size: Pair, stride: Pair, kernel: Pair, padding: Pair) -> None:
    if any(side + 2 * margin < taps for side, margin, taps in zip(size, padding, kernel, strict=True)):
        pytest.skip("no output")
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.rand(*shape, dtype=torch.float64, generator=generator, requires_grad=True)

    maps, weight = noise(3, CHANNELS, *size), noise(CHANNELS, 1, *kernel)
    outputs = torch.conv2d(maps, weight, None, stride, padding, 1, CHANNELS)
    gradient = noise(*outputs.shape).detach()
    of_maps, of_weight = torch.autograd.grad(outputs, (maps, weight), gradient)
    with torch.no_grad():
        torch.testing.assert_close(input_gradient(gradient, maps, weight, stride, padding), of_maps)
        torch.testing.assert_close(weight_gradient(gradient, maps, weight, stride, padding), of_weight)


def test_second_derivatives_are_those_of_the_convolution() -> None:
    maps = torch.rand(2, 2, 5, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(2, 1, 5, 5, dtype=torch.float64, requires_grad=True)
    bias = torch.rand(2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda *each: _Depthwise.apply(*each, (2, 2), (2, 2)), (maps, weight, bias))


def layer(kernel: int = 5, stride: int = 2, groups: int = CHANNELS, **more: object) -> nn.Conv2d:
    torch.manual_seed(0)
    more = {"padding": kernel // 2} | more
    return nn.Conv2d(CHANNELS, CHANNELS, kernel, stride, groups=groups, **more)  # type: ignore[arg-type]


def images(size: int = 8) -> Tensor:
    noise = torch.rand(2, CHANNELS, size, size, generator=torch.Generator().manual_seed(1))
    return noise.contiguous(memory_format=torch.channels_last)


def step(module: nn.Module, inputs: Tensor, hardware: Hardware) -> tuple[str, Tensor, list[Tensor]]:
    """Return which function computes the gradients of a step, its outputs, and the gradients in float32."""
    module, inputs = copy.deepcopy(module), inputs.clone().requires_grad_()
    with hardware.autocast():
        outputs = module(inputs)
    weights = torch.linspace(-1, 1, outputs.numel()).view(outputs.shape)
    (outputs.float() * weights).sum().backward()
    found = [inputs.grad, *(each.grad for each in module.parameters())]
    name = outputs.grad_fn.name() if outputs.grad_fn else ""
    return name, outputs.detach(), [each for each in found if each is not None]


@pytest.mark.parametrize(("kernel", "stride", "size"), [(3, 2, 8), (3, 2, 9), (5, 1, 8), (7, 1, 4), (3, 1, 2)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_step_in_bfloat16_has_the_gradients_of_float32(kernel: int, stride: int, size: int, bias: bool) -> None:
    module = layer(kernel, stride, bias=bias)
    name, outputs, found = step(module, images(size), HALF)
    assert name == OURS and outputs.dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(module(images(size)), outputs)
    name, _, expected = step(module, images(size), SINGLE)
    assert name != OURS and len(found) == len(expected) == 2 + bias
    for ours, exact in zip(found, expected, strict=True):
        assert ours.dtype == torch.float32
        assert (ours - exact).norm() < 0.02 * exact.norm()  # 8 bits, and sums of many terms


@pytest.mark.parametrize(
    "module",
    [
        *[layer(3, 1), layer(groups=1), layer(groups=2), layer(dilation=2), layer(1, 2, padding=1)],
        *[layer(stride=1, padding="same"), layer(stride=1, padding="valid")],
    ],
)
def test_any_other_convolution_is_left_alone(module: nn.Module) -> None:
    assert step(module, images(), HALF)[0] != OURS


def test_several_filters_of_a_channel_are_left_alone() -> None:
    assert step(nn.Conv2d(CHANNELS, 2 * CHANNELS, 3, 2, 1, groups=CHANNELS), images(), HALF)[0] != OURS


@pytest.mark.parametrize(
    ("kernel", "stride", "maps", "weights", "ours"),
    [
        *[(3, 2, True, False, True), (3, 2, False, True, False), (3, 2, False, False, False)],  # lacks the maps'
        *[(5, 1, False, True, True), (5, 1, True, False, False)],  # lacks the weights'
        (5, 2, True, False, True),  # lacks both
    ],
)
def test_only_gradients_that_are_needed_count(kernel: int, stride: int, maps: bool, weights: bool, ours: bool) -> None:
    module, inputs = layer(kernel, stride).requires_grad_(weights), images().requires_grad_(maps)
    with HALF.autocast():
        outputs = module(inputs)
    assert (outputs.grad_fn is not None and outputs.grad_fn.name() == OURS) == ours


def test_only_what_learns_on_a_processor_in_bfloat16_is_watched() -> None:
    def watched(hardware: Hardware) -> bool:
        with hardware.autocast():
            return any(isinstance(each, DepthwiseGradients) for each in _get_current_function_mode_stack())

    assert watched(HALF) and not watched(SINGLE)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert not watched(HALF)


def test_what_autocast_leaves_alone_stays_as_it_is() -> None:
    with HALF.autocast():
        assert layer().double()(images().double()).dtype == torch.float64
        with pytest.raises(RuntimeError, match="stride"):
            torch.conv2d(images().requires_grad_(), layer().weight, stride=0, groups=CHANNELS)
        assert torch.conv2d(images().requires_grad_(), layer().weight, stride=[2], groups=CHANNELS).shape[2:] == (2, 2)


def test_parts_of_a_network_in_float32_stay_so() -> None:
    with HALF.autocast(), torch.autocast("cpu", enabled=False):
        outputs = layer()(images())
    assert outputs.dtype == torch.float32 and outputs.grad_fn is not None and outputs.grad_fn.name() != OURS
    assert not torch.is_autocast_enabled("cpu")


def functions(outputs: Tensor) -> list[str]:
    """Return the names of all functions that the gradients of `outputs` go through."""
    found, todo = set(), [outputs.grad_fn]
    while todo:
        each = todo.pop()
        if each is not None and each not in found:
            found.add(each)
            todo += [function for function, _ in each.next_functions]
    return [each.name() for each in found]


@pytest.mark.parametrize(("name", "count"), [("mobilenet_v2", 7), ("tf_efficientnet_lite0", 12)])
def test_a_whole_network_learns_as_before(name: str, count: int) -> None:
    """Also one of timm, whose convolutions with TensorFlow's padding are a class of its own."""
    torch.manual_seed(0)
    network = torchvision.models.mobilenet_v2() if name == "mobilenet_v2" else timm.create_model(name)
    network = network.eval().to(memory_format=torch.channels_last)  # norms that batches do not change
    inputs = torch.rand(4, 3, 48, 48).contiguous(memory_format=torch.channels_last)
    found = []
    for way, expected in ((HALF.autocast(), count), (torch.autocast("cpu", torch.bfloat16), 0)):
        tried = copy.deepcopy(network)
        with way:
            outputs = tried(inputs)
        assert functions(outputs).count(OURS) == expected
        outputs.double().square().sum().backward()
        found.append({key: each.grad.double() for key, each in tried.named_parameters() if each.grad is not None})
    ours, plain = found
    assert ours.keys() == plain.keys()
    for key, gradient in plain.items():
        assert (ours[key] - gradient).norm() <= 0.02 * gradient.norm(), key
