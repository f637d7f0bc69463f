"""Fingerprints: of the bytes alone, taken once, and never taken for those of another image."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from pipelines.dataset import fingerprints as module
from pipelines.dataset.fingerprints import BLOCK_IMAGES, TASK_IMAGES, fingerprints
from pipelines.system.errors import UserError
from pipelines.system.files import CHUNK_BYTES, partial_name
from tests.support.image_sets import image_set

MORE_THAN_A_BLOCK = BLOCK_IMAGES + TASK_IMAGES + 3


class Folder:
    """Images that are short texts, and the count of those that each call reads."""

    def __init__(self, root: Path, count: int) -> None:
        self.raw, self.cache = root / "raw", root / "cache"
        self.record = self.cache / "labelled-fingerprints.npz"
        self.read: list[int] = []
        (self.raw / "train").mkdir(parents=True)
        for number in range(count):
            self.write(f"train/{number}.png", f"image {number}".encode())
        self.rows = self.table(f"train/{number}.png" for number in range(count))

    def table(self, paths: Iterable[str]) -> pd.DataFrame:
        """Return rows for `paths`, with the index that they have in a larger split table."""
        listed = list(paths)
        ids = [Path(path).stem for path in listed]
        return pd.DataFrame({"id": ids, "path": listed}, index=range(10, 10 + len(listed)), dtype=str)

    def write(self, path: str, content: bytes) -> None:
        (self.raw / path).write_bytes(content)

    def write_unnoticed(self, path: str, content: bytes) -> None:
        """Change bytes, but neither size nor time: who has not opened the file cannot know."""
        status = (self.raw / path).stat()
        assert status.st_size == len(content)
        self.write(path, content)
        os.utime(self.raw / path, ns=(status.st_atime_ns, status.st_mtime_ns))

    def touch(self, path: str) -> None:
        status = (self.raw / path).stat()
        os.utime(self.raw / path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))

    def call(self, rows: pd.DataFrame | None = None) -> list[int]:
        """Return the fingerprints; `read` then says how many files were opened, in a list that is empty for none."""
        self.read = []
        rows = self.rows if rows is None else rows
        found = fingerprints(image_set(rows, self.raw, self.cache), self.watch)  # type: ignore[arg-type]
        assert found.shape == (len(rows),)
        assert found.dtype == np.uint64
        return [int(fingerprint) for fingerprint in found]

    def watch(self, items: Iterable[object], what: str, total: int = 0, unit: str = "") -> Iterator[object]:
        assert (what, unit) == ("reading", "images")
        self.read.append(total)
        count = 0
        for item in items:
            count += 1
            yield item
        assert count == total

    def recorded(self) -> npt.NDArray[np.void]:
        with np.load(self.record, allow_pickle=False) as content:
            entries: npt.NDArray[np.void] = content["entries"]
            return entries

    def state(self) -> tuple[int, int]:
        """What changes whenever the record is written."""
        status = self.record.stat()
        return status.st_ino, status.st_mtime_ns


def fingerprint(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def expected(numbers: Iterable[int]) -> list[int]:
    return [fingerprint(f"image {number}".encode()) for number in numbers]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path, 5)


def test_a_fingerprint_is_that_of_all_bytes(folder: Folder) -> None:
    contents = [b"", b"x", b"x" * CHUNK_BYTES, b"x" * (CHUNK_BYTES + 1), os.urandom(3 * CHUNK_BYTES)]
    for number, content in enumerate(contents):
        folder.write(f"train/{number}.png", content)
    assert folder.call() == [fingerprint(content) for content in contents]


def test_several_callers_at_once_do_not_stand_in_one_another_s_way(folder: Folder) -> None:
    def call(count: int) -> list[int]:
        return fingerprints(image_set(folder.rows.head(count), folder.raw, folder.cache)).tolist()

    with ThreadPoolExecutor(5) as pool:
        for found, count in zip(pool.map(call, range(1, 6)), range(1, 6), strict=True):
            assert found == expected(range(count))


def test_it_is_the_same_on_every_machine_and_for_good(folder: Folder) -> None:
    assert folder.call()[0] == 0x3EC613A5EACAFEB5


def test_they_come_in_the_order_of_the_rows_whatever_was_recorded(folder: Folder) -> None:
    assert folder.call(folder.rows.iloc[[3, 0, 4, 1, 2]]) == expected([3, 0, 4, 1, 2])
    state = folder.state()
    assert folder.call(folder.rows.iloc[[2, 4, 1, 0, 3]]) == expected([2, 4, 1, 0, 3])
    assert folder.read == []
    assert folder.state() == state  # another order is nothing new


def test_a_second_call_opens_no_file_and_writes_nothing(folder: Folder) -> None:
    assert folder.call() == expected(range(5))
    assert folder.read == [5]
    state = folder.state()
    for number in range(5):
        folder.write_unnoticed(f"train/{number}.png", b"IMAGE !")
    assert folder.call() == expected(range(5))
    assert folder.read == []
    assert folder.state() == state


def test_a_touched_file_is_read_once_and_keeps_its_fingerprint(folder: Folder) -> None:
    folder.call()
    folder.touch("train/3.png")
    assert folder.call() == expected(range(5))
    assert folder.read == [1]
    folder.write_unnoticed("train/3.png", b"IMAGE !")
    assert folder.call() == expected(range(5))
    assert folder.read == []


@pytest.mark.parametrize("content", [b"another image, of another size", b"IMAGE 3"])
def test_a_changed_image_has_another_fingerprint_and_only_it_is_read(folder: Folder, content: bytes) -> None:
    before = folder.call()
    folder.write("train/3.png", content)
    folder.touch("train/3.png")  # the clock of a file system may tick more slowly than this test runs
    after = folder.call()
    assert folder.read == [1]
    assert after[3] == fingerprint(content)
    assert after[:3] + after[4:] == before[:3] + before[4:]


def test_another_size_is_noticed_at_the_same_time(folder: Folder) -> None:
    folder.call()
    status = (folder.raw / "train/3.png").stat()
    folder.write("train/3.png", b"longer than it was")
    os.utime(folder.raw / "train/3.png", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert folder.call()[3] == fingerprint(b"longer than it was")


def test_a_renamed_image_keeps_its_fingerprint(folder: Folder) -> None:
    before = folder.call()
    (folder.raw / "train/3.png").rename(folder.raw / "train/new name ä.png")
    rows = folder.table(folder.rows["path"].replace("train/3.png", "train/new name ä.png"))
    assert folder.call(rows) == before
    assert folder.read == [1]


def test_two_images_that_swap_names_swap_fingerprints(folder: Folder) -> None:
    folder.call()
    for number in range(5):
        os.utime(folder.raw / f"train/{number}.png", ns=(number, number))
    folder.call()
    for old, new in (("0", "x"), ("1", "0"), ("x", "1")):
        (folder.raw / f"train/{old}.png").rename(folder.raw / f"train/{new}.png")
    assert folder.call() == expected([1, 0, 2, 3, 4])
    assert folder.read == [2]


def test_images_of_the_same_bytes_have_the_same_fingerprint(folder: Folder) -> None:
    folder.write("train/3.png", b"image 1")
    assert folder.call() == expected([0, 1, 2, 1, 4])


def test_added_rows_alone_are_read_and_removed_ones_forgotten(folder: Folder) -> None:
    assert folder.call(folder.rows.iloc[:3]) == expected(range(3))
    assert folder.call() == expected(range(5))
    assert folder.read == [2]
    assert len(folder.recorded()) == 5
    assert folder.call(folder.rows.iloc[1:3]) == expected([1, 2])
    assert folder.read == []
    assert len(folder.recorded()) == 2
    assert folder.call() == expected(range(5))
    assert folder.read == [3]


def test_no_rows_have_no_fingerprints(folder: Folder) -> None:
    assert folder.call(folder.rows.iloc[:0]) == []
    folder.call()
    assert folder.call(folder.rows.iloc[:0]) == []


def test_another_name_is_another_record(folder: Folder) -> None:
    folder.call()
    state = folder.state()
    fingerprints(image_set(folder.rows.iloc[:2], folder.raw, folder.cache, "test"))
    assert folder.state() == state
    assert sorted(path.name for path in folder.cache.iterdir()) == [
        "labelled-fingerprints.npz",
        "test-fingerprints.npz",
    ]


def test_the_record_holds_no_objects_and_32_bytes_an_image(folder: Folder) -> None:
    folder.call()
    assert folder.recorded().dtype.itemsize == 32
    assert not folder.recorded().dtype.hasobject


def test_a_record_cut_anywhere_is_made_anew(folder: Folder) -> None:
    folder.call()
    whole = folder.record.read_bytes()
    for length in range(0, len(whole), 23):
        folder.record.write_bytes(whole[:length])
        assert folder.call() == expected(range(5))
        assert folder.read == [5], length
        assert folder.record.read_bytes() == whole


def test_a_damaged_byte_never_changes_a_fingerprint(folder: Folder) -> None:
    folder.call()
    whole = folder.record.read_bytes()
    for place in range(0, len(whole), 17):
        damaged = bytearray(whole)
        damaged[place] ^= 0x41
        folder.record.write_bytes(damaged)
        assert folder.call() == expected(range(5)), place


@pytest.mark.parametrize("kind", ["text", "array", "pickle", "other fields", "another format"])
def test_a_record_of_another_format_is_made_anew(folder: Folder, kind: str) -> None:
    folder.call()
    entries = folder.recorded()
    wrong = entries.copy()
    wrong["fingerprint"] = 1
    if kind == "text":
        folder.record.write_text("no record")
    else:
        with open(folder.record, "wb") as file:
            if kind == "array":
                np.save(file, wrong)
            elif kind == "pickle":
                np.savez(file, format=np.array(module.FORMAT), entries=np.array([None, {}]))
            elif kind == "other fields":
                np.savez(file, format=np.array(module.FORMAT), entries=wrong[["path", "size", "modified"]])
            else:
                np.savez(file, format=np.array("md5-0"), entries=wrong)
    assert folder.call() == expected(range(5))
    assert folder.read == [5]
    assert (folder.recorded() == entries).all()


@pytest.mark.parametrize("before", [False, True])
def test_a_missing_image_is_named_with_its_row(folder: Folder, before: bool) -> None:
    if before:
        folder.call()
    (folder.raw / "train/3.png").unlink()
    with pytest.raises(UserError) as caught:
        folder.call()
    assert f"{folder.raw / 'train/3.png'} (id '3', train): the file is missing\n" in str(caught.value)
    assert folder.call(folder.rows.drop(index=folder.rows.index[3])) == [*expected(range(3)), *expected([4])]
    assert folder.read == []  # the others were kept


def test_a_missing_folder_is_a_missing_image(folder: Folder) -> None:
    with pytest.raises(UserError, match=r"train/0\.png/deep\.png \(id 'deep', train\): the file is missing"):
        folder.call(folder.table(["train/0.png/deep.png"]))


def test_what_cannot_be_opened_is_named_and_what_was_read_is_kept(folder: Folder) -> None:
    (folder.raw / "train/3.png").unlink()
    (folder.raw / "train/3.png").mkdir()
    with pytest.raises(UserError, match=r"train/3\.png \(id '3', train\): it is a folder"):
        folder.call(folder.rows)
    (folder.raw / "train/3.png").rmdir()
    folder.write("train/3.png", b"image 3")
    assert folder.call() == expected(range(5))


def test_more_than_a_block_is_read_in_order(tmp_path: Path) -> None:
    folder = Folder(tmp_path, MORE_THAN_A_BLOCK)
    reversed_rows = folder.rows.iloc[::-1]
    assert folder.call(reversed_rows) == expected(range(MORE_THAN_A_BLOCK))[::-1]
    places = [0, TASK_IMAGES, BLOCK_IMAGES - 1, BLOCK_IMAGES, MORE_THAN_A_BLOCK - 1]
    for place in places:
        folder.touch(f"train/{place}.png")
    assert folder.call() == expected(range(MORE_THAN_A_BLOCK))
    assert folder.read == [len(places)]


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interrupted_call_goes_on_where_it_was(folder: Folder, error: type[BaseException]) -> None:
    def interrupt(items: Iterable[object], what: str, total: int = 0, unit: str = "") -> Iterator[object]:
        for count, item in enumerate(items):
            if count == 3:
                raise error
            yield item

    folder.call(folder.rows.iloc[:1])
    with pytest.raises(error):
        fingerprints(image_set(folder.rows, folder.raw, folder.cache), interrupt)  # type: ignore[arg-type]
    assert len(folder.recorded()) == 4
    assert folder.call() == expected(range(5))
    assert folder.read == [1]


KILLED = """
import json, os, signal, sys
from pathlib import Path
import pandas as pd
from pipelines.dataset import fingerprints as module
from tests.support.image_sets import image_set

raw, cache, paths, images = json.loads(sys.argv[1])
module.SAVE_SECONDS = 0.0

def watch(items, what, total, unit):
    for count, item in enumerate(items):
        if count == images:
            os.kill(os.getpid(), signal.SIGKILL)
        yield item

module.fingerprints(image_set(pd.DataFrame({"id": paths, "path": paths}), Path(raw), Path(cache)), watch)
"""


def test_a_killed_call_goes_on_where_it_last_saved(folder: Folder) -> None:
    arguments = json.dumps([str(folder.raw), str(folder.cache), folder.rows["path"].tolist(), 3])
    root = Path(__file__).parents[2]
    killed = subprocess.run([sys.executable, "-c", KILLED, arguments], cwd=root, check=False)
    assert killed.returncode == -signal.SIGKILL
    partial_name(folder.record).write_bytes(b"half a record")  # as one killed while saving leaves it
    assert folder.call() == expected(range(5))
    assert folder.read == [2]
    assert [path.name for path in folder.cache.iterdir()] == [folder.record.name]
