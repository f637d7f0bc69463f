"""A stand-in for Kaggle on 127.0.0.1, spoken to by the real client: data, submissions, scores and kernels.

Tests start a `Standin` and give its `environment` to the processes they start.  By hand, for a whole round trip without
an account (then paste what it prints into another terminal):

    make kaggle-standin                                    the bundled digits
    python -m pipelines.tools.kaggle_standin cifar-10 --archive cifar-10.zip --solution labels.csv

The client reaches it as a plain HTTP proxy, so that nothing of the client is patched: even the addresses of the
storage, which is another host, lead here.  What the stand-in is to get wrong is told by `Standin.fault`.
"""

import argparse
import base64
import hashlib
import io
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

if TYPE_CHECKING:  # a script's own folder is on the path, and the repository's only when main has put it there
    import pandas as pd

    from pipelines.settings.schema import Settings

ROOT = Path(__file__).resolve().parents[2]
USERNAME = "alice"
KEY = "standin"
PORT = 8917
CLOSED_PROXY = "http://127.0.0.1:9"  # nothing listens there: a slip to the real service, which is https, fails at once
STORAGE = "http://storage.googleapis.com"  # another host than the API's, so that the client drops its credentials
API_HOST = "localhost"
PUBLIC_SHARE = 0.3
CHUNK_BYTES = 1 << 18
PAGE_SIZE = 20
UNSET = (
    "no_proxy http_proxy https_proxy all_proxy NO_PROXY HTTP_PROXY HTTPS_PROXY ALL_PROXY NETRC VERBOSE VERBOSE_OUTPUT"
).split()
METRIC_NAMES = {
    "accuracy": "Categorization Accuracy",
    "log_loss": "Multi Class Log Loss",
    "f1_macro": "Mean F-Score (macro)",
    "f1_micro": "Mean F-Score (micro)",
}
COMPETITION_CALLS = (
    "ListDataFiles DownloadDataFiles DownloadDataFile StartSubmissionUpload CreateSubmission ListSubmissions "
    "GetSubmission GetSubmissionLimits GetCompetition GetLeaderboard DownloadLeaderboard"
).split()
KERNEL_CALLS = "SaveKernel GetKernelSessionStatus ListKernelSessionOutput GetAcceleratorQuotaStatistics".split()
SERVICES = {
    **dict.fromkeys(COMPETITION_CALLS, "competitions.CompetitionApiService"),
    **dict.fromkeys(KERNEL_CALLS, "kernels.KernelsApiService"),
    "IntrospectToken": "security.OAuthService",
}


@dataclass(frozen=True)
class Status:
    """Answer with this status, and do nothing.  json: with Kaggle's JSON of code and message, or as bare text."""

    code: int
    message: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    json: bool = True


@dataclass(frozen=True)
class Html:
    """Answer with a web page, as a gateway or a login does, and do nothing."""

    code: int = 200


@dataclass(frozen=True)
class Body:
    """Answer 200 with this body, and do nothing.  `headers` may say its Content-Type."""

    content: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Cut:
    """Do what is asked, and close the connection after so many bytes of the answer's body."""

    after: int = 0


@dataclass(frozen=True)
class Truncated:
    """As `Cut`, but with nothing that tells: no length, validator or ranges, and an orderly end."""

    after: int


@dataclass(frozen=True)
class Stall:
    """Do what is asked, and stop sending after so many bytes of the answer's body; 0: send not even the headers.

    Ends after so many seconds by closing the connection, or when the stand-in ends.
    """

    after: int = 0
    seconds: float = 3600.0


@dataclass(frozen=True)
class Lost:
    """Do what is asked, and close the connection without an answer."""


@dataclass(frozen=True)
class Drop:
    """Close the connection without an answer, and do nothing: to the client the same as `Lost`."""


@dataclass(frozen=True)
class Delay:
    """Wait so many seconds, then do what is asked."""

    seconds: float


Fault = Status | Html | Body | Cut | Truncated | Stall | Lost | Drop | Delay


@dataclass
class Request:
    """A request as it came.

    method: the name of the API's method, or `storage`, `upload`, `output`, `log stream` or `other`.  body: the JSON of
    an API call.  size: bytes of the body.  status: of the answer; 0 where none was sent (yet).
    """

    method: str
    path: str
    body: dict[str, Any] | None
    size: int
    headers: dict[str, str]
    status: int = 0


@dataclass
class Submission:
    """One submission as Kaggle shows it; scores are texts, empty while there are none to see."""

    ref: int
    date: str
    description: str
    file_name: str
    content: bytes
    total_bytes: int
    status: str = "PENDING"
    public_score: str = ""
    private_score: str = ""
    error_description: str = ""
    received: float = field(default_factory=time.monotonic)


@dataclass
class Competition:
    """A competition, and how the user stands in it; tests change it as they need.

    archive: the zip that is served.  solution: CSV of ids and true labels; None: the sample submission's own labels are
    taken for true.  files: names and bytes, as the list of data files tells them.  daily, used_today, used_total:
    numbers of submissions.  limited_by_total: no more are allowed, however many are left today.  scoring_seconds: how
    long a submission stays PENDING.  submissions: newest last.
    """

    slug: str
    archive: Path
    settings: "Settings"
    solution: Path | None = None
    entered: bool = True
    deadline: str = "2099-12-31T23:59:00Z"
    disabled: bool = False
    daily: int = 5
    used_today: int = 0
    used_total: int = 0
    limited_by_total: bool = False
    files: list[tuple[str, int]] = field(default_factory=list)
    scoring_seconds: float = 0.0
    submissions: list[Submission] = field(default_factory=list)

    @property
    def allowed_now(self) -> int:
        return 0 if self.limited_by_total else max(0, self.daily - self.used_today)

    @property
    def ended(self) -> bool:
        return datetime.now(UTC) > datetime.fromisoformat(self.deadline)


@dataclass
class Kernel:
    """One version of a kernel and its session.

    owner_slug: `alice/name`.  text: the script.  metadata: the request that pushed it.  status: QUEUED, RUNNING,
    COMPLETE, ERROR, …  log: the JSON text that Kaggle gives.  outputs: name below the working folder to content.
    """

    owner_slug: str
    version: int
    text: str
    metadata: dict[str, Any]
    status: str = "QUEUED"
    failure_message: str = ""
    log: str = ""
    outputs: dict[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class _Part:
    """The bytes of a file from `start` to before `stop`."""

    path: Path
    start: int
    stop: int


@dataclass
class _Answer:
    status: int
    body: bytes | _Part = b""
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return len(self.body) if isinstance(self.body, bytes) else self.body.stop - self.body.start

    def chunks(self, limit: float = math.inf) -> Iterator[bytes]:
        """Yield the body, at most `limit` bytes of it."""
        left = int(min(limit, self.size))
        if isinstance(self.body, bytes):
            yield self.body[:left]
            return
        with open(self.body.path, "rb") as file:
            file.seek(self.body.start)
            while left and (chunk := file.read(min(CHUNK_BYTES, left))):
                left -= len(chunk)
                yield chunk


class _Refusal(Exception):
    """An answer of Kaggle that is an error."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass
class _Upload:
    competition: str
    file_name: str
    declared_bytes: int | None
    content: bytes | None = None


class Standin:
    """Kaggle as far as the client's calls for competitions and kernels go, for one user.

    folder: where uploads and the folders of kernels are kept.  port: 0 for any free one.  Used as a context manager.

    competitions: by slug.  sources: datasets (`owner/name`) and models (`owner/model/framework/variation/version`) that
    kernels may attach, and the folder whose copy they find.  run_kernel: called in place of really running a pushed
    script, before the push is answered; sets status, log and outputs of the kernel itself.  token: an access token
    that is accepted beside user name and key.  requests: all that came, in order.  violations: what no client should
    have sent, and mistakes of the stand-in itself; tests assert that there are none.  log: called with a line for each
    request that was answered.
    """

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.folder = folder
        self.username = USERNAME
        self.key = KEY
        self.token = ""
        self.competitions: dict[str, Competition] = {}
        self.sources: dict[str, Path] = {}
        self.kernels: list[Kernel] = []
        self.run_kernel: Callable[[Kernel], None] | None = None
        self.requests: list[Request] = []
        self.violations: list[str] = []
        self.log: Callable[[str], None] | None = None
        self._port = port
        self._server: _Server | None = None
        self._lock = threading.RLock()
        self._closing = threading.Event()
        self._faults: dict[str, deque[Fault]] = {}
        self._fault_for_ever: dict[str, Fault] = {}
        self._uploads: dict[str, _Upload] = {}
        self._processes: set[subprocess.Popen[str]] = set()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> "Standin":
        self.folder.mkdir(parents=True, exist_ok=True)
        self._server = _Server(self, self._port)
        self._port = self._server.server_address[1]
        thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        self._threads.append(thread)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._server.hang_up()
        with self._lock:
            for process in self._processes:
                _kill(process)
        for thread in self._threads:
            thread.join(timeout=10)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def environment(self, home: Path) -> dict[str, str]:
        """Return a copy of the environment in which the client talks to the stand-in, and finds no other credential.

        home: an empty folder that stands for the user's; it is made if it is not there.
        """
        home.mkdir(parents=True, exist_ok=True)
        kept = {name: value for name, value in os.environ.items() if name not in UNSET and "KAGGLE" not in name.upper()}
        return {
            **kept,
            "HOME": str(home),
            "KAGGLE_CONFIG_DIR": str(home / "kaggle"),
            "KAGGLE_API_ENVIRONMENT": "LOCALHOST",
            "KAGGLE_USERNAME": self.username,
            "KAGGLE_KEY": self.key,
            "http_proxy": self.url,
            "https_proxy": CLOSED_PROXY,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
        }

    def add(self, slug: str, archive: Path, settings: "Settings", solution: Path | None = None) -> Competition:
        """Add a competition that serves `archive`, and return it.

        The archive may be anything at all; where it is a zip, its members are the list of data files.
        """
        competition = Competition(slug, archive, settings, solution)
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as opened:
                competition.files = [(each.filename, each.file_size) for each in opened.infolist() if not each.is_dir()]
        self.competitions[slug] = competition
        return competition

    def calls(self, name: str) -> list[Request]:
        """Return the requests of the method `name`, in order."""
        with self._lock:
            return [request for request in self.requests if request.method == name]

    def fault(self, name: str, *faults: Fault, times: int | None = 1) -> None:
        """Let the next requests of the method `name` meet `faults`, one each, and this `times` over.

        times: None lets every later request meet the last one.  Without `faults`, those still to come are forgotten.
        """
        with self._lock:
            self._fault_for_ever.pop(name, None)
            if not faults:
                self._faults.pop(name, None)
                return
            self._faults.setdefault(name, deque()).extend(faults * (1 if times is None else times))
            if times is None:
                self._fault_for_ever[name] = faults[-1]

    # What follows is called by the threads that answer.

    def _next_fault(self, name: str) -> Fault | None:
        with self._lock:
            waiting = self._faults.get(name)
            return waiting.popleft() if waiting else self._fault_for_ever.get(name)

    def _violation(self, what: str) -> None:
        with self._lock:
            self.violations.append(what)

    def _pause(self, seconds: float) -> None:
        self._closing.wait(min(seconds, threading.TIMEOUT_MAX))

    def _answer(self, request: Request, verb: str, host: str, content: bytes) -> _Answer:
        """Do what `request` asks, and return the answer."""
        path = urlsplit(request.path).path
        try:
            if request.method in ("storage", "upload", "output"):
                if "Authorization" in request.headers:
                    self._violation(f"{request.method}: the credential was sent to the storage ({host})")
                if request.method == "upload":
                    return self._put(verb, path, content)
                return self._get_object(verb, request, path)
            if request.method == "other":
                self._violation(f"{verb} {request.path} on {host}: the stand-in has nothing of that kind")
                raise _Refusal(404, "Not found")
            if request.method == "log stream":
                self._check_credential(request)
                return self._log_stream(path)
            if request.method == "IntrospectToken":
                return _json(self._introspect(request.body or {}))
            self._check_credential(request)
            if verb != "POST" or request.body is None:
                self._violation(f"{verb} {request.path}: an API call is a POST of JSON")
                raise _Refusal(400, "Bad request")
            with self._lock:
                return self._call(request.method, request.body)
        except _Refusal as refusal:
            return _error(refusal.code, str(refusal))
        except Exception as error:  # the thread has no caller; a test sees it among the violations
            self._violation(f"answering {request.method}: {error!r}")
            return _error(500, "Internal error")

    def _check_credential(self, request: Request) -> None:
        basic = base64.b64encode(f"{self.username}:{self.key}".encode()).decode()
        accepted = [f"Basic {basic}"] + ([f"Bearer {self.token}"] if self.token else [])
        if request.headers.get("Authorization") not in accepted:
            raise _Refusal(401, "Unauthenticated")

    def _introspect(self, body: dict[str, Any]) -> dict[str, Any]:
        if self.token and body.get("token") == self.token:
            return {"active": True, "username": self.username}
        return {"active": False}

    def _call(self, method: str, body: dict[str, Any]) -> _Answer:
        calls: dict[str, Callable[[dict[str, Any]], _Answer]] = {
            "GetSubmission": self._get_submission,
            "SaveKernel": self._save_kernel,
            "GetKernelSessionStatus": self._kernel_status,
            "ListKernelSessionOutput": self._kernel_output,
            "GetAcceleratorQuotaStatistics": self._accelerator_quota,
        }
        if method in calls:
            return calls[method](body)
        slug = body.get("competitionName", "")
        competition = self.competitions.get(slug)
        if method == "GetCompetition":
            if competition is None:
                raise _Refusal(404, f"Competition {slug!r} was not found")
            return self._get_competition(competition)
        if competition is None:
            raise _Refusal(403, "Permission 'competitions.participate' was denied")
        if not competition.entered:
            raise _Refusal(403, "You must accept this competition's rules before you'll be able to continue.")
        competition_calls: dict[str, Callable[[Competition, dict[str, Any]], _Answer]] = {
            "ListDataFiles": self._list_data_files,
            "DownloadDataFiles": self._download_data_files,
            "DownloadDataFile": self._download_data_file,
            "StartSubmissionUpload": self._start_upload,
            "CreateSubmission": self._create_submission,
            "ListSubmissions": self._list_submissions,
            "GetSubmissionLimits": self._submission_limits,
            "GetLeaderboard": self._leaderboard,
            "DownloadLeaderboard": self._download_leaderboard,
        }
        return competition_calls[method](competition, body)

    def _get_competition(self, competition: Competition) -> _Answer:
        settings = competition.settings.competition
        return _json(
            {
                "id": 1 + list(self.competitions).index(competition.slug),
                "ref": f"https://www.kaggle.com/competitions/{competition.slug}",
                "title": settings.title or competition.slug,
                "url": f"https://www.kaggle.com/competitions/{competition.slug}",
                "userHasEntered": competition.entered,
                "deadline": competition.deadline,
                "maxDailySubmissions": competition.daily,
                "submissionsDisabled": competition.disabled,
                "evaluationMetric": METRIC_NAMES[settings.metric],
            }
        )

    def _list_data_files(self, competition: Competition, body: dict[str, Any]) -> _Answer:
        files, token = _page(competition.files, body)
        made = _when(competition.archive.stat().st_mtime)
        rows = [
            {"name": name, "totalBytes": size, "creationDate": made, "url": self._data_url(competition, name)}
            for name, size in files
        ]
        return _json({"files": rows, "nextPageToken": token})

    def _download_data_files(self, competition: Competition, body: dict[str, Any]) -> _Answer:
        return _Answer(302, headers={"Location": f"{STORAGE}/competitions/{competition.slug}/archive.zip?sig=standin"})

    def _download_data_file(self, competition: Competition, body: dict[str, Any]) -> _Answer:
        name = body.get("fileName", "")
        if name not in dict(competition.files):
            raise _Refusal(404, f"File {name!r} was not found")
        return _Answer(302, headers={"Location": self._data_url(competition, name)})

    def _data_url(self, competition: Competition, name: str) -> str:
        return f"{STORAGE}/competitions/{competition.slug}/files/{quote(name)}?sig=standin"

    def _start_upload(self, competition: Competition, body: dict[str, Any]) -> _Answer:
        token = f"upload-{len(self._uploads) + 1}"
        self._uploads[token] = _Upload(competition.slug, body.get("fileName", ""), body.get("contentLength"))
        return _json({"token": token, "createUrl": f"{STORAGE}/upload/{token}?upload_id=standin"})

    def _put(self, verb: str, path: str, content: bytes) -> _Answer:
        with self._lock:
            upload = self._uploads.get(PurePosixPath(path).name)
            if verb != "PUT" or upload is None:
                raise _Refusal(404, "There is no such upload")
            if upload.declared_bytes is not None and upload.declared_bytes != len(content):
                raise _Refusal(400, f"{len(content)} bytes came, {upload.declared_bytes} were announced")
            upload.content = content
            folder = self.folder / "uploads"
            folder.mkdir(exist_ok=True)
            (folder / PurePosixPath(path).name).write_bytes(content)
        return _json({})

    def _create_submission(self, competition: Competition, body: dict[str, Any]) -> _Answer:
        upload = self._uploads.get(body.get("blobFileTokens", ""))
        if upload is None or upload.content is None or upload.competition != competition.slug:
            raise _Refusal(400, "The submission's file was not uploaded")
        if competition.disabled:
            raise _Refusal(400, "Submissions are disabled for this competition")
        if not competition.allowed_now:
            raise _Refusal(
                400, f"Your team has used its submission allowance ({competition.daily} of {competition.daily})"
            )
        submission = Submission(
            ref=1 + max((one.ref for each in self.competitions.values() for one in each.submissions), default=999),
            date=_when(time.time()),
            description=body.get("submissionDescription", ""),
            file_name=upload.file_name,
            content=upload.content,
            total_bytes=len(upload.content),
        )
        competition.submissions.append(submission)
        competition.used_today += 1
        competition.used_total += 1
        self._settle(competition)
        title = competition.settings.competition.title or competition.slug
        return _json({"message": f"Successfully submitted to {title}", "ref": submission.ref})

    def _settle(self, competition: Competition) -> None:
        """Score the submissions whose time has come."""
        for submission in competition.submissions:
            if submission.status == "PENDING" and (
                time.monotonic() >= submission.received + competition.scoring_seconds
            ):
                self._score(competition, submission)

    def _score(self, competition: Competition, submission: Submission) -> None:
        from pipelines.analysis.scoring import score_submission
        from pipelines.system.errors import UserError

        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            path = Path(folder) / "submission.csv"
            path.write_bytes(submission.content)
            try:
                sample = _read_sample(competition, Path(folder))
                _check_like_kaggle(path, sample)
                truth = _truth(competition, sample)
                if truth is None:
                    raise UserError("The competition has no solution")
                solution = competition.solution or Path("the sample submission")
                public, private = (
                    f"{score_submission(path, solution, competition.settings, part)[0]:.5f}" for part in _parts(truth)
                )
            except UserError as error:
                submission.status = "ERROR"
                submission.error_description = str(error).replace(str(path), "Submission")
                return
        submission.status = "COMPLETE"
        submission.public_score = public
        submission.private_score = private if competition.ended else ""

    def _list_submissions(self, competition: Competition, body: dict[str, Any]) -> _Answer:
        self._settle(competition)
        submissions, token = _page(competition.submissions[::-1], body)
        return _json({"submissions": [self._shown(each) for each in submissions], "nextPageToken": token})

    def _get_submission(self, body: dict[str, Any]) -> _Answer:
        for competition in self.competitions.values():
            for submission in competition.submissions:
                if submission.ref == body.get("ref") and competition.entered:
                    self._settle(competition)
                    return _json(self._shown(submission))
        raise _Refusal(404, f"Submission {body.get('ref')} was not found")

    def _shown(self, submission: Submission) -> dict[str, Any]:
        return {
            "ref": submission.ref,
            "date": submission.date,
            "description": submission.description,
            "fileName": submission.file_name,
            "status": submission.status,
            "publicScore": submission.public_score,
            "privateScore": submission.private_score,
            "errorDescription": submission.error_description,
            "totalBytes": submission.total_bytes,
            "submittedBy": self.username,
            "teamName": self.username,
            "url": f"https://www.kaggle.com/submissions/{submission.ref}",
        }

    def _submission_limits(self, competition: Competition, body: dict[str, Any]) -> _Answer:
        return _json(
            {
                "numToday": competition.used_today,
                "numTotal": competition.used_total,
                "numAllowedNow": competition.allowed_now,
                "limitedByTotal": competition.limited_by_total,
            }
        )

    def _best_scores(self, competition: Competition) -> list[dict[str, Any]]:
        self._settle(competition)
        scores = [each.public_score for each in competition.submissions if each.public_score]
        if not scores:
            return []
        best = min(scores, key=float) if competition.settings.competition.metric == "log_loss" else max(scores)
        date = next(each.date for each in competition.submissions if each.public_score == best)
        return [{"teamId": 1, "teamName": self.username, "submissionDate": date, "score": best}]

    def _leaderboard(self, competition: Competition, body: dict[str, Any]) -> _Answer:
        return _json({"submissions": self._best_scores(competition), "nextPageToken": ""})

    def _download_leaderboard(self, competition: Competition, body: dict[str, Any]) -> _Answer:
        rows = "".join(f"{row['teamId']},{row['teamName']},{row['score']}\n" for row in self._best_scores(competition))
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w") as archive:
            archive.writestr(f"{competition.slug}-publicleaderboard.csv", "TeamId,TeamName,Score\n" + rows)
        return _Answer(200, content.getvalue(), {"Content-Type": "application/zip"})

    def _get_object(self, verb: str, request: Request, path: str) -> _Answer:
        """Answer the storage's GET of an archive, of one data file, or of a kernel's output."""
        if verb != "GET":
            raise _Refusal(405, "Only GET")
        parts = unquote(path).strip("/").split("/")
        if request.method == "output":
            return _ranged(request, self._output(parts[1:]), time.time())
        competition = self.competitions.get(parts[1]) if len(parts) > 2 else None
        if competition is None:
            raise _Refusal(404, "There is no such object")
        modified = competition.archive.stat().st_mtime
        if parts[2:] == ["archive.zip"]:
            return _ranged(request, competition.archive, modified)
        with zipfile.ZipFile(competition.archive) as archive:
            return _ranged(request, archive.read("/".join(parts[3:])), modified)

    def _save_kernel(self, body: dict[str, Any]) -> _Answer:
        slug = body.get("slug", "")
        if not slug.startswith(f"{self.username}/"):
            raise _Refusal(403, "Permission 'kernels.update' was denied")
        version = 1 + sum(kernel.owner_slug == slug for kernel in self.kernels)
        kernel = Kernel(slug, version, body.get("text", ""), body)
        self.kernels.append(kernel)
        if self.run_kernel is not None:
            self.run_kernel(kernel)
        else:
            thread = threading.Thread(target=self._execute, args=(kernel,), daemon=True)
            self._threads.append(thread)
            thread.start()
        return _json(
            {
                "ref": f"/code/{slug}",
                "url": f"https://www.kaggle.com/code/{slug}",
                "versionNumber": version,
                "kernelId": 77 + len({each.owner_slug for each in self.kernels}),
                "error": "",
                "invalidCompetitionSources": _unknown(body, "competitionDataSources", self.competitions),
                "invalidDatasetSources": _unknown(body, "datasetDataSources", self.sources),
                "invalidModelSources": _unknown(body, "modelDataSources", self.sources),
                "invalidKernelSources": body.get("kernelDataSources", []),
            }
        )

    def _execute(self, kernel: Kernel) -> None:
        """Run the kernel's script as Kaggle does, in a folder of its own that is laid out as Kaggle's."""
        folder = self.folder / "kernels" / f"{PurePosixPath(kernel.owner_slug).name}-{kernel.version}"
        try:
            self._mount(kernel, folder)
            (folder / "script.py").write_text(kernel.text, encoding="utf-8")
            if not self._closing.is_set():
                kernel.status = "RUNNING"
                self._run_script(kernel, folder)
        except Exception as error:  # the thread has no caller; a test sees it among the violations
            self._violation(f"running {kernel.owner_slug}: {error!r}")
            kernel.failure_message = f"the stand-in failed: {error!r}"
            kernel.status = "ERROR"

    def _mount(self, kernel: Kernel, folder: Path) -> None:
        """Lay out Kaggle's folders: competitions unpacked one level, datasets, models, and two empty ones."""
        for name in ("input", "working", "temp"):
            (folder / name).mkdir(parents=True)
        for slug in kernel.metadata.get("competitionDataSources", []):
            if slug in self.competitions:
                with zipfile.ZipFile(self.competitions[slug].archive) as archive:
                    archive.extractall(folder / "input" / "competitions" / slug)
        for source in (*kernel.metadata.get("datasetDataSources", []), *kernel.metadata.get("modelDataSources", [])):
            if source in self.sources:
                shutil.copytree(self.sources[source], folder.joinpath("input", *source.split("/")[1:]))

    def _run_script(self, kernel: Kernel, folder: Path) -> None:
        environment = {
            name: value
            for name, value in os.environ.items()
            if name != "PYTHONPATH" and "KAGGLE" not in name.upper() and "proxy" not in name.lower()
        }
        environment["PIPELINES_KAGGLE_FOLDER"] = str(folder)
        lines: list[dict[str, Any]] = []
        started = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, str(folder / "script.py")],
            cwd=folder / "working",
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        with self._lock:
            self._processes.add(process)
            if self._closing.is_set():
                _kill(process)

        def read(name: str) -> None:
            for line in getattr(process, name):
                lines.append({"stream_name": name, "time": round(time.monotonic() - started, 6), "data": line})

        readers = [threading.Thread(target=read, args=(name,), daemon=True) for name in ("stdout", "stderr")]
        with process:
            for reader in readers:
                reader.start()
            limit = kernel.metadata.get("sessionTimeoutSeconds")
            failure = ""
            try:
                process.wait(timeout=limit)
            except subprocess.TimeoutExpired:
                failure = f"The session was ended after {limit} seconds"
            _kill(process)  # with whatever it has left running, as the end of a session does
            for reader in readers:
                reader.join()
        with self._lock:
            self._processes.discard(process)
        working = folder / "working"
        kernel.outputs = {
            path.relative_to(working).as_posix(): path.read_bytes()
            for path in sorted(working.rglob("*"))
            if path.is_file()
        }
        kernel.log = json.dumps(lines)
        if process.returncode and not failure:
            failure = f"Your notebook was stopped because of an error: exit code {process.returncode}"
        kernel.failure_message = failure
        kernel.status = "ERROR" if failure else "COMPLETE"

    def _latest(self, owner_slug: str) -> Kernel:
        for kernel in reversed(self.kernels):
            if kernel.owner_slug == owner_slug:
                return kernel
        raise _Refusal(403, "Permission 'kernels.get' was denied")

    def _kernel_status(self, body: dict[str, Any]) -> _Answer:
        kernel = self._latest(_owner_slug(body))
        return _json({"status": kernel.status, "failureMessage": kernel.failure_message})

    def _kernel_output(self, body: dict[str, Any]) -> _Answer:
        kernel = self._latest(_owner_slug(body))
        names, token = _page(list(enumerate(kernel.outputs)), body)
        address = f"{STORAGE}/output/{1 + self.kernels.index(kernel)}"
        files = [
            {"fileName": name, "url": f"{address}/{number}/{quote(PurePosixPath(name).name)}?sig=standin"}
            for number, name in names  # by number: a name such as ../x would not come back whole in an address
        ]
        return _json({"files": files, "log": kernel.log, "nextPageToken": token})

    def _output(self, parts: Sequence[str]) -> bytes:
        with self._lock:
            try:
                return list(self.kernels[int(parts[0]) - 1].outputs.values())[int(parts[1])]
            except (ValueError, IndexError):
                raise _Refusal(404, "There is no such output") from None

    def _log_stream(self, path: str) -> _Answer:
        kernel = self._latest("/".join(path.split("/")[-2:]))
        lines = [f"data: {json.dumps(line)}\n\n" for line in json.loads(kernel.log or "[]")]
        content = "".join([*lines, "data: END_OF_LOG\n\n"])
        return _Answer(200, content.encode(), {"Content-Type": "text/event-stream"})

    def _accelerator_quota(self, body: dict[str, Any]) -> _Answer:
        refresh = datetime.now(UTC) + timedelta(days=3)
        return _json(
            {
                "quotaRefreshTime": _when(refresh.timestamp()),
                "gpuQuota": {"timeUsed": "3600s", "totalTimeAllowed": "108000s"},
                "tpuQuota": {"timeUsed": "0s", "totalTimeAllowed": "72000s"},
            }
        )


class _Server(ThreadingHTTPServer):
    """Threaded, since the client holds one answer open while it sends the next request."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, standin: Standin, port: int) -> None:
        self.standin = standin
        self.open_connections: set[Any] = set()
        self.connections_lock = threading.Lock()
        super().__init__(("127.0.0.1", port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self.connections_lock:
            self.open_connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        with self.connections_lock:
            self.open_connections.discard(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exception() if sys.version_info >= (3, 12) else sys.exc_info()[1]
        if not isinstance(error, (BrokenPipeError, ConnectionError)):  # a client may hang up whenever it likes
            self.standin._violation(f"the stand-in failed: {error!r}")

    def hang_up(self) -> None:
        """Close the connections that are still open, and wait until the threads that serve them have ended."""
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            with self.connections_lock:
                if not self.open_connections:
                    return
                for connection in self.open_connections:
                    with suppress(OSError):  # closed by the other side
                        connection.shutdown(socket.SHUT_RDWR)
            time.sleep(0.01)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer on a connection that is kept waits 40 ms for an acknowledgement
    server: _Server

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._handle()

    def do_POST(self) -> None:
        self._handle()

    def do_PUT(self) -> None:
        self._handle()

    def _handle(self) -> None:
        standin = self.server.standin
        content = self._read_body()
        target = urlsplit(self.path)  # absolute, since we are spoken to as a proxy
        host = target.hostname or API_HOST
        request = Request(_method(host, target.path), self.path, None, len(content), dict(self.headers.items()))
        if request.method in SERVICES:
            try:
                body = json.loads(content)
                request.body = body if isinstance(body, dict) else None
            except ValueError:
                request.body = None
        with standin._lock:
            standin.requests.append(request)
            fault = standin._next_fault(request.method)
        try:
            self._send(request, fault, lambda: standin._answer(request, self.command, host, content))
        finally:
            if standin.log is not None:
                shown = f" ({type(fault).__name__})" if fault else ""
                size = f" {len(content):,} bytes" if request.method == "upload" else ""
                standin.log(f"{request.method}{size} {request.status or 'no answer'}{shown}")

    def _read_body(self) -> bytes:
        if hasattr(socket, "TCP_QUICKACK"):  # to a proxy the client sends the body when its headers are acknowledged
            self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        if "chunked" in self.headers.get("Transfer-Encoding", ""):  # so the client sends an empty file
            content = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return content
        length = int(self.headers.get("Content-Length", 0))
        content = self.rfile.read(length)
        if len(content) < length:
            raise ConnectionResetError("the client hung up while it sent")
        return content

    def _send(self, request: Request, fault: Fault | None, process: Callable[[], _Answer]) -> None:
        standin = self.server.standin
        if isinstance(fault, Delay):
            standin._pause(fault.seconds)
        if isinstance(fault, Drop):
            self.close_connection = True
            return
        answer = _given(fault) or process()
        if isinstance(fault, Lost) or (isinstance(fault, Stall) and not fault.after):
            if isinstance(fault, Stall):
                standin._pause(fault.seconds)
            self.close_connection = True
            return
        if isinstance(fault, Truncated):
            for name in ("Last-Modified", "ETag", "Accept-Ranges"):
                answer.headers.pop(name, None)
        request.status = answer.status
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if isinstance(fault, Truncated):
            self.send_header("Connection", "close")
        else:
            self.send_header("Content-Length", str(answer.size))
        self.end_headers()
        limit = fault.after if isinstance(fault, (Cut, Truncated, Stall)) else math.inf
        for chunk in answer.chunks(limit):
            self.wfile.write(chunk)
        if isinstance(fault, Stall):
            standin._pause(fault.seconds)
        if isinstance(fault, (Cut, Truncated, Stall)):
            self.close_connection = True


def _method(host: str, path: str) -> str:
    """Return the name that faults and `Standin.calls` know a request by."""
    first, _, rest = path.strip("/").partition("/")
    if host in (API_HOST, "127.0.0.1") and path.startswith("/api/v1/"):
        if path.startswith("/api/v1/kernels/logs/stream/"):
            return "log stream"
        service, _, name = path.removeprefix("/api/v1/").partition("/")
        return name if SERVICES.get(name) == service else "other"
    if f"http://{host}" == STORAGE and rest:
        return {"competitions": "storage", "upload": "upload", "output": "output"}.get(first, "other")
    return "other"


def _given(fault: Fault | None) -> _Answer | None:
    """Return the answer that `fault` puts in the place of the true one."""
    if isinstance(fault, Status):
        answer = _error(fault.code, fault.message) if fault.json else _Answer(fault.code, fault.message.encode())
        answer.headers.update(fault.headers)
        return answer
    if isinstance(fault, Html):
        page = b"<!DOCTYPE html><html><head><title>Kaggle</title></head><body>Please sign in</body></html>\n"
        return _Answer(fault.code, page, {"Content-Type": "text/html; charset=utf-8"})
    if isinstance(fault, Body):
        return _Answer(200, fault.content, {"Content-Type": "application/octet-stream", **fault.headers})
    return None


def _json(value: dict[str, Any], status: int = 200) -> _Answer:
    return _Answer(status, json.dumps(value).encode(), {"Content-Type": "application/json"})


def _error(code: int, message: str) -> _Answer:
    return _json({"code": code, "message": message or f"Error {code}"}, code)


def _ranged(request: Request, content: bytes | Path, modified: float) -> _Answer:
    """Answer a GET of `content` as a storage does, with the range that was asked for."""
    if isinstance(content, Path):
        size = content.stat().st_size
        version = f"{content.stat().st_mtime_ns:x}-{size:x}"
    else:
        size, version = len(content), hashlib.sha256(content).hexdigest()[:16]
    headers = {
        "Content-Type": "application/zip" if isinstance(content, Path) else "application/octet-stream",
        "Last-Modified": formatdate(math.floor(modified), usegmt=True),
        "ETag": f'"{version}"',
        "Accept-Ranges": "bytes",
    }
    wanted = request.headers.get("Range", "")
    unchanged = request.headers.get("If-Range", headers["ETag"]) in (headers["ETag"], headers["Last-Modified"])
    start, stop, status = 0, size, 200
    if wanted.startswith("bytes=") and unchanged:
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        start, stop, status = int(first), min(size, int(last) + 1) if last else size, 206
        if start >= size:
            headers["Content-Range"] = f"bytes */{size}"
            return _Answer(416, b"", headers)
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    return _Answer(status, _Part(content, start, stop) if isinstance(content, Path) else content[start:stop], headers)


def _page(rows: Sequence[Any], body: dict[str, Any]) -> tuple[Sequence[Any], str]:
    """Return the rows of the page that is asked for, and the token of the next one, empty at the end."""
    size = body.get("pageSize") or PAGE_SIZE
    start = int(body.get("pageToken") or (body.get("page", 1) - 1) * size)
    stop = start + size
    return rows[start:stop], str(stop) if stop < len(rows) else ""


def _unknown(body: dict[str, Any], key: str, known: Mapping[str, Any]) -> list[str]:
    return [source for source in body.get(key, []) if source not in known]


def _owner_slug(body: dict[str, Any]) -> str:
    return f"{body.get('userName', '')}/{body.get('kernelSlug', '')}"


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _kill(process: "subprocess.Popen[str]") -> None:
    with suppress(ProcessLookupError):  # it has ended
        os.killpg(process.pid, signal.SIGKILL)


def _read_sample(competition: Competition, folder: Path) -> "pd.DataFrame | None":
    """Return the sample submission inside the archive; None where there is none."""
    from pipelines.dataset.tables import read_csv

    name = competition.settings.data.sample_submission
    if not name or not zipfile.is_zipfile(competition.archive):
        return None
    with zipfile.ZipFile(competition.archive) as archive:
        found = [each for each in archive.namelist() if each == name or each.endswith(f"/{name}")]
        if not found:
            return None
        path = folder / "sample.csv"
        path.write_bytes(archive.read(min(found, key=len)))
    return read_csv(path)


def _check_like_kaggle(path: Path, sample: "pd.DataFrame | None") -> None:
    """Raise `UserError` where the header or the ids of a submission are not the sample's."""
    from pipelines.dataset.tables import read_csv
    from pipelines.system.errors import UserError

    submitted = read_csv(path)
    if sample is None:
        return
    if list(submitted.columns) != list(sample.columns):
        raise UserError(f"Submission must have the columns {', '.join(sample.columns)}")
    if len(submitted) != len(sample):
        raise UserError(f"Submission must have {len(sample)} rows")
    if unknown := sorted(set(submitted.iloc[:, 0]) - set(sample.iloc[:, 0])):
        raise UserError(f"Submission contains the unexpected id {unknown[0]}")
    if missing := sorted(set(sample.iloc[:, 0]) - set(submitted.iloc[:, 0])):
        raise UserError(f"Submission lacks the id {missing[0]}")


def _truth(competition: Competition, sample: "pd.DataFrame | None") -> "pd.DataFrame | None":
    """Return ids and true labels: the solution's, or else the sample's own; None where there is neither."""
    from pipelines.dataset.tables import read_csv

    if competition.solution is not None:
        return read_csv(competition.solution)
    if sample is None or competition.settings.competition.submission == "labels":
        return sample
    labels = sample.iloc[:, 1:].astype(float).idxmax(axis=1)
    return sample.iloc[:, [0]].assign(label=labels)


def _parts(truth: "pd.DataFrame") -> tuple["pd.DataFrame", "pd.DataFrame"]:
    """Divide ids and labels into the public and the private part, the same way each time."""
    ids = [hashlib.sha256(name.encode()).digest() for name in truth.iloc[:, 0]]
    order = sorted(range(len(ids)), key=ids.__getitem__)
    count = max(1, round(PUBLIC_SHARE * len(truth)))
    return truth.iloc[order[:count]], truth.iloc[order[count:] or order]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.tools.kaggle_standin",
        description="A stand-in for Kaggle on this machine, to try everything out with.",
    )
    parser.add_argument("competition", nargs="?", default="digits", help="name of a competition, or its TOML's path")
    parser.add_argument("--archive", type=Path, help="zip that it serves; digits: made here")
    parser.add_argument("--solution", type=Path, help="CSV of ids and true labels; else the sample's labels are 'true'")
    parser.add_argument("--port", type=int, default=PORT, help=f"default {PORT}; 0: any free one")
    parser.add_argument("--scoring-seconds", type=float, default=3.0, help="how long scoring takes; default 3")
    parser.add_argument("--folder", type=Path, help="where uploads and kernels are kept; default: a temporary one")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until Ctrl-C."""
    words = _parser().parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="kaggle-standin-") as temporary:
        try:
            _serve(words, Path(temporary))
        except KeyboardInterrupt:
            print()


def _serve(words: argparse.Namespace, temporary: Path) -> None:
    import errno

    from pipelines.settings.loading import load_settings
    from pipelines.system.errors import UserError

    settings = load_settings(words.competition)
    archive, solution = words.archive, words.solution
    for path, option in ((archive, "--archive"), (solution, "--solution")):
        if path is not None and not path.is_file():
            raise UserError(f"There is no file {path}. Give the right path with {option}.")
    if archive is None:
        if settings.competition.source != "digits":
            raise UserError(f"Which archive is {settings.name} to serve? Give its zip with --archive (make: ARCHIVE=).")
        archive, made = _make_digits(temporary)
        solution = solution or made
    if not zipfile.is_zipfile(archive):
        raise UserError(f"{archive} is not a whole zip, and Kaggle serves zips. Give one with --archive.")
    standin = Standin(words.folder or temporary / "kept", words.port)
    competition = standin.add(settings.competition.slug, archive.resolve(), settings, solution)
    competition.scoring_seconds = words.scoring_seconds
    standin.log = lambda line: print(f"{datetime.now():%H:%M:%S}  {line}", flush=True)
    try:
        standin.__enter__()
    except OSError as error:
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise
        raise UserError(f"Port {words.port} is taken or not allowed ({error.strerror}). Name another: --port") from None
    try:
        print(_welcome(standin, competition), flush=True)
        threading.Event().wait()
    finally:
        standin.__exit__(None, None, None)


def _make_digits(folder: Path) -> tuple[Path, Path]:
    """Return the digits' zip and the labels of its test images, written below `folder`."""
    from pipelines.dataset.digits import write_digits

    raw, archive, solution = folder / "raw", folder / "digits.zip", folder / "solution.csv"
    write_digits(raw, solution)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
        for path in sorted(raw.rglob("*")):
            if path.is_file():
                opened.write(path, path.relative_to(raw).as_posix())
    return archive, solution


def _welcome(standin: Standin, competition: Competition) -> str:
    """Return what a person has to know and to paste."""
    set_here = {
        "KAGGLE_API_ENVIRONMENT": "LOCALHOST",
        "http_proxy": standin.url,
        "https_proxy": CLOSED_PROXY,
    }
    if any((Path.home() / ".kaggle" / name).exists() for name in ("access_token", "access_token.txt")):
        standin.token = "standin"  # the person's own token would be sent before any key; this goes before both
        set_here["KAGGLE_API_TOKEN"] = standin.token
    else:
        set_here |= {"KAGGLE_USERNAME": standin.username, "KAGGLE_KEY": standin.key}
    others = "KAGGLE_API_TOKEN KAGGLE_TOKEN KAGGLE_PATH KAGGLE_COMPETITION KAGGLE_KERNEL_RUN_TYPE".split()
    unset = [name for name in (*UNSET, *others) if name not in set_here]
    truth = f"scored by {competition.solution}"
    if competition.solution is None:
        truth = "scored by the labels of the sample submission itself, as no --solution was given: no true scores"
    return "\n".join(
        (
            f"A stand-in for Kaggle at {standin.url}: {competition.slug}, {competition.archive} "
            f"({competition.archive.stat().st_size / 1e6:,.1f} MB, {len(competition.files):,} files), {truth}.",
            f"Uploads and kernels: {standin.folder}",
            "",
            "In another terminal, paste both lines; then download, submit, … talk to this stand-in:",
            f"  unset {' '.join(unset)}",
            f"  export {' '.join(f'{name}={value}' for name, value in set_here.items())}",
            "and to undo it:",
            f"  unset {' '.join(set_here)}",
            "",
            "Ctrl-C ends it. Requests, as they come:",
        )
    )


if __name__ == "__main__":
    from pipelines import command

    sys.exit(command.run(main))
