"""Small images decoded once into one file that every stage shares.

The file is an array of NumPy's, uint8 (N, size, size, 3): the layout that decoding gives, and in memory what
convolutions with the channels last want, so that nothing is ever transposed.

Until all images are in it, it has the name of a partial file, and beside it lies its journal: a byte for each image,
which becomes 1 when the image is safe on the disk.  A killed process loses what it was just decoding, and no more.
"""

import hashlib
import io
import os
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from pipelines.dataset import images
from pipelines.system.errors import UserError
from pipelines.system.files import only_one, partial_name
from pipelines.system.processes import in_processes
from pipelines.system.watch import Watch, unwatched

if TYPE_CHECKING:
    import pandas as pd  # which decoding processes do not need, and which takes longer to load than all they do

FORMAT = "packed-1"  # part of the key: another way to decode or resize must not find older files
CHUNK_IMAGES, CHUNK_BYTES = 2048, 1 << 23  # at most, of what a process decodes, writes and flushes at once
# As much is read into memory; more is mapped, and a disk that then vanishes, or a file that is then cut short, ends the
# process by SIGBUS, of which nothing can be said any more.
MOST_READ_BYTES = 1 << 28
Take = Callable[[npt.NDArray[np.int64]], images.Pixels]


class Chunk(NamedTuple):
    """Images to be decoded by one process; `items` are their paths below `raw`, and where those come from."""

    partial: Path
    journal: Path
    offset: int
    size: int
    raw: Path
    first: int
    items: list[tuple[str, str]]


class PackedImages:
    """The images of some rows, decoded once, when they are first wanted; number i is that of row i.

    rows: a split table's `id` and `path` (below `raw`).  They are kept as `cache/<name>-<size>px-<key>.npy`.  The key
    covers every path and, by `time`, the size and modification time of its file or, by `bytes`, a fingerprint of its
    content, so that a changed file is noticed; files of the same name with another key are removed.  Only one process
    at a time decodes for a name and size: a `UserError` tells the others.
    """

    def __init__(
        self,
        rows: "pd.DataFrame",
        raw: Path,
        size: int,
        cache: Path,
        name: str,
        by: Literal["time", "bytes"] = "time",
        watch: Watch = unwatched,
    ) -> None:
        self.rows = rows[["id", "path"]]
        self.raw = raw
        self.size = size
        self.watch = watch
        marks = _times(rows["path"], raw) if by == "time" else _fingerprints(rows, raw, cache, name, watch)
        digest = hashlib.sha256(f"{FORMAT} {size}\n".encode())
        for path, mark in zip(rows["path"], marks, strict=True):
            digest.update(f"{path}\0{mark}\n".encode())
        self.stem = f"{name}-{size}px"
        self.path = cache / f"{self.stem}-{digest.hexdigest()[:16]}.npy"
        self.partial = partial_name(self.path)
        self.journal = self.partial.with_suffix(".journal")
        header = io.BytesIO()
        about = {"descr": "|u1", "fortran_order": False, "shape": (len(rows), size, size, 3)}
        np.lib.format.write_array_header_1_0(header, about)
        self.header = header.getvalue()
        self.length = len(self.header) + len(rows) * size * size * 3
        self.file: io.FileIO | None = None

    def decode(self) -> io.FileIO:
        """Decode what is not decoded yet, and return the file, which stays open: `reading` then takes from it whoever
        removes it.

        Raises `UserError` for an image that cannot be read.
        """
        for _ in self._decode(self.watch):
            pass
        self.file = io.FileIO(self.path)
        weakref.finalize(self, self.file.close)
        return self.file

    def whole(self) -> images.Pixels:
        """Return all images as one array, uint8 (N, size, size, 3), to be taken in any order: memory-mapped where it is
        larger than MOST_READ_BYTES.

        Raises `UserError` for an image that cannot be read.
        """
        file = self.decode()
        if os.fstat(file.fileno()).st_size != self.length:
            raise self._cut_short()
        if self.length <= MOST_READ_BYTES:
            return self._taken(file, np.arange(len(self.rows)))
        # Copy-on-write rather than read-only, because torch warns about arrays it could not write to; nothing writes.
        shape = (len(self.rows), self.size, self.size, 3)
        return np.memmap(self.path, np.uint8, "c", len(self.header), shape)

    @contextmanager
    def reading(self) -> Iterator[Take]:
        """Yield what takes the images at places, int64 (n,), out of the file: uint8 (n, size, size, 3).

        Where they are not decoded yet, other processes decode them, the first ones first, while this one does what it
        does with those it took; taking waits for the last that it is asked for.  At the end all are decoded.  What is
        read does not stay in this process's memory, as it would with a map.  Raises `UserError`, from taking or at the
        end, for an image that cannot be read.
        """
        if kept := self.file:
            yield lambda places: self._taken(kept, places)
            return
        with closing(self._decode(unwatched)) as decoding:
            decoded = next(decoding, len(self.rows))
            # Unbuffered: a buffer would give back bytes from before they were decoded.
            with open(self.path if self.path.exists() else self.partial, "rb", buffering=0) as file:

                def take(places: npt.NDArray[np.int64]) -> images.Pixels:
                    nonlocal decoded
                    while decoded <= places.max():
                        decoded = next(decoding)
                    return self._taken(file, places)

                yield take
                for _ in decoding:
                    pass

    def _taken(self, file: io.FileIO, places: npt.NDArray[np.int64]) -> images.Pixels:
        """Return the images at `places`, int64 (n,), of those in `file`: uint8 (n, size, size, 3)."""
        pixels = np.empty((len(places), self.size, self.size, 3), np.uint8)
        runs = [0, *(np.flatnonzero(np.diff(places) != 1) + 1).tolist(), len(places)]
        for first, end in pairwise(runs):
            file.seek(len(self.header) + int(places[first]) * pixels[0].nbytes)
            if file.readinto(pixels[first:end].data) < pixels[first:end].nbytes:
                raise self._cut_short()
        return pixels

    def _begins_well(self, path: Path) -> bool:
        """Whether the file at `path` begins as one of these images does."""
        with open(path, "rb") as file:
            return file.read(len(self.header)) == self.header

    def _cut_short(self) -> UserError:
        return UserError(f"{self.path} is cut short. Remove it, and its images are decoded again.")

    def _decode(self, watch: Watch) -> Generator[int, None, None]:
        """Decode what is not decoded yet.  Yields how many images, from the first on, are in the partial file, at once
        and after each chunk; when it has ended, the file is whole and has its name."""
        if self.path.exists():
            if not self._begins_well(self.path):
                raise UserError(f"{self.path} is damaged or another file. Remove it, and its images are decoded again.")
            self.journal.unlink(missing_ok=True)  # left by a process that was killed when all else was done
            return
        # Beside the cache, not in it: a lock must outlive what it guards.
        lock = self.path.parent.with_name(f".{self.path.parent.name}-{self.stem}.lock")
        with only_one(lock, f"decoding the images {self.stem} in {self.path.parent}"):
            if self.path.exists():  # by the process for which this one waited
                return
            try:
                pending = self._begin()
                ends = [*(first for first, _ in pending), len(self.rows)]
                yield ends[0]
                chunks = (self._chunk(first, end) for first, end in pending)
                unit = f"x {self._chunk_images()} images"
                with closing(in_processes(_decode_chunk, chunks, len(pending), watch, "decoding", unit)) as finished:
                    for end, _ in zip(ends[1:], finished, strict=True):
                        yield end
                for stale in self.path.parent.glob(f"{self.stem}-*.npy"):
                    stale.unlink()
                os.replace(self.partial, self.path)  # each chunk is on the disk already
            except (UserError, OSError):
                self.journal.unlink(missing_ok=True)
                self.partial.unlink(missing_ok=True)
                raise
            self.journal.unlink(missing_ok=True)  # another process, which sees that all is done, removes it too

    def _begin(self) -> list[tuple[int, int]]:
        """Make a partial file with room for all images, unless a killed process left one with this key; return the
        chunks that it lacks, as their first image and the one after their last."""
        count = len(self.rows)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for left in self.path.parent.glob(f".{self.stem}-*"):
            if left not in (self.partial, self.journal):
                left.unlink()
        done = np.fromfile(self.journal, np.uint8) == 1 if self.journal.exists() else np.zeros(0, np.bool_)
        begun = self.partial.exists() and self.partial.stat().st_size == self.length and self._begins_well(self.partial)
        if len(done) != count or not begun:
            self.journal.unlink(missing_ok=True)  # first: it would speak of what is not in the new file
            with open(self.partial, "wb+") as file:  # where a file system cannot reserve, what is there is read
                file.write(self.header)
                file.flush()
                if hasattr(os, "posix_fallocate"):  # a full disk is an error now, not after most of the work
                    os.posix_fallocate(file.fileno(), 0, self.length)
                file.truncate(self.length)
                os.fsync(file.fileno())
            self.journal.write_bytes(bytes(count))
            done = np.zeros(count, np.bool_)
        step = self._chunk_images()
        chunks = ((first, min(first + step, count)) for first in range(0, count, step))
        return [(first, end) for first, end in chunks if not done[first:end].all()]

    def _chunk_images(self) -> int:
        return max(min(CHUNK_IMAGES, CHUNK_BYTES // (self.size * self.size * 3)), 1)

    def _chunk(self, first: int, end: int) -> Chunk:
        items = [(str(row.path), images.place_of(row)) for row in self.rows.iloc[first:end].itertuples()]
        return Chunk(self.partial, self.journal, len(self.header), self.size, self.raw, first, items)


def _times(paths: Iterable[str], raw: Path) -> Iterator[str]:
    """Yield the size and modification time of each file, as text."""
    for path in paths:
        try:
            status = os.stat(f"{raw}/{path}")  # noqa: PTH116 - pathlib would take twice the time over 300,000 files
            yield f"{status.st_size}\0{status.st_mtime_ns}"
        except FileNotFoundError:
            yield "missing"  # decoding will name it, with its row


def _fingerprints(rows: "pd.DataFrame", raw: Path, cache: Path, name: str, watch: Watch) -> list[int]:
    from pipelines.dataset.fingerprints import fingerprints  # needs pandas: see above

    marks: list[int] = fingerprints(rows, raw, cache, name, watch).tolist()
    return marks


def _decode_chunk(chunk: Chunk) -> None:
    pixels = np.empty((len(chunk.items), chunk.size, chunk.size, 3), np.uint8)
    with images.settled_warnings():
        for number, (path, place) in enumerate(chunk.items):
            pixels[number] = images.fit(images.decode(chunk.raw / path, place), chunk.size, resize=chunk.size)
    with open(chunk.partial, "rb+") as file:
        file.seek(chunk.offset + chunk.first * pixels[0].nbytes)
        file.write(pixels.data)
        file.flush()
        os.fsync(file.fileno())
    with open(chunk.journal, "rb+") as file:
        file.seek(chunk.first)
        file.write(b"\1" * len(chunk.items))
