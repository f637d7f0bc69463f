"""Kaggle's API for the stages: typed calls and answers, and errors that say what to do."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pipelines.kaggle.client import Client
from pipelines.kaggle.failures import COMPETITION_PAGE, RULES_PAGE, Failure, Unanswered, explained, shortened
from pipelines.settings.addresses import PART, competition_name
from pipelines.system.errors import UserError, quoted

LISTED_FILES = 5_000  # of a competition's file list, 200 per call; some competitions have a million files
STANDIN = "LOCALHOST"


@dataclass(frozen=True)
class Competition:
    """A competition and the account's state in it.  deadline: ISO 8601 in UTC, or empty.

    code_only: it takes no files, only kernels that Kaggle runs again.  metric: in Kaggle's words, or empty.
    """

    title: str
    entered: bool
    deadline: str
    submissions_disabled: bool
    code_only: bool
    daily_submissions: int
    metric: str = ""


@dataclass(frozen=True)
class Limits:
    """The team's submissions: sent today, sent in total, and still allowed now."""

    today: int
    total: int
    left: int
    limited_by_total: bool

    @property
    def spent(self) -> bool:
        """Whether no submission is left.  All zeros mean a team that never sent one: Kaggle then reports no limit."""
        return not self.left and bool(self.today or self.total)


@dataclass(frozen=True)
class Submission:
    """date: ISO 8601 in UTC, or empty.  status: pending, complete or error.  Scores are text, empty while unknown."""

    ref: int
    date: str
    description: str
    file: str
    status: str
    public_score: str
    private_score: str
    error: str


@dataclass(frozen=True)
class Sent:
    """ref: 0 if Kaggle did not confirm the submission; `uploaded` then says whether Kaggle may have it anyway."""

    ref: int
    uploaded: bool
    message: str


@dataclass(frozen=True)
class PushedKernel:
    """A pushed kernel.  invalid: the sources that Kaggle could not attach, by kind."""

    url: str
    version: int
    error: str
    invalid: dict[str, list[str]]


@dataclass(frozen=True)
class KernelStatus:
    """The state of a kernel's last session: queued, running, complete, error, cancel_requested, …"""

    status: str
    message: str


@dataclass(frozen=True)
class KernelOutput:
    """The output of a kernel's last session: its files (download address by name), and its log as plain text."""

    files: dict[str, str]
    log: str


class Kaggle:
    """Calls to Kaggle, about the competition `slug`.  As a context manager it starts the client's process at once.

    stall_seconds, held: see `Client`.  All calls raise `UserError` if the user can fix the failure, and `TryAgainLater`
    if Kaggle or the network failed.
    """

    def __init__(self, slug: str = "", stall_seconds: float = 120, held: Sequence[int] = ()) -> None:
        check_environment(os.environ)
        if slug and not PART.fullmatch(slug):
            name = competition_name(slug).lower()
            raise UserError(
                f"competition.slug is {quoted(slug)} (by default the name of the TOML), which Kaggle cannot have: its "
                f'names hold letters, digits and hyphens. Set slug under [competition], for example slug = "{name}": '
                f"the last part of {COMPETITION_PAGE.format(slug='...')}."
            )
        self.slug, self.client = slug, Client(stall_seconds, held)

    def __enter__(self) -> "Kaggle":
        self.client.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        self.client.close()

    def username(self) -> str:
        """Return the account name of the credentials."""
        return str(self._ask("user"))

    def competition(self) -> Competition:
        answer = self._ask("competition", slug=self.slug)
        return Competition(**answer | {"title": shortened(answer["title"]), "metric": shortened(answer["metric"])})

    def limits(self) -> Limits:
        return Limits(**self._ask("limits", slug=self.slug))

    def files(self) -> dict[str, int]:
        """Return the bytes of the competition's files by name, at most `LISTED_FILES` of them and at least one."""
        found = dict(self._ask("files", slug=self.slug, most=LISTED_FILES))
        if not found:
            page = COMPETITION_PAGE.format(slug=self.slug)
            raise Unanswered(
                f"Kaggle lists no files for {self.slug!r}, so a download cannot be checked. Try again later; or "
                f"download the data in a browser, from {page}/data, and pass them with ARCHIVE=."
            )
        return found

    def download(self, folder: Path, arrived: Callable[[], int]) -> None:
        """Download the archive into the existing `folder`, resuming a partial file.  arrived: polled for its bytes."""
        self._ask("download", arrived, slug=self.slug, folder=str(folder))

    def submit(self, path: Path, message: str) -> Sent:
        return Sent(**self._ask("submit", slug=self.slug, path=str(path), message=message))

    def submit_code(self, kernel: str, version: int, file: str, message: str) -> Sent:
        """Submit a version of `kernel`, an `owner/name`, which has left its answers in `file`."""
        answer = self._ask("submit_code", slug=self.slug, kernel=kernel, version=version, file=file, message=message)
        return Sent(**answer)

    def submissions(self) -> list[Submission]:
        """Return all submissions of the team, newest first."""
        return [Submission(**each) for each in self._ask("submissions", slug=self.slug)]

    def submission(self, ref: int) -> Submission:
        """Return the submission `ref`.  Raises `Unanswered` if Kaggle answers with another one."""
        answer = Submission(**self._ask("submission", ref=ref))
        if answer.ref != ref:
            raise Unanswered(f"Kaggle was asked for submission {ref} and answered with {answer.ref}. Try again later.")
        return answer

    def push_kernel(self, folder: Path, hours: float) -> PushedKernel:
        """Save and start the kernel in `folder`, which holds kernel-metadata.json; it may run for `hours`."""
        return PushedKernel(**self._ask("push_kernel", folder=str(folder), seconds=round(hours * 3600)))

    def kernel_status(self, kernel: str) -> KernelStatus:
        """Return the state of the last session of `kernel`, an `owner/name`.  Raises `NoSuchKernel`."""
        return KernelStatus(**self._ask("kernel_status", kernel=kernel))

    def kernel_output(self, kernel: str) -> KernelOutput:
        answer = self._ask("kernel_output", kernel=kernel)
        return KernelOutput({file["name"]: file["url"] for file in answer["files"]}, _plain_log(answer["log"]))

    def gpu_hours(self) -> tuple[float, float]:
        """Return this week's used and allowed hours of GPU."""
        used, allowed = self._ask("gpu_hours")
        return used, allowed

    def fetch(self, url: str, path: Path) -> None:
        """Save the content of `url` as `path`, overwriting it."""
        self._ask("fetch", lambda: path.stat().st_size if path.exists() else 0, url=url, path=str(path))

    def _ask(self, call: str, moved: Callable[[], object] = lambda: None, **arguments: Any) -> Any:
        answer = self.client.ask(call, arguments, moved)
        if "failure" in answer:
            raise explained(Failure(**answer["failure"]), call, self.slug)
        return answer["value"]


def check_environment(environment: Mapping[str, str]) -> None:
    """Raise `UserError` if KAGGLE_API_ENVIRONMENT has an unknown value: the client then uses the real Kaggle."""
    name = environment.get("KAGGLE_API_ENVIRONMENT")
    if name not in (None, "PROD", STANDIN):
        raise UserError(
            f"KAGGLE_API_ENVIRONMENT is {name!r}, with which the client would send your credentials to the real "
            f"Kaggle. Unset it, or set it to {STANDIN} for the stand-in (make kaggle-standin)."
        )


def takes_submissions(source: str) -> bool:
    """Return whether a competition of this `source`, competition.source, is scored at Kaggle or the stand-in."""
    return source == "kaggle" or is_standin()


def is_standin() -> bool:
    """Return whether calls go to the stand-in instead of Kaggle."""
    return os.environ.get("KAGGLE_API_ENVIRONMENT") == STANDIN


def seconds_to_new_day() -> float:
    """Return the seconds until midnight UTC, when Kaggle resets the count of submissions."""
    moment = datetime.now(UTC)
    midnight = (moment + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    return (midnight - moment).total_seconds()


def not_entered(slug: str) -> UserError:
    """Return the error for a competition whose rules the account has not accepted."""
    return UserError(
        f"You have not joined the competition {slug}: accept its rules at {RULES_PAGE.format(slug=slug)} "
        '("Join Competition" or "Late Submission"), then run the same command again.'
    )


def _plain_log(log: str) -> str:
    """Return a kernel's log as plain text; Kaggle sends JSON with one piece per line of output."""
    try:
        return "".join(str(piece["data"]) for piece in json.loads(log))
    except (ValueError, TypeError, KeyError):
        return log
