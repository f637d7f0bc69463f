"""Failures of calls to Kaggle, as exceptions whose messages say what to do."""

import os
import re
from dataclasses import dataclass

from pipelines.system.errors import TryAgainLater, UserError, one_line
from pipelines.system.network import lasting_fault, offline_hint
from pipelines.system.shell import doctor_command, pip_command

KAGGLE = "https://api.kaggle.com"
COMPETITION_PAGE = "https://www.kaggle.com/competitions/{slug}"
RULES_PAGE = COMPETITION_PAGE + "/rules"
NEW_TOKEN = "Get a new token at https://www.kaggle.com/settings/api."
CODE_ONLY = (
    "This competition takes code only, no files: Kaggle runs a kernel again, on test images that nobody sees. Set "
    'competition.takes = "code" in the TOML. Then run make kernel, which trains and predicts on Kaggle, and make '
    "submit, which submits the kernel's version. The kernel is run again without internet, within the competition's "
    "time limit."
)
CLIENT = ("kaggle==2.2.4", "six")  # as requirements.txt has them
QUOTED = 300  # characters of Kaggle's own message that are shown


class NoSuchKernel(UserError):
    """Kaggle has no kernel of that name, or these credentials may not see it."""


class ConnectionLost(TryAgainLater):
    """The connection failed before or after Kaggle received the request: it may have been carried out."""


class Unanswered(ConnectionLost):
    """The answer is not the expected one: the request may have been carried out."""


class Damaged(TryAgainLater):
    """The downloaded file differs from Kaggle's."""


@dataclass(frozen=True)
class Failure:
    """What `worker.py` reports of a failed call.  status: of HTTP, or 0.  wait: the header Retry-After, or empty."""

    kind: str
    status: int
    message: str
    wait: str


DOING = {
    "user": "logging in",
    "competition": "asking about the competition",
    "limits": "asking how many submissions are left",
    "files": "listing the files",
    "download": "downloading",
    "submit": "sending the submission",
    "submit_code": "submitting the kernel's version",
    "submissions": "listing the submissions",
    "submission": "asking for the score",
    "push_kernel": "pushing the kernel",
    "kernel_status": "asking for the kernel's status",
    "kernel_output": "listing the kernel's output",
    "gpu_hours": "asking for the GPU quota",
    "fetch": "fetching a file",
}
# By kind of failure; `explained` fills in {doing}, {cause}, {message}, {said}, {slug}, {status} and {wait}.
RETRIABLE: dict[str, type[UserError]] = {
    "connection": ConnectionLost,
    "not json": Unanswered,
    "unreadable": Unanswered,
    "size": Damaged,
}
BY_KIND = {
    "connection": "The connection to Kaggle failed ({doing}): {cause}. Check the network and try again later.{hint}",
    "not json": "What answered was not Kaggle's service but perhaps a web page ({doing}): a login page of the network, "
    "a proxy, or maintenance at Kaggle. Open https://www.kaggle.com in a browser and try again later.",
    "unreadable": "Kaggle's client cannot read the answer, {message} ({doing}). Try again later. If it happens again, "
    "a newer client may help: {newer}",
    "size": "The download has another length than Kaggle announced ({doing}). It was removed. Try again later.",
    "proxy": "The proxy for Kaggle has an unusable address ({doing}): check http_proxy, https_proxy and all_proxy.",
    "credentials": f"Kaggle's client does not accept the credentials found here. {NEW_TOKEN}{{where}}",
    "import": "The package kaggle cannot be imported: {message}. Install it again: {install}",
    "disk": "The disk is full ({doing}). Free space and run the same command again.",
    "forbidden": "No permission ({doing}): {message}. Make this place writable. If it is the folder of the client's "
    "settings (~/.kaggle or ~/.config/kaggle), you can set KAGGLE_CONFIG_DIR to a writable folder instead.",
    "refused": "Kaggle's client refuses ({doing}): {message}",
}
WITHOUT_KAGGLE = "Or download the data in a browser elsewhere, and pass them with ARCHIVE=."
FOR_DATA = ("competition", "files", "download")
AFTER_OTHERS = ("submit", "submit_code", "submission", "kernel_status", "kernel_output", "fetch")
CAUSES = (
    *("Connection refused", "Connection reset by peer", "timed out", "Name or service not known", "No route to host"),
    *("Temporary failure in name resolution", "Network is unreachable", "certificate verify failed"),
)


def explained(failure: Failure, call: str, slug: str) -> Exception:
    """Return the exception for a failed `call` about the competition `slug`.

    `UserError` if the user can fix it, `TryAgainLater` if Kaggle or the network failed, else `RuntimeError`.
    """
    if failure.kind in ("connection", "proxy") and (fault := lasting_fault(failure.message, _address())):
        return _of_network(fault, call)
    if failure.kind == "http":
        error, text = _by_status(failure.status, call)
    elif failure.kind in BY_KIND:
        error, text = RETRIABLE.get(failure.kind, UserError), BY_KIND[failure.kind]
    else:
        return RuntimeError(f"the call {call} failed unexpectedly:\n{failure.message}")
    message = shortened(failure.message)
    said = f' Kaggle says: "{message}"' if failure.message.strip() else ""
    wait = f"in {failure.wait} seconds" if failure.wait.isdigit() else "in some minutes"
    facts = {"doing": DOING[call], "cause": _cause(failure.message), "message": message, "said": said, "wait": wait}
    if call == "submit" and failure.status == 400 and "notebook" in failure.message.lower():
        text += " " + CODE_ONLY
    facts["hint"] = offline_hint(failure.message)
    facts["where"] = where_they_are()
    facts["install"], facts["newer"] = pip_command("--force-reinstall", *CLIENT), pip_command("--upgrade", "kaggle")
    if facts["hint"] and call in FOR_DATA:
        facts["hint"] += f" {WITHOUT_KAGGLE}"
    return error(text.format(slug=slug, status=failure.status, **facts))


def where_they_are() -> str:
    """Return the sentence that says how to find the present credentials."""
    return f" Where the present ones are: {doctor_command()}"


def _address() -> str:
    """Return the address that the client asks: Kaggle's, or the stand-in's."""
    return "http://localhost" if os.environ.get("KAGGLE_API_ENVIRONMENT") == "LOCALHOST" else KAGGLE


def _of_network(fault: str, call: str) -> UserError:
    """Return the error for a fault that lasts; where earlier calls have succeeded, it may end after all."""
    error = ConnectionLost if call in AFTER_OTHERS else UserError
    if _address() != KAGGLE:
        fault += " Is the stand-in running (make kaggle-standin)?"
    elif call in FOR_DATA:
        fault += f" {WITHOUT_KAGGLE}"
    return error(f"The connection to Kaggle failed ({DOING[call]}): {fault.replace('The ', 'the ', 1)}")


def _by_status(status: int, call: str) -> tuple[type[UserError], str]:
    """Return error and message for an HTTP status."""
    match status, call:
        case 401, _:
            return UserError, f"Kaggle does not accept the credentials (401, {{doing}}). {NEW_TOKEN}{{where}}"
        case 403 | 404, "kernel_status" | "kernel_output":
            text = "Kaggle has no such kernel, or these credentials may not see it ({status}, {doing}).{said}"
            return NoSuchKernel, text
        case 403, "push_kernel":
            text = "Kaggle refuses the kernel (403).{said} A kernel with a GPU or internet needs an account with a "
            return UserError, text + "verified phone number: see https://www.kaggle.com/settings"
        case 429, _:
            return TryAgainLater, "Too many requests for Kaggle (429, {doing}): try again {wait}.{said}"
        case _ if status >= 500:
            return Unanswered, "Kaggle has trouble ({status}, {doing}): try again later.{said}"
        case _, "fetch":
            text = "A file could not be fetched from Kaggle ({status}): try again, for a new address.{said}"
            return TryAgainLater, text
        case 403, _:
            text = "Kaggle refuses (403, {doing}). Either you have not accepted the rules of {slug!r}: " + RULES_PAGE
            text += "; or there is no competition of that name: check competition.slug, which is the last part of its "
            return UserError, text + "address.{said}"
        case 404, _:
            text = "Kaggle knows no {slug!r} (404, {doing}). competition.slug is the last part of the competition's "
            return UserError, text + f"address, {COMPETITION_PAGE.format(slug='...')}." + "{said}"
        case _:
            return UserError, "Kaggle refuses ({status}, {doing}).{said}"


def _cause(message: str) -> str:
    """Return the cause in requests' nested message, without its address, which may hold a signature."""
    if known := re.search("|".join(CAUSES), message):
        return known.group()
    return "it was cut" if "IncompleteRead" in message or "aborted" in message else "Kaggle cannot be reached"


def shortened(text: str) -> str:
    """Return `text` on one line, without unprintable characters and at most `QUOTED` characters long."""
    line = one_line(text)
    return line if len(line) <= QUOTED else line[:QUOTED] + "…"
