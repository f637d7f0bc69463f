"""Predict the test images, write a submission CSV checked against the sample, and draw the model's mistakes.

Reads   runs/<c>/<run>/final.pt (best.pt with --set predict.checkpoint=best), data/<c>/split.csv and its images.
Writes  submissions/<c>/<run>.csv;
        runs/<c>/<run>/: predict.json; by best.pt on the validation set, since final.pt was trained on it too:
        valid_predictions.csv and mistakes.png; and a picture by class (confusion.png), label (labels.png) or number
        (numbers.png), or the curves and sizes of boxes (boxes.png), with the numbers in summary.csv; of many classes
        summary.csv lists the most confused ones;
        oof.csv and test_predictions.npy: the same predictions, and those of the test images, for blends.

Of a fold set, predict.members chooses the networks that are averaged; labelled rows are those of oof.csv.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines import command
from pipelines.dataset.sent import form_of, form_sent
from pipelines.dataset.split_record import check_unchanged
from pipelines.settings.fold_sets import Member, check_members, checkpoints, made_from, plan
from pipelines.settings.layout import Layout, RunLayout
from pipelines.settings.loading import submission_name, to_dict
from pipelines.settings.records import RunRecord, finished_run, in_todays_words, read_record
from pipelines.settings.running_sections import PredictSettings
from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError
from pipelines.system.files import file_sha256, read_note, write_json
from pipelines.system.group import ALONE, Group
from pipelines.system.shell import removal
from pipelines.tools.reporting import refresh

if TYPE_CHECKING:
    from pipelines.core.run_networks import RunNetworks


def main(arguments: Sequence[str] | None = None, group: Group = ALONE) -> None:
    words = command.parser(__doc__, "predict").parse_args(arguments, namespace=command.Words(processes=group.nproc))
    layout = words.layout()
    run, record, _ = finished_run(layout, words.run_name(), words.settings(), words.repeat)
    words.require_raw(layout)
    settings = in_todays_words(run, record.settings, words.settings())
    if note := check_unchanged(layout, settings, words.repeat("split"), "test"):
        print(note)
    submission = layout.submission(submission_name(run.folder.name, words.set))
    shown = submission.relative_to(Path.cwd())
    if submission == layout.submission_log:
        raise UserError(f"{shown} is the log of submissions. Give the run another name: RUN=")
    with words.only_one_in(run):
        members = _members(run, record, settings, words)
        notes = read_note(run.predicted) if run.predicted.exists() else {}
        origin = made_from(run, members, settings.predict)
        origin |= {"predict": to_dict(settings)["predict"], **form_sent(settings, layout)}
        known = submission.exists() and run.valid_predictions.exists()
        of_older = {"answers": {}, "form": form_of(read_record(run).settings), "sample": origin["sample"]}
        note = of_older | notes.get(submission.name, {})
        note["predict"] = to_dict(Settings(""))["predict"] | note.get("predict", {})
        if known and note == note | origin | {"sha256": file_sha256(submission)}:
            print(f"Already predicted: {shown}.")
            refresh(words)
            print(f"To do it again: {removal(submission)}")
            return
        from pipelines.core.prediction import Resources
        from pipelines.core.run_networks import RunNetworks

        networks = RunNetworks(run, settings, members, Resources(layout.weights, command.progress, group))
        _make_submission(networks, layout, submission, words.repeat("split"), notes | {submission.name: origin})
    refresh(words)
    print(f"Next: {_next(words, settings)}")


def _members(run: RunLayout, record: RunRecord, settings: Settings, words: command.Words) -> list[Member]:
    """Return the members of the fold set `run`; none of a plain run.

    Raises `UserError` where a checkpoint is missing, or a member is not of its set.
    """
    check_members(run, record, words.repeat)
    members = plan(record.settings, record.seeds) if record.members else []
    unused = "members" if not members else "checkpoint"
    if (value := getattr(settings.predict, unused)) != getattr(PredictSettings(), unused):
        kind = "a fold set: predict.members chooses its networks" if members else "a single run, not a fold set"
        print(f"Note: predict.{unused} is {value}, which has no effect: {run.folder.name} is {kind}.")
    chosen = checkpoints(run, members, settings.predict)
    if run.final.name in chosen and not (run.retrained.exists() and run.final.exists()):
        other = "predict.members=folds" if members else "predict.checkpoint=best"
        which = "the members alone" if members else "the validated weights"
        raise UserError(
            f"{run.final.relative_to(Path.cwd())} is missing or unfinished. First: {words.repeat('retrain')}\n"
            f"Or predict with {which}: {words.plus(other).repeat('predict')}"
        )
    return members


def _next(words: command.Words, settings: Settings) -> str:
    if settings.competition.source != "kaggle":
        return words.repeat("score")
    if settings.competition.takes == "code":  # which trains there; its run gets a name of its own
        return words.repeat("kernel", RUN=f"{words.run_name()}-kaggle")
    return words.repeat("submit")


def _make_submission(
    networks: "RunNetworks", layout: Layout, submission: Path, split_command: str, notes: dict[str, Any]
) -> None:
    """Predict labelled images that the networks were not trained on, and the test set; write the submission and, last,
    its note.

    notes: those of all submissions of the run; this one's says so far what it is made from.
    """
    from pipelines.analysis.outcome import made_on, report, write_answers
    from pipelines.core.decide import make_judge
    from pipelines.core.precision import settle_precision
    from pipelines.core.prediction import Rows
    from pipelines.core.run_networks import Kept, store
    from pipelines.core.stored import MOST_STORED
    from pipelines.core.validation import validate
    from pipelines.dataset.fingerprints import note_changed_pixels
    from pipelines.dataset.image_set import read_images

    run = networks.run
    images = read_images(networks.settings, layout, split_command)
    test = images.part(test=True)
    if not len(test):
        raise UserError(
            f"{layout.split_csv} has no test rows, so there is nothing to predict. Set data.test_images to "
            "the folder of the test images, and split again."
        )
    if changed := note_changed_pixels(read_note(run.trained), images, run.folder.name, command.progress):
        print(changed)
    settings, _ = settle_precision(networks.settings, run.precision)
    networks = replace(networks, settings=settings)
    if networks.members and not networks.knows_oof:
        print("Predicting the labelled rows again: oof.csv is missing, or of other networks or views than now.")
    held = networks.held_out(images)
    labelled, kept = Kept(held.images, run.folder), Kept(test, submission.parent)
    judge, final = (make_judge(settings, images.classes, seen, calibrated=True) for seen in (held.seen, images.labels))
    blocks = labelled.passing(held.blocks)
    found = validate(judge, final, held.images.labels, blocks, run.folder, held.groups)
    facts, said = report(run, settings, held.images, final, found, networks.by)
    print(*said, *networks.notes, sep="\n")
    answers = Rows(len(test), submission.parent)
    for places, block in kept.passing(networks.predict(test, submission.parent)):
        answers.fill(places, final.answers(found.choice, block))
    by, by_rank = networks.describe(images), networks.averages_ranks(images)
    facts["rows"], written = write_answers(submission, answers.array, test, settings, by, by_rank)
    facts |= {"sha256": file_sha256(submission), **store(networks, held, labelled, kept)}
    notes[submission.name] |= facts | {"made_on": made_on(settings, layout, images, command.progress)}
    write_json(run.predicted, notes)
    print(written)
    if "oof" not in facts:
        print(f"Note: more than {MOST_STORED:,} predictions are not stored, so a blend cannot use this run.")


if __name__ == "__main__":
    sys.exit(command.run(main, shared=True))
