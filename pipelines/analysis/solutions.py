"""Read the true labels of a competition, in the forms that solutions have."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from pipelines.analysis.box_solutions import box_labels, solution_cells
from pipelines.analysis.scoring import COPY, answer_rows, check_repeated, joined_ids, label_list
from pipelines.dataset.tables import read_csv, read_table
from pipelines.dataset.target_cells import parts
from pipelines.dataset.targets import JOINT, count_labels, join_labels, labels_in
from pipelines.dataset.vocabulary import difference
from pipelines.settings.metrics import BOXES, NUMBERS, ONE_CLASS, SEVERAL_LABELS
from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError, few, shown


def read_solution(
    path: Path, submission: Path, answers: Mapping[str, str], settings: Settings
) -> tuple[pd.DataFrame, list[str]]:
    """Return the solution at `path` as `id`, `label`, `usage` and `copy`, in the words of the submission, and notes.

    answers: {class: text to submit}; empty if the classes are unknown. label: the target as text (dataset/targets.py).
    Rows whose `Usage` is Ignored are left out. A class or labels may be columns of 0 and 1, and the solution may have
    the long form of the submission; ids may lack the extension or the folders that the submission has. Raises
    `UserError` for a file without header, columns or rows, and if no label of the solution is a class.
    """
    known = list(answers.values())
    raw = read_csv(submission)
    submitted, table = answer_rows(raw, submission, settings, known), read_table(path)
    task, joined = settings.competition.task, list[str]()
    if task == BOXES:
        table, joined = solution_cells(table, path, submitted, settings)
    usage = next((str(name) for name in table.columns if name.casefold() == "usage"), "")
    columns = [str(name) for name in table.columns if name != usage]
    if len(columns) < 2:
        raise UserError(f"{path} must have two columns, id and label; it has: {', '.join(map(shown, table.columns))}.")
    if settings.competition.long_form and set(raw.columns) <= set(columns):
        table = _turned(table[columns], table[usage] if usage else None, path, settings, known)
        columns = [str(name) for name in table.columns if name != usage]
    id_column = next((name for name in columns if name.casefold() == submitted.columns[0].casefold()), columns[0])
    if set(columns) & set(submitted.iloc[:, 0]):
        raise UserError(f"{path} has no header: its first line is {few(columns)}. Add the line id,label above it.")
    uses = table[usage] if usage else pd.Series("", index=table.index)
    kept = uses.str.casefold() != "ignored"
    if not kept.any():
        raise UserError(
            f"{path}: column {usage!r} says Ignored in all {len(table):,} rows, so there is nothing to score. Correct "
            "or remove the column."
        )
    others = table.loc[kept].drop(columns=[id_column, *filter(None, [usage])])
    labels, source = _targets(path, others, submitted, settings)
    source = "boxes" if task == BOXES else source
    notes = [f"Solution: {source} by column {id_column!r} of {path}."]
    if not kept.all():
        notes.append(f"Not scored: {(~kept).sum():,} of {len(table):,} rows, whose {usage!r} is Ignored.")
    ids, as_named = joined_ids(table[id_column], submitted.iloc[:, 0])
    check_repeated(submitted.iloc[:, 0], ids, submission, path)
    if not count_labels(labels, task).keys() <= set(known):
        labels = labels.map(lambda text: _in_words(text, answers, task))
    truth = pd.DataFrame({"id": ids, "label": labels, "usage": uses, COPY: ids.groupby(ids).cumcount()})[kept]
    named = truth["label"]
    if task == BOXES:
        named = named.map(lambda cell: JOINT.join(box_labels(cell, settings)))
    some = sorted(count_labels(named, task) if task == BOXES else set(labels))
    where = f"{path}: none of its labels ({source}: {few(some, 5)}) is in {submission}"
    return truth, [*notes, *joined, *as_named, *_vocabulary(named, submitted, known, settings, where)]


def _turned(
    table: pd.DataFrame, uses: "pd.Series[str] | None", path: Path, settings: Settings, known: Sequence[str]
) -> pd.DataFrame:
    """Return a solution in the long form with one row per image; its use is that of the image's first row."""
    wide = answer_rows(table, path, settings, known)
    if uses is None:
        return wide
    first = answer_rows(table.iloc[:, :-1].assign(value=uses), path, settings, known)
    return wide.assign(**{str(uses.name): first.iloc[:, 1]})


def _in_words(text: str, answers: Mapping[str, str], task: str) -> str:
    """Return a target in the words of the submission."""
    words = [answers.get(label, label) for label in labels_in(text, task)]
    return text if task == NUMBERS else words[0] if task == ONE_CLASS else join_labels(words)


def _targets(
    path: Path, others: pd.DataFrame, submitted: pd.DataFrame, settings: Settings
) -> "tuple[pd.Series[str], str]":
    """Return the targets in the columns `others` as text, and which columns these are."""
    competition, answers = settings.competition, list(submitted.columns[1:])
    named = {str(name).casefold(): str(name) for name in others.columns}
    if competition.task == NUMBERS:
        columns = [named[name.casefold()] for name in answers if name.casefold() in named]
        columns = columns if len(columns) == len(answers) else list(map(str, others.columns[: len(answers)]))
        return others[columns].agg(JOINT.join, axis=1), f"columns {few(columns)}" if columns[
            1:
        ] else f"column {columns[0]!r}"
    wanted = [settings.data.label_column]
    if competition.submission != "probabilities":
        wanted.insert(0, str(submitted.columns[1]))
    name = next((named[name.casefold()] for name in wanted if name.casefold() in named), "")
    numbers = others.apply(pd.to_numeric, errors="coerce")
    if not name and len(others.columns) > 1 and numbers.isin([0, 1]).all(axis=None):
        return _of_flags(path, numbers == 1, competition.task, wanted[0] or "label")
    cells = others[name] if name else others.iloc[:, 0]
    if competition.task != SEVERAL_LABELS:
        return cells, f"column {cells.name!r}"
    separator = settings.data.label_separator or competition.answer_separator
    lists = [
        parts(cell, separator) if cell != competition.no_label else label_list(cell, competition) for cell in cells
    ]
    return pd.Series(
        list(map(join_labels, lists)), index=cells.index, dtype=str
    ), f"the labels in column {cells.name!r}"


def _of_flags(path: Path, flags: pd.DataFrame, task: str, wanted: str) -> "tuple[pd.Series[str], str]":
    """Return targets from a column of 0 and 1 for each class or label."""
    if task == SEVERAL_LABELS:
        texts = [join_labels(flags.columns[row]) for row in flags.to_numpy()]
        return pd.Series(
            texts, index=flags.index, dtype=str
        ), f"the 1s among the {len(flags.columns)} columns of labels"
    if wrong := flags.index[flags.sum(axis=1) != 1].tolist():
        ones = f"{flags.loc[wrong[0]].sum():g} of the columns {few(list(map(str, flags.columns)))} are 1"
        raise UserError(
            f"{path}, line {wrong[0]}: {ones}, but a solution has one label per image ({len(wrong)} such rows). "
            f"Remove these rows, or name the column of labels {wanted!r}."
        )
    return flags.idxmax(axis=1).astype(str), f"the 1 among the {len(flags.columns)} columns of classes"


def _vocabulary(
    targets: "pd.Series[str]", submitted: pd.DataFrame, classes: Sequence[str], settings: Settings, problem: str
) -> list[str]:
    """Return a note on labels that are no classes; raise `UserError`, which begins with `problem`, if none is one."""
    competition = settings.competition
    sent, task = competition.submission, competition.task
    if task == NUMBERS or sent == "probability":
        return []
    counts = count_labels(targets, task)
    match sent:
        case "labels":
            answers = set(submitted.iloc[:, 1])
        case "probabilities":
            answers = set(map(str, submitted.columns[1:]))
        case "boxes":
            answers = {label for cell in submitted.iloc[:, 1] for label in box_labels(cell, settings)}
        case _:
            answers = {label for cell in submitted.iloc[:, 1] for label in label_list(cell, competition)}
    known = sorted(answers if sent == "probabilities" else answers | set(classes))
    unknown = sorted(counts.keys() - set(known))
    foreign = bool(answers and classes) and answers.isdisjoint(counts) and answers.isdisjoint(classes)
    if counts and known and (foreign or len(unknown) == len(counts)):
        ours = sorted(answers) if foreign else known
        raise UserError(
            f"{problem} ({few(ours, 5)}), so nothing can be right.{difference(sorted(counts), ours)} Write the "
            "labels of the solution as the submission has them, or give the solution of this competition."
        )
    if not unknown or sent == "probabilities":
        return []
    count = sum(counts[label] for label in unknown)
    return [
        f"Warning: {count:,} of {counts.total():,} labels are no class, so they count as wrong: {few(unknown, 10)}."
    ]
