"""Retrain from fresh weights on all labelled rows, with the settings of a finished run, up to its best epoch.

The learning rate follows the schedule of the run, so the validated training is repeated with more images.

Reads   runs/<c>/<run>/run.json and train.json, data/<c>/split.csv and its images.
Writes  runs/<c>/<run>/final.pt, retrain_history.csv, retrain.json; tensorboard/retrain/ (with train.tensorboard).

There is no validation score: the validation rows are trained on too.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines import command
from pipelines.core.events import event_log, require_tensorboard
from pipelines.dataset.split_record import check_unchanged
from pipelines.settings.layout import RunLayout
from pipelines.settings.records import finished_run, in_todays_words
from pipelines.settings.schema import Settings
from pipelines.system.files import write_json
from pipelines.system.group import ALONE, Group
from pipelines.system.shell import removal
from pipelines.tools.epoch_table import train_and_show
from pipelines.tools.reporting import refresh


def main(arguments: Sequence[str] | None = None, group: Group = ALONE) -> None:
    words = command.parser(__doc__, "retrain").parse_args(arguments, namespace=command.Words(processes=group.nproc))
    layout = words.layout()
    run, record, trained = finished_run(layout, words.run_name(), words.settings(), words.repeat)
    words.require_raw(layout)
    require_tensorboard(record.settings)
    settings = in_todays_words(run, record.settings, words.settings())
    if note := check_unchanged(layout, settings, words.repeat("split"), "labelled"):
        print(note)
    with words.only_one_in(run):
        final = run.final.relative_to(Path.cwd())
        if run.retrained.exists() and run.final.exists():
            run.retrain_last.unlink(missing_ok=True)  # left by a process that was killed after everything else was done
            print(f"Already retrained: {final}.")
            refresh(words)
            print(f"To do it again: {removal(run.retrained, run.final)}\nNext: {words.repeat('predict')}")
            return
        best = run.member(record.members[0]).best if record.members else run.best
        _retrain(words, settings, trained, run, best, group)
    print(f"Final weights: {final}. No validation score: final.pt was trained on the validation rows too.")
    print(f"Look at: {run.retrain_history.relative_to(Path.cwd())}")
    refresh(words)
    print(f"Next: {words.repeat('predict')}")


def _retrain(
    words: command.Words, settings: Settings, trained: dict[str, Any], run: RunLayout, best: Path, group: Group
) -> None:
    """Train the final weights of `run`.  best: a validated checkpoint of it, which knows the classes."""
    import pandas as pd

    from pipelines.core import checkpoint
    from pipelines.core import job as jobs
    from pipelines.core.precision import settle_precision
    from pipelines.dataset.fingerprints import note_changed_pixels
    from pipelines.dataset.image_set import all_images
    from pipelines.dataset.splits import read_split_csv
    from pipelines.models.anchors import with_anchors
    from pipelines.models.building import build_network
    from pipelines.models.device import choose_hardware
    from pipelines.models.weights import find_origins

    layout, split_command = words.layout(), words.repeat("split")
    settings, reason = settle_precision(settings, run.precision)
    hardware = choose_hardware(settings.hardware, group)
    table = read_split_csv(layout.split_csv, split_command)
    images = all_images(settings, layout, table, split_command, checkpoint.load(best).classes)
    if note := note_changed_pixels(trained, images, run.folder.name, command.progress):
        print(note)
    epochs, which = trained["best_epoch"], "the best one" if best == run.best else "the mean best one of the members"
    images = images.select(pd.concat([part.rows for part in images.divide(settings)]).sort_index())
    print(
        f"{settings.name}, run {run.folder.name}: {len(images):,} training images, train and valid together; {epochs} "
        f"epochs, up to {which}; {hardware}{reason}"
    )
    settings = with_anchors(settings, images)  # of a fold set: its members have each their own
    if run.retrained.exists():  # its weights were removed, to retrain
        run.retrain_last.unlink(missing_ok=True)
        run.retrained.unlink()
    job = jobs.Job(settings, images, None, epochs, run.retraining, hardware, command.progress)
    network = build_network(settings, images.classes, find_origins(settings.model, layout.weights))
    if counts := jobs.prepare_features(job, network, group):
        print(f"Features: {counts}")
    with event_log(run.events / "retrain", settings.train.tensorboard) as log:
        history = train_and_show(job, network, group, log)
    checkpoint.save(run.final, checkpoint.finished(checkpoint.load(run.retrain_last)))
    seconds = sum(row["seconds"] for row in history)
    write_json(run.retrained, {"epochs": epochs, "train_images": len(images), "seconds": seconds})
    run.retrain_last.unlink()  # last: a process that is killed before continues from it


if __name__ == "__main__":
    sys.exit(command.run(main, shared=True))
