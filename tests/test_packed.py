"""The cache of small images: decoded once, never stale, never half-written."""

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import noise
from PIL import Image

from pipelines.core.errors import UserError
from pipelines.core.packed import CHUNK_IMAGES, pack

SEVERAL_CHUNKS = CHUNK_IMAGES + 6


def make_images(raw: Path, count: int, size: int = 4) -> pd.DataFrame:
    """Write `count` noise images and return their rows, with the index that they have in a larger split table."""
    (raw / "train").mkdir(parents=True)
    for number in range(count):
        Image.fromarray(noise(size, size, 3, seed=number)).save(raw / f"train/{number}.png", compress_level=0)
    paths = [f"train/{number}.png" for number in range(count)]
    return pd.DataFrame({"id": [f"id{number}" for number in range(count)], "path": paths}, index=range(10, 10 + count))


@pytest.fixture
def rows(tmp_path: Path) -> pd.DataFrame:
    return make_images(tmp_path / "raw", 5)


def packed(tmp_path: Path, rows: pd.DataFrame, size: int = 4, name: str = "labelled") -> np.ndarray:
    return pack(rows, tmp_path / "raw", size, tmp_path / "cache", name)


def cached(tmp_path: Path) -> dict[str, int]:
    """Return {name: time of change} of all that the cache folder holds."""
    folder = tmp_path / "cache"
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} if folder.exists() else {}


def test_row_i_is_image_i(tmp_path: Path, rows: pd.DataFrame) -> None:
    array = packed(tmp_path, rows.iloc[::-1])
    assert array.dtype == np.uint8
    assert (array == [noise(4, 4, 3, seed=number) for number in (4, 3, 2, 1, 0)]).all()


def test_images_of_another_size_are_fitted(tmp_path: Path, rows: pd.DataFrame) -> None:
    with Image.open(tmp_path / "raw/train/2.png") as image:
        expected = np.array(image.resize((8, 8), Image.Resampling.BILINEAR))
    array = packed(tmp_path, rows, size=8)
    assert array.shape == (5, 8, 8, 3)
    assert (array[2] == expected).all()


def test_a_second_call_reads_no_image_and_writes_nothing(tmp_path: Path, rows: pd.DataFrame) -> None:
    first = np.array(packed(tmp_path, rows))
    before = cached(tmp_path)
    for path in (tmp_path / "raw/train").iterdir():  # same size and time, but nothing that could be decoded
        status = path.stat()
        path.write_bytes(b"x" * status.st_size)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (packed(tmp_path, rows) == first).all()
    assert cached(tmp_path) == before


def test_a_changed_image_is_noticed_and_the_stale_cache_removed(tmp_path: Path, rows: pd.DataFrame) -> None:
    packed(tmp_path, rows)
    (before,) = cached(tmp_path)
    path = tmp_path / "raw/train/3.png"
    status = path.stat()
    Image.fromarray(noise(4, 4, 3, seed=99)).save(path, compress_level=0)
    assert path.stat().st_size == status.st_size  # so that the time alone can tell
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert (packed(tmp_path, rows)[3] == noise(4, 4, 3, seed=99)).all()
    (after,) = cached(tmp_path)
    assert after != before


def test_other_rows_or_another_order_are_another_cache(tmp_path: Path, rows: pd.DataFrame) -> None:
    for path in (tmp_path / "raw/train").iterdir():
        os.utime(path, ns=(0, 0))  # all of one size and time, so that the paths alone can tell
    packed(tmp_path, rows)
    assert (packed(tmp_path, rows.iloc[[4, 0]]) == [noise(4, 4, 3, seed=4), noise(4, 4, 3, seed=0)]).all()
    assert (packed(tmp_path, rows.iloc[[0, 4]]) == [noise(4, 4, 3, seed=0), noise(4, 4, 3, seed=4)]).all()


def test_another_name_or_size_does_not_remove_a_cache(tmp_path: Path, rows: pd.DataFrame) -> None:
    packed(tmp_path, rows)
    before = cached(tmp_path)
    packed(tmp_path, rows.iloc[:2], name="test")
    packed(tmp_path, rows, size=8)
    assert len(cached(tmp_path)) == 3
    packed(tmp_path, rows)
    assert cached(tmp_path).items() >= before.items()


def test_writing_to_the_array_does_not_reach_the_cache(tmp_path: Path, rows: pd.DataFrame) -> None:
    packed(tmp_path, rows)[0] = 0
    assert (packed(tmp_path, rows)[0] == noise(4, 4, 3, seed=0)).all()


@pytest.mark.parametrize("damage", ["unreadable", "missing"])
def test_a_bad_image_is_named_with_its_row_and_leaves_nothing(tmp_path: Path, rows: pd.DataFrame, damage: str) -> None:
    path = tmp_path / "raw/train/3.png"
    path.unlink()
    if damage == "unreadable":
        path.write_text("no image")
    with pytest.raises(UserError, match=r"train/3\.png \(id 'id3', line 15 of split\.csv\)"):
        packed(tmp_path, rows)
    assert cached(tmp_path) == {}


def test_a_bad_image_leaves_the_older_cache_until_it_is_mended(tmp_path: Path, rows: pd.DataFrame) -> None:
    packed(tmp_path, rows)
    before = cached(tmp_path)
    (tmp_path / "raw/train/3.png").write_text("no image")
    with pytest.raises(UserError):
        packed(tmp_path, rows)
    assert cached(tmp_path) == before


def test_several_processes_decode_more_than_a_chunk(tmp_path: Path) -> None:
    rows = make_images(tmp_path / "raw", SEVERAL_CHUNKS)
    seen: list[object] = []

    def watch(items: Iterable[object], what: str, total: int | None = None, unit: str = "files") -> Iterable[object]:
        assert total == 2
        for item in items:
            seen.append(item)
            yield item

    array = pack(rows, tmp_path / "raw", 4, tmp_path / "cache", "labelled", watch)  # type: ignore[arg-type]
    assert len(array) == SEVERAL_CHUNKS
    for number in (0, 1, CHUNK_IMAGES - 1, CHUNK_IMAGES, SEVERAL_CHUNKS - 1):
        assert (array[number] == noise(4, 4, 3, seed=number)).all()
    assert len(seen) == 2

    path = tmp_path / f"raw/train/{CHUNK_IMAGES + 2}.png"
    path.write_text("no image")
    before = cached(tmp_path)
    with pytest.raises(UserError, match=rf"{path.name} \(id 'id{CHUNK_IMAGES + 2}', line {CHUNK_IMAGES + 14} of split"):
        packed(tmp_path, rows)
    assert cached(tmp_path) == before
