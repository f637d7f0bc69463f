"""95 % confidence intervals of the scores in core/scores.py; deterministic.

Shares: Wilson's score interval (E. B. Wilson, JASA 22, 1927), which is also valid near 0 and 1. Means of losses: mean ±
1.96 standard errors, at least 0. AUC and average precision: the variance from the influence of each image on the score
(for the AUC: E. R. DeLong et al., Biometrics 44, 1988), then Wilson's interval with the number of images that gives a
share this variance. All others: core/bootstrap.py.
"""

import math
from collections.abc import Callable, Iterator

import numpy as np

from pipelines.core import bootstrap, box_scores
from pipelines.core.bootstrap import UNDEFINED, Bounds
from pipelines.core.scores import (
    KAGGLE_CLIP,
    Array,
    accuracy,
    columns_of,
    fbeta_of_counts,
    found_in,
    losses_of_cells,
    losses_of_rows,
    precisions_at_k,
)

NORMAL_QUANTILE = 1.959963984540054  # 97.5 % quantile of the standard normal distribution


def wilson(share: float, count: float) -> Bounds:
    """Return Wilson's interval of a share of `count` images."""
    square = NORMAL_QUANTILE**2
    centre = (share + square / (2 * count)) / (1 + square / count)
    reach = NORMAL_QUANTILE / (1 + square / count) * math.sqrt(share * (1 - share) / count + square / (4 * count**2))
    return (0.0 if share == 0 else centre - reach), (1.0 if share == 1 else centre + reach)  # exact at the ends


def _of_accuracy(predicted: Array, targets: Array) -> Bounds:
    return wilson(accuracy(predicted, targets), len(targets))


def _of_fbeta_micro(predicted: Array, targets: Array, beta: float) -> Bounds:
    return _of_accuracy(predicted, targets) if targets.ndim == 1 else bootstrap.fbeta_micro(predicted, targets, beta)


def _of_top_k_error(predicted: Array, targets: Array, guesses: int) -> Bounds:
    return _of_shares(~found_in(predicted, targets, guesses))


def _of_map_at_k(predicted: Array, targets: Array, guesses: int) -> Bounds:
    return _of_shares(precisions_at_k(predicted, targets, guesses))


def _of_fbeta_samples(predicted: Array, targets: Array, beta: float) -> Bounds:
    answers, truth = predicted == 1, targets == 1
    sums = np.stack([each.sum(axis=1) for each in (answers & truth, answers, truth)]).astype(np.float64)
    return _of_shares(np.nan_to_num(fbeta_of_counts(sums, beta)))


def _of_shares(values: Array) -> Bounds:
    """Return the interval of the mean of values from 0 to 1, (N,)."""
    return _of_variance(float(values.mean()), float(values.var()) / len(values), len(values))


def _of_variance(mean: float, variance: float, count: int) -> Bounds:
    """Return the interval of a mean from 0 to 1 whose estimate has this variance; 0: that of a share of `count`."""
    if math.isnan(mean):
        return UNDEFINED
    return wilson(mean, mean * (1 - mean) / variance if variance > 0 and 0 < mean < 1 else count)


def _of_log_loss(predicted: Array, targets: Array) -> Bounds:
    losses = losses_of_rows(predicted, targets)
    if len(losses) == 1:  # a single loss has no standard deviation, so any loss is possible
        return 0.0, -math.log(KAGGLE_CLIP)
    mean, reach = losses.mean().item(), NORMAL_QUANTILE * losses.std().item() / math.sqrt(len(losses))
    return max(0.0, mean - reach), mean + reach


def _of_log_loss_columns(predicted: Array, targets: Array) -> Bounds:
    if len(targets) == 1:
        return 0.0, -math.log(KAGGLE_CLIP)
    means, influence = [], np.zeros(len(targets))
    for known, answers, truth in _known_columns(predicted, targets):
        losses = losses_of_cells(answers, truth)
        means.append(losses.mean())
        influence[known] += (losses - losses.mean()) / len(losses)
    if not means:
        return UNDEFINED
    variance = (influence / len(means)) @ (influence / len(means)) * len(targets) / (len(targets) - 1)
    mean, reach = float(np.mean(means)), NORMAL_QUANTILE * math.sqrt(variance)
    return max(0.0, mean - reach), mean + reach


def _known_columns(predicted: Array, targets: Array) -> Iterator[tuple[Array, Array, Array]]:
    """Yield the known rows (N,) of each column, with what `columns_of` yields; one column for predictions (N,)."""
    predicted, cells = (predicted[:, None], targets[:, None]) if predicted.ndim == 1 else (predicted, targets)
    for column, (answers, truth) in enumerate(columns_of(predicted, cells)):
        known = np.ones(len(cells), bool) if cells.ndim == 1 else ~np.isnan(cells[:, column])
        if known.any():
            yield known, answers, truth


def _of_columns(influence_of: Callable[[Array, Array], tuple[float, Array]]) -> Callable[[Array, Array], Bounds]:
    """Return the interval of the mean over columns of a score whose value and influences `influence_of` returns."""

    def interval(predicted: Array, targets: Array) -> Bounds:
        scores, influence, fewest = [], np.zeros(len(targets)), len(targets)
        for known, answers, truth in _known_columns(predicted, targets):
            score, of_each = influence_of(answers, truth == 1)
            if not math.isnan(score):
                scores.append(score)
                influence[known] += of_each
                fewest = min(fewest, int((truth == 1).sum()), int((truth != 1).sum()) or fewest)
        if not scores:
            return UNDEFINED
        influence /= len(scores)
        return _of_variance(float(np.mean(scores)), float(influence @ influence), fewest)

    return interval


def _auc_influence(predicted: Array, positive: Array) -> tuple[float, Array]:
    """Return the AUC, and its derivative by the weight of each image, (N,)."""
    above, below = np.sort(predicted[positive]), np.sort(predicted[~positive])
    if not len(above) or not len(below):
        return math.nan, np.zeros(len(positive))
    influence = np.empty(len(positive))
    for these, others in ((positive, below), (~positive, above)):
        ends = [np.searchsorted(others, predicted[these], side) for side in ("left", "right")]
        influence[these] = (ends[0] + ends[1]) / 2 / len(others)  # share of the others below it; ties count half
    influence[~positive] = 1 - influence[~positive]
    score = float(influence[positive].mean())
    return score, (influence - score) / np.where(positive, len(above), len(below))


def _precision_influence(predicted: Array, positive: Array) -> tuple[float, Array]:
    """Return the average precision, and its derivative by the weight of each image, (N,)."""
    values, group = np.unique(-predicted, return_inverse=True)
    found = np.bincount(group, positive, minlength=len(values))
    true, drawn = found.cumsum(), np.bincount(group, minlength=len(values)).cumsum()
    total = true[-1]
    if not total:
        return math.nan, np.zeros(len(positive))
    score = float(found @ (true / drawn) / total)
    from_here = [np.cumsum(each[::-1])[::-1][group] for each in (found / drawn, found * true / drawn**2)]
    influence = positive * ((true / drawn)[group] + from_here[0] - score) - from_here[1]
    return score, influence / total


def _of_boxes(predicted: Array, targets: Array, classes: int, box_iou: float = 0.0) -> Bounds:
    found = box_scores.match(predicted, targets, box_scores.ious_of(box_iou), classes)
    cost = (2 * found.confidences.size + 6 * int((found.hits > 0).sum())) / len(targets)
    return bootstrap.of_weights(lambda weights: box_scores.mean_precision(found, weights), len(targets), 1 + cost)


def _of_box_precision(predicted: Array, targets: Array) -> Bounds:
    hits = box_scores.match(predicted, targets, box_scores.WHEAT_IOUS).hits
    return _of_shares(box_scores.precisions(hits, targets))


INTERVALS: dict[str, Callable[..., Bounds]] = {
    "accuracy": _of_accuracy,
    "f1_micro": _of_accuracy,
    "log_loss": _of_log_loss,
    "log_loss_binary": _of_log_loss_columns,
    "log_loss_columns": _of_log_loss_columns,
    "top_k_error": _of_top_k_error,
    "map_at_k": _of_map_at_k,
    "auc": _of_columns(_auc_influence),
    "auc_columns": _of_columns(_auc_influence),
    "average_precision": _of_columns(_precision_influence),
    "average_precision_columns": _of_columns(_precision_influence),
    "fbeta_samples": _of_fbeta_samples,
    "fbeta_micro": _of_fbeta_micro,
    "box_map": _of_boxes,
    "box_map_at": _of_boxes,
    "box_precision": _of_box_precision,
    **bootstrap.INTERVALS,
}
