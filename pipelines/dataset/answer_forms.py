"""The form of a submission: its header, its rows and the text of an answer, as the sample submission shows them."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path

import pandas as pd

from pipelines.dataset.columns import ONE_HOT
from pipelines.dataset.encodings import listing_file
from pipelines.dataset.long_form import PAIRS, answer_columns, split_long
from pipelines.dataset.tables import find_column, index_columns, read_listing, read_table
from pipelines.dataset.vocabulary import is_number, number
from pipelines.settings.choices import ID, TARGET
from pipelines.settings.schema import Settings

BOX_COLUMN = "PredictionString"  # of boxes, where no sample names it


@dataclass(frozen=True)
class Form:
    """The rows and columns of a submission.

    path: of the sample submission, if there is one. header: all columns. given: the columns that are no answers, as
    text: ids, indexes, and the targets of a long form in two columns. keys: those of them that say which row it is.
    values: the names of the other columns, which follow each other. images: the id of the image of each row. targets:
    the target of each row of a long form; else none. cells: the sample's own values.
    """

    path: Path | None
    header: list[str]
    given: pd.DataFrame
    keys: list[str]
    values: list[str]
    images: list[str]
    targets: list[str]
    cells: pd.DataFrame

    @property
    def columns(self) -> list[str]:
        """The names that answers have: those of the value columns, or the different targets of a long form."""
        return list(dict.fromkeys(self.targets)) if self.targets else self.values


def sample_form(settings: Settings, raw: Path, known: Sequence[str] = (), rows: int = 0) -> Form:
    """Return the form of the sample submission. known: targets, as the sample writes them. rows: see `read_listing`;
    of a long form, whose rows name the targets, and of a sample with indexes, all are read.

    The ids are in the column `data.sample_id`, else in the first one that is no index. Columns before it are repeated,
    those after it are answers; if none is after it, those before it are.
    """
    data, path = settings.data, listing_file(raw / settings.data.sample_submission)
    form = settings.competition.long_form
    table = read_listing(path, rows=0 if form else rows)
    indexes = index_columns(table)
    if rows and indexes:
        return sample_form(settings, raw, known)
    name = str(find_column(table, path, data.sample_id, indexes, "data.sample_id").name)
    header = list(map(str, table.columns))
    values, target = answer_columns(header, name, indexes, form)
    images, targets, keys = table[name].tolist(), [], [name]
    if target is not None:
        targets, keys = table[target].tolist(), [name, target]
    elif form:
        images, targets = split_long(images, form, known)
    answers = set(values)
    given = [each for each in header if each not in answers]
    return Form(path, header, table[given], keys, values, images, targets, table[values])


def plain_form(settings: Settings, raw: Path, ids: Sequence[str], texts: Sequence[str]) -> Form:
    """Return the form of a submission without a sample: the header of the labels CSV, the rows in the order of `ids`.

    texts: the classes, as they are submitted, or the names of the numbers.
    """
    submission, long = settings.competition.submission, settings.competition.long_form
    id_name, label_name = _header_of_labels(settings, raw, texts)
    images, given, targets = list(ids), pd.DataFrame({id_name: list(ids)}, dtype=str), []
    label_name = BOX_COLUMN if submission == "boxes" else label_name
    values = list(texts) if submission in ("probabilities", "numbers") else [label_name]
    if long:
        images, targets = [each for each in ids for _ in texts], list(texts) * len(ids)
        values = [label_name if label_name not in texts else "value"]
        if long in PAIRS:
            both = {id_name: images, "target": targets}
            given = pd.DataFrame(both if long.startswith(ID) else dict(reversed(both.items())), dtype=str)
        else:
            rows = [long.replace(ID, image).replace(TARGET, each) for image, each in zip(images, targets, strict=True)]
            given = pd.DataFrame({id_name: rows}, dtype=str)
    return Form(None, [*given.columns, *values], given, list(given.columns), values, images, targets, pd.DataFrame())


def is_csv(labels: str) -> bool:
    """Return whether `labels`, the value of data.labels, is one CSV."""
    return bool(labels) and "+" not in labels and ".json" not in labels.lower()


def _header_of_labels(settings: Settings, raw: Path, texts: Sequence[str]) -> tuple[str, str]:
    """Return the names of the id and the label column of the labels CSV; `id` and `label` without such columns.

    The label column is `label` if the CSV has a column for each of the classes, `texts`.
    """
    data, path = settings.data, listing_file(raw / settings.data.labels)
    if not is_csv(data.labels) or path.is_dir():
        return "id", "label"
    table = read_table(path)
    ids, labels = find_column(table, path, data.id_column, 0), find_column(table, path, data.label_column, 1)
    one_each = labels.name in texts or data.label_columns
    names = str(ids.name), ONE_HOT if one_each else str(labels.name)
    return names if names[0] != names[1] else ("id", names[1])  # rows of pixels may have no ids


def label_order(cells: Sequence[str], separator: str, texts: Sequence[str]) -> list[int]:
    """Return the places of `texts`, in the order that the parts of `cells` have.

    It is the order of `texts` if this agrees, and also where the cells contradict each other; else that of their
    numbers, if they are numbers, or any other.
    """
    place = {text: number for number, text in enumerate(texts)}
    lists = [[place[part] for part in cell.split(separator) if part in place] for cell in dict.fromkeys(cells)]
    pairs = {pair for each in lists for pair in pairwise(each)}
    own = list(range(len(texts)))
    if all(one < other for one, other in pairs):
        return own
    if all(map(is_number, texts)):
        own.sort(key=lambda each: number(texts[each]))
        ranks = {each: rank for rank, each in enumerate(own)}
        if all(ranks[one] < ranks[other] for one, other in pairs):
            return own
    before: dict[int, list[int]] = {each: [] for each in own}
    for one, other in pairs:
        before[other].append(one)
    sorter = TopologicalSorter(before)
    try:
        return list(sorter.static_order())
    except CycleError:
        return own


def sample_decimals(cells: pd.DataFrame) -> int:
    """Return how many digits after the point the sample's numbers have; 0 if it shows none.

    One number in all rows of a column with one digit, such as 0.0 or 0.5, is how programs write any number: it shows
    none.
    """
    columns = [set(cells[name].tolist()) for name in cells]
    return max((_decimals(values) for values in columns), default=0)


def _decimals(values: Collection[str]) -> int:
    digits = max((len(value.partition(".")[2]) for value in values if is_number(value)), default=0)
    return 0 if digits == 1 and len(values) == 1 else digits
