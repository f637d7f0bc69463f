"""Score a submission as Kaggle does, where the true labels are known.

Reads   submissions/<c>/<run>.csv; the labels of --solution, else the labels held back from data/<c>/raw, else the names
        of the folders of the test images, where all of these are classes.
Writes  nothing.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from pipelines import command
from pipelines.settings.metrics import BOXES
from pipelines.system.errors import UserError
from pipelines.system.shell import path_word, user_path


def main(arguments: Sequence[str] | None = None) -> None:
    parser = command.parser(__doc__, "tools.score")
    parser.add_argument("--solution", type=user_path, help="CSV of ids and true labels; default: the labels known here")
    words = parser.parse_args(arguments, namespace=command.Words())
    settings, layout = words.settings(), words.layout()
    run, submission = layout.run(words.run_name()), words.submission()
    if not submission.exists():
        raise UserError(f"{submission.relative_to(Path.cwd())} is missing. First: {words.repeat('predict')}")
    solution, truth, kind = words.solution or layout.held_back, None, "held-back labels"
    from pipelines.analysis.scoring import folder_labels, score_submission
    from pipelines.analysis.solutions import read_solution
    from pipelines.dataset.splits import read_split_csv
    from pipelines.dataset.targets import count_labels
    from pipelines.dataset.vocabulary import answers_of

    table = read_split_csv(layout.split_csv) if layout.split_csv.exists() else None
    if not (solution.exists() or words.solution or settings.competition.task == BOXES) and table is not None:
        truth = folder_labels(table, settings.data.test_images)
    labelled: list[str] = [] if table is None else table.loc[table["split"] != "test", "label"].unique().tolist()
    known = sorted(count_labels(labelled, settings.competition.task))
    answers = dict(zip(known, answers_of(known, settings, layout.raw), strict=True))
    notes: list[str] = []
    if truth is not None:
        truth["label"] = [answers[label] for label in truth["label"]]
        solution = layout.raw / settings.data.test_images
        kind = f"test images, labelled by their folders in {settings.data.test_images}/"
    elif not solution.exists():
        known_here = "" if words.solution else f": the true labels of {settings.name} are not known here"
        submit = f" Or let Kaggle score it: {words.repeat('submit')}" if settings.competition.source == "kaggle" else ""
        raise UserError(
            f"{path_word(solution)} is missing{known_here}. Give a CSV of ids and labels: SOLUTION=.{submit}"
        )
    else:
        truth, notes = read_solution(solution, submission, answers, settings)
        if not words.solution:
            notes = notes[1:]  # which columns were taken: the held-back labels are in our own form
    words_sent = list(answers.values()) or list(settings.data.label_columns)
    score, count, remarks = score_submission(submission, solution, settings, truth, words_sent)
    print(*notes, *remarks, f"{settings.competition.metric} on {count:,} {kind}: {score:.4f}", sep="\n")
    uses = sorted(set(truth["usage"])) if "usage" in truth else []
    for use in uses if len(uses) > 1 else ():
        part, size, _ = score_submission(submission, solution, settings, truth[truth["usage"] == use], words_sent)
        print(f"  {use or 'without usage'}: {part:.4f} (n = {size:,})")
    files = {"submission": submission, "mistakes": run.mistakes, "confusion": run.confusion, "labels": run.by_label}
    files |= {"numbers": run.by_number, "summary": run.summary, "curves": run.curves, "report": layout.report}
    for what, path in files.items():
        if path.exists():
            print(f"  {what:<10}  {path.relative_to(Path.cwd())}")


if __name__ == "__main__":
    sys.exit(command.run(main))
