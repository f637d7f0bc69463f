"""The predictions of labelled images: as arrays, and as a CSV beside the run, which `audit` reads."""

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipelines.analysis.box_results import Compared, compare
from pipelines.dataset.boxes import FOUND, MOST
from pipelines.dataset.image_set import ImageSet
from pipelines.dataset.tables import csv_writer, read_csv
from pipelines.dataset.targets import JOINT, join_labels
from pipelines.settings.metrics import BOXES, NUMBERS, ONE_CLASS, SEVERAL_LABELS
from pipelines.system.errors import UserError
from pipelines.system.files import atomic_file
from pipelines.system.shell import path_word, removal

Array = npt.NDArray[Any]

NAMES = ("id", "label", "predicted")
OF_CLASSES = ("p_predicted", "p_label")
PREFIX = "p_"  # of the columns of several labels
OF_BOXES = ("right", "missed", "false", "boxes")


@dataclass(frozen=True)
class Results:
    """The predictions of `images`, which have targets.

    one_class: decided: class numbers (N,); predicted: the probability of each of them, (N,); of_label: that of each
    image's true class, (N,).
    several_labels: decided: 0 or 1, (N, K); predicted: probabilities (N, K); thresholds: one, or one per label.
    numbers: predicted: (N, T), in the units of the targets; decided is not used.
    boxes: predicted: (N, MOST * 6); decided: those of them that are sent.
    """

    images: ImageSet
    predicted: Array
    decided: Array
    of_label: Array | None = None
    thresholds: Sequence[float] = ()

    @cached_property
    def compared(self) -> Compared:
        """Boxes that are sent beside the true ones; all of them count where some are not sent."""
        cut = 0.0 if (self.decided != self.predicted).any() else None
        return compare(self.images.labels, self.decided, len(self.images.classes), cut)


def write_valid_predictions(path: Path, results: Results) -> None:
    """Write `id`, `label` and `predicted`, as in split.csv, of each image, and by task:

    one_class: `p_predicted` and `p_label`. several_labels: `p_<label>` of each label. boxes: the numbers of `right`,
    `missed` and `false` boxes, and `boxes`, the six numbers of each predicted one; the first of them, as many as the
    labels in `predicted`, are those that count.
    """
    images, decided, predicted = results.images, results.decided, results.predicted
    classes, names = np.array(images.classes, object), [*NAMES]
    texts: Iterable[str]
    values: Iterable[Sequence[float | str]] = ([] for _ in predicted)
    if images.task == NUMBERS:
        texts = [JOINT.join(f"{value:.7g}" for value in row) for row in predicted.tolist()]
    elif images.task == SEVERAL_LABELS:
        texts = [join_labels(classes[row.astype(bool)]) for row in decided]
        names, values = [*names, *(f"{PREFIX}{name}" for name in classes)], (row.tolist() for row in predicted)
    elif images.task == BOXES:
        compared, names = results.compared, [*names, *OF_BOXES]
        found = zip(compared.found, compared.counts, strict=True)
        texts = [JOINT.join(sorted(classes[row[counts, 0].astype(int)])) for row, counts in found]
        boxes = (" ".join(f"{value:.9g}" for value in row[row[:, 1] > 0].ravel().tolist()) for row in compared.found)
        values = ((*counts, text) for counts, text in zip(compared.right.tolist(), boxes, strict=True))
    else:
        assert results.of_label is not None
        texts = classes[decided].tolist()
        names, values = [*names, *OF_CLASSES], zip(predicted.tolist(), results.of_label.tolist(), strict=True)
    rows = list(zip(images.rows["id"], images.rows["label"], texts, strict=True))
    with atomic_file(path) as partial, open(partial, "w", encoding="utf-8", newline="") as file:
        writer = csv_writer(file, chain(names, *rows))
        writer.writerow(names)
        # Row by row: texts of all probabilities of thousands of labels would need gigabytes.
        writer.writerows(
            (*row, *(f"{value:.6f}" if isinstance(value, float) else value for value in some))
            for row, some in zip(rows, values, strict=True)
        )


@dataclass(frozen=True)
class Predictions:
    """What `write_valid_predictions` has written: places of the rows in the split table, and by task

    one_class: `names`, the predicted classes, and `values` (N, 2): the probabilities of these and of the labels.
    several_labels: `names`, all labels, and `values` (N, K), their probabilities.
    numbers: `values` (N, T), without names.
    boxes: `names`, the labels of those that count, joined, and `values` (N, MOST * 6), all predicted ones.
    """

    places: list[int]
    names: list[str]
    values: npt.NDArray[np.float64]


def read_predictions(path: Path, table: pd.DataFrame, task: str) -> Predictions:
    """Return the predictions at `path`. Raises `UserError` if they are damaged, or not of the split `table`."""
    read = read_csv(path, strip=False)
    labelled = table[table["split"] != "test"]
    place_of = dict(zip(labelled["id"].tolist(), labelled.index.tolist(), strict=True))
    labels = table["label"].tolist()
    others = [str(name) for name in read if name not in NAMES]
    try:
        rows, names = list(zip(*(read[name].tolist() for name in NAMES[:2]), strict=True)), read[NAMES[2]].tolist()
        if task == NUMBERS:
            cells, names = [text.split(JOINT) for text in names], []
            width = rows[0][1].count(JOINT) + 1
        elif task == BOXES:
            width = MOST * FOUND
            cells = [text.split() for text in read[OF_BOXES[-1]]]
            cells = [[*row, *["0"] * (width - len(row))] for row in cells]
        else:
            columns = [*OF_CLASSES] if task == ONE_CLASS else others
            cells, width = read[columns].to_numpy().tolist(), len(columns)
            names = names if task == ONE_CLASS else [name.removeprefix(PREFIX) for name in columns]
        values = np.array([[float(cell) for cell in row] for row in cells]).reshape(len(rows), width)
    except (KeyError, ValueError) as error:
        raise unusable(path, f"is damaged ({error})") from None
    for name, label in rows:
        if name not in place_of or labels[place_of[name]] != label:
            raise unusable(path, f"does not match split.csv: {name!r} with the label {label!r} is not in it")
    if not others and task == SEVERAL_LABELS:
        raise unusable(path, "has no probabilities")
    return Predictions([place_of[name] for name, _ in rows], names, values)


def unusable(path: Path, reason: str) -> UserError:
    """Return the error that the predictions at `path` cannot be used, with the command that removes them."""
    again = f"Remove it, then predict that run again (RUN={shlex.quote(path.parent.name)}) or go on without it"
    return UserError(f"{path_word(path)} {reason}. {again}: {removal(path)}")
