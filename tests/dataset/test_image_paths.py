"""Finding image files and matching ids with them."""

import unicodedata
from pathlib import Path

import pytest

from pipelines.dataset.image_paths import image_files, images_by_id, natural_key
from pipelines.system.errors import UserError
from tests.support.raw_files import touch


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
    with pytest.raises(UserError, match=r"broken links, 1 in all: train/3\.png"):
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
    with pytest.raises(UserError, match="are not UTF-8, 1 in all"):
        image_files(tmp_path, "train", "")


def test_an_id_is_a_path_else_a_name_else_a_stem() -> None:
    images = ["images/0.jpg", "images/images/0.jpg", "images/sub/7.png", "images/x.y.png"]
    ids = ["images/0.jpg", "0.jpg", "sub/7.png", "7.png", "7", "images/sub/7", "x.y", "none"]
    found = images_by_id(ids, images, "images")
    assert found["images/0.jpg"] == ["images/0.jpg"]
    assert found["0.jpg"] == ["images/0.jpg"]
    assert {name: found[name] for name in ids[2:6]} == {name: ["images/sub/7.png"] for name in ids[2:6]}
    assert found["x.y"] == ["images/x.y.png"]
    assert "none" not in found


def test_ids_and_names_meet_in_any_unicode_form() -> None:
    composed, decomposed = (unicodedata.normalize(form, "bär") for form in ("NFC", "NFD"))
    assert images_by_id([composed], [f"train/{decomposed}.png"], "train") == {composed: [f"train/{decomposed}.png"]}
    assert images_by_id([decomposed], [f"train/{composed}.png"], "train") == {composed: [f"train/{composed}.png"]}
