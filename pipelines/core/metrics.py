"""The competitions' own metrics, as sums over samples that are divided once.

Because a metric is a function of additive sums, the last partial batch counts like any other, the batch size cannot
change a score, and the sums of several processes can be added.  How sure a score is (`interval`) is another matter: it
takes the single images.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

KAGGLE_CLIP = 1e-15
NORMAL_QUANTILE = 1.959963984540054  # 95 % of a normal distribution lie within so many standard deviations
RESAMPLES = 1_000
RESAMPLING_SEED = 0
DRAWN_AT_ONCE = 1 << 18  # images: so many stay in a processor's cache


@dataclass(frozen=True)
class Metric:
    """A metric with its direction.

    `sums` maps probabilities (N, K) and labels (N,) to a float64 tensor that adds up over batches; `value` maps the
    added sums to the score; `bounds` maps probabilities and labels to what `interval` returns.
    """

    name: str
    sums: Callable[[Tensor, Tensor], Tensor]
    value: Callable[[Tensor], float]
    bounds: Callable[[Tensor, Tensor], tuple[float, float]]
    higher_is_better: bool


def interval(metric: Metric, probabilities: Tensor, labels: Tensor) -> tuple[float, float]:
    """Return the bounds of the 95 % confidence interval of `metric`, as far as these images let one tell.

    probabilities: (N, K) for the N >= 1 `labels`; raises `ValueError` for none.  The same input gives the same bounds.

    accuracy, f1_micro: Wilson's score interval (E. B. Wilson, Probable inference, the law of succession, and
    statistical inference, JASA 22, 1927); it holds near 1 too, where scores are.  log_loss: mean of the images' losses
    ± 1.96 standard errors, by the central limit theorem, but not below 0.  f1_macro, which is no mean over images:
    percentile bootstrap (B. Efron, Bootstrap methods: another look at the jackknife, Annals of Statistics 7, 1979).
    """
    if not len(labels):
        raise ValueError("no images, so nothing is known of their score")
    return metric.bounds(probabilities, labels)


def _hits(probabilities: Tensor, labels: Tensor) -> Tensor:
    hits = (probabilities.argmax(dim=1) == labels).sum()
    return torch.stack([hits, hits.new_tensor(len(labels))]).double()


def _losses(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Kaggle's log loss of each image, (N,): rows rescaled to sum 1, then clipped to [1e-15, 1 - 1e-15]."""
    rescaled = probabilities.double() / probabilities.double().sum(dim=1, keepdim=True)
    return -rescaled.gather(1, labels[:, None])[:, 0].clamp(KAGGLE_CLIP, 1 - KAGGLE_CLIP).log()


def _log_losses(probabilities: Tensor, labels: Tensor) -> Tensor:
    losses = _losses(probabilities, labels).sum()
    return torch.stack([losses, losses.new_tensor(len(labels))])


def _confusions(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Per class: true positives, predicted, actual; shape (3, K)."""
    predicted, classes = probabilities.argmax(dim=1), probabilities.shape[1]
    true_positives = torch.bincount(labels[predicted == labels], minlength=classes)
    return torch.stack(
        [true_positives, torch.bincount(predicted, minlength=classes), torch.bincount(labels, minlength=classes)]
    ).double()


def _mean(sums: Tensor) -> float:
    return (sums[0] / sums[1]).item()


def _f1_macro(sums: Tensor) -> float:
    return _mean_f1(sums).item()


def _mean_f1(sums: Tensor) -> Tensor:
    """Return the mean over classes, the second dimension of `sums`, of F1 = 2 TP / (predicted + actual); a class that
    neither occurs nor is predicted, whose F1 is no number, is left out, as in scikit-learn."""
    true_positives, predicted, actual = sums
    return (2 * true_positives / (predicted + actual)).nanmean(dim=0)


def _f1_micro(sums: Tensor) -> float:
    true_positives, predicted, actual = sums.sum(dim=1)
    return (2 * true_positives / (predicted + actual)).item()


def _wilson(probabilities: Tensor, labels: Tensor) -> tuple[float, float]:
    """Of the share of hits, which is f1_micro too where each image has one label."""
    hits, count = _hits(probabilities, labels).tolist()
    share, square = hits / count, NORMAL_QUANTILE**2
    centre = (share + square / (2 * count)) / (1 + square / count)
    reach = NORMAL_QUANTILE / (1 + square / count) * math.sqrt(share * (1 - share) / count + square / (4 * count**2))
    return (0.0 if not hits else centre - reach), (1.0 if hits == count else centre + reach)  # exact at the ends


def _around_the_mean(probabilities: Tensor, labels: Tensor) -> tuple[float, float]:
    losses = _losses(probabilities, labels)
    if len(losses) == 1:  # says nothing of how losses spread, so it may be any
        return 0.0, -math.log(KAGGLE_CLIP)
    reach = NORMAL_QUANTILE * losses.std().item() / math.sqrt(len(losses))
    return max(0.0, losses.mean().item() - reach), losses.mean().item() + reach


def _bootstrap(probabilities: Tensor, labels: Tensor) -> tuple[float, float]:
    """Of the macro F1, by drawing as many pairs of label and prediction as there are, again and again."""
    predicted, labels = probabilities.argmax(dim=1).cpu(), labels.cpu()
    classes = probabilities.shape[1]
    kinds, kind_of = (labels * classes + predicted).unique(return_inverse=True)  # of such pairs; counted, not listed
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
        scores.append(_mean_f1(torch.stack(sums)))
    low, high = torch.cat(scores).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


METRICS = {
    metric.name: metric
    for metric in (
        Metric("accuracy", _hits, _mean, _wilson, higher_is_better=True),
        Metric("log_loss", _log_losses, _mean, _around_the_mean, higher_is_better=False),
        Metric("f1_macro", _confusions, _f1_macro, _bootstrap, higher_is_better=True),
        Metric("f1_micro", _confusions, _f1_micro, _wilson, higher_is_better=True),
    )
}
