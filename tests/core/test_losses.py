"""Losses against plain formulas in float64, one number at a time."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pipelines.core.losses import ASYMMETRIC, Focus, class_losses, cumulative_logits, label_losses, number_losses
from pipelines.core.losses import step_losses as losses_of_steps

ROWS, CLASSES = 7, 4
WEIGHTS = torch.tensor([1.0, 2.5, 0.5, 3.0], dtype=torch.float64)


def drawn(seed: int, *shape: int, spread: float = 3.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * spread


def each(rule: Callable[[int, int], float], columns: int = CLASSES) -> Tensor:
    """What `rule` gives for every row and column."""
    cells = [[rule(row, column) for column in range(columns)] for row in range(ROWS)]
    return torch.tensor(cells, dtype=torch.float64)


LOGS = F.log_softmax(drawn(0, ROWS, CLASSES), dim=1)
NUMBERS = torch.arange(ROWS) % CLASSES
MIXED = F.softmax(drawn(1, ROWS, CLASSES, spread=1), dim=1)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_the_loss_of_a_class(mixed: bool, weights: Tensor | None, gamma: float, smoothing: float) -> None:
    targets = MIXED if mixed else F.one_hot(NUMBERS, CLASSES).double()

    def share(row: int, column: int) -> float:
        masses = [targets[row, c].item() * (1 if weights is None else weights[c].item()) for c in range(CLASSES)]
        return (1 - smoothing) * masses[column] + smoothing * sum(masses) / CLASSES

    def cell(row: int, column: int) -> float:
        log = LOGS[row, column].item()
        return -share(row, column) * (1 - math.exp(log)) ** gamma * log

    found = class_losses(LOGS, MIXED if mixed else NUMBERS, weights, gamma, smoothing)
    assert torch.allclose(found, each(cell).sum(dim=1), rtol=1e-9)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_the_plain_loss_of_a_class_is_torchs_cross_entropy(smoothing: float) -> None:
    logits = drawn(2, ROWS, CLASSES)
    for targets in (NUMBERS, MIXED):
        found = class_losses(F.log_softmax(logits, dim=1), targets, None, 0.0, smoothing)
        assert found.mean().item() == pytest.approx(
            F.cross_entropy(logits, targets, label_smoothing=smoothing).item(), rel=1e-12
        )


LOGITS = drawn(3, ROWS, CLASSES)
FLAGS = (drawn(4, ROWS, CLASSES) > 0).double()


@pytest.mark.parametrize("targets", [FLAGS, MIXED])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("focus", [Focus(), Focus(2.0, 2.0), ASYMMETRIC, Focus(1.0, 3.0, 0.2)])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_the_loss_of_a_label(targets: Tensor, weights: Tensor | None, focus: Focus, smoothing: float) -> None:
    def cell(row: int, column: int) -> float:
        p = 1 / (1 + math.exp(-LOGITS[row, column].item()))
        shifted = max(p - focus.clip, 0.0)
        present, absent = -((1 - p) ** focus.present) * math.log(p), -(shifted**focus.absent) * math.log(1 - shifted)
        y, weight = targets[row, column].item(), 1 if weights is None else weights[column].item()
        of_present = (1 - smoothing / 2) * present + smoothing / 2 * absent  # the target is 1, smoothed
        of_absent = (1 - smoothing / 2) * absent + smoothing / 2 * present
        return y * weight * of_present + (1 - y) * of_absent

    assert torch.allclose(label_losses(LOGITS, targets, weights, focus, smoothing), each(cell), rtol=1e-6, atol=1e-12)


def test_the_plain_loss_of_labels_is_torchs_binary_cross_entropy() -> None:
    for weights in (None, WEIGHTS):
        expected = F.binary_cross_entropy_with_logits(LOGITS, FLAGS, pos_weight=weights, reduction="none")
        assert torch.allclose(label_losses(LOGITS, FLAGS, weights), expected, rtol=1e-9)


@pytest.mark.parametrize("size", [1e3, -1e3])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_certain_outputs_have_finite_losses_and_gradients(size: float, gamma: float) -> None:
    for smoothing in (0.0, 0.1):
        logits = torch.full((2, 3), size, requires_grad=True)
        flags = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 1.0]])
        label_losses(logits, flags, None, Focus(gamma, gamma, 0.05), smoothing).mean().backward()
        assert logits.grad is not None and logits.grad.isfinite().all()
        one = torch.tensor([[size, 0.0, 0.0], [0.0, size, 0.0]], requires_grad=True)
        loss = class_losses(F.log_softmax(one, dim=1), torch.tensor([0, 1]), None, gamma, smoothing).mean()
        loss.backward()
        assert loss.isfinite() and one.grad is not None and one.grad.isfinite().all()


@pytest.mark.parametrize(
    ("kind", "of"),
    [
        ("squared", lambda error: error**2),
        ("absolute", abs),
        ("huber", lambda error: error**2 / 2 if abs(error) <= 0.7 else 0.7 * (abs(error) - 0.35)),
    ],
)
def test_the_loss_of_a_number_and_of_a_missing_one(kind: str, of: Callable[[float], float]) -> None:
    outputs, targets = drawn(5, ROWS, CLASSES, spread=1).requires_grad_(), drawn(6, ROWS, CLASSES, spread=1)
    targets[2] = math.nan
    targets[4, 1] = math.nan
    found = number_losses(outputs, targets, kind, 0.7)
    expected = each(
        lambda row, column: (
            0.0 if math.isnan(targets[row, column]) else of(outputs[row, column].item() - targets[row, column].item())
        )
    )
    assert torch.allclose(found, expected, rtol=1e-9)
    found.sum().backward()
    assert outputs.grad is not None and outputs.grad.isfinite().all()
    assert torch.equal(outputs.grad == 0, targets.isnan())


def test_cumulative_logits_never_rise() -> None:
    outputs = drawn(7, 50, 4, spread=30)
    logits = cumulative_logits(outputs)
    assert torch.equal(logits[:, 0], outputs[:, 0])
    assert (logits.diff(dim=1) <= 0).all()
    expected = outputs[3, 0] - sum(math.log1p(math.exp(value)) for value in outputs[3, 1:3].tolist())
    assert logits[3, 2].item() == pytest.approx(expected.item(), rel=1e-9)


def test_the_loss_of_grades() -> None:
    grades = torch.tensor([0.0, 1.0, 3.0, 4.0], dtype=torch.float64)
    targets = torch.tensor([[0.0], [1.0], [3.0], [4.0], [2.5], [math.nan], [0.25]], dtype=torch.float64)
    above = [[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1], [1, 0.75, 0], None, [0.25, 0, 0]]
    logits = drawn(8, ROWS, 3)
    for smoothing in (0.0, 0.2):
        found = losses_of_steps(logits, targets, grades, smoothing)
        for row, steps in enumerate(above):
            if steps is None:
                assert found[row].item() == 0
            else:
                flags = torch.tensor([steps], dtype=torch.float64)
                expected = label_losses(logits[row : row + 1], flags, smoothing=smoothing).mean().item()
                assert found[row].item() == pytest.approx(expected, rel=1e-9)
