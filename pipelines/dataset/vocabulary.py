"""Compare labels with the values of a sample submission or of a solution, which may name the classes in other words."""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import pandas as pd

from pipelines.dataset.class_folders import unless
from pipelines.dataset.tables import read_table
from pipelines.settings.data_sections import DataSettings
from pipelines.system.errors import UserError, few, quoted, shown

NUMBER = re.compile(r"[+-]?[0-9]+([.,][0-9]+)?")
SEPARATORS = (";", "|", ",", " ")  # of several labels in one cell, from the surest
NAMED = 6  # classes in a line
JOINTS = re.compile(r"(?<=\w)[\s_-]+(?=\w)")


def counted(labels: Sequence[str]) -> str:
    """Return the most frequent of `labels` with their counts: `cat (300), dog (200), …`."""
    counts = sorted(Counter(labels).items(), key=lambda pair: (-pair[1], pair[0]))
    named = ", ".join(f"{shown(label)} ({count:,})" for label, count in counts[:NAMED])
    return named + (", …" if counts[NAMED:] else "")


def is_number(text: str) -> bool:
    return NUMBER.fullmatch(text) is not None


def number(text: str) -> float:
    """Return the value of a text that `is_number`; the comma may be decimal."""
    return float(text.replace(",", "."))


def loose_form(text: str) -> str:
    """Return a form in which labels are equal that differ only by case, spaces, Unicode form, or as numbers.

    The case of a single letter counts: there are data sets of handwritten letters.
    """
    text = "".join(each for each in unicodedata.normalize("NFKC", text) if unicodedata.category(each) != "Cf").strip()
    if is_number(text):
        return f"{number(text):.15g}"
    text = JOINTS.sub(" ", text)
    return text if len(text) == 1 else text.casefold()


def parts_of(label: str) -> list[str]:
    """Return the parts of a label that is several labels in one cell; one part if no separator is in it."""
    separator = next((each for each in SEPARATORS if each in label), None)
    return [part for part in map(str.strip, label.split(separator)) if part] if separator else [label]


def other_forms(values: Collection[str], classes: Collection[str]) -> dict[str, str]:
    """Return {class: value} if each of `values` is a class in another form; else an empty dictionary."""
    known = {loose_form(label): label for label in classes}
    pairs = {known.get(loose_form(value), ""): value for value in values}
    return {} if "" in pairs or len(pairs) != len(values) else pairs


def check_sample_labels(
    sample: Path, column: "pd.Series[str]", classes: Sequence[str], data: DataSettings, labels: Path | None
) -> None:
    """Raise `UserError` if the label column of the sample submission has values that are no classes.

    classes: as they would be submitted. labels: the labels CSV, which may have a column in the sample's words.
    """
    values = list(dict.fromkeys(value for value in column.tolist() if value))
    unknown = [value for value in values if value not in set(classes)]
    if not unknown or "sample_labels" in data.accept:
        return
    some = "" if len(unknown) == len(values) else f" ({len(unknown)} of its {len(values)} different values)"
    problem = (
        f"{sample}: column {str(column.name)!r} has {few(unknown, 5)}{some}, but the classes are {few(classes, 5)}. "
    )
    remedy = _remedy(unknown, values, classes, data, labels)
    raise UserError(f"{problem}{remedy} {unless('sample_labels', data)}")


def _remedy(
    unknown: Sequence[str], values: Sequence[str], classes: Sequence[str], data: DataSettings, labels: Path | None
) -> str:
    """Return what the sample's values seem to be, and the setting that mends it."""
    if labels and (name := _column_in_words_of(values, labels, classes)):
        return f"Column {name!r} of {labels.name} has these values: set data.label_column = {json.dumps(name)}."
    several = max(len(parts_of(value)) for value in unknown)
    if several > 1 and all(part in set(classes) for value in unknown for part in parts_of(value)):
        return f"The sample has {several} labels in one cell; this pipeline submits one label per image."
    fractions = [value for value in unknown if is_number(value) and number(value) % 1]
    if fractions and all(is_number(value) and 0 <= number(value) <= 1 for value in values):
        return "A probability per image seems to be wanted; this pipeline submits labels, or a probability per class."
    texts = other_forms(values, classes)
    if not texts and len(unknown) < len(values):
        return "No image has such a label. Check that the sample and the labels belong together, and data.label_column."
    rows = "; ".join(f"{label},{texts.get(label, '…')}" for label in classes[:3])
    more = "; …" if len(classes) > 3 else ""
    same = "These are the same in another form. " if texts else ""
    if texts and len(values) == 1 and len(classes) == 2 and is_number(values[0]):
        same += "(Or the sample wants a probability per image, which is not supported.) "
    placeholder = " A single value may also be a placeholder." if len(values) == 1 and not texts else ""
    return (
        f'{same}To submit the words of the sample, set data.submitted_labels = "answers.csv" and write that CSV: the '
        f"header label,answer and a row per class ({rows}{more}).{placeholder}"
    )


def _column_in_words_of(values: Sequence[str], labels: Path, classes: Sequence[str]) -> str:
    """Return the column of the labels CSV that has all `values`, and one value for each class; or an empty text."""
    table = read_table(labels)
    known, wanted = set(classes), set(values)
    ours = next((name for name in table if set(table[name]) == known), None)
    for name in table.columns if ours is not None else ():
        pairs = set(zip(table[ours], table[name], strict=True))
        texts = {text for _, text in pairs}
        if name != ours and wanted <= texts and len(pairs) == len(texts) == len(known):
            return str(name)
    return ""


def submitted_labels(data: DataSettings, raw: Path, classes: Collection[str] = ()) -> dict[str, str]:
    """Return {class: text to submit} of the CSV `data.submitted_labels`; an empty dictionary without one.

    Raises `UserError` if the CSV lacks one of `classes`, or has a label or a text twice or empty.
    """
    if not data.submitted_labels:
        return {}
    inside = raw / data.submitted_labels
    path = inside if inside.is_file() else Path(data.submitted_labels)
    if not path.is_file():
        raise UserError(
            f"There is no file {data.submitted_labels}, which data.submitted_labels names, in {raw} or in the working "
            "folder. Write it: the header label,answer and a row per class."
        )
    table = read_table(path)
    if len(table.columns) < 2:
        raise UserError(f"{path} (data.submitted_labels) has one column; it needs two: the label, the text to submit.")
    for place, what in enumerate(("label", "text to submit")):
        cells = table.iloc[:, place]
        if empty := [str(line) for line in table.index[cells == ""]]:
            raise UserError(f"{path} (data.submitted_labels), line {', '.join(empty[:10])}: the {what} is empty.")
        if repeated := sorted(set(cells[cells.duplicated()])):
            raise UserError(f"{path} (data.submitted_labels): the {what} {few(repeated, 10)} occurs twice.")
    texts: dict[str, str] = dict(zip(table.iloc[:, 0], table.iloc[:, 1], strict=True))
    if missing := sorted(set(classes) - set(texts)):
        raise UserError(
            f"{path} (data.submitted_labels) lacks {len(missing)} of {len(classes)} classes: {few(missing, 10)}. Add a "
            "row for each."
        )
    return texts


def difference(values: Collection[str], classes: Collection[str]) -> str:
    """Return how `values` that are no classes seem to be meant, as a sentence with a space in front; may be empty."""
    texts: Mapping[str, str] = other_forms(values, classes)
    if not texts:
        return ""
    label, value = next(iter(texts.items()))
    return f" These are the same in another form: {quoted(value)} for {quoted(label)}."
