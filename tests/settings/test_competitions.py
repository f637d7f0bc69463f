"""A competition that cannot be found, or a TOML that cannot be read, is named as what it is."""

import subprocess
from pathlib import Path

import pytest

from pipelines.settings.competitions import COMPETITIONS, find_competition
from pipelines.settings.loading import load_settings
from pipelines.system.errors import UserError


def refused(competition: str) -> str:
    with pytest.raises(UserError) as error:
        load_settings(competition)
    return str(error.value)


def advised(message: str) -> str:
    """Return the competition that a message names, COMP=… at its end."""
    return message.rpartition("COMP=")[2]


@pytest.mark.parametrize(
    "address",
    [
        "https://www.kaggle.com/competitions/cifar-10/overview",
        "https://www.kaggle.com/c/cifar-10",
        "kaggle.com/competitions/cifar-10?x=1",
    ],
)
def test_an_address_names_the_slug_to_give(address: str) -> None:
    message = refused(address)
    assert "is an address" in message and load_settings(advised(message)).name == "cifar-10"
    assert "after writing" in refused(address.replace("cifar-10", "new-one"))


@pytest.mark.parametrize("name", ["CIFAR-10", "cifar 10", "cifar_10", "Cifar-10.toml", "cifar-10/"])
def test_a_name_in_another_form_suggests_the_right_one(name: str) -> None:
    assert "Did you mean 'cifar-10'?" in refused(name)


def test_nothing_a_folder_and_another_file_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings(advised(refused(" "))).name == "digits"
    monkeypatch.chdir(tmp_path)
    assert refused(str(tmp_path)).endswith("is a folder. It holds no TOML.")
    (tmp_path / "my leaves.toml").touch()
    assert f"is a folder. Give the path of a TOML in it: '{tmp_path}/my leaves.toml'." in refused(f"{tmp_path}/")
    (tmp_path / "notes.txt").touch()
    assert "'notes.txt' is no TOML" in refused("notes.txt")
    (tmp_path / "flowers.toml").touch()
    assert load_settings("flowers").name == "flowers"


def test_a_path_needs_no_ending_and_may_begin_with_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "flowers.toml").touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_competition(f"{tmp_path}/flowers") == find_competition("~/flowers.toml") == tmp_path / "flowers.toml"
    assert find_competition("digits") == COMPETITIONS / "digits.toml"


TEXT = '[train]\nepochs = 3\n[competition]\ntitle = "Blätter"\n'


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_line_ends_tabs_and_a_byte_order_mark_do_not_matter(tmp_path: Path, encoding: str, line_end: str) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(TEXT.replace("\n", line_end).replace("epochs =", "\tepochs\t=").encode(encoding))
    settings = load_settings(str(path))
    assert (settings.train.epochs, settings.competition.title) == (3, "Blätter")


@pytest.mark.parametrize(
    ("encoding", "words"),
    [("utf-16", "is saved as UTF-16"), ("utf-16-le", "is saved as UTF-16"), ("latin-1", "line 4 holds the byte 0xe4")],
)
def test_another_encoding_is_named(tmp_path: Path, encoding: str, words: str) -> None:
    (tmp_path / "x.toml").write_bytes(TEXT.encode(encoding))
    message = refused(str(tmp_path / "x.toml"))
    assert words in message and "UTF-8" in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[model]\nname = resnet18\n", ("line 2", "name = resnet18", "Text needs quotes")),
        ("[augment]\nflip = True\n", ("line 2", "flip = True", "lower case")),
        ('[data]\nlabels = "C:\\Users\\me\\x.csv"\n', ("line 2", "with / instead of \\")),
        ("[train]\nepochs = 3\nepochs = 4\n", ("line 3", "epochs = 4", "given twice")),
        ("[train]\nepochs = 3\n[data]\n[train]\nlr = 1\n", ("line 4", "[train]", "section is given twice")),
        ("[train]\nepochs: 3\n", ("line 2", "epochs: 3", "followed by =")),
        ('[data]\nlabels = "a.csv\n', ("line 2", 'labels = "a.csv', "ends on its line")),
        ("[train]\nlr = 0,5\n", ("line 2", "lr = 0,5", "decimal point, as 0.05")),
        ("[model]\nname = “convnet”\n", ("line 2", "'\\u201c' (U+201C) is not the plain character")),
        ("[train]\nlr = –0.5\n", ("line 2", "(U+2013) is not the plain")),
        ("[train]\nepochs =\u00a01\n", ("line 2", "(U+00A0) is not the plain")),
    ],
)
def test_a_mistake_in_the_form_shows_its_line_and_what_to_do(tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    (tmp_path / "x.toml").write_text(text)
    message = refused(str(tmp_path / "x.toml"))
    for each in ("is not valid TOML", *words):
        assert each in message


def test_a_toml_that_an_editor_saved_with_txt_is_named_with_the_command_that_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my leaves.toml.txt").write_text(TEXT, encoding="utf-8")
    message = refused("my leaves.toml")
    assert message == refused("my leaves.toml.txt") and "does not end in .toml" in message
    subprocess.run(message.partition("Rename it: ")[2], shell=True, check=True)
    assert load_settings("my leaves.toml").train.epochs == 3
