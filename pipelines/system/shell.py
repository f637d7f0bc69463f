"""Commands that the user can paste into a shell, whatever the names in them."""

import os
import re
import shlex
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
VARIABLE = re.compile(r"\b(ARCHIVE|PORT|RECIPES?|RUNS?|SEEDS|SET|SOLUTION|TRY)=")  # and an option of stages
ELSEWHERE = "work in another folder: there"  # begins advice whose paths must stay absolute
CALLED_FROM = "CALLED_FROM"  # set by the Makefile: the folder in which the user called make


def user_path(text: str) -> Path:
    """Return the path `text`; a ~ in front, which no shell has expanded behind make's `=`, is the home folder."""
    path = Path(unquoted(text))
    with suppress(RuntimeError):  # there is no such user
        return path.expanduser()
    return path


def unquoted(text: str) -> str:
    """Return `text` without quotes around it, which a second layer of quoting has left."""
    inner = text[1:-1]
    return inner if text in (f"'{inner}'", f'"{inner}"') else text


def names_in(text: str) -> list[str]:
    """Return the names in `text`, a value given to make; a name with spaces is in quotes."""
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()


def path_word(path: Path) -> str:
    """Return `path` as a word of the shell, relative to the folder that the user is in where it is below that."""
    folder = Path.cwd()
    path = folder / path
    if not _called_from_elsewhere() and path.is_relative_to(folder):
        path = path.relative_to(folder)
    text = str(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)


def as_called(message: str) -> str:
    """Return `message` as the user can follow it: paths below the user's folder relative to it, `RUN=` as `--run=`.

    The latter only where the user calls the stages without make.
    """
    with suppress(FileNotFoundError):  # the folder is gone
        if not _called_from_elsewhere() and ELSEWHERE not in message:
            message = re.sub(rf"(?<![^\s'\"=(`]){re.escape(f'{Path.cwd()}/')}(?=[^\s-])", "", message)
        if not make_works_here():
            message = VARIABLE.sub(lambda found: f"--{found[1].lower()}=", message.replace(" COMP=", " "))
    return message


def removal(*paths: Path) -> str:
    """Return the command that removes those of `paths` that exist, or all of them if none does."""
    present = [path for path in paths if os.path.lexists(path)] or list(paths)
    recursive = "" if all(path.is_file() for path in present) else "-r "
    return f"rm {recursive}{' '.join(map(path_word, present))}"


def make_command(targets: str, variables: Mapping[str, str]) -> str:
    """Return the call of `make` for `targets` with those of `variables` that are not empty."""
    where = f"-C {shlex.quote(str(Path.cwd()))} " if _called_from_elsewhere() else ""
    words = [f"{name}={shlex.quote(value)}" for name, value in variables.items() if value]
    return " ".join([f"make {where}{targets}", *words])


def module_command(module: str, arguments: list[str]) -> str:
    """Return the call of `module` by this Python."""
    return shlex.join([sys.executable, "-m", module, *arguments])


def doctor_command() -> str:
    """Return the call of `doctor`, which shows the credentials for every competition."""
    return make_command("doctor", {}) if make_works_here() else module_command("pipelines.tools.doctor", ["digits"])


def pip_command(*words: str) -> str:
    """Return the call of `pip install` for this Python."""
    return module_command("pip", ["install", *words])


def elsewhere() -> str:
    """Return how to call the stages in another folder than the checkout."""
    call = module_command("pipelines.download", ["--help"])
    return f"{ELSEWHERE}, export PYTHONPATH={shlex.quote(str(CHECKOUT))}; {call}"


def make_works_here() -> bool:
    """Return whether the user calls the stages by make: from a target, or in the folder that has the Makefile."""
    return CALLED_FROM in os.environ or Path.cwd().resolve() == CHECKOUT.resolve()


def _called_from_elsewhere() -> bool:
    folder = Path(os.environ.get(CALLED_FROM) or Path.cwd())
    return not (folder.is_dir() and folder.samefile(Path.cwd()))
