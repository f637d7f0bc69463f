"""Which folders around everything `download` removes, and what to set if the settings' names are not there."""

import io
import re
from pathlib import Path

import pytest
from PIL import Image

from pipelines import command, download, split
from pipelines.dataset.archives import unpack
from pipelines.system.errors import UserError
from tests.support.archives import below, contents, inside, make_zip
from tests.support.pictures import noise

LABELS = b"id,label\n" + b"".join(b"%d,%s\n" % (number, (b"cat", b"dog")[number % 2]) for number in range(1, 9))
SAMPLE = b"id,label\nt1,cat\n"
TABLES = {"labels.csv": LABELS, "sample_submission.csv": SAMPLE}
TRAIN = {f"{number}.png": b"train %d" % number for number in range(1, 9)}


def picture(number: int) -> bytes:
    content = io.BytesIO()
    Image.fromarray(noise(8, 8, 3, seed=number)).save(content, "PNG")
    return content.getvalue()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a working folder with a competition `cats.toml`."""
    monkeypatch.chdir(tmp_path)
    settings({"labels": "labels.csv", "sample_submission": "sample_submission.csv"})
    return tmp_path


def settings(data: dict[str, str]) -> None:
    lines = [f'{key} = "{value}"\n' for key, value in data.items()]
    Path("cats.toml").write_text("[data]\n" + "".join(lines) + "[split]\nvalid_ratio = 0.25\n")


PLAIN = {**TABLES, **below("train", TRAIN), "test/t1.png": b"test"}


def downloads(files: dict[str, bytes]) -> dict[str, bytes]:
    make_zip(Path("cats.zip"), files)
    assert command.run(download.main, ["cats.toml", "--archive", "cats.zip"]) == 0
    found = contents(Path("data/cats/raw"))
    del found[".download.json"]
    return found


def fails(files: dict[str, bytes], capsys: pytest.CaptureFixture[str]) -> str:
    make_zip(Path("cats.zip"), files)
    assert command.run(download.main, ["cats.toml", "--archive", "cats.zip"]) == command.EXIT_USER_ERROR
    assert not Path("data/cats/raw").exists()
    return capsys.readouterr().err


@pytest.mark.parametrize("around", ["cats", "a/b/c", "train", "train/train"])
def test_folders_around_everything_are_removed(home: Path, around: str) -> None:
    assert downloads(below(around, PLAIN)) == PLAIN


def test_a_folder_beside_other_files_is_lifted(home: Path) -> None:
    """As macOS Finder and authors of data sets pack them."""
    files = {
        **below("cats", PLAIN),
        "__MACOSX/cats/._labels.csv": b"\0\5\26\7",
        "cats/.DS_Store": b"Bud1",
        "README.md": b"",
    }
    assert downloads(files) == {**PLAIN, "README.md": b""}


def test_inner_archives_in_a_folder_around_everything(home: Path) -> None:
    train, test = inside(home / "train.zip", TRAIN), inside(home / "test.zip", {"t1.png": b"test"})
    assert downloads(below("cats", {"train.zip": train, "test.zip": test, **TABLES})) == PLAIN


def test_two_folders_that_hold_everything(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {**below("small", PLAIN), **below("large", PLAIN)}
    message = fails(files, capsys)
    assert "Several folders hold it: 'large', 'small'." in message
    follow(message)
    assert downloads(files) == files


def follow(message: str) -> None:
    """Set what the message says."""
    values = dict(re.findall(r'(\w+) = "([^"]*)"', message[message.index("set under [data] in the TOML: ") :]))
    settings({"labels": "labels.csv", "sample_submission": "sample_submission.csv"} | values)


def test_a_file_that_lifting_would_replace(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = fails({**below("cats", {**PLAIN, "README.md": b"1"}), "README.md": b"2"}, capsys)
    assert "README.md is both at its top and in cats/" in message and "ARCHIVE=…/cats" in message


def test_other_names_are_all_offered_and_work(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {
        "Labels.CSV": LABELS,
        "csv/sampleSubmission.csv": SAMPLE,
        **below("Train", TRAIN),
        "images/test/t1.png": b"1",
    }
    message = fails(files, capsys)
    assert 'labels = "Labels.CSV", sample_submission = "csv/sampleSubmission.csv", train_images = "Train"' in message
    assert 'test_images = "images/test".' in message
    follow(message)
    assert downloads(files) == files


def test_a_sample_that_does_not_exist(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {name: content for name, content in PLAIN.items() if name != "sample_submission.csv"}
    message = fails(files, capsys)
    assert 'If it has none, set sample_submission = "".' in message
    settings({"labels": "labels.csv", "sample_submission": ""})
    assert downloads(files) == files


def test_images_at_the_top(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures = {f"{name}.png": picture(number) for number, name in enumerate([*range(1, 9), "t1"])}
    message = fails({**TABLES, **pictures}, capsys)
    assert 'train_images = ".", test_images = "."' in message
    follow(message)
    downloads({**TABLES, **pictures})
    assert command.run(split.main, ["cats.toml"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"train +6 +2", printed) and re.search(r"test +1 ", printed)


def test_what_could_not_be_unpacked_is_named(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = fails({**TABLES, "train.rar": b"Rar!", "test/t1.png": b"1"}, capsys)
    assert "'train.rar' cannot be read here: unpack or convert this" in message


def test_a_folder_around_the_target(home: Path) -> None:
    with pytest.raises(UserError, match="Move the data to a folder that holds nothing else"):
        unpack(home, home / "data/cats/raw")
