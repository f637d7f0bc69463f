"""The folder tree that `torchvision.datasets.ImageFolder` and other tools read: links to the raw images, no copies.

Only one class per image gives class folders. Where an image has several labels or numbers, each part of the split has
one folder, `images`, and split.csv holds the targets.
"""

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

from pipelines.dataset.image_paths import files_of, normal
from pipelines.dataset.tables import csv_text
from pipelines.settings.metrics import ONE_CLASS
from pipelines.system import files
from pipelines.system.watch import Watch, unwatched

HARD_LINK, SYMBOLIC_LINK, COPY = "hard link", "symbolic link", "copy"
CLASSES_CSV = "classes.csv"
PARTS = {"train": ("train", "train_valid"), "valid": ("valid", "train_valid")}  # by split
UNKNOWN = "unknown"  # folder of the test images, as in the textbook: ImageFolder needs one folder per class
IMAGES = "images"  # the only folder of a part where there are no classes
LONGEST_STEM = 200  # bytes, which leaves room for a number and an extension

_UNSAFE = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f]')
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)
# Another device; no links on this file system, or not to files of other users; too many links to one file.
_CANNOT_LINK = {errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOSYS, errno.EOPNOTSUPP}


def build(tree: Path, raw: Path, rows: pd.DataFrame, task: str = ONE_CLASS, watch: Watch = unwatched) -> Counter[str]:
    """Write `tree` for the whole split `rows`; return the number of entries by `HARD_LINK`, `SYMBOLIC_LINK` and `COPY`.

    The tree holds `train`, `valid` and `train_valid` with a folder for every class (`folder_names`, listed in
    `classes.csv`), and `test/unknown`. A class without validation images has an empty folder in `valid`, so that
    ImageFolder numbers the classes of `valid` like those of `train`. Without one class per image, each of the four has
    one folder, `images`. An entry is a hard link if the file system allows it, else a symbolic link, else a copy. The
    tree appears only when it is complete.
    """
    of_class = folder_names(rows["label"][rows["split"] != "test"].unique()) if task == ONE_CLASS else {}
    source, beside = os.path.realpath(raw), os.path.realpath(raw.parent)  # raw may be a link to another place
    kinds: Counter[str] = Counter()
    with files.atomic_folder(tree) as unfinished:
        names = list(of_class.values()) or [IMAGES]
        folders = [f"{part}/{name}" for part in ("train", "valid", "train_valid") for name in names]
        for folder in (*folders, f"test/{UNKNOWN if of_class else IMAGES}"):
            (unfinished / folder).mkdir(parents=True)
        if of_class:
            classes = csv_text([("folder", "label"), *((name, label) for label, name in of_class.items())])
            (unfinished / CLASSES_CSV).write_text(classes, encoding="utf-8", newline="")
        links = _links(rows, of_class)
        for folder, group in groupby(watch(links, "linking", len(links)), key=itemgetter(0)):
            # relative to the final place of the tree, where a symbolic link must lead to the image
            here = os.path.realpath(tree / folder)
            upwards = {base: os.path.relpath(base, here) for base in (source, beside)}
            place = unfinished / folder
            descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY)  # faster than a path per link
            try:
                for _, name, path in group:
                    base, path = (beside, path[3:]) if path.startswith("../") else (source, path)
                    kinds[_link(f"{base}/{path}", f"{upwards[base]}/{path}", place, descriptor, name)] += 1
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


def _links(rows: pd.DataFrame, of_class: dict[str, str]) -> list[tuple[str, str, str]]:
    """Return folder, name and image path of each entry of the tree, sorted by folder.

    of_class: the folder of each class; empty if there are none. No two names in a folder differ only by case.
    """
    links: list[tuple[str, str, str]] = []
    taken: dict[str, set[str]] = {}
    columns = (rows[name].tolist() for name in ("path", "label", "split"))
    for path, label, split in sorted(zip(*columns, strict=True)):  # names must not depend on the order of rows
        parts = PARTS.get(split, (split,))
        folder = IMAGES if not of_class else UNKNOWN if split == "test" else of_class[label]
        used = taken.setdefault(f"test/{folder}" if split == "test" else folder, set())
        for file in files_of(path):
            name = _unique(used, file.rpartition("/")[2], file.replace("/", "_"))
            links.extend((f"{part}/{folder}", name, file) for part in parts)
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
