"""Train and evaluate a network on batches; this module knows no files, flags or competitions.

`fit` is a generator of one result per epoch: the caller logs, saves and stops.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from pipelines.core.metrics import OfProbabilities, interval
from pipelines.core.optim import Schedule
from pipelines.dataset.loading import Batch, BatchSource
from pipelines.models.device import Hardware
from pipelines.system.errors import UserError
from pipelines.system.memory import explained, smaller_batch
from pipelines.system.seeds import derive_seed

CHECK_EVERY = 50  # steps between two checks of the loss; each check waits for the device
View = Callable[[Tensor], Tensor]


def unchanged(inputs: Tensor) -> Tensor:
    """Return `inputs`: the view that changes nothing."""
    return inputs


class Diverged(UserError):
    """The loss is not a finite number."""


@dataclass(frozen=True)
class Evaluation:
    """Mean cross-entropy in nats, and the metric's score with its 95 % interval, over all images of a source."""

    loss: float
    score: float
    bounds: tuple[float, float]


@dataclass(frozen=True)
class EpochResult:
    """The result of one epoch.  Losses are means over images in nats; `seconds` include validation."""

    epoch: int
    train_loss: float
    valid: Evaluation | None
    lr: float
    images_per_second: float
    seconds: float


@dataclass(frozen=True)
class Learner:
    """A network with its optimiser and schedule, and optionally its averaged weights.

    The schedule's rate is multiplied by the `lr_share` of each parameter group.  views: averaged in validation.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    hardware: Hardware
    averaged: AveragedModel | None = None
    label_smoothing: float = 0.0
    clip_norm: float = 0.0
    views: tuple[View, ...] = (unchanged,)

    @property
    def result(self) -> nn.Module:
        """The network to validate and save."""
        return self.averaged.module if self.averaged is not None else self.model


def fit(
    learner: Learner, train: BatchSource, valid: BatchSource | None, metric: OfProbabilities, epochs: Iterable[int], seed: int
) -> Iterator[EpochResult]:
    """Train for `epochs` (numbers from 1) and yield the result of each; without `valid`, nothing is scored.

    Everything random in an epoch is seeded by (seed, epoch), so training can resume at any epoch with the same result.
    Raises `UserError` when the training or validation loss is not finite, and `ValueError` when an image is in both
    sources.
    """
    if valid is not None and (shared := set(train.ids.tolist()) & set(valid.ids.tolist())):
        raise ValueError(f"{len(shared)} images are in both training and validation set, such as id {min(shared)!r}")
    for epoch in epochs:
        torch.manual_seed(derive_seed(seed, "network", epoch))
        started = time.perf_counter()
        loss, lr = _train_epoch(learner, train, epoch)
        images_per_second = len(train) / (time.perf_counter() - started)
        evaluation = None
        if valid is not None:
            evaluation = evaluate(learner.result, valid, metric, learner.hardware, learner.views)
            _check_finite(evaluation.loss, "validation", epoch, train.steps, lr)
        yield EpochResult(epoch, loss, evaluation, lr, images_per_second, time.perf_counter() - started)


def _train_epoch(learner: Learner, source: BatchSource, epoch: int) -> tuple[float, float]:
    """Train one epoch; return the mean loss over its images and the last learning rate."""
    size = source.batch_size
    with explained(f"training on batches of {size:,} images", smaller_batch("train.batch_size", size)):
        learner.model.train()
        total = torch.zeros((), device=learner.hardware.device)
        lr = 0.0
        for step, batch in enumerate(source.batches(epoch)):
            # The middle of the step: otherwise the first step of a warm-up or the last of a decay has a rate of 0.
            lr = learner.schedule(epoch - 1 + (step + 0.5) / source.steps)
            loss = _step(learner, batch, lr)
            total += loss * len(batch.inputs)
            if (step + 1) % CHECK_EVERY == 0 or step + 1 == source.steps:
                _check_finite(total.item(), "training", epoch, step + 1, lr)
        return total.item() / len(source), lr


def _step(learner: Learner, batch: Batch, lr: float) -> Tensor:
    """Update the network by one batch; return its mean loss."""
    for group in learner.optimizer.param_groups:
        group["lr"] = lr * group.get("lr_share", 1.0)
    with learner.hardware.autocast():
        logits = learner.model(batch.inputs)
    loss = F.cross_entropy(logits.float(), batch.labels, label_smoothing=learner.label_smoothing)
    loss.backward()
    if learner.clip_norm:
        nn.utils.clip_grad_norm_(learner.model.parameters(), learner.clip_norm)
    learner.optimizer.step()
    learner.optimizer.zero_grad(set_to_none=True)
    if learner.averaged is not None:
        learner.averaged.update_parameters(learner.model)
    return loss.detach()


def _check_finite(loss: float, which: str, epoch: int, step: int, lr: float) -> None:
    if not math.isfinite(loss):
        kept = " The epochs before are kept; other settings need another RUN=." if epoch > 1 else ""
        raise Diverged(
            f"The {which} loss is not a finite number in epoch {epoch}, by step {step}, at lr {lr:.3g}. Lower "
            f"train.lr, lengthen train.warmup_epochs, or set train.clip_norm=1.{kept}"
        )


@torch.inference_mode()
def infer(
    model: nn.Module, source: BatchSource, hardware: Hardware, views: tuple[View, ...] = (unchanged,)
) -> Iterator[tuple[Batch, Tensor]]:
    """Yield each batch with its log-probabilities, float32 (N, K), for validation and prediction.

    views: transforms of a batch; their predicted probabilities are averaged (test-time augmentation).
    """
    model.eval()
    size = source.batch_size
    with explained(f"predicting batches of {size:,} images", smaller_batch("predict.batch_size", size)):
        for batch in source.batches(0):
            with hardware.autocast():
                logits = [model(view(batch.inputs)) for view in views]
            log_probabilities = torch.stack([F.log_softmax(each.float(), dim=1) for each in logits])
            yield batch, log_probabilities.logsumexp(dim=0) - math.log(len(views))


def evaluate(
    model: nn.Module, source: BatchSource, metric: OfProbabilities, hardware: Hardware, views: tuple[View, ...] = (unchanged,)
) -> Evaluation:
    """Return loss and score of `model` over all images of `source`."""
    judged = [(log_probabilities, batch.labels) for batch, log_probabilities in infer(model, source, hardware, views)]
    # Fetched once, because each fetch waits for the device; float64 only here, because not every device has it.
    log_probabilities, labels = (torch.cat(parts).cpu() for parts in zip(*judged, strict=True))
    loss = F.nll_loss(log_probabilities, labels, reduction="none").double().mean().item()
    probabilities = log_probabilities.double().exp()
    return Evaluation(loss, metric.score(probabilities, labels), interval(metric, probabilities, labels))


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
