"""Boxes of a table of labels: what its cells say, checked, as shares of the sizes of the images."""

import math
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipelines.dataset.annotations import BOX, JsonTable
from pipelines.dataset.boxes import COLUMNS, MOST, MOST_SHARE, ONLY_CLASS
from pipelines.dataset.columns import Listing
from pipelines.dataset.image_sizes import sizes_at
from pipelines.dataset.raw_data import Boxes, Flaw, RawData
from pipelines.dataset.tables import NUMBER, find_column
from pipelines.dataset.target_cells import NO_NUMBER, Targets
from pipelines.dataset.targets import JOINT
from pipelines.dataset.voc import SIZE
from pipelines.settings.data_sections import BOX_NOTATIONS
from pipelines.system.errors import UserError, few, quoted, refuse, shown

SIZES = (SIZE, ("width", "height"))  # columns that may state the size of the image
LABEL, COCO_FORM = "label", "xmin ymin width height"
APART = "\0"  # between the label and the cells of a row
_BETWEEN = re.compile(r"[\s,;\[\](){}'\"]+")  # numbers and labels in one cell
_ITEM = re.compile(r"""'([^']*)'|"([^"]*)"|([^\s,'"]+)""")  # of a list of labels
SMALL = 0.8  # of the boxes; if so many are within one pixel, they are shares
FIT = 0.9  # of the boxes; if so many are within a stated size, they were drawn on it
LEAVES = 1e-6  # of the side of an image; less is rounding
Sides = npt.NDArray[np.float64]


class _Box(NamedTuple):
    """A box as written: its row, its label, and its numbers in the order of data.box_form.

    size: the width and the height of its image that the table states, apart by a blank, or an empty text.
    """

    line: str
    id: str
    path: str
    label: str
    numbers: Sequence[str]
    size: str = ""

    def flaw(self, table: str, reason: str) -> Flaw:
        return Flaw(table, self.line, self.id, reason, f" ({' '.join(self.numbers)}){reason and ', '}{reason}")


def box_targets(listing: Listing, source: RawData, listed: JsonTable) -> Targets:
    """Return label, size of the image and cells of the boxes of each row, between `APART`; an empty text for no box.

    Raises `UserError` for a column that is missing.
    """
    data, path, table = source.data, listing.path, listing.table
    words, columns = data.box_form.split(), list(data.box_columns)
    key = "data.box_columns" if columns else "data.box_form"
    if listed.of_annotations and not columns:
        columns = [BOX]
        if data.box_form != COCO_FORM:
            raise UserError(
                f'{path} is in the form of COCO, whose boxes are "{COCO_FORM}", and data.box_form is '
                f'{quoted(data.box_form)}. Set data.box_form = "{COCO_FORM}". If they are not: also name their key in '
                "data.box_columns."
            )
    columns = columns or list(words)
    named = data.label_column or (listed.label_columns[-1] if listed.label_columns else "")
    if LABEL in words and columns[1:]:
        named = columns.pop(words.index(LABEL))
    cells = [find_column(table, path, name, 0, key).tolist() for name in columns]
    labels = find_column(table, path, named, 0, "data.label_column").tolist() if named else [""] * len(table)
    stated = next((list(pair) for pair in SIZES if set(pair) <= {*table} - {*columns}), [])
    sizes = [" ".join(each).strip() for each in table[stated].to_numpy().tolist()]
    texts = []
    for label, size, *sides in zip(labels, sizes, *cells, strict=True):
        none = data.no_box_label and data.no_box_label in (label, " ".join(sides))
        blank = not tokens(label) and all(token.lower() in NO_NUMBER for cell in sides for token in tokens(cell))
        texts.append("" if none or blank else APART.join([label if named else ONLY_CLASS, size, *sides]))
    labelled = f", labels in {quoted(named)}" if named else ""
    what = f"{few(columns, 5)} of {path.name}, as {quoted(data.box_form)} in {data.box_units}{labelled}"
    return Targets(texts, [False] * len(texts), what)


def tokens(cell: str) -> list[str]:
    """Return the numbers and labels in a cell, without brackets, quotes and what stands between them."""
    return [token for token in _BETWEEN.split(cell) if token]


def _lists(cells: Collection[str]) -> dict[str, list[str]]:
    """Return the labels in those `cells` that are lists, as JSON, Python and numpy write them."""
    found = [cell for cell in cells if cell[0] == "[" and cell[-1] == "]"]
    if len(found) < len(cells):  # some, such as [unknown], may be names
        found = [cell for cell in found if set(cell) & set(",'\"")]
    return {cell: ["".join(item) for item in _ITEM.findall(cell[1:-1])] for cell in found}


def _refuse_unpaired(path: Path, found: Sequence[tuple[str, str, int]]) -> None:
    """Raise `UserError` if each cell of labels has as many words as the image has boxes.  found: line, cell, boxes."""
    for apart in " ,;|":
        if len({count for *_, count in found}) > 1 and all(len(cell.split(apart)) == n for _, cell, n in found):
            cases = [f"{line}: {quoted(cell)} for {count} boxes" for line, cell, count in found if count > 1]
            remedy = 'Write these cells as lists, such as ["cat", "dog"]: the first label is that of the first box.'
            refuse(f"{path}: cells with a label for each box, apart by {apart!r}", cases, remedy)


def _is_finite(text: str) -> bool:
    return bool(NUMBER.fullmatch(text)) and math.isfinite(float(text))


def gather_boxes(source: RawData, path: Path, rows: pd.DataFrame) -> None:
    """Add to source.boxes those of `rows` (`line`, `id`, `path`, `label` of `box_targets`), clipped to their image.

    Boxes that are empty or no boxes are refused, or left out as data.flaws says.
    """
    boxes = _written(source, path, rows)
    if not boxes:
        raise UserError(f"{path}: no row has a box. Correct data.box_columns or data.box_form.")
    _refuse_other_units(source, path, boxes)
    sides = _shares(source, path, boxes)
    wrong = _without_area(sides)
    leaves = np.any((sides < -LEAVES) | (sides > 1 + LEAVES), axis=1)
    named = f"data.box_form, {quoted(source.data.box_form)}, or data.box_units, {quoted(source.data.box_units)}"
    bad = np.asarray(wrong | leaves)
    if bad.mean() > 0.5:
        problem = f"{path}: {bad.sum():,} of {len(boxes):,} boxes leave their image, or end before they begin"
        cases = [str(box.flaw("", "")) for box, is_bad in zip(boxes, bad, strict=True) if is_bad]
        refuse(problem, cases, f"Probably {named}, is not that of this table.")
    sides = sides.clip(0, 1)
    outside = _without_area(sides)
    reasons = np.where(wrong, "empty or inverted box", "box outside its image")
    flaws = [box.flaw(path.name, reason) for box, reason, out in zip(boxes, reasons, outside, strict=True) if out]
    source.leave_out(f"{path}: boxes without an area", flaws, f"Correct them, or {named}.")
    same = 0
    for box, ends, out in zip(boxes, sides.tolist(), outside, strict=True):
        found = source.boxes.setdefault(box.path, [])
        same += (box.label, *ends) in found
        if not out and (box.label, *ends) not in found:
            found.append((box.label, *ends))
    for count, what in ((leaves & ~outside).sum(), "that leave their image, and are clipped"), (same, "that repeat"):
        if count:
            source.note("note", f"Boxes of {path.name} {what}: {count:,} of {len(boxes):,}.")
    if crowded := sum(len(found) > MOST for found in source.boxes.values()):
        source.note("note", f"Images with more than {MOST} boxes: {crowded:,}. At most {MOST} of each are predicted.")


def _without_area(sides: Sides) -> npt.NDArray[np.bool_]:
    """Return which boxes have no area, or none that is left in targets of float32 however a box is moved there."""
    return np.asarray((sides[:, 2:] - sides[:, :2] <= LEAVES).any(axis=1))


def _written(source: RawData, path: Path, rows: pd.DataFrame) -> list[_Box]:
    """Return all boxes of `rows` as they are written; refuse or leave out what is no box."""
    words = source.data.box_form.split()
    boxes, flaws, whole = [], [], []
    lists = _lists({text.partition(APART)[0] for text in rows["label"]} - {""})
    for line, name, file, text in zip(*(rows[key].tolist() for key in ("line", "id", "path", "label")), strict=True):
        if not text:
            continue
        label, size, *cells = text.split(APART)
        if cells[1:]:
            form, parts = [word for word in words if word != LABEL], [cells]
        else:
            form, words_in = words, tokens(cells[0])
            parts = [words_in[start : start + len(form)] for start in range(0, len(words_in), len(form))] or [[]]
        named = lists.get(label, [label] * len(parts)) if any(map(any, parts)) else [label]
        if not (cells[1:] or label in lists or LABEL in form) and all(map(any, parts)):
            whole.append((line, label, len(parts)))
        if len(named) != len(parts):
            reason = f"{len(named):,} labels for {len(parts):,} boxes"
            flaws.append(_Box(line, name, file, label, [shown(label)]).flaw(path.name, reason))
            continue
        for part, given in zip(parts, named, strict=True):
            numbers = [token for word, token in zip(form, part, strict=False) if word != LABEL]
            given = part[form.index(LABEL)] if LABEL in form and len(part) == len(form) else given
            box = _Box(line, name, file, given, numbers, size)
            if not any(numbers):
                flaws.append(box.flaw(path.name, f"label {quoted(given)} without a box"))
            elif len(part) < len(form) or not all(map(_is_finite, numbers)):
                flaws.append(box.flaw(path.name, "not the numbers of a box"))
            elif not given:
                flaws.append(box.flaw(path.name, "box without a label"))
            else:
                boxes.append(box)
    _refuse_unpaired(path, whole)
    labels = "If a label says that the image has no box, name it in data.no_box_label."
    remedy = f"Correct these rows, or data.box_columns and data.box_form, {quoted(source.data.box_form)}. {labels}"
    source.leave_out(f"{path}: rows that do not hold boxes", flaws, remedy)
    joint = sorted({box.label for box in boxes if JOINT in box.label})
    refuse(f"{path}: labels with the character {JOINT!r}", joint, f"Rename them: {JOINT!r} separates labels.")
    return boxes


def _refuse_other_units(source: RawData, path: Path, boxes: Sequence[_Box]) -> None:
    """Raise `UserError` for shares above 1, and for pixels if nearly all boxes have no number above 1."""
    most = [max(map(float, box.numbers)) for box in boxes]
    small = [str(box.flaw("", "")) for box, number in zip(boxes, most, strict=True) if number <= 1]
    if source.data.box_units == "pixels" and len(small) >= SMALL * len(boxes):
        problem = f'{path}: data.box_units is "pixels", but of {len(boxes):,} boxes most have no number above 1'
        remedy = 'If they are shares of the width and the height: data.box_units = "shares". If they mean that an '
        refuse(problem, small, f"{remedy}image has no box, name their label in data.no_box_label.")
    if source.data.box_units == "shares":
        over = [str(box.flaw("", "")) for box, number in zip(boxes, most, strict=True) if number > MOST_SHARE]
        remedy = 'Correct them. If they are pixels: data.box_units = "pixels".'
        refuse(f'{path}: data.box_units is "shares", but boxes have numbers above 1', over, remedy)


def _shares(source: RawData, path: Path, boxes: Sequence[_Box]) -> Sides:
    """Return xmin, ymin, xmax, ymax of each box as shares of its image, (N, 4)."""
    numbers = np.array([box.numbers for box in boxes]).astype(np.float64)
    sides = tuple(word for word in source.data.box_form.split() if word != LABEL)
    start, size = numbers[:, :2], numbers[:, 2:]
    if sides == BOX_NOTATIONS[2]:
        start = start - size / 2
    corners = numbers if sides == BOX_NOTATIONS[0] else np.hstack([start, start + size])
    shares = source.data.box_units == "shares"
    if shares and not any(box.size for box in boxes):
        return corners
    places = {box.path: f"id {box.id!r}, {box.line} of {source.data.labels}" for box in boxes}
    row_of = {path: row for row, path in enumerate(places)}
    sizes = sizes_at(source.raw, places.items())[[row_of[box.path] for box in boxes]]
    _refuse_other_sizes(path, boxes, None if shares else corners, sizes)
    return corners if shares else corners / np.hstack([sizes, sizes])


def _refuse_other_sizes(path: Path, boxes: Sequence[_Box], corners: Sides | None, sizes: npt.NDArray[np.int64]) -> None:
    """Raise `UserError` for boxes of images whose stated size is not that of `sizes`, (N, 2), as they are opened.

    corners: in pixels. Boxes that do not fit the stated size were not drawn on it: then it is wrong, or that of a box.
    Without corners boxes are shares, which only a turned image changes.
    """
    texts = [box.size.split() for box in boxes]
    said = np.array([text if len(text) == 2 and all(map(_is_finite, text)) else (0, 0) for text in texts], np.float64)
    turned = (said == sizes[:, ::-1]).all(axis=1)
    other = (said > 0).all(axis=1) & (said != sizes).any(axis=1) & (turned | (corners is not None))
    if not other.any() or (corners is not None and (corners[other, 2:] <= said[other] + 1).all(axis=1).mean() < FIT):
        return
    rows = {boxes[row].path: row for row in np.flatnonzero(other)[::-1]}
    swapped = np.where(turned, ", its sides swapped", "")
    cases = [
        f"{boxes[row].line}: {quoted(boxes[row].path)} is {sizes[row, 0]} x {sizes[row, 1]}, not "
        f"{' x '.join(texts[row])}{swapped[row]}"
        for row in sorted(rows.values())
    ]
    remedy = "Boxes are relative to the image as it is opened, upright. "
    if (turned & other).any():
        remedy += "Swapped sides are those of the image as stored, before its EXIF turns it: turn its boxes, or it. "
    problem = f"{path}: images of another size than their labels state"
    refuse(problem, cases, f"{remedy}If it was resized, scale its boxes. If only the stated size is wrong, correct it.")


def target_of(boxes: Boxes, path: str) -> str:
    """Return the target of the image at `path`, as split.csv has it."""
    return JOINT.join(sorted(label for label, *_ in boxes.get(path, ())))


def box_table(rows: pd.DataFrame, boxes: Boxes) -> pd.DataFrame:
    """Return the boxes of the images in `rows` (`id`, `path`) as boxes.csv has them, in the order of `rows`."""
    pairs = zip(rows["id"].tolist(), rows["path"].tolist(), strict=True)
    return pd.DataFrame([(name, *box) for name, path in pairs for box in boxes.get(path, ())], columns=[*COLUMNS])
