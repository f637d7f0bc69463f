"""Temperature scaling: divide all log-probabilities by one number that minimises the log loss (arXiv 1706.04599).

It corrects overconfidence.  The order of the classes, and so the accuracy, stays the same.
"""

import math

import torch
from torch import Tensor

from pipelines.core.metrics import KAGGLE_CLIP

LOWEST, HIGHEST = 0.05, 20.0
PARTS = 5
STEPS = 100  # Newton's method needs about ten; bisection alone would also reach the tolerance
TOLERANCE = 1e-7  # relative change of the temperature; the error after Newton's last step is about its square
LEAST_CURVATURE = 1e-300  # avoids a division by zero for rows that are certain and wrong; T is then a bound
FLAT = 1e-12  # a smaller slope is a rounding error: no temperature lowers the loss


def fit_temperature(log_probabilities: Tensor, labels: Tensor) -> float:
    """Return the temperature T in [0.05, 20] that minimises the mean cross-entropy of softmax(log p / T).

    log_probabilities: (N, K), natural logarithms, clipped to at least log 1e-15, as Kaggle does.  labels: (N,) int64.

    The loss is convex in 1/T, so Newton's method inside a shrinking bracket finds its only minimum, deterministically.
    If all rows are right, T is 0.05, unless all are certain; if all are wrong, 20.  If no temperature helps (no rows,
    one class, uniform rows), T is 1.
    """
    if not len(labels):
        return 1.0
    scores = _clipped(log_probabilities)
    low, high, inverse = 1 / HIGHEST, 1 / LOWEST, 1.0
    for _ in range(STEPS):
        slope, curvature = _derivatives(scores, labels, inverse)
        if abs(slope) < FLAT:
            break
        low, high = (inverse, high) if slope < 0 else (low, inverse)
        following = min(max(inverse - slope / max(curvature, LEAST_CURVATURE), 1 / HIGHEST), 1 / LOWEST)
        if not low <= following <= high:
            following = math.sqrt(low * high)
        change = abs(following / inverse - 1)
        inverse = following
        if change < TOLERANCE:
            break
    return 1 / inverse


def apply_temperature(log_probabilities: Tensor, temperature: float) -> Tensor:
    """Return log softmax(log p / T), finite, in the shape (N, K) and type of `log_probabilities`."""
    return torch.log_softmax(_clipped(log_probabilities) / temperature, dim=1).to(log_probabilities.dtype)


def cross_fitted(log_probabilities: Tensor, labels: Tensor, parts: int = PARTS) -> Tensor:
    """Return calibrated log-probabilities (N, K), each row with a temperature fitted on the rows of the other parts.

    No row influences its own temperature, so the score is unbiased.  Row i is in part i modulo `parts`.  With fewer
    rows than parts, T is 1.
    """
    calibrated = apply_temperature(log_probabilities, 1.0)
    if len(labels) < parts:
        return calibrated
    part_of = torch.arange(len(labels), device=labels.device) % parts
    for part in range(parts):
        inside = part_of == part
        temperature = fit_temperature(log_probabilities[~inside], labels[~inside])
        calibrated[inside] = apply_temperature(log_probabilities[inside], temperature)
    return calibrated


def _clipped(log_probabilities: Tensor) -> Tensor:
    return log_probabilities.double().clamp(min=math.log(KAGGLE_CLIP))


def _derivatives(scores: Tensor, labels: Tensor, inverse: float) -> tuple[float, float]:
    """Return both derivatives of the mean cross-entropy of softmax(`scores` * `inverse`) with respect to `inverse`."""
    probabilities = torch.softmax(scores * inverse, dim=1)
    means = (probabilities * scores).sum(dim=1, keepdim=True)
    variances = (probabilities * (scores - means).square()).sum(dim=1)
    return (means - scores.gather(1, labels[:, None])).mean().item(), variances.mean().item()
