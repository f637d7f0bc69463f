"""The log of submissions, log.csv, and the search for a submission whose answer was lost.

The message of every submission ends with the first digits of the file's SHA-256, which identify it in Kaggle's list.
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
from pipelines.system.errors import TryAgainLater, UserError, one_line
from pipelines.system.files import write_text
from pipelines.system.shell import path_word

SENDING, PENDING, COMPLETE, NOT_SENT, ERROR = "sending", "pending", "complete", "not sent", "error: "
ID_DIGITS = 12
MESSAGE_CHARACTERS = 200
# A submission sent just before its process was killed may reach Kaggle after the next request for the list.
LOOK_PAUSES = (0.0, 0.5, 1.0, 2.0)
LISTED_AFTER = 600  # seconds after which Kaggle lists every submission that it counts


@dataclass(frozen=True)
class Row:
    """time: ISO 8601 in UTC.  ref: Kaggle's number, 0 while unknown.  Scores are text, empty while unknown.

    status: sending, pending, complete, not sent, or `error: …` in Kaggle's words.  local_score: the validation score.
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
        """Kaggle's reason for refusing the file, or empty."""
        return self.status.removeprefix(ERROR) if self.status.startswith(ERROR) else ""

    @property
    def unsettled(self) -> bool:
        """Whether it is unknown if Kaggle has it: search for it before sending it again."""
        return not self.ref and self.status != NOT_SENT


COLUMNS = tuple(field.name for field in fields(Row))


class SubmissionLog:
    """The log at `path`, oldest row first.  Every change is written atomically at once; the caller holds the lock.

    Raises `UserError` with file and line for a damaged log, which stays as it is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[Row] = _read(path) if path.exists() else []

    @property
    def refs(self) -> set[int]:
        """Return Kaggle's numbers of the submissions in the log."""
        return {row.ref for row in self.rows if row.ref}

    def places(self, sha256: str) -> list[int]:
        """Return the indices of the rows of the file with this SHA-256, oldest first."""
        return [place for place, row in enumerate(self.rows) if row.sha256 == sha256]

    def add(self, row: Row) -> int:
        self._write([*self.rows, row])
        return len(self.rows) - 1

    def replace(self, place: int, row: Row) -> Row:
        if row != self.rows[place]:
            self._write([*self.rows[:place], row, *self.rows[place + 1 :]])
        return row

    def change(self, place: int, **values: Any) -> Row:
        return self.replace(place, replace(self.rows[place], **values))

    def update(self, place: int, submission: Submission, **values: Any) -> Row:
        """Copy ref, status and scores into the row, set `values`, and return it; change nothing for another ref."""
        row = self.rows[place]
        if submission.ref <= 0 or row.ref not in (0, submission.ref):
            return row
        scores = {name: plain_score(getattr(submission, name)) for name in ("public_score", "private_score")}
        return self.change(place, ref=submission.ref, status=submission_status(submission), **scores, **values)

    def adopt(self, place: int, submission: Submission) -> Row:
        """As `update`, for a row of unknown outcome: copy the message and time too."""
        when = submission_time(submission) or self.rows[place].time
        return self.update(place, submission, time=when, message=one_line(submission.description))

    def unknown(self, submissions: Iterable[Submission], sha256: str) -> list[Submission]:
        """Return the `submissions` that carry the id of the file with this SHA-256, and whose ref is not in the log."""
        refs, mark = self.refs, submission_id(sha256)
        new = (each for each in submissions if each.ref > 0 and each.ref not in refs)
        return [each for each in new if one_line(each.description).endswith(mark)]

    def _write(self, rows: list[Row]) -> None:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([value or "" for value in astuple(row)] for row in rows)
        write_text(self.path, text.getvalue())
        self.rows = rows


def submission_id(sha256: str) -> str:
    """Return the last word of the message of each submission of the file with this SHA-256."""
    return f"#{sha256[:ID_DIGITS]}"


def compose_message(text: str, sha256: str) -> str:
    """Return the message to send: `text` on one line, and the id.  Raises `UserError` for long or invalid text."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        where = f"its character {error.start + 1} is not UTF-8"
        raise UserError(f"The message is not valid text: {where}. Correct MSG=.") from None
    line = one_line(text)
    if len(line) > MESSAGE_CHARACTERS:
        raise UserError(f"The message has {len(line)} characters; at most {MESSAGE_CHARACTERS} are sent. Shorten MSG=.")
    return f"{line} {submission_id(sha256)}".lstrip()


def look_for(
    log: SubmissionLog,
    sha256: str,
    submissions: Callable[[], Sequence[Submission]],
    pauses: Sequence[float] = LOOK_PAUSES,
) -> Submission | None:
    """Return Kaggle's submission of the file with this SHA-256 that is not in the log, or None.

    submissions: returns Kaggle's list; called after each of `pauses`, in seconds.  Raises its `TryAgainLater` if the
    last call failed, because then the answer is unknown.
    """
    trouble: TryAgainLater | None = None
    for pause in pauses:
        time.sleep(pause)
        try:
            if found := log.unknown(submissions(), sha256):
                return found[0]
            trouble = None
        except TryAgainLater as error:
            trouble = error
    if trouble:
        raise trouble
    return None


def may_be_unlisted(row: Row, counted: Callable[[], int], listed: Callable[[], int]) -> bool:
    """Return whether Kaggle may have the submission of `row` but not list it yet.

    True for a recent row if Kaggle counts more submissions than it lists; `counted` and `listed` return these numbers.
    """
    try:
        age = (datetime.now(UTC) - _in_utc(datetime.fromisoformat(row.time))).total_seconds()
    except ValueError:  # a log edited by hand
        return False
    return abs(age) < LISTED_AFTER and counted() > listed()


def submission_time(submission: Submission) -> str:
    """Return the time of `submission` in the form of the log; empty if unknown."""
    return _log_time(datetime.fromisoformat(submission.date)) if submission.date else ""


def now() -> str:
    return _log_time(datetime.now(UTC))


def submission_status(submission: Submission) -> str:
    if submission.status == "error":
        return f"{ERROR}{one_line(submission.error) or 'Kaggle does not say why'}"
    return COMPLETE if submission.status == "complete" else PENDING


def plain_score(text: str) -> str:
    """Return a score with all of Kaggle's digits; empty if it is no finite number."""
    try:
        return text.strip() if math.isfinite(float(text)) else ""
    except ValueError:
        return ""


def _log_time(moment: datetime) -> str:
    return _in_utc(moment).strftime("%Y-%m-%dT%H:%M:%SZ")


def _in_utc(moment: datetime) -> datetime:
    """Return `moment` in UTC, the default zone of a hand-edited log."""
    return moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)


def _read(path: Path) -> list[Row]:
    """Return the rows of the log, without blank lines."""
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
    """Yield each row with its first line number."""
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
        raise _damaged(path, line, f"the ref is {cells['ref']!r}, not a number")
    cells["ref"] = int(cells["ref"] or 0)
    if cells["status"] not in (SENDING, PENDING, COMPLETE, NOT_SENT) and not cells["status"].startswith(ERROR):
        known = ", ".join((SENDING, PENDING, COMPLETE, NOT_SENT))
        raise _damaged(path, line, f"the status is {cells['status']!r}; there are: {known}, and {ERROR}…")
    for column in ("local_score", "public_score", "private_score"):
        try:
            float(cells[column] or 0)
        except ValueError:
            raise _damaged(path, line, f"the {column} is {cells[column]!r}, not a number") from None
    return Row(**cells)


def _damaged(path: Path, line: int, what: str) -> UserError:
    return UserError(
        f"{path_word(path)}, line {line}: {what}. Correct this line; or move the file away: submissions are found "
        "again at Kaggle."
    )
