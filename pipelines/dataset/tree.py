"""The folder tree that `torchvision.datasets.ImageFolder` and other tools read: links to the raw images, no copies.

Only one class per image gives class folders. Where an image has several labels or numbers, each part of the split has
one folder, `images`, and split.csv holds the targets.
"""

import errno
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
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
    one folder, `images`. More than `files.MOST_IN_FOLDER` entries are in numbered folders, which ImageFolder walks too.
    An entry is a hard link if the file system allows it, else a symbolic link, else a copy. The tree appears only when
    it is complete.
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
        pairs = zip(rows["path"].tolist(), rows["split"].tolist(), strict=True)
        total = sum(len(files_of(path)) * len(PARTS.get(split, (split,))) for path, split in pairs)
        for folder, group in groupby(watch(_links(rows, of_class), "linking", total), key=itemgetter(0)):
            # relative to the final place of the tree, where a symbolic link must lead to the image
            here = os.path.realpath(tree / folder)
            upwards = {base: os.path.relpath(base, here) for base in (source, beside)}
            place = unfinished / folder
            place.mkdir(exist_ok=True)  # a numbered folder is new
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


def _links(rows: pd.DataFrame, of_class: dict[str, str]) -> Iterator[tuple[str, str, str]]:
    """Yield folder, name and image path of each entry of the tree, folder by folder.

    of_class: the folder of each class; empty if there are none. No two names in a folder differ only by case.
    """
    images: dict[tuple[bool, str], list[tuple[str, str]]] = {}  # paths and their split, by test or not, and label
    columns = (rows[name].tolist() for name in ("path", "label", "split"))
    for path, label, split in zip(*columns, strict=True):
        images.setdefault((split == "test", label if of_class else ""), []).append((path, split))
    for (is_test, label), found in sorted(images.items()):
        folder = IMAGES if not of_class else UNKNOWN if is_test else of_class[label]
        taken: set[str] = set()
        places: dict[str, list[tuple[str, str]]] = {}
        for path, split in sorted(found):  # names must not depend on the order of rows
            for file in files_of(path):
                entry = _unique(taken, file.rpartition("/")[2], file.replace("/", "_")), file
                for part in PARTS.get(split, (split,)):
                    places.setdefault(f"{part}/{folder}", []).append(entry)
        for place, entries in places.items():
            numbers = files.numbered_folders(len(entries))
            yield from ((f"{place}{below}", *entry) for below, entry in zip(numbers, entries, strict=True))


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
