"""Try settings of the head on cached features, in seconds each, and print which did best.

Reads   data/<c>/split.csv, and the features of its labelled images (computed first where they are not cached).
Writes  runs/<c>/<run>-sweep.csv (a row per trial) and <run>-sweep.toml (the settings of the best one).

Every trial trains on the training set and is scored on the validation set, as `predict` would score its best epoch.
The best of many scores is slightly too good; only other images can show by how much.
"""

import dataclasses
import shlex
import sys
import time
import tomllib
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines import command
from pipelines.dataset.split_record import require_split
from pipelines.settings.loading import load_settings, recipe_names
from pipelines.settings.metrics import BOXES, NUMBERS, ONE_CLASS, badness
from pipelines.settings.overrides import setting, toml
from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError
from pipelines.system.files import atomic_file, write_text
from pipelines.system.watch import unwatched

if TYPE_CHECKING:
    from pipelines.core.job import Job
    from pipelines.dataset.image_set import ImageSet
    from pipelines.models.weights import Origin

LR_FACTORS = (1 / 3, 1.0, 3.0)  # times the recipe's own rate, where no values are given
DROPOUTS = (0.0, 0.5)
PENALTIES = (10.0, 1.0, 0.1, 0.01, 0.001)  # of lbfgs, whose rate is always 1
OTHER_HEADS = "train.search=false train.optimizer=adamw train.lr=1e-3 train.epochs=20"
NOT_TRIED = ("limit", "fold", "patience")  # these choose the rows, or are for long runs
REGULARISATION = 0.01  # C of the logistic regression on standardised features, and 1 / alpha of the ridge regression
MOST_CLASSES = 1000  # of these regressions; more would take too long
LEAST = 1e-15  # probability of a class without training images
MODEL_KEYS = ("dropout", "hidden", "features", "label_map")  # keys that do not change the features

Row = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = command.parser(__doc__, "tools.sweep")
    parser.add_argument(
        "--try",
        nargs="+",
        default=[],
        action=command.SettingsAction,
        const="TRY",
        dest="tries",
        metavar="KEY=A,B",
        help="values to try, in all combinations: train.lr=1e-3,3e-4 model.hidden=[],[256]; default: lr, dropout "
        "(lbfgs: weight_decay)",
    )
    words = parser.parse_args(arguments, namespace=command.Words())
    settings, layout = words.settings(), words.layout()
    _require_heads(words, settings)
    tried = _values(words.tries, settings)
    combinations = [dict(zip(tried, values, strict=True)) for values in product(*tried.values())]
    trials = [(each, _settings(words, each)) for each in combinations]  # first: mistakes show before work starts

    from pipelines.core import job as jobs
    from pipelines.dataset.image_set import open_images
    from pipelines.dataset.splits import read_split_csv
    from pipelines.models.building import build_network
    from pipelines.models.device import choose_hardware
    from pipelines.models.transfer import FineTuned
    from pipelines.models.weights import find_origins, resolve

    table = read_split_csv(layout.split_csv, words.repeat("split"))
    words.require_raw(layout)
    require_split(layout, settings, words.repeat("split"))
    found = find_origins(settings.model, layout.weights, watch=command.progress)
    settings = resolve(settings, found)
    train, valid = open_images(settings, layout, table, words.repeat("split")).divide(settings)
    run, hardware = layout.run(words.run_name()), choose_hardware(settings.hardware)
    job = jobs.Job(settings, train, valid, settings.train.epochs, run.training, hardware, command.progress)
    network = build_network(settings, train.classes, found)
    if isinstance(network, FineTuned):
        print("".join(f"{note}\n" for note in network.notes()), end="")
    print(f"Features: {jobs.prepare_features(job, network)}")
    rows, diverged = _try_all(dataclasses.replace(job, watch=unwatched), found, trials)
    _print(job, found, rows, diverged, list(tried))
    print(f"Heads tried: {len(trials)}, on {len(train):,} training images; scored on {len(valid):,} validation images.")
    path = run.folder.with_name(f"{run.folder.name}-sweep.csv")
    _write(path, rows, list(tried))
    print(f"Settings of the best: {path.stem}.toml, beside the table {path.name}.")
    best = words.plus(*(setting(key, rows[0][key]) for key in tried))
    print(f"Next: {best.repeat('train')}")


def _require_heads(words: command.Words, settings: Settings) -> None:
    """Raise `UserError` if the recipe trains no head on cached features, or chooses one by itself."""
    if settings.competition.task == BOXES:
        raise UserError(
            f"{settings.name}: a sweep tries heads on cached features, which a detector has not. To try settings, "
            f"write them as recipes, and compare these: {words.repeat('compare', RECIPES='default other')}"
        )
    if not settings.trains_on_cache:
        names = recipe_names(words.competition)
        fit = [name for name in names if load_settings(words.competition, name).trains_on_cache]
        raise UserError(
            f"{settings.name}, recipe {settings.recipe}: a sweep tries heads on cached features. It needs a recipe "
            "with model.weights, finetune.frozen_stages = -1 and features.cached = true"
            f"{': RECIPE=' if fit else ''}{' or '.join(map(shlex.quote, fit))}."
        )
    if settings.train.search:
        raise UserError(
            f"{settings.name}, recipe {settings.recipe}: train.search chooses the head, in {words.repeat('train')}. To "
            f"compare other heads, add to SET=: {OTHER_HEADS}"
        )


def _try_all(job: "Job", found: "list[Origin]", trials: list[tuple[Row, Settings]]) -> tuple[list[Row], list[Row]]:
    """Train a head for each trial.  Return a row per trial, best first, and the changes of those that diverged.

    trials: the changed keys, and the settings with these changes.
    """
    from pipelines.core.engine import Diverged
    from pipelines.core.job import try_out
    from pipelines.models.building import build_network
    from pipelines.models.weights import resolve

    metric = job.settings.competition.metric
    rows, diverged = [], []
    for changes, settings in command.progress(trials, "trying", len(trials), "heads"):
        started = time.perf_counter()
        trial = dataclasses.replace(job, settings=resolve(settings, found), epochs=settings.train.epochs)
        try:
            best = try_out(trial, build_network(trial.settings, job.train.classes, found))
        except Diverged:
            diverged.append(changes)
            continue
        seconds = time.perf_counter() - started
        rows.append({**changes, metric: best[metric], "epoch": best["epoch"], "seconds": seconds})
    if not rows:
        raise UserError("The loss of every head became infinite or NaN. Try lower rates: TRY=train.lr=1e-4,1e-3")
    return sorted(rows, key=lambda row: badness(row[metric], metric)), diverged


def _print(job: "Job", found: "list[Origin]", rows: list[Row], diverged: list[Row], tried: list[str]) -> None:
    """Print the trials as a table, with a regression by scikit-learn as the last row."""
    metric = job.settings.competition.metric
    started = time.perf_counter()
    name, check = _regression(job, found)
    seconds = time.perf_counter() - started
    cells: list[tuple[object, ...]] = [
        (*(_shown(key, row) for key in tried), f"{row[metric]:.4f}", row["epoch"], f"{row['seconds']:.1f}")
        for row in rows
    ]
    cells += [(*(_shown(key, changes) for key in tried), "diverged", "-", "-") for changes in diverged]
    blanks = [f"{name}, scikit-learn (centre view)", *[""] * (len(tried) - 1)]
    cells.append((*blanks, "too many classes" if check is None else f"{check:.4f}", "-", f"{seconds:.1f}"))
    print(command.table((*tried, f"valid {metric}", "epoch", "seconds"), cells))


def _shown(key: str, row: Row) -> str:
    """Return the value of `key` in `row` as SET= takes it."""
    return setting(key, row[key]).partition("=")[2]


def _values(tries: Sequence[str], settings: Settings) -> dict[str, list[Any]]:
    """Return the values to try for each setting."""
    if not tries and settings.train.optimizer == "lbfgs":
        return {"train.weight_decay": list(PENALTIES)}
    if not tries:
        rates = [float(f"{settings.train.lr * factor:.2g}") for factor in LR_FACTORS]
        return {"train.lr": rates, "model.dropout": sorted({*DROPOUTS, settings.model.dropout})}
    values: dict[str, list[Any]] = {}
    for text in tries:
        key, _, listed = text.partition("=")
        section, _, name = key.partition(".")
        if not listed or not {"model": name in MODEL_KEYS, "train": name not in NOT_TRIED}.get(section, False):
            raise UserError(
                f"TRY {text!r} is not of the form section.key=value,value, such as train.lr=1e-3,3e-4. A sweep accepts "
                f"the keys of [train] except {', '.join(NOT_TRIED)}, and model.{', model.'.join(MODEL_KEYS)}."
            )
        try:
            values[key] = tomllib.loads(f"values = [{listed}]")["values"]
        except tomllib.TOMLDecodeError:
            values[key] = [each.strip() for each in listed.split(",")]
    return values


def _settings(words: command.Words, changes: dict[str, Any]) -> Settings:
    """Return the settings of one trial.  A head of another shape cannot start from a label map, so it gets none."""
    shaped = changes.get("model.hidden") or changes.get("model.features", "pooled") != "pooled"
    changes = {"model.label_map": ""} | changes if shaped else changes
    overrides = [setting(key, value) for key, value in changes.items()]
    return load_settings(words.competition, words.recipe, [*words.set, *overrides])


def _regression(job: "Job", found: "list[Origin]") -> tuple[str, float | None]:
    """Return the name and the score of a linear model of scikit-learn on the features of the centre view.

    A linear head should come close to it.  None: too many classes for it.  One class: multinomial logistic regression;
    several labels: one for each label; numbers: ridge regression, for each number on the rows that have it.
    """
    import numpy as np
    import torch
    from sklearn.preprocessing import StandardScaler

    from pipelines.models.building import build_network

    assert job.valid is not None
    name = "ridge regression" if job.train.task == NUMBERS else "logistic regression"
    if len(job.train.classes) > MOST_CLASSES:
        return name, None
    sources = job.sources(build_network(job.settings, job.train.classes, found))

    def centre(images: "ImageSet") -> Any:
        count = len(images)
        return sources.features(images).take(np.arange(count), np.zeros(count, dtype=np.int64)).numpy()

    scaler = StandardScaler().fit(centre(job.train))
    features, inputs = (scaler.transform(centre(images)) for images in (job.train, job.valid))
    predictions = torch.from_numpy(fit_linear(job.train, features, inputs))
    judge = job.judge()
    return name, judge.score_alone(judge.keep(predictions), job.valid.labels)


def fit_linear(train: "ImageSet", features: Any, inputs: Any) -> Any:
    """Return the predictions for `inputs` of a linear model of the targets of `train`, as `Task.merge` returns them."""
    import numpy as np
    from sklearn.linear_model import LogisticRegression, Ridge

    targets, classes = train.labels, len(train.classes)
    logistic = LogisticRegression(C=REGULARISATION, max_iter=300, tol=1e-3)
    if train.task == ONE_CLASS:
        logistic.fit(features, targets)
        probabilities = np.full((len(inputs), classes), LEAST)
        probabilities[:, logistic.classes_] = logistic.predict_proba(inputs)
        return np.log(probabilities)
    columns = []
    for column in targets.T:
        known = np.isfinite(column)
        if train.task == NUMBERS:
            model = Ridge(1 / REGULARISATION).fit(features[known], column[known])
            columns.append(model.predict(inputs))
        elif column.min() == column.max():  # a label that all training images have, or none
            columns.append(np.full(len(inputs), column[0]))
        else:
            columns.append(logistic.fit(features, column).predict_proba(inputs)[:, 1])
    return np.stack(columns, axis=1)


def _write(path: Path, rows: list[Row], tried: list[str]) -> None:
    """Write the trials, best first, as a CSV, and the settings of the best one as TOML beside it."""
    import pandas as pd

    from pipelines.dataset.tables import spreadsheet_safe

    table = pd.DataFrame(rows).map(lambda value: spreadsheet_safe(value) if isinstance(value, str) else value)
    with atomic_file(path) as partial:
        table.to_csv(partial, index=False, lineterminator="\n")
    lines = [f"{key} = {toml(rows[0][key])}" for key in tried]
    write_text(path.with_suffix(".toml"), "\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(command.run(main))
