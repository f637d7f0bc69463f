"""Each kind of answer in the sample's form and order, from arrays to a checked file; and each wrong answer."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.dataset import answer_cells, submission_check
from pipelines.dataset.answer_forms import label_order, sample_form
from pipelines.dataset.answer_summary import describe_answers
from pipelines.dataset.long_form import split_long
from pipelines.dataset.submission import class_list, write_submission
from pipelines.dataset.submission_check import check_submission
from pipelines.settings.loading import merge
from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError
from tests.support.raw_files import write

SEVERAL = {"task": "several_labels", "submission": "label_lists", "metric": "fbeta_samples"}
FREE = {"task": "several_labels", "submission": "probabilities", "metric": "auc_columns"}
EACH = {"submission": "probabilities", "metric": "log_loss"}
ONE = {"submission": "probability", "metric": "auc"}
BEST = {"submission": "best_labels", "metric": "map_at_k", "guesses": 2}
NUMBERS = {"task": "numbers", "submission": "numbers", "metric": "rmse"}
GRADES = {**NUMBERS, "metric": "quadratic_kappa"}


def settings_of(competition: dict[str, Any], sample: str = "sample.csv", **data: Any) -> Settings:
    return merge(Settings("x"), {"competition": competition, "data": {"sample_submission": sample, **data}}, "here")


def table(raw: Path, *lines: str, name: str = "sample.csv") -> Path:
    return write(raw / name, "\n".join(lines) + "\n")


def written(raw: Path, ids: list[str], answers: Any, classes: list[str], settings: Settings) -> list[str]:
    """Return the lines of the submission, which passes its own check."""
    path = raw / "made.csv"
    write_submission(path, ids, np.array(answers), classes, settings, raw)
    lines = path.read_text().splitlines()
    assert check_submission(path, classes, settings, raw) == len(lines) - 1
    return lines


def test_a_probability_of_the_positive_class(tmp_path: Path) -> None:
    table(tmp_path, "id,has_cactus", "b.jpg,0.5", "a.jpg,0.5")
    settings = settings_of(ONE)
    assert class_list(["0", "1", "0"], settings, tmp_path) == ["0", "1"]
    lines = written(tmp_path, ["a.jpg", "b.jpg"], [0.25, 1e-7], ["0", "1"], settings)
    assert lines == ["id,has_cactus", "b.jpg,1e-07", "a.jpg,0.25"]


@pytest.mark.parametrize(
    ("labels", "positive", "words"),
    [
        (["cat", "dog"], "", ['competition.positive = "cat" or competition.positive = "dog"', "is not set"]),
        (["cat", "dog"], "emu", ["is 'emu', which is no class"]),
        (["0", "1", "2"], "", ["there are 3 classes: '0', '1', '2'", 'submission = "labels"', '"probabilities"']),
    ],
)
def test_the_positive_class_is_one_of_two(tmp_path: Path, labels: list[str], positive: str, words: list[str]) -> None:
    table(tmp_path, "id,label", "1,0.5")
    with pytest.raises(UserError) as caught:
        class_list(labels, settings_of({**ONE, "positive": positive}), tmp_path)
    assert all(text in str(caught.value) for text in words), caught.value
    if len(labels) == 2:
        assert class_list(labels, settings_of({**ONE, "positive": "dog"}), tmp_path) == labels


def test_the_best_labels_of_each_image(tmp_path: Path) -> None:
    table(tmp_path, "Image,Id", "2,new_whale w_1", "1,new_whale w_1")
    settings, classes = settings_of(BEST), ["new_whale", "w_1", "w_2"]
    assert class_list(["w_1", "w_2", "new_whale"], settings, tmp_path) == classes
    assert written(tmp_path, ["1", "2"], [[2, 0], [1, 2]], classes, settings) == [
        "Image,Id",
        "2,w_1 w_2",
        "1,w_2 new_whale",
    ]


def test_lists_of_labels_in_the_order_of_the_sample(tmp_path: Path) -> None:
    table(tmp_path, "image,labels", "1,scab rust", "2,rust")
    settings, classes = settings_of({**SEVERAL, "no_label": "none"}), ["complex", "rust", "scab"]
    assert class_list(["rust|scab", "", "complex"], settings, tmp_path) == classes
    lines = written(tmp_path, ["1", "2"], np.array([[0, 1, 1], [0, 0, 0]], np.uint8), classes, settings)
    assert lines == ["image,labels", "1,scab rust", "2,none"]


@pytest.mark.parametrize(
    ("cells", "texts", "names"),
    [
        (["b a"], ["a", "b"], ["b", "a"]),
        (["a b", "c"], ["a", "b", "c"], ["a", "b", "c"]),
        (["2 10"], ["10", "2", "30"], ["2", "10", "30"]),
        (["a b", "b a"], ["a", "b"], ["a", "b"]),  # no order
        ([], ["10", "2"], ["10", "2"]),
    ],
)
def test_labels_follow_the_order_of_the_samples_cells(cells: list[str], texts: list[str], names: list[str]) -> None:
    assert [texts[place] for place in label_order(cells, " ", texts)] == names


def test_free_probabilities_need_no_sum(tmp_path: Path) -> None:
    table(tmp_path, "id,scab,rust", "1,0.5,0.5")
    settings = settings_of(FREE)
    assert class_list(["rust|scab", ""], settings, tmp_path) == ["rust", "scab"]
    assert written(tmp_path, ["1"], [[0.75, 0.875]], ["rust", "scab"], settings) == ["id,scab,rust", "1,0.875,0.75"]
    with pytest.raises(
        UserError, match="its columns are not the classes: 1 of 3 labels have none, for example 'blast'"
    ):
        class_list(["rust|blast", "scab"], settings, tmp_path)


@pytest.mark.parametrize(
    ("cells", "competition", "answers", "expected"),
    [
        (["99.24", "5.5"], NUMBERS, [17.125, 3.0], ["17.12", "3.00"]),
        (["99.24", "5.5"], {**NUMBERS, "decimals": 0}, [17.5001, -0.2], ["18", "0"]),
        (["0.5", "0.5"], NUMBERS, [17.125, 1 / 3], ["17.125", "0.333333333"]),  # a placeholder shows no decimals
        (["0.00", "0.00"], NUMBERS, [17.125, 1 / 3], ["17.12", "0.33"]),
        (["0", "0"], NUMBERS, [17.125, 2.0], ["17.125", "2"]),
        (["", ""], NUMBERS, [1e-9, -2.0], ["1e-09", "-2"]),
        (["0", "0"], GRADES, [4.0, 2.0], ["4", "2"]),
        (["0.0", "0.0"], GRADES, [4.0, 2.0], ["4", "2"]),
    ],
)
def test_numbers_have_the_decimals_of_the_settings_or_of_the_sample(
    tmp_path: Path, cells: list[str], competition: dict[str, Any], answers: list[float], expected: list[str]
) -> None:
    table(tmp_path, "Id,Score", f"a,{cells[0]}", f"b,{cells[1]}")
    table(tmp_path, "Id,Flag,Value", "a,1,3", "b,0,4", name="train.csv")
    settings = settings_of(competition, labels="train.csv", label_column="Value")
    assert class_list(["3", "4"], settings, tmp_path) == ["Value"]
    lines = written(tmp_path, ["b", "a"], [[answers[1]], [answers[0]]], ["Value"], settings)
    assert lines == ["Id,Score", f"a,{expected[0]}", f"b,{expected[1]}"]


def test_several_numbers_go_to_the_samples_columns(tmp_path: Path) -> None:
    table(tmp_path, "id,y,x", "1,0,0")
    table(tmp_path, "id,x,y,z", "7,1,2,3", name="train.csv")
    settings = settings_of(NUMBERS, labels="train.csv", label_columns=["[xy]"])
    assert class_list(["1|2"], settings, tmp_path) == ["x", "y"]
    assert written(tmp_path, ["1"], [[1.5, 2.5]], ["x", "y"], settings) == ["id,y,x", "1,2.5,1.5"]
    with pytest.raises(UserError, match=r"its columns are not the numbers: 1 of 3 .* 'z'"):
        class_list(["1|2|3"], settings_of(NUMBERS, labels="train.csv", label_columns=["x", "y", "z"]), tmp_path)
    table(tmp_path, "id,y,x", "1,0.5,12.1", "2,0.5,12.1")  # placeholders, which show no decimals
    assert written(tmp_path, ["1", "2"], [[1.25, 2.125]] * 2, ["x", "y"], settings)[1] == "1,2.125,1.25"
    table(tmp_path, "id,y,w", "1,0,0")
    with pytest.raises(UserError, match=r"'x'; unknown are 'w'.*no such columns.*\(x,w; y,y\)"):
        class_list(["1|2"], settings, tmp_path)


def test_columns_of_the_labels_csv_are_named(tmp_path: Path) -> None:
    table(tmp_path, "id,y,z", "1,0,0")
    table(tmp_path, "id,x,y,z", "7,1,2.5,3", "8,1,2,3", name="train.csv")
    with pytest.raises(UserError, match=r'label_columns = \["y", "z"\]'):
        class_list(["1"], settings_of(NUMBERS, labels="train.csv", label_column="x"), tmp_path)
    with pytest.raises(UserError, match=r'task = "numbers"(.|\n)*label_columns = \["y", "z"\]'):
        class_list(["1", "2"], settings_of(EACH, labels="train.csv", label_column="x"), tmp_path)


LONG = [
    ("{id}_{target}", ["row,value", "b_no_wind,0.5", "b_wind,0.5", "a_no_wind,0.5", "a_wind,0.5"]),
    ("{target}:{id}", ["row,value", "no_wind:b,0.5", "wind:b,0.5", "no_wind:a,0.5", "wind:a,0.5"]),
    ("{id},{target}", ["id,what,value", "b,no_wind,0.5", "b,wind,0.5", "a,no_wind,0.5", "a,wind,0.5"]),
    ("{target},{id}", ["what,id,value", "no_wind,b,0.5", "wind,b,0.5", "no_wind,a,0.5", "wind,a,0.5"]),
]


@pytest.mark.parametrize(("form", "lines"), LONG)
def test_a_row_for_each_image_and_target(tmp_path: Path, form: str, lines: list[str]) -> None:
    table(tmp_path, *lines)
    named = {"sample_id": "id"} if form == "{target},{id}" else {}
    settings, classes = settings_of({**EACH, "long_form": form}, **named), ["no_wind", "wind"]
    assert class_list(classes, settings, tmp_path) == classes
    ids, answers = ["a", "b"], np.array([[0.25, 0.75], [0.5, 0.5]])
    made = written(tmp_path, ids, answers, classes, settings)
    assert [line.rpartition(",")[0] for line in made] == [line.rpartition(",")[0] for line in lines]
    assert [line.rpartition(",")[2] for line in made[1:]] == ["0.5", "0.5", "0.25", "0.75"]
    wrong = table(tmp_path, made[0], *(f"{line.rpartition(',')[0]},0.25" for line in made[1:]), name="wrong.csv")
    with pytest.raises(UserError, match=r"line 2: the probabilities of 'b'.*sum to 0.5"):
        check_submission(wrong, classes, settings, tmp_path)
    plain = settings_of({**EACH, "long_form": form}, sample="")
    assert len(written(tmp_path, ids, answers, classes, plain)) == 5


def test_a_long_sample_with_a_target_that_no_image_has(tmp_path: Path) -> None:
    table(tmp_path, "id,value", *(f"{image}_{target},0" for image in "ab" for target in ("no_wind", "wind", "rain")))
    settings = settings_of({**FREE, "long_form": "{id}_{target}"})
    assert sample_form(settings, tmp_path, ["wind", "rain"]).images == list("aaabbb")
    assert class_list(["wind", "rain|wind"], settings, tmp_path) == ["no_wind", "rain", "wind"]
    assert split_long(["a_x", "b_x_y", "c"], "{id}_{target}") == (["a", "b_x", "c"], ["x", "y", ""])


def test_the_id_is_any_column_and_ids_may_repeat(tmp_path: Path) -> None:
    table(tmp_path, ",row,image,label", "0,r1,b,cat", "1,r2,a,cat", "2,r3,b,cat")
    settings = settings_of({}, sample_id="image")
    lines = written(tmp_path, ["a", "b"], [0, 1], ["cat", "dog"], settings)
    assert lines == [",row,image,label", "0,r1,b,dog", "1,r2,a,cat", "2,r3,b,dog"]
    table(tmp_path, "label,image", "cat,b", "cat,a")
    assert written(tmp_path, ["a", "b"], [0, 1], ["cat", "dog"], settings) == ["label,image", "dog,b", "cat,a"]
    path = table(tmp_path, "label,image", "dog,b", "cat,b", name="wrong.csv")
    with pytest.raises(UserError, match="1 ids occur twice, for example 'b'"):
        check_submission(path, ["cat", "dog"], settings, tmp_path)


def test_labels_that_contain_the_separator_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="answer_separator is ' ', which is part of labels: 'blue whale'"):
        class_list(["blue whale", "orca"], settings_of(BEST, sample=""), tmp_path)
    assert class_list(["blue whale", "orca"], settings_of({**BEST, "answer_separator": ","}, sample=""), tmp_path)


FAULTS: list[tuple[dict[str, Any], list[str], str]] = [
    (BEST, ["1,cat dog", "2,cat owl", "3,owl dog"], r"line 3: 'owl' in 'cat owl' is not a known label .*\(2 rows"),
    (BEST, ["1,cat dog", "2,cat", "3,dog cat"], r"line 3: 1 labels, not 2: 'cat' \(1 row"),
    (BEST, ["1,cat dog emu", "2,cat dog", "3,dog"], r"line 2: 3 labels, not 2: .*\(2 rows"),
    (BEST, ["1,cat dog", "2,cat dog", "3,cat cat"], "line 4: 'cat cat' has a label twice"),
    (SEVERAL, ["1,cat", "2,", "3,cat;dog"], "line 4: 'cat;dog' in 'cat;dog' is not a known label"),
    (SEVERAL, ["1,cat", "2,dog dog", "3,"], "line 3: 'dog dog' has a label twice"),
    ({**SEVERAL, "no_label": "none"}, ["1,cat", "2,none", "3,"], "line 4: '' in '' is not a known label"),
    (NUMBERS, ["1,1", "2,inf", "3,x"], r"line 3: 'inf' in column 'y' is not a number \(2 rows"),
    (NUMBERS, ["1,1", "2,-3", "3,100.5"], r"line 3: '-3' in column 'y' is not in the range 0 to 100 \(2 rows"),
    ({**NUMBERS, "decimals": 1}, ["1,1", "2,3.25", "3,1"], "line 3: '3.25' in column 'y' has more than 1 decimals"),
    ({**GRADES, "grades": [0, 2]}, ["1,0", "2,2", "3,1"], "line 4: '1' in column 'y' is not a grade of"),
    (GRADES, ["1,0", "2,1.5", "3,1"], "line 3: '1.5' in column 'y' is not a grade, a whole number"),
    ({**ONE, "positive": "cat"}, ["1,0", "2,1.5", "3,1"], "line 3: not every value is a probability between 0 and 1"),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(FAULTS)))
def test_every_wrong_answer_is_found(tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    competition, lines, words = FAULTS[number]
    path = table(tmp_path, "id,y", *lines, name="made.csv")
    table(tmp_path, "id,y", "1,", "2,", "3,")
    settings = settings_of(competition)
    if competition.get("task") == "numbers" and competition["metric"] == "rmse":
        settings = merge(settings, {"predict": {"answer_range": [0.0, 100.0]}}, "here")
    classes = ["y"] if competition.get("task") == "numbers" else ["cat", "dog", "emu"]
    with pytest.raises(UserError, match=rf"made\.csv, {words}"):
        check_submission(path, classes, settings, tmp_path)


def test_many_rows_are_written_and_checked_some_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes do not depend on how many rows are in memory, and a memory map is enough."""
    classes = [f"c{number}" for number in range(7)]
    ids = [f"{number}.jpg" for number in range(50)]
    table(tmp_path, ",".join(["id", *classes]), *(f"{name}{',0.1' * 7}" for name in reversed(ids)))
    settings = settings_of(EACH)
    values = np.random.default_rng(0).random((50, 7), np.float32)
    written(tmp_path, ids, values, classes, settings)
    whole = (tmp_path / "made.csv").read_bytes()
    np.save(tmp_path / "values.npy", values)
    monkeypatch.setattr(answer_cells, "CELLS", 20)
    write_submission(
        tmp_path / "made.csv", ids, np.load(tmp_path / "values.npy", mmap_mode="r"), classes, settings, tmp_path
    )
    assert (tmp_path / "made.csv").read_bytes() == whole
    monkeypatch.setattr(submission_check, "CELLS", 30)
    parts = list(submission_check.read_parts(tmp_path / "made.csv", whole=10))
    assert [len(part) for part in parts] == [4] * 12 + [2]
    assert [index for part in parts for index in part.index] == list(range(2, 52))
    (tmp_path / "made.csv").write_bytes(whole.replace(b"\n49.jpg", b"\n49.jpg,1"))
    with pytest.raises(UserError, match="line 2: 9 values for 8 columns"):
        list(submission_check.read_parts(tmp_path / "made.csv", whole=10))


def test_answers_are_described(tmp_path: Path) -> None:
    def lines(competition: dict[str, Any], answers: Any) -> list[str]:
        return describe_answers(np.array(answers), ["cat", "dog"], settings_of(competition), tmp_path)

    assert lines(BEST, [[0, 1], [0, 1], [1, 0]]) == ["First guesses: cat (2), dog (1)"]
    assert lines(SEVERAL, [[0, 1], [0, 0], [1, 1]]) == ["Labels: dog (2), cat (1); none in 1 of 3 answers"]
    assert lines({**ONE, "positive": "dog"}, [0.25, 0.75]) == ["Answers: probability of dog, mean 0.5, 0.25 to 0.75"]
    assert lines(NUMBERS, [[1, 2], [3, 2]]) == ["Answers: cat, mean 2, 1 to 3; dog, mean 2, 2 to 2"]
    assert lines(FREE, [[0.5, 0.25]] * 2)[1].startswith("Note: all 2 answers are the same.")
