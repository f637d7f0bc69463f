"""What tells one image from another: a fingerprint of its bytes, taken once and remembered."""

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipelines.dataset import images
from pipelines.system.errors import UserError
from pipelines.system.files import CHUNK_BYTES, atomic_file, only_one
from pipelines.system.watch import Watch, unwatched

FORMAT = "blake2b-1"  # fingerprints taken or kept another way must not be found
ENTRY = np.dtype([("path", "<u8"), ("size", "<i8"), ("modified", "<i8"), ("fingerprint", "<u8")])
SAVE_SECONDS = 30.0  # a killed reading loses at most this much; saving a million entries takes a fraction of a second
TASK_IMAGES = 16  # handed to a thread at once: for small files the hand-over would cost more than the reading
BLOCK_IMAGES = 1024  # in hand at once, so that memory does not grow with the table
Entries = npt.NDArray[np.void]


def fingerprints(
    rows: pd.DataFrame, raw: Path, cache: Path, name: str, watch: Watch = unwatched
) -> npt.NDArray[np.uint64]:
    """Return a fingerprint of the bytes of each image of `rows`, uint64 (N,).

    rows: a split table's `id` and `path` (below `raw`).  A fingerprint is a BLAKE2b hash of 8 bytes, so that the chance
    of any two among a million different images being equal is about 3e-8.  They are remembered in
    `cache/<name>-fingerprints.npz`, which describes the rows of the last call: a file whose size and modification time
    are as recorded is not opened.  An interrupted call goes on where it was.  Raises `UserError` for an image that is
    missing or cannot be read.
    """
    file = cache / f"{name}-fingerprints.npz"
    recorded = _load(file)
    entries = _look(rows, raw)
    known = _remember(entries, recorded)
    unread = np.flatnonzero(~known)
    pool, saved = ThreadPoolExecutor(), monotonic()
    try:
        if len(unread):
            for place, fingerprint in watch(_read(rows, raw, unread, pool), "reading", len(unread), "images"):
                entries["fingerprint"][place] = fingerprint
                known[place] = True
                if monotonic() - saved > SAVE_SECONDS:
                    recorded = _save(file, entries[known], recorded)
                    saved = monotonic()
    finally:
        pool.shutdown(cancel_futures=True)
        _save(file, entries[known], recorded)
    return entries["fingerprint"].astype(np.uint64)


def images_digest(table: pd.DataFrame, raw: Path, cache: Path, watch: Watch = unwatched) -> str:
    """Return a digest of the bytes of all images of a split table, in its order; see `fingerprints` for its errors."""
    digest = hashlib.sha256()
    is_test = table["split"] == "test"
    for rows, name in ((table[~is_test], "labelled"), (table[is_test], "test")):
        digest.update(fingerprints(rows, raw, cache, name, watch).astype("<u8").tobytes())
    return digest.hexdigest()


def _load(file: Path) -> Entries:
    """Return the entries in `file`, sorted by path, or none where it is missing, damaged or of another format."""
    try:
        with open(file, "rb") as source, np.load(source, allow_pickle=False) as content:
            entries = content["entries"]
            if content["format"] == FORMAT and entries.dtype == ENTRY and entries.ndim == 1:
                return cast(Entries, entries)
    except Exception:
        pass  # numpy and zipfile answer damage with a dozen exception types; a record can always be made anew
    return np.empty(0, ENTRY)


def _save(file: Path, entries: Entries, recorded: Entries) -> Entries:
    """Write `entries` to `file`, unless they are those `recorded`; return them as they are recorded now."""
    entries = entries[np.argsort(entries["path"], kind="stable")]
    if not np.array_equal(entries, recorded):
        lock = file.parent.with_name(f".{file.parent.name}-{file.stem}.lock")
        with only_one(lock, f"writing {file}"), atomic_file(file) as partial, open(partial, "wb") as target:
            # A zip holds checksums, so that damage is noticed.
            np.savez(target, format=np.array(FORMAT), entries=entries)
    return entries


def _look(rows: pd.DataFrame, raw: Path) -> Entries:
    """Return the entries of `rows`, in their order, without fingerprints."""
    entries = np.zeros(len(rows), ENTRY)
    paths, sizes, modified = entries["path"], entries["size"], entries["modified"]
    for place, path in enumerate(rows["path"]):
        try:
            # Looked at before it is read: a file that changes meanwhile will differ from its entry, and be read again.
            status = os.stat(f"{raw}/{path}")  # noqa: PTH116 - pathlib would take twice the time over 300,000 files
        except OSError as error:
            raise _unreadable(rows, raw, place, error) from None
        paths[place], sizes[place], modified[place] = fingerprint_of(path.encode()), status.st_size, status.st_mtime_ns
    return entries


def _remember(entries: Entries, recorded: Entries) -> npt.NDArray[np.bool_]:
    """Fill in the fingerprints of those `entries` that are `recorded` and unchanged; return which, bool (N,)."""
    if not len(recorded):
        return np.zeros(len(entries), np.bool_)
    nearest = np.searchsorted(recorded["path"], entries["path"]).clip(max=len(recorded) - 1)
    known = np.ones(len(entries), np.bool_)
    for field in ("path", "size", "modified"):
        known &= recorded[field][nearest] == entries[field]
    entries["fingerprint"][known] = recorded["fingerprint"][nearest[known]]
    return known


def _read(
    rows: pd.DataFrame, raw: Path, places: npt.NDArray[np.intp], pool: ThreadPoolExecutor
) -> Iterator[tuple[int, int]]:
    """Yield place and fingerprint of the rows at `places`, in their order."""

    def read(task: npt.NDArray[np.intp], paths: list[str]) -> list[tuple[int, int]]:
        found = []
        for place, path in zip(task.tolist(), paths, strict=True):
            try:
                found.append((place, _fingerprint(f"{raw}/{path}")))
            except OSError as error:
                raise _unreadable(rows, raw, place, error) from None
        return found

    for start in range(0, len(places), BLOCK_IMAGES):
        block = places[start : start + BLOCK_IMAGES]
        paths = rows["path"].iloc[block].tolist()
        tasks = [slice(first, first + TASK_IMAGES) for first in range(0, len(block), TASK_IMAGES)]
        for found in pool.map(read, [block[task] for task in tasks], [paths[task] for task in tasks]):
            yield from found


def _fingerprint(path: str) -> int:
    digest = hashlib.blake2b(digest_size=8)
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return int.from_bytes(digest.digest(), "little")


def fingerprint_of(content: bytes) -> int:
    """Return the fingerprint of bytes in memory, as that of a file that holds them."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def _unreadable(rows: pd.DataFrame, raw: Path, place: int, error: OSError) -> UserError:
    row: Any = next(rows.iloc[[place]].itertuples())
    missing = isinstance(error, FileNotFoundError | NotADirectoryError)
    problem = "the file is missing" if missing else error.strerror or type(error).__name__
    return UserError(
        f"{raw / row.path} ({images.place_of(row)}) cannot be read: {problem}. Put the right file there; or, for a "
        "labelled image, remove its row from the labels CSV and split again."
    )
