"""Features on disk: rows are whole and correct after any interruption, and never those of another image."""

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
import torch

from pipelines.models import feature_store as module
from pipelines.models.feature_store import FeatureStore, view_keys
from pipelines.system.errors import UserError

ROOT = Path(__file__).parents[2]
ABOUT = {"backbone": "resnet18", "view": {"size": 224, "mean": (0.5, 0.25)}, "Gerät": None}
DIMENSIONS = 3
Dtype = Literal["float16", "float32"]
DTYPES: tuple[Dtype, ...] = ("float16", "float32")


def open_store(folder: Path, dtype: Dtype = "float16") -> FeatureStore:
    return FeatureStore(folder / "store", ABOUT, DIMENSIONS, dtype)


def keys(*numbers: int) -> npt.NDArray[np.uint64]:
    """Return keys spread over the range of uint64."""
    return view_keys(np.array(numbers, np.uint64), "test")


def values(*numbers: int) -> npt.NDArray[np.float32]:
    """Return the row of each number's key; exact in float16 up to 600."""
    return np.array([[number, number + 0.5, -number] for number in numbers], np.float32).reshape(-1, DIMENSIONS)


def append(store: FeatureStore, *numbers: int) -> None:
    with store.writing():
        store.append(keys(*numbers), values(*numbers))


def numbers_in(store: FeatureStore, most: int = 600) -> list[int]:
    """Return the numbers whose keys are present, in the order of their rows, after checking every row."""
    rows = store.find(keys(*range(most)))
    present = np.flatnonzero(rows >= 0)
    assert (store.values()[rows[present]] == values(*present.tolist())).all()
    assert sorted(rows[present]) == list(range(len(store)))
    return [int(number) for number in present[np.argsort(rows[present])]]


@pytest.fixture(params=DTYPES)
def dtype(request: pytest.FixtureRequest) -> Dtype:
    name: Dtype = request.param
    return name


# --- finding and appending


def test_an_empty_store_has_no_rows_and_leaves_no_trace(tmp_path: Path, dtype: Dtype) -> None:
    store = open_store(tmp_path, dtype)
    assert len(store) == store.lost == 0
    assert store.values().shape == (0, DIMENSIONS)
    assert store.values().dtype == dtype
    assert store.find(keys(1, 2)).tolist() == [-1, -1]
    assert list(tmp_path.iterdir()) == []


def test_rows_come_back_under_their_keys(tmp_path: Path, dtype: Dtype) -> None:
    store = open_store(tmp_path, dtype)
    with store.writing():
        store.append(keys(5, 3), values(5, 3))
        assert store.find(keys(3, 4)).tolist() == [1, -1]
        store.append(keys(4), values(4))
        assert store.find(keys(3, 4)).tolist() == [1, 2]
    for again in (store, open_store(tmp_path, dtype)):
        assert len(again) == 3
        assert numbers_in(again) == [5, 3, 4]
        assert again.values().dtype == dtype
        assert again.lost == 0


def test_a_store_grows_from_one_opening_to_the_next(tmp_path: Path) -> None:
    for number in range(4):
        append(open_store(tmp_path), number, number + 100)
    assert numbers_in(open_store(tmp_path)) == [0, 100, 1, 101, 2, 102, 3, 103]


def test_keys_of_any_shape_are_found(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    append(store, *range(6))
    found = store.find(keys(5, 9, 0, 1, 9, 2).reshape(3, 2))
    assert found.dtype == np.int64
    assert found.tolist() == [[5, -1], [0, 1], [-1, 2]]
    assert store.find(keys(4).reshape(())).tolist() == 4
    assert store.find(keys()).tolist() == []
    assert store.find(np.empty((0, 4), np.uint64)).shape == (0, 4)


def test_the_least_and_the_greatest_keys_and_their_neighbours(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    least, most = 0, 2**64 - 1
    with store.writing():
        store.append(np.array([most, 2**63, least], np.uint64), values(1, 2, 3))
    asked = [least, least + 1, 2**63 - 1, 2**63, 2**63 + 1, most - 1, most]
    assert store.find(np.array(asked, np.uint64)).tolist() == [2, -1, -1, 1, -1, -1, 0]


def test_of_equal_keys_the_first_row_is_found(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    with store.writing():
        store.append(keys(7, 1, 7), values(1, 2, 3))
        store.append(keys(7, 2), values(4, 5))
    assert len(store) == 5
    for again in (store, open_store(tmp_path)):
        assert again.find(keys(7, 1, 2)).tolist() == [0, 1, 4]
    numbers = np.arange(1000) % 100
    append(open_store(tmp_path / "many"), *numbers.tolist())
    assert (open_store(tmp_path / "many").find(keys(*range(100))) == np.arange(100)).all()


def test_nothing_can_be_appended(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    append(store)
    append(store, 1)
    append(store)
    assert numbers_in(open_store(tmp_path)) == [1]


def test_what_is_on_the_disk_can_be_read_without_this_module(tmp_path: Path, dtype: Dtype) -> None:
    append(open_store(tmp_path, dtype), 1, 2)
    folder = tmp_path / "store"
    assert sorted(path.name for path in folder.iterdir()) == ["about.json", "keys.u64", "lock", f"values.{dtype}"]
    rows = np.fromfile(folder / f"values.{dtype}", {"float16": "<f2", "float32": "<f4"}[dtype])
    assert rows.tolist() == values(1, 2).ravel().tolist()
    assert np.fromfile(folder / "keys.u64", "<u8").tolist() == keys(1, 2).tolist()
    about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
    assert about == {
        "format": 1,
        "dimensions": DIMENSIONS,
        "dtype": dtype,
        "about": {"backbone": "resnet18", "view": {"size": 224, "mean": [0.5, 0.25]}, "Gerät": None},
    }
    assert "Gerät" in (folder / "about.json").read_text(encoding="utf-8")


def test_arrays_in_any_order_of_memory_are_appended(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    with store.writing():
        store.append(keys(0, 9, 1, 9, 2)[::2], np.asfortranarray(values(0, 1, 2)))
    assert numbers_in(store) == [0, 1, 2]


# --- errors


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_whole(tmp_path: Path, dtype: Dtype, bad: float) -> None:
    store = open_store(tmp_path, dtype)
    append(store, 1)
    rows = values(2, 3)
    rows[1, 1] = bad
    with store.writing(), pytest.raises(ValueError, match=f"1 of 6 values are not finite as {dtype}"):
        store.append(keys(2, 3), rows)
    assert numbers_in(open_store(tmp_path, dtype)) == [1]


def test_what_is_too_large_for_float16_is_refused(tmp_path: Path) -> None:
    rows = np.array([[65504.0, -65504.0, 70000.0]], np.float32)
    store = open_store(tmp_path, "float16")
    with store.writing(), pytest.raises(ValueError, match="1 of 3 values are not finite as float16"):
        store.append(keys(1), rows)
    wide = FeatureStore(tmp_path / "wide", ABOUT, DIMENSIONS, "float32")
    with wide.writing():
        wide.append(keys(1), rows)
    assert (wide.values() == rows).all()


@pytest.mark.parametrize("shape", [(1, DIMENSIONS), (2, DIMENSIONS + 1), (2,), (2, DIMENSIONS, 1)])
def test_values_of_another_shape_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    store = open_store(tmp_path)
    with store.writing(), pytest.raises(ValueError, match="values of shape"):
        store.append(keys(1, 2), np.zeros(shape, np.float32))


def test_appending_needs_the_lock(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    with pytest.raises(RuntimeError, match=r"outside of FeatureStore\.writing"):
        store.append(keys(1), values(1))
    append(store, 1)
    with pytest.raises(RuntimeError, match=r"outside of FeatureStore\.writing"):
        store.append(keys(2), values(2))


# --- memory-mapped values


def test_torch_takes_the_values_without_a_copy_or_a_warning(tmp_path: Path, dtype: Dtype) -> None:
    store = open_store(tmp_path, dtype)
    append(store, 1, 2)
    mapped = store.values()
    tensor = torch.from_numpy(mapped)  # warnings are errors here
    assert tensor.data_ptr() == mapped.ctypes.data
    assert (tensor.float().numpy() == values(1, 2)).all()


def test_writing_to_the_values_does_not_reach_the_disk(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    append(store, 1, 2)
    store.values()[0] = 9
    assert numbers_in(store) == [1, 2]
    assert numbers_in(open_store(tmp_path)) == [1, 2]


def test_values_that_are_mapped_stay_while_others_are_appended(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    append(store, 1)
    mapped = store.values()
    append(store, *range(2, 100))
    assert (mapped == values(1)).all()
    assert len(store.values()) == 99


def test_values_larger_than_the_memory_are_mapped(tmp_path: Path) -> None:
    rows, dimensions = 1 << 10, 1 << 28  # a tebibyte, all of it holes
    store = FeatureStore(tmp_path / "store", {}, dimensions, "float32")
    with store.writing():
        pass
    for name, size in (("keys.u64", rows * 8), ("values.float32", rows * dimensions * 4)):
        with open(tmp_path / "store" / name, "wb") as file:
            file.truncate(size)
    store = FeatureStore(tmp_path / "store", {}, dimensions, "float32")
    mapped = store.values()
    assert mapped.shape == (rows, dimensions)
    assert mapped[-1, -1] == 0
    torch.from_numpy(mapped)


# --- the description of a store


@pytest.mark.parametrize(
    "change, said",
    [
        ({"about": ABOUT | {"backbone": "vit"}}, 'about.backbone is "resnet18", and should be "vit"'),
        ({"about": ABOUT | {"view": {"size": 64, "mean": (0.5, 0.25)}}}, "about.view.size is 224, and should be 64"),
        ({"about": ABOUT | {"view": 1}}, 'about.view is {"size": 224, "mean": [0.5, 0.25]}, and should be 1'),
        ({"about": ABOUT | {"new": 1}}, "about.new is absent, and should be 1"),
        ({"about": {"backbone": "resnet18"}}, "about.Gerät is null, and should be absent"),
        ({"dimensions": 4}, "dimensions is 3, and should be 4"),
        ({"dtype": "float32"}, 'dtype is "float16", and should be "float32"'),
    ],
)
def test_a_folder_of_other_features_is_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    append(open_store(tmp_path), 1)
    asked: dict[str, Any] = {"about": ABOUT, "dimensions": DIMENSIONS, "dtype": "float16"} | change
    with pytest.raises(UserError) as caught:
        FeatureStore(tmp_path / "store", asked["about"], asked["dimensions"], asked["dtype"])
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'store' / 'about.json'} describes other features: ")
    assert said in message
    assert message.endswith(f". Remove its folder, to compute the features again: rm -r {tmp_path / 'store'}")
    assert numbers_in(open_store(tmp_path)) == [1]


def test_another_version_of_the_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append(open_store(tmp_path), 1)
    monkeypatch.setattr(module, "FORMAT", 2)
    with pytest.raises(UserError, match="format is 1, and should be 2"):
        open_store(tmp_path)


DAMAGES = {"missing": None, "empty": b"", "half": b'{"format": 1,', "a list": b"[]", "not UTF-8": b"\xff\xfe"}


@pytest.mark.parametrize("damage", DAMAGES)
def test_features_of_an_unknown_kind_are_refused(tmp_path: Path, damage: str) -> None:
    append(open_store(tmp_path), 1)
    about = tmp_path / "store" / "about.json"
    about.unlink()
    if (content := DAMAGES[damage]) is not None:
        about.write_bytes(content)
    with pytest.raises(
        UserError, match=r"about\.json .*\. Remove its folder, to compute the features again: rm -r .*store"
    ):
        open_store(tmp_path)


@pytest.mark.parametrize("damage", ["missing", "empty", "half"])
def test_a_damaged_description_of_an_empty_store_is_rewritten(tmp_path: Path, damage: str) -> None:
    append(open_store(tmp_path))
    about = tmp_path / "store" / "about.json"
    about.unlink()
    if (content := DAMAGES[damage]) is not None:
        about.write_bytes(content)
    append(open_store(tmp_path), 1)
    assert numbers_in(open_store(tmp_path)) == [1]


def test_a_removed_folder_is_created_again(tmp_path: Path) -> None:
    append(open_store(tmp_path), 1)
    shutil.rmtree(tmp_path / "store")
    store = open_store(tmp_path)
    assert store.find(keys(1)).tolist() == [-1]
    append(store, 2)
    assert numbers_in(open_store(tmp_path)) == [2]


# --- files cut short, or longer than they should be


def cut(path: Path, size: int) -> None:
    with open(path, "rb+") as file:
        file.truncate(size)


def sizes(folder: Path, dtype: Dtype) -> tuple[Path, Path, int]:
    """The files of keys and of values, and the bytes of a row."""
    return folder / "store/keys.u64", folder / f"store/values.{dtype}", DIMENSIONS * np.dtype(dtype).itemsize


def test_values_cut_anywhere_keep_their_whole_rows(tmp_path: Path, dtype: Dtype) -> None:
    append(open_store(tmp_path, dtype), *range(5))
    _, values_file, row = sizes(tmp_path, dtype)
    for size in reversed(range(5 * row)):
        cut(values_file, size)
        store = open_store(tmp_path, dtype)
        assert numbers_in(store) == list(range(size // row))
        assert store.lost == 5 - size // row


def test_rows_lost_are_appended_again_and_then_lost_no_more(tmp_path: Path, dtype: Dtype) -> None:
    append(open_store(tmp_path, dtype), *range(5))
    _, values_file, row = sizes(tmp_path, dtype)
    cut(values_file, 2 * row + 3)
    store = open_store(tmp_path, dtype)
    with store.writing():
        assert store.lost == 3
        store.append(keys(7), values(7))
    assert numbers_in(store) == [0, 1, 7]
    again = open_store(tmp_path, dtype)
    assert numbers_in(again) == [0, 1, 7]
    assert again.lost == 0


def test_keys_cut_anywhere_keep_the_whole_ones(tmp_path: Path, dtype: Dtype) -> None:
    append(open_store(tmp_path, dtype), *range(5))
    for size in reversed(range(5 * 8)):
        cut(tmp_path / "store/keys.u64", size)
        store = open_store(tmp_path, dtype)
        assert numbers_in(store) == list(range(size // 8))
        assert store.lost == 0


@pytest.mark.parametrize("keys_size", [0, 5, 8, 19])
@pytest.mark.parametrize("values_size", [0, 7, 12, 13, 29, 36])
def test_what_lies_beyond_the_whole_rows_is_overwritten(tmp_path: Path, keys_size: int, values_size: int) -> None:
    append(open_store(tmp_path), 1, 2, 3, 4, 5, 6)
    keys_file, values_file, row = sizes(tmp_path, "float16")
    cut(keys_file, keys_size)
    cut(values_file, values_size)
    whole = [1, 2, 3, 4, 5, 6][: min(keys_size // 8, values_size // row)]
    for number in (8, 9):
        append(open_store(tmp_path), number)
        whole.append(number)
        assert numbers_in(open_store(tmp_path)) == whole
        assert keys_file.stat().st_size == 8 * len(whole)
        assert values_file.stat().st_size == row * len(whole)


@pytest.mark.parametrize("name", ["keys.u64", "values.float16"])
def test_a_missing_file_is_one_cut_to_nothing(tmp_path: Path, name: str) -> None:
    append(open_store(tmp_path), 1, 2)
    (tmp_path / "store" / name).unlink()
    store = open_store(tmp_path)
    assert len(store) == 0
    assert store.lost == (2 if name.startswith("values") else 0)
    append(store, 3)
    assert numbers_in(open_store(tmp_path)) == [3]


@pytest.mark.parametrize("name", ["keys.u64", "values.float16"])
def test_a_file_cut_while_it_is_being_written_is_not_filled_with_zeros(tmp_path: Path, name: str) -> None:
    store = open_store(tmp_path)
    with store.writing():
        store.append(keys(1, 2), values(1, 2))
        cut(tmp_path / "store" / name, 4)
        with pytest.raises(UserError, match=f"{name} was cut short while it was being written. Run the same command"):
            store.append(keys(3), values(3))
    append(open_store(tmp_path), 4)
    assert numbers_in(open_store(tmp_path)) == [4]


# --- stopped in the middle


@pytest.mark.parametrize("before", ["nothing", "whole", "values cut", "keys cut"])
@pytest.mark.parametrize("stop", range(1, 7))
def test_stopped_at_any_write_to_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str, stop: int
) -> None:
    """From any state before the append, no row is found under the key of another."""
    keys_file, values_file, row = sizes(tmp_path, "float16")
    expected: list[int] = []
    if before != "nothing":
        append(open_store(tmp_path), 1, 2, 3, 4, 5)
        expected = [1, 2, 3, 4, 5]
    if before == "values cut":
        cut(values_file, 2 * row + 1)
    if before == "keys cut":
        cut(keys_file, 2 * 8 + 1)
    if before.endswith("cut"):
        expected = [1, 2]

    real, count = os.fsync, 0

    def fsync(descriptor: int) -> None:
        nonlocal count
        count += 1
        if count == stop:
            raise KeyboardInterrupt
        real(descriptor)

    store = open_store(tmp_path)
    done = list(expected)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        try:
            with store.writing():
                for number in (11, 12):
                    store.append(keys(number, number + 10), values(number, number + 10))
                    done += [number, number + 10]
        except KeyboardInterrupt:
            pass
    everything = [*expected, 11, 21, 12, 22]
    found = numbers_in(open_store(tmp_path))
    assert found == everything[: len(found)]
    assert len(found) >= len(done)

    append(store, 31, 32, 33)  # by the stopped process, which reads the state on disk first
    after = numbers_in(open_store(tmp_path))
    assert after == [*found, 31, 32, 33]
    assert numbers_in(store) == after


def test_keys_are_written_when_their_rows_are_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys_file, values_file, row = sizes(tmp_path, "float16")
    append(open_store(tmp_path), 1)
    seen: list[tuple[int, int]] = []
    store = open_store(tmp_path)
    with store.writing():
        monkeypatch.setattr(os, "fsync", lambda _: seen.append((values_file.stat().st_size, keys_file.stat().st_size)))
        store.append(keys(2, 3), values(2, 3))
    assert seen == [(3 * row, 8), (3 * row, 3 * 8)]


def test_goes_on_within_the_same_writing_after_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys that reached the disk unconfirmed must not get the rows of the next append."""
    store = open_store(tmp_path)
    real, count = os.fsync, 0

    def fsync(descriptor: int) -> None:
        nonlocal count
        count += 1
        if count in (2, 4):  # after the first keys; after the next values
            raise OSError(errno.EIO, "Input/output error")
        real(descriptor)

    with store.writing():
        monkeypatch.setattr(os, "fsync", fsync)
        with pytest.raises(OSError, match="Input/output"):
            store.append(keys(1, 2), values(1, 2))
        with pytest.raises(OSError, match="Input/output"):
            store.append(keys(3, 4), values(3, 4))
    assert numbers_in(open_store(tmp_path)) == []


@contextmanager
def files_at_most(size: int) -> Iterator[None]:
    """Make the system refuse to grow a file beyond `size` bytes, after writing what fits."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("dimensions", [1, 40])  # the keys, or the values, are the larger file
def test_a_disk_that_fills_up_leaves_whole_rows(tmp_path: Path, dimensions: int) -> None:
    def rows_of(*numbers: int) -> npt.NDArray[np.float32]:
        return np.repeat(np.array(numbers, np.float32)[:, None], dimensions, axis=1)

    def wrong(store: FeatureStore, numbers: list[int]) -> list[int]:
        found = store.find(keys(*numbers))
        return [n for n, row in zip(numbers, found, strict=True) if row >= 0 and (store.values()[row] != n).any()]

    numbers = list(range(1, 9))
    row = max(8, dimensions * 2)
    for size in range(4 * row, 9 * row, row // 4):
        folder = tmp_path / str(size)
        store = FeatureStore(folder, {}, dimensions, "float16")
        with store.writing():
            store.append(keys(1, 2, 3, 4), rows_of(1, 2, 3, 4))
            with files_at_most(size):
                try:
                    store.append(keys(5, 6, 7, 8), rows_of(5, 6, 7, 8))
                    assert size >= 8 * row
                except OSError as error:
                    assert error.errno == errno.EFBIG
                    assert size < 8 * row
        again = FeatureStore(folder, {}, dimensions, "float16")
        assert len(again) >= 4
        assert (again.find(keys(1, 2, 3, 4)) == [0, 1, 2, 3]).all()
        assert wrong(again, numbers) == []
        assert again.lost == 0
        with again.writing():
            again.append(keys(9), rows_of(9))
        assert wrong(FeatureStore(folder, {}, dimensions, "float16"), [*numbers, 9]) == []


APPENDING = """
import sys
from pathlib import Path
import numpy as np
from pipelines.models.feature_store import FeatureStore, view_keys

store = FeatureStore(Path(sys.argv[1]), {"what": "a test"}, 700, "float32")
with store.writing():
    print("writing", flush=True)
    while True:
        numbers = np.arange(len(store), len(store) + 1 + len(store) % 61)
        store.append(view_keys(numbers, "test"), np.repeat(numbers[:, None], 700, axis=1))
"""


def test_rows_are_whole_and_right_however_often_it_is_killed(tmp_path: Path) -> None:
    folder, before = tmp_path / "store", 0
    delays = random.Random(0)
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", APPENDING, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "writing\n"
            with pytest.raises(UserError, match=r"Another process is computing features into .*store\. Wait"):
                FeatureStore(folder, {"what": "a test"}, 700, "float32").writing().__enter__()
            while not (folder / "keys.u64").exists() or (folder / "keys.u64").stat().st_size <= 8 * before:
                assert process.poll() is None
                time.sleep(0.005)
            time.sleep(delays.uniform(0, 0.05))  # so that kills happen at different points of an append
            process.kill()
        assert process.returncode == -signal.SIGKILL
        store = FeatureStore(folder, {"what": "a test"}, 700, "float32")
        rows = len(store)
        assert rows > before
        assert store.lost == 0
        assert (store.find(view_keys(np.arange(rows + 100, dtype=np.uint64), "test"))[:rows] == np.arange(rows)).all()
        assert (store.values() == np.arange(rows)[:, None]).all()
        before = rows


# --- two at once


FORKED = """
import os, sys, time
from pathlib import Path
from pipelines.models.feature_store import FeatureStore

with FeatureStore(Path(sys.argv[1]), {}, 3, "float16").writing():
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    print(child, flush=True)
    time.sleep(60)
"""


def test_a_worker_that_outlives_its_process_does_not_hold_the_lock(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, {}, DIMENSIONS, "float16")
    with subprocess.Popen(
        [sys.executable, "-c", FORKED, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        try:
            with pytest.raises(UserError, match="Another process"):
                append(store, 1)
            process.kill()
            process.wait()
            os.kill(child, 0)  # it still runs
            append(store, 1)
        finally:
            os.kill(child, signal.SIGKILL)
    assert numbers_in(store) == [1]


def test_what_another_appended_meanwhile_is_kept_and_found(tmp_path: Path) -> None:
    first, second = open_store(tmp_path), open_store(tmp_path)
    append(first, 1, 2, 3)
    assert len(second) == 0
    with second.writing():
        assert second.find(keys(3, 4)).tolist() == [2, -1]
        second.append(keys(4), values(4))
    append(first, 5)
    for store in (first, open_store(tmp_path)):
        assert numbers_in(store) == [1, 2, 3, 4, 5]


def test_what_is_being_written_can_be_read(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    with store.writing():
        for number in range(3):
            store.append(keys(number), values(number))
            assert numbers_in(open_store(tmp_path)) == list(range(number + 1))


def test_the_lock_is_let_go_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError), open_store(tmp_path).writing():
        raise KeyError
    append(open_store(tmp_path), 1)


@pytest.mark.parametrize("kind", ["no fcntl", "no locks in the file system"])
def test_where_there_are_no_locks_it_does_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    if kind == "no fcntl":
        monkeypatch.setattr("pipelines.system.files.fcntl", None)
    else:

        def refuse(*_: object) -> None:
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr("pipelines.system.files.fcntl.lockf", refuse)
    append(open_store(tmp_path), 1)
    append(open_store(tmp_path), 2)
    assert numbers_in(open_store(tmp_path)) == [1, 2]


# --- keys


def test_keys_are_the_same_on_every_machine_and_for_good() -> None:
    fingerprints = np.array([0, 1, 2**64 - 1], np.uint64)
    assert view_keys(fingerprints, "centre").tolist() == [0xFB793298FB0A31A5, 0x3045CF3B821903CC, 0x296168C7FF3EBA98]
    assert view_keys(fingerprints, "gespiegelt ä").tolist() == [
        0xCB5347557C55EA2A,
        0x04A355956BC6BF4E,
        0x255D3A0AEF986116,
    ]


@pytest.mark.parametrize("kind", ["random", "counted"])
def test_keys_of_a_million_images_and_three_views_are_all_different(kind: str) -> None:
    drawn = np.random.default_rng(0).integers(0, 2**64, 1_000_000, dtype=np.uint64)
    fingerprints = drawn if kind == "random" else np.arange(1_000_000, dtype=np.uint64)
    found = np.sort(np.concatenate([view_keys(fingerprints, view) for view in ("centre", "centre of 256", "flipped")]))
    assert len(found) == 3_000_000
    assert (found[1:] != found[:-1]).all()


def test_one_bit_of_a_fingerprint_changes_half_of_a_key() -> None:
    fingerprints = np.random.default_rng(0).integers(0, 2**64, 2000, dtype=np.uint64)
    plain = view_keys(fingerprints, "centre")
    for bit in range(64):
        changed = plain ^ view_keys(fingerprints ^ np.uint64(1 << bit), "centre")
        shares = np.unpackbits(changed.view(np.uint8).reshape(-1, 8), axis=1).mean(axis=0)
        assert ((shares > 0.4) & (shares < 0.6)).all()


def test_keys_have_the_shape_of_the_fingerprints_and_leave_them_alone() -> None:
    fingerprints = np.arange(6, dtype=np.uint64).reshape(2, 3)
    found = view_keys(fingerprints, "centre")
    assert found.shape == (2, 3)
    assert found.dtype == np.uint64
    assert fingerprints.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert view_keys(fingerprints[1, 1], "centre") == found[1, 1]
    assert view_keys(fingerprints[:0], "centre").shape == (0, 3)


def test_many_keys_are_found_at_once(tmp_path: Path) -> None:
    count = 200_000
    store = FeatureStore(tmp_path / "store", {}, 1, "float16")
    present = view_keys(np.arange(count, dtype=np.uint64), "centre")
    absent = view_keys(np.arange(count, dtype=np.uint64), "flipped")
    with store.writing():
        store.append(present, np.zeros((count, 1), np.float16))
    found = store.find(np.stack([present, absent], axis=1))
    assert (found[:, 0] == np.arange(count)).all()
    assert (found[:, 1] == -1).all()
