"""The score of each metric in settings/metrics.py: a pure function of the same name.

predicted: as `MetricFacts.takes` says. targets: as `encode` in dataset/targets.py returns them; 0 or 1 for the positive
class, grades for `quadratic_kappa`. N images, K classes or labels, T numbers. A score that is not defined, as the
AUC of one class, is NaN; columns without a score are left out of a mean over columns. Missing targets (NaN) are masked.

scikit-learn takes a second to import; accuracy, log loss and F1 do without it.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipelines.core.box_scores import box_map as box_map
from pipelines.core.box_scores import box_map_at as box_map_at
from pipelines.core.box_scores import box_precision as box_precision
from pipelines.system.errors import UserError, few

Array = npt.NDArray[Any]
KAGGLE_CLIP = 1e-15
NO_GUESS = -1  # in a ranking: no guess, or one that is no class


def accuracy(predicted: Array, targets: Array) -> float:
    """Class numbers (N,), (N,)."""
    return float((predicted == targets).mean()) if len(targets) else np.nan


def balanced_accuracy(predicted: Array, targets: Array) -> float:
    """Class numbers (N,), (N,). The classes that are only predicted do not count."""
    from sklearn.metrics import recall_score

    present = np.unique(targets)
    return float(recall_score(targets, predicted, labels=present, average="macro")) if len(targets) else np.nan


def f1_micro(predicted: Array, targets: Array) -> float:
    """Class numbers (N,), (N,). With one class per image, each mistake is a false and a missed one."""
    return accuracy(predicted, targets)


def f1_macro(predicted: Array, targets: Array, classes: int) -> float:
    """Class numbers below `classes` (N,), (N,). A class that is neither true nor predicted is left out."""
    return fbeta_of_counts(counts(predicted, targets, classes)).nanmean(dim=0).item()


def log_loss(predicted: Array, targets: Array) -> float:
    """Probabilities (N, K), class numbers (N,)."""
    return (losses_of_rows(predicted, targets).sum() / len(targets)).item() if len(targets) else np.nan


def log_loss_binary(predicted: Array, targets: Array) -> float:
    """Probabilities (N,), 0 or 1 (N,)."""
    return _mean(losses_of_cells(predicted, targets))


def log_loss_columns(predicted: Array, targets: Array) -> float:
    """Probabilities (N, K); 0 or 1 (N, K), or class numbers (N,)."""
    return _over_columns(log_loss_binary, predicted, targets)


def top_k_error(predicted: Array, targets: Array, guesses: int) -> float:
    """Class numbers (N, k), best first, and (N,)."""
    return _mean(~found_in(predicted, targets, guesses))


def map_at_k(predicted: Array, targets: Array, guesses: int) -> float:
    """Class numbers (N, k), best first; class numbers (N,), or 0 or 1 (N, K)."""
    return _mean(precisions_at_k(predicted, targets, guesses))


def auc(predicted: Array, targets: Array) -> float:
    """Probabilities (N,), 0 or 1 (N,)."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(targets, predicted)) if len(np.unique(targets)) == 2 else np.nan


def auc_columns(predicted: Array, targets: Array) -> float:
    """Probabilities (N, K); 0 or 1 (N, K), or class numbers (N,)."""
    return _over_columns(auc, predicted, targets)


def auc_partial(predicted: Array, targets: Array, auc_above: float) -> float:
    """Probabilities (N,), 0 or 1 (N,)."""
    return area_above(predicted, targets, auc_above)


def auc_weighted(predicted: Array, targets: Array, auc_ranges: Sequence[float], auc_weights: Sequence[float]) -> float:
    """Probabilities (N,), 0 or 1 (N,)."""
    areas = -np.diff([area_above(predicted, targets, rate) for rate in auc_ranges])
    return float(areas @ auc_weights / (np.diff(auc_ranges) @ auc_weights))


def average_precision(predicted: Array, targets: Array) -> float:
    """Probabilities (N,), 0 or 1 (N,)."""
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(targets, predicted)) if np.any(targets == 1) else np.nan


def average_precision_columns(predicted: Array, targets: Array) -> float:
    """Probabilities (N, K); 0 or 1 (N, K), or class numbers (N,)."""
    return _over_columns(average_precision, predicted, targets)


def fbeta_macro(predicted: Array, targets: Array, beta: float) -> float:
    """0 or 1 (N, K), (N, K); or class numbers (N,), (N,)."""
    return _fbeta(predicted, targets, beta, "macro")


def fbeta_micro(predicted: Array, targets: Array, beta: float) -> float:
    """0 or 1 (N, K), (N, K); or class numbers (N,), (N,)."""
    return _fbeta(predicted, targets, beta, "micro")


def fbeta_samples(predicted: Array, targets: Array, beta: float) -> float:
    """0 or 1 (N, K), (N, K)."""
    return _fbeta(predicted, targets, beta, "samples")


def quadratic_kappa(predicted: Array, targets: Array, grades: Sequence[int]) -> float:
    """Grades (N,), (N,). grades: all grades in order; empty: all whole numbers from the lowest to the highest.

    Raises `UserError` for a grade that is not in the list.
    """
    from sklearn.metrics import cohen_kappa_score

    predicted, targets = whole(predicted, targets)
    occurring = sorted({*predicted.tolist(), *targets.tolist()})
    if len(occurring) < 2:
        return np.nan
    known = list(grades or range(occurring[0], occurring[-1] + 1))
    if unknown := [grade for grade in occurring if grade not in known]:
        raise UserError(
            f"competition.grades is {known}, but there are the grades {few(list(map(str, unknown)))} too. List all."
        )
    return float(cohen_kappa_score(targets, predicted, labels=known, weights="quadratic"))


def rmse(predicted: Array, targets: Array) -> float:
    """Numbers (N, T), (N, T)."""
    from sklearn.metrics import root_mean_squared_error

    return _of_known(root_mean_squared_error, predicted, targets)


def mae(predicted: Array, targets: Array) -> float:
    """Numbers (N, T), (N, T)."""
    from sklearn.metrics import mean_absolute_error

    return _of_known(mean_absolute_error, predicted, targets)


def r2(predicted: Array, targets: Array) -> float:
    """Numbers (N, T), (N, T). As in scikit-learn, 1 or 0 if all targets are equal; NaN for one image."""
    from sklearn.metrics import r2_score

    return _over_columns(lambda *pair: _of_known(r2_score, *pair) if len(pair[1]) > 1 else np.nan, predicted, targets)


def mean_column_rmse(predicted: Array, targets: Array) -> float:
    """Numbers (N, T), (N, T)."""
    return _over_columns(rmse, predicted, targets)


def rmsle(predicted: Array, targets: Array) -> float:
    """Numbers (N, T), (N, T). NaN if a target is at most -1; an answer below 0 counts as 0."""
    from sklearn.metrics import root_mean_squared_log_error

    if (targets <= -1).any():
        return np.nan
    return _of_known(root_mean_squared_log_error, np.maximum(predicted, 0), targets)


def pearson(predicted: Array, targets: Array) -> float:
    """Numbers (N, T), (N, T). A column of equal targets or answers has no correlation."""
    return _over_columns(correlation, predicted, targets)


def spearman(predicted: Array, targets: Array) -> float:
    """Numbers (N, T), (N, T). A column of equal targets or answers has no correlation."""
    from scipy.stats import rankdata

    return _over_columns(lambda *pair: correlation(*map(rankdata, pair)), predicted, targets)


# Parts of scores and intervals


def counts(predicted: Array, targets: Array, classes: int) -> Tensor:
    """Return true positives, predicted and true images of each class, float64 (3, K)."""
    each = (targets[predicted == targets], predicted, targets)
    return torch.from_numpy(np.stack([np.bincount(numbers, minlength=classes) for numbers in each])).double()


def fbeta_of_counts(counts: Any, beta: float = 1) -> Any:
    """Return F-beta = (1 + b²) TP / (predicted + b² true) of counts (3, ...), an array or a tensor of floats.

    It is NaN where a class is neither true nor predicted.
    """
    true_positives, predicted, actual = counts
    with np.errstate(invalid="ignore"):
        return (1 + beta**2) * true_positives / (predicted + beta**2 * actual)


def losses_of_rows(predicted: Array, targets: Array) -> Tensor:
    """Return Kaggle's log loss of each image, (N,): rows rescaled to sum 1, then clipped to [1e-15, 1 - 1e-15]."""
    probabilities = torch.from_numpy(np.require(predicted, requirements="W")).double()
    rescaled = probabilities / probabilities.sum(dim=1, keepdim=True)
    true = rescaled.gather(1, torch.from_numpy(np.require(targets, requirements="W"))[:, None])[:, 0]
    return -true.clamp(KAGGLE_CLIP, 1 - KAGGLE_CLIP).log()


def losses_of_cells(predicted: Array, targets: Array) -> Array:
    """Return the binary log loss of each probability, clipped to [1e-15, 1 - 1e-15]; the shape of `predicted`."""
    clipped = np.clip(predicted.astype(np.float64), KAGGLE_CLIP, 1 - KAGGLE_CLIP)
    return -np.log(np.where(targets == 1, clipped, 1 - clipped))


def found_in(predicted: Array, targets: Array, guesses: int) -> Array:
    """Return whether each class (N,) is among the first `guesses` of (N, k)."""
    return np.asarray((predicted[:, :guesses] == targets[:, None]).any(axis=1))


def precisions_at_k(predicted: Array, targets: Array, guesses: int) -> Array:
    """Return the average precision of the first `guesses` of each image, (N,); 0 for an image without a true label."""
    predicted = predicted[:, :guesses]
    places = np.arange(predicted.shape[1])
    if targets.ndim == 1:
        right, true = predicted == targets[:, None], np.ones(len(targets))
    else:
        right = np.take_along_axis(targets, np.maximum(predicted, 0), axis=1) == 1
        right, true = right & (predicted != NO_GUESS), targets.sum(axis=1)
    for place in places[1:]:  # a repeated guess counts once
        right[:, place] &= (predicted[:, :place] != predicted[:, place, None]).all(axis=1)
    found = (right * right.cumsum(axis=1) / (places + 1)).sum(axis=1)
    return np.asarray(found / np.clip(true, 1, guesses))


def area_above(predicted: Array, targets: Array, rate: float) -> float:
    """Return the area between the ROC curve and a false positive rate of 1, above a true positive rate `rate`.

    It is the area below a false positive rate of 1 - `rate` after both classes were swapped. scikit-learn maps that
    area from [w² / 2, w], w = 1 - rate, to [0.5, 1] (D. K. McClish, Medical Decision Making 9, 1989); this undoes it.
    """
    from sklearn.metrics import roc_auc_score

    width = 1 - rate
    if len(np.unique(targets)) < 2:
        return np.nan
    if width == 0:
        return 0.0
    scaled = roc_auc_score(1 - targets, -predicted.astype(np.float64), max_fpr=width)
    least = width**2 / 2
    return float(scaled if width == 1 else least + (2 * scaled - 1) * (width - least))


def whole(predicted: Array, targets: Array) -> tuple[Array, Array]:
    """Return grades (N,) or (N, 1) as whole numbers (n,), of the images whose target is known."""
    known = ~np.isnan(targets.reshape(-1).astype(np.float64))
    first, second = (np.rint(each.reshape(-1)[known]).astype(np.int64) for each in (predicted, targets))
    return first, second


def correlation(predicted: Array, targets: Array) -> float:
    """Return Pearson's correlation of two columns; NaN if one of them has equal values only."""
    if len(targets) < 2 or np.ptp(predicted) == 0 or np.ptp(targets) == 0:
        return np.nan
    first, second = predicted - predicted.mean(), targets - targets.mean()
    return float(first @ second / np.sqrt((first @ first) * (second @ second)))


def columns_of(predicted: Array, targets: Array) -> Iterator[tuple[Array, Array]]:
    """Yield predictions (n,) and known targets (n,) of each column; for class numbers (N,), 1 is the column's class."""
    for column in range(predicted.shape[1]):
        cells = (targets == column).astype(np.int64) if targets.ndim == 1 else targets[:, column]
        known = ~np.isnan(cells)
        yield predicted[known, column].astype(np.float64), cells[known].astype(np.float64)


def _over_columns(score: Callable[[Array, Array], float], predicted: Array, targets: Array) -> float:
    """Return the mean score of the columns that have one."""
    scores = [score(*pair) for pair in columns_of(predicted, targets) if len(pair[1])]
    return _mean(np.array([each for each in scores if not np.isnan(each)]))


def _of_known(score: Callable[[Array, Array], float], predicted: Array, targets: Array) -> float:
    """Return scikit-learn's `score` of the numbers whose targets are known, together."""
    known = ~np.isnan(targets)
    return (
        float(score(targets[known].astype(np.float64), predicted[known].astype(np.float64))) if known.any() else np.nan
    )


def _fbeta(predicted: Array, targets: Array, beta: float, average: str) -> float:
    from sklearn.metrics import fbeta_score

    kind = np.int64 if targets.ndim == 1 else np.uint8
    answers, truth = (each.astype(kind, copy=False) for each in (predicted, targets))
    return float(fbeta_score(truth, answers, beta=beta, average=average, zero_division=0)) if len(truth) else np.nan


def _mean(values: Array) -> float:
    return float(np.mean(values)) if len(values) else np.nan
