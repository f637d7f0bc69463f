"""Muon: momentum, orthogonalised per matrix (Keller Jordan et al., 2024, https://kellerjordan.github.io/posts/muon)."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

ITERATIONS = 3  # the singular values are then between about 0.5 and 1.5, which is accurate enough
# Coefficients of the odd polynomial that moves singular values to 1; a steep slope at 0 needs few iterations.
LINEAR, CUBIC, QUINTIC = 3.4445, -4.7750, 2.0315


class Muon(torch.optim.Optimizer):
    """Update each weight by the orthogonal matrix nearest to its Nesterov momentum.

    Groups with `orthogonal` true hold weights of two or more dimensions, as matrices (outputs, all else).  Each should
    precede a norm, so that its length has no effect: it is kept at the square root of the outputs, and the learning
    rate alone sets the angle of a step (as in airbench; torch.optim.Muon decays weights instead, and refuses
    convolutions).  The other groups take plain Nesterov steps with decoupled decay: each step subtracts
    `weight_decay` * lr of the weights.
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
    """Return `matrix`, float32 (M, N), with singular values near 1, by Newton-Schulz iterations in bfloat16.

    A zero matrix stays zero.
    """
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    result = (wide / wide.norm().clamp(min=1e-7)).bfloat16()  # no singular value is above 1
    for _ in range(ITERATIONS):
        square = result @ result.T
        polynomial = torch.addmm(square, square, square, beta=CUBIC, alpha=QUINTIC)
        result = torch.addmm(result, polynomial, result, beta=LINEAR)
    return (result if wide is matrix else result.T).to(matrix.dtype)
