"""Where files of inner archives and of links in a folder go."""

from pathlib import Path
from typing import Any

import pytest

from pipelines.dataset.archive_layout import check_layout
from pipelines.dataset.archives import Unpacked, unpack
from pipelines.settings.data_sections import DataSettings
from pipelines.system.errors import UserError
from tests.support.archives import below, contents, inside, make_tar, make_zip, refused

LABELS = b"id,label\n" + b"".join(b"%d,%s\n" % (number, (b"cat", b"dog")[number % 2]) for number in range(1, 9))
SAMPLE = b"id,label\nt1,cat\n"
TABLES = {"labels.csv": LABELS, "sample_submission.csv": SAMPLE}
TRAIN = {f"{number}.png": b"train %d" % number for number in range(1, 9)}
NAMED = DataSettings(labels="labels.csv", sample_submission="sample_submission.csv")


def unpacked(tmp_path: Path, files: dict[str, bytes], data: DataSettings = NAMED) -> dict[str, bytes]:
    """Return what is in the target after a zip of `files` was unpacked; check the counts."""
    counted = unpack(make_zip(tmp_path / "a.zip", files), tmp_path / "target", data=data)
    found = contents(tmp_path / "target")
    assert counted == Unpacked(len(found), sum(map(len, found.values())))
    return found


def test_flat_inner_archives_get_a_folder_each(tmp_path: Path) -> None:
    """As Kaggle's older competitions have them: images of train and test with the same names."""
    train = inside(tmp_path / "train.zip", TRAIN)
    test = make_tar(tmp_path / "test.tgz", {"1.png": b"test"}).read_bytes()
    expected = {**TABLES, **below("train", TRAIN), "test/1.png": b"test"}
    assert unpacked(tmp_path, {"train.zip": train, "test.tgz": test, **TABLES}) == expected
    files = {"data/train.zip": train, "data/test.tgz": test, **TABLES}
    expected = {**TABLES, **below("data/train", TRAIN), "data/test/1.png": b"test"}
    assert unpacked(tmp_path, files) == expected


def test_the_settings_decide_about_inner_archives(tmp_path: Path) -> None:
    classes = {"cat/1.png": b"1", "dog/1.png": b"2"}
    train, test = inside(tmp_path / "1.zip", classes), inside(tmp_path / "2.zip", below("test", classes))
    found = unpacked(tmp_path, {"train.zip": train, "test.zip": test}, DataSettings())
    assert found == {**below("train", classes), **below("test", classes)}
    other = DataSettings(train_images="cat", test_images="dog")
    assert unpacked(tmp_path, {"train.zip": train}, other) == classes
    twice = DataSettings(train_images="train/train", test_images="test")
    again = inside(tmp_path / "3.zip", below("train", classes))
    assert unpacked(tmp_path, {"train.zip": again}, twice) == below("train/train", classes)
    assert unpacked(tmp_path, {"train.zip": again}) == below("train", classes)
    everything = inside(tmp_path / "4.zip", {**TABLES, **TRAIN})
    assert unpacked(tmp_path, {"all.zip": everything}) == {**TABLES, **TRAIN}  # the settings name labels.csv


def test_tables_are_unpacked_beside_their_archive(tmp_path: Path) -> None:
    labels, sample = inside(tmp_path / "1.zip", {"labels.csv": LABELS}), inside(tmp_path / "2.zip", TABLES)
    assert unpacked(tmp_path, {"labels.csv.zip": labels}) == {"labels.csv": LABELS}
    assert unpacked(tmp_path, {"labels.csv.zip": labels, "tables.zip": sample, "labels.csv": LABELS}) == TABLES


def test_inner_archives_with_one_name_in_common(tmp_path: Path) -> None:
    one, two = inside(tmp_path / "1.zip", {"list.csv": b"1"}), inside(tmp_path / "2.zip", {"list.csv": b"2"})
    assert unpacked(tmp_path, {"one.zip": one, "two.zip": two}) == {"one/list.csv": b"1", "two/list.csv": b"2"}
    refused(make_zip(tmp_path / "a.zip", {"one.zip": one, "list.csv": b"3"}), "one.zip: 'list.csv' would overwrite")


def test_inner_archives_that_fill_one_folder(tmp_path: Path) -> None:
    parts = {f"part{number}.zip": inside(tmp_path / "1.zip", {f"train/{number}.png": b"1"}) for number in range(3)}
    assert unpacked(tmp_path, parts) == {f"train/{number}.png": b"1" for number in range(3)}


def test_an_archive_beside_its_own_files(tmp_path: Path) -> None:
    """A folder in which a person has unpacked train.zip and left it there."""
    for name, content in {**below("train", TRAIN), "train.zip": inside(tmp_path / "train.zip", TRAIN)}.items():
        (tmp_path / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "source" / name).write_bytes(content)
    assert unpack(tmp_path / "source", tmp_path / "target").files == len(TRAIN)
    assert contents(tmp_path / "target") == below("train", TRAIN)
    (tmp_path / "source/train/1.png").write_bytes(b"changed")
    refused(tmp_path / "source", "train.zip: 'train/1.png' would overwrite an existing file.", "sort its files")


def test_a_folder_of_links_is_followed(tmp_path: Path) -> None:
    away = tmp_path / "away"
    (away / "train").mkdir(parents=True)
    (away / "labels.csv").write_bytes(LABELS)
    (away / "train" / "1.png").write_bytes(b"1")
    links = tmp_path / "links"
    (links / "test").mkdir(parents=True)
    (links / "labels.csv").symlink_to(away / "labels.csv")
    (links / "train").symlink_to("../away/train")
    (links / "test" / "2.png").symlink_to("../../away/train/1.png")
    (tmp_path / "link").symlink_to(links)
    for source in (links, tmp_path / "link"):
        assert unpack(source, tmp_path / "target").files == 3
        found = {"labels.csv": LABELS, "train/1.png": b"1", "test/2.png": b"1"}
        assert contents(tmp_path / "target") == found
        assert not any(path.is_symlink() for path in (tmp_path / "target").rglob("*"))
        assert (tmp_path / "target/train/1.png").samefile(away / "train/1.png")


def test_all_broken_links_are_listed(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    for number in range(12):
        (tmp_path / "source" / f"{number:02}.png").symlink_to(f"/nowhere/{number}.png")
    refused(tmp_path / "source", "00.png (a link to /nowhere/0.png) is a broken link; 01.png", "; and 2 more.")


def test_tables_under_either_name_and_several_of_them(tmp_path: Path) -> None:
    """What the settings name may be zipped, or was; and several tables may be joined by a plus."""
    labels = inside(tmp_path / "1.zip", {"labels.csv": LABELS})
    several = inside(tmp_path / "2.zip", {"a.json": b"{}", "b.json": b"{}"})
    names: dict[str, Any] = {"sample_submission": "sample_submission.csv", "labels": "labels.csv.zip+a.json + b.json"}
    data = DataSettings(**names, pixel_columns="pixel*")  # images are rows of a table: there are no folders of them
    files = {"labels.csv.zip": labels, "json.zip": several, "sample_submission.csv": SAMPLE}
    assert set(unpacked(tmp_path, files, data)) == {*TABLES, "a.json", "b.json"}
    check_layout(tmp_path / "target", data, tmp_path / "a.zip")
    (tmp_path / "target/b.json").unlink()
    with pytest.raises(UserError, match=r"data\.labels = 'labels\.csv\.zip\+a\.json \+ b\.json'"):
        check_layout(tmp_path / "target", data, tmp_path / "a.zip")


def test_flat_pieces_of_zips_get_a_folder_each(tmp_path: Path) -> None:
    """Split zips whose images share names: `train.zip.001`, and `test.z01` with `test.zip`."""
    train, test = inside(tmp_path / "1.zip", TRAIN), inside(tmp_path / "2.zip", {"1.png": b"test"})
    half = len(train) // 2
    files = {"train.zip.001": train[:half], "train.zip.002": train[half:], "test.zip": test, **TABLES}
    assert unpacked(tmp_path, files) == {**TABLES, **below("train", TRAIN), "test/1.png": b"test"}
