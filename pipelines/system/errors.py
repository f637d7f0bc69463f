"""The exceptions for what a person can mend, and for what mends itself."""

from collections.abc import Iterable
from difflib import get_close_matches

LONGEST_SHOWN = 400  # characters


class UserError(Exception):
    """A mistake in the input or the settings, or something missing, that the person at the keyboard can mend.

    Its message stands alone: it names the file, row or key, what was expected, and what to do.  A stage prints it
    without a traceback and exits with status 2.
    """


class TryAgainLater(UserError):
    """A failure of Kaggle, or of the way there, that may be over when the same command is typed later.

    A stage ends with status 3.  Nothing is lost by it, and its message says what is already done.
    """


def shown(text: str) -> str:
    """Return a name as a message can hold it: on one line, with escapes for what does not print, and not endless."""
    text = _shortened(text)
    return text if text.isprintable() else repr(text)[1:-1]


def quoted(text: object) -> str:
    """Return a name in quotes, as a message can hold it: on one line, and not endless."""
    return repr(_shortened(str(text)))


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN // 2]}…{text[-LONGEST_SHOWN // 2 :]}"


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """Return ` Did you mean 'x'?` for the nearest of `valid`, or an empty string when none is near."""
    matches = get_close_matches(name, list(valid), n=2, cutoff=0.5)
    return f" Did you mean {' or '.join(repr(match) for match in matches)}?" if matches else ""
