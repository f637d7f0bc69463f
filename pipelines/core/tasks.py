"""Tasks: what a target is decides the loss, and how the outputs of a network become predictions.

The engine sees nothing else of a task.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipelines.core.fusion import fuse, mirrored
from pipelines.core.losses import (
    ASYMMETRIC,
    Focus,
    class_losses,
    cumulative_logits,
    label_losses,
    number_losses,
    step_losses,
)
from pipelines.dataset.image_set import ImageSet
from pipelines.dataset.loading import Batch
from pipelines.settings.detectors import facts_of
from pipelines.settings.metrics import BOXES, NUMBERS, ONE_CLASS
from pipelines.settings.schema import Settings
from pipelines.settings.training_sections import BALANCED, TrainSettings
from pipelines.system.errors import UserError, did_you_mean, few

LOSS_OF = {  # train.loss = "auto"
    "one_class": "cross_entropy",
    "several_labels": "binary",
    "numbers": "squared",
    "boxes": "detector",
}
UNITS = {
    "cross_entropy": "cross-entropy (nats)",
    "focal": "focal loss",
    "binary": "binary cross-entropy (nats)",
    "asymmetric": "asymmetric loss",
    "squared": "squared error (standardised)",
    "absolute": "absolute error (standardised)",
    "huber": "Huber loss (standardised)",
    "ordinal": "cross-entropy of the steps between grades (nats)",
    "detector": "loss of the detector",
}
View = Callable[[Tensor], Tensor]
Scale = Mapping[str, Sequence[float]]  # {"mean": …, "std": …}, of each number; empty for other tasks


def loss_of(settings: Settings) -> str:
    """Return the name of the loss, a value of train.loss other than auto."""
    loss = settings.train.loss
    return LOSS_OF[settings.competition.task] if loss == "auto" else loss


def loss_unit(settings: Settings) -> str:
    """Return the name of the loss with its unit, for the axis of a picture."""
    return ("weighted " if settings.train.class_weights else "") + UNITS[loss_of(settings)]


class Task:
    """What the engine needs to know of a task.

    Outputs of a network are float (N, ·). `averaged` values are what `average` makes of the outputs for several views.
    """

    parts: tuple[str, ...] = ()  # the names of the parts of the loss, which the history shows; boxes have some

    @property
    def scale(self) -> Scale:
        """What the checkpoint keeps of the training rows' numbers; empty for other tasks."""
        return {}

    def outputs(self, model: nn.Module, batch: Batch, views: Sequence[View]) -> list[Tensor]:
        """Return the outputs of `model` for each of the views of a batch."""
        return [model(view(batch.inputs)) for view in views]

    def summed(self, outputs: Tensor, loss: Tensor) -> Tensor:
        """Return what is summed over the batches of an epoch: the loss, then its parts, (1 + P,)."""
        return loss.detach()[None]

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of a batch of training images, which may be mixed."""
        raise NotImplementedError

    def average(self, outputs: Sequence[Tensor]) -> Tensor:
        """Return the average of the outputs for one or more views, float32."""
        raise NotImplementedError

    def losses(self, averaged: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each target, in their shape, without label smoothing; any number where it is missing."""
        raise NotImplementedError

    def predictions(self, averaged: Tensor) -> Tensor:
        """Return predictions, float32: log-probabilities (N, K) of one class; probabilities (N, K) of several labels;
        numbers (N, T) in the units of the targets."""
        raise NotImplementedError

    def merge(self, outputs: Sequence[Tensor]) -> Tensor:
        """Return the predictions of the outputs for one or more views."""
        return self.predictions(self.average(outputs))


@dataclass(frozen=True)
class OneClass(Task):
    """Softmax.  weights: of the images of each class, (K,).  gamma: of the focal loss; 0: cross-entropy."""

    weights: Tensor | None
    gamma: float
    smoothing: float

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if self.weights is None and not self.gamma:
            return F.cross_entropy(outputs.float(), targets, label_smoothing=self.smoothing)
        logs = F.log_softmax(outputs.float(), dim=1)
        return class_losses(logs, targets, _like(self.weights, logs), self.gamma, self.smoothing).mean()

    def average(self, outputs: Sequence[Tensor]) -> Tensor:
        logs = torch.stack([F.log_softmax(each.float(), dim=1) for each in outputs])
        return logs.logsumexp(dim=0) - math.log(len(outputs))

    def losses(self, averaged: Tensor, targets: Tensor) -> Tensor:
        return class_losses(averaged, targets, _like(self.weights, averaged), self.gamma)

    def predictions(self, averaged: Tensor) -> Tensor:
        return averaged


@dataclass(frozen=True)
class SeveralLabels(Task):
    """A sigmoid for each label.  weights: of a label's images that have it, (K,).  focus: see `Focus`."""

    weights: Tensor | None
    focus: Focus
    smoothing: float

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        logits = outputs.float()
        return label_losses(logits, targets, _like(self.weights, logits), self.focus, self.smoothing).mean()

    def average(self, outputs: Sequence[Tensor]) -> Tensor:
        return _mean_logits([each.float() for each in outputs])

    def losses(self, averaged: Tensor, targets: Tensor) -> Tensor:
        return label_losses(averaged, targets, _like(self.weights, averaged), self.focus)

    def predictions(self, averaged: Tensor) -> Tensor:
        return averaged.sigmoid()


@dataclass(frozen=True)
class Numbers(Task):
    """Regression on targets that have mean 0 and standard deviation 1 in the training rows; mean, std: (T,)."""

    kind: str
    delta: float
    mean: Tensor
    std: Tensor

    @property
    def scale(self) -> Scale:
        return {"mean": self.mean.tolist(), "std": self.std.tolist()}

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return _mean_of_known(self.losses(outputs.float(), targets), targets)

    def average(self, outputs: Sequence[Tensor]) -> Tensor:
        return torch.stack([each.float() for each in outputs]).mean(dim=0)

    def losses(self, averaged: Tensor, targets: Tensor) -> Tensor:
        standardised = (targets - _like(self.mean, averaged)) / _like(self.std, averaged)
        return number_losses(averaged, standardised, self.kind, self.delta)

    def predictions(self, averaged: Tensor) -> Tensor:
        return averaged * _like(self.std, averaged) + _like(self.mean, averaged)


@dataclass(frozen=True)
class Ordinal(Task):
    """Cumulative logits, one for each step between two of `grades`, (K,); the prediction is the expected grade."""

    grades: Tensor
    smoothing: float

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        losses = step_losses(cumulative_logits(outputs.float()), targets, _like(self.grades, targets), self.smoothing)
        return _mean_of_known(losses, targets)

    def average(self, outputs: Sequence[Tensor]) -> Tensor:
        return _mean_logits([cumulative_logits(each.float()) for each in outputs])

    def losses(self, averaged: Tensor, targets: Tensor) -> Tensor:
        return step_losses(averaged, targets, _like(self.grades, targets))

    def predictions(self, averaged: Tensor) -> Tensor:
        grades = _like(self.grades, averaged)
        return grades[0] + (averaged.sigmoid() * grades.diff()).sum(dim=1, keepdim=True)


@dataclass(frozen=True)
class Boxes(Task):
    """Detection: the network computes its own loss; see `Detector`.  parts: the names of the parts of its loss.

    Outputs in evaluation, and `averaged`: the loss of the batch, then predictions (see `dataset/boxes.py`).
    """

    parts: tuple[str, ...]

    def outputs(self, model: nn.Module, batch: Batch, views: Sequence[View]) -> list[Tensor]:
        targets = batch.labels if batch.labels.ndim == 3 else None  # test images have none
        first, *others = views
        return [model(first(batch.inputs), targets), *(model(view(batch.inputs)) for view in others)]

    def summed(self, outputs: Tensor, loss: Tensor) -> Tensor:
        return torch.cat([loss.detach()[None], outputs.detach()[0]])

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.sum()

    def average(self, outputs: Sequence[Tensor]) -> Tensor:
        """Return one view as it is, or the fusion of an image and its mirror image."""
        if len(outputs) == 1:
            return outputs[0]
        plain, turned = outputs
        return torch.cat([plain[:, :1], fuse([plain[:, 1:], mirrored(turned[:, 1:])], [1.0, 1.0])], dim=1)

    def losses(self, averaged: Tensor, targets: Tensor) -> Tensor:
        return averaged[:, 0]

    def predictions(self, averaged: Tensor) -> Tensor:
        return averaged[:, 1:]


def make_task(settings: Settings, classes: Sequence[str], scale: Scale, weights: Tensor | None = None) -> Task:
    """Return the task of `settings`.

    classes: the classes or labels, or the names of the numbers.  scale: of the checkpoint, for numbers.  weights: of
    `class_weights`; only training and its validation loss need them.  Raises `UserError` for several ordered grades.
    """
    train, loss = settings.train, loss_of(settings)
    if settings.competition.task == BOXES:
        return Boxes(facts_of(settings.model.name).losses)
    match loss:
        case "ordinal":
            if len(classes) != 1:
                raise UserError(
                    f"train.loss is ordinal, which takes one number per image; there are {len(classes)}: "
                    f'{few(classes)}. Set train.loss = "squared".'
                )
            return Ordinal(torch.tensor(settings.competition.grades).float(), train.label_smoothing)
        case "squared" | "absolute" | "huber":
            mean, std = (torch.tensor(scale[key], dtype=torch.float64) for key in ("mean", "std"))
            return Numbers(loss, train.huber_delta, mean, std)
    gamma = train.focal_gamma if loss == "focal" else 0.0
    if settings.competition.task == ONE_CLASS:
        return OneClass(weights, gamma, train.label_smoothing)
    focus = ASYMMETRIC if loss == "asymmetric" else Focus(gamma, gamma)
    return SeveralLabels(weights, focus, train.label_smoothing)


def training_task(settings: Settings, train: ImageSet, valid: ImageSet | None, scale: Scale | None = None) -> Task:
    """Return the task with what it takes from the training rows: class weights, and the scale of numbers.

    scale: of a checkpoint, when a training resumes.  Raises `UserError` for class weights that name no class, for
    numbers that no training or no validation row has, and for targets that are no grade.
    """
    if settings.competition.task == BOXES:
        return make_task(settings, train.classes, {})
    targets = train.labels
    if settings.competition.task != NUMBERS:
        return make_task(settings, train.classes, {}, class_weights(settings.train, targets, train.classes))
    if missing := [
        name for name, known in zip(train.classes, np.isfinite(targets).any(axis=0), strict=True) if not known
    ]:
        raise UserError(
            f"No training row has a value of {few(missing)}. Leave it out of the targets, or add such rows."
        )
    if valid is not None and not np.isfinite(valid.labels).any():
        raise UserError("No validation row has a target. Split again with another split.seed or split.valid_ratio.")
    if loss_of(settings) == "ordinal":
        _check_grades(settings, train, valid)
    return make_task(settings, train.classes, scale or measure_scale(targets))


def measure_scale(targets: npt.NDArray[np.floating]) -> Scale:
    """Return mean and standard deviation of the known numbers of each column of `targets`, float (N, T), NaN: missing.

    A constant column has the deviation 1.
    """
    values = targets.astype(np.float64)
    spread = np.nanmax(values, axis=0) > np.nanmin(values, axis=0)  # the deviation of equal numbers may be rounded
    std = np.where(spread, np.nanstd(values, axis=0), 1.0)
    return {"mean": np.nanmean(values, axis=0).tolist(), "std": std.tolist()}


def class_weights(train: TrainSettings, targets: npt.NDArray[Any], classes: Sequence[str]) -> Tensor | None:
    """Return the weight of each class that `train.class_weights` gives, float32 (K,); None if it is empty.

    balanced, one class: the mean weight of the training rows is 1, and each class that they have has the same total.
    balanced, several labels: of each label, the rows without it over those with it.
    """
    if not train.class_weights:
        return None
    if train.class_weights != (BALANCED,):
        given = train.weights_by_class
        if unknown := [name for name in given if name not in set(classes)]:
            hints = "".join(did_you_mean(name, classes) for name in unknown[:1])
            raise UserError(f"train.class_weights names {few(unknown)}, no class here.{hints} Classes: {few(classes)}.")
        return torch.tensor([given.get(name, 1.0) for name in classes])
    if targets.ndim == 1:
        counts = np.bincount(targets, minlength=len(classes))
        weights = len(targets) / np.count_nonzero(counts) / np.maximum(counts, 1)
    else:
        counts = targets.sum(axis=0, dtype=np.float64)
        weights = (len(targets) - counts) / np.maximum(counts, 1)
        weights[(counts == 0) | (counts == len(targets))] = 1  # a label that all rows have, or none, teaches nothing
    return torch.from_numpy(weights).float()


def _check_grades(settings: Settings, *parts: ImageSet | None) -> None:
    """Raise `UserError`, with rows, for targets that are not in competition.grades."""
    grades = settings.competition.grades
    found: dict[str, str] = {}
    for part in parts:
        if part is not None:
            values = part.labels[:, 0]
            wrong = np.flatnonzero(np.isfinite(values) & ~np.isin(values, grades))
            found |= {part.rows["label"].iloc[row]: part.rows["id"].iloc[row] for row in wrong[::-1]}
    if found:
        examples = [f"{label} (id {name})" for label, name in found.items()]
        raise UserError(
            f"Targets that are not in competition.grades, {list(grades)}: {few(examples)}. Add them there, or "
            'set train.loss = "squared".'
        )


def _mean_logits(logits: Sequence[Tensor]) -> Tensor:
    """Return the logits of the mean probabilities; a single one is unchanged."""
    if len(logits) == 1:
        return logits[0]
    stacked = torch.stack(list(logits))
    return F.logsigmoid(stacked).logsumexp(dim=0) - F.logsigmoid(-stacked).logsumexp(dim=0)


def _mean_of_known(losses: Tensor, targets: Tensor) -> Tensor:
    """Return the mean of `losses` over the targets that are not missing; 0 if all are, as in some batches."""
    return losses.sum() / (~targets.isnan()).sum().clamp(min=1)


def _like(values: Any, other: Tensor) -> Any:
    """Return the small tensor `values` in the type and on the device of `other`, without waiting for it; or None."""
    return None if values is None else values.to(other, non_blocking=True)
