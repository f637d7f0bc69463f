"""Compare labels with the values of a sample submission or of a solution, which may name the classes in other words."""

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from pipelines.dataset.tables import read_table
from pipelines.settings.data_sections import DataSettings
from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError, few, quoted, shown

NUMBER = re.compile(r"[+-]?[0-9]+([.,][0-9]+)?")
SEPARATORS = (";", "|", ",", " ")  # of several labels in one cell, from the surest
RARE_SEPARATORS = ("+", "/", "&")  # also parts of names: only where each part is a label too
NAMED = 6  # classes in a line
JOINTS = re.compile(r"(?<=\w)[\s_-]+(?=\w)")


def counted(labels: Sequence[str] | Mapping[str, int]) -> str:
    """Return the most frequent of `labels`, or of their counts, with these: `cat (300), dog (200), …`."""
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


def other_forms(values: Collection[str], classes: Collection[str]) -> dict[str, str]:
    """Return {class: value} if each of `values` is a class in another form; else an empty dictionary."""
    known = {loose_form(label): label for label in classes}
    pairs = {known.get(loose_form(value), ""): value for value in values}
    return {} if "" in pairs or len(pairs) != len(values) else pairs


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


def positive_class(classes: Sequence[str], positive: str) -> int:
    """Return the place of the positive class: of `positive`, or, where that is empty, of 1 beside 0; -1 if none is."""
    if not positive and set(classes) == {"0", "1"}:
        positive = "1"
    return list(classes).index(positive) if positive in classes else -1


def answers_of(classes: Sequence[str], settings: Settings, raw: Path) -> list[str]:
    """Return the text to submit for each class: the class itself, or what data.submitted_labels says."""
    texts = submitted_labels(settings.data, raw)
    return [texts.get(label, label) for label in classes]


def difference(values: Collection[str], classes: Collection[str]) -> str:
    """Return how `values` that are no classes seem to be meant, as a sentence with a space in front; may be empty."""
    texts: Mapping[str, str] = other_forms(values, classes)
    label, value = next(((label, value) for label, value in texts.items() if label != value), ("", ""))
    if not label:
        return ""
    return f" These are the same in another form: {quoted(value)} for {quoted(label)}."
