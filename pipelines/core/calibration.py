"""Temperature scaling: divide scores by a number that minimises the log loss (arXiv 1706.04599).

It corrects overconfidence.  One class: all log-probabilities are divided by one temperature.  Several labels: the logit
of each label is divided by the label's own.  The order of the classes, and so the accuracy, stays the same.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from pipelines.core.scores import KAGGLE_CLIP

LOWEST, HIGHEST = 0.05, 20.0
STEPS = 100  # Newton's method needs about ten; bisection alone would also reach the tolerance
TOLERANCE = 1e-7  # relative change of the temperature; the error after Newton's last step is about its square
LEAST_CURVATURE = 1e-300  # avoids a division by zero for rows that are certain and wrong; T is then a bound
FLAT = 1e-12  # a smaller slope is a rounding error: no temperature lowers the loss
MOST_ITEMS = 1 << 23  # scores that are computed together in float64


def fit_temperature(log_probabilities: Tensor, labels: Tensor, rows: Tensor | None = None) -> float:
    """Return the temperature T in [0.05, 20] that minimises the mean cross-entropy of softmax(log p / T).

    log_probabilities: (N, K), natural logarithms, clipped to at least log 1e-15, as Kaggle does.  labels: (N,) int64.
    rows: the numbers of the rows that count; None: all.

    If all rows are right, T is 0.05, unless all are certain; if all are wrong, 20.  If no temperature helps (no rows,
    one class, uniform rows), T is 1.
    """
    rows = torch.arange(len(labels)) if rows is None else rows
    if not len(rows):
        return 1.0
    blocks = rows.split(max(1, MOST_ITEMS // log_probabilities.shape[1]))
    only = _clipped(log_probabilities[rows]) if len(blocks) == 1 else None  # converted once

    def derivatives(inverse: Tensor) -> tuple[Tensor, Tensor]:
        totals = torch.zeros(2, 1, dtype=torch.float64)
        for block in blocks:
            scores = _clipped(log_probabilities[block]) if only is None else only
            totals += torch.stack(_derivatives(scores, labels[block], inverse))[:, None] * (len(block) / len(rows))
        return totals[0], totals[1]

    return 1 / float(_minimum(derivatives, 1))


def fit_column_temperatures(probabilities: Tensor, flags: Tensor) -> list[float]:
    """Return for each column the temperature in (0.05, 20) that minimises the log loss of sigmoid(logit p / T).

    probabilities, flags: (N, K), both clipped as Kaggle does; flags: 1 where an image has the label.  Columns for which
    no temperature is best, as those without or with only positive rows, get 1.
    """
    if not len(flags):
        return [1.0] * probabilities.shape[1]
    found: list[float] = []
    columns = max(1, MOST_ITEMS // len(flags))
    for start in range(0, probabilities.shape[1], columns):
        logits, signs = _logits(probabilities[:, start : start + columns]), flags[:, start : start + columns] * 2 - 1.0
        margins = logits * signs

        def derivatives(inverse: Tensor, margins: Tensor = margins) -> tuple[Tensor, Tensor]:
            wrong = torch.sigmoid(-margins * inverse)
            slopes, curvatures = -wrong * margins, wrong * (1 - wrong) * margins.square()
            return slopes.mean(dim=0), curvatures.mean(dim=0)

        temperatures = 1 / _minimum(derivatives, margins.shape[1])
        inside = (temperatures > LOWEST) & (temperatures < HIGHEST)
        found += torch.where(inside, temperatures, 1.0).tolist()
    return found


def apply_temperature(log_probabilities: Tensor, temperature: float) -> Tensor:
    """Return log softmax(log p / T), finite, in the shape (N, K) and type of `log_probabilities`."""
    return torch.log_softmax(_clipped(log_probabilities) / temperature, dim=1).to(log_probabilities.dtype)


def apply_column_temperatures(probabilities: Tensor, temperatures: list[float]) -> Tensor:
    """Return sigmoid(logit p / T) with the temperature of each column, in the shape (N, K) and type of
    `probabilities`."""
    scales = torch.tensor(temperatures, dtype=torch.float64)
    return torch.sigmoid(_logits(probabilities) / scales).to(probabilities.dtype)


def _clipped(log_probabilities: Tensor) -> Tensor:
    return log_probabilities.double().clamp(min=math.log(KAGGLE_CLIP))


def _logits(probabilities: Tensor) -> Tensor:
    return torch.logit(probabilities.double(), eps=KAGGLE_CLIP)


def _minimum(derivatives: Callable[[Tensor], tuple[Tensor, Tensor]], count: int) -> Tensor:
    """Return 1/T (count,) at the minimum of `count` losses, between 1/`HIGHEST` and 1/`LOWEST`.

    derivatives: returns the first and second derivative of each loss with respect to 1/T.  The losses are convex in
    1/T, so Newton's method inside a shrinking bracket finds the only minimum of each, deterministically.
    """
    inverse = torch.ones(count, dtype=torch.float64)
    low, high = torch.full_like(inverse, 1 / HIGHEST), torch.full_like(inverse, 1 / LOWEST)
    active = torch.ones(count, dtype=torch.bool)
    for _ in range(STEPS):
        slope, curvature = derivatives(inverse)
        active &= slope.abs() >= FLAT
        if not active.any():
            break
        falling = slope < 0
        low, high = torch.where(falling, inverse, low), torch.where(falling, high, inverse)
        following = (inverse - slope / curvature.clamp(min=LEAST_CURVATURE)).clamp(1 / HIGHEST, 1 / LOWEST)
        following = torch.where((low <= following) & (following <= high), following, (low * high).sqrt())
        change = (following / inverse - 1).abs()
        inverse = torch.where(active, following, inverse)
        active &= change >= TOLERANCE
    return inverse


def _derivatives(scores: Tensor, labels: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
    """Return both derivatives of the mean cross-entropy of softmax(`scores` * `inverse`) with respect to `inverse`."""
    probabilities = torch.softmax(scores * inverse, dim=1)
    means = (probabilities * scores).sum(dim=1, keepdim=True)
    variances = (probabilities * (scores - means).square()).sum(dim=1)
    return (means - scores.gather(1, labels[:, None])).mean(), variances.mean()
