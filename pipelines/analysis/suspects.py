"""Labels that are probably wrong: rows of which a network that did not learn from them is sure that they are something
else.

As in C. Northcutt, L. Jiang and I. Chuang, Confident learning: estimating uncertainty in dataset labels (JAIR 70,
2021), to be sure of a class is to give it at least the probability that the rows with that label get for it on average;
the margin between the two classes ranks what is found.  Theirs also finds rows of which a class with less than the
highest probability is sure; of those nothing is kept here.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipelines.dataset.batches import labels_of
from pipelines.dataset.tables import read_csv, spreadsheet_safe, write_csv
from pipelines.settings.layout import Layout, RunLayout
from pipelines.settings.records import read_record
from pipelines.system.errors import UserError
from pipelines.system.files import file_sha256

PREDICTION_COLUMNS = ("id", "label", "predicted", "p_predicted", "p_label")


def write_valid_predictions(
    path: Path, rows: pd.DataFrame, classes: Sequence[str], probabilities: npt.NDArray[np.float32]
) -> None:
    """Write what was predicted of the valid `rows`: `PREDICTION_COLUMNS`.  probabilities: (N, K), of `classes`."""
    labels = labels_of(rows, classes).numpy()
    everyone = np.arange(len(rows))
    predicted = probabilities.argmax(axis=1)
    columns = {
        "id": rows["id"].tolist(),
        "label": rows["label"].tolist(),
        "predicted": [classes[number] for number in predicted.tolist()],
        "p_predicted": [f"{value:.6f}" for value in probabilities[everyone, predicted].tolist()],
        "p_label": [f"{value:.6f}" for value in probabilities[everyone, labels].tolist()],
    }
    write_csv(path, pd.DataFrame(columns))


def runs_on(layout: Layout) -> tuple[list[RunLayout], list[RunLayout]]:
    """Return the runs that have predicted their valid rows: those trained on the present split, and the others."""
    split = file_sha256(layout.split_csv)
    runs = [run for run in layout.runs() if run.trained.exists() and run.valid_predictions.exists()]
    ours = [read_record(run).split_sha256 == split for run in runs]
    return (
        [run for run, is_ours in zip(runs, ours, strict=True) if is_ours],
        [run for run, is_ours in zip(runs, ours, strict=True) if not is_ours],
    )


def find_suspects(runs: Iterable[RunLayout], table: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Return the rows of the split table `table` whose prediction confidently contradicts their label, and of how many
    rows there is one.

    The result is indexed by the place in `table`, the most confident contradictions first: `predicted`, `p_predicted`,
    `p_label`, `runs`, the number of runs that held the row out.  Probabilities are means over these runs, where a run
    that predicted another class counts as 0.
    """
    labelled = table[table["split"] != "test"]
    places = dict(zip(labelled["id"].tolist(), labelled.index.tolist(), strict=True))
    votes: dict[int, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    of_label: dict[int, float] = defaultdict(float)
    counts: dict[int, int] = defaultdict(int)
    labels = table["label"].tolist()
    for run in runs:
        for name, label, predicted, p_predicted, p_label in _read(run.valid_predictions):
            place = places.get(name, -1)
            if place < 0 or labels[place] != label:
                raise UserError(f"{run.valid_predictions} is of other data than the split: id {name!r}. Remove it.")
            votes[place][predicted] += p_predicted
            of_label[place] += p_label
            counts[place] += 1
    in_own_label: dict[str, list[float]] = defaultdict(list)
    for place, count in counts.items():
        in_own_label[labels[place]].append(of_label[place] / count)
    sure = {label: sum(probabilities) / len(probabilities) for label, probabilities in in_own_label.items()}
    found = []
    for place, by_class in votes.items():
        predicted, total = max(by_class.items(), key=lambda vote: (vote[1], vote[0]))
        p_predicted, p_label = total / counts[place], of_label[place] / counts[place]
        if predicted != labels[place] and p_predicted > p_label and p_predicted >= sure.get(predicted, 0.0):
            found.append((place, predicted, p_predicted, p_label, counts[place]))
    found.sort(key=lambda row: (row[3] - row[2], row[0]))
    columns = ["place", "predicted", "p_predicted", "p_label", "runs"]
    return pd.DataFrame(found, columns=columns).set_index("place"), len(counts)


def _read(path: Path) -> list[tuple[str, str, str, float, float]]:
    table = read_csv(path, strip=False)
    try:
        columns = [table[name].tolist() for name in PREDICTION_COLUMNS]
        numbers = [[float(value) for value in column] for column in columns[3:]]
    except (KeyError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}). Remove it, and predict that run again.") from None
    return list(zip(*columns[:3], *numbers, strict=True))


def listing(suspects: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Return `suspects` for people: with id, path, split and label, as a spreadsheet may open them."""
    rows = table.iloc[suspects.index.to_numpy(np.int64)]
    columns: dict[str, object] = {
        name: [spreadsheet_safe(text) for text in rows[name]] for name in ("id", "path", "split", "label")
    }
    columns["predicted"] = [spreadsheet_safe(text) for text in suspects["predicted"]]
    for name in ("p_predicted", "p_label"):
        columns[name] = [f"{value:.4f}" for value in suspects[name]]
    columns["runs"] = suspects["runs"].tolist()
    return pd.DataFrame(columns)
