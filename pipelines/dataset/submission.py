"""Make the table of a submission, write it, and check it before it is sent."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipelines.dataset.columns import ONE_HOT
from pipelines.dataset.tables import (
    find_column,
    index_columns,
    read_csv,
    read_listing,
    read_table,
    table_text,
    without_indexes,
)
from pipelines.dataset.vocabulary import check_sample_labels, counted, difference, submitted_labels
from pipelines.settings.data_sections import DataSettings
from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError, few, quoted

SUM_TOLERANCE = 1e-4
MEND = "Correct this file, or predict again."
PROBABILITY_FORMAT = "%.9g"  # the precision of float32


def class_list(labels: Sequence[str], settings: Settings, raw: Path) -> list[str]:
    """Return the sorted classes: for probabilities the columns of the sample submission, else the labels that occur.

    Raises `UserError` if the sample submission contradicts the settings, has no column for a label, or has labels that
    are no classes.
    """
    data, occurring = settings.data, sorted(set(labels))
    texts = submitted_labels(data, raw, occurring)
    if not data.sample_submission:
        return occurring
    path = raw / data.sample_submission
    sample = read_table(path)
    columns = list(sample.columns[1:])
    if settings.competition.submission == "labels":
        if len(columns) != 1:
            raise UserError(
                f"{path} does not have 2 columns, an id and a label, as a submission of labels has, but "
                f"{len(columns) + 1}: {few(list(sample.columns), 5)}. "
                + ('If these are one column per class, set competition.submission = "probabilities". ' * bool(columns))
                + f'{"Else remove" if columns else "Add"} what is not as Kaggle\'s page "Evaluation" shows it.'
            )
        table = raw / data.labels if data.labels else None
        check_sample_labels(path, sample.iloc[:, 1], [texts.get(label, label) for label in occurring], data, table)
        return occurring
    labels_of = {text: label for label, text in texts.items()}
    classes = [labels_of.get(column, column) for column in columns]
    if missing := [label for label in occurring if label not in set(classes)]:
        raise UserError(_no_column(path, missing, occurring, columns, data))
    return sorted(classes)


def _no_column(
    path: Path, missing: Sequence[str], occurring: Sequence[str], columns: Sequence[str], data: DataSettings
) -> str:
    """Return the message that labels have no column in the sample submission at `path`."""
    if len(columns) == 1:
        return (
            f"{path} has one column of values, {quoted(columns[0])}, but a submission of probabilities has a column "
            'for each class. If it holds a label for each id, set competition.submission = "labels". One probability '
            "per image, as for the area under the ROC curve, is not supported."
        )
    column = f"data.label_column to the right column of {data.labels}, or " if data.labels else ""
    mend = (
        f"Set {column}data.submitted_labels to a CSV of label,answer with a row for each class: its label, its column."
    )
    return (
        f"{path}: its columns are not the classes: {len(missing)} of {len(occurring)} labels have none, for example "
        f"{few(missing)}; it has {few(columns)}.{difference(columns, occurring)} {mend}"
    )


def classes_without_images(labels: Sequence[str], classes: Sequence[str]) -> list[str]:
    """Return the columns of the sample submission for which no image is labelled; their probabilities mean nothing."""
    return sorted(set(classes) - set(labels))


def make_submission(
    ids: Sequence[str], probabilities: npt.NDArray[np.float32], classes: list[str], settings: Settings, raw: Path
) -> pd.DataFrame:
    """Return the submission as a table of text: header and row order of the sample submission, filled by id.

    probabilities: (N, K), one row for each of `ids`, one column for each of `classes`. Without a sample the header is
    that of the labels CSV, or `id` and `label`, and the rows are in the order of `ids`.
    """
    of_labels, answers = settings.competition.submission == "labels", answers_of(classes, settings, raw)
    if of_labels:
        chosen = np.array(answers, dtype=object)[probabilities.argmax(axis=1)]
        predicted = pd.DataFrame({"label": chosen}, index=pd.Index(ids))
    else:
        values = probabilities.astype(np.float64)
        values /= values.sum(axis=1, keepdims=True)
        text = np.array([[PROBABILITY_FORMAT % value for value in row] for row in values], dtype=object)
        predicted = pd.DataFrame(text, columns=answers, index=pd.Index(ids))
    if not settings.data.sample_submission:
        id_name, label_name = _header_of_labels(settings, raw, classes)
        if of_labels:
            predicted.columns = pd.Index([label_name])
        return predicted.rename_axis(id_name).reset_index()
    path = raw / settings.data.sample_submission
    full = read_listing(path)
    sample, indexes = without_indexes(full), full.columns[: index_columns(full)]
    wanted, columns = sample.iloc[:, 0], sample.columns[1:]
    if missing := sorted(set(wanted) - set(ids)):
        problem = f"{path} has {len(missing)} ids that were not predicted, for example {few(missing)}"
        raise UserError(f"{problem}. If rows were added after the split, split again; otherwise correct this file.")
    if of_labels:
        predicted.columns = columns
    elif set(columns) != set(answers):
        raise UserError(f"{path}: its columns are not the classes that the run was trained on. Split and train again.")
    table = predicted.loc[wanted, list(columns)].rename_axis(sample.columns[0]).reset_index()
    return pd.concat([full[indexes].reset_index(drop=True), table], axis=1)  # a submission repeats indexes


def answers_of(classes: Sequence[str], settings: Settings, raw: Path) -> list[str]:
    """Return the text to submit for each class: the class itself, or what data.submitted_labels says."""
    texts = submitted_labels(settings.data, raw)
    return [texts.get(label, label) for label in classes]


def _header_of_labels(settings: Settings, raw: Path, classes: Sequence[str]) -> tuple[str, str]:
    """Return the names of the id and the label column of the labels CSV; `id` and `label` without that CSV.

    The label column is `label` if the CSV has a column for each of the `classes`.
    """
    data, path = settings.data, raw / settings.data.labels
    if not data.labels:
        return "id", "label"
    table = read_table(path)
    ids, labels = find_column(table, path, data.id_column, 0), find_column(table, path, data.label_column, 1)
    return str(ids.name), ONE_HOT if labels.name in classes else str(labels.name)


def write_submission(path: Path, table: pd.DataFrame) -> None:
    """Write the table of `make_submission` to `path`."""
    path.write_text(table_text(table), encoding="utf-8", newline="\n")


def describe_answers(table: pd.DataFrame, of_labels: bool) -> list[str]:
    """Return the counts of the answers in the submission `table`, and a note if they are all the same."""
    values = without_indexes(table).iloc[:, 1:]
    most_probable = values.astype(np.float64).idxmax(axis=1) if not of_labels else values.iloc[:, 0]
    lines = [f"{'Answers' if of_labels else 'Most probable'}: {counted(list(map(str, most_probable)))}"]
    if len(table) > 1 and most_probable.nunique() == 1:
        equal = not of_labels and len(values.drop_duplicates()) == 1
        what = "rows of probabilities are equal" if equal else f"answers are {quoted(most_probable.iloc[0])}"
        lines.append(f"Note: all {len(table):,} {what}. Look at the run's curves and mistakes before you submit.")
    return lines


def check_submission(path: Path, classes: list[str], settings: Settings, raw: Path) -> int:
    """Return the number of rows of the submission at `path`. Raises `UserError` with the first wrong line.

    Header and ids must be those of the sample submission, without repeated ids; labels must be known, probabilities
    between 0 and 1 with a sum of 1.
    """
    whole = read_csv(path)
    table = without_indexes(whole)
    if len(table.columns) < 2:
        raise UserError(f"{path} has one column; a submission has an id and at least one more. {MEND}")
    ids = table.iloc[:, 0]
    if repeated := list(ids[ids.duplicated()]):
        raise UserError(f"{path}: {len(repeated)} ids occur twice, for example {few(repeated)}. {MEND}")
    if settings.data.sample_submission:
        sample_path = raw / settings.data.sample_submission
        full = read_listing(sample_path)
        sample = without_indexes(full)
        if list(whole.columns) != list(full.columns):
            ours, theirs = few(list(whole.columns)), few(list(full.columns))
            raise UserError(f"{path}: its header is {ours}; {sample_path} has {theirs}. {MEND}")
        absent, extra = set(sample.iloc[:, 0]) - set(ids), set(ids) - set(sample.iloc[:, 0])
        if absent or extra:
            raise UserError(
                f"{path}: its ids are not those of {sample_path}: {len(absent)} are absent ({few(sorted(absent))}), "
                f"{len(extra)} too many ({few(sorted(extra))}). {MEND}"
            )
    if settings.competition.submission == "labels":
        answers = answers_of(classes, settings, raw)
        unknown = table[~table.iloc[:, 1].isin(answers)]
        if not unknown.empty:
            different = sorted(set(unknown.iloc[:, 1]))
            raise UserError(
                f"{path}, line {unknown.index[0]}: {quoted(unknown.iat[0, 1])} is not a known label ({few(answers)}); "
                f"{len(unknown)} rows have such labels: {few(different, 10)}.{difference(different, answers)} {MEND}"
            )
        return len(table)
    numbers = table.iloc[:, 1:].apply(pd.to_numeric, errors="coerce").astype(np.float64)
    outside = ~((numbers >= 0) & (numbers <= 1)).all(axis=1)  # true for NaN
    if outside.any():
        raise UserError(f"{path}, line {outside.idxmax()}: not every value is a probability between 0 and 1. {MEND}")
    sums = numbers.sum(axis=1)
    wrong = sums[(sums - 1).abs() > SUM_TOLERANCE]
    if not wrong.empty:
        raise UserError(
            f"{path}, line {wrong.index[0]}: the probabilities sum to {wrong.iloc[0]:.6f}, not to 1. {MEND}"
        )
    return len(table)
