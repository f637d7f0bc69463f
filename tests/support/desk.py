"""A user's desk: the project in a folder with a difficult name, and a shell into which commands are pasted.

The shell and make are real. In place of Python stands a script that writes down its words, so that the stages can run
in the process of the test: their imports would take seconds each.
"""

import contextlib
import io
import os
import re
import subprocess
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from pipelines import command
from pipelines.system.shell import CALLED_FROM

REPOSITORY = Path(__file__).parents[2]
FOLDER = "OneDrive - Uni & Co"
RECORD = """#!/bin/sh
for word in "$CALLED_FROM" "$@"; do printf '%s\\0' "$word"; done >>'{calls}'
printf '\\n\\0' >>'{calls}'
"""
TARGETS = re.findall(r"^([a-z-]+):.*## ", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
# What a message says to type reaches to the end of its line.
TO_TYPE = re.compile(rf"(?:^|[\s;])((?:make (?:-C .+ )?(?:{'|'.join(TARGETS)})|rm|mv)(?: .*)?$)", re.MULTILINE)


class Call(NamedTuple):
    """One call of Python: the folder in which the user called make, the module and its arguments."""

    called_from: str
    module: str
    arguments: list[str]


class Said(NamedTuple):
    """The exit status of a pasted command, and what it printed."""

    status: int
    text: str

    def to_type(self) -> list[str]:
        """Return the commands that the text tells the user to type."""
        return TO_TYPE.findall(self.text)


@dataclass(frozen=True)
class Desk:
    """The folder with the copy, the shell and the file of recorded calls; `real`: Python itself runs."""

    folder: Path
    shell: str = "sh"
    real: bool = False

    @property
    def calls(self) -> Path:
        return self.folder.parent / "calls"

    def set_up(self) -> None:
        programs = self.folder / ".venv" / "bin"
        programs.mkdir(parents=True)
        (self.folder / "Makefile").write_bytes((REPOSITORY / "Makefile").read_bytes())
        (self.folder / "pipelines").symlink_to(REPOSITORY / "pipelines")
        (self.folder / "tests").mkdir()
        (self.folder / "benchmarks").mkdir()
        (self.folder / "requirements.txt").touch()
        (self.folder / ".venv" / ".installed").touch()
        python = f'#!/bin/sh\nexec "{REPOSITORY}/.venv/bin/python" "$@"\n' if self.real else RECORD
        (programs / "python").write_text(python.format(calls=self.calls))
        (programs / "python").chmod(0o755)

    def type(self, text: str, folder: Path | None = None) -> tuple[Said, list[Call]]:
        """Return what the shell says to a line, and the calls of Python that it made."""
        self.calls.unlink(missing_ok=True)
        environment = {name: value for name, value in os.environ.items() if name not in ("MAKELEVEL", CALLED_FROM)}
        environment |= {"PATH": f"{self.folder}/.venv/bin:{environment['PATH']}", "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            [self.shell], input=f"{text}\n", cwd=folder or self.folder, env=environment, text=True, capture_output=True
        )
        recorded = self.calls.read_text(encoding="utf-8") if self.calls.exists() else ""
        calls = [each.split("\0") for each in recorded.split("\0\n\0") if each]
        return Said(done.returncode, done.stdout + done.stderr), [
            Call(words[0], words[2], words[3:]) for words in calls
        ]

    def paste(self, text: str, folder: Path | None = None) -> Said:
        """Return the status of a command, and what make and its stages print."""
        said, calls = self.type(text, folder)
        assert said.status == 0 or self.real, said.text
        status, printed = said.status, said.text
        for call in calls:
            output = io.StringIO()
            with self._as_called(call, output):
                status = command.run(import_module(call.module).main, call.arguments)
            printed += output.getvalue()
            if status:
                break
        return Said(status, printed)

    @contextlib.contextmanager
    def _as_called(self, call: Call, output: io.StringIO):  # type: ignore[no-untyped-def]
        before = os.environ[CALLED_FROM]
        os.environ[CALLED_FROM] = call.called_from
        try:
            with contextlib.chdir(self.folder), contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
                yield
        finally:
            os.environ[CALLED_FROM] = before
