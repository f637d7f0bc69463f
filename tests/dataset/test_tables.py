"""Reading CSVs and image folders: every rule, and every mistake with its message."""

import unicodedata
from pathlib import Path

import pytest

from pipelines.dataset import tables  # imported by name, pytest would take its test_rows for a test
from pipelines.dataset.tables import files_meant, find_column, image_files, labelled_rows, natural_key, read_csv
from pipelines.settings.schema import DataSettings, SplitSettings
from pipelines.system.errors import UserError

LISTED = DataSettings(labels="labels.csv")
NO_GROUPS = SplitSettings()


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"image")


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def refusal(raw: Path, data: DataSettings = LISTED, split: SplitSettings = NO_GROUPS) -> str:
    """Return the message with which reading test and labelled rows is refused."""
    with pytest.raises(UserError) as caught:
        labelled_rows(raw, data, split, tables.test_rows(raw, data)[0]["path"])
    return str(caught.value)


# CSVs


def test_csv_values_stay_text(tmp_path: Path) -> None:
    table = read_csv(write(tmp_path / "a.csv", "id,label\n007,NA\n1e5,nan\n3,\n"))
    assert table.to_dict("list") == {"id": ["007", "1e5", "3"], "label": ["NA", "nan", ""]}


def test_csv_with_byte_order_mark_crlf_quotes_and_spaces(tmp_path: Path) -> None:
    content = '\ufeff id , label\r\n 1 ,"great dane"\r\n\r\n"2","a, ""b"""\r\n'
    table = read_csv(write(tmp_path / "a.csv", content))
    assert table.to_dict("list") == {"id": ["1", "2"], "label": ["great dane", 'a, "b"']}
    assert list(table.index) == [2, 4]


def test_csv_line_is_where_a_row_starts(tmp_path: Path) -> None:
    table = read_csv(write(tmp_path / "a.csv", 'id,label\n1,"two\nlines"\n2,b\n'))
    assert list(table.index) == [2, 4]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b"id,label\n", "has a header but no rows"),
        (b"id,label\n1,a\n2,caf\xe9\n", "line 3: byte 0xe9 is not UTF-8"),
        (b"id,label\n1,a\n2\n", "line 3: 1 values for 2 columns"),
        (b"id,label\n1,a,b\n", "line 2: 3 values for 2 columns"),
        (b'id,label\n1,"a\n2,b\n', "line 2: not valid CSV"),
        (b"id,id\n1,a\n", "line 1: two columns are named 'id'"),
    ],
)
def test_csv_mistakes_name_file_and_line(tmp_path: Path, content: bytes, expected: str) -> None:
    path = write(tmp_path / "a.csv", content)
    with pytest.raises(UserError) as caught:
        read_csv(path)
    assert str(path) in str(caught.value)
    assert expected in str(caught.value)


def test_missing_csv(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"There is no file .*a\.csv"):
        read_csv(tmp_path / "a.csv")


def test_find_column(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "id,breed\n1,a\n")
    table = read_csv(path)
    assert find_column(table, path, "", 1).name == "breed"
    assert find_column(table, path, "id", 1).name == "id"
    with pytest.raises(UserError, match=r"no column 'bred'\. Did you mean 'breed'\? It has: id, breed"):
        find_column(table, path, "bred", 1)
    with pytest.raises(UserError, match="no column number 3"):
        find_column(table, path, "", 2)


# Images


def test_natural_order() -> None:
    names = ["10.png", "9.png", "a2", "a10", "1/10", "1/9", "01", "1", ""]
    assert sorted(names, key=natural_key) == ["", "01", "1", "1/9", "1/10", "9.png", "10.png", "a2", "a10"]


def test_images_of_any_extension_but_no_hidden_or_other_files(tmp_path: Path) -> None:
    shown = ["a.png", "b.JPG", "c/d.Jpeg", "c/e.bmp", "f.gif", "g.webp", "h.tif", "i.TIFF"]
    touch(tmp_path / "train", *shown, ".hidden.png", ".folder/x.png", "notes.txt", "__MACOSX/._a.png")
    assert image_files(tmp_path, "train/", "data.train_images") == sorted(f"train/{name}" for name in shown)
    assert image_files(tmp_path, ".", "data.train_images") == sorted(f"train/{name}" for name in shown)


def test_symbolic_links_inside_raw(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere", "1.png")
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/train").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/2.png").symlink_to("1.png")
    assert image_files(tmp_path / "raw", "train", "") == ["train/1.png", "train/2.png"]
    (tmp_path / "elsewhere/3.png").symlink_to("gone.png")
    with pytest.raises(UserError, match=r"3\.png is a link that leads nowhere"):
        image_files(tmp_path / "raw", "train", "")


def test_missing_folder_names_the_setting_and_the_folders_there_are(tmp_path: Path) -> None:
    touch(tmp_path, "trian/1.png")
    with pytest.raises(UserError, match=r"data\.train_images names\. Did you mean 'trian'\? .*folders: trian"):
        image_files(tmp_path, "train", "data.train_images")


def test_file_name_that_is_not_utf8(tmp_path: Path) -> None:
    try:
        touch(tmp_path / "train", "caf\udce9.png")
    except OSError:
        pytest.skip("this file system takes no such name")
    with pytest.raises(UserError, match="is not UTF-8"):
        image_files(tmp_path, "train", "")


def test_an_id_is_a_path_else_a_name_else_a_stem() -> None:
    images = ["images/0.jpg", "images/images/0.jpg", "images/sub/7.png", "images/x.y.png"]
    ids = ["images/0.jpg", "0.jpg", "sub/7.png", "7.png", "7", "images/sub/7", "x.y", "none"]
    found = files_meant(ids, images, "images")
    assert found["images/0.jpg"] == ["images/0.jpg"]
    assert found["0.jpg"] == ["images/0.jpg"]
    assert {name: found[name] for name in ids[2:6]} == {name: ["images/sub/7.png"] for name in ids[2:6]}
    assert found["x.y"] == ["images/x.y.png"]
    assert "none" not in found


def test_ids_and_names_meet_in_any_unicode_form() -> None:
    composed, decomposed = (unicodedata.normalize(form, "bär") for form in ("NFC", "NFD"))
    assert files_meant([composed], [f"train/{decomposed}.png"], "train") == {composed: [f"train/{decomposed}.png"]}
    assert files_meant([decomposed], [f"train/{composed}.png"], "train") == {composed: [f"train/{composed}.png"]}


# Labelled rows


def test_rows_keep_the_order_of_the_csv(tmp_path: Path) -> None:
    touch(tmp_path / "train", *(f"{number}.png" for number in range(1, 13)))
    order = [10, 2, 1, 12, 3, 4, 5, 6, 7, 8, 9, 11]
    write(tmp_path / "labels.csv", "id,label\n" + "".join(f"{number},c\n" for number in order))
    rows = labelled_rows(tmp_path, LISTED, SplitSettings())
    assert list(rows.columns) == ["id", "path", "label", "group"]
    assert list(rows["id"]) == [str(number) for number in order]
    assert list(rows["path"]) == [f"train/{number}.png" for number in order]
    assert set(rows["group"]) == {""}


def test_columns_by_name_and_groups(tmp_path: Path) -> None:
    touch(tmp_path / "train", "1.png", "2.png")
    write(tmp_path / "labels.csv", "patient,label,image\np,a,1\nq,b,2\n")
    data = DataSettings(labels="labels.csv", id_column="image", label_column="label")
    rows = labelled_rows(tmp_path, data, SplitSettings(group_column="patient"))
    assert rows.to_numpy().tolist() == [["1", "train/1.png", "a", "p"], ["2", "train/2.png", "b", "q"]]


def test_class_folders(tmp_path: Path) -> None:
    touch(tmp_path / "train", "b c/10.png", "b c/9.png", "a/deep/1.jpg", "a/1.jpg")
    rows = labelled_rows(tmp_path, DataSettings(), SplitSettings())
    assert list(rows["id"]) == ["a/1.jpg", "a/deep/1.jpg", "b c/9.png", "b c/10.png"]
    assert list(rows["label"]) == ["a", "a", "b c", "b c"]
    assert rows["path"][2] == "train/b c/9.png"


def test_classify_leaves_keeps_all_images_in_one_folder(tmp_path: Path) -> None:
    touch(tmp_path / "images", "0.jpg", "1.jpg", "2.jpg", "10.jpg")
    write(tmp_path / "train.csv", "image,label\nimages/0.jpg,maple\nimages/1.jpg,oak\n")
    write(tmp_path / "test.csv", "image\nimages/10.jpg\nimages/2.jpg\n")
    data = DataSettings(labels="train.csv", test_table="test.csv", train_images="images", test_images="images")
    test, unlisted = tables.test_rows(tmp_path, data)
    rows = labelled_rows(tmp_path, data, SplitSettings(), test["path"])
    assert list(rows["id"]) == ["images/0.jpg", "images/1.jpg"]
    assert (list(test["id"]), unlisted) == (["images/10.jpg", "images/2.jpg"], 0)
    touch(tmp_path / "images", "3.jpg")
    message = refusal(tmp_path, data)
    assert "images without a label in train.csv, 1 in all: images/3.jpg" in message
    assert "data.test_table" in message


@pytest.mark.parametrize(
    ("csv", "expected"),
    [
        (
            "1,a\n2,b\n9,a\n8,a\n7,a\n6,a\n",
            ["ids without an image in train, 4 in all", "line 4: '9'", "line 6: '7'; …"],
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
    assert "both data.id_column" in refusal(tmp_path, DataSettings(labels="labels.csv", id_column="label"))


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
    write(tmp_path / "sample.csv", "id,label\n2,x\n1,x\n10,x\n")
    rows, unlisted = tables.test_rows(tmp_path, DataSettings(test_table="test.csv", sample_submission="sample.csv"))
    assert (list(rows["id"]), list(rows["path"]), unlisted) == (["10", "2"], ["test/10.png", "test/2.png"], 2)
    rows, unlisted = tables.test_rows(tmp_path, DataSettings(sample_submission="sample.csv"))
    assert (list(rows["id"]), unlisted) == (["2", "1", "10"], 1)
    rows, unlisted = tables.test_rows(tmp_path, DataSettings())
    assert (list(rows["id"]), unlisted) == (["1", "2", "10", "sub/4.png"], 0)


def test_no_test_images(tmp_path: Path) -> None:
    rows, unlisted = tables.test_rows(tmp_path, DataSettings())
    assert (list(rows.columns), len(rows), unlisted) == (["id", "path"], 0, 0)


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


def test_a_csv_that_is_no_file(tmp_path: Path) -> None:
    for path in (tmp_path, write(tmp_path / "a.csv", "id,label\n1,cat\n") / "b.csv", tmp_path / ("a" * 300)):
        with pytest.raises(UserError, match="is not a file that can be read"):
            read_csv(path)


def test_names_with_line_ends_do_not_break_a_message(tmp_path: Path) -> None:
    touch(tmp_path, "train/a\nb.png", "train/1.png", "more\nimages/2.png")
    write(tmp_path / "labels.csv", 'id,"la\nbel"\n1,cat\n')
    assert "a\\nb.png" in refusal(tmp_path)
    assert "more\\nimages" in refusal(tmp_path, DataSettings(labels="labels.csv", train_images="absent"))
    assert "la\\nbel" in refusal(tmp_path, DataSettings(labels="labels.csv", label_column="label"))
