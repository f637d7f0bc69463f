"""What was sent to Kaggle: a row a submission in log.csv, and how a submission whose answer got lost is found again.

The message of every submission ends with an id, the first digits of the file's SHA-256.  So it is Kaggle's own list
that says whether a file was sent, however a process ended.
"""

import csv
import io
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipelines.kaggle.service import Submission
from pipelines.system.errors import TryAgainLater, UserError
from pipelines.system.files import write_text
from pipelines.system.terminal import one_line

SENDING, PENDING, COMPLETE, NOT_SENT, ERROR = "sending", "pending", "complete", "not sent", "error: "
ID_DIGITS = 12
MESSAGE_CHARACTERS = 200
# What a process sent just before it was killed, or gave up, may reach Kaggle later than the question whether it is
# there does.
LOOK_PAUSES = (0.0, 0.5, 1.0, 2.0)
LISTED_AFTER = 600  # seconds after which what Kaggle counts is surely in its list too


@dataclass(frozen=True)
class Row:
    """One submission.

    time: when it was sent, ISO 8601 in UTC.  file: its name.  ref: Kaggle's number, 0 while it is unknown.  status:
    sending, pending, complete, `error: …` as Kaggle describes it, or not sent.  Scores are text, empty while unknown;
    local_score is that on the valid rows.
    """

    time: str
    run: str
    file: str
    sha256: str
    message: str
    ref: int = 0
    status: str = SENDING
    local_score: str = ""
    public_score: str = ""
    private_score: str = ""

    @property
    def error(self) -> str:
        """Kaggle's description of why it refused the file; empty where it did not."""
        return self.status.removeprefix(ERROR) if self.status.startswith(ERROR) else ""

    @property
    def unsettled(self) -> bool:
        """Whether nobody knows if Kaggle has it: then it must be looked for, and not sent before that."""
        return not self.ref and self.status != NOT_SENT


COLUMNS = tuple(field.name for field in fields(Row))


class SubmissionLog:
    """The rows of the log at `path`, oldest first.  Every change is on disk, atomically, before the call returns.

    Only who holds the competition's lock may change it.  Raises `UserError`, with file and line, for a log that is
    damaged; what is in it is then left as it is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[Row] = _read(path) if path.exists() else []

    @property
    def refs(self) -> set[int]:
        """Kaggle's numbers of the submissions that the log knows."""
        return {row.ref for row in self.rows if row.ref}

    def places(self, sha256: str) -> list[int]:
        """The places of the rows of the file with this SHA-256, oldest first."""
        return [place for place, row in enumerate(self.rows) if row.sha256 == sha256]

    def add(self, row: Row) -> int:
        """Append `row` and return its place."""
        self._write([*self.rows, row])
        return len(self.rows) - 1

    def replace(self, place: int, row: Row) -> Row:
        """Put `row` at `place`, and return it."""
        if row != self.rows[place]:
            self._write([*self.rows[:place], row, *self.rows[place + 1 :]])
        return row

    def change(self, place: int, **values: Any) -> Row:
        """Set `values` of the row at `place`, and return it."""
        return self.replace(place, replace(self.rows[place], **values))

    def update(self, place: int, submission: Submission) -> Row:
        """Take ref, status and scores of the row at `place` from what Kaggle has, and return it.

        A ref that is known stays for ever: a `submission` with another one, or with none, changes nothing.
        """
        return self._take(place, submission)

    def adopt(self, place: int, submission: Submission) -> Row:
        """As `update`, where it was not known whether `submission` was sent: its message and time are Kaggle's."""
        when = submission_time(submission) or self.rows[place].time
        return self._take(place, submission, time=when, message=one_line(submission.description))

    def unknown(self, submissions: Iterable[Submission], sha256: str) -> list[Submission]:
        """Those of `submissions` that carry the id of the file with this SHA-256, and whose ref no row has."""
        refs, mark = self.refs, submission_id(sha256)
        return [
            each
            for each in submissions
            if one_line(each.description).endswith(mark) and each.ref > 0 and each.ref not in refs
        ]

    def _take(self, place: int, submission: Submission, **values: Any) -> Row:
        row = self.rows[place]
        if submission.ref <= 0 or row.ref not in (0, submission.ref):
            return row
        return self.change(place, **_told(submission), **values)

    def _write(self, rows: list[Row]) -> None:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([value or "" for value in astuple(row)] for row in rows)
        write_text(self.path, text.getvalue())
        self.rows = rows


def submission_id(sha256: str) -> str:
    """The last word of the message of every submission of the file with this SHA-256."""
    return f"#{sha256[:ID_DIGITS]}"


def compose_message(text: str, sha256: str) -> str:
    """Return the message that is sent: `text` in one line, and the id.

    Raises `UserError` where it is too long, or no valid text.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            f"The message is not valid text: its character {error.start + 1} is not UTF-8. Type MSG= anew."
        ) from None
    line = one_line(text)
    if len(line) > MESSAGE_CHARACTERS:
        raise UserError(f"The message has {len(line)} characters; at most {MESSAGE_CHARACTERS} are sent. Shorten MSG=.")
    return f"{line} {submission_id(sha256)}".lstrip()


def look_for(
    log: SubmissionLog,
    sha256: str,
    submissions: Callable[[], Sequence[Submission]],
    pauses: Iterable[float] = LOOK_PAUSES,
) -> Submission | None:
    """Return the submission of the file with this SHA-256 that the log does not know; None where Kaggle has none.

    submissions: asks Kaggle for its list; it is asked again after each of `pauses`, in seconds.  Raises its
    `TryAgainLater` where the last question failed, so that nothing is known.
    """
    trouble: TryAgainLater | None = None
    for pause in pauses:
        time.sleep(pause)
        try:
            found = log.unknown(submissions(), sha256)
        except TryAgainLater as error:
            trouble = error
            continue
        if found:
            return found[0]
        trouble = None
    if trouble:
        raise trouble
    return None


def may_be_unlisted(row: Row, counted: Callable[[], int], listed: Callable[[], int]) -> bool:
    """Whether Kaggle may have the submission of `row`, of which its list shows nothing yet.

    counted, listed: ask how many submissions Kaggle says it has, and how many it lists.  More counted than listed ones
    say nothing of a row that is long past, and then nothing is asked.
    """
    try:
        age = (datetime.now(UTC) - _in_utc(datetime.fromisoformat(row.time))).total_seconds()
    except ValueError:  # of a log that a person wrote in
        return False
    return abs(age) < LISTED_AFTER and counted() > listed()


def submission_time(submission: Submission) -> str:
    """When Kaggle got `submission`, as the log writes it; empty where it does not say."""
    return _as_written(datetime.fromisoformat(submission.date)) if submission.date else ""


def now() -> str:
    """The time as the log writes it."""
    return _as_written(datetime.now(UTC))


def submission_status(submission: Submission) -> str:
    """The status that a row of `submission` has."""
    if submission.status == "error":
        return f"{ERROR}{one_line(submission.error) or 'Kaggle does not say why'}"
    return COMPLETE if submission.status == "complete" else PENDING


def _told(submission: Submission) -> dict[str, Any]:
    return {
        "ref": submission.ref,
        "status": submission_status(submission),
        "public_score": plain_score(submission.public_score),
        "private_score": plain_score(submission.private_score),
    }


def plain_score(text: str) -> str:
    """A score as Kaggle writes it, to the last digit; empty where it is none."""
    try:
        return text.strip() if math.isfinite(float(text)) else ""
    except ValueError:
        return ""


def _as_written(moment: datetime) -> str:
    return _in_utc(moment).strftime("%Y-%m-%dT%H:%M:%SZ")


def _in_utc(moment: datetime) -> datetime:
    """`moment` in UTC, which is meant where a hand-edited log names no zone."""
    return moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)


def _read(path: Path) -> list[Row]:
    """Return the rows of the log; a blank line counts for nothing."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise _damaged(path, line, "it is not UTF-8") from None
    lines = _numbered_rows(path, text)
    line, header = next(lines, (1, []))
    if unknown := sorted(set(header) - set(COLUMNS)):
        raise _damaged(path, line, f"unknown columns {', '.join(map(repr, unknown))}; there are: {', '.join(COLUMNS)}")
    if tuple(header) != COLUMNS:
        raise _damaged(path, line, f"the header should be {','.join(COLUMNS)}")
    return [_row(path, line, values) for line, values in lines]


def _numbered_rows(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """Each row with the line on which it starts."""
    reader, start = csv.reader(io.StringIO(text, newline=""), strict=True), 1
    try:
        for values in reader:
            if values:
                yield start, values
            start = reader.line_num + 1
    except csv.Error as error:
        raise _damaged(path, start, f"it is not valid CSV: {error}") from None


def _row(path: Path, line: int, values: list[str]) -> Row:
    if len(values) != len(COLUMNS):
        raise _damaged(path, line, f"{len(values)} values for {len(COLUMNS)} columns")
    cells: dict[str, Any] = dict(zip(COLUMNS, values, strict=True))
    if cells["ref"] and not (cells["ref"].isascii() and cells["ref"].isdigit()):
        raise _damaged(path, line, f"the ref is {cells['ref']!r}, and should be a number")
    cells["ref"] = int(cells["ref"] or 0)
    if cells["status"] not in (SENDING, PENDING, COMPLETE, NOT_SENT) and not cells["status"].startswith(ERROR):
        known = ", ".join((SENDING, PENDING, COMPLETE, NOT_SENT))
        raise _damaged(path, line, f"the status is {cells['status']!r}; there are: {known}, and {ERROR}…")
    for column in ("local_score", "public_score", "private_score"):
        try:
            float(cells[column] or 0)
        except ValueError:
            raise _damaged(path, line, f"the {column} is {cells[column]!r}, and should be a number") from None
    return Row(**cells)


def _damaged(path: Path, line: int, what: str) -> UserError:
    return UserError(
        f"{path}, line {line}: {what}. Mend this line; or, where that cannot be done, move the file away: what was "
        "sent is found again at Kaggle."
    )
