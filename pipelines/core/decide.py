"""From predictions to answers: what a score needs of them, what is chosen for it, and what is sent.

Predictions are those of `pipelines/core/tasks.py`, float32: log-probabilities (N, K) of one class; probabilities (N, K)
of several labels; numbers (N, T); of boxes (N, MOST * 6), see pipelines/dataset/boxes.py.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipelines.core import choices
from pipelines.core.choices import Choice, ColumnTemperatures, Confidence, Cuts, Open, Temperature, Thresholds
from pipelines.core.metrics import Metric, make_metric
from pipelines.core.thresholds import Average
from pipelines.dataset.boxes import FOUND, MOST
from pipelines.dataset.vocabulary import positive_class
from pipelines.settings.metrics import NUMBERS, ONE_CLASS, SEVERAL_LABELS
from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError, did_you_mean, few, quoted

Array = npt.NDArray[Any]
AVERAGES: dict[str, Average] = {"fbeta_macro": "macro", "fbeta_micro": "micro", "fbeta_samples": "samples"}
LOG_LOSSES = ("log_loss", "log_loss_binary", "log_loss_columns")
MOST_ITEMS = 1 << 23  # probabilities that are computed together in float64
NO_CHOICE = Choice("", ((),))


@dataclass(frozen=True)
class Judge:
    """Scores predictions as the competition does, and turns them into answers.

    metric: of the competition.  sends: competition.submission.  open: what is left to choose, if anything.  fits:
    whether it is fitted to predictions, instead of its plain values.  positive: the number of the positive class, or
    -1.  guesses: labels of a ranking.  grades: of each class, where one class is scored by grades.  bounds: the least
    and the greatest answer of each number, float64 (2, T).  as_sent: score the probabilities of classes as they are
    sent, rounded to float32.
    """

    metric: Metric
    task: str
    sends: str
    open: Open | None = None
    fits: bool = True
    positive: int = -1
    guesses: int = 1
    grades: tuple[int, ...] = ()
    bounds: Array | None = None
    as_sent: bool = False

    @property
    def name(self) -> str:
        return self.metric.name

    @property
    def takes(self) -> str:
        """What the metric compares with the targets, see `MetricFacts`."""
        return self.metric.facts.takes

    @property
    def higher_is_better(self) -> bool:
        return self.metric.higher_is_better

    @property
    def keeps_all(self) -> bool:
        """Whether a score needs the whole predictions, so that `keep` changes nothing."""
        return self.open is not None or self.takes in ("probabilities", "columns", "numbers", "boxes")

    @property
    def plain(self) -> Choice:
        """What is chosen without predictions."""
        return NO_CHOICE if self.open is None else choices.plain(self.open)

    def keep(self, predictions: Tensor) -> Tensor:
        """Return what a score needs of the predictions of a batch, on their device: all, (n, ·); or the numbers of the
        best classes, (n,) or (n, k); or the log-probability of the positive class, (n,)."""
        if self.keeps_all:
            return predictions
        if self.takes == "ranking":
            return predictions.topk(self.guesses, dim=1).indices
        return predictions[:, self.positive] if self.takes == "positive" else predictions.argmax(dim=1)

    def judge(self, kept: Tensor, targets: Any) -> tuple[float, tuple[float, float]]:
        """Return the score of all images and its 95 % interval.

        kept: what `keep` returned for all of them, on the processor.  targets: as `encode` returns them.  What the
        metric leaves open is chosen for each image from others.
        """
        return self.score(self.cross_fit(kept, targets), kept, targets)

    def score_alone(self, kept: Tensor, targets: Any) -> float:
        """Return the score of `judge` without its interval, which takes seconds for some metrics."""
        return self.metric.score(*self.compared(self.cross_fit(kept, targets), kept, np.asarray(targets)))

    def fit(self, kept: Tensor, targets: Any) -> Choice:
        """Return what the metric leaves open, chosen for images that are not among these."""
        if self.open is None or not self.fits:
            return self.plain
        return choices.fit(self.open, kept, np.asarray(targets))

    def cross_fit(self, kept: Tensor, targets: Any) -> Choice:
        """Return what the metric leaves open, chosen for each of these images from others."""
        if self.open is None or not self.fits:
            return self.plain
        return choices.cross_fit(self.open, kept, np.asarray(targets))

    def decide(self, choice: Choice, predictions: Tensor, first: int = 0) -> Tensor:
        """Return `predictions` as `choice` decides them: calibrated, as 0 or 1 for each label, or as grades.

        first: the number of the first row, for a choice that `cross_fit` made.
        """
        return predictions if self.open is None else choices.decide(self.open, choice, predictions, first)

    def numbers(self, decided: Tensor) -> Array:
        """Return decided numbers within the bounds of answers, float64 (N, T)."""
        values = decided.double().numpy()
        return values if self.bounds is None else np.clip(values, *self.bounds)

    def score(self, choice: Choice, kept: Tensor, targets: Any) -> tuple[float, tuple[float, float]]:
        """Return what `judge` does, by a `choice` of `cross_fit`."""
        predicted, known = self.compared(choice, kept, np.asarray(targets))
        score = self.metric.score(predicted, known)
        return score, (math.nan, math.nan) if math.isnan(score) else self.metric.interval(predicted, known)

    def notes(self, choice: Choice, kept: Tensor, targets: Any) -> list[str]:
        """Return what a reader of this score must know: why it is not defined, or what was left out of it."""
        if self.takes in ("label", "probabilities"):  # always defined, of all images
            return []
        return self.metric.notes(*self.compared(choice, kept, np.asarray(targets)))

    def notes_before(self, targets: Any) -> list[str]:
        """Return the notes on any score of these images, whatever is predicted."""
        columns = MOST * FOUND if self.takes == "boxes" else len(self.metric.classes)
        predictions = torch.zeros(1, 1).expand(len(targets), columns)
        return self.notes(self.plain, self.keep(predictions), targets)

    def describe(self, choice: Choice, names: Sequence[str], count: int) -> str:
        """Return a line on what `fit` chose for `count` images; empty if there was nothing to choose."""
        return choices.describe(choice, names, count) if self.open and self.fits else ""

    def facts(self, choice: Choice, names: Sequence[str]) -> dict[str, Any]:
        """Return what predict.json records of a `choice` of `fit`.  names: the classes, labels or numbers."""
        found = choices.facts(choice, names)
        if isinstance(self.open, Cuts):
            found["grades"] = list(self.open.grades)
        if self.bounds is not None:
            found["answer_range"] = dict(zip(names, self.bounds.T.tolist(), strict=True))
        return found

    def answers(self, choice: Choice, predictions: Tensor) -> Array:
        """Return what is sent for `predictions`, on the processor, by a `choice` of `fit`.

        labels: class numbers (N,).  best_labels: class numbers (N, k), best first.  probabilities: float32 (N, K).
        probability: float64 (N,).  label_lists: 0 or 1, uint8 (N, K).  numbers: float64 (N, T).
        boxes: float32 (N, MOST * 6).
        """
        decided = self.decide(choice, predictions)
        match self.sends:
            case "labels":
                return np.asarray(decided.exp().numpy().argmax(axis=1))
            case "best_labels":
                return decided.topk(self.guesses, dim=1).indices.numpy()
            case "probability":
                return decided[:, self.positive].double().exp().numpy()
            case "probabilities":
                return (decided.exp() if self.task == ONE_CLASS else decided).numpy()
            case "numbers":
                return self.numbers(decided)
        return decided.numpy()

    def compared(self, choice: Choice, kept: Tensor, targets: Array) -> tuple[Array, Array]:
        """Return predictions and targets in the form that the metric takes, by a `choice` of `cross_fit`."""
        if self.takes == "probabilities" and kept.numel() > MOST_ITEMS:
            return self._of_many_classes(choice, kept, targets)
        decided = self.decide(choice, kept)
        match self.takes:
            case "positive":
                positive = decided[:, self.positive] if self.keeps_all else decided
                return positive.double().exp().numpy(), (targets == self.positive).astype(np.int64)
            case "grades" if self.task == NUMBERS:
                known = ~np.isnan(targets[:, 0])
                return decided[:, 0].numpy()[known], targets[known, 0]
            case "grades":
                grades = np.array(self.grades, np.float64)
                return grades[decided.numpy()], grades[targets]
            case "numbers":
                return self.numbers(decided), targets
            case "probabilities" | "columns":
                return (self._shares(decided) if self.task == ONE_CLASS else decided.double()).numpy(), targets
        return decided.numpy(), targets

    def _shares(self, log_probabilities: Tensor) -> Tensor:
        """Return the probabilities of one class, float64."""
        return log_probabilities.exp().double() if self.as_sent else log_probabilities.double().exp()

    def _of_many_classes(self, choice: Choice, kept: Tensor, targets: Array) -> tuple[Array, Array]:
        """Return the shares (N, 2) of an image's class and of all others, and zeros as targets: all that a log loss
        needs of many classes."""
        shares = []
        size = max(1, MOST_ITEMS // kept.shape[1])
        for first in range(0, len(kept), size):
            values = self._shares(self.decide(choice, kept[first : first + size], first))
            mine = torch.from_numpy(targets[first : first + size])[:, None]
            shares.append((values.gather(1, mine) / values.sum(dim=1, keepdim=True))[:, 0])
        share = torch.cat(shares)
        return torch.stack([share, 1 - share], dim=1).numpy(), np.zeros(len(targets), np.int64)


def make_judge(settings: Settings, classes: Sequence[str], seen: Any, calibrated: bool = False) -> Judge:
    """Return the judge of `settings`.

    classes: the classes or labels, or the names of the numbers.  seen: targets, as `encode` returns them, that say
    which numbers occur; those of the training rows, for an honest score.  calibrated: as `predict` scores, with a
    temperature.
    Raises `UserError` if the positive class is not among them, or if a class is not a grade.
    """
    competition, predict, several = settings.competition, settings.predict, settings.competition.task == SEVERAL_LABELS
    metric, numbers = make_metric(competition, classes), competition.task == NUMBERS
    takes = metric.facts.takes
    left: Open | None = None
    if competition.metric in LOG_LOSSES and calibrated and predict.calibrate:
        left = ColumnTemperatures(len(classes)) if several else Temperature()
    elif takes == "label_sets":
        average, each = AVERAGES[competition.metric], predict.thresholds == "per_label"
        left = Thresholds(len(classes), average, competition.beta, each)
    elif competition.metric == "box_precision":
        left = Confidence(len(classes))
    elif takes == "grades" and numbers:
        left = Cuts(competition.grades or grades_in(np.asarray(seen)))
    needs_positive = takes == "positive" or competition.submission == "probability"
    return Judge(
        metric,
        competition.task,
        competition.submission,
        left,
        fits=predict.choose or competition.metric in LOG_LOSSES,
        positive=_positive(competition.positive, classes) if needs_positive else -1,
        guesses=min(competition.guesses, len(classes)),
        grades=tuple(map(int, classes)) if takes == "grades" and not numbers else (),
        bounds=_bounds(predict.answer_range, np.asarray(seen, np.float64)) if numbers and not left else None,
        as_sent=calibrated,
    )


def grades_in(targets: Array) -> tuple[int, ...]:
    """Return the whole numbers from the lowest to the highest of `targets` (N, 1); NaN is left out."""
    return tuple(range(math.floor(np.nanmin(targets)), math.ceil(np.nanmax(targets)) + 1))


def _bounds(stated: Sequence[float], seen: Array) -> Array:
    """Return the least and the greatest answer of each number, (2, T): as `stated`, or those `seen`, (N, T)."""
    if stated:
        return np.tile(np.array(stated, np.float64)[:, None], seen.shape[1])
    known = ~np.isnan(seen)
    return np.stack([seen.min(axis=0, initial=np.inf, where=known), seen.max(axis=0, initial=-np.inf, where=known)])


def _positive(label: str, classes: Sequence[str]) -> int:
    if (place := positive_class(classes, label)) >= 0:
        return place
    hint = did_you_mean(label, classes)
    raise UserError(
        f"competition.positive is {quoted(label)}, which is no class.{hint} Set it to the class whose probability is "
        f"sent: {few(classes)}."
    )
