"""Targets from one column, several columns, and several labels in a cell, for each task."""

from pathlib import Path
from typing import Any

import pytest

from pipelines.dataset.target_cells import parts
from tests.support.raw_files import touch, write
from tests.support.rows import advised, read, refused

FILES = [f"train/{number}.png" for number in (1, 2, 3)]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    touch(tmp_path, *FILES)
    return tmp_path


def targets(raw: Path, csv: str, task: str, **data: Any) -> list[str]:
    write(raw / "labels.csv", csv)
    return [read(raw, task, labels="labels.csv", **data).labels[path] for path in FILES]


def test_columns_of_flags_are_labels(raw: Path) -> None:
    csv = ",id,sun,rain,other\n0,1,1,1,x\n1,2,0,0,x\n2,3,0.0,1.0,x\n"
    assert targets(raw, csv, "several_labels", label_columns=("sun", "rain")) == ["rain|sun", "", "rain"]
    assert targets(raw, csv, "several_labels", label_columns=("?[au][in]*",)) == ["rain|sun", "", "rain"]
    assert read(raw, "several_labels", labels="labels.csv", label_columns=("sun", "rain")).notes == {
        "labels": "2 columns of labels.csv: 'sun', 'rain'",
        "ids": "column 'id' of labels.csv, after an index that is not used",
    }


def test_columns_of_flags_are_one_class(raw: Path) -> None:
    csv = ",id,cat,dog\n0,1,1,0\n1,2,0,1\n2,3,1,0\n"
    assert targets(raw, csv, "one_class", label_columns=("*a*", "dog")) == ["cat", "dog", "cat"]
    assert targets(raw, csv, "one_class") == ["cat", "dog", "cat"]
    write(raw / "labels.csv", "id,cat,dog\n1,1,0\n2,1,1\n3,1,1\n")
    message = refused(raw, "2 in all: line 3: 'cat', 'dog'; line 4", labels="labels.csv", label_columns=("cat", "dog"))
    assert (
        read(raw, labels="labels.csv", label_columns=("cat", "dog"), **advised(message)).labels[FILES[1]] == "cat|dog"
    )
    message = refused(raw, "hold only 0 and 1, but 2 of 3 rows have several ones or none", labels="labels.csv")
    advice = advised(message) | {"label_column": ""}
    assert list(read(raw, labels="labels.csv", **advice).labels.values()) == ["cat", "cat|dog", "cat|dog"]


def test_columns_of_numbers(raw: Path) -> None:
    csv = "id,x1,x2,name\n1,1.5,-2,a\n2,,3e2,b\n3,NaN,0,c\n"
    assert targets(raw, csv, "numbers", label_columns=("x?",)) == ["1.5|-2", "|3e2", "|0"]
    assert targets(raw, csv, "numbers", label_columns=("x2", "x1")) == ["-2|1.5", "3e2|", "0|"]
    refused(
        raw,
        "column 'name' has values that are no numbers, 3 in all: line 2: 'a'",
        *("data.label_column", 'competition.task = "one_class"'),
        labels="labels.csv",
        task="numbers",
        label_columns=("x2", "name"),
    )
    assert targets(raw, "id,y\n1,5\n2,6\n3,7.25\n", "numbers") == ["5", "6", "7.25"]
    write(raw / "labels.csv", 'id,y\n1,"1,5"\n2,inf\n3,1_000\n')
    refused(raw, "3 in all", "Write them with a decimal point", labels="labels.csv", task="numbers")


def test_the_columns_of_the_sample_are_the_targets(raw: Path) -> None:
    touch(raw, "test/9.png")
    both = {"sample_submission": "sample.csv"}
    write(raw / "sample.csv", "id,rain,sun\n9,0.5,0.5\n")
    csv = "id,kind,sun,rain\n1,a,1,1\n2,b,0,0\n3,c,0,1\n"
    assert targets(raw, csv, "several_labels", **both) == ["rain|sun", "", "rain"]
    assert targets(raw, csv.replace("0", "0.25"), "numbers", **both) == ["1|1", "0.25|0.25", "1|0.25"]
    write(raw / "sample.csv", "id,score\n9,0\n")
    csv = "id,flag,age,score\n1,0,5,10\n2,1,6,20\n3,0,7,30\n"
    assert targets(raw, csv, "numbers", **both) == ["10", "20", "30"]
    assert targets(raw, csv, "one_class", **both) == ["10", "20", "30"]
    assert targets(raw, csv, "one_class", **both, label_column="age") == ["5", "6", "7"]


def test_several_labels_in_a_cell(raw: Path) -> None:
    csv = 'id,labels\n1,"red fox, old"\n2,\n3,"cat,red fox , cat"\n'
    expected = ["old|red fox", "", "cat|red fox"]
    assert targets(raw, csv, "several_labels", label_separator=",") == expected
    assert targets(raw, csv.replace("cat,", "cat, "), "several_labels", label_separator=", ") == expected
    assert targets(raw, "id,l\n1,b  a\n2,a\n3,b\n", "several_labels", label_separator=" ") == ["a|b", "a", "b"]
    assert targets(raw, "id,l\n1,b|a\n2,a\n3,b\n", "several_labels", label_separator="|") == ["a|b", "a", "b"]
    refused(
        raw, "labels with the character '|'", 'data.label_separator = "|"', labels="labels.csv", task="several_labels"
    )


def test_a_cell_may_be_a_list_of_python() -> None:
    assert parts("['red fox', \"old\"]", " ") == ["red fox", "old"]
    assert parts("[]", ",") == []


def test_a_row_for_each_label_of_an_image(raw: Path) -> None:
    csv = 'id,label,reader\n1,b,x\n2,a,x\n1,a,y\n3,"c, d",x\n1,b,y\n'
    assert targets(raw, csv, "several_labels") == ["a|b", "a", "c, d"]
    write(raw / "labels.csv", csv)
    message = refused(
        raw, "images with two different labels, 1 in all: line 4: '1' is 'a', on line 2", labels="labels.csv"
    )
    assert read(raw, labels="labels.csv", **advised(message)).labels[FILES[0]] == "a|b"
    refused(raw, "different groups, 2 in all: line 4: 'y'", labels="labels.csv", task="several_labels", group="reader")


def test_one_label_per_image_is_no_set_of_labels(raw: Path) -> None:
    write(raw / "labels.csv", "id,label\n1,a b\n2,a\n3,b\n")
    message = refused(raw, "each image has one row with one label", labels="labels.csv", task="several_labels")
    assert advised(message) == {"task": "one_class", "label_separator": " "}
    assert targets(raw, "id,label\n1,a b\n2,a\n3,b\n", "several_labels", label_separator=" ") == ["a|b", "a", "b"]


def test_columns_that_are_no_flags_or_are_missing(raw: Path) -> None:
    write(raw / "labels.csv", "id,sun,rain\n1,1,0\n2,-1,2\n3,0,1\n")
    message = refused(
        raw,
        "columns of labels that hold more than 0 and 1, 2 in all: line 3: '-1' in 'sun'; line 3: '2' in 'rain'",
        labels="labels.csv",
        task="several_labels",
        label_columns=("sun", "rain"),
    )
    assert advised(message) == {"task": "numbers"}
    message = refused(raw, "has no column 'sum'", "Did you mean 'sun'?", labels="labels.csv", label_columns=("sum",))


def test_tables_of_one_form_are_joined(raw: Path) -> None:
    write(raw / "a.csv", ",id,label\n0,1,x\n1,2,y\n")
    write(raw / "b.csv", ",id,label\n0,3,x\n")
    assert list(read(raw, labels="a.csv+b.csv").labels.values()) == ["x", "y", "x"]
    write(raw / "b.csv", ",id,label\n0,3,\n")
    refused(raw, "rows with an empty label, 1 in all: line 2 of b.csv: '3'", labels="a.csv + b.csv")
    write(raw / "b.csv", "id,class\n3,x\n")
    refused(raw, "b.csv has the columns 'id', 'class', but a.csv has", labels="a.csv+b.csv")
    refused(raw, "no file", "c.csv, which data.labels names", labels="a.csv+c.csv")
