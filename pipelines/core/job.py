"""One training from settings to checkpoints, for train, retrain and sweep.

The state is written after every epoch, so a run that is killed at any moment continues from there.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from pipelines.core import checkpoint, engine
from pipelines.core.checkpoint import Checkpoint
from pipelines.core.decide import Judge, make_judge
from pipelines.core.phases import Phase, Sources, make_learner, phases
from pipelines.core.processes import join_norms
from pipelines.core.tasks import Scale, Task, training_task
from pipelines.dataset.image_set import ImageSet
from pipelines.dataset.loading import WatchedBatches, training_size
from pipelines.models.device import Hardware, settle
from pipelines.models.networks import whitening_of
from pipelines.models.transfer import FineTuned, learned_state, load_learned
from pipelines.settings.layout import StateFiles
from pipelines.settings.metrics import badness
from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError
from pipelines.system.files import atomic_file
from pipelines.system.group import ALONE, Group
from pipelines.system.watch import Watch, unwatched

Row = dict[str, Any]  # of the history

WHITENED_IMAGES = 5000  # their patches are a large enough sample


@dataclass(frozen=True)
class Job:
    """One training: its settings, images, number of epochs, and the files of its state.

    valid: None where all labelled rows are trained on.  files.best is written only with a validation set.
    """

    settings: Settings
    train: ImageSet
    valid: ImageSet | None
    epochs: int
    files: StateFiles
    hardware: Hardware
    watch: Watch = unwatched

    def sources(self, network: nn.Module, group: Group = ALONE) -> Sources:
        return Sources(self.settings, network, self.hardware, self.watch, group)

    def task(self, scale: Scale | None = None) -> Task:
        """Return the task, with the `scale` of a checkpoint where the training resumes."""
        return training_task(self.settings, self.train, self.valid, scale)

    def judge(self, calibrated: bool = False) -> Judge:
        """Return what scores the validation set; calibrated: with a temperature, where the metric is a log loss."""
        return make_judge(self.settings, self.train.classes, self.train.labels, calibrated)


def run_job(job: Job, network: nn.Module, group: Group = ALONE) -> Iterator[Row]:
    """Train `network`, fresh from `build_network`; yield one row per epoch, from the first epoch that is not saved yet.

    A row is yielded after the state of its epoch was written.  Stops early when `train.patience` is spent.  The
    processes of `group` share the training, unless a solver finds the head: this takes all examples at once.
    """
    saved = checkpoint.load(job.files.last) if job.files.last.exists() else None
    job.files.last.parent.mkdir(parents=True, exist_ok=True)
    if saved is not None:
        saved.check_classes(job.train.classes)
        write_history(job.files.history, saved.history)  # the process may have been killed before it wrote this
    else:
        to_device(network, job.hardware)
        _fit_whitening(job, network)
    if job.settings.train.optimizer == "lbfgs":
        with group.idle():
            yield from _epochs(job, network, saved, ALONE)
        return
    if group.world > 1:
        network.cpu()  # from where each process moves it to its own device
    with group.sharing(_take_part, replace(job, watch=unwatched), network, saved):
        yield from _epochs(job, network, saved, group)


def _take_part(group: Group, job: Job, network: nn.Module, saved: Checkpoint | None) -> None:
    """Train along with the main process, in another one."""
    settle(job.settings.hardware)
    for _ in _epochs(replace(job, hardware=job.hardware.of(group)), network, saved, group):
        pass


def _epochs(job: Job, network: nn.Module, saved: Checkpoint | None, group: Group) -> Iterator[Row]:
    """Yield what `run_job` does, from the state `saved`; only the main process writes."""
    settings = job.settings
    to_device(network, job.hardware)
    join_norms(network, job.hardware, group, settings.train.batch_size)
    rows: list[Row] = []
    if saved is not None:
        load_learned(network, saved.weights)
        rows = saved.history
    task, judge = job.task(saved.scale if saved else None), job.judge()
    for phase in phases(settings):
        remaining = range(max(phase.first, len(rows) + 1), min(phase.last, job.epochs) + 1)
        if not remaining or patience_spent(rows, settings):
            continue
        learner = make_learner(settings, network, phase, job.hardware, task, judge)
        if saved is not None and remaining.start > phase.first:
            _restore(learner, saved)
        sources = job.sources(network, group)
        train = WatchedBatches(sources.open(job.train, phase.cached, training=True), "epoch", job.watch)
        valid = None
        if job.valid is not None:
            valid = WatchedBatches(sources.open(job.valid, phase.cached), "validating", job.watch)
        results = engine.fit(learner, train, valid, remaining, settings.train.seed)
        for result in _explained(results) if settings.hardware.compile_training else results:
            rows.append(history_row(result, judge.name))
            if group.is_main:
                _save(job, learner, phase, rows)
            yield rows[-1]
            if patience_spent(rows, settings):
                return
        load_learned(network, learned_state(learner.result, phase.head_only))  # the start of the next phase


def _save(job: Job, learner: engine.Learner, phase: Phase, rows: list[Row]) -> None:
    """Write the state after the last of `rows`: the last checkpoint, the best one if it is that, and the history."""
    metric = job.settings.competition.metric
    score = rows[-1].get(metric)
    weights = learned_state(learner.result, phase.head_only)
    saved = Checkpoint(job.settings, job.train.classes, weights, len(rows), score, rows, scale=dict(learner.task.scale))
    if job.files.best is not None and score is not None and best_row(rows, metric) is rows[-1]:
        checkpoint.save(job.files.best, saved)
    training: dict[str, Any] = {"optimizer": learner.optimizer.state_dict()}
    if learner.averaged is not None:  # otherwise `weights` are the model's own
        training["model"] = learned_state(learner.model, phase.head_only)
        training["averaged_steps"] = learner.averaged.n_averaged
    checkpoint.save(job.files.last, replace(saved, training=training))
    write_history(job.files.history, rows)


def _restore(learner: engine.Learner, saved: Checkpoint) -> None:
    """Load the state from the middle of a phase."""
    learner.optimizer.load_state_dict(saved.training["optimizer"])
    if learner.averaged is not None:
        load_learned(learner.model, saved.training["model"])
        learner.averaged.n_averaged = saved.training["averaged_steps"]
    load_learned(learner.result, saved.weights)


def _explained(results: Iterator[engine.EpochResult]) -> Iterator[engine.EpochResult]:
    """Yield the `results` of a compiled network; name the setting where compilation fails."""
    from torch._dynamo.exc import TorchDynamoException  # takes a second to import

    try:
        yield from results
    except TorchDynamoException as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"hardware.compile_training: the network cannot be compiled here: {reason}. Set it to false."
        ) from error


def _fit_whitening(job: Job, network: nn.Module) -> None:
    """Fit the network's whitening layer, if it has one, to training images as evaluation sees them."""
    if whitening := whitening_of(network):
        every = max(len(job.train) // WHITENED_IMAGES, 1)  # rows may be sorted by class
        some = job.train.select(job.train.rows.iloc[::every].head(WHITENED_IMAGES))
        batches = job.sources(network).open(some, cached=False).batches(0)
        whitening.fit((batch.inputs for batch in batches), job.settings.model.whitening_epsilon)


def prepare_features(job: Job, network: nn.Module, group: Group = ALONE) -> str:
    """Compute the features that the job needs; return a line about them, empty if the job trains on images."""
    if not any(phase.cached for phase in phases(job.settings)) or not isinstance(network, FineTuned):
        return ""
    to_device(network, job.hardware)
    images = job.train.select(pd.concat([part.rows for part in (job.train, job.valid) if part is not None]))
    return job.sources(network, group).features(images).describe()


def read_history(job: Job) -> list[Row]:
    """Return the rows of all epochs that are saved."""
    return checkpoint.load(job.files.last).history if job.files.last.exists() else []


def try_out(job: Job, network: nn.Module) -> Row:
    """Train the head of `network` without saving anything; return epoch and score of its best epoch.

    It is scored as `predict` does: log loss with a temperature, each row's fitted on other rows.
    """
    settings, (phase,) = job.settings, phases(job.settings)
    assert job.valid is not None
    to_device(network, job.hardware)
    judge = job.judge(calibrated=True)
    learner = make_learner(settings, network, phase, job.hardware, job.task(), judge)
    sources = job.sources(network)
    train, valid = sources.open(job.train, phase.cached, training=True), sources.open(job.valid, phase.cached)
    targets = job.valid.labels
    trials: list[Row] = []
    for result in engine.fit(learner, train, None, range(1, job.epochs + 1), settings.train.seed):
        outputs = engine.infer(learner.result, valid, learner.task, learner.hardware, learner.views)
        kept = torch.cat([judge.keep(each) for _, each in outputs]).cpu()
        trials.append({"epoch": result.epoch, judge.name: judge.score_alone(kept, targets)})
    return min(trials, key=lambda trial: badness(trial[judge.name], judge.name))


def to_device(model: nn.Module, hardware: Hardware) -> nn.Module:
    """Move `model` to the device, channels last in memory: the layout of the batches and of fast convolutions."""
    return model.to(hardware.device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def history_row(result: engine.EpochResult, metric: str) -> Row:
    """Return the history row of an epoch."""
    row: Row = {"epoch": result.epoch, "train_loss": result.train_loss}
    row |= {f"train_{name if 'loss' in name else f'loss_{name}'}": value for name, value in result.parts.items()}
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


def patience_spent(rows: Sequence[Row], settings: Settings) -> bool:
    """Return whether `train.patience` epochs have passed without a better score.

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
