"""Train and evaluate a network on batches; this module knows no files, flags or competitions.

`fit` is a generator of one result per epoch: the caller logs, saves and stops.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipelines.core.averages import Average
from pipelines.core.decide import Judge
from pipelines.core.optim import Schedule
from pipelines.core.processes import average_statistics, collected, shared
from pipelines.core.solve import Examples, solve
from pipelines.core.tasks import Task, View
from pipelines.dataset.loading import Batch, BatchSource, WatchedBatches
from pipelines.models.device import Hardware
from pipelines.system.errors import UserError
from pipelines.system.memory import explained, smaller_batch
from pipelines.system.seeds import derive_seed
from pipelines.system.watch import unwatched

CHECK_EVERY = 50  # steps between two checks of the loss; each check waits for the device


def unchanged(inputs: Tensor) -> Tensor:
    """Return `inputs`: the view that changes nothing."""
    return inputs


class Diverged(UserError):
    """The loss is not a finite number."""


@dataclass(frozen=True)
class Evaluation:
    """The task's mean loss, and the metric's score with its 95 % interval, over all images of a source."""

    loss: float
    score: float
    bounds: tuple[float, float]


@dataclass(frozen=True)
class EpochResult:
    """The result of one epoch.  Losses are means over images; `seconds` include validation.

    parts: of the training loss, by name; empty for most tasks.
    """

    epoch: int
    train_loss: float
    valid: Evaluation | None
    lr: float
    images_per_second: float
    seconds: float
    parts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Learner:
    """A network with its optimiser and schedule, its task and the judge of its validation scores.

    The schedule's rate is multiplied by the `lr_share` of each parameter group.  averaged: the average of
    the weights, if there is one.  penalty: of the squared weights, see `solve`.  views: averaged in validation.
    before_epoch: called with the number of each epoch.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    hardware: Hardware
    task: Task
    judge: Judge
    averaged: Average | None = None
    clip_norm: float = 0.0
    penalty: float = 0.0
    views: tuple[View, ...] = (unchanged,)
    before_epoch: Callable[[int], None] = lambda epoch: None

    @property
    def result(self) -> nn.Module:
        """The network to validate and save: the average, if there is one."""
        return self.model if self.averaged is None else self.averaged.module


def fit(
    learner: Learner, train: BatchSource, valid: BatchSource | None, epochs: Iterable[int], seed: int
) -> Iterator[EpochResult]:
    """Train for `epochs` (numbers from 1) and yield the result of each; without `valid`, nothing is scored.

    Everything random in an epoch is seeded by (seed, epoch), so training can resume at any epoch with the same result.
    Processes that share the sources yield the same losses and scores.
    Raises `UserError` when the training or validation loss is not finite, and `ValueError` when an image is in both
    sources.
    """
    if valid is not None:
        validated = set(valid.ids.tolist())  # usually far fewer than those of training
        if twice := [each for each in train.ids if each in validated]:
            raise ValueError(f"{len(twice)} images are in both training and validation set, such as id {min(twice)}")
    group = train.group
    for epoch in epochs:
        torch.manual_seed(derive_seed(seed, "network", epoch, *([group.rank] if group.rank else [])))
        learner.before_epoch(epoch)
        started = time.perf_counter()
        (loss, *parts), lr = _train_epoch(learner, train, epoch)
        average_statistics([learner.model, *([learner.result] if learner.averaged else [])], group)
        images_per_second = len(train) / (time.perf_counter() - started)
        evaluation = None
        if valid is not None:
            evaluation = evaluate(learner.result, valid, learner.task, learner.judge, learner.hardware, learner.views)
            _check_finite(evaluation.loss, "validation", epoch, train.steps, lr)
        named = dict(zip(learner.task.parts, parts, strict=True))
        yield EpochResult(epoch, loss, evaluation, lr, images_per_second, time.perf_counter() - started, named)


def _train_epoch(learner: Learner, source: BatchSource, epoch: int) -> tuple[list[float], float]:
    """Train one epoch; return the mean loss over its images, followed by its parts, and the last learning rate."""
    if isinstance(learner.optimizer, torch.optim.LBFGS):
        loss, lr = _solve(learner, source, epoch)
        return [loss], lr
    size, group = source.batch_size, source.group
    with explained(f"training on batches of {size:,} images", smaller_batch("train.batch_size", size)):
        learner.model.train()
        model = shared(learner.model, learner.hardware, group)
        total = torch.zeros(1 + len(learner.task.parts), device=learner.hardware.device)
        summed, lr = [0.0], 0.0
        for step, batch in enumerate(source.batches(epoch)):
            # The middle of the step: otherwise the first step of a warm-up or the last of a decay has a rate of 0.
            lr = learner.schedule(epoch - 1 + (step + 0.5) / source.steps)
            losses = _step(learner, model, batch, lr)
            if learner.averaged is not None:
                learner.averaged.update_parameters(learner.model)
            total += losses * (batch.whole / group.world)
            if (step + 1) % CHECK_EVERY == 0 or step + 1 == source.steps:
                summed = group.all_sum(total).tolist()
                _check_finite(summed[0], "training", epoch, step + 1, lr)
                source.report(summed[0])
        return [each / len(source) for each in summed], lr


def _solve(learner: Learner, source: BatchSource, epoch: int) -> tuple[float, float]:
    """Solve for the head in one epoch; return the mean loss over its images and the learning rate."""
    assert isinstance(learner.optimizer, torch.optim.LBFGS)
    watch = source.watch if isinstance(source, WatchedBatches) else unwatched
    with explained(f"solving for the head on {len(source):,} images"):
        learner.model.train()
        examples = Examples(source, epoch)
        loss = solve(learner.model, learner.optimizer, examples, learner.task, learner.penalty, watch)
    lr = learner.schedule(epoch - 0.5)
    _check_finite(loss, "training", epoch, 1, lr)
    return loss, lr


def _step(learner: Learner, model: nn.Module, batch: Batch, lr: float) -> Tensor:
    """Update the network by one batch; return its mean loss and its parts, weighted where the batch is a part.

    model: the network, or what trains it in step with other processes.
    """
    for group in learner.optimizer.param_groups:
        group["lr"] = lr * group.get("lr_share", 1.0)
    with learner.hardware.autocast():
        (outputs,) = learner.task.outputs(model, batch, (unchanged,))
    loss = learner.task.loss(outputs, batch.labels)
    losses = learner.task.summed(outputs, loss)
    if batch.weight != 1:
        loss, losses = loss * batch.weight, losses * batch.weight
    loss.backward()
    if learner.clip_norm:
        nn.utils.clip_grad_norm_(learner.model.parameters(), learner.clip_norm)
    learner.optimizer.step()
    learner.optimizer.zero_grad(set_to_none=True)
    return losses


def _check_finite(loss: float, which: str, epoch: int, step: int, lr: float) -> None:
    if not math.isfinite(loss):
        kept = " The epochs before are kept; other settings need another RUN=." if epoch > 1 else ""
        raise Diverged(
            f"The {which} loss is not a finite number in epoch {epoch}, by step {step}, at lr {lr:.3g}. Lower "
            f"train.lr, lengthen train.warmup_epochs, or set train.clip_norm=1.{kept}"
        )


def infer(
    model: nn.Module, source: BatchSource, task: Task, hardware: Hardware, views: tuple[View, ...] = (unchanged,)
) -> Iterator[tuple[Batch, Tensor]]:
    """Yield each batch with its predictions, float32 (N, ·), see `Task.predictions`.

    views: transforms of a batch; the predictions for them are averaged (test-time augmentation).
    """
    for batch, averaged in _averaged(model, source, task, hardware, views):
        yield batch, task.predictions(averaged)


@torch.inference_mode()
def _averaged(
    model: nn.Module, source: BatchSource, task: Task, hardware: Hardware, views: tuple[View, ...]
) -> Iterator[tuple[Batch, Tensor]]:
    """Yield each batch with the average of the network's outputs for the views, float32 (N, ·)."""
    model.eval()
    size = source.batch_size
    with explained(f"predicting batches of {size:,} images", smaller_batch("predict.batch_size", size)):
        for batch in source.batches(0):
            with hardware.autocast():
                outputs = task.outputs(model, batch, views)
            yield batch, task.average(outputs)


def evaluate(
    model: nn.Module,
    source: BatchSource,
    task: Task,
    judge: Judge,
    hardware: Hardware,
    views: tuple[View, ...] = (unchanged,),
) -> Evaluation:
    """Return loss and score of `model` over all images of `source`, in all processes that share them."""
    parts = [
        (batch.positions, task.losses(averaged, batch.labels), judge.keep(task.predictions(averaged)), batch.labels)
        for batch, averaged in _averaged(model, source, task, hardware, views)
    ]
    evaluation = None
    if found := collected(parts, source.group):  # float64 only here: not every device has it
        positions, losses, kept, targets = found
        assert len(positions) == len(source), f"{len(positions)} of {len(source)} images were predicted"
        known = losses if losses.ndim < targets.ndim else losses[~targets.isnan()]  # numbers that are not missing
        loss = known.double().mean().item()
        score, bounds = judge.judge(kept, targets.numpy())
        evaluation = Evaluation(loss, score, bounds)
    evaluation = source.group.from_main(evaluation)
    assert evaluation is not None
    return evaluation


def feature_views(count: int) -> tuple[View, ...]:
    """Return the views of inputs (N, views, D), the cached features of `count` views of each image."""

    def nth(number: int) -> View:
        return lambda inputs: inputs[:, number]

    return tuple(nth(number) for number in range(count))


def make_views(mirror: bool, shift: int) -> tuple[View, ...]:
    """Return the views of test-time augmentation, as in arXiv 2404.00498: the image, its mirror image, and both shifted
    by `shift` pixels up-left and down-right with reflected borders."""

    def shifted(pixels: int) -> View:
        def view(images: Tensor) -> Tensor:
            size = images.shape[2:]
            padded = F.pad(images, (shift,) * 4, mode="reflect")
            start = shift + pixels
            return padded[:, :, start : start + size[0], start : start + size[1]]

        return view

    def mirrored(view: View) -> View:
        return lambda images: view(images.flip(3))

    views: list[View] = [unchanged]
    if shift:
        views += [shifted(-shift), shifted(shift)]
    if mirror:
        views += [mirrored(view) for view in views]
    return tuple(views)
