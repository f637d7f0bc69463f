"""Temperature scaling: it finds the minimum, keeps the order, and is scored only on rows it was not fitted on."""

import math

import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from pipelines.core.calibration import HIGHEST, LOWEST, apply_temperature, cross_fitted, fit_temperature


def loss(log_probabilities: Tensor, labels: Tensor) -> float:
    return torch.nn.functional.nll_loss(log_probabilities.double(), labels).item()


def loss_at(log_probabilities: Tensor, labels: Tensor, temperature: float) -> float:
    return loss(apply_temperature(log_probabilities.double(), temperature), labels)


def planted(temperature: float, count: int = 500, classes: int = 10, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return log-probabilities multiplied by `temperature`, and labels drawn from the unscaled ones."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(count, classes, generator=generator)
    labels = torch.multinomial(logits.softmax(dim=1), 1, generator=generator)[:, 0]
    return torch.log_softmax(logits * temperature, dim=1), labels


def random_cases() -> list[tuple[Tensor, Tensor]]:
    """Return predictions of any quality and confidence, from noise to nearly all right."""
    cases = []
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        count, classes = 3 + 7 * seed, 2 + seed % 6
        labels = torch.randint(0, classes, (count,), generator=generator)
        right = torch.nn.functional.one_hot(labels, classes)
        logits = torch.randn(count, classes, generator=generator) + (seed % 4) * right
        cases.append((torch.log_softmax(logits * 4.0 ** (seed % 5 - 2), dim=1), labels))
    return cases


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_a_planted_temperature_is_recovered(temperature: float) -> None:
    assert fit_temperature(*planted(temperature, count=20_000)) == pytest.approx(temperature, rel=0.02)


@pytest.mark.parametrize("case", random_cases())
def test_the_fit_is_scipys_and_no_worse_than_none(case: tuple[Tensor, Tensor]) -> None:
    fitted = fit_temperature(*case)
    reference = minimize_scalar(
        lambda inverse: loss_at(*case, 1 / inverse),
        bounds=(1 / HIGHEST, 1 / LOWEST),
        method="bounded",
        options={"xatol": 1e-9},
    )
    assert fitted == pytest.approx(1 / reference.x, rel=1e-4)
    assert loss_at(*case, fitted) <= reference.fun + 1e-12
    assert loss_at(*case, fitted) <= loss_at(*case, 1.0) + 1e-12


def test_the_fit_is_the_same_each_time() -> None:
    assert len({fit_temperature(*planted(1.7)) for _ in range(3)}) == 1


def test_a_temperature_keeps_the_order_and_the_type_and_gives_probabilities() -> None:
    log_probabilities, _ = planted(1.0)
    for temperature in (LOWEST, 0.7, HIGHEST):
        calibrated = apply_temperature(log_probabilities, temperature)
        assert calibrated.dtype == torch.float32
        assert (calibrated.argmax(dim=1) == log_probabilities.argmax(dim=1)).all()
        assert torch.allclose(calibrated.exp().sum(dim=1), torch.ones(len(calibrated)))
    assert torch.allclose(apply_temperature(log_probabilities, 1.0), log_probabilities, atol=1e-6)


def test_cross_fitted_rows_have_the_temperature_of_the_other_parts() -> None:
    log_probabilities, labels = planted(2.0, count=101)
    calibrated = cross_fitted(log_probabilities, labels, parts=3)
    for part in range(3):
        inside = torch.arange(101) % 3 == part
        temperature = fit_temperature(log_probabilities[~inside], labels[~inside])
        assert torch.allclose(calibrated[inside], apply_temperature(log_probabilities[inside], temperature))
    relabelled = labels.clone()
    relabelled[4] = (labels[4] + 1) % 10
    own_part = torch.arange(101) % 3 == 4 % 3
    changed = (cross_fitted(log_probabilities, relabelled, parts=3) != calibrated).any(dim=1)
    assert not changed[own_part].any()
    assert changed[~own_part].all()


@pytest.mark.parametrize("parts", [2, 3, 5])
def test_cross_fitted_scores_are_no_better_than_those_on_the_rows_fitted_on(parts: int) -> None:
    for log_probabilities, labels in random_cases():
        fitted = loss_at(log_probabilities, labels, fit_temperature(log_probabilities, labels))
        assert loss(cross_fitted(log_probabilities.double(), labels, parts), labels) >= fitted - 1e-12


def test_rows_that_are_all_right_or_all_wrong_give_a_bound() -> None:
    log_probabilities = torch.log(torch.tensor([[0.6, 0.4], [0.4, 0.6], [0.7, 0.3]]))
    labels = torch.tensor([0, 1, 0])
    assert fit_temperature(log_probabilities, labels) == LOWEST
    assert fit_temperature(log_probabilities, 1 - labels) == HIGHEST
    assert fit_temperature(log_probabilities[:1], labels[:1]) == LOWEST


def test_rows_that_are_right_and_certain_keep_their_temperature() -> None:
    labels = torch.tensor([2, 0, 1])
    log_probabilities = torch.eye(3)[labels].log()
    assert fit_temperature(log_probabilities, labels) == 1.0
    assert loss(cross_fitted(log_probabilities, labels, parts=3), labels) == pytest.approx(0, abs=1e-14)


def test_without_information_the_temperature_is_one() -> None:
    none = torch.empty(0, 3)
    assert fit_temperature(none, torch.empty(0, dtype=torch.int64)) == 1.0
    assert cross_fitted(none, torch.empty(0, dtype=torch.int64)).shape == (0, 3)
    one_class = torch.zeros(7, 1)
    assert fit_temperature(one_class, torch.zeros(7, dtype=torch.int64)) == 1.0
    assert torch.equal(cross_fitted(one_class, torch.zeros(7, dtype=torch.int64)), one_class)
    uniform = torch.full((7, 3), -math.log(3))
    assert fit_temperature(uniform, torch.arange(7) % 3) == 1.0


@pytest.mark.parametrize("count", [1, 4])
def test_fewer_rows_than_parts_are_left_alone(count: int) -> None:
    log_probabilities, labels = planted(3.0, count=count)
    assert torch.allclose(cross_fitted(log_probabilities, labels, parts=5), apply_temperature(log_probabilities, 1.0))


def test_no_probability_at_all_counts_as_kaggles_least() -> None:
    log_probabilities, labels = planted(2.0, count=200)
    impossible = log_probabilities.clone()
    impossible[:20, :] = -math.inf
    impossible[torch.arange(20), (labels[:20] + 1) % 10] = 0.0  # certain and wrong
    clipped = impossible.clamp(min=math.log(1e-15))
    assert (
        fit_temperature(impossible, labels)
        == fit_temperature(clipped, labels)
        > fit_temperature(log_probabilities, labels)
    )
    assert cross_fitted(impossible, labels).isfinite().all()
    assert apply_temperature(impossible, 1.0)[0].min().item() == pytest.approx(math.log(1e-15), rel=1e-6)
    nowhere = torch.full((1, 4), -math.inf)
    assert torch.allclose(apply_temperature(nowhere, 2.0), torch.full((1, 4), -math.log(4)))
