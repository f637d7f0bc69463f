"""Predictions that a run keeps for combining it with others: of labelled images that it was not trained on, and of the
test images.

Both are what `Task.predictions` returns, before a temperature, thresholds or cut points.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipelines.dataset.boxes import FOUND, MOST, SIDES
from pipelines.dataset.tables import csv_writer
from pipelines.settings.metrics import BOXES, NUMBERS, ONE_CLASS
from pipelines.system.errors import UserError, few
from pipelines.system.files import atomic_file
from pipelines.system.shell import path_word, removal

if TYPE_CHECKING:
    from torch import Tensor

MOST_STORED = 1 << 26  # values in a file: 256 MiB of test predictions, about 800 MB of text
PREFIX = {"one_class": "p_", "several_labels": "p_", "numbers": "predicted_"}  # of columns, by task
PARTS = ("class", "confidence", *SIDES)  # of a predicted box
KEYS = ("id", "fold")


@dataclass(frozen=True)
class Stored:
    """Predictions (N, ·), float32 on the processor, of images that the predicting network was not trained on.

    ids: (N,).  folds: the fold that each image validates, 0 without folds; int64 (N,).
    """

    ids: npt.NDArray[Any]
    folds: npt.NDArray[np.int64]
    predictions: "Tensor"


def write_oof(path: Path, stored: Stored, classes: Sequence[str], task: str) -> None:
    """Write a row per image: id, fold, and its predictions with 9 significant digits, by task

    `p_<class>` or `p_<label>`: probabilities; `predicted_<name>`: numbers; `box_<n>_class`, `box_<n>_confidence`,
    `box_<n>_xmin`, ...: boxes.
    """
    names = _names(classes, task)
    keys = zip(stored.ids.tolist(), stored.folds.tolist(), strict=True)
    with atomic_file(path) as partial, open(partial, "w", encoding="utf-8", newline="") as file:
        writer = csv_writer(file, [*names, *stored.ids.tolist()])
        writer.writerow(names)
        for key, row in zip(keys, stored.predictions, strict=True):
            values = row.double().exp() if task == ONE_CLASS else row.double()
            writer.writerow((*key, *(f"{value:.9g}" for value in values.tolist())))


def read_oof(path: Path, table: pd.DataFrame, classes: Sequence[str], task: str) -> Stored:
    """Return what `write_oof` has written.  Raises `UserError` if it is damaged, or not of the split `table`."""
    import torch

    ids, folds, values = read_oof_arrays(path, table, classes, task)
    return Stored(ids, folds, torch.from_numpy(values))


def read_oof_arrays(
    path: Path, table: pd.DataFrame, classes: Sequence[str], task: str
) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return the three arrays of `read_oof`, without torch, which takes long to import."""
    names = _names(classes, task)
    try:
        types: dict[str, Any] = dict.fromkeys(names, np.float64) | {"id": str, "fold": np.int64}
        read = pd.read_csv(path, dtype=types, keep_default_na=False, encoding="utf-8")
    except (OSError, ValueError) as error:
        raise _unusable(path, f"is missing or damaged ({error})") from None
    if list(read) != names:
        raise _unusable(path, f"has other columns than those of {few(list(classes))}")
    ids, values = read["id"], read[names[2:]].to_numpy(np.float64)
    if ids.duplicated().any() or not len(ids):
        raise _unusable(path, "lists an id twice" if len(ids) else "has no rows")
    if strangers := sorted(set(ids) - set(table.loc[table["split"] != "test", "id"])):
        raise _unusable(path, f"does not match split.csv, which has no labelled row {few(strangers)}")
    sensible = np.isfinite(values) if task in (NUMBERS, BOXES) else (values >= 0) & (values <= 1 + 1e-6)
    if task == BOXES:
        numbers, confidences = values[:, ::FOUND], values[:, 1::FOUND]
        sensible[:, ::FOUND] &= np.isin(numbers, np.arange(len(classes)))
        sensible[:, 1::FOUND] &= (confidences >= 0) & (confidences <= 1 + 1e-6)
    if not sensible.all():
        what = "numbers that are not finite" if task == NUMBERS else "probabilities outside 0 to 1"
        what = "boxes of no class, or of no confidence" if task == BOXES else what
        raise _unusable(path, f"has {what} ({few(ids.to_numpy()[~sensible.all(axis=1)].tolist())})")
    if task == ONE_CLASS:
        with np.errstate(divide="ignore"):  # a probability may be 0
            values = np.log(values)
    with np.errstate(over="ignore"):  # a number may be too large
        return ids.to_numpy(), read["fold"].to_numpy(), values.astype(np.float32)


def _names(classes: Sequence[str], task: str) -> list[str]:
    """Return the columns of oof.csv."""
    if task == BOXES:
        return [*KEYS, *(f"box_{number}_{part}" for number in range(MOST) for part in PARTS)]
    return [*KEYS, *(f"{PREFIX[task]}{name}" for name in classes)]


def fits(images: int, columns: int) -> bool:
    """Return whether the predictions of so many images are few enough to be kept."""
    return images * columns <= MOST_STORED


def save_test(path: Path, predictions: npt.NDArray[np.float32]) -> None:
    """Write the predictions of the test images, float32 (N, ·) in the order of split.csv, as a `.npy` file."""
    with atomic_file(path) as partial, open(partial, "wb") as file:
        np.save(file, predictions, allow_pickle=False)


def load_test(path: Path, images: int, columns: int) -> npt.NDArray[np.float32]:
    """Return the test predictions at `path`, memory-mapped, (images, columns).  Raises `UserError` if it has others."""
    try:
        read = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise _unusable(path, f"is missing or damaged ({error})") from None
    if read.shape != (images, columns) or read.dtype != np.float32:
        raise _unusable(path, f"holds {read.dtype} {read.shape} instead of float32 {(images, columns)}")
    return read


def _unusable(path: Path, reason: str) -> UserError:
    again = f"Remove it, then predict that run again (RUN={shlex.quote(path.parent.name)})"
    return UserError(f"{path_word(path)} {reason}. {again}: {removal(path)}")
