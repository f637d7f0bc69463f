"""The credential that Kaggle's client will use, found without the network in the client's places and order.

The order of `kaggle` 2.2.4: an access token, then a username with its key, then an OAuth login.  Nothing here returns,
prints or keeps the value of a secret.
"""

import json
import os
import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pipelines.system.errors import UserError
from pipelines.system.shell import doctor_command, removal

SETTINGS_PAGE = "https://www.kaggle.com/settings/api"
SIGN_UP_PAGE = "https://www.kaggle.com/account/login"
KEY_FILE = "kaggle.json"
# Spaces and line ends break the header that sends it; quotes and braces come from copying more than the token.
PLAIN = re.compile(r"""[^\s"'`{}\x00-\x20\x7f-\U0010ffff]+""")
LIKE_A_PATH = re.compile(r"[~/.]|[A-Za-z]:\\|.*access_token|.*\.(txt|json)$")
NOT_PLAIN = "holds something else than a {what}: spaces, line ends, quotes, braces, or characters that are not ASCII."
NEW_KEY_FILE = f'It should be {{"username": "...", "key": "..."}}, as downloaded from {SETTINGS_PAGE}; or remove it.'


@dataclass(frozen=True)
class Credential:
    """source: variables or file.  username: empty if only Kaggle knows it.  warnings: sentences about problems."""

    kind: Literal["access token", "username and key", "OAuth"]
    source: str
    username: str = ""
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.kind}{f' of {self.username}' if self.username else ''} from {self.source}"


def find_credential(environment: Mapping[str, str]) -> Credential | None:
    """Return the client's credential in `environment`, or None.  Raises `UserError` if the client would fail."""
    return _Search(environment).run()


def require_credential(environment: Mapping[str, str]) -> Credential:
    """Return the credential, or raise `UserError` with the steps to get one."""
    if credential := find_credential(environment):
        return credential
    steps = (*steps_to_credential(environment), f"Check that it is found: {doctor_command()}")
    numbered = [f"  {number}. {step}" for number, step in enumerate(steps, 1)]
    found = [f"  {warning}" for warning in missing_because(environment)]
    raise UserError("\n".join(["There are no credentials for Kaggle here.", *found, "To get some:", *numbered]))


def missing_because(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return sentences about what exists without a credential, such as a damaged file or a username without a key."""
    search = _Search(environment)
    return () if search.run() else (*search.warnings, *search.misplaced())


def steps_to_credential(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the steps that create a credential, in order."""
    folder = _Search(environment).shown(config_folder(environment) / KEY_FILE)
    return (
        f"Have an account at Kaggle: {SIGN_UP_PAGE}",
        f'Log in and open {SETTINGS_PAGE}; under "API", press "Generate New Token" (or "Create New Token") and copy '
        "the token.",
        "Save it as the only line of the file ~/.kaggle/access_token, which only you can read: mkdir -p ~/.kaggle; "
        "touch ~/.kaggle/access_token; chmod 600 ~/.kaggle/access_token; then open the file and paste. Or set "
        f"KAGGLE_API_TOKEN to it. (An older kaggle.json works too, as {folder}, mode 600.)",
    )


def config_folder(environment: Mapping[str, str]) -> Path:
    """Return the folder of kaggle.json, which the client creates when it is imported."""
    if chosen := environment.get("KAGGLE_CONFIG_DIR"):
        return Path(chosen)
    home = _home(environment)
    if not sys.platform.startswith("linux") or (home / ".kaggle").exists():
        return home / ".kaggle"
    return Path(environment.get("XDG_CONFIG_HOME") or home / ".config") / "kaggle"


class _Search:
    """One search for the credential; `warnings` grows while it runs."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = environment
        self.home = _home(environment)
        self.warnings: list[str] = []

    def run(self) -> Credential | None:
        try:
            self._check_folder(config_folder(self.environment))
            token, key = self._token(), self._key()
            found = token or key or self._login()
        except PermissionError as error:
            raise UserError(
                f"No permission at {error.filename}, where Kaggle's client looks for credentials. Make it accessible, "
                "or set HOME to your own folder."
            ) from None
        if token and key:
            self.warnings.append(
                f"A {key.kind} from {key.source} are there too; the access token from {token.source} is used first, "
                "even if Kaggle no longer accepts it. Remove the one that you do not want."
            )
        if self.environment.get("KAGGLE_TOKEN"):
            self.warnings.append(
                "KAGGLE_TOKEN is set, which is no credential; Kaggle's client alone would send it in place of one. "
                "Unset it; the variable for a token is KAGGLE_API_TOKEN."
            )
        return replace(found, warnings=tuple(self.warnings)) if found else None

    def misplaced(self) -> Iterator[str]:
        """Yield a sentence for each likely file of a key that the client does not find."""
        folder = config_folder(self.environment)
        downloads = [self.home / name for name in (".kaggle", ".config/kaggle", "Downloads", "Desktop", ".")]
        for place in dict.fromkeys([folder, *downloads, Path.cwd()]):
            for name in (KEY_FILE, f"{KEY_FILE}.txt", "kaggle (1).json", "kaggle(1).json"):
                path = place / name
                if path != folder / KEY_FILE and path.is_file():
                    target = folder / KEY_FILE
                    move = f"mkdir -p {self._typed(folder)}; mv {self._typed(path)} {self._typed(target)}"
                    yield f"There is {self.shown(path)}, where Kaggle's client does not look: {move}"

    def _typed(self, path: Path) -> str:
        """Return the path for a shell."""
        shown = self.shown(path)
        return "~/" + shlex.quote(shown[2:]) if shown.startswith("~/") else shlex.quote(shown)

    def shown(self, path: Path) -> str:
        """Return the path with ~ for the home folder."""
        inside = path.is_relative_to(self.home) and self.home.name
        return f"~/{path.relative_to(self.home).as_posix()}" if inside else str(path)

    def _token(self) -> Credential | None:
        # A notebook at Kaggle has a separate token.
        if "KAGGLE_KERNEL_RUN_TYPE" in self.environment and "KAGGLE_DATA_PROXY_URL" in self.environment:
            path = Path(self.environment.get("KAGGLE_API_V1_TOKEN") or os.devnull)
            if path.is_file() and self._holds_token(path):
                return Credential("access token", f"KAGGLE_API_V1_TOKEN, the file {self.shown(path)}")
        if value := self.environment.get("KAGGLE_API_TOKEN"):
            return self._token_variable(value)
        for name in ("access_token", "access_token.txt"):
            path = self.home / ".kaggle" / name
            if path.exists():
                self._check_mode(path)
                if self._holds_token(path):
                    return Credential("access token", self.shown(path))
                self.warnings.append(f"{self.shown(path)} is empty.")
        return None

    def _token_variable(self, value: str) -> Credential | None:
        path = Path(value)
        try:
            is_file = path.exists()
        except (OSError, ValueError):  # the client fails here too, and prints the token
            raise UserError(
                "KAGGLE_API_TOKEN cannot be used: the client fails at it, because it is no valid file name. Save the "
                "token in ~/.kaggle/access_token (chmod 600) and unset KAGGLE_API_TOKEN."
            ) from None
        if not is_file:
            if not PLAIN.fullmatch(value):
                raise UserError(f"KAGGLE_API_TOKEN {NOT_PLAIN.format(what='token')} Set it to the token alone.")
            if LIKE_A_PATH.match(value):
                self.warnings.append(
                    "KAGGLE_API_TOKEN looks like a file's path, but there is no such file, so the client uses it as "
                    "the token itself. Correct the path (without ~), or set it to the token."
                )
            return Credential("access token", "KAGGLE_API_TOKEN")
        self._check_mode(path)
        if self._holds_token(path):
            return Credential("access token", f"KAGGLE_API_TOKEN, the file {self.shown(path)}")
        self.warnings.append(
            f"KAGGLE_API_TOKEN names the file {self.shown(path)}, which is empty; so no token is used, not even "
            "~/.kaggle/access_token."
        )
        return None

    def _holds_token(self, path: Path) -> bool:
        """Return whether the file holds a token; False if it is empty.  Raises `UserError` for anything else."""
        try:
            text = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not plain text"
            raise UserError(
                f"{self.shown(path)} cannot be read: {reason}. Kaggle's client fails at it: make it a readable text "
                "file of one line, or remove it."
            ) from None
        if text and not PLAIN.fullmatch(text):
            raise UserError(f"{self.shown(path)} {NOT_PLAIN.format(what='token')} Save only the token in it.")
        return bool(text)

    def _key(self) -> Credential | None:
        path = config_folder(self.environment) / KEY_FILE
        in_file = self._read_key_file(path)
        variables = {"username": "KAGGLE_USERNAME", "key": "KAGGLE_KEY"}
        values = {name: self.environment.get(variable, in_file.get(name)) for name, variable in variables.items()}
        sources = [
            variable if variable in self.environment else self.shown(path) if name in in_file else ""
            for name, variable in variables.items()
        ]
        missing = [name for name, value in values.items() if value is None]
        if len(missing) == 1:
            there, kind = sources[0] or sources[1], "key" if sources[1] else "username"
            self.warnings.append(
                f"{there} gives a {kind}, but a {missing[0]} is missing: set {variables[missing[0]]} too."
            )
        if missing:
            return None
        for name, variable in variables.items():
            if variable in self.environment and not self.environment[variable]:
                self.warnings.append(f"{variable} is set but empty, and is used before any file: unset it.")
            elif not values[name]:
                self.warnings.append(f"The {name} in {self.shown(path)} is empty.")
        if not all(values.values()):  # then the client's generated half looks too, only here
            inner = self.home / ".kaggle" / KEY_FILE
            in_file = in_file if inner == path else self._read_key_file(inner)
            values = {name: in_file.get(name) for name in variables}
            sources = [self.shown(inner)] * 2
            if not all(values.values()):
                return None
        if "@" in str(values["username"]):
            raise UserError(
                f"The username from {sources[0]} is an e-mail address. Kaggle's username is the last part of your "
                "profile's address, https://www.kaggle.com/<username>, and is in kaggle.json."
            )
        for name, source in zip(variables, sources, strict=True):
            if not PLAIN.fullmatch(str(values[name])):
                raise UserError(f"The {name} from {source} {NOT_PLAIN.format(what=name)} Correct it.")
        if set(sources) == set(variables.values()) and {"username", "key"} & set(in_file):
            self.warnings.append(f"{' and '.join(sources)} go before {self.shown(path)}, which is not used.")
        return Credential("username and key", " and ".join(dict.fromkeys(sources)), str(values["username"]))

    def _read_key_file(self, path: Path) -> dict[str, str]:
        """Return the username and key in the file, if any.  Raises `UserError` if the client would fail at it."""
        if not path.exists():
            return {}
        self._check_mode(path)
        shown = self.shown(path)
        try:
            content: Any = json.loads(path.read_text(encoding="utf-8")) or {}
        except OSError as error:
            self.warnings.append(f"{shown} cannot be read ({error.strerror}), so it is not used.")
            return {}
        except ValueError as error:
            reason = "it is not JSON"
            if isinstance(error, UnicodeDecodeError) or "BOM" in str(error):
                reason = "it is saved in another encoding than plain UTF-8, perhaps with a BOM"
            self.warnings.append(f"{shown} is damaged: {reason}, so it is not used. {NEW_KEY_FILE}")
            return {}
        if not isinstance(content, dict):
            raise UserError(f"{shown} is damaged: it has no username and key. {NEW_KEY_FILE}")
        found = {name: content[name] for name in ("username", "key") if name in content}
        if wrong := [name for name, value in found.items() if not isinstance(value, str)]:
            self.warnings.append(f"{shown} is damaged: its {' and '.join(wrong)} should be text. {NEW_KEY_FILE}")
        return {name: value for name, value in found.items() if name not in wrong}

    def _login(self) -> Credential | None:
        path = self.home / ".kaggle" / "credentials.json"
        if not path.exists():
            return None
        self._check_mode(path)
        shown = self.shown(path)
        login = f"Remove it and log in again: {removal(path)}; kaggle auth login"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if not content.get("refresh_token"):
                self.warnings.append(f"{shown} holds no login, so it is not used. {login}")
                return None
            if not PLAIN.fullmatch(content.get("access_token") or "none"):
                raise ValueError("no token has such characters")
            if (ends := content.get("access_token_expiration")) and not datetime.fromisoformat(ends).tzinfo:
                raise ValueError("the client compares it with a time that has a zone")
            return Credential("OAuth", shown, str(content.get("username") or ""))
        except OSError as error:
            raise UserError(f"{shown} cannot be read: {error.strerror}. Kaggle's client fails at it. {login}") from None
        except json.JSONDecodeError:
            self.warnings.append(f"{shown} is damaged: it is not JSON, so it is not used. {login}")
            return None
        except (ValueError, TypeError, AttributeError):
            raise UserError(f"{shown} is damaged, and Kaggle's client fails at it. {login}") from None

    def _check_folder(self, folder: Path) -> None:
        """Raise `UserError` if the client could not make its settings folder: then it cannot be imported."""
        existing = folder
        while not existing.exists() and existing != existing.parent:
            existing = existing.parent
        if existing != folder and not (existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)):
            raise UserError(
                f"Kaggle's client cannot make its settings folder {self.shown(folder)}: {existing} "
                f"{'is not writable' if existing.is_dir() else 'is not a folder'}. Set KAGGLE_CONFIG_DIR to a writable "
                "folder, or correct HOME."
            )

    def _check_mode(self, path: Path) -> None:
        """Warn of a file that other users can read."""
        if os.name != "nt" and path.is_file() and (mode := path.stat().st_mode & 0o777) & 0o077:
            chmod = f"chmod 600 {self._typed(path)}"
            self.warnings.append(f"{self.shown(path)} is open to other users (mode {mode:03o}): {chmod}")


def _home(environment: Mapping[str, str]) -> Path:
    """Return the home folder that `os.path.expanduser` finds in a process with this environment."""
    name = "USERPROFILE" if os.name == "nt" else "HOME"
    if name in environment:
        return Path(environment[name] or os.sep)
    try:
        import pwd

        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except (ImportError, KeyError):  # the client then uses "~" as a folder name
        return Path("~")
