"""The competitions' metrics, as sums over samples that are divided once, and their confidence intervals.

The sums of batches can be added: neither the batch size nor a partial last batch changes a score.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

KAGGLE_CLIP = 1e-15
NORMAL_QUANTILE = 1.959963984540054  # 97.5 % quantile of the standard normal distribution
RESAMPLES = 1_000
RESAMPLING_SEED = 0
DRAWN_AT_ONCE = 1 << 18  # images; more do not fit into a processor's cache


@dataclass(frozen=True)
class Metric:
    """A metric.  sums: maps probabilities (N, K) and labels (N,) to a float64 tensor that is additive over batches.

    value: maps the added sums to the score.  bounds: maps probabilities and labels to the result of `interval`.
    """

    name: str
    sums: Callable[[Tensor, Tensor], Tensor]
    value: Callable[[Tensor], float]
    bounds: Callable[[Tensor, Tensor], tuple[float, float]]
    higher_is_better: bool

    def score(self, probabilities: Tensor, labels: Tensor) -> float:
        """Return the score of all predictions; NaN for no images."""
        return self.value(self.sums(probabilities, labels))


def interval(metric: Metric, probabilities: Tensor, labels: Tensor) -> tuple[float, float]:
    """Return the 95 % confidence interval of `metric`, (low, high); deterministic.

    probabilities: (N, K); labels: (N,), N >= 1.  Raises `ValueError` for no images.

    accuracy, f1_micro: Wilson's score interval (E. B. Wilson, JASA 22, 1927), which is also valid near 1.  log_loss:
    mean ± 1.96 standard errors, by the central limit theorem, but at least 0.  f1_macro, which is not a mean over
    images: percentile bootstrap (B. Efron, Annals of Statistics 7, 1979).
    """
    if not len(labels):
        raise ValueError("no images, so their score has no interval")
    return metric.bounds(probabilities, labels)


def _hits(probabilities: Tensor, labels: Tensor) -> Tensor:
    hits = (probabilities.argmax(dim=1) == labels).sum()
    return torch.stack([hits, hits.new_tensor(len(labels))]).double()


def _losses(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Return Kaggle's log loss of each image, (N,): rows rescaled to sum 1, then clipped to [1e-15, 1 - 1e-15]."""
    rescaled = probabilities.double() / probabilities.double().sum(dim=1, keepdim=True)
    return -rescaled.gather(1, labels[:, None])[:, 0].clamp(KAGGLE_CLIP, 1 - KAGGLE_CLIP).log()


def _log_losses(probabilities: Tensor, labels: Tensor) -> Tensor:
    losses = _losses(probabilities, labels).sum()
    return torch.stack([losses, losses.new_tensor(len(labels))])


def _confusions(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Return true positives, predicted and actual counts per class, (3, K)."""
    predicted, classes = probabilities.argmax(dim=1), probabilities.shape[1]
    which = (labels[predicted == labels], predicted, labels)
    return torch.stack([torch.bincount(each, minlength=classes) for each in which]).double()


def _mean(sums: Tensor) -> float:
    return (sums[0] / sums[1]).item()


def _f1(sums: Tensor) -> Tensor:
    """Return F1 = 2 TP / (predicted + actual) from sums (3, ...); NaN where a class is neither actual nor predicted."""
    true_positives, predicted, actual = sums
    return 2 * true_positives / (predicted + actual)


def _wilson(probabilities: Tensor, labels: Tensor) -> tuple[float, float]:
    """Return Wilson's interval of the accuracy, which equals f1_micro where each image has one label."""
    hits, count = _hits(probabilities, labels).tolist()
    share, square = hits / count, NORMAL_QUANTILE**2
    centre = (share + square / (2 * count)) / (1 + square / count)
    reach = NORMAL_QUANTILE / (1 + square / count) * math.sqrt(share * (1 - share) / count + square / (4 * count**2))
    return (0.0 if not hits else centre - reach), (1.0 if hits == count else centre + reach)  # exact at the ends


def _around_the_mean(probabilities: Tensor, labels: Tensor) -> tuple[float, float]:
    losses = _losses(probabilities, labels)
    if len(losses) == 1:  # a single loss has no standard deviation, so any loss is possible
        return 0.0, -math.log(KAGGLE_CLIP)
    mean, reach = losses.mean().item(), NORMAL_QUANTILE * losses.std().item() / math.sqrt(len(losses))
    return max(0.0, mean - reach), mean + reach


def _bootstrap(probabilities: Tensor, labels: Tensor) -> tuple[float, float]:
    """Return the bootstrap interval of the macro F1, from `RESAMPLES` samples of N pairs (label, prediction) each."""
    predicted, labels = probabilities.argmax(dim=1).cpu(), labels.cpu()
    classes = probabilities.shape[1]
    # Count the distinct pairs, at most K**2, instead of keeping all drawn ones.
    kinds, kind_of = (labels * classes + predicted).unique(return_inverse=True)
    actual, answer = kinds // classes, kinds % classes
    right = actual == answer
    generator = torch.Generator().manual_seed(RESAMPLING_SEED)
    scores = []
    for some in torch.arange(RESAMPLES).split(max(DRAWN_AT_ONCE // len(labels), 1)):
        drawn = torch.randint(len(labels), (len(some), len(labels)), generator=generator)
        numbers = kind_of[drawn] + torch.arange(len(some))[:, None] * len(kinds)
        counts = numbers.flatten().bincount(minlength=len(some) * len(kinds)).view(len(some), -1).T.double()
        none = counts.new_zeros(classes, len(some))
        true_positives = none.index_add(0, actual[right], counts[right])
        sums = true_positives, none.index_add(0, answer, counts), none.index_add(0, actual, counts)
        scores.append(_f1(torch.stack(sums)).nanmean(dim=0))
    low, high = torch.cat(scores).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


def _f1_macro(sums: Tensor) -> float:
    return _f1(sums).nanmean(dim=0).item()  # leaves out NaN, as scikit-learn does


ALL = (
    Metric("accuracy", _hits, _mean, _wilson, higher_is_better=True),
    Metric("log_loss", _log_losses, _mean, _around_the_mean, higher_is_better=False),
    Metric("f1_macro", _confusions, _f1_macro, _bootstrap, higher_is_better=True),
    Metric("f1_micro", _confusions, lambda sums: _f1(sums.sum(dim=1)).item(), _wilson, higher_is_better=True),
)
METRICS = {metric.name: metric for metric in ALL}
