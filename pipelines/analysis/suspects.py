"""Find labels that are probably wrong: a network that was not trained on the row is sure of another class.

As in C. Northcutt, L. Jiang and I. Chuang, Confident learning: estimating uncertainty in dataset labels (JAIR 70,
2021), a network is sure of a class when its probability is at least the average that rows with that label get for it.
The margin between the two classes ranks the suspects.  Unlike there, only the most probable class counts.
"""

import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipelines.dataset.image_set import ImageSet
from pipelines.dataset.tables import read_csv, spreadsheet_safe, write_csv
from pipelines.settings.layout import Layout, RunLayout
from pipelines.settings.records import read_record
from pipelines.system.errors import UserError
from pipelines.system.files import file_sha256
from pipelines.system.shell import path_word, removal

PREDICTION_COLUMNS = ("id", "label", "predicted", "p_predicted", "p_label")


def write_valid_predictions(path: Path, images: ImageSet, probabilities: npt.NDArray[np.float32]) -> None:
    """Write the predictions of the validation set, `PREDICTION_COLUMNS`.  probabilities: (N, K)."""
    everyone, predicted = np.arange(len(images)), probabilities.argmax(axis=1)
    table = images.rows[["id", "label"]].reset_index(drop=True)
    table["predicted"] = [images.classes[number] for number in predicted]
    for name, numbers in (("p_predicted", predicted), ("p_label", images.labels)):
        table[name] = [f"{value:.6f}" for value in probabilities[everyone, numbers].tolist()]
    write_csv(path, table)


def runs_on(layout: Layout) -> tuple[list[RunLayout], list[RunLayout]]:
    """Return the runs that have predicted their validation set: those of the current split, and the others."""
    split = file_sha256(layout.split_csv)
    found: tuple[list[RunLayout], list[RunLayout]] = [], []
    for run in layout.runs():
        if run.trained.exists() and run.valid_predictions.exists():
            found[read_record(run).split_sha256 != split].append(run)
    return found


def find_suspects(runs: Iterable[RunLayout], table: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Return the rows of the split table `table` whose predictions confidently contradict their label; and the
    number of rows that have predictions.

    The result is indexed by the place in `table`, most confident first, with `predicted`, `p_predicted`, `p_label` and
    `runs`, the number of runs that held the row out.  Probabilities are means over these runs; a run that predicted
    another class counts as 0.
    """
    labelled = table[table["split"] != "test"]
    places = dict(zip(labelled["id"].tolist(), labelled.index.tolist(), strict=True))
    votes: dict[int, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    of_label: dict[int, float] = defaultdict(float)
    counts = Counter[int]()
    labels = table["label"].tolist()
    for run in runs:
        for name, label, predicted, p_predicted, p_label in _read(run.valid_predictions):
            place = places.get(name, -1)
            if place < 0 or labels[place] != label:
                reason = f"does not match split.csv: {name!r} with the label {label!r} is not in it"
                raise _unusable(run.valid_predictions, reason)
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
        raise _unusable(path, f"is damaged ({error})") from None
    return list(zip(*columns[:3], *numbers, strict=True))


def _unusable(path: Path, reason: str) -> UserError:
    again = f"Remove it, then predict that run again (RUN={shlex.quote(path.parent.name)}) or go on without it"
    return UserError(f"{path_word(path)} {reason}. {again}: {removal(path)}")


def listing(suspects: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Return `suspects` as a table with id, path, split and label, safe to open in a spreadsheet."""
    rows = table.iloc[suspects.index.to_numpy(np.int64)]
    columns: dict[str, object] = {
        name: [spreadsheet_safe(text) for text in rows[name]] for name in ("id", "path", "split", "label")
    }
    columns["predicted"] = [spreadsheet_safe(text) for text in suspects["predicted"]]
    for name in ("p_predicted", "p_label"):
        columns[name] = [f"{value:.4f}" for value in suspects[name]]
    columns["runs"] = suspects["runs"].tolist()
    return pd.DataFrame(columns)
