"""The process that runs Kaggle's official client.  `client.py` starts it; it imports nothing of this project.

The client logs in while it is imported, prints to stdout, waits without a timeout and may exit: a process of its own
protects the stage, and can be killed.

Requests are lines of JSON on stdin, `{"call": name, "arguments": {...}}`.  Each is answered by one line on stdout,
`{"value": ...}` or `{"failure": {...}}`.  The client's own output goes to stderr, where it counts as progress.  At the
end of stdin this process exits at once, so that nothing is sent for a stage that has ended.
"""

import errno
import json
import os
import queue
import ssl
import sys
import threading
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import import_module
from typing import Any, TextIO

PAGE_SIZE = 200
CONNECT_SECONDS, READ_SECONDS = 30, 300  # for `fetch`, which does not use the client
CHUNK_BYTES = 1 << 20
CREDENTIALS = {"username": "username", "password": "key", "api_token": "token"}  # argument: the client's setting
UPLOAD_FAILED = "Could not submit to competition"  # the client returns this instead of raising


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
            reply = {"value": BY_NAME[request["call"]](**request["arguments"])}
        except (Exception, SystemExit) as error:  # the client calls exit() if it finds no credentials
            reply = {"failure": _facts(error)}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def _listen(lines: TextIO, requests: "queue.SimpleQueue[dict[str, Any]]") -> None:
    for line in lines:
        requests.put(json.loads(line))
    os._exit(0)


def _client() -> Any:
    """Return the client, logged in; the first call imports it."""
    import kaggle

    if not kaggle.api._authenticated:  # the import hides the cause, a second login raises it
        kaggle.api.authenticate()
    return kaggle.api


def _services() -> Any:
    """Return the client's generated API, which shows fields that its main API leaves out."""
    client = _client()
    known = {key: client.config_values.get(name) for key, name in CREDENTIALS.items()}
    return client.build_kaggle_client_with_params(client.args, **known, response_processor=_check_answer)


def _send(services: Any, group: str, method: str, fields: dict[str, Any]) -> Any:
    """Return the answer of `method`.  group: competitions or kernels; fields: of the request."""
    service = {"competitions": "competition_api", "kernels": "kernels_api"}[group]
    types = import_module(f"kagglesdk.{group}.types.{service}_service")
    request = getattr(types, f"Api{method.title().replace('_', '')}Request")()
    for name, value in fields.items():
        setattr(request, name, value)
    return getattr(getattr(getattr(services, group), f"{service}_client"), method)(request)


def _ask(group: str, method: str, **fields: Any) -> Any:
    with _services() as services:
        return _send(services, group, method, fields)


def _pages(group: str, method: str, **fields: Any) -> Iterator[Any]:
    """Yield the answers of a paged method."""
    fields["page_size"] = PAGE_SIZE
    with _services() as services:
        while True:
            answer = _send(services, group, method, fields)
            yield answer
            if not answer.next_page_token:
                return
            fields.pop("page", None)  # with it Kaggle ignores the token and sends the first page for ever
            fields["page_token"] = answer.next_page_token
            print(".", end="", file=sys.stderr, flush=True)  # progress


def _check_answer(response: Any) -> None:
    """Raise `NotAnAnswer` for an answer of something else than Kaggle: the client takes it for an empty answer."""
    if response.status_code >= 300 or not isinstance(response.json(), dict):
        raise NotAnAnswer(f"status {response.status_code}")


class NotAnAnswer(Exception):
    """The answer did not come from Kaggle's API."""


def user() -> str:
    return str(_client().get_config_value("username") or "")


def competition(slug: str) -> dict[str, Any]:
    answer = _ask("competitions", "get_competition", competition_name=slug)
    return {
        "title": answer.title or slug,
        "entered": bool(answer.user_has_entered),
        "deadline": _iso_time(answer.deadline),
        "submissions_disabled": bool(answer.submissions_disabled),
        "code_only": bool(answer.is_kernels_submissions_only),
        "daily_submissions": answer.max_daily_submissions or 0,
        "metric": answer.evaluation_metric or "",
    }


def limits(slug: str) -> dict[str, Any]:
    answer = _ask("competitions", "get_submission_limits", competition_name=slug)
    return {
        "today": answer.num_today or 0,
        "total": answer.num_total or 0,
        "left": answer.num_allowed_now or 0,
        "limited_by_total": bool(answer.limited_by_total),
    }


def files(slug: str, most: int) -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = []
    for answer in _pages("competitions", "list_data_files", competition_name=slug):
        found += [(file.name, file.total_bytes or 0) for file in answer.files or []]
        if len(found) >= most:
            break
    return found[:most]


def download(slug: str, folder: str) -> None:
    _client().competition_download_files(slug, path=folder, quiet=True)


def submit(slug: str, path: str, message: str) -> dict[str, Any]:
    """Send a submission.  `ref` is 0 if Kaggle did not confirm it; `uploaded` is false if Kaggle cannot have it."""
    answer = _client().competition_submit(path, message, slug, quiet=False)
    return {"ref": _number(answer.ref), "uploaded": answer.message != UPLOAD_FAILED, "message": answer.message or ""}


def submit_code(slug: str, kernel: str, version: int, file: str, message: str) -> dict[str, Any]:
    """Submit a version of `kernel`, an `owner/name`; file: its output that has the answers."""
    answer = _client().competition_submit_code(file, message, slug, kernel, version, quiet=False)
    return {"ref": _number(answer.ref), "uploaded": True, "message": answer.message or ""}


def submissions(slug: str) -> list[dict[str, Any]]:
    pages = _pages("competitions", "list_submissions", competition_name=slug, page=1)
    return [_submission(each) for answer in pages for each in answer.submissions or []]


def submission(ref: int) -> dict[str, Any]:
    return _submission(_ask("competitions", "get_submission", ref=ref))


def _iso_time(moment: datetime | None) -> str:
    """Return a time as ISO 8601 in UTC, the zone that the client drops; empty for None."""
    return moment.replace(tzinfo=moment.tzinfo or UTC).isoformat() if moment else ""


def _number(ref: Any) -> int:
    """Return a submission's number, 0 for anything else; the client does not check its type."""
    return ref if type(ref) is int else 0


def _submission(answer: Any) -> dict[str, Any]:
    return {
        "ref": _number(answer.ref),
        "date": _iso_time(answer.date),
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
    owner, name = kernel.split("/")
    answer = _ask("kernels", "get_kernel_session_status", user_name=owner, kernel_slug=name)
    return {"status": answer.status.name.lower(), "message": answer.failure_message or ""}


def kernel_output(kernel: str) -> dict[str, Any]:
    owner, name = kernel.split("/")
    found: list[dict[str, str]] = []
    log = ""
    for answer in _pages("kernels", "list_kernel_session_output", user_name=owner, kernel_slug=name):
        found += [{"name": file.file_name, "url": file.url} for file in answer.files or []]
        log = log or answer.log or ""
    return {"files": found, "log": log}


def gpu_hours() -> tuple[float, float]:
    """Return this week's used and allowed hours of GPU; zeros if Kaggle does not report them."""
    quota = _ask("kernels", "get_accelerator_quota_statistics").gpu_quota
    times = (quota.time_used, quota.total_time_allowed) if quota else (None, None)
    used, allowed = (time.total_seconds() / 3600 if time else 0.0 for time in times)
    return used, allowed


def fetch(url: str, path: str) -> None:
    """Save the content of `url`.  It sends no credentials: the addresses of a kernel's files are signed."""
    import requests

    with requests.get(url, stream=True, timeout=(CONNECT_SECONDS, READ_SECONDS)) as answer:
        answer.raise_for_status()
        with open(path, "wb") as file:
            for piece in answer.iter_content(CHUNK_BYTES):
                file.write(piece)


CALLS = (user, competition, limits, files, download, submit, submit_code, submissions, submission)
BY_NAME = {each.__name__: each for each in (*CALLS, push_kernel, kernel_status, kernel_output, gpu_hours, fetch)}


def _facts(error: BaseException) -> dict[str, Any]:
    """Return a failure as JSON: `kind`, `status` of HTTP, `message` and `wait` (the header Retry-After)."""
    facts = {"kind": _kind(error), "status": 0, "message": str(error), "wait": ""}
    response = getattr(error, "response", None)
    if facts["kind"] == "http" and response is not None:  # a response with status 400 or more is false
        facts["status"] = response.status_code
        facts["wait"] = response.headers.get("Retry-After", "")
        if response.status_code < 400:  # an error inside a successful response
            facts["status"] = response.json()["code"]
        elif "application/json" not in response.headers.get("Content-Type", ""):
            facts["message"] = response.reason or ""
    # without the error's own text, which may contain a credential
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

    # first, because requests' JSON error is an OSError and a ValueError too
    if isinstance(error, (json.JSONDecodeError, NotAnAnswer)):
        return "not json"
    # The text of this error, of requests or http.client, contains the token.
    if isinstance(error, requests.exceptions.InvalidHeader) or "Invalid header value" in str(error):
        return "credentials"
    web = requests.exceptions
    addresses = (web.InvalidProxyURL, web.InvalidSchema, web.InvalidURL, urllib3.exceptions.LocationParseError)
    if isinstance(error, addresses):
        return "proxy"
    if isinstance(error, web.HTTPError):
        return "http"
    no_certificates = isinstance(error, OSError) and "TLS CA certificate bundle" in str(error)
    if no_certificates or isinstance(error, (web.RequestException, urllib3.exceptions.HTTPError, ssl.SSLError)):
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
