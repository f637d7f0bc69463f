"""The metric of a competition: its facts, its score and the interval of this score."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from pipelines.core import scores
from pipelines.core.bootstrap import Bounds, of_calls
from pipelines.core.intervals import INTERVALS
from pipelines.core.scores import KAGGLE_CLIP, Array
from pipelines.settings import metrics as table
from pipelines.settings.data_sections import CompetitionSettings
from pipelines.settings.metrics import ONE_CLASS, MetricFacts
from pipelines.system.errors import UserError, few

__all__ = ["KAGGLE_CLIP", "METRICS", "Metric", "interval", "make_metric"]


@dataclass(frozen=True)
class Metric:
    """A metric with the options of a competition. What `predicted` is, `facts.takes` says; see core/scores.py.

    score_of, interval_of: functions of predictions and targets.
    """

    name: str
    facts: MetricFacts
    score_of: Callable[[Array, Array], float]
    interval_of: Callable[[Array, Array], Bounds]
    classes: Sequence[str] = ()

    @property
    def higher_is_better(self) -> bool:
        return self.facts.higher_is_better

    def score(self, predicted: Array, targets: Array) -> float:
        """Return the score; NaN where it is not defined, as that of no images. `notes` then says why."""
        return self.score_of(predicted, targets) if len(targets) else float("nan")

    def interval(self, predicted: Array, targets: Array) -> Bounds:
        """Return the 95 % confidence interval of the score, (low, high); deterministic. (NaN, NaN) if there is none.

        Raises `ValueError` for no images.
        """
        if not len(targets):
            raise ValueError("no images, so their score has no interval")
        return self.interval_of(predicted, targets)


def make_metric(competition: CompetitionSettings, classes: Sequence[str]) -> Metric:
    """Return the metric `competition.metric`.

    classes: those of an `ImageSet`; for numbers, their names. Raises `UserError` if grades are no whole numbers.
    """
    facts = table.facts_of(competition.metric, competition.task)
    known = {"classes": len(classes), "grades": grades_of(competition, classes)}
    options = {name: known[name] if name in known else getattr(competition, name) for name in facts.options}
    score = getattr(scores, competition.metric)
    bounds = INTERVALS.get(competition.metric) or of_calls(score)
    return Metric(competition.metric, facts, partial(score, **options), partial(bounds, **options), classes)


def grades_of(competition: CompetitionSettings, classes: Sequence[str]) -> tuple[int, ...]:
    """Return all grades in order: those stated, else, for one class, from the lowest to the highest class.

    Empty where only the targets tell. Raises `UserError` if classes are no whole numbers.
    """
    if competition.grades or competition.task != ONE_CLASS or competition.metric != "quadratic_kappa":
        return competition.grades
    if wrong := [label for label in classes if not label.removeprefix("-").isdecimal()]:
        raise UserError(
            f"competition.metric is {competition.metric}, whose grades are whole numbers, but there are the classes "
            f"{few(wrong)}. Set data.label_column to a column of whole numbers, or another competition.metric."
        )
    numbers = [int(label) for label in classes]
    return tuple(range(min(numbers), max(numbers) + 1)) if numbers else ()


@dataclass(frozen=True)
class OfProbabilities:
    """A metric of probabilities (N, K) and class numbers (N,), for callers that keep all probabilities."""

    name: str
    higher_is_better: bool

    def score(self, probabilities: Tensor, labels: Tensor) -> float:
        return self._call("score", probabilities, labels)

    def _call(self, what: str, probabilities: Tensor, labels: Tensor) -> Any:
        metric = make_metric(CompetitionSettings(metric=self.name), [""] * probabilities.shape[1])
        predicted = probabilities.argmax(dim=1) if metric.facts.takes == "label" else probabilities
        return getattr(metric, what)(predicted.cpu().numpy(), labels.cpu().numpy())


def interval(metric: OfProbabilities, probabilities: Tensor, labels: Tensor) -> Bounds:
    """Return the interval of `metric`; see `Metric`."""
    return metric._call("interval", probabilities, labels)


METRICS = {
    name: OfProbabilities(name, facts.higher_is_better)
    for name, facts in table.METRICS.items()
    if facts.takes in ("label", "probabilities")
}
