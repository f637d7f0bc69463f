"""Small images decoded once into one memory-mapped array that every stage shares.

The array holds uint8 (N, size, size, 3): the layout that decoding gives, and in memory what convolutions with the
channels last want, so that nothing is ever transposed.
"""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from pipelines.core import images
from pipelines.core.files import atomic_file
from pipelines.core.processes import in_processes
from pipelines.core.watch import Watch, unwatched

FORMAT = "packed-1"  # part of the key: another way to decode or resize must not find older files
CHUNK_IMAGES = 2048
Work = tuple[Path, Path, int, int, list[tuple[str, str]]]


def pack(
    rows: pd.DataFrame, raw: Path, size: int, cache: Path, name: str, watch: Watch = unwatched
) -> np.memmap[tuple[int, ...], np.dtype[np.uint8]]:
    """Return the images of `rows` as one memory-mapped array, uint8 (N, size, size, 3); row i is image i.

    rows: a split table's `id` and `path` (below `raw`).  It is decoded at the first call and kept as
    `cache/<name>-<size>px-<key>.npy`; the key covers every path, size and modification time, so that a changed file
    is noticed, and arrays of the same name with another key are removed.  Raises `UserError` for an unreadable image.
    """
    stem = f"{name}-{size}px"
    path = cache / f"{stem}-{_key(rows['path'], raw, size)}.npy"
    if not path.exists():
        with atomic_file(path) as partial:
            _decode_all(rows, raw, size, partial, watch)
        for stale in cache.glob(f"{stem}-*.npy"):
            if stale != path:
                stale.unlink()
    # Copy-on-write rather than read-only, because torch warns about arrays it could not write to; nothing writes.
    packed: np.memmap[tuple[int, ...], np.dtype[np.uint8]] = np.load(path, mmap_mode="c")
    return packed


def _key(paths: Iterable[str], raw: Path, size: int) -> str:
    digest = hashlib.sha256(f"{FORMAT} {size}\n".encode())
    for path in paths:
        try:
            status = os.stat(f"{raw}/{path}")  # noqa: PTH116 - pathlib would take twice the time over 300,000 files
            digest.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
        except FileNotFoundError:
            digest.update(f"{path}\0missing\n".encode())  # decoding will name it, with its row
    return digest.hexdigest()[:16]


def _decode_all(rows: pd.DataFrame, raw: Path, size: int, target: Path, watch: Watch) -> None:
    packed = np.lib.format.open_memmap(target, mode="w+", dtype=np.uint8, shape=(len(rows), size, size, 3))
    packed.flush()
    del packed
    if hasattr(os, "posix_fallocate"):  # a full disk is an error here, but a crash in the middle of a memory map
        with open(target, "rb+") as file:
            os.posix_fallocate(file.fileno(), 0, target.stat().st_size)
    items = [(path, images.place_of(row)) for path, row in zip(rows["path"], rows.itertuples(), strict=True)]
    work: list[Work] = [
        (target, raw, size, start, items[start : start + CHUNK_IMAGES]) for start in range(0, len(items), CHUNK_IMAGES)
    ]
    for _ in in_processes(_decode_chunk, work, watch, "decoding", f"x {CHUNK_IMAGES} images"):
        pass


def _decode_chunk(work: Work) -> None:
    target, raw, size, start, items = work
    packed = np.lib.format.open_memmap(target, mode="r+")
    for offset, (path, place) in enumerate(items):
        packed[start + offset] = images.fit(images.open_image(raw / path, place), size, resize=size)
    packed.flush()
