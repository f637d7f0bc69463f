"""Thresholds of several labels that maximise an F-beta score on given predictions.

A label is given to an image where its probability is above the threshold.  F-beta is
(1 + b²) TP / (n + b² P), for n given and P true labels, with TP in common; it is 0 if there are no labels at all.

The score changes only where a threshold passes a prediction, so sorted predictions hold all candidates:
- macro (mean over labels), samples (mean over images) and micro (all together) with one threshold: exact;
- macro with a threshold per label: exact, each label by itself;
- micro with a threshold per label: exact, by W. Dinkelbach, Management Science 13, 1967;
- samples with a threshold per label: label by label, from the best single threshold, until nothing improves.
Of equal scores the highest threshold wins, that gives the fewest labels.  A label that no image has gets a threshold
above all its predictions, and at least 0.5.
"""

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Average = Literal["macro", "micro", "samples"]
Values = npt.NDArray[np.float64]

PLAIN = 0.5  # the threshold where none is fitted
MOST_ITEMS = 1 << 24  # predictions that are sorted together: about 1 GB
CANDIDATES = 1000  # thresholds that are tried for more predictions
ROUNDS = 5  # over all labels, for samples with a threshold per label
GAIN = 1e-12  # a smaller gain of a sum of scores is a rounding error


def f_beta(true_positives: Any, given: Any, actual: Any, beta: float) -> Values:
    """Return the F-beta scores of counts of any shape; 0 where no label is given and none is true."""
    size = np.asarray(given + beta**2 * actual, np.float64)
    return np.divide((1 + beta**2) * true_positives, size, out=np.zeros_like(size), where=size > 0)


def best_thresholds(
    probabilities: npt.NDArray[Any], flags: npt.NDArray[Any], average: Average, beta: float, per_label: bool
) -> list[float]:
    """Return the thresholds, one for each label, that maximise F-beta; equal ones unless `per_label`.

    probabilities: (N, K).  flags: (N, K), 1 where an image has the label.
    """
    labels = probabilities.shape[1]
    if not flags.any():
        return [PLAIN] * labels
    if not per_label or average == "samples":
        thresholds = np.full(labels, _single(probabilities, flags, average, beta))
        if per_label:
            thresholds = _label_by_label(probabilities, flags, beta, thresholds)
    elif average == "macro":
        thresholds = np.full(labels, PLAIN)
        for some, curve in _curves_of_labels(probabilities, flags):
            thresholds[some] = curve.at(np.argmax(curve.where_possible(curve.scores(beta)), axis=1))
    else:
        thresholds = _pooled(probabilities, flags, beta)
    if per_label:
        absent = ~flags.any(axis=0)
        thresholds[absent] = np.maximum((probabilities.max(axis=0)[absent].astype(np.float64) + 1) / 2, PLAIN)
    return [float(each) for each in thresholds]


class Curve:
    """The counts of U units (labels, images or all together) with M predictions each, for all possible thresholds.

    Column j of each (U, M + 1) array belongs to the threshold that j predictions of the unit are above.
    """

    def __init__(self, probabilities: npt.NDArray[Any], flags: npt.NDArray[Any]) -> None:
        order = np.argsort(-probabilities, axis=1, kind="stable")
        self.sorted = np.take_along_axis(probabilities, order, axis=1).astype(np.float64)
        hits = np.take_along_axis(flags, order, axis=1).astype(np.int64)
        none = np.zeros((len(hits), 1), np.int64)
        self.true_positives = np.concatenate([none, hits.cumsum(axis=1)], axis=1)
        self.actual = self.true_positives[:, -1:]

    @property
    def given(self) -> npt.NDArray[np.int64]:
        """The number of predictions above each threshold, (1, M + 1)."""
        return np.arange(self.true_positives.shape[1])[None]

    def scores(self, beta: float) -> Values:
        return f_beta(self.true_positives, self.given, self.actual, beta)

    def where_possible(self, values: Values) -> Values:
        """Return `values` (U, M + 1) with minus infinity where equal predictions leave no room for a threshold."""
        result = values.copy()
        result[:, 1:-1][self.sorted[:, 1:] == self.sorted[:, :-1]] = -np.inf
        return result

    def at(self, columns: npt.NDArray[np.int64]) -> Values:
        """Return the thresholds of `columns`, one for each unit."""
        return np.array([between(row, column) for row, column in zip(self.sorted, columns, strict=True)])


def between(descending: npt.NDArray[Any], count: int) -> float:
    """Return a threshold that the first `count` of the `descending` probabilities are above."""
    upper = 1.0 if count == 0 else float(descending[count - 1])
    if count == len(descending):
        return upper / 2 if upper > 0 else -PLAIN
    return (upper + float(descending[count])) / 2


def _curves_of_labels(
    probabilities: npt.NDArray[Any], flags: npt.NDArray[Any]
) -> Iterator[tuple[npt.NDArray[np.int64], Curve]]:
    """Yield the numbers of some labels and their curve, for all labels."""
    rows, labels = probabilities.shape
    for some in np.array_split(np.arange(labels), max(1, -(-rows * labels // MOST_ITEMS))):
        yield some, Curve(probabilities[:, some].T, flags[:, some].T)


def _single(probabilities: npt.NDArray[Any], flags: npt.NDArray[Any], average: Average, beta: float) -> float:
    """Return the single threshold that maximises the mean score of the units."""
    if average == "micro":
        probabilities, flags = probabilities.reshape(1, -1), flags.reshape(1, -1)
    elif average == "macro":
        probabilities, flags = probabilities.T, flags.T
    if probabilities.size > MOST_ITEMS:
        return _of_candidates(probabilities, flags, beta)
    curve = Curve(probabilities, flags)
    # Passing a prediction changes the score of its unit only: add up the changes, over all predictions in order.
    changes, items = np.diff(curve.scores(beta), axis=1).ravel(), curve.sorted.ravel()
    order = np.argsort(-items, kind="stable")
    descending, totals = items[order], np.concatenate([[0.0], changes[order].cumsum()])
    totals[1:-1][descending[1:] == descending[:-1]] = -np.inf
    best = totals.max()
    return between(descending, int(np.argmax(totals >= best - GAIN)))


def _of_candidates(probabilities: npt.NDArray[Any], flags: npt.NDArray[Any], beta: float) -> float:
    """Return the best of `CANDIDATES` single thresholds: between predictions of true labels, evenly by rank."""
    of_true = np.unique(probabilities[flags > 0]).astype(np.float64)
    ranks = np.linspace(0, len(of_true) - 1, min(CANDIDATES, len(of_true))).astype(np.int64)
    candidates = np.unique(np.append(np.nextafter(of_true[ranks], -1), PLAIN))
    totals = np.zeros(len(candidates))
    for probability, flag in zip(probabilities, flags, strict=True):
        above = np.searchsorted(candidates, probability, side="left")  # the number of candidates that it is above
        counts = [np.bincount(above[chosen], minlength=len(candidates) + 1) for chosen in (above >= 0, flag > 0)]
        given, hits = (count[::-1].cumsum()[::-1][1:] for count in counts)
        totals += f_beta(hits, given, int((flag > 0).sum()), beta)
    return float(candidates[len(totals) - 1 - np.argmax(totals[::-1])])


def _pooled(probabilities: npt.NDArray[Any], flags: npt.NDArray[Any], beta: float) -> Values:
    """Return the thresholds per label that maximise the micro score, a ratio of sums over labels."""
    thresholds = np.full(probabilities.shape[1], _single(probabilities, flags, "micro", beta))
    actual = int((flags > 0).sum())
    chosen = probabilities > thresholds
    best = float(f_beta((chosen & (flags > 0)).sum(), chosen.sum(), actual, beta))
    while True:
        true_positives = given = 0
        following = thresholds.copy()
        for some, curve in _curves_of_labels(probabilities, flags):
            worth = curve.where_possible((1 + beta**2) * curve.true_positives - best * curve.given)
            columns = np.argmax(worth, axis=1)
            true_positives += int(curve.true_positives[np.arange(len(some)), columns].sum())
            given += int(columns.sum())
            following[some] = curve.at(columns)
        score = float(f_beta(true_positives, given, actual, beta))
        if score <= best + GAIN:
            return thresholds
        best, thresholds = score, following


def _label_by_label(
    probabilities: npt.NDArray[Any], flags: npt.NDArray[Any], beta: float, thresholds: Values
) -> Values:
    """Return thresholds per label that improve the mean score of images, each label in turn with the others fixed."""
    chosen, has = probabilities > thresholds, flags > 0
    thresholds = thresholds.copy()
    given, hits, actual = chosen.sum(axis=1), (chosen & has).sum(axis=1), has.sum(axis=1)
    for _ in range(ROUNDS):
        improved = False
        for label in np.flatnonzero(has.any(axis=0)):
            mine, true = chosen[:, label].copy(), has[:, label]
            others, other_hits = given - mine, hits - (mine & true)
            gains = f_beta(other_hits + true, others + 1, actual, beta) - f_beta(other_hits, others, actual, beta)
            order = np.argsort(-probabilities[:, label], kind="stable")
            descending = probabilities[order, label]
            totals = np.concatenate([[0.0], gains[order].cumsum()])
            totals[1:-1][descending[1:] == descending[:-1]] = -np.inf
            column = int(np.argmax(totals))
            if totals[column] > gains[mine].sum() + GAIN:
                improved = True
                thresholds[label] = between(descending, column)
                chosen[:, label] = probabilities[:, label] > thresholds[label]
                given, hits = others + chosen[:, label], other_hits + (chosen[:, label] & true)
        if not improved:
            break
    return thresholds
