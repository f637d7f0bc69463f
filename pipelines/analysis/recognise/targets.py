"""What an image has, and where that is written: columns, cells of several labels, class folders, file names."""

import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pipelines.analysis.recognise.answers import UNSUPPORTED, Answer
from pipelines.analysis.recognise.facts import RawFolder, ancestors
from pipelines.analysis.recognise.listing import Table
from pipelines.analysis.recognise.roles import Roles
from pipelines.dataset.class_folders import MASKS, PICTURES, SPLIT_NAMES
from pipelines.dataset.columns import LABEL_NAMES
from pipelines.dataset.image_paths import file_name, without_extension
from pipelines.dataset.tables import NUMBER
from pipelines.dataset.target_cells import FLAGS, ONES, are_bracketed
from pipelines.dataset.target_cells import parts as parts_of
from pipelines.dataset.vocabulary import SEPARATORS, loose_form
from pipelines.system.errors import UserError, few

LIKELY = re.compile(r"label|class|target|categor|species|breed|diagnos|type|disease|level|grade|tags?$", re.IGNORECASE)
REPEATED = 0.05  # share of images with different labels in several rows, from which an image has several labels
LEAST_SHARE = 0.25  # of the images below the folder of class folders
DEEPEST = 3  # levels of class folders
# How classes are in the names of files; each takes one group for the number of an image.
PATTERNS = (
    r"(?P<label>[^/]*?[^/\d\s._-])[ ._-]*\(?\d+\)?",  # cat.0, dog_12, healthy (1)
    r"\d+[ ._-]+(?P<label>[^/]*[^/\d])",  # 0001_cat
    r"(?P<label>[^/_.-]+)[_.-][^/]*",  # n01440764_10026
    r"[^/]*[_.-](?P<label>[^/_.-]+)",  # 10026_cat
)
NO_ANSWER = Answer()
WRITTEN = re.compile(
    r"(?P<whole>[+-]?\d+)(?:(?P<comma>,)|\.)?(?P<rest>(?<=[.,])\d+)?\s?"
    r"(?P<unit>%|°C?|[mck]?m[²³23]?|[munk]?g|m?l|px|(?:year|yr|day|hour|h|second|sec|minute|min)s?)?",
)
FEWEST_WRITTEN = 3  # different cells; fewer may be names of classes
Kind = Literal["classes", "sets", "flags", "one_hot", "numbers", "boxes"]


@dataclass(frozen=True)
class Boxes:
    """The values of data.box_columns, box_form, box_units and no_box_label."""

    columns: list[str]
    form: str
    units: str
    no_label: str


@dataclass(frozen=True)
class Target:
    """The targets of the labelled images.

    where: column, columns, folders or names. kind: one class each; several labels in a cell; 0 and 1 for each label, or
    exactly one 1; numbers; boxes. cells: the text of each row, for a single column. labels: classes, labels or the
    names of numbers. others: columns that might be meant instead.
    """

    where: Literal["column", "columns", "folders", "names"]
    kind: Kind
    labels: list[str]
    cells: list[str] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)
    separator: str = ""
    others: list[str] = field(default_factory=list)
    why: str = ""
    folder: str = ""
    level: int = 1
    pattern: str = ""
    images: list[str] = field(default_factory=list)
    boxes: Boxes | None = None

    @property
    def counts(self) -> Counter[str]:
        return Counter(self.cells)


def find_target(folder: RawFolder, roles: Roles, answer: Answer) -> Target:
    """Return the targets. Raises `UserError` if there are none."""
    if roles.labels is not None and not roles.is_weak:
        return _of_table(roles.labels, roles, answer)
    images = [image for image in folder.images if image not in roles.test_images]
    for find in (_of_folders, _of_names):
        if target := find(images, answer):
            roles.labels = roles.train = None
            return target
    if roles.labels is not None:
        return _of_table(roles.labels, roles, answer)
    if masks := [each for each in folder.folders if any(word in each.lower() for word in MASKS)]:
        raise UserError(
            f"{folder.raw} holds the folder {few(masks)} and no labels: masks of pixels (segmentation) {UNSUPPORTED}."
        )
    tables = f" Its tables: {few(folder.tables + folder.lists, 8)}." if folder.tables or folder.lists else ""
    raise UserError(
        f"{folder.raw}: no labels were found: no table names the images, they are in no class folders, and their names "
        f"hold no classes.{tables} Write the TOML yourself (docs/competitions.md)."
    )


def _of_table(table: Table, roles: Roles, answer: Answer) -> Target:
    skip = {roles.id_column, roles.file_column}
    naming = table.naming(roles.names)
    unique = {column for column in naming if table.frame[column].nunique() > 0.9 * len(table)}
    columns = [column for column in table.columns if column not in skip | unique] or table.columns
    if not columns:
        raise UserError(f"{table.name} has no column besides the ids, so there is nothing to learn.")
    wanted = answer.columns if len(answer.columns) > 1 else []
    if wanted and (own := [column for column in wanted if column in table.columns]) == list(wanted):
        return _of_columns(table, own, answer, "the sample submission has the same columns", bool(roles.long_form))
    if own := _with_affix(table.columns, wanted):
        return _of_columns(table, own, answer, f"they are named after the columns of the sample, such as {wanted[0]!r}")
    if wanted:
        return _of_class_columns(table, columns, wanted, roles.id_column)
    flags = _flags(table, columns)
    if flags and not answer.columns:
        return _of_columns(table, flags, answer, "they are 0 or 1 in each row")
    if flags and answer.filled and {word for cell in answer.filled for word in cell.split()} <= set(flags):
        return _of_columns(table, flags, answer, "the sample submission has the names of these columns in its cells")
    column, why = _choose(table, columns, answer)
    others = [each for each in columns if each != column]
    return _of_column(table, column, why, others, roles.id_column, answer)


def _with_affix(columns: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """Return the columns that are the `wanted` ones with one text around them, such as `X4_mean` for `X4`."""
    for column in columns if wanted else ():
        before, found, after = column.partition(wanted[0])
        own = [f"{before}{name}{after}" for name in wanted]
        if found and set(own) <= set(columns):
            return own
    return []


def _of_columns(table: Table, columns: Sequence[str], answer: Answer, why: str, is_long: bool = False) -> Target:
    frame = table.frame[list(columns)]
    filled = [cell for column in columns for cell in frame[column].tolist() if cell]
    if not all(NUMBER.fullmatch(cell) for cell in filled):
        raise UserError(
            f"{table.name}: the columns {few(columns, 5)} hold a class each. Several classes for one image, one of "
            "each column, are not supported yet. One column alone can be predicted: name it in data.label_column."
        )
    whole = all(float(cell) % 1 == 0 for cell in filled)
    if frame.isin(FLAGS).all(axis=None):
        ones = frame.isin(ONES).sum(axis=1)
        return Target(
            "columns", "one_hot" if (ones == 1).all() else "flags", list(columns), columns=list(columns), why=why
        )
    if is_long and whole and not answer.is_decimal:
        raise UserError(
            f"{table.name}: the columns {few(columns, 5)} are whole numbers, and so are the answers: a class each. "
            "Several classes for one image, one of each column, are not supported yet. For numbers to estimate, write "
            'the TOML yourself, with task = "numbers" (docs/competitions.md).'
        )
    return Target("columns", "numbers", list(columns), columns=list(columns), why=why)


def _of_class_columns(table: Table, columns: Sequence[str], wanted: Sequence[str], id_column: str) -> Target:
    """Return the target whose classes or labels are the columns of the sample submission."""
    forms = {loose_form(name) for name in wanted}
    best, most = "", 0.0
    for column in columns:
        different = set(table.values(column)) - {""}
        separator = cell_separator(different)
        parts = {part for cell in different for part in split_cell(cell, separator)}
        share = max(
            sum(loose_form(each) in forms for each in group) / max(1, len(group)) for group in (different, parts)
        )
        points = share + 0.1 * min(len(parts), len(forms)) / len(forms)
        if points > most:
            best, most = column, points
    if most < 0.5:
        column, why = _choose(table, columns, NO_ANSWER)
        why = f"{why}; its values are not the columns of the sample submission"
        return _of_column(table, column, why, columns, id_column)
    others = [each for each in columns if each != best]
    return _of_column(table, best, "its values are the columns of the sample submission", others, id_column)


def _of_column(
    table: Table, column: str, why: str, others: Sequence[str], id_column: str, answer: Answer = NO_ANSWER
) -> Target:
    cells = table.values(column)
    different = set(cells) - {""}
    _refuse_written_numbers(table.name, column, different, answer)
    separator = cell_separator(different) or _separator_of(answer, different)
    labels = sorted({part for cell in different for part in split_cell(cell, separator)})
    kind: Kind = "sets" if separator or _repeats(table, id_column, column) else "classes"
    return Target("column", kind, labels, cells, [column], separator, list(others), why)


def _repeats(table: Table, id_column: str, column: str) -> bool:
    """Return whether many images have several rows with different labels: a row for each label of an image."""
    if not id_column or table.frame[id_column].is_unique:
        return False
    labels = table.frame.groupby(id_column, sort=False)[column].nunique()
    numbers = all(NUMBER.fullmatch(cell) and float(cell) % 1 for cell in set(table.values(column)) if cell)
    return not numbers and float((labels > 1).mean()) >= REPEATED


def _refuse_written_numbers(name: str, column: str, different: Collection[str], answer: Answer) -> None:
    """Raise `UserError` for numbers with a decimal comma or a unit, such as `3,5` and `12 cm`, that nobody submits."""
    found = [match for cell in sorted(different) if (match := WRITTEN.fullmatch(cell))]
    if len(found) < max(len(different), FEWEST_WRITTEN) or not set(different).isdisjoint(answer.filled):
        return
    first, units = next((each for each in found if each["comma"]), found[0]), {match["unit"] or "" for match in found}
    commas = [match for match in found if match["comma"]]
    if len(units) > 1 or (units == {""} and not commas):
        return
    plain = f"{first['whole']}.{first['rest']}" if first["rest"] else first["whole"]
    what = f"the unit {units.pop()!r}" if units != {""} else "a decimal comma"
    if commas and all(len(match["rest"] or "") == 3 for match in commas):
        what, plain = "a comma, decimal or between thousands", f"{plain} or {first['whole']}{first['rest']}"
    raise UserError(
        f"{name}: column {column!r} has numbers with {what}, such as {first[0]!r}. Write them as plain numbers, "
        f"such as {plain}, in a copy of the data, also in the sample submission, and give its folder: ARCHIVE=."
    )


def _flags(table: Table, columns: Sequence[str]) -> list[str]:
    flags = [column for column in columns if table.frame[column].isin(FLAGS).all()]
    named = any(LABEL_NAMES.fullmatch(column) for column in columns)
    return flags if len(flags) > 1 and not named and 2 * len(flags) > len(columns) else []


def _choose(table: Table, columns: Sequence[str], answer: Answer) -> tuple[str, str]:
    """Return the column of the targets, and why it is the one."""
    if len(columns) == 1:
        return columns[0], "it is the only column besides the ids"
    if answer.columns:
        name = answer.columns[0].casefold()
        if same := [column for column in columns if column.casefold() == name]:
            return same[0], "the sample submission has a column of this name"
    if answer.words:
        shares = {column: _known(table, column, answer.words) for column in columns}
        best = max(shares.values())
        if best >= 0.5:
            found = [column for column in columns if shares[column] == best]
            column = next((each for each in found if LIKELY.search(each)), found[0])
            return column, f"it has the values of the sample submission, such as {few(sorted(answer.words)[:2])}"
    for pattern, words in ((LABEL_NAMES, "it is named so"), (LIKELY, "its name sounds so")):
        if found := [column for column in columns if pattern.search(column) and table.frame[column].nunique() > 1]:
            full = [column for column in found if pattern.fullmatch(column)]
            return (full or found)[0], words
    varied = [column for column in columns if table.frame[column].nunique() > 1] or list(columns)
    return varied[0], "it is the first column besides the ids: a guess"


def _known(table: Table, column: str, words: Collection[str]) -> float:
    different = set(table.values(column))
    if len(different & set(words)) < len(words) and (separator := cell_separator(different - {""})):
        different |= {part for cell in different for part in split_cell(cell, separator)}
    return sum(word in different for word in words) / len(words)


def cell_separator(different: Collection[str]) -> str:
    """Return the text between several labels in the cells `different`; empty if each holds one label.

    Labels of several words are no list: the parts of a list are labels of their own, or repeat in other combinations.
    """
    if are_bracketed(different):
        return ","
    for separator in SEPARATORS:
        parts = {cell: split_cell(cell, separator) for cell in different}
        joined = [cell for cell in parts if len(parts[cell]) > 1]
        if not joined:
            continue
        if _are_number_lists(separator, parts.values()):
            return separator
        singles = {cell for cell in parts if len(parts[cell]) == 1}
        made = [cell for cell in joined if singles.issuperset(parts[cell])]
        repeats = Counter(part for each in parts.values() for part in set(each))
        varied = len({len(each) for each in parts.values()}) > 1
        few_parts = 2 * len(repeats) <= len(parts) or min(repeats.values()) > 1
        if 2 * len(made) >= len(joined) or (varied and few_parts and len(joined) > 2):
            return separator
    return ""


def _are_number_lists(separator: str, cells: Collection[list[str]]) -> bool:
    """Return whether the parts of `cells` are whole numbers, such as `16 0` and `5`: no class has such a name.

    With one comma in each cell they may be decimals.
    """
    whole = all(part.isdecimal() for parts in cells for part in parts)
    return whole and len({len(parts) for parts in cells}) > 1 and (separator != "," or max(map(len, cells)) > 2)


def _separator_of(answer: Answer, different: Collection[str]) -> str:
    """Return the space if the sample's cells are lists of parts of the cells `different`; else an empty text."""
    parts = {part for cell in different for part in cell.split() if " " in cell}
    for value in answer.filled:
        words = value.split()
        if len(words) > 1 and value not in different:
            known = sum(word in parts for word in words)
            if 2 * known >= len(words) and known > sum(word in different for word in words):
                return " "
    return ""


def split_cell(cell: str, separator: str) -> list[str]:
    return parts_of(cell, separator) if separator else [cell]


def _of_folders(images: Sequence[str], answer: Answer) -> Target | None:
    """Return the target that class folders give: the level whose names are the sample's classes, else the first one."""
    forms = {loose_form(name) for name in (answer.columns if len(answer.columns) > 1 else answer.words)}
    best: tuple[float, Target] | None = None
    held = Counter(each for image in images for each in ancestors(image))
    for root in sorted(folder for folder, count in held.items() if count >= LEAST_SHARE * len(images)):
        prefix = f"{root}/" if root else ""
        inside = [image for image in images if image.startswith(prefix)]
        folders = [image.removeprefix(prefix).split("/")[:-1] for image in inside]
        for level in range(1, DEEPEST + 1):
            if any(len(each) < level for each in folders):
                break
            names = Counter(each[level - 1] for each in folders)
            if any(name.lower() in SPLIT_NAMES for name in names):
                break
            if len(names) < 2 or _are_no_classes(names):
                continue
            points = len(inside) / len(images) - level / 10 + ("train" in root.lower()) / 2
            if forms:
                points += 4 * sum(loose_form(name) in forms for name in names) / len(names)
            elif level == 2 and _repeat(folders):
                points += 0.5
            if best is None or points > best[0]:
                cells = [each[level - 1] for each in folders]
                why = f"folders below {root or 'the raw folder'}" + f", level {level}" * (level > 1)
                best = (
                    points,
                    Target(
                        "folders", "classes", sorted(names), cells, why=why, folder=root, level=level, images=inside
                    ),
                )
    return best[1] if best else None


def _are_no_classes(names: Collection[str]) -> bool:
    """Return whether folders are pictures and their masks."""
    lower = [name.lower() for name in names]
    kinds = [any(part in name for name in lower for part in kind) for kind in (PICTURES, MASKS)]
    return len(lower) == 2 and all(kinds)


def _repeat(folders: Sequence[Sequence[str]]) -> bool:
    """Return whether the names on the second level repeat below those of the first."""
    pairs = {(each[0], each[1]) for each in folders}
    counts = Counter(name for _, name in pairs)
    return len(counts) > 1 and 2 * sum(count > 1 for count in counts.values()) >= len(counts)


def _of_names(images: Sequence[str], answer: Answer) -> Target | None:
    """Return the target that the names of files give: classes that repeat, before or after a number."""
    if not images:
        return None
    stems = [without_extension(file_name(image)) for image in images]
    forms = {loose_form(name) for name in (answer.columns if len(answer.columns) > 1 else answer.words)}
    for pattern in PATTERNS:
        matches = [re.fullmatch(pattern, name) for name in stems]
        cells = [match["label"] if match else "" for match in matches]
        counts = Counter(cells)
        if not all(re.search("[^\\W\\d]", name) for name in counts):
            continue
        if "" in counts or not 2 <= len(counts) <= max(2, len(images) // 4) or min(counts.values()) < 2:
            continue
        if len(answer.columns) > 1 and not all(loose_form(name) in forms for name in counts):
            continue
        shared = [
            each
            for each in ancestors(images[0])
            if all(image.startswith(f"{each}/" if each else "") for image in images)
        ]
        full = rf"^(?:.*/)?{pattern}\.[^./]+$"
        why = f"in the names of the images, such as {file_name(images[0])}"
        return Target(
            "names", "classes", sorted(counts), cells, why=why, folder=shared[-1], pattern=full, images=list(images)
        )
    return None
