"""The true boxes of a solution, in the form of the labels or of the submission, as cells of the submission."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from pipelines.analysis.scoring import joined_ids
from pipelines.dataset.box_cells import box_text, boxes_in
from pipelines.dataset.box_tables import LABEL, tokens
from pipelines.dataset.target_cells import NO_NUMBER
from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError, few

CONFIDENCE = "confidence"
DIGITS = 9


def solution_cells(
    table: pd.DataFrame, path: Path, submitted: pd.DataFrame, settings: Settings
) -> tuple[pd.DataFrame, list[str]]:
    """Return a solution with a row per image: id and boxes, named as in `submitted`, and `Usage`; and notes.

    table: in the form of the submission, perhaps without confidences; or in that of the labels, by [data]: then images
    of the submission that it does not name have no box.  Raises `UserError` for a row that holds no boxes.
    """
    data = settings.data
    named = {str(name).casefold(): str(name) for name in table.columns}
    id_name, answer = map(str, submitted.columns[:2])
    own, ids = answer.casefold() in named, table[named.get(id_name.casefold(), str(table.columns[0]))]
    words = (settings.competition.box_answer if own else data.box_form).split()
    columns = [answer] if own else list(data.box_columns or words)
    column = "" if own or LABEL in words else data.label_column
    if LABEL in words and columns[1:]:
        column = columns.pop(words.index(LABEL))
        words.remove(LABEL)
    if absent := [name for name in (*columns, column) if name and name.casefold() not in named]:
        raise UserError(f"{path} has no column {few(absent)}, of the true boxes; it has {few(list(named.values()))}.")
    cells = table[[named[name.casefold()] for name in columns]].agg(" ".join, axis=1).tolist()
    given = table[named[column.casefold()]].tolist() if column else [""] * len(table)
    names = pd.Series(ids.unique(), dtype=str)
    joined, notes = joined_ids(names, submitted.iloc[:, 0])
    ids = ids.map(dict(zip(names, joined, strict=True)))
    found = {name: [""] for name in ([] if own else submitted.iloc[:, 0])}
    words, texts = _read(cells, given, words, own, settings)
    for line, name, text in zip(table.index, ids, texts, strict=True):
        if isinstance(text, ValueError):
            raise UserError(f"{path}, line {line}: {text}. It is read as {' '.join(words)!r}.")
        found.setdefault(name, []).append(text)
    uses = dict(zip(ids, table[named["usage"]], strict=True)) if "usage" in named else {}
    rows = {id_name: list(found), answer: [" ".join(filter(None, texts)) for texts in found.values()]}
    return pd.DataFrame(rows | ({"Usage": [uses.get(name, "") for name in found]} if uses else {}), dtype=str), notes


def box_labels(cell: str, settings: Settings) -> list[str]:
    """Return the labels of the boxes in a cell of the submission; none if competition.box_answer has no label."""
    words = settings.competition.box_answer.split()
    if LABEL not in words or cell == settings.competition.no_boxes:
        return []
    return cell.split()[words.index(LABEL) :: len(words)]


def _read(
    cells: Sequence[str], labels: Sequence[str], words: list[str], own: bool, settings: Settings
) -> tuple[list[str], list[str | ValueError]]:
    """Return the words of a box, of the submission's form perhaps without the confidence, and each cell as `_cell`.

    The form is that of most cells: one cell of five boxes without a confidence may also be four boxes with one.
    """
    none = tokens(settings.competition.no_boxes)
    forms = [(words, none)]
    if own:
        placed = [word for number, word in enumerate(none) if words[number % len(words)] != CONFIDENCE]
        forms.append(([word for word in words if word != CONFIDENCE], none if len(none) % len(words) else placed))
    read = [
        (form, [_cell(cell, label, form, empty, settings) for cell, label in zip(cells, labels, strict=True)])
        for form, empty in forms
    ]
    return min(read, key=lambda each: sum(isinstance(text, ValueError) for text in each[1]))


def _cell(cell: str, label: str, words: list[str], none: list[str], settings: Settings) -> str | ValueError:
    """Return the boxes in a cell, each of `words`, in the words of the submission; or what is wrong with them."""
    no_box, parts = settings.data.no_box_label, tokens(cell)
    if (no_box and no_box in (label, cell)) or parts == none or all(part.lower() in NO_NUMBER for part in parts):
        return ""
    if len(parts) % len(words):
        return ValueError(f"it has {len(parts)} words, and each box has {len(words)}")
    if CONFIDENCE not in words:
        rows = [[*parts[start : start + len(words)], "1"] for start in range(0, len(parts), len(words))]
        parts, words = [part for row in rows for part in row], [*words, CONFIDENCE]
    form = replace(settings.competition, box_answer=" ".join(words), no_boxes="")
    try:
        labels, boxes = boxes_in(" ".join(parts), replace(settings, competition=form), clipped=True)
    except ValueError as error:
        return error
    return box_text([label] * len(labels) if label else labels, boxes, settings, DIGITS)
