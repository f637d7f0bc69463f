"""Tables in long form, one row per image and target: their columns, their row ids, and one row per image of them."""

import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import pandas as pd

from pipelines.dataset.raw_data import line_of
from pipelines.settings.choices import ID, TARGET
from pipelines.system.errors import UserError, few, quoted, refuse

PAIRS = (f"{ID},{TARGET}", f"{TARGET},{ID}")  # the forms with id and target in columns of their own


def answer_columns(header: Sequence[str], name: str, indexes: int, form: str) -> tuple[list[str], str | None]:
    """Return the columns of the answers in a submission, and that of the targets; None if no column has them alone.

    name: the column of the ids.  indexes: how many columns in front are indexes.
    """
    place = header.index(name)
    values = list(header[place + 1 :] or header[indexes:place])
    if form not in PAIRS:
        return values, None
    return (values[1:], values[0]) if form.startswith(ID) or not place else (values, header[place - 1])


def split_long(texts: Sequence[str], form: str, known: Sequence[str] = ()) -> tuple[list[str], list[str]]:
    """Return the image and the target of each row id of the `form`, such as {id}_{target}.

    The targets are those that are `known`, if every image then has the same ones; else others that every image has;
    else what follows the last text between image and target. A text of no such form is an image without a target.
    """
    if form in PAIRS:
        return list(texts), []
    for targets in (known, _targets_of_all(texts, form)):
        if found := _all_pairs(texts, form, targets):
            break
    else:
        matches = [_pattern(form, ".+", ".+?").fullmatch(text) for text in texts]
        found = [
            (each["id"], each["target"]) if each else (text, "") for each, text in zip(matches, texts, strict=True)
        ]
    return [image for image, _ in found], [target for _, target in found]


def _all_pairs(texts: Sequence[str], form: str, targets: Collection[str]) -> list[tuple[str, str]]:
    """Return the image and the target of each of `texts`, if these are all pairs of images and `targets`; else none."""
    longest_first = sorted(set(targets), key=lambda each: (-len(each), each))
    pattern = _pattern(form, ".+?", "|".join(map(re.escape, longest_first)))
    matches = [match for text in texts if (match := pattern.fullmatch(text))] if targets else []
    found = [(each["id"], each["target"]) for each in matches]
    images, used = (set(each) for each in zip(*found, strict=True)) if found else (set(), set())
    return found if len(found) == len(texts) and len(images) * len(used) == len(set(texts)) else []


def _pattern(form: str, image: str, target: str) -> re.Pattern[str]:
    """Return the expression of a row id, of the expressions of an image and of a target."""
    text = (
        re.escape(form).replace(re.escape(ID), f"(?P<id>{image})").replace(re.escape(TARGET), f"(?P<target>{target})")
    )
    return re.compile(text, re.DOTALL)


def _targets_of_all(texts: Sequence[str], form: str) -> list[str]:
    """Return the targets that each image has, if the row ids are all pairs of images and targets; else none."""
    before, between, after = re.split(r"\{id\}|\{target\}", form)
    first = texts[0][len(before) : len(texts[0]) - len(after)]
    id_first = form.index(ID) < form.index(TARGET)
    breaks = [each.start() for each in re.finditer(f"(?={re.escape(between)})", first)]
    for place in reversed(breaks) if id_first else breaks:  # the longest image first
        image = first[:place] if id_first else first[place + len(between) :]
        start, end = (f"{before}{image}{between}", after) if id_first else (before, f"{between}{image}{after}")
        same = [text for text in texts if text.startswith(start) and text.endswith(end)]
        targets = {text[len(start) : len(text) - len(end)] for text in same} - {""}
        if image and len({each for each, _ in _all_pairs(texts, form, targets)}) > 1:
            return sorted(targets)
    return []


def long_form_of(texts: Sequence[str], is_image: Callable[[str], bool]) -> str:
    """Return the long form of row ids that are pairs of images and targets; an empty text for other ids."""
    for between in ("_", "-", ":", "/", "|", ".", " "):
        for form in (f"{ID}{between}{TARGET}", f"{TARGET}{between}{ID}"):
            if not all(between in text for text in texts) or not _targets_of_all(texts, form):
                continue
            if all(map(is_image, set(split_long(texts, form)[0]))):
                return form
    return ""


def images_of(ids: "pd.Series[str]", form: str, known: Sequence[str]) -> "pd.Series[str]":
    """Return the id of the image of each row, whose id has the long `form`.  known: names that may be targets."""
    if not form or form in PAIRS:
        return ids
    images, _ = split_long(ids.tolist(), form, known)
    return pd.Series(images, index=ids.index, name=ids.name, dtype=str)


def widened(path: Path, table: pd.DataFrame, form: str, column: str) -> tuple[pd.DataFrame, list[str]]:
    """Return a table of one row per image with a column for each target, and the names of the targets.

    table: in the long `form`, without indexes; its ids are in `column`. A pair that has no row is an empty text. Raises
    `UserError` for a table of other columns, and for rows of one image and target with two values.
    """
    names = list(map(str, table.columns))
    place, width = names.index(column), 3 if form in PAIRS else 2
    if len(names) != width:
        raise UserError(
            f"{path}: a table in the long form {form!r} has {width} columns, but this one has {len(names)}: "
            f"{few(names, 10)}. Empty competition.long_form if it has a row per image."
        )
    target = ""
    if form in PAIRS:
        beside = place + 1 if form == PAIRS[0] else place - 1
        if beside not in range(width):
            raise UserError(f"{path}: {quoted(column)} has no column of targets beside it, as in {form!r}. Correct it.")
        target = names[beside]
        images, targets = table[column].tolist(), table[target].tolist()
    else:
        images, targets = split_long(table[column].tolist(), form, [])
    value = next(name for name in names if name not in (column, target))
    kinds = list(dict.fromkeys(targets))
    cells: dict[str, dict[str, str]] = {}
    first: dict[str, object] = {}
    other = []
    for line, image, kind, text in zip(table.index, images, targets, table[value].tolist(), strict=True):
        first.setdefault(image, line)
        if cells.setdefault(image, {}).setdefault(kind, text) != text:
            before = quoted(cells[image][kind])
            other.append(f"{line_of(line)}: {quoted(image)}, {quoted(kind)} is {quoted(text)}, before {before}")
    refuse(f"{path}: images with two values of one target", other, "Remove the wrong rows.")
    wide = {kind: [row.get(kind, "") for row in cells.values()] for kind in kinds}
    frame = pd.DataFrame({column: list(cells), **wide}, dtype=str)
    frame.index = pd.Index(list(first.values()), name="line")
    return frame, kinds
