"""Losses as pure functions on outputs and targets, one value per target; a mean over them is the loss of a batch."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

LEAST = 1e-7  # of 1 - p, whose power has no gradient at 0


@dataclass(frozen=True)
class Focus:
    """How a loss of labels turns to the uncertain ones.  The defaults leave binary cross-entropy as it is.

    present: exponent of (1 - p) where the label is present.  absent: exponent of p where it is absent.  clip: is
    subtracted from p where it is absent.
    """

    present: float = 0.0
    absent: float = 0.0
    clip: float = 0.0


ASYMMETRIC = Focus(0.0, 4.0, 0.05)  # as arXiv 2009.14119 recommends


def class_losses(
    log_probabilities: Tensor, targets: Tensor, weights: Tensor | None, gamma: float = 0.0, smoothing: float = 0.0
) -> Tensor:
    """Return the loss of each image, (N,): its weight times -sum of target * (1 - p)**gamma * log p.

    log_probabilities: (N, K). targets: int64 (N,), or float (N, K) for mixed images. weights: (K,), of the images of
    each class; a mixed image has the mix of two weights. gamma: of the focal loss (arXiv 1708.02002); 0: cross-entropy.
    smoothing: share of each target that is spread evenly over all classes.
    """
    if targets.ndim == 1 and not smoothing:
        losses = _focused(log_probabilities.gather(1, targets[:, None])[:, 0], gamma)
        return losses if weights is None else losses * weights[targets]
    classes = log_probabilities.shape[1]
    shares = F.one_hot(targets, classes).to(log_probabilities.dtype) if targets.ndim == 1 else targets
    if weights is not None:
        shares = shares * weights
    if smoothing:
        shares = shares * (1 - smoothing) + shares.sum(dim=1, keepdim=True) * smoothing / classes
    return (shares * _focused(log_probabilities, gamma)).sum(dim=1)


def label_losses(
    logits: Tensor,
    targets: Tensor,
    weights: Tensor | None = None,
    focus: Focus = Focus(),
    smoothing: float = 0.0,
) -> Tensor:
    """Return the loss of each label, (N, K): binary cross-entropy, or with a `focus` the focal or asymmetric loss.

    logits: (N, K). targets: float (N, K), 0 to 1. weights: (K,), of the images that have the label. smoothing: share of
    each target that is spread evenly over present and absent.
    """
    present, absent = targets, 1 - targets
    if weights is not None:
        present = present * weights
    if smoothing:
        half = smoothing / 2
        present, absent = present * (1 - half) + absent * half, absent * (1 - half) + present * half
    log_absent = F.logsigmoid(-logits)
    if focus.clip:
        log_absent = torch.log1p(-(logits.sigmoid() - focus.clip).clamp(min=0))
    return present * _focused(F.logsigmoid(logits), focus.present) + absent * _focused(log_absent, focus.absent)


def _focused(log_probabilities: Tensor, gamma: float) -> Tensor:
    """Return -(1 - p)**gamma * log p."""
    if not gamma:
        return -log_probabilities
    return -log_probabilities * (-torch.expm1(log_probabilities)).clamp(min=LEAST) ** gamma


def number_losses(outputs: Tensor, targets: Tensor, kind: str, delta: float) -> Tensor:
    """Return the loss of each number, (N, T); 0 where the target is missing (NaN), with no gradient.

    kind: squared; absolute; or huber, half the square up to an error of `delta`, and linear above it.
    """
    errors = torch.where(targets.isnan(), 0, outputs - targets)
    if kind == "squared":
        return errors.square()
    if kind == "absolute":
        return errors.abs()
    return F.huber_loss(errors, torch.zeros_like(errors), reduction="none", delta=delta)


def cumulative_logits(outputs: Tensor) -> Tensor:
    """Return the logits of "above grade k", (N, K - 1), never rising with k, from free outputs (N, K - 1).

    The first output is the first logit; each of the others says how far the next logit is below.
    """
    return torch.cat([outputs[:, :1], outputs[:, :1] - F.softplus(outputs[:, 1:]).cumsum(dim=1)], dim=1)


def step_losses(logits: Tensor, targets: Tensor, grades: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return the mean binary cross-entropy of "above grade k" over all grades but the last, (N, 1); 0 for no target.

    logits: (N, K - 1).  targets: (N, 1), NaN if missing; a mixed one between two grades is above the lower one by its
    share of the distance.  grades: (K,), in order.
    """
    missing = targets.isnan()
    above = ((targets.nan_to_num() - grades[:-1]) / grades.diff()).clamp(0, 1)
    losses = label_losses(logits, above, smoothing=smoothing).mean(dim=1, keepdim=True)
    return torch.where(missing, 0, losses)
