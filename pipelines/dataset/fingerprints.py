"""Fingerprints of image files, hashes of their bytes, computed once; and the check that each image can be decoded."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from copy import copy
from functools import partial
from itertools import chain
from pathlib import Path
from time import monotonic
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from pipelines.dataset.damaged import Found, report
from pipelines.dataset.image_paths import files_at
from pipelines.dataset.image_reader import Reader
from pipelines.dataset.image_set import ImageSet
from pipelines.dataset.images import FOLDER, FORBIDDEN, MISSING, UnreadableImage
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
Marks = npt.NDArray[np.uint64]


def fingerprints(images: ImageSet, watch: Watch = unwatched) -> Marks:
    """Return a fingerprint of the bytes of each image, uint64 (N,).

    A fingerprint is a BLAKE2b hash of 8 bytes: the chance that any two of a million different images share one is about
    3e-8. They are kept for all images that are `cached_together`, in `cache/<name>-fingerprints.npz`; a file of the
    same size and modification time is not read again. An interrupted call continues where it stopped. Raises
    `UserError` for all images that are missing or cannot be read.
    """
    marks, bad = readable_fingerprints(images, watch)
    if bad:
        raise report(images, bad)
    return marks


def readable_fingerprints(images: ImageSet, watch: Watch = unwatched) -> tuple[Marks, list[Found]]:
    """Return what `fingerprints` returns, and the images that cannot be read; their fingerprints mean nothing."""
    whole = images.cached_together
    file = images.cache / f"{images.cache_name}-fingerprints.npz"
    recorded, (entries, bad) = _load(file), _without_fingerprints(whole)
    known = _fill_in(entries, recorded)
    known[[*bad]] = False
    unread = np.setdiff1d(np.flatnonzero(~known), [*bad])
    pool, saved = ThreadPoolExecutor(), monotonic()
    try:
        if len(unread):
            for place, fingerprint in watch(_read(whole, unread, pool), "reading", len(unread), "images"):
                if isinstance(fingerprint, str):
                    bad[place] = fingerprint
                    continue
                entries["fingerprint"][place] = fingerprint
                known[place] = True
                if monotonic() - saved > SAVE_SECONDS:
                    recorded = _save(file, entries[known], recorded)
                    saved = monotonic()
    finally:
        pool.shutdown(cancel_futures=True)
        _save(file, entries[known], recorded)
    places, index = images.places, images.rows.index.to_numpy()
    unreadable = np.flatnonzero(np.isin(places, [*bad]))
    found = [(int(index[row]), bad[int(places[row])]) for row in unreadable]
    return entries["fingerprint"].astype(np.uint64)[places], found


def images_digest(images: ImageSet, watch: Watch = unwatched, test: bool = True) -> str:
    """Return a digest of the bytes of all labelled images of the split table, and all test images if `test`.

    It depends on the order of the table.  Raises as `fingerprints` does.
    """
    parts = [part for part in (images.part(test=False), images.part(test=True)) if len(part)][: 2 if test else 1]
    return hashlib.sha256(b"".join(fingerprints(part, watch).astype("<u8").tobytes() for part in parts)).hexdigest()


def note_changed_pixels(trained: Mapping[str, Any], images: ImageSet, run: str, watch: Watch = unwatched) -> str:
    """Return a note if labelled images have other bytes than when `run` was trained, by its note `trained`."""
    then = trained.get("labelled images")  # absent in the notes of older versions
    if then in (None, images_digest(images, watch, test=False)):
        return ""
    return f"Note: labelled images have other contents than when {run} was trained; its scores are of the earlier ones."


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


def _without_fingerprints(images: ImageSet) -> tuple[Entries, dict[int, str]]:
    """Return an entry for each image, with everything but its fingerprint; and the problems of unreadable ones."""
    entries, bad = np.zeros(len(images), ENTRY), {}
    paths, sizes, modified = entries["path"], entries["size"], entries["modified"]
    for place, path in enumerate(images.rows["path"]):
        try:
            # Before the file is read: if it changes meanwhile, it differs from its entry and is read again next time.
            # pathlib takes twice as long for 300,000 files
            each = [os.stat(file) for file in files_at(images.raw, path)]  # noqa: PTH116
        except OSError as error:
            bad[place] = _problem(error)
            continue
        times = [status.st_mtime_ns for status in each]
        paths[place], sizes[place] = fingerprint_of(path.encode()), sum(status.st_size for status in each)
        modified[place] = times[0] if len(times) == 1 else fingerprint_of(repr(times).encode()) >> 1
    return entries, bad


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


def _read(images: ImageSet, places: npt.NDArray[np.intp], pool: ThreadPoolExecutor) -> Iterator[tuple[int, int | str]]:
    """Yield place and fingerprint, or the problem, of the images at `places`, in their order."""

    def read(task: list[tuple[int, str]]) -> list[tuple[int, int | str]]:
        found: list[tuple[int, int | str]] = []
        for place, path in task:
            try:
                found.append((place, _fingerprint_of_image(files_at(images.raw, path))))
            except OSError as error:
                found.append((place, _problem(error)))
        return found

    for start in range(0, len(places), BLOCK_IMAGES):
        block = places[start : start + BLOCK_IMAGES]
        work = list(zip(block.tolist(), images.rows["path"].iloc[block].tolist(), strict=True))
        tasks = [work[first : first + TASK_IMAGES] for first in range(0, len(work), TASK_IMAGES)]
        yield from chain.from_iterable(pool.map(read, tasks))


def _fingerprint_of_image(paths: list[str]) -> int:
    """Return the fingerprint of the bytes of a file; of several files, the fingerprint of theirs."""
    if len(paths) > 1:
        return fingerprint_of(repr([_fingerprint_of_image([path]) for path in paths]).encode())
    digest = hashlib.blake2b(digest_size=8)
    with open(paths[0], "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return int.from_bytes(digest.digest(), "little")


def fingerprint_of(content: bytes) -> int:
    """Return the fingerprint of bytes in memory; it equals that of a file with these bytes."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def _problem(error: OSError) -> str:
    match error:
        case FileNotFoundError() | NotADirectoryError():
            return MISSING
        case IsADirectoryError():
            return FOLDER
        case PermissionError():
            return FORBIDDEN
    raise error  # a fault of the disk, not of this file


def undecodable(images: ImageSet, watch: Watch = unwatched) -> list[Found]:
    """Return the images that cannot be decoded, each by its row and with the problem.

    The fingerprints of decoded images are kept in `cache/<name>-decodable.npy`, for other channels than 3
    in a file of their own: the same bytes are not decoded again.
    """
    marks, bad = readable_fingerprints(images, watch)
    channels = f"-{images.channels}-channels" if images.channels != 3 else ""
    record = images.cache / f"{images.cache_name}-decodable{channels}.npy"
    try:
        with open(record, "rb") as file:
            known = np.lib.format.read_array(file, allow_pickle=False)
        if known.dtype != np.uint64:
            raise ValueError(f"fingerprints of the type {known.dtype}")
    except Exception:  # missing or damaged, for which numpy raises many exception types: try all images
        known = np.zeros(0, dtype=np.uint64)
    untried = ~np.isin(marks, known) & ~np.isin(images.rows.index, [index for index, _ in bad])
    if not untried.any():
        return bad
    paths = images.rows["path"][untried].tolist()
    items = list(zip(images.rows.index[untried].tolist(), paths, strict=True))
    work = [items[start : start + CHUNK_IMAGES] for start in range(0, len(items), CHUNK_IMAGES)]
    decode_all = partial(_decode, images.reader)
    for problems in in_processes(decode_all, work, len(work), watch, "checking", f"x {CHUNK_IMAGES} photos"):
        bad += problems
    good = marks[~np.isin(images.rows.index, [index for index, _ in bad])]
    with atomic_file(record) as partly, open(partly, "wb") as file:
        np.save(file, np.union1d(known, good))
    return bad


def check_decodable(images: ImageSet, watch: Watch = unwatched) -> None:
    """Decode each image before training starts. Raises `UserError` for all that cannot be decoded."""
    if bad := undecodable(images, watch):
        raise report(images, bad)


@contextmanager
def all_listed(images: ImageSet, watch: Watch = unwatched) -> Iterator[None]:
    """Turn the block's error about one image into one about all that are `cached_together` with `images`."""
    failure = None
    try:
        yield
    except UnreadableImage as error:
        failure = copy(error)  # its traceback would keep the block's frames, and so workers, alive
    if failure:
        bad = undecodable(images.cached_together, watch)
        raise report(images, bad) if bad else failure


def _decode(reader: Reader, items: list[tuple[int, str]]) -> list[Found]:
    bad = []
    for index, path in items:
        try:
            reader.open(path, "")
        except UnreadableImage as error:
            bad.append((index, error.problem))
    return bad
