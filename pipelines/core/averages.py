"""The average of a network's weights over the steps of training; its `module` holds the averaged network."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class Average(AveragedModel):
    """An exponential moving average of a network's weights and buffers.  Integers are copied, not rounded."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model, multi_avg_fn=self._average, use_buffers=True)
        self.decay = decay

    def _average(self, averaged: Sequence[Tensor], current: Sequence[Tensor], steps: Any) -> None:
        if averaged[0].is_floating_point():  # tensors come grouped by type
            get_ema_multi_avg_fn(self.decay)(averaged, current, steps)
        else:
            for mine, newest in zip(averaged, current, strict=True):
                mine.copy_(newest)
