"""Features on disk, found by key: computed once, and appended as they come.

A store is a folder: `about.json` says what determines the features, `values.<dtype>` holds the rows, little-endian and
nothing else, and `keys.u64` holds the key of each row.  Keys are written only when their rows are safe on the disk, so
the number of whole keys is the number of rows, whatever else a killed process left.
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

FORMAT = 1
KEY = np.dtype("<u8")
ABSENT = object()
Keys = npt.NDArray[np.uint64]


def view_keys(fingerprints: Keys, view: str) -> Keys:
    """Return the keys of one view of images, uint64 of any shape, from the fingerprints of their bytes.

    view: what was done to an image before the network saw it, such as `centre` or `flipped`.  Within a view, different
    fingerprints have different keys; between views, two keys are equal by a chance of 2**-64.  The mixing is that of
    splitmix64 (Steele, Lea and Flood, 2014, Fast splittable pseudorandom number generators).
    """
    salt = int.from_bytes(hashlib.blake2b(view.encode(), digest_size=8).digest(), "little")
    keys = np.array(fingerprints, np.uint64) ^ np.uint64(salt)
    mixed = keys.reshape(-1)  # numpy lets arrays overflow, but warns about numbers
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed.reshape(keys.shape)


class FeatureStore:
    """Rows of features on disk, found by key; append-only, so a killed run loses at most what it had not appended.

    lost: rows that `keys.u64` promises but `values.<dtype>` no longer holds, and which have to be computed again.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any], dimensions: int, dtype: str) -> None:
        """As `open`, which is the way in."""
        self.folder = folder
        self.dimensions = dimensions
        self.dtype = np.dtype(dtype).newbyteorder("<")
        self._row_bytes = dimensions * self.dtype.itemsize
        self.lost = 0
        content = {"format": FORMAT, "dimensions": dimensions, "dtype": dtype, "about": dict(about)}
        self._about: dict[str, Any] = json.loads(json.dumps(content))  # as a file gives it back: lists, not tuples
        self._about_file = folder / "about.json"
        self._values_file = folder / f"values.{dtype}"
        self._keys_file = folder / "keys.u64"
        self._rows = 0
        self._index: tuple[Keys, npt.NDArray[np.int64]] | None = None
        self._writing = False
        self._count()

    @classmethod
    def open(
        cls, folder: Path, about: Mapping[str, Any], dimensions: int, dtype: Literal["float16", "float32"]
    ) -> "FeatureStore":
        """Return the store in `folder`, which is empty where there is no such folder; nothing is written yet.

        about: everything that determines the features, as JSON-like values.  Raises `UserError` where the folder holds
        other features than these, or features of which nobody can tell what they are.
        """
        return cls(folder, about, dimensions, dtype)

    def __len__(self) -> int:
        return self._rows

    def find(self, keys: Keys) -> npt.NDArray[np.int64]:
        """Return the row of each key, -1 where it is absent; int64 of the shape of `keys`, which may be any."""
        keys = np.asarray(keys, np.uint64)
        if not self._rows:
            return np.full(keys.shape, -1, np.int64)
        if self._index is None:
            present = np.fromfile(self._keys_file, KEY, self._rows).astype(np.uint64, copy=False)
            order = np.argsort(present, kind="stable")  # of equal keys the first comes first
            self._index = present[order], order
        ordered, rows = self._index
        nearest = np.searchsorted(ordered, keys).clip(max=len(ordered) - 1)
        return np.where(ordered[nearest] == keys, rows[nearest], -1)

    def values(self) -> npt.NDArray[Any]:
        """Return all rows, (rows, dimensions), mapped from the disk: only what is looked at is read.

        It shows the rows there are now; those appended later need another call.  Not to be written to.
        """
        shape = (self._rows, self.dimensions)
        if not self._rows:
            return np.empty(shape, self.dtype)
        try:
            # Copy-on-write rather than read-only, because torch warns about arrays it could not write to.
            return np.memmap(self._values_file, self.dtype, "c", shape=shape)
        except OSError as error:
            if error.errno != errno.ENOMEM:
                raise
            # Linux wants to be able to copy all of it, and refuses what is larger than the memory.
            return np.memmap(self._values_file, self.dtype, "r+", shape=shape)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the store for appending; a process that dies lets go of it.

        What others appended since the store was opened is found from here on.  Raises `UserError` while another
        process holds it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        # Not inherited: the workers of a process that was killed would hold it on.
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
        """Append `values` (n, dimensions) under `keys` (n,); when it returns, they are safe on the disk.

        A key that is there already, or comes twice, takes up a row, but its first row is the one that `find` gives.
        Only inside of `writing`.  Raises `ValueError` for what is not finite in the store's dtype, such as 70,000 in
        float16, and then appends nothing.
        """
        if not self._writing:
            raise RuntimeError("FeatureStore.append outside of FeatureStore.writing")
        keys = np.ascontiguousarray(keys, KEY)
        if values.shape != (len(keys), self.dimensions) or keys.ndim != 1:
            raise ValueError(
                f"values of shape {values.shape} under keys of shape {keys.shape}, in rows of {self.dimensions}"
            )
        with np.errstate(over="ignore"):
            values = np.ascontiguousarray(values, self.dtype)
        if bad := np.count_nonzero(~np.isfinite(values)):
            raise ValueError(f"{bad} of {values.size} values are not finite as {self.dtype.name}")
        if len(keys):
            # First no key may be left beyond the rows: killed after the values, it would be taken for one of theirs.
            _cut(self._keys_file, self._rows * KEY.itemsize)
            _cut(self._values_file, self._rows * self._row_bytes)
            _extend(self._values_file, values)
            _extend(self._keys_file, keys)
            self._rows += len(keys)
            self._index = None

    def _count(self) -> None:
        """Check what the folder says about itself, and count the rows that are whole."""
        held = any(_size(file) for file in self.folder.glob("values.*"))
        try:
            found = read_json(self._about_file)
        except FileNotFoundError:
            if held:
                raise self._not_these("is missing, so nobody can tell which features the folder holds") from None
        except ValueError as error:  # of the JSON, or of its encoding
            if held:
                raise self._not_these(f"cannot be read: {error}") from None
        else:
            if differences := _differences(found, self._about):
                raise self._not_these(f"is of other features: {'; '.join(differences)}")
        # Keys before values, the other way round than they are written: another process may be appending.
        promised = _size(self._keys_file) // KEY.itemsize
        self._rows = min(promised, _size(self._values_file) // self._row_bytes)
        self.lost = promised - self._rows
        self._index = None

    def _not_these(self, problem: str) -> UserError:
        return UserError(
            f"{self._about_file} {problem}. Remove the folder {self.folder}, and its features are computed again."
        )


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def _cut(path: Path, size: int) -> None:
    """Cut off what the file at `path` has beyond `size` bytes, also on the disk."""
    found = _size(path)
    if found < size:  # truncating would fill the gap with zeros
        raise UserError(f"{path} was cut short while it was being written. Run the same command again.")
    if found > size:
        with open(path, "rb+") as file:
            file.truncate(size)
            os.fsync(file.fileno())


def _extend(path: Path, content: npt.NDArray[Any]) -> None:
    """Append `content` to the file at `path`, and see it onto the disk."""
    with open(path, "ab") as file:
        file.write(content.data)
        file.flush()
        os.fsync(file.fileno())


def _differences(found: Any, wanted: Any, name: str = "") -> list[str]:
    """Return where `found` differs from `wanted`: one text for each key."""
    if found == wanted:
        return []
    if not (isinstance(found, dict) and isinstance(wanted, dict)):
        return [f"{name or 'it'} is {_shown(found)}, and should be {_shown(wanted)}"]
    return [
        difference
        for key in {**wanted, **found}
        for difference in _differences(
            found.get(key, ABSENT), wanted.get(key, ABSENT), f"{name}.{key}" if name else key
        )
    ]


def _shown(value: Any) -> str:
    return "absent" if value is ABSENT else json.dumps(value, ensure_ascii=False)
