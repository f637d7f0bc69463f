"""The folder tree that `torchvision.datasets.ImageFolder` and other tools read: links to the raw images, no copies."""

import errno
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable
from functools import partial
from itertools import chain, count, groupby
from operator import itemgetter
from pathlib import Path

import pandas as pd

from pipelines.dataset.image_paths import files_of, from_raw, normal
from pipelines.dataset.tables import csv_text
from pipelines.system import files
from pipelines.system.watch import Watch, unwatched

HARD_LINK, SYMBOLIC_LINK, COPY = "hard link", "symbolic link", "copy"
CLASSES_CSV = "classes.csv"
PARTS = {"train": ("train", "train_valid"), "valid": ("valid", "train_valid")}  # by split
UNKNOWN = "test/unknown"  # as in the textbook: ImageFolder needs one folder per class
LONGEST_STEM = 200  # bytes, which leaves room for a number and an extension

_UNSAFE = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f]')
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)
# Another device; no links on this file system, or not to files of other users; too many links to one file.
_CANNOT_LINK = {errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOSYS, errno.EOPNOTSUPP}


def build(tree: Path, raw: Path, rows: pd.DataFrame, watch: Watch = unwatched) -> Counter[str]:
    """Write `tree` for the whole split `rows`; return the number of entries by `HARD_LINK`, `SYMBOLIC_LINK` and `COPY`.

    The tree holds `train`, `valid` and `train_valid` with a folder for every class (`folder_names`, listed in
    `classes.csv`), and `test/unknown`. A class without validation images has an empty folder in `valid`, so that
    ImageFolder numbers the classes of `valid` like those of `train`. An entry is a hard link if the file system allows
    it, else a symbolic link, else a copy. The tree appears only when it is complete.
    """
    names = folder_names(rows["label"][rows["split"] != "test"].unique())
    source = os.path.realpath(raw)
    kinds: Counter[str] = Counter()
    with files.atomic_folder(tree) as unfinished:
        of_classes = [f"{part}/{name}" for part in ("train", "valid", "train_valid") for name in names.values()]
        for folder in (*of_classes, UNKNOWN):
            (unfinished / folder).mkdir(parents=True)
        classes = csv_text([("folder", "label"), *((name, label) for label, name in names.items())])
        (unfinished / CLASSES_CSV).write_text(classes, encoding="utf-8", newline="")
        links = _links(rows, names)
        for folder, group in groupby(watch(links, "linking", len(links)), key=itemgetter(0)):
            # relative to the final place of the tree, where a symbolic link must lead to the image
            upwards = os.path.relpath(source, os.path.realpath(tree / folder))
            place = unfinished / folder
            descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY)  # faster than a path per link
            try:
                for _, name, path in group:
                    kinds[_link(from_raw(source, path), from_raw(upwards, path), place, descriptor, name)] += 1
            finally:
                os.close(descriptor)
    return kinds


def _link(source: str, relative: str, folder: Path, descriptor: int, name: str) -> str:
    """Link or copy the file `source` to `name` in `folder`, open as `descriptor`; return the kind of entry."""
    # With a descriptor, unlike with two paths, Linux links to the target of a symbolic link, not to the link.
    hard = partial(os.link, source, name, dst_dir_fd=descriptor)
    symbolic = partial(os.symlink, relative, name, dir_fd=descriptor)
    for kind, link in ((HARD_LINK, hard), (SYMBOLIC_LINK, symbolic)):
        try:
            link()
            return kind
        except OSError as error:
            if error.errno not in _CANNOT_LINK:
                raise
    shutil.copyfile(source, folder / name)
    return COPY


def _links(rows: pd.DataFrame, names: dict[str, str]) -> list[tuple[str, str, str]]:
    """Return folder, name and image path of each entry of the tree, sorted by folder.

    No two names in a folder differ only by case.
    """
    links: list[tuple[str, str, str]] = []
    taken: dict[str, set[str]] = {}
    columns = (rows[name].tolist() for name in ("path", "label", "split"))
    for image, label, split in sorted(zip(*columns, strict=True)):  # names must not depend on the order of rows
        folder = UNKNOWN if split == "test" else names[label]
        folders = [folder] if split == "test" else [f"{part}/{folder}" for part in PARTS[split]]
        for path in files_of(image):
            name = _unique(taken.setdefault(folder, set()), path.rpartition("/")[2], path.replace("/", "_"))
            links.extend((folder, name, path) for folder in folders)
    return sorted(links, key=itemgetter(0))


def folder_names(labels: Iterable[str]) -> dict[str, str]:
    """Return {label: folder name}, sorted by label, with names that are valid on any file system.

    Spaces and non-ASCII letters stay. Separators and other forbidden characters, a leading dot and a trailing dot or
    space become `_`; names reserved by Windows get a `_` in front; long names are cut. Names that would then be equal,
    or differ only by case, are numbered.
    """
    names: dict[str, str] = {}
    taken: set[str] = set()
    for label in sorted(set(labels)):
        name = re.sub(r"^\.|[. ]$", "_", _shortened(_UNSAFE.sub("_", normal(label))))
        names[label] = _unique(taken, f"_{name}" if _RESERVED.fullmatch(name) else name)
    return names


def _shortened(text: str) -> str:
    return text.encode()[:LONGEST_STEM].decode(errors="ignore")  # drops a letter that is cut in half


def _unique(taken: set[str], *wanted: str) -> str:
    """Return the first of `wanted` that is free and not too long, else the first with a number; add it to `taken`."""
    numbered = (f"{_shortened(Path(wanted[0]).stem)}-{number}{Path(wanted[0]).suffix}" for number in count(2))
    for name in chain(wanted, numbered):
        folded = normal(name).casefold()
        if folded not in taken and len(name.encode()) <= files.LONGEST_NAME:
            taken.add(folded)
            return name
    raise AssertionError("unreachable: there are always more numbers")
