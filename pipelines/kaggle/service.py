"""Kaggle, as the stages see it: typed questions and answers, and every failure in words that say what to do.

The official client does the talking, in a process of its own (`kaggle_worker`) that is watched: where nothing has moved
for `stall_seconds`, it is killed.  Nothing here tries again by itself what may already have happened.
"""

import contextlib
import json
import os
import queue
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn

from pipelines.system.errors import TryAgainLater, UserError
from pipelines.system.terminal import one_line

WORKER = Path(__file__).with_name("worker.py")
POLL_SECONDS = 0.05
LISTED_FILES = 5_000  # of a competition's list of files, 200 to a call; some have a million
CAUSES = (
    *("Connection refused", "Connection reset by peer", "timed out", "Name or service not known", "No route to host"),
    *("Temporary failure in name resolution", "Network is unreachable", "certificate verify failed"),
)
SAID = 300  # characters of Kaggle's own message that are shown
# The first two make the client print its Authorization header; it sends the third where another credential belongs.
NOT_FOR_THE_WORKER = ("VERBOSE", "VERBOSE_OUTPUT", "KAGGLE_TOKEN")
STANDIN = "LOCALHOST"
COMPETITION_PAGE = "https://www.kaggle.com/competitions/{slug}"
RULES_PAGE = COMPETITION_PAGE + "/rules"
TOKEN_PAGE = "https://www.kaggle.com/settings/api"


@dataclass(frozen=True)
class Competition:
    """What Kaggle says of a competition.  deadline: ISO 8601 in UTC, or empty."""

    title: str
    entered: bool
    deadline: str
    submissions_disabled: bool
    daily_submissions: int


@dataclass(frozen=True)
class Limits:
    """Submissions of one's team: sent today, sent in all, and how many more are allowed now."""

    today: int
    total: int
    left: int
    limited_by_total: bool

    @property
    def spent(self) -> bool:
        """Whether none is left; all zeros mean a team that has never sent anything, of which Kaggle says nothing."""
        return not self.left and bool(self.today or self.total)


@dataclass(frozen=True)
class Submission:
    """A submission as Kaggle has it.

    date: ISO 8601 in UTC, or empty.  Scores are text, empty while unknown; status is pending, complete or error.
    """

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
    """What became of sending a submission: `ref` is 0 where Kaggle did not acknowledge it, and then `uploaded` says
    whether it may have it all the same."""

    ref: int
    uploaded: bool
    message: str


@dataclass(frozen=True)
class PushedKernel:
    """A kernel as Kaggle took it; `invalid` names the sources that it could not attach, by their kind."""

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
    """A file that a kernel left, and the address that it is fetched from."""

    name: str
    url: str


@dataclass(frozen=True)
class KernelOutput:
    """What a kernel's last session left: its files, and its log as plain text."""

    files: list[KernelFile]
    log: str


class NoSuchKernel(UserError):
    """Kaggle has no kernel of that name, or not for these credentials."""


class ConnectionLost(TryAgainLater):
    """The way to Kaggle failed on the way there or back: what was asked for may have been done."""


class Unanswered(ConnectionLost):
    """Kaggle answered something else than was asked for: what was asked for may have been done."""


class Damaged(TryAgainLater):
    """What was downloaded is not what Kaggle has."""


@dataclass(frozen=True)
class Failure:
    """What is known of a failed call (`kaggle_worker`): its kind, the status of HTTP or 0, and Kaggle's message."""

    kind: str
    status: int
    message: str
    wait: str


class Kaggle:
    """A conversation with Kaggle.  A context manager: the client, which takes a while to start, starts with it.

    stall_seconds: how long nothing may move before a call is given up.  slug: the competition that is talked about.
    held: descriptors of locks that the client's process holds too: who comes after a stage that was killed then waits
    until its client is gone as well.

    All questions raise `UserError` for what the person can mend, and `TryAgainLater` where Kaggle or the way there
    fails.
    """

    def __init__(self, slug: str = "", stall_seconds: float = 120, held: Sequence[int] = ()) -> None:
        self.slug, self.stall_seconds, self.held = slug, stall_seconds, tuple(held)
        self._process: subprocess.Popen[str] | None = None
        self._replies: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._printed = 0
        check_environment(os.environ)

    def __enter__(self) -> "Kaggle":
        self._start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the client's process, whatever it is doing."""
        if process := self._process:
            self._process = None
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                with contextlib.suppress(BrokenPipeError):  # what was still to be written to it
                    if pipe:
                        pipe.close()

    def username(self) -> str:
        """The name of the account that the credentials belong to."""
        return str(self._ask("user"))

    def competition(self) -> Competition:
        answer = self._ask("competition", slug=self.slug)
        return Competition(**answer | {"title": _quoted(answer["title"])})

    def limits(self) -> Limits:
        return Limits(**self._ask("limits", slug=self.slug))

    def files(self) -> dict[str, int]:
        """The names of the competition's files and their bytes, the first `LISTED_FILES` of them; at least one."""
        found = dict(self._ask("files", slug=self.slug, most=LISTED_FILES))
        if not found:
            raise Unanswered(
                f"Kaggle lists no files for {self.slug!r}, so nothing can be checked against its list. Try again "
                f"later; or download the data in a browser, from {COMPETITION_PAGE.format(slug=self.slug)}/data, and "
                "give them with ARCHIVE=."
            )
        return found

    def download(self, folder: Path, arrived: Callable[[], int]) -> None:
        """Download the competition's archive into the existing `folder`, going on with what the client left there.

        arrived: returns the bytes that are there; called again and again, it may show or read them.
        """
        self._ask("download", arrived, slug=self.slug, folder=str(folder))

    def submit(self, path: Path, message: str) -> Sent:
        return Sent(**self._ask("submit", slug=self.slug, path=str(path), message=message))

    def submissions(self) -> list[Submission]:
        """All of one's team's submissions, the newest first."""
        return [Submission(**each) for each in self._ask("submissions", slug=self.slug)]

    def submission(self, ref: int) -> Submission:
        """The submission with this number.  Raises `Unanswered` where Kaggle answers with another."""
        answer = Submission(**self._ask("submission", ref=ref))
        if answer.ref != ref:
            raise Unanswered(
                f"Kaggle was asked for the submission {ref} and answered with {answer.ref}. Try again later."
            )
        return answer

    def push_kernel(self, folder: Path, hours: float) -> PushedKernel:
        """Save the kernel in `folder`, which holds its kernel-metadata.json, and have it run for at most so long."""
        return PushedKernel(**self._ask("push_kernel", folder=str(folder), seconds=round(hours * 3600)))

    def kernel_status(self, kernel: str) -> KernelStatus:
        """The state of the last session of `kernel`, an `owner/name`.  Raises `NoSuchKernel`."""
        return KernelStatus(**self._ask("kernel_status", kernel=kernel))

    def kernel_output(self, kernel: str) -> KernelOutput:
        answer = self._ask("kernel_output", kernel=kernel)
        return KernelOutput([KernelFile(**file) for file in answer["files"]], _plain_log(answer["log"]))

    def gpu_hours(self) -> tuple[float, float]:
        """Hours of GPU used, and allowed, this week."""
        used, allowed = self._ask("gpu_hours")
        return used, allowed

    def fetch(self, url: str, path: Path) -> None:
        """Save what `url` answers as the file `path`, which is overwritten."""
        self._ask("fetch", lambda: path.stat().st_size if path.exists() else 0, url=url, path=str(path))

    def _ask(self, call: str, moved: Callable[[], object] = lambda: None, **arguments: Any) -> Any:
        """Return the answer of the worker to `call`, waiting as long as it prints or `moved()` changes."""
        process = self._process or self._start()
        if process.stdin is None:
            raise AssertionError("the worker was started with a pipe")
        try:
            process.stdin.write(json.dumps({"call": call, "arguments": arguments}) + "\n")
            process.stdin.flush()
        except BrokenPipeError:
            self._give_up(process)
        state: tuple[object, int] = (None, -1)
        last_moved = time.monotonic()
        while True:
            try:
                reply = self._replies.get(timeout=POLL_SECONDS)
                break
            except queue.Empty:
                now = time.monotonic()
                if (current := (moved(), self._printed)) != state:
                    state, last_moved = current, now
                if now - last_moved > self.stall_seconds:
                    self.close()
                    raise ConnectionLost(
                        f"Kaggle was silent for {self.stall_seconds:.0f} seconds, so this was given up "
                        f"({_doing(call)}). Try again later, or set kaggle.stall_seconds higher where the line is slow."
                    ) from None
        moved()
        if not reply:
            self._give_up(process)
        answer = json.loads(reply)
        if "failure" in answer:
            _explain(Failure(**answer["failure"]), call, self.slug)
        return answer["value"]

    def _start(self) -> "subprocess.Popen[str]":
        environment = {name: value for name, value in os.environ.items() if name not in NOT_FOR_THE_WORKER}
        process = subprocess.Popen(
            # -P: the modules beside the worker are ours and must not be found by theirs
            [sys.executable, "-P", str(WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            env=environment,
            pass_fds=self.held,
            start_new_session=True,  # so that an interrupt reaches this process alone, which then ends that one
        )
        self._process, self._replies = process, queue.SimpleQueue()
        threading.Thread(target=self._read_replies, args=(process, self._replies), daemon=True).start()
        threading.Thread(target=self._count_prints, args=(process,), daemon=True).start()
        return process

    def _read_replies(self, process: "subprocess.Popen[str]", replies: "queue.SimpleQueue[str]") -> None:
        try:
            while line := process.stdout.readline():  # type: ignore[union-attr]
                replies.put(line)
        except ValueError:  # closed meanwhile
            pass
        replies.put("")

    def _count_prints(self, process: "subprocess.Popen[str]") -> None:
        """Count what the client prints, and forget it: it may hold a credential."""
        try:
            while process.stderr.read(1):  # type: ignore[union-attr]
                self._printed += 1
        except ValueError:
            pass

    def _give_up(self, process: "subprocess.Popen[str]") -> NoReturn:
        status = process.wait()
        self.close()
        raise ConnectionLost(f"The process that talks to Kaggle was ended from outside (status {status}). Try again.")


def check_environment(environment: Mapping[str, str]) -> None:
    """Raise a `UserError` where the client would talk to another place than the person means.

    It takes any `KAGGLE_API_ENVIRONMENT` that it does not know, TEST among them, for the real Kaggle.
    """
    name = environment.get("KAGGLE_API_ENVIRONMENT")
    if name not in (None, "PROD", STANDIN):
        raise UserError(
            f"KAGGLE_API_ENVIRONMENT is {name!r}, with which the client would send your credentials to the real "
            f"Kaggle. Unset it, or set it to {STANDIN} for the stand-in (make kaggle-standin)."
        )


def seconds_to_new_day() -> float:
    """The seconds until Kaggle counts submissions anew, which is at midnight UTC."""
    moment = datetime.now(UTC)
    midnight = (moment + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    return (midnight - moment).total_seconds()


def is_standin(environment: Mapping[str, str]) -> bool:
    """Whether it is the stand-in that is talked to, and not the real Kaggle."""
    return environment.get("KAGGLE_API_ENVIRONMENT") == STANDIN


def not_entered(slug: str) -> UserError:
    """The error of a competition whose rules are still to be accepted."""
    return UserError(
        f"You have not joined the competition {slug}: accept its rules at {RULES_PAGE.format(slug=slug)} "
        '("Join Competition" or "Late Submission"), then type the same command again.'
    )


def _explain(failure: Failure, call: str, slug: str) -> NoReturn:
    """Raise the `UserError` or `TryAgainLater` that says what `failure` of `call` means and what to do."""
    doing = _doing(call)
    said = f' Kaggle says: "{_quoted(failure.message)}"' if failure.message.strip() else ""
    if failure.kind == "http":
        _explain_status(failure, call, slug, doing, said)
    if failure.kind == "connection":
        raise ConnectionLost(
            f"The connection to Kaggle failed ({doing}): {_quoted(_cause(failure.message))}. Look to the network and "
            "try again later."
        )
    if failure.kind == "not json":
        raise Unanswered(
            f"What answered was not Kaggle's service but perhaps a web page ({doing}): a login page of the network, a "
            "proxy, or maintenance at Kaggle. Look at https://www.kaggle.com in a browser and try again later."
        )
    if failure.kind == "size":
        raise Damaged(f"What came is not as long as Kaggle said ({doing}). It was removed. Try again later.")
    if failure.kind == "proxy":
        raise UserError(
            f"The way to Kaggle leads over a proxy whose address cannot be used ({doing}): look at http_proxy, "
            "https_proxy and all_proxy."
        )
    if failure.kind == "credentials":
        raise UserError(f"Kaggle's client does not accept the credentials that are here. make doctor says more; {NEW}")
    if failure.kind == "import":
        raise UserError(f"The package kaggle cannot be loaded: {_quoted(failure.message)}. Install anew: make install")
    if failure.kind == "disk":
        raise UserError(f"The disk is full ({doing}). Free space and type the same command again.")
    if failure.kind == "forbidden":
        raise UserError(
            f"No permission ({doing}): {_quoted(failure.message)}. Kaggle's client keeps its settings in ~/.kaggle: "
            "see that this folder can be written, or set KAGGLE_CONFIG_DIR to one that can."
        )
    if failure.kind == "refused":
        raise UserError(f"Kaggle's client refuses ({doing}): {_quoted(failure.message)}")
    if failure.kind == "unreadable":
        raise Unanswered(
            f"Kaggle answered what its client cannot read, {_quoted(failure.message)} ({doing}). A newer client may: "
            ".venv/bin/pip install -U kaggle"
        )
    raise RuntimeError(f"the call {call} failed as nobody foresaw:\n{failure.message}")


NEW = f"get a new token at {TOKEN_PAGE}."


def _explain_status(failure: Failure, call: str, slug: str, doing: str, said: str) -> NoReturn:
    status = failure.status
    about_kernel = call in ("kernel_status", "kernel_output")
    if status == 401:
        raise UserError(
            f"Kaggle does not accept the credentials (401, {doing}). make doctor shows where they are; {NEW}"
        )
    if status in (403, 404) and about_kernel:
        raise NoSuchKernel(f"Kaggle has no such kernel, or not for these credentials ({status}, {doing}).{said}")
    if status == 403 and call == "push_kernel":
        raise UserError(
            f"Kaggle refuses the kernel (403).{said} Is the phone number of your account verified, which kernels with "
            "a GPU or the internet ask for? See https://www.kaggle.com/settings"
        )
    if status == 403 and call != "fetch":
        raise UserError(
            f"Kaggle refuses (403, {doing}). Either you have not accepted the rules of {slug!r}: "
            f"{RULES_PAGE.format(slug=slug)}; or there is no competition of that name: see competition.slug, which is "
            f"the last part of its address.{said}"
        )
    if status == 404 and call != "fetch":
        raise UserError(
            f"Kaggle knows no {slug!r} (404, {doing}). competition.slug is the last part of the competition's address, "
            f"{COMPETITION_PAGE.format(slug='...')}.{said}"
        )
    if status == 429:
        wait = f" in {failure.wait} seconds" if failure.wait.isdigit() else " in some minutes"
        raise TryAgainLater(f"Too many requests for Kaggle (429, {doing}): try again{wait}.{said}")
    if status >= 500:
        raise Unanswered(f"Kaggle has trouble ({status}, {doing}): try again later.{said}")
    if call == "fetch":
        raise TryAgainLater(f"A file could not be fetched from Kaggle ({status}): try again, for a new address.{said}")
    raise UserError(f"Kaggle refuses ({status}, {doing}).{said}")


def _doing(call: str) -> str:
    return {
        "user": "logging in",
        "competition": "asking about the competition",
        "limits": "asking how many submissions are left",
        "files": "listing the files",
        "download": "downloading",
        "submit": "sending the submission",
        "submissions": "listing the submissions",
        "submission": "asking for the score",
        "push_kernel": "pushing the kernel",
        "kernel_status": "asking for the kernel's status",
        "kernel_output": "listing the kernel's output",
        "gpu_hours": "asking for the GPU quota",
        "fetch": "fetching a file",
    }[call]


def _cause(message: str) -> str:
    """The part of requests' nested message that says something, and no address, which may hold a signature."""
    if known := re.search("|".join(CAUSES), message):
        return known.group()
    return "it was cut" if "IncompleteRead" in message or "aborted" in message else "there is no way there"


def _quoted(text: str) -> str:
    """`text` in one line, without what could steer the terminal, and not too long."""
    line = one_line(text)
    return line if len(line) <= SAID else line[:SAID] + "…"


def _plain_log(log: str) -> str:
    """A kernel's log as plain text; it comes as JSON, a piece a line of output."""
    try:
        pieces = json.loads(log)
        return "".join(str(piece["data"]) for piece in pieces)
    except (ValueError, TypeError, KeyError):
        return log
