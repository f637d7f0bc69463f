"""Read and write CSV files as tables of text."""

import csv
import errno
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from pipelines.system.errors import UserError, did_you_mean, shown
from pipelines.system.files import write_text

# A spreadsheet treats a cell that begins so as a formula, which may call programs; some accept the full-width forms.
FORMULA_STARTS = tuple("=+-@\t\r\n＝＋－＠")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE | re.ASCII)


def read_csv(path: Path, strip: bool = True, may_lack_rows: bool = False) -> pd.DataFrame:
    """Return the CSV at `path` as columns of text, indexed by the line on which each row starts (the header is 1).

    No types are guessed: `007` and `NA` stay as they are. A byte order mark, any line ends, quoted fields and blank
    lines are accepted. `strip` removes spaces around names and values. Raises `UserError`, with the line, for a file
    that is missing, empty, not UTF-8 or not a table; and for a header without rows, unless the file `may_lack_rows`.
    """
    text = _read_text(path)
    rows, lines, start = [], [], 1
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in reader:
            if row:
                rows.append([value.strip() for value in row] if strip else row)
                lines.append(start)
            start = reader.line_num + 1  # line_num is the row's last line: quoted values may contain line ends
    except csv.Error as error:
        raise UserError(f"{path}, line {start}: not valid CSV: {error}. Correct this row.") from None
    if len(rows) < (1 if may_lack_rows else 2):
        raise UserError(f"{path} {'has a header but no rows' if rows else 'is empty'}. Download it again.")
    header = rows.pop(0)
    if repeated := sorted({name for name in header if header.count(name) > 1}):
        raise UserError(f"{path}, line {lines[0]}: two columns are named {repeated[0]!r}. Rename one.")
    for line, row in zip(lines[1:], rows, strict=True):
        if len(row) != len(header):
            raise UserError(f"{path}, line {line}: {len(row)} values for {len(header)} columns. Correct this row.")
    columns = dict(zip(header, zip(*rows, strict=True) if rows else [()] * len(header), strict=True))
    return pd.DataFrame(columns, index=pd.Index(lines[1:], name="line"), dtype=str)


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"There is no file {path}.") from None
    except OSError as error:
        if error.errno not in (errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP):
            raise
        raise UserError(f"{path} is not a file that can be read: {error.strerror}. Give the path of a CSV.") from None
    except UnicodeDecodeError as error:
        line, byte = error.object[: error.start].count(b"\n") + 1, error.object[error.start]
        raise UserError(f"{path}, line {line}: byte 0x{byte:02x} is not UTF-8. Save the file as UTF-8.") from None


def spreadsheet_safe(text: str) -> str:
    """Return `text` with an apostrophe in front if a spreadsheet would treat it as a formula; numbers are unchanged.

    Only for CSVs that nothing reads again: in split.csv, submissions and log.csv labels and ids must stay exact.
    """
    return f"'{text}" if text.startswith(FORMULA_STARTS) and not NUMBER.fullmatch(text) else text


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Write `table` atomically; `read_csv` without `strip` returns the same values."""
    write_text(path, table_text(table))


def table_text(table: pd.DataFrame) -> str:
    return csv_text([tuple(table.columns), *zip(*(table[name].tolist() for name in table), strict=True)])


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """Return `rows`, header first, as CSV text with Unix line ends; `read_csv` without `strip` returns the same."""
    rows = list(rows)
    # Python 3.11 writes a carriage return without quotes, and then reads it as a line end.
    returns = any("\r" in value for row in rows for value in row if isinstance(value, str))
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL if returns else csv.QUOTE_MINIMAL)
    writer.writerows(rows)
    return text.getvalue()


def find_column(table: pd.DataFrame, path: Path, wanted: str, position: int) -> "pd.Series[str]":
    """Return the column named `wanted`, or the one at `position` (from 0) if empty; raise `UserError` if none is."""
    names = list(table.columns)
    if not wanted and position < len(names):
        return table[names[position]]
    if wanted in names:
        return table[wanted]
    missing = f"column {wanted!r}" if wanted else f"column number {position + 1}"
    raise UserError(f"{path} has no {missing}.{did_you_mean(wanted, names)} It has: {', '.join(map(shown, names))}.")
