"""Exceptions whose message is for the user, and functions that put names and texts from files into messages."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

LONGEST_SHOWN = 400  # characters


class UserError(Exception):
    """A mistake that the user can correct; the message says what to do. A stage prints no traceback; exit status 2."""


class TryAgainLater(UserError):
    """A failure of Kaggle or the network that may end by itself; exit status 3."""


def shown(text: str) -> str:
    """Return a name for use in a message: shortened, on one line, unprintable characters escaped."""
    text = _shortened(text)
    return text if text.isprintable() else repr(text)[1:-1]


def quoted(text: object) -> str:
    """Return a name in quotes for use in a message: shortened, on one line."""
    return repr(_shortened(str(text)))


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN // 2]}…{text[-LONGEST_SHOWN // 2 :]}"


def few(names: Sequence[str], most: int = 3) -> str:
    """Return the first `most` names in quotes, with an ellipsis if there are more."""
    return ", ".join(map(quoted, names[:most])) + (", …" if len(names) > most else "")


def listed(cases: Sequence[str], most: int = 10) -> str:
    """Return `2 in all: first; second`, with an ellipsis after the first `most`."""
    return f"{len(cases):,} in all: {'; '.join(map(shown, cases[:most]))}{'; …' if len(cases) > most else ''}"


def refuse(problem: str, cases: Sequence[str], remedy: str) -> None:
    """Raise `UserError` with the number of `cases` and the first ten; do nothing if there are none."""
    if cases:
        raise UserError(f"{problem}, {listed(cases)}. {remedy}")


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """Return ` Did you mean 'x'?` with the nearest of `valid`, or an empty string if none is near."""
    names = list(valid)
    same = [each for each in names if each.casefold() == name.casefold()]
    matches = same or get_close_matches(name, names, n=2, cutoff=0.5)
    return f" Did you mean {' or '.join(repr(match) for match in matches)}?" if matches else ""


def printable(text: str) -> str:
    """Return `text` with a space for each unprintable character, which could steer a terminal."""
    return "".join(character if character.isprintable() else " " for character in text)


def one_line(text: str) -> str:
    """Return `printable(text)` with each run of white space as a single space."""
    return " ".join(printable(text).split())


def printable_lines(text: str) -> str:
    """Return `printable(text)` with its line ends kept."""
    return "\n".join(map(printable, text.split("\n")))
