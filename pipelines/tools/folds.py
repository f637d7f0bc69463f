"""Train the recipe on every fold, each fold a run of its own, and predict the rows that each run did not train on.

Reads   data/<c>/split.csv and its images; weights/, the folder of pretrained weights.
Writes  runs/<c>/<run>/fold-<k>/: a normal run of the stage train for each fold, and train.log, what it printed;
        runs/<c>/<run>/: run.json (settings), oof.csv (out-of-fold predictions), train.json, folds.json (scores);
        precision.json, where two precisions were tried; data/<c>/cache/, as the stage train.

With --seeds n, every fold is trained n times, with the seeds train.seed, train.seed + 1, …: fold-<k>-seed-<s>. Without
folds (split.folds = 0) it trains the recipe with n seeds, which all validate the same rows: seed-<s>.

As many trainings run at a time as the machine has GPUs, or on a processor as there are cores, which they share; with
--at-once n at most n.  Each is one process: trainings of their own need no exchange, so this is the fastest way to use
several GPUs.
If it is killed, the same command continues.
"""

import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines import command
from pipelines.core.events import require_tensorboard
from pipelines.dataset.split_record import require_split
from pipelines.models.run_weights import with_weights
from pipelines.settings.fold_sets import Member, plan
from pipelines.settings.layout import Layout, RunLayout
from pipelines.settings.loading import parse_overrides, to_dict
from pipelines.settings.overrides import setting
from pipelines.settings.records import start_run, with_head, with_head_of
from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError
from pipelines.system.files import read_note
from pipelines.system.shell import removal
from pipelines.tools.parallel import Training, describe, places_for, run_side_by_side, threads_for
from pipelines.tools.reporting import refresh

if TYPE_CHECKING:
    from pipelines.core.job import Job
    from pipelines.dataset.image_set import ImageSet
    from pipelines.models.transfer import FineTuned


@dataclass(frozen=True)
class FoldSet:
    """A set that is being made.

    settings: of its record, with the number of threads of each member.  own: the same with the current [hardware], for
    what this process computes.
    """

    words: command.Words
    layout: Layout
    run: RunLayout
    members: Sequence[Member]
    settings: Settings
    own: Settings

    @property
    def left(self) -> list[Member]:
        """The members whose training has not finished."""
        return [member for member in self.members if not self.run.member(member.name).trained.exists()]

    def epochs_done(self) -> int:
        """Return the number of finished epochs of all members; members that have finished count as all of theirs."""
        epochs = 0
        for member in self.members:
            files = self.run.member(member.name)
            if files.trained.exists():
                epochs += self.settings.train.epochs
            elif files.history.exists():
                epochs += len(files.history.read_text(encoding="utf-8").splitlines()) - 1
        return epochs


def main(arguments: Sequence[str] | None = None) -> None:
    parser = command.parser(__doc__, "tools.folds")
    parser.add_argument(
        "--seeds", type=command.number_of_seeds, default=1, help="number of seeds of each fold; default: 1"
    )
    parser.add_argument(
        *("--at-once",),
        type=command.number_of_processes,
        default=0,
        metavar="NPROC",
        help="number of trainings at a time, or gpu: one on each GPU; default: one on each GPU or core",
    )
    words = parser.parse_args(arguments, namespace=command.Words())
    settings, layout = words.settings(), words.layout()
    require_tensorboard(settings)
    _check_words(words, settings)
    words.require_raw(layout)
    require_split(layout, settings, words.repeat("split"))
    run, members = layout.run(words.run_name()), plan(settings, words.seeds)
    with words.only_one_in(run):
        threads = 0 if run.trained.exists() else threads_for(settings.hardware, words.most(len(members)))
        whole, _ = with_weights(settings, run, layout.weights, command.progress)
        whole = replace(whole, hardware=replace(settings.hardware, threads=threads))
        whole = start_run(run, with_head_of(run, whole), layout.split_csv, [member.name for member in members])
        own = replace(whole, hardware=settings.hardware)
        group = FoldSet(words, layout, run, members, whole, own)
        if run.folds.exists() and run.trained.exists() and not group.left:
            _print_done(group)
        else:
            _make(group)
    refresh(words)
    print(f"Next: {words.repeat('predict' if settings.predict.members == 'folds' else 'retrain')}")


def _check_words(words: command.Words, settings: Settings) -> None:
    if not settings.split.folds and words.seeds == 1:
        five = words.plus("split.folds=5")
        raise UserError(
            "split.folds is 0 and there is one seed: this is a single training, which the stage train does. Choose the "
            f"number of folds, and split again: {five.repeat('split')}\n"
            f"Then: {five.repeat('folds')}\nOr train several seeds on the present split: "
            f"{words.repeat('folds', SEEDS='3')}"
        )
    if "fold" in parse_overrides(words.set).get("train", {}):
        raise UserError("folds sets train.fold itself: remove it from SET=.")


def _print_done(group: FoldSet) -> None:
    note, shown = read_note(group.run.folds), group.run.folder.relative_to(Path.cwd())
    print(f"Already trained: {shown}, {len(group.members)} members, {note['metric']} of all rows {note['score']:.4f}.")
    print(f"To do it again: {removal(group.run.folder)}")


def _make(group: FoldSet) -> None:
    """Train what is left of the set, predict the validation rows of each member, and write the results."""
    from pipelines.dataset.image_set import read_images

    for path in (group.run.folds, group.run.trained):  # a member was removed, to train it again
        path.unlink(missing_ok=True)
    images = read_images(group.own, group.layout, group.words.repeat("split"))
    for member in group.members:
        images.divide(member.settings(group.settings))  # raises where a part would be empty
    if group.left:
        group, chosen = _prepare(group, images)
        _train(group, len(images.used(group.settings)), chosen)
    from pipelines.tools.fold_results import finish_set

    finish_set(group.run, group.members, group.own, images, group.layout.weights)


def _prepare(group: FoldSet, images: "ImageSet") -> tuple[FoldSet, list[str]]:
    """Compute what all members share: decoded images or features, and what is chosen by timing or by `train.search`.

    Return the set, and the settings that tell the members what was chosen.  Mistakes in settings show here, before
    any training.
    """
    import torch

    from pipelines.core import job as jobs
    from pipelines.core.precision import settle_precision
    from pipelines.dataset.batches import check_images
    from pipelines.dataset.fingerprints import images_digest
    from pipelines.models.anchors import with_anchors
    from pipelines.models.building import build_network
    from pipelines.models.device import choose_hardware
    from pipelines.models.networks import check_model
    from pipelines.models.transfer import FineTuned
    from pipelines.models.weights import find_origins

    settings = group.settings
    train, valid = images.divide(group.members[0].settings(settings))
    found = find_origins(settings.model, group.layout.weights)
    network = build_network(with_anchors(settings, train), images.classes, found)
    check_model(network, settings.model.name, settings.input.size, settings.augment.sizes, settings.input.channels)
    threads = torch.get_num_threads()
    settled, _ = settle_precision(settings, group.run.precision, network, len(train))
    hardware = choose_hardware(settled.hardware)
    torch.set_num_threads(threads)  # here, nothing runs beside the features
    if group.own.hardware.threads:
        torch.set_num_threads(group.own.hardware.threads)
    job = jobs.Job(settled, train, valid, settings.train.epochs, group.run.training, hardware, command.progress)
    job.task()
    job.judge()
    check_images(settings, images, command.progress)
    images_digest(images, command.progress, test=False)
    if counts := jobs.prepare_features(job, network):
        print(f"Features: {counts}")
    if settings.train.search and isinstance(network, FineTuned):
        group = _choose_head(group, job, network)
    if settings.trains_on_cache:
        return group, _head_words(group)
    precision = str(hardware.dtype).removeprefix("torch.")
    return group, [f"hardware.precision={precision}", f"hardware.side_by_side={hardware.side_by_side}"]


def _choose_head(group: FoldSet, job: "Job", network: "FineTuned") -> FoldSet:
    """Return the set with the head that is best for its first member; write it into the set's record."""
    from pipelines.core.job import write_history
    from pipelines.core.search import choose_head

    chosen, rows = choose_head(job, network)
    group = replace(group, settings=with_head(group.settings, chosen), own=with_head(group.own, chosen))
    start_run(group.run, group.settings, group.layout.split_csv, [member.name for member in group.members])
    write_history(group.run.search, rows)
    words = " ".join(_head_words(group))
    print(f"Head of all members, chosen by the validation rows of {group.members[0].name}: {words}")
    return group


def _head_words(group: FoldSet) -> list[str]:
    """Return the settings that tell the members what `train.search` chose for the set; none without it."""
    if not group.run.search.exists():
        return []
    train, features = group.settings.train, group.settings.features
    values = {"train.search": False, "train.weight_decay": train.weight_decay, "features.mirror": features.mirror}
    return [setting(key, value) for key, value in values.items()]


def _train(group: FoldSet, images: int, chosen: list[str]) -> None:
    """Train the members that are left, some at a time.  chosen: more settings for them."""
    from tqdm import tqdm

    settings, run, words = group.settings, group.run, group.words
    predict = [setting(f"predict.{key}", value) for key, value in to_dict(settings)["predict"].items()]
    shared = [*words.set, *predict, *chosen, f"hardware.threads={settings.hardware.threads}"]
    trainings = []
    for member in group.left:
        arguments = [words.competition, "--recipe", words.recipe, "--run", run.folder.name, "--member", member.name]
        arguments += ["--set", *shared, f"train.fold={member.fold}", f"train.seed={member.seed}"]
        trainings.append(Training(member.name, arguments, run.member(member.name).log))
    places = places_for(settings.hardware, words.most(len(trainings)))
    done = len(group.members) - len(trainings)
    print(
        f"{settings.name}, run {run.folder.name}: {len(group.members)} trainings of {images:,} labelled images"
        f"{f', {done} of them finished before' if done else ''}; {describe(settings.hardware, places)}; "
        f"logs: {(run.folder / '*' / run.log.name).relative_to(Path.cwd())}",
        flush=True,
    )
    width = max(len(member.name) for member in group.members)
    total = len(group.members) * settings.train.epochs
    bar = tqdm(
        *(None, "training", total),
        initial=group.epochs_done(),
        unit=" epochs",
        disable=None,
        leave=False,
        dynamic_ncols=True,
    )
    with closing(run_side_by_side(trainings, places)) as ended, bar:
        for training in ended:
            bar.update(group.epochs_done() - bar.n)
            if training:
                note = read_note(run.member(training.name).trained)
                cells = training.name.ljust(width), f"best epoch {note['best_epoch']} of {note['epochs']}"
                score = f"valid {note['metric']} {note['score']:.4f}"
                bar.write("  ".join([*cells, score, command.duration(note["seconds"])]), file=sys.stdout)


if __name__ == "__main__":
    sys.exit(command.run(main))
