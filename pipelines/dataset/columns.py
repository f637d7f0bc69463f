"""Choose the columns of a listing that hold ids, labels and answers."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from shlex import quote
from typing import Any

import pandas as pd

from pipelines.dataset.annotations import is_json
from pipelines.dataset.file_names import exact_matches, fill
from pipelines.dataset.image_paths import images_by_id, normal, posix
from pipelines.dataset.loose_ids import Matches, match_ids, simplest
from pipelines.dataset.raw_data import RawData
from pipelines.dataset.tables import INVISIBLE, find_column, index_columns, separator_of
from pipelines.dataset.target_cells import FLAGS, ONES, Targets, chosen_columns, of_cells, of_columns
from pipelines.dataset.voc import STEM
from pipelines.settings.choices import SENT, advice
from pipelines.settings.data_sections import DataSettings
from pipelines.settings.metrics import NUMBERS, ONE_CLASS, SEVERAL_LABELS
from pipelines.settings.overrides import toml
from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError, few, quoted, shown

LABEL_NAMES = re.compile(r"labels?|class(es)?|class_?(id|name)|target|category|category_?(id|name)", re.IGNORECASE)

ONE_HOT = "label"  # the name of labels that come from one column per class


@dataclass(frozen=True)
class ImageFolder:
    """The images of a folder: its path from the raw folder is the value of the setting `key`.

    others: a folder whose images are never meant.
    """

    raw: Path
    folder: str
    key: str
    images: Sequence[str]
    others: str = ""

    @property
    def path(self) -> Path:
        return self.raw / posix(self.folder)

    def may_have(self, text: str) -> bool:
        """Return whether `text` may be the id of an image: a quick test before `match_ids`."""
        name = simplest(text)
        return bool(name) and name in self._text and name in self._names

    @cached_property
    def _text(self) -> str:
        return normal("\n".join(self.images)).casefold()

    @cached_property
    def _names(self) -> set[str]:
        return set(map(simplest, self.images))


@dataclass(frozen=True)
class Listing:
    """A table of images: the column of their ids, and the image that each id means.

    names: what names the image of each row, if not its id: a column of files, or paths made from a template.
    """

    path: Path
    table: pd.DataFrame
    ids: "pd.Series[str]"
    matches: Matches
    names: "pd.Series[str] | None" = None

    @property
    def source(self) -> str:
        """The column of the ids, the file, and how ids were compared with names of files, for the summary of split."""
        skipped = self.ids.name != self.table.columns[0] and index_columns(self.table, 1)
        after = ", after an index that is not used" if skipped else ""
        compared = f", compared {self.matches.rule} with the names of files" if self.matches.rule else ""
        by = f", files by {shown(str(self.named.name))!r}" if self.named is not self.ids else ""
        return f"column {shown(str(self.ids.name))!r} of {self.path.name}{after}{by}{compared}"

    @property
    def named(self) -> "pd.Series[str]":
        """What names the image of each row."""
        return self.ids if self.names is None else self.names

    @property
    def others(self) -> list[str]:
        """The columns besides those of the ids, the files and the indexes."""
        names = list(self.table.columns)
        return [name for name in names[index_columns(self.table, 1) :] if name not in (self.ids.name, self.named.name)]

    def part(self, kept: Sequence[bool]) -> "Listing":
        """Return the listing of some of the rows."""
        if all(kept):
            return self
        rows = [row for row, keep in enumerate(kept) if keep]
        names = self.names if self.names is None else self.names.iloc[rows]
        return replace(self, table=self.table.iloc[rows], ids=self.ids.iloc[rows], names=names)

    def by(self, name: str, folder: ImageFolder) -> "Listing":
        """Return the same table with the column `name` as ids."""
        return _listing(self.path, self.table, self.table[name], folder)

    @cached_property
    def files(self) -> list[str]:
        """The image of each row, or an empty text."""
        return [self.matches.image(name) for name in self.named.tolist()]

    @property
    def is_complete(self) -> bool:
        """Whether each row has an image of its own."""
        return self.named.is_unique and self.matches.are_complete(self.named)

    def with_names(self, names: "pd.Series[str]", folder: ImageFolder, exact: bool) -> "Listing":
        """Return the same listing with the image of each row named by `names`.  exact: by their whole path."""
        if exact:
            matches = Matches(exact_matches(names, folder.images, folder.folder))
        else:
            matches = match_ids(names.tolist(), folder.images, folder.folder)
        return replace(self, names=names, matches=matches)


def _listing(path: Path, table: pd.DataFrame, ids: "pd.Series[str]", folder: ImageFolder) -> Listing:
    return Listing(path, table, ids, match_ids(ids.tolist(), folder.images, folder.folder))


def name_files(listing: Listing, folder: ImageFolder, data: DataSettings, file_column: str = "") -> Listing:
    """Return the listing with its images named as the settings say: by a template, or by a column of files.

    file_column: the column of files if data.file_column is empty or not in the table.
    """
    key = "data.train_file" if folder.key == "data.train_images" else "data.test_file"
    if template := data.train_file if folder.key == "data.train_images" else data.test_file:
        names = fill(template, key, listing.ids, listing.table).rename(key)
        return listing.with_names(names, folder, exact=True)
    column = data.file_column if data.file_column in listing.table else file_column
    if not column or column == listing.ids.name:
        return listing
    return listing.with_names(listing.table[column], folder, exact=False)


def choose_ids(path: Path, table: pd.DataFrame, wanted: str, folder: ImageFolder, least: int) -> Listing:
    """Return the listing by its column `wanted`; if that is empty, by the first column that is no index.

    `least` columns are no indexes. Raises `UserError` if the header is a row of data.
    """
    if wanted and wanted.strip(INVISIBLE) not in table.columns:
        _refuse_data_as_header(path, table, table.columns, folder, ())
    start = index_columns(table, least)
    listing = _listing(path, table, find_column(table, path, wanted, start, "data.id_column"), folder)
    if not wanted and start and not listing.matches.found:  # the column without a name may hold the ids
        first = _listing(path, table, table.iloc[:, 0], folder)
        listing = first if first.is_complete else listing
    if not is_json(path.name):
        _refuse_data_as_header(path, table, [str(listing.ids.name)], folder, set(listing.files))
    return listing


def _refuse_data_as_header(
    path: Path, table: pd.DataFrame, cells: Iterable[str], folder: ImageFolder, known: Iterable[str]
) -> None:
    """Raise `UserError` if one of the `cells` of the header names an image that is not `known` from the rows."""
    likely = [cell for cell in cells if folder.may_have(cell)]
    found = images_by_id(likely, folder.images, folder.folder) if likely else {}
    for cell in likely:
        if any(image not in known for image in found.get(normal(cell), ())):
            count = len(table.columns)
            header = separator_of(path).join(["id", "label", *(f"column{n}" for n in range(3, count + 1))][:count])
            raise UserError(
                f"{path} has no header: {quoted(cell)} in its first row is an image. Add a line with the names of the "
                f"columns above it: sed -i {quote(f'1i {header}')} {quote(str(path))}"
            )


def id_columns(listing: Listing, folder: ImageFolder, skip: Iterable[str] = ()) -> list[str]:
    """Return the other columns whose values name a different image in each row."""
    found: list[str] = []
    if listing.names is not None:  # the settings say which column names the files
        return found
    for name in listing.others:
        values = listing.table[name]
        likely = name not in skip and folder.may_have(values.iloc[0]) and values.is_unique
        if likely and listing.by(name, folder).is_complete:
            found.append(name)
    return found


def choose_targets(listing: Listing, source: RawData, folder: ImageFolder, answers: Sequence[str]) -> Targets:
    """Return the targets of a listing. answers: the columns of the sample submission besides its ids.

    The settings say which columns hold them. Else they are the columns of the sample that the table has; else the
    column of `choose_labels`.
    """
    data, task, where = source.data, source.task, listing.path.name
    if data.label_columns:
        names = chosen_columns(listing.others, data.label_columns, str(listing.path))
        return _of_columns(listing, names, source, folder)
    same = [name for name in answers if name in listing.others] if not data.label_column else []
    if task != ONE_CLASS and not data.label_separator:
        flags = len(same) > 1 or (bool(same) and bool(listing.table[same[0]].isin(FLAGS).all()))
        if same and (task == NUMBERS or flags):
            return _of_columns(listing, same, source, folder)
    if len(same) == 1:
        data = replace(data, label_column=same[0])
    labels = choose_labels(listing, replace(source, data=data), folder, answers)
    targets = of_cells(labels, data.label_separator, task, where)
    if labels.name not in listing.table:
        kinds = few(sorted(set(labels)), 5)
        return targets._replace(source=f"the one column of {where} that is 1 in each row ({kinds})")
    return targets


def _of_columns(listing: Listing, names: Sequence[str], source: RawData, folder: ImageFolder) -> Targets:
    chosen = replace(source.data, label_column=names[0])  # the messages about ids need not ask for it
    _refuse_wrong_ids(listing, id_columns(listing, folder, names), chosen, folder)
    return of_columns(listing.table[names], source.task, listing.path.name)


def choose_labels(
    listing: Listing, source: RawData, folder: ImageFolder, answers: Sequence[str] = ()
) -> "pd.Series[str]":
    """Return the column of labels: `data.label_column`, else the second one that is no index.

    Raises `UserError`, with the setting, if another column is likelier, or if another one names the images: either in
    place of the ids, or other images than the ids do.
    """
    path, table, ids = listing.path, listing.table, listing.ids
    data, task = source.data, source.task
    naming = id_columns(listing, folder, [data.label_column])
    _refuse_wrong_ids(listing, naming, data, folder)
    position = 1 if ids.name == table.columns[0] else index_columns(table) + 1
    second = listing.others[0] if listing.names is not None and listing.others else ""
    labels = find_column(table, path, data.label_column or second, position, "data.label_column")
    free = [name for name in listing.others if name not in naming]
    if task == ONE_CLASS and not data.label_column and (classes := _flags(listing, free)):
        return _one_hot(path, table[classes], several_advice(source, classes, answers))
    if data.label_column:
        if labels.name == ids.name:
            raise UserError(
                f"{path}: column {shown(str(ids.name))} is data.label_column and holds the ids. "
                f"{_set('data.id_column', listing.others)}"
            )
        return labels
    rest = [name for name in listing.others if name not in naming]
    if labels.name == ids.name or labels.name in naming:
        what = "holds the ids" if labels.name == ids.name else "names the images"
        raise UserError(f"{path}: its second column, {shown(str(labels.name))}, {what}. {_labels_of(rest)}")
    likely = [name for name in rest if LABEL_NAMES.fullmatch(name)]
    if len(rest) > 1 and likely and not LABEL_NAMES.fullmatch(str(labels.name)):
        second = toml(labels.name)
        raise UserError(
            f"{path}: without data.label_column, its second column, {shown(str(labels.name))}, has the labels. Is "
            f"that right? {_labels_of(likely)} Or, to keep the second: data.label_column = {second}"
        )
    return labels


def _flags(listing: Listing, names: Sequence[str]) -> list[str]:
    """Return the `names` of columns that hold only 0 and 1, if there are several and none is named like labels."""
    flags = [name for name in names if listing.table[name].isin(FLAGS).all()]
    named = any(LABEL_NAMES.fullmatch(name) for name in names)
    return flags if len(flags) > 1 and names[0] in flags and not named else []


def several_advice(source: RawData, columns: Sequence[str], answers: Sequence[str]) -> str:
    """Return the lines of a TOML for several labels per image: those of `columns`, or rows of their own without any.

    answers: the columns of the sample submission besides its ids.
    """
    settings = Settings("", competition=source.competition, data=source.data, split=source.split)
    changes: dict[str, Any] = {"competition.task": SEVERAL_LABELS, "data.label_columns": tuple(columns)}
    if source.competition.submission not in SENT[SEVERAL_LABELS]:
        changes["competition.submission"] = "probabilities" if len(answers) > 1 else "label_lists"
    return advice(settings, changes)


def _one_hot(path: Path, flags: pd.DataFrame, several: str) -> "pd.Series[str]":
    """Return the column that is 1 in each row. Raises `UserError` unless that is one column in every row.

    several: the settings for several labels per image.
    """
    ones = flags.isin(ONES)
    wrong = ones.sum(axis=1) != 1
    if wrong.any():
        names = list(map(str, flags))
        lines = ", ".join(map(str, flags.index[wrong][:5]))
        raise UserError(
            f"{path}: the columns {few(names, 10)} hold only 0 and 1, but {wrong.sum():,} of {len(flags):,} rows "
            f"have several ones or none, such as line {lines}. If an image may have several of these labels, or "
            f"none:{several}\nIf one of these columns is the class: data.label_column = {toml(names[0])}"
        )
    return pd.Series(flags.columns[ones.to_numpy().argmax(axis=1)], index=flags.index, name=ONE_HOT, dtype=str)


def _refuse_wrong_ids(listing: Listing, naming: Sequence[str], data: DataSettings, folder: ImageFolder) -> None:
    """Raise `UserError` if a column in `naming` must be, or may be, that of the ids."""
    path, name = listing.path, shown(str(listing.ids.name))
    rest = [other for other in listing.others if other not in naming]
    likely = [other for other in (str(listing.ids.name), *rest) if LABEL_NAMES.fullmatch(other)] or rest
    also = "" if data.label_column else f" {_labels_of(likely)}"
    if naming and not listing.is_complete:
        raise UserError(
            f"{path}: column {name} does not name an image in {folder.path} in each row, but column "
            f"{' and '.join(map(shown, naming))} does. {_set('data.id_column', naming)}{also}"
        )
    if data.id_column:
        return
    different = [other for other in naming if listing.by(other, folder).files != listing.files]
    if different:
        raise UserError(
            f"{path}: its columns {name} and {', '.join(map(shown, different))} name the images in "
            f"different orders. {_set('data.id_column', [str(listing.ids.name), *different])}{also}"
        )


def refuse_other_images(listing: Listing, data: DataSettings, folder: ImageFolder) -> None:
    """Raise `UserError` if a column names other images than the ids do, in a table with several rows per image.

    Each of its values has one id. Also, each id has one value, or values repeat, or they are names of XML files. This
    leaves out numbers of boxes and of classes, which may be names of images too.
    """
    if data.id_column or listing.names is not None:
        return
    ids, table = str(listing.ids.name), listing.table
    data = replace(data, label_column=data.label_column or ids)  # the messages about ids need not ask for it
    for name in listing.others:
        first = ~table[name].duplicated()
        refines = folder.may_have(table[name].iloc[0]) and first.sum() == len(table[[ids, name]].drop_duplicates())
        if refines and (first.sum() == listing.ids.nunique() or not first.all() or name == STEM):
            some = listing.part(first.tolist())
            _refuse_wrong_ids(some, id_columns(some, folder, set(some.others) - {name}), data, folder)


def _labels_of(names: Sequence[str]) -> str:
    return _set("data.label_column", names) if names else "No column is left for the labels."


def _set(key: str, names: Sequence[str]) -> str:
    """Return the setting of the only one of `names`, as in a TOML, or the request to choose one."""
    if len(names) == 1:
        return f"Set {key} = {toml(names[0])}."
    return f"Set {key} to the right one of {', '.join(quoted(name) for name in names[:20])}."
