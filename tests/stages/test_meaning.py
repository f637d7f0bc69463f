"""Data that means something else is refused at split, before anything is written, and the advice works."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.raw_files import write
from tests.support.stages import run_stage_here

NETWORK = (
    '[input]\nsize = 8\n[model]\nwidths = [8]\n[train]\nepochs = 1\n[hardware]\nprecision = "float32"\nworkers = 0\n'
)
CLASSES = ("cat", "dog", "fox")


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def image(path: Path, shade: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8, 3), shade, np.uint8)).save(path)


def toml(work: Path, data: str, competition: str = "") -> None:
    write(work / "pets.toml", f"[competition]\n{competition}\n[data]\n{data}\n{NETWORK}")


def run(stage: str, *words: str) -> int:
    return run_stage_here(stage, ["pets.toml", *words])


def listed(work: Path, labels: tuple[str, ...] = ("cat", "dog")) -> Path:
    """Write a labels CSV of 12 images, a test folder of 4 and a sample submission; return the raw folder."""
    raw = work / "data/pets/raw"
    for number in range(12):
        image(raw / f"train/{number}.png", 100 * (number % len(labels)) + number)
    for number in range(4):
        image(raw / f"test/{number}.png", 100 * (number % 2))
    rows = "".join(f"{number},{labels[number % len(labels)]}\n" for number in range(12))
    write(raw / "labels.csv", f"id,label\n{rows}")
    write(raw / "sample.csv", "id,label\n" + "".join(f"{number},{labels[0]}\n" for number in range(4)))
    return raw


def refused(work: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Return the message of `split`, which must have written nothing."""
    capsys.readouterr()
    assert run("split") == 2
    assert {path.name for path in (work / "data/pets").iterdir()} == {"raw", ".split.lock"}
    return capsys.readouterr().err


LISTED = 'labels = "labels.csv"\nsample_submission = "sample.csv"'


def test_a_folder_too_many_is_refused_and_its_setting_works(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(8):
        for place, label in enumerate(CLASSES):
            image(work / f"data/pets/raw/train/train/{label}/{number}.png", 80 * place + number)
    (work / "data/pets/raw/train/train/owl").mkdir()
    toml(work, "")
    message = refused(work, capsys)
    setting = re.search(r'data\.(train_images = "[^"]*")', message)
    assert setting
    toml(work, setting[1])
    assert run("split") == 0
    printed = capsys.readouterr().out
    assert "classes   3: cat (8), dog (8), fox (8)" in printed
    assert "labels    the folders in train/train" in printed
    assert "Note: Folders without images, which are no classes: 'owl'." in printed
    assert run("train") == 0
    assert "Classes: cat (8), dog (8), fox (8)" in capsys.readouterr().out


def test_a_level_above_the_classes_is_refused_and_its_setting_works(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(4):
        for site in ("north", "south"):
            for place, label in enumerate(CLASSES):
                image(work / f"data/pets/raw/train/{site}/{label}/{number}.png", 80 * place + number)
    toml(work, "")
    assert "data.class_level = 2" in refused(work, capsys)
    toml(work, "class_level = 2")
    assert run("split") == 0
    assert "classes   3: cat (8), dog (8), fox (8)" in capsys.readouterr().out


def test_a_sample_in_other_words_is_refused_and_the_table_works_up_to_the_score(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = listed(work)
    write(raw / "sample.csv", "id,label\n0,0\n1,0\n2,0\n3,0\n")
    toml(work, LISTED)
    message = refused(work, capsys)
    assert 'data.submitted_labels = "answers.csv"' in message
    toml(work, LISTED + '\nsubmitted_labels = "answers.csv"')
    assert "There is no file answers.csv" in refused(work, capsys)
    write(work / "answers.csv", "label,answer\ncat,0\ndog,1\n")
    for stage in ("split", "train", "retrain", "predict"):
        assert run(stage) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^Answers: [01] \(\d", printed, re.MULTILINE)
    answers = (work / "submissions/pets/default.csv").read_text().splitlines()
    assert {line.partition(",")[2] for line in answers[1:]} <= {"0", "1"}
    write(work / "truth.csv", "id,label\n0,cat\n1,dog\n2,cat\n3,dog\n")
    assert run("tools.score", "--solution", "truth.csv") == 0
    assert run("predict") == 0
    assert "Already predicted" in capsys.readouterr().out
    sample = work / "data/pets/raw/sample.csv"
    sample.write_text("".join(sample.read_text().splitlines(keepends=True)[:-1]))
    assert run("predict") == 0
    assert "Already predicted" not in capsys.readouterr().out
    write(work / "answers.csv", "label,answer\ncat,0\ndog,2\n")
    toml(work, LISTED + '\nsubmitted_labels = "answers.csv"\naccept = ["sample_labels"]')
    assert run("predict") == 0
    assert "Already predicted" not in capsys.readouterr().out


def test_labels_that_mean_something_else_write_nothing(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed(work, ("Cat", "cat", "dog"))
    toml(work, LISTED)
    message = refused(work, capsys)
    assert "'Cat' (4), 'cat' (4)" in message
    accepted = re.search(r'data\.(accept = \["[a-z_]+"\])', message)
    assert accepted
    toml(work, f"{LISTED}\n{accepted[1]}")
    assert run("split") == 0


def test_columns_of_the_sample_are_compared_with_the_classes_at_split(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = listed(work)
    write(raw / "sample.csv", "id,Cat,Dog\n0,0.5,0.5\n1,0.5,0.5\n")
    toml(work, LISTED, 'submission = "probabilities"')
    assert "These are the same in another form: 'Cat' for 'cat'." in refused(work, capsys)
    write(raw / "sample.csv", "id,dog,cat,emu\n0,0.5,0.5,0\n1,0.5,0.5,0\n")
    assert run("split") == 0
    assert "Classes of the sample submission without any labelled image: 1 ('emu')." in capsys.readouterr().out
