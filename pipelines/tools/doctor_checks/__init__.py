"""The checks of doctor: this module holds a check, and the texts that several checks share."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipelines.system.errors import printable
from pipelines.system.shell import CHECKOUT, path_word

NAME_WIDTH, VERDICT_WIDTH = len("submissions"), len("missing")

Verdict = Literal["ok", "!", "missing", "fails", "-"]


@dataclass(frozen=True)
class Check:
    """The result of one check.  steps: what to do unless it is ok.  later: it may pass later, with no change here."""

    name: str
    verdict: Verdict
    found: str
    steps: tuple[str, ...] = ()
    later: bool = False

    @property
    def fails(self) -> bool:
        return self.verdict in ("missing", "fails")

    def __str__(self) -> str:
        return f"{self.name:<{NAME_WIDTH}}  {self.verdict:<{VERDICT_WIDTH}}  {printable(self.found)}"


def install(what: str) -> str:
    """Return the step that installs the requirements."""
    return f"Install {what}: {short(Path(sys.executable))} -m pip install -r {path_word(CHECKOUT / 'requirements.txt')}"


def short(path: Path) -> str:
    """Return the path relative to the working folder, if it is inside."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def first_line(error: BaseException) -> str:
    """Return the first line of the message of `error`, or its type if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
