"""One training from settings to checkpoints: what train and retrain share.

After every epoch the state is written, so that a run killed at any moment goes on where it was.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pipelines.core import checkpoint, engine
from pipelines.core.batches import BatchSource, WatchedBatches, open_source
from pipelines.core.checkpoint import Checkpoint
from pipelines.core.device import Hardware, choose_hardware, make_deterministic
from pipelines.core.errors import UserError
from pipelines.core.files import atomic_file
from pipelines.core.layout import Layout
from pipelines.core.metrics import METRICS
from pipelines.core.models import build_model
from pipelines.core.optim import make_optimizer, make_schedule
from pipelines.core.seeds import derive_seed
from pipelines.core.settings import Settings
from pipelines.core.watch import Watch, unwatched

Row = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One training: what learns from which rows, for how long, and where its state is kept.

    table: the whole split table.  train, valid: the parts of it to learn from and to score on; valid is None when all
    labelled rows are learned from.  best: where the best epoch is kept, when there is a score.
    """

    settings: Settings
    classes: list[str]
    table: pd.DataFrame
    train: pd.DataFrame
    valid: pd.DataFrame | None
    epochs: int
    layout: Layout
    last: Path
    history: Path
    best: Path | None = None


def divide_rows(table: pd.DataFrame, settings: Settings) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows to learn from and those to validate on, as `train.limit` and `train.fold` choose them."""
    labelled = table[table["split"] != "test"]
    if settings.train.limit:
        labelled = labelled.head(settings.train.limit)
    has_folds = settings.split.folds > 0
    valid = labelled["fold"] == settings.train.fold if has_folds else labelled["split"] == "valid"
    if not valid.any() or valid.all():
        raise UserError(
            f"Of the {len(labelled)} labelled rows chosen (train.limit={settings.train.limit}, "
            f"train.fold={settings.train.fold}), {valid.sum()} are for validation; both parts must have some."
        )
    return labelled[~valid], labelled[valid]


def run_job(job: Job, watch: Watch = unwatched) -> Iterator[Row]:
    """Train, and yield one plain row per epoch, beginning after the last epoch that is already saved.

    Each row is yielded after its epoch's state was written.  Stops early when `train.patience` runs out.
    """
    settings = job.settings
    make_deterministic()
    hardware = choose_hardware(settings.hardware)
    learner = make_learner(settings, len(job.classes), hardware)
    metric = METRICS[settings.competition.metric]
    rows = _resume(job, learner)
    if rows:
        _write_history(job.history, rows)  # it may have been killed between the checkpoint and this
    if job.epochs <= len(rows) or _patience_spent(rows, settings, metric.name):
        return

    def open_watched(part: pd.DataFrame, what: str, training: bool) -> BatchSource:
        source = open_source(settings, part, job.table, job.layout, job.classes, hardware.device, training, watch)
        return WatchedBatches(source, what, watch)

    train = open_watched(job.train, "epoch", training=True)
    valid = open_watched(job.valid, "validating", training=False) if job.valid is not None else None
    remaining = range(len(rows) + 1, job.epochs + 1)
    for result in engine.fit(learner, train, valid, metric, remaining, settings.train.seed):
        rows.append(_history_row(result, metric.name))
        score = result.valid.score if result.valid is not None else None
        if job.best is not None and score is not None and _best_epoch(rows, metric.name) == result.epoch:
            checkpoint.save(job.best, _checkpoint(job, learner, rows, score))
        checkpoint.save(job.last, _checkpoint(job, learner, rows, score, going_on=True))
        _write_history(job.history, rows)
        yield rows[-1]
        if _patience_spent(rows, settings, metric.name):
            return


def read_history(job: Job) -> list[Row]:
    """Return the rows of all epochs that are saved."""
    return checkpoint.load(job.last).history if job.last.exists() else []


def best_row(rows: Sequence[Row], metric: str) -> Row:
    """Return the history row of the best epoch: by the metric in its own direction, of equals by the lower loss."""
    return rows[_best_epoch(rows, metric) - 1]


def make_learner(settings: Settings, classes: int, hardware: Hardware) -> engine.Learner:
    """Return a learner with fresh weights, seeded by `train.seed`."""
    train = settings.train
    torch.manual_seed(derive_seed(train.seed, "weights"))
    # Channels last in memory, which is how images arrive and what the fast convolution kernels want.
    model = to_device(build_model(settings.model, classes), hardware)
    averaged = None
    if train.ema_decay:
        averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(train.ema_decay), use_buffers=True)
    return engine.Learner(
        model,
        make_optimizer(model, train),
        make_schedule(train),
        hardware,
        averaged,
        label_smoothing=train.label_smoothing,
        clip_norm=train.clip_norm,
    )


def to_device(model: nn.Module, hardware: Hardware) -> nn.Module:
    return model.to(hardware.device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def _checkpoint(
    job: Job, learner: engine.Learner, rows: list[Row], score: float | None, going_on: bool = False
) -> Checkpoint:
    """The state after the last of `rows`; with `going_on`, all that is needed to train further."""
    training: dict[str, Any] = {}
    if going_on:
        training["optimizer"] = learner.optimizer.state_dict()
        training["model"] = learner.model.state_dict()
        if learner.averaged is not None:
            training["averaged"] = learner.averaged.state_dict()
    weights = learner.result.state_dict()
    return Checkpoint(job.settings, job.classes, weights, len(rows), score, rows, training)


def _resume(job: Job, learner: engine.Learner) -> list[Row]:
    """Put the saved state into `learner` and return the history so far; nothing saved, nothing done."""
    if not job.last.exists():
        return []
    saved = checkpoint.load(job.last)
    saved.check_classes(job.classes)
    learner.model.load_state_dict(saved.training["model"])
    learner.optimizer.load_state_dict(saved.training["optimizer"])
    if learner.averaged is not None:
        learner.averaged.load_state_dict(saved.training["averaged"])
    return saved.history


def _history_row(result: engine.EpochResult, metric: str) -> Row:
    row: Row = {"epoch": result.epoch, "train_loss": result.train_loss}
    if result.valid is not None:
        row |= {"valid_loss": result.valid.loss, metric: result.valid.score}
    return row | {"lr": result.lr, "images_per_second": result.images_per_second, "seconds": result.seconds}


def _best_epoch(rows: Sequence[Row], metric: str) -> int:
    sign = -1 if METRICS[metric].higher_is_better else 1
    return min(rows, key=lambda row: (sign * row[metric], row["valid_loss"]))["epoch"]


def _patience_spent(rows: Sequence[Row], settings: Settings, metric: str) -> bool:
    patience = settings.train.patience
    if not patience or not rows or metric not in rows[-1]:
        return False
    return len(rows) - _best_epoch(rows, metric) >= patience


def _write_history(path: Path, rows: Sequence[Row]) -> None:
    with atomic_file(path) as partial:
        pd.DataFrame(rows).to_csv(partial, index=False, lineterminator="\n")
