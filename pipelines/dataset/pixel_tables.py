"""Write images that are rows of numbers in a table as files, which everything else then uses as other images.

The numbers are in many columns, one per value (`pixel0`, `pixel1`, …), or in one cell, or in one cell per channel. They
come from a CSV, also compressed, or a JSON list of records. Beside the images, each table is written again without the
numbers, with a column of ids in front.
"""

import re
import struct
import zlib
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from math import isqrt, prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipelines.dataset.depth import scaled, span
from pipelines.dataset.image_paths import natural_key
from pipelines.dataset.tables import SEPARATORS, UNNAMED, write_csv
from pipelines.settings.data_sections import DataSettings
from pipelines.settings.layout import Layout
from pipelines.settings.schema import Settings
from pipelines.system import files
from pipelines.system.errors import UserError, few, quoted, refuse
from pipelines.system.watch import Watch, unwatched

ROWS = 2048  # of a table that are read at once
BETWEEN = re.compile(r"[\s,;]+")  # numbers in a cell
ID_NAMES = ("id", "imageid", "idcode", "rowid", "sampleid")  # in lower case, without marks
CHANNELS_FIRST = 4  # most channels of a shape that begins with them
BYTE = 255
PNG_COLOURS = {1: 0, 3: 2}  # the colour type of a number of channels
TABLES = {"train": "train.csv", "test": "test.csv"}
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class _Table:
    """The images of a table, in pieces (n, H, W, channels), and its other columns as text, indexed by line."""

    path: Path
    pieces: Sequence[Array]
    others: pd.DataFrame


def as_files(layout: Layout, settings: Settings, watch: Watch = unwatched) -> tuple[Settings, str]:
    """Write the images of `data.pixel_columns` below data/<c>/images; return the settings that find them, and a note.

    The tables that `data.labels` and `data.test_table` name give `train` and `test`. Values from 0 to 255 are written
    as they are, others by the rule of `depth` for all images at once. The folder appears when it is complete. Without
    `data.pixel_columns` nothing is done. Raises `UserError` for a table without these columns, for rows that are no
    images, with their lines, and for ids that cannot be names of files.
    """
    data = settings.data
    if not data.pixel_columns:
        return settings, ""
    if not data.labels:
        raise UserError("data.pixel_columns names columns of numbers, so set data.labels to their table too.")
    names = {"train": data.labels} | ({"test": data.test_table} if data.test_table else {})
    tables = {part: _read(layout.raw / name, data, watch) for part, name in names.items()}
    if data.id_column and not any(data.id_column in table.others for table in tables.values()):
        raise UserError(
            f"{few(list(names.values()))}: no column {quoted(data.id_column)}, which data.id_column names. Correct it; "
            "or leave it empty, and ids are the numbers of the rows from 1."
        )
    black, white = _span(tables, data.white)
    columns = {part: _id_column(table.others, data) for part, table in tables.items()}
    with files.atomic_folder(layout.images) as folder:
        for part, table in tables.items():
            ids = _ids(table, columns[part])
            _write(folder / part, ids, table.pieces, (black, white), watch)
            others = table.others.drop(columns=columns[part], errors="ignore")
            others.insert(0, columns[part] or _free_name(others), ids)
            write_csv(folder / TABLES[part], others)
    note = "" if (black, white) == (0, 255) else f"Pixels from {black:g} to {white:g} become black to white."
    return replace(settings, data=found_in(data)), note


def found_in(data: DataSettings) -> DataSettings:
    """Return the settings that find the files written for `data.pixel_columns`; without these, `data` itself."""
    if not data.pixel_columns:
        return data
    return replace(
        data,
        labels=f"../images/{TABLES['train']}",
        test_table=data.test_table and f"../images/{TABLES['test']}",
        train_images="../images/train",
        test_images=data.test_table and "../images/test",
        id_column="",
        pixel_columns="",
    )


def _read(path: Path, data: DataSettings, watch: Watch) -> _Table:
    if not path.is_file():
        raise UserError(f"There is no file {path}, which has the pixels. Correct data.labels or data.test_table.")
    pieces, others = [], []
    columns: list[str] = []
    shape: tuple[int, ...] = ()
    with closing(_pieces(path, data.pixel_columns)) as read:
        for rows in watch(read, f"reading {path.name}", None, f"x {ROWS:,} rows"):
            if rows.empty:
                continue
            columns = columns or _pixel_columns(path, list(map(str, rows)), data.pixel_columns)
            values = _values(path, rows[columns])
            shape = shape or _shape(path, values, data.pixel_shape)
            pieces.append(_images(values, shape))
            kept = [name for name in map(str, rows) if name not in columns and not UNNAMED.fullmatch(name)]
            others.append(rows[kept].astype(object).fillna("").astype(str).apply(lambda column: column.str.strip()))
    if not pieces:
        raise UserError(f"{path} has no rows.")
    return _Table(path, pieces, pd.concat(others))


def _pieces(path: Path, pattern: str) -> Generator[pd.DataFrame, None, None]:
    """Yield the rows of a table, some at a time, indexed by line; columns of single numbers are not text."""
    try:
        if ".json" in path.suffixes:
            table = pd.read_json(path, dtype=False).rename(columns=str)
            table.index = pd.RangeIndex(1, len(table) + 1)
            yield from (table[start : start + ROWS] for start in range(0, len(table), ROWS))
            return
        options: dict[str, Any] = {"encoding": "utf-8-sig", "keep_default_na": False}
        first = pd.read_csv(path, nrows=1, dtype=str, **options)
        others = [each for each in SEPARATORS if each in first.columns[0]] if len(first.columns) == 1 else []
        if others:
            options["sep"] = others[0]
            first = pd.read_csv(path, nrows=1, dtype=str, **options)
        texts = [name for name in first if not (fnmatchcase(name.strip(), pattern) and _is_single(first[name]))]
        with pd.read_csv(path, chunksize=ROWS, dtype=dict.fromkeys(texts, str), **options) as pieces:
            for rows in pieces:
                rows.index += 2  # the header is line 1
                yield rows.rename(columns=str.strip)
    except (ValueError, OSError, LookupError) as error:  # pandas's errors about the text are a ValueError
        raise UserError(f"{path} cannot be read as a table: {' '.join(str(error).split())}") from None


def _is_single(cells: "pd.Series[Any]") -> bool:
    """Return whether the first of `cells` is one number or text, and not several."""
    first = cells.iloc[0] if len(cells) else ""
    return not isinstance(first, list) and not BETWEEN.search(str(first).strip())


def _pixel_columns(path: Path, header: Sequence[str], pattern: str) -> list[str]:
    """Return the columns that match `pattern`, in the order of the header.

    If that is the order of text (`p0`, `p1`, `p10`), they are in the order of their numbers.
    """
    found = [name for name in header if fnmatchcase(name, pattern)]
    if not found:
        names = few(list(header), 10)
        raise UserError(f"{path}: no column is named like {quoted(pattern)} (data.pixel_columns). It has: {names}.")
    return sorted(found, key=natural_key) if found == sorted(found) else found


def _values(path: Path, rows: pd.DataFrame) -> Array:
    """Return the numbers of each image: (n, numbers), or (n, numbers, channels) of several cells."""
    if _is_single(rows.iloc[:, 0]):
        for name in rows:
            if not pd.api.types.is_numeric_dtype(rows[name]):
                odd = rows[name][pd.to_numeric(rows[name], errors="coerce").isna()]
                lines = [f"line {line}, column {name}: {quoted(str(cell))}" for line, cell in odd.items()]
                refuse(f"{path}: pixels that are no numbers", lines, "Correct or remove these rows.")
        return rows.to_numpy(np.float64 if rows.dtypes.nunique() > 1 else None)
    planes = [[_numbers(cell) for cell in rows[name]] for name in rows]
    length = len(planes[0][0])
    wrong = [
        f"line {line}, column {name}: {len(cell):,}"
        for name, plane in zip(rows, planes, strict=True)
        for line, cell in zip(rows.index.tolist(), plane, strict=True)
        if len(cell) != length
    ]
    what = f"{path}: cells whose numbers are not {length:,}, as in the first one"
    refuse(what, wrong, "Correct or remove these rows; numbers are counted up to a text that is none.")
    arrays = [np.stack(plane) for plane in planes]
    return arrays[0] if len(arrays) == 1 else np.stack(arrays, axis=2)


def _numbers(cell: Any) -> Array:
    """Return the numbers in a cell, such as `1 2 3` or `[1, 2, 3]`, up to a text that is no number."""
    if isinstance(cell, list):
        return np.array(cell, np.float64)
    texts = BETWEEN.sub(" ", str(cell).strip("[]() \t\r\n")).split(" ")
    try:
        return np.array(texts, np.float64)
    except ValueError:
        good = [text.replace(".", "", 1).lstrip("-").isdecimal() for text in texts]
        return np.zeros(good.index(False) if False in good else len(texts))


def _shape(path: Path, values: Array, wanted: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of an image of `values`: that of `data.pixel_shape`, or a square."""
    count = values.shape[1]
    if wanted:
        if prod(wanted) != count or len(wanted) not in ((2,) if values.ndim == 3 else (2, 3)):
            what = "an image has" if values.ndim == 2 else "each channel of an image has"
            raise UserError(
                f"{path}: {what} {count:,} numbers, which do not fill data.pixel_shape, {list(wanted)}. Correct it, or "
                "data.pixel_columns."
            )
        return wanted
    side, colours = isqrt(count), isqrt(count // 3)
    if side * side != count or count < 4:
        hint = f", such as [{colours}, {colours}, 3]" if 3 * colours * colours == count else ""
        raise UserError(
            f"{path}: an image has {count:,} numbers, which are no square. Set data.pixel_shape to its height, width "
            f"and channels{hint}; or correct data.pixel_columns."
        )
    return side, side


def _images(values: Array, shape: tuple[int, ...]) -> Array:
    """Return (n, H, W, channels) in the smallest type for the values."""
    if values.ndim == 3:
        images = values.reshape(len(values), *shape, values.shape[2])
    else:
        images = values.reshape(len(values), *shape, *([1] if len(shape) == 2 else []))
        if len(shape) == 3 and shape[0] <= CHANNELS_FIRST < shape[2]:
            images = np.moveaxis(images, 1, 3)
    for kind in (np.uint8, np.uint16):
        if images.min() >= 0 and images.max() <= np.iinfo(kind).max and (images.astype(kind) == images).all():
            return images.astype(kind)
    return images.astype(np.float32)


def _span(tables: Mapping[str, _Table], white: int) -> tuple[float, float]:
    """Return the values that become black and white in all images of `tables`; 0 and 255 leave values as they are."""
    pieces = [piece for table in tables.values() for piece in table.pieces]
    lowest, highest = float(min(piece.min() for piece in pieces)), float(max(piece.max() for piece in pieces))
    where = few([str(table.path) for table in tables.values()])
    if not np.isfinite([lowest, highest]).all():
        raise UserError(f"{where}: pixels that are not finite numbers (NaN or infinite). Replace them.")
    whole = highest > 1 and all(piece.dtype != np.float32 or (piece == np.rint(piece)).all() for piece in pieces)
    if whole and lowest >= 0 and highest <= BYTE and not white:
        return 0, BYTE
    try:
        return span(lowest, highest, whole, white)
    except ValueError as error:
        raise UserError(f"{where}: {str(error).removeprefix('its ')}. Correct data.white.") from None


def _id_column(others: pd.DataFrame, data: DataSettings) -> str:
    """Return the column of ids: `data.id_column`, else one with a usual name; empty if there is none."""
    if data.id_column:
        return data.id_column if data.id_column in others else ""
    taken = {data.label_column, *data.label_columns}
    likely = [
        name for name in map(str, others) if name not in taken and re.sub("[ _-]", "", name).casefold() in ID_NAMES
    ]
    return likely[0] if likely else ""


def _free_name(others: pd.DataFrame) -> str:
    return next(name for name in ("id", "row", "number of the row") if name not in others)


def _ids(table: _Table, column: str) -> list[str]:
    """Return the ids of the images, which are the names of their files: of `column`, or the numbers of rows from 1."""
    if not column:
        return [str(number) for number in range(1, len(table.others) + 1)]
    ids = table.others[column].tolist()
    pairs = list(zip(table.others.index.tolist(), ids, strict=True))
    where = f"{table.path}, column {quoted(column)}"
    advice = "Correct these rows, or name another column in data.id_column."
    odd = [f"line {line}: {quoted(name)}" for line, name in pairs if not files.is_plain_name(name) or "{" in name]
    refuse(f"{where}: ids that cannot name a file", odd, advice)
    first: dict[str, int] = {}
    again = [(line, name) for line, name in pairs if first.setdefault(name, line) != line]
    twice = [f"line {line}: {quoted(name)}, first on line {first[name]}" for line, name in again]
    refuse(f"{where}: ids listed twice", twice, advice)
    return ids


def _write(folder: Path, ids: Sequence[str], pieces: Sequence[Array], ends: tuple[float, float], watch: Watch) -> None:
    """Write one file per image: a PNG of one or three channels, else an array. ends: what becomes black and white.

    More than `files.MOST_IN_FOLDER` of them are in numbered folders.
    """
    images = (image for piece in pieces for image in _in_bytes(piece, *ends))
    stems = (f"{folder}{below}/{name}" for below, name in zip(files.numbered_folders(len(ids)), ids, strict=True))
    for below in set(files.numbered_folders(len(ids))):
        Path(f"{folder}{below}").mkdir(parents=True)
    for stem, image in watch(zip(stems, images, strict=True), f"writing {folder.name} images", len(ids), "images"):
        if image.shape[2] in PNG_COLOURS:
            with open(f"{stem}.png", "wb", buffering=0) as file:
                file.write(_png(image))
        else:
            np.save(f"{stem}.npy", image)


def _in_bytes(images: Array, black: float, white: float) -> npt.NDArray[np.uint8]:
    as_they_are = images.dtype == np.uint8 and (black, white) == (0, BYTE)
    return np.ascontiguousarray(images if as_they_are else scaled(images, black, white))


def _png(image: npt.NDArray[np.uint8]) -> bytes:
    """Return a PNG of an image (H, W, 1 or 3); Pillow takes four times as long for a small one."""
    height, width, channels = image.shape
    rows = np.zeros((height, 1 + width * channels), np.uint8)  # 0 in front of a row: no filter
    rows[:, 1:] = image.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, PNG_COLOURS[channels], 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.data, 1)), (b"IEND", b""))
    framed = [len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4) for kind, data in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)
