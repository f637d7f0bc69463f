"""The class of an image from its folder: accepted layouts, and folders that are no classes."""

from pathlib import Path

import pytest

from pipelines.dataset.labels import labelled_rows
from pipelines.dataset.raw_data import RawData
from pipelines.dataset.split_record import list_images
from pipelines.settings.data_sections import DataSettings
from pipelines.settings.loading import merge, parse_overrides
from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError
from tests.support.raw_files import touch


def labels(raw: Path, *overrides: str) -> dict[str, str]:
    """Return {path: label} of the class folders below `raw`, with settings as a message writes them."""
    data = merge(Settings("x"), parse_overrides([line.replace(" = ", "=") for line in overrides]), "here").data
    rows = labelled_rows(RawData(raw, data))
    return dict(zip(rows["path"], rows["label"], strict=True))


def refusal(raw: Path, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        labels(raw, *overrides)
    return str(caught.value)


def test_a_folder_too_many_is_named_and_the_setting_that_the_message_gives_works(tmp_path: Path) -> None:
    touch(tmp_path / "train/train", "cat/1.png", "dog/1.png", "fox/1.png")
    message = refusal(tmp_path)
    assert "holds a single folder, train, which holds only folders: 'cat', 'dog', 'fox'" in message
    assert 'data.train_images = "train/train"' in message
    assert set(labels(tmp_path, 'data.train_images = "train/train"').values()) == {"cat", "dog", "fox"}
    assert 'data.accept = ["class_folders"]' in message
    assert set(labels(tmp_path, 'data.accept = ["class_folders"]').values()) == {"train"}


def test_several_folders_too_many_are_named_at_once(tmp_path: Path) -> None:
    touch(tmp_path / "train/a b/data", "cat/1.png", "dog/1.png")
    assert 'data.train_images = "train/a b/data"' in refusal(tmp_path)


@pytest.mark.parametrize("names", ["train valid test", "Training Testing", "train val", "TRAIN test holdout"])
def test_parts_of_a_split_are_no_classes(tmp_path: Path, names: str) -> None:
    first, *others = names.split()
    touch(tmp_path / "images", *(f"{name}/{label}/1.png" for name in names.split() for label in ("cat", "dog")))
    message = refusal(tmp_path, "data.train_images = images", "data.test_images = absent")
    assert f"In {first} are 'cat', 'dog'" in message
    assert f'data.train_images = "images/{first}"' in message
    assert set(labels(tmp_path, f'data.train_images = "images/{first}"').values()) == {"cat", "dog"}
    tests = [name for name in others if name.lower() in ("test", "testing")]
    assert all(f'data.test_images = "images/{name}"' in message for name in tests)
    if not tests:
        assert "data.class_level = 2" in message
        assert len(labels(tmp_path, "data.train_images = images", "data.class_level = 2")) == 4


def test_parts_of_a_split_without_class_folders_need_a_labels_csv(tmp_path: Path) -> None:
    touch(tmp_path / "images", "train/1.png", "test/2.png")
    assert "train has no folders inside. Name the labels CSV in data.labels" in refusal(
        tmp_path, "data.train_images = images"
    )


def test_folders_above_the_classes_are_refused_and_the_level_can_be_set(tmp_path: Path) -> None:
    touch(tmp_path / "train", *(f"{site}/{label}/1.png" for site in ("siteA", "siteB") for label in ("cat", "dog")))
    message = refusal(tmp_path)
    assert "whose names repeat: 'cat', 'dog'" in message
    assert "data.class_level = 2" in message
    for level in (2, -1):
        assert labels(tmp_path, f"data.class_level = {level}")["train/siteB/dog/1.png"] == "dog"
    assert set(labels(tmp_path, 'data.accept = ["class_folders"]').values()) == {"siteA", "siteB"}


@pytest.mark.parametrize("name", ["test", "Testing", "unlabeled"])
def test_a_folder_of_tests_beside_the_classes_is_refused_and_its_setting_works(tmp_path: Path, name: str) -> None:
    touch(tmp_path, "cat/1.png", "dog/1.png", f"{name}/1.png", f"{name}/deep/2.png")
    message = refusal(tmp_path, "data.train_images = .", "data.test_images = absent")
    assert f"holds '{name}' beside 'cat', 'dog': it would be a class" in message
    assert f'data.test_images = "{name}"' in message
    found = labels(tmp_path, "data.train_images = .", f'data.test_images = "{name}"')
    assert found == {"cat/1.png": "cat", "dog/1.png": "dog"}


def test_images_above_the_chosen_level_are_named(tmp_path: Path) -> None:
    touch(tmp_path / "train", "a/cat/1.png", "a/2.png")
    message = refusal(tmp_path, "data.class_level = 2")
    assert "images that are not 2 folders deep, 1 in all: a/2.png. Correct data.class_level, now 2." in message
    assert labels(tmp_path, "data.class_level = -1") == {"train/a/2.png": "a", "train/a/cat/1.png": "cat"}


@pytest.mark.parametrize(
    "names",
    [
        ("cat/1.png", "cat/extra/1.png", "dog/1.png", "dog/extra/1.png"),  # deeper folders in class folders
        ("n01443537/images/1.png", "n01629819/images/1.png"),  # Tiny ImageNet
        ("bus/1.png", "train/1.png"),
        ("test-tube/1.png", "unknown/1.png"),
        (".ipynb_checkpoints/x/1.png", "cat/1.png", "dog/1.png"),
    ],
)
def test_these_first_folders_are_classes(tmp_path: Path, names: tuple[str, ...]) -> None:
    touch(tmp_path / "train", *names)
    found = labels(tmp_path)
    assert found == {f"train/{name}": name.partition("/")[0] for name in names if not name.startswith(".")}


@pytest.mark.parametrize(
    ("names", "level"),
    [
        (("animals/cat/1.png", "animals/dog/1.png", "things/bus/1.png"), 2),
        (("155/04/1.png", "155/05/1.png", "156/06/1.png"), 2),
        (("cat/1.png", "dog/beagle/1.png", "dog/pug/1.png"), -1),
    ],
)
def test_a_class_folder_that_holds_only_folders_is_refused_and_the_level_works(
    tmp_path: Path, names: tuple[str, ...], level: int
) -> None:
    touch(tmp_path / "train", *names)
    assert f"data.class_level = {level}." in refusal(tmp_path)
    found = labels(tmp_path, f"data.class_level = {level}")
    assert found == {f"train/{name}": name.split("/")[-2] for name in names}
    assert len(labels(tmp_path, 'data.accept = ["class_folders"]')) == len(names)


def test_empty_folders_are_said(tmp_path: Path) -> None:
    touch(tmp_path / "train", "cat/1.png", "dog/2.png", ".git/3.png", "fox/notes.txt", "__MACOSX/cat/._1.png")
    assert list_images(tmp_path, DataSettings()).empty == ["fox"]


@pytest.mark.parametrize("names", ["images masks", "images labels", "train_images train_masks", "imgs annotations"])
def test_pictures_and_their_masks_are_no_classes(tmp_path: Path, names: str) -> None:
    touch(tmp_path / "train", *(f"{name}/{n}.png" for name in names.split() for n in range(2)))
    message = refusal(tmp_path)
    assert "these seem to be pictures and their masks, for segmentation, and not classes" in message
    assert set(labels(tmp_path, 'data.accept = ["class_folders"]').values()) == set(names.split())
    touch(tmp_path / "more", "mask/1.png", "no_mask/1.png", "with_mask/1.png")  # people with and without masks
    assert len(labels(tmp_path, "data.train_images = more")) == 3
