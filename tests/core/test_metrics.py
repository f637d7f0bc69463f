"""Accuracy, log loss and F1 of probabilities, as the training loop scores them: equal to scikit-learn's."""

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.stats import binomtest, bootstrap, norm
from sklearn.metrics import accuracy_score, f1_score, log_loss
from torch import Tensor

from pipelines.core.metrics import METRICS, interval


def score(name: str, probabilities: Tensor, labels: Tensor) -> float:
    return METRICS[name].score(probabilities, labels)


def random_predictions(count: int = 200, classes: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    probabilities = torch.rand(count, classes, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, classes, (count,), generator=generator)
    return probabilities / probabilities.sum(dim=1, keepdim=True), labels


def test_accuracy_and_f1_are_scikit_learns() -> None:
    probabilities, labels = random_predictions()
    predicted = probabilities.argmax(dim=1)
    assert score("accuracy", probabilities, labels) == accuracy_score(labels, predicted)
    assert score("f1_macro", probabilities, labels) == pytest.approx(f1_score(labels, predicted, average="macro"))
    assert score("f1_micro", probabilities, labels) == pytest.approx(f1_score(labels, predicted, average="micro"))
    assert score("f1_macro", probabilities, labels) != score("f1_micro", probabilities, labels)


def test_a_class_that_is_only_predicted_or_only_true_counts_and_an_absent_one_does_not() -> None:
    probabilities = torch.eye(5)[[0, 0, 1, 1, 1]]
    labels = torch.tensor([0, 0, 0, 1, 3])  # class 2 and 4 are absent, 3 is never predicted
    predicted = probabilities.argmax(dim=1)
    expected = f1_score(labels, predicted, average="macro", zero_division=0.0)
    assert score("f1_macro", probabilities, labels) == pytest.approx(expected)
    only_predicted = torch.tensor([0, 0, 0, 0, 0])
    expected = f1_score(only_predicted, predicted, average="macro", zero_division=0.0)
    assert score("f1_macro", probabilities, only_predicted) == pytest.approx(expected)


def test_log_loss_is_scikit_learns_between_the_clips() -> None:
    probabilities, labels = random_predictions()
    assert score("log_loss", probabilities, labels) == pytest.approx(log_loss(labels, probabilities), rel=1e-12)


def test_log_loss_rescales_rows_first() -> None:
    probabilities, labels = random_predictions()
    factors = torch.linspace(0.1, 9, len(labels), dtype=torch.float64)[:, None]
    rescaled = score("log_loss", probabilities * factors, labels)
    assert rescaled == pytest.approx(score("log_loss", probabilities, labels), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_uniform_guess_over_120_classes_is_the_log_of_120(dtype: torch.dtype) -> None:
    probabilities, labels = torch.full((30, 120), 1 / 120, dtype=dtype), torch.arange(30)
    assert score("log_loss", probabilities, labels) == pytest.approx(4.78749, abs=5e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_probability_for_the_truth_costs_what_kaggle_charges(dtype: torch.dtype) -> None:
    probabilities = torch.eye(3, dtype=dtype)
    assert score("log_loss", probabilities, torch.tensor([1, 2, 0])) == pytest.approx(34.5388, abs=5e-5)
    right = score("log_loss", probabilities, torch.tensor([0, 1, 2]))
    assert right == pytest.approx(1e-15, rel=0.2)
    assert math.copysign(1, right) == 1
    two_thirds_wrong = score("log_loss", probabilities, torch.tensor([0, 2, 1]))
    assert two_thirds_wrong == pytest.approx(34.538776 * 2 / 3, rel=1e-6)


@pytest.mark.parametrize("name", METRICS)
def test_the_direction_is_the_one_in_which_better_predictions_go(name: str) -> None:
    probabilities, labels = random_predictions()
    better = probabilities + torch.nn.functional.one_hot(labels, 5)
    gain = score(name, better / better.sum(dim=1, keepdim=True), labels) - score(name, probabilities, labels)
    assert (gain > 0) is METRICS[name].higher_is_better


def test_perfect_predictions_score_best() -> None:
    labels = torch.from_numpy(np.arange(4).repeat(3))
    probabilities = torch.eye(4)[labels]
    assert [score(name, probabilities, labels) for name in ("accuracy", "f1_macro", "f1_micro")] == [1, 1, 1]


def bounds(name: str, probabilities: Tensor, labels: Tensor) -> tuple[float, float]:
    return interval(METRICS[name], probabilities, labels)


@pytest.mark.parametrize("name", ["accuracy", "f1_micro"])
@pytest.mark.parametrize("hits", [0, 1, 93, 257, 259])
def test_the_interval_of_accuracy_is_wilsons(name: str, hits: int) -> None:
    labels = torch.zeros(259, dtype=torch.long)
    predicted = (torch.arange(259) >= hits).long()
    expected = binomtest(hits, 259).proportion_ci(method="wilson")
    assert bounds(name, torch.eye(2)[predicted], labels) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_the_interval_of_log_loss_is_that_of_a_mean() -> None:
    probabilities, labels = random_predictions(400)
    losses = -np.log(probabilities.numpy()[np.arange(400), labels.numpy()])
    expected = norm.interval(0.95, losses.mean(), losses.std(ddof=1) / 20)
    assert bounds("log_loss", probabilities, labels) == pytest.approx(expected, rel=1e-12)
    assert bounds("log_loss", probabilities * 3, labels) == pytest.approx(expected, rel=1e-12)  # rows are rescaled


def test_the_interval_of_log_loss_is_never_below_0_and_of_one_image_says_nothing() -> None:
    sure, labels = torch.tensor([[1.0, 0.0]] * 9 + [[0.5, 0.5]]), torch.zeros(10, dtype=torch.long)
    low, high = bounds("log_loss", sure, labels)
    assert low == 0
    assert 0.07 < high < 0.3
    assert bounds("log_loss", sure[:1], labels[:1]) == pytest.approx((0, -math.log(1e-15)))


def test_the_interval_of_macro_f1_is_that_of_scipys_bootstrap() -> None:
    probabilities, labels = random_predictions(300, classes=3)
    better = probabilities + 0.5 * torch.nn.functional.one_hot(labels, 3)
    predicted = better.argmax(dim=1).numpy()

    def f1(truth: npt.NDArray[np.int64], answers: npt.NDArray[np.int64], axis: int = -1) -> npt.NDArray[np.float64]:
        per_class = [
            2 * ((truth == k) & (answers == k)).sum(axis) / ((truth == k).sum(axis) + (answers == k).sum(axis))
            for k in range(3)
        ]
        return np.asarray(np.mean(per_class, axis=0))

    assert f1(labels.numpy(), predicted) == pytest.approx(f1_score(labels, predicted, average="macro"))
    reference = bootstrap(
        (labels.numpy(), predicted),
        f1,
        paired=True,
        method="percentile",
        n_resamples=1_000,
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert bounds("f1_macro", better, labels) == pytest.approx((reference.low, reference.high), abs=0.01)
    assert bounds("f1_macro", better, labels) == bounds("f1_macro", better, labels)


@pytest.mark.parametrize("name", METRICS)
def test_an_interval_holds_the_score_and_narrows_with_more_images(name: str) -> None:
    widths = []
    for count in (50, 5_000):
        probabilities, labels = random_predictions(count)
        low, high = bounds(name, probabilities, labels)
        assert low <= score(name, probabilities, labels) <= high
        widths.append(high - low)
    assert 5 < widths[0] / widths[1] < 20  # the square root of 100 is 10
    with pytest.raises(ValueError, match="no images"):
        bounds(name, probabilities[:0], labels[:0])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["accuracy", "log_loss", "f1_macro"])
def test_95_of_100_intervals_hold_the_truth(name: str) -> None:
    everything, truths = random_predictions(100_000)
    truth = score(name, everything, truths)
    generator = torch.Generator().manual_seed(1)
    held = 0
    for _ in range(200):
        drawn = torch.randint(100_000, (400,), generator=generator)
        low, high = bounds(name, everything[drawn], truths[drawn])
        held += low <= truth <= high
    assert 180 <= held <= 199
