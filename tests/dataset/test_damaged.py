"""Damaged images are all listed before training, and the advice, pasted into a shell, works at the first try."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.dataset.damaged import NAMED
from pipelines.dataset.tables import read_csv
from tests.support.advice import follow
from tests.support.pets import Pets, picture
from tests.support.stages import run_stage_here

DAMAGES = {
    "empty.png": b"",
    "it's cut.jpg": b"\xff\xd8\xff\xe0",
    "page.jpg": b"<!DOCTYPE html><html>404</html>",
    "zeros.png": bytes(100),
    "report.jpg": b"%PDF-1.4",
    "pointer.png": b"version https://git-lfs.github.com/spec/v1\n",
}
SAID = {
    "empty.png": "the file is empty",
    "it's cut.jpg": "(id ",
    "page.jpg": "it is a web page, not an image",
    "zeros.png": "it holds only zero bytes",
    "report.jpg": "it is a PDF; convert it to PNG",
    "pointer.png": "get the files with: git lfs pull",
}


@pytest.fixture(params=["packed", "photos"])
def pets(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pets]:
    """Pets in class folders."""
    monkeypatch.chdir(tmp_path)
    yield Pets(tmp_path, request.param, listed=False)


@pytest.fixture
def listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pets:
    monkeypatch.chdir(tmp_path)
    return Pets(tmp_path, "packed", listed=True)


def test_all_kinds_of_damage_are_listed_and_the_printed_line_removes_them(
    pets: Pets, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, content in DAMAGES.items():
        pets.add(name, content, "cat")
    pets.add("Thumbs.db", b"\xd0\xcf", "cat")
    pets.add("bad test.png", b"")
    pets.split()
    assert pets.train() == 2
    message = capsys.readouterr().err
    assert message.startswith(f"error: {len(DAMAGES) + 1} images cannot be used:\n")
    lines = message.splitlines()
    for name, said in SAID.items():
        assert any(f"train/cat/{name} (id " in line and said in line for line in lines), name
    assert "  data/odd pets/raw/test/bad test.png (id 'bad test', test): the file is empty" in lines
    assert "labels CSV" not in message and "row" not in message and "Thumbs" not in message
    table = read_csv(pets.layout.damaged)
    assert list(table.columns) == ["path", "id", "split", "problem"] and len(table) == len(DAMAGES) + 1
    assert all(Path(path).is_file() for path in table["path"])
    follow(message)
    assert pets.train() == 0
    assert not pets.layout.damaged.exists()


def test_replaced_files_need_no_new_split(pets: Pets, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("1.png", "3.png"):
        pets.add(name, b"", "dog")
    pets.split()
    assert pets.train() == 2
    assert "Replace these files, and run the same command again." in capsys.readouterr().err
    for number in (1, 3):
        pets.add(f"{number}.png", picture(number), "dog")
    assert pets.train() == 0


def test_more_than_are_named_are_removed_by_the_list(pets: Pets, capsys: pytest.CaptureFixture[str]) -> None:
    count = NAMED + 3
    for number in range(count):
        pets.add(f"bad, \"{number}'.png", b"no image", "cat")
    pets.split()
    assert pets.train() == 2
    message = capsys.readouterr().err
    assert f"error: {count} images cannot be used:" in message
    assert (
        message.count(": it is none of") == NAMED
        and "  … and 3 more\nAll of them: data/odd pets/damaged.csv" in message
    )
    follow(message, "python3 ")
    assert len(list((pets.layout.raw / "train/cat").iterdir())) == 6
    assert pets.train() == 0


def test_with_a_labels_csv_rows_and_files_go_together(listed: Pets, capsys: pytest.CaptureFixture[str]) -> None:
    listed.add("bad.png", b"<html>", "cat")
    listed.split()
    assert listed.train() == 2
    message = capsys.readouterr().err
    assert "Or remove their rows from data/odd pets/raw/labels.csv and the files, then split again:" in message
    labels = listed.layout.raw / "labels.csv"
    labels.write_text(labels.read_text().replace("bad.png,cat\n", ""))
    follow(message)
    assert listed.train() == 0


def test_a_damaged_test_image_of_a_sample_must_be_replaced(listed: Pets, capsys: pytest.CaptureFixture[str]) -> None:
    listed.add("7.png", b"")
    listed.split()
    assert listed.train() == 2
    message = capsys.readouterr().err
    assert "the submission needs a row for each that sample.csv lists. Replace these files" in message
    assert "rm " not in message
    listed.add("7.png", picture(7))
    assert listed.train() == 0


def test_predict_and_retrain_list_what_breaks_later(pets: Pets, capsys: pytest.CaptureFixture[str]) -> None:
    pets.split()
    assert pets.train() == 0
    before = {name: pets.add(name, b"", "cat") for name in ("0.png", "2.png")}
    capsys.readouterr()
    assert run_stage_here("retrain", [str(pets.toml)]) == 2
    message = capsys.readouterr().err
    assert "error: 2 images cannot be used:" in message and " && rm -r " in message
    for name, path in before.items():
        path.write_bytes(picture(int(name[0])))
    assert run_stage_here("retrain", [str(pets.toml)]) == 0
    for name in ("0.png", "1.png"):
        pets.add(name, b"")
    capsys.readouterr()
    assert run_stage_here("predict", [str(pets.toml)]) == 2
    assert "error: 2 images cannot be used:" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_named_so(pets: Pets, capsys: pytest.CaptureFixture[str]) -> None:
    pets.add("locked.png", picture(1), "cat").chmod(0)
    pets.split()
    assert pets.train() == 2
    assert "locked.png', train): you may not read it (chmod u+r)" in capsys.readouterr().err


def test_a_folder_with_the_name_of_an_image_holds_images_as_any_other(
    pets: Pets, capsys: pytest.CaptureFixture[str]
) -> None:
    pets.add("x.jpg/inner.png", picture(1), "cat")
    pets.split()
    shutil.rmtree(pets.layout.raw / "train/cat/x.jpg/inner.png", ignore_errors=True)
    (pets.layout.raw / "train/cat/x.jpg/inner.png").unlink()
    (pets.layout.raw / "train/cat/x.jpg/inner.png").mkdir()
    assert pets.train() == 2
    assert "1 image removed, e.g. 'train/cat/x.jpg/inner.png'" in capsys.readouterr().err


def test_tiny_and_narrow_images_are_used(pets: Pets) -> None:
    for number, shape in enumerate([(1, 1), (1, 400), (400, 1), (3, 900)]):
        Image.fromarray(np.full(shape, 200, np.uint8)).save(pets.add(f"narrow{number}.png", b"", "cat"))
    pets.split()
    assert pets.train() == 0


def test_images_with_other_pixels_after_training_are_said(pets: Pets, capsys: pytest.CaptureFixture[str]) -> None:
    pets.split()
    assert pets.train() == 0
    assert run_stage_here("retrain", [str(pets.toml)]) == 0
    assert "other contents" not in capsys.readouterr().out
    before = pets.layout.raw / "train/cat/0.png"
    before.write_bytes(picture(77))
    (pets.layout.run("default").final).unlink()
    for stage in ("retrain", "predict"):
        assert run_stage_here(stage, [str(pets.toml)]) == 0
        printed = capsys.readouterr().out
        assert "Note: labelled images have other contents than when default was trained" in printed
    assert pets.train() == 0  # trained already: nothing to do


def test_images_with_different_whites_are_said_with_a_setting_that_works(
    pets: Pets, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, largest in enumerate((1000, 3000, 4000)):
        values = np.full((8, 8), largest, np.uint16)
        Image.fromarray(values).save(pets.add(f"deep{number}.png", b"", "cat"))
    for number in range(10):  # nearly all images are deep, as in such competitions
        (pets.layout.raw / f"train/{('cat', 'dog')[number % 2]}/{number}.png").unlink()
        Image.fromarray(np.full((8, 8), 900, np.uint16)).save(
            pets.add(f"more{number}.png", b"", ("cat", "dog")[number % 2])
        )
    pets.split()
    assert pets.train() == 0
    printed = capsys.readouterr().out
    assert "of 15 images, the value of white is 1,023 in 11, 4,095 in 2: each image is scaled" in printed
    assert "SET=data.white=4095" in printed
    words = [str(pets.toml), "--set", "data.white=4095"]
    assert run_stage_here("train", words) == 0  # needs no new split
    assert "the value of white" not in capsys.readouterr().out
    assert run_stage_here("train", [*words, "--run", "default"]) == 2
    assert "data.white: 4095 now, 0 then" in capsys.readouterr().err
