"""Score a submission against true labels, independently of training."""

from collections.abc import Collection, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipelines.core.metrics import make_metric
from pipelines.core.scores import NO_GUESS
from pipelines.dataset.box_cells import boxes_in
from pipelines.dataset.long_form import answer_columns, split_long
from pipelines.dataset.loose_ids import match_ids
from pipelines.dataset.tables import index_columns, read_csv, read_table
from pipelines.dataset.target_cells import FLAGS, parts
from pipelines.dataset.targets import JOINT, labels_in
from pipelines.settings.metrics import ONE_CLASS, facts_of
from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError, few, quoted

AGAIN = "Predict again."  # which replaces a submission that was changed
COPY = "copy"  # column of a solution: how many rows before it have the same id
Array = npt.NDArray[Any]


class Scored(NamedTuple):
    """The score, NaN if it is not defined; the number of scored images; and notes on what the score leaves out."""

    score: float
    images: int
    notes: list[str]


def score_submission(
    path: Path, solution: Path, settings: Settings, truth: pd.DataFrame | None = None, known: Sequence[str] = ()
) -> Scored:
    """Return the competition's metric of the submission at `path`, and what it was scored on.

    solution: a CSV whose first two columns are id and target as text (see dataset/targets.py). Ids that are not in it
    are not scored, as Kaggle ignores the filler images of CIFAR-10. An id may occur several times, if it occurs as
    often in the solution. truth: the same two columns, where no CSV holds them; `solution` then names their source.
    known: all labels as they are submitted, or the names of the numbers. Raises `UserError` for an id or a label that
    the submission lacks, a repeated id, and an answer that cannot be one.
    """
    submitted = answer_rows(read_csv(path), path, settings, known)
    truth = read_table(solution) if truth is None else truth
    if len(truth.columns) < 2 or truth.empty:
        raise UserError(f"{solution} must have two columns, id and label, and at least one row.")
    ids, labels = truth.iloc[:, 0], truth.iloc[:, 1]
    if COPY not in truth:
        check_repeated(submitted.iloc[:, 0], ids, path, solution)
    if absent := sorted(set(ids) - set(submitted.iloc[:, 0])):
        raise UserError(
            f"{path} lacks {len(absent)} of the ids in {solution}, such as {few(absent)}; its own are such as "
            f"{few(list(dict.fromkeys(submitted.iloc[:, 0])))}. Give the solution of this competition; or, if the "
            "submission was changed, predict again."
        )
    copies = truth[COPY] if COPY in truth else ids.groupby(ids).cumcount()
    answers = submitted.iloc[:, 1:].set_axis(_keys(submitted.iloc[:, 0]))
    answers = answers.loc[pd.MultiIndex.from_arrays([ids, copies])].droplevel(1)
    predicted, targets, classes = _Compared(path, solution, settings, known).arrays(answers, labels.tolist())
    metric = make_metric(settings.competition, classes)
    return Scored(metric.score(predicted, targets), len(truth), metric.notes(predicted, targets))


def answer_rows(table: pd.DataFrame, path: Path, settings: Settings, known: Sequence[str] = ()) -> pd.DataFrame:
    """Return the ids of a submission, or of a solution in its form, and a column for each answer.

    The long form becomes one row per image. Raises `UserError` if answers are absent.
    """
    indexes, form = index_columns(table), settings.competition.long_form
    header = list(map(str, table.columns))
    sample_id = settings.data.sample_id  # an index may have an empty name too
    name = sample_id if sample_id and sample_id in header else header[indexes]
    values, target = answer_columns(header, name, indexes, form)
    if not values:
        raise UserError(f"{path} has one column; a submission has an id and at least one more. Predict again.")
    if not form:
        return table[[name, *values]]
    if target is not None:
        pairs = pd.DataFrame({"image": table[name], "target": table[target]})
    else:
        images, targets = split_long(table[name].tolist(), form, known)
        pairs = pd.DataFrame({"image": images, "target": targets}, index=table.index)
    if repeated := pairs.index[pairs.duplicated()].tolist():
        raise UserError(f"{path}, line {repeated[0]}: {len(repeated)} rows repeat an image and target. {AGAIN}")
    wide = pairs.assign(value=table[values[0]]).pivot(index="image", columns="target", values="value")
    if wide.isna().to_numpy().any():
        image, column = wide.index[wide.isna().any(axis=1)][0], wide.columns[wide.isna().any()][0]
        raise UserError(f"{path} has no row for target {quoted(column)} of image {quoted(image)}. {AGAIN}")
    return wide.loc[pairs["image"].unique(), pairs["target"].unique()].rename_axis(name).reset_index()


def _keys(ids: "pd.Series[str]") -> pd.MultiIndex:
    """Return each id with the number of rows before it that have the same id."""
    return pd.MultiIndex.from_arrays([ids, ids.groupby(ids).cumcount()])


def check_repeated(submitted: "pd.Series[str]", ids: "pd.Series[str]", path: Path, solution: Path) -> None:
    """Raise `UserError` for ids that submission and solution do not have equally often."""
    ours, theirs = submitted.value_counts(), ids.value_counts()
    for here, there, where, advice in ((ours, theirs, path, AGAIN), (theirs, ours, solution, "Keep one row for each.")):
        repeated = here[here > 1]
        if wrong := repeated.index[repeated != there.reindex(repeated.index, fill_value=0)].tolist():
            raise UserError(f"{where}: {len(wrong)} ids occur twice, such as {few(wrong)}. {advice}")


def joined_ids(ids: "pd.Series[str]", submitted: "pd.Series[str]") -> "tuple[pd.Series[str], list[str]]":
    """Return `ids` as the submission writes them, and a note if that is another form of the same names."""
    if set(submitted).isdisjoint(ids):
        matches = match_ids(ids, submitted.tolist(), "")
        if ids.is_unique and matches.are_complete(ids):
            joined = pd.Series([matches.image(name) for name in ids], index=ids.index, dtype=str)
            return joined, [f"Ids were joined by their names: {quoted(ids.iloc[0])} is {quoted(joined.iloc[0])}."]
    return ids, []


class _Compared:
    """Turns the answers of a submission and the targets of a solution into the arrays that the metric takes."""

    def __init__(self, path: Path, solution: Path, settings: Settings, known: Sequence[str]) -> None:
        self.path, self.solution, self.known = path, solution, known
        self.settings = settings
        self.competition, self.task = settings.competition, settings.competition.task
        self.takes = facts_of(self.competition.metric, self.task).takes

    def arrays(self, answers: pd.DataFrame, labels: list[str]) -> tuple[Array, Array, list[str]]:
        """Return predictions, targets and classes."""
        if self.takes == "grades":
            return self._grades(answers, labels)
        match self.competition.submission:
            case "boxes":
                return self._boxes(answers.iloc[:, 0].tolist(), labels)
            case "labels":
                texts = answers.iloc[:, 0].tolist()
                classes = sorted({*labels, *texts, *self.known})
                return _places(texts, classes), _places(labels, classes), classes
            case "probabilities":
                return self._probabilities(answers, labels)
            case "probability":
                return self._numbers(answers)[:, 0], self._positive(labels), []
            case "numbers":
                names = list(answers.columns)
                return self._numbers(answers), self._true_numbers(labels, len(names)), names
        lists = self._lists(answers.iloc[:, 0])
        true = [labels_in(text, self.task) for text in labels]
        classes = sorted({*self.known, *(label for each in (*lists, *true) for label in each)})
        targets = _places(labels, classes) if self.task == ONE_CLASS else _flags(true, classes)
        if self.competition.submission == "label_lists":
            return _flags(lists, classes), targets, classes
        ranking = np.full((len(lists), self.competition.guesses), NO_GUESS)
        for row, guesses in enumerate(lists):
            ranking[row, : len(guesses)] = _places(guesses, classes)
        return ranking, targets, classes

    def _probabilities(self, answers: pd.DataFrame, labels: list[str]) -> tuple[Array, Array, list[str]]:
        classes, values = list(answers.columns), self._numbers(answers)
        true = [labels_in(text, self.task) for text in labels]
        if unknown := sorted({label for each in true for label in each} - set(classes)):
            problem = f"{self.solution} has labels that {self.path} has no column for, such as {few(unknown)}"
            raise UserError(f"{problem}. Its columns are {few(classes)}: write the labels in the same words.")
        targets = _places(labels, classes) if self.task == ONE_CLASS else _flags(true, classes)
        return (values.argmax(axis=1) if self.takes == "label" else values), targets, classes

    def _boxes(self, answers: list[str], labels: list[str]) -> tuple[Array, Array, list[str]]:
        """Return boxes in the units of the submission: no overlap depends on them."""
        read = [
            [self._boxes_in(cell, path) for cell in cells]
            for cells, path in ((answers, self.path), (labels, self.solution))
        ]
        classes = sorted({*self.known, *(label for each in read for names, _ in each for label in names)})
        arrays = []
        for each, empty in zip(read, (0.0, np.nan), strict=True):
            filled = np.full((len(each), max(1, *(len(names) for names, _ in each)), 6), empty)
            for row, (names, boxes) in enumerate(each):
                filled[row, : len(names)] = np.column_stack([_places(names, classes), boxes])
            arrays.append(filled)
        return arrays[0].reshape(len(answers), -1), np.delete(arrays[1], 1, axis=2), classes

    def _boxes_in(self, cell: str, path: Path) -> tuple[list[str], Array]:
        try:
            return boxes_in(cell, self.settings)
        except ValueError as error:
            raise UserError(
                f"{path}: {quoted(cell)} are no boxes: {error}. {AGAIN if path == self.path else ''}"
            ) from None

    def _grades(self, answers: pd.DataFrame, labels: list[str]) -> tuple[Array, Array, list[str]]:
        """Return whole numbers, (N,), (N,)."""
        values, targets = self._numbers(answers)[:, 0], self._true_numbers(labels, 1)[:, 0]
        for numbers, where in ((values, self.path), (targets, self.solution)):
            if (wrong := numbers[numbers % 1 > 0]).size:
                raise UserError(f"{where}: {self.competition.metric} takes whole numbers, not {wrong[0]:g}.")
        whole = sorted({*values[~np.isnan(values)], *targets[~np.isnan(targets)]})
        return values, targets, [*map(str, map(int, whole)), *self.known]

    def _numbers(self, answers: pd.DataFrame) -> Array:
        """Return answers as float64, (N, columns). Raises `UserError` for one that is no number."""
        values = answers.apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float64)
        if not np.isfinite(values).all():
            row, column = np.argwhere(~np.isfinite(values))[0]
            name, identity = answers.columns[column], answers.index[row]
            wrong = f"{answers.iloc[row, column]!r} in column {name!r} of id {identity!r}"
            raise UserError(f"{self.path}: not every value is a number, such as {wrong}. {AGAIN}")
        return values

    def _true_numbers(self, labels: list[str], count: int) -> Array:
        """Return targets as float64, (N, count), NaN for a missing one; `encode` would round them to float32."""
        cells = [text.split(JOINT) for text in labels]
        if wrong := [
            text for text, each in zip(labels, cells, strict=True) if len(each) != count or not _are_numbers(each)
        ]:
            raise UserError(
                f"{self.solution}: {len(wrong)} of {len(labels)} targets are not {count} numbers, such as {few(wrong)}."
            )
        return np.array([[float(cell) if cell else np.nan for cell in each] for each in cells], np.float64)

    def _positive(self, labels: list[str]) -> Array:
        """Return 1 for the positive class and 0 for others: the labels are classes, or 0 and 1 as in a sample."""
        positive = self.competition.positive
        if positive in labels or not set(labels) <= set(FLAGS):
            return np.array([label == positive for label in labels], np.int64)
        sought = float(positive) if positive in ("0", "1") else 1.0
        return np.array([float(label) == sought for label in labels], np.int64)

    def _lists(self, cells: "pd.Series[str]") -> list[list[str]]:
        """Return the labels in each cell of the submission."""
        found = [label_list(cell, self.competition) for cell in cells.tolist()]
        most = self.competition.guesses
        if self.competition.submission == "best_labels" and (
            long := [n for n, each in enumerate(found) if len(each) > most]
        ):
            raise UserError(
                f"{self.path}: {len(long)} rows have over {most} labels, such as id {quoted(cells.index[long[0]])}: "
                f"{quoted(cells.iloc[long[0]])}. Correct competition.guesses, or predict again."
            )
        return found


def label_list(cell: str, competition: Any) -> list[str]:
    """Return the labels in a cell of a submission or of a solution in its form."""
    return [] if cell == competition.no_label else parts(cell, competition.answer_separator)


def _are_numbers(cells: Collection[str]) -> bool:
    return bool(np.isfinite(pd.to_numeric(pd.Series([cell or "0" for cell in cells]), errors="coerce")).all())


def _places(labels: Sequence[str], classes: Sequence[str]) -> npt.NDArray[np.int64]:
    place = {label: number for number, label in enumerate(classes)}
    return np.array([place[label] for label in labels], np.int64)


def _flags(lists: Sequence[Sequence[str]], classes: Sequence[str]) -> npt.NDArray[np.uint8]:
    """Return 1 for each label that an image has, (N, K)."""
    flags = np.zeros((len(lists), len(classes)), np.uint8)
    for row, labels in enumerate(lists):
        flags[row, _places(labels, classes)] = 1
    return flags


def folder_labels(table: pd.DataFrame, folder: str) -> pd.DataFrame | None:
    """Return id and label of the test rows of `table` if all are in class folders below `folder`; else None."""
    rows = table[table["split"] == "test"]
    top = PurePosixPath(folder).parts
    found = [PurePosixPath(path).parts for path in rows["path"]]
    labels = [each[len(top)] if each[: len(top)] == top and len(each) > len(top) + 1 else "" for each in found]
    known = set(table.loc[table["split"] != "test", "label"])
    if not labels or not known.issuperset(labels):
        return None
    return pd.DataFrame({"id": rows["id"].to_numpy(), "label": labels})
