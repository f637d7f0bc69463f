"""Convolve the small maps of several images side by side, in one wide map: processors then train faster.

oneDNN computes the gradient of the weights row by row, in tiles for long rows, so that short rows waste most of each
tile.  A column of zeros between two maps plays the part of the padding, so the result is the same convolution up to
rounding.
"""

from typing import Any

import torch
from torch import Tensor, nn

ROW = 160  # positions in the rows of a wide map; longer rows gain nothing
WIDEST = 8  # maps wider than this gain little or lose on the processors that were measured


class SideBySide(nn.Conv2d):
    """A convolution that lays maps of at most `widest` positions a row side by side in training mode.

    In evaluation mode it is the ordinary convolution, so predictions do not depend on `widest`.
    """

    widest = 0

    def forward(self, input: Tensor) -> Tensor:
        count, width = len(input), input.shape[3]
        gap = self.kernel_size[1] // 2
        rows, columns = arrangement(count, width + gap)
        if not self.training or width > self.widest or columns == 1:
            return super().forward(input)
        wide = _Join.apply(input, rows, gap)
        maps: Tensor = _Divide.apply(super().forward(wide), count, width)
        return maps


def arrangement(count: int, pitch: int) -> tuple[int, int]:
    """Return the number of wide maps for `count` maps, each `pitch` positions wide with its gap, and maps in each.

    The maps are divided evenly; only the last wide map may have empty places.
    """
    rows = -(-count // max(ROW // pitch, 1))
    return rows, -(-count // max(rows, 1))


def can_lie_side_by_side(module: nn.Module) -> bool:
    """Return whether `module` is a plain convolution whose zero padding keeps the size of its maps."""
    if type(module) not in (nn.Conv2d, SideBySide):  # subclasses of other libraries compute something else
        return False
    assert isinstance(module, nn.Conv2d)
    same = tuple(side // 2 for side in module.kernel_size)
    return (
        module.kernel_size[1] > 1
        and all(side % 2 for side in module.kernel_size)
        and module.padding in ("same", same)
        and module.padding_mode == "zeros"
        and (module.stride, module.dilation, module.groups) == ((1, 1), (1, 1), 1)
    )


def lay_side_by_side(network: nn.Module, widest: int) -> None:
    """Let the convolutions of `network` lay maps up to `widest` positions wide side by side; weights keep their names.

    The modules themselves change class: other objects may refer to them.
    """
    for module in network.modules():
        if can_lie_side_by_side(module):
            module.__class__ = SideBySide
            assert isinstance(module, SideBySide)
            module.widest = widest


class _Join(torch.autograd.Function):
    """Lay maps (N, C, H, W) side by side in `rows` wide maps, each map with `gap` columns of zeros at its right."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, rows: int, gap: int) -> Tensor:
        ctx.count, ctx.width = len(maps), maps.shape[3]
        return join(maps, rows, gap)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _Divide.apply(gradient, ctx.count, ctx.width), None, None


class _Divide(torch.autograd.Function):
    """Cut the first `count` maps of `width` positions out of wide maps."""

    @staticmethod
    def forward(ctx: Any, wide: Tensor, count: int, width: int) -> Tensor:
        rows, columns = len(wide), -(-count // len(wide))
        ctx.rows, ctx.gap = rows, wide.shape[3] // columns - width
        return divide(wide, count, width)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _Join.apply(gradient, ctx.rows, ctx.gap), None, None


def join(maps: Tensor, rows: int, gap: int) -> Tensor:
    """Return `maps` (N, C, H, W) side by side as (rows, C, H, columns * (W + gap)), channels last in memory.

    Gaps and empty places are zeros.
    """
    count, channels, height, width = maps.shape
    columns = -(-count // rows)
    whole, rest = divmod(count, columns)
    wide = maps.new_empty(rows, height, columns, width + gap, channels)
    wide[:, :, :, width:] = 0
    pixels = maps.permute(0, 2, 3, 1)
    wide[:whole, :, :, :width] = pixels[: whole * columns].unflatten(0, (whole, columns)).transpose(1, 2)
    if rest:
        wide[whole, :, :rest, :width] = pixels[whole * columns :].transpose(0, 1)
        wide[whole, :, rest:, :width] = 0
    return wide.flatten(2, 3).permute(0, 3, 1, 2)


def divide(wide: Tensor, count: int, width: int) -> Tensor:
    """Return the first `count` maps (N, C, H, width) of `wide` maps, which hold equally many each.

    The result is no view, so that activations may change it in place.
    """
    columns = -(-count // len(wide))
    whole, rest = divmod(count, columns)
    maps = torch.empty(
        (count, *wide.shape[1:3], width), dtype=wide.dtype, device=wide.device, memory_format=torch.channels_last
    )
    places = maps.permute(0, 2, 3, 1)
    pixels = wide.permute(0, 2, 3, 1).unflatten(2, (columns, -1))[:, :, :, :width].transpose(1, 2)
    places[: whole * columns].unflatten(0, (whole, columns)).copy_(pixels[:whole])
    if rest:
        places[whole * columns :] = pixels[whole, :rest]
    return maps
