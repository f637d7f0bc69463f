"""Optimisers and learning-rate schedules, from settings."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from pipelines.core.settings import TrainSettings

Schedule = Callable[[float], float]


def make_optimizer(
    model: nn.Module, train: TrainSettings, pretrained: Iterable[nn.Parameter] = (), pretrained_lr: float = 1.0
) -> torch.optim.Optimizer:
    """Return torch's optimiser over the learning parameters of `model`.

    Each group's `lr_share` is what it takes of the learning rate: `pretrained_lr` for the `pretrained` parameters, 1
    for the others.  With `decay_norms_and_biases` false, parameters of one dimension (norms' scales, biases) go without
    weight decay.
    """
    came_along = {id(parameter) for parameter in pretrained}
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = []
    for share, is_pretrained in ((pretrained_lr, True), (1.0, False)):
        of_part = [parameter for parameter in learning if (id(parameter) in came_along) == is_pretrained]
        for decay, members in (
            (train.weight_decay, [p for p in of_part if p.ndim > 1 or train.decay_norms_and_biases]),
            (0.0, [p for p in of_part if p.ndim <= 1 and not train.decay_norms_and_biases]),
        ):
            if members:
                groups.append({"params": members, "weight_decay": decay, "lr": train.lr * share, "lr_share": share})
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
