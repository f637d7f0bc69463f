"""The form of a sample submission: the columns to fill, and what stands in them."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import takewhile

from pipelines.analysis.recognise.roles import Roles
from pipelines.dataset.tables import NUMBER
from pipelines.dataset.vocabulary import loose_form
from pipelines.system.errors import UserError, few

DECIMAL = re.compile(r"[+-]?\d*\.\d+(e[+-]?\d+)?|\d+e-\d+", re.IGNORECASE)
# Columns of submissions for tasks that are no answer about a whole image.
BOXES = re.compile(r"prediction_?strings?|b(ounding_?)?box(es)?|xmin|x_min", re.IGNORECASE)
MASKS = re.compile(r"(encoded_?)?pixels|(predicted_?)?rle(_?mask)?|.*_rle|segmentation|annotation", re.IGNORECASE)
UNSUPPORTED = "are not supported yet; this pipeline answers for whole images: classes, labels, numbers or rankings"


@dataclass(frozen=True)
class Answer:
    """columns: those to fill; none without a sample. values: the different texts in a single one, in their order."""

    columns: list[str] = field(default_factory=list)
    values: list[str] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Whether the cells of a single column are all empty."""
        return len(self.columns) == 1 and not self.filled

    @property
    def filled(self) -> list[str]:
        return [value for value in self.values if value]

    @property
    def is_decimal(self) -> bool:
        """Whether the values are numbers, and some have decimals."""
        return self.are_numbers and any(DECIMAL.fullmatch(value) for value in self.filled)

    @property
    def are_numbers(self) -> bool:
        return bool(self.filled) and all(NUMBER.fullmatch(value) for value in self.filled)

    @property
    def has_fractions(self) -> bool:
        return self.are_numbers and any(float(value) % 1 for value in self.filled)

    def guesses(self, labels: Collection[str]) -> int:
        """Return the largest number of labels, with spaces between, in a cell; 1 if whole cells are `labels`."""
        known = set(labels)
        if any(value in known for value in self.filled if " " in value):
            return 1
        return max([1, *(len(value.split()) for value in self.values)])

    @cached_property
    def words(self) -> set[str]:
        """The texts that may be labels. Numbers with decimals are left out."""
        return set() if self.is_decimal else {*self.filled, *(word for value in self.filled for word in value.split())}


def read_answer(roles: Roles, has_boxes: bool = False) -> Answer:
    """Return the form of the sample submission. Raises `UserError`, by its name, for one that is not supported.

    has_boxes: whether the labels have boxes, which the sample asks for.
    """
    sample = roles.sample
    if sample is None:
        return Answer()
    name = sample.table.name
    if has_boxes:
        return Answer(list(sample.answers), list(dict.fromkeys(sample.table.values(sample.answers[0]))))
    if boxes := [column for column in sample.answers if BOXES.fullmatch(column)]:
        raise UserError(
            f"{name} has the column {few(boxes)}: boxes of objects (detection). These are supported for one column of "
            "answers, and labels with the boxes, which were not found. Write the TOML yourself (docs/detection.md)."
        )
    if masks := [column for column in sample.answers if MASKS.fullmatch(column)]:
        raise UserError(f"{name} has the column {few(masks)}: masks of pixels (segmentation) {UNSUPPORTED}.")
    if roles.long_form:
        return Answer(roles.long_targets, list(dict.fromkeys(sample.table.values(sample.answers[0]))))
    if len(sample.answers) != 1:
        return Answer(list(sample.answers), [])
    values = list(dict.fromkeys(sample.table.values(sample.answers[0])))
    answer = Answer(list(sample.answers), values)
    _refuse_values(name, sample.answers[0], answer, sample.ids)
    return answer


def words_of(labels: Sequence[str], columns: Sequence[str]) -> dict[str, str]:
    """Return the column of the sample for each label, where columns are `class_0` or `Type A` for `0` or `type_a`.

    Empty unless each label has a column of its own.
    """
    pairs = zip(min(columns, default=""), max(columns, default=""), strict=False)  # all share their beginning
    start = re.sub(r"\d+$", "", "".join(one for one, _ in takewhile(lambda pair: pair[0] == pair[1], pairs)))
    by_form = {loose_form(column): column for column in columns}
    by_end = {loose_form(column.removeprefix(start)): column for column in columns}
    for forms in (by_form, by_end):
        found = {label: forms.get(loose_form(label), "") for label in labels}
        if len(columns) > 1 and all(found.values()) and len(set(found.values())) == len(labels):
            return found
    return {}


def _refuse_values(name: str, column: str, answer: Answer, ids: list[str]) -> None:
    """Raise `UserError` for cells that are lists of test images, labels with a confidence, or positions."""
    known = set(ids)
    parts = [value.split() for value in answer.filled]
    if parts and all(len(each) >= 1 and known.issuperset(each) for each in parts) and not answer.are_numbers:
        raise UserError(f"{name}: column {column!r} lists test images: finding similar images {UNSUPPORTED}.")
    if any(len(each) == 2 and DECIMAL.fullmatch(each[1]) and not DECIMAL.fullmatch(each[0]) for each in parts):
        raise UserError(f"{name}: column {column!r} has a label and its confidence in a cell, which {UNSUPPORTED}.")
    coordinates = [each for each in parts if len(each) > 2 and sum(map(str.isdigit, each)) > len(each) / 2]
    if coordinates and not all(each.isdigit() for each in coordinates[0]):
        raise UserError(f"{name}: column {column!r} has labels with positions in the image, which {UNSUPPORTED}.")
