"""Retrain from fresh weights on all labelled rows, with the settings of a finished run, up to its best epoch.

The learning rate follows the same schedule as in the run: what was validated is what is repeated, with more images.

Reads   runs/<c>/<run>/run.json and train.json, data/<c>/split.csv and its images.
Writes  runs/<c>/<run>/final.pt, retrain_history.csv, retrain.json.

It claims no validation score: every labelled row is learned from.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines import command

if TYPE_CHECKING:
    from pipelines.settings.layout import Layout, RunLayout
    from pipelines.settings.schema import Settings


def main(arguments: Sequence[str] | None = None) -> None:
    words = command.parser(__doc__, "retrain").parse_args(arguments, namespace=command.Words())
    from pipelines.settings.records import finished_run

    layout = words.layout()
    run, record, trained = finished_run(layout, words.run_name(), words.settings(), words.repeat("train"))
    with words.only_one_in(run):
        _retrain(words, layout, run, record.settings, trained["best_epoch"])


def _retrain(words: command.Words, layout: "Layout", run: "RunLayout", settings: "Settings", epochs: int) -> None:
    shown = run.folder.relative_to(Path.cwd())
    if run.retrained.exists() and run.final.exists():
        run.retrain_last.unlink(missing_ok=True)  # left by a process that was killed when all else was done
        print(f"Already retrained: {shown / run.final.name}.")
        again = " ".join(str(shown / path.name) for path in (run.retrained, run.final))
        print(f"To do it again: rm {again}    Next: {words.repeat('predict')}")
        return

    import pandas as pd

    from pipelines.core import checkpoint, training
    from pipelines.dataset.splits import read_split_csv
    from pipelines.models.device import choose_hardware
    from pipelines.models.transfer import build_network, find_origins
    from pipelines.system.files import write_json

    settings, reason = training.settle_precision(settings, run.precision)
    classes = checkpoint.load(run.best).classes
    table = read_split_csv(layout.split_csv, words.repeat("split"))
    rows = pd.concat(training.divide_rows(table, settings)).sort_index()
    print(
        f"{settings.name}, run {run.folder.name}: {len(rows):,} images to learn from, train and valid together; "
        f"{epochs} epochs, as its best; {choose_hardware(settings.hardware)}{reason}"
    )
    if run.retrained.exists():  # its weights were removed, to be made anew
        run.retrain_last.unlink(missing_ok=True)
        run.retrained.unlink()
    job = training.Job(settings, classes, table, rows, None, epochs, layout, run.retrain_last, run.retrain_history)
    network = build_network(settings, classes, find_origins(settings.model, layout.weights))
    if counts := training.prepare_features(job, network, command.progress):
        print(f"Features: {counts}")
    new = training.run_job(job, network, command.progress)
    earlier, head_epochs = training.read_history(job), settings.tuning.head_epochs
    history = command.print_epochs(new, earlier, epochs, settings.competition.metric, head_epochs)
    checkpoint.save(run.final, checkpoint.finished(checkpoint.load(run.retrain_last)))
    seconds = sum(row["seconds"] for row in history)
    write_json(run.retrained, {"epochs": epochs, "train_images": len(rows), "seconds": seconds})
    run.retrain_last.unlink()  # last: whoever is killed before goes on from it
    print(f"Final weights: {shown / run.final.name}. No score is claimed for them: they have learned from valid too.")
    print(f"Next: {words.repeat('predict')}")


if __name__ == "__main__":
    sys.exit(command.run(main))
