"""Kaggle's answers as dataclasses, with the field names of `worker.py`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Competition:
    """A competition and the account's state in it.  deadline: ISO 8601 in UTC, or empty."""

    title: str
    entered: bool
    deadline: str
    submissions_disabled: bool
    daily_submissions: int


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
class KernelFile:
    """An output file of a kernel, and its download address."""

    name: str
    url: str


@dataclass(frozen=True)
class KernelOutput:
    """The output files of a kernel's last session, and its log as plain text."""

    files: list[KernelFile]
    log: str
