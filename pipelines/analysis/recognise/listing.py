"""The tables of a raw folder as text: CSV, COCO-style JSON, lists of records, images as numbers."""

import csv
import fnmatch
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from pipelines.analysis.recognise.facts import Names, RawFolder
from pipelines.dataset.annotations import BOX, read_json_table
from pipelines.dataset.encodings import read_json
from pipelines.dataset.tables import index_columns, read_listing
from pipelines.dataset.voc import voc_table
from pipelines.system.errors import UserError

FEWEST_PIXELS = 49  # columns of numbers that are images: 7 x 7
NUMBERED = re.compile(r"(.*?)\d+")
LARGE = 30_000_000  # bytes; larger tables of pixels are read by their other columns only
COCO = ("images", "annotations", "categories")
SOME = 100  # annotations whose images are looked for
NAMING = 0.5  # least share of a column's values that name images


@dataclass(frozen=True)
class Table:
    """A table of the raw folder.

    name: its path below raw. frame: its columns as text, without indexes and pixels. is_list: if it is JSON or XML.
    is_long: whether it had a row for each image and target; the frame has a row for each image.
    pixels: the columns that are an image in each row, as `data.pixel_columns` names them; pixel_names: all of them;
    pixel_count: the numbers of an image.
    """

    name: str
    frame: pd.DataFrame
    is_list: bool = False
    is_long: bool = False
    pixels: str = ""
    pixel_count: int = 0
    pixel_names: list[str] = field(default_factory=list)

    @property
    def columns(self) -> list[str]:
        return list(map(str, self.frame.columns))

    def values(self, column: str) -> list[str]:
        return list(map(str, self.frame[column].tolist()))

    def __len__(self) -> int:
        return len(self.frame)

    def naming(self, names: Names) -> dict[str, float]:
        """Return the columns whose values name images, with the share that does, the best first."""
        if names not in self._naming:
            shares = {column: names.share(self._probe(column)) for column in self.columns}
            good = {column: share for column, share in shares.items() if share >= NAMING}
            unique = {column: self.frame[column].nunique() / max(1, len(self.frame)) for column in good}
            order = sorted(good, key=lambda column: (-round(good[column], 2), -round(unique[column], 2)))
            self._naming[names] = {column: good[column] for column in order}
        return self._naming[names]

    def _probe(self, column: str) -> list[str]:
        values = self.frame[column]
        first = str(values.iloc[0]) if len(values) else ""
        return list(map(str, values.tolist())) if len(first) < 300 else []

    @cached_property
    def _naming(self) -> dict[Names, dict[str, float]]:
        return {}


def read_tables(folder: RawFolder, boxes: bool = False) -> tuple[list[Table], list[str]]:
    """Return the tables that can be read, and why others cannot.  boxes: whether JSON and XML may have boxes."""
    raw, found, problems = folder.raw, [], []
    for name in folder.tables:
        try:
            found.append(_read_csv(raw, name))
        except UserError as error:
            problems.append(str(error))
    for name in _joined_lists(raw, folder.lists):
        try:
            paths = [raw / part for part in name.split("+")]
            found.append(Table(name, read_json_table(paths, boxes=[BOX] * boxes).table, is_list=True))
        except UserError:  # such as words for numbers, or settings of some program
            continue
    if boxes and folder.xml:
        with suppress(UserError):  # some other XML
            found.append(Table(folder.xml, voc_table(raw / folder.xml), is_list=True))
    return found, problems


def _joined_lists(raw: Path, lists: Sequence[str]) -> list[str]:
    """Return the JSON files, as `data.labels` names them: annotations with the images and categories of other files."""
    contents: dict[str, dict[str, Any]] = {}
    for name in lists if len(lists) > 1 else ():
        try:
            content, _ = read_json(raw / name)
        except UserError:
            continue
        if isinstance(content, dict):
            contents[name] = {key: content[key] for key in COCO if isinstance(content.get(key), list)}
    names = []
    for name in (name for name, content in contents.items() if "annotations" in content):
        others = [other for other, content in contents.items() if "annotations" not in content]
        images = [other for other in others if _has_images(contents[other], contents[name])]
        categories = [other for other in others if set(contents[other]) == {"categories"}]
        parts = [] if "images" in contents[name] else images[:1]
        parts += [name, *([] if "categories" in contents[name] else categories[:1])]
        names += ["+".join(dict.fromkeys(parts))] if len(parts) > 1 else []
    used = {part for name in names for part in name.split("+")}
    return names + [name for name in lists if name not in used]


def _has_images(content: Mapping[str, Any], annotations: Mapping[str, Any]) -> bool:
    """Return whether `content` lists the images of the `annotations`."""
    known = {str(image.get("id")) for image in content.get("images", ()) if isinstance(image, dict)}
    wanted = {str(each.get("image_id")) for each in annotations["annotations"][:SOME] if isinstance(each, dict)}
    return bool(wanted) and wanted <= known


def _read_csv(raw: Path, name: str) -> Table:
    path = raw / name
    header = _header(path)
    pattern = pixel_columns(header)
    if not pattern:
        frame = read_listing(path, may_lack_rows=True)
        frame = frame.iloc[:, index_columns(frame) :]
        cell, count = _pixel_cell(frame)
        return Table(
            name,
            frame.drop(columns=cell) if cell else frame,
            pixels=cell,
            pixel_count=count,
            pixel_names=[cell] * bool(cell),
        )
    pixels = [column for column in header if fnmatch.fnmatchcase(column, pattern)]
    others = [column for column in header if column not in set(pixels)]
    if path.stat().st_size > LARGE:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, usecols=others or pixels[:1])
    else:
        frame = read_listing(path)
    return Table(name, frame[others], pixels=pattern, pixel_count=len(pixels), pixel_names=pixels)


def _header(path: Path) -> list[str]:
    """Return the columns of a table separated by commas; a single one for any other."""
    if path.suffix == ".gz":
        return []
    with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
        line = file.readline(1 << 20)
    return [cell.strip() for cell in next(csv.reader([line]), [])]


def pixel_columns(header: Sequence[str]) -> str:
    """Return the pattern of columns that are the pixels of an image: many, numbered, as many as fill one."""
    groups: dict[str, list[str]] = {}
    for column in header:
        if found := NUMBERED.fullmatch(column):
            groups.setdefault(found[1], []).append(column)
        elif re.fullmatch(r"\d+x\d+", column):
            groups.setdefault("*x", []).append(column)
    for start, columns in groups.items():
        if len(columns) >= FEWEST_PIXELS and shape(len(columns)):
            pattern = "*x*" if start == "*x" else f"{start}*" if start else "[0-9]*"
            if sum(fnmatch.fnmatchcase(column, pattern) for column in header) == len(columns):
                return pattern
    return ""


def shape(count: int) -> tuple[int, int, int] | None:
    """Return height, width and channels of a square image of `count` numbers; None if there is none."""
    for channels in (1, 3):
        side = math.isqrt(count // channels)
        if side * side * channels == count:
            return side, side, channels
    return None


def _pixel_cell(frame: pd.DataFrame) -> tuple[str, int]:
    """Return the column whose cells are images, as numbers with spaces between, and their count; else an empty text."""
    head = frame.head(20)
    for column in head.columns if len(head) else ():
        counts = {len(str(cell).split()) for cell in head[column]}
        count = min(counts)
        digits = len(counts) == 1 and all(part.isdigit() for cell in head[column] for part in str(cell).split())
        if digits and count >= FEWEST_PIXELS and shape(count):
            return str(column), count
    return "", 0
