"""Match the competition's labels with a pretrained classifier's categories, and copy the matched output rows."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from pipelines.dataset.image_paths import normal
from pipelines.dataset.tables import read_csv
from pipelines.system.errors import UserError, did_you_mean, few, shown

COLUMNS = ["label", "category"]
WORDNET_PREFIX = re.compile(r"n\d{8}[-_. ]+(?=\S)")  # n02085620-Chihuahua: ImageNet's number before the name
PROBLEMS_SHOWN = 5  # lines of the CSV in one message
APOSTROPHES = re.compile("['’ʼ`]")
SEPARATORS = re.compile(r"[\s_.-]+")


def match_labels(classes: Sequence[str], categories: Sequence[str], path: Path | None = None) -> dict[int, int]:
    """Return {index of the class: index of the category} for the classes that the pretrained classifier knows.

    classes, categories: in the order of the two output layers.  Names match regardless of case, apostrophes, a prefix
    such as `n02085620-`, and of `_`, `-`, `.` or spaces between words.  A name that then occurs twice on either side is
    not matched: ImageNet's 264, `Cardigan`, is a dog, and its 474, `cardigan`, is knitwear.  A name that occurs once in
    both lists is matched even if its meanings differ (ImageNet's `crane` is the machine): correct these in the file.

    path: a CSV with the columns `label,category`, which overrides the match by name.  A category is a name or, if no
    category has that name, an index; if empty, the label has no match.  Several labels may share a category.

    Raises `UserError`, with file and line, for a label that is unknown or listed twice and for a category that is
    unknown or ambiguous; and if nothing matches.
    """
    numbers_of = _numbers_by_name(categories)
    matches: dict[int, int | None] = {}
    for name, alike in _numbers_by_name(classes).items():
        known = numbers_of.get(name, [])
        if len(alike) == len(known) == 1:
            matches[alike[0]] = known[0]
    matches |= _read(path, classes, categories) if path else {}
    found = {number: category for number, category in sorted(matches.items()) if category is not None}
    if not found:
        raise UserError(
            f"None of the {len(classes)} labels ({few(classes)}) is a category of the pretrained classifier. It has "
            f"{len(categories)} categories: {few(categories)}. Pair them in a CSV with the columns {','.join(COLUMNS)}"
            f"{f', now {path}' if path else ''}, and give its path in model.label_map; or leave that empty."
        )
    return found


def _numbers_by_name(names: Iterable[str]) -> dict[str, list[int]]:
    """Return {comparable name: its indices in `names`}."""
    numbers: dict[str, list[int]] = {}
    for number, name in enumerate(names):
        numbers.setdefault(_comparable(name), []).append(number)
    return numbers


def _comparable(name: str) -> str:
    lowered = normal(normal(name).casefold())  # again, because casefold can decompose letters
    return SEPARATORS.sub(" ", APOSTROPHES.sub("", WORDNET_PREFIX.sub("", lowered.strip(), count=1))).strip()


def _read(path: Path, classes: Sequence[str], categories: Sequence[str]) -> dict[int, int | None]:
    """Return {index of the class: index of the category, or None for no match} from the CSV at `path`."""
    table = read_csv(path)
    if list(table.columns) != COLUMNS:
        columns = ", ".join(map(shown, table.columns))
        raise UserError(f"{path}, line 1: the columns are {columns}; expected {','.join(COLUMNS)}.")
    class_of = {normal(name): number for number, name in enumerate(classes)}
    numbers_of = _numbers_by_name(categories)
    stated: dict[int, int | None] = {}
    line_of: dict[int, int] = {}
    problems: list[str] = []
    hints: dict[str, None] = {}  # each once, in order
    for line, label, category in zip(table.index, table["label"], table["category"], strict=True):
        number = class_of.get(normal(label))
        if number is None:
            problems.append(f"line {line}: {label!r} is not a label of this competition.{did_you_mean(label, classes)}")
            hints[f"It has {len(classes)}: {few(classes)}."] = None
        elif number in line_of:
            problems.append(f"line {line}: {label!r} is already on line {line_of[number]}. Remove one of the two rows.")
        else:
            line_of[number] = line
            stated[number], problem = _category(category, categories, numbers_of)
            if problem:
                problems.append(f"line {line}: {problem}")
                hints[f"It has the numbers 0 to {len(categories) - 1}, named {few(categories)}."] = None
    if problems:
        first, more = problems[:PROBLEMS_SHOWN], len(problems) - PROBLEMS_SHOWN
        rest = [f"And {more:,} more lines."] if more > 0 else []
        raise UserError(f"{path}, {' '.join([*first, *rest, *hints])}")
    return stated


def _category(text: str, categories: Sequence[str], numbers_of: Mapping[str, list[int]]) -> tuple[int | None, str]:
    """Return the index of the category `text`, None if `text` is empty; and what is wrong with it, else ''."""
    numbers = numbers_of.get(_comparable(text), []) if text else []
    if len(numbers) > 1:
        meanings = " or ".join(f"{number} ({categories[number]!r})" for number in numbers)
        return None, f"the category {text!r} may be {meanings}. Write the number instead."
    if numbers or not text:
        return (numbers[0] if numbers else None), ""
    if re.fullmatch("[0-9]{1,9}", text) and int(text) < len(categories):
        return int(text), ""
    return None, f"the pretrained classifier has no category {text!r}.{did_you_mean(text, categories)}"


def start_rows(layer: nn.Linear, classifier: nn.Linear, matches: Mapping[int, int]) -> None:
    """Copy matched rows (weight and bias) of `classifier` into `layer`, and initialise the others.

    matches: {row of `layer`: row of `classifier`}.  The other rows get Xavier-uniform weights (Glorot and Bengio 2010)
    and zero bias.  A classifier without bias counts as one of zeros.  Raises `UserError` if the numbers of input
    features differ.
    """
    if layer.in_features != classifier.in_features:
        raise UserError(
            f"The output layer takes {layer.in_features} features, the pretrained classifier {classifier.in_features}. "
            "model.label_map needs a linear head on pooled features: model.hidden must be empty, model.features pooled."
        )
    rows, sources = list(matches.keys()), list(matches.values())
    with torch.no_grad():
        nn.init.xavier_uniform_(layer.weight)
        layer.weight[rows] = classifier.weight[sources].to(layer.weight)
        if layer.bias is not None:
            layer.bias.zero_()
            if classifier.bias is not None:
                layer.bias[rows] = classifier.bias[sources].to(layer.bias)
