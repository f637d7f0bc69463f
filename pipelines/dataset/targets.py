"""Targets as text, in the column `label` of split.csv, and as the arrays that training and metrics take.

A target is a class; or labels, joined by JOINT in sorted order, an empty text for none; or numbers, joined by JOINT in
the order of their names, an empty text between two for a missing one; or the sorted labels of all boxes, each as often
as it has boxes: the boxes themselves are in boxes.csv.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.settings.metrics import BOXES, NUMBERS, ONE_CLASS, SEVERAL_LABELS
from pipelines.settings.schema import Settings

JOINT = "|"


def join_labels(labels: Iterable[str]) -> str:
    """Return the text of several labels."""
    return JOINT.join(sorted(set(labels)))


def labels_in(text: str, task: str) -> list[str]:
    """Return the labels in a target, of boxes one for each box; those of numbers are none."""
    if task == ONE_CLASS:
        return [text]
    return text.split(JOINT) if text and task in (SEVERAL_LABELS, BOXES) else []


def count_labels(texts: Iterable[str], task: str) -> Counter[str]:
    """Return how many of the targets have each class or label, in the order of their first one."""
    return Counter(label for text in texts for label in labels_in(text, task))


def encode(texts: Sequence[str], task: str, classes: Sequence[str]) -> npt.NDArray[Any]:
    """Return targets as an array.

    one_class: the place of each class in `classes`, int64 (N,). several_labels: 1 for each label that an image has,
    uint8 (N, K). numbers: float32 (N, T), NaN for a missing one; `classes` are then the names of the T numbers.
    """
    if task == NUMBERS:
        cells = [[float(cell) if cell else np.nan for cell in text.split(JOINT)] for text in texts]
        return np.array(cells, np.float32).reshape(len(texts), len(classes))
    number = {label: place for place, label in enumerate(classes)}
    if task == ONE_CLASS:
        return np.array([number[text] for text in texts], np.int64)
    flags = np.zeros((len(texts), len(classes)), np.uint8)
    for row, text in enumerate(texts):
        flags[row, [number[label] for label in labels_in(text, task)]] = 1
    return flags


def network_outputs(settings: Settings, classes: Sequence[str]) -> int:
    """Return the number of outputs of a network: one per class, label or number; ordinal: per step between grades."""
    return len(settings.competition.grades) - 1 if settings.train.loss == "ordinal" else len(classes)
