"""Which table is the sample submission, which lists the labels and which the test images, and the folders of both."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

import pandas as pd

from pipelines.analysis.recognise.affixes import Affix, affixes
from pipelines.analysis.recognise.facts import TESTS, Home, Names, RawFolder, channel_endings
from pipelines.analysis.recognise.listing import Table
from pipelines.dataset.class_folders import TESTING
from pipelines.dataset.long_form import long_form_of, split_long, widened
from pipelines.system.errors import UserError, few

# The name of a sample submission, from the surest to the vaguest.
SAMPLES = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (r"sample.?_?sub|sub\w*.?sample|submission.?_?format", "submission", r"sample|benchmark|example")
)
LABELS = re.compile(r"train|label|annot|solution|list|data_entry", re.IGNORECASE)
PARTS = re.compile(r"train|val|dev|label", re.IGNORECASE)  # tables of labelled images
OTHERS = re.compile(r"test|valid|holdout|sub(?!ject)", re.IGNORECASE)
FEWEST = 5  # a table of labels names at least one of so many images
MOST_COLUMNS = 8  # that may be ids
MOST_TARGETS = 500  # of one image, in a sample with a row for each
MOST_LONG = 100_000  # row ids that are tried in every form
ENOUGH = 0.9  # share of ids that must be found


@dataclass
class Sample:
    """A sample submission: its table, the column of ids, the columns to fill, and its ids in their order."""

    table: Table
    id_column: str
    answers: list[str]

    @property
    def ids(self) -> list[str]:
        return self.table.values(self.id_column)


@dataclass
class Roles:
    """What each table and folder is for.  file_column, test_file_column: they name the images; empty: the ids do.

    test_images: all images that are tested, which have no label. long_form, long_targets: of a sample with a row per
    image and target. is_weak: the labels name few of the images.
    """

    names: Names
    sample: Sample | None = None
    labels: Table | None = None
    id_column: str = ""
    file_column: str = ""
    train: Home | None = None
    test_table: Table | None = None
    test_file_column: str = ""
    test: Home | None = None
    test_images: frozenset[str] = frozenset()
    long_targets: list[str] = field(default_factory=list)
    long_form: str = ""
    is_weak: bool = False

    @property
    def matched(self) -> int:
        """How many of the labels and the tests were found."""
        pixels = self.labels is not None and bool(self.labels.pixels)
        return bool(self.train or pixels) + bool(self.test or self.test_table or not self.sample)


def find_roles(folder: RawFolder, tables: Sequence[Table]) -> Roles:
    """Return the roles of the tables and folders."""
    roles = _roles(folder, tables, folder.names)
    if not roles.train and not roles.test and (endings := channel_endings(folder.images)):
        other = _roles(folder, tables, Names(folder.images, endings))
        if other.train or other.test:
            return other
    if folder.images and roles.matched < 2 and (around := _around_ids(tables, roles)):
        other = _roles(folder, tables, Names(folder.images, (), around))
        if other.matched > roles.matched:
            return other
    return roles


def _around_ids(tables: Sequence[Table], roles: Roles) -> list[Affix]:
    """Return the texts around ids in names of images, of all columns that may be ids."""
    found: dict[Affix, None] = {}
    for table in tables:
        if len(table) * FEWEST < len(roles.names.images) and table.frame is not getattr(roles.sample, "table", None):
            continue
        for column in table.columns[:MOST_COLUMNS]:
            if table.frame[column].is_unique:
                found |= dict.fromkeys(affixes(table.values(column), roles.names.stems))
    return list(found)


def _roles(folder: RawFolder, tables: Sequence[Table], names: Names) -> Roles:
    roles = Roles(names)
    roles.sample = _find_sample(tables, names)
    rest = [table for table in tables if not roles.sample or table.name != roles.sample.table.name]
    rest = [table for table in rest if len(table) and not SAMPLES[0].search(stem(table.name))]
    if roles.sample:
        _find_tests(roles, roles.sample, rest)
    else:
        _find_unlisted_tests(roles, folder, rest)
    if roles.test:
        roles.test_images = frozenset(roles.test.images)
    rest = [_widened(table, roles) for table in rest]
    _find_labels(roles, folder, rest)
    _join_labels(roles, rest)
    return roles


def _widened(table: Table, roles: Roles) -> Table:
    """Return a table of labels with a row for each image and target, as the sample has, with a row for each image."""
    sample = roles.sample
    if not sample or not roles.long_form or table.columns != sample.table.columns:
        return table
    try:
        frame, _ = widened(Path(table.name), table.frame, roles.long_form, sample.id_column)
    except UserError:  # of a table that only looks so
        return table
    return replace(table, frame=frame, is_long=True)


def stem(name: str) -> str:
    return PurePosixPath(name).name.partition(".")[0]


def _find_sample(tables: Sequence[Table], names: Names) -> Sample | None:
    for pattern in SAMPLES:
        found = [
            table for table in tables if pattern.search(stem(table.name)) and len(table.columns) > 1 and len(table)
        ]
        if found:
            shares = {table.name: max([0.0, *table.naming(names).values()]) for table in found}
            # of several stages the last one whose images are there
            best = max(found, key=lambda table: (round(shares[table.name], 1), not table.is_list, stem(table.name)))
            naming = best.naming(names)
            surest = max([0.0, *naming.values()])
            column = next((each for each in best.columns if naming.get(each, -1) >= ENOUGH * surest), best.columns[0])
            place = best.columns.index(column)
            return Sample(best, column, best.columns[place + 1 :] or best.columns[:place])
    return None


def _find_tests(roles: Roles, sample: Sample, tables: Sequence[Table]) -> None:
    """Find the images of the sample's ids: by name, by a table that lists both, or as rows of numbers."""
    ids, names = sample.ids, roles.names
    if names.share(ids) >= ENOUGH / 2:
        roles.test = names.home(ids, tests=True)
        _find_long_columns(roles, sample)
        return
    if _find_long_ids(roles, sample):
        return
    wanted = set(ids)
    for table in tables:
        naming = list(table.naming(names))
        for column in table.columns if naming else ():
            if len(wanted & set(table.values(column))) >= ENOUGH * len(wanted):
                file_column = next((each for each in naming if each != column), "")
                if file_column and not table.frame[column].is_unique:
                    raise UserError(
                        f"{sample.table.name}: an id such as {ids[0]!r} means several images ({column!r} and "
                        f"{file_column!r} of {table.name}). One answer for several images is not supported yet."
                    )
                if file_column:
                    roles.test_table, roles.test_file_column = table, file_column
                    roles.test = names.home(table.values(file_column), tests=True)
                    return
    _refuse_lookup(sample, wanted, tables)
    numbers = [table for table in tables if table.pixels and not re.search("train", stem(table.name), re.IGNORECASE)]
    fitting = [table for table in numbers if len(table) == len(ids)] or [
        t for t in numbers if TESTS.search(stem(t.name))
    ]
    if fitting:
        roles.test_table = fitting[0]


def _refuse_lookup(sample: Sample, wanted: set[str], tables: Sequence[Table]) -> None:
    """Raise `UserError` if a table says for each row of the sample which image and which target it wants."""
    for table in tables:
        if not any(wanted <= set(table.values(column)) for column in table.columns):
            continue
        for column in table.columns:
            named = set(table.values(column))
            if len(named) > 1 and any(named <= set(other.columns) for other in tables if other is not table):
                raise UserError(
                    f"{table.name} says which image and which of {few(sorted(named))} each row of "
                    f"{sample.table.name} wants. A sample submission with such a table is not supported yet."
                )


def _find_long_columns(roles: Roles, sample: Sample) -> None:
    """Recognise a row per image and target, the target in a column beside the id."""
    if len(sample.answers) != 2 or sample.table.frame[sample.id_column].is_unique:
        return
    target = sample.answers[0]
    targets = list(dict.fromkeys(sample.table.values(target)))
    if len(targets) * len(set(sample.ids)) == len(sample.table):
        roles.long_form, roles.long_targets = "{id},{target}", targets
        sample.answers = sample.answers[1:]


def _find_long_ids(roles: Roles, sample: Sample) -> bool:
    """Recognise a row per image and target in ids such as `Test_0_age`; return whether it is."""
    ids = sample.ids
    first = ids[0]
    for place in (place for place, character in enumerate(first) if character in "_-:/ ."):
        if not place or not roles.names.find(first[:place]):
            continue
        joint = first[place]
        own = [each for each in ids if each.startswith(first[: place + 1])]
        targets = [each[place + 1 :] for each in own]
        if not 1 < len(targets) <= MOST_TARGETS:
            continue
        ends = [joint + target for target in targets]
        bases = [each.removesuffix(end) for each in ids for end in ends if each.endswith(end)]
        if len(bases) == len(ids) and roles.names.share(bases) >= ENOUGH:
            roles.test = roles.names.home(list(dict.fromkeys(bases)), tests=True)
            roles.long_form, roles.long_targets = f"{{id}}{joint}{{target}}", targets
            return True
    if len(ids) <= MOST_LONG and (form := long_form_of(ids, lambda name: bool(roles.names.find(name)))):
        images, targets = split_long(ids, form)
        roles.test = roles.names.home(list(dict.fromkeys(images)), tests=True)
        roles.long_form, roles.long_targets = form, list(dict.fromkeys(targets))
        return True
    return False


def _find_unlisted_tests(roles: Roles, folder: RawFolder, tables: Sequence[Table]) -> None:
    """Find the test images without a sample submission: those of a table or a folder named for it."""
    for table in tables:
        if TESTS.search(stem(table.name)):
            if table.pixels:
                roles.test_table = table
                return
            if naming := list(table.naming(roles.names)):
                roles.test_table = table
                roles.test = roles.names.home(table.values(naming[0]), tests=True)
                return
    named = [each for each in folder.folders if any(part.lower() in TEST_FOLDERS for part in _words(each))]
    flat = [each for each in named if not any(other.startswith(f"{each}/") for other in folder.folders)]
    if flat:
        tops = {_test_top(each) for each in flat}
        top = sorted(tops, key=lambda each: (sum(f"{one}/".startswith(f"{each}/") for one in flat), each))[0]
        images = [image for image in folder.images if image.startswith(f"{top}/")]
        roles.test = Home(top, len(images), images)


TEST_FOLDERS = (*TESTING, "pred", "prediction", "unlabeled", "unlabelled")


def _words(path: str) -> list[str]:
    return [word for part in path.split("/") for word in re.split(r"[^A-Za-z]+", part)]


def _test_top(path: str) -> str:
    """Return the part of a path down to the last folder that is named like test images."""
    parts = path.split("/")
    last = max(n for n, part in enumerate(parts) if any(word.lower() in TEST_FOLDERS for word in _words(part)))
    return "/".join(parts[: last + 1])


def _find_labels(roles: Roles, folder: RawFolder, tables: Sequence[Table]) -> None:
    """Find the table that has targets of images which are not tested."""
    best = -20.0
    others = max(1, len(folder.images) - len(roles.test_images))
    for table in tables:
        if table is roles.test_table:
            continue
        if table.pixels and table.columns:
            if (points := 2 + _points(table, roles.sample)) > best:
                best, roles.labels, roles.id_column, roles.train, roles.is_weak = points, table, "", None, False
            continue
        naming = list(table.naming(roles.names))
        if not naming or len(table.columns) < 2:
            continue
        column = naming[0]
        home = roles.names.home(table.values(column), avoid=roles.test_images)
        if home is None:
            continue
        share = len(home.images) / others
        points = 2 * min(1.0, share) + _points(table, roles.sample) - 10 * (share * FEWEST < 1)
        if points > best and (points > 0 or share * FEWEST < 1):
            best, roles.labels, roles.train, roles.is_weak = points, table, home, share * FEWEST < 1
            roles.id_column, roles.file_column = _id_and_file(table, column, roles)


def _join_labels(roles: Roles, tables: Sequence[Table]) -> None:
    """Join tables of the same columns as the labels that list other labelled images, such as those for validation."""
    labels = roles.labels
    column = roles.file_column or roles.id_column or (next(iter(labels.naming(roles.names)), "") if labels else "")
    if labels is None or labels.pixels or roles.train is None or not column or "+" in labels.name:
        return
    joined, seen = [labels], set(roles.train.images) | roles.test_images
    for table in tables:
        if table.columns != labels.columns or table.name == labels.name or table.pixels or "+" in table.name:
            continue
        home = roles.names.home(table.values(column), avoid=roles.test_images)
        is_part = home is not None and home.found >= ENOUGH * len(table) and PARTS.search(stem(table.name))
        if home and is_part and seen.isdisjoint(home.images):
            joined.append(table)
            seen.update(home.images)
    home = roles.names.home([cell for table in joined for cell in table.values(column)], avoid=roles.test_images)
    if len(joined) > 1 and home is not None:
        frame = pd.concat([table.frame for table in joined], ignore_index=True)
        name = "+".join(table.name for table in joined)
        roles.labels, roles.train = Table(name, frame, is_list=labels.is_list), home


def _id_and_file(table: Table, naming: str, roles: Roles) -> tuple[str, str]:
    """Return the column of ids and, if the file is named by another one, that column."""
    if table.is_list:
        return "", ""
    sample = roles.sample
    if sample and sample.id_column != naming and sample.id_column in table.columns and roles.test_file_column:
        return sample.id_column, naming
    return naming, ""


def _points(table: Table, sample: Sample | None) -> float:
    """Return how much speaks for `table` as the labels."""
    name = stem(table.name)
    points = 2.0 * bool(LABELS.search(name)) - 3.0 * bool(OTHERS.search(name) and not re.search("train", name, re.I))
    if sample:
        own = {column.casefold() for column in table.columns}
        shared = [answer for answer in sample.answers if answer.casefold() in own]
        points += 3.0 * (len(shared) == len(sample.answers))
        if len(sample.answers) > 1:
            wanted = set(sample.answers)
            points += 3.0 * any(set(table.values(each)) <= wanted for each in table.columns)
    return points
