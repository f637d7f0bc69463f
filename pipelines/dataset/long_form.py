"""Read tables in long form, one row per image and target, as tables with one row per image."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from pipelines.dataset.answer_forms import split_long
from pipelines.dataset.raw_data import line_of
from pipelines.settings.choices import ID, TARGET
from pipelines.system.errors import UserError, few, quoted, refuse

COLUMNS = (f"{ID},{TARGET}", f"{TARGET},{ID}")  # the long forms with id and target in columns of their own


def images_of(ids: "pd.Series[str]", form: str, known: Sequence[str]) -> "pd.Series[str]":
    """Return the id of the image of each row, whose id has the long `form`.  known: names that may be targets."""
    if not form or form in COLUMNS:
        return ids
    images, _ = split_long(ids.tolist(), form, known)
    return pd.Series(images, index=ids.index, name=ids.name, dtype=str)


def widened(path: Path, table: pd.DataFrame, form: str, column: str) -> tuple[pd.DataFrame, list[str]]:
    """Return a table of one row per image with a column for each target, and the names of the targets.

    table: in the long `form`, without indexes; its ids are in `column`. A pair that has no row is an empty text. Raises
    `UserError` for a table of other columns, and for rows of one image and target with two values.
    """
    names = list(map(str, table.columns))
    place, width = names.index(column), 3 if form in COLUMNS else 2
    if len(names) != width:
        raise UserError(
            f"{path}: a table in the long form {form!r} has {width} columns, but this one has {len(names)}: "
            f"{few(names, 10)}. Empty competition.long_form if it has a row per image."
        )
    target = ""
    if form in COLUMNS:
        beside = place + 1 if form == COLUMNS[0] else place - 1
        if beside not in range(width):
            raise UserError(f"{path}: {quoted(column)} has no column of targets beside it, as in {form!r}. Correct it.")
        target = names[beside]
        images, targets = table[column].tolist(), table[target].tolist()
    else:
        images, targets = split_long(table[column].tolist(), form, [])
    value = next(name for name in names if name not in (column, target))
    kinds = list(dict.fromkeys(targets))
    cells: dict[str, dict[str, str]] = {}
    first: dict[str, object] = {}
    other = []
    for line, image, kind, text in zip(table.index, images, targets, table[value].tolist(), strict=True):
        first.setdefault(image, line)
        if cells.setdefault(image, {}).setdefault(kind, text) != text:
            before = quoted(cells[image][kind])
            other.append(f"{line_of(line)}: {quoted(image)}, {quoted(kind)} is {quoted(text)}, before {before}")
    refuse(f"{path}: images with two values of one target", other, "Remove the wrong rows.")
    wide = {kind: [row.get(kind, "") for row in cells.values()] for kind in kinds}
    frame = pd.DataFrame({column: list(cells), **wide}, dtype=str)
    frame.index = pd.Index(list(first.values()), name="line")
    return frame, kinds
