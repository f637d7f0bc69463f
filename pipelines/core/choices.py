"""What a metric leaves open, and validation predictions decide: a temperature, thresholds, cut points, or which
boxes are sent.

A score is honest only where a row's decision does not depend on its own target.  So the rows are divided into `PARTS`,
row i into part i modulo `PARTS`, and the rows of each part are decided by a choice that was fitted on the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipelines.core import box_scores, calibration
from pipelines.core.cut_points import apply_cuts, best_cuts, midpoints
from pipelines.core.thresholds import PLAIN, Average, best_thresholds
from pipelines.dataset.boxes import FOUND
from pipelines.system.errors import shown

PARTS = 5
MOST_ITEMS = 1 << 23  # predictions that are decided together, in float64
CONFIDENCES, OVERLAPS = tuple(step / 20 for step in range(1, 20)), (0.3, 0.5, 1.0)  # that `Confidence` tries
Array = npt.NDArray[Any]
Values = tuple[float, ...]


class Open(Protocol):
    """A kind of choice.  key: its name in predict.json.

    fit: returns the values of the choice for the `rows` of predictions (N, ·) and targets, on the processor.  apply:
    returns the predictions as decided by these values.  plain: the values where nothing is fitted.
    """

    @property
    def key(self) -> str: ...
    @property
    def plain(self) -> Values: ...
    def fit(self, predictions: Tensor, targets: Array, rows: Array) -> Values: ...
    def apply(self, predictions: Tensor, values: Values) -> Tensor: ...


@dataclass(frozen=True)
class Choice:
    """A choice of the kind `key`.

    parts: the values for all rows; or `PARTS` of them, where the row i of the validation set has those of the part
    i modulo `PARTS`.  fitted: the number of rows that they were fitted on; 0: they are the plain values.
    """

    key: str
    parts: tuple[Values, ...]
    fitted: int = 0

    @property
    def values(self) -> Values:
        (only,) = self.parts
        return only


def fit(kind: Open, predictions: Tensor, targets: Array) -> Choice:
    """Return the choice for all rows; the plain one for fewer rows than `PARTS`, or where no temperature is best."""
    if len(targets) >= PARTS:
        values = kind.fit(predictions, targets, np.arange(len(targets)))
        if kind.key != "temperature" or calibration.LOWEST < values[0] < calibration.HIGHEST:
            return Choice(kind.key, (values,), len(targets))
    return plain(kind)


def cross_fit(kind: Open, predictions: Tensor, targets: Array) -> Choice:
    """Return the choice for each part of the rows, fitted on the other parts; the plain one for fewer rows."""
    if len(targets) < PARTS:
        return plain(kind)
    part_of = np.arange(len(targets)) % PARTS
    others = [np.flatnonzero(part_of != part) for part in range(PARTS)]
    fitted = tuple(kind.fit(predictions, targets, rows) for rows in others)
    return Choice(kind.key, fitted, len(targets))


def plain(kind: Open) -> Choice:
    """Return the choice for all rows that is fitted to nothing."""
    return Choice(kind.key, (kind.plain,))


def decide(kind: Open, choice: Choice, predictions: Tensor, first: int = 0) -> Tensor:
    """Return `predictions` (N, ·) as `choice` decides them.  first: the number of their first row, for parts."""
    size = max(1, MOST_ITEMS // max(1, predictions.shape[1]))
    blocks = [
        _decide(kind, choice, block, first + number * size) for number, block in enumerate(predictions.split(size))
    ]
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks)


def _decide(kind: Open, choice: Choice, predictions: Tensor, first: int) -> Tensor:
    if len(choice.parts) == 1:
        return kind.apply(predictions, choice.values)
    part_of = (torch.arange(len(predictions)) + first) % PARTS
    decided = [kind.apply(predictions[part_of == part], values) for part, values in enumerate(choice.parts)]
    result = decided[0].new_empty((len(predictions), *decided[0].shape[1:]))
    for part, rows in enumerate(decided):
        result[part_of == part] = rows
    return result


@dataclass(frozen=True)
class Temperature:
    """The temperature of log-probabilities (N, K) of one class."""

    key = "temperature"
    plain: Values = (1.0,)

    def fit(self, predictions: Tensor, targets: Array, rows: Array) -> Values:
        return (calibration.fit_temperature(predictions, torch.from_numpy(targets), torch.from_numpy(rows)),)

    def apply(self, predictions: Tensor, values: Values) -> Tensor:
        return predictions if values == self.plain else calibration.apply_temperature(predictions, *values)


@dataclass(frozen=True)
class ColumnTemperatures:
    """The temperature of each of `labels` columns of probabilities (N, K)."""

    labels: int
    key = "temperatures"

    @property
    def plain(self) -> Values:
        return (1.0,) * self.labels

    def fit(self, predictions: Tensor, targets: Array, rows: Array) -> Values:
        return tuple(calibration.fit_column_temperatures(predictions[rows], torch.from_numpy(targets[rows])))

    def apply(self, predictions: Tensor, values: Values) -> Tensor:
        if values == self.plain:
            return predictions
        return calibration.apply_column_temperatures(predictions, list(values))


@dataclass(frozen=True)
class Thresholds:
    """The thresholds of `labels` labels for probabilities (N, K); they decide 0 or 1, uint8."""

    labels: int
    average: Average
    beta: float
    per_label: bool
    key = "thresholds"

    @property
    def plain(self) -> Values:
        return (PLAIN,) * self.labels

    def fit(self, predictions: Tensor, targets: Array, rows: Array) -> Values:
        some = predictions.numpy()[rows], targets[rows]
        return tuple(best_thresholds(*some, self.average, self.beta, self.per_label))

    def apply(self, predictions: Tensor, values: Values) -> Tensor:
        return (predictions.double() > torch.tensor(values, dtype=torch.float64)).to(torch.uint8)


@dataclass(frozen=True)
class Cuts:
    """The cut points between `grades` for predicted numbers (N, 1); they decide grades, float64 (N, 1)."""

    grades: tuple[int, ...]
    key = "cuts"

    @property
    def plain(self) -> Values:
        return tuple(midpoints(self.grades))

    def fit(self, predictions: Tensor, targets: Array, rows: Array) -> Values:
        rows = rows[~np.isnan(targets[rows, 0])]
        return tuple(best_cuts(predictions[:, 0].numpy()[rows], targets[rows, 0], self.grades))

    def apply(self, predictions: Tensor, values: Values) -> Tensor:
        return torch.from_numpy(apply_cuts(predictions.numpy(), self.grades, values))


@dataclass(frozen=True)
class Confidence:
    """The least confidence of predicted boxes (N, MOST * 6) that are sent, and the largest overlap of two of a class.

    Of boxes that overlap more, the less confident ones are left out; 1: none is.  classes: their number.
    """

    classes: int
    key = "confidence"
    plain: Values = (PLAIN, 1.0)

    def fit(self, predictions: Tensor, targets: Array, rows: Array) -> Values:
        """Return the best values for `box_precision`; of equal ones the largest."""
        found = []
        for overlap in OVERLAPS:
            kept = self.apply(predictions[rows], (0.0, overlap)).numpy()
            matches = box_scores.match(kept, targets[rows], box_scores.WHEAT_IOUS)
            for least in CONFIDENCES:  # no box depends on less confident ones
                hits = np.where(matches.confidences[..., None] >= least, matches.hits, -1)
                found.append((float(box_scores.precisions(hits, targets[rows]).mean()), least, overlap))
        return max(found)[1:]

    def apply(self, predictions: Tensor, values: Values) -> Tensor:
        from torchvision.ops import batched_nms

        least, overlap = values
        boxes = predictions.unflatten(1, (-1, FOUND))
        kept = (boxes[..., 1] > 0) & (boxes[..., 1] >= least)
        if overlap < 1:
            images, places = kept.nonzero(as_tuple=True)
            some = boxes[images, places].double()  # it moves the boxes of each class and image apart
            stay = batched_nms(some[:, 2:], some[:, 1], images * self.classes + some[:, 0].long(), overlap)
            kept = torch.zeros_like(kept).index_put((images[stay], places[stay]), torch.tensor(True))
        order = (~kept).to(torch.uint8).argsort(dim=1, stable=True)[..., None].expand_as(boxes)
        return (boxes * kept[..., None]).gather(1, order).flatten(1)


WORDS = {
    "temperature": "a temperature",
    "temperatures": "temperatures",
    "thresholds": "thresholds",
    "cuts": "cut points",
    "confidence": "least confidence and largest overlap",
}
PLAINLY = {
    "temperatures": "Probabilities stay as they are.",
    "thresholds": f"Labels are given above {PLAIN}.",
    "cuts": "Numbers are rounded to the nearest grade.",
    "confidence": f"Boxes of a confidence of at least {PLAIN} are sent.",
}
MOST_SHOWN = 20  # values


def describe(choice: Choice, names: Sequence[str], count: int) -> str:
    """Return a line on what was fitted to `count` images, or why nothing was.  names: the classes or labels."""
    word = WORDS[choice.key]
    if not choice.fitted and choice.key == "temperature":
        return f"No temperature: {count:,} validation images are too few, or all are right or all wrong."
    if not choice.fitted:
        return f"No {word}: {count:,} validation images are too few. {PLAINLY[choice.key]}"
    values = [f"{value:.3f}" for value in choice.values]
    if choice.key == "thresholds" and len(set(values)) == 1:
        values, word = values[:1], "threshold"
    elif choice.key in ("temperatures", "thresholds"):
        values = [f"{value} ({shown(name)})" for value, name in zip(values, names, strict=True)]
    more = f" and {len(values) - MOST_SHOWN} more" if len(values) > MOST_SHOWN else ""
    listed = f"{word.removeprefix('a ').capitalize()} {', '.join(values[:MOST_SHOWN])}{more}"
    return f"{listed}, fitted on {choice.fitted:,} validation images."


def how_fitted(choice: Choice) -> str:
    """Return how a score with the `choice` was made, to stand behind its name."""
    return f", each image with {WORDS[choice.key]} fitted on the others" if choice.fitted else ""


def facts(choice: Choice, names: Sequence[str]) -> dict[str, Any]:
    """Return what predict.json records of `choice`: the temperature, 1 for none, and the other values by label."""
    found: dict[str, Any] = {"temperature": choice.values[0] if choice.key == "temperature" else 1.0}
    if choice.key in ("thresholds", "temperatures"):
        found[choice.key] = dict(zip(names, choice.values, strict=True))
    elif choice.key in ("cuts", "confidence"):
        found[choice.key] = list(choice.values)
    return found
