"""Scoring a submission against true labels."""

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
import torch

from pipelines.core.metrics import METRICS
from pipelines.dataset.loose_ids import match_ids
from pipelines.dataset.tables import read_csv, read_table, without_indexes
from pipelines.dataset.vocabulary import difference
from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError, few, quoted, shown

AGAIN = "Predict again."  # which replaces a submission that was changed


def score_submission(
    path: Path, solution: Path, settings: Settings, truth: pd.DataFrame | None = None
) -> tuple[float, int]:
    """Return the competition's metric of the submission at `path`, and the number of scored images.

    solution: a CSV whose first two columns are id and true label.  Ids that are not in it are not scored, as Kaggle
    ignores the filler images of CIFAR-10.  truth: the same two columns, where no CSV holds them; `solution` then names
    their source.  Raises `UserError` for an id or a label that the submission lacks, a repeated id, and a probability
    that is not a number.
    """
    submitted = without_indexes(read_csv(path))
    truth = read_table(solution) if truth is None else truth
    if len(truth.columns) < 2 or truth.empty:
        raise UserError(f"{solution} must have two columns, id and label, and at least one row.")
    ids, labels = truth.iloc[:, 0], truth.iloc[:, 1]
    for table, where, advice in ((submitted.iloc[:, 0], path, AGAIN), (ids, solution, "Keep one row for each.")):
        if repeated := list(dict.fromkeys(table[table.duplicated()])):
            raise UserError(f"{where}: {len(repeated)} ids occur twice, such as {few(repeated)}. {advice}")
    answers = submitted.set_index(submitted.columns[0])
    if absent := sorted(set(ids) - set(answers.index)):
        raise UserError(
            f"{path} lacks {len(absent)} of the ids in {solution}, such as {few(absent)}; its own are such as "
            f"{few(list(answers.index))}. Give the solution of this competition; or, if the submission was changed, "
            "predict again."
        )
    answers = answers.loc[ids]
    if settings.competition.submission == "labels":
        classes = sorted({*labels, *answers.iloc[:, 0]})
        probabilities = (answers.iloc[:, [0]].to_numpy() == np.array(classes, dtype=object)).astype(np.float64)
    else:
        classes = list(answers.columns)
        probabilities = answers.apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float64)
        if not np.isfinite(probabilities).all():
            row, column = np.argwhere(~np.isfinite(probabilities))[0]
            wrong = f"{answers.iloc[row, column]!r} in column {classes[column]!r} of id {answers.index[row]!r}"
            raise UserError(f"{path}: not every value is a number, such as {wrong}. {AGAIN}")
    if unknown := sorted(set(labels) - set(classes)):
        problem = f"{solution} has labels that {path} has no column for, such as {few(unknown)}"
        raise UserError(f"{problem}. Its columns are {few(classes)}: write the labels in the same words.")
    numbers = torch.tensor([classes.index(label) for label in labels])
    return METRICS[settings.competition.metric].score(torch.tensor(probabilities), numbers), len(truth)


def read_solution(
    path: Path, submission: Path, answers: Mapping[str, str], settings: Settings
) -> tuple[pd.DataFrame, list[str]]:
    """Return the solution at `path` as `id`, `label` and `usage`, in the words of the submission, and notes on it.

    answers: {class: text to submit}; empty if the classes are unknown. Rows whose `Usage` is Ignored are left out.
    Labels may be one-hot columns; ids may lack the extension or the folders that the submission has. Raises `UserError`
    for a file without header, columns or rows, and if no label of the solution is a class.
    """
    submitted, table = without_indexes(read_csv(submission)), read_table(path)
    if len(submitted.columns) < 2:
        raise UserError(f"{submission} has one column; a submission has an id and at least one more. Predict again.")
    usage = next((str(name) for name in table.columns if name.casefold() == "usage"), "")
    columns = [str(name) for name in table.columns if name != usage]
    if len(columns) < 2:
        raise UserError(f"{path} must have two columns, id and label; it has: {', '.join(map(shown, table.columns))}.")
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
    labels, source = _labels(path, table.drop(columns=[id_column, *filter(None, [usage])]), submitted, settings)
    notes = [f"Solution: {source} by column {id_column!r} of {path}."]
    if not kept.all():
        notes.append(f"Not scored: {(~kept).sum():,} of {len(table):,} rows, whose {usage!r} is Ignored.")
    ids, joined = _joined_ids(table[id_column], submitted.iloc[:, 0])
    if not set(labels) <= set(answers.values()):
        labels = labels.map(lambda label: answers.get(label, label))
    truth = pd.DataFrame({"id": ids, "label": labels, "usage": uses})[kept]
    where = f"{path}: none of its labels ({source}: {few(sorted(set(labels)), 5)}) is in {submission}"
    return truth, [*notes, *joined, *_vocabulary(truth["label"], submitted, list(answers.values()), settings, where)]


def _labels(
    path: Path, others: pd.DataFrame, submitted: pd.DataFrame, settings: Settings
) -> "tuple[pd.Series[str], str]":
    """Return the labels in the columns `others`, and which columns these are."""
    named = {str(name).casefold(): str(name) for name in others.columns}
    wanted = [settings.data.label_column]
    if settings.competition.submission == "labels":
        wanted.insert(0, submitted.columns[1])
    if name := next((named[name.casefold()] for name in wanted if name.casefold() in named), ""):
        return others[name], f"column {name!r}"
    numbers = others.apply(pd.to_numeric, errors="coerce")
    if len(others.columns) > 1 and numbers.isin([0, 1]).all(axis=None):
        if wrong := others.index[numbers.sum(axis=1) != 1].tolist():
            ones = f"{numbers.loc[wrong[0]].sum():g} of the columns {few(list(map(str, others.columns)))} are 1"
            raise UserError(
                f"{path}, line {wrong[0]}: {ones}, but a solution has one label per image ({len(wrong)} such rows). "
                f"Remove these rows, or name the column of labels {wanted[0] or 'label'!r}."
            )
        return numbers.idxmax(axis=1), f"the 1 among the {len(others.columns)} columns of classes"
    return others.iloc[:, 0], f"column {others.columns[0]!r}"


def _joined_ids(ids: "pd.Series[str]", submitted: "pd.Series[str]") -> "tuple[pd.Series[str], list[str]]":
    """Return `ids` as the submission writes them, and a note if that is another form of the same names."""
    if set(submitted).isdisjoint(ids):
        matches = match_ids(ids, submitted.tolist(), "")
        if ids.is_unique and matches.are_complete(ids):
            joined = pd.Series([matches.image(name) for name in ids], index=ids.index, dtype=str)
            return joined, [f"Ids were joined by their names: {quoted(ids.iloc[0])} is {quoted(joined.iloc[0])}."]
    return ids, []


def _vocabulary(
    labels: "pd.Series[str]", submitted: pd.DataFrame, classes: Sequence[str], settings: Settings, problem: str
) -> list[str]:
    """Return a note on labels that are no classes; raise `UserError`, which begins with `problem`, if none is one."""
    of_labels = settings.competition.submission == "labels"
    answers = set(submitted.iloc[:, 1]) if of_labels else set(map(str, submitted.columns[1:]))
    known = sorted(answers | set(classes) if of_labels else answers)
    unknown = sorted(set(labels) - set(known))
    foreign = answers.isdisjoint(labels) and bool(classes) and answers.isdisjoint(classes)
    if foreign or len(unknown) == labels.nunique():
        ours = sorted(answers) if foreign else known
        raise UserError(
            f"{problem} ({few(ours, 5)}), so nothing can be right.{difference(sorted(set(labels)), ours)} Write the "
            "labels of the solution as the submission has them, or give the solution of this competition."
        )
    if not unknown or not of_labels:
        return []
    count = int(labels.isin(unknown).sum())
    return [f"Warning: {count:,} of {len(labels):,} labels are no class, so they count as wrong: {few(unknown, 10)}."]


def folder_labels(table: pd.DataFrame, folder: str) -> pd.DataFrame | None:
    """Return id and label of the test rows of `table` if all are in class folders below `folder`; else None."""
    rows = table[table["split"] == "test"]
    top = PurePosixPath(folder).parts
    parts = [PurePosixPath(path).parts for path in rows["path"]]
    labels = [each[len(top)] if each[: len(top)] == top and len(each) > len(top) + 1 else "" for each in parts]
    known = set(table.loc[table["split"] != "test", "label"])
    if not labels or not known.issuperset(labels):
        return None
    return pd.DataFrame({"id": rows["id"].to_numpy(), "label": labels})
