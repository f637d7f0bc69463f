"""Muon: momentum, orthogonalised matrix by matrix (Keller Jordan et al., 2024, https://kellerjordan.github.io/posts/muon)."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

ITERATIONS = 3  # the singular values then lie between 0.5 and 1.5 or so, which is near enough
# Of the odd polynomial whose iteration pulls singular values towards 1: of steep slope at 0, for few iterations.
LINEAR, CUBIC, QUINTIC = 3.4445, -4.7750, 2.0315


class Muon(torch.optim.Optimizer):
    """Steps along the nearest orthogonal matrix to the Nesterov momentum of each weight.

    Groups with `orthogonal` true hold weights of two dimensions or more, taken as matrices (outputs, all else).  They
    are meant to stand before norms, to which their length means nothing: it is kept at the square root of the outputs,
    so that the learning rate alone says how far a step turns them (as airbench does; torch.optim.Muon decays weights
    instead, and takes no convolutions).  The other groups take plain Nesterov steps and lose `weight_decay` * lr of
    themselves in each, apart from the gradient.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float, momentum: float) -> None:
        """momentum: the share of the older gradients that is kept in each step.  Each group may have an lr and a
        momentum of its own."""
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": 0.0, "orthogonal": False})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        assert closure is None, "the gradient is computed once a step"
        for group in self.param_groups:
            learning = [parameter for parameter in group["params"] if parameter.grad is not None]
            for parameter in learning:
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
    """Return `matrix`, float32 (M, N), with its singular values brought near 1 by Newton-Schulz iterations in bfloat16.

    A matrix of zeros stays one.
    """
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    result = (wide / wide.norm().clamp(min=1e-7)).bfloat16()  # no singular value is then above 1
    for _ in range(ITERATIONS):
        square = result @ result.T
        polynomial = torch.addmm(square, square, square, beta=CUBIC, alpha=QUINTIC)
        result = torch.addmm(result, polynomial, result, beta=LINEAR)
    return (result if wide is matrix else result.T).to(matrix.dtype)
