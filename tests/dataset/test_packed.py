"""The cache of small images: decoded once, never stale, never half-written, gone on with after a kill."""

import errno
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipelines.dataset import packed
from pipelines.dataset.packed import PackedImages
from pipelines.system import processes
from pipelines.system.errors import UserError
from pipelines.system.files import only_one
from pipelines.system.watch import Watch, unwatched
from tests.support.image_sets import image_set
from tests.support.pictures import noise

ROOT = Path(__file__).parents[2]


def make_images(raw: Path, count: int, size: int = 4) -> pd.DataFrame:
    """Write `count` noise images and return their rows, with the index that they have in a larger split table."""
    (raw / "train").mkdir(parents=True)
    for number in range(count):
        Image.fromarray(noise(size, size, 3, seed=number)).save(raw / f"train/{number}.png", compress_level=0)
    paths = [f"train/{number}.png" for number in range(count)]
    return pd.DataFrame({"id": [f"id{number}" for number in range(count)], "path": paths}, index=range(10, 10 + count))


def spoil(path: Path) -> None:
    """Make `path` a file that cannot be decoded, of the same size and modification time."""
    status = path.stat()
    path.write_bytes(b"x" * status.st_size)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.fixture
def rows(tmp_path: Path) -> pd.DataFrame:
    return make_images(tmp_path / "raw", 5)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two images are a chunk, and are decoded in this process when they are asked for."""
    monkeypatch.setattr(packed, "CHUNK_IMAGES", 2)
    monkeypatch.setattr(processes, "cores", lambda: 1)


def images_of(
    tmp_path: Path,
    rows: pd.DataFrame,
    size: int = 4,
    name: str = "labelled",
    by: Literal["time", "bytes"] = "time",
    watch: Watch = unwatched,
) -> PackedImages:
    return PackedImages(image_set(rows, tmp_path / "raw", tmp_path / "cache", name), size, by, watch)


def whole(*arguments: Any, **options: Any) -> np.ndarray:
    return images_of(*arguments, **options).whole()


def cached(tmp_path: Path) -> dict[str, int]:
    """Return {name: time of change} of all that the cache folder holds."""
    folder = tmp_path / "cache"
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} if folder.exists() else {}


def places(*numbers: int) -> np.ndarray:
    return np.array(numbers, dtype=np.int64)


def test_row_i_is_image_i(tmp_path: Path, rows: pd.DataFrame) -> None:
    array = whole(tmp_path, rows.iloc[::-1])
    assert array.dtype == np.uint8
    assert (array == [noise(4, 4, 3, seed=number) for number in (4, 3, 2, 1, 0)]).all()


def test_images_of_another_size_are_fitted(tmp_path: Path, rows: pd.DataFrame) -> None:
    with Image.open(tmp_path / "raw/train/2.png") as image:
        expected = np.array(image.resize((8, 8), Image.Resampling.BILINEAR))
    array = whole(tmp_path, rows, size=8)
    assert array.shape == (5, 8, 8, 3)
    assert (array[2] == expected).all()


def test_a_second_call_reads_no_image_and_writes_nothing(tmp_path: Path, rows: pd.DataFrame) -> None:
    first = np.array(whole(tmp_path, rows))
    before = cached(tmp_path)
    for path in (tmp_path / "raw/train").iterdir():
        spoil(path)
    assert (whole(tmp_path, rows) == first).all()
    assert cached(tmp_path) == before


def test_a_changed_image_is_noticed_and_the_stale_cache_removed(tmp_path: Path, rows: pd.DataFrame) -> None:
    whole(tmp_path, rows)
    (before,) = cached(tmp_path)
    path = tmp_path / "raw/train/3.png"
    status = path.stat()
    Image.fromarray(noise(4, 4, 3, seed=99)).save(path, compress_level=0)
    assert path.stat().st_size == status.st_size  # so that the time alone can tell
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert (whole(tmp_path, rows)[3] == noise(4, 4, 3, seed=99)).all()
    (after,) = cached(tmp_path)
    assert after != before


def test_other_rows_or_another_order_are_another_cache(tmp_path: Path, rows: pd.DataFrame) -> None:
    for path in (tmp_path / "raw/train").iterdir():
        os.utime(path, ns=(0, 0))  # all of one size and time, so that the paths alone can tell
    whole(tmp_path, rows)
    assert (whole(tmp_path, rows.iloc[[4, 0]]) == [noise(4, 4, 3, seed=4), noise(4, 4, 3, seed=0)]).all()
    assert (whole(tmp_path, rows.iloc[[0, 4]]) == [noise(4, 4, 3, seed=0), noise(4, 4, 3, seed=4)]).all()


def test_another_name_or_size_does_not_remove_a_cache(tmp_path: Path, rows: pd.DataFrame) -> None:
    whole(tmp_path, rows)
    before = cached(tmp_path)
    whole(tmp_path, rows.iloc[:2], name="test")
    whole(tmp_path, rows, size=8)
    assert len(cached(tmp_path)) == 3
    whole(tmp_path, rows)
    assert cached(tmp_path).items() >= before.items()


@pytest.mark.parametrize("most_read", [0, packed.MOST_READ_BYTES])
def test_writing_to_the_array_does_not_reach_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: pd.DataFrame, most_read: int
) -> None:
    monkeypatch.setattr(packed, "MOST_READ_BYTES", most_read)
    array = whole(tmp_path, rows)
    assert isinstance(array, np.memmap) == (most_read == 0)
    array[0] = 0
    assert (whole(tmp_path, rows)[0] == noise(4, 4, 3, seed=0)).all()


def test_a_cache_that_vanishes_later_does_not_matter_to_who_has_read_it(tmp_path: Path, rows: pd.DataFrame) -> None:
    array = whole(tmp_path, rows)
    assert not isinstance(array, np.memmap)  # to read on would then end this process by SIGBUS
    (path,) = (tmp_path / "cache").glob("*.npy")
    os.truncate(path, 0)
    assert (array[3] == noise(4, 4, 3, seed=3)).all()


@pytest.mark.parametrize("damage", ["unreadable", "missing"])
def test_a_bad_image_is_named_with_its_row_and_leaves_nothing(tmp_path: Path, rows: pd.DataFrame, damage: str) -> None:
    path = tmp_path / "raw/train/3.png"
    path.unlink()
    if damage == "unreadable":
        path.write_text("no image")
    with pytest.raises(UserError, match=r"train/3\.png \(id 'id3', (train|test)\)"):
        whole(tmp_path, rows)
    assert cached(tmp_path) == {}


def test_a_bad_image_leaves_the_older_cache_until_it_is_mended(tmp_path: Path, rows: pd.DataFrame) -> None:
    whole(tmp_path, rows)
    before = cached(tmp_path)
    (tmp_path / "raw/train/3.png").write_text("no image")
    with pytest.raises(UserError):
        whole(tmp_path, rows)
    assert cached(tmp_path) == before


def test_several_processes_decode_several_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "CHUNK_IMAGES", 3)
    monkeypatch.setattr(processes, "cores", lambda: 2)
    rows = make_images(tmp_path / "raw", 11)
    seen: list[object] = []

    def watch(items: Any, what: str, total: int | None = None, unit: str = "files") -> Any:
        seen.append((what, total, unit))
        for item in items:
            seen.append("chunk")
            yield item

    array = whole(tmp_path, rows, watch=watch)
    assert (array == [noise(4, 4, 3, seed=number) for number in range(11)]).all()
    assert seen == [("decoding", 4, "x 3 images"), *["chunk"] * 4]

    (tmp_path / "raw/train/7.png").write_text("no image")
    before = cached(tmp_path)
    with pytest.raises(UserError, match=r"7\.png \(id 'id7', (train|test)\)"):
        whole(tmp_path, rows)
    assert cached(tmp_path) == before


def test_a_chunk_of_large_images_holds_few(tmp_path: Path, rows: pd.DataFrame) -> None:
    def chunk_images(size: int) -> int:
        return images_of(tmp_path, rows, size=size)._chunk_images()

    assert [chunk_images(size) for size in (8, 32, 224, 2048)] == [2048, 2048, 55, 1]


def test_the_file_is_an_array_as_numpy_writes_it(tmp_path: Path, rows: pd.DataFrame) -> None:
    images = images_of(tmp_path, rows)
    np.save(tmp_path / "expected.npy", images.whole())
    assert images.path.read_bytes() == (tmp_path / "expected.npy").read_bytes()


@pytest.mark.parametrize("call", ["posix_fallocate", "fsync"])
def test_a_full_disk_is_an_os_error_and_leaves_nothing(
    tmp_path: Path, rows: pd.DataFrame, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(OSError, match="No space left"):
            whole(tmp_path, rows)
    assert cached(tmp_path) == {}


KILLED = """
import json, os, signal, sys
from pathlib import Path
import pandas as pd
from pipelines.dataset import packed
from pipelines.system import processes
from tests.support.image_sets import image_set

raw, cache, rows = json.loads(sys.argv[1])
processes.cores = lambda: 2
packed.CHUNK_IMAGES = 3

def watch(items, what, total, unit):
    for count, item in enumerate(items):
        if count == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        yield item

packed.PackedImages(image_set(pd.DataFrame(rows), Path(raw), Path(cache)), 4, watch=watch).whole()
"""


def test_a_killed_process_is_gone_on_from_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = make_images(tmp_path / "raw", 40).reset_index(drop=True)
    content = [str(tmp_path / "raw"), str(tmp_path / "cache"), rows.to_dict("list")]
    killed = subprocess.run([sys.executable, "-c", KILLED, json.dumps(content)], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    images = images_of(tmp_path, rows)
    assert not images.path.exists()
    done = np.flatnonzero(np.fromfile(images.journal, np.uint8)).tolist()
    assert 9 <= len(done) < 40
    for number in done:  # not to be decoded again
        spoil(tmp_path / f"raw/train/{number}.png")
    monkeypatch.setattr(packed, "CHUNK_IMAGES", 3)
    assert (images.whole() == [noise(4, 4, 3, seed=number) for number in range(40)]).all()
    assert list(cached(tmp_path)) == [images.path.name]


def test_the_journal_that_one_killed_at_the_very_end_left_is_removed(tmp_path: Path, rows: pd.DataFrame) -> None:
    whole(tmp_path, rows)
    images_of(tmp_path, rows).journal.write_bytes(b"\1\1\1\1\1")
    whole(tmp_path, rows)
    assert list(cached(tmp_path)) == [images_of(tmp_path, rows).path.name]


@pytest.mark.usefixtures("small_chunks")
def test_an_interrupted_one_goes_on_too(tmp_path: Path, rows: pd.DataFrame) -> None:
    def interrupt(items: Any, what: str, total: int | None = None, unit: str = "files") -> Any:
        yield next(iter(items))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        whole(tmp_path, rows, watch=interrupt)
    for number in (0, 1):
        spoil(tmp_path / f"raw/train/{number}.png")
    assert (whole(tmp_path, rows) == [noise(4, 4, 3, seed=number) for number in range(5)]).all()
    assert len(cached(tmp_path)) == 1


def begun(tmp_path: Path, rows: pd.DataFrame) -> PackedImages:
    """Return images of which the first two are decoded, as a killed process leaves them."""
    images = images_of(tmp_path, rows)
    with pytest.raises(RuntimeError, match="killed"), images.reading() as take:
        take(places(0))
        raise RuntimeError("killed")
    assert images.journal.read_bytes() == b"\1\1\0\0\0"
    return images


@pytest.mark.usefixtures("small_chunks")
def test_what_was_left_of_other_files_is_removed_and_not_gone_on_with(tmp_path: Path, rows: pd.DataFrame) -> None:
    left = begun(tmp_path, rows)
    Image.fromarray(noise(4, 4, 3, seed=99)).save(tmp_path / "raw/train/1.png")
    other = images_of(tmp_path, rows, name="test")
    other.partial.write_bytes(b"of another set")
    assert (whole(tmp_path, rows)[1] == noise(4, 4, 3, seed=99)).all()
    assert not left.partial.exists() and not left.journal.exists()
    assert other.partial.exists()


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("damage", ["no partial file", "short partial file", "no journal", "short journal"])
def test_a_partial_file_without_its_like_journal_is_begun_anew(tmp_path: Path, rows: pd.DataFrame, damage: str) -> None:
    left = begun(tmp_path, rows)
    path = left.journal if "journal" in damage else left.partial
    path.unlink() if "no" in damage else path.write_bytes(path.read_bytes()[:-1])
    left.partial.touch()
    assert (whole(tmp_path, rows) == [noise(4, 4, 3, seed=number) for number in range(5)]).all()
    assert list(cached(tmp_path)) == [left.path.name]


def test_a_second_process_is_told_of_the_first(
    tmp_path: Path, rows: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = images_of(tmp_path, rows)
    with images.reading() as take:
        take(places(0))
        monkeypatch.setattr(packed, "only_one", lambda path, doing: only_one(path, doing, patience=0))
        with pytest.raises(UserError, match=r"Another process is decoding the images labelled-4px in .*cache\. Wait"):
            whole(tmp_path, rows)
        assert len(whole(tmp_path, rows, name="test")) == 5
    assert len(images.whole()) == 5


def test_a_second_process_that_waited_takes_what_the_first_one_made(
    tmp_path: Path, rows: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def after_another(path: Path, doing: str) -> Iterator[int]:
        monkeypatch.setattr(packed, "only_one", only_one)
        whole(tmp_path, rows)
        spoil(tmp_path / "raw/train/3.png")
        with only_one(path, doing) as lock:
            yield lock

    monkeypatch.setattr(packed, "only_one", after_another)
    assert (whole(tmp_path, rows)[3] == noise(4, 4, 3, seed=3)).all()


def touch(path: Path) -> None:
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


def test_by_bytes_a_copied_data_set_is_not_decoded_again(tmp_path: Path, rows: pd.DataFrame) -> None:
    def arrays() -> dict[str, int]:
        return {name: changed for name, changed in cached(tmp_path).items() if name.endswith(".npy")}

    whole(tmp_path, rows, by="bytes")
    before = arrays()
    for path in (tmp_path / "raw/train").iterdir():
        touch(path)
    assert (whole(tmp_path, rows, by="bytes")[4] == noise(4, 4, 3, seed=4)).all()
    assert arrays() == before
    whole(tmp_path, rows, by="time")
    assert len(arrays().keys() - before.keys()) == 1


def test_by_bytes_a_change_of_content_is_noticed(tmp_path: Path, rows: pd.DataFrame) -> None:
    whole(tmp_path, rows, by="bytes")
    path = tmp_path / "raw/train/3.png"
    size = path.stat().st_size
    Image.fromarray(noise(4, 4, 3, seed=99)).save(path, compress_level=0)
    touch(path)
    assert path.stat().st_size == size
    assert (whole(tmp_path, rows, by="bytes")[3] == noise(4, 4, 3, seed=99)).all()
    whole(tmp_path, rows.iloc[::-1], by="bytes")
    assert (whole(tmp_path, rows.iloc[::-1], by="bytes")[0] == noise(4, 4, 3, seed=4)).all()


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("there", [False, True])
def test_images_are_taken_from_any_places_in_any_order(tmp_path: Path, rows: pd.DataFrame, there: bool) -> None:
    if there:
        whole(tmp_path, rows)
    with images_of(tmp_path, rows).reading() as take:
        for chosen in ([0], [0, 1], [1, 2, 4], [4, 0, 1, 0], [3, 2, 1]):
            taken = take(places(*chosen))
            assert taken.dtype == np.uint8
            assert (taken == [noise(4, 4, 3, seed=number) for number in chosen]).all()
    assert len(cached(tmp_path)) == 1


@pytest.mark.usefixtures("small_chunks")
def test_images_are_there_before_later_ones_are_decoded(tmp_path: Path, rows: pd.DataFrame) -> None:
    images = images_of(tmp_path, rows)
    spoil(tmp_path / "raw/train/4.png")
    with pytest.raises(UserError, match=r"4\.png \(id 'id4', (train|test)\)"), images.reading() as take:
        assert (take(places(0, 1, 2, 3)) == [noise(4, 4, 3, seed=number) for number in range(4)]).all()
        assert not images.path.exists()
        take(places(4))
    assert cached(tmp_path) == {}


@pytest.mark.usefixtures("small_chunks")
def test_what_nobody_took_is_decoded_at_the_end(tmp_path: Path, rows: pd.DataFrame) -> None:
    with images_of(tmp_path, rows).reading() as take:
        take(places(0))
    (path,) = (tmp_path / "cache").iterdir()
    assert (np.load(path) == [noise(4, 4, 3, seed=number) for number in range(5)]).all()


def test_later_images_are_decoded_while_the_first_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "CHUNK_IMAGES", 1)
    monkeypatch.setattr(processes, "cores", lambda: 2)
    rows = make_images(tmp_path / "raw", 12)
    images = images_of(tmp_path, rows)
    before = multiprocessing.active_children()
    with pytest.raises(RuntimeError, match="enough"), images.reading() as take:
        take(places(0))
        deadline = time.monotonic() + 30
        while sum(images.journal.read_bytes()) < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert images.journal.read_bytes().startswith(b"\1\1\1\1")
        raise RuntimeError("enough")
    assert multiprocessing.active_children() == before
    assert not images.path.exists()
    with images_of(tmp_path, rows).reading() as take:
        assert (take(places(*range(12))) == [noise(4, 4, 3, seed=number) for number in range(12)]).all()
    assert list(cached(tmp_path)) == [images.path.name]


def test_a_file_that_was_cut_short_is_named(tmp_path: Path, rows: pd.DataFrame) -> None:
    images = images_of(tmp_path, rows)
    images.whole()
    images.path.write_bytes(images.path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"npy is cut short\. Remove it"):
        images.whole()
    with images.reading() as take:
        take(places(3))
        with pytest.raises(UserError, match=r"npy is cut short\. Remove it"):
            take(places(4))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux says how much of files is in memory")
def test_what_is_read_does_not_stay_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "MOST_READ_BYTES", 0)
    rows = pd.DataFrame({"id": [str(number) for number in range(2000)]})
    rows["path"] = rows["id"]
    images = images_of(tmp_path, rows, size=64)
    images.path.parent.mkdir()
    length = len(rows) * 64 * 64 * 3
    images.path.write_bytes(images.header + bytes(length))

    def resident() -> int:
        found = re.search(r"RssFile:\s+(\d+) kB", Path("/proc/self/status").read_text())
        assert found is not None
        return int(found[1]) * 1024

    before = resident()
    with images.reading() as take:
        for first in range(0, 2000, 100):
            take(np.arange(first, first + 100))
    assert resident() - before < length / 8
    array = images.whole()
    assert array.sum() == 0
    assert resident() - before > length / 2  # so that the figure can tell
