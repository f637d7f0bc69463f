"""Which credential is found: all places and their order, and no secret in any text."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipelines.kaggle.credentials import (
    Credential,
    config_folder,
    find_credential,
    missing_because,
    require_credential,
    steps_to_credential,
)
from pipelines.system.errors import UserError

# For each environment, a line of JSON, print the kind and username that the real client finds, without the network.
CLIENT = """
import json, os, sys
import requests, kagglesdk
from kagglesdk import KaggleCredentials, get_access_token_from_env
for line in sys.stdin:
    if os.fork():
        os.wait()
        continue
    os.environ.update(json.loads(line))
    out = os.dup(1)
    os.dup2(2, 1)
    import kaggle
    kaggle.api._load_config()
    login = KaggleCredentials.load(client=None)
    if get_access_token_from_env()[0]:
        found = ("access token", "")
    elif kaggle.api._authenticate_with_legacy_apikey():
        found = ("username and key", kaggle.api.config_values["username"])
    else:
        found = ("OAuth", login.get_username()) if login else None
    os.write(out, json.dumps(found).encode() + b"\\n")
    os._exit(0)
"""
SECRET = "KGAT_planted0secret"
OTHER = "0123456789abcdef0planted"
KEY = {"KAGGLE_USERNAME": "alice", "KAGGLE_KEY": OTHER}
TOKEN = {"KAGGLE_API_TOKEN": SECRET}


@dataclass(frozen=True)
class Home:
    """A home folder to put credentials in."""

    folder: Path

    def write(self, name: str, content: str | Mapping[str, Any], mode: int = 0o600) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        path.chmod(mode)
        return path

    def environment(self, **values: str) -> dict[str, str]:
        return {"HOME": str(self.folder), **values}

    def find(self, **values: str) -> Credential | None:
        """Return the credential, after a check that no text about it contains a secret."""
        environment = self.environment(**values)
        found = find_credential(environment)
        hides_secrets(repr(found), str(found), *missing_because(environment), *steps_to_credential(environment))
        return found

    def found(self, **values: str) -> Credential:
        credential = self.find(**values)
        assert credential is not None
        assert credential == require_credential(self.environment(**values))
        return credential

    def refused(self, **values: str) -> str:
        """Return the message about a credential that makes the client fail."""
        with pytest.raises(UserError) as raised:
            find_credential(self.environment(**values))
        hides_secrets(str(raised.value), repr(raised.value))
        assert raised.value.__cause__ is None
        return str(raised.value)


def hides_secrets(*texts: str) -> None:
    for text in texts:
        assert "planted" not in text
        assert SECRET[:8] not in text
        assert OTHER[:8] not in text


@pytest.fixture
def home(tmp_path: Path) -> Home:
    folder = tmp_path / "home"
    folder.mkdir()
    return Home(folder)


def test_nothing(home: Home) -> None:
    assert home.find() is None
    with pytest.raises(UserError) as raised:
        require_credential(home.environment())
    lines = str(raised.value).splitlines()
    assert lines[0] == "There are no credentials for Kaggle here."
    assert [line.split()[0] for line in lines[2:]] == ["1.", "2.", "3.", "4."]
    for words in ("kaggle.com/account", "kaggle.com/settings/api", "Generate New Token", "chmod 600", "make doctor"):
        assert words in str(raised.value)
    assert "~/.kaggle/access_token" in lines[4]
    assert not list(home.folder.iterdir())  # looking changes nothing


def test_a_token_in_a_variable(home: Home) -> None:
    credential = home.found(**TOKEN)
    assert credential == Credential("access token", "KAGGLE_API_TOKEN")
    assert str(credential) == "access token from KAGGLE_API_TOKEN"


def test_a_variable_that_names_a_tokens_file(home: Home) -> None:
    path = home.write("mine/token", SECRET + "\n")
    assert home.found(KAGGLE_API_TOKEN=str(path)).source == "KAGGLE_API_TOKEN, the file ~/mine/token"
    path.chmod(0o644)
    assert home.found(KAGGLE_API_TOKEN=str(path)).warnings == (
        "~/mine/token is open to other users (mode 644): chmod 600 ~/mine/token",
    )


def test_a_variable_that_names_a_missing_file_is_taken_for_the_token(home: Home) -> None:
    credential = home.found(KAGGLE_API_TOKEN=f"~/.kaggle/{SECRET}")
    assert credential.source == "KAGGLE_API_TOKEN"
    assert "no such file" in credential.warnings[0]


def test_a_variable_that_names_an_empty_file_hides_other_tokens(home: Home) -> None:
    path = home.write("token", "\n")
    home.write(".kaggle/access_token", SECRET)
    assert home.find(KAGGLE_API_TOKEN=str(path)) is None
    assert "which is empty" in missing_because(home.environment(KAGGLE_API_TOKEN=str(path)))[0]
    assert home.found(KAGGLE_API_TOKEN=str(path), **KEY).kind == "username and key"


@pytest.mark.parametrize("name", ["access_token", "access_token.txt"])
def test_a_token_in_a_file(home: Home, name: str) -> None:
    home.write(f".kaggle/{name}", f" {SECRET}\n")
    assert home.found() == Credential("access token", f"~/.kaggle/{name}")


def test_the_variable_goes_before_the_file_and_the_file_before_its_double(home: Home) -> None:
    home.write(".kaggle/access_token.txt", SECRET)
    home.write(".kaggle/access_token", SECRET)
    assert home.found().source == "~/.kaggle/access_token"
    assert home.found(**TOKEN).source == "KAGGLE_API_TOKEN"
    home.write(".kaggle/access_token", "")
    assert home.found().source == "~/.kaggle/access_token.txt"
    assert home.found().warnings == ("~/.kaggle/access_token is empty.",)


def test_username_and_key_in_variables(home: Home) -> None:
    credential = home.found(**KEY)
    assert credential == Credential("username and key", "KAGGLE_USERNAME and KAGGLE_KEY", "alice")
    assert str(credential) == "username and key of alice from KAGGLE_USERNAME and KAGGLE_KEY"


@pytest.mark.parametrize("folder", [".kaggle", ".config/kaggle"])
def test_username_and_key_in_a_file(home: Home, folder: str) -> None:
    home.write(f"{folder}/kaggle.json", {"username": "bob", "key": OTHER})
    assert home.found() == Credential("username and key", f"~/{folder}/kaggle.json", "bob")


def test_where_the_settings_folder_is(home: Home, tmp_path: Path) -> None:
    assert config_folder(home.environment()) == home.folder / ".config/kaggle"
    assert config_folder(home.environment(XDG_CONFIG_HOME="/x")) == Path("/x/kaggle")
    (home.folder / ".kaggle").mkdir()
    assert config_folder(home.environment(XDG_CONFIG_HOME="/x")) == home.folder / ".kaggle"
    assert config_folder(home.environment(KAGGLE_CONFIG_DIR="/y", XDG_CONFIG_HOME="/x")) == Path("/y")
    Home(tmp_path).write("elsewhere/kaggle.json", {"username": "bob", "key": OTHER})
    Home(tmp_path).write("elsewhere/access_token", SECRET)  # which is looked for in ~/.kaggle only
    credential = home.found(KAGGLE_CONFIG_DIR=str(tmp_path / "elsewhere"))
    assert str(credential) == f"username and key of bob from {tmp_path}/elsewhere/kaggle.json"


def test_variables_go_before_the_file(home: Home) -> None:
    home.write(".kaggle/kaggle.json", {"username": "bob", "key": OTHER})
    credential = home.found(**KEY)
    assert (credential.username, credential.source) == ("alice", "KAGGLE_USERNAME and KAGGLE_KEY")
    assert credential.warnings == (
        "KAGGLE_USERNAME and KAGGLE_KEY go before ~/.kaggle/kaggle.json, which is not used.",
    )
    mixed = home.found(KAGGLE_USERNAME="alice")
    assert (mixed.username, mixed.source) == ("alice", "KAGGLE_USERNAME and ~/.kaggle/kaggle.json")


@pytest.mark.parametrize(
    ("values", "lacking"), [({"KAGGLE_USERNAME": "alice"}, "key"), ({"KAGGLE_KEY": OTHER}, "user")]
)
def test_one_without_the_other(home: Home, values: dict[str, str], lacking: str) -> None:
    assert home.find(**values) is None
    assert f"but a {lacking}" in missing_because(home.environment(**values))[0]


def test_empty_variables(home: Home) -> None:
    empty = {"KAGGLE_USERNAME": "", "KAGGLE_KEY": ""}
    assert home.find(**empty) is None
    assert "KAGGLE_KEY is set but empty" in " ".join(missing_because(home.environment(**empty)))
    home.write(".kaggle/kaggle.json", {"username": "bob", "key": OTHER})
    assert home.found(**empty).source == "~/.kaggle/kaggle.json"  # the client's inner half finds it again
    assert len(home.found(**empty).warnings) == 2


def test_a_token_goes_before_a_key(home: Home) -> None:
    credential = home.found(**TOKEN, **KEY)
    assert credential.kind == "access token"
    assert "KAGGLE_USERNAME and KAGGLE_KEY are there too" in credential.warnings[0]


def test_oauth_comes_last(home: Home) -> None:
    login = {"refresh_token": SECRET, "access_token": OTHER, "username": "carol"}
    home.write(".kaggle/credentials.json", login)
    assert home.found() == Credential("OAuth", "~/.kaggle/credentials.json", "carol")
    assert str(home.found()) == "OAuth of carol from ~/.kaggle/credentials.json"
    assert home.found(KAGGLE_CONFIG_DIR=str(home.folder)).kind == "OAuth"
    assert home.found(**KEY).kind == "username and key"
    assert home.found(**TOKEN).kind == "access token"
    home.write(".kaggle/credentials.json", {**login, "access_token_expiration": "2026-11-01T10:00:00+00:00"}, 0o640)
    assert "(mode 640): chmod 600 ~/.kaggle/credentials.json" in home.found().warnings[0]


@pytest.mark.parametrize("content", ["{", "", '{"access_token": "planted"}'])
def test_an_oauth_file_without_a_login(home: Home, content: str) -> None:
    home.write(".kaggle/credentials.json", content)
    assert home.find() is None
    assert "kaggle auth login" in missing_because(home.environment())[0]


@pytest.mark.parametrize("content", ["[1]", '{"refresh_token": "planted", "access_token_expiration": "planted"}'])
def test_an_oauth_file_that_stops_the_client(home: Home, content: str) -> None:
    home.write(".kaggle/credentials.json", content)
    assert "~/.kaggle/credentials.json is damaged" in home.refused()


@pytest.mark.parametrize("content", ["", SECRET, '{"username": "bob", "key": "planted"'])
def test_a_damaged_key_file_is_not_used(home: Home, content: str) -> None:
    home.write(".kaggle/kaggle.json", content)
    assert home.find() is None
    assert "~/.kaggle/kaggle.json is damaged: it is not JSON" in missing_because(home.environment())[0]
    assert "is damaged" in home.found(**KEY).warnings[0]
    with pytest.raises(UserError, match="is damaged") as raised:
        require_credential(home.environment())
    hides_secrets(str(raised.value))


@pytest.mark.parametrize("name", [".kaggle/kaggle.json.txt", "Downloads/kaggle.json", "Downloads/kaggle (1).json"])
def test_a_key_file_in_another_place_is_named_and_the_printed_command_mends_it(home: Home, name: str) -> None:
    home.write(name, {"username": "bob", "key": SECRET})
    assert home.find() is None
    (sentence,) = missing_because(home.environment())
    assert sentence.startswith(f"There is ~/{name}, where Kaggle's client does not look: ")
    advice = sentence.partition("look: ")[2]
    subprocess.run(["sh", "-ec", advice], env=home.environment(PATH=os.environ["PATH"]), check=True)
    assert home.found().username == "bob"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_key_file_that_windows_saved_in_another_encoding(home: Home, encoding: str) -> None:
    path = home.write(".kaggle/kaggle.json", "")
    path.write_bytes(json.dumps({"username": "bob", "key": SECRET}).encode(encoding))
    assert home.find() is None
    assert "another encoding than plain UTF-8, perhaps with a BOM" in missing_because(home.environment())[0]


def test_an_e_mail_address_is_no_username(home: Home) -> None:
    message = home.refused(KAGGLE_USERNAME="bob@example.com", KAGGLE_KEY=SECRET)
    assert "The username from KAGGLE_USERNAME is an e-mail address" in message


def test_a_key_file_of_another_shape(home: Home) -> None:
    home.write(".kaggle/kaggle.json", {"username": "bob", "key": 5})
    assert home.find() is None
    assert "its key should be text" in missing_because(home.environment())[0]
    home.write(".kaggle/kaggle.json", {"username": "bob", "key": ""})
    assert home.find() is None
    assert "The key in ~/.kaggle/kaggle.json is empty." in missing_because(home.environment())
    home.write(".kaggle/kaggle.json", f'["{SECRET}"]')
    assert "it has no username and key" in home.refused()


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o666, 0o604])
def test_files_that_others_can_read(home: Home, mode: int) -> None:
    home.write(".kaggle/kaggle.json", {"username": "bob", "key": OTHER}, mode)
    assert home.found().warnings == (
        f"~/.kaggle/kaggle.json is open to other users (mode {mode:o}): chmod 600 ~/.kaggle/kaggle.json",
    )


def test_a_command_with_spaces_in_the_path(home: Home) -> None:
    path = home.write("my token", SECRET, 0o644)
    assert home.found(KAGGLE_API_TOKEN=str(path)).warnings[0].endswith("chmod 600 ~/'my token'")


@pytest.mark.parametrize("wrong", [f"{SECRET}\n", f" {SECRET}", f'"{SECRET}"', f'{{"key":"{OTHER}"}}', f"{SECRET}é"])
def test_what_is_no_token_is_refused_before_the_client_shows_it(home: Home, wrong: str) -> None:
    assert "KAGGLE_API_TOKEN holds something else than a token" in home.refused(KAGGLE_API_TOKEN=wrong)
    home.write(".kaggle/access_token", f"{SECRET}\n{wrong}")
    assert "~/.kaggle/access_token holds something else" in home.refused()


def test_a_key_with_a_line_end(home: Home) -> None:
    assert "The key from KAGGLE_KEY holds something else than a key" in home.refused(
        **KEY | {"KAGGLE_KEY": OTHER + "\r"}
    )


def test_a_token_too_long_for_a_files_name(home: Home) -> None:
    assert "chmod 600" in home.refused(KAGGLE_API_TOKEN=SECRET * 20)
    home.write(".kaggle/access_token", SECRET * 20)
    assert home.found().kind == "access token"


def test_a_token_file_that_cannot_be_read(home: Home) -> None:
    (home.folder / ".kaggle/access_token").mkdir(parents=True)
    assert "~/.kaggle/access_token cannot be read: Is a directory" in home.refused()
    (home.folder / ".kaggle/access_token").rmdir()
    home.write(".kaggle/access_token", "").write_bytes(SECRET.encode("utf-16"))
    assert "it is not plain text" in home.refused()


def test_a_key_file_that_cannot_be_read(home: Home) -> None:
    (home.folder / ".kaggle/kaggle.json").mkdir(parents=True)
    assert home.find() is None
    assert "cannot be read (Is a directory)" in missing_because(home.environment())[0]


def test_the_variable_that_is_often_taken_for_the_tokens(home: Home) -> None:
    assert home.find(KAGGLE_TOKEN=SECRET) is None
    assert "KAGGLE_API_TOKEN" in missing_because(home.environment(KAGGLE_TOKEN=SECRET))[0]
    assert "Unset it" in home.found(KAGGLE_TOKEN=SECRET, **KEY).warnings[0]


def test_in_a_notebook_at_kaggle(home: Home) -> None:
    path = home.write("notebook", SECRET)
    notebook = {"KAGGLE_KERNEL_RUN_TYPE": "Interactive", "KAGGLE_API_V1_TOKEN": str(path)}
    assert home.find(**notebook) is None
    notebook["KAGGLE_DATA_PROXY_URL"] = "https://example.com"
    assert home.found(**notebook, **TOKEN).source == "KAGGLE_API_V1_TOKEN, the file ~/notebook"
    assert home.found(**{**notebook, "KAGGLE_API_V1_TOKEN": ""}, **TOKEN).source == "KAGGLE_API_TOKEN"


def test_without_a_home(tmp_path: Path) -> None:
    environment = {"KAGGLE_CONFIG_DIR": str(tmp_path / "made/by/the/client"), **KEY}
    found = find_credential(environment)
    assert found is not None
    assert found.kind == "username and key"


@pytest.mark.parametrize("values", [{}, KEY, TOKEN])
def test_a_home_in_which_no_folder_can_be_made(tmp_path: Path, values: dict[str, str]) -> None:
    (tmp_path / "file").write_text("")
    message = Home(tmp_path / "file/home").refused(**values)
    assert f"{tmp_path}/file is not a folder" in message
    assert "KAGGLE_CONFIG_DIR" in message


def test_the_real_client_finds_the_same(tmp_path: Path) -> None:
    key_file = ("kaggle.json", {"username": "bob", "key": OTHER})
    login = (".kaggle/credentials.json", {"refresh_token": SECRET, "username": "carol"})
    closed = {"KAGGLE_API_ENVIRONMENT": "LOCALHOST", "http_proxy": "http://127.0.0.1:9"}
    cases: list[tuple[dict[str, str], tuple[tuple[str, str | dict[str, str]], ...]]] = [
        ({}, ()),
        (KEY, ((".kaggle/access_token.txt", SECRET), login)),
        (KEY, ((".kaggle/kaggle.json", "damaged"), login)),
        ({"KAGGLE_USERNAME": "alice"}, ((f".kaggle/{key_file[0]}", key_file[1]),)),
        ({"KAGGLE_USERNAME": "alice"}, ((f".config/kaggle/{key_file[0]}", {}), login)),
        ({}, ((f".config/kaggle/{key_file[0]}", key_file[1]),)),
        ({}, ((f".config/kaggle/{key_file[0]}", key_file[1]), login)),  # ~/.kaggle hides ~/.config/kaggle
        ({"KAGGLE_API_TOKEN": os.devnull}, ((".kaggle/access_token", SECRET), login)),
        ({"KAGGLE_TOKEN": SECRET}, ((".kaggle/access_token", " \n"), (".kaggle/credentials.json", "{"))),
        ({"KAGGLE_KERNEL_RUN_TYPE": "Batch", "KAGGLE_API_V1_TOKEN": __file__}, ((".kaggle/kaggle.json", key_file[1]),)),
    ]
    environments, ours = [], []
    for number, (values, files) in enumerate(cases):
        home = Home(tmp_path / str(number))
        home.folder.mkdir()
        for name, content in files:
            home.write(name, content)
        found = home.find(**values)
        ours.append([found.kind, found.username] if found else None)
        environments.append(json.dumps(home.environment(**values, **closed)))
    kept = {name: value for name, value in os.environ.items() if "KAGGLE" not in name and "proxy" not in name.lower()}
    done = subprocess.run(
        [sys.executable, "-c", CLIENT],
        input="\n".join(environments),
        env=kept,
        text=True,
        capture_output=True,
        check=True,
        timeout=60,
    )
    theirs = [json.loads(line) for line in done.stdout.splitlines()]
    assert ours == theirs
    kinds = [found and found[0] for found in ours]
    key, token, oauth = "username and key", "access token", "OAuth"
    assert kinds == [None, token, key, key, oauth, key, oauth, oauth, None, key]
