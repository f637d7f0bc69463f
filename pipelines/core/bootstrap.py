"""95 % confidence intervals by the percentile bootstrap over the images (B. Efron, Annals of Statistics 7, 1979).

Deterministic, and bounded in work: the more images and sums, the fewer resamples.
"""

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from pipelines.core.scores import Array, fbeta_of_counts, spearman, whole
from pipelines.system.watch import Watch, unwatched

Bounds = tuple[float, float]
RESAMPLES, FEWEST_RESAMPLES = 1_000, 100
RESAMPLING_SEED = 0
DRAWN_AT_ONCE = 1 << 18  # images; more do not fit into a processor's cache
WORK = 50_000_000  # images drawn in all resamples, times the cost of one: up to about a second
UNDEFINED = (math.nan, math.nan)


def resamples(images: int, cost: float = 1) -> int:
    """Return the number of resamples, if what follows makes an image `cost` times as expensive as drawing it."""
    return int(np.clip(WORK / (images * cost), FEWEST_RESAMPLES, RESAMPLES))


def of_weights(score: Callable[[Array], Array], images: int, cost: float) -> Bounds:
    """Return the interval of a score of weighted images, which holds the score itself.

    score: maps weights, one row per resample, float64 (B, N), to scores (B,), NaN where it is not defined.
    """
    generator = np.random.default_rng(RESAMPLING_SEED)
    number, at_once = resamples(images, cost), max(DRAWN_AT_ONCE // images, 1)
    found = []
    for first in range(0, number, at_once):
        size = min(at_once, number - first)
        drawn = generator.integers(images, size=(size, images)) + np.arange(size)[:, None] * images
        weights = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape)
        found.append(score(weights.astype(np.float64)))
    plain = float(score(np.ones((1, images)))[0])
    if math.isnan(plain):
        return UNDEFINED
    low, high = np.nanquantile(np.append(np.concatenate(found), plain), [0.025, 0.975])
    return min(float(low), plain), max(float(high), plain)


def of_calls(score: Callable[..., float]) -> Callable[..., Bounds]:
    """Return the interval of any score, which is called for each resample."""

    def interval(predicted: Array, targets: Array, **options: object) -> Bounds:
        def of_each(weights: Array) -> Array:
            drawn = (np.repeat(np.arange(len(targets)), row.astype(np.int64)) for row in weights)
            return np.array([score(predicted[rows], targets[rows], **options) for rows in drawn])

        return of_weights(of_each, len(targets), 20 * max(1, predicted[0].size) + 100_000 / len(targets))

    return interval


def error_of_difference(
    score: Callable[[Array, Array], float],
    pair: tuple[Array, Array],
    targets: Array,
    watch: Watch = unwatched,
    number: int = FEWEST_RESAMPLES,
) -> float:
    """Return the standard error of the difference of two scores of the same images; each resample scores both.

    pair: predictions, row by row.  number: of resamples.  NaN if fewer than two of them have both scores.
    """
    generator = np.random.default_rng(RESAMPLING_SEED)
    found = []
    for _ in watch(range(number), "comparing", number, "resamples"):
        rows = generator.integers(len(targets), size=len(targets))
        first, second = (score(predicted[rows], targets[rows]) for predicted in pair)
        found.append(first - second)
    known = np.array([each for each in found if not math.isnan(each)])
    return float(known.std(ddof=1)) if len(known) > 1 else math.nan


def _of_sums(rows: Callable[..., Array], value: Callable[..., Array]) -> Callable[..., Bounds]:
    """Return the interval of a score that is a `value` of the sums (B, S) of `rows` (N, S) over the images."""

    def interval(predicted: Array, targets: Array, **options: object) -> Bounds:
        each = rows(predicted, targets)
        with np.errstate(divide="ignore", invalid="ignore"):
            return of_weights(
                lambda weights: value(weights.astype(each.dtype) @ each, **options), len(each), 1 + each.shape[1] / 50
            )

    return interval


def _parts(sums: Array, number: int) -> list[Array]:
    return np.split(sums, number, axis=1)


def _mean(columns: Array) -> Array:
    """Return the mean of the columns (B, T) that are defined, (B,)."""
    known = ~np.isnan(columns)
    return np.asarray(np.nansum(columns, axis=1) / known.sum(axis=1))


# Numbers


def _cells(of_cells: Callable[[Array, Array], Array], together: bool) -> Callable[[Array, Array], Array]:
    """Return a function for the errors of each image and their number: (N, 2) of all columns together, or (N, 2 T)."""

    def rows(predicted: Array, targets: Array) -> Array:
        errors = of_cells(predicted.astype(np.float64), targets.astype(np.float64))
        sums = np.stack([np.nan_to_num(errors), ~np.isnan(errors)])
        return np.concatenate(sums.sum(axis=2, keepdims=True) if together else sums, axis=1)

    return rows


def _squares(predicted: Array, targets: Array) -> Array:
    return np.asarray((predicted - targets) ** 2)


def _log_squares(predicted: Array, targets: Array) -> Array:
    with np.errstate(invalid="ignore", divide="ignore"):
        return _squares(np.log1p(np.maximum(predicted, 0)), np.log1p(targets))


def _quotients(sums: Array) -> Array:
    errors, known = _parts(sums, 2)
    return np.asarray(errors / known)


def _moments(predicted: Array, targets: Array) -> Array:
    """Return number and moments of the known cells of each column, around the columns' means, (N, 6 T)."""
    known = ~np.isnan(targets)
    number = np.maximum(known.sum(axis=0), 1)
    x, y = (np.where(known, each, 0).astype(np.float64) for each in (predicted, targets))
    x, y = (np.where(known, each - each.sum(axis=0) / number, 0) for each in (x, y))
    return np.concatenate([known, x, y, x * x, y * y, x * y], axis=1)


def _spread(square: Array, total: Array, number: Array) -> Array:
    """Return the sum of squared deviations; NaN for equal values, where only a rounding error is left."""
    spread = square - total**2 / number
    return np.where(spread > 1e-12 * square, spread, np.nan)


def _pearson(sums: Array) -> Array:
    number, x, y, xx, yy, xy = _parts(sums, 6)
    return _mean((xy - x * y / number) / np.sqrt(_spread(xx, x, number) * _spread(yy, y, number)))


def _deviations(predicted: Array, targets: Array) -> Array:
    """Return squared errors and `_moments`, (N, 7 T)."""
    errors = _cells(_squares, together=False)(predicted, targets)
    return np.concatenate([errors[:, : targets.shape[1]], _moments(predicted, targets)], axis=1)


def _r2(sums: Array) -> Array:
    errors, number, _, y, _, yy, _ = _parts(sums, 7)
    return _mean(1 - errors / _spread(yy, y, number))


def _grades(predicted: Array, targets: Array, grades: Sequence[int] = ()) -> Array:
    first, second = whole(predicted, targets)
    if place := {grade: number for number, grade in enumerate(grades)}:
        first, second = (np.array([place[grade] for grade in each]) for each in (first.tolist(), second.tolist()))
    centre = int(np.median(second)) if len(second) else 0
    x, y = (each.astype(np.float64) - centre for each in (first, second))
    return np.stack([np.ones(len(x)), x, y, x * x + y * y, (x - y) ** 2], axis=1)


def _kappa(sums: Array) -> Array:
    """Return the quadratic kappa: 1 - squared distances / those of independent grades with the same distributions."""
    number, x, y, squares, distances = sums.T
    expected = squares - 2 * x * y / number
    return np.asarray(1 - distances / np.where(expected > 0, expected, np.nan))


# Classes and labels


def _sets(predicted: Array, targets: Array) -> Array:
    answers, truth = predicted == 1, targets == 1
    return np.concatenate([answers & truth, answers, truth], axis=1, dtype=np.float32)  # exact below 2**24 images


def _set_sums(predicted: Array, targets: Array) -> Array:
    return np.stack([each.sum(axis=1) for each in _parts(_sets(predicted, targets), 3)], axis=1, dtype=np.float64)


def _fbeta_of_labels(sums: Array, beta: float) -> Array:
    return np.asarray(np.nan_to_num(fbeta_of_counts(np.stack(_parts(sums, 3), dtype=np.float64), beta)).mean(axis=1))


def _fbeta_of_all(sums: Array, beta: float) -> Array:
    return np.nan_to_num(fbeta_of_counts(sums.T, beta))


def of_counts(predicted: Array, targets: Array, classes: int, value: Callable[[Tensor], Tensor]) -> Bounds:
    """Return the interval of a `value` of true positives, predicted and true images of each class, (3, K, B) -> (B,).

    It counts the distinct pairs of class numbers, at most min(N, K**2), instead of keeping all drawn ones.
    """
    both = torch.from_numpy(targets * classes + predicted)
    kinds, kind_of = both.unique(return_inverse=True)
    actual, answer = kinds // classes, kinds % classes
    right = actual == answer
    generator = torch.Generator().manual_seed(RESAMPLING_SEED)
    scores = []
    for some in torch.arange(resamples(len(targets))).split(max(DRAWN_AT_ONCE // len(targets), 1)):
        drawn = torch.randint(len(targets), (len(some), len(targets)), generator=generator)
        numbers = kind_of[drawn] + torch.arange(len(some))[:, None] * len(kinds)
        found = numbers.flatten().bincount(minlength=len(some) * len(kinds)).view(len(some), -1).T.double()
        none = found.new_zeros(classes, len(some))
        true_positives = none.index_add(0, actual[right], found[right])
        scores.append(
            value(torch.stack([true_positives, none.index_add(0, answer, found), none.index_add(0, actual, found)]))
        )
    low, high = torch.cat(scores).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


def _f1_macro(predicted: Array, targets: Array, classes: int) -> Bounds:
    return of_counts(predicted, targets, classes, lambda sums: fbeta_of_counts(sums).nanmean(dim=0))


def _balanced_accuracy(predicted: Array, targets: Array) -> Bounds:
    classes = int(max(predicted.max(), targets.max())) + 1
    return of_counts(predicted, targets, classes, lambda sums: (sums[0] / sums[2]).nanmean(dim=0))


def _fbeta_macro(predicted: Array, targets: Array, beta: float) -> Bounds:
    if targets.ndim == 2:
        return _of_sums(_sets, _fbeta_of_labels)(predicted, targets, beta=beta)
    classes = int(max(predicted.max(), targets.max())) + 1
    return of_counts(predicted, targets, classes, lambda sums: fbeta_of_counts(sums, beta).nanmean(dim=0))


def fbeta_micro(predicted: Array, targets: Array, beta: float) -> Bounds:
    """Return the interval of F-beta of all labels together, sets (N, K)."""
    return _of_sums(_set_sums, _fbeta_of_all)(predicted, targets, beta=beta)


def _quadratic_kappa(predicted: Array, targets: Array, grades: Sequence[int]) -> Bounds:
    each = _grades(predicted, targets, grades)
    return of_weights(lambda weights: _kappa(weights @ each), len(each), 1)


# Areas of the ROC curve


def _area(predicted: Array, targets: Array, ranges: Sequence[float], weights: Array) -> Bounds:
    """Return the interval of the weighted areas above the ROC curve in ranges of the true positive rate."""
    order = np.argsort(-predicted, kind="stable")
    positive = targets[order] == 1
    last = np.append(np.diff(predicted[order]) != 0, True)  # of the images with one probability

    def rates(drawn: Array) -> Array:
        sums = np.pad(drawn.cumsum(axis=1)[:, last], ((0, 0), (1, 0)))
        return np.asarray(sums / sums[:, -1:])

    def value(drawn: Array) -> Array:
        drawn = drawn[:, order]
        true, false = rates(drawn * positive), rates(drawn * ~positive)
        rise = np.diff(true)
        slope = np.diff(false) / np.where(rise > 0, rise, 1)
        areas = []
        for low, high in itertools.pairwise(ranges):
            inside = np.clip(true, low, high)
            ends = [false[:, :-1] + slope * (inside[:, some] - true[:, :-1]) for some in (slice(-1), slice(1, None))]
            areas.append((np.diff(inside) * (1 - (ends[0] + ends[1]) / 2)).sum(axis=1))
        return np.asarray(weights @ areas)

    with np.errstate(invalid="ignore"):
        return of_weights(value, len(targets), 8)


def _auc_partial(predicted: Array, targets: Array, auc_above: float) -> Bounds:
    return _area(predicted, targets, (auc_above, 1), np.ones(1))


def _auc_weighted(
    predicted: Array, targets: Array, auc_ranges: Sequence[float], auc_weights: Sequence[float]
) -> Bounds:
    return _area(predicted, targets, auc_ranges, np.array(auc_weights) / (np.diff(auc_ranges) @ auc_weights))


INTERVALS: dict[str, Callable[..., Bounds]] = {
    "f1_macro": _f1_macro,
    "balanced_accuracy": _balanced_accuracy,
    "fbeta_macro": _fbeta_macro,
    "quadratic_kappa": _quadratic_kappa,
    "auc_partial": _auc_partial,
    "auc_weighted": _auc_weighted,
    "rmse": _of_sums(_cells(_squares, together=True), lambda sums: np.sqrt(_mean(_quotients(sums)))),
    "mae": _of_sums(
        _cells(lambda *pair: np.abs(np.subtract(*pair)), together=True), lambda sums: _mean(_quotients(sums))
    ),
    "rmsle": _of_sums(_cells(_log_squares, together=True), lambda sums: np.sqrt(_mean(_quotients(sums)))),
    "mean_column_rmse": _of_sums(_cells(_squares, together=False), lambda sums: _mean(np.sqrt(_quotients(sums)))),
    "r2": _of_sums(_deviations, _r2),
    "pearson": _of_sums(_moments, _pearson),
    "spearman": of_calls(spearman),
}
