"""What a raw folder holds: its images, tables and other files, and the images that a text may name."""

import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath

from pipelines.analysis.recognise.affixes import Affix, without
from pipelines.dataset.image_paths import (
    ARRAY,
    IMAGE_EXTENSIONS,
    JUNK,
    file_name,
    natural_key,
    normal,
    without_extension,
)

TABLES = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
LISTS = (".json",)
MOST_TABLES = 60  # read; some data sets have a table for each image
TESTS = re.compile(r"(^|[^a-z])(test|eval|holdout)|^(test|private|public)", re.IGNORECASE)
PREFERRED = (".jpg", ".jpeg", ".png")  # among copies of the same images
PROBED = 400  # ids of a column that are compared with names


@dataclass(frozen=True)
class RawFolder:
    """The files below the folder `raw`: POSIX paths relative to it, in natural order.

    others: the number of files by extension that are neither images nor tables. xml: the folder of the XML files, but
    for those of test images; empty if there are none.
    """

    raw: Path
    images: list[str]
    tables: list[str]
    lists: list[str]
    others: Counter[str]
    xml: str = ""

    @cached_property
    def names(self) -> "Names":
        return Names(self.images)

    @cached_property
    def folders(self) -> Counter[str]:
        """The number of images in each folder, without those in its subfolders."""
        return Counter(parent(image) for image in self.images)


def look(raw: Path) -> RawFolder:
    """Return what the folder `raw` holds. Hidden files and folders are skipped, symbolic links followed."""
    images, arrays, tables, lists = [], [], [], []
    marked: set[str] = set()  # folders with XML
    others: Counter[str] = Counter()
    for top, folders, names in os.walk(raw, followlinks=True):
        folders[:] = sorted(name for name in folders if name[0] != "." and name not in JUNK)
        prefix = Path(top).relative_to(raw).as_posix()
        prefix = "" if prefix == "." else f"{prefix}/"
        for name in names:
            lower = name.lower()
            if name[0] == ".":
                continue
            if lower.endswith(IMAGE_EXTENSIONS):
                images.append(prefix + name)
            elif lower.endswith(ARRAY):
                arrays.append(prefix + name)
            elif lower.endswith(TABLES):
                tables.append(prefix + name)
            elif lower.endswith(LISTS):
                lists.append(prefix + name)
            else:
                others[PurePosixPath(lower).suffix] += 1
                marked |= {top} if lower.endswith(".xml") else set()
    images = sorted(images or arrays, key=natural_key)
    marked = {path for path in marked if not TESTS.search(Path(path).relative_to(raw).as_posix())} or marked
    xml = Path(os.path.commonpath(marked)).relative_to(raw).as_posix() if marked else ""
    return RawFolder(raw, images, _likely(tables), _likely(lists), others, xml)


def _likely(paths: Sequence[str]) -> list[str]:
    """Return the paths of tables, the least deep first, without folders that hold one for each image."""
    crowds = {folder for folder, count in Counter(map(parent, paths)).items() if count > MOST_TABLES // 2}
    return sorted((path for path in paths if parent(path) not in crowds), key=lambda p: (p.count("/"), natural_key(p)))[
        :MOST_TABLES
    ]


def parent(path: str) -> str:
    """Return the folder of a POSIX path; an empty text for the raw folder."""
    return path.rpartition("/")[0]


def ancestors(path: str) -> list[str]:
    """Return all folders around a POSIX path, the raw folder (an empty text) first."""
    parts = path.split("/")[:-1]
    return ["/".join(parts[:count]) for count in range(len(parts) + 1)]


def folder_setting(folder: str) -> str:
    """Return a folder as settings name it."""
    return folder or "."


@dataclass(frozen=True)
class Home:
    """The folder that holds the image of each id. rivals: other folders that do. found: the number of ids there."""

    folder: str
    found: int
    images: list[str]
    rivals: list[str] = field(default_factory=list)


class Names:
    """The images that an id may mean, by their file names.

    endings: of images in several files, one per channel; an id names all of them. around: texts around ids in names.
    """

    def __init__(self, images: Sequence[str], endings: Sequence[str] = (), around: Sequence[Affix] = ()) -> None:
        self.images, self.endings, self.around = images, list(endings), list(around)
        self._by_stem: dict[str, list[str]] = {}
        for image in images:
            self._by_stem.setdefault(self._stem(image), []).append(image)

    def _stem(self, image: str) -> str:
        stem = normal(without_extension(file_name(image)))
        stem = next((stem.removesuffix(each) for each in self.endings if stem.endswith(each)), stem)
        return without(stem, self.around)

    @property
    def stems(self) -> list[str]:
        return list(self._by_stem)

    @cached_property
    def _loose(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for stem, images in self._by_stem.items():
            found.setdefault(_loosely(stem), []).extend(images)
        return found

    def find(self, text: str) -> list[str]:
        """Return the images whose name is `text`, a name, a path or the end of a path; empty if there are none."""
        text = normal(text.replace("\\", "/")).removeprefix("./")
        name = file_name(text)
        stem = without_extension(name)
        images = self._by_stem.get(stem) or self._loose.get(_loosely(stem), [])
        if name != stem and (same := [image for image in images if file_name(image) == name]):
            images = same
        if "/" in text:
            tail = "/" + without_extension(text)
            images = [image for image in images if f"/{without_extension(image)}".endswith(tail)] or images
        return images

    def share(self, values: Iterable[str]) -> float:
        """Return the share of the different `values`, of some of them, that name an image."""
        different = list(dict.fromkeys(value for value in values if value))
        step = max(1, len(different) // PROBED)
        probed = different[::step]
        return sum(bool(self.find(value)) for value in probed) / len(probed) if probed else 0.0

    def home(self, values: Sequence[str], tests: bool = False, avoid: Collection[str] = ()) -> Home | None:
        """Return the deepest folder that holds exactly one image for most of the `values`; None if none does.

        tests: of several, take one named for test images, else one that is not. avoid: images that do not count.
        """
        count = max(1, len(self.endings))
        totals: Counter[str] = Counter()
        found = [[image for image in self.find(value) if image not in avoid] for value in values]
        for images in found:
            within = Counter(folder for image in images for folder in ancestors(image))
            totals.update(folder for folder, number in within.items() if number == count)
        most = max(totals.values(), default=0)
        if 2 * most < sum(map(bool, found)) or not most:
            return None
        full = [folder for folder, total in totals.items() if total == most]
        deepest = [
            one
            for one in full
            if not any(other.startswith(f"{one}/" if one else "") and other != one for other in full)
        ]
        kinds = {folder: self._kind(folder, found) for folder in deepest}
        named = {folder: bool(TESTS.search(folder)) == tests for folder in deepest}
        deepest.sort(key=lambda folder: (not named[folder], kinds[folder] not in PREFERRED, natural_key(folder)))
        best = self._widened(deepest[0])
        prefix = f"{best}/" if best else ""
        images = [image for each in found for image in each if image.startswith(prefix)]
        return Home(best, most, images, deepest[1:])

    def _widened(self, folder: str) -> str:
        """Return the outermost folder, below the raw folder, that holds no other images than `folder`."""
        while outer := parent(folder):
            if any(image.startswith(f"{outer}/") and not image.startswith(f"{folder}/") for image in self.images):
                break
            folder = outer
        return folder

    def _kind(self, folder: str, found: Sequence[Sequence[str]]) -> str:
        prefix = f"{folder}/" if folder else ""
        image = next((image for each in found for image in each if image.startswith(prefix)), "")
        return PurePosixPath(image).suffix.lower()


def _loosely(stem: str) -> str:
    return str(int(stem)) if stem.isascii() and stem.isdigit() else stem.casefold()


def channel_endings(images: Sequence[str]) -> list[str]:
    """Return the endings of names where each image is several files, one per channel; empty if there are none."""
    bases: dict[str, set[str]] = {}
    for image in images:
        stem = without_extension(image)
        cut = max(stem.rfind("_"), stem.rfind("-"))
        if cut > stem.rfind("/") + 1:
            bases.setdefault(stem[:cut], set()).add(stem[cut:])
    counts = Counter(ending for endings in bases.values() for ending in endings)
    common = [ending for ending, count in counts.items() if count == len(bases)]
    if len(bases) < 2 or not 2 <= len(common) <= 16 or len(common) * len(bases) < len(images):
        return []
    colours = ["_red", "_green", "_blue", "_yellow"]
    return sorted(
        common, key=lambda each: (colours.index(each.lower()) if each.lower() in colours else 9, natural_key(each))
    )
