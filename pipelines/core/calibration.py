"""Temperature scaling: one number that makes probabilities as confident as they are right (arXiv 1706.04599).

A log loss punishes a network that is surer than it should be, as most are.  Dividing all log-probabilities by one
temperature leaves the order of the classes, and so the accuracy, as it is.
"""

import math

import torch
from torch import Tensor

from pipelines.core.metrics import KAGGLE_CLIP

LOWEST, HIGHEST = 0.05, 20.0
PARTS = 5  # of the rows, each calibrated by the others
STEPS = 100  # Newton's take about ten; halvings alone would end below the tolerance too
TOLERANCE = 1e-7  # relative, in the temperature; Newton's last step leaves an error of about its square
LEAST_CURVATURE = 1e-300  # rows that are sure and wrong have none; the step then goes to the bound downhill
FLAT = 1e-12  # below this slope no temperature lowers the loss: it is all rounding


def fit_temperature(log_probabilities: Tensor, labels: Tensor) -> float:
    """Return the temperature T in [0.05, 20] that minimises the mean cross-entropy of softmax(log p / T).

    log_probabilities: (N, K), natural logarithms, already averaged over views; one below log 1e-15, so minus infinity
    too, counts as that, as Kaggle clips.  labels: (N,) int64.

    The loss is convex in 1/T, so Newton's method inside a shrinking bracket finds the one minimum; the same input gives
    the same number.  Rows that are all right have their minimum at 0, and come out at 0.05 unless they are as sure as
    can be; all wrong ones at 20.  Where no temperature helps (no rows, one class, uniform rows), T is 1.
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
    """Return log softmax(log p / T), of the shape (N, K) and type of `log_probabilities`, clipped below as in fitting.

    All are finite, and each row's probabilities sum to 1.
    """
    return torch.log_softmax(_clipped(log_probabilities) / temperature, dim=1).to(log_probabilities.dtype)


def cross_fitted(log_probabilities: Tensor, labels: Tensor, parts: int = PARTS) -> Tensor:
    """Return (N, K) log-probabilities, each row's with the temperature that all rows outside its part fit.

    A score of them is honest: no row had a say in its own temperature.  Row i belongs to part i modulo `parts`.  Where
    there are fewer rows than parts, T is 1.
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
    """The first and second derivative of the mean cross-entropy of softmax(`scores` * `inverse`) by `inverse`."""
    probabilities = torch.softmax(scores * inverse, dim=1)
    means = (probabilities * scores).sum(dim=1, keepdim=True)
    variances = (probabilities * (scores - means).square()).sum(dim=1)
    return (means - scores.gather(1, labels[:, None])).mean().item(), variances.mean().item()
