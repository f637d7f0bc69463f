"""Show the scores of all submissions, read back from Kaggle: local, public and private, best first.

Reads   submissions/<c>/log.csv; Kaggle.
Writes  submissions/<c>/log.csv: statuses and scores, and the outcome of interrupted submissions;
        submissions/<c>/limits.json: how many submissions are left.

Submissions made elsewhere are shown too, by the names of their files; they are not added to the log.
"""

import math
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import PurePosixPath

from pipelines import command
from pipelines.kaggle import submission_log
from pipelines.kaggle.limits import write_limits
from pipelines.kaggle.service import Kaggle, Submission, takes_submissions
from pipelines.kaggle.submission_log import SubmissionLog, look_for, may_be_unlisted, plain_score
from pipelines.settings.metrics import METRICS
from pipelines.system.errors import UserError, one_line
from pipelines.system.files import only_one
from pipelines.system.screen import cut
from pipelines.tools.reporting import refresh


def main(arguments: Sequence[str] | None = None) -> None:
    words = command.parser(__doc__, "tools.submissions").parse_args(arguments, namespace=command.Words())
    settings, layout = words.settings(), words.layout()
    if not takes_submissions(settings.competition.source):
        raise UserError(
            f"{settings.name} is not a competition on Kaggle, so nothing was sent there. To score it here: "
            f"{words.repeat('score')}"
        )
    slug = settings.competition.slug
    listed: list[Submission] | None = None
    trouble: UserError | None = None
    with only_one(layout.submission_lock(slug), f"sending a submission to {slug}") as lock:
        log = SubmissionLog(layout.submission_log)
        try:
            command.print_credential()
            with Kaggle(slug, settings.kaggle.stall_seconds, (lock,)) as kaggle:
                listed = _read_back(kaggle, log)
                with suppress(UserError):  # the scores are what was asked for
                    write_limits(layout.submission_limits, kaggle.limits())
        except UserError as error:
            trouble = error
    metric = settings.competition.metric
    higher_is_better = METRICS[metric].higher_is_better
    rows = _table_rows(log, listed, -1 if higher_is_better else 1)
    if rows:
        direction = "highest" if higher_is_better else "lowest"
        print(f"By {metric}, {direction} first; by the private score where it is known:")
        print(command.table(("submission", "time (UTC)", "local", "public", "private", "status", "message"), rows))
    elif not trouble:
        print(f"Nothing was sent to {slug} yet. First: {words.repeat('submit')}")
    if trouble:
        if rows:
            print("These rows come from the log only: Kaggle could not be asked.")
        raise trouble
    if log.rows:
        print(f"Log: {layout.submission_log.relative_to(layout.root)}")
    refresh(words)


def _read_back(kaggle: Kaggle, log: SubmissionLog) -> list[Submission]:
    """Update the log from Kaggle's list of submissions, and return this list."""
    listed = kaggle.submissions()
    by_ref = {submission.ref: submission for submission in listed}
    for place, row in enumerate(log.rows):
        if row.ref:
            if row.ref in by_ref:
                log.update(place, by_ref[row.ref])
            continue
        found = next(iter(log.unknown(listed, row.sha256)), None)
        if not found and row.unsettled:
            found = look_for(log, row.sha256, kaggle.submissions, submission_log.LOOK_PAUSES[1:])
        if found:
            log.adopt(place, found)
        elif row.unsettled and not may_be_unlisted(row, lambda: kaggle.limits().total, lambda: len(listed)):
            log.change(place, status=submission_log.NOT_SENT)
    return listed


def _table_rows(log: SubmissionLog, listed: list[Submission] | None, sign: int) -> list[tuple[str, ...]]:
    """Return the table's rows, best first: the log's rows, and the `listed` submissions that are not in the log.

    listed: Kaggle's list, or None if it could not be read.  sign: 1 if lower scores are better, else -1.
    """
    refs, found = {submission.ref for submission in listed or ()}, []
    for row in log.rows:
        status = row.status + (", not at Kaggle" if row.ref and listed is not None and row.ref not in refs else "")
        scores = (row.local_score, row.public_score, row.private_score)
        message = row.message.removesuffix(submission_log.submission_id(row.sha256))
        found.append((PurePosixPath(row.file).stem, row.time, scores, status, message))
    for each in listed or ():
        if each.ref not in log.refs:
            scores = ("", plain_score(each.public_score), plain_score(each.private_score))
            name, when = one_line(each.file) or f"ref {each.ref}", submission_log.submission_time(each)
            found.append((name, when, scores, submission_log.submission_status(each), one_line(each.description)))
    found.sort(key=lambda row: row[1], reverse=True)
    found.sort(key=lambda row: sign * float(row[2][2] or row[2][1] or sign * math.inf))  # unknown: last
    return [
        (
            name,
            when[:16].replace("T", " ") or "-",
            *(score or "-" for score in scores),
            cut(status, 40),
            cut(message, 32),
        )
        for name, when, scores, status, message in found
    ]


if __name__ == "__main__":
    sys.exit(command.run(main))
