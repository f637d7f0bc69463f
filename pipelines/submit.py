"""Send a submission to Kaggle and wait for its score.  The same file is not sent twice by accident.

Reads   submissions/<c>/<run>.csv, which is first checked against the sample; runs/<c>/<run>/predict.json for its local
        score; runs/<c>/<run>-kernel/, the run on Kaggle, where the competition takes code; Kaggle;
        oof.csv of this run and of the best one sent before, for a note if this one is not clearly better.
Writes  submissions/<c>/log.csv: a row before anything is sent, updated when Kaggle has the file and when it is scored;
        submissions/<c>/limits.json: how many submissions are left.

After an interruption at any point, run the same command again to continue.  If it is unknown whether the file was sent,
it searches Kaggle's submissions for the id at the end of the message.  Where the competition takes code, the version of
the kernel is sent in place of the file: Kaggle runs it again and scores the submission.csv that it then writes.
"""

import hashlib
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipelines import command
from pipelines.kaggle import service, submission_log
from pipelines.kaggle.failures import CODE_ONLY, ConnectionLost
from pipelines.kaggle.limits import write_limits
from pipelines.kaggle.service import Kaggle, Limits, Submission
from pipelines.kaggle.submission_log import NOT_SENT, PENDING, Row, SubmissionLog, look_for, may_be_unlisted
from pipelines.report.sent_before import note_on_sent
from pipelines.settings.layout import Layout
from pipelines.settings.loading import submission_name
from pipelines.settings.schema import Settings
from pipelines.system.errors import TryAgainLater, UserError, one_line
from pipelines.system.files import file_sha256, only_one, read_json
from pipelines.system.shell import removal
from pipelines.tools.reporting import refresh

FIRST_PAUSE, LONGEST_PAUSE, PAUSE_GROWTH = 1.0, 15.0, 1.5  # seconds between two requests for the score
SHOWN_DIGITS = 12
OUTPUT = "submission.csv"  # that a kernel leaves for the competition


@dataclass(frozen=True)
class Parcel:
    """path: the checked copy, which is sent; where code is sent, the answers of `version` of `kernel`.

    sha256: identifies what is sent.  local_score: text with 5 decimals, empty if unknown.  again: whether to send what
    was sent before; send_again: the command for that.
    """

    path: Path
    sha256: str
    run: str
    local_score: str
    message: str
    again: bool
    send_again: str
    kernel: str = ""
    version: int = 0

    @property
    def name(self) -> str:
        """What is sent, for the log."""
        return f"{self.kernel} version {self.version}" if self.kernel else self.path.name


def main(arguments: Sequence[str] | None = None) -> None:
    parser = command.parser(__doc__, "submit")
    parser.add_argument("--message", default="", help="description shown by Kaggle; default: the run and its score")
    parser.add_argument("--again", action="store_true", help="send a file that was sent before")
    words = parser.parse_args(arguments, namespace=command.Words())
    settings, layout = words.settings(), words.layout()
    submission = layout.submission(submission_name(words.run_name(), words.set))
    shown = submission.relative_to(layout.root)
    if not service.takes_submissions(settings.competition.source):
        raise UserError(f"{settings.name} is not a competition on Kaggle. To score it here: {words.repeat('score')}")
    if submission == layout.submission_log:
        raise UserError(f"{shown} is the log of sent submissions. Choose another run name: RUN=")
    if not submission.exists():
        stage = "predict" if settings.competition.takes == "file" else "kernel"
        raise UserError(f"{shown} is missing. First: {words.repeat(stage)}")
    command.print_credential()
    slug = settings.competition.slug
    with tempfile.TemporaryDirectory() as private:
        # another process may rewrite the file between the check and the upload
        copy = Path(shutil.copy2(submission, private))
        parcel = _prepare(copy, submission, settings, layout, words)
        if parcel.local_score and (note := note_on_sent(parcel.run, parcel.sha256, layout, settings)):
            print(note, flush=True)
        with (
            only_one(layout.submission_lock(slug), f"sending a submission to {slug}") as lock,
            Kaggle(slug, settings.kaggle.stall_seconds, (lock,)) as kaggle,
        ):
            log = SubmissionLog(layout.submission_log)
            place = _sent_before(kaggle, log, parcel)
            if place is None:
                place = _send(kaggle, log, parcel, layout.submission_limits)
            row = log.rows[place]
            if row.status == PENDING:
                row = _wait(kaggle, log, place, settings.kaggle.score_minutes, words.repeat("submissions"))
    if row.error:
        raise UserError(
            f'Kaggle\'s own check refused the file (ref {row.ref}): "{row.error}". Correct its cause, predict again '
            f"({removal(submission)}; {words.repeat('predict')}) and run the same command again. If the file was "
            f"right, send it again: {parcel.send_again}"
        )
    print(_scores(row))
    refresh(words)
    print(f"Log: {log.path.relative_to(layout.root)}. Next: {words.repeat('submissions')}")


def _prepare(copy: Path, submission: Path, settings: Settings, layout: Layout, words: command.Words) -> Parcel:
    """Check the `copy` of `submission`, print what would be sent, and return it.  Raises `UserError`."""
    shown, run, sha256 = submission.relative_to(layout.root), words.run_name(), file_sha256(copy)
    note = _prediction_note(layout.run(run).predicted, copy.name, sha256)
    rows, how = _check(copy, submission, settings, layout, words, note)
    local, score = "-", note.get("valid_score")
    if score is None:
        print(f"Note: {shown} is not as make predict left it for the run {run}, so its local score is unknown.")
    else:
        local = f"{settings.competition.metric} {score:.4f}"
        if "valid_interval" in note:
            local += command.uncertainty(tuple(note["valid_interval"]), note["valid_images"])
    text = words.message.strip() or (run if score is None else f"{run} valid {score:.4f}")
    local_score = "" if score is None else f"{score:.5f}"
    again = words.repeat("submit", AGAIN="1")
    parcel = Parcel(copy, sha256, run, local_score, "", words.again, again)
    if settings.competition.takes == "code":
        parcel = _of_kernel(parcel, settings, layout, words)
    message = submission_log.compose_message(text, parcel.sha256)
    facts = {"kernel": parcel.name} if parcel.kernel else {}
    facts |= {"file": f"{shown} ({how})", "rows": f"{rows:,}", "sha256": f"{sha256[:SHOWN_DIGITS]}…", "run": run}
    for what, value in (facts | {"local score": local, "message": message}).items():
        print(f"  {what:<11}  {value}")
    sys.stdout.flush()
    return replace(parcel, message=message)


def _of_kernel(parcel: Parcel, settings: Settings, layout: Layout, words: command.Words) -> Parcel:
    """Return the parcel with the version of the kernel that has written its answers.  Raises `UserError`."""
    from pipelines.kaggle.kernel_run import FETCHED, KernelRun
    from pipelines.settings.competitions import find_competition

    run = KernelRun(find_competition(words.competition), settings, layout, parcel.run, words.set)
    state = run.state()
    if state is None or state.state != FETCHED:
        raise UserError(
            f"{settings.name} takes code (competition.takes), and {run.shown(run.submission)} was not made by a kernel "
            f"on Kaggle. Run the kernel, under another name: {words.repeat('kernel', RUN=f'{parcel.run}-kaggle')}"
        )
    # The answers to the few visible test images may be the same for two versions.
    sha256 = hashlib.sha256(f"{state.kernel} {state.version}".encode()).hexdigest()
    return replace(parcel, sha256=sha256, kernel=state.kernel, version=state.version)


def _prediction_note(predicted: Path, name: str, sha256: str) -> dict[str, Any]:
    """Return what `predict` recorded of exactly this file, or an empty dictionary."""
    try:
        note = read_json(predicted)[name]
        return dict(note) if note["sha256"] == sha256 else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _check(
    copy: Path, submission: Path, settings: Settings, layout: Layout, words: command.Words, note: dict[str, Any]
) -> tuple[int, str]:
    """Return the number of rows of the `copy` of `submission`, and how it was checked."""
    from pipelines.dataset.splits import read_split_csv
    from pipelines.dataset.submission import class_list
    from pipelines.dataset.submission_check import check_submission

    shown, sample = submission.relative_to(layout.root), settings.data.sample_submission
    predict = f"Nothing was sent. To predict it again: {removal(submission)}; {words.repeat('predict')}"
    with open(copy, "rb") as file:
        if sum(1 for line in file if line.strip()) < 2:
            raise UserError(f"{shown} has no rows. {predict}")
    for missing, stage in ((layout.raw / sample, "download"), (layout.split_csv, "split")):
        if not missing.exists():
            if note:
                return int(note["rows"]), "checked where it was predicted"
            place = missing.relative_to(layout.root)
            raise UserError(f"{place} is missing, and {shown} is checked with it. First: {words.repeat(stage)}")
    table = read_split_csv(layout.split_csv, words.repeat("split"))
    classes = class_list(table.loc[table["split"] != "test", "label"].tolist(), settings, layout.raw)
    try:
        rows = check_submission(copy, classes, settings, layout.raw)
    except UserError as error:
        raise UserError(f"{str(error).replace(str(copy), str(submission))} {predict}") from None
    return rows, f"checked against {sample}" if sample else "checked, without a sample"


def _sent_before(kaggle: Kaggle, log: SubmissionLog, parcel: Parcel) -> int | None:
    """Return the index of the row if the file was sent before and is not to be sent again, else None.

    An attempt of unknown outcome, and a submission without a score, are continued even with `parcel.again`.
    """
    places = log.places(parcel.sha256)
    for place in places:
        if log.rows[place].unsettled:
            print("An earlier attempt was interrupted: looking whether Kaggle has it.", flush=True)
            if found := look_for(log, parcel.sha256, kaggle.submissions):
                return _adopt(log, place, found)
            if may_be_unlisted(log.rows[place], lambda: kaggle.limits().total, lambda: len(kaggle.submissions())):
                raise TryAgainLater(
                    "Kaggle counts more submissions than it lists, so it may have this file already. Nothing was sent "
                    "now: run the same command again in some minutes."
                )
            print("Kaggle does not have it.")
            log.change(place, status=NOT_SENT)
    sent = [place for place in places if log.rows[place].ref]
    for place in reversed(sent):
        if log.rows[place].status == PENDING:
            print(f"Already sent, as ref {log.rows[place].ref}. Waiting for its score.", flush=True)
            return place
    if parcel.again or not sent:
        return None
    row = log.rows[sent[-1]]
    print(f"Already sent: {row.file}, as ref {row.ref}, {row.time}.")
    if not row.error:
        print(f"To send it again: {parcel.send_again}")
    return sent[-1]


def _adopt(log: SubmissionLog, place: int, found: Submission) -> int:
    print(f"Kaggle has it, as ref {found.ref}.", flush=True)
    log.adopt(place, found)
    return place


def _send(kaggle: Kaggle, log: SubmissionLog, parcel: Parcel, limits_file: Path) -> int:
    """Send the parcel and return the index of its row; if Kaggle has the file already, adopt that submission.

    limits_file: for the number of submissions that are left.
    """
    competition = kaggle.competition()
    if not competition.entered:
        raise service.not_entered(kaggle.slug)
    _check_open(competition, bool(parcel.kernel))
    place = -1
    for submission in reversed(log.unknown(kaggle.submissions(), parcel.sha256)):
        place = _new_row(log, parcel)
        log.adopt(place, submission)
    if place >= 0 and not parcel.again:
        ref = log.rows[place].ref
        print(f"Kaggle has this file already, as ref {ref}. To send it again: {parcel.send_again}", flush=True)
        return place
    limits = kaggle.limits()
    write_limits(limits_file, limits)
    _check_quota(limits)

    place = _new_row(log, parcel)
    try:
        if parcel.kernel:
            sent = kaggle.submit_code(parcel.kernel, parcel.version, OUTPUT, parcel.message)
        else:
            sent = kaggle.submit(parcel.path, parcel.message)
    except ConnectionLost as error:
        trouble = str(error)
    except UserError:
        log.change(place, status=NOT_SENT)
        raise
    else:
        trouble = _record(log, place, sent)
    if trouble:
        _find(kaggle, log, place, limits, trouble)
    write_limits(limits_file, limits, sent=1)
    return place


def _new_row(log: SubmissionLog, parcel: Parcel) -> int:
    """Add a row for the parcel, or reuse the row of a failed attempt, and return its index."""
    facts = (parcel.run, parcel.name, parcel.sha256, parcel.message)
    row = Row(submission_log.now(), *facts, local_score=parcel.local_score)
    for place in log.places(parcel.sha256):
        if log.rows[place].status == NOT_SENT:
            log.replace(place, row)
            return place
    return log.add(row)


def _record(log: SubmissionLog, place: int, sent: service.Sent) -> str:
    """Log Kaggle's answer.  Return the trouble if it is unclear whether Kaggle has the file, else an empty text."""
    if sent.ref > 0 and sent.ref not in log.refs:
        log.change(place, ref=sent.ref, status=PENDING)
        print(f"Sent, as ref {sent.ref}.", flush=True)
        return ""
    if not sent.uploaded:
        log.change(place, status=NOT_SENT)
        raise TryAgainLater(
            "The file could not be uploaded to Kaggle's storage, so nothing was submitted and no submission of today "
            "was used. Try again later, with the same command."
        )
    return f'Kaggle did not confirm the submission, but answered: "{one_line(sent.message)}".'


def _find(kaggle: Kaggle, log: SubmissionLog, place: int, limits: Limits, trouble: str) -> None:
    """Adopt the submission whose answer was lost.  Raises `TryAgainLater` if it is not listed.  limits: before it."""
    print("The answer is unclear: looking whether Kaggle has the submission.", flush=True)
    try:
        found = look_for(log, log.rows[place].sha256, kaggle.submissions)
        unlisted = not found and kaggle.limits().total != limits.total
    except UserError as error:
        raise type(error)(
            f"{trouble} Whether Kaggle has the submission could not be found out either: {error} The same command "
            "looks for it first, and sends it only if it is not there."
        ) from None
    if unlisted:
        raise TryAgainLater(
            f"{trouble} Kaggle counts one more submission than before but does not list it yet; the same command looks "
            "again before it sends anything."
        )
    if not found:
        log.change(place, status=NOT_SENT)
        raise TryAgainLater(f"{trouble} It is not among the submissions at Kaggle: the same command sends it again.")
    _adopt(log, place, found)


def _check_open(competition: service.Competition, code: bool) -> None:
    """Print a note if the competition is over; raise `UserError` if it accepts no submissions."""
    if competition.submissions_disabled:
        raise UserError(f"{competition.title} takes no submissions: Kaggle has disabled them. Nothing was sent.")
    if competition.code_only and not code:
        raise UserError(f"Nothing was sent. {CODE_ONLY}")
    if code and not competition.code_only:
        raise UserError(
            f'Nothing was sent: {competition.title} takes files, but competition.takes is "code". Set it to "file" '
            "and run the same command again."
        )
    if competition.deadline and (deadline := datetime.fromisoformat(competition.deadline)) < datetime.now(UTC):
        ended = f"{competition.title} ended on {deadline:%Y-%m-%d}"
        print(f"{ended}: this is a late submission, which is scored but not ranked.")


def _check_quota(limits: Limits) -> None:
    """Print how many submissions are left; raise `UserError` if none are."""
    if not limits.spent:
        if limits.left:  # 0: unknown, for a team that never sent a submission
            print(f"Submissions left now: {limits.left}; sent today: {limits.today}.", flush=True)
        return
    if limits.limited_by_total:
        reason = f"the competition limits their total number, and {limits.total} were sent"
        raise UserError(f"No submissions are left: {reason}. Nothing was sent now.")
    raise UserError(
        f"No submissions are left today: {limits.today} were sent. Kaggle's new day begins at 00:00 UTC, in "
        f"{command.duration(service.seconds_to_new_day())}. Nothing was sent; run the same command then."
    )


def _wait(kaggle: Kaggle, log: SubmissionLog, place: int, minutes: float, read_back: str) -> Row:
    """Ask for the score until Kaggle has it, and return the row.  Raises `TryAgainLater` after `minutes`."""
    row = log.rows[place]
    last = "it is still pending"
    for _ in command.progress(_looks(minutes), "waiting for the score", unit="looks"):
        try:
            row = log.update(place, kaggle.submission(row.ref))
            last = "it is still pending"
        except TryAgainLater as error:  # the connection failed, not the submission
            last = str(error)
        except UserError as error:
            trouble = f"but its score cannot be read: {error}"
            raise UserError(f"The submission is sent, as ref {row.ref}, {trouble}") from None
        if row.status != PENDING:
            return row
    raise TryAgainLater(
        f"The submission is sent, as ref {row.ref}, and nothing is lost; but there is no score after {minutes:g} "
        f"minutes ({last}). Read it later: {read_back}"
    )


def _looks(minutes: float) -> Iterator[int]:
    """Yield the number of the request: at once, then after growing pauses, and when the time is over."""
    deadline = time.monotonic() + 60 * minutes
    pause, count = FIRST_PAUSE, 0
    yield count
    while (left := deadline - time.monotonic()) > 0:
        time.sleep(min(pause, left))
        pause, count = min(pause * PAUSE_GROWTH, LONGEST_PAUSE), count + 1
        yield count


def _scores(row: Row) -> str:
    local = f"{float(row.local_score):.4f}" if row.local_score else "unknown"
    private = f"private score {row.private_score}" if row.private_score else "the private score is not known yet"
    return f"Public score {row.public_score or 'unknown'} (local {local}); {private}."


if __name__ == "__main__":
    sys.exit(command.run(main))
