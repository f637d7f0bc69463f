"""Combine the predictions of finished runs of one competition, with weights that no scored row has chosen.

Reads   runs/<c>/<member>/ of each run in --runs: run.json, predict.json, oof.csv, test_predictions.npy;
        data/<c>/split.csv and the sample submission.
Writes  submissions/<c>/<run>.csv;
        runs/<c>/<run>/: run.json, oof.csv, test_predictions.npy; predict.json, valid_predictions.csv and the pictures,
        as predict; blend.csv (score and weight of each member, score without it), correlation.csv and .png (of the
        members' errors); blend.json (members, weights, estimates), written last.

Weights are equal, unless those of a greedy selection gain more than one standard error on rows that did not choose
them. The run is named by --run; default: blend- and the members' names.
"""

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines import command
from pipelines.dataset.sent import form_sent
from pipelines.dataset.split_record import check_unchanged
from pipelines.settings.layout import Layout, RunLayout, split_sha256
from pipelines.settings.loading import submission_name, to_dict
from pipelines.settings.records import blended
from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError
from pipelines.system.files import file_sha256, only_one, read_note, write_json
from pipelines.system.shell import removal
from pipelines.tools.reporting import refresh

if TYPE_CHECKING:
    from pipelines.core.blending import Blended, Pool
    from pipelines.tools.blend_members import Member

LONGEST_NAME = 60  # characters of the default name of a blend


@dataclass(frozen=True)
class Blend:
    """A blend that is made of `members` in the folder of `run`."""

    words: command.Words
    settings: Settings
    layout: Layout
    run: RunLayout
    members: "Sequence[Member]"

    @property
    def names(self) -> list[str]:
        return [member.name for member in self.members]

    @property
    def submission(self) -> Path:
        return self.layout.submission(submission_name(self.run.folder.name, self.words.set))

    def made_from(self) -> dict[str, Any]:
        """Return what the note of the submission says of its origin."""
        digests = {member.name: member.digests for member in self.members}
        form = form_sent(self.settings, self.layout)
        return {"checkpoint": "blend", "members": digests, "predict": to_dict(self.settings)["predict"], **form}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = command.parser(__doc__, "tools.blend")
    parser.add_argument("--runs", nargs="+", default=[], help="names of the predicted runs to combine")
    words = parser.parse_args(arguments, namespace=command.Words())
    settings, layout = words.settings(), words.layout()
    words.require_raw(layout)
    if not layout.split_csv.exists():
        raise UserError(f"{layout.split_csv.relative_to(layout.root)} is missing. First: {words.repeat('split')}")
    from pipelines.tools.blend_members import find_members, names_of, notes_on

    names = names_of(words, layout)
    run = layout.run(words.run or default_name(names))
    _check_name(run, names)
    if note := check_unchanged(layout, settings, words.repeat("split"), "labelled", "test"):
        print(note)
    with only_one(run.lock, f"blending {words.competition}, run {run.folder.name}", inherited=False):
        made = Blend(words, settings, layout, run, find_members(names, words, layout, settings))
        print("".join(f"{note}\n" for note in notes_on(made.members, words, layout)), end="")
        if _is_made(made):
            print(f"Already blended: {made.submission.relative_to(Path.cwd())}.")
            print(f"To do it again: {removal(made.submission)}")
        else:
            _make(made)
    refresh(words)
    print(f"Next: {_next(words, settings, run)}")


def default_name(names: Sequence[str]) -> str:
    """Return `blend-` and the members' names; where that is long, its beginning and a hash."""
    name = "-".join(["blend", *names])
    if len(name) <= LONGEST_NAME:
        return name
    return f"{name[:LONGEST_NAME]}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def _check_name(run: RunLayout, names: Sequence[str]) -> None:
    """Raise `UserError` if the blend would replace another run, or a blend of other members."""
    if not run.record.exists():
        return
    others = blended(run)
    if list(others) != list(names):
        what = f"a blend of {', '.join(others)}" if others else "a run that was trained"
        remedy = f" Or remove it: {removal(run.folder)}" if others else ""
        shown = run.folder.relative_to(Path.cwd())
        raise UserError(f"{shown} is {what}. Give the new blend another name with RUN=.{remedy}")


def _next(words: command.Words, settings: Settings, run: RunLayout) -> str:
    return words.repeat("submit" if settings.competition.source == "kaggle" else "score", RUN=run.folder.name)


def _is_made(made: Blend) -> bool:
    """Return whether the blend is complete and nothing has changed; print which members have changed since."""
    run, submission = made.run, made.submission
    if not (run.blend.exists() and run.predicted.exists() and submission.exists()):
        return False
    note = read_note(run.predicted).get(submission.name, {})
    then = note.get("members", {})
    if changed := [each.name for each in made.members if then and then.get(each.name) != each.digests]:
        print(f"Predicted again since the blend was made: {', '.join(changed)}. The blend is made again.")
    files = {"sha256": submission, "oof": run.oof, "test_predictions": run.test_predictions}
    now = made.made_from() | {key: file_sha256(path) if path.exists() else "" for key, path in files.items()}
    return bool(note == note | now) and run.valid_predictions.exists()


def _make(made: Blend) -> None:
    """Choose the weights, write the submission and all files of the blend, and print what it is worth."""
    from pipelines.analysis.blends import HEADINGS, describe, write_tables
    from pipelines.analysis.outcome import report
    from pipelines.core.blending import blend
    from pipelines.dataset.image_set import read_images
    from pipelines.models.device import choose_hardware
    from pipelines.tools.blend_members import read_pool

    settings, run, names = made.settings, made.run, made.names
    choose_hardware(settings.hardware)  # sums depend on the number of threads
    images = read_images(settings, made.layout, made.words.repeat("split"))
    pool, notes = read_pool(made.members, settings, images)
    title = f"{settings.name}, run {run.folder.name}"
    print(*notes, f"{title}: {len(names)} members, {len(pool.images):,} labelled rows to choose weights", sep="\n")
    run.blend.unlink(missing_ok=True)
    split = split_sha256(made.layout.split_csv)
    write_json(run.record, {"settings": to_dict(settings), "split_sha256": split, "blend": names})
    found = blend(pool, run.folder, command.progress)
    metric = settings.competition.metric
    rows = write_tables(run, names, pool, found, title)
    print(command.table((HEADINGS[0], metric, *HEADINGS[2:]), rows))
    print(*describe(found, metric), sep="\n")
    facts, said = report(run, settings, pool.images, pool.final, found.found, ("The blend", "valid"))
    print(*said, sep="\n")
    note = made.made_from() | {"weights": dict(zip(names, found.weights, strict=True))} | facts
    note |= _send(made, pool, found)
    earlier = read_note(run.predicted) if run.predicted.exists() else {}
    write_json(run.predicted, earlier | {made.submission.name: note})
    write_json(run.blend, _record(made, pool, found))


def _send(made: Blend, pool: "Pool", found: "Blended") -> dict[str, Any]:
    """Write the blended predictions and the submission; return what the note says of them."""
    from pipelines.analysis.outcome import made_on, write_answers
    from pipelines.core.blending import mix_test
    from pipelines.core.prediction import Rows
    from pipelines.core.stored import Stored, save_test, write_oof
    from pipelines.tools.blend_members import read_tests

    settings, run, images = made.settings, made.run, pool.images
    test, classes = images.part(test=True), images.classes
    if not len(test):
        raise UserError(f"{made.layout.split_csv.relative_to(Path.cwd())} has no test rows, so there is no submission.")
    predictions, answers = Rows(len(test), run.folder), Rows(len(test), made.submission.parent)
    for places, block in mix_test(read_tests(made.members, test, images.columns), found.weights, pool):
        predictions.fill(places, block.numpy())
        answers.fill(places, pool.final.answers(found.found.choice, block))
    save_test(run.test_predictions, predictions.array)
    write_oof(run.oof, Stored(images.ids, pool.stored[0].folds, found.predictions), classes, images.task)
    count, said = write_answers(made.submission, answers.array, test, settings, "the blend", pool.by_rank)
    print(said)
    files = {"sha256": made.submission, "oof": run.oof, "test_predictions": run.test_predictions}
    digests = {key: file_sha256(path) for key, path in files.items()}
    return {**digests, "rows": count, "made_on": made_on(settings, made.layout, images, command.progress)}


def _record(made: Blend, pool: "Pool", found: "Blended") -> dict[str, Any]:
    """Return blend.json."""
    estimate, metric = found.estimate, made.settings.competition.metric
    return {
        "members": {member.name: member.digests for member in made.members},
        "weights": dict(zip(made.names, found.weights, strict=True)),
        "weighted": found.weighted,
        "selected": dict(zip(made.names, found.selected, strict=True)),
        "by_rank": pool.by_rank,
        "rows": len(pool.images),
        "metric": metric,
        "score": found.found.score,
        "interval": list(found.found.bounds),
        "equal_score": found.equal,
        "selected_gain": asdict(estimate.gain),
        "selected_by_part": [dict(zip(made.names, weights, strict=True)) for weights in estimate.by_part],
        "gain_over_best": asdict(found.over_best),
        "best_by_part": [made.names[member] for member in estimate.best],
        "scores": dict(zip(made.names, found.own, strict=True)),
    }


if __name__ == "__main__":
    sys.exit(command.run(main))
