"""Where the files of archives inside an archive go: beside the inner archive, or into a folder of its name."""

import filecmp
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path, PurePosixPath

from pipelines.dataset.archive_pieces import ANY_EXTENSION
from pipelines.dataset.image_paths import ARRAY, IMAGE_EXTENSIONS
from pipelines.settings.data_sections import DataSettings
from pipelines.system.errors import UserError

PATH_KEYS = ("labels", "test_table", "sample_submission", "train_images", "test_images")
FILE_KEYS = PATH_KEYS[:3]
ENDING = re.compile(rf"\.(?:(?:{ANY_EXTENSION})(?:[._-]?(?:part)?[0-9a-z]{{2,4}})?|z[0-9]{{2,3}})$", re.IGNORECASE)


@dataclass(frozen=True)
class Inner:
    """An unpacked archive inside another: its path there, the folder that holds its files for now, and their paths."""

    name: str
    unpacked: Path
    files: Sequence[str]

    @property
    def parent(self) -> str:
        """The folder around it, with a slash at the end unless it is empty."""
        return self.name[: self.name.rfind("/") + 1]

    @property
    def stem(self) -> str:
        """Its file name without the extensions of archives: `train` of `train.tar.gz` and of `train.zip.001`."""
        return ENDING.sub("", self.name[len(self.parent) :])


def place(
    inner: Sequence[Inner],
    names: Sequence[str],
    folder: Path,
    data: DataSettings,
    label: str,
    forget: Callable[[int], None],
) -> list[str]:
    """Move the files of all `inner` archives to their places below `folder`; return them and `names`, sorted.

    forget: is called with the size of each file that is there already, with the same bytes. Raises `UserError`, with
    the archive after `label`, for a file that is there with other bytes.
    """
    own = {each.name for each in inner if _wants_folder(each, data)}
    own |= _colliding([each for each in inner if each.name not in own])
    placed = set(names)
    for each in inner:
        below = f"{each.parent}{each.stem}/" if each.name in own else each.parent
        try:
            _merge(each.unpacked, folder / below, below, forget)
        except FileExistsError as error:
            raise UserError(
                f"{label}: {each.name}: {error} Unpack the archive yourself, sort its files, and give the folder: "
                "ARCHIVE=folder."
            ) from None
        placed.update(below + file for file in each.files)
    return sorted(placed)


def _wants_folder(inner: Inner, data: DataSettings) -> bool:
    """Return whether `inner` belongs into a folder of its name: flat images, or because the settings say so."""
    tops = {file.partition("/")[0] for file in inner.files if "/" in file}
    flat = {file.lower() for file in inner.files if "/" not in file}
    paths = [PurePosixPath(getattr(data, key)).parts for key in PATH_KEYS]
    for parts in paths:
        for part, below in zip_longest(parts, parts[1:], fillvalue=""):
            if part == inner.stem and (below in tops or (not below and inner.stem not in tops and len(tops) > 1)):
                return True
    named = {PurePosixPath(getattr(data, key)).name.lower() for key in FILE_KEYS}
    return not tops and not flat & named and any(file.endswith((*IMAGE_EXTENSIONS, ARRAY)) for file in flat)


def _colliding(inner: Sequence[Inner]) -> set[str]:
    """Return the names of archives that hold a file of the same path as another, with other bytes."""
    first: dict[str, Inner] = {}
    found: set[str] = set()
    for each in inner:
        for file in each.files:
            other = first.setdefault(each.parent + file, each)
            if other is not each and not _same(each.unpacked / file, other, each.parent + file):
                found |= {each.name, other.name}
    return found


def _same(file: Path, other: Inner, path: str) -> bool:
    return filecmp.cmp(file, other.unpacked / path.removeprefix(other.parent), shallow=False)


def _merge(source: Path, target: Path, below: str, forget: Callable[[int], None]) -> None:
    """Move everything in `source` to `target`, which the error names as `below`, and remove `source`."""
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        source.rename(target)
        return
    if not target.is_dir():
        raise FileExistsError(f"the folder {below.rstrip('/')!r} would overwrite an existing file.")
    with os.scandir(source) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        path, name = target / entry.name, below + entry.name
        if not path.exists():
            Path(entry.path).rename(path)
        elif entry.is_dir():
            _merge(Path(entry.path), path, f"{name}/", forget)
        elif path.is_file() and filecmp.cmp(entry.path, path, shallow=False):
            forget(entry.stat().st_size)
            Path(entry.path).unlink()
        else:
            raise FileExistsError(f"{name!r} would overwrite an existing file.")
    source.rmdir()
