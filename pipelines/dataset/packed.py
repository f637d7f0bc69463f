"""Decode small images once into one file that every stage uses.

The file is a NumPy array, uint8 (N, size, size, channels), the layout of decoded images and of convolutions with
channels last, so nothing is ever transposed. While images are being decoded, the file has a partial name and a journal
beside it: one byte per image, set to 1 when the image is on the disk. A killed process loses only the images of its
chunks.
"""

import hashlib
import io
import os
import shlex
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from pipelines.dataset.channels import Pixels
from pipelines.dataset.image_paths import files_at
from pipelines.dataset.image_reader import Reader
from pipelines.dataset.images import BICUBIC, UnreadableImage, crop, fit, place_of, settled_warnings
from pipelines.settings.metrics import BOXES
from pipelines.system.errors import UserError
from pipelines.system.files import only_one, partial_name, reserve
from pipelines.system.processes import in_processes
from pipelines.system.watch import Watch, unwatched

if TYPE_CHECKING:  # decoding processes do not need pandas, which takes longer to import than all the rest
    from pipelines.dataset.image_set import ImageSet

FORMAT = "packed-1"  # part of the key: files that were decoded or resized in another way are not found
CHUNK_IMAGES, CHUNK_BYTES = 2048, 1 << 23  # the most that a process decodes, writes and flushes at once
# Files up to this size are read into memory.  Larger ones are mapped: if the disk then vanishes or the file is cut
# short, SIGBUS ends the process without a message.
MOST_READ_BYTES = 1 << 28
Take = Callable[[npt.NDArray[np.int64]], Pixels]
Chunk = tuple[int, list[tuple[str, str]]]  # images that a process decodes: number of the first; path and row of each


class PackedImages:
    """The file of all images that are `cached_together` with some images; they are decoded on first use.

    Its path is `cache/<name>-<size>px-<key>.npy`. The key covers the rule for values of more than 8 bits, if the images
    have such, another number of channels than 3, every path and, for `by` "time", the size and modification time of its
    image or, for "bytes", the fingerprint. So a changed image is decoded again; files with another key are removed. One
    process at a time decodes a name and size; the others raise `UserError`.
    """

    def __init__(
        self,
        images: "ImageSet",
        size: int,
        by: Literal["time", "bytes"] = "time",
        watch: Watch = unwatched,
        how: str = "",
    ) -> None:
        """how: `input.interpolation`; files of both are kept side by side, and those of boxes, stretched images."""
        together = images.cached_together
        self.places = images.places  # of `images` in the file, int64 (N,)
        self.rows = together.rows[["id", "path"]]
        self.raw, self.size, self.watch, self.together = images.raw, size, watch, together
        self.shape = (size, size, images.channels)  # of an image
        if by == "time":
            marks = _times(self.rows["path"], self.raw)
        else:
            from pipelines.dataset.fingerprints import readable_fingerprints  # imports pandas: see above

            marks = map(str, readable_fingerprints(together, watch)[0])  # decoding reports the unreadable ones
        self.stretch, self.how = images.task == BOXES, how
        special = f"-{BICUBIC}" * (how == BICUBIC) + "-stretched" * self.stretch
        digest = hashlib.sha256(f"{FORMAT} {size}{special} {together.value_rule}".rstrip().encode() + b"\n")
        for path, mark in zip(self.rows["path"], marks, strict=True):
            digest.update(f"{path}\0{mark}\n".encode())
        self.stem = f"{images.cache_name}-{size}px{special}"
        self.path = images.cache / f"{self.stem}-{digest.hexdigest()[:16]}.npy"
        self.partial = partial_name(self.path)
        self.journal = self.partial.with_suffix(".journal")
        header = io.BytesIO()
        about = {"descr": "|u1", "fortran_order": False, "shape": (len(self.rows), *self.shape)}
        np.lib.format.write_array_header_1_0(header, about)
        self.header = header.getvalue()
        self.length = len(self.header) + len(self.rows) * prod(self.shape)
        self.file: io.FileIO | None = None

    def decode(self) -> io.FileIO:
        """Decode what is not decoded yet and return the open file; `reading` uses it even if the file is removed."""
        for _ in self._decode(self.watch):
            pass
        self.file = io.FileIO(self.path)
        weakref.finalize(self, self.file.close)
        return self.file

    def whole(self) -> Pixels:
        """Return all images as one array, uint8 (N, size, size, channels), memory-mapped above MOST_READ_BYTES."""
        file = self.decode()
        if os.fstat(file.fileno()).st_size != self.length:
            raise self._cut_short()
        if self.length <= MOST_READ_BYTES:
            return self._taken(file, np.arange(len(self.rows)))
        # Copy-on-write, not read-only: torch warns about arrays that it cannot write to.  Nothing writes.
        shape = (len(self.rows), *self.shape)
        return np.memmap(self.path, np.uint8, "c", len(self.header), shape)

    @contextmanager
    def reading(self) -> Iterator[Take]:
        """Yield a function that returns the images at places, int64 (n,), from the file: uint8 (n, size, size, C).

        Images that are not decoded yet are decoded by other processes, in order; the function waits for the last one
        requested. When the block ends, all images are decoded. Unlike a memory map, reading does not fill this
        process's memory. Raises `UserError`, from the function or at the end, for images that cannot be read.
        """
        if kept := self.file:
            yield lambda places: self._taken(kept, places)
            return
        with closing(self._decode(unwatched)) as decoding:
            decoded = next(decoding, len(self.rows))
            # Unbuffered: a buffer could hold bytes from before they were decoded.
            with open(self.path if self.path.exists() else self.partial, "rb", buffering=0) as file:

                def take(places: npt.NDArray[np.int64]) -> Pixels:
                    nonlocal decoded
                    while decoded <= places.max():
                        decoded = next(decoding)
                    return self._taken(file, places)

                yield take
                for _ in decoding:
                    pass

    def _taken(self, file: io.FileIO, places: npt.NDArray[np.int64]) -> Pixels:
        pixels = np.empty((len(places), *self.shape), np.uint8)
        runs = [0, *(np.flatnonzero(np.diff(places) != 1) + 1).tolist(), len(places)]
        for first, end in pairwise(runs):
            file.seek(len(self.header) + int(places[first]) * pixels[0].nbytes)
            if file.readinto(pixels[first:end].data) < pixels[first:end].nbytes:
                raise self._cut_short()
        return pixels

    def _has_our_header(self, path: Path) -> bool:
        with open(path, "rb") as file:
            return file.read(len(self.header)) == self.header

    def _cut_short(self) -> UserError:
        return UserError(f"{self.path} is cut short. Remove it; its images are decoded again: {self._removal}")

    def _decode(self, watch: Watch) -> Generator[int, None, None]:
        """Decode what is not decoded yet, and give the complete file its name.

        Yields, at the start and after each chunk, the number of images from the first on that are in the partial file.
        Raises `UserError` for all images that cannot be decoded, after trying all of them.
        """
        if self.path.exists():
            if not self._has_our_header(self.path):
                raise UserError(f"{self.path} is damaged or another file. Remove it: {self._removal}")
            self.journal.unlink(missing_ok=True)  # left by a process that was killed after everything else was done
            return
        # Beside the cache, not in it: the lock must outlive a removed cache.
        lock = self.path.parent.with_name(f".{self.path.parent.name}-{self.stem}.lock")
        with only_one(lock, f"decoding the images {self.stem} in {self.path.parent}"):
            if self.path.exists():  # written by the process that held the lock
                return
            try:
                pending = self._begin()
                ends = [*(first for first, _ in pending), len(self.rows)]
                yield ends[0]
                chunks = (self._chunk(first, end) for first, end in pending)
                unit = f"x {self._chunk_images()} images"
                bad: list[tuple[int, str]] = []
                reader = self.together.reader
                work = partial(
                    _decode_chunk, self.partial, len(self.header), (self.shape, self.how, self.stretch), reader
                )
                with closing(in_processes(work, chunks, len(pending), watch, "decoding", unit)) as finished:
                    for end, problems in zip(ends[1:], finished, strict=True):
                        bad += problems
                        if not bad:
                            yield end
                if bad:
                    raise self._damaged(bad)
                for stale in self.path.parent.glob(f"{self.stem}-*.npy"):
                    stale.unlink()
                os.replace(self.partial, self.path)  # each chunk is already flushed to the disk
            except (UserError, OSError):
                self.journal.unlink(missing_ok=True)
                self.partial.unlink(missing_ok=True)
                raise
            self.journal.unlink(missing_ok=True)  # another process that finds the finished file may remove it first

    @property
    def _removal(self) -> str:
        return f"rm {shlex.quote(str(self.path))}"

    def _damaged(self, bad: list[tuple[int, str]]) -> UserError:
        """Return the error about images, given by their places in the file."""
        from pipelines.dataset.damaged import report  # imports pandas: see above

        return report(self.together, [(int(self.rows.index[place]), problem) for place, problem in bad])

    def _begin(self) -> list[tuple[int, int]]:
        """Create the partial file, or keep that of a killed process; return first and end of each missing chunk."""
        count = len(self.rows)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for left in self.path.parent.glob(f".{self.stem}-*"):
            if left not in (self.partial, self.journal):
                left.unlink()
        done = np.fromfile(self.journal, np.uint8) == 1 if self.journal.exists() else np.zeros(0, np.bool_)
        kept = self.partial.exists() and self.partial.stat().st_size == self.length
        if len(done) != count or not (kept and self._has_our_header(self.partial)):
            self.journal.unlink(missing_ok=True)  # first: it does not describe the new file
            with open(self.partial, "wb+") as file:  # readable: without support for reservation, glibc reads the file
                file.write(self.header)
                file.flush()
                reserve(file, self.length)
                os.fsync(file.fileno())
            self.journal.write_bytes(bytes(count))
            done = np.zeros(count, np.bool_)
        step = self._chunk_images()
        chunks = ((first, min(first + step, count)) for first in range(0, count, step))
        return [(first, end) for first, end in chunks if not done[first:end].all()]

    def _chunk_images(self) -> int:
        return max(min(CHUNK_IMAGES, CHUNK_BYTES // prod(self.shape)), 1)

    def _chunk(self, first: int, end: int) -> Chunk:
        return first, [(str(row.path), place_of(row)) for row in self.rows.iloc[first:end].itertuples()]


def _times(paths: Iterable[str], raw: Path) -> Iterator[str]:
    """Yield the size and modification time of each file, as text."""
    for path in paths:
        try:
            mark = ""
            for file in files_at(raw, path):
                status = os.stat(file)  # noqa: PTH116 - pathlib takes twice as long for 300,000 files
                mark += f"\0{status.st_size}\0{status.st_mtime_ns}"
            yield mark[1:]
        except OSError:
            yield "missing"  # decoding reports it, with its row


def _decode_chunk(
    unfinished: Path, offset: int, form: tuple[tuple[int, int, int], str, bool], reader: Reader, chunk: Chunk
) -> list[tuple[int, str]]:
    """Decode `chunk` into the file `unfinished`; return number and problem of each image that cannot be decoded.

    form: the shape of an image, `input.interpolation`, and whether all of it is stretched to a square.
    """
    (first, items), (shape, how, stretch) = chunk, form
    bad = []
    pixels = np.empty((len(items), *shape), np.uint8)
    with settled_warnings():
        for number, (path, place) in enumerate(items):
            try:
                image, side = reader.decode(path, place), shape[0]
                pixels[number] = crop(image, (0, 0, *image.size), side, how) if stretch else fit(image, side, side, how)
            except UnreadableImage as error:
                bad.append((first + number, error.problem))
    if bad:
        return bad  # unwritten: the images are decoded again when these are replaced
    with open(unfinished, "rb+") as file:
        file.seek(offset + first * pixels[0].nbytes)
        file.write(pixels.data)
        file.flush()
        os.fsync(file.fileno())
    with open(unfinished.with_suffix(".journal"), "rb+") as file:
        file.seek(first)
        file.write(b"\1" * len(items))
    return bad
