"""Predict the test images, write a submission CSV checked against the sample, and draw the model's mistakes.

Reads   runs/<c>/<run>/final.pt (best.pt with --set predict.checkpoint=best), data/<c>/split.csv and its images.
Writes  submissions/<c>/<run>.csv;
        runs/<c>/<run>/: predict.json; by best.pt on the validation set, since final.pt was trained on it too:
        valid_predictions.csv and mistakes.png; and a picture by class (confusion.png), label (labels.png) or number
        (numbers.png), with the numbers in summary.csv; of many classes summary.csv lists the most confused ones.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines import command
from pipelines.dataset.sent import form_of, form_sent
from pipelines.dataset.split_record import check_unchanged
from pipelines.settings.layout import Layout, RunLayout
from pipelines.settings.loading import submission_name, to_dict
from pipelines.settings.records import finished_run, in_todays_words, read_record
from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError
from pipelines.system.files import atomic_file, file_sha256, read_note, write_json
from pipelines.system.shell import removal


def main(arguments: Sequence[str] | None = None) -> None:
    words = command.parser(__doc__, "predict").parse_args(arguments, namespace=command.Words())
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
    source = run.final if settings.predict.checkpoint == "final" else run.best
    with words.only_one_in(run):
        if source == run.final and not (run.retrained.exists() and run.final.exists()):
            raise UserError(
                f"{source.relative_to(Path.cwd())} is missing or unfinished. First: {words.repeat('retrain')}\n"
                f"Or predict with the validated weights: {words.plus('predict.checkpoint=best').repeat('predict')}"
            )
        notes = read_note(run.predicted) if run.predicted.exists() else {}
        made_from = {"checkpoint": source.name, "weights": file_sha256(source), "predict": to_dict(settings)["predict"]}
        made_from |= form_sent(settings, layout)
        known = submission.exists() and run.valid_predictions.exists()
        of_older = {"answers": {}, "form": form_of(read_record(run).settings), "sample": made_from["sample"]}
        note = of_older | notes.get(submission.name, {})
        note["predict"] = to_dict(Settings(""))["predict"] | note.get("predict", {})
        if known and note == note | made_from | {"sha256": file_sha256(submission)}:
            print(f"Already predicted: {shown}.")
            print(f"To do it again: {removal(submission)}")
            return
        _make_submission(settings, layout, run, submission, words.repeat("split"), notes | {submission.name: made_from})
    print(f"Next: {_next(words, settings)}")


def _next(words: command.Words, settings: Settings) -> str:
    if settings.competition.source != "kaggle":
        return words.repeat("score")
    if settings.competition.takes == "code":  # which trains there; its run gets a name of its own
        return words.repeat("kernel", RUN=f"{words.run_name()}-kaggle")
    return words.repeat("submit")


def _make_submission(
    settings: Settings, layout: Layout, run: RunLayout, submission: Path, split_command: str, notes: dict[str, Any]
) -> None:
    """Predict the validation set and the test set; write the submission and, last, its note.

    notes: those of all submissions of the run; this one's says so far what it is made from.
    """
    from pipelines.analysis.outcome import made_on, report
    from pipelines.core.decide import make_judge
    from pipelines.core.precision import settle_precision
    from pipelines.core.prediction import Rows, predict
    from pipelines.core.validation import validate
    from pipelines.dataset.answer_summary import describe_answers
    from pipelines.dataset.fingerprints import note_changed_pixels
    from pipelines.dataset.image_set import read_images
    from pipelines.dataset.submission import write_submission
    from pipelines.dataset.submission_check import check_submission

    images = read_images(settings, layout, split_command)
    test = images.part(test=True)
    if not len(test):
        raise UserError(
            f"{layout.split_csv} has no test rows, so there is nothing to predict. Set data.test_images to "
            "the folder of the test images, and split again."
        )
    if changed := note_changed_pixels(read_note(run.trained), images, run.folder.name, command.progress):
        print(changed)
    train, valid = images.divide(settings)
    settings, _ = settle_precision(settings, run.precision)
    judge, final = (make_judge(settings, images.classes, part.labels, calibrated=True) for part in (train, images))
    blocks = predict(run.best, settings, valid, layout.weights, "validating", command.progress)
    found = validate(judge, final, valid.labels, blocks, run.folder)
    facts, said = report(run, settings, valid, final, found)
    print(*said, sep="\n")
    note = notes[submission.name]
    checkpoint = run.folder / note["checkpoint"]
    answers = Rows(len(test), submission.parent)
    for places, block in predict(checkpoint, settings, test, layout.weights, "predicting", command.progress):
        answers.fill(places, final.answers(found.choice, block))
    with atomic_file(submission) as partial:
        write_submission(partial, test.ids.tolist(), answers.array, images.classes, settings, layout.raw)
        count = check_submission(partial, images.classes, settings, layout.raw)
    facts["made_on"] = made_on(settings, layout, images, command.progress)
    note |= {"sha256": file_sha256(submission), "rows": count, **facts}
    write_json(run.predicted, notes)
    against = f"checked against {settings.data.sample_submission}" if settings.data.sample_submission else "no sample"
    print(f"Submission by {checkpoint.name}: {submission.relative_to(Path.cwd())} ({count:,} rows, {against})")
    print(*describe_answers(answers.array, images.classes, settings, layout.raw), sep="\n")


if __name__ == "__main__":
    sys.exit(command.run(main))
