"""Optimizers and learning-rate schedules, and the optimizer Muon."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from pipelines.core.solve import make_solver
from pipelines.settings.training_sections import TrainSettings

ITERATIONS = 3  # the singular values are then between about 0.5 and 1.5, which is accurate enough
# Coefficients of the odd polynomial that moves singular values to 1; a steep slope at 0 needs few iterations.
LINEAR, CUBIC, QUINTIC = 3.4445, -4.7750, 2.0315
Schedule = Callable[[float], float]


def make_optimizer(
    model: nn.Module, train: TrainSettings, pretrained: Iterable[nn.Parameter] = (), pretrained_lr: float = 1.0
) -> torch.optim.Optimizer:
    """Return the optimizer of the parameters of `model` that require gradients.

    `lr_share` of a group is its fraction of the learning rate: `pretrained_lr` for `pretrained` parameters, 1 for the
    others, times `bias_lr` / `lr` or `output_lr` / `lr` if set.  With `decay_norms_and_biases` false, parameters of one
    dimension (scales of norms, biases) have no weight decay.  Muon's matrices are all weights with more than one row
    and column (a filter of a convolution is a row), except the last one, of the output layer.
    """
    if train.optimizer == "lbfgs":
        return make_solver(model, train)
    pretrained_ids = {id(parameter) for parameter in pretrained}
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    output = next((parameter for parameter in reversed(learning) if parameter.ndim > 1), None)
    members: dict[tuple[float, float, bool], list[nn.Parameter]] = {}
    for parameter in learning:
        is_bias, is_output = parameter.ndim <= 1, parameter is output
        share = pretrained_lr if id(parameter) in pretrained_ids else 1.0
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

    There is no state to save, and the number of batches does not change it.
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


class Muon(torch.optim.Optimizer):
    """Update each weight by the orthogonal matrix nearest to its Nesterov momentum.

    Keller Jordan et al., 2024, https://kellerjordan.github.io/posts/muon.

    Groups with `orthogonal` true hold weights of two or more dimensions, as matrices (outputs, all else).  A norm
    should follow each, so that its length has no effect: the length is kept at the square root of the number of
    outputs, as in airbench (torch.optim.Muon decays weights instead, and refuses convolutions).  The other groups take
    plain Nesterov steps with decoupled decay: each step subtracts `weight_decay` * lr of the weights.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float, momentum: float) -> None:
        """momentum: the share of the older gradients kept in each step.  A group may override lr and momentum."""
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": 0.0, "orthogonal": False})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        assert closure is None, "Muon does not re-evaluate the loss"
        for group in self.param_groups:
            for parameter in (each for each in group["params"] if each.grad is not None):
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                momentum = state["momentum"].mul_(group["momentum"]).add_(parameter.grad)
                update = parameter.grad.add(momentum, alpha=group["momentum"])
                if group["orthogonal"]:
                    parameter.mul_(len(parameter) ** 0.5 / parameter.norm().clamp(min=1e-7))
                    update = orthogonalised(update.flatten(1)).view_as(update)
                else:
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update, alpha=-group["lr"])


def orthogonalised(matrix: Tensor) -> Tensor:
    """Return `matrix`, float32 (M, N), with singular values near 1 (0 stays 0), by Newton-Schulz steps in bfloat16."""
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    result = (wide / wide.norm().clamp(min=1e-7)).bfloat16()  # no singular value is above 1
    for _ in range(ITERATIONS):
        square = result @ result.T
        polynomial = torch.addmm(square, square, square, beta=CUBIC, alpha=QUINTIC)
        result = torch.addmm(result, polynomial, result, beta=LINEAR)
    return (result if wide is matrix else result.T).to(matrix.dtype)
