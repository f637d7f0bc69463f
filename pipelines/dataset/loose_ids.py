"""Match ids with images where a listing names the files in another form: `1.jpg` for `1.png`, `01` for `1.png`."""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple
from urllib.parse import unquote

from pipelines.dataset.image_paths import (
    OTHER_FORMATS,
    common_name,
    file_name,
    images_by_id,
    normal,
    posix,
    without_extension,
)

# Ids may name the original files where the images are converted copies.
OTHER_EXTENSION = re.compile(rf"(\.nii)?({'|'.join(map(re.escape, OTHER_FORMATS))})$", re.IGNORECASE)
NUMBER = re.compile(r"0*([0-9]+)(\.0+)?")  # `001` and `1.0`


class Matches(NamedTuple):
    """The images of each id, in `normal` form: several if it is ambiguous. `rule`: how ids and names were compared."""

    found: Mapping[str, list[str]]
    rule: str = ""

    def image(self, identifier: str) -> str:
        """Return the only image of an id, or an empty text."""
        images = self.found.get(normal(identifier), ())
        return images[0] if len(images) == 1 else ""

    def are_complete(self, ids: Collection[str]) -> bool:
        """Return whether each of the ids, all different, has an image of its own."""
        images = {images[0] for images in self.found.values() if len(images) == 1}
        return len(images) == len(ids)


def match_ids(ids: Iterable[str], images: Sequence[str], folder: str) -> Matches:
    """Return the images that `ids` name, by the strictest rule that gives each id an image of its own.

    The first rule is that of `images_by_id`. Each further one allows more than the one before. If none fits, the
    matches of the rule that finds most are returned, so that the ids which lack an image are known.
    """
    wanted = {normal(identifier) for identifier in ids}
    best = Matches(images_by_id(wanted, images, folder))
    if len(best.found) == len(wanted):
        return best
    for rule, simplify, by_tail in RULES:
        found = _match(wanted, images, folder, simplify, by_tail)
        claims = Counter(image for each in found.values() for image in each)
        own = {identifier: each for identifier, each in found.items() if all(claims[image] == 1 for image in each)}
        matches = Matches(own, rule)
        if matches.are_complete(wanted):
            return matches
        if len(own) > len(best.found):
            best = matches
    return best


def simplest(path: str) -> str:
    """Return what the loosest rule compares of the file name of an id or an image."""
    return _as_number(file_name(_slashed(normal(path))))


def _match(
    ids: Iterable[str], images: Sequence[str], folder: str, simplify: Callable[[str], str], by_tail: bool
) -> dict[str, list[str]]:
    """Return the images of each id whose simplified path, path below `folder` or file name is that of the id.

    by_tail: the parts in front of the id may be missing.
    """
    keys = {identifier: simplify(_slashed(identifier)) for identifier in ids}
    tails = {key: list(_tails(key)) if by_tail else [key] for key in keys.values()}
    wanted = {tail for each in tails.values() for tail in each}
    top = f"{posix(folder)}/".lstrip("/")
    cuts: tuple[Callable[[str], str], ...] = (str, lambda image: image.removeprefix(top), file_name)
    tables: list[dict[str, list[str]]] = [{} for _ in cuts]
    for image in images:
        stem = without_extension(normal(common_name(image)))
        for cut, table in zip(cuts, tables, strict=True):
            if (key := simplify(cut(stem))) in wanted:
                table.setdefault(key, []).append(image)
    found = {}
    for identifier, key in keys.items():
        places = (table[tail] for tail in tails[key] for table in tables if tail in table)
        if images_of_id := next(places, None):
            found[identifier] = images_of_id
    return found


def _slashed(identifier: str) -> str:
    """Return an id as a POSIX path without quotes, without `./` or `/` in front and without an extension."""
    path = identifier.strip("'\"`").replace("\\", "/")
    while path.startswith(("./", "/")):
        path = path.partition("/")[2]
    return OTHER_EXTENSION.sub("", without_extension(path))


def _tails(path: str) -> Iterable[str]:
    parts = path.split("/")
    return ("/".join(parts[start:]) for start in range(len(parts)))


def _unescaped(path: str) -> str:
    return normal(unquote(path)).casefold()


def _as_number(path: str) -> str:
    folders, slash, name = _unescaped(path).rpartition("/")
    number = NUMBER.fullmatch(name)
    return folders + slash + (number[1] if number else name)


# From strict to loose: what a note says, what is compared, and whether an id may have other folders in front.
RULES: tuple[tuple[str, Callable[[str], str], bool], ...] = (
    ("without their extension", str, False),
    ("without the folders in front", str, True),
    ("without case", str.casefold, True),
    ("with escapes like %20 replaced", _unescaped, True),
    ("as numbers", _as_number, True),
)
