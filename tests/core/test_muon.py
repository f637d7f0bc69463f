"""Muon: its steps are orthogonal and scaled by the rate; other parameters take plain Nesterov steps."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipelines.core.optim import Muon, make_optimizer, orthogonalised
from pipelines.settings.training_sections import TrainSettings
from tests.support.tiny import Tiny


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(64, 64), (32, 128), (128, 32), (1, 50), (50, 1)])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_singular_values_come_near_1_and_directions_stay(shape: tuple[int, int], scale: float) -> None:
    # Singular values within a factor of five, as the momentum of gradients has in practice.
    left, _, right = torch.linalg.svd(random(*shape), full_matrices=False)
    matrix = left @ torch.diag(torch.linspace(1, 0.2, min(shape))) @ right * scale
    result = orthogonalised(matrix)
    assert result.shape == matrix.shape
    assert result.dtype == torch.float32
    values = torch.linalg.svdvals(result)
    assert 0.4 < values.min() <= values.max() < 1.4
    aligned = torch.diagonal(left.T @ result @ right.T)
    assert torch.allclose(aligned, values.max().expand_as(aligned), atol=0.7)
    assert (aligned > 0.3).all()


def test_a_zero_matrix_stays_zero() -> None:
    assert torch.equal(orthogonalised(torch.zeros(3, 5)), torch.zeros(3, 5))


def stepped(parameter: Tensor, gradients: list[Tensor], **group: Any) -> Tensor:
    learning = nn.Parameter(parameter.clone())
    optimizer = Muon([{"params": [learning], **group}], lr=0.1, momentum=0.6)
    for gradient in gradients:
        learning.grad = gradient.clone()
        optimizer.step()
    return learning.detach()


def test_a_step_keeps_the_length_of_the_weights_and_moves_them_by_the_rate() -> None:
    start, gradient = random(16, 4, 3, 3), random(16, 4, 3, 3, seed=1)
    moved = stepped(start, [gradient], orthogonal=True)
    unit = start * (16**0.5 / start.norm())
    # The first step's Nesterov momentum is 1.6 times the gradient; only its direction matters.
    rounding = 0.1 * 4 * torch.finfo(torch.bfloat16).eps  # of the update, whose entries are below 1
    assert torch.allclose(unit - moved, 0.1 * orthogonalised(gradient.flatten(1)).view_as(start), atol=rounding)
    assert torch.allclose(stepped(7 * start, [100 * gradient], orthogonal=True), moved, atol=rounding)


def test_the_memory_format_changes_nothing() -> None:
    start, gradient = random(16, 4, 3, 3), random(16, 4, 3, 3, seed=1)
    last = start.contiguous(memory_format=torch.channels_last)
    assert torch.allclose(
        stepped(last, [gradient.contiguous(memory_format=torch.channels_last)], orthogonal=True),
        stepped(start, [gradient], orthogonal=True),
        atol=0.1 * 4 * torch.finfo(torch.bfloat16).eps,
    )


def test_other_groups_step_as_torchs_nesterov_sgd_and_decay_apart() -> None:
    start, gradients = random(10).double(), [random(10, seed=seed).double() for seed in (1, 2, 3)]
    reference = nn.Parameter(start.clone())
    sgd = torch.optim.SGD([reference], lr=0.1, momentum=0.6, nesterov=True)
    for gradient in gradients:
        with torch.no_grad():
            reference.mul_(1 - 0.1 * 0.2)
        reference.grad = gradient.clone()
        sgd.step()
    assert torch.allclose(stepped(start, gradients, orthogonal=False, weight_decay=0.2), reference.detach())


def test_what_has_no_gradient_is_left_alone() -> None:
    still = nn.Parameter(random(3, 3))
    Muon([{"params": [still], "orthogonal": True, "weight_decay": 0.5}], lr=0.1, momentum=0.6).step()
    assert torch.equal(still, random(3, 3))


def test_matrices_are_all_weights_but_those_of_the_output_layer(tiny: Tiny) -> None:
    train = TrainSettings(optimizer="muon", lr=0.2, bias_lr=0.05, output_lr=0.01, weight_decay=0.003)
    model = tiny.network(tiny.settings("model.whitening=2"))
    optimizer = make_optimizer(model, train)
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    held = {
        name_of[id(parameter)]: (
            group["orthogonal"],
            round(group["lr"], 9),
            round(group["lr"] * group["weight_decay"], 9),
        )
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert held.pop("head.2.weight") == (False, 0.01, 0.003)
    assert "stem.convolution.weight" not in held  # frozen
    for name, what in held.items():
        is_matrix = model.get_parameter(name).ndim > 1
        assert what == ((True, 0.2, 0.0) if is_matrix else (False, 0.05, 0.003)), name


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_biases_and_the_output_layer_take_their_own_rates_with_any_optimiser(tiny: Tiny, optimizer: Any) -> None:
    train = TrainSettings(optimizer=optimizer, lr=0.2, bias_lr=0.05, output_lr=0.01)
    model = tiny.network(tiny.settings())
    rates = {
        id(parameter): group["lr"]
        for group in make_optimizer(model, train).param_groups
        for parameter in group["params"]
    }
    for name, parameter in model.named_parameters():
        expected = 0.05 if parameter.ndim == 1 else 0.01 if name == "head.2.weight" else 0.2
        assert rates[id(parameter)] == pytest.approx(expected), name
