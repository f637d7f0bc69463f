"""Which credential Kaggle's client will use, found where it looks and in its order, without the network.

The order is that of `kaggle` 2.2.4: an access token, then a username with its key, then an OAuth login.  No function
here returns, shows or keeps the value of a secret.
"""

import json
import os
import re
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pipelines.system.errors import UserError

SETTINGS_PAGE = "https://www.kaggle.com/settings/api"
SIGN_UP_PAGE = "https://www.kaggle.com/account/login"
TOKEN_FILES = ("access_token", "access_token.txt")
KEY_FILE = "kaggle.json"
LOGIN_FILE = "credentials.json"
OPEN_TO_OTHERS = 0o077
# Spaces and line ends break the header it is sent in; quotes and braces come of copying more than the token.
PLAIN = re.compile(r"""[^\s"'`{}\x00-\x20\x7f-\U0010ffff]+""")
LIKE_A_PATH = re.compile(r"[~/.]|[A-Za-z]:\\|.*access_token|.*\.(txt|json)$")


@dataclass(frozen=True)
class Credential:
    """What the client will log in with.

    source: the variables or the file it comes from.  username: empty where only Kaggle knows it.  warnings: what is
    not as it should be, a sentence each.
    """

    kind: Literal["access token", "username and key", "OAuth"]
    source: str
    username: str = ""
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.kind}{f' of {self.username}' if self.username else ''} from {self.source}"


def find_credential(environment: Mapping[str, str]) -> Credential | None:
    """Return the credential that the client finds in a process with this `environment`, or None.

    Raises `UserError` for what makes the client fail before it looks any further: a token that is not one, a file that
    cannot be read, a settings folder that cannot be made.
    """
    return _look(environment)[0]


def require_credential(environment: Mapping[str, str]) -> Credential:
    """Return the credential; raises `UserError` with the way to one, step by step, where there is none."""
    credential, warnings = _look(environment)
    if credential:
        return credential
    steps = (*steps_to_credential(environment), "See that it is found: make doctor")
    numbered = "".join(f"\n  {number}. {step}" for number, step in enumerate(steps, 1))
    found = "".join(f"\n  {warning}" for warning in warnings)
    raise UserError(f"There are no credentials for Kaggle here.{found}\nTo get some:{numbered}")


def missing_because(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return what is there instead of a credential, a sentence each: a damaged file, a name without a key."""
    credential, warnings = _look(environment)
    return () if credential else tuple(warnings)


def steps_to_credential(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return what to do, in order, to have a credential here."""
    folder = _shown(config_folder(environment) / KEY_FILE, _home(environment))
    return (
        f"Have an account at Kaggle: {SIGN_UP_PAGE}",
        f'Log in and open {SETTINGS_PAGE}; under "API", press "Generate New Token" (or "Create New Token") and copy '
        "what it shows.",
        "Save it as the one line of the file ~/.kaggle/access_token, for your eyes only: mkdir -p ~/.kaggle; "
        "touch ~/.kaggle/access_token; chmod 600 ~/.kaggle/access_token; then open the file and paste. Or set "
        f"KAGGLE_API_TOKEN to it. (An older kaggle.json works as well, as {folder}, mode 600.)",
    )


def config_folder(environment: Mapping[str, str]) -> Path:
    """Return the folder that the client keeps kaggle.json in, and makes as it is imported."""
    if chosen := environment.get("KAGGLE_CONFIG_DIR"):
        return Path(chosen)
    home = _home(environment)
    if not sys.platform.startswith("linux") or (home / ".kaggle").exists():
        return home / ".kaggle"
    return Path(environment.get("XDG_CONFIG_HOME") or home / ".config") / "kaggle"


def _look(environment: Mapping[str, str]) -> tuple[Credential | None, list[str]]:
    """Return the credential and what is to be warned of, which the credential holds too."""
    try:
        return _search(environment)
    except PermissionError as error:
        raise UserError(
            f"No permission at {error.filename}, where Kaggle's client looks for credentials. Give yourself access to "
            "it, or set HOME to your own folder."
        ) from None


def _search(environment: Mapping[str, str]) -> tuple[Credential | None, list[str]]:
    home, config = _home(environment), config_folder(environment)
    _check_folder(config, home)
    warnings: list[str] = []
    token = _find_token(environment, home, warnings)
    key = _find_key(environment, home, config, warnings)
    found = token or key or _find_login(home, warnings)
    if token and key:
        warnings.append(
            f"A {key.kind} from {key.source} are there too; the access token from {token.source} goes first, even "
            "where Kaggle no longer accepts it. Remove the one that you do not want."
        )
    if environment.get("KAGGLE_TOKEN"):
        warnings.append(
            "KAGGLE_TOKEN is set, which nobody logs in with, and Kaggle's client alone would send where another "
            "credential belongs. Unset it; the variable for a token is KAGGLE_API_TOKEN."
        )
    return (replace(found, warnings=tuple(warnings)) if found else None), warnings


def _find_token(environment: Mapping[str, str], home: Path, warnings: list[str]) -> Credential | None:
    # In a notebook at Kaggle the machine has a token of its own.
    if "KAGGLE_KERNEL_RUN_TYPE" in environment and "KAGGLE_DATA_PROXY_URL" in environment:
        path = Path(environment.get("KAGGLE_API_V1_TOKEN") or os.devnull)
        if path.is_file() and _read_token(path, home):
            return Credential("access token", f"KAGGLE_API_V1_TOKEN, the file {_shown(path, home)}")
    if value := environment.get("KAGGLE_API_TOKEN"):
        return _token_from_variable(value, home, warnings)
    for name in TOKEN_FILES:
        path = home / ".kaggle" / name
        if path.exists():
            _check_mode(path, home, warnings)
            if _read_token(path, home):
                return Credential("access token", _shown(path, home))
            warnings.append(f"{_shown(path, home)} is empty.")
    return None


def _token_from_variable(value: str, home: Path, warnings: list[str]) -> Credential | None:
    path = Path(value)
    try:
        is_file = path.exists()
    except (OSError, ValueError):  # the client asks the same, and shows the token as it fails
        raise UserError(
            "KAGGLE_API_TOKEN cannot be used: the client first looks for a file of that name, and this one is no "
            "possible name. Save the token in ~/.kaggle/access_token (chmod 600) and unset KAGGLE_API_TOKEN."
        ) from None
    if not is_file:
        if not PLAIN.fullmatch(value):
            raise UserError(f"KAGGLE_API_TOKEN {_NOT_PLAIN} Set it to the token alone.")
        if LIKE_A_PATH.match(value):
            warnings.append(
                "KAGGLE_API_TOKEN looks like a file's path, but there is no such file, so the client takes it for the "
                "token itself. Correct the path (~ is not understood there), or set it to the token."
            )
        return Credential("access token", "KAGGLE_API_TOKEN")
    _check_mode(path, home, warnings)
    if _read_token(path, home):
        return Credential("access token", f"KAGGLE_API_TOKEN, the file {_shown(path, home)}")
    warnings.append(
        f"KAGGLE_API_TOKEN names the file {_shown(path, home)}, which is empty; so no token is used, not even "
        "~/.kaggle/access_token."
    )
    return None


_NOT_PLAIN = "holds something else than a token: spaces, line ends, quotes, braces, or signs that are not ASCII."


def _read_token(path: Path, home: Path) -> bool:
    """Whether the file holds a token; raises `UserError` where it holds something else."""
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not plain text"
        raise UserError(
            f"{_shown(path, home)} cannot be read: {reason}. Kaggle's client stops at it: make it a text file of one "
            "line that you can read, or remove it."
        ) from None
    if text and not PLAIN.fullmatch(text):
        raise UserError(f"{_shown(path, home)} {_NOT_PLAIN} Save the token alone in it, as its only line.")
    return bool(text)


def _find_key(environment: Mapping[str, str], home: Path, config: Path, warnings: list[str]) -> Credential | None:
    path = config / KEY_FILE
    in_file = _read_key_file(path, home, warnings)
    variables = {"username": "KAGGLE_USERNAME", "key": "KAGGLE_KEY"}
    values = {name: environment.get(variable, in_file.get(name)) for name, variable in variables.items()}
    sources = [
        variable if variable in environment else _shown(path, home) if name in in_file else ""
        for name, variable in variables.items()
    ]
    missing = [name for name, value in values.items() if value is None]
    if missing:
        if len(missing) == 1:
            there = sources[0] or sources[1]
            warnings.append(f"{there} gives a {'key' if sources[1] else 'username'}, but a {missing[0]} is missing.")
        return None
    for name, variable in variables.items():
        if variable in environment and not environment[variable]:
            warnings.append(f"{variable} is set but empty, and goes before any file: unset it.")
        elif not values[name]:
            warnings.append(f"The {name} in {_shown(path, home)} is empty.")
    if not all(values.values()):  # the client's inner half then looks by itself, and only here
        inner = home / ".kaggle" / KEY_FILE
        in_file = in_file if inner == path else _read_key_file(inner, home, warnings)
        values = {name: in_file.get(name) for name in variables}
        sources = [_shown(inner, home)] * 2
        if not all(values.values()):
            return None
    for name, source in zip(variables, sources, strict=True):
        if not PLAIN.fullmatch(str(values[name])):
            raise UserError(f"The {name} from {source} {_NOT_PLAIN.replace('a token', f'a {name}')} Correct it.")
    if set(sources) == set(variables.values()) and {"username", "key"} & set(in_file):
        warnings.append(f"{' and '.join(sources)} go before {_shown(path, home)}, which is not used.")
    source = " and ".join(dict.fromkeys(sources))
    return Credential("username and key", source, str(values["username"]))


def _read_key_file(path: Path, home: Path, warnings: list[str]) -> dict[str, str]:
    """Return what is there of username and key; raises `UserError` where the client would fail."""
    if not path.exists():
        return {}
    _check_mode(path, home, warnings)
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8")) or {}
    except OSError as error:
        warnings.append(f"{_shown(path, home)} cannot be read ({error.strerror}), so it is not used.")
        return {}
    except ValueError:
        warnings.append(f"{_shown(path, home)} is damaged: it is not JSON, so it is not used. {_NEW_KEY_FILE}")
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{_shown(path, home)} is damaged: it has no username and key. {_NEW_KEY_FILE}")
    wrong = [name for name in ("username", "key") if name in content and not isinstance(content[name], str)]
    if wrong:
        warnings.append(f"{_shown(path, home)} is damaged: its {' and '.join(wrong)} should be text. {_NEW_KEY_FILE}")
    return {name: content[name] for name in ("username", "key") if name in content and name not in wrong}


_NEW_KEY_FILE = f'It should be {{"username": "...", "key": "..."}}, as it comes from {SETTINGS_PAGE}; or remove it.'


def _find_login(home: Path, warnings: list[str]) -> Credential | None:
    path = home / ".kaggle" / LOGIN_FILE
    if not path.exists():
        return None
    _check_mode(path, home, warnings)
    shown = _shown(path, home)
    anew = f"Remove it and log in anew: rm {shown}; kaggle auth login"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not content.get("refresh_token"):
            warnings.append(f"{shown} holds no login, so it is not used. {anew}")
            return None
        if not PLAIN.fullmatch(content.get("access_token") or "none"):
            raise ValueError("no token has such characters")
        if (ends := content.get("access_token_expiration")) and not datetime.fromisoformat(ends).tzinfo:
            raise ValueError("the client compares it with a time that has a zone")
        return Credential("OAuth", shown, str(content.get("username") or ""))
    except OSError as error:
        raise UserError(f"{shown} cannot be read: {error.strerror}. Kaggle's client stops at it. {anew}") from None
    except json.JSONDecodeError:
        warnings.append(f"{shown} is damaged: it is not JSON, so it is not used. {anew}")
        return None
    except (ValueError, TypeError, AttributeError):
        raise UserError(f"{shown} is damaged, and Kaggle's client stops at it. {anew}") from None


def _check_folder(folder: Path, home: Path) -> None:
    """Raise `UserError` where the client could not make its settings folder, without which it is not even imported."""
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if existing != folder and not (existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)):
        raise UserError(
            f"Kaggle's client wants to make its settings folder {_shown(folder, home)}, and cannot: "
            f"{existing} {'is not writable' if existing.is_dir() else 'is not a folder'}. Set KAGGLE_CONFIG_DIR to a "
            "folder that you can write, or HOME where it is wrong."
        )


def _check_mode(path: Path, home: Path, warnings: list[str]) -> None:
    if os.name == "nt" or not path.is_file():
        return
    mode = path.stat().st_mode & 0o777
    if mode & OPEN_TO_OTHERS:
        shown = _shown(path, home)
        warnings.append(f"{shown} is open to other users (mode {mode:03o}): chmod 600 {_typed(shown)}")


def _home(environment: Mapping[str, str]) -> Path:
    """The home folder as `os.path.expanduser` finds it in a process with this environment."""
    name = "USERPROFILE" if os.name == "nt" else "HOME"
    if name in environment:
        return Path(environment[name] or os.sep)
    try:
        import pwd

        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except (ImportError, KeyError):  # then the client takes "~" for the name of a folder
        return Path("~")


def _shown(path: Path, home: Path) -> str:
    """The path as a person writes it."""
    return f"~/{path.relative_to(home).as_posix()}" if path.is_relative_to(home) and home.name else str(path)


def _typed(shown: str) -> str:
    """A shown path as it stands in a command."""
    return "~/" + shlex.quote(shown[2:]) if shown.startswith("~/") else shlex.quote(shown)
