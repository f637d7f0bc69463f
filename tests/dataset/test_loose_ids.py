"""Ids that name files in another form: each rule, and that none of them guesses."""

from pathlib import Path

import pytest

from pipelines.dataset.image_paths import image_files, no_images
from pipelines.dataset.loose_ids import match_ids
from tests.support.raw_files import touch

IMAGES = ["train/1.png", "train/2.JPG", "train/deep/a b.png"]


@pytest.mark.parametrize(
    ("ids", "rule"),
    [
        (["1", "2", "a b"], ""),
        (["1.png", "2", "deep/a b.png"], ""),
        (["1.jpg", "2.jpg", "a b.tif"], "without their extension"),
        (["1.dcm", "2.JPEG", "deep/a b.heic"], "without their extension"),
        (["./1.png", "/train/2.JPG", "train\\deep\\a b.png"], "without their extension"),
        (["'1'", '"2.JPG"', "a b"], "without their extension"),
        (["/kaggle/input/x/train/1.jpg", "../input/train/2.jpg", "a b"], "without the folders in front"),
        (["C:\\data\\1.jpg", "C:\\data\\2.jpg", "C:\\data\\deep\\a b.png"], "without the folders in front"),
        (["1", "2", "A B.PNG"], "without case"),
        (["1", "2", "a%20b"], "with escapes like %20 replaced"),
        (["00001.png", "002", "a b"], "as numbers"),
        (["1.0", "2.0", "a b"], "as numbers"),
    ],
)
def test_each_id_means_one_image(ids: list[str], rule: str) -> None:
    matches = match_ids(ids, IMAGES, "train")
    assert [matches.image(name) for name in ids] == IMAGES
    assert matches.rule == rule


@pytest.mark.parametrize(
    ("ids", "images", "found"),
    [
        (["1.jpg", "9.jpg"], ["train/1.png", "train/2.png"], ["train/1.png", ""]),  # one image is missing
        (["1.jpg"], ["train/1.png", "train/1.bmp"], [""]),  # two may be meant
        (["1.png", "1.jpg"], ["train/1.png"], ["train/1.png", ""]),  # one image for two ids
        (["cat/1.png", "dog/1.png"], ["train/dog/1.png"], ["", "train/dog/1.png"]),  # the other class's
        (["1", "01"], ["train/1.png"], ["train/1.png", ""]),
        (["a", "A"], ["train/a.png"], ["train/a.png", ""]),
    ],
)
def test_no_id_takes_the_image_of_another(ids: list[str], images: list[str], found: list[str]) -> None:
    matches = match_ids(ids, images, "train")
    assert [matches.image(name) for name in ids] == found


def test_files_that_differ_by_case_are_told_apart() -> None:
    images = ["train/A.png", "train/a.png"]
    matches = match_ids(["a.jpg", "A.jpg"], images, "train")
    assert [matches.image(name) for name in ("A.jpg", "a.jpg")] == images


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["1.dcm", "2.dcm"], "holds no images: 2 .dcm files. This format is not read. Convert them to PNG"),
        (["1.HEIC"], "1 .heic files. This format is not read"),
        (["train.zip"], "1 .zip files. Unpack these archives there."),
        (["1", "2"], "2 files without an extension. If these are images, add the extension of their format"),
        (["notes.txt"], "1 .txt files. Set data.train_images to the folder of the images."),
        ([], "no files. Set data.train_images to the folder of the images."),
    ],
)
def test_a_folder_without_images_is_described(tmp_path: Path, names: list[str], message: str) -> None:
    (tmp_path / "train/sub").mkdir(parents=True)
    touch(tmp_path / "train/sub", *names, ".DS_Store")
    assert image_files(tmp_path, "train", "data.train_images") == []
    assert message in no_images(tmp_path, "train", "data.train_images")
