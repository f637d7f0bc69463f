"""Labels and groups from the names of files, and lists of class folders."""

from pathlib import Path
from typing import Any

import pytest

from pipelines.settings.data_sections import DataSettings
from tests.support.raw_files import touch, write
from tests.support.rows import read, refused


def test_the_label_is_in_the_name(tmp_path: Path) -> None:
    touch(tmp_path / "train", "cat.10.jpg", "cat.9.jpg", "dog.1.jpg")
    found = read(tmp_path, label_pattern=r"^(?P<label>cat|dog)\.")
    assert found.labels == {"train/cat.9.jpg": "cat", "train/cat.10.jpg": "cat", "train/dog.1.jpg": "dog"}
    assert found.ids == ["cat.9.jpg", "cat.10.jpg", "dog.1.jpg"]
    assert found.notes["labels"] == r"data.label_pattern, '^(?P<label>cat|dog)\\.'"


def test_label_and_group_are_in_the_name(tmp_path: Path) -> None:
    touch(tmp_path / "train", "p1/a_3.png", "p2/b_5.png")
    pattern = r"(?P<group>p\d)/(?P<camera>.)_(?P<label>\d)"
    found = read(tmp_path, "numbers", label_pattern=pattern)
    assert found.labels == {"train/p1/a_3.png": "3", "train/p2/b_5.png": "5"}
    assert list(found.groups.values()) == ["p1", "p2"]
    assert list(read(tmp_path, "numbers", "camera", label_pattern=pattern).groups.values()) == ["a", "b"]
    refused(tmp_path, "split.group_column is 'patient'", group="patient", label_pattern=pattern)


def test_several_labels_are_in_the_name(tmp_path: Path) -> None:
    touch(tmp_path / "train", "1_sun+rain.png", "2_rain.png")
    names = {"label_pattern": r"_(?P<label>.*)[.]png"}
    found = read(tmp_path, "several_labels", **names, label_separator="+")
    assert list(found.labels.values()) == ["rain|sun", "rain"]
    refused(tmp_path, "each image has one label, from data.label_pattern", task="several_labels", **names)


def test_only_the_group_is_in_the_name(tmp_path: Path) -> None:
    touch(tmp_path / "train", "a/p1_1.png", "b/p2_1.png")
    pattern = {"label_pattern": "(?P<group>p.)_"}
    found = read(tmp_path, **pattern)
    assert (list(found.labels.values()), list(found.groups.values())) == (["a", "b"], ["p1", "p2"])
    write(tmp_path / "labels.csv", "id,label\np2_1,x\np1_1,y\n")
    found = read(tmp_path, labels="labels.csv", **pattern)
    assert found.groups == {"train/a/p1_1.png": "p1", "train/b/p2_1.png": "p2"}


def test_names_that_the_pattern_does_not_match(tmp_path: Path) -> None:
    touch(tmp_path / "train", "cat.1.png", "dog.1.png", "thumbs.png")
    message = refused(tmp_path, "does not match, 1 in all: train/thumbs.png", label_pattern=r"(?P<label>\w+)\.1")
    assert 'data.flaws = "drop"' in message
    found = read(tmp_path, label_pattern=r"(?P<label>\w+)\.1", flaws="drop")
    assert list(found.labels.values()) == ["cat", "dog"]
    assert [(flaw.id, flaw.reason) for flaw in found.dropped] == [
        ("train/thumbs.png", "data.label_pattern does not match it")
    ]


def test_test_images_in_the_same_folder(tmp_path: Path) -> None:
    touch(tmp_path / "images", "cat.1.png", "dog.1.png", "7.png")
    write(tmp_path / "sample.csv", "id,label\n7,cat\n")
    both = {"train_images": "images", "test_images": "images", "label_pattern": r"(?P<label>\w+)\.1"}
    found = read(tmp_path, **both, sample_submission="sample.csv")
    assert (len(found.labels), found.tests) == (2, {"7": "images/7.png"})
    refused(tmp_path, "images both labelled and in the test set, 2 in all", **both, flaws="drop")


def test_a_list_of_class_folders(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "data/cats/1.png",
        "data/tigers/2.png",
        "data/dogs/in/3.png",
        "data/dogs/6.png",
        "data/tests/4.png",
        "data/5.png",
    )
    folders = ("cats", "tigers=cats", "dogs/in", "dogs=all dogs")
    found = read(tmp_path, train_images="data", test_images="data/tests", class_folders=folders)
    assert found.labels == {
        "data/cats/1.png": "cats",
        "data/tigers/2.png": "cats",
        "data/dogs/in/3.png": "in",
        "data/dogs/6.png": "all dogs",
    }
    assert found.tests == {"4": "data/tests/4.png"}


def test_class_folders_without_images_are_named(tmp_path: Path) -> None:
    touch(tmp_path / "train", "cats/1.png", "dogs/1.png")
    words = ("class folders without images, 2 in all: cat/; dog/", "has the folders: 'cats', 'dogs'")
    refused(tmp_path, *words, class_folders=("cat", "dog=hound"))


def test_class_folders_beside_a_table_of_tests_in_another_folder(tmp_path: Path) -> None:
    touch(tmp_path, "train/cat/1.png", "train/dog/2.png", "pool/a.png", "pool/b.png", "pool/c.png")
    write(tmp_path / "test.csv", "index,name\n1,a.png\n2,b.png\n")
    write(tmp_path / "sample.csv", "index,label\n2,cat\n1,cat\n")
    found = read(tmp_path, test_images="pool", test_table="test.csv", sample_submission="sample.csv")
    assert (list(found.labels.values()), found.tests) == (["cat", "dog"], {"1": "pool/a.png", "2": "pool/b.png"})


def test_numbers_are_the_names_of_folders(tmp_path: Path) -> None:
    touch(tmp_path / "train", "0/1.png", "2.5/1.png")
    assert list(read(tmp_path, "numbers").labels.values()) == ["0", "2.5"]
    touch(tmp_path / "train", "young/1.png")
    refused(
        tmp_path, "the class folders of train: column 'label' has values that are no numbers", "young", task="numbers"
    )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"label_pattern": "(?P<label>"}, "is no regular expression"),
        ({"label_pattern": "(cat|dog)"}, "needs a named group"),
        ({"label_pattern": "(?P<label>a)", "labels": "a.csv"}, "are both set"),
        ({"label_pattern": "(?P<label>a)", "class_folders": ("a",)}, "are both set"),
        ({"class_folders": ("a",), "labels": "a.csv"}, "are both set"),
        ({"class_folders": ("a",), "class_level": 2}, "are both set"),
        ({"label_columns": ("a",), "label_column": "b", "labels": "a.csv"}, "are both set"),
        ({"label_columns": ("a",), "label_separator": " ", "labels": "a.csv"}, "are both set"),
        ({"label_columns": ("a",)}, "Set data.labels, or unset data.label_columns"),
        ({"train_file": "{id}.png"}, "Set data.labels, or unset data.train_file"),
        ({"test_file": "{id}.png"}, "data.test_file is set"),
        ({"file_column": "a"}, "data.file_column is set"),
        ({"sample_id": "a"}, "data.sample_id is set"),
        ({"labels": "a.csv+../b.csv"}, "must be a path inside the raw folder"),
    ],
)
def test_settings_that_contradict_each_other(settings: dict[str, Any], words: str) -> None:
    problems = list(DataSettings(**settings).problems())
    assert len(problems) == 1
    assert words in problems[0]
