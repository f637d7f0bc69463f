"""Score a submission against true labels, as Kaggle would, where the true labels are known.

Reads   submissions/<c>/<run>.csv and the labels held back from data/<c>/raw, or those of --solution.
Writes  nothing.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from pipelines import command
from pipelines.core.errors import UserError
from pipelines.core.settings import submission_name


def main(arguments: Sequence[str] | None = None) -> None:
    parser = command.parser(__doc__, "score")
    parser.add_argument("--solution", type=Path, help="CSV of ids and true labels; default: the labels held back")
    words = parser.parse_args(arguments, namespace=command.Words())
    settings, layout = words.settings(), words.layout()
    run = layout.run(words.run_name())
    submission = layout.submission(submission_name(run.folder.name, words.set))
    shown = submission.relative_to(Path.cwd())
    solution = words.solution or layout.held_back
    if not submission.exists():
        raise UserError(f"{shown} is missing. First: {words.repeat('predict')}")
    if not solution.exists():
        raise UserError(
            f"{solution} is missing: the true labels of {settings.name} are not known here. Give a CSV of ids and "
            "labels with SOLUTION=, or submit to Kaggle."
        )
    from pipelines.core.submission import score_submission

    score, count = score_submission(submission, solution, settings)
    print(f"{settings.competition.metric} on {count:,} held-back labels: {score:.4f}")
    for what, path in (
        ("submission", submission),
        ("what it gets wrong", run.mistakes),
        ("what it confuses", run.confusion),
        ("how it learned", run.curves),
    ):
        print(f"  {what:<18}  {path.relative_to(Path.cwd())}")


if __name__ == "__main__":
    sys.exit(command.run(main))
