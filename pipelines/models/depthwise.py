"""Gradients of depthwise convolutions in bfloat16, for which a processor's library has no routine of their own.

On x86 with AVX512, oneDNN 3 has routines of depthwise convolutions for the forward pass, for the input gradient at
stride 1, and for the weight gradient of up to 3x3 weights with an output of at least 3x3. It computes the rest as
grouped convolutions of one channel each, up to two hundred times as slowly (ONEDNN_VERBOSE=1 names them:
brgconv_strided, jit_bf16). Here the rest is put together from what has a routine: the same sums, up to rounding.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

WINDOW = 3  # the gradient of weights has a routine up to this side of theirs, and from this side of the output

Pair = tuple[int, int]


class DepthwiseGradients(TorchFunctionMode):
    """Within it, depthwise convolutions that autocast computes in bfloat16 have the gradients of this module."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        arguments: Sequence[Any] = (),
        keywords: dict[str, Any] | None = None,
    ) -> Any:
        if function is torch.conv2d and torch.is_grad_enabled() and torch.is_autocast_enabled("cpu"):
            return _convolve(_Call(*arguments, **(keywords or {})))
        return function(*arguments, **(keywords or {}))


class _Call(NamedTuple):
    """The arguments of torch.conv2d."""

    input: Tensor
    weight: Tensor
    bias: Tensor | None = None
    stride: int | Sequence[int] = 1
    padding: str | int | Sequence[int] = 0
    dilation: int | Sequence[int] = 1
    groups: int = 1


def _convolve(call: _Call) -> Tensor:
    """Return what torch.conv2d returns."""
    input, weight, bias, stride, padding, dilation, groups = call
    if _is_depthwise(input, weight, groups) and not isinstance(padding, str) and _pair(dilation) == (1, 1):
        steps, margins = _pair(stride), _pair(padding)
        if _lacks_routine(input, weight, steps, margins):
            dtype = torch.get_autocast_dtype("cpu")
            own = None if bias is None else bias.to(dtype)
            outputs: Tensor = _Depthwise.apply(input.to(dtype), weight.to(dtype), own, steps, margins)
            return outputs
    return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)


def _is_depthwise(input: Tensor, weight: Tensor, groups: int) -> bool:
    """Return whether each channel has one filter, in tensors that autocast would cast."""
    return (
        input.ndim == 4
        and 1 < groups == input.shape[1] == len(weight)
        and all(each.device.type == "cpu" and each.dtype != torch.float64 for each in (input, weight))
    )


def _pair(value: int | Sequence[int]) -> Pair:
    values = tuple(value) if isinstance(value, Sequence) else (value,)
    return values[0], values[-1]


def _lacks_routine(input: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> bool:
    """Return whether a gradient that is needed has no routine of its own."""
    kernel = weight.shape[2:]
    if min(stride) < 1 or any(margin >= taps for margin, taps in zip(padding, kernel, strict=True)):
        return False
    if input.requires_grad and max(stride) > 1:
        return True
    output = [
        (side + 2 * margin - taps) // step + 1
        for side, margin, taps, step in zip(input.shape[2:], padding, kernel, stride, strict=True)
    ]
    return weight.requires_grad and not _has_weight_routine(kernel, output)


def _has_weight_routine(kernel: Sequence[int], output: Sequence[int]) -> bool:
    """Return whether the gradient of weights with the sides `kernel` has a routine, for an output with these sides."""
    return max(kernel) <= WINDOW <= min(output)


class _Depthwise(torch.autograd.Function):
    """The depthwise convolution of maps (N, C, H, W) by weights (C, 1, KH, KW), with gradients put together."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair) -> Tensor:
        ctx.save_for_backward(maps, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(maps, weight, bias, stride, padding, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        maps, weight = ctx.saved_tensors
        needs_maps, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        return (
            input_gradient(gradient, maps, weight, ctx.stride, ctx.padding) if needs_maps else None,
            weight_gradient(gradient, maps, weight, ctx.stride, ctx.padding) if needs_weight else None,
            gradient.sum((0, 2, 3)) if needs_bias else None,
            None,
            None,
        )


def input_gradient(gradient: Tensor, maps: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Tensor:
    """Return the gradient of `maps`, of their shape: a convolution at stride 1 of `gradient` with zeros between."""
    kernel = weight.shape[2:]
    if stride != (1, 1):
        count, channels, *sides = maps.shape
        apart = [side + 2 * margin - taps + 1 for side, margin, taps in zip(sides, padding, kernel, strict=True)]
        spread = gradient.new_zeros(count, *apart, channels).permute(0, 3, 1, 2)
        spread[:, :, :: stride[0], :: stride[1]] = gradient
        gradient = spread
    margins = [taps - 1 - margin for taps, margin in zip(kernel, padding, strict=True)]
    return F.conv2d(gradient, weight.flip(2, 3), padding=margins, groups=len(weight))


def weight_gradient(gradient: Tensor, maps: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Tensor:
    """Return the gradient of `weight`, of its shape: windows of at most 3x3 weights, each from the maps moved to it."""
    kernel = weight.shape[2:]
    if _has_weight_routine(kernel, gradient.shape[2:]):
        return _own_weight_gradient(gradient, maps, weight, stride, padding)
    low, narrow = (max(WINDOW - side, 0) for side in gradient.shape[2:])
    if low or narrow:
        gradient = F.pad(gradient, (0, narrow, 0, low))
    gradient = gradient.contiguous(memory_format=torch.channels_last)
    last = [step * (side - 1) for step, side in zip(stride, gradient.shape[2:], strict=True)]
    missing = [
        each + taps - side - margin
        for each, taps, side, margin in zip(last, kernel, maps.shape[2:], padding, strict=True)
    ]
    maps = F.pad(maps, (padding[1], missing[1], padding[0], missing[0]))  # less than 0: rows that no window reaches
    window = [min(taps, WINDOW) for taps in kernel]
    total = torch.empty_like(weight)
    for top, left in itertools.product(*map(_corners, kernel, window)):
        moved = maps[:, :, top : top + last[0] + window[0], left : left + last[1] + window[1]]
        part = (slice(None), slice(None), slice(top, top + window[0]), slice(left, left + window[1]))
        moved = moved.contiguous(memory_format=torch.channels_last)
        total[part] = _own_weight_gradient(gradient, moved, weight[part].contiguous(), stride, (0, 0))
    return total


def _own_weight_gradient(gradient: Tensor, maps: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Tensor:
    """Return the gradient of `weight` as torch computes it."""
    settings = (None, stride, padding, (1, 1), False, (0, 0), len(weight), (False, True, False))
    found: Tensor = torch.ops.aten.convolution_backward(gradient, maps, weight, *settings)[1]
    return found


def _corners(taps: int, window: int) -> list[int]:
    """Return where windows begin that cover `taps` weights; the last ones may overlap, and agree there."""
    return sorted({*range(0, taps - window + 1, window), taps - window})
