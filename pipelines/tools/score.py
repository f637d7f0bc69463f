"""Score a submission as Kaggle does, where the true labels are known.

Reads   submissions/<c>/<run>.csv; the labels of --solution, else the labels held back from data/<c>/raw, else the names
        of the folders of the test images, where all of these are classes.
Writes  nothing.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from pipelines import command
from pipelines.system.errors import UserError
from pipelines.system.shell import user_path


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
    from pipelines.dataset.splits import read_split_csv

    if not (solution.exists() or words.solution) and layout.split_csv.exists():
        truth = folder_labels(read_split_csv(layout.split_csv), settings.data.test_images)
    if truth is not None:
        solution = layout.raw / settings.data.test_images
        kind = f"test images, labelled by their folders in {settings.data.test_images}/"
    elif not solution.exists():
        raise UserError(
            f"{solution} is missing: the true labels of {settings.name} are not known here. Give a CSV of ids and "
            "labels with SOLUTION=, or submit to Kaggle."
        )
    score, count = score_submission(submission, solution, settings, truth)
    print(f"{settings.competition.metric} on {count:,} {kind}: {score:.4f}")
    files = {"submission": submission, "mistakes": run.mistakes, "confusion": run.confusion, "curves": run.curves}
    for what, path in files.items():
        print(f"  {what:<10}  {path.relative_to(Path.cwd())}")


if __name__ == "__main__":
    sys.exit(command.run(main))
