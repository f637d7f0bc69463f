"""The average of a network's weights over the steps of training; its `module` holds the averaged network."""

from collections.abc import Iterator
from itertools import chain

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


class Average(AveragedModel):
    """An exponential moving average of a network's weights and buffers.  Integers are copied, not rounded."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model, use_buffers=True)
        self.decay = decay

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Average the weights of `model` into these; the first time, copy them.

        Torch's own method sends the number of averages to the device each time, and waits until it is there.
        """
        averaged, current = [], []
        for mine, newest in zip(_values(self.module), _values(model), strict=True):
            if self.n_averaged and mine.is_floating_point():
                averaged.append(mine)
                current.append(newest)
            else:
                mine.copy_(newest)
        if averaged:
            torch._foreach_lerp_(averaged, current, 1 - self.decay)
        self.n_averaged += 1


def _values(module: nn.Module) -> Iterator[Tensor]:
    """Yield the parameters and buffers of `module`, without gradients."""
    return (each.detach() for each in chain(module.parameters(), module.buffers()))
