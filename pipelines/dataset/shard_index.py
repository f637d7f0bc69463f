"""Images in shards: tar files as WebDataset writes them, with `<key>.jpg` beside `<key>.cls`, the number of its class.

An index says where each image is, so that it can be read alone.  Without torch: indexing processes import this module.
"""

import hashlib
import os
import re
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.dataset.image_paths import IMAGE_EXTENSIONS
from pipelines.dataset.images import MAX_BYTES
from pipelines.system.errors import UserError, quoted, refuse
from pipelines.system.files import atomic_file, only_one
from pipelines.system.processes import in_processes
from pipelines.system.watch import Watch, unwatched

MEMBER = re.compile(r"((?:.*/)?[^./]+)\.([^/]*)", re.DOTALL)  # key and extension, as WebDataset divides a name
UNLABELLED = -1
LONGEST_LABEL = 18  # digits; more are no number of a class
PATIENCE = 172_800.0  # seconds, in which another process indexes the shards
AGAIN = "Write this shard again."
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Shards:
    """The images of the tar files `paths`; see `open_shards`, which another process calls when it gets these.

    ids: their keys, bytes (N,).  labels: int64 (N,), or (0,).  offsets, sizes: in bytes, (N,).  ends: of each shard
    among the images, (S,).
    """

    paths: Sequence[Path]
    folder: Path
    classes: Sequence[str]
    ids: Array
    labels: Array
    offsets: Array
    sizes: Array
    ends: Array

    def __len__(self) -> int:
        return len(self.ids)

    def __reduce__(self) -> tuple[Any, ...]:
        return open_shards, (self.paths, self.folder, self.classes)

    def shard(self, position: int) -> Path:
        return self.paths[int(np.searchsorted(self.ends, position, side="right"))]

    def name(self, position: int) -> str:
        """Return shard and key of an image, for messages."""
        return f"{self.shard(position)}: {self.ids[position].decode(errors='replace')}"

    def read(self, position: int) -> bytes:
        """Return the bytes of the image at `position`.  Raises `UserError` if its shard is not as it was."""
        content = b""
        if (shard := self.shard(position)).is_file():
            with open(shard, "rb", buffering=0) as file:
                content = os.pread(file.fileno(), int(self.sizes[position]), int(self.offsets[position]))
        if len(content) < self.sizes[position]:
            raise UserError(f"{self.name(position)} cannot be read: the shard is missing or cut short. {AGAIN}")
        return content


def open_shards(paths: Sequence[Path], folder: Path, classes: Sequence[str], watch: Watch = unwatched) -> Shards:
    """Return the images of the shards `paths`, in their order; first index them into `folder`, where this is not done.

    classes: by number; none for test images, whose labels are ignored.  Raises `UserError` for whatever is wrong.
    """
    if not paths:
        raise UserError("There are no shards: the list of their paths is empty.")
    refuse("Shards are missing", [str(path) for path in paths if not path.is_file()], "Copy them, or correct the list.")
    files = [folder / _index_name(path) for path in paths]
    with only_one(folder / ".lock", "indexing the shards", PATIENCE, inherited=False):
        missing = [pair for pair in zip(paths, files, strict=True) if not pair[1].exists()]
        for _ in in_processes(_write, missing, len(missing), watch, "indexing", "shards"):
            pass
    parts = [np.load(file) for file in files]
    keys, labels, offsets, sizes = (np.concatenate([part[name] for part in parts]) for name in parts[0].dtype.names)
    ends = np.cumsum([len(part) for part in parts])
    found = Shards(paths, folder, classes, keys, labels if classes else labels[:0], offsets, sizes, ends)
    order = np.argsort(keys, kind="stable")
    again = order[1:][keys[order[1:]] == keys[order[:-1]]]
    wrong = {"Keys that an image before has": again, "Images without a label": np.flatnonzero(found.labels < 0)}
    wrong[f"Labels that are no number of {len(classes)} classes"] = np.flatnonzero(found.labels >= len(classes))
    for problem, places in wrong.items():
        refuse(problem, [found.name(place) for place in places], "Write these shards again.")
    return found


def _index_name(path: Path) -> str:
    """Return the name of the index of a shard; a changed shard has another one."""
    known = f"1\0{path.absolute()}\0{path.stat().st_size}\0{path.stat().st_mtime_ns}"
    return f"{path.stem}-{hashlib.blake2b(os.fsencode(known), digest_size=8).hexdigest()}.npy"


def _write(pair: tuple[Path, Path]) -> None:
    entries = scan(pair[0])
    with atomic_file(pair[1]) as partial, open(partial, "wb") as file:
        np.save(file, entries)


def scan(shard: Path) -> Array:
    """Return key, label, offset and size of each image of `shard`, in its order, as a structured array."""
    images: dict[str, tuple[int, int]] = {}
    labels: dict[str, int] = {}
    flaws: list[str] = []
    try:
        with open(shard, "rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                parts = MEMBER.fullmatch(member.name)
                key, ending = (parts[1], parts[2].lower()) if parts and member.isreg() else ("", "")
                if f".{ending}" in IMAGE_EXTENSIONS:
                    if key in images or member.size > MAX_BYTES:
                        flaws.append(f"{member.name}: a second image of its key, or one of over {MAX_BYTES:,} bytes")
                    images[key] = member.offset_data, member.size
                elif ending == "cls":
                    text = os.pread(file.fileno(), min(member.size, LONGEST_LABEL), member.offset_data)
                    if not text.strip().isdigit():
                        flaws.append(f"{member.name}: {quoted(text.decode(errors='replace'))} is no number of a class")
                    labels[key] = int(text) if text.strip().isdigit() else UNLABELLED
            # tarfile takes damage for the end of the archive, without a word.
            if os.pread(file.fileno(), tarfile.BLOCKSIZE, tar.offset) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError(f"its end is missing at byte {tar.offset:,}")
    except tarfile.TarError as error:
        raise UserError(f"{shard} is cut short, damaged, or no plain tar file: {error}. {AGAIN}") from None
    flaws += [f"{key}.cls: there is no image of this key" for key in labels if key not in images]
    refuse(f"{shard}: wrong members", flaws, AGAIN)
    rows = [(os.fsencode(key), labels.get(key, UNLABELLED), *place) for key, place in images.items()]
    width = max((len(row[0]) for row in rows), default=1)
    return np.array(rows, [("key", f"S{width}"), ("label", "<i8"), ("offset", "<i8"), ("size", "<i4")])
