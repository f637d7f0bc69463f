"""Temperature scaling: it finds the minimum, keeps the order, and is scored only on rows it was not fitted on."""

import math

import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from pipelines.core import calibration
from pipelines.core.calibration import (
    HIGHEST,
    LOWEST,
    apply_column_temperatures,
    apply_temperature,
    fit_column_temperatures,
    fit_temperature,
)
from pipelines.core.choices import PARTS, Temperature, cross_fit, decide


def cross_fitted(log_probabilities: Tensor, labels: Tensor) -> Tensor:
    return decide(Temperature(), cross_fit(Temperature(), log_probabilities, labels.numpy()), log_probabilities)


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
    calibrated = cross_fitted(log_probabilities, labels)
    for part in range(PARTS):
        inside = torch.arange(101) % PARTS == part
        temperature = fit_temperature(log_probabilities[~inside], labels[~inside])
        assert torch.equal(calibrated[inside], apply_temperature(log_probabilities[inside], temperature))


def test_cross_fitted_scores_are_no_better_than_those_on_the_rows_fitted_on() -> None:
    for log_probabilities, labels in random_cases():
        fitted = loss_at(log_probabilities, labels, fit_temperature(log_probabilities, labels))
        assert loss(cross_fitted(log_probabilities.double(), labels), labels) >= fitted - 1e-12


def test_rows_that_are_all_right_or_all_wrong_give_a_bound() -> None:
    log_probabilities = torch.log(torch.tensor([[0.6, 0.4], [0.4, 0.6], [0.7, 0.3]]))
    labels = torch.tensor([0, 1, 0])
    assert fit_temperature(log_probabilities, labels) == LOWEST
    assert fit_temperature(log_probabilities, 1 - labels) == HIGHEST
    assert fit_temperature(log_probabilities[:1], labels[:1]) == LOWEST


def test_rows_that_are_right_and_certain_keep_their_temperature() -> None:
    labels = torch.tensor([2, 0, 1, 1, 0, 2, 1])
    log_probabilities = torch.eye(3)[labels].log()
    assert fit_temperature(log_probabilities, labels) == 1.0
    assert loss(cross_fitted(log_probabilities, labels), labels) == pytest.approx(0, abs=1e-14)


def test_without_information_the_temperature_is_one() -> None:
    none = torch.empty(0, 3)
    assert fit_temperature(none, torch.empty(0, dtype=torch.int64)) == 1.0
    assert cross_fitted(none, torch.empty(0, dtype=torch.int64)).shape == (0, 3)
    one_class = torch.zeros(7, 1)
    assert fit_temperature(one_class, torch.zeros(7, dtype=torch.int64)) == 1.0
    assert torch.equal(cross_fitted(one_class, torch.zeros(7, dtype=torch.int64)), one_class)
    uniform = torch.full((7, 3), -math.log(3))
    assert fit_temperature(uniform, torch.arange(7) % 3) == 1.0


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


def test_many_scores_are_fitted_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    log_probabilities, labels = planted(1.7, count=100)
    whole = fit_temperature(log_probabilities, labels)
    monkeypatch.setattr(calibration, "MOST_ITEMS", 300)
    assert fit_temperature(log_probabilities, labels) == pytest.approx(whole, rel=1e-6)


def columns(temperatures: list[float], count: int) -> tuple[Tensor, Tensor]:
    """Return probabilities whose logits are multiplied by `temperatures`, and flags drawn from the unscaled ones."""
    generator = torch.Generator().manual_seed(4)
    logits = 2 * torch.randn(count, len(temperatures), generator=generator)
    flags = torch.bernoulli(logits.sigmoid(), generator=generator)
    return (logits * torch.tensor(temperatures)).sigmoid(), flags


def test_each_column_gets_its_own_temperature(monkeypatch: pytest.MonkeyPatch) -> None:
    planted_ones = [0.5, 1.0, 2.5]
    probabilities, flags = columns(planted_ones, 20_000)
    found = fit_column_temperatures(probabilities, flags)
    assert found == pytest.approx(planted_ones, rel=0.05)
    monkeypatch.setattr(calibration, "MOST_ITEMS", 20_000)  # column by column
    assert fit_column_temperatures(probabilities, flags) == found


def test_a_column_of_two_classes_is_fitted_as_two_classes_are() -> None:
    probabilities, flags = columns([1.8], 400)
    both = torch.cat([1 - probabilities, probabilities], dim=1).double().log()
    assert fit_column_temperatures(probabilities, flags) == pytest.approx(
        [fit_temperature(both, flags[:, 0].long())], rel=1e-4
    )


def test_columns_without_a_best_temperature_keep_theirs() -> None:
    probabilities = torch.tensor([[0.9, 0.2, 0.6, 0.5], [0.8, 0.9, 0.4, 0.5], [0.6, 0.4, 0.9, 0.5]])
    flags = torch.tensor([[1.0, 0, 1, 1], [1, 0, 0, 0], [1, 0, 1, 1]])  # all, none, always right, no information
    assert fit_column_temperatures(probabilities, flags) == [1.0, 1.0, 1.0, 1.0]
    assert fit_column_temperatures(probabilities[:0], flags[:0]) == [1.0, 1.0, 1.0, 1.0]
    assert torch.allclose(apply_column_temperatures(probabilities, [1.0] * 4), probabilities, atol=1e-6)
    certain = apply_column_temperatures(torch.tensor([[0.0, 1.0]]), [2.0, 2.0])
    assert certain.isfinite().all() and 0 < certain[0, 0] < 1e-6
