"""A submission: the classes it speaks of, its rows joined to the sample by id, and the check before it is sent."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipelines.dataset.tables import find_column, read_csv, table_text
from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError, quoted

SUM_TOLERANCE = 1e-4
PROBABILITY_FORMAT = "%.9g"  # float32's own precision: more digits would be noise


def class_list(labels: Sequence[str], settings: Settings, raw: Path) -> list[str]:
    """Return the classes, sorted: those of the sample's columns for probabilities, else those that occur as labels.

    Raises `UserError` where the sample submission has another form than the settings say, or no column for a label.
    """
    occurring = sorted(set(labels))
    if settings.competition.metric == "log_loss" and settings.competition.submission == "labels":
        raise UserError(
            f"{settings.name}: log loss is taken of probabilities, but competition.submission is labels. Set it to "
            "probabilities, or another competition.metric."
        )
    if not settings.data.sample_submission:
        return occurring
    path = raw / settings.data.sample_submission
    columns = list(read_csv(path).columns[1:])
    if settings.competition.submission == "labels":
        if len(columns) != 1:
            raise UserError(
                f"{path} has {len(columns) + 1} columns, but a submission of labels has 2: an id and a label. Set "
                "competition.submission to probabilities if it has one column per class."
            )
        return occurring
    if homeless := sorted(set(occurring) - set(columns)):
        raise UserError(
            f"{path}: its columns are not the classes: {len(homeless)} of {len(occurring)} labels have none, such as "
            f"{quoted(homeless[0])}; it has {few(columns)}. Set data.label_column to the right column of "
            f"{settings.data.labels}, or competition.submission to labels."
        )
    return sorted(columns)


def make_submission(
    ids: Sequence[str], probabilities: npt.NDArray[np.float32], classes: list[str], settings: Settings, raw: Path
) -> pd.DataFrame:
    """Return the submission's table of text: the sample's header and order of rows, filled by id.

    probabilities: (N, K), one row for each of `ids`, one column for each of `classes`.  Without a sample the header is
    that of the labels CSV, or `id` and `label`, and rows stand in the order of `ids`.
    """
    if settings.competition.submission == "labels":
        chosen = np.array(classes, dtype=object)[probabilities.argmax(axis=1)]
        predicted = pd.DataFrame({"label": chosen}, index=pd.Index(ids))
    else:
        values = probabilities.astype(np.float64)
        values /= values.sum(axis=1, keepdims=True)
        text = np.array([[PROBABILITY_FORMAT % value for value in row] for row in values], dtype=object)
        predicted = pd.DataFrame(text, columns=classes, index=pd.Index(ids))
    if not settings.data.sample_submission:
        id_name, label_name = _header_of_labels(settings, raw)
        if settings.competition.submission == "labels":
            predicted.columns = pd.Index([label_name])
        return predicted.rename_axis(id_name).reset_index()
    path = raw / settings.data.sample_submission
    sample = read_csv(path)
    wanted = sample.iloc[:, 0]
    if missing := sorted(set(wanted) - set(ids)):
        raise UserError(
            f"{path} wants {len(missing)} ids that were not predicted, such as {few(missing)}. Were images added "
            "after the split? Split again."
        )
    if settings.competition.submission == "labels":
        predicted.columns = sample.columns[1:]
    elif set(sample.columns[1:]) != set(classes):
        raise UserError(f"{path}: its columns are not the classes that the run was trained on. Train again.")
    filled = predicted.loc[wanted, list(sample.columns[1:])]
    return filled.rename_axis(sample.columns[0]).reset_index()


def _header_of_labels(settings: Settings, raw: Path) -> tuple[str, str]:
    """Return what the labels CSV calls its ids and its labels; `id` and `label` where there is no such CSV."""
    data = settings.data
    if not data.labels:
        return "id", "label"
    path = raw / data.labels
    table = read_csv(path)
    ids, labels = find_column(table, path, data.id_column, 0), find_column(table, path, data.label_column, 1)
    return str(ids.name), str(labels.name)


def write_submission(path: Path, table: pd.DataFrame) -> None:
    """Write the table that `make_submission` made to `path`, as `check_submission` reads it."""
    path.write_text(table_text(table), encoding="utf-8", newline="\n")


def check_submission(path: Path, classes: list[str], settings: Settings, raw: Path) -> int:
    """Check the submission file at `path` against the sample, and return its number of rows.

    Header and ids exactly the sample's, no id twice, known labels; or probabilities that are numbers between 0 and 1
    and sum to 1.  Raises `UserError` that names the first line at fault.
    """
    table = read_csv(path)
    if len(table.columns) < 2:
        raise UserError(f"{path} has one column; a submission has an id and at least one more.")
    ids = table.iloc[:, 0]
    if duplicated := list(ids[ids.duplicated()]):
        raise UserError(f"{path}: {len(duplicated)} ids occur twice, such as {few(duplicated)}.")
    if settings.data.sample_submission:
        sample_path = raw / settings.data.sample_submission
        sample = read_csv(sample_path)
        if list(table.columns) != list(sample.columns):
            raise UserError(
                f"{path}: its header is {few(list(table.columns))}; {sample_path} has {few(list(sample.columns))}."
            )
        absent, extra = set(sample.iloc[:, 0]) - set(ids), set(ids) - set(sample.iloc[:, 0])
        if absent or extra:
            raise UserError(
                f"{path}: its ids are not those of {sample_path}: {len(absent)} are absent ({few(sorted(absent))}), "
                f"{len(extra)} too many ({few(sorted(extra))})."
            )
    values = table.iloc[:, 1:]
    if settings.competition.submission == "labels":
        unknown = ~values.iloc[:, 0].isin(classes)
        if unknown.any():
            line = int(np.flatnonzero(unknown)[0])
            raise UserError(
                f"{path}, line {line + 2}: {quoted(values.iloc[line, 0])} is not a known label ({few(classes)})."
            )
        return len(table)
    numbers = values.apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float64)
    out_of_range = ~((numbers >= 0) & (numbers <= 1)).all(axis=1)  # true for NaN too
    if out_of_range.any():
        line = int(np.flatnonzero(out_of_range)[0])
        raise UserError(f"{path}, line {line + 2}: not every value is a probability between 0 and 1.")
    off = np.abs(numbers.sum(axis=1) - 1) > SUM_TOLERANCE
    if off.any():
        line = int(np.flatnonzero(off)[0])
        raise UserError(f"{path}, line {line + 2}: the probabilities sum to {numbers[line].sum():.6f}, not to 1.")
    return len(table)


def few(names: Sequence[str]) -> str:
    """Return the first three names in quotes, and an ellipsis where there are more."""
    return ", ".join(map(quoted, names[:3])) + (", …" if len(names) > 3 else "")
