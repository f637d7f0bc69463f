"""Score a submission against true labels, as Kaggle would, where the true labels are known.

Reads   submissions/<c>/<run>.csv; the labels of --solution, or those held back from data/<c>/raw, or else the names of
        the folders that the test images lie in, where all of these are classes.
Writes  nothing.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines import command
from pipelines.settings.loading import submission_name
from pipelines.system.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from pipelines.settings.layout import Layout
    from pipelines.settings.schema import Settings


def main(arguments: Sequence[str] | None = None) -> None:
    parser = command.parser(__doc__, "tools.score")
    parser.add_argument("--solution", type=Path, help="CSV of ids and true labels; default: what is known here")
    words = parser.parse_args(arguments, namespace=command.Words())
    settings, layout = words.settings(), words.layout()
    run = layout.run(words.run_name())
    submission = layout.submission(submission_name(run.folder.name, words.set))
    shown = submission.relative_to(Path.cwd())
    if not submission.exists():
        raise UserError(f"{shown} is missing. First: {words.repeat('predict')}")
    solution = words.solution or layout.held_back
    truth = None if solution.exists() or words.solution else _folder_labels(settings, layout)
    if truth is None and not solution.exists():
        raise UserError(
            f"{solution} is missing: the true labels of {settings.name} are not known here. Give a CSV of ids and "
            "labels with SOLUTION=, or submit to Kaggle."
        )
    from pipelines.analysis.scoring import score_submission

    kind = "held-back labels"
    if truth is not None:
        solution = layout.raw / settings.data.test_images
        kind = f"test images, labelled by their folders in {settings.data.test_images}/"
    score, count = score_submission(submission, solution, settings, truth)
    print(f"{settings.competition.metric} on {count:,} {kind}: {score:.4f}")
    for what, path in (
        ("submission", submission),
        ("what it gets wrong", run.mistakes),
        ("what it confuses", run.confusion),
        ("how it learned", run.curves),
    ):
        print(f"  {what:<18}  {path.relative_to(Path.cwd())}")


def _folder_labels(settings: "Settings", layout: "Layout") -> "pd.DataFrame | None":
    """Return ids and labels of the test images where the folders they lie in say them."""
    if not layout.split_csv.exists():
        return None
    from pipelines.analysis.scoring import folder_labels
    from pipelines.dataset.splits import read_split_csv

    return folder_labels(read_split_csv(layout.split_csv), settings.data.test_images)


if __name__ == "__main__":
    sys.exit(command.run(main))
