"""The process that Kaggle's official client runs in.  It is started by `kaggle_service` and imports nothing of ours.

The client logs in while it is imported, prints to stdout, waits for ever where a server is silent and may end its
process: in a process of its own none of this harms a stage, and a stalled call can be killed.

Requests are lines of JSON on stdin, `{"call": name, "arguments": {...}}`; each is answered by one line on stdout,
`{"value": ...}` or `{"failure": {...}}`.  What the client prints goes to stderr, as a sign of life.  When stdin ends,
the process that wanted the answers is gone, and this one ends at once: nothing is sent that nobody waits for.
"""

import errno
import json
import os
import queue
import sys
import threading
import traceback
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, TextIO

PAGE_SIZE = 200
CONNECT_SECONDS, READ_SECONDS = 30, 300  # for the one transfer that is not the client's own
CHUNK_BYTES = 1 << 20
CREDENTIALS = {"username": "username", "password": "key", "api_token": "token"}  # by the client's names for them
UPLOAD_FAILED = "Could not submit to competition"  # what the client returns in place of an exception


def main() -> None:
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    lines = sys.stdin
    # exit(), which the client calls, closes sys.stdin, and would wait for ever for the thread that reads it
    sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115
    requests: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(lines, requests), daemon=True).start()
    while True:
        request = requests.get()
        try:
            reply = {"value": CALLS[request["call"]](**request["arguments"])}
        except (Exception, SystemExit) as error:  # the client calls exit() where it finds no credentials
            reply = {"failure": _facts(error)}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def _listen(lines: TextIO, requests: "queue.SimpleQueue[dict[str, Any]]") -> None:
    for line in lines:
        requests.put(json.loads(line))
    os._exit(0)


def _give_sign_of_life() -> None:
    sys.stderr.write(".")
    sys.stderr.flush()


def _client() -> Any:
    """Return the client, logged in; the first call imports it."""
    import kaggle

    if not kaggle.api._authenticated:  # the import swallows what went wrong, so once more for the cause
        kaggle.api.authenticate()
    return kaggle.api


def _services() -> Any:
    """The client's generated half, which shows what its comfortable half leaves out, and whose answers are judged."""
    client = _client()
    known = {key: client.config_values.get(name) for key, name in CREDENTIALS.items()}
    return client.build_kaggle_client_with_params(client.args, **known, response_processor=_judge)


def _judge(response: Any) -> None:
    """Raise `ValueError` for an answer that is none of Kaggle's: the client takes whatever it is for an empty one."""
    if response.status_code >= 300 or not isinstance(response.json(), dict):
        raise NotAnAnswer(f"status {response.status_code}")


class NotAnAnswer(Exception):
    """What came instead of an answer."""


def user() -> str:
    return str(_client().get_config_value("username") or "")


def competition(slug: str) -> dict[str, Any]:
    from kagglesdk.competitions.types.competition_api_service import ApiGetCompetitionRequest

    request = ApiGetCompetitionRequest()
    request.competition_name = slug
    with _services() as services:
        answer = services.competitions.competition_api_client.get_competition(request)
    return {
        "title": answer.title or slug,
        "entered": bool(answer.user_has_entered),
        "deadline": _when(answer.deadline),
        "submissions_disabled": bool(answer.submissions_disabled),
        "daily_submissions": answer.max_daily_submissions or 0,
    }


def limits(slug: str) -> dict[str, Any]:
    from kagglesdk.competitions.types.competition_api_service import ApiGetSubmissionLimitsRequest

    request = ApiGetSubmissionLimitsRequest()
    request.competition_name = slug
    with _services() as services:
        answer = services.competitions.competition_api_client.get_submission_limits(request)
    return {
        "today": answer.num_today or 0,
        "total": answer.num_total or 0,
        "left": answer.num_allowed_now or 0,
        "limited_by_total": bool(answer.limited_by_total),
    }


def files(slug: str, most: int) -> list[tuple[str, int]]:
    """Return names and bytes of the first `most` files of the competition."""
    from kagglesdk.competitions.types.competition_api_service import ApiListDataFilesRequest

    found: list[tuple[str, int]] = []
    request = ApiListDataFilesRequest()
    request.competition_name = slug
    request.page_size = PAGE_SIZE
    with _services() as services:
        while True:
            answer = services.competitions.competition_api_client.list_data_files(request)
            found += [(file.name, file.total_bytes or 0) for file in answer.files or []]
            if not answer.next_page_token or len(found) >= most:
                return found[:most]
            request.page_token = answer.next_page_token
            _give_sign_of_life()


def download(slug: str, folder: str) -> None:
    _client().competition_download_files(slug, path=folder, quiet=True)


def submit(slug: str, path: str, message: str) -> dict[str, Any]:
    """Send a submission; `ref` is 0 where Kaggle did not say that it has it, `uploaded` false where it cannot."""
    answer = _client().competition_submit(path, message, slug, quiet=False)
    return {"ref": _number(answer.ref), "uploaded": answer.message != UPLOAD_FAILED, "message": answer.message or ""}


def submissions(slug: str) -> list[dict[str, Any]]:
    """Return all submissions to the competition, the newest first."""
    from kagglesdk.competitions.types.competition_api_service import ApiListSubmissionsRequest

    found: list[dict[str, Any]] = []
    token = ""
    with _services() as services:
        while True:
            request = ApiListSubmissionsRequest()
            request.competition_name = slug
            request.page_size = PAGE_SIZE
            if token:
                request.page_token = token
            else:  # beside a token it would ask for the first page for ever
                request.page = 1
            answer = services.competitions.competition_api_client.list_submissions(request)
            found += [_submission(each) for each in answer.submissions or []]
            token = answer.next_page_token
            if not token:
                return found
            _give_sign_of_life()


def submission(ref: int) -> dict[str, Any]:
    from kagglesdk.competitions.types.competition_api_service import ApiGetSubmissionRequest

    request = ApiGetSubmissionRequest()
    request.ref = ref
    with _services() as services:
        return _submission(services.competitions.competition_api_client.get_submission(request))


def _when(moment: datetime | None) -> str:
    """A time as ISO 8601 in UTC, which is the zone that the client drops; empty where there is none."""
    return moment.replace(tzinfo=moment.tzinfo or UTC).isoformat() if moment else ""


def _number(ref: Any) -> int:
    """A submission's number, 0 where it is none; the client lets anything through."""
    return ref if type(ref) is int else 0


def _submission(answer: Any) -> dict[str, Any]:
    return {
        "ref": _number(answer.ref),
        "date": _when(answer.date),
        "description": answer.description or "",
        "file": answer.file_name or "",
        "status": answer.status.name.lower(),
        "public_score": answer.public_score or "",
        "private_score": answer.private_score or "",
        "error": answer.error_description or "",
    }


def push_kernel(folder: str, seconds: int) -> dict[str, Any]:
    answer = _client().kernels_push(folder, timeout=str(seconds))
    kinds = ("competition", "dataset", "kernel", "model")
    invalid = {kind: list(getattr(answer, f"invalid_{kind}_sources") or []) for kind in kinds}
    return {
        "url": answer.url or "",
        "version": answer.version_number or 0,
        "error": answer.error or "",
        "invalid": {kind: names for kind, names in invalid.items() if names},
    }


def kernel_status(kernel: str) -> dict[str, Any]:
    from kagglesdk.kernels.types.kernels_api_service import ApiGetKernelSessionStatusRequest

    request = ApiGetKernelSessionStatusRequest()
    request.user_name, request.kernel_slug = kernel.split("/")
    with _services() as services:
        answer = services.kernels.kernels_api_client.get_kernel_session_status(request)
    return {"status": answer.status.name.lower(), "message": answer.failure_message or ""}


def kernel_output(kernel: str) -> dict[str, Any]:
    """Return the names and addresses of the files that the kernel's last session left, and its log as it came."""
    from kagglesdk.kernels.types.kernels_api_service import ApiListKernelSessionOutputRequest

    found: list[dict[str, str]] = []
    log = ""
    request = ApiListKernelSessionOutputRequest()
    request.user_name, request.kernel_slug = kernel.split("/")
    request.page_size = PAGE_SIZE
    with _services() as services:
        while True:
            answer = services.kernels.kernels_api_client.list_kernel_session_output(request)
            found += [{"name": file.file_name, "url": file.url} for file in answer.files or []]
            log = log or answer.log or ""
            if not answer.next_page_token:
                return {"files": found, "log": log}
            request.page_token = answer.next_page_token
            _give_sign_of_life()


def gpu_hours() -> tuple[float, float]:
    """Return the hours of GPU used and allowed this week; zeros where Kaggle does not say."""
    from kagglesdk.kernels.types.kernels_api_service import ApiGetAcceleratorQuotaStatisticsRequest

    request = ApiGetAcceleratorQuotaStatisticsRequest()
    with _services() as services:
        quota = services.kernels.kernels_api_client.get_accelerator_quota_statistics(request).gpu_quota
    times = (quota.time_used, quota.total_time_allowed) if quota else (None, None)
    used, allowed = (time.total_seconds() / 3600 if time else 0.0 for time in times)
    return used, allowed


def fetch(url: str, path: str) -> None:
    """Save what `url` answers; the addresses of a kernel's files are signed and take no credentials."""
    import requests

    with requests.get(url, stream=True, timeout=(CONNECT_SECONDS, READ_SECONDS)) as answer:
        answer.raise_for_status()
        with open(path, "wb") as file:
            pieces: Iterable[bytes] = answer.iter_content(CHUNK_BYTES)
            for piece in pieces:
                file.write(piece)


CALLS = {
    call.__name__: call
    for call in (
        *(user, competition, limits, files, download, submit, submissions, submission),
        *(push_kernel, kernel_status, kernel_output, gpu_hours, fetch),
    )
}


def _facts(error: BaseException) -> dict[str, Any]:
    """Return what is known of a failure, in words that JSON can hold: `kind`, `status` of HTTP, `message`, `wait`."""
    facts = {"kind": _kind(error), "status": 0, "message": str(error), "wait": ""}
    response = getattr(error, "response", None)
    if facts["kind"] == "http" and response is not None:  # a response is false where its status is 400 or more
        facts["status"] = response.status_code
        facts["wait"] = response.headers.get("Retry-After", "")
        if response.status_code < 400:  # an error that Kaggle wrapped in a success
            facts["status"] = response.json()["code"]
        elif "application/json" not in response.headers.get("Content-Type", ""):
            facts["message"] = response.reason or ""
    # without the error's own words, which may quote a credential
    if facts["kind"] == "unexpected":
        facts["message"] = "".join(traceback.format_tb(error.__traceback__)) + type(error).__name__
    if facts["kind"] == "unreadable":
        facts["message"] = str(error) if isinstance(error, KeyError) else type(error).__name__
    return facts


def _kind(error: BaseException) -> str:
    if isinstance(error, ImportError):
        return "import"
    if isinstance(error, SystemExit):
        return "credentials"
    import requests
    import urllib3

    # first, because requests' own is an OSError and a ValueError too
    if isinstance(error, (json.JSONDecodeError, NotAnAnswer)):
        return "not json"
    # whose words show the token: the one of requests, and http.client's
    if isinstance(error, requests.exceptions.InvalidHeader) or "Invalid header value" in str(error):
        return "credentials"
    if isinstance(error, (requests.exceptions.InvalidProxyURL, requests.exceptions.InvalidSchema)):
        return "proxy"
    if isinstance(error, urllib3.exceptions.LocationParseError):
        return "proxy"
    if isinstance(error, requests.exceptions.HTTPError):
        return "http"
    if isinstance(error, (requests.exceptions.RequestException, urllib3.exceptions.HTTPError)):
        return "connection"
    if isinstance(error, OSError):
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return "disk"
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return "forbidden"
        return "connection" if isinstance(error, ConnectionError) else "unexpected"
    if isinstance(error, ValueError) and "does not match expected size" in str(error):
        return "size"
    frames = traceback.walk_tb(error.__traceback__)
    packages = {str(frame.f_globals.get("__name__")).partition(".")[0] for frame, _ in frames}
    if isinstance(error, ValueError) and "kaggle" in packages and "kagglesdk" not in packages:
        return "refused"  # by the client's own checks
    return "unreadable" if packages & {"kaggle", "kagglesdk"} else "unexpected"


if __name__ == "__main__":
    main()
