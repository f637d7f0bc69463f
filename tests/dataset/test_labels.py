"""Labelled rows and test rows: every rule, and every mistake with its message."""

from pathlib import Path

import pytest

from pipelines.dataset import test_set  # pytest would collect test_rows if it were imported by name
from pipelines.dataset.labels import labelled_rows
from pipelines.dataset.raw_data import RawData
from pipelines.settings.data_sections import DataSettings, SplitSettings
from pipelines.system.errors import UserError
from tests.support.raw_files import touch, write

LISTED = DataSettings(labels="labels.csv")
NO_GROUPS = SplitSettings()


def refusal(raw: Path, data: DataSettings = LISTED, split: SplitSettings = NO_GROUPS) -> str:
    """Return the message of the error that reading test and labelled rows raises."""
    with pytest.raises(UserError) as caught:
        source = RawData(raw, data, split)
        labelled_rows(source, test_set.test_rows(source)[0]["path"])
    return str(caught.value)


# Labelled rows


def test_rows_keep_the_order_of_the_csv(tmp_path: Path) -> None:
    touch(tmp_path / "train", *(f"{number}.png" for number in range(1, 13)))
    order = [10, 2, 1, 12, 3, 4, 5, 6, 7, 8, 9, 11]
    write(tmp_path / "labels.csv", "id,label\n" + "".join(f"{number},c\n" for number in order))
    rows = labelled_rows(RawData(tmp_path, LISTED))
    assert list(rows.columns) == ["id", "path", "label", "group"]
    assert list(rows["id"]) == [str(number) for number in order]
    assert list(rows["path"]) == [f"train/{number}.png" for number in order]
    assert set(rows["group"]) == {""}


def test_columns_by_name_and_groups(tmp_path: Path) -> None:
    touch(tmp_path / "train", "1.png", "2.png")
    write(tmp_path / "labels.csv", "patient,label,image\np,a,1\nq,b,2\n")
    data = DataSettings(labels="labels.csv", id_column="image", label_column="label")
    rows = labelled_rows(RawData(tmp_path, data, SplitSettings(group_column="patient")))
    assert rows.to_numpy().tolist() == [["1", "train/1.png", "a", "p"], ["2", "train/2.png", "b", "q"]]


def test_class_folders(tmp_path: Path) -> None:
    touch(tmp_path / "train", "b c/10.png", "b c/9.png", "a/deep/1.jpg", "a/1.jpg")
    rows = labelled_rows(RawData(tmp_path, DataSettings()))
    assert list(rows["id"]) == ["a/1.jpg", "a/deep/1.jpg", "b c/9.png", "b c/10.png"]
    assert list(rows["label"]) == ["a", "a", "b c", "b c"]
    assert rows["path"][2] == "train/b c/9.png"


def test_classify_leaves_keeps_all_images_in_one_folder(tmp_path: Path) -> None:
    touch(tmp_path / "images", "0.jpg", "1.jpg", "2.jpg", "10.jpg")
    write(tmp_path / "train.csv", "image,label\nimages/0.jpg,maple\nimages/1.jpg,oak\n")
    write(tmp_path / "test.csv", "image\nimages/10.jpg\nimages/2.jpg\n")
    data = DataSettings(labels="train.csv", test_table="test.csv", train_images="images", test_images="images")
    source = RawData(tmp_path, data)
    test, unlisted = test_set.test_rows(source)
    rows = labelled_rows(source, test["path"])
    assert list(rows["id"]) == ["images/0.jpg", "images/1.jpg"]
    assert (list(test["id"]), unlisted) == (["images/10.jpg", "images/2.jpg"], 0)
    touch(tmp_path / "images", "3.jpg")
    message = refusal(tmp_path, data)
    assert "images without a label in train.csv, 1 in all: images/3.jpg" in message
    assert "data.test_table" in message


def test_ids_of_which_none_is_an_image(tmp_path: Path) -> None:
    touch(tmp_path / "train", "1.png")
    write(tmp_path / "labels.csv", "id,label\n" + "".join(f"x{number},a\n" for number in range(40)))
    message = refusal(tmp_path)
    assert "ids without an image in train, 40 in all: line 2: 'x0'; " in message
    assert "line 11: 'x9'; …. " in message
    assert "train holds 1 images, such as train/1.png. No id names one. Set data.train_images to" in message


@pytest.mark.parametrize(
    ("csv", "expected"),
    [
        (
            "1,a\n2,b\n9,a\n8,a\n7,a\n6,a\n",
            [
                "ids without an image in train, 4 in all",
                "line 4: '9'",
                "train holds 2 images, such as train/1.png. Put",
            ],
        ),
        ("1,a\n", ["images without a label in labels.csv, 1 in all: train/2.png"]),
        ("1,a\n2,b\n1.png,a\n", ["images listed twice, 1 in all: line 4: '1.png', first on line 2"]),
        ("1,a\n2,b\n1,b\n", ["images with two different labels", "line 4: '1' is 'b', on line 2 it is 'a'"]),
        ("1,a\n2, \n", ["rows with an empty label, 1 in all: line 3"]),
        (" ,a\n2,b\n", ["rows with an empty id, 1 in all: line 2"]),
    ],
)
def test_mistakes_in_labels_name_file_and_line(tmp_path: Path, csv: str, expected: list[str]) -> None:
    touch(tmp_path / "train", "1.png", "2.png")
    path = write(tmp_path / "labels.csv", "id,label\n" + csv)
    message = refusal(tmp_path)
    assert all(text in message for text in expected), message
    assert str(path) in message or "without a label" in message


def test_ambiguous_id_names_both_files(tmp_path: Path) -> None:
    touch(tmp_path / "train", "a.png", "a.jpg")
    write(tmp_path / "labels.csv", "id,label\na,cat\n")
    assert "line 2: 'a' may be train/a.jpg or train/a.png" in refusal(tmp_path)


def test_missing_labels_csv_and_columns(tmp_path: Path) -> None:
    touch(tmp_path / "train", "1.png")
    write(tmp_path / "label.csv", "id\n1\n")
    message = refusal(tmp_path)
    assert "labels.csv, which data.labels names. Did you mean 'label.csv'?" in message
    assert "no column number 2" in refusal(tmp_path, DataSettings(labels="label.csv"))
    write(tmp_path / "labels.csv", "id,label\n1,a\n")
    assert "no column 'breed'" in refusal(tmp_path, DataSettings(labels="labels.csv", label_column="breed"))
    message = refusal(tmp_path, DataSettings(labels="labels.csv", id_column="label"))
    assert "column label does not name an image" in message
    assert 'Set data.id_column = "id".' in message


def test_empty_group(tmp_path: Path) -> None:
    touch(tmp_path / "train", "1.png", "2.png")
    write(tmp_path / "labels.csv", "id,label,g\n1,a,p\n2,b,\n")
    message = refusal(tmp_path, split=SplitSettings(group_column="g"))
    assert "rows with an empty group (column 'g'), 1 in all: line 3" in message


def test_mistakes_in_class_folders(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    assert "holds no images" in refusal(tmp_path, DataSettings())
    touch(tmp_path / "train", "a/1.png", "2.png")
    assert "images beside the class folders, 1 in all: 2.png" in refusal(tmp_path, DataSettings())
    assert "names no CSV" in refusal(tmp_path, DataSettings(), SplitSettings(group_column="g"))


# Test rows


def test_test_ids_come_from_the_table_else_the_sample_else_the_folder(tmp_path: Path) -> None:
    touch(tmp_path / "test", "1.png", "2.png", "10.png", "sub/4.png")
    write(tmp_path / "test.csv", "id\n10\n2\n")
    write(tmp_path / "sample.csv", "id,label\n2,x\n10,x\n")
    both = DataSettings(test_table="test.csv", sample_submission="sample.csv")
    rows, unlisted = test_set.test_rows(RawData(tmp_path, both))
    assert (list(rows["id"]), list(rows["path"]), unlisted) == (["10", "2"], ["test/10.png", "test/2.png"], 2)
    write(tmp_path / "sample.csv", "id,label\n2,x\n1,x\n10,x\n")
    rows, unlisted = test_set.test_rows(RawData(tmp_path, DataSettings(sample_submission="sample.csv")))
    assert (list(rows["id"]), unlisted) == (["2", "1", "10"], 1)
    rows, unlisted = test_set.test_rows(RawData(tmp_path, DataSettings()))
    assert (list(rows["id"]), unlisted) == (["1", "2", "10", "sub/4.png"], 0)


def test_no_test_images(tmp_path: Path) -> None:
    rows, unlisted = test_set.test_rows(RawData(tmp_path, DataSettings()))
    assert (list(rows.columns), len(rows), unlisted) == (["id", "path"], 0, 0)


def test_labelled_images_at_the_top_without_test_images(tmp_path: Path) -> None:
    write(tmp_path / "labels.csv", "id,label\n1,cat\n2,dog\n")
    touch(tmp_path, "1.png", "2.png")
    data = DataSettings(labels="labels.csv", train_images=".", test_images="")
    assert test_set.test_rows(RawData(tmp_path, data))[0].empty
    assert labelled_rows(RawData(tmp_path, data))["path"].tolist() == ["1.png", "2.png"]


def test_mistakes_in_the_test_listing(tmp_path: Path) -> None:
    touch(tmp_path / "train", "1.png")
    write(tmp_path / "labels.csv", "id,label\n1,a\n")
    data = DataSettings(labels="labels.csv", sample_submission="sample.csv")
    assert "which data.test_images names" in refusal(tmp_path, data)
    touch(tmp_path / "test", "2.png", "2.jpg", "3.png")
    assert "which data.sample_submission names" in refusal(tmp_path, data)
    assert "two images for one id, 1 in all: 2" in refusal(tmp_path)
    for content, expected in (
        ("3\n4\n", "ids without an image in test, 1 in all: line 3: '4'"),
        ("3\n3.png\n", "images listed twice, 1 in all: line 3: '3.png', first on line 2"),
        ('3\n""\n', "rows with an empty id, 1 in all: line 3"),
        ("2\n", "'2' may be test/2.jpg or test/2.png"),
    ):
        write(tmp_path / "sample.csv", "id\n" + content)
        assert expected in refusal(tmp_path, data)


def test_an_image_cannot_be_labelled_and_in_the_test_set(tmp_path: Path) -> None:
    touch(tmp_path / "images", "1.png", "2.png")
    write(tmp_path / "labels.csv", "id,label\n1,a\n")
    write(tmp_path / "test.csv", "id\nimages/1.png\n2\n")
    data = DataSettings(labels="labels.csv", test_table="test.csv", train_images="images", test_images="images")
    assert "images both labelled and in the test set, 1 in all: images/1.png" in refusal(tmp_path, data)


def test_names_with_line_ends_do_not_break_a_message(tmp_path: Path) -> None:
    touch(tmp_path, "train/a\nb.png", "train/1.png", "more\nimages/2.png")
    write(tmp_path / "labels.csv", 'id,"la\nbel"\n1,cat\n')
    assert "a\\nb.png" in refusal(tmp_path)
    assert "more\\nimages" in refusal(tmp_path, DataSettings(labels="labels.csv", train_images="absent"))
    assert "la\\nbel" in refusal(tmp_path, DataSettings(labels="labels.csv", label_column="label"))
