"""Read the tables that the settings name: CSVs, also zipped, or JSON; one file or several joined by a plus."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from pipelines.dataset.annotations import JsonTable, is_json, read_json_table
from pipelines.dataset.encodings import listed_names, listing_file
from pipelines.dataset.image_paths import from_raw
from pipelines.dataset.raw_data import RawData, line_of
from pipelines.dataset.tables import Note, index_columns, read_listing, silent
from pipelines.system.errors import UserError, did_you_mean, few, shown


def listed_paths(raw: Path, name: str, key: str) -> list[Path]:
    """Return the files that `name`, the value of the setting `key`, names. Raises `UserError` if one is missing."""
    return [_existing(raw, each, key) for each in listed_names(raw, name)]


def _existing(raw: Path, name: str, key: str) -> Path:
    path = listing_file(Path(from_raw(raw, name)))
    if not path.is_file():
        names = sorted(
            path.relative_to(raw).as_posix() for path in (*raw.glob("*.*"), *raw.glob("*/*.csv")) if path.is_file()
        )
        there = f"Correct {key}. {raw} has the files: {', '.join(map(shown, names[:30])) or 'none'}."
        raise UserError(f"There is no file {raw / name}, which {key} names.{did_you_mean(name, names)} {there}")
    return path


def read_labels(raw: Path, name: str, label_column: str = "", note: Note = silent) -> JsonTable:
    """Return the table of the labels, the value `name` of data.labels; of a CSV all is empty but the table."""
    return _read(listed_paths(raw, name, "data.labels"), label_column, note)


def read_tests(raw: Path, name: str, note: Note = silent) -> JsonTable:
    """Return the same of data.test_table."""
    return _read(listed_paths(raw, name, "data.test_table"), "", note)


def _read(paths: Sequence[Path], label_column: str, note: Note) -> JsonTable:
    if all(is_json(path.name) for path in paths):
        return read_json_table(paths, label_column, note)
    tables = [read_listing(path, note) for path in paths]
    if len(paths) == 1:
        return JsonTable(tables[0], "")
    for path, table in zip(paths, tables, strict=True):
        if list(table.columns) != list(tables[0].columns):
            raise UserError(
                f"{path.name} has the columns {few(list(table.columns), 10)}, but {paths[0].name} has "
                f"{few(list(tables[0].columns), 10)}. Tables that are joined need the same columns; name one of them."
            )
        table.index = pd.Index([f"{line_of(line)} of {path.name}" for line in table.index], name="line")
    return JsonTable(pd.concat([table.iloc[:, index_columns(table) :] for table in tables]), "")


def sample_columns(source: RawData) -> list[str]:
    """Return the columns of the sample submission besides indexes and ids; none without a sample."""
    data = source.data
    if not data.sample_submission:
        return []
    table = read_listing(_existing(source.raw, data.sample_submission, "data.sample_submission"))
    names = list(map(str, table.columns[index_columns(table) :]))
    return [name for name in names if name != (data.sample_id or names[0])]


def sample_answers(source: RawData) -> set[str]:
    """Return what the sample submission answers with: the values of its only column, else the names of its columns."""
    names = sample_columns(source)
    if len(names) != 1:
        return set(names)
    table = read_listing(_existing(source.raw, source.data.sample_submission, "data.sample_submission"))
    return {value for cell in set(table[names[0]]) for value in cell.split()} - {""}
