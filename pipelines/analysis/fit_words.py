"""Say in a sentence how a training went, from its history."""

import math
from collections.abc import Mapping, Sequence

from pipelines.settings.metrics import METRICS

FEWEST = 4  # epochs that show a trend
RISE = 0.1  # of the whole fall of the validation loss
GAIN = 0.02  # of the whole gain of the score


def describe_fit(rows: Sequence[Mapping[str, float]], metric: str) -> str:
    """Return whether a training overfits, could go on, or has levelled off; empty for too few epochs.

    rows: of history.csv. Only trends count: the training loss is that of augmented images, so its level cannot be
    compared with that of the validation loss. Ends of the training are means of its last `tail` epochs, an eighth of
    all and at least one.

    Overfits: since its lowest point the validation loss has risen by more than `RISE` of its whole fall, while the
    training loss fell. Could go on: the score gained more than `GAIN` of its whole gain in the last quarter of the
    epochs. Otherwise it has levelled off.
    """
    rows = [row for row in rows if math.isfinite(row.get("valid_loss", math.nan))]
    if len(rows) < FEWEST:
        return ""
    tail = max(1, len(rows) // 8)
    loss = [row["valid_loss"] for row in rows]
    lowest = min(range(len(rows)), key=loss.__getitem__)
    rise, fall = _mean(loss[-tail:]) - loss[lowest], max(loss[: lowest + 1]) - loss[lowest]
    trained = [row["train_loss"] for row in rows]
    if rise > RISE * fall and _mean(trained[-tail:]) < trained[lowest]:
        return (
            f"It overfits: since epoch {rows[lowest]['epoch']:.0f} the validation loss has risen from "
            f"{loss[lowest]:.4f} to {_mean(loss[-tail:]):.4f}, while the training loss fell. More augmentation, weight "
            "decay or fewer epochs may help."
        )
    sign = 1 if METRICS[metric].higher_is_better else -1
    scores = [sign * row[metric] for row in rows if math.isfinite(row[metric])]
    before = max(scores[: -max(tail, len(scores) // 4)], default=math.nan)
    if scores and max(scores) - before > GAIN * (max(scores) - scores[0]):
        return f"It could go on: {metric} still improved in the last quarter of the epochs. More epochs may help."
    return (
        f"It has levelled off: neither {metric} nor the validation loss changed much in the last quarter of the epochs."
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
