"""Try settings of the head on cached features, seconds each, and say which did best.

Reads   data/<c>/split.csv, and the features of its labelled images (computed first, where they are not kept yet).
Writes  runs/<c>/<run>-sweep.csv (a row a trial) and <run>-sweep.toml (the best one's settings).

Every trial learns from the train rows and is scored on the valid rows, as `predict` would score its best epoch.  The
best of many scores is a little better than it deserves: only other images can tell by how much.
"""

import dataclasses
import sys
import time
import tomllib
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines import command
from pipelines.settings.loading import load_settings
from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError

if TYPE_CHECKING:
    from pipelines.core.training import Job

LR_FACTORS = (1 / 3, 1.0, 3.0)  # around the recipe's own, where no values are named
DROPOUTS = (0.0, 0.5)
NOT_TRIED = ("limit", "fold", "patience")  # these choose the rows, or are for long runs
REGULARISATION = 0.01  # C of the logistic regression on standardised features
MODEL_KEYS = ("dropout", "hidden", "features", "label_map")  # what does not change the features themselves


class Words(command.Words):
    """What the person typed."""

    tries: list[str]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = command.parser(__doc__, "tools.sweep")
    parser.add_argument(
        "--try",
        nargs="+",
        default=[],
        action="extend",
        dest="tries",
        metavar="KEY=A,B",
        help="values to try, all combinations: train.lr=1e-3,3e-4 model.hidden=[],[256]; default: lr and dropout",
    )
    words = parser.parse_args(arguments, namespace=Words())
    settings, layout = words.settings(), words.layout()
    from pipelines.dataset.splits import read_split_csv
    from pipelines.models.transfer import WHOLE, build_network, find_origins, resolve
    from pipelines.settings.records import split_is_made

    if settings.tuning.frozen_stages != WHOLE or not settings.features.cached:
        raise UserError(
            f"{settings.name}, recipe {settings.recipe}: a sweep tries heads on cached features; it takes a recipe "
            "with model.weights, finetune.frozen_stages = -1 and features.cached = true."
        )
    tried = _values(words.tries, settings)
    combinations = [dict(zip(tried, values, strict=True)) for values in product(*tried.values())]
    asked = [_settings(words, changes) for changes in combinations]  # now, so that a mistake shows before anything runs
    table = read_split_csv(layout.split_csv, words.repeat("split"))
    if not split_is_made(layout, settings):
        raise UserError(f"{layout.split_csv} is not finished. First: {words.repeat('split')}")

    from pipelines.core import training
    from pipelines.core.engine import Diverged
    from pipelines.dataset.submission import class_list

    found = find_origins(settings.model, layout.weights, watch=command.progress)
    settings = resolve(settings, found)
    labelled = table[table["split"] != "test"]
    classes = class_list(labelled["label"].tolist(), settings, layout.raw)
    train_rows, valid_rows = training.divide_rows(table, settings)
    run = layout.run(words.run_name())
    job = training.Job(
        settings, classes, table, train_rows, valid_rows, settings.train.epochs, layout, run.last, run.history
    )
    print(f"Features: {training.prepare_features(job, build_network(settings, classes, found), command.progress)}")

    metric = settings.competition.metric
    rows: list[dict[str, Any]] = []
    diverged = []
    pairs = list(zip(combinations, asked, strict=True))
    for changes, wanted in command.progress(pairs, "trying", len(pairs), "heads"):
        started = time.perf_counter()
        trial = dataclasses.replace(job, settings=resolve(wanted, found), epochs=wanted.train.epochs)
        try:
            best = training.try_out(trial, build_network(trial.settings, classes, found))
        except Diverged:
            diverged.append(changes)
            continue
        rows.append({**changes, metric: best[metric], "epoch": best["epoch"], "seconds": time.perf_counter() - started})
    if not rows:
        raise UserError("The loss of every head stopped being a finite number. Try lower rates: TRY=train.lr=1e-4,1e-3")
    started = time.perf_counter()
    score = _logistic_regression(job, found)
    check = {metric: score, "epoch": "-", "seconds": time.perf_counter() - started}

    rows.sort(key=lambda row: training.badness(row[metric], metric))
    headings = (*tried, f"valid {metric}", "epoch", "seconds")
    cells = [
        (*(_toml(row[key]) for key in tried), f"{row[metric]:.4f}", row["epoch"], f"{row['seconds']:.1f}")
        for row in rows
    ]
    cells += [(*(_toml(changes[key]) for key in tried), "diverged", "-", "-") for changes in diverged]
    blanks = ["logistic regression, scikit-learn (centre view)", *[""] * (len(tried) - 1)]
    cells.append((*blanks, f"{check[metric]:.4f}", check["epoch"], f"{check['seconds']:.1f}"))
    print(command.table(headings, cells))
    print(f"Heads tried: {len(pairs)}, on {len(train_rows):,} images; scored on {len(valid_rows):,} others.")
    _write(run.folder.with_name(f"{run.folder.name}-sweep.csv"), rows, tried)
    best_settings = " ".join(f"{key}={_toml(rows[0][key])}" for key in tried)
    print(f"The best, as settings: {run.folder.name}-sweep.toml beside its table, {run.folder.name}-sweep.csv.")
    words.set = [*words.set, *best_settings.split()]
    print(f"Next: {words.repeat('train')}")


def _values(tries: Sequence[str], settings: Settings) -> dict[str, list[Any]]:
    """Return the values to try of each setting."""
    if not tries:
        lr = settings.train.lr
        dropouts = sorted({*DROPOUTS, settings.model.dropout})
        return {"train.lr": [float(f"{lr * factor:.2g}") for factor in LR_FACTORS], "model.dropout": dropouts}
    values: dict[str, list[Any]] = {}
    for text in tries:
        key, _, listed = text.partition("=")
        section, _, name = key.partition(".")
        known = {"model": name in MODEL_KEYS, "train": name not in NOT_TRIED}
        if not listed or not known.get(section, False):
            raise UserError(
                f"TRY {text!r} is not of the form section.key=value,value, such as train.lr=1e-3,3e-4. A sweep tries "
                f"heads: the section is train (but for {', '.join(NOT_TRIED)}), or the key one of "
                f"{', '.join(f'model.{each}' for each in MODEL_KEYS)}."
            )
        try:
            values[key] = tomllib.loads(f"values = [{listed}]")["values"]
        except tomllib.TOMLDecodeError:
            values[key] = listed.split(",")
    return values


def _settings(words: Words, changes: dict[str, Any]) -> Settings:
    """Return the settings of one trial; a head that cannot start from a label map does without."""
    shaped = changes.get("model.hidden") or changes.get("model.features", "pooled") != "pooled"
    changes = {"model.label_map": ""} | changes if shaped else changes
    overrides = [f"{key}={_toml(value)}" for key, value in changes.items()]
    return load_settings(words.competition, words.recipe, [*words.set, *overrides])


def _toml(value: Any) -> str:
    """Return `value` as --set takes it, without spaces."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value).replace(" ", "")


def _logistic_regression(job: "Job", found: Any) -> float:
    """Return the score of scikit-learn's multinomial logistic regression on the centre view's features: what a linear
    head should come near to."""
    import numpy as np
    import torch
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from pipelines.core import training
    from pipelines.core.metrics import METRICS
    from pipelines.dataset.batches import labels_of
    from pipelines.models.device import choose_hardware
    from pipelines.models.transfer import build_network

    assert job.valid is not None
    network = build_network(job.settings, job.classes, found)
    hardware = choose_hardware(job.settings.hardware)

    def centre(rows: Any) -> Any:
        features = training.open_features(job.settings, rows, job.table, job.layout, network, hardware)
        count = len(rows)
        return features.take(np.arange(count), np.zeros(count, dtype=np.int64)).numpy()

    model = make_pipeline(StandardScaler(), LogisticRegression(C=REGULARISATION, max_iter=300, tol=1e-3))
    model.fit(centre(job.train), labels_of(job.train, job.classes).numpy())
    probabilities = np.full((len(job.valid), len(job.classes)), 1e-15)
    probabilities[:, model.classes_] = model.predict_proba(centre(job.valid))
    metric = METRICS[job.settings.competition.metric]
    return metric.value(metric.sums(torch.from_numpy(probabilities), labels_of(job.valid, job.classes)))


def _write(path: Path, rows: list[dict[str, Any]], tried: dict[str, list[Any]]) -> None:
    """Write the trials, best first, as a CSV, and the best one's settings as TOML beside it."""
    import json

    import pandas as pd

    from pipelines.dataset.tables import spreadsheet_safe
    from pipelines.system.files import atomic_file, write_text

    def safe(value: Any) -> Any:
        return spreadsheet_safe(value) if isinstance(value, str) else value

    with atomic_file(path) as partial:
        pd.DataFrame([{key: safe(value) for key, value in row.items()} for row in rows]).to_csv(
            partial, index=False, lineterminator="\n"
        )
    lines = [f"{key} = {json.dumps(rows[0][key])}" for key in tried]  # of numbers, texts, lists, JSON is TOML
    write_text(path.with_suffix(".toml"), "\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(command.run(main))
