"""The API's calls for competitions: data files, uploads, submissions and their scores."""

import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError
from pipelines.tools.standin.answers import STORAGE, Answer, Body, Refusal, Request, iso_time, page, reply, stored


@dataclass
class Submission:
    """A submission as Kaggle shows it.  Scores are texts, empty until they are known.  received: monotonic seconds."""

    ref: int
    date: str
    description: str
    file_name: str
    content: bytes
    status: str = "PENDING"
    public_score: str = ""
    private_score: str = ""
    error_description: str = ""
    received: float = field(default_factory=time.monotonic)

    def shown(self) -> Body:
        scores = {"publicScore": self.public_score, "privateScore": self.private_score}
        file = {"fileName": self.file_name, "totalBytes": len(self.content), "description": self.description}
        state = {"status": self.status, "errorDescription": self.error_description}
        return {"ref": self.ref, "date": self.date, **file, **state, **scores}


@dataclass
class Competition:
    """A competition and what the user did in it.

    archive: the zip that is served.  solution: CSV of ids and true labels; None: the answers of the sample submission
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
    code_only: bool = False
    metric: str = ""
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
        from pipelines.tools.standin.scores import score  # imports torch, which nothing else here needs

        for each in self.submissions:
            if each.status != "PENDING" or time.monotonic() < each.received + self.scoring_seconds:
                continue
            try:
                each.public_score, private = score(each.content, self.archive, self.settings, self.solution)
            except UserError as error:
                each.status, each.error_description = "ERROR", str(error)
                continue
            ended = datetime.now(UTC) > datetime.fromisoformat(self.deadline)
            each.status, each.private_score = "COMPLETE", private if ended else ""


class Competitions:
    """The calls for competitions.  by_slug: the competitions.  folder: uploads are kept there.

    output_of: returns an output file of a version of a kernel, or None; arguments: `owner/name`, version, file name.
    """

    methods = (
        *("GetCompetition", "ListDataFiles", "DownloadDataFiles", "StartSubmissionUpload", "CreateSubmission"),
        *("CreateCodeSubmission", "ListSubmissions", "GetSubmission", "GetSubmissionLimits"),
    )

    def __init__(self, folder: Path, output_of: Callable[[str, int, str], bytes | None]) -> None:
        self.by_slug: dict[str, Competition] = {}
        self._output_of = output_of
        self._folder = folder
        self._announced: dict[str, Body] = {}
        self._uploaded: dict[str, bytes] = {}

    def call(self, method: str, body: Body) -> Answer:
        """Return the answer to a call of the API.  Raises `Refusal`."""
        if method == "GetSubmission":
            return self._get_submission(body)
        slug = body.get("competitionName", "")
        competition = self.by_slug.get(slug)
        if method == "GetCompetition":
            if competition is None:
                raise Refusal(404, f"Competition {slug!r} was not found")
            rules = {"userHasEntered": competition.entered, "deadline": competition.deadline}
            limits = {"maxDailySubmissions": competition.daily, "submissionsDisabled": competition.disabled}
            limits["isKernelsSubmissionsOnly"] = competition.code_only
            named = {"ref": slug, "title": competition.title, "evaluationMetric": competition.metric}
            return reply({**named, **rules, **limits})
        if competition is None:
            raise Refusal(403, "Permission 'competitions.participate' was denied")
        if not competition.entered:
            raise Refusal(403, "You must accept this competition's rules before you'll be able to continue.")
        match method:
            case "ListDataFiles":
                date = iso_time(competition.archive.stat().st_mtime)
                files = [{"name": name, "totalBytes": size, "creationDate": date} for name, size in competition.files]
                return reply(page("files", files, body))
            case "DownloadDataFiles":
                url = f"{STORAGE}/competitions/{slug}/archive.zip?sig=standin"
                return Answer(302, {"Location": url, "Content-Length": "0"})
            case "StartSubmissionUpload":
                token = f"upload-{len(self._announced) + 1}"
                self._announced[token] = body
                return reply({"token": token, "createUrl": f"{STORAGE}/upload/{token}?upload_id=standin"})
            case "CreateSubmission":
                return self._create_submission(competition, body)
            case "CreateCodeSubmission":
                return self._create_code_submission(competition, body)
            case "ListSubmissions":
                competition.settle()
                return reply(page("submissions", [each.shown() for each in competition.submissions[::-1]], body))
        used = {"numToday": competition.used_today, "numTotal": competition.used_total}
        left = {"numAllowedNow": competition.allowed_now, "limitedByTotal": competition.limited_by_total}
        return reply({**used, **left})

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

    def _create_submission(self, competition: Competition, body: Body) -> Answer:
        token = body.get("blobFileTokens", "")
        if token not in self._uploaded or self._announced[token]["competitionName"] != competition.slug:
            raise Refusal(400, "The submission's file was not uploaded")
        if competition.code_only:
            raise Refusal(400, "Submission not allowed: this competition only accepts Submissions from Notebooks.")
        return self._add(competition, body, self._announced[token].get("fileName", ""), self._uploaded[token])

    def _create_code_submission(self, competition: Competition, body: Body) -> Answer:
        if not competition.code_only:
            raise Refusal(400, "Submission not allowed: this competition does not accept Submissions from Notebooks.")
        kernel, name = f"{body.get('kernelOwner', '')}/{body.get('kernelSlug', '')}", body.get("fileName", "")
        content = self._output_of(kernel, body.get("kernelVersion", 0), name)
        if content is None:
            raise Refusal(404, f"Notebook {kernel} has no output file {name!r} in this version")
        return self._add(competition, body, name, content)

    def _add(self, competition: Competition, body: Body, name: str, content: bytes) -> Answer:
        if competition.disabled:
            raise Refusal(400, "Submissions are disabled for this competition")
        if not competition.allowed_now:
            raise Refusal(400, f"Your team has used its submission allowance ({competition.daily} a day)")
        ref = 1 + max((one.ref for each in self.by_slug.values() for one in each.submissions), default=999)
        message = body.get("submissionDescription", "")
        competition.submissions.append(Submission(ref, iso_time(time.time()), message, name, content))
        competition.used_today += 1
        competition.used_total += 1
        competition.settle()
        return reply({"message": f"Successfully submitted to {competition.title}", "ref": ref})

    def _get_submission(self, body: Body) -> Answer:
        for competition in self.by_slug.values():
            for submission in competition.submissions:
                if submission.ref == body.get("ref") and competition.entered:
                    competition.settle()
                    return reply(submission.shown())
        raise Refusal(404, f"Submission {body.get('ref')} was not found")
