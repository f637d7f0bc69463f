"""Whatever changes in the data after a split is named, and following the message's advice leads on."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.dataset.split_record import (
    check_unchanged,
    is_split_by_audit,
    list_images,
    require_split,
    split_is_made,
    tree_is_as_set,
)
from pipelines.settings.data_sections import DataSettings
from pipelines.settings.layout import Layout
from pipelines.settings.loading import load_settings
from pipelines.system.errors import UserError
from pipelines.system.files import read_json, write_json, write_text
from tests.support.advice import follow
from tests.support.raw_files import touch
from tests.support.stages import run_stage_here

NAME = "some pets"  # the folders need quotes in a shell
CLASS_FOLDERS = '[competition]\nsource = "address"\naddress = "here"\n[split]\nvalid_ratio = 0.3\n'
LISTED = CLASS_FOLDERS + '[data]\nlabels = "labels.csv"\nsample_submission = "sample.csv"\n'


class Pets:
    """A competition of 2 x 5 labelled images and 3 test images, divided; its files stand for images."""

    def __init__(self, folder: Path, toml: str, nested: bool) -> None:
        self.toml, self.layout = folder / f"{NAME}.toml", Layout(folder, NAME)
        self.toml.write_text(toml)
        self.raw = self.layout.raw
        names = [f"{label}/{number}.png" for label in ("cat", "dog") for number in range(5)]
        touch(self.raw / "train", *(name if nested else name.replace("/", "-") for name in names))
        touch(self.raw / "test", "1.png", "2.png", "3.png")
        if not nested:
            rows = "".join(f"{name[:-4].replace('/', '-')},{name[:3]}\n" for name in names)
            write_text(self.raw / "labels.csv", "id,label\n" + rows)
            write_text(self.raw / "sample.csv", "id,label\n1,cat\n2,cat\n")
        assert run_stage_here("split", [str(self.toml)]) == 0

    def is_made(self) -> bool:
        return split_is_made(self.layout, load_settings(str(self.toml)), f"make split COMP='{self.toml}'")

    def refusal(self) -> str:
        with pytest.raises(UserError) as error:
            self.is_made()
        return str(error.value)

    def note(self, *kinds: str) -> str:
        settings = load_settings(str(self.toml))
        return check_unchanged(self.layout, settings, "make split", *kinds)  # type: ignore[arg-type]


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pets:
    """Pets in class folders, without a sample submission."""
    monkeypatch.chdir(tmp_path)
    return Pets(tmp_path, CLASS_FOLDERS, nested=True)


@pytest.fixture
def listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pets:
    """Pets in one folder, listed in a labels CSV; test image 3 is not in the sample."""
    monkeypatch.chdir(tmp_path)
    return Pets(tmp_path, LISTED, nested=False)


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "images added": (lambda raw: touch(raw, "train/cat/8.png", "train/cat/9.png"), "2 images added, e.g. 'train/cat/8"),
    "an image removed": (lambda raw: (raw / "train/dog/3.png").unlink(), "1 image removed, e.g. 'train/dog/3.png'"),
    "a class added": (lambda raw: touch(raw, "train/fox/1.png"), "class folder 'fox' is new (1 image)"),
    "an empty class": (lambda raw: (raw / "train/fox").mkdir(), "class folder 'fox' is new, and empty"),
    "a class renamed": (lambda raw: (raw / "train/dog").rename(raw / "train/dogs"), "'dog' is now 'dogs'"),
    "a class in a class": (lambda raw: touch(raw, "train/dog/old/3.png"), "1 image added, e.g. 'train/dog/old/3.png'"),
    "a test image added": (lambda raw: touch(raw, "test/9.png"), "1 image added, e.g. 'test/9.png'"),
    "a test image removed": (lambda raw: (raw / "test/2.png").unlink(), "1 image removed, e.g. 'test/2.png'"),
    "a test image renamed": (lambda raw: (raw / "test/2.png").rename(raw / "test/7.png"), "1 image added, e.g."),
    "test images moved": (lambda raw: touch(raw, "test/more/1.png"), "folder 'more' is new (1 image)"),
    "the test folder removed": (lambda raw: shutil.rmtree(raw / "test"), "3 images removed, e.g. 'test/1.png'"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_class_folders_are_named_and_the_advice_splits_again(folders: Pets, change: str) -> None:
    assert folders.is_made()
    act, text = CHANGES[change]
    act(folders.raw)
    message = folders.refusal()
    assert text in message and "runs of the old split are then not comparable" in message
    assert run_stage_here("split", [str(folders.toml)]) == 2
    follow(message)
    assert folders.is_made()


def test_an_image_moved_to_another_class_is_removed_there_and_added_here(folders: Pets) -> None:
    (folders.raw / "train/cat/1.png").rename(folders.raw / "train/dog/77.png")
    assert "1 image removed, e.g. 'train/cat/1.png'; 1 image added, e.g. 'train/dog/77.png'" in folders.refusal()


@pytest.mark.parametrize("left", [True, False])
def test_a_class_that_is_gone_or_empty_is_named(folders: Pets, left: bool) -> None:
    touch(folders.raw, "train/fox/1.png")
    follow(folders.refusal())
    shutil.rmtree(folders.raw / "train/dog")
    if left:
        (folders.raw / "train/dog").mkdir()
    message = folders.refusal()
    assert f"class folder 'dog' is {'now empty' if left else 'gone'} (5 images)" in message
    assert "'dog' is new" not in message
    follow(message)
    assert folders.is_made()


def test_an_empty_class_folder_that_is_removed_is_named(folders: Pets) -> None:
    (folders.raw / "train/fox").mkdir()
    follow(folders.refusal())
    (folders.raw / "train/fox").rmdir()
    assert "the empty class folder 'fox' is gone" in folders.refusal()


def test_putting_everything_back_needs_no_new_split(folders: Pets) -> None:
    (folders.raw / "train/dog").rename(folders.raw / "train/dogs")
    folders.refusal()
    (folders.raw / "train/dogs").rename(folders.raw / "train/dog")
    assert folders.is_made()


def test_junk_and_other_files_do_not_count(folders: Pets) -> None:
    touch(folders.raw, "train/cat/Thumbs.db", "train/cat/.DS_Store", "train/.hidden/1.png", "train/cat/._1.png")
    touch(folders.raw, "train/readme.txt", "notes.csv", "other/1.png", "test/list.txt", "__MACOSX/train/cat/._1.png")
    (folders.raw / "train/__MACOSX").mkdir()
    (folders.raw / "train/.ipynb_checkpoints").mkdir()
    assert folders.is_made()


def test_a_new_image_without_a_row_is_named_and_an_unlisted_test_image_is_not(listed: Pets) -> None:
    touch(listed.raw, "test/8.png")
    (listed.raw / "test/3.png").unlink()
    assert listed.is_made()
    touch(listed.raw, "train/new.png")
    message = listed.refusal()
    assert "1 image added, e.g. 'train/new.png'" in message and "test" not in message.partition(" made: ")[2][:40]
    write_text(listed.raw / "labels.csv", (listed.raw / "labels.csv").read_text() + "new,cat\n")
    message = listed.refusal()
    assert "labels.csv has changed; 1 image added" in message
    follow(message)
    assert listed.is_made()


def test_a_listed_image_that_is_gone_is_named_with_both_ways_on(listed: Pets) -> None:
    (listed.raw / "train/cat-1.png").unlink()
    assert "1 image removed, e.g. 'train/cat-1.png'. Put back what was there, or split again" in listed.refusal()


def test_a_replaced_sample_and_a_missing_labels_csv_are_named(listed: Pets) -> None:
    before = (listed.raw / "sample.csv").read_text()
    write_text(listed.raw / "sample.csv", before.replace("cat", "dog"))
    assert ": sample.csv has changed. " in listed.refusal()
    assert ": sample.csv has changed. " in listed.note("labelled", "test")  # predict compares the ids itself
    write_text(listed.raw / "sample.csv", before)
    (listed.raw / "labels.csv").unlink()
    assert ": labels.csv is missing. Put back" in listed.refusal()


def test_only_the_kinds_that_matter_stop_a_stage_and_the_others_are_noted(folders: Pets) -> None:
    assert folders.note("labelled") == ""
    touch(folders.raw, "test/9.png")
    assert folders.note("labelled").startswith("Note: The data in")
    with pytest.raises(UserError, match=r"test/9\.png"):
        folders.note("test")


def test_an_older_record_is_accepted_and_completed(folders: Pets) -> None:
    record = read_json(folders.layout.split_record)
    older = {key: value for key, value in record.items() if key not in ("listing", "download")}
    write_json(folders.layout.split_record, older)
    assert folders.is_made()
    assert read_json(folders.layout.split_record) == older  # only split writes
    assert run_stage_here("split", [str(folders.toml)]) == 0
    assert read_json(folders.layout.split_record) == record
    write_json(folders.layout.split_record, older)
    touch(folders.raw, "train/cat/9.png")
    assert "1 image added, e.g. 'train/cat/9.png'" in folders.refusal()


def test_the_same_data_from_a_renamed_archive_are_the_same(folders: Pets) -> None:
    record = folders.raw / ".download.json"
    write_json(record, {"source": "a.zip", "sha256": "1", "files": 13, "bytes": 65})
    folders.layout.split_record.unlink()
    assert run_stage_here("split", [str(folders.toml)]) == 0
    write_json(record, {"source": "b.zip", "sha256": "1", "files": 13, "bytes": 65})
    assert folders.is_made()
    write_json(record, {"source": "b.zip", "sha256": "2", "files": 13, "bytes": 66})
    message = folders.refusal()
    assert "they were unpacked from another archive" in message
    follow(message)
    assert folders.is_made()


def test_a_removed_tree_is_made_again_by_the_stage_that_is_named(
    folders: Pets, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(folders.layout.tree)
    assert run_stage_here("train", [str(folders.toml)]) == 2
    message = capsys.readouterr().err
    assert "The split is not complete: data/some pets/train_valid_test is missing. First: " in message
    follow(message, "First: ")
    assert folders.is_made()
    folders.layout.split_csv.write_text("x")
    shutil.rmtree(folders.layout.tree)
    follow(folders.refusal())  # rm gets only what exists, and does not fail
    assert folders.is_made()


@pytest.mark.parametrize("made_with", ["true", "false"])
@pytest.mark.parametrize("wanted", ["true", "false"])
def test_split_tree_makes_no_other_split(folders: Pets, made_with: str, wanted: str) -> None:
    assert run_stage_here("split", [str(folders.toml), "--set", f"split.tree={made_with}"]) == 0
    folders.toml.write_text(f"{CLASS_FOLDERS}tree = {wanted}\n")
    assert folders.is_made()
    settings = load_settings(str(folders.toml))
    require_split(folders.layout, settings, "make split")
    assert check_unchanged(folders.layout, settings, "make split", "labelled") == ""
    assert tree_is_as_set(folders.layout, settings) == (made_with == wanted)


def test_a_tree_that_is_removed_by_hand_may_be_missing_if_it_is_not_wanted(folders: Pets) -> None:
    shutil.rmtree(folders.layout.tree)
    assert not folders.is_made()
    folders.toml.write_text(f"{CLASS_FOLDERS}tree = false\n")
    assert folders.is_made()
    folders.layout.split_record.unlink()
    with pytest.raises(UserError, match=r"not complete: data/some pets/split\.json is missing"):
        require_split(folders.layout, load_settings(str(folders.toml)), "make split")


def test_other_settings_are_named_with_commands_that_work(folders: Pets) -> None:
    folders.toml.write_text(CLASS_FOLDERS.replace("0.3", "0.4"))
    message = folders.refusal()
    assert "split.valid_ratio: 0.4 now, 0.3 then" in message
    follow(message)
    assert folders.is_made()


@pytest.mark.parametrize("how", ["absolute", "link", "dots"])
def test_a_group_file_by_another_path_is_that_of_audit(folders: Pets, how: str) -> None:
    groups, root = folders.layout.audit.groups, folders.layout.root
    write_text(groups, "id,group\ncat/1.png,a\ncat/2.png,a\n")
    (root / "link.csv").symlink_to(groups)
    named = {"absolute": str(groups), "link": "link.csv", "dots": f"data/../{groups.relative_to(root)}"}[how]
    folders.toml.write_text(f'{CLASS_FOLDERS}group_file = "{named}"\n')
    assert not is_split_by_audit(folders.layout)
    folders.layout.split_record.unlink()
    assert run_stage_here("split", [str(folders.toml)]) == 0
    assert is_split_by_audit(folders.layout)
    write_text(groups, "id,group\ncat/1.png,b\ncat/2.png,b\n")
    assert not is_split_by_audit(folders.layout)
    assert "(split.group_file) has changed" in folders.refusal()


def test_the_digest_depends_on_names_alone(folders: Pets) -> None:
    before = list_images(folders.raw, DataSettings()).digest
    (folders.raw / "train/cat/1.png").write_bytes(b"other")
    assert list_images(folders.raw, DataSettings()).digest == before
    (folders.raw / "train/cat/1.png").rename(folders.raw / "train/cat/01.png")
    assert list_images(folders.raw, DataSettings()).digest != before


def test_a_test_folder_inside_the_folder_of_labelled_images_is_apart(tmp_path: Path) -> None:
    touch(tmp_path, "cat/1.png", "dog/1.png", "test/1.png", "test/2.png")
    (tmp_path / "fox").mkdir()
    listing = list_images(tmp_path, DataSettings(train_images="."))
    assert listing.labelled == ["cat/1.png", "dog/1.png"]
    assert (listing.test, listing.empty) == (["test/1.png", "test/2.png"], ["fox"])


def test_another_task_needs_another_split(listed: Pets) -> None:
    for name, text in (("labels", "id,label\n"), ("sample", "id,label\n")):
        rows = (listed.raw / f"{name}.csv").read_text().removeprefix(text)
        write_text(listed.raw / f"{name}.csv", text + rows.replace(",cat", ",1").replace(",dog", ",2"))
    follow(listed.refusal())
    assert listed.is_made()
    numbers = '[competition]\ntask = "numbers"\nmetric = "rmse"\nsubmission = "numbers"\n'
    listed.toml.write_text(listed.toml.read_text().replace("[competition]\n", numbers))
    message = listed.refusal()
    assert "competition.task: 'numbers' now, 'one_class' then" in message
    follow(message)
    assert listed.is_made()
    record = read_json(listed.layout.split_record)
    write_json(listed.layout.split_record, {name: value for name, value in record.items() if name != "task"})
    assert "'one_class' then" in listed.refusal()  # a record of an older version is of one class
