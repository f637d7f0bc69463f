"""Exceptions whose message is for the user, and the helpers that write such messages."""

from collections.abc import Iterable
from difflib import get_close_matches

LONGEST_SHOWN = 400  # characters


class UserError(Exception):
    """A mistake that the user can correct. The message names the file, row or key, what is wrong and what to do.

    A stage prints it without a traceback and exits with status 2.
    """


class TryAgainLater(UserError):
    """A failure of Kaggle or the network that may end by itself; exit status 3. The message says what is done."""


def shown(text: str) -> str:
    """Return a name for use in a message: shortened, on one line, unprintable characters escaped."""
    text = _shortened(text)
    return text if text.isprintable() else repr(text)[1:-1]


def quoted(text: object) -> str:
    """Return a name in quotes for use in a message: shortened, on one line."""
    return repr(_shortened(str(text)))


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN // 2]}…{text[-LONGEST_SHOWN // 2 :]}"


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """Return ` Did you mean 'x'?` with the nearest of `valid`, or an empty string if none is near."""
    matches = get_close_matches(name, list(valid), n=2, cutoff=0.5)
    return f" Did you mean {' or '.join(repr(match) for match in matches)}?" if matches else ""
