"""Read the tables that the settings name: CSVs, also zipped, or JSON; one file or several joined by a plus."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from pipelines.dataset.annotations import BOX, JsonTable, is_json, read_json_table
from pipelines.dataset.encodings import listed_names, listing_file
from pipelines.dataset.image_paths import from_raw
from pipelines.dataset.long_form import widened
from pipelines.dataset.name_patterns import LABEL
from pipelines.dataset.raw_data import RawData, line_of
from pipelines.dataset.tables import Note, index_columns, read_listing, silent, without_indexes
from pipelines.dataset.target_cells import chosen_columns, parts
from pipelines.dataset.targets import JOINT
from pipelines.dataset.voc import voc_table
from pipelines.settings.metrics import BOXES
from pipelines.system.errors import UserError, did_you_mean, few, shown

# Values of a column that says which part of a split a row belongs to.
OF_TESTS = set("test testing tests private public privatetest publictest holdout submission predict".split())
OF_OTHERS = {"train", "training", "val", "valid", "validation", "dev", ""}


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


def read_labels(source: RawData) -> JsonTable:
    """Return the table of the labels; of a CSV all is empty but the table, and the targets if it is in long form.

    It is in long form if competition.long_form is set, and its header is that of the sample submission.
    """
    data, form = source.data, source.competition.long_form
    boxes = (*data.box_columns, BOX) if source.task == BOXES else ()
    if boxes and (folder := Path(from_raw(source.raw, data.labels))).is_dir():
        return JsonTable(voc_table(folder), "filename", label_columns=("label",))
    listed = _read(listed_paths(source.raw, data.labels, "data.labels"), data.label_column, source.note, boxes)
    if not form or is_json(data.labels) or not data.sample_submission:
        return listed
    table, sample = without_indexes(listed.table), without_indexes(_sample(source))
    if list(table.columns) != list(sample.columns):
        return listed
    column = data.sample_id or str(table.columns[0])
    wide, targets = widened(source.raw / data.labels, table, form, column)
    return JsonTable(wide, column, targets=targets)


def read_tests(raw: Path, name: str, note: Note = silent) -> JsonTable:
    """Return the same of data.test_table."""
    return _read(listed_paths(raw, name, "data.test_table"), "", note)


def _read(paths: Sequence[Path], label_column: str, note: Note, boxes: Sequence[str] = ()) -> JsonTable:
    if all(is_json(path.name) for path in paths):
        return read_json_table(paths, label_column, note, boxes)
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


def _sample(source: RawData) -> pd.DataFrame:
    return read_listing(_existing(source.raw, source.data.sample_submission, "data.sample_submission"))


def sample_columns(source: RawData) -> list[str]:
    """Return the columns of the sample submission besides indexes and ids; none without a sample."""
    if not source.data.sample_submission:
        return []
    names = list(map(str, without_indexes(_sample(source))))
    return [name for name in names if name != (source.data.sample_id or names[0])]


def sample_answers(source: RawData) -> set[str]:
    """Return what the sample submission answers with: the values of its only column, else the names of its columns."""
    names = sample_columns(source)
    if len(names) != 1:
        return set(names)
    return {value for cell in set(_sample(source)[names[0]]) for value in (cell, *cell.split())} - {""}


def number_names(source: RawData) -> list[str]:
    """Return the names of an image's numbers, in order: those of data.label_columns, else data.label_column, else the
    columns of the sample that the table of labels has, else its second column; `label` without a table.
    """
    data = source.data
    if not data.labels:
        return [data.label_column or LABEL]
    listed = read_labels(source)
    if listed.targets:
        return list(listed.targets)
    table = without_indexes(listed.table)
    ids = data.id_column or listed.id_column or str(table.columns[0])
    names = [str(name) for name in table if name not in (ids, data.file_column or listed.file_column)]
    if data.label_columns:
        return chosen_columns(names, data.label_columns, data.labels)
    if data.label_column:
        return [data.label_column]
    return [name for name in sample_columns(source) if name in names] or list(listed.label_columns[-1:]) or names[:1]


def marked_tests(table: pd.DataFrame) -> "tuple[str, pd.Series[bool]]":
    """Return the column that says of each row whether it is of a test image, and what it says; an empty name without.

    Its values are names of the parts of a split, of tests and of others.
    """
    for name in map(str, table.columns):
        values = table[name].str.casefold()
        kinds = set(values)
        if kinds <= OF_TESTS | OF_OTHERS and kinds & OF_TESTS and kinds & OF_OTHERS:
            return name, values.isin(OF_TESTS)
    return "", pd.Series(False, index=table.index)


def only_tests(source: RawData, listed: JsonTable) -> JsonTable:
    """Return the rows of test images of a table that lists the labelled images too: marked ones, else without target.

    Raises `UserError` if there are none.
    """
    column, tests = marked_tests(listed.table)
    if not column:
        names = [name for name in number_names(source) if name in listed.table]
        tests = (listed.table[names] == "").all(axis=1)
    if not tests.any() or tests.all():
        raise UserError(
            f"{source.raw / source.data.labels} is data.labels and data.test_table, but it has no column that says "
            "which rows are test, and its targets are not empty in some rows only. Name another table in "
            'data.test_table, or set data.test_table = "".'
        )
    return listed._replace(table=listed.table[tests.to_numpy()])


def known_targets(source: RawData) -> list[str]:
    """Return names that may be targets in the ids of a sample in long form: columns and values of the labels' table."""
    data = source.data
    if not data.labels:
        return []
    table = read_labels(replace(source, note=silent)).table
    columns = [data.label_column] if data.label_column in table else list(map(str, table.columns[:4]))
    cells = {cell for name in columns for cell in set(table[name])}
    values = {part for cell in cells for part in parts(cell, data.label_separator or JOINT)}
    return [*map(str, table.columns), *sorted(values)]
