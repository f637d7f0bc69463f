"""Turn the cells of a table into targets as text: one cell per row, or several columns."""

import math
from collections.abc import Collection, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

import pandas as pd

from pipelines.dataset.raw_data import line_of
from pipelines.dataset.tables import NUMBER
from pipelines.dataset.targets import JOINT, join_labels
from pipelines.settings.metrics import NUMBERS, SEVERAL_LABELS
from pipelines.system.errors import UserError, did_you_mean, few, quoted, refuse

ONES = ("1", "1.0")
FLAGS = ("0", "0.0", *ONES)
# What programs write for a number that is missing.
NO_NUMBER = ("", "nan", "na", "n/a", "<na>", "none", "null", "#n/a", "-", "?")


class Targets(NamedTuple):
    """The target of each row as text, and which rows have none. source: where they come from, for the summary.

    is_list: one label per row, so that the rows of an image belong together.
    """

    texts: list[str]
    missing: list[bool]
    source: str
    is_list: bool = False


def chosen_columns(names: Sequence[str], wanted: Sequence[str], where: str) -> list[str]:
    """Return the `names` that the patterns `wanted`, of data.label_columns, match, in the order of the patterns.

    Raises `UserError` for a pattern that matches none.
    """
    found: dict[str, None] = {}
    for pattern in wanted:
        matches = [pattern] if pattern in names else [name for name in names if fnmatchcase(name, pattern)]
        if not matches:
            hint = did_you_mean(pattern, names)
            raise UserError(
                f"{where} has no column {quoted(pattern)}, which data.label_columns names.{hint} It has: "
                f"{few(list(names), 20)}."
            )
        found |= dict.fromkeys(matches)
    return list(found)


def of_columns(table: pd.DataFrame, task: str, where: str) -> Targets:
    """Return targets from several columns: 0 and 1 for each class or label, or numbers.

    A row without a target has an empty cell, or for one class no 1; for numbers no number at all.
    """
    names = list(map(str, table.columns))
    source = (
        f"{len(names)} columns of {where}: {few(names, 5)}" if names[1:] else f"column {quoted(names[0])} of {where}"
    )
    if task == NUMBERS:
        columns = [_numbers(table[name], where) for name in names]
        texts = [JOINT.join(row) for row in zip(*columns, strict=True)]
        return Targets(texts, [not text.strip(JOINT) for text in texts], source)
    empty = (table == "").any(axis=1)
    wrong = ~table.isin((*FLAGS, "")).to_numpy()
    cases = [
        f"{line_of(table.index[row])}: {quoted(table.iat[row, column])} in {quoted(names[column])}"
        for row, column in zip(*wrong.nonzero(), strict=True)
    ]
    numbers = 'For numbers to predict: competition.task = "numbers".'
    refuse(f"{where}: columns of labels that hold more than 0 and 1", cases, f"Correct data.label_columns. {numbers}")
    ones = table.isin(ONES).to_numpy()
    chosen = [[name for name, one in zip(names, row, strict=True) if one] for row in ones]
    if task == SEVERAL_LABELS:
        _refuse_joint(names, where)
        return Targets(list(map(join_labels, chosen)), empty.tolist(), source)
    several = [
        f"{line_of(line)}: {', '.join(map(quoted, some[:5]))}"
        for line, some in zip(table.index, chosen, strict=True)
        if some[1:]
    ]
    remedy = 'If an image may have several of these labels: competition.task = "several_labels".'
    refuse(f"{where}: rows that are 1 in several columns, for one class per image", several, remedy)
    texts = [some[0] if some else "" for some in chosen]
    return Targets(texts, [none or not some for none, some in zip(empty, chosen, strict=True)], source)


def of_cells(labels: "pd.Series[str]", separator: str, task: str, where: str) -> Targets:
    """Return targets from one cell per row: a class, labels between `separator`s, or a number.

    An empty cell is no label if there is a `separator`; else it is a missing target.
    """
    cells, source = labels.tolist(), f"column {quoted(labels.name)} of {where}"
    if task == NUMBERS:
        cells = _numbers(labels, where)
    if task != SEVERAL_LABELS:
        return Targets(cells, [not cell for cell in cells], source)
    if not separator:
        _refuse_joint(cells, where)
        return Targets(cells, [False] * len(cells), f"{source}, one label per row", is_list=True)
    sets = [parts(cell, separator) for cell in cells]
    _refuse_joint((label for each in sets for label in each), where)
    return Targets([join_labels(each) for each in sets], [False] * len(cells), f"{source}, split at {separator!r}")


def parts(cell: str, separator: str) -> list[str]:
    """Return the labels in a cell; those of a Python or JSON list without its brackets and quotes."""
    if cell.startswith("[") and cell.endswith("]"):
        return [part.strip("'\"") for each in cell[1:-1].split(",") if (part := each.strip())]
    return [part for each in cell.split(separator) if (part := each.strip())]


def are_bracketed(cells: Collection[str]) -> bool:
    """Return whether all cells are lists as Python writes them, of different lengths; boxes have one length."""
    filled = [cell for cell in cells if cell]
    is_list = bool(filled) and all(cell[0] == "[" and cell[-1] == "]" for cell in filled)
    return is_list and len({len(parts(cell, ",")) for cell in filled}) > 1


def _numbers(values: "pd.Series[str]", where: str) -> list[str]:
    """Return numbers as they are written, and an empty text for a missing one."""
    known = {text: "" if text.lower() in NO_NUMBER else text for text in set(values.tolist())}
    bad = {text for text in known.values() if text and not (NUMBER.fullmatch(text) and math.isfinite(float(text)))}
    cases = [f"{line_of(line)}: {quoted(text)}" for line, text in zip(values.index, values, strict=True) if text in bad]
    remedy = (
        f"If column {quoted(values.name)} is not the target, set data.label_column or data.label_columns; if it holds "
        'classes: competition.task = "one_class". '
    )
    if any("," in text for text in bad):
        remedy = "Write them with a decimal point and without separators of thousands."
    refuse(f"{where}: column {quoted(values.name)} has values that are no numbers", cases, remedy.strip())
    return [known[text] for text in values.tolist()]


def _refuse_joint(labels: Iterable[str], where: str) -> None:
    joint = sorted({label for label in labels if JOINT in label})
    remedy = f"{JOINT!r} separates labels in split.csv. "
    remedy += f'If it separates labels here too: data.label_separator = "{JOINT}".'
    refuse(f"{where}: labels with the character {JOINT!r}", joint, remedy)
