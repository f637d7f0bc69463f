"""Which columns of a listing are taken, and that a wrong guess is never silent."""

import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from pipelines.dataset import test_set  # pytest would collect test_rows if it were imported by name
from pipelines.dataset.labels import labelled_rows
from pipelines.dataset.raw_data import RawData
from pipelines.dataset.tables import Note
from pipelines.settings.data_sections import DataSettings
from pipelines.system.errors import UserError
from tests.support.raw_files import touch, write


def teller(notes: list[str]) -> Note:
    return lambda subject, text: notes.append(f"{subject}: {text}")


def read(raw: Path, **data: Any) -> tuple[list[list[str]], list[str]]:
    """Return id, path and label of the labelled rows, and the notes."""
    notes: list[str] = []
    rows = labelled_rows(RawData(raw, DataSettings(labels="labels.csv", **data), note=teller(notes)))
    return rows[["id", "path", "label"]].to_numpy().tolist(), notes


def refusal(raw: Path, **data: Any) -> str:
    with pytest.raises(UserError) as caught:
        read(raw, **data)
    return str(caught.value)


def settings_in(message: str) -> dict[str, str]:
    """Return the settings of [data] that a message states first, as a TOML reads them."""
    lines = dict.fromkeys(re.findall(r'Set data\.(\w+ = "[^"]*")', message))
    return tomllib.loads("\n".join(lines))


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    touch(tmp_path / "train", "1.png", "2.png", "3.png")
    return tmp_path


@pytest.mark.parametrize("start", [0, 1])
@pytest.mark.parametrize("name", ["", "Unnamed: 0"])
def test_an_index_of_pandas_is_no_id(raw: Path, start: int, name: str) -> None:
    order = [2, 1, 3]
    cells = "".join(f"{start + place},{number},c{number}\n" for place, number in enumerate(order))
    write(raw / "labels.csv", f"{name},id,label\n{cells}")
    rows, notes = read(raw)
    assert rows == [[str(number), f"train/{number}.png", f"c{number}"] for number in order]
    index = ", after an index that is not used"
    assert notes == ["labels: column 'label' of labels.csv", f"ids: column 'id' of labels.csv{index}"]


def test_ids_in_a_column_without_a_name(raw: Path) -> None:
    write(raw / "labels.csv", ",label\n1,a\n2,b\n3,a\n")
    assert read(raw)[0] == [["1", "train/1.png", "a"], ["2", "train/2.png", "b"], ["3", "train/3.png", "a"]]
    write(raw / "labels.csv", ",label,width\n1,a,9\n2,b,9\n3,a,9\n")
    assert [row[2] for row in read(raw)[0]] == ["a", "b", "a"]


def test_a_column_that_is_named_is_obeyed(raw: Path) -> None:
    write(raw / "labels.csv", "number,id,label\n1,3,a\n2,1,b\n3,2,a\n")
    assert [row[0] for row in read(raw, id_column="number", label_column="label")[0]] == ["1", "2", "3"]
    assert [row[0] for row in read(raw, id_column="id", label_column="label")[0]] == ["3", "1", "2"]
    assert read(raw, id_column="id", label_column="label")[1] == [
        "labels: column 'label' of labels.csv",
        "ids: column 'id' of labels.csv",
    ]


@pytest.mark.parametrize(
    ("content", "words", "label"),
    [
        ("label,id\na,1\nb,2\na,3\n", "column label does not name an image in", "a"),
        (
            "file;width;height;ClassId\n1.png;9;8;x\n2.png;9;8;y\n3.png;9;8;x\n",
            "its second column, width, has the labels. Is that right?",
            "x",
        ),
        ("width,file,x1,class\n9,1.png,0,a\n9,2.png,0,b\n9,3.png,0,a\n", "column width does not name an image", "a"),
        ("id,path,label\n1,train/1.png,a\n2,train/2.png,b\n3,train/3.png,a\n", "path, names the images", "a"),
    ],
)
def test_columns_that_are_clearly_wrong_are_refused_with_the_settings(
    raw: Path, content: str, words: str, label: str
) -> None:
    write(raw / "labels.csv", content)
    message = refusal(raw)
    assert words in message
    rows, _ = read(raw, **settings_in(message))
    assert [row[1] for row in rows] == ["train/1.png", "train/2.png", "train/3.png"]
    assert rows[0][2] == label


def test_two_columns_that_name_the_images_in_different_orders_are_ambiguous(raw: Path) -> None:
    write(raw / "labels.csv", "no,image,label\n1,3,a\n2,1,b\n3,2,c\n")
    message = refusal(raw)
    assert "columns no and image name the images in different orders" in message
    assert "Set data.id_column to the right one of 'no', 'image'." in message
    assert 'Set data.label_column = "label".' in message
    assert [row[0] for row in read(raw, id_column="image", label_column="label")[0]] == ["3", "1", "2"]


def test_columns_that_name_the_same_images_are_not_ambiguous(raw: Path) -> None:
    write(raw / "labels.csv", "id,label,file\n1,a,1.png\n2,b,2.png\n3,a,3.png\n")
    assert [row[0] for row in read(raw)[0]] == ["1", "2", "3"]


def test_numbers_as_labels_are_no_ids(raw: Path) -> None:
    write(raw / "labels.csv", "id,label,grade\n1,1,2\n2,1,1\n3,2,2\n")
    assert [row[2] for row in read(raw)[0]] == ["1", "1", "2"]


def test_a_chosen_column_that_names_no_image(raw: Path) -> None:
    write(raw / "labels.csv", "id,file,label\na,1.png,x\nb,2.png,y\nc,3.png,x\n")
    message = refusal(raw, id_column="id", label_column="label")
    assert settings_in(message) == {"id_column": "file"}
    assert len(read(raw, label_column="label", **settings_in(message))[0]) == 3


@pytest.mark.parametrize("rows", ["1.png,a\n2.png,b\n3.png,a\n", "1;a;9\n2;b;8\n3;a;7\n"])
def test_a_missing_header_is_recognised_and_the_command_adds_it(raw: Path, rows: str) -> None:
    path = write(raw / "labels.csv", rows)
    message = refusal(raw)
    assert f"{path} has no header: '{rows[: rows.index('a') - 1]}' in its first row is an image." in message
    subprocess.run(message[message.index("sed -i") :], shell=True, check=True)
    assert [row[2] for row in read(raw)[0]] == ["a", "b", "a"]


def test_a_missing_header_is_recognised_where_a_column_is_named(raw: Path) -> None:
    write(raw / "labels.csv", "1.png,a\n2.png,b\n3.png,a\n")
    assert "has no header: '1.png'" in refusal(raw, id_column="Filename")


def test_a_header_that_is_also_the_name_of_a_listed_image_is_no_data(raw: Path) -> None:
    touch(raw / "train", "id.png")
    write(raw / "labels.csv", "id,label\n1,a\n2,b\n3,a\nid,b\n")
    assert len(read(raw)[0]) == 4


@pytest.mark.parametrize(
    ("ids", "rule"),
    [
        (["1.jpg", "2.jpg", "3.jpg"], "without their extension"),
        (["/kaggle/input/x/train/1.png", "/kaggle/input/x/train/2.png", "/k/3.png"], "without the folders in front"),
        (["001", "002", "003"], "as numbers"),
    ],
)
def test_another_form_of_ids_is_said(raw: Path, ids: list[str], rule: str) -> None:
    write(raw / "labels.csv", "id,label\n" + "".join(f"{name},a\n" for name in ids))
    rows, notes = read(raw)
    assert [row[:2] for row in rows] == [[name, f"train/{n}.png"] for n, name in enumerate(ids, 1)]
    assert f"ids: column 'id' of labels.csv, compared {rule} with the names of files" in notes


def test_where_the_images_are_is_said_if_none_is_found(raw: Path) -> None:
    touch(raw / "images/all", "a.png", "b.png")
    write(raw / "labels.csv", "id,label\na,x\nb,y\n")
    message = refusal(raw)
    assert "ids without an image in train, 2 in all: line 2: 'a'; line 3: 'b'." in message
    assert "train holds 3 images, such as train/1.png. The images of these ids are elsewhere." in message
    assert settings_in(message) == {"train_images": "images/all"}
    assert len(read(raw, **settings_in(message))[0]) == 2


def test_images_of_another_format_are_named(tmp_path: Path) -> None:
    touch(tmp_path / "train", "1.dcm", "2.dcm")
    write(tmp_path / "labels.csv", "id,label\n1,x\n2,y\n")
    assert "train holds no images: 2 .dcm files. This format is not read. Convert them to PNG" in refusal(tmp_path)


# Test images


def of_test(raw: Path, **data: Any) -> tuple[list[list[str]], list[str]]:
    notes: list[str] = []
    settings = DataSettings(**{"sample_submission": "sample.csv", "test_table": "test.csv"} | data)
    return test_set.test_rows(RawData(raw, settings, note=teller(notes)))[0].to_numpy().tolist(), notes


@pytest.mark.parametrize(
    ("table", "sample"),
    [
        ("image\n2.png\n1.png\n", "id,label\n1,x\n2,x\n"),
        ("image\n2\n1\n", "id,label\ntest/1.png,x\ntest/2.png,x\n"),
        ("Width,Id,Path\n9,2,test/2.png\n9,1,test/1.png\n", "Id,ClassId\n1,0\n2,0\n"),
        ("Id,File\nx,2.png\ny,1.png\n", "Id,ClassId\ny,0\nx,0\n"),
        (",image\n0,2.png\n1,1.png\n", ",id,label\n0,1,x\n1,2,x\n"),
    ],
)
def test_the_ids_of_the_sample_are_joined_to_those_of_the_test_table(tmp_path: Path, table: str, sample: str) -> None:
    touch(tmp_path / "test", "1.png", "2.png")
    write(tmp_path / "test.csv", table)
    write(tmp_path / "sample.csv", sample)
    rows, notes = of_test(tmp_path)
    assert [path for _, path in rows] == ["test/2.png", "test/1.png"]
    column = 1 if sample.startswith(",") else 0
    assert [name for name, _ in rows] == [line.split(",")[column] for line in sample.splitlines()[:0:-1]]
    assert any(note.startswith("test ids: column ") for note in notes)


def test_a_sample_that_wants_other_images_is_refused_with_counts(tmp_path: Path) -> None:
    touch(tmp_path / "test", "1.png", "2.png", "3.png")
    write(tmp_path / "test.csv", "id\n1.png\n2.png\n")
    write(tmp_path / "sample.csv", "id,label\n1,x\n2,x\n3,x\n4,x\n")
    with pytest.raises(UserError, match=r"ids that test\.csv has no image for, 2 in all: line 4: '3'; line 5: '4'"):
        of_test(tmp_path)
    with pytest.raises(UserError, match=r"ids without an image in test, 1 in all: line 5: '4'. A submission needs"):
        of_test(tmp_path, test_table="")
    write(tmp_path / "sample.csv", "id,label\n1,x\n2,x\n3,x\n")
    with pytest.raises(UserError, match=r'or set data\.test_table = ""'):
        of_test(tmp_path)
    assert len(of_test(tmp_path, test_table="")[0]) == 3
    write(tmp_path / "sample.csv", "id,label\n1,x\n")
    rows, notes = of_test(tmp_path)
    assert rows == [["1", "test/1.png"], ["2.png", "test/2.png"]]
    assert "note: Images of test.csv that are not in sample.csv, and so not submitted: 1." in notes


def test_ids_of_the_sample_are_looked_up_among_the_listed_images(tmp_path: Path) -> None:
    touch(tmp_path / "test", "a/1.png", "b/1.png", "a/2.png")
    write(tmp_path / "test.csv", "image\na/1.png\na/2.png\n")
    write(tmp_path / "sample.csv", "id,label\n1,x\n2,x\n")
    assert of_test(tmp_path)[0] == [["1", "test/a/1.png"], ["2", "test/a/2.png"]]
    write(tmp_path / "sample.csv", "id,label\n1,x\n2,x\n1.png,x\n")
    with pytest.raises(
        UserError, match=r"sample\.csv: images listed twice, 1 in all: line 4: '1\.png', first on line 2"
    ):
        of_test(tmp_path)


def test_another_separator_of_the_sample_is_said(tmp_path: Path) -> None:
    touch(tmp_path / "test", "1.png")
    write(tmp_path / "sample.csv", "id;label\n1;x\n")
    notes = of_test(tmp_path, test_table="")[1]
    words = "note: sample.csv: semicolons separate its values. The submission will have commas, as Kaggle wants."
    assert words in notes


def test_the_command_in_a_message_quotes_names(tmp_path: Path) -> None:
    touch(tmp_path / "my data/train", "1.png", "2.png")
    path = write(tmp_path / "my data/labels.csv", "1,a\n2,b\n")
    assert shlex.quote(str(path)) in refusal(tmp_path / "my data")


def test_a_sample_whose_ids_are_in_another_column(tmp_path: Path) -> None:
    touch(tmp_path / "test", "1.png", "2.png")
    write(tmp_path / "sample.csv", "label,id\nx,1\ny,2\n")
    with pytest.raises(UserError, match="These are the names in id, but the ids come from label"):
        of_test(tmp_path, test_table="")


def test_an_image_with_several_rows_may_have_several_labels(raw: Path) -> None:
    write(raw / "labels.csv", "id,label\n1,a\n1,b\n2,a\n3,a\n")
    message = refusal(raw)
    assert "images with two different labels, 1 in all: line 3: '1' is 'b', on line 2 it is 'a'" in message
    assert 'if an image may have several labels:\n  [competition]\n  task = "several_labels"\n' in message


def test_a_column_of_flags_for_each_class_gives_the_labels(raw: Path) -> None:
    write(raw / "labels.csv", "id,cat,dog,fox\n1,0,1,0\n2,1.0,0.0,0.0\n3,0,0,1\n")
    rows, notes = read(raw)
    assert [label for _, _, label in rows] == ["dog", "cat", "fox"]
    assert notes == [
        "labels: the one column of labels.csv that is 1 in each row ('cat', 'dog', 'fox')",
        "ids: column 'id' of labels.csv",
    ]


def test_flags_of_several_labels_are_refused_and_one_may_be_chosen(raw: Path) -> None:
    write(raw / "labels.csv", "id,cat,dog\n1,1,1\n2,1,0\n3,0,0\n")
    message = refusal(raw)
    assert "'cat', 'dog' hold only 0 and 1, but 2 of 3 rows have several ones or none, such as line 2, 4" in message
    assert 'data.label_column = "cat"' in message
    assert [label for _, _, label in read(raw, label_column="cat")[0]] == ["1", "1", "0"]


def test_a_column_named_label_is_taken_before_flags(raw: Path) -> None:
    write(raw / "labels.csv", "id,label,is_left\n1,0,1\n2,1,0\n3,0,1\n")
    assert [label for _, _, label in read(raw)[0]] == ["0", "1", "0"]


def test_a_sample_without_header_is_recognised(tmp_path: Path) -> None:
    touch(tmp_path / "test", "1.png", "2.png")
    path = write(tmp_path / "sample.csv", "1,x\n2,x\n")
    with pytest.raises(UserError, match="has no header: '1' in its first row is an image") as caught:
        of_test(tmp_path, test_table="")
    subprocess.run(str(caught.value).partition("above it: ")[2], shell=True, check=True)
    assert path.read_text() == "id,label\n1,x\n2,x\n"
    assert of_test(tmp_path, test_table="")[0] == [["1", "test/1.png"], ["2", "test/2.png"]]


@pytest.mark.parametrize("changed", ["1E+05", "1.23457E+17", "02-Jan", "Mar-04", "1,20E+05"])
def test_ids_that_a_spreadsheet_changed_are_named(raw: Path, changed: str) -> None:
    write(raw / "labels.csv", f'id,label\n1,a\n2,b\n"{changed}",a\n')
    message = refusal(raw)
    assert f"line 4: '{changed}'. '{changed}' look as a spreadsheet rewrites ids" in message
    assert "remove these rows" not in message


def test_images_in_several_folders_are_found_by_the_setting_that_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "train_1/1.png", "train_2/2.png", "test/1.png")
    write(tmp_path / "labels.csv", "id,label\n1,a\n2,b\n")
    assert settings_in(refusal(tmp_path, train_images="train_1")) == {"train_images": "."}
    assert [path for _, path, _ in read(tmp_path, train_images=".")[0]] == ["train_1/1.png", "train_2/2.png"]


def test_a_second_csv_that_may_hold_labels_is_named(raw: Path) -> None:
    write(raw / "labels.csv", "id,label\n1,a\n2,b\n")
    write(raw / "more.csv", "id,label\n3,a\n")
    assert "If 'more.csv' labels them, write all labels into one CSV" in refusal(raw)
