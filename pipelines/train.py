"""Train on the train rows and validate on the valid rows after each epoch.

Reads   data/<c>/split.csv and the images it lists; weights/, where pretrained weights are kept.
Writes  runs/<c>/<run>/: run.json (settings), history.csv (a row an epoch), best.pt, last.pt, curves.png, train.json,
        precision.json (where both precisions were tried);
        data/<c>/cache/: decoded images, or the features of a frozen network.

Killed at any moment, the same command goes on after the last whole epoch.
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines import command
from pipelines.system.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from pipelines.settings.layout import Layout, RunLayout
    from pipelines.settings.schema import Settings


def main(arguments: Sequence[str] | None = None) -> None:
    words = command.parser(__doc__, "train").parse_args(arguments, namespace=command.Words())
    settings, layout = words.settings(), words.layout()

    from pipelines.dataset.splits import read_split_csv
    from pipelines.settings.records import split_is_made

    table = read_split_csv(layout.split_csv, words.repeat("split"))
    if not split_is_made(layout, settings):
        raise UserError(f"{layout.split_csv} is not finished. First: {words.repeat('split')}")
    run = layout.run(words.run_name())
    with words.only_one_in(run):
        _train(words, settings, table, layout, run)


def _train(
    words: command.Words, settings: "Settings", table: "pd.DataFrame", layout: "Layout", run: "RunLayout"
) -> None:
    from pipelines.settings.records import read_record, start_run, with_weights_of

    shown = run.folder.relative_to(Path.cwd())
    found = []
    if settings.model.weights and run.trained.exists():
        settings = with_weights_of(settings, read_record(run).settings)
    elif settings.model.weights:
        from pipelines.models.transfer import find_origins, resolve

        found = find_origins(settings.model, layout.weights, watch=command.progress)
        settings = resolve(settings, found)
    start_run(run, settings, layout.split_csv)
    metric = settings.competition.metric
    if run.trained.exists():
        from pipelines.system.files import read_note

        note = read_note(run.trained)
        print(f"Already trained: {shown}, valid {metric} {note['score']:.4f} in epoch {note['best_epoch']}.")
        print(f"To do it again: rm -r {shown}    Next: {words.repeat('retrain')}")
        return

    from pipelines.analysis import plots
    from pipelines.core import training
    from pipelines.dataset.submission import class_list
    from pipelines.models.device import choose_hardware
    from pipelines.models.networks import check_model
    from pipelines.models.transfer import build_network
    from pipelines.system.files import write_json

    labelled = table[table["split"] != "test"]
    classes = class_list(labelled["label"].tolist(), settings, layout.raw)
    train_rows, valid_rows = training.divide_rows(table, settings)
    network = build_network(settings, classes, found)
    parameters = check_model(network, settings.model.name, settings.input.size, settings.augment.sizes)
    settings, reason = training.settle_precision(settings, run.precision, network, len(train_rows))
    hardware = choose_hardware(settings.hardware)
    print(
        f"{settings.name}, run {run.folder.name}: {len(train_rows):,} images to learn from, {len(valid_rows):,} to "
        f"validate on, {len(classes)} classes; {settings.model.name}, {parameters:,} parameters; {hardware}{reason}"
    )
    command.print_parts(training.describe_phases(settings, network))
    if matched := training.outputs_started(network):
        print(f"Label map: {matched} of {len(classes)} outputs start from the pretrained network's own.")
    job = training.Job(
        settings,
        classes,
        table,
        train_rows,
        valid_rows,
        settings.train.epochs,
        layout,
        run.last,
        run.history,
        run.best,
    )
    training.check_test_photos(settings, table, layout, command.progress)
    started = time.perf_counter()
    if counts := training.prepare_features(job, network, command.progress):
        print(f"Features: {counts}")
    features_seconds = time.perf_counter() - started
    new = training.run_job(job, network, command.progress)
    head_epochs = settings.tuning.head_epochs
    rows = command.print_epochs(new, training.read_history(job), job.epochs, metric, head_epochs)
    best = training.best_row(rows, metric)
    title = f"{settings.name}, run {run.folder.name}"
    plots.draw_curves(run.curves, rows, metric, best["epoch"], title)
    bounds = tuple(best.get(column) for column in training.interval_columns(metric))
    note = {
        "best_epoch": best["epoch"],
        "epochs": len(rows),
        "metric": metric,
        "score": best[metric],
        "interval": list(bounds),
        "train_images": len(train_rows),
        "valid_images": len(valid_rows),
        "seconds": sum(row["seconds"] for row in rows),
        "features_seconds": features_seconds,
        "hardware": hardware.record(),
    }
    write_json(run.trained, note)
    stopped = f"; stopped early after {len(rows)}" if len(rows) < settings.train.epochs else ""
    sure = command.uncertainty(bounds, len(valid_rows))
    print(f"Best: valid {metric} {best[metric]:.4f}{sure} in epoch {best['epoch']}{stopped}.")
    print(f"Curves: {shown / run.curves.name}")
    print(f"Next: {words.repeat('retrain')}")


if __name__ == "__main__":
    sys.exit(command.run(main))
