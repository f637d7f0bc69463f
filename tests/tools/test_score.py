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


def test_labels_that_are_not_known_lead_to_kaggle_only_where_it_has_them(
    predicted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for source, leads in ((["kaggle"], True), (["address", "competition.address=example.org"], False)):
        settings = ["data.test_images=elsewhere", f"competition.source={source[0]}", *source[1:]]
        words = ["food.toml", "--run=default", "--set", *settings]
        capsys.readouterr()
        assert command.run(score.main, words) == 2
        message = capsys.readouterr().err
        assert "the true labels of food are not known here. Give a CSV of ids and labels: SOLUTION=." in message
        assert ("Or let Kaggle score it: make submit COMP=food.toml" in message) is leads


def test_folders_that_are_no_classes_are_not_taken_for_labels(
    predicted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = predicted / "data" / "food" / "raw"
    (raw / "test" / "hotdog").rename(raw / "test" / "batch-1")
    split_csv = predicted / "data" / "food" / "split.csv"
    split_csv.write_text(split_csv.read_text().replace("test/hotdog/", "test/batch-1/"))
    assert command.run(score.main, ["food.toml"]) == 2
    assert "the true labels of food are not known here" in capsys.readouterr().err


def score_against(folder: Path, solution: str, capsys: pytest.CaptureFixture[str], status: int = 0) -> str:
    """Return what `score` prints for the CSV `solution`."""
    (folder / "truth.csv").write_text(solution)
    capsys.readouterr()
    assert command.run(score.main, ["food.toml", "--solution", "truth.csv"]) == status
    printed = capsys.readouterr()
    return printed.err if status else printed.out


TRUTH = "id,label\nhotdog/0.png,hotdog\nhotdog/1.png,hotdog\nnot-hotdog/0.png,not-hotdog\nnot-hotdog/1.png,not-hotdog\n"


@pytest.mark.parametrize(
    ("solution", "words"),
    [
        (TRUTH.replace(",hotdog", ",1").replace(",not-hotdog", ",0"), "none of its labels (column 'label': '0', '1')"),
        (
            TRUTH.replace(",hotdog", ",Hotdog").replace(",not-h", ",Not-h"),
            "the same in another form: 'Hotdog' for 'hot",
        ),
        (
            TRUTH.removeprefix("id,label\n"),
            "has no header: its first line is 'hotdog/0.png', 'hotdog'. Add the line id",
        ),
        ("id\nhotdog/0.png\n", "must have two columns, id and label; it has: id"),
        ("id,label\n", "has a header but no rows"),
        ("id,label\nhotdog/0.jpeg,hotdog\nhotdog/9.png,hotdog\n", "lacks 2 of the ids"),
        ("id,label,Usage\nhotdog/0.png,hotdog,Ignored\n", "column 'Usage' says Ignored in all 1 rows"),
        ("id,hotdog,not-hotdog\nhotdog/0.png,1,1\n", "line 2: 2 of the columns 'hotdog', 'not-hotdog' are 1"),
    ],
)
def test_a_solution_that_cannot_be_right_is_refused_and_named(
    predicted: Path, capsys: pytest.CaptureFixture[str], solution: str, words: str
) -> None:
    message = score_against(predicted, solution, capsys, status=2)
    assert "truth.csv" in message
    assert words in message


def test_kaggles_own_form_of_a_solution_is_read(predicted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uses = ("Public", "Private", "Private", "Ignored")
    lines = [f"{line},{use}" for line, use in zip(TRUTH.splitlines()[1:], uses, strict=True)]
    printed = score_against(predicted, "\n".join(["id,label,Usage", *lines]), capsys).splitlines()
    assert printed[:5] == [
        "Solution: column 'label' by column 'id' of truth.csv.",
        "Not scored: 1 of 4 rows, whose 'Usage' is Ignored.",
        "accuracy on 3 held-back labels: 0.6667",
        "  Private: 0.5000 (n = 2)",
        "  Public: 1.0000 (n = 1)",
    ]


def test_the_columns_of_a_solution_are_found_and_said(predicted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, *rows = TRUTH.splitlines()
    swapped = "\n".join(["label,note,id", *(f"{row.partition(',')[2]},x,{row.partition(',')[0]}" for row in rows)])
    printed = score_against(predicted, swapped, capsys)
    assert "Solution: column 'label' by column 'id' of truth.csv." in printed
    assert ": 0.7500" in printed
    ones = [row.replace(",not-hotdog", ",0,1").replace(",hotdog", ",1,0") for row in rows]
    printed = score_against(predicted, "\n".join(["id,hotdog,not-hotdog", *ones]), capsys)
    assert "Solution: the 1 among the 2 columns of classes by column 'id' of truth.csv." in printed
    assert ": 0.7500" in printed


def test_ids_without_extension_are_joined_and_said(predicted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed = score_against(predicted, TRUTH.replace(".png", ""), capsys)
    assert "Ids were joined by their names: 'hotdog/0' is 'hotdog/0.png'." in printed
    assert ": 0.7500" in printed


def test_ids_in_other_folders_or_with_zeros_are_joined(predicted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    submission = predicted / "submissions/food/default.csv"
    submission.write_text("id,label\n1.png,hotdog\n2.png,hotdog\n")
    for ids in (("test\\1.jpg", "test\\2.jpg"), ("0001", "0002"), ("1.0", "2.0")):
        printed = score_against(predicted, f"id,label\n{ids[0]},hotdog\n{ids[1]},not-hotdog\n", capsys)
        assert "is '1.png'." in printed
        assert ": 0.5000" in printed


def test_some_labels_that_are_no_class_are_counted(predicted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed = score_against(predicted, TRUTH.replace("hotdog/1.png,hotdog", "hotdog/1.png,unseen"), capsys)
    assert "Warning: 1 of 4 labels are no class, so they count as wrong: 'unseen'." in printed
    assert ": 0.5000" in printed


def test_answers_in_the_words_of_a_table_are_scored(predicted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (predicted / "answers.csv").write_text("label,answer\nhotdog,1\nnot-hotdog,0\n")
    submission = predicted / "submissions/food/default.csv"
    submission.write_text(submission.read_text().replace(",not-hotdog", ",0").replace(",hotdog", ",1"))
    (predicted / "food.toml").write_text(TOML + '[data]\nsubmitted_labels = "answers.csv"\n')
    for solution in (TRUTH, TRUTH.replace(",not-hotdog", ",0").replace(",hotdog", ",1")):
        assert ": 0.7500" in score_against(predicted, solution, capsys)
    assert command.run(score.main, ["food.toml"]) == 0
    assert ": 0.7500" in capsys.readouterr().out
