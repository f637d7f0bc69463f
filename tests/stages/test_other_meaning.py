"""Data of another task is refused at split, and the settings that the message names lead to the right split."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.dataset.splits import read_split_csv
from tests.support.answers import advised
from tests.support.raw_files import write
from tests.support.stages import run_stage_here

IMAGES, TESTS = 40, 4
Cells = list[str]
LISTED = {"labels": "train.csv", "sample_submission": "sample.csv"}


def numbered(lines: Cells) -> Cells:
    return [f"{number},{cell}" for number, cell in enumerate(lines)]


def cycled(*cells: str) -> Cells:
    return [cells[number % len(cells)] for number in range(IMAGES)]


def folder(raw: Path, train: Cells, sample: Cells, header: str = "id,label") -> None:
    """Write empty images, the labels CSV with the cells `train`, and the sample submission with the cells `sample`."""
    for part, count in (("train", IMAGES), ("test", TESTS)):
        for number in range(count):
            write(raw / part / f"{number if part == 'train' else 100 + number}.png", "")
    write(raw / "train.csv", "\n".join([header, *numbered(train)]) + "\n")
    lines = [f"{100 + number},{sample[number % len(sample)]}" for number in range(TESTS)]
    write(raw / "sample.csv", "\n".join([sample_header(header, sample), *lines]) + "\n")


def sample_header(header: str, sample: Cells) -> str:
    names = header.split(",")
    return ",".join(names if len(names) == 1 + len(sample[0].split(",")) else [names[0], "answer"])


def toml(work: Path, sections: dict[str, dict[str, Any]]) -> None:
    lines = []
    for name, values in sections.items():
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
    write(work / "x.toml", "\n".join(lines) + "\n")


def combined(*all_sections: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    result: dict[str, dict[str, Any]] = {}
    for sections in all_sections:
        for name, values in sections.items():
            result[name] = {**result.get(name, {}), **values}
    return result


SCORES = [str(1 + (29 * number) % 100) for number in range(IMAGES)]
WHALES = cycled("new_whale", "w_1", "w_2", "w_3", "new_whale", "w_4")
LISTS = cycled("scab", "rust", "scab rust", "rust complex", "healthy", "complex")
# the cells of train.csv, those of the sample, words of the message, the target of some image, and what is sent
SILENT: dict[str, tuple[Cells, Cells, str, tuple[str, str], str]] = {
    "a number to estimate": (SCORES, ["99.24", "5.5"], "They look like quantities", ("1", "30"), "a number with 2"),
    "several labels in a cell": (LISTS, ["healthy"], "several labels in one cell", ("2", "rust|scab"), "its labels"),
    "five guesses": (WHALES, ["new_whale w_1 w_2 w_3 w_9"], "5 labels in one cell", ("2", "w_2"), "the 5 best labels"),
    "lists of labels in the sample": (
        *(
            cycled("a", "b", "c"),
            ["a b", "c"],
            "up to 2 labels in one cell",
            ("1", "b"),
            "its labels, separated by ' '",
        ),
    ),
    "a probability": (cycled("0", "1"), ["0.5"], "a probability for each id", ("3", "1"), "the probability of '1'"),
    "a probability of a word": (
        *(cycled("cat", "dog"), ["0.5"], "a probability for each id", ("3", "dog")),
        "the probability of 'dog'",
    ),
    "few numbers with a sample of numbers": (
        *(cycled("1", "2", "3"), ["1.5", "2.25"], "a number for each id", ("3", "1"), "a number with 2 decimals"),
    ),
}


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(work: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Return the message of `split`, which must have written nothing."""
    capsys.readouterr()
    assert run_stage_here("split", ["x.toml"]) == 2
    assert not (work / "data/x/split.csv").exists()
    return capsys.readouterr().err


@pytest.mark.parametrize("name", SILENT)
def test_another_task_is_refused_and_the_settings_work(
    work: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    train, sample, words, (image, target), sent = SILENT[name]
    folder(work / "data/x/raw", train, sample)
    toml(work, {"data": LISTED})
    message = refused(work, capsys)
    assert words in message
    (found,) = advised(message)
    toml(work, combined({"data": LISTED}, found))
    assert run_stage_here("split", ["x.toml"]) == 0, capsys.readouterr().err
    rows = read_split_csv(work / "data/x/split.csv").set_index("id")
    assert rows.loc[image, "label"] == target
    assert f"; sent: {sent}" in capsys.readouterr().out


def test_two_columns_of_the_sample_that_are_flags_in_the_labels(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder(work / "data/x/raw", cycled("1,0", "1,1", "0,0"), ["0.5,0.5"], "id,rust,scab")
    toml(work, {"data": {**LISTED, "label_column": "rust"}})
    message = refused(work, capsys)
    (found,) = advised(message)
    toml(work, combined({"data": {**LISTED, "label_column": "rust"}}, found))
    assert run_stage_here("split", ["x.toml"]) == 0, capsys.readouterr().err
    rows = read_split_csv(work / "data/x/split.csv").set_index("id")
    assert rows.loc[["0", "1", "2"], "label"].tolist() == ["rust", "rust|scab", ""]
    assert "any of 2 labels; sent: a probability for each label" in capsys.readouterr().out


@pytest.mark.parametrize("sample", ["0.5,0.5", "rust"])
def test_several_ones_in_a_row(work: Path, capsys: pytest.CaptureFixture[str], sample: str) -> None:
    folder(work / "data/x/raw", cycled("1,0", "1,1", "0,0"), [sample], "id,rust,scab")
    toml(work, {"data": LISTED})
    (found,) = advised(refused(work, capsys))
    toml(work, combined({"data": LISTED}, found))
    assert run_stage_here("split", ["x.toml"]) == 0, capsys.readouterr().err
    rows = read_split_csv(work / "data/x/split.csv").set_index("id")
    assert rows.loc[["0", "1", "2"], "label"].tolist() == ["rust", "rust|scab", ""]
    assert ("sent: a probability for each label" if "," in sample else "sent: its labels") in capsys.readouterr().out


def test_labels_of_an_image_in_several_rows(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder(work / "data/x/raw", cycled("rust", "scab", "healthy"), ["rust scab"])
    with open(work / "data/x/raw/train.csv", "a") as file:
        file.write("0,scab\n")
    toml(work, {"data": LISTED})
    (found,) = advised(refused(work, capsys))
    toml(work, combined({"data": LISTED}, found))
    assert run_stage_here("split", ["x.toml"]) == 0, capsys.readouterr().err
    assert read_split_csv(work / "data/x/split.csv").set_index("id").loc["0", "label"] == "rust|scab"


def test_columns_of_numbers(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder(work / "data/x/raw", cycled("1.5,20", "2,30", "2.5,10"), ["0,0"], "id,x,y")
    toml(work, {"data": {**LISTED, "label_column": "y"}})
    (found,) = advised(refused(work, capsys))
    toml(work, combined({"data": {**LISTED, "label_column": "y"}}, found))
    assert run_stage_here("split", ["x.toml"]) == 0, capsys.readouterr().err
    assert read_split_csv(work / "data/x/split.csv").set_index("id").loc["2", "label"] == "2.5|10"


def test_numbers_that_are_classes_are_accepted(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder(work / "data/x/raw", cycled(*SCORES[:25]), ["1", "30"])
    toml(work, {"data": LISTED})
    assert refused(work, capsys).rstrip().endswith('data.accept = ["numeric_labels"]')
    toml(work, {"data": {**LISTED, "accept": ["numeric_labels"]}})
    assert run_stage_here("split", ["x.toml"]) == 0, capsys.readouterr().err


def test_nested_class_folders_are_refused_and_the_level_works(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for place in ("animals/cat", "animals/dog", "plants/rose"):
        for number in range(4):
            write(work / f"data/x/raw/train/{place}/{number}.png", "")
    toml(work, {})
    assert "data.class_level = 2" in refused(work, capsys)
    toml(work, {"data": {"class_level": 2}})
    assert run_stage_here("split", ["x.toml"]) == 0, capsys.readouterr().err
    assert set(read_split_csv(work / "data/x/split.csv")["label"]) == {"cat", "dog", "rose"}


def test_a_row_for_each_image_and_target_is_named(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder(work / "data/x/raw", cycled("no_wind", "wind"), ["0"])
    lines = [f"{100 + number}_{target},0.5" for number in range(TESTS) for target in ("wind", "no_wind")]
    write(work / "data/x/raw/sample.csv", "\n".join(["id,value", *lines]) + "\n")
    toml(work, {"data": LISTED})
    (found,) = advised(refused(work, capsys))
    toml(work, combined({"data": LISTED}, found))
    assert run_stage_here("split", ["x.toml"]) == 0, capsys.readouterr().err
    rows = read_split_csv(work / "data/x/split.csv")
    assert rows["id"][rows["split"] == "test"].tolist() == ["100", "101", "102", "103"]
    assert "a row for each target" in capsys.readouterr().out


LABELS = {"competition": {"task": "several_labels", "submission": "label_lists", "metric": "fbeta_micro"}}


def test_a_separator_that_is_in_no_cell(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder(work / "data/x/raw", cycled("a;b", "a", "b;c"), ["a;b"])
    settings = combined(LABELS, {"competition": {"answer_separator": ";"}, "data": LISTED})
    toml(work, combined(settings, {"data": {"label_separator": ","}}))
    message = refused(work, capsys)
    assert "The label 'a;b' has another separator: data.label_separator = ';'." in message
    toml(work, combined(settings, {"data": {"label_separator": ";"}}))
    assert run_stage_here("split", ["x.toml"]) == 0, capsys.readouterr().err
    assert read_split_csv(work / "data/x/split.csv").set_index("id").loc["0", "label"] == "a|b"


def test_one_class_per_image_as_several_labels(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder(work / "data/x/raw", cycled("a", "b", "c"), ["a"])
    settings = combined(LABELS, {"data": {**LISTED, "label_separator": " "}})
    toml(work, settings)
    message = refused(work, capsys)
    assert "no image has more than one label" in message
    toml(work, combined(settings, {"data": {"accept": ["combined_labels"]}}))
    assert run_stage_here("split", ["x.toml"]) == 0, capsys.readouterr().err
    (work / "data/x/split.json").unlink()
    (found,) = advised(message)
    toml(work, combined(settings, found))
    assert run_stage_here("split", ["x.toml"]) == 0, capsys.readouterr().err
    assert "one of 3 classes; sent: a label" in capsys.readouterr().out


GRADED = {"competition": {"task": "numbers", "submission": "numbers", "metric": "quadratic_kappa"}}
LOGARITHM = {"competition": {"task": "numbers", "submission": "numbers", "metric": "rmsle"}}
NOT_SCORED: dict[str, tuple[Cells, dict[str, Any], str, dict[str, Any]]] = {  # cells, settings, words, what mends it
    "words as grades": (
        *(cycled("good", "bad"), {"competition": {"metric": "quadratic_kappa"}}, "whose grades are whole numbers"),
        {"competition": {"metric": "accuracy"}},
    ),
    "fractions as grades": (
        *(cycled("0.5", "1", "2"), GRADED, "whole numbers, but there are '0.5'"),
        {"competition": {"metric": "rmse"}},
    ),
    "a grade that is not stated": (
        *(cycled("0", "1", "2", "4"), combined(GRADED, {"competition": {"grades": [0, 1, 2, 3]}})),
        *("there are the grades '4' too", {"competition": {"grades": [0, 1, 2, 3, 4]}}),
    ),
    "a logarithm of numbers below 0": (
        *(cycled("-1.5", "0.5", "3"), LOGARITHM, "there are numbers of -1 and below: '-1.5'"),
        {"competition": {"metric": "mae"}},
    ),
}


@pytest.mark.parametrize("name", NOT_SCORED)
def test_targets_that_the_metric_cannot_score(work: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    train, settings, words, mended = NOT_SCORED[name]
    folder(work / "data/x/raw", train, [""])
    toml(work, combined({"data": LISTED}, settings))
    assert words in refused(work, capsys)
    toml(work, combined({"data": LISTED}, settings, mended))
    assert run_stage_here("split", ["x.toml"]) == 0, capsys.readouterr().err


def test_two_numbers_have_no_kappa(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder(work / "data/x/raw", cycled("1,2", "2,3", "3,1"), ["0,0"], "id,x,y")
    toml(work, combined({"data": LISTED}, GRADED))
    assert "scores one number per image, but there are 2: 'x', 'y'" in refused(work, capsys)
