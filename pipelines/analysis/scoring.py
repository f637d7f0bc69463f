"""Scoring a submission against true labels."""

from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
import torch

from pipelines.core.metrics import METRICS
from pipelines.dataset.tables import read_csv, read_listing, without_indexes
from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError, few


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
    truth = without_indexes(read_listing(solution)) if truth is None else truth
    if len(truth.columns) < 2 or truth.empty:
        raise UserError(f"{solution} must have two columns, id and label, and at least one row.")
    ids, labels = truth.iloc[:, 0], truth.iloc[:, 1]
    for table, where in ((submitted.iloc[:, 0], path), (ids, solution)):
        if repeated := list(table[table.duplicated()]):
            raise UserError(f"{where}: {len(repeated)} ids occur twice, such as {few(repeated)}.")
    answers = submitted.set_index(submitted.columns[0])
    if absent := sorted(set(ids) - set(answers.index)):
        raise UserError(f"{path} lacks {len(absent)} of the ids in {solution}, such as {few(absent)}.")
    answers = answers.loc[ids]
    if settings.competition.submission == "labels":
        classes = sorted({*labels, *answers.iloc[:, 0]})
        probabilities = (answers.iloc[:, [0]].to_numpy() == np.array(classes, dtype=object)).astype(np.float64)
    else:
        classes = list(answers.columns)
        probabilities = answers.apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float64)
        if not np.isfinite(probabilities).all():
            raise UserError(f"{path}: not every value is a number.")
    if unknown := sorted(set(labels) - set(classes)):
        raise UserError(f"{solution} has labels that {path} has no column for, such as {few(unknown)}.")
    numbers = torch.tensor([classes.index(label) for label in labels])
    return METRICS[settings.competition.metric].score(torch.tensor(probabilities), numbers), len(truth)


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
