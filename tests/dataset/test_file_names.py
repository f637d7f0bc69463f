"""Ids become files by a template, or by a column of files; and the id of a test image may be any column."""

from pathlib import Path

import pytest

from tests.support.raw_files import touch, write
from tests.support.rows import read, refused

LISTED = {"labels": "labels.csv"}


@pytest.mark.parametrize(
    ("template", "files"),
    [
        ("{id}/{id}_1.png", ["5/5_1.png", "12/12_1.png"]),
        ("{kind}-{id:03}.png", ["a-005.png", "b-012.png"]),
        ("{kind}/{id:04d}.png", ["a/0005.png", "b/0012.png"]),
        ("{id[0]}/{id[-1]}/{id}.png", ["5/5/5.png", "1/2/12.png"]),
        ("train/x{id}.png", ["x5.png", "x12.png"]),
    ],
)
def test_a_template_makes_the_path(tmp_path: Path, template: str, files: list[str]) -> None:
    touch(tmp_path / "train", *files)
    write(tmp_path / "labels.csv", "id,label,kind\n5,x,a\n12,y,b\n")
    found = read(tmp_path, **LISTED, train_file=template, label_column="label")
    assert found.labels == {f"train/{files[0]}": "x", f"train/{files[1]}": "y"}
    assert found.ids == ["5", "12"]
    assert found.notes["ids"] == "column 'id' of labels.csv, files by 'data.train_file'"


def test_a_template_that_does_not_fit(tmp_path: Path) -> None:
    touch(tmp_path / "train", "5.png", "12.png")
    write(tmp_path / "labels.csv", "id,label\n5,x\n12,y\n")
    for template, words in (
        ("{idd}.png", ("{idd} is no column. Did you mean 'id'?", "'label'")),
        ("a.png", ("must name a column of each row, as {id}.png does",)),
        ("{id.png", ("Write it as {id}.png",)),
        ("{id[1]}.png", ("does not fit the row {'id': '5'}",)),
        ("{id.__class__}.png", ("is no column",)),
        ("{id:02}.png", ("ids without an image in train, 1 in all: line 2: '5', 05.png", "data.train_images")),
    ):
        refused(tmp_path, *words, **LISTED, train_file=template)


def test_a_column_names_the_file(tmp_path: Path) -> None:
    touch(tmp_path / "train", "2.png", "1.png")
    write(tmp_path / "labels.csv", "id,file,label\n1,train/2.png,x\n2,1.jpg,y\n")
    found = read(tmp_path, **LISTED, file_column="file")
    assert (found.ids, found.labels) == (["1", "2"], {"train/2.png": "x", "train/1.png": "y"})
    assert found.notes["ids"].startswith("column 'id' of labels.csv, files by 'file', compared")


def test_ids_of_the_sample_by_template_table_and_column(tmp_path: Path) -> None:
    touch(tmp_path, "train/1.png", "train/2.png", "test/test-0007.png", "test/test-0008.png")
    write(tmp_path / "labels.csv", "id,label\n1,x\n2,y\n")
    write(tmp_path / "sample.csv", ",label,Id,kind\n0,x,8,test\n1,y,7,test\n")
    sample = {**LISTED, "sample_submission": "sample.csv", "sample_id": "Id"}
    expected = {"8": "test/test-0008.png", "7": "test/test-0007.png"}
    assert read(tmp_path, **sample, test_file="test-{id:04}.png").tests == expected
    assert read(tmp_path, **sample, test_file="{kind}-{id:04}.png").tests == expected
    write(tmp_path / "ids.csv", "number,name\n8,test-0008.png\n7,test-0007.png\n")
    assert read(tmp_path, **sample, test_table="ids.csv").tests == expected
    write(tmp_path / "ids.json", '{"8": "test-0008.png", "7": "test-0007.png"}')
    assert read(tmp_path, **sample, test_table="ids.json").tests == expected
    write(
        tmp_path / "ids.json",
        '[{"image_id": 8, "file_name": "test-0008.png"}, {"image_id": 7, "file_name": "x/test-0007.png"}]',
    )
    assert read(tmp_path, **sample, test_table="ids.json").tests == expected
    assert read(tmp_path, **sample, test_table="ids.json", test_file="test-{image_id:04}.png").tests == expected
    refused(
        tmp_path, "no column 'Idd', which data.sample_id names. Did you mean 'Id'?", **sample | {"sample_id": "Idd"}
    )


def test_a_table_says_what_an_id_means(tmp_path: Path) -> None:
    """Ids that also are names of other files."""
    touch(tmp_path, "train/1.png", "train/2.png", "test/1.png", "test/2.png")
    write(tmp_path / "labels.csv", "id,label\n1,x\n2,y\n")
    write(tmp_path / "sample.csv", "id,label\n1,x\n2,x\n")
    write(tmp_path / "ids.csv", "id,file\n1,2.png\n2,1.png\n")
    tables = {**LISTED, "sample_submission": "sample.csv", "test_table": "ids.csv"}
    assert read(tmp_path, **tables, file_column="file").tests == {"1": "test/2.png", "2": "test/1.png"}
    write(tmp_path / "ids.csv", "file,number\n2.png,1\n1.png,2\n")
    words = (
        "its ids mean different images by 'the names of the files', 'number'",
        "data.id_column",
        "data.file_column",
    )
    refused(tmp_path, *words, **tables)
    settings = {"id_column": "number", "file_column": "file"}
    write(tmp_path / "labels.csv", "number,label\n1,x\n2,y\n")
    assert read(tmp_path, **tables, **settings).tests == {"1": "test/2.png", "2": "test/1.png"}


def test_the_advice_about_the_column_of_the_sample(tmp_path: Path) -> None:
    touch(tmp_path, "train/1.png", "train/2.png", "test/3.png", "test/4.png")
    write(tmp_path / "labels.csv", "id,label\n1,x\n2,y\n")
    write(tmp_path / "sample.csv", "label,id\nx,3\ny,4\n")
    sample = {**LISTED, "sample_submission": "sample.csv"}
    refused(tmp_path, 'the ids come from label. Set data.sample_id = "id".', **sample)
    assert list(read(tmp_path, **sample, sample_id="id").tests) == ["3", "4"]
