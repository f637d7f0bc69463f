"""Thresholds against all possible ones, tried one by one and scored by scikit-learn."""

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.metrics import fbeta_score

from pipelines.core import thresholds
from pipelines.core.thresholds import Average, best_thresholds, f_beta

Array = npt.NDArray[Any]
AVERAGES: tuple[Average, ...] = ("macro", "micro", "samples")


def case(seed: int, rows: int, labels: int) -> tuple[Array, Array]:
    """Return probabilities with ties, and flags that depend on them; every third case has a label without images."""
    random = np.random.default_rng(seed)
    probabilities = np.round(random.random((rows, labels)), 1 + seed % 2).astype(np.float32)
    flags = (random.random((rows, labels)) < 0.2 + 0.5 * probabilities).astype(np.float32)
    if seed % 3 == 0:
        flags[:, -1] = 0
    return probabilities, flags


def scored(probabilities: Array, flags: Array, values: Any, average: Average, beta: float) -> float:
    given = (probabilities > np.asarray(values)).astype(int)
    return float(fbeta_score(flags.astype(int), given, beta=beta, average=average, zero_division=0))


def possible(probabilities: Array) -> list[float]:
    """Return a threshold below, between and above all different values."""
    values = np.unique(probabilities.astype(np.float64))
    return [-0.5, *((values[1:] + values[:-1]) / 2), 1.0]


@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize("seed", range(3))
def test_one_threshold_is_the_best_of_all(seed: int, average: Average) -> None:
    probabilities, flags = case(seed, 12, 4)
    for beta in (0.5, 1.0, 2.0):
        found = best_thresholds(probabilities, flags, average, beta, per_label=False)
        assert len(set(found)) == 1
        every = [scored(probabilities, flags, value, average, beta) for value in possible(probabilities)]
        assert scored(probabilities, flags, found, average, beta) == pytest.approx(max(every), abs=1e-12)
        # of equal scores the highest threshold, so the fewest labels
        best = [value for value, score in zip(possible(probabilities), every, strict=True) if score > max(every) - 1e-9]
        assert ((probabilities > found[0]) == (probabilities > best[-1])).all()


@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize("seed", range(3))
def test_thresholds_per_label_are_the_best_of_all_combinations(seed: int, average: Average) -> None:
    probabilities, flags = case(seed, 8, 2)
    found = best_thresholds(probabilities, flags, average, 1.0, per_label=True)
    every = [
        scored(probabilities, flags, values, average, 1.0)
        for values in itertools.product(*(possible(probabilities[:, label]) for label in range(2)))
    ]
    mine = scored(probabilities, flags, found, average, 1.0)
    if average != "samples":
        assert mine == pytest.approx(max(every), abs=1e-12)
    else:  # found label by label: at least as good as a single one
        single = best_thresholds(probabilities, flags, average, 1.0, per_label=False)
        assert mine >= scored(probabilities, flags, single, average, 1.0) - 1e-12
        assert mine >= max(every) - 0.1
    if seed % 3 == 0:  # nothing is known of the last label
        assert found[-1] >= 0.5 and (probabilities[:, -1] <= found[-1]).all()


def test_no_true_label_leaves_the_plain_threshold() -> None:
    nothing = np.zeros((3, 2), np.float32)
    for average in AVERAGES:
        assert best_thresholds(nothing + 0.7, nothing, average, 1.0, per_label=True) == [0.5, 0.5]


def test_certain_predictions_can_all_be_given_or_none() -> None:
    for value in (0.0, 1.0):
        probabilities = np.full((4, 1), value, np.float32)
        (found,) = best_thresholds(probabilities, np.ones((4, 1), np.float32), "micro", 1.0, per_label=False)
        assert (probabilities > found).all()


@pytest.mark.parametrize("average", AVERAGES)
def test_many_predictions_are_searched_in_pieces(average: Average, monkeypatch: pytest.MonkeyPatch) -> None:
    probabilities, flags = case(1, 40, 5)
    whole = [best_thresholds(probabilities, flags, average, 1.0, each) for each in (False, True)]
    monkeypatch.setattr(thresholds, "MOST_ITEMS", 50)
    pieces = [best_thresholds(probabilities, flags, average, 1.0, each) for each in (False, True)]
    for one, other in zip(whole, pieces, strict=True):
        ours, theirs = (scored(probabilities, flags, values, average, 1.0) for values in (one, other))
        assert theirs == pytest.approx(ours, abs=1e-12 if average != "samples" else 0.02)


def test_a_score_of_counts_is_that_of_scikit_learn_and_0_for_nothing() -> None:
    assert f_beta(3, 4, 5, 2.0) == pytest.approx(5 * 3 / (5 * 3 + 4 * 2 + 1))
    assert f_beta(np.array([0, 0]), np.array([0, 2]), np.array([0, 0]), 1.0).tolist() == [0, 0]
