"""The tree of links: names valid on any file system, copies only where links are impossible."""

import csv
import errno
import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from pipelines.dataset import tree
from pipelines.dataset.tree import COPY, HARD_LINK, SYMBOLIC_LINK, folder_names
from pipelines.system import files


def make(raw: Path, *rows: tuple[str, str, str]) -> pd.DataFrame:
    """Write a file that contains its path for each row (path, label, split); return the rows of a split."""
    for path, _, _ in rows:
        (raw / path).parent.mkdir(parents=True, exist_ok=True)
        (raw / path).write_text(path)
    return pd.DataFrame(rows, columns=["path", "label", "split"], dtype=str)


def entries(root: Path) -> dict[str, str]:
    """Return {path below `root`: content} of all files except classes.csv."""
    found = (Path(folder) / name for folder, _, names in os.walk(root) for name in names if name != "classes.csv")
    return {path.relative_to(root).as_posix(): path.read_text() for path in found}


ROWS = (("train/1.png", "cat", "train"), ("train/2.png", "dog", "valid"), ("test/1.png", "", "test"))
EXPECTED = {
    "train/cat/1.png": "train/1.png",
    "valid/dog/2.png": "train/2.png",
    "train_valid/cat/1.png": "train/1.png",
    "train_valid/dog/2.png": "train/2.png",
    "test/unknown/1.png": "test/1.png",
}


def test_hard_links_as_the_textbook_lays_them_out(tmp_path: Path) -> None:
    rows = make(tmp_path / "raw", *ROWS)
    assert tree.build(tmp_path / "tree", tmp_path / "raw", rows) == {HARD_LINK: 5}
    assert entries(tmp_path / "tree") == EXPECTED
    assert (tmp_path / "tree/train_valid/cat/1.png").samefile(tmp_path / "raw/train/1.png")
    assert (tmp_path / "tree/classes.csv").read_text() == "folder,label\ncat,cat\ndog,dog\n"


@pytest.mark.parametrize("task", ["several_labels", "numbers"])
def test_without_classes_each_part_has_one_folder(tmp_path: Path, task: str) -> None:
    rows = make(tmp_path / "raw", ("a/1.png", "cat|dog", "train"), ("b/1.png", "", "valid"), ("test/1.png", "", "test"))
    assert tree.build(tmp_path / "tree", tmp_path / "raw", rows, task) == {HARD_LINK: 5}
    assert entries(tmp_path / "tree") == {
        "train/images/1.png": "a/1.png",
        "valid/images/b_1.png": "b/1.png",
        "train_valid/images/1.png": "a/1.png",
        "train_valid/images/b_1.png": "b/1.png",
        "test/images/1.png": "test/1.png",
    }
    assert not (tmp_path / "tree/classes.csv").exists()


def test_images_beside_the_raw_folder_are_linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = make(tmp_path / "data/c/raw", ("../images/train/1.png", "cat", "train"), ("2.png", "cat", "valid"))
    expected = {"train/cat/1.png": "../images/train/1.png", "valid/cat/2.png": "2.png"}
    (tmp_path / "data/c/raw").rename(tmp_path / "elsewhere")
    (tmp_path / "data/c/raw").symlink_to(tmp_path / "elsewhere")
    for kind in (HARD_LINK, SYMBOLIC_LINK):
        assert set(tree.build(tmp_path / "data/c/tree", tmp_path / "data/c/raw", rows)) == {kind}
        found = entries(tmp_path / "data/c/tree")
        assert {name: text for name, text in found.items() if not name.startswith("train_valid/")} == expected
        monkeypatch.setattr(os, "link", refuse(errno.EXDEV))


def test_a_second_tree_replaces_the_first(tmp_path: Path) -> None:
    rows = make(tmp_path / "raw", *ROWS)
    tree.build(tmp_path / "tree", tmp_path / "raw", rows[:1])
    tree.build(tmp_path / "tree", tmp_path / "raw", rows)
    assert entries(tmp_path / "tree") == EXPECTED
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw", "tree"]


def refuse(number: int) -> Any:
    def call(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return call


def test_symbolic_links_where_hard_ones_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = make(tmp_path / "data/raw", *ROWS)
    monkeypatch.setattr(os, "link", refuse(errno.EXDEV))
    assert tree.build(tmp_path / "data/tree", tmp_path / "data/raw", rows) == {SYMBOLIC_LINK: 5}
    (tmp_path / "data").rename(tmp_path / "moved")
    assert entries(tmp_path / "moved/tree") == EXPECTED


def test_copies_where_no_link_can_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = make(tmp_path / "raw", *ROWS)
    monkeypatch.setattr(os, "link", refuse(errno.EPERM))
    monkeypatch.setattr(os, "symlink", refuse(errno.EPERM))
    assert tree.build(tmp_path / "tree", tmp_path / "raw", rows) == {COPY: 5}
    assert entries(tmp_path / "tree") == EXPECTED
    assert not (tmp_path / "tree/train/cat/1.png").samefile(tmp_path / "raw/train/1.png")


def test_a_full_disk_leaves_no_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = make(tmp_path / "raw", *ROWS)
    monkeypatch.setattr(os, "link", refuse(errno.ENOSPC))
    with pytest.raises(OSError, match="No space"):
        tree.build(tmp_path / "tree", tmp_path / "raw", rows)
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_another_device(tmp_path: Path) -> None:
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK) or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("/dev/shm is missing or the same device as the temporary folder")
    with tempfile.TemporaryDirectory(dir=memory) as raw:
        assert tree.build(tmp_path / "tree", Path(raw), make(Path(raw), *ROWS)) == {SYMBOLIC_LINK: 5}
        assert entries(tmp_path / "tree") == EXPECTED


def test_a_symbolic_link_in_raw_is_followed(tmp_path: Path) -> None:
    rows = make(tmp_path / "raw", *ROWS)
    (tmp_path / "raw/train/1.png").rename(tmp_path / "raw/kept.png")
    (tmp_path / "raw/train/1.png").symlink_to("../kept.png")
    tree.build(tmp_path / "tree", tmp_path / "raw", rows)
    assert entries(tmp_path / "tree") == EXPECTED


def test_files_of_one_name_do_not_collide(tmp_path: Path) -> None:
    paths = ["train/a/1.png", "train/b/1.png", "train/b/1.PNG", "train_b_1.png", f"train/{'x' * 251}.png"]
    rows = make(tmp_path / "raw", *((path, "cat", "train") for path in (*paths, f"train/a/{'x' * 251}.png")))
    tree.build(tmp_path / "tree", tmp_path / "raw", rows)
    found = entries(tmp_path / "tree/train/cat")
    assert sorted(found.values()) == sorted(rows["path"])
    assert found["1.png"] == "train/a/1.png" or found["1.PNG"] == "train/b/1.PNG"
    assert len({name.casefold() for name in found}) == 6
    assert found == entries(tmp_path / "tree/train_valid/cat")


def test_class_names_become_safe_folder_names() -> None:
    labels = ["Great Dane", "Straße", "a/b", "a\\b", "CON", "nul.txt", ".hidden", "..", "end.", "tab\t", "<?>", "NA"]
    names = folder_names(labels)
    assert [names[label] for label in ("Great Dane", "Straße", "NA")] == ["Great Dane", "Straße", "NA"]
    assert names["a/b"] == "a_b"
    assert names["a\\b"] == "a_b-2"
    assert [names[label] for label in ("CON", "nul.txt", ".hidden", "..", "end.", "tab\t", "<?>")] == [
        "_CON", "_nul.txt", "_hidden", "__", "end_", "tab_", "___",
    ]  # fmt: skip


def test_names_that_differ_by_case_or_unicode_form_alone_are_numbered() -> None:
    names = folder_names(["Cat", "cat", "CAT", "b\u00e4r", "ba\u0308r"])
    assert len({name.casefold() for name in names.values()}) == 5
    assert (names["CAT"], names["Cat"], names["cat"]) == ("CAT", "Cat-2", "cat-3")


def test_long_names_are_cut_between_letters() -> None:
    names = folder_names(["犬" * 100, "犬" * 101, "a" * 300])
    assert len(set(names.values())) == 3
    assert all(len(name.encode()) <= 255 for name in names.values())
    assert names["犬" * 100] == "犬" * 66


def test_image_folder_reads_the_tree_with_the_same_numbers_everywhere(tmp_path: Path) -> None:
    labels = ["two words", "a/b", "CON", ".x"]
    rows = [(f"train/{number}.png", label, "train") for number, label in enumerate(labels)]
    rows += [("train/9.png", "CON", "valid"), ("test/1.png", "", "test")]
    table = make(tmp_path / "raw", *rows)
    for path in table["path"]:
        Image.new("RGB", (2, 2)).save(tmp_path / "raw" / path)
    tree.build(tmp_path / "tree", tmp_path / "raw", table)
    train, valid = (ImageFolder(tmp_path / "tree" / part, allow_empty=True) for part in ("train", "valid"))
    assert train.class_to_idx == valid.class_to_idx
    assert (len(train), len(valid), len(ImageFolder(tmp_path / "tree/test"))) == (4, 1, 1)
    with open(tmp_path / "tree/classes.csv", encoding="utf-8", newline="") as file:
        label_of = {row["folder"]: row["label"] for row in csv.DictReader(file)}
    assert {label_of[name] for name in train.classes} == set(labels)


def test_a_folder_with_too_many_entries_has_numbered_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MOST_IN_FOLDER", 2)
    parts = {"train": 3, "valid": 2, "test": 5}
    rows = [
        (f"{part}/{number}.png", "" if part == "test" else "cat", part)
        for part in parts
        for number in range(parts[part])
    ]
    table = make(tmp_path / "raw", *rows, ("train/dog.png", "dog", "train"))
    for path in table["path"]:
        Image.new("RGB", (2, 2)).save(tmp_path / "raw" / path)
    assert tree.build(tmp_path / "tree", tmp_path / "raw", table) == {HARD_LINK: 2 * 6 + 5}
    found = [path.relative_to(tmp_path / "tree").as_posix() for path in (tmp_path / "tree").rglob("*.png")]
    holding = Counter(path.rpartition("/")[0] for path in found)
    assert holding == {
        "train/cat/0": 2, "train/cat/1": 1, "train/dog": 1, "valid/cat": 2, "train_valid/cat/0": 2,
        "train_valid/cat/1": 2, "train_valid/cat/2": 1, "train_valid/dog": 1,
        "test/unknown/0": 2, "test/unknown/1": 2, "test/unknown/2": 1,
    }  # fmt: skip
    train, valid = (ImageFolder(tmp_path / "tree" / part, allow_empty=True) for part in ("train", "valid"))
    assert train.classes == valid.classes == ["cat", "dog"]
    assert Counter(train.targets) == {0: 3, 1: 1} and len(ImageFolder(tmp_path / "tree/test")) == 5


def test_links_in_numbered_folders_lead_to_the_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MOST_IN_FOLDER", 1)
    monkeypatch.setattr(os, "link", refuse(errno.EXDEV))
    rows = make(tmp_path / "raw", ("a/1.png", "cat", "train"), ("b/1.png", "cat", "train"))
    tree.build(tmp_path / "tree", tmp_path / "raw", rows)
    found = entries(tmp_path / "tree")
    assert found["train/cat/0/1.png"] == "a/1.png" and found["train/cat/1/b_1.png"] == "b/1.png"
