"""A sample submission in other words than the labels: what it seems to want, and the settings that mend it."""

from pathlib import Path

import numpy as np
import pytest

from pipelines.dataset.submission import class_list, classes_without_images
from pipelines.dataset.submission_check import check_submission
from pipelines.dataset.tables import write_csv
from pipelines.dataset.vocabulary import loose_form
from pipelines.settings.loading import merge
from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError
from tests.support.answers import made
from tests.support.raw_files import write

LABELS = "id,label,number\n1,cat,0\n2,dog,1\n3,cat,0\n"


def settings_of(form: str = "labels", **data: object) -> Settings:
    sections = {"competition": {"submission": form}, "data": {"sample_submission": "sample.csv", **data}}
    return merge(Settings("x"), sections, "here")


def refusal(raw: Path, classes: list[str], settings: Settings) -> str:
    with pytest.raises(UserError) as caught:
        class_list(classes, settings, raw)
    return str(caught.value)


def sample(raw: Path, *values: str, header: str = "id,label") -> Path:
    return write(raw / "sample.csv", f"{header}\n" + "".join(f'{n},"{value}"\n' for n, value in enumerate(values)))


@pytest.mark.parametrize(
    ("classes", "values", "words"),
    [
        (["cat", "dog"], ["0", "1"], ["has '0', '1', but the classes are 'cat', 'dog'", "(cat,…; dog,…)"]),
        (["0", "1"], ["1.0", "0.0"], ["the same in another form", "(0,0.0; 1,1.0)"]),
        (["0", "1"], ["0.0"], ["(0,0.0; 1,…)", "If the sample wants the probability of one class:"]),
        (["cat", "dog"], ["Cat", "Dog"], ["the same in another form", "(cat,Cat; dog,Dog)"]),
        (["0", "1"], ["0.5"], ["The sample has a probability for each id."]),
        (["a", "b", "c"], ["a b c", "c b a"], ["The sample has 3 labels in one cell."]),
        (["cat", "dog"], ["unknown"], ["may also be a placeholder"]),
        (
            ["cat", "dog"],
            ["cat", "fox", "owl"],
            ["has 'fox', 'owl' (2 of its 3 different values)", "No image has such a label"],
        ),
    ],
)
def test_values_of_the_sample_that_are_no_classes_are_explained_unless_accepted(
    tmp_path: Path, classes: list[str], values: list[str], words: list[str]
) -> None:
    path = sample(tmp_path, *values)
    message = refusal(tmp_path, classes, settings_of())
    assert message.startswith(f"{path}: column 'label' ")
    assert all(text in message for text in words), message
    assert message.endswith('data.accept = ["sample_labels"]')
    assert class_list(classes, settings_of(accept=["sample_labels"]), tmp_path) == classes


@pytest.mark.parametrize(
    ("classes", "values"),
    [(["cat", "dog"], ["", ""]), (["cat", "dog"], ["cat", "cat"]), (["new_whale", "w_1"], ["new_whale"])],
)
def test_empty_values_and_classes_in_the_sample_are_right(
    tmp_path: Path, classes: list[str], values: list[str]
) -> None:
    sample(tmp_path, *values)
    assert class_list(classes, settings_of(), tmp_path) == classes


def test_a_column_in_the_words_of_the_sample_is_named(tmp_path: Path) -> None:
    sample(tmp_path, "0", "0")
    write(tmp_path / "labels.csv", LABELS)
    message = refusal(tmp_path, ["cat", "dog"], settings_of(labels="labels.csv"))
    assert "Column 'number' of labels.csv has these values: set data.label_column = \"number\"" in message
    settings = settings_of(labels="labels.csv", label_column="number")
    assert class_list(["0", "1"], settings, tmp_path) == ["0", "1"]


def test_a_table_of_answers_is_used_for_the_submission_and_its_check(tmp_path: Path) -> None:
    sample(tmp_path, "0", "1")
    write(tmp_path / "answers.csv", "label,answer\ncat,0\ndog,1\n")
    settings = settings_of(submitted_labels="answers.csv")
    assert class_list(["cat", "dog"], settings, tmp_path) == ["cat", "dog"]
    table = made(["0", "1"], np.array([[0.9, 0.1], [0.2, 0.8]], "f4"), ["cat", "dog"], settings, tmp_path)
    assert table["label"].tolist() == ["0", "1"]
    write_csv(tmp_path / "submission.csv", table)
    assert check_submission(tmp_path / "submission.csv", ["cat", "dog"], settings, tmp_path) == 2
    write_csv(tmp_path / "submission.csv", table.assign(label="cat"))
    with pytest.raises(UserError, match="'cat' is not a known label"):
        check_submission(tmp_path / "submission.csv", ["cat", "dog"], settings, tmp_path)


def test_a_table_of_answers_also_names_the_columns_of_probabilities(tmp_path: Path) -> None:
    write(tmp_path / "sample.csv", "id,c1,c0\n0,0.5,0.5\n")
    message = refusal(tmp_path, ["cat", "dog"], settings_of("probabilities"))
    assert "its columns are not the classes: 2 of 2 labels have none" in message
    assert "data.submitted_labels" in message
    write(tmp_path / "answers.csv", "label,answer\ncat,c0\ndog,c1\n")
    settings = settings_of("probabilities", submitted_labels="answers.csv")
    assert class_list(["cat", "dog"], settings, tmp_path) == ["cat", "dog"]
    table = made(["0"], np.array([[0.75, 0.25]], "f4"), ["cat", "dog"], settings, tmp_path)
    assert table.iloc[0].to_dict() == {"id": "0", "c1": "0.25", "c0": "0.75"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("label,answer\ncat,0\n", "lacks 1 of 2 classes: 'dog'"),
        ("label,answer\ncat,0\ndog,0\n", "the text to submit '0' occurs twice"),
        ("label,answer\ncat,0\ncat,1\n", "the label 'cat' occurs twice"),
        ("label,answer\ncat,\ndog,1\n", "line 2: the text to submit is empty"),
        ("label\ncat\n", "has one column"),
        ("", "is empty"),
    ],
)
def test_a_table_of_answers_is_checked(tmp_path: Path, content: str, words: str) -> None:
    sample(tmp_path, "0", "1")
    write(tmp_path / "answers.csv", content)
    assert words in refusal(tmp_path, ["cat", "dog"], settings_of(submitted_labels="answers.csv"))


def test_a_table_of_answers_lies_in_the_raw_or_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    raw = tmp_path / "raw"
    sample(raw, "0")
    settings = settings_of(submitted_labels="answers.csv")
    assert "There is no file answers.csv, which data.submitted_labels names" in refusal(raw, ["cat", "dog"], settings)
    write(tmp_path / "answers.csv", "label,answer\ncat,0\ndog,1\n")
    assert class_list(["cat", "dog"], settings, raw) == ["cat", "dog"]


def test_columns_of_probabilities_in_another_form_are_named_as_such(tmp_path: Path) -> None:
    write(tmp_path / "sample.csv", "id,0.0,1.0\n0,0.5,0.5\n")
    message = refusal(tmp_path, ["0", "1"], settings_of("probabilities", labels="labels.csv"))
    assert "These are the same in another form: '0.0' for '0'." in message
    assert "data.label_column" in message


def test_columns_without_images_are_found() -> None:
    assert classes_without_images(["cat", "dog", "cat"], ["cat", "dog", "emu"]) == ["emu"]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("1", "1.0", True),
        ("1", "01", True),
        ("0,5", "0.50", True),
        ("1", "１", True),
        ("Hot Dog", "hot_dog", True),
        ("hot dog", "hot\u00a0 dog", True),
        ("cat", "cat\u200b", True),
        ("caf\u00e9", "cafe\u0301", True),
        ("a", "A", False),
        ("A-", "A", False),
        ("-1", "1", False),
        ("1e3", "1000", False),
        ("catdog", "cat dog", False),
    ],
)
def test_which_texts_are_the_same_label_in_another_form(one: str, other: str, same: bool) -> None:
    assert (loose_form(one) == loose_form(other)) == same
