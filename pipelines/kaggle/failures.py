"""Failures of calls to Kaggle, as exceptions whose messages say what to do."""

import math
import re
from dataclasses import dataclass

from pipelines.system.errors import TryAgainLater, UserError
from pipelines.system.terminal import one_line

COMPETITION_PAGE = "https://www.kaggle.com/competitions/{slug}"
RULES_PAGE = COMPETITION_PAGE + "/rules"
NEW_TOKEN = "get a new token at https://www.kaggle.com/settings/api."
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
    """The facts that `worker.py` reports of a failed call.

    status: of HTTP, or 0.  wait: the header Retry-After, or empty.
    """

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
    "submissions": "listing the submissions",
    "submission": "asking for the score",
    "push_kernel": "pushing the kernel",
    "kernel_status": "asking for the kernel's status",
    "kernel_output": "listing the kernel's output",
    "gpu_hours": "asking for the GPU quota",
    "fetch": "fetching a file",
}
# {doing}, {cause}, {message}, {said}, {slug}, {status} and {wait} are filled in by `explained`.
BY_KIND: dict[str, tuple[type[UserError], str]] = {
    "connection": (
        ConnectionLost,
        "The connection to Kaggle failed ({doing}): {cause}. Check the network and try again later.",
    ),
    "not json": (
        Unanswered,
        "What answered was not Kaggle's service but perhaps a web page ({doing}): a login page of the network, a "
        "proxy, or maintenance at Kaggle. Open https://www.kaggle.com in a browser and try again later.",
    ),
    "size": (
        Damaged,
        "The downloaded file has another length than Kaggle announced ({doing}). It was removed. Try again later.",
    ),
    "proxy": (
        UserError,
        "The proxy for Kaggle has an unusable address ({doing}): check http_proxy, https_proxy and all_proxy.",
    ),
    "credentials": (
        UserError,
        f"Kaggle's client does not accept the credentials found here. make doctor says more; {NEW_TOKEN}",
    ),
    "import": (UserError, "The package kaggle cannot be imported: {message}. Reinstall it: make install"),
    "disk": (UserError, "The disk is full ({doing}). Free space and run the same command again."),
    "forbidden": (
        UserError,
        "No permission ({doing}): {message}. Kaggle's client keeps its settings in ~/.kaggle: make this folder "
        "writable, or set KAGGLE_CONFIG_DIR to a writable folder.",
    ),
    "refused": (UserError, "Kaggle's client refuses ({doing}): {message}"),
    "unreadable": (
        Unanswered,
        "Kaggle's client cannot read the answer, {message} ({doing}). A newer client may: "
        ".venv/bin/pip install -U kaggle",
    ),
}
API = frozenset(DOING) - {"fetch"}
# Lowest and highest status, calls, error, message: the first row that matches counts.
BY_STATUS: tuple[tuple[float, float, frozenset[str], type[UserError], str], ...] = (
    (
        *(401, 401, frozenset(DOING), UserError),
        "Kaggle does not accept the credentials (401, {doing}). make doctor shows where they are; " + NEW_TOKEN,
    ),
    (
        *(403, 404, frozenset({"kernel_status", "kernel_output"}), NoSuchKernel),
        "Kaggle has no such kernel, or these credentials may not see it ({status}, {doing}).{said}",
    ),
    (
        *(403, 403, frozenset({"push_kernel"}), UserError),
        "Kaggle refuses the kernel (403).{said} A kernel with a GPU or internet needs an account with a verified phone "
        "number: see https://www.kaggle.com/settings",
    ),
    (
        *(403, 403, API, UserError),
        "Kaggle refuses (403, {doing}). Either you have not accepted the rules of {slug!r}: "
        f"{RULES_PAGE}; or there is no competition of that name: check competition.slug, which is the last part of its "
        "address.{said}",
    ),
    (
        *(404, 404, API, UserError),
        "Kaggle knows no {slug!r} (404, {doing}). competition.slug is the last part of the competition's address, "
        f"{COMPETITION_PAGE.format(slug='...')}." + "{said}",
    ),
    (
        *(429, 429, frozenset(DOING), TryAgainLater),
        "Too many requests for Kaggle (429, {doing}): try again {wait}.{said}",
    ),
    (
        *(500, math.inf, frozenset(DOING), Unanswered),
        "Kaggle has trouble ({status}, {doing}): try again later.{said}",
    ),
    (
        *(-math.inf, math.inf, frozenset({"fetch"}), TryAgainLater),
        "A file could not be fetched from Kaggle ({status}): try again, which asks for a new address.{said}",
    ),
    (-math.inf, math.inf, API, UserError, "Kaggle refuses ({status}, {doing}).{said}"),
)
CAUSES = (
    *("Connection refused", "Connection reset by peer", "timed out", "Name or service not known", "No route to host"),
    *("Temporary failure in name resolution", "Network is unreachable", "certificate verify failed"),
)


def explained(failure: Failure, call: str, slug: str) -> Exception:
    """Return the exception for a failed `call` about the competition `slug`.

    `UserError` if the user can fix it, `TryAgainLater` if Kaggle or the network failed, else `RuntimeError`.
    """
    if failure.kind == "http":
        error, text = next(
            (error, text)
            for low, high, calls, error, text in BY_STATUS
            if low <= failure.status <= high and call in calls
        )
    elif failure.kind in BY_KIND:
        error, text = BY_KIND[failure.kind]
    else:
        return RuntimeError(f"the call {call} failed unexpectedly:\n{failure.message}")
    message = shortened(failure.message)
    return error(
        text.format(
            doing=DOING[call],
            cause=_cause(failure.message),
            message=message,
            said=f' Kaggle says: "{message}"' if failure.message.strip() else "",
            slug=slug,
            status=failure.status,
            wait=f"in {failure.wait} seconds" if failure.wait.isdigit() else "in some minutes",
        )
    )


def _cause(message: str) -> str:
    """Return the cause in requests' nested message, without its address, which may hold a signature."""
    if known := re.search("|".join(CAUSES), message):
        return known.group()
    return "it was cut" if "IncompleteRead" in message or "aborted" in message else "Kaggle cannot be reached"


def shortened(text: str) -> str:
    """Return `text` on one line, without unprintable characters and at most `QUOTED` characters long."""
    line = one_line(text)
    return line if len(line) <= QUOTED else line[:QUOTED] + "…"
