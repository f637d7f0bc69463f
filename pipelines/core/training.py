"""One training from settings to checkpoints: what train and retrain share.

After every epoch the state is written, so that a run killed at any moment goes on where it was.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pipelines.core import checkpoint, engine, precision
from pipelines.core.calibration import cross_fitted
from pipelines.core.checkpoint import Checkpoint
from pipelines.core.metrics import METRICS
from pipelines.core.optim import make_optimizer, make_schedule
from pipelines.dataset.batches import BatchSource, WatchedBatches, labels_of, make_loading, open_source, training_size
from pipelines.dataset.decodable import check_decodable
from pipelines.models.device import Hardware, choose_hardware, make_deterministic
from pipelines.models.features import FeatureBatches, Features, compute_features, views_of
from pipelines.models.networks import whitening_of
from pipelines.models.transfer import WHOLE, FineTuned, learned_state, load_learned
from pipelines.settings.layout import Layout
from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError
from pipelines.system.files import atomic_file
from pipelines.system.watch import Watch, unwatched

Row = dict[str, Any]

WHITENED_IMAGES = 5000  # their patches say enough of what all are like


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


@dataclass(frozen=True)
class Phase:
    """Epochs, `first` to `last`, in which the same parts learn from the same kind of batches.

    head_only: the pretrained network is frozen.  cached: the head learns from features that are kept on disk.
    lr: the peak learning rate.
    """

    first: int
    last: int
    head_only: bool
    cached: bool
    lr: float


def phases(settings: Settings) -> list[Phase]:
    """Return the phases of training: one, or the head's own epochs first."""
    train, finetune = settings.train, settings.tuning
    cached = settings.features.cached  # of a frozen network, that is
    if finetune.frozen_stages == WHOLE:
        return [Phase(1, train.epochs, head_only=True, cached=cached, lr=train.lr)]
    found = []
    if finetune.head_epochs:
        found.append(Phase(1, finetune.head_epochs, head_only=True, cached=cached, lr=finetune.head_lr or train.lr))
    found.append(Phase(finetune.head_epochs + 1, train.epochs, head_only=False, cached=False, lr=train.lr))
    return found


def prepare_features(job: Job, network: nn.Module, watch: Watch = unwatched) -> str:
    """Compute the features that the job will need and that are not kept yet; return what there are now, for people.

    Returns an empty text where the job learns from images.
    """
    if not any(phase.cached for phase in phases(job.settings)) or not isinstance(network, FineTuned):
        return ""
    make_deterministic()
    hardware = choose_hardware(job.settings.hardware)
    to_device(network, hardware)
    parts = [job.train] if job.valid is None else [job.train, job.valid]
    kept = open_features(job.settings, pd.concat(parts), job.table, job.layout, network, hardware, watch)
    return kept.describe()


def settle_precision(
    settings: Settings, note: Path, network: nn.Module | None = None, images: int = 0
) -> tuple[Settings, str]:
    """Return `settings` with the precision to compute in, and the reason for it (see `precision`); heads on cached
    features are trained in float32 anyway, and their features' precision is chosen by likeness."""
    if all(phase.cached for phase in phases(settings)):
        return settings, ""
    make_deterministic()
    return precision.settle_precision(settings, note, network, images)


def check_test_photos(settings: Settings, table: pd.DataFrame, layout: Layout, watch: Watch = unwatched) -> None:
    """Decode the test photos once, so that `predict` does not find a broken one after all training is done."""
    tested = table[table["split"] == "test"]
    if settings.input.source == "photos" and not tested.empty:
        check_decodable(tested, tested, layout.raw, layout.cache, "test", watch)


def outputs_started(network: nn.Module) -> int:
    """Return how many of the network's outputs a label map started from pretrained ones."""
    return network.matched if isinstance(network, FineTuned) else 0


def describe_phases(settings: Settings, network: nn.Module) -> list[dict[str, Any]]:
    """Return what learns in each phase, a plain row for each part of a pretrained network; none for other networks."""
    if not isinstance(network, FineTuned):
        return []
    rows = []
    for phase in phases(settings):
        network.freeze(WHOLE if phase.head_only else settings.tuning.frozen_stages, settings.tuning.freeze_norms)
        for part in network.parts(settings.tuning.backbone_lr):
            decay = settings.train.weight_decay if part.lr_share else None
            lr = part.lr_share * phase.lr if part.lr_share else None
            rows.append(
                {
                    "epochs": f"{phase.first}-{phase.last}",
                    "part": part.name,
                    "parameters": part.parameters,
                    "lr": lr,
                    "weight_decay": decay,
                }
            )
    return rows


def run_job(job: Job, network: nn.Module, watch: Watch = unwatched) -> Iterator[Row]:
    """Train `network`, fresh from `build_network`, and yield one plain row per epoch, beginning after the last epoch
    that is already saved.

    Each row is yielded after its epoch's state was written.  Stops early when `train.patience` runs out.
    """
    settings = job.settings
    make_deterministic()
    hardware = choose_hardware(settings.hardware)
    to_device(network, hardware)
    metric = METRICS[settings.competition.metric]
    saved = checkpoint.load(job.last) if job.last.exists() else None
    rows: list[Row] = []
    job.last.parent.mkdir(parents=True, exist_ok=True)
    if saved is not None:
        saved.check_classes(job.classes)
        load_learned(network, saved.weights)
        rows = saved.history
        _write_history(job.history, rows)  # it may have been killed between the checkpoint and this
    else:
        _fit_whitening(job, network, hardware, watch)
    for phase in phases(settings):
        remaining = range(max(phase.first, len(rows) + 1), min(phase.last, job.epochs) + 1)
        if not remaining or _patience_spent(rows, settings, metric.name):
            continue
        learner = make_learner(settings, network, phase, hardware)
        if saved is not None and remaining.start > phase.first:
            _restore(learner, saved)
        train = _open(job, job.train, "epoch", phase, network, hardware, watch, training=True)
        valid = None
        if job.valid is not None:
            valid = _open(job, job.valid, "validating", phase, network, hardware, watch, training=False)
        results = engine.fit(learner, train, valid, metric, remaining, settings.train.seed)
        for result in _compiled(results) if settings.hardware.compile_training else results:
            rows.append(_history_row(result, metric.name))
            score = result.valid.score if result.valid is not None else None
            if job.best is not None and score is not None and _best_epoch(rows, metric.name) == result.epoch:
                checkpoint.save(job.best, _checkpoint(job, learner, phase, rows, score))
            checkpoint.save(job.last, _checkpoint(job, learner, phase, rows, score, going_on=True))
            _write_history(job.history, rows)
            yield rows[-1]
            if _patience_spent(rows, settings, metric.name):
                return
        load_learned(network, learned_state(learner.result, phase.head_only))  # where the next phase begins


def _compiled(results: Iterator[engine.EpochResult]) -> Iterator[engine.EpochResult]:
    """Yield the `results` of a network that is compiled; where that fails, say which setting asked for it."""
    from torch._dynamo.exc import TorchDynamoException  # takes a second, which only this way should cost

    try:
        yield from results
    except TorchDynamoException as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"hardware.compile_training: the network cannot be compiled here: {reason}. Set it to false."
        ) from error


def _fit_whitening(job: Job, network: nn.Module, hardware: Hardware, watch: Watch) -> None:
    """Fit the network's whitening, if it has any, to some of the images that it is to learn from, as evaluation sees
    them."""
    whitening = whitening_of(network)
    if whitening is not None:
        every = max(len(job.train) // WHITENED_IMAGES, 1)  # rows may be sorted by class
        some = job.train.iloc[::every].head(WHITENED_IMAGES)
        source = open_source(job.settings, some, job.table, job.layout, job.classes, hardware.device, watch=watch)
        whitening.fit(batch.inputs for batch in source.batches(0))


def try_out(job: Job, network: nn.Module) -> Row:
    """Train the head of `network` without keeping anything, and return the epoch and score of its best epoch.

    For log loss it is scored as `predict` would: with a temperature, each row's fitted on others.
    """
    settings, (phase,) = job.settings, phases(job.settings)
    assert job.valid is not None
    make_deterministic()
    hardware = choose_hardware(settings.hardware)
    to_device(network, hardware)
    metric = METRICS[settings.competition.metric]
    learner = make_learner(settings, network, phase, hardware)
    train = _open(job, job.train, "", phase, network, hardware, unwatched, training=True)
    valid = _open(job, job.valid, "", phase, network, hardware, unwatched, training=False)
    labels = labels_of(job.valid, job.classes)
    trials: list[Row] = []
    for result in engine.fit(learner, train, None, metric, range(1, job.epochs + 1), settings.train.seed):
        predicted = torch.cat(
            [each.cpu() for _, each in engine.infer(learner.result, valid, learner.hardware, learner.views)]
        )
        if metric.name == "log_loss" and settings.predict.calibrate:
            predicted = cross_fitted(predicted, labels)
        score = metric.value(metric.sums(predicted.double().exp(), labels))
        trials.append({"epoch": result.epoch, metric.name: score})
    return min(trials, key=lambda trial: badness(trial[metric.name], metric.name))


def badness(score: float, metric: str) -> float:
    """Return `score` with the sign that makes the best one the lowest."""
    return -score if METRICS[metric].higher_is_better else score


def _open(
    job: Job,
    part: pd.DataFrame,
    what: str,
    phase: Phase,
    network: nn.Module,
    hardware: Hardware,
    watch: Watch,
    training: bool,
) -> BatchSource:
    """Return the batches of `part` that the phase learns from, or validates on."""
    settings = job.settings
    if phase.cached:
        features = open_features(settings, part, job.table, job.layout, network, hardware, watch)
        loading = make_loading(settings, len(job.classes), hardware.device, training)
        source: BatchSource = FeatureBatches(part["id"].to_numpy(), features, labels_of(part, job.classes), loading)
    else:
        source = open_source(settings, part, job.table, job.layout, job.classes, hardware.device, training, watch)
    return WatchedBatches(source, what, watch)


def open_features(
    settings: Settings,
    rows: pd.DataFrame,
    table: pd.DataFrame,
    layout: Layout,
    network: nn.Module,
    hardware: Hardware,
    watch: Watch = unwatched,
) -> Features:
    """Return the features of `rows`, those of the split table `table`, by the backbones of `network`."""
    assert isinstance(network, FineTuned)
    return compute_features(settings, rows, table, layout.raw, layout.cache, network, hardware, watch)


@dataclass(frozen=True)
class Predictor:
    """A trained network, what it is to predict, and the views over which it averages: what `engine.infer` takes."""

    model: nn.Module
    source: BatchSource
    hardware: Hardware
    views: tuple[engine.View, ...]


def open_predictor(
    saved: Checkpoint,
    settings: Settings,
    rows: pd.DataFrame,
    table: pd.DataFrame,
    layout: Layout,
    classes: list[str],
    watch: Watch = unwatched,
) -> Predictor:
    """Return the network of the checkpoint `saved` and the batches of `rows`, of the split table `table`.

    settings: the run's, with the prediction's and hardware's of today.  A head on frozen backbones is given their
    features, as it was in training.
    """
    make_deterministic()
    hardware = choose_hardware(settings.hardware)
    network = to_device(saved.model(classes, layout.weights), hardware)
    if not (saved.head_only and settings.features.cached):
        source = open_source(settings, rows, table, layout, classes, hardware.device, watch=watch)
        views = engine.make_views(settings.predict.mirror, settings.predict.shift)
        return Predictor(network, source, hardware, views)
    assert isinstance(network, FineTuned)
    features = open_features(settings, rows, table, layout, network, hardware, watch)
    loading = make_loading(settings, len(classes), hardware.device, training=False)
    kept = FeatureBatches(rows["id"].to_numpy(), features, labels_of(rows, classes), loading)
    return Predictor(network.top, kept, _exact(hardware), engine.feature_views(features.views))


def read_history(job: Job) -> list[Row]:
    """Return the rows of all epochs that are saved."""
    return checkpoint.load(job.last).history if job.last.exists() else []


def best_row(rows: Sequence[Row], metric: str) -> Row:
    """Return the history row of the best epoch: by the metric in its own direction, of equals by the lower loss."""
    return rows[_best_epoch(rows, metric) - 1]


def interval_columns(metric: str) -> tuple[str, str]:
    """Return the columns of the history that hold the bounds of the metric's 95 % interval."""
    return f"{metric}_low", f"{metric}_high"


def make_learner(settings: Settings, network: nn.Module, phase: Phase, hardware: Hardware) -> engine.Learner:
    """Return what learns in `phase`: `network`, or its top alone where that sees cached features."""
    train = replace(settings.train, lr=phase.lr, epochs=phase.last - phase.first + 1)
    schedule = make_schedule(train)
    model: nn.Module = network
    views: tuple[engine.View, ...] = (engine.unchanged,)
    pretrained: list[nn.Parameter] = []
    if isinstance(network, FineTuned):
        network.freeze(WHOLE if phase.head_only else settings.tuning.frozen_stages, settings.tuning.freeze_norms)
        pretrained = list(network.pretrained_parameters()) if settings.model.pretrained else []
        if phase.cached:
            model, hardware = network.top, _exact(hardware)
            views = engine.feature_views(len(views_of(settings)))
    averaged = None
    if train.ema_decay:
        averaged = AveragedModel(model, multi_avg_fn=_averaging(train.ema_decay), use_buffers=True)
    if settings.hardware.compile_training:
        model.compile()  # in place, so that the names of its weights stay
    return engine.Learner(
        model,
        make_optimizer(model, train, pretrained, settings.tuning.backbone_lr),
        lambda progress: schedule(progress - (phase.first - 1)),
        hardware,
        averaged,
        label_smoothing=train.label_smoothing,
        clip_norm=train.clip_norm,
        views=views,
    )


def _averaging(decay: float) -> Callable[[Any, Any, Any], None]:
    """Return the update of an exponential moving average, by which counters are copied: averaged, they are rounded."""
    update = get_ema_multi_avg_fn(decay)

    def average(averaged: Sequence[Tensor], current: Sequence[Tensor], steps: Any) -> None:
        if averaged[0].is_floating_point():  # they come grouped by type
            update(averaged, current, steps)
        else:
            for mine, newest in zip(averaged, current, strict=True):
                mine.copy_(newest)

    return average


def _exact(hardware: Hardware) -> Hardware:
    """Heads on features are small: float32 costs them nothing."""
    return replace(hardware, dtype=torch.float32)


def to_device(model: nn.Module, hardware: Hardware) -> nn.Module:
    """Move `model` to the device, channels last in memory: so images arrive, and so the fast convolutions want it."""
    return model.to(hardware.device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def _checkpoint(
    job: Job, learner: engine.Learner, phase: Phase, rows: list[Row], score: float | None, going_on: bool = False
) -> Checkpoint:
    """The state after the last of `rows`; with `going_on`, all that is needed to train further."""
    training: dict[str, Any] = {}
    if going_on:
        training["optimizer"] = learner.optimizer.state_dict()
        if learner.averaged is not None:  # else `weights` are the model's own
            training["model"] = learned_state(learner.model, phase.head_only)
            training["averaged_steps"] = learner.averaged.n_averaged
    weights = learned_state(learner.result, phase.head_only)
    return Checkpoint(job.settings, job.classes, weights, len(rows), score, rows, training)


def _restore(learner: engine.Learner, saved: Checkpoint) -> None:
    """Put back the state in the middle of a phase."""
    learner.optimizer.load_state_dict(saved.training["optimizer"])
    load_learned(learner.result, saved.weights)
    if learner.averaged is not None:
        load_learned(learner.model, saved.training["model"])
        learner.averaged.n_averaged = saved.training["averaged_steps"]


def _history_row(result: engine.EpochResult, metric: str) -> Row:
    row: Row = {"epoch": result.epoch, "train_loss": result.train_loss}
    if result.valid is not None:
        row |= {"valid_loss": result.valid.loss, metric: result.valid.score}
        row |= dict(zip(interval_columns(metric), result.valid.bounds, strict=True))
    return row | {"lr": result.lr, "images_per_second": result.images_per_second, "seconds": result.seconds}


def _best_epoch(rows: Sequence[Row], metric: str) -> int:
    return min(rows, key=lambda row: (badness(row[metric], metric), row["valid_loss"]))["epoch"]


def _patience_spent(rows: Sequence[Row], settings: Settings, metric: str) -> bool:
    patience = settings.train.patience
    if not patience or not rows or metric not in rows[-1]:
        return False
    # The head's own epochs, and those on smaller images, end when they are over: what comes then scores better.
    epochs = range(1, settings.train.epochs + 1)
    smaller = [epoch for epoch in epochs if training_size(settings, epoch) < settings.input.size]
    return len(rows) - max(_best_epoch(rows, metric), settings.tuning.head_epochs, *smaller) >= patience


def _write_history(path: Path, rows: Sequence[Row]) -> None:
    with atomic_file(path, make_folder=False) as partial:
        pd.DataFrame(rows).to_csv(partial, index=False, lineterminator="\n")
