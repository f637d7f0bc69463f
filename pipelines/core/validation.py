"""Score the predictions of the validation set, and choose what the metric leaves open for other images."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipelines.core.choices import Choice, Thresholds
from pipelines.core.decide import MOST_ITEMS, Judge
from pipelines.core.ensembles import ranks
from pipelines.core.prediction import Positions, Rows
from pipelines.core.thresholds import PLAIN
from pipelines.settings.metrics import BOXES, NUMBERS, ONE_CLASS

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Validation:
    """The result of `validate`.

    choice: for other images.  score, bounds: with choices that were made for each image without it.  decided,
    predicted: what is predicted for each image by these, as `Results` in analysis/results.py takes it; of_label: of one
    class, the probability of each image's true class.  thresholds: of several labels.  notes: on the score.
    """

    choice: Choice
    score: float
    bounds: tuple[float, float]
    decided: Array
    predicted: Array
    of_label: Array | None = None
    thresholds: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()


def validate(
    judge: Judge,
    final: Judge,
    targets: Array,
    blocks: Iterable[tuple[Positions, Tensor]],
    folder: Path,
    groups: Array | None = None,
) -> Validation:
    """Return score and choice for the predictions of a validation set.

    judge: knows the training rows.  final: knows all labelled rows, as those that predict other images.  targets: as
    `encode` returns them.  blocks: places of some images and their predictions.  folder: for a large temporary file.
    groups: of each image, (N,), where ranks within them are scored instead of predictions, as those of different
    networks; for metrics of the order alone.
    """
    one_class = judge.task == ONE_CLASS
    keeps_part = one_class and groups is None
    rows, of_classes = Rows(len(targets), folder), Rows(len(targets), folder)
    for places, block in blocks:
        rows.fill(places, (judge.keep(block) if keeps_part else block).numpy())
        if one_class and judge.open is None:
            of_classes.fill(places, _of_classes(block, targets[places]))
    predictions = torch.from_numpy(rows.array)
    choice = final.fit(predictions, targets)
    crossed = judge.cross_fit(predictions, targets) if choice.fitted else judge.plain
    scored = predictions if groups is None else ranks(predictions, judge.task, groups)
    kept = scored if keeps_part else judge.keep(scored)
    score, bounds = judge.score(crossed, kept, targets)
    notes = tuple(judge.notes(crossed, kept, targets))
    if not one_class:
        return Validation(choice, score, bounds, *_decided(judge, choice, crossed, predictions), notes)
    if judge.open is not None:
        for first in range(0, len(targets), size := max(1, MOST_ITEMS // predictions.shape[1])):
            block = judge.decide(crossed, predictions[first : first + size], first)
            places = np.arange(first, first + len(block))
            of_classes.fill(places, _of_classes(block, targets[places]))
    decided, predicted, of_label = of_classes.array.T
    return Validation(choice, score, bounds, decided.astype(np.int64), predicted, of_label, notes=notes)


def _of_classes(block: Tensor, labels: Array) -> Array:
    """Return the most probable class, its probability and that of the image's class, float64 (n, 3)."""
    probabilities, everyone = block.exp().numpy(), np.arange(len(block))
    decided = probabilities.argmax(axis=1)
    values = decided, probabilities[everyone, decided], probabilities[everyone, labels]
    return np.stack(values, axis=1).astype(np.float64)


def _decided(
    judge: Judge, choice: Choice, crossed: Choice, predictions: Tensor
) -> tuple[Array, Array, None, tuple[float, ...]]:
    """Return what is decided and predicted of several labels, numbers or boxes, None, and the thresholds."""
    decided = judge.decide(crossed, predictions)
    if judge.task == NUMBERS:
        return judge.numbers(decided), judge.numbers(decided), None, ()
    if judge.task == BOXES:
        return decided.numpy(), predictions.numpy(), None, ()
    if isinstance(judge.open, Thresholds):
        return decided.numpy(), predictions.numpy(), None, choice.values
    return (decided > PLAIN).numpy(), decided.numpy(), None, (PLAIN,)
