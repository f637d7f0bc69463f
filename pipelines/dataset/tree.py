"""The folder tree that `torchvision.datasets.ImageFolder` and other tools read: links to the raw images, no copies."""

import errno
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain, count, groupby
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from pipelines.dataset.tables import csv_text, normal
from pipelines.system import files
from pipelines.system.watch import Watch, unwatched

HARD_LINK, SYMBOLIC_LINK, COPY = "hard link", "symbolic link", "copy"
CLASSES_CSV = "classes.csv"
PARTS = {"train": ("train", "train_valid"), "valid": ("valid", "train_valid")}  # by split
UNKNOWN = "test/unknown"  # where the textbook puts test images: ImageFolder wants one folder per class
LONGEST_NAME = 255  # bytes, of all common file systems
LONGEST_STEM = 200  # bytes, which leaves room for a number and an extension

_UNSAFE = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f]')
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)
_CANNOT_LINK = {
    errno.EXDEV,  # another device
    errno.EPERM,  # the file system has no links, or the kernel forbids them to files of other people
    errno.EACCES,
    errno.EMLINK,  # too many links to one file
    errno.ENOSYS,
    errno.EOPNOTSUPP,
}


class Link(NamedTuple):
    """One entry of the tree: `name` in `folder`, for the image `path` below the raw folder."""

    folder: str
    name: str
    path: str


def build(tree: Path, raw: Path, rows: pd.DataFrame, watch: Watch = unwatched) -> Counter[str]:
    """Make `tree` from the whole split `rows` and return how many entries are `HARD_LINK`, `SYMBOLIC_LINK` or `COPY`.

    The tree holds `train`, `valid` and `train_valid` with a folder for every class (`folder_names`, listed in
    `classes.csv`), and `test/unknown`.  A class without valid images has an empty folder in `valid`: were it missing,
    ImageFolder would number the classes of `valid` differently from those of `train`.  An entry is a hard link where
    the file system can, else a symbolic link, else a copy.  `watch` sees the entries go by, for a progress bar.

    The tree appears whole or not at all.  Raises `OSError` when the disk is full or an image cannot be read.
    """
    names = folder_names(rows["label"][rows["split"] != "test"].unique())
    source = os.path.realpath(raw)
    kinds: Counter[str] = Counter()
    with files.atomic_folder(tree) as partial:
        for part in ("train", "valid", "train_valid"):
            for name in names.values():
                (partial / part / name).mkdir(parents=True)
        (partial / UNKNOWN).mkdir(parents=True)
        with open(partial / CLASSES_CSV, "w", encoding="utf-8", newline="") as file:
            file.write(csv_text([("folder", "label"), *((name, label) for label, name in names.items())]))
        links = _links(rows, names)
        for folder, group in groupby(watch(links, "linking", len(links)), key=attrgetter("folder")):
            # From the tree's final place: a symbolic link says how to get from itself to the image.
            upwards = os.path.relpath(source, os.path.realpath(tree / folder))
            place = partial / folder
            descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY)  # spares looking up the path per link
            try:
                for _, name, path in group:
                    kinds[_link(f"{source}/{path}", f"{upwards}/{path}", place, descriptor, name)] += 1
            finally:
                os.close(descriptor)
    return kinds


def _link(source: str, relative: str, folder: Path, descriptor: int, name: str) -> str:
    """Make `name` in `folder`, open as `descriptor`, stand for the file `source`; return by which kind of entry."""
    try:
        # With a descriptor, unlike with two paths, Linux links to what a symbolic link leads to, not to the link.
        os.link(source, name, dst_dir_fd=descriptor)
        return HARD_LINK
    except OSError as error:
        if error.errno not in _CANNOT_LINK:
            raise
    try:
        os.symlink(relative, name, dir_fd=descriptor)
        return SYMBOLIC_LINK
    except OSError as error:
        if error.errno not in _CANNOT_LINK:
            raise
    shutil.copyfile(source, folder / name)
    return COPY


def _links(rows: pd.DataFrame, names: dict[str, str]) -> list[Link]:
    """Return all entries of the tree, folder by folder; no two in a folder differ by case alone."""
    links = []
    taken: dict[str, set[str]] = {}
    columns = (rows[name].tolist() for name in ("path", "label", "split"))
    for path, label, split in sorted(zip(*columns, strict=True)):  # so that names do not depend on the rows' order
        folder = UNKNOWN if split == "test" else names[label]
        name = _unique(taken.setdefault(folder, set()), path.rpartition("/")[2], path.replace("/", "_"))
        if split == "test":
            links.append(Link(folder, name, path))
        else:
            links.extend(Link(f"{part}/{folder}", name, path) for part in PARTS[split])
    return sorted(links, key=attrgetter("folder"))


def folder_names(labels: Iterable[str]) -> dict[str, str]:
    """Return {label: folder name}, the labels sorted, the names fit for any file system.

    Spaces and non-ASCII letters stay.  Separators and other signs that some system forbids, a leading dot and a
    trailing dot or space become `_`; names that Windows reserves get a `_` in front; long ones are cut.  Names that
    would then be equal, or differ by case alone, are numbered.
    """
    names: dict[str, str] = {}
    taken: set[str] = set()
    for label in sorted(set(labels)):
        name = re.sub(r"^\.|[. ]$", "_", _shortened(_UNSAFE.sub("_", normal(label))))
        names[label] = _unique(taken, f"_{name}" if _RESERVED.fullmatch(name) else name)
    return names


def _shortened(text: str) -> str:
    return text.encode()[:LONGEST_STEM].decode(errors="ignore")  # a letter that is cut in half is left out


def _unique(taken: set[str], *wanted: str) -> str:
    """Return, and add to `taken`, the first of `wanted` that is free and not too long; else the first with a number."""
    for name in chain(wanted, _numbered(wanted[0])):
        folded = normal(name).casefold()
        if folded not in taken and len(name.encode()) <= LONGEST_NAME:
            taken.add(folded)
            return name
    raise AssertionError("there are always more numbers")


def _numbered(name: str) -> Iterator[str]:
    stem, extension = Path(name).stem, Path(name).suffix
    yield from (f"{_shortened(stem)}-{number}{extension}" for number in count(2))
