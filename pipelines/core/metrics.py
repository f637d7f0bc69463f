"""The competitions' own metrics, as sums over samples that are divided once.

Because a metric is a function of additive sums, the last partial batch counts like any other, the batch size cannot
change a score, and the sums of several processes can be added.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

KAGGLE_CLIP = 1e-15


@dataclass(frozen=True)
class Metric:
    """A metric with its direction.

    `sums` maps probabilities (N, K) and labels (N,) to a float64 tensor that adds up over batches; `value` maps the
    added sums to the score.
    """

    name: str
    sums: Callable[[Tensor, Tensor], Tensor]
    value: Callable[[Tensor], float]
    higher_is_better: bool


def _hits(probabilities: Tensor, labels: Tensor) -> Tensor:
    hits = (probabilities.argmax(dim=1) == labels).sum()
    return torch.stack([hits, hits.new_tensor(len(labels))]).double()


def _log_losses(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Kaggle's multiclass log loss: rows rescaled to sum 1, then clipped to [1e-15, 1 - 1e-15]."""
    rescaled = probabilities.double() / probabilities.double().sum(dim=1, keepdim=True)
    chosen = rescaled.gather(1, labels[:, None]).clamp(KAGGLE_CLIP, 1 - KAGGLE_CLIP)
    losses = -chosen.log().sum()
    return torch.stack([losses, losses.new_tensor(len(labels))])


def _confusions(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Per class: true positives, predicted, actual; shape (3, K)."""
    classes = probabilities.shape[1]
    predicted = probabilities.argmax(dim=1)
    true_positives = torch.bincount(labels[predicted == labels], minlength=classes)
    return torch.stack(
        [true_positives, torch.bincount(predicted, minlength=classes), torch.bincount(labels, minlength=classes)]
    ).double()


def _mean(sums: Tensor) -> float:
    return (sums[0] / sums[1]).item()


def _f1_macro(sums: Tensor) -> float:
    """The mean over classes of F1 = 2 TP / (predicted + actual); a class that neither occurs nor is predicted is left
    out, as in scikit-learn."""
    true_positives, predicted, actual = sums
    occurs = predicted + actual > 0
    return (2 * true_positives[occurs] / (predicted + actual)[occurs]).mean().item()


def _f1_micro(sums: Tensor) -> float:
    true_positives, predicted, actual = sums.sum(dim=1)
    return (2 * true_positives / (predicted + actual)).item()


METRICS = {
    metric.name: metric
    for metric in (
        Metric("accuracy", _hits, _mean, higher_is_better=True),
        Metric("log_loss", _log_losses, _mean, higher_is_better=False),
        Metric("f1_macro", _confusions, _f1_macro, higher_is_better=True),
        Metric("f1_micro", _confusions, _f1_micro, higher_is_better=True),
    )
}
