"""The true boxes of a solution, in the form of the labels or of the submission, as cells of the submission."""

from dataclasses import replace
from pathlib import Path

import pandas as pd

from pipelines.dataset.box_cells import box_text, boxes_in
from pipelines.dataset.box_tables import LABEL, tokens
from pipelines.dataset.target_cells import NO_NUMBER
from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError, few

CONFIDENCE = "confidence"
DIGITS = 9


def solution_cells(table: pd.DataFrame, path: Path, submitted: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """Return a solution with a row per image: id and boxes, named as in `submitted`, and `Usage`.

    table: in the form of the submission, perhaps without confidences; or in that of the labels, by [data]: then images
    of the submission that it does not name have no box.  Raises `UserError` for a row that holds no boxes.
    """
    data, competition = settings.data, settings.competition
    named = {str(name).casefold(): str(name) for name in table.columns}
    id_name, answer = map(str, submitted.columns[:2])
    own, ids = answer.casefold() in named, table[named.get(id_name.casefold(), str(table.columns[0]))]
    words = (competition.box_answer if own else data.box_form).split()
    columns = [answer] if own else list(data.box_columns) or [word for word in words if word != LABEL]
    column = "" if own or LABEL in words else data.label_column
    if absent := [name for name in (*columns, column) if name and name.casefold() not in named]:
        raise UserError(f"{path} has no column {few(absent)}, of the true boxes; it has {few(list(named.values()))}.")
    cells = table[[named[name.casefold()] for name in columns]].agg(" ".join, axis=1)
    parts = list(map(tokens, cells))
    given = table[named[column.casefold()]].tolist() if column else [""] * len(table)
    found = {name: [""] for name in ([] if own else submitted.iloc[:, 0])}
    for line, name, label, each in zip(table.index, ids, given, parts, strict=True):
        none = (label and label == data.no_box_label) or " ".join(each) == competition.no_boxes
        try:
            text = "" if none else _cell(each, words, label, settings)
        except ValueError as error:
            raise UserError(f"{path}, line {line}: {error}. It is read as {' '.join(words)!r}.") from None
        found.setdefault(name, []).append(text)
    uses = dict(zip(ids, table[named["usage"]], strict=True)) if "usage" in named else {}
    rows = {id_name: list(found), answer: [" ".join(filter(None, texts)) for texts in found.values()]}
    return pd.DataFrame(rows | ({"Usage": [uses.get(name, "") for name in found]} if uses else {}), dtype=str)


def _cell(parts: list[str], words: list[str], label: str, settings: Settings) -> str:
    """Return the boxes in `parts`, each of `words`, in the words of the submission; confidences may be absent."""
    if all(part.lower() in NO_NUMBER for part in parts):
        return ""
    if CONFIDENCE not in words or len(parts) % len(words):
        words = [word for word in words if word != CONFIDENCE]
        rows = [[*parts[start : start + len(words)], "1"] for start in range(0, len(parts), len(words))]
        parts, words = [part for row in rows for part in row], [*words, CONFIDENCE]
    form = replace(settings.competition, box_answer=" ".join(words))
    labels, boxes = boxes_in(" ".join(parts), replace(settings, competition=form))
    return box_text([label] * len(labels) if label else labels, boxes, settings, DIGITS)
