"""Fingerprints of image files, hashes of their bytes, computed once; and the check that each image can be decoded."""

import errno
import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from time import monotonic
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from pipelines.dataset.image_set import ImageSet
from pipelines.dataset.images import open_image, place_of
from pipelines.system.errors import UserError
from pipelines.system.files import CHUNK_BYTES, atomic_file, only_one
from pipelines.system.processes import in_processes
from pipelines.system.watch import Watch, unwatched

FORMAT = "blake2b-1"  # part of the record: fingerprints computed or stored in another way are not found
ENTRY = np.dtype([("path", "<u8"), ("size", "<i8"), ("modified", "<i8"), ("fingerprint", "<u8")])
SAVE_SECONDS = 30.0  # a killed process loses at most this much; saving a million entries takes a fraction of a second
TASK_IMAGES = 16  # given to a thread at once: with small files the hand-over would cost more than the reading
BLOCK_IMAGES = 1024  # in memory at once, whatever the size of the table
CHUNK_IMAGES = 256  # decoded by a process at once, to check them
Entries = npt.NDArray[np.void]


def fingerprints(images: ImageSet, watch: Watch = unwatched) -> npt.NDArray[np.uint64]:
    """Return a fingerprint of the bytes of each image, uint64 (N,).

    A fingerprint is a BLAKE2b hash of 8 bytes: the chance that any two of a million different images share one is about
    3e-8. They are kept for all images that are `cached_together`, in `cache/<name>-fingerprints.npz`; a file of the
    same size and modification time is not read again. An interrupted call continues where it stopped. Raises
    `UserError` for an image that is missing or cannot be read.
    """
    whole = images.cached_together
    file = images.cache / f"{images.cache_name}-fingerprints.npz"
    recorded, entries = _load(file), _without_fingerprints(whole)
    known = _fill_in(entries, recorded)
    unread = np.flatnonzero(~known)
    pool, saved = ThreadPoolExecutor(), monotonic()
    try:
        if len(unread):
            for place, fingerprint in watch(_read(whole, unread, pool), "reading", len(unread), "images"):
                entries["fingerprint"][place] = fingerprint
                known[place] = True
                if monotonic() - saved > SAVE_SECONDS:
                    recorded = _save(file, entries[known], recorded)
                    saved = monotonic()
    finally:
        pool.shutdown(cancel_futures=True)
        _save(file, entries[known], recorded)
    return entries["fingerprint"].astype(np.uint64)[images.places]


def images_digest(images: ImageSet, watch: Watch = unwatched) -> str:
    """Return a digest of the bytes of all images of the split table, in its order.  Raises as `fingerprints` does."""
    parts = (part for part in (images.part(test=False), images.part(test=True)) if len(part))
    return hashlib.sha256(b"".join(fingerprints(part, watch).astype("<u8").tobytes() for part in parts)).hexdigest()


def _load(file: Path) -> Entries:
    """Return the entries in `file`, sorted by path; none where it is missing, damaged or of another format."""
    try:
        with open(file, "rb") as source, np.load(source, allow_pickle=False) as content:
            entries = content["entries"]
            if content["format"] == FORMAT and entries.dtype == ENTRY and entries.ndim == 1:
                return cast(Entries, entries)
    except Exception:
        pass  # numpy and zipfile raise many exception types for a damaged file; it is rebuilt
    return np.empty(0, ENTRY)


def _save(file: Path, entries: Entries, recorded: Entries) -> Entries:
    """Write `entries` to `file`, unless they equal those `recorded`; return them sorted by path."""
    entries = entries[np.argsort(entries["path"], kind="stable")]
    if not np.array_equal(entries, recorded):
        lock = file.parent.with_name(f".{file.parent.name}-{file.stem}.lock")
        with only_one(lock, f"writing {file}"), atomic_file(file) as partial, open(partial, "wb") as target:
            np.savez(target, format=np.array(FORMAT), entries=entries)  # a zip, whose checksums detect damage
    return entries


def _without_fingerprints(images: ImageSet) -> Entries:
    """Return an entry for each image, with everything but its fingerprint."""
    entries = np.zeros(len(images), ENTRY)
    paths, sizes, modified = entries["path"], entries["size"], entries["modified"]
    for place, path in enumerate(images.rows["path"]):
        try:
            # Before the file is read: if it changes meanwhile, it differs from its entry and is read again next time.
            status = os.stat(f"{images.raw}/{path}")  # noqa: PTH116 - pathlib takes twice as long for 300,000 files
        except OSError as error:
            raise _unreadable(images, place, error) from None
        paths[place], sizes[place], modified[place] = fingerprint_of(path.encode()), status.st_size, status.st_mtime_ns
    return entries


def _fill_in(entries: Entries, recorded: Entries) -> npt.NDArray[np.bool_]:
    """Copy the fingerprints of unchanged files from `recorded` to `entries`; return which are known, bool (N,)."""
    if not len(recorded):
        return np.zeros(len(entries), np.bool_)
    nearest = np.searchsorted(recorded["path"], entries["path"]).clip(max=len(recorded) - 1)
    known = np.ones(len(entries), np.bool_)
    for field in ("path", "size", "modified"):
        known &= recorded[field][nearest] == entries[field]
    entries["fingerprint"][known] = recorded["fingerprint"][nearest[known]]
    return known


def _read(images: ImageSet, places: npt.NDArray[np.intp], pool: ThreadPoolExecutor) -> Iterator[tuple[int, int]]:
    """Yield place and fingerprint of the images at `places`, in their order."""

    def read(task: list[tuple[int, str]]) -> list[tuple[int, int]]:
        found = []
        for place, path in task:
            try:
                found.append((place, _fingerprint_of_file(f"{images.raw}/{path}")))
            except OSError as error:
                raise _unreadable(images, place, error) from None
        return found

    for start in range(0, len(places), BLOCK_IMAGES):
        block = places[start : start + BLOCK_IMAGES]
        work = list(zip(block.tolist(), images.rows["path"].iloc[block].tolist(), strict=True))
        tasks = [work[first : first + TASK_IMAGES] for first in range(0, len(work), TASK_IMAGES)]
        yield from chain.from_iterable(pool.map(read, tasks))


def _fingerprint_of_file(path: str) -> int:
    digest = hashlib.blake2b(digest_size=8)
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return int.from_bytes(digest.digest(), "little")


def fingerprint_of(content: bytes) -> int:
    """Return the fingerprint of bytes in memory; it equals that of a file with these bytes."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def _unreadable(images: ImageSet, place: int, error: OSError) -> UserError:
    if error.errno in (errno.EMFILE, errno.ENFILE):  # no fault of this file
        raise error
    row: Any = next(images.rows.iloc[[place]].itertuples())
    missing = isinstance(error, FileNotFoundError | NotADirectoryError)
    problem = "the file is missing" if missing else error.strerror or type(error).__name__
    return UserError(
        f"{images.raw / row.path} ({place_of(row)}) cannot be read: {problem}. Put the right file there. For a "
        "labelled image you can also remove its row from the labels CSV and split again."
    )


def check_decodable(images: ImageSet, watch: Watch = unwatched) -> None:
    """Decode each image before training starts. Raises `UserError` for the first one that cannot be decoded.

    The fingerprints of decoded images are kept in `cache/<name>-decodable.npy`: the same bytes are not decoded again.
    """
    marks = fingerprints(images, watch)
    record = images.cache / f"{images.cache_name}-decodable.npy"
    try:
        with open(record, "rb") as file:
            known = np.lib.format.read_array(file, allow_pickle=False)
        if known.dtype != np.uint64:
            raise ValueError(f"fingerprints of the type {known.dtype}")
    except Exception:  # missing or damaged, for which numpy raises many exception types: try all images
        known = np.zeros(0, dtype=np.uint64)
    unknown = images.rows[~np.isin(marks, known)]
    if unknown.empty:
        return
    items = [(f"{images.raw}/{row.path}", place_of(row)) for row in unknown.itertuples()]
    work = [items[start : start + CHUNK_IMAGES] for start in range(0, len(items), CHUNK_IMAGES)]
    for _ in in_processes(_decode, work, len(work), watch, "checking", f"x {CHUNK_IMAGES} photos"):
        pass
    with atomic_file(record) as partial, open(partial, "wb") as file:
        np.save(file, np.union1d(known, marks))


def _decode(items: list[tuple[str, str]]) -> None:
    for path, place in items:
        open_image(Path(path), place)
