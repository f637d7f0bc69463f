"""Find targets that are probably wrong: a network that was not trained on the row predicts something else.

As in C. Northcutt, L. Jiang and I. Chuang, Confident learning: estimating uncertainty in dataset labels (JAIR 70,
2021), a network is sure of a class when its probability is at least the average that rows with that label get for it.
The margin between the two classes ranks the suspects.  Unlike there, only the most probable class counts.  Several
labels are judged one by one, each by its presence and its absence.  A number is a suspect if its error is large among
the errors of all rows.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipelines.analysis.results import Predictions, read_predictions, unusable
from pipelines.dataset.tables import spreadsheet_safe
from pipelines.dataset.targets import JOINT, encode, join_labels, labels_in
from pipelines.settings.layout import Layout, RunLayout, split_sha256
from pipelines.settings.metrics import NUMBERS, ONE_CLASS, SEVERAL_LABELS
from pipelines.settings.records import read_record
from pipelines.system.screen import short

LABELS_SHOWN = 4  # changed ones, above a picture
LARGE = 3.0  # standard deviations; larger errors of a number are suspect
NORMAL_MEDIAN = 0.6744897501960817  # median absolute value of normal numbers with standard deviation 1

Floats = npt.NDArray[np.float64]
Means = tuple[list[int], npt.NDArray[np.int64], Floats]  # places of rows, the runs of each, and means over these


def runs_on(layout: Layout) -> tuple[list[RunLayout], list[RunLayout]]:
    """Return the runs that have predicted their validation set: those of the current split, and the others."""
    split = split_sha256(layout.split_csv)
    found: tuple[list[RunLayout], list[RunLayout]] = [], []
    for run in layout.runs():
        if run.trained.exists() and run.valid_predictions.exists():
            found[read_record(run).split_sha256 != split].append(run)
    return found


def find_suspects(runs: Iterable[RunLayout], table: pd.DataFrame, task: str = ONE_CLASS) -> tuple[pd.DataFrame, int]:
    """Return the rows of the split table `table` whose predictions confidently contradict their target; and the
    number of rows that have predictions.

    The result is indexed by the place in `table`, the surest first, with `predicted`, `runs`, the number of runs that
    held the row out, and for classes and labels `p_predicted` and `p_label`, for numbers `deviations`, the error in
    standard deviations of all errors.  Predictions are means over these runs; a run that predicted another class counts
    as 0.  Of several labels, `predicted` has the contradicted ones changed, and the probabilities are those of the
    surest of them.
    """
    read = [(run, read_predictions(run.valid_predictions, table, task)) for run in runs]
    find: Callable[..., tuple[pd.DataFrame, int]]
    find = {ONE_CLASS: _wrong_classes, SEVERAL_LABELS: _wrong_labels, NUMBERS: _wrong_numbers}[task]
    return find(read, table["label"].tolist())


def _wrong_classes(read: Sequence[tuple[RunLayout, Predictions]], labels: Sequence[str]) -> tuple[pd.DataFrame, int]:
    votes: dict[int, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    of_label: dict[int, float] = defaultdict(float)
    counts = Counter[int]()
    for _, found in read:
        for place, predicted, (p_predicted, p_label) in zip(
            found.places, found.names, found.values.tolist(), strict=True
        ):
            votes[place][predicted] += p_predicted
            of_label[place] += p_label
            counts[place] += 1
    in_own_label: dict[str, list[float]] = defaultdict(list)
    for place, count in counts.items():
        in_own_label[labels[place]].append(of_label[place] / count)
    sure = {label: sum(probabilities) / len(probabilities) for label, probabilities in in_own_label.items()}
    rows = []
    for place, by_class in votes.items():
        predicted, total = max(by_class.items(), key=lambda vote: (vote[1], vote[0]))
        p_predicted, p_label = total / counts[place], of_label[place] / counts[place]
        if predicted != labels[place] and p_predicted > p_label and p_predicted >= sure.get(predicted, 0.0):
            rows.append((place, predicted, p_predicted, p_label, counts[place]))
    rows.sort(key=lambda row: (row[3] - row[2], row[0]))
    return _table(rows, "predicted", "p_predicted", "p_label", "runs"), len(counts)


def _wrong_labels(read: Sequence[tuple[RunLayout, Predictions]], labels: Sequence[str]) -> tuple[pd.DataFrame, int]:
    """Return the rows with a label that is sure to be absent, or an absent one that is sure to be present.

    Sure: more probable than not, and at least as probable as rows with that label, or without it, get on average.
    """
    if not read:
        return _table([], "predicted", "p_predicted", "p_label", "runs"), 0
    names = read[0][1].names
    for run, found in read:
        if found.names != names:
            raise unusable(run.valid_predictions, f"has other labels than {read[0][0].valid_predictions}")
    places, runs, present = _means(read)
    actual = encode([labels[place] for place in places], SEVERAL_LABELS, names).astype(bool)
    of_own = np.where(actual, present, 1 - present)
    sure = np.full((2, len(names)), np.inf)  # of absence and of presence
    for state in (0, 1):
        rows = actual == state
        np.divide((of_own * rows).sum(axis=0), rows.sum(axis=0), out=sure[state], where=rows.any(axis=0))
    other = 1 - of_own
    wrong = (other > of_own) & (other >= np.where(actual, sure[0], sure[1]))
    margins = np.where(wrong, other, 0)
    rows_found = []
    for row in np.flatnonzero(wrong.any(axis=1)).tolist():
        surest = float(margins[row].max())
        predicted = join_labels(np.array(names, object)[actual[row] ^ wrong[row]])
        rows_found.append((places[row], predicted, surest, 1 - surest, int(runs[row])))
    rows_found.sort(key=lambda row: (row[3], row[0]))
    return _table(rows_found, "predicted", "p_predicted", "p_label", "runs"), len(places)


def _wrong_numbers(read: Sequence[tuple[RunLayout, Predictions]], labels: Sequence[str]) -> tuple[pd.DataFrame, int]:
    """Return the rows with an error of more than `LARGE` standard deviations in one of their numbers."""
    if not read:
        return _table([], "predicted", "deviations", "runs"), 0
    places, runs, predicted = _means(read)
    width = predicted.shape[1]
    errors = predicted - encode([labels[place] for place in places], NUMBERS, [""] * width)
    deviations = np.nan_to_num(np.abs(errors) / np.array([_spread(column) for column in errors.T])).max(axis=1)
    order = np.argsort(-deviations, kind="stable")
    rows = [
        (places[row], JOINT.join(f"{value:.6g}" for value in predicted[row]), float(deviations[row]), int(runs[row]))
        for row in order[deviations[order] > LARGE].tolist()
    ]
    return _table(rows, "predicted", "deviations", "runs"), len(places)


def _spread(errors: Floats) -> float:
    """Return the standard deviation of most errors, by their median: a few wrong targets do not change it."""
    known = np.abs(errors[np.isfinite(errors)])
    middle = float(np.median(known)) / NORMAL_MEDIAN if len(known) else 0.0
    return middle or float(np.sqrt(np.square(known).mean()) if len(known) else 0.0) or 1.0


def _means(read: Sequence[tuple[RunLayout, Predictions]]) -> Means:
    """Return the places of all rows in order, the number of runs that predicted each, and the mean predictions."""
    places = np.concatenate([found.places for _, found in read]).astype(np.int64)
    different, which, counts = np.unique(places, return_inverse=True, return_counts=True)
    sums = np.zeros((len(different), read[0][1].values.shape[1]))
    np.add.at(sums, which, np.concatenate([found.values for _, found in read]))
    return different.tolist(), counts, sums / counts[:, None]


def _table(rows: Sequence[tuple[object, ...]], *columns: str) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["place", *columns]).set_index("place")


def texts(suspects: pd.DataFrame, labels: Sequence[str], task: str) -> list[str]:
    """Return the text above the picture of each of `suspects`, whose targets are `labels`."""
    found = []
    for label, (_, row) in zip(labels, suspects.iterrows(), strict=True):
        if task == ONE_CLASS:
            found.append(f"is {short(label)}\nseen as {short(row['predicted'])} {row['p_predicted']:.0%}")
        elif task == NUMBERS:
            found.append(f"is {short(label)}\nseen as {short(row['predicted'])}\nerror {row['deviations']:.1f} σ")
        else:
            own, seen = (set(labels_in(text, task)) for text in (label, row["predicted"]))
            changed = [f"− {short(name)}" for name in sorted(own - seen)] + [
                f"+ {short(name)}" for name in sorted(seen - own)
            ]
            more = [f"and {len(changed) - LABELS_SHOWN} more"] if len(changed) > LABELS_SHOWN else []
            found.append("\n".join([short(label, 30) or "no label", *changed[:LABELS_SHOWN], *more]))
    return found


def listing(suspects: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Return `suspects` as a table with id, path, split and label, safe to open in a spreadsheet."""
    rows = table.iloc[suspects.index.to_numpy(np.int64)]
    columns: dict[str, object] = {
        name: [spreadsheet_safe(text) for text in rows[name]] for name in ("id", "path", "split", "label")
    }
    columns["predicted"] = [spreadsheet_safe(text) for text in suspects["predicted"]]
    for name in ("p_predicted", "p_label", "deviations"):
        if name in suspects:
            columns[name] = [f"{value:.4f}" for value in suspects[name]]
    columns["runs"] = suspects["runs"].tolist()
    return pd.DataFrame(columns)
