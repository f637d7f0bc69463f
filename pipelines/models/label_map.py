"""Starting a new output layer from the rows of a pretrained classifier whose labels also occur in the competition."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from pipelines.dataset.image_paths import normal
from pipelines.dataset.tables import read_csv
from pipelines.system.errors import UserError, did_you_mean, shown

COLUMNS = ["label", "category"]
WORDNET_PREFIX = re.compile(r"n\d{8}[-_. ]+(?=\S)")  # n02085620-Chihuahua: ImageNet's number of the word before it
APOSTROPHES = re.compile("['’ʼ`]")
SEPARATORS = re.compile(r"[\s_.-]+")
FEW = 3  # names that an error shows of each list


def match_labels(classes: Sequence[str], categories: Sequence[str], path: Path | None = None) -> dict[int, int]:
    """Return {number of the class: number of the category}, both from 0, for classes the pretrained classifier knows.

    classes: the competition's labels in the order of its output layer; categories: the classifier's, in the order of
    its own.  Names are compared without regard to case, apostrophes, `n02085620-` before them, and whether `_`, `-`,
    `.` or spaces part their words.  Where two categories or two classes are then alike (ImageNet's 264, `Cardigan`, is
    a dog, and its 474, `cardigan`, is knitwear), neither is matched by name.  A word that means two things but stands
    in both lists once is matched (ImageNet's `crane` is the machine; the bird is `crane bird`): that is for the file.

    path: a CSV with the columns `label,category` for labels that are named differently; what it says of a label goes
    before the names.  A category is a name or, where that is not one, a number; an empty one leaves the label without
    a match.  Several labels may share a category.

    Raises `UserError`, with file and line, for a label that is unknown or listed twice and for a category that is
    unknown or ambiguous; and where nothing at all matches.
    """
    numbers_of = _numbers_by_name(categories)
    stated = _read(path, classes, categories, numbers_of) if path else {}
    matches: dict[int, int | None] = {}
    for name, alike in _numbers_by_name(classes).items():
        known = numbers_of.get(name, [])
        if len(alike) == len(known) == 1:
            matches[alike[0]] = known[0]
    matches |= stated
    found = {number: category for number, category in sorted(matches.items()) if category is not None}
    if not found:
        raise UserError(
            f"None of the {len(classes)} labels ({_few(classes)}) is known by name to the pretrained classifier, whose "
            f"{len(categories)} categories are such as {_few(categories)}. Pair them in a CSV with the columns "
            f"{','.join(COLUMNS)}{f', now {path}' if path else ''}; or start the output layer from nothing."
        )
    return found


def _numbers_by_name(names: Iterable[str]) -> dict[str, list[int]]:
    """Return {comparable name: the places of the `names` that have it}."""
    numbers: dict[str, list[int]] = {}
    for number, name in enumerate(names):
        numbers.setdefault(_comparable(name), []).append(number)
    return numbers


def _comparable(name: str) -> str:
    lowered = normal(normal(name).casefold())  # twice: casefold can take composed letters apart
    return SEPARATORS.sub(" ", APOSTROPHES.sub("", WORDNET_PREFIX.sub("", lowered.strip(), count=1))).strip()


def _read(
    path: Path, classes: Sequence[str], categories: Sequence[str], numbers_of: Mapping[str, list[int]]
) -> dict[int, int | None]:
    """Return {number of the class: number of the category, or None for no match} as the CSV at `path` states."""
    table = read_csv(path)
    if list(table.columns) != COLUMNS:
        raise UserError(
            f"{path}, line 1: the columns are {', '.join(map(shown, table.columns))}; expected {','.join(COLUMNS)}."
        )
    class_of = {normal(name): number for number, name in enumerate(classes)}
    stated: dict[int, int | None] = {}
    line_of: dict[int, int] = {}
    for line, label, category in zip(table.index, table["label"], table["category"], strict=True):
        where = f"{path}, line {line}"
        if normal(label) not in class_of:
            raise UserError(
                f"{where}: {label!r} is no label of this competition.{did_you_mean(label, classes)} "
                f"It has {len(classes)}, such as {_few(classes)}."
            )
        number = class_of[normal(label)]
        if number in line_of:
            raise UserError(f"{where}: {label!r} is already on line {line_of[number]}. Remove one of the two rows.")
        line_of[number] = line
        stated[number] = _category(category, categories, numbers_of, where) if category else None
    return stated


def _category(text: str, categories: Sequence[str], numbers_of: Mapping[str, list[int]], where: str) -> int:
    numbers = numbers_of.get(_comparable(text), [])
    if len(numbers) > 1:
        meanings = " or ".join(f"{number} ({categories[number]!r})" for number in numbers)
        raise UserError(f"{where}: the category {text!r} may be {meanings}. Write the number that is meant.")
    if not numbers and re.fullmatch("[0-9]{1,9}", text) and int(text) < len(categories):
        return int(text)
    if not numbers:
        raise UserError(
            f"{where}: the pretrained classifier has no category {text!r}.{did_you_mean(text, categories)} "
            f"It has the numbers 0 to {len(categories) - 1}, with names such as {_few(categories)}."
        )
    return numbers[0]


def _few(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names[:FEW]) + (", …" if len(names) > FEW else "")


def start_rows(layer: nn.Linear, classifier: nn.Linear, matches: Mapping[int, int]) -> None:
    """Set matched rows of `layer` (weight, bias) to those of `classifier`, the others to Xavier-uniform weights
    (Glorot and Bengio 2010) and zero bias.

    matches: {row of `layer`: row of `classifier`}.  A classifier without bias counts as one of zeros.

    Raises `UserError` where the two take different numbers of features.
    """
    if layer.in_features != classifier.in_features:
        raise UserError(
            f"The output layer takes {layer.in_features} features, the pretrained classifier {classifier.in_features}: "
            "its rows fit only a head that is linear and sees the pooled features."
        )
    rows, sources = list(matches.keys()), list(matches.values())
    with torch.no_grad():
        nn.init.xavier_uniform_(layer.weight)
        layer.weight[rows] = classifier.weight[sources].to(layer.weight)
        if layer.bias is not None:
            layer.bias.zero_()
            if classifier.bias is not None:
                layer.bias[rows] = classifier.bias[sources].to(layer.bias)
