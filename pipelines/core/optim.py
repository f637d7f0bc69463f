"""Optimisers and learning-rate schedules, from settings."""

import math
from collections.abc import Callable

import torch
from torch import nn

from pipelines.core.settings import TrainSettings

Schedule = Callable[[float], float]


def make_optimizer(model: nn.Module, train: TrainSettings) -> torch.optim.Optimizer:
    """Return torch's optimiser over the learning parameters of `model`.

    With `decay_norms_and_biases` false, parameters of one dimension (norms' scales, biases) go without weight decay.
    """
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if train.decay_norms_and_biases:
        groups = [{"params": learning, "weight_decay": train.weight_decay}]
    else:
        groups = [
            {"params": [p for p in learning if p.ndim > 1], "weight_decay": train.weight_decay},
            {"params": [p for p in learning if p.ndim <= 1], "weight_decay": 0.0},
        ]
    if train.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=train.lr, momentum=train.momentum, nesterov=train.nesterov)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[train.optimizer]
    return kind(groups, lr=train.lr)


def make_schedule(train: TrainSettings) -> Schedule:
    """Return the learning rate as a function of the epochs done so far (a fraction within an epoch).

    Being a function of progress alone, it has no state to save, and another number of batches does not change it.
    """

    def lr(progress: float) -> float:
        if progress < train.warmup_epochs:
            return train.lr * progress / train.warmup_epochs
        return train.lr * factor(progress)

    def factor(progress: float) -> float:
        done = (progress - train.warmup_epochs) / max(train.epochs - train.warmup_epochs, 1e-9)
        match train.schedule:
            case "step":
                return train.gamma ** (progress // train.step_epochs)
            case "multistep":
                return train.gamma ** sum(progress >= milestone for milestone in train.milestones)
            case "exponential":
                return train.gamma ** math.floor(progress)
            case "cosine":
                return (1 + math.cos(math.pi * min(done, 1.0))) / 2
            case "linear":
                return max(1 - done, 0.0)
        return 1.0

    return lr
