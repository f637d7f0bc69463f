"""Train on the training set and validate after each epoch.

Reads   data/<c>/split.csv and its images; weights/, the folder of pretrained weights.
Writes  runs/<c>/<run>/: run.json (settings), history.csv (a row per epoch), best.pt, last.pt, curves.png, train.json,
        precision.json (where faster ways were measured), search.csv (where train.search tried heads),
        tensorboard/train/ (event files, with train.tensorboard);
        data/<c>/cache/: decoded images, or the features of a frozen network;
        data/<c>/damaged.csv: images that cannot be decoded, if there are any.

If it is killed, the same command continues after the last complete epoch.
"""

import argparse
import dataclasses
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines import command
from pipelines.core.events import event_log, require_tensorboard
from pipelines.dataset.split_record import require_split
from pipelines.models.run_weights import with_weights
from pipelines.settings.checks import no_effect
from pipelines.settings.layout import RunLayout
from pipelines.settings.metrics import BOXES
from pipelines.settings.records import start_run, with_head_of
from pipelines.settings.schema import Settings
from pipelines.system.errors import printable
from pipelines.system.files import read_note, write_json
from pipelines.system.group import ALONE, Group
from pipelines.system.shell import removal
from pipelines.tools.epoch_table import Row, Seen, train_and_show
from pipelines.tools.reporting import refresh

if TYPE_CHECKING:
    from pipelines.core.job import Job
    from pipelines.dataset.image_set import ImageSet
    from pipelines.models.transfer import FineTuned
    from pipelines.models.weights import Origin

WORDS = {  # what the classes of a task are called, one and several
    "one_class": ("class", "classes"),
    "several_labels": ("label", "labels"),
    "numbers": ("number", "numbers"),
    "boxes": ("class of boxes", "classes of boxes"),
}


def main(arguments: Sequence[str] | None = None, group: Group = ALONE) -> None:
    parser = command.parser(__doc__, "train")
    parser.add_argument("--member", default="", help=argparse.SUPPRESS)  # of the fold set --run; the tool folds sets it
    words = parser.parse_args(arguments, namespace=command.Words(processes=group.nproc))
    settings, layout = words.settings(), words.layout()
    require_tensorboard(settings)
    from pipelines.dataset.image_set import open_images
    from pipelines.dataset.splits import read_split_csv
    from pipelines.models.anchors import with_anchors

    table = read_split_csv(layout.split_csv, words.repeat("split"))
    words.require_raw(layout)
    require_split(layout, settings, words.repeat("split"))
    run, after = layout.run(words.run_name(), words.member), "" if words.member else f"Next: {words.repeat('retrain')}"
    for _, problem in no_effect(settings):  # SET= has shortened the training
        print(f"Note: {problem}")
    with words.only_one_in(run):
        settings, found = with_weights(settings, run, layout.weights, command.progress)
        images = None
        if settings.competition.task == BOXES:
            images = open_images(settings, layout, table, words.repeat("split"))
            settings = with_anchors(settings, images.divide(settings)[0])
        settings = start_run(run, with_head_of(run, settings), layout.split_csv)
        if run.trained.exists():
            note, shown = read_note(run.trained), run.folder.relative_to(Path.cwd())
            metric = settings.competition.metric
            print(f"Already trained: {shown}, valid {metric} {note['score']:.4f} in epoch {note['best_epoch']}.")
            if not words.member:
                refresh(words)
            print(f"To do it again: {removal(run.folder)}", after, sep="\n")
            return
        if images is None:
            images = open_images(settings, layout, table, words.repeat("split"))
        _train(settings, images, run, found, group)
    if not words.member:
        refresh(words)
    print(after)


def _train(settings: Settings, images: "ImageSet", run: RunLayout, found: "list[Origin]", group: Group) -> None:
    from pipelines.analysis.redrawing import Redrawn
    from pipelines.core import job as jobs
    from pipelines.core.phases import describe_phases
    from pipelines.core.precision import settle_precision
    from pipelines.dataset.batches import check_images
    from pipelines.dataset.fingerprints import images_digest
    from pipelines.dataset.understood import summarise
    from pipelines.models.building import build_network
    from pipelines.models.device import choose_hardware
    from pipelines.models.networks import check_model
    from pipelines.models.transfer import FineTuned

    train, valid = images.divide(settings)
    network = build_network(settings, images.classes, found)
    shape = settings.input.size, settings.augment.sizes, settings.input.channels
    parameters = check_model(network, settings.model.name, *shape)
    settings, reason = settle_precision(settings, run.precision, network, len(train))
    hardware = choose_hardware(settings.hardware, group)
    count = len(images.classes)
    print(
        f"{settings.name}, run {run.folder.name}: {len(train):,} training images, {len(valid):,} validation images, "
        f"{count} {WORDS[images.task][count != 1]}; {settings.model.name}, {parameters:,} parameters; "
        f"{hardware}{reason}"
    )
    print(summarise(images.rows["label"].tolist(), images.task, images.classes))
    if not settings.train.search:
        command.print_parts(describe_phases(settings, network))
    if isinstance(network, FineTuned):
        print("".join(f"{note}\n" for note in network.notes()), end="")
    job = jobs.Job(settings, train, valid, settings.train.epochs, run.training, hardware, command.progress)
    job.task()  # mistakes in its settings, and in those of the judge, show before images are decoded
    for note in job.judge().notes_before(valid.labels):
        print(f"Note: scores of the validation images: {printable(note)}")
    check_images(settings, images, command.progress)  # now, not after all the training
    if note := images.note_whites():
        print(note)
    pixels = images_digest(images, command.progress, test=False)
    started = time.perf_counter()
    if counts := jobs.prepare_features(job, network, group):
        print(f"Features: {counts}")
    features_seconds = time.perf_counter() - started
    if settings.train.search and isinstance(network, FineTuned):
        with group.idle():
            job = _choose_head(job, network, run)
        settings = job.settings
        command.print_parts(describe_phases(settings, network))
    draw = _curves(job, run)
    with event_log(run.events / "train", settings.train.tensorboard) as log:
        rows = train_and_show(job, network, group, Redrawn(draw), log)
    draw(rows)
    _finish(job, rows, run, {"features_seconds": features_seconds, "labelled images": pixels})


def _choose_head(job: "Job", network: "FineTuned", run: RunLayout) -> "Job":
    """Return `job` with the best head that was tried; write it into the run's record, and all of them into a CSV."""
    from pipelines.core.job import write_history
    from pipelines.core.search import choose_head

    assert job.train.layout is not None and job.valid is not None
    settings, rows = choose_head(job, network)
    forms = ("", ":g", ":.4f", ":.4f", ":.1f")
    cells = [[f"{{{form}}}".format(value) for form, value in zip(forms, row.values(), strict=True)] for row in rows]
    print(command.table(list(rows[0]), cells))
    start_run(run, settings, job.train.layout.split_csv)
    write_history(run.search, rows)
    print(
        f"Chosen by the loss of the {len(job.valid):,} validation images: train.weight_decay = "
        f"{settings.train.weight_decay:g}, features.mirror = {str(settings.features.mirror).lower()}. Their scores "
        "below are slightly too good, because they chose."
    )
    return dataclasses.replace(job, settings=settings)


def _curves(job: "Job", run: RunLayout) -> Seen:
    """Return the function that draws the curves of the rows so far."""
    from pipelines.core.job import best_row
    from pipelines.core.tasks import loss_unit

    metric, unit = job.settings.competition.metric, loss_unit(job.settings)
    title = f"{job.settings.name}, run {run.folder.name}"

    def draw(rows: Sequence[Row]) -> None:
        from pipelines.analysis import plots  # takes a second to import

        plots.draw_curves(run.curves, rows, metric, best_row(rows, metric)["epoch"], title, unit)

    return draw


def _finish(job: "Job", rows: list[Row], run: RunLayout, facts: dict[str, Any]) -> None:
    """Write train.json with `facts`, and print the best epoch."""
    from pipelines.analysis.fit_words import describe_fit
    from pipelines.core.job import best_row, interval_columns

    assert job.valid is not None
    settings, metric = job.settings, job.settings.competition.metric
    best = best_row(rows, metric)
    bounds = tuple(best.get(column) for column in interval_columns(metric))
    note = {
        "best_epoch": best["epoch"],
        "epochs": len(rows),
        "metric": metric,
        "score": best[metric],
        "interval": list(bounds),
        "train_images": len(job.train),
        "valid_images": len(job.valid),
        "seconds": sum(row["seconds"] for row in rows),
        **facts,
        "hardware": job.hardware.record(),
    }
    write_json(run.trained, note)
    stopped = f"; stopped early after {len(rows)}" if len(rows) < settings.train.epochs else ""
    sure = command.uncertainty(bounds, len(job.valid))
    print(f"Best: valid {metric} {best[metric]:.4f}{sure} in epoch {best['epoch']}{stopped}.")
    if math.isnan(best[metric]):
        print("Note: no epoch has a defined score, so the epoch with the lowest validation loss counts as the best.")
    print(describe_fit(rows, metric))
    print(f"Look at: {run.curves.relative_to(Path.cwd())}")


if __name__ == "__main__":
    sys.exit(command.run(main, shared=True))
