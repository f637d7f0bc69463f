"""Boxes of objects: which columns have them, in which notation and units, and how the sample submission writes them."""

import re
from collections.abc import Collection, Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipelines.analysis.recognise.answers import BOXES as ASKED
from pipelines.analysis.recognise.draft import Draft
from pipelines.analysis.recognise.facts import RawFolder
from pipelines.analysis.recognise.listing import Table
from pipelines.analysis.recognise.roles import Roles
from pipelines.analysis.recognise.targets import LIKELY, Boxes, Target
from pipelines.dataset.box_tables import tokens
from pipelines.dataset.boxes import ONLY_CLASS
from pipelines.dataset.columns import LABEL_NAMES
from pipelines.dataset.images import upright_size
from pipelines.dataset.tables import NUMBER
from pipelines.settings.data_sections import BOX_NOTATIONS
from pipelines.system.errors import UserError, few

CORNERS, SIZE, CENTRE = map(" ".join, BOX_NOTATIONS)
NAMES = {  # of the four columns, in small letters without other signs; of equal notations the first is taken
    SIZE: ("x y w h", "x y width height", "xmin ymin width height", "xmin ymin w h", "left top width height"),
    CORNERS: ("xmin ymin xmax ymax", "x1 y1 x2 y2", "x0 y0 x1 y1", "left top right bottom", "minx miny maxx maxy"),
    CENTRE: ("xcenter ycenter width height", "xcenter ycenter w h", "centerx centery width height", "cx cy w h"),
}
ORDERS = (  # the words of a box in a cell of the sample, the usual ones first
    *("label confidence {}", "confidence label {}", "label {} confidence", "{} confidence label"),
    *("confidence {}", "{} confidence"),
)
SAMPLED = 48  # images whose sizes are read
SLACK = 0.02  # share of a side by which a box may leave its image
FITTING = 0.8  # least share of the boxes that lie in their images
HINT = 0.01  # of the boxes: what the names of the columns count
Array = npt.NDArray[Any]


class Found(NamedTuple):
    """Columns that look like boxes.  words: their order, as data.box_form has it, with {} for the four sides.

    rows: the row of each box; sides: (N, 4); labels: those that stand in the same cell; hint: what their names say.
    """

    columns: list[str]
    rows: Array
    sides: Array
    hint: str = ""
    words: str = "{}"
    labels: Sequence[str] = ()


def box_target(folder: RawFolder, roles: Roles) -> Target | None:
    """Return the boxes of the table of labels as a target; None if it has none, or the sample does not ask for them."""
    table, sample = roles.labels, roles.sample
    if table is None or table.pixels or roles.is_weak or (sample and len(sample.answers) != 1):
        return None
    asked = list(filter(None, sample.table.values(sample.answers[0]))) if sample else []
    if sample and not ASKED.fullmatch(sample.answers[0]) and not _orders(asked):
        return None
    naming = roles.file_column or roles.id_column or next(iter(table.naming(roles.names)))
    others = [column for column in table.columns if column not in (naming, roles.id_column)]
    found, form, units, share = _best(table, others, _sizes(folder, roles, table.values(naming)))
    if found is None:
        return None
    others = [column for column in others if column not in found.columns]
    column, no_label = ("", "") if found.labels else _label_column(table, others, found.rows, asked)
    texts = table.values(column) if column else [ONLY_CLASS] * len(table)
    cells: list[list[str]] = [[] for _ in texts]
    for row, label in zip(found.rows, found.labels or [texts[row] for row in found.rows], strict=True):
        cells[row].append(label)
    return Target(
        *("column", "boxes", sorted({label for each in cells for label in each}), list(map(" ".join, cells))),
        columns=[column] * bool(column),
        others=[each for each in others if each != column],
        why=f"{len(found.rows):,} boxes; {share:.0%} of those looked at lie in their images when read so",
        boxes=Boxes(found.columns, found.words.format(form), units, no_label),
    )


def _best(table: Table, columns: Sequence[str], sizes: Array) -> tuple[Found | None, str, str, float]:
    """Return the columns of boxes, and the notation, the units and the share that is inside the image.

    sizes: (rows, 2), of the images in pixels; NaN for those that were not looked at.
    """
    best: tuple[Found | None, str, str, float] = None, "", "", 0.0
    most = FITTING
    for found, form in product((*_in_columns(table), *_in_cells(table, columns)), NAMES):
        bounds = sizes[found.rows]
        looked = ~np.isnan(bounds[:, 0])
        units = _units(found.sides)
        share = _inside(found.sides[looked], form, bounds[looked] if units == "pixels" else 1.0)
        if (points := share + HINT * (form == found.hint)) > most:
            most, best = points, (found, form, units, share)
    return best


def _units(sides: Array) -> str:
    """Return "shares" if most boxes have no side above 1, else "pixels".

    A box of zeros and ones, such as 0 0 1 1, may be either: it counts only where there is no other.
    """
    small = np.abs(sides).max(axis=1) <= 1 + SLACK
    tells = ~small | (sides != np.rint(sides)).any(axis=1)
    return "shares" if small[tells].sum() >= FITTING * tells.sum() else "pixels"


def _inside(sides: Array, form: str, bounds: Any) -> float:
    """Return the share of boxes that, read as `form`, have an area and lie in their images."""
    first, second = sides[:, :2], sides[:, 2:]
    low = first - second / 2 if form == CENTRE else first
    high = second if form == CORNERS else low + second
    good = (low >= -SLACK * bounds) & (high > low) & (high <= (1 + SLACK) * bounds)
    return float(good.all(axis=1).mean()) if len(sides) else 0.0


def _sizes(folder: RawFolder, roles: Roles, names: Sequence[str]) -> Array:
    """Return (rows, 2): width and height of the upright image of each row, for some of the images; else NaN."""
    sizes = dict.fromkeys(names, (np.nan, np.nan))
    different = list(sizes)
    for name in different[:: max(1, len(different) // SAMPLED)]:
        files = [file for file in roles.names.find(name) if file not in roles.test_images]
        try:
            sizes[name] = upright_size(folder.raw / files[0], name)
        except (UserError, IndexError, OSError):
            continue
    return np.array([sizes[name] for name in names], float)


def _in_columns(table: Table) -> Iterator[Found]:
    """Yield the boxes in four columns that are named so."""
    plain = {re.sub("[^a-z0-9]", "", name.casefold().replace("centre", "center")): name for name in table.columns}
    plain = {re.sub("^(bounding)?b?box", "", name): column for name, column in plain.items()}
    for hint, names in ((hint, each.split()) for hint, several in NAMES.items() for each in several):
        if plain.keys() >= set(names):
            columns = [plain[name] for name in names]
            cells = table.frame[columns].map(lambda cell: cell if NUMBER.fullmatch(str(cell)) else "nan")
            sides = cells.to_numpy().astype(float)
            rows = np.flatnonzero(~np.isnan(sides).any(axis=1))
            yield Found(columns, rows, sides[rows], hint)


def _in_cells(table: Table, columns: Sequence[str]) -> Iterator[Found]:
    """Yield the boxes in one column: a box or all boxes of an image in a cell, which may have labels too."""
    for column in columns:
        cells = [tokens(cell) for cell in table.values(column)]
        for words in ("{}", "label {}", "{} label"):
            step, place = 4 + (words != "{}"), 4 * (words == "{} label")
            if not any(cells) or any(len(cell) % step for cell in cells):
                continue
            boxes = np.array([word for cell in cells for word in cell], object).reshape(-1, step)
            sides = np.delete(boxes, place, axis=1) if step == 5 else boxes
            if all(NUMBER.fullmatch(word) for word in sides.flat):
                rows = np.repeat(np.arange(len(cells)), [len(cell) // step for cell in cells])
                labels = boxes[:, place].tolist() if step == 5 else ()
                yield Found([column], rows, sides.astype(float), "", words, labels)


def _label_column(table: Table, columns: Sequence[str], rows: Array, asked: Sequence[str]) -> tuple[str, str]:
    """Return the column of the labels, and the label of rows without a box; empty texts where there is none.

    It has the words of the sample, or is a name rather than a number.  A sample without labels wants one class: then
    a column only says which rows have no box.
    """
    words = {word for cell in asked for word in cell.split()}
    has_box = np.isin(np.arange(len(table)), rows)
    found = []
    for column in filter(LIKELY.search, columns):
        cells = table.frame[column].to_numpy()
        used = set(cells[has_box])
        none = set(cells[~has_box]) - {""}
        no_label = none.pop() if len(none) == 1 and not none & used else ""
        if no_label or not asked or "label" in next(iter(_orders(asked)), ""):
            plain = bool(LABEL_NAMES.fullmatch(column)), not all(map(NUMBER.fullmatch, used))
            found.append(((bool(words & {*used, no_label}), *plain), column, no_label))
    return max(found, key=lambda each: each[0], default=((), "", ""))[1:]


def _orders(asked: Sequence[str], labels: Collection[str] = ()) -> dict[str, Array]:
    """Return the possible orders of the words of a box in the sample's cells, the usual ones first, with {} for sides.

    Each has the sides that it reads, (N, 4). labels: those that may occur; empty: any.
    """
    cells = [cell.split() for cell in asked]
    tokens = [word for cell in cells for word in cell]
    found = {}
    for words in ORDERS if asked else ():
        order = words.format(CORNERS).split()
        if any(len(cell) % len(order) for cell in cells):
            continue
        boxes = dict(zip(order, np.array(tokens, object).reshape(-1, len(order)).T, strict=True))
        named = set(boxes.pop("label", ()))
        if all(NUMBER.fullmatch(word) for column in boxes.values() for word in column):
            confidence = boxes.pop("confidence").astype(float)
            if ((confidence >= 0) & (confidence <= 1)).all() and (not labels or named <= set(labels)):
                found[words] = np.stack(list(boxes.values()), axis=1).astype(float)
    return found


def _fitting(orders: dict[str, Array], form: str, units: str) -> dict[str, Array]:
    """Return those of `orders` that read the most boxes with an area, inside the image if the sides are shares.

    Of orders that read none, and of those of the placeholder 0 0 1 1, only the usual one is returned.
    """
    fits = {
        words: _inside(sides, form, 1.0 if units == "shares" or _are_shares(sides) else np.inf)
        for words, sides in orders.items()
    }
    most = max(fits.values(), default=0.0)
    found = [words for words, share in fits.items() if share == most]
    if not most or (orders[found[0]] == (0, 0, 1, 1)).all():
        found = found[:1]
    return {words: orders[words] for words in found}


def _are_shares(sides: Array) -> bool:
    """Return whether no side is above 1, and some are fractions."""
    return bool(np.abs(sides).max(initial=0) <= 1 and (sides != np.rint(sides)).any())


def set_answer(draft: Draft, target: Target, roles: Roles, metric: str) -> None:
    """Set how a box stands in a cell of the submission, and the settings of the metric that its name states.

    Raises `UserError` for cells that are no boxes.
    """
    boxes, sample = target.boxes, roles.sample
    assert boxes is not None
    sides = next(form for form in NAMES if form in boxes.form)
    asked = list(dict.fromkeys(filter(None, sample.table.values(sample.answers[0])))) if sample else []
    name = sample.table.name if sample else ""
    fits = _fitting(_orders(asked, {*target.labels, boxes.no_label}), sides, boxes.units)
    if asked and not fits:
        raise UserError(
            f"{name}: cells such as {few(asked)} are no boxes with a confidence, as "
            f"{few([each.format(sides) for each in ORDERS[::4]])}, with one of the labels {few(target.labels)}."
        )
    why = f"The order in the sample's cells, such as {few(asked, 1)}" if asked else "A GUESS: there is no such cell"
    possible = [each.format(sides) for each in fits]
    if possible[1:]:
        why = f"A GUESS: cells such as {few(asked, 1)} also fit {few(possible[1:])}"
        draft.doubts.append(
            f"{name}: cells such as {few(asked, 1)} can be read in several orders: {few(possible, 4)}. "
            "competition.box_answer is the first, the usual one. Set the order that Kaggle's page gives."
        )
    words = next(iter(fits), "") or (
        "label confidence {}" if target.columns or "label" in boxes.form else "confidence {}"
    )
    why += "; the sides as in the labels: compare them with Kaggle's page."
    draft.set("competition.box_answer", words.format(sides), why)
    first = dict(zip(words.format(sides).split(), asked[0].split(), strict=False)) if len(asked) == 1 else {}
    if boxes.no_label and first.get("label") == boxes.no_label:
        draft.set("competition.no_boxes", asked[0], f"An image without a box: the label {boxes.no_label!r}.")
    if draft.get("competition.metric") == "box_map_at" and (number := re.search(r"\b0?\.\d+", metric)):
        draft.set("competition.box_iou", float(number[0]), "As the metric's name says.")
    if sample is None:
        draft.notes.append(
            'The labels have boxes, so boxes are predicted. For one class per image: task = "one_class".'
        )


def set_columns(draft: Draft, target: Target) -> None:
    """Set where the labels have the boxes, and in which form."""
    boxes = target.boxes
    assert boxes is not None
    others = f" Others: {few(target.others, 8)}." if target.others else ""
    if target.columns:
        draft.set("data.label_column", target.columns[0], f"The class of each box.{others}")
    if boxes.no_label:
        draft.set("data.no_box_label", boxes.no_label, "Rows with this label have no box.")
    forms = "; ".join(form for form in NAMES if form not in boxes.form)
    draft.set("data.box_columns", boxes.columns, f"{target.why}.")
    draft.set("data.box_form", boxes.form, f"Other notations: {forms}.")
    draft.set("data.box_units", boxes.units, "Pixels, or shares of the image; in the submission too.")
