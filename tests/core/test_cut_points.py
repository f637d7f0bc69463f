"""Cut points against all possible ones, tried one by one and scored by scikit-learn."""

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.metrics import cohen_kappa_score

from pipelines.core.cut_points import apply_cuts, best_cuts, midpoints

Array = npt.NDArray[Any]


def kappa(targets: Array, given: Array, grades: tuple[int, ...]) -> float:
    return float(cohen_kappa_score(targets.astype(int), given.astype(int), weights="quadratic", labels=list(grades)))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("grades", [(0, 1, 2, 3), (1, 2, 5)])
def test_no_other_cut_points_score_higher(seed: int, grades: tuple[int, ...]) -> None:
    random = np.random.default_rng(seed)
    targets = random.choice(grades, 9).astype(np.float32)
    predictions = np.round(targets * 0.6 + random.normal(0.8, 1.0, 9), seed % 3).astype(np.float32)  # 0: many ties
    cuts = best_cuts(predictions, targets, grades)
    assert cuts == sorted(cuts) and len(cuts) == len(grades) - 1
    levels = np.unique(predictions.astype(np.float64))
    possible = [levels[0] - 1, *((levels[1:] + levels[:-1]) / 2), levels[-1] + 1]
    every = itertools.combinations_with_replacement(possible, len(cuts))
    best = max(kappa(targets, apply_cuts(predictions, grades, each), grades) for each in every)
    assert kappa(targets, apply_cuts(predictions, grades, cuts), grades) == pytest.approx(best, abs=1e-9)


def test_they_are_never_worse_than_rounding_and_help_where_predictions_are_shrunk() -> None:
    grades = (0, 1, 2, 3, 4)
    random = np.random.default_rng(3)
    targets = random.choice(grades, 500, p=[0.5, 0.1, 0.27, 0.05, 0.08]).astype(np.float32)
    predictions = (targets * 0.5 + 0.6 + random.normal(0, 0.5, 500)).astype(np.float32)
    plain = kappa(targets, apply_cuts(predictions, grades, midpoints(grades)), grades)
    fitted = kappa(targets, apply_cuts(predictions, grades, best_cuts(predictions, targets, grades)), grades)
    assert fitted > plain + 0.05


def test_plain_cut_points_round_to_the_nearest_grade() -> None:
    given = apply_cuts(np.array([-3.0, 0.4, 0.6, 2.9, 3.1, 9.0]), (0, 1, 5), midpoints((0, 1, 5)))
    assert given.tolist() == [0, 0, 1, 1, 5, 5]


@pytest.mark.parametrize("targets", [np.zeros(0), np.array([2.0, 2.0])])
def test_targets_that_leave_nothing_to_choose_are_rounded(targets: Array) -> None:
    assert best_cuts(targets + 0.3, targets, (0, 1, 2)) == [0.5, 1.5]


def test_equal_predictions_get_one_grade() -> None:
    cuts = best_cuts(np.full(4, 1.2), np.array([0.0, 1, 2, 2]), (0, 1, 2))
    assert len(set(apply_cuts(np.full(4, 1.2), (0, 1, 2), cuts).tolist())) == 1
