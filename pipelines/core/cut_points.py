"""Cut points between ordered grades that maximise the quadratic weighted kappa of rounded predictions.

The distance of two grades is the distance of their places in the list.  With the places a of the targets (mean m) and
b of the answers, the kappa is 2 Σ (a - m) b / Σ (a² + b² - 2 m b), a ratio of sums over images.  So W. Dinkelbach's
method (Management Science 13, 1967) finds the greatest ratio: it maximises the difference of the upper sum and a
multiple of the lower one.  For this a dynamic programme over the sorted predictions finds the best cut points.  The
result is exact: no other cut points score higher on the fitted images.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]
GAIN = 1e-12  # a smaller gain is a rounding error
MOST_ROUNDS = 50  # each round improves the kappa; a few are enough


def midpoints(grades: Sequence[float]) -> list[float]:
    """Return the cut points that round a prediction to the nearest of the ascending `grades`."""
    return [(low + high) / 2 for low, high in pairwise(grades)]


def apply_cuts(predictions: npt.NDArray[Any], grades: Sequence[float], cuts: Sequence[float]) -> Values:
    """Return the grade of each prediction, in the shape of `predictions`: the next one from each of `cuts` on."""
    values = np.asarray(predictions, np.float64)
    chosen: Values = np.asarray(grades, np.float64)[np.searchsorted(np.asarray(cuts, np.float64), values, side="right")]
    return chosen


def best_cuts(predictions: npt.NDArray[Any], targets: npt.NDArray[Any], grades: Sequence[float]) -> list[float]:
    """Return the ascending cut points, one less than `grades`, with the highest kappa on the rows given.

    predictions, targets: (N,).  Where all targets are equal, or there are none, no choice is better: `midpoints`.
    """
    cuts = midpoints(grades)
    if len(targets) == 0 or (targets == targets[0]).all():
        return cuts
    levels, place = np.unique(np.asarray(predictions, np.float64), return_inverse=True)
    targets = np.searchsorted(np.asarray(grades, np.float64), targets).astype(np.float64)  # places
    counts = np.bincount(place, minlength=len(levels)).astype(np.float64)
    sums = np.bincount(place, targets, len(levels)).astype(np.float64)
    between = np.concatenate([[levels[0] - 0.5], (levels[1:] + levels[:-1]) / 2, [levels[-1] + 0.5]])
    places = range(len(grades))
    best = _kappa(targets, apply_cuts(predictions, places, cuts))
    for _ in range(MOST_ROUNDS):
        tried = [float(between[split]) for split in _splits(counts, sums, targets.mean(), len(grades), best)]
        kappa = _kappa(targets, apply_cuts(predictions, places, tried))
        if kappa <= best + GAIN:
            break
        best, cuts = kappa, tried
    return cuts


def _kappa(targets: Values, given: Values) -> float:
    mean = targets.mean()
    agreement = 2 * ((targets - mean) * given).sum()
    return float(agreement / ((targets**2).sum() + (given**2).sum() - 2 * mean * given.sum()))


def _splits(counts: Values, sums: Values, mean: float, grades: int, kappa: float) -> list[int]:
    """Return where the sorted levels are split between `grades`, so that upper sum - `kappa` * lower sum is highest.

    counts, sums: the number of images at each level and the sum of their targets.
    """
    totals, chosen = np.zeros(len(counts) + 1), []
    for grade in range(grades):
        worth = 2 * (sums - mean * counts) * grade - kappa * counts * (grade**2 - 2 * mean * grade)
        running = np.concatenate([[0.0], worth.cumsum()])
        if grade == 0:
            totals = running
            continue
        # totals[s] - running[s]: the levels before s have lower grades.  The best s for each end is the last maximum.
        starts = totals - running
        best = np.maximum.accumulate(starts)
        places = np.maximum.accumulate(np.where(starts == best, np.arange(len(starts)), 0))
        chosen.append(places)
        totals = running + best
    splits, end = [], len(counts)
    for places in reversed(chosen):
        end = int(places[end])
        splits.append(end)
    return splits[::-1]
