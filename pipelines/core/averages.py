"""Averages of a network's weights over the steps of training; `module` of each holds the averaged network."""

from collections.abc import Iterator
from itertools import chain

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from pipelines.settings.training_sections import TrainSettings

PULL = 0.95  # share of the averaged weights that Lookahead keeps per step at the end of training


def make_average(model: nn.Module, train: TrainSettings, done: int = 0) -> "Average | None":
    """Return the average of the weights of `model` that the settings name, or None.  done: epochs before its first."""
    if train.lookahead:
        return Lookahead(model, train.lookahead, done, train.epochs)
    return Average(model, train.ema_decay) if train.ema_decay else None


class Average(AveragedModel):
    """An exponential moving average of a network's weights and buffers.  Integers are copied, not rounded."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model, use_buffers=True)
        self.decay = decay

    def after_step(self, model: nn.Module, step: int, progress: float) -> None:
        """Take in the weights of `model` after `step`, counted from 1.  progress: the epochs done."""
        self.update_parameters(model)

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


class Lookahead(Average):
    """An average, taken every few steps, from which the network then trains on (Zhang et al., arXiv 1907.08610).

    The average keeps more and more of itself, `PULL` per step in the end, so it changes nothing at first and settles
    the last steps (as in arXiv 2404.00498).  It needs a learning rate that does not end at 0.
    """

    def __init__(self, model: nn.Module, every: int, start: int, epochs: int) -> None:
        """every: steps between two averages.  start, epochs: the epochs before its first step, and those it lasts."""
        super().__init__(model, 0.0)
        self.every, self.start, self.epochs = every, start, epochs

    def after_step(self, model: nn.Module, step: int, progress: float) -> None:
        if step % self.every == 0:
            self.decay = PULL**self.every * ((progress - self.start) / self.epochs) ** 3
            self.update_parameters(model)
            with torch.no_grad():
                for mine, theirs in zip(self.module.state_dict().values(), model.state_dict().values(), strict=True):
                    theirs.copy_(mine)
