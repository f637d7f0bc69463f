"""Optimizers and learning-rate schedules, from settings."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from pipelines.core.muon import Muon
from pipelines.settings.schema import TrainSettings

Schedule = Callable[[float], float]


def make_optimizer(
    model: nn.Module, train: TrainSettings, pretrained: Iterable[nn.Parameter] = (), pretrained_lr: float = 1.0
) -> torch.optim.Optimizer:
    """Return the optimizer of the parameters of `model` that require gradients.

    `lr_share` of a group is its fraction of the learning rate: `pretrained_lr` for `pretrained` parameters, 1 for the
    others, times `bias_lr` / `lr` or `output_lr` / `lr` where these are set.  With `decay_norms_and_biases` false,
    parameters of one dimension (norms' scales, biases) have no weight decay.  Muon's matrices are all weights with
    more than one row and column (a convolution's filters are rows), except the output layer's, which is the last.
    """
    came_along = {id(parameter) for parameter in pretrained}
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    output = next((parameter for parameter in reversed(learning) if parameter.ndim > 1), None)
    members: dict[tuple[float, float, bool], list[nn.Parameter]] = {}
    for parameter in learning:
        is_bias, is_output = parameter.ndim <= 1, parameter is output
        share = pretrained_lr if id(parameter) in came_along else 1.0
        share *= (train.bias_lr if is_bias else train.output_lr if is_output else 0) / train.lr or 1.0
        decay = train.weight_decay if train.decay_norms_and_biases or not is_bias else 0.0
        is_matrix = train.optimizer == "muon" and not (is_bias or is_output) and min(parameter.flatten(1).shape) > 1
        members.setdefault((share, decay, is_matrix), []).append(parameter)
    groups: list[dict[str, Any]] = []
    for (share, decay, is_matrix), parameters in members.items():
        lr = train.lr * share
        groups.append({"params": parameters, "weight_decay": decay, "lr": lr, "lr_share": share})
        if train.optimizer == "muon":  # its decay is a share of the weights, independent of the group's rate
            groups[-1] |= {"orthogonal": is_matrix, "weight_decay": 0.0 if is_matrix else decay / lr}
    match train.optimizer:
        case "sgd":
            return torch.optim.SGD(groups, lr=train.lr, momentum=train.momentum, nesterov=train.nesterov)
        case "muon":
            return Muon(groups, train.lr, train.momentum)
        case "adam":
            return torch.optim.Adam(groups, lr=train.lr)
    return torch.optim.AdamW(groups, lr=train.lr)


def make_schedule(train: TrainSettings) -> Schedule:
    """Return the learning rate as a function of the epochs done, including the fraction of the current one.

    It depends on progress alone: there is no state to save, and the number of batches does not change it.
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
