"""Make networks for colour images take another number of channels, by their first convolution."""

from itertools import cycle, islice

import torch
from torch import nn

from pipelines.models.published import AUXILIARY_HEADS
from pipelines.system.errors import UserError

COLOURS = 3


def spread(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """Return the mean or standard deviation of each of `channels` channels, from those of three colours.

    One channel has their mean; more than three repeat them in turn.
    """
    if channels == 1:
        return (sum(values) / len(values),)
    return tuple(islice(cycle(values), channels))


def take_channels(network: nn.Module, name: str, channels: int, pretrained: bool) -> nn.Module:
    """Return `network`, the torchvision classifier `name`, after its first convolution takes `channels` channels.

    pretrained: keep its weights, as timm's `adapt_input_conv` does: for one channel their sum over the colours; for
    others they repeat in turn, times 3 / channels, so that the size of the outputs stays. Otherwise they are random,
    of the same variance of the outputs. Raises `UserError` for a network whose weights cannot be used so.
    """
    if channels == COLOURS:
        return network
    found = ((place, module) for place, module in network.named_modules() if isinstance(module, nn.Conv2d))
    place, old = next(((place, module) for place, module in found if module.in_channels == COLOURS), ("", None))
    if old is None or (pretrained and name in AUXILIARY_HEADS):
        raise UserError(
            f"model.name {name!r} cannot take input.channels = {channels} with these weights. Choose another network, "
            "or set input.channels = 3."
        )
    new = nn.Conv2d(
        channels,
        old.out_channels,
        old.kernel_size,  # type: ignore[arg-type]
        old.stride,  # type: ignore[arg-type]
        old.padding,  # type: ignore[arg-type]
        old.dilation,  # type: ignore[arg-type]
        bias=old.bias is not None,
        device=old.weight.device,
    )
    with torch.no_grad():
        if not pretrained:
            new.weight.normal_(std=float(old.weight.std()) * (COLOURS / channels) ** 0.5)
        elif channels == 1:
            new.weight.copy_(old.weight.sum(dim=1, keepdim=True))
        else:
            turns = [channel % COLOURS for channel in range(channels)]
            new.weight.copy_(old.weight[:, turns] * (COLOURS / channels))
        if old.bias is not None and new.bias is not None:
            new.bias.copy_(old.bias)
    parent, _, attribute = place.rpartition(".")
    setattr(network.get_submodule(parent), attribute, new)
    return network
