"""A store of features on disk: computed once, appended, and found by key.

A store is a folder: `about.json` describes what determines the features, `values.<dtype>` holds the rows, little-endian
without a header, and `keys.u64` holds the key of each row.  Keys are written after their rows are safe on disk, so the
number of whole keys is the number of rows, even after a kill.
"""

import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pipelines.system.errors import UserError
from pipelines.system.files import only_one, read_json, write_json
from pipelines.system.shell import path_word, removal

FORMAT = 1
KEY = np.dtype("<u8")
ABSENT = object()
Keys = npt.NDArray[np.uint64]


def view_keys(fingerprints: Keys, view: str) -> Keys:
    """Return the keys of one view of images: uint64, of the shape of `fingerprints`, the hashes of the image bytes.

    view: how the images are transformed before the network.  Within a view, different fingerprints have different
    keys; keys of two views are equal with probability 2**-64.  Mixing by splitmix64 (Steele, Lea and Flood, 2014).
    """
    salt = int.from_bytes(hashlib.blake2b(view.encode(), digest_size=8).digest(), "little")
    keys = np.array(fingerprints, np.uint64) ^ np.uint64(salt)
    mixed = keys.reshape(-1)  # never a scalar: numpy warns when scalars overflow
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed.reshape(keys.shape)


class FeatureStore:
    """Rows of features on disk, found by key; append-only, so a kill loses only rows not yet appended.

    lost: the number of keys in `keys.u64` whose rows are missing in `values.<dtype>` and must be computed again.
    """

    def __init__(
        self, folder: Path, about: Mapping[str, Any], dimensions: int, dtype: Literal["float16", "float32"]
    ) -> None:
        """Open the store in `folder`, empty if there is no such folder; write nothing.

        about: everything that determines the features, as JSON values.  Raises `UserError` if the folder holds
        features of another kind, or of an unknown kind.
        """
        self.folder, self.dimensions = folder, dimensions
        self.dtype = np.dtype(dtype).newbyteorder("<")
        self._row_bytes = dimensions * self.dtype.itemsize
        content = {"format": FORMAT, "dimensions": dimensions, "dtype": dtype, "about": dict(about)}
        self._about: dict[str, Any] = json.loads(json.dumps(content))  # as read from a file: lists, not tuples
        self._about_file = folder / "about.json"
        self._values_file = folder / f"values.{dtype}"
        self._keys_file = folder / "keys.u64"
        self._index: tuple[Keys, npt.NDArray[np.int64]] | None = None
        self._writing = False
        self._count()

    def __len__(self) -> int:
        return self._rows

    def find(self, keys: Keys) -> npt.NDArray[np.int64]:
        """Return the row of each key, int64 of the shape of `keys`; -1 where the key is absent."""
        keys = np.asarray(keys, np.uint64)
        if not self._rows:
            return np.full(keys.shape, -1, np.int64)
        if self._index is None:
            present = np.fromfile(self._keys_file, KEY, self._rows).astype(np.uint64, copy=False)
            order = np.argsort(present, kind="stable")  # the first of equal keys stays first
            self._index = present[order], order
        ordered, rows = self._index
        nearest = np.searchsorted(ordered, keys).clip(max=len(ordered) - 1)
        return np.where(ordered[nearest] == keys, rows[nearest], -1)

    def values(self) -> npt.NDArray[Any]:
        """Return the current rows, (rows, dimensions), memory-mapped; later rows need another call.  Do not write."""
        shape = (self._rows, self.dimensions)
        if not self._rows:
            return np.empty(shape, self.dtype)
        try:
            # Copy-on-write instead of read-only, because torch warns about read-only arrays.
            return np.memmap(self._values_file, self.dtype, "c", shape=shape)
        except OSError as error:
            if error.errno != errno.ENOMEM:
                raise
            # Linux refuses copy-on-write maps larger than the memory.
            return np.memmap(self._values_file, self.dtype, "r+", shape=shape)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the store's lock for appending, and read what others appended.  Raises `UserError` if it is taken."""
        self.folder.mkdir(parents=True, exist_ok=True)
        # Not inherited: workers that outlive a killed process would keep the lock.
        with only_one(self.folder / "lock", f"computing features into {self.folder}", patience=0, inherited=False):
            self._count()
            if not self._rows:
                write_json(self._about_file, self._about)
            self._writing = True
            try:
                yield
            finally:
                self._writing = False

    def append(self, keys: Keys, values: npt.NDArray[Any]) -> None:
        """Append `values` (n, dimensions) under `keys` (n,); on return they are safe on disk.  Only inside `writing`.

        A repeated key takes up another row, but `find` returns its first.  Raises `ValueError`, and appends nothing,
        for a value that is not finite in the store's dtype, such as 70,000 in float16.
        """
        if not self._writing:
            raise RuntimeError("FeatureStore.append outside of FeatureStore.writing")
        keys = np.ascontiguousarray(keys, KEY)
        if values.shape != (len(keys), self.dimensions) or keys.ndim != 1:
            raise ValueError(f"values of shape {values.shape} for keys of shape {keys.shape}, {self.dimensions} wide")
        with np.errstate(over="ignore"):
            values = np.ascontiguousarray(values, self.dtype)
        if bad := np.count_nonzero(~np.isfinite(values)):
            raise ValueError(f"{bad} of {values.size} values are not finite as {self.dtype.name}")
        if len(keys):
            # Cut the keys first: after a kill, a key beyond the whole rows would take the row written next.
            _cut(self._keys_file, self._rows * KEY.itemsize)
            _cut(self._values_file, self._rows * self._row_bytes)
            _extend(self._values_file, values)
            _extend(self._keys_file, keys)
            self._rows += len(keys)
            self._index = None

    def _count(self) -> None:
        """Check `about.json`, and count the whole rows."""
        held = any(_size(file) for file in self.folder.glob("values.*"))
        problem = ""
        try:
            found = read_json(self._about_file)
        except FileNotFoundError:
            problem = "is missing, so the features in the folder are of an unknown kind" if held else ""
        except ValueError as error:  # not JSON, or not UTF-8
            problem = f"cannot be read: {error}" if held else ""
        else:
            if differences := _differences(found, self._about):
                problem = f"describes other features: {'; '.join(differences)}"
        if problem:
            raise UserError(
                f"{path_word(self._about_file)} {problem}. Remove its folder, to compute the features again: "
                f"{removal(self.folder)}"
            )
        # Keys before values, the reverse of writing: another process may be appending.
        promised = _size(self._keys_file) // KEY.itemsize
        self._rows = min(promised, _size(self._values_file) // self._row_bytes)
        self.lost = promised - self._rows
        self._index = None


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def _cut(path: Path, size: int) -> None:
    """Truncate the file at `path` to `size` bytes, and flush it to disk."""
    found = _size(path)
    if found < size:  # truncating would fill the gap with zeros
        raise UserError(f"{path} was cut short while it was being written. Run the same command again.")
    if found > size:
        with open(path, "rb+") as file:
            file.truncate(size)
            os.fsync(file.fileno())


def _extend(path: Path, content: npt.NDArray[Any]) -> None:
    """Append `content` to the file at `path`, and flush it to disk."""
    with open(path, "ab") as file:
        file.write(content.data)
        file.flush()
        os.fsync(file.fileno())


def _differences(found: Any, wanted: Any, name: str = "") -> list[str]:
    """Return one text for each key where `found` differs from `wanted`."""
    if found == wanted:
        return []
    if isinstance(found, dict) and isinstance(wanted, dict):
        inner = {key: f"{name}.{key}" if name else key for key in {**wanted, **found}}
        pairs = [(found.get(key, ABSENT), wanted.get(key, ABSENT), inner[key]) for key in inner]
        return [difference for pair in pairs for difference in _differences(*pair)]
    was, should_be = ("absent" if x is ABSENT else json.dumps(x, ensure_ascii=False) for x in (found, wanted))
    return [f"{name or 'it'} is {was}, and should be {should_be}"]
