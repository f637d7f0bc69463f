"""The API's calls for competitions: data files, uploads, submissions, scores."""

import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError
from pipelines.tools.standin.answers import STORAGE, Answer, Body, Refusal, Request, iso_time, page, reply, stored
from pipelines.tools.standin.scoring import score


@dataclass
class Submission:
    """A submission as Kaggle shows it.  Scores are texts, empty until they are known.  received: monotonic seconds."""

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

    def shown(self) -> Body:
        scores = {"publicScore": self.public_score, "privateScore": self.private_score}
        file = {"fileName": self.file_name, "totalBytes": self.total_bytes, "description": self.description}
        state = {"status": self.status, "errorDescription": self.error_description}
        return {"ref": self.ref, "date": self.date, **file, **state, **scores}


@dataclass
class Competition:
    """A competition and what the user did in it.

    archive: the file that is served.  solution: CSV of ids and true labels; None: the labels of the sample submission
    count as true.  daily, used_today, used_total: numbers of submissions.  limited_by_total: no more are allowed, on
    any day.  files: names and sizes of the data files, by default of the archive's members.  scoring_seconds: how long
    a submission is pending.  submissions: newest last.
    """

    slug: str
    archive: Path
    settings: Settings
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

    def __post_init__(self) -> None:
        if not self.files and zipfile.is_zipfile(self.archive):
            with zipfile.ZipFile(self.archive) as opened:
                self.files = [(each.filename, each.file_size) for each in opened.infolist() if not each.is_dir()]

    @property
    def title(self) -> str:
        return self.settings.competition.title or self.slug

    @property
    def allowed_now(self) -> int:
        return 0 if self.limited_by_total else max(0, self.daily - self.used_today)

    def settle(self) -> None:
        """Score the submissions that have been pending for `scoring_seconds`."""
        for each in self.submissions:
            if each.status != "PENDING" or time.monotonic() < each.received + self.scoring_seconds:
                continue
            try:
                public, private = score(each.content, self.archive, self.settings, self.solution)
            except UserError as error:
                each.status, each.error_description = "ERROR", str(error)
                continue
            ended = datetime.now(UTC) > datetime.fromisoformat(self.deadline)
            each.status, each.public_score, each.private_score = "COMPLETE", public, private if ended else ""


class Competitions:
    """The calls for competitions.  by_slug: the competitions.  folder: uploads are kept there."""

    def __init__(self, folder: Path) -> None:
        self.by_slug: dict[str, Competition] = {}
        self._folder = folder
        self._announced: dict[str, Body] = {}
        self._uploaded: dict[str, bytes] = {}
        self._calls: dict[str, Callable[[Competition, Body], Answer]] = {
            "ListDataFiles": self._list_data_files,
            "DownloadDataFiles": self._download_data_files,
            "StartSubmissionUpload": self._start_upload,
            "CreateSubmission": self._create_submission,
            "ListSubmissions": self._list_submissions,
            "GetSubmissionLimits": self._submission_limits,
        }
        self.methods = ("GetCompetition", "GetSubmission", *self._calls)

    def call(self, method: str, body: Body) -> Answer:
        """Return the answer to a call of the API.  Raises `Refusal`."""
        if method == "GetSubmission":
            return self._get_submission(body)
        slug = body.get("competitionName", "")
        competition = self.by_slug.get(slug)
        if method == "GetCompetition":
            if competition is None:
                raise Refusal(404, f"Competition {slug!r} was not found")
            return self._get_competition(competition)
        if competition is None:
            raise Refusal(403, "Permission 'competitions.participate' was denied")
        if not competition.entered:
            raise Refusal(403, "You must accept this competition's rules before you'll be able to continue.")
        return self._calls[method](competition, body)

    def download(self, request: Request, slug: str) -> Answer:
        """Return the storage's answer to a GET of a competition's archive."""
        if slug not in self.by_slug:
            raise Refusal(404, "There is no such object")
        archive = self.by_slug[slug].archive
        return stored(request, archive, archive.stat().st_mtime)

    def upload(self, request: Request, token: str) -> Answer:
        """Keep an uploaded file."""
        if request.verb != "PUT" or token not in self._announced:
            raise Refusal(404, "There is no such upload")
        size, announced = len(request.content), self._announced[token].get("contentLength")
        if announced not in (None, size):
            raise Refusal(400, f"{size} bytes came, {announced} were announced")
        self._uploaded[token] = request.content
        path = self._folder / "uploads" / token
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(request.content)
        return reply({})

    def _get_competition(self, competition: Competition) -> Answer:
        rules = {"userHasEntered": competition.entered, "deadline": competition.deadline}
        limits = {"maxDailySubmissions": competition.daily, "submissionsDisabled": competition.disabled}
        return reply({"ref": competition.slug, "title": competition.title, **rules, **limits})

    def _list_data_files(self, competition: Competition, body: Body) -> Answer:
        files, token = page(competition.files, body)
        date = iso_time(competition.archive.stat().st_mtime)
        rows = [{"name": name, "totalBytes": size, "creationDate": date} for name, size in files]
        return reply({"files": rows, "nextPageToken": token})

    def _download_data_files(self, competition: Competition, body: Body) -> Answer:
        url = f"{STORAGE}/competitions/{competition.slug}/archive.zip?sig=standin"
        return Answer(302, {"Location": url, "Content-Length": "0"})

    def _start_upload(self, competition: Competition, body: Body) -> Answer:
        token = f"upload-{len(self._announced) + 1}"
        self._announced[token] = body
        return reply({"token": token, "createUrl": f"{STORAGE}/upload/{token}?upload_id=standin"})

    def _create_submission(self, competition: Competition, body: Body) -> Answer:
        token = body.get("blobFileTokens", "")
        if token not in self._uploaded or self._announced[token]["competitionName"] != competition.slug:
            raise Refusal(400, "The submission's file was not uploaded")
        if competition.disabled:
            raise Refusal(400, "Submissions are disabled for this competition")
        if not competition.allowed_now:
            raise Refusal(400, f"Your team has used its submission allowance ({competition.daily} a day)")
        ref = 1 + max((one.ref for each in self.by_slug.values() for one in each.submissions), default=999)
        name, content = self._announced[token].get("fileName", ""), self._uploaded[token]
        message = body.get("submissionDescription", "")
        competition.submissions.append(Submission(ref, iso_time(time.time()), message, name, content, len(content)))
        competition.used_today += 1
        competition.used_total += 1
        competition.settle()
        return reply({"message": f"Successfully submitted to {competition.title}", "ref": ref})

    def _list_submissions(self, competition: Competition, body: Body) -> Answer:
        competition.settle()
        submissions, token = page(competition.submissions[::-1], body)
        return reply({"submissions": [each.shown() for each in submissions], "nextPageToken": token})

    def _get_submission(self, body: Body) -> Answer:
        for competition in self.by_slug.values():
            for submission in competition.submissions:
                if submission.ref == body.get("ref") and competition.entered:
                    competition.settle()
                    return reply(submission.shown())
        raise Refusal(404, f"Submission {body.get('ref')} was not found")

    def _submission_limits(self, competition: Competition, body: Body) -> Answer:
        used = {"numToday": competition.used_today, "numTotal": competition.used_total}
        left = {"numAllowedNow": competition.allowed_now, "limitedByTotal": competition.limited_by_total}
        return reply({**used, **left})
