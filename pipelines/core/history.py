"""The history of a training: one plain row per epoch, and which epoch is the best."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pipelines.core.engine import EpochResult
from pipelines.core.metrics import METRICS
from pipelines.dataset.loading import training_size
from pipelines.settings.schema import Settings
from pipelines.system.files import atomic_file

Row = dict[str, Any]


def history_row(result: EpochResult, metric: str) -> Row:
    """Return the row of an epoch."""
    row: Row = {"epoch": result.epoch, "train_loss": result.train_loss}
    if result.valid is not None:
        row |= {"valid_loss": result.valid.loss, metric: result.valid.score}
        row |= dict(zip(interval_columns(metric), result.valid.bounds, strict=True))
    return row | {"lr": result.lr, "images_per_second": result.images_per_second, "seconds": result.seconds}


def interval_columns(metric: str) -> tuple[str, str]:
    """Return the names of the columns with the bounds of the metric's 95 % interval."""
    return f"{metric}_low", f"{metric}_high"


def best_row(rows: Sequence[Row], metric: str) -> Row:
    """Return the row of the best epoch by the metric; of equal ones that with the lower loss."""
    return min(rows, key=lambda row: (badness(row[metric], metric), row["valid_loss"]))


def badness(score: float, metric: str) -> float:
    """Return `score` with the sign for which lower is better."""
    return -score if METRICS[metric].higher_is_better else score


def patience_spent(rows: Sequence[Row], settings: Settings) -> bool:
    """Whether `train.patience` epochs have passed without a better score.

    The epochs of the head alone and those on smaller images do not count: the epochs after them score better.
    """
    patience, metric = settings.train.patience, settings.competition.metric
    if not patience or not rows or metric not in rows[-1]:
        return False
    epochs = range(1, settings.train.epochs + 1)
    smaller = [epoch for epoch in epochs if training_size(settings, epoch) < settings.input.size]
    return len(rows) - max(best_row(rows, metric)["epoch"], settings.tuning.head_epochs, *smaller) >= patience


def write_history(path: Path, rows: Sequence[Row]) -> None:
    """Write the rows as a CSV."""
    with atomic_file(path, make_folder=False) as partial:
        pd.DataFrame(rows).to_csv(partial, index=False, lineterminator="\n")
