"""Predicted boxes beside the true ones of their images: which of them count, and which of these are right."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipelines.core.box_scores import COCO_IOUS, Matches, average_precisions, match
from pipelines.dataset.boxes import FOUND

LEAST = 0.5  # intersection over union of a predicted box that is right with a true one of its class
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Compared:
    """Predicted boxes `found` (N, P, 6), in the order of confidence, beside the `true` ones (N, M, 5).

    matches: at COCO's overlaps, of which `LEAST` is the first.  cut: the least confidence of the boxes that count.
    exists: whether there is a true box, (N, M).  counts, hits: whether a predicted box counts, and is right, (N, P).
    right: the number of right, missed and false boxes of each image, (N, 3).
    """

    true: Array
    found: Array
    matches: Matches
    cut: float
    exists: Array
    counts: Array
    hits: Array
    right: Array

    @property
    def worst(self) -> Array:
        """The places of the images with missed or false boxes, those with most of them first."""
        wrong = self.right[:, 1:].sum(axis=1)
        order = np.argsort(-wrong, kind="stable")
        return order[wrong[order] > 0]

    def text(self, image: int) -> str:
        """Return what is right and wrong in an image."""
        right, missed, false = self.right[image].tolist()
        return f"{right} right, {missed} missed, {false} false"

    def describe(self) -> str:
        """Return which boxes count, and how many of them are right."""
        right, missed, false = self.right.sum(axis=0).tolist()
        least = f" of a confidence of {self.cut:.3g} or more, the best for F1" if self.cut > 0 else " sent"
        return (
            f"Boxes that count: those{least}: {right:,} right, {missed:,} missed, {false:,} false. Right: an "
            f"intersection over union of {LEAST} or more with a true box of the class."
        )


def compare(true: Array, found: Array, classes: int, cut: float | None = None) -> Compared:
    """Return true boxes (N, M, 5) and predictions (N, MOST * 6) side by side.

    cut: as in `Compared`; None: the one with the best F1 of all boxes.
    """
    matches = match(found, true, COCO_IOUS, classes)
    found = found.reshape(len(found), -1, FOUND)[:, : matches.hits.shape[1]]
    exists, some, hits = ~np.isnan(true[:, :, 0]), found[:, :, 1] > 0, matches.hits[:, :, 0] > 0
    if cut is None:
        sure = found[:, :, 1][some]
        order = np.argsort(-sure, kind="stable")
        f1 = 2 * hits[some][order].cumsum() / (np.arange(1, len(order) + 1) + matches.true.sum())
        cut = float(sure[order][f1.argmax()]) if len(order) else 1.0
    counts = some & (found[:, :, 1] >= cut)
    right = (counts & hits).sum(axis=1)
    each = np.stack([right, exists.sum(axis=1) - right, counts.sum(axis=1) - right], axis=1)
    return Compared(true, found, matches, cut, exists, counts, hits, each)


def class_table(compared: Compared, classes: Sequence[str]) -> pd.DataFrame:
    """Return a row per class: `label`, `boxes`; of all predicted boxes `ap_50`, `ap` and `recall_50`, NaN without true
    ones; `missed` and `false` of those that count."""
    precisions, rows = average_precisions(compared.matches)[0], []
    for number, name in enumerate(classes):
        total = int(compared.matches.true[:, number].sum())
        mine = compared.found[:, :, 0] == number
        given, right = (int((mine & compared.counts & some).sum()) for some in (True, compared.hits))
        recall = (mine & compared.hits).sum() / total if total else np.nan
        averages = precisions[number, 0], precisions[number].mean()
        rows.append((name, total, *averages, recall, total - right, given - right))
    return pd.DataFrame(rows, columns=["label", "boxes", "ap_50", "ap", "recall_50", "missed", "false"])
