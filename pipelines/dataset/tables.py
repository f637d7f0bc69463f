"""Read and write CSV files as tables of text."""

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np
import pandas as pd

from pipelines.dataset.encodings import read_text
from pipelines.system.errors import UserError, did_you_mean, refuse, shown
from pipelines.system.files import atomic_file

# A spreadsheet treats a cell that begins so as a formula, which may call programs; some accept the full-width forms.
FORMULA_STARTS = tuple("=+-@\t\r\n＝＋－＠")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE | re.ASCII)
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
SEPARATOR_LINE = re.compile(r'"?sep=([,;\t|])"?\r?\n', re.IGNORECASE)  # Excel's first line
EXCEL_TEXT = re.compile(r'^="([^"]*)"$')
COMMENTS = re.compile(r"(#[^\n]*\n\s*)+(?=[^#])")  # in front of a table; `#id,label` is a header
UNNAMED = re.compile(r"(Unnamed: [0-9.]+)?")
# All that str.strip removes, what fills or ends files of DOS, and characters
# without width: of joins, of the byte order, of the direction of writing.
SPACES = (
    0,
    *range(9, 14),
    0x1A,
    *range(28, 33),
    0x85,
    0xA0,
    0x1680,
    *range(0x2000, 0x200B),
    *range(0x2028, 0x2030),
    0x3000,
)
INVISIBLE = "".join(map(chr, (*SPACES, 0xAD, *range(0x200B, 0x2010), *range(0x205F, 0x2070), 0xFEFF)))
BLOCK_ROWS = 4096  # of a table that are in memory as rows while it is read into columns
FEW = 4096  # different values of a column that are always worth a look-up, to keep equal ones once
Note = Callable[[str, str], None]  # takes a subject, or "note", and what was understood of it


def silent(subject: str, text: str) -> None:
    """Drop a note."""


def read_csv(path: Path, strip: bool = True, may_lack_rows: bool = False) -> pd.DataFrame:
    """Return the CSV at `path` as columns of text, indexed by the line on which each row starts (the header is 1).

    For CSVs of this pipeline, and submissions: UTF-8, separated by commas. No types are guessed: `007` and `NA` stay as
    they are. A byte order mark, any line ends, quoted fields and blank lines are accepted. `strip` removes spaces
    around names and values. Raises `UserError`, with the lines, for a file that is missing, empty, not UTF-8 or not a
    table; and for a header without rows, unless the file `may_lack_rows`.
    """
    text = read_text(path)
    table = _in_one_pass(text, None if strip else "")
    return _table(path, _parse(path, text, ",", None if strip else ""), may_lack_rows) if table is None else table


def read_listing(
    path: Path, note: Note = silent, strip: bool = True, may_lack_rows: bool = False, rows: int = 0
) -> pd.DataFrame:
    """Return what `read_csv` does, of a CSV that came from elsewhere: a spreadsheet, pandas, R or an editor.

    Semicolons, tabs and `|` may separate the values, as may be UTF-16 and gzip. Invisible characters around values,
    empty rows and empty columns at the end are dropped. `note` receives another separator than the comma. rows: how
    many are enough, of a plain table; 0: all.
    """
    text, characters = read_text(path, foreign=True), INVISIBLE if strip else ""
    end = next(islice(re.finditer("\n", text), rows, None), None) if rows else None
    if end and (table := _in_one_pass(text[: end.end()], characters, foreign=True)) is not None:
        return table
    if (table := _in_one_pass(text, characters, foreign=True)) is not None:
        return table
    if stated := SEPARATOR_LINE.match(text):
        grid = _tidied(_parse(path, text[stated.end() :], stated[1], characters, first_line=2))
    else:
        grid = _separated(path, text, characters)
        if grid.width == 1 and (comments := COMMENTS.match(text)):
            note("note", f"{path.name} begins with comments, which are not used: {shown(text.partition(chr(10))[0])}")
            grid = _separated(path, text[comments.end() :], characters, comments[0].count("\n") + 1)
    if grid.separator != ",":
        note("note", f"{path.name}: {SEPARATORS[grid.separator]} separate its values.")
    return _table(path, grid, may_lack_rows)


def _in_one_pass(text: str, characters: str | None, foreign: bool = False) -> pd.DataFrame | None:
    """Return the table of a `text` with a row on each line, or None if it is not so plain that this can read it.

    The rows never exist all at once, and equal values of a column with few different ones are one object: a row of
    split.csv takes 200 bytes in place of 560. characters: as in `_parse`. foreign: None also for a table in which
    `read_listing` would change or drop anything else.
    """
    reader = csv.reader(_lines(text), strict=True, skipinitialspace=characters == INVISIBLE)
    count, done = text.count("\n") - text.endswith("\n"), 0
    try:
        header = [name.strip(characters) for name in next(reader, [])]
        if foreign and (len(header) < 2 or not header[-1] or '="' in text or SEPARATOR_LINE.match(text)):
            return None
        columns = [_Column(max(count, 0)) for _ in header]
        while block := list(islice(reader, BLOCK_ROWS)):
            if set(map(len, block)) != {len(header)} or done + len(block) > count:
                return None
            parts = [[cell.strip(characters) for cell in cells] for cells in zip(*block, strict=True)]
            if foreign and not all(map(any, zip(*parts, strict=True))):
                return None
            for column, cells in zip(columns, parts, strict=True):
                column.fill(done, cells)
            done += len(block)
    except csv.Error:
        return None
    if not header or not 0 < count == done == reader.line_num - 1 or len(set(header)) < len(header):
        return None
    values = {name: pd.array(column.values, "str", copy=False) for name, column in zip(header, columns, strict=True)}
    return pd.DataFrame(values, index=pd.RangeIndex(2, count + 2, name="line"), copy=False)


class _Column:
    """The values of a column. As long as most of them are repeated, equal ones are kept once."""

    def __init__(self, count: int) -> None:
        self.values = np.empty(count, object)
        self._known: dict[str, str] | None = {}

    def fill(self, start: int, cells: Sequence[str]) -> None:
        end = start + len(cells)
        if (known := self._known) is not None:
            cells = [known.setdefault(cell, cell) for cell in cells]
            if len(known) > max(FEW, end // 4):
                self._known = None
        self.values[start:end] = cells


def _lines(text: str) -> TextIO:
    """Return `text` as a file of lines; io.StringIO would hold it once more, with four bytes for each character."""
    return io.TextIOWrapper(io.BytesIO(text.encode()), "utf-8", newline="")


class Grid(NamedTuple):
    """The rows of a table, header first, and the line on which each starts; `fault`: why there are no more."""

    rows: list[tuple[str, ...]]
    lines: list[int]
    separator: str
    fault: str = ""

    @property
    def width(self) -> int:
        return len(self.rows[0]) if self.rows else 0

    @property
    def is_even(self) -> bool:
        return not self.fault and set(map(len, self.rows)) <= {self.width}


def _parse(path: Path, text: str, separator: str, characters: str | None, first_line: int = 1) -> Grid:
    """Return the rows of `text`.  characters: those to strip from values; None: white space."""
    rows: list[tuple[str, ...]] = []  # not lists, which the collector of garbage would visit again and again
    lines, start, spaced = [], first_line, characters == INVISIBLE
    reader = csv.reader(_lines(text), delimiter=separator, strict=True, skipinitialspace=spaced)
    try:
        for row in reader:
            if row:
                cells = tuple([value.strip(characters) for value in row]) if characters != "" else tuple(row)
                if spaced and any(value.startswith('="') for value in row):  # keeps Excel from changing `007`
                    cells = tuple(EXCEL_TEXT.sub(r"\1", value) for value in cells)
                rows.append(cells)
                lines.append(start)
            start = reader.line_num + first_line  # line_num is the row's last line: values may contain line ends
    except csv.Error as error:
        return Grid(rows, lines, separator, f"{path}, line {start}: not valid CSV: {error}. Correct this row.")
    return Grid(rows, lines, separator)


def _separated(path: Path, text: str, characters: str, first_line: int = 1) -> Grid:
    """Return the table whose values commas separate, unless only another character fits every row."""
    commas = _tidied(_parse(path, text, ",", characters, first_line))
    if commas.is_even and commas.width > 1:
        return commas
    header = text.lstrip().partition("\n")[0]
    others = [_tidied(_parse(path, text, each, characters, first_line)) for each in SEPARATORS if each in header]
    others = [grid for grid in others if grid.width > 1]
    even = [grid for grid in others if grid.is_even]
    if len(even) == 1:
        return even[0]
    if len(others) == 1 and commas.width < 2:  # neither fits every row: name the rows of the likelier one
        return others[0]
    return commas


def _tidied(grid: Grid) -> Grid:
    """Return `grid` without what is empty at its ends, and with a nameless header for R's numbers of rows."""
    rows, lines, width = grid.rows, grid.lines, grid.width
    if not width:
        return grid
    if width > 1 and not all(map(any, rows)):
        lines = [line for line, row in zip(lines, rows, strict=True) if any(row)]
        rows = [row for row in rows if any(row)]
    if max(map(len, rows)) > width or not rows[0][-1]:
        while width > 1 and not rows[0][width - 1] and not any("".join(row[width - 1 :]) for row in rows):
            width -= 1
        rows = [row[:width] if len(row) > width and not any(row[width:]) else row for row in rows]
        numbers = [(str(number),) for number in range(1, len(rows))]
        if numbers and all(len(row) == width + 1 for row in rows[1:]) and [row[:1] for row in rows[1:]] == numbers:
            rows = [("", *rows[0]), *rows[1:]]
    return grid._replace(lines=lines, rows=rows)


def _table(path: Path, grid: Grid, may_lack_rows: bool) -> pd.DataFrame:
    """Return the table of `grid`. Raises `UserError` for rows that do not fit the header, and for no rows."""
    if grid.fault:
        raise UserError(grid.fault)
    if len(grid.rows) < (1 if may_lack_rows else 2):
        problem = "has a header but no rows" if grid.rows else "is empty"
        raise UserError(f"{path} {problem}. Put the complete file there.")
    header, rows, lines = grid.rows[0], grid.rows[1:], grid.lines[1:]
    repeated = [repr(name) for name, count in Counter(header).items() if count > 1]
    remedy = "Give each its own name. If this line is a row of data, add a line with the names of the columns above it."
    refuse(f"{path}, line {grid.lines[0]}: columns of one name", repeated, remedy)
    width = len(header)
    uneven = [
        f"line {line}: {len(row)} values for {width} columns"
        for line, row in zip(lines, rows, strict=True)
        if len(row) != width
    ]
    separator = SEPARATORS.get(grid.separator, repr(grid.separator))
    remedy = f"Correct these rows; {separator} inside a value need quotes around it."
    if len(uneven) == len(rows):
        remedy = f"If line {grid.lines[0]} is not the header, remove what is above the header. Else: {remedy}"
    refuse(f"{path}: rows that do not fit the header", uneven, remedy)
    columns = {name: [row[place] for row in rows] for place, name in enumerate(header)}  # zip(*rows) takes more memory
    return pd.DataFrame(columns, index=pd.Index(lines, name="line"), dtype=str)


def separator_of(path: Path) -> str:
    """Return the character that separates the values of a listing."""
    return _separated(path, read_text(path, foreign=True), INVISIBLE).separator


def index_columns(table: pd.DataFrame, least: int = 2) -> int:
    """Return how many columns in front are indexes that pandas or R wrote; `least` others always remain.

    An index has no name, or pandas's `Unnamed: 0`, and a different whole number in each row.
    """
    number = 0
    while number < len(table.columns) - least and UNNAMED.fullmatch(table.columns[number]):
        values = table.iloc[:, number]
        if not (values.str.fullmatch("[0-9]+").all() and values.is_unique):
            break
        number += 1
    return number


def spreadsheet_safe(text: str) -> str:
    """Return `text` with an apostrophe in front if a spreadsheet would treat it as a formula; numbers are unchanged.

    Only for CSVs that nothing reads again: in split.csv, submissions and log.csv labels and ids must stay exact.
    """
    return f"'{text}" if text.startswith(FORMULA_STARTS) and not NUMBER.fullmatch(text) else text


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Write `table` atomically, row by row; `read_csv` without `strip` returns the same values."""
    with atomic_file(path) as partial, open(partial, "w", encoding="utf-8", newline="") as file:
        _write_rows(file, table)


def table_text(table: pd.DataFrame) -> str:
    text = io.StringIO(newline="")
    _write_rows(text, table)
    return text.getvalue()


def _write_rows(file: TextIO, table: pd.DataFrame) -> None:
    columns = [table[name].tolist() for name in table]
    values = chain(map(str, table.columns), *columns)
    writer = csv_writer(file, (value for value in values if isinstance(value, str)))
    writer.writerow(table.columns)
    writer.writerows(zip(*columns, strict=True))


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """Return `rows`, header first, as CSV text with Unix line ends; `read_csv` without `strip` returns the same."""
    rows, text = list(rows), io.StringIO(newline="")
    csv_writer(text, (value for row in rows for value in row if isinstance(value, str))).writerows(rows)
    return text.getvalue()


def csv_writer(file: TextIO, texts: Iterable[str]) -> Any:
    """Return a writer of CSV, as `csv_text` writes it. texts: those that may have a carriage return."""
    # Python 3.11 writes a carriage return without quotes, and then reads it as a line end.
    returns = any("\r" in text for text in texts)
    return csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL if returns else csv.QUOTE_MINIMAL)


def without_indexes(table: pd.DataFrame) -> pd.DataFrame:
    """Return `table` without the `index_columns` in front."""
    return table.iloc[:, index_columns(table) :]


def read_table(path: Path) -> pd.DataFrame:
    """Return `read_listing` of the CSV at `path` without its index columns."""
    return without_indexes(read_listing(path))


def find_column(table: pd.DataFrame, path: Path, wanted: str, position: int, key: str = "") -> "pd.Series[str]":
    """Return the column named `wanted`, or the one at `position` (from 0) if empty; raise `UserError` if none is.

    key: the setting that names the column.
    """
    names = list(table.columns)
    if not wanted and position < len(names):
        return table.iloc[:, position]
    if wanted.strip(INVISIBLE) in names:
        return table[wanted.strip(INVISIBLE)]
    if wanted:
        named = f", which {key} names" if key else ""
        hint = f"{named}.{did_you_mean(wanted, names)} It has: {_names(names)}."
        raise UserError(f"{path} has no column {wanted!r}{hint}")
    separators = " Commas, semicolons, tabs or | separate columns." if len(names) == 1 else ""
    chosen = f", the default of {key}" if key else ""
    raise UserError(f"{path} has no column number {position + 1}{chosen}. It has: {_names(names)}.{separators}")


def _names(names: Sequence[str]) -> str:
    return ", ".join(map(shown, names[:50])) + (f" and {len(names) - 50} more" if len(names) > 50 else "")
