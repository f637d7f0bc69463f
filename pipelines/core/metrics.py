"""The metric of a competition: its facts, its score and the interval of this score."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from pipelines.core import box_scores, scores
from pipelines.core.bootstrap import Bounds, of_calls
from pipelines.core.intervals import INTERVALS
from pipelines.core.scores import Array
from pipelines.settings import metrics as table
from pipelines.settings.data_sections import CompetitionSettings
from pipelines.settings.metrics import ONE_CLASS, MetricFacts
from pipelines.system.errors import UserError, few


@dataclass(frozen=True)
class Metric:
    """A metric with the options of a competition. What `predicted` is, `facts.takes` says; see core/scores.py.

    score_of, interval_of: functions of predictions and targets.
    """

    name: str
    facts: MetricFacts
    score_of: "partial[float]"
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
        return interval(self, predicted, targets)

    def by_rows(
        self, pair: Sequence[Array], targets: Array
    ) -> tuple[Callable[[Array, Array], float], Sequence[Array], Array]:
        """Return a score, a pair of predictions and targets, for scoring many resamples of their rows."""
        if self.facts.takes != "boxes":
            return self.score, pair, targets
        return box_scores.by_rows(pair, targets, **self.score_of.keywords)

    def notes(self, predicted: Array, targets: Array) -> list[str]:
        """Return what a reader of the score must know: why it is not defined, or what was left out of it."""
        found = list(_notes(self, predicted, targets)) if len(targets) else ["there are no images"]
        return [f"{self.name}: {note}." for note in found]


def interval(metric: Metric, predicted: Array, targets: Array) -> Bounds:
    """Return `metric.interval`. A function of the module, because benchmarks/safety.py measures its time."""
    if not len(targets):
        raise ValueError("no images, so their score has no interval")
    return metric.interval_of(predicted, targets)


def _notes(metric: Metric, predicted: Array, targets: Array) -> Iterator[str]:
    name, takes = metric.name, metric.facts.takes
    if takes in ("positive", "grades") and len(seen := np.unique(targets[~np.isnan(targets.astype(float))])) < 2:
        images = f"all {len(targets):,} targets are {seen[0]:g}" if len(seen) else "no target is known"
        undefined = math.isnan(metric.score(predicted, targets))
        yield images + (", so it is not defined" if undefined else "")
    if takes == "columns" and not name.startswith("log_loss"):
        left = [
            column for column, pair in enumerate(scores.columns_of(predicted, targets)) if _has_no_score(name, pair[1])
        ]
        if left:
            named = (
                few([str(metric.classes[column]) for column in left]) if metric.classes else few(list(map(str, left)))
            )
            why = "no positive image" if name.startswith("average") else "a single class"
            yield f"{len(left)} of {predicted.shape[1]} columns have {why} and are left out: {named}"
    if takes == "numbers":
        if missing := int(np.isnan(targets).sum()):
            yield f"{missing:,} of {targets.size:,} targets are missing and are left out"
        if name in ("r2", "pearson", "spearman") and any(
            np.ptp(each) == 0 for _, each in scores.columns_of(predicted, targets) if len(each)
        ):
            yield "a column has equal targets only"
        if name == "rmsle" and (below := int((predicted < 0).sum())):
            yield f"{below:,} answers are below 0 and count as 0"
        if name == "rmsle" and (targets <= -1).any():
            yield "a target is at most -1, so it is not defined"
    if takes == "boxes" and name != "box_precision":
        absent = [label for place, label in enumerate(metric.classes) if not (targets[..., 0] == place).any()]
        if len(absent) == len(metric.classes):
            yield "there are no true boxes, so it is not defined"
        elif absent:
            yield f"{len(absent)} of {len(metric.classes)} classes have no true box and are left out: {few(absent)}"
    if (
        name == "fbeta_macro"
        and targets.ndim == 2
        and (none := int((~((predicted == 1) | (targets == 1)).any(axis=0)).sum()))
    ):
        yield f"{none} of {targets.shape[1]} labels are neither true nor answered and count as 0"
    if name == "map_at_k" and targets.ndim == 2 and (none := int((~targets.any(axis=1)).sum())):
        yield f"{none} images have no label and count as 0"


def _has_no_score(name: str, targets: Array) -> bool:
    return not (targets == 1).any() or (name.startswith("auc") and (targets == 1).all())


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
