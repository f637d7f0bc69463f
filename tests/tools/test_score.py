"""Where the true labels come from: a CSV, the labels held back, or the folders that the test images lie in."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines import command, split
from pipelines.tools import score

TOML = '[model]\nname = "convnet"\n'


@pytest.fixture
def predicted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A competition in the folder form, split, with a submission that has three of four right."""
    raw = tmp_path / "data" / "food" / "raw"
    for folder, label, count in (("train", "hotdog", 4), ("train", "not-hotdog", 4), ("test", "hotdog", 2)):
        (raw / folder / label).mkdir(parents=True)
        for number in range(count):
            shade = np.full((8, 8, 3), 30 * number + len(label), np.uint8)
            Image.fromarray(shade).save(raw / folder / label / f"{number}.png")
    (raw / "test" / "not-hotdog").mkdir()
    for number in range(2):  # named as the hot dogs are: only the folder tells them apart
        Image.fromarray(np.full((8, 8, 3), 200 + number, np.uint8)).save(raw / "test" / "not-hotdog" / f"{number}.png")
    (tmp_path / "food.toml").write_text(TOML)
    monkeypatch.chdir(tmp_path)
    assert command.run(split.main, ["food.toml"]) == 0
    submission = tmp_path / "submissions" / "food" / "default.csv"
    submission.parent.mkdir(parents=True)
    answers = {"hotdog/0.png": "hotdog", "hotdog/1.png": "hotdog", "not-hotdog/0.png": "hotdog"}
    answers["not-hotdog/1.png"] = "not-hotdog"
    submission.write_text("id,label\n" + "".join(f"{name},{label}\n" for name, label in answers.items()))
    return tmp_path


def test_folders_of_the_test_images_are_the_true_labels(predicted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.run(score.main, ["food.toml"]) == 0
    assert "accuracy on 4 test images, labelled by their folders in test/: 0.7500" in capsys.readouterr().out


def test_a_solution_goes_before_the_folders(predicted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (predicted / "truth.csv").write_text("id,label\nhotdog/0.png,not-hotdog\n")
    assert command.run(score.main, ["food.toml", "--solution", "truth.csv"]) == 0
    assert "accuracy on 1 held-back labels: 0.0000" in capsys.readouterr().out
    assert command.run(score.main, ["food.toml", "--solution", "typo.csv"]) == 2
    assert "typo.csv is missing" in capsys.readouterr().err


def test_folders_that_are_no_classes_are_not_taken_for_labels(
    predicted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = predicted / "data" / "food" / "raw"
    (raw / "test" / "hotdog").rename(raw / "test" / "batch-1")
    split_csv = predicted / "data" / "food" / "split.csv"
    split_csv.write_text(split_csv.read_text().replace("test/hotdog/", "test/batch-1/"))
    assert command.run(score.main, ["food.toml"]) == 2
    assert "the true labels of food are not known here" in capsys.readouterr().err
