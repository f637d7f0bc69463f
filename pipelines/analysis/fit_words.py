"""What the history of a training says about over- and underfitting, in one sentence."""

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

from pipelines.settings.metrics import METRICS

FEWEST = 5  # epochs that show a trend
PART = 5  # the last part of a training is a fifth of its epochs
RISE = 0.05  # of the least validation loss: a larger rise counts
GAIN = 0.02  # of the range of all scores: a larger gain counts
FALL = 0.02  # of the training loss: a larger fall counts


def describe_fit(rows: Sequence[Mapping[str, Any]], metric: str) -> str:
    """Return a sentence on over- or underfitting, from the rows of history.csv and the name of the metric.

    The levels of the two losses cannot be compared: the training loss is that of augmented images, with smoothed labels
    and weights that still change.  So the rule looks at trends alone, at medians of the last fifth of the epochs, two
    at least, and of the fifth before it.  The first that holds is returned:

    1. Too short: fewer than 5 epochs have finite values.
    2. Overfitting: in the last fifth the validation loss is more than 5 % above its minimum, which came before, and the
       training loss is below its value at that minimum.  Where the score is better than it was at that minimum, only
       the probabilities got worse.
    3. Not finished: the score is better than a fifth before, by more than 2 % of the range of all scores.
    4. Fitted: the training loss is still more than 2 % below the fifth before, though the score gains nothing.
    5. Levelled off: neither changes.
    """
    known = [row for row in rows if all(math.isfinite(row[key]) for key in ("train_loss", "valid_loss", metric))]
    if len(known) < FEWEST:
        return f"{len(known)} epochs are too few to tell overfitting from underfitting."
    part = max(2, len(known) // PART)
    last, before = known[-part:], known[-2 * part : -part]

    def typical(some: Sequence[Mapping[str, Any]], key: str) -> float:
        return float(median(row[key] for row in some))

    sign = 1 if METRICS[metric].higher_is_better else -1
    least = min(known, key=lambda row: row["valid_loss"])
    rises = typical(last, "valid_loss") > (1 + RISE) * least["valid_loss"]
    if rises and least not in last and typical(last, "train_loss") < least["train_loss"]:
        return _overfitting(least, last, metric, sign, typical)
    scores = [row[metric] for row in known]
    gain = sign * (typical(last, metric) - typical(before, metric))
    if gain > GAIN * (max(scores) - min(scores)):
        return (
            f"Not finished: valid {metric} still got better in the last {part} epochs, from "
            f"{typical(before, metric):.4f} to {typical(last, metric):.4f}, so more epochs (train.epochs) may help."
        )
    if typical(last, "train_loss") < (1 - FALL) * typical(before, "train_loss"):
        return (
            f"Fitted: the training loss still fell in the last {part} epochs, but valid {metric} gained nothing, so "
            "more epochs alone would hardly help."
        )
    return (
        f"Levelled off: in the last {part} epochs neither the training loss nor valid {metric} got better; if the "
        "score is low, this is underfitting: try a higher train.lr, a larger network or weaker augmentation."
    )


def _overfitting(
    least: Mapping[str, Any],
    last: Sequence[Mapping[str, Any]],
    metric: str,
    sign: int,
    typical: Callable[[Sequence[Mapping[str, Any]], str], float],
) -> str:
    losses = (
        f"after epoch {least['epoch']:g} the validation loss rose from {least['valid_loss']:.4f} to "
        f"{typical(last, 'valid_loss'):.4f}, while the training loss fell"
    )
    if sign * (typical(last, metric) - least[metric]) > 0:
        return (
            f"Overfitting of the probabilities, not of the decisions: {losses}, but valid {metric} got better; "
            "train.label_smoothing, augment.mixup or stronger augmentation make the network less sure."
        )
    return (
        f"Overfitting: {losses} and valid {metric} got no better; try stronger augmentation, more train.weight_decay "
        "or fewer epochs."
    )
