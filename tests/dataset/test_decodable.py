"""Photos are tried before a training begins, each content once."""

import dataclasses
import os
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from pipelines.dataset.channels import Picture
from pipelines.dataset.fingerprints import CHUNK_IMAGES, check_decodable
from pipelines.dataset.image_reader import Reader
from pipelines.system.errors import UserError
from tests.support.image_sets import image_set
from tests.support.pictures import noise
from tests.support.tiny import Tiny

PHOTOS = "input.source=photos"
NO_IMAGE = b"no image"


def make_photos(raw: Path, count: int) -> pd.DataFrame:
    """Write `count` noise photos and return their rows, with the index that they have in a larger split table."""
    (raw / "train").mkdir(parents=True)
    for number in range(count):
        Image.fromarray(noise(4, 4, 3, seed=number)).save(raw / f"train/{number}.png", compress_level=0)
    paths = [f"train/{number}.png" for number in range(count)]
    return pd.DataFrame({"id": [f"id{number}" for number in range(count)], "path": paths}, index=range(10, 10 + count))


@pytest.fixture
def rows(tmp_path: Path) -> pd.DataFrame:
    return make_photos(tmp_path / "raw", 5)


def check(tmp_path: Path, rows: pd.DataFrame, together: pd.DataFrame | None = None) -> None:
    images = image_set(rows if together is None else together, tmp_path / "raw", tmp_path / "cache")
    check_decodable(images.select(images.table.loc[rows.index]))


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the photos that have been opened, so far."""
    names = []
    open_image = Reader.open

    def counting(reader: Reader, path: str, place: str) -> Picture:
        names.append(Path(path).name)
        return open_image(reader, path, place)

    monkeypatch.setattr(Reader, "open", counting)
    return names


def spoil(path: Path) -> None:
    """Make a file undecodable, so that neither its size nor its time tells."""
    status = path.stat()
    path.write_bytes(b"x" * status.st_size)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_good_photos_pass_and_each_is_opened_once(tmp_path: Path, rows: pd.DataFrame, opened: list[str]) -> None:
    check(tmp_path, rows)
    assert opened == [f"{number}.png" for number in range(5)]


def test_a_broken_photo_is_named_with_its_path_and_place(tmp_path: Path, rows: pd.DataFrame) -> None:
    (tmp_path / "raw/train/3.png").write_bytes(NO_IMAGE)
    with pytest.raises(UserError, match=r"1 image cannot be used:\n.*train/3\.png \(id 'id3', train\): it is none of"):
        check(tmp_path, rows)
    Image.fromarray(noise(4, 4, 3)).save(tmp_path / "raw/train/3.png")
    check(tmp_path, rows)


def test_a_photo_cut_short_is_broken_though_its_header_is_not(tmp_path: Path, rows: pd.DataFrame) -> None:
    path = tmp_path / "raw/train/3.png"
    path.write_bytes(path.read_bytes()[:-30])
    with Image.open(path) as image:
        assert image.size == (4, 4)
    with pytest.raises(UserError, match=r"train/3\.png"):
        check(tmp_path, rows)


def test_a_second_call_opens_nothing(tmp_path: Path, rows: pd.DataFrame, opened: list[str]) -> None:
    check(tmp_path, rows)
    for path in (tmp_path / "raw/train").iterdir():
        spoil(path)
    opened.clear()
    check(tmp_path, rows)
    check(tmp_path, rows.iloc[[4, 1]], rows)
    assert opened == []


def test_photos_are_remembered_by_their_bytes(tmp_path: Path, rows: pd.DataFrame, opened: list[str]) -> None:
    check(tmp_path, rows)
    opened.clear()
    shutil.move(tmp_path / "raw/train/2.png", tmp_path / "raw/train/two.png")
    os.utime(tmp_path / "raw/train/1.png", ns=(0, 0))
    rows.loc[12, "path"] = "train/two.png"
    check(tmp_path, rows)
    assert opened == []


def test_an_added_photo_is_checked_alone(tmp_path: Path, rows: pd.DataFrame, opened: list[str]) -> None:
    check(tmp_path, rows.iloc[:4])
    opened.clear()
    check(tmp_path, rows)
    assert opened == ["4.png"]


def test_a_photo_with_other_bytes_is_checked_again(tmp_path: Path, rows: pd.DataFrame, opened: list[str]) -> None:
    check(tmp_path, rows)
    opened.clear()
    (tmp_path / "raw/train/1.png").write_bytes(NO_IMAGE)
    with pytest.raises(UserError, match=r"train/1\.png \(id 'id1', train\)"):
        check(tmp_path, rows)
    assert opened == ["1.png"]


def test_only_the_wanted_rows_are_checked_and_the_others_later(
    tmp_path: Path, rows: pd.DataFrame, opened: list[str]
) -> None:
    check(tmp_path, rows.iloc[[3, 0]], rows)
    assert opened == ["3.png", "0.png"]
    check(tmp_path, rows)
    assert sorted(opened) == [f"{number}.png" for number in range(5)]


@pytest.mark.parametrize("damage", [b"", b"no array", b"\x93NUMPY\x01\x00"])
def test_a_damaged_record_costs_a_second_look(
    tmp_path: Path, rows: pd.DataFrame, damage: bytes, opened: list[str]
) -> None:
    check(tmp_path, rows)
    (tmp_path / "cache/labelled-decodable.npy").write_bytes(damage)
    check(tmp_path, rows)
    check(tmp_path, rows)
    assert len(opened) == 10


def test_several_processes_check_more_than_a_chunk(tmp_path: Path) -> None:
    rows = make_photos(tmp_path / "raw", CHUNK_IMAGES + 6)
    seen: list[object] = []

    def watch(items: Any, what: str, total: int | None = None, unit: str = "files") -> Any:
        seen.append((what, total))
        return items

    broken = tmp_path / f"raw/train/{CHUNK_IMAGES + 2}.png"
    content = broken.read_bytes()
    broken.write_bytes(NO_IMAGE)
    with pytest.raises(UserError, match=rf"{broken.name} \(id 'id{CHUNK_IMAGES + 2}', train\)"):
        check(tmp_path, rows)
    broken.write_bytes(content)
    for _ in range(2):
        check_decodable(image_set(rows, tmp_path / "raw", tmp_path / "cache"), watch)
    checked = [each for each in seen if each[0] != "reading"]  # type: ignore[index]
    assert checked == [("checking", 1)]  # the good ones are remembered


@pytest.mark.parametrize("part", ["train", "valid"])
def test_a_broken_photo_stops_a_training_before_its_first_epoch(tiny: Tiny, part: str) -> None:
    number = {"train": 11, "valid": 12}[part]
    (tiny.layout.raw / f"train/{number}.png").write_bytes(NO_IMAGE)
    seen: list[str] = []

    def watch(items: Any, what: str, total: int | None = None, unit: str = "files") -> Any:
        seen.append(what)
        return items

    job = tiny.job(PHOTOS)
    with pytest.raises(UserError, match=rf"raw/train/{number}\.png \(id '{number}', {part}\)"):
        next(tiny.run(dataclasses.replace(job, watch=watch)))
    assert "checking" in seen and "epoch 1" not in seen
    assert not job.files.last.exists()


def test_test_photos_are_not_tried_beforehand(tiny: Tiny) -> None:
    (tiny.layout.raw / "test/10.png").write_bytes(NO_IMAGE)
    assert len(tiny.source("test", PHOTOS)) == 12
