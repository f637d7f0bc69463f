"""Rows that cannot be used: each flaw is an error that names the setting, or is left out and listed."""

from pathlib import Path
from typing import Any

import pytest

from pipelines.dataset.raw_data import Flaw, write_dropped
from pipelines.dataset.tables import read_csv
from tests.support.raw_files import touch, write
from tests.support.rows import advised, read, refused

LISTED = {"labels": "labels.csv"}


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    touch(tmp_path / "train", "1.png", "2.png", "3.png")
    return tmp_path


@pytest.mark.parametrize(
    ("rows", "words", "dropped"),
    [
        (
            "3,b\n.DS_Store,b\n",
            "ids without an image in train, 1 in all: line 5: '.DS_Store'",
            ("5", ".DS_Store", "no image in train"),
        ),
        (
            "3,b\n1.png,a\n",
            "images listed twice, 1 in all: line 5: '1.png', first on line 2",
            ("5", "1.png", "listed before, on line 2"),
        ),
        ("3, \n", "rows with an empty label, 1 in all: line 4: '3'", ("4", "3", "empty label")),
        (
            "",
            "images without a label in labels.csv, 1 in all: train/3.png",
            ("", "train/3.png", "no row of labels.csv names it"),
        ),
    ],
)
def test_a_flaw_is_an_error_or_is_left_out(raw: Path, rows: str, words: str, dropped: tuple[str, ...]) -> None:
    write(raw / "labels.csv", f"id,label\n1,a\n2,b\n{rows}")
    message = refused(raw, words, **LISTED)
    assert advised(message)["flaws"] == "drop"
    found = read(raw, **LISTED, flaws="drop")
    assert list(found.labels.values()) == ["a", "b", "b"][: 3 if rows.startswith("3,b") else 2]
    path = raw.parent / "dropped.csv"
    assert write_dropped(path, found.dropped) == f"{dropped[2].partition(',')[0]} (1)"
    assert read_csv(path).to_numpy().tolist() == [["labels.csv" if dropped[0] else "", *dropped]]
    assert write_dropped(path, []) == ""
    assert not path.exists()


def test_all_flaws_at_once(raw: Path) -> None:
    write(raw / "labels.csv", "id,label\n1,a\n1,a\n9,\n2,\n2,b\n8,a\n")
    found = read(raw, **LISTED, flaws="drop")
    assert found.labels == {"train/1.png": "a", "train/2.png": "b"}
    assert sorted((flaw.line, flaw.reason) for flaw in found.dropped) == [
        ("", "no row of labels.csv names it"),
        ("line 3", "listed before, on line 2"),
        ("line 4", "no image in train"),
        ("line 5", "empty label"),
        ("line 7", "no image in train"),
    ]


def test_two_targets_of_an_image_are_always_an_error(raw: Path) -> None:
    write(raw / "labels.csv", "id,label\n1,a\n2,b\n3,a\n3,b\n")
    refused(
        raw,
        "images with two different labels, 1 in all: line 5: '3' is 'b', on line 4 it is 'a'",
        **LISTED,
        flaws="drop",
    )
    write(raw / "labels.csv", "id,y\n1,1\n2,2\n3,3\n3,4\n")
    refused(raw, "'3' is '4', on line 4 it is '3'. Remove the wrong rows.", task="numbers", **LISTED, flaws="drop")
    write(raw / "labels.csv", "id,a,b\n1,1,1\n2,0,1\n3,0,1\n3,1,1\n")
    refused(raw, "'3' is 'a|b'", task="several_labels", label_columns=("a", "b"), **LISTED, flaws="drop")


def test_a_missing_number_of_several_is_no_flaw(raw: Path) -> None:
    write(raw / "labels.csv", "id,x,y\n1,1,\n2,,nan\n3,5,6\n")
    several: dict[str, Any] = {**LISTED, "label_columns": ("x", "y")}
    refused(raw, "rows with an empty target, 1 in all: line 3: '2'", task="numbers", **several)
    found = read(raw, "numbers", **several, flaws="drop")
    assert found.labels == {"train/1.png": "1|", "train/3.png": "5|6"}
    write(raw / "labels.csv", "id,x,y\n1,1,0\n2,0,0\n3,,1\n")
    assert read(raw, "several_labels", **several, flaws="drop").labels == {"train/1.png": "x", "train/2.png": ""}
    assert read(raw, "one_class", **several, flaws="drop").labels == {"train/1.png": "x"}


def test_a_table_without_a_usable_row(raw: Path) -> None:
    write(raw / "labels.csv", "id,label\n7,a\n8,b\n")
    refused(raw, "ids without an image in train, 2 in all", "Set data.train_images", **LISTED, flaws="drop")
    write(raw / "labels.csv", "id,label\n1,\n2,\n8,x\n")
    refused(raw, "no row has both an image and a target", **LISTED, flaws="drop")


def with_tests(raw: Path, **data: Any) -> dict[str, Any]:
    touch(raw, "test/7.png", "test/8.png")
    if not (raw / "labels.csv").exists():
        write(raw / "labels.csv", "id,label\n1,a\n2,b\n3,a\n")
    return {**LISTED, "sample_submission": "sample.csv", **data}


def test_ids_that_the_sample_repeats(raw: Path) -> None:
    write(raw / "sample.csv", "id,label\n7,a\n8,a\n7,a\n")
    found = read(raw, **with_tests(raw))
    assert list(found.tests) == ["7", "8"]
    assert found.notes["note"] == "sample.csv repeats ids, such as '7': 1 rows get the answer of their image."
    write(raw / "test.csv", "id\n8\n7\n")
    assert list(read(raw, **with_tests(raw, test_table="test.csv")).tests) == ["8", "7"]
    write(raw / "sample.csv", "id,label\n7,a\n8,a\n7.png,a\n")
    refused(raw, "images listed twice, 1 in all: line 4: '7.png', first on line 2", **with_tests(raw, flaws="drop"))


def test_flaws_of_the_table_of_with_tests(raw: Path) -> None:
    write(raw / "sample.csv", "id,label\n7,a\n8,a\n")
    write(raw / "test.csv", "id\n8\n7\n8.png\n.DS_Store\n")
    refused(
        raw, "ids without an image in test, 1 in all: line 5: '.DS_Store'", **with_tests(raw, test_table="test.csv")
    )
    found = read(raw, **with_tests(raw, test_table="test.csv", flaws="drop"))
    assert found.tests == {"8": "test/8.png", "7": "test/7.png"}
    assert [(flaw.line, flaw.reason) for flaw in found.dropped] == [
        ("line 5", "no image in test"),
        ("line 4", "listed before, on line 2"),
    ]
    write(raw / "sample.csv", "id,label\n7,a\n8,a\n9,a\n")
    refused(
        raw, "ids without an image in test, 1 in all: line 4: '9'. A submission needs", **with_tests(raw, flaws="drop")
    )


@pytest.mark.parametrize(
    ("csv", "note"),
    [
        ("id,label\n1,a\n7,\n2,b\n8,\n3,a\n", "2. Not used here."),
        ("id,label,split\n1,a,train\n7,a,test\n2,b,val\n8,a,test\n3,a,train\n", "'test' in column 'split': 2."),
        ("path,label,Usage\ntrain/1.png,a,\ntest/7.png,?,Public\n2,b,\n3,a,\n", "'Public' in column 'Usage': 1."),
    ],
)
def test_rows_of_test_images_in_the_labels(raw: Path, csv: str, note: str) -> None:
    write(raw / "sample.csv", "id,label\n7,a\n8,a\n")
    write(raw / "labels.csv", csv)
    found = read(raw, **with_tests(raw))
    assert list(found.labels.values()) == ["a", "b", "a"]
    assert note in found.notes["note"]


def test_rows_of_test_images_with_a_target_and_no_mark(raw: Path) -> None:
    write(raw / "sample.csv", "id,label\n7,a\n8,a\n")
    write(raw / "labels.csv", "id,label,split\n1,a,train\n2,b,train\n3,a,test\n7,a,test\n")
    message = refused(raw, "ids without an image in train, 1 in all: line 5: '7'", **with_tests(raw))
    assert list(read(raw, **with_tests(raw, **advised(message))).labels) == [f"train/{n}.png" for n in (1, 2, 3)]


def test_a_flaw_in_a_message() -> None:
    assert str(Flaw("a.csv", "line 3", "x", "why", ", more")) == "line 3: 'x', more"
    assert str(Flaw("", "", "train/x.png", "why")) == "train/x.png"


@pytest.mark.parametrize(
    ("csv", "data"),
    [
        ("id,label,split\n1,a,train\n2,b,valid\n3,a,Train\n7,a,test\n8,a,test\n", {}),
        ("id,label\n1,a\n2,b\n3,a\n7,\n8,\n", {}),
        ("id,n,x,y\n1,0,5,6\n2,0,,6\n3,0,5,6\n7,0,,\n8,0,,\n", {"label_columns": ("x", "y")}),
    ],
)
def test_one_table_of_labelled_and_test_images(raw: Path, csv: str, data: dict[str, Any]) -> None:
    touch(raw / "train", "7.png", "8.png")
    write(raw / "labels.csv", csv)
    task = "numbers" if data else "one_class"
    together: dict[str, Any] = {**LISTED, "test_table": "labels.csv", "test_images": "train", **data}
    found = read(raw, task, **together)
    assert list(found.labels) == [f"train/{n}.png" for n in (1, 2, 3)]
    assert found.tests == {"7": "train/7.png", "8": "train/8.png"}


def test_marks_of_tests_are_noted_if_they_are_not_used(raw: Path) -> None:
    write(raw / "labels.csv", "id,label,split\n1,a,train\n2,b,train\n3,a,test\n")
    found = read(raw, **LISTED)
    advice = advised(found.notes["note"])
    assert (len(found.labels), advice) == (3, {"test_table": "labels.csv"})
    assert read(raw, **LISTED, **advice, test_images="train").tests == {"3": "train/3.png"}
    write(raw / "labels.csv", "id,label\n1,a\n2,b\n3,a\n")
    words = "has no column that says which rows are test"
    message = refused(raw, words, **LISTED, test_table="labels.csv", test_images="train")
    assert len(read(raw, **LISTED, **advised(message)).labels) == 3
