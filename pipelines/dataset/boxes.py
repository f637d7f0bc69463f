"""Boxes as arrays, the same for training, prediction and metrics, and boxes.csv beside split.csv.

A box is xmin, ymin, xmax, ymax as shares of the width and the height of its image, counted from its top left corner:
nothing depends on the size at which an image is seen.  Both arrays are padded, so that they are gathered, stored and
selected like those of the other tasks:

targets: float32 (N, M, 5): the number of the class, and the box; NaN after the last one of an image.
predictions: float32 (N, MOST * 6): for each box the number of its class, its confidence, and the box, in the order of
confidence; zeros after the last one of an image.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipelines.dataset.tables import read_csv
from pipelines.system.errors import UserError

COLUMNS = ("id", "label", "xmin", "ymin", "xmax", "ymax")
SIDES = list(COLUMNS[2:])
MOST = 100  # predicted boxes of an image, as many as COCO's metric takes
TARGET, FOUND = 5, 6  # numbers of a true and of a predicted box
MOST_SHARE = 1.001  # in the data of others, who round
ONLY_CLASS = "object"  # the label of boxes without one
Array = npt.NDArray[Any]


def read_boxes(path: Path) -> pd.DataFrame:
    """Return boxes.csv, the sides as float64.  Raises `UserError` if the file is missing or no such."""
    if not path.is_file():
        raise UserError(f"{path} is missing: split again.")
    boxes = read_csv(path, strip=False)
    if tuple(boxes.columns) != COLUMNS:
        raise UserError(f"{path} has other columns than {','.join(COLUMNS)}. Remove it and split again.")
    return boxes.astype(dict.fromkeys(SIDES, np.float64))


def targets_of(boxes: pd.DataFrame, ids: Sequence[str], classes: Sequence[str]) -> Array:
    """Return the targets of the images `ids`, float32 (N, M, 5); M is at least 1.  boxes: of `read_boxes`."""
    row_of = {name: row for row, name in enumerate(ids)}
    class_of = {name: number for number, name in enumerate(classes)}
    boxes = boxes[boxes["id"].isin(row_of)]
    rows, places = boxes["id"].map(row_of).to_numpy(int), boxes.groupby("id").cumcount().to_numpy()
    targets = np.full((len(ids), places.max(initial=0) + 1, TARGET), np.nan, np.float32)
    targets[rows, places, 0] = boxes["label"].map(class_of).to_numpy(float)
    targets[rows, places, 1:] = boxes[SIDES].to_numpy()
    return targets
