"""The note before a submission is sent: it is not clearly better than one that was sent before."""

import math
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice

from pipelines.kaggle.submission_log import NOT_SENT, Row, SubmissionLog
from pipelines.settings.layout import Layout
from pipelines.settings.metrics import badness
from pipelines.settings.schema import Settings
from pipelines.system.files import read_note

MOST_TRIES = 3  # runs whose predictions are read, where those of the first are damaged
MOST_BYTES = 1 << 26  # of the predictions of both runs; more would take longer than seconds
MOST_VALUES = 1 << 16  # of one run, for the same reason, where a score takes long


def note_on_sent(run: str, sha256: str, layout: Layout, settings: Settings) -> str:
    """Return a note if the submission of `run` is not better, beyond its interval, than the best one sent before.

    The best one has the best validation score among the runs whose predictions still exist.  sha256: identifies
    in the log what is about to be sent.  Empty if nothing can be compared: no file of another run, whatever is in it,
    may stop a submission.
    """
    with suppress(Exception):
        for row in islice(_rivals(run, sha256, layout, settings.competition.metric), MOST_TRIES):
            with suppress(Exception):
                return _compared(run, row, layout, settings)
    return ""


def _rivals(run: str, sha256: str, layout: Layout, metric: str) -> Iterator[Row]:
    """Yield the best submission of each other run, the best validation score first."""
    rows = SubmissionLog(layout.submission_log).rows
    if any(row.sha256 == sha256 and row.status != NOT_SENT for row in rows):
        return  # it was sent, or may have been
    sent = [row for row in rows if row.ref and not row.error and row.local_score and row.run != run]
    seen = set[str]()
    for row in sorted(sent, key=lambda row: badness(float(row.local_score), metric)):
        if row.run not in seen and _is_there(row, layout):
            seen.add(row.run)
            yield row


def _is_there(row: Row, layout: Layout) -> bool:
    """Return whether the run of `row` still has the predictions of what was sent."""
    run = layout.run(row.run)
    if not row.file.endswith(".csv"):  # a version of a kernel
        return run.oof.exists()
    with suppress(Exception):
        return run.oof.exists() and any(note["sha256"] == row.sha256 for note in read_note(run.predicted).values())
    return False


def _compared(run: str, row: Row, layout: Layout, settings: Settings) -> str:
    from pipelines.core.paired import QUICK, compare
    from pipelines.dataset.image_set import read_images
    from pipelines.report.pairs import predicted_run, read_pair

    def repeat(*words: str, **more: str) -> str:
        return ""  # of messages that nobody reads

    runs = [predicted_run(name, layout, settings, repeat) for name in (row.run, run)]
    if sum(each.oof.stat().st_size for each in runs) > MOST_BYTES:
        return ""
    pool = read_pair(runs[0], runs[1], read_images(settings, layout, ""), settings)
    if settings.competition.metric not in QUICK and pool.stored[0].predictions.numel() > MOST_VALUES:
        return ""
    found = compare(pool)
    if math.isnan(found.gain) or found.verdict > 0:
        return ""
    public = f"public {row.public_score}" if row.public_score else "no public score yet"
    verdict = "worse" if found.verdict < 0 else "not clearly better"
    low, high = found.bounds
    return (
        f"Note: {row.run}, sent on {row.time[:10]}, has {public}; {run} is {verdict} on the validation rows: "
        f"{found.gain:+.4f} ({low:.4f} to {high:.4f}, n = {found.rows:,})."
    )
