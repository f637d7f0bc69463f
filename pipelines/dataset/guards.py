"""Compare the sample submission's own values with what will be sent, and name the settings that fit the sample."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.dataset.answer_forms import Form
from pipelines.dataset.box_guards import sample_problem
from pipelines.dataset.class_folders import unless
from pipelines.dataset.tables import NUMBER, read_table
from pipelines.dataset.target_cells import FLAGS, ONES
from pipelines.dataset.vocabulary import RARE_SEPARATORS, SEPARATORS, difference, other_forms, positive_class
from pipelines.settings.choices import ID, TARGET, advice
from pipelines.settings.metrics import NUMBERS, ONE_CLASS, SEVERAL_LABELS
from pipelines.settings.overrides import toml
from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError, few, quoted

ONE_CELL = ("labels", "probability", "best_labels", "label_lists", "boxes")  # submissions with one column of values
LOOKED_AT = 1000  # rows whose values are compared
EVALUATION = 'Kaggle\'s page "Evaluation"'
Changes = dict[str, Any]


@dataclass(frozen=True)
class Known:
    """What is known of the targets: labels or names of numbers, each as it would be submitted; and all settings.

    table: the labels CSV, if there is one.
    """

    texts: list[str]
    settings: Settings
    table: Path | None

    @property
    def are_numbers(self) -> bool:
        """Whether the labels, or the targets, are numbers."""
        return self.settings.competition.task == NUMBERS or all(map(NUMBER.fullmatch, self.texts))


def check_positive(classes: Sequence[str], settings: Settings) -> None:
    """Raise `UserError` unless there are two classes, and one of them is the positive one."""
    positive = settings.competition.positive
    if len(classes) != 2:
        fits = advice(settings, {"competition.submission": "labels"})
        other = advice(settings, {"competition.submission": "probabilities"})
        raise UserError(
            f"competition.submission is probability, of one of two classes, but there are {len(classes)} classes: "
            f"{few(classes, 5)}. To send a label:{fits}\nTo send a probability for each class:{other}"
        )
    if positive_class(classes, positive) < 0:
        ways = " or ".join(f"competition.positive = {toml(each)}" for each in classes)
        stated = f"is {quoted(positive)}, which is no class" if positive else "is not set"
        raise UserError(
            f"competition.positive {stated}: the submission has one probability per image, and the classes are "
            f"{few(classes)}. Set {ways}: the one that {EVALUATION} wants the probability of."
        )


def check_separator(texts: Sequence[str], settings: Settings) -> None:
    """Raise `UserError` for labels that contain the separator of several labels in a cell."""
    competition = settings.competition
    boxes = competition.submission == "boxes" and "label" in competition.box_answer.split()
    if boxes and (parted := [text for text in texts if len(text.split()) > 1]):
        raise UserError(
            f"Labels have a space, which separates the words of a box in a cell: {few(parted, 10)}. Set "
            "data.label_column to labels without it."
        )
    if competition.submission not in ("best_labels", "label_lists"):
        return
    separator = competition.answer_separator
    if clash := [text for text in texts if separator in text]:
        raise UserError(
            f"competition.answer_separator is {separator!r}, which is part of labels: {few(clash, 10)}. Set the "
            f"separator that {EVALUATION} shows, or data.submitted_labels to a CSV of label,answer with other texts."
        )


def check_columns(form: Form, known: Known) -> None:
    """Raise `UserError` unless the sample has the columns of what is sent."""
    competition, columns, texts = known.settings.competition, form.columns, known.texts
    width = len(form.header) - len(form.given.columns)
    if (competition.submission in ONE_CELL or competition.long_form) and width != 1:
        answer = "a label" if competition.submission == "labels" else "an answer"
        wanted = f"2 columns, an id and {answer}"
        if len(form.given.columns) > 1 and competition.long_form:
            wanted = "3 columns, an id, a target and an answer"
        problem = (
            f"{form.path} does not have {wanted}, as a submission of {competition.submission} has, but "
            f"{len(form.header)}: {few(form.header, 5)}."
        )
        rest = f"{'Else remove' if width else 'Add'} what is not as {EVALUATION} shows it."
        raise UserError(f"{problem}{_fitting(known, of_columns(form, known))}{rest}")
    if competition.submission in ONE_CELL:
        return
    if competition.submission == "numbers" and len(texts) == 1 == len(columns):
        return
    there, known_texts = set(columns), set(texts)
    missing = [text for text in texts if text not in there]
    unknown = [name for name in columns if name not in known_texts] if competition.submission == "numbers" else []
    if missing or unknown:
        raise UserError(_other_columns(form, known, missing, unknown))


def _other_columns(form: Form, known: Known, missing: Sequence[str], unknown: Sequence[str]) -> str:
    """Return the message that the sample's columns are not the classes, or the names of the numbers."""
    columns, settings = form.columns, known.settings
    what = "numbers" if settings.competition.task == NUMBERS else "classes"
    if len(form.values) == 1 and not form.targets:
        each = "number" if what == "numbers" else "class"
        seen, changes = of_cells(form, known)
        end = f"{seen}{_fitting(known, changes)}Else correct the sample." if changes else "Correct the sample."
        if what == "numbers":
            end = "If only one of them is sent, set data.label_column to it, and leave data.label_columns empty."
        return (
            f"{form.path} has one column of values, {quoted(columns[0])}, but a submission of "
            f"{settings.competition.submission} has a column for each {each}: {few(known.texts, 5)}. {end}"
        )
    lacking = f"{len(missing)} of {len(known.texts)} labels have none, for example {few(missing)}" if missing else ""
    extra = f"it has {few(columns)}" if what == "classes" else f"unknown are {few(unknown, 10)}"
    problem = f"{form.path}: its columns are not the {what}: {'; '.join(filter(None, (lacking, extra)))}."
    problem += difference(columns, known.texts)
    changes = of_columns(form, known)
    if changes:
        return f"{problem}{_fitting(known, changes)}"
    data = settings.data
    if what == "numbers" and known.table and not set(columns) <= set(read_table(known.table).columns):
        named = {text: [name for name in columns if name in text] for text in known.texts}
        left = unknown[0] if len(unknown) == 1 else "…"
        rows = "; ".join(f"{text},{max(names, key=len) if names else left}" for text, names in named.items())
        return (
            f'{problem} {known.table.name} has no such columns. Set data.submitted_labels = "answers.csv" and write '
            f"that CSV: the header label,answer and a row per number ({rows})."
        )
    if what == "numbers":
        return f"{problem} Set data.label_columns to the columns of the sample, {toml(columns[:20])}."
    if settings.competition.task == SEVERAL_LABELS and 2 * len(missing) <= len(columns) and data.label_separator:
        return (
            f"{problem} If an image with {few(missing)} has none of these labels, empty such cells in a copy of the "
            "data, download that with ARCHIVE=, and split again: an empty cell is no label."
        )
    column = f"data.label_column to the right column of {data.labels}, or " if data.labels else ""
    mend = (
        f"Set {column}data.submitted_labels to a CSV of label,answer with a row for each class: its label, its column."
    )
    return f"{problem} {mend}"


def check_sample(form: Form, known: Known) -> None:
    """Raise `UserError` if the sample's values are answers of another kind than what is sent.

    Empty values say nothing. data.accept overrules it.
    """
    competition, data = known.settings.competition, known.settings.data
    cells = [cell for name in form.values for cell in form.cells[name].iloc[:LOOKED_AT].tolist() if cell]
    if competition.submission in ONE_CELL:  # labels are cheap, and all of them count
        cells = [cell for cell in form.cells[form.values[0]].tolist() if cell]
    if not cells or "sample_labels" in data.accept:
        return
    check = {
        "labels": _labels,
        "best_labels": _several_in_a_cell,
        "label_lists": _several_in_a_cell,
        "numbers": _numbers,
        "boxes": _boxes,
    }.get(competition.submission, _probabilities)
    if problem := check(form, list(dict.fromkeys(cells)), known):
        raise UserError(f"{form.path}: {problem}{unless('sample_labels', data)}")


def _labels(form: Form, values: Sequence[str], known: Known) -> str:
    """Return what is wrong with the sample's labels that are no classes, and what mends it; or an empty text."""
    classes, table = known.texts, known.table
    known_classes = set(classes)
    unknown = [value for value in values if value not in known_classes]
    if not unknown:
        return ""
    some = "" if len(unknown) == len(values) else f" ({len(unknown)} of its {len(values)} different values)"
    problem = f"column {form.values[0]!r} has {few(unknown, 5)}{some}, but the classes are {few(classes, 5)}. "
    if table and (name := _column_in_words_of(values, table, classes)):
        return f"{problem}Column {name!r} of {table.name} has these values: set data.label_column = {toml(name)}. "
    texts = other_forms(values, classes)
    seen, changes = of_cells(form, known)
    if changes and not (texts and len(values) > 1):
        return f"{problem}{seen}{_fitting(known, changes)}"
    if not texts and len(unknown) < len(values):
        return (
            f"{problem}No image has such a label. Check that the sample and the labels belong together, and "
            "data.label_column. "
        )
    rows = "; ".join(f"{label},{texts.get(label, '…')}" for label in classes[:3])
    more = "; …" if len(classes) > 3 else ""
    same = "These are the same in another form. " if texts else ""
    if len(values) == 1 and len(classes) == 2 and NUMBER.fullmatch(values[0]):
        lines = advice(known.settings, _probability(known), _notes(known))
        same += f"If the sample wants the probability of one class:{lines}\n"
    placeholder = " A single value may also be a placeholder." if len(values) == 1 and not texts else ""
    return (
        f'{problem}{same}To submit the words of the sample, set data.submitted_labels = "answers.csv" and write that '
        f"CSV: the header label,answer and a row per class ({rows}{more}).{placeholder} "
    )


def _several_in_a_cell(form: Form, values: Sequence[str], known: Known) -> str:
    """Return what is wrong with cells of several labels, or an empty text. Some may be no labels, but not most."""
    competition, texts = known.settings.competition, set(known.texts)
    separator, lists = competition.answer_separator, competition.submission == "label_lists"
    cells = [cell for cell in values if not (lists and cell == competition.no_label)]
    if brackets := [cell for cell in cells if cell[0] == "[" and cell[-1] == "]" and cell not in texts]:
        return (
            f"column {form.values[0]!r} has lists in brackets, such as {quoted(brackets[0])}, but labels would be sent "
            f"as {quoted(separator.join(known.texts[:2]))}: brackets are not supported. "
        )
    parts = {part for cell in cells for part in cell.split(separator)}
    unknown = sorted(parts - texts)
    if unknown and (2 * len(unknown) >= len(parts) or lists_in(unknown, known.texts)):
        problem = f"column {form.values[0]!r} has {few(sorted(unknown), 5)}, but the labels are {few(known.texts, 5)}. "
        seen, changes = of_cells(form, known)
        if not changes and lists and len(cells) == 1 and len(values) == 1 and separator not in cells[0]:
            seen = f"If {quoted(cells[0])} means no label:"
            changes = {"competition.no_label": cells[0]}
        fits = _fitting(known, changes)
        return f"{problem}{seen}{fits or 'Correct competition.answer_separator, or data.label_column. '}"
    sizes = {len(cell.split(separator)) for cell in cells}
    if (
        not lists
        and len(sizes) == 1
        and 1 < max(sizes) not in (competition.guesses, min(competition.guesses, len(texts)))
    ):
        problem = (
            f"each cell of column {form.values[0]!r} has {max(sizes)} labels, but {competition.guesses} would be sent."
        )
        return f"{problem}{_fitting(known, {'competition.guesses': max(sizes)})}"
    return ""


def _probabilities(form: Form, values: Sequence[str], known: Known) -> str:
    """Return what is wrong with values that are no probabilities, or an empty text."""
    wrong = [value for value in values if not (NUMBER.fullmatch(value) and 0 <= float(value) <= 1)]
    if not wrong:
        return ""
    seen, changes = of_cells(form, known) if len(form.values) == 1 and not form.targets else ("", {})
    if not changes and known.are_numbers and all(map(NUMBER.fullmatch, values)):
        changes = {"competition.task": NUMBERS, "competition.submission": "numbers"}
    problem = f"it has values that are no probabilities, {few(wrong, 5)}, but probabilities would be sent. "
    return f"{problem}{seen}{_fitting(known, changes)}"


def _numbers(form: Form, values: Sequence[str], known: Known) -> str:
    """Return what is wrong with values that are no numbers, or an empty text."""
    wrong = [value for value in values if not NUMBER.fullmatch(value)]
    if not wrong:
        return ""
    problem = f"it has values that are no numbers, {few(wrong, 5)}, but numbers would be sent. "
    return f"{problem}Check data.label_column, and competition.task: it is numbers. "


def _boxes(form: Form, values: Sequence[str], known: Known) -> str:
    return sample_problem(form.values[0], values, known.texts, known.settings)


def of_cells(form: Form, known: Known) -> tuple[str, Changes]:
    """Return what the values of the sample's only column seem to be, and the settings for that; both may be empty."""
    texts, settings = set(known.texts), known.settings
    cells = [cell for cell in dict.fromkeys(form.cells[form.values[0]].tolist()) if cell]
    several = settings.competition.task == SEVERAL_LABELS
    if not cells:
        return "", {}
    if texts.issuperset(cells) and settings.competition.task != NUMBERS:
        sent = "label_lists" if several else "labels"
        return "The sample has a label for each id.", {"competition.submission": sent}
    if found := lists_in(cells, known.texts):
        separator, sizes = found
        changes: Changes = {"competition.answer_separator": separator}
        if len(sizes) == 1 and not several:
            guesses = {"competition.submission": "best_labels", "competition.guesses": max(sizes)}
            return f"The sample has {max(sizes)} labels in one cell.", changes | guesses
        lists = {"competition.task": SEVERAL_LABELS, "competition.submission": "label_lists"}
        if not (several or settings.data.label_columns or any(separator in text for text in texts)):
            lists["data.label_separator"] = separator
        return f"The sample has up to {max(sizes)} labels in one cell.", changes | lists
    if not all(map(NUMBER.fullmatch, cells)):
        return "", {}
    values = [float(cell) for cell in cells]
    fractions = any(value % 1 for value in values)
    if len(texts) == 2 and fractions and all(0 <= value <= 1 for value in values):
        return "The sample has a probability for each id.", _probability(known)
    if known.are_numbers and (fractions or settings.competition.submission in ("probability", "probabilities")):
        numbers = {"competition.task": NUMBERS, "competition.submission": "numbers"}
        return "The sample has a number for each id.", numbers
    return "", {}


def _probability(known: Known) -> Changes:
    changes: Changes = {"competition.task": ONE_CLASS, "competition.submission": "probability"}
    if positive_class(sorted(known.texts), "") < 0:
        changes["competition.positive"] = sorted(known.texts)[-1]
    return changes


def lists_in(cells: Sequence[str], texts: Sequence[str]) -> tuple[str, set[int]] | None:
    """Return the separator of cells of several labels (at least half must be known), and the sizes of the cells."""
    known = set(texts)
    for separator in (*SEPARATORS, *RARE_SEPARATORS):
        lists = [[part.strip() for part in cell.split(separator)] for cell in cells if cell not in known]
        parts = {part for each in lists for part in each}
        if lists and max(map(len, lists)) > 1 and 2 * len(parts & known) >= len(parts):
            spaced = separator != " " and all(f"{separator} " in cell for cell in cells if separator in cell)
            sizes = {len(each) for each in lists} | ({1} if len(lists) < len(cells) else set())
            return f"{separator} " if spaced else separator, sizes
    return None


def of_columns(form: Form, known: Known) -> Changes:
    """Return the settings for a sample whose columns are classes, or columns of the labels CSV; else none."""
    columns, settings = form.columns, known.settings
    if settings.competition.task != NUMBERS and set(known.texts) <= set(columns) and len(columns) > 1:
        return {"competition.submission": "probabilities"}
    if len(form.values) == 2 and set(form.cells[form.values[0]]) == set(known.texts):
        sent = "numbers" if settings.competition.task == NUMBERS else "probabilities"
        return {"competition.long_form": f"{ID},{TARGET}", "competition.submission": sent}
    if not known.table or len(columns) < 2:
        return {}
    table = read_table(known.table)
    if not set(columns) <= set(map(str, table.columns)):
        return {}
    named = {"data.label_columns": tuple(columns), "data.label_column": ""}
    flags = table[columns].isin(FLAGS)
    if flags.all(axis=None):
        one_each = bool((table[columns].isin(ONES).sum(axis=1) == 1).all())
        task = ONE_CLASS if one_each else SEVERAL_LABELS
        return {"competition.task": task, "competition.submission": "probabilities", **named}
    return {"competition.task": NUMBERS, "competition.submission": "numbers", **named}


def _fitting(known: Known, changes: Mapping[str, Any]) -> str:
    """Return the lines of a TOML that make `changes`, as the middle of a message; a space if there are none."""
    lines = advice(known.settings, changes, _notes(known)) if changes else ""
    return f" These settings fit the sample:{lines}\n" if lines else " "


def _notes(known: Known) -> dict[str, str]:
    """Return a comment on competition.positive, which a person has to choose."""
    others = f"or {toml(sorted(known.texts)[0])}: the one that {EVALUATION} wants the probability of"
    return {"competition.positive": others}


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
