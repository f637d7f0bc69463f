"""The submission: header, ids and order of the sample, filled by id; and the check of every fault."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from pipelines.analysis.scoring import folder_labels, score_submission
from pipelines.dataset.answer_summary import describe_answers
from pipelines.dataset.submission import FIRST_ROWS, class_list
from pipelines.dataset.submission_check import check_submission
from pipelines.settings.data_sections import CompetitionSettings
from pipelines.settings.loading import merge
from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError
from tests.support.answers import advised, answers_for, made

CLASSES = ["cat", "dog", "emu"]
TEXT_ORDER = ["1", "10", "11", "12", "2", "3", "4", "5", "6", "7", "8", "9"]
ODD = ['a "quoted" name', "comma, inside", "größer", "猫", "with space", "'single'", "semi;colon"]


def settings_of(submission: str, sample: str = "sample.csv", metric: str = "accuracy", **data: str) -> Settings:
    competition = {"submission": submission, "metric": metric}
    return merge(Settings("x"), {"competition": competition, "data": {"sample_submission": sample} | data}, "here")


LABELS, PROBABILITIES = settings_of("labels"), settings_of("probabilities")


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def sure_of(numbers: list[int], classes: int = 3) -> npt.NDArray[np.float32]:
    """Return probabilities that favour the class of each number."""
    return (np.full((len(numbers), classes), 0.1) + 0.7 * np.eye(classes)[numbers]).astype(np.float32)


def saved(table: pd.DataFrame, path: Path) -> Path:
    table.to_csv(path, index=False, lineterminator="\n")  # as `predict` does
    return path


def test_labels_are_joined_by_id_in_the_samples_order_and_with_its_header(tmp_path: Path) -> None:
    ids = [str(number) for number in range(12, 0, -1)]  # another order than the sample's
    truth = {identifier: int(identifier) % 3 for identifier in ids}
    write(tmp_path / "sample.csv", "image,species", *(f"{identifier},cat" for identifier in TEXT_ORDER))
    table = made(ids, sure_of([truth[each] for each in ids]), CLASSES, LABELS, tmp_path)
    assert list(table.columns) == ["image", "species"]
    assert list(table["image"]) == TEXT_ORDER
    assert list(table["species"]) == [CLASSES[truth[each]] for each in TEXT_ORDER]
    path = saved(table, tmp_path / "submission.csv")
    assert path.read_text().splitlines()[:3] == ["image,species", "1,dog", "10,dog"]
    assert check_submission(path, CLASSES, LABELS, tmp_path) == 12


def test_probabilities_go_to_the_column_of_their_class_in_the_samples_order(tmp_path: Path) -> None:
    write(tmp_path / "sample.csv", "id,emu,cat,dog", "b,0.3,0.3,0.3", "a,0.3,0.3,0.3")
    table = made(["a", "b"], np.array([[0.7, 0.2, 0.1], [0.3, 0.3, 0.4]], "f4"), CLASSES, PROBABILITIES, tmp_path)
    assert list(table.columns) == ["id", "emu", "cat", "dog"]
    values = table.set_index("id").astype(float)
    assert list(values.index) == ["b", "a"]
    assert values.loc["a"].to_dict() == pytest.approx({"cat": 0.7, "dog": 0.2, "emu": 0.1})
    assert values.loc["b"].to_dict() == pytest.approx({"cat": 0.3, "dog": 0.3, "emu": 0.4})
    assert check_submission(saved(table, tmp_path / "s.csv"), CLASSES, PROBABILITIES, tmp_path) == 2


@pytest.mark.parametrize("kind", ["labels", "probabilities"])
def test_a_submission_repeats_the_index_that_pandas_wrote_into_the_sample(tmp_path: Path, kind: str) -> None:
    settings = settings_of(kind)
    columns = ",id,label" if kind == "labels" else ",id,emu,cat,dog"
    filler = "cat" if kind == "labels" else "0.2,0.3,0.5"
    write(tmp_path / "sample.csv", columns, f"1,b,{filler}", f"2,a,{filler}")
    assert class_list(CLASSES, settings, tmp_path) == CLASSES
    path = tmp_path / "made.csv"
    made(["a", "b"], sure_of([0, 1]), CLASSES, settings, tmp_path)
    answers = answers_for(sure_of([0, 1]), settings)
    assert describe_answers(answers, CLASSES, settings, tmp_path)[0].endswith(": cat (1), dog (1)")
    lines = path.read_text().splitlines()
    assert lines[0] == columns
    assert [line.split(",")[:2] for line in lines[1:]] == [["1", "b"], ["2", "a"]]
    assert lines[1] == ("1,b,dog" if kind == "labels" else "1,b,0.1,0.1,0.8")
    assert check_submission(path, CLASSES, settings, tmp_path) == 2
    write(path, columns[1:], *(line[2:] for line in lines[1:]))
    with pytest.raises(UserError, match="its header is 'id'"):
        check_submission(path, CLASSES, settings, tmp_path)


def test_a_submission_has_commas_even_if_the_sample_has_semicolons(tmp_path: Path) -> None:
    write(tmp_path / "sample.csv", "id;label", "b;cat", "a;cat")
    path = tmp_path / "made.csv"
    made(["a", "b"], sure_of([0, 1]), CLASSES, LABELS, tmp_path)
    assert path.read_text() == "id,label\nb,dog\na,cat\n"
    assert check_submission(path, CLASSES, LABELS, tmp_path) == 2


def test_a_solution_may_have_semicolons_and_an_index(tmp_path: Path) -> None:
    path = write(tmp_path / "s.csv", "id,label", "a,cat", "b,dog")
    solution = write(tmp_path / "solution.csv", ";id;label", "0;a;cat", "1;b;cat")
    assert score_submission(path, solution, LABELS) == (0.5, 2, [])


def test_ids_are_text_to_the_last_zero(tmp_path: Path) -> None:
    write(tmp_path / "sample.csv", "id,label", "007,cat", "7,cat", "1e5,cat", "images/0.jpg,cat", "NA,cat")
    ids = ["7", "NA", "images/0.jpg", "007", "1e5"]
    table = made(ids, sure_of([0, 1, 2, 1, 0]), CLASSES, LABELS, tmp_path)
    path = saved(table, tmp_path / "s.csv")
    lines = path.read_text().splitlines()[1:]
    assert lines == ["007,dog", "7,cat", "1e5,cat", "images/0.jpg,emu", "NA,dog"]
    assert check_submission(path, CLASSES, LABELS, tmp_path) == 5


@pytest.mark.parametrize("kind", ["labels", "probabilities"])
def test_odd_labels_and_ids_survive(tmp_path: Path, kind: str) -> None:
    classes, settings = sorted(ODD), settings_of(kind)
    ids = [f"{name}.jpg" for name in ODD]
    columns = ["the, id", *ODD] if kind == "probabilities" else ["the, id", "the label"]
    filler = [0.1] * len(ODD) if kind == "probabilities" else ODD[:1]
    saved(pd.DataFrame([[name, *filler] for name in ids], columns=columns), tmp_path / "sample.csv")
    assert class_list(ODD, settings, tmp_path) == classes
    truth = [classes.index(name) for name in ODD]
    path = saved(made(ids, sure_of(truth, len(ODD)), classes, settings, tmp_path), tmp_path / "s.csv")
    assert check_submission(path, classes, settings, tmp_path) == len(ODD)
    back = pd.read_csv(path, keep_default_na=False)
    assert list(back.columns) == columns
    assert list(back["the, id"]) == ids
    answers = back["the label"] if kind == "labels" else back.drop(columns="the, id").astype(float).idxmax(axis=1)
    assert list(answers) == ODD


def test_probabilities_of_float32_sum_to_one_as_written(tmp_path: Path) -> None:
    classes = [f"c{number:03}" for number in range(120)]
    write(tmp_path / "sample.csv", ",".join(["id", *classes]), *(f"{n}" + ",0" * 120 for n in range(50)))
    logits = np.random.default_rng(0).normal(0, 8, (50, 120)).astype(np.float32)
    probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities /= probabilities.sum(axis=1, keepdims=True) * np.float32(1.00002)
    table = made([str(n) for n in range(50)], probabilities, classes, PROBABILITIES, tmp_path)
    values = table.iloc[:, 1:].to_numpy().astype(np.float64)
    assert np.abs(values.sum(axis=1) - 1).max() < 1e-7
    assert values == pytest.approx(probabilities * 1.00002, rel=1e-5)
    assert check_submission(saved(table, tmp_path / "s.csv"), classes, PROBABILITIES, tmp_path) == 50


def test_without_a_sample_the_header_is_that_of_the_labels_and_the_order_that_of_the_ids(tmp_path: Path) -> None:
    write(tmp_path / "labels.csv", "picture,note,breed", "x,,cat")
    settings = settings_of("labels", sample="", labels="labels.csv", label_column="breed")
    table = made(["9", "10", "1"], sure_of([0, 1, 2]), CLASSES, settings, tmp_path)
    assert table.to_csv(index=False).splitlines() == ["picture,breed", "9,cat", "10,dog", "1,emu"]
    assert check_submission(saved(table, tmp_path / "s.csv"), CLASSES, settings, tmp_path) == 3


@pytest.mark.parametrize("kind", ["labels", "probabilities"])
def test_without_sample_and_labels_the_header_is_plain(tmp_path: Path, kind: str) -> None:
    settings = settings_of(kind, sample="")
    table = made(["9", "10"], sure_of([0, 1]), CLASSES, settings, tmp_path)
    assert list(table.columns) == (["id", "label"] if kind == "labels" else ["id", *CLASSES])
    assert check_submission(saved(table, tmp_path / "s.csv"), CLASSES, settings, tmp_path) == 2


def test_predictions_that_the_sample_does_not_ask_for_are_left_out(tmp_path: Path) -> None:
    write(tmp_path / "sample.csv", "id,label", "2,cat")
    table = made(["1", "2"], sure_of([0, 1]), CLASSES, LABELS, tmp_path)
    assert table.to_numpy().tolist() == [["2", "dog"]]


def test_ids_that_were_not_predicted_are_named(tmp_path: Path) -> None:
    write(tmp_path / "sample.csv", "id,label", "2,cat", "7,cat", "8,cat")
    with pytest.raises(UserError, match=r"sample\.csv has 2 ids that were not predicted, for example '7', '8'"):
        made(["1", "2"], sure_of([0, 1]), CLASSES, LABELS, tmp_path)


def test_a_sample_of_the_other_kind_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "sample.csv", "id,cat,dog,emu", "1,0.3,0.3,0.4")
    with pytest.raises(UserError, match=r"not have 2 columns.* but 4: 'id'") as caught:
        class_list(["cat", "dog"], LABELS, tmp_path)
    wanted = {"competition": {"metric": "log_loss", "submission": "probabilities"}}
    assert advised(str(caught.value)) == [wanted]


def test_an_endless_column_name_is_not_repeated_whole(tmp_path: Path) -> None:
    (tmp_path / "sample.csv").write_text(f"id,{'9' * 9_000},dog\n1,0.5,0.5\n")
    with pytest.raises(UserError, match=r"'cat'; it has '9+…9+', 'dog'\.") as caught:
        class_list(["cat", "dog"], PROBABILITIES, tmp_path)
    assert len(str(caught.value)) < 1_500
    write(tmp_path / "sample.csv", "id,label", "1,cat")
    with pytest.raises(UserError, match="columns are not the classes"):
        made(["1"], sure_of([0]), CLASSES, PROBABILITIES, tmp_path)


def test_classes_are_the_labels_or_the_samples_columns_sorted(tmp_path: Path) -> None:
    write(tmp_path / "sample.csv", "id,label", "1,cat")
    assert class_list(["dog", "cat", "dog"], LABELS, tmp_path) == ["cat", "dog"]
    write(tmp_path / "sample.csv", "id,emu,yak,dog,cat", "1,0,0,0,1")
    assert class_list(["dog", "cat", "dog"], PROBABILITIES, tmp_path) == ["cat", "dog", "emu", "yak"]
    assert class_list(["dog", "cat"], settings_of("probabilities", sample=""), tmp_path) == ["cat", "dog"]


def test_classes_are_known_from_the_first_rows_of_a_sample(tmp_path: Path) -> None:
    rows = [f"{number},0,0,1" for number in range(FIRST_ROWS)]
    write(tmp_path / "sample.csv", "id,emu,dog,cat", *rows, "a row that does not fit")
    with pytest.raises(UserError, match="do not fit the header"):
        class_list(["dog", "cat"], PROBABILITIES, tmp_path)
    assert class_list(["dog", "cat"], PROBABILITIES, tmp_path, checked=False) == ["cat", "dog", "emu"]
    assert class_list(["dog", "cat"], LABELS, tmp_path, checked=False) == ["cat", "dog"]


@pytest.mark.parametrize(
    ("header", "separator"), [("id,emu,dog,cat", ","), ("id;emu;dog;cat", ";"), ('id,"e\nmu",dog,cat', ",")]
)
@pytest.mark.parametrize("index", [None, 3 * FIRST_ROWS, FIRST_ROWS])  # the last one repeats, and so holds the ids
def test_classes_of_the_first_rows_are_those_of_all(
    header: str, separator: str, index: int | None, tmp_path: Path
) -> None:
    rows = [[str(number), "0", "0", "1"] for number in range(3 * FIRST_ROWS)]
    if index is not None:
        header, rows = f"{separator}{header}", [[str(number % index), *row] for number, row in enumerate(rows)]
    write(tmp_path / "sample.csv", header, *map(separator.join, rows))
    settings = merge(PROBABILITIES, {"data": {"accept": ["sample_labels"]}}, "here")
    found = class_list(["dog", "cat"], settings, tmp_path, checked=False)
    assert found == class_list(["dog", "cat"], settings, tmp_path)
    assert ("id" in found) == (index == FIRST_ROWS)


def test_a_sample_whose_columns_are_not_the_classes_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "sample.csv", "id,emu,cat", "1,0,1")
    with pytest.raises(UserError, match=r"sample\.csv: its columns are not the classes: 1 of 2 labels .*'dog'"):
        class_list(["dog", "cat"], PROBABILITIES, tmp_path)


SAMPLE = {"labels": ("id,label", "1,cat", "2,cat"), "probabilities": ("id,cat,dog,emu", "1,0,0,1", "2,0,0,1")}
FAULTS: list[tuple[str, tuple[str, ...], str]] = [
    ("labels", ("id,breed", "1,cat", "2,dog"), "its header is 'id', 'breed'.*has 'id', 'label'"),
    ("labels", ("ID,label", "1,cat", "2,dog"), "its header is"),
    ("labels", ("label,id", "cat,1", "dog,2"), "its header is"),
    ("labels", ("id,label,x", "1,cat,1", "2,dog,1"), "its header is"),
    ("labels", ("id,label", "1,cat"), "1 are absent.*'2'"),
    ("labels", ("id,label", "1,cat", "2,dog", "3,dog"), "1 too many.*'3'"),
    ("labels", ("id,label", "1,cat", "02,dog"), "1 are absent.*'2'.*1 too many.*'02'"),
    ("labels", ("id,label", "1,cat", "1,dog", "2,cat"), "1 ids occur twice, for example '1'"),
    ("labels", ("id,label", "1,cat", "2,Dog"), r"line 3: 'Dog' is not a known label"),
    ("labels", ("id,label", "1,", "2,dog"), r"line 2: '' is not a known label"),
    ("labels", ("id,label", "1,cat", "2"), "line 3: 1 values for 2 columns"),
    ("labels", ("id,label",), "no rows"),
    ("probabilities", ("id,dog,cat,emu", "1,0,0,1", "2,0,0,1"), "its header is"),
    ("probabilities", ("id,cat,dog,emu", "1,0,0,1", "2,nan,0,1"), "line 3: not every value is a probability"),
    ("probabilities", ("id,cat,dog,emu", "1,,0,1", "2,0,0,1"), "line 2: not every value is a probability"),
    ("probabilities", ("id,cat,dog,emu", "1,cat,0,1", "2,0,0,1"), "line 2: not every value is a probability"),
    ("probabilities", ("id,cat,dog,emu", "1,0,0,1", "2,-0.1,0.1,1"), "line 3: not every value is a probability"),
    ("probabilities", ("id,cat,dog,emu", "1,0,0,1", "2,1.1,0,0"), "line 3: not every value is a probability"),
    ("probabilities", ("id,cat,dog,emu", "1,0,0,1", "2,inf,0,0"), "line 3: not every value is a probability"),
    ("probabilities", ("id,cat,dog,emu", "1,0,0,1", "2,0.3,0.3,0.3"), "line 3: the probabilities sum to 0.900000"),
    ("probabilities", ("id,cat,dog,emu", "1,0.5,0.5,0.5", "2,0,0,1"), "line 2: the probabilities sum to 1.500000"),
    ("probabilities", ("id,cat,dog,emu", "2,0,0,1"), "1 are absent"),
]


@pytest.mark.parametrize(("kind", "lines", "words"), FAULTS)
def test_every_fault_of_a_submission_is_found(tmp_path: Path, kind: str, lines: tuple[str, ...], words: str) -> None:
    write(tmp_path / "sample.csv", *SAMPLE[kind])
    path = write(tmp_path / "submission.csv", *lines)
    with pytest.raises(UserError, match=rf"submission\.csv.*{words}"):
        check_submission(path, CLASSES, settings_of(kind), tmp_path)


@pytest.mark.parametrize(
    ("kind", "lines"),
    [
        ("labels", ("id,label", "2,dog", "1,emu")),  # Kaggle joins by id
        ("probabilities", ("id,cat,dog,emu", "1,0.3333333,0.3333333,0.3333333", "2,1e-9,0,1")),
    ],
)
def test_a_good_submission_passes(tmp_path: Path, kind: str, lines: tuple[str, ...]) -> None:
    write(tmp_path / "sample.csv", *SAMPLE[kind])
    path = write(tmp_path / "submission.csv", *lines)
    assert check_submission(path, CLASSES, settings_of(kind), tmp_path) == 2


@pytest.mark.parametrize(
    ("kind", "metric", "lines", "truth", "expected"),
    [
        ("labels", "accuracy", ("2,dog", "1,emu", "3,cat"), ("1,emu", "2,dog", "3,dog"), 2 / 3),
        ("labels", "accuracy", ("2,dog", "1,emu", "3,cat"), ("3,cat",), 1.0),  # the other rows are not scored
        ("labels", "accuracy", ("1,emu", "2,yak", "3,cat"), ("1,unseen", "3,cat"), 0.5),
        ("labels", "f1_macro", ("1,cat", "2,dog", "3,dog"), ("1,cat", "2,dog", "3,cat"), 2 / 3),
        ("probabilities", "log_loss", ("1,1,0,0", "2,0.5,0.25,0.25"), ("2,dog",), np.log(4)),
        ("probabilities", "log_loss", ("1,1,0,0", "2,0.5,0.25,0.25"), ("1,dog",), 34.538776),
        ("probabilities", "accuracy", ("1,1,0,0", "2,0.5,0.25,0.25"), ("1,cat", "2,dog"), 0.5),
    ],
)
def test_a_submission_is_scored_by_the_metric_on_the_ids_of_the_solution(
    tmp_path: Path, kind: str, metric: str, lines: Any, truth: Any, expected: float
) -> None:
    header = "id,label" if kind == "labels" else "id,cat,dog,emu"
    submission = write(tmp_path / "submission.csv", header, *lines)
    solution = write(tmp_path / "solution.csv", "id,label", *truth)
    score, count, _ = score_submission(submission, solution, settings_of(kind, metric=metric))
    assert score == pytest.approx(expected)
    assert count == len(truth)


@pytest.mark.parametrize(
    ("lines", "truth", "words"),
    [
        (("id,label", "1,cat"), ("id,label", "1,cat", "2,dog"), r"submission\.csv lacks 1 of the ids.*'2'"),
        (("id,label", "1,cat"), ("id", "1"), r"solution\.csv must have two columns"),
    ],
)
def test_what_cannot_be_scored_is_refused(tmp_path: Path, lines: Any, truth: Any, words: str) -> None:
    submission, solution = write(tmp_path / "submission.csv", *lines), write(tmp_path / "solution.csv", *truth)
    with pytest.raises(UserError, match=words):
        score_submission(submission, solution, LABELS)


def test_true_labels_without_a_column_are_refused(tmp_path: Path) -> None:
    submission = write(tmp_path / "submission.csv", "id,cat,dog", "1,0,1")
    solution = write(tmp_path / "solution.csv", "id,label", "1,yak")
    with pytest.raises(UserError, match=r"labels that .*submission\.csv has no column for, such as 'yak'"):
        score_submission(submission, solution, PROBABILITIES)


def test_score_refuses_an_id_that_stands_twice(tmp_path: Path) -> None:
    (tmp_path / "ours.csv").write_text("id,label\n1,a\n1,a\n")
    (tmp_path / "truth.csv").write_text("id,label\n1,a\n")
    with pytest.raises(UserError, match=r"ours\.csv: 1 ids occur twice, such as '1'"):
        score_submission(tmp_path / "ours.csv", tmp_path / "truth.csv", Settings("tiny"))


def test_score_refuses_a_probability_that_is_no_number(tmp_path: Path) -> None:
    (tmp_path / "ours.csv").write_text("id,a,b\n1,0.5,x\n")
    (tmp_path / "truth.csv").write_text("id,label\n1,a\n")
    settings = Settings("tiny", competition=CompetitionSettings(metric="log_loss", submission="probabilities"))
    with pytest.raises(UserError, match=r"ours\.csv: not every value is a number"):
        score_submission(tmp_path / "ours.csv", tmp_path / "truth.csv", settings)


def split_table(*rows: tuple[str, str, str]) -> pd.DataFrame:
    """Return a split table of (path, label, split); the id is the path."""
    return pd.DataFrame(
        [(path, path, label, split, -1) for path, label, split in rows],
        columns=["id", "path", "label", "split", "fold"],
    )


@pytest.mark.parametrize(
    ("folder", "test", "labels"),
    [
        ("test", ["test/cat/1.jpg", "test/dog/2.jpg"], ["cat", "dog"]),
        ("./data/test/", ["data/test/dog/a/1.jpg"], ["dog"]),
        (".", ["dog/1.jpg"], ["dog"]),
        ("test", ["test/cat/1.jpg", "test/2.jpg"], None),
        ("test", ["test/cat/1.jpg", "test/yak/2.jpg"], None),  # a class without training images
        ("test", ["test/cat"], None),  # an image, not a folder
        ("test", ["else/cat/1.jpg"], None),
        ("test", [], None),
    ],
)
def test_test_images_in_class_folders_are_labelled_by_these(
    folder: str, test: list[str], labels: list[str] | None
) -> None:
    labelled = [("train/1.jpg", "cat", "train"), ("train/2.jpg", "dog", "valid")]
    truth = folder_labels(split_table(*labelled, *((path, "", "test") for path in test)), folder)
    if labels is None:
        assert truth is None
    else:
        assert truth is not None
        assert truth.to_dict("list") == {"id": test, "label": labels}


def test_answers_are_counted_and_equal_ones_are_said(tmp_path: Path) -> None:
    def lines(answers: list[Any], settings: Settings = LABELS) -> list[str]:
        return describe_answers(np.array(answers), ["cat", "dog"], settings, tmp_path)

    assert lines([0, 1, 0, 0]) == ["Answers: cat (3), dog (1)"]
    assert lines([0] * 4)[0] == "Answers: cat (4)"
    assert lines([0] * 4)[1].startswith("Note: all 4 answers are 'cat'.")
    assert lines([[0.3, 0.7], [0.8, 0.2]], PROBABILITIES) == ["Most probable: cat (1), dog (1)"]
    assert "all 2 answers are 'dog'" in lines([[0.3, 0.9], [0.8, 0.9]], PROBABILITIES)[1]
    assert "all 2 rows of probabilities are equal" in lines([[0.5, 0.5]] * 2, PROBABILITIES)[1]
    assert lines([0]) == ["Answers: cat (1)"]


def test_labels_in_another_form_are_named_as_such(tmp_path: Path) -> None:
    write(tmp_path / "sample.csv", "id,label", "1,0", "2,1")
    path = write(tmp_path / "submission.csv", "id,label", "1,0.0", "2,1.0")
    with pytest.raises(
        UserError, match=r"2 rows have such labels: '0\.0', '1\.0'\. These are the same in another form"
    ):
        check_submission(path, ["0", "1"], LABELS, tmp_path)


def test_a_submission_of_one_column_is_none(tmp_path: Path) -> None:
    path = write(tmp_path / "submission.csv", "id", "1")
    for settings in (LABELS, PROBABILITIES):
        with pytest.raises(UserError, match="has one column"):
            check_submission(path, CLASSES, settings, tmp_path)


def test_a_carriage_return_in_a_label_survives_the_file(tmp_path: Path) -> None:
    """Python 3.11 writes it without quotes, and then reads it as a line end."""
    write(tmp_path / "sample.csv", "id,label", "1,?")
    made(["1"], sure_of([1], 2), ["cat", "do\rg"], LABELS, tmp_path)
    assert check_submission(tmp_path / "made.csv", ["cat", "do\rg"], LABELS, tmp_path) == 1


def test_without_a_sample_labels_of_one_column_per_class_are_headed_label(tmp_path: Path) -> None:
    write(tmp_path / "labels.csv", "image,cat,dog,emu", "1,1,0,0", "2,0,0,1")
    settings = settings_of("labels", sample="", labels="labels.csv")
    table = made(["3"], sure_of([2]), CLASSES, settings, tmp_path)
    assert table.to_dict("list") == {"image": ["3"], "label": ["emu"]}


def test_without_a_sample_a_table_without_ids_has_the_header_id(tmp_path: Path) -> None:
    write(tmp_path / "labels.csv", "emotion,pixels", "cat,0 1 2 3", "dog,3 2 1 0")
    settings = settings_of("labels", sample="", labels="labels.csv", label_column="emotion")
    assert made(["3"], sure_of([2]), CLASSES, settings, tmp_path).to_dict("list") == {"id": ["3"], "emotion": ["emu"]}
