"""Refuse targets that mean something else than the task: each check has a word in `data.accept` that overrules it."""

import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd

from pipelines.dataset.answer_forms import is_csv, sample_form
from pipelines.dataset.class_folders import SPLIT_NAMES, unless
from pipelines.dataset.encodings import listing_file
from pipelines.dataset.image_paths import IMAGE_EXTENSIONS
from pipelines.dataset.tables import find_column, read_table
from pipelines.dataset.target_cells import are_bracketed
from pipelines.dataset.targets import JOINT, labels_in
from pipelines.dataset.vocabulary import RARE_SEPARATORS, SEPARATORS, is_number, loose_form, number
from pipelines.settings.choices import SENT, advice
from pipelines.settings.data_sections import DataSettings
from pipelines.settings.metrics import BOXES, NUMBERS, ONE_CLASS, SEVERAL_LABELS
from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError, few, quoted

# What programs write for a missing value. A class may be named NA: names of countries and diseases are shortened so.
GAPS = {"nan", "NaN", "NAN", "None", "NULL", "Null", "null", "<NA>", "N/A", "n/a", "#N/A", "#NA", "?", "-", "--"}
MANY = 50  # whole numbers; more are quantities, unless data.accept says that they are classes
SEVERAL = 20  # rows or classes; fewer are too few to call labels unique or a scale of numbers
# May be mended by data.label_column.
OTHER_COLUMN = {"one_class", "split_names", "numeric_labels", "unique_labels", "combined_labels"}
MOST = 10  # offenders in a message
Count = Mapping[str, int]


def check_labels(rows: pd.DataFrame, raw: Path, settings: Settings) -> None:
    """Raise `UserError` if the targets of `rows` (`id`, `path`, `label`) are not what competition.task says.

    Checks named in `data.accept` are left out. The message names the setting or the change that mends it.
    """
    data, task = settings.data, settings.competition.task
    table = raw / data.labels if data.labels else None
    listed, written = bool(table), is_csv(data.labels) or bool(data.label_pattern)
    counts = Counter(label for text in rows["label"].tolist() for label in labels_in(text, task))
    checks: dict[str, Callable[[], str]] = {"one_class": lambda: _one_class(rows, counts, table, task)}
    if task == BOXES:  # an image without a box, and a single class, are usual
        checks = {}
    if task == NUMBERS:
        counts = Counter(rows["label"].tolist())
    elif listed:
        checks["split_names"] = lambda: _parts_of_a_split(counts)
        checks["missing_labels"] = lambda: _missing(rows, counts)
    if task == ONE_CLASS:
        checks["unique_labels"] = lambda: _unique(rows, counts, table)
    if task not in (NUMBERS, BOXES) and written:
        checks["combined_labels"] = lambda: _combined(counts, settings, raw)
    if task == SEVERAL_LABELS and written:
        checks["combined_labels"] = lambda: (
            _never_split(rows, counts, settings, raw) or _combined(counts, settings, raw)
        )
    if task == ONE_CLASS and written:
        checks["numeric_labels"] = lambda: _numeric(counts, settings)
    if task != NUMBERS:
        checks["similar_labels"] = lambda: _similar(counts, table)
        checks["garbled_labels"] = lambda: _garbled(counts, table)
    for name, check in checks.items():
        if name not in data.accept and (problem := check()):
            where, others = _where(raw, data) if task != BOXES else (str(table), "")
            columns = f"{others} " if name in OTHER_COLUMN and others else ""
            end = "" if problem.endswith("\n") else " "
            raise UserError(f"{where}: {problem}{end}{columns}{unless(name, data)}")


def check_metric(labels: Sequence[str], names: Sequence[str], settings: Settings, where: str) -> None:
    """Raise `UserError` for targets that competition.metric cannot score.

    names: of the classes or numbers. where: what the targets were read from.
    """
    competition = settings.competition
    metric, kappa = competition.metric, competition.metric == "quadratic_kappa"
    if metric not in ("quadratic_kappa", "rmsle"):
        return
    if kappa and competition.task == NUMBERS and len(names) > 1:
        raise UserError(
            f"{where}: competition.metric is {metric}, which scores one number per image, but there are {len(names)}: "
            f"{few(names)}. Set data.label_columns to one column, or another competition.metric."
        )
    numbers = sorted(set(chain.from_iterable(label.split(JOINT) for label in labels)) - {""})
    if kappa and (wrong := [text for text in numbers if not _is_grade(text, competition.task)]):
        raise UserError(
            f"{where}: competition.metric is {metric}, whose grades are whole numbers, but there are {few(wrong, 5)}. "
            "Set data.label_column to a column of whole numbers, or another competition.metric."
        )
    if kappa and competition.grades and (rest := {int(float(text)) for text in numbers} - {*competition.grades}):
        grades = sorted(rest | {*competition.grades})
        raise UserError(
            f"{where}: competition.grades is {list(competition.grades)}, but there are the grades "
            f"{few(list(map(str, sorted(rest))), 5)} too. List all: competition.grades = {grades}"
        )
    if not kappa and (low := [text for text in numbers if float(text) <= -1]):
        raise UserError(
            f"{where}: competition.metric is {metric}, which takes the logarithm of 1 + number, but there are numbers "
            f"of -1 and below: {few(low, 5)}. Set another competition.metric, or data.label_column."
        )


def _is_grade(text: str, task: str) -> bool:
    whole = text.removeprefix("-").isdecimal()
    return whole if task == ONE_CLASS else whole or float(text) % 1 == 0


def _where(raw: Path, data: DataSettings) -> tuple[str, str]:
    """Return where the labels come from, and the other columns of the labels CSV that may hold the classes."""
    if not data.labels:
        kind = "names of files" if data.label_pattern else "class folders"
        return f"{raw / data.train_images}, {kind}", ""
    path = listing_file(raw / data.labels)
    if not is_csv(data.labels):
        return str(path), ""
    if data.label_columns:
        return f"{path}, columns of data.label_columns", ""
    table = read_table(path)
    taken = {find_column(table, path, data.id_column, 0).name, find_column(table, path, data.label_column, 1).name}
    different = {name: table[name].nunique() for name in table if name not in taken}
    others = [f"{quoted(name)} ({count:,} different values)" for name, count in different.items() if count > 1]
    column = f"{path}, column {find_column(table, path, data.label_column, 1).name!r}"
    listed = ", ".join(others[:MOST]) + (", …" if others[MOST:] else "")
    return column, f"Other columns: {listed}; set data.label_column." if others else "It has no other column to take."


def _counted(labels: Sequence[str], counts: Count) -> str:
    shown = ", ".join(f"{quoted(label)} ({counts[label]:,})" for label in labels[:MOST])
    return shown + (", …" if labels[MOST:] else "")


def _one_class(rows: pd.DataFrame, counts: Count, table: Path | None, task: str) -> str:
    """Return what is wrong with targets that are all the same, or an empty text."""
    texts = rows["label"].tolist()
    if len(set(texts)) > 1:
        return ""
    if task == NUMBERS:
        return f"all {len(texts):,} targets are {quoted(texts[0])}. Training needs different ones."
    if task == SEVERAL_LABELS:
        return f"all {len(texts):,} images have the same labels, {_counted(list(counts), counts) or 'none'}."
    problem = f"all {sum(counts.values()):,} labels are {_counted(list(counts), counts)}. Training needs two classes."
    return problem if table else f"{problem} Set data.train_images to the folder of all class folders."


def _parts_of_a_split(counts: Count) -> str:
    if not all(label.lower() in SPLIT_NAMES for label in counts):
        return ""
    return f"all labels are names of the parts of a split: {_counted(sorted(counts), counts)}. They are no classes."


def _missing(rows: pd.DataFrame, counts: Count) -> str:
    gaps = sorted(GAPS & set(counts))
    if not gaps or len(counts) == 1:
        return ""
    paths = few(rows["path"][[bool(set(gaps) & set(text.split(JOINT))) for text in rows["label"]]].tolist(), MOST)
    problem = f"labels that stand for a missing value: {_counted(gaps, counts)}, of the images {paths}"
    return f"{problem}. Fill them in, or remove these rows and their images."


def _numeric(counts: Count, settings: Settings) -> str:
    """Return what is wrong with labels that look like quantities, or an empty text.

    Whole numbers are classes if there are few of them, or some with many images each.
    """
    if not all(map(is_number, counts)):
        return ""
    values, total = sorted(map(number, counts)), sum(counts.values())
    fractions = sum(value % 1 != 0 for value in values)
    classes = len(counts) <= SEVERAL or (5 * len(counts) <= total and len(counts) <= MANY)
    if not fractions and classes:
        return ""
    what = f"{len(counts):,} different numbers, {values[0]:g} to {values[-1]:g}, in {total:,} rows"
    lines = advice(settings, {"competition.task": NUMBERS, "competition.submission": "numbers"})
    return f"{what}. They look like quantities to estimate, and each would be a class of its own. For numbers:{lines}\n"


def _unique(rows: pd.DataFrame, counts: Count, table: Path | None) -> str:
    total, labels = len(rows), rows["label"].tolist()
    files = sum(label.lower().endswith(IMAGE_EXTENSIONS) or "://" in label for label in labels)
    many = total >= SEVERAL and len(counts) > 0.9 * total and not all(map(is_number, counts))  # numbers: `_numeric`
    if not many and not (total >= 4 and files > 0.9 * total and len(counts) > total / 2):
        return ""
    problem = f"{len(counts):,} different labels for {total:,} images, such as {_counted(list(counts)[:3], counts)}"
    if table:
        return f"{problem}. They look like names, texts or coordinates, not classes."
    return (
        f"{problem}. Folders of one image are no classes: name the labels CSV in data.labels, or set data.class_level."
    )


def _combined(counts: Count, settings: Settings, raw: Path) -> str:
    """Return what is wrong with labels whose parts are labels of their own, or repeat in other combinations.

    Labels that all have the same number of parts, such as `red circle`, are the names of one class each.
    """
    for separator in (*SEPARATORS, *RARE_SEPARATORS):
        parts = {label: {part.strip() for part in label.split(separator)} for label in counts}
        joined = [label for label in parts if len(parts[label]) > 1]
        made = [label for label in joined if parts[label] <= counts.keys()]
        repeats = Counter(part for each in parts.values() for part in each)
        varied = len(joined) > 2 and len({label.count(separator) for label in counts}) > 1
        few_parts = 2 * len(repeats) <= len(counts) or min(repeats.values()) > 1
        sizes = {label.count(separator) for label in counts}
        whole = len(sizes) > 1 and all(part.isdecimal() for each in parts.values() for part in each)
        if separator == "," and max(sizes) < 2:  # they may be decimals
            whole = False
        if separator in RARE_SEPARATORS:
            varied = whole = False
        listed = separator == "," and are_bracketed(list(counts))
        if (made and 2 * len(made) >= len(joined)) or (varied and few_parts) or whole or listed:
            examples = _counted(made or joined, counts)
            lines = advice(settings, _lists(separator, settings, raw))
            problem = f"several labels in one cell, separated by {separator!r}: {examples}"
            return f"{problem}. Each combination would be a class of its own. For several labels per image:{lines}\n"
    return ""


def _lists(separator: str, settings: Settings, raw: Path) -> dict[str, Any]:
    """Return the settings of labels with `separator` in one cell, with a submission that the sample shows."""
    changes: dict[str, Any] = {"competition.task": SEVERAL_LABELS, "data.label_separator": separator}
    competition, data = settings.competition, settings.data
    if competition.submission not in SENT[SEVERAL_LABELS]:
        changes["competition.submission"] = "label_lists"
        if data.sample_submission:
            form = sample_form(settings, raw)
            if len(form.values) > 1:
                return changes | {"competition.submission": "probabilities"}
            cells = [cell for cell in form.cells[form.values[0]].tolist() if cell] if form.values else []
            separator = next(
                (each for each in (separator, *SEPARATORS, *RARE_SEPARATORS) if any(each in cell for cell in cells)),
                separator,
            )
        changes["competition.answer_separator"] = separator
    return changes


def _never_split(rows: pd.DataFrame, counts: Count, settings: Settings, raw: Path) -> str:
    """Return what is wrong if no image has two labels, or an empty text."""
    given = settings.data.label_separator
    if not given or not counts or any(JOINT in text for text in rows["label"].tolist()):
        return ""
    problem = f"no image has more than one label: {quoted(given)}, data.label_separator, is in no cell"
    others = [each for each in (*SEPARATORS, *RARE_SEPARATORS) if any(each in label for label in counts)]
    if others:
        example = quoted(next(label for label in counts if others[0] in label))
        return f"{problem}. The label {example} has another separator: data.label_separator = {quoted(others[0])}."
    competition = settings.competition
    if settings.data.sample_submission and competition.submission == "label_lists":
        form = sample_form(settings, raw)
        if any(competition.answer_separator in cell for name in form.values for cell in form.cells[name]):
            return ""
    sent = SENT[ONE_CLASS][0] if competition.submission == "label_lists" else competition.submission
    lines = advice(settings, {"competition.task": ONE_CLASS, "competition.submission": sent})
    return f"{problem}. If an image has one class:{lines}\n"


def _similar(counts: Count, table: Path | None) -> str:
    forms: dict[str, list[str]] = {}
    for label in sorted(counts):
        forms.setdefault(loose_form(label), []).append(label)
    alike = [labels for labels in forms.values() if len(labels) > 1]
    if not alike:
        return ""
    pairs = "; ".join(_counted(labels, counts) for labels in alike[:MOST]) + ("; …" if alike[MOST:] else "")
    mend = "Write each in one way in this CSV." if table else "Merge these folders."
    return f"labels that differ only by case, spaces, Unicode form, or as numbers: {pairs}. {mend}"


def _garbled(counts: Count, table: Path | None) -> str:
    if lost := [label for label in sorted(counts) if "\ufffd" in label]:
        mend = "Correct them" if table else "Rename these folders"
        return f"labels with characters that were lost when a file was saved: {_counted(lost, counts)}. {mend}."
    found = {label: right for label in sorted(counts) if (right := ungarbled(label))}
    if not found:
        return ""
    wrong = list(found)
    pairs = ", ".join(f"{quoted(label)} for {quoted(found[label][0])}" for label in wrong[:MOST])
    problem = f"labels that were read in the wrong encoding, probably {pairs}{', …' if wrong[MOST:] else ''}"
    _, read_as, encoding = found[wrong[0]]
    if table:
        then = "" if encoding == "utf-8" else f" | iconv -f {encoding} -t utf-8"
        path, new = shlex.quote(str(table)), shlex.quote(f"{table}.utf8")
        return f"{problem}. Convert it back: `iconv -f utf-8 -t {read_as} {path}{then} > {new} && mv {new} {path}`."
    return f'{problem}. Set data.zip_encoding = "{encoding}" and download again, or rename these folders.'


def ungarbled(text: str) -> tuple[str, str, str] | None:
    """Return what `text` was before its bytes were read in the wrong encoding, that encoding, and the right one.

    None if it does not look so: its bytes are no other text, as in almost every name with accents.
    """
    if text.isascii():
        return None
    drawn = any("\u2500" <= each <= "\u259f" for each in text)  # frames and blocks are in no name, but in cp437
    for read_as in ("cp1252", "cp437"):
        try:
            content = b"".join(_encoded(each, read_as) for each in text)
        except UnicodeEncodeError:
            continue
        for encoding in ("utf-8", "gbk", "shift_jis", "euc_kr", "cp866") if drawn else ("utf-8",):
            try:
                right = content.decode(encoding)
            except UnicodeDecodeError:
                continue
            if right.isprintable():
                return right, read_as, encoding
    return None


def _encoded(character: str, encoding: str) -> bytes:
    """Return the byte of `character`; programs read the five bytes that cp1252 lacks as control characters."""
    return (
        bytes([ord(character)])
        if encoding == "cp1252" and "\x80" <= character <= "\x9f"
        else character.encode(encoding)
    )
