"""The stage `download`: its output, files and errors."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from pipelines import command, download

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "data"
TOML = """
[data]
labels = "labels.csv"
sample_submission = "sample_submission.csv"
"""
FILES = {
    "labels.csv": "id,label\n1,cat\n",
    "sample_submission.csv": "id,label\n1,cat\n",
    "train/1.png": "train",
    "test/1.png": "test",
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a working folder with a competition `cats.toml`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cats.toml").write_text(TOML)
    return tmp_path


def make_zip(path: Path, files: dict[str, str], prefix: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(prefix + name, content)
    return path


def contents(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def fails(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Run the stage, check that it fails with one message and leaves no data, and return the message."""
    assert command.run(download.main, ["cats.toml", *words]) == command.EXIT_USER_ERROR
    assert not list(Path("data/cats").glob("*"))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    return captured.err


def test_an_archive(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive = make_zip(home / "cats.zip", FILES)
    assert command.run(download.main, ["cats.toml", "--archive", "cats.zip"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"4 files \(0\.0 MB\) in data/cats/raw, in \d s\.", first)
    assert second == "Next: make split COMP=cats.toml"
    unpacked = contents(home / "data/cats/raw")
    record = json.loads(unpacked.pop(".download.json"))
    assert unpacked == FILES
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    assert record == {"source": "cats.zip", "sha256": sha256, "files": 4, "bytes": sum(map(len, FILES.values()))}


def test_a_second_call_does_nothing_and_says_so(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_zip(home / "cats.zip", FILES)
    words = ["cats.toml", "--archive", "cats.zip"]
    assert command.run(download.main, words) == 0
    before = {path: path.stat().st_mtime_ns for path in home.rglob("*")}
    capsys.readouterr()
    assert command.run(download.main, words) == 0
    assert capsys.readouterr().out.splitlines() == [
        "Already downloaded: 4 files (0.0 MB) in data/cats/raw.",
        "To do it again: rm -r data/cats/raw",
    ]
    assert {path: path.stat().st_mtime_ns for path in home.rglob("*")} == before


def test_another_archive_than_the_one_that_was_unpacked(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_zip(home / "cats.zip", FILES)
    assert command.run(download.main, ["cats.toml", "--archive", "cats.zip"]) == 0
    make_zip(home / "more.zip", {**FILES, "train/2.png": "2"})
    words = ["cats.toml", "--archive", "more.zip"]
    assert command.run(download.main, words) == command.EXIT_USER_ERROR
    message = capsys.readouterr().err
    assert "data/cats/raw came from cats.zip, not from more.zip" in message
    assert command.run(download.main, ["cats.toml"]) == 0  # "leave out ARCHIVE="
    subprocess.run(["sh", "-c", re.findall("first: (rm -r .+)", message)[0]], check=True)
    assert command.run(download.main, words) == 0
    assert "train/2.png" in contents(home / "data/cats/raw")
    (home / "more.zip").rename(home / "renamed.zip")
    assert command.run(download.main, ["cats.toml", "--archive", "renamed.zip"]) == 0  # the same bytes
    os.utime(make_zip(home / "more.zip", FILES), (4e9, 4e9))
    assert command.run(download.main, words) == command.EXIT_USER_ERROR
    assert "as it was before it changed" in capsys.readouterr().err


def test_an_archive_from_kaggle_that_a_disk_damaged(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "data/cats").mkdir(parents=True)
    content = make_zip(home / "data/cats/cats.zip", FILES).read_bytes()
    (home / "data/cats/cats.zip").write_bytes(content[:-20])
    assert command.run(download.main, ["cats.toml"]) == command.EXIT_USER_ERROR
    message = capsys.readouterr().err
    assert "First: rm data/cats/cats.zip && make download COMP=cats.toml" in message


def test_a_folder_is_linked(home: Path) -> None:
    for name, content in FILES.items():
        (home / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        (home / "mine" / name).write_text(content)
    assert command.run(download.main, ["cats.toml", "--archive", "mine"]) == 0
    assert (home / "data/cats/raw/train/1.png").samefile(home / "mine/train/1.png")
    assert json.loads((home / "data/cats/raw/.download.json").read_text())["sha256"] is None
    assert contents(home / "mine") == FILES


@pytest.mark.parametrize("wrapper", ["cats", "train"])
def test_a_single_folder_around_everything_is_taken_off(home: Path, wrapper: str) -> None:
    make_zip(home / "cats.zip", FILES, f"{wrapper}/")
    assert command.run(download.main, ["cats.toml", "--archive", "cats.zip"]) == 0
    unpacked = contents(home / "data/cats/raw")
    del unpacked[".download.json"]
    assert unpacked == FILES


def test_a_single_folder_that_the_settings_name_is_left(home: Path) -> None:
    (home / "cats.toml").write_text('[data]\ntrain_images = "cats/train"\ntest_images = "cats/test"\n')
    make_zip(home / "cats.zip", {"cats/train/a/1.png": "1", "cats/test/1.png": "1"})
    assert command.run(download.main, ["cats.toml", "--archive", "cats.zip"]) == 0
    assert (home / "data/cats/raw/cats/train/a/1.png").exists()


def test_another_competitions_archive(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_zip(home / "dogs.zip", {"train/1.png": "1", "test": "not a folder", "breeds.csv": "id,breed\n"})
    message = fails(capsys, "--archive", "dogs.zip")
    assert "data.labels = 'labels.csv', data.sample_submission = 'sample_submission.csv', data.test_images" in message
    assert "At its top: breeds.csv, test, train/." in message


def test_a_long_list_of_what_was_found_is_cut(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_zip(home / "dogs.zip", {f"{number}.png": "1" for number in range(100)})
    assert "and 80 more" in fails(capsys, "--archive", "dogs.zip")


def test_no_archive_there(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "There is no archive cats.zip" in fails(capsys, "--archive", "cats.zip")


def test_a_damaged_archive(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = make_zip(home / "cats.zip", FILES).read_bytes()
    (home / "cats.zip").write_bytes(content[: len(content) // 2])
    assert "cats.zip: it is damaged or incomplete" in fails(capsys, "--archive", "cats.zip")


def test_the_bundled_digits(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.run(download.main, ["digits"]) == 0
    assert "1,799 files (0.2 MB) in data/digits/raw" in capsys.readouterr().out
    assert (home / "data/digits/held_back/labels.csv").exists()
    assert command.run(download.main, ["digits"]) == 0
    assert "Already downloaded: 1,799 files" in capsys.readouterr().out


def test_killed_half_way_it_leaves_nothing_that_looks_whole(home: Path) -> None:
    many = {**FILES, **{f"train/{number}.png": "image" for number in range(2_500)}}
    make_zip(home / "cats.zip", many)
    words = ["cats.toml", "--archive", "cats.zip"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    raw, partial = home / "data/cats/raw", home / "data/cats/.raw.partial"
    with subprocess.Popen([sys.executable, "-m", "pipelines.download", *words], env=environment) as process:
        while not (partial / "train/20.png").exists():
            assert process.poll() is None, "the stage ended before it was killed"
            time.sleep(0.002)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert partial.exists()
    assert not raw.exists()
    assert command.run(download.main, words) == 0
    assert not partial.exists()
    assert len(list((raw / "train").iterdir())) == 2_500


@pytest.mark.skipif(not (SHARED / "hotdog-64px.zip").exists(), reason="the real data are not here")
def test_hotdog(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "hotdog.toml").write_text("")
    assert command.run(download.main, ["hotdog.toml", "--archive", str(SHARED / "hotdog-64px.zip")]) == 0
    assert "1,998 files (3.6 MB) in data/hotdog/raw" in capsys.readouterr().out
    assert len(list((home / "data/hotdog/raw/train/not-hotdog").iterdir())) == 699


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "cifar-10.zip").exists(), reason="the real data are not here")
def test_cifar_10(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "cifar-10.toml").write_text(
        '[data]\nlabels = "trainLabels.csv"\nsample_submission = "sampleSubmission.csv"\n'
    )
    assert command.run(download.main, ["cifar-10.toml", "--archive", str(SHARED / "cifar-10.zip")]) == 0
    assert "60,002 files" in capsys.readouterr().out
    assert len(list((home / "data/cifar-10/raw/train").iterdir())) == 50_000
