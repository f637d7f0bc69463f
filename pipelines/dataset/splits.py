"""Divide the labelled rows into train and valid, and write and read split.csv.

A split depends only on ids, labels, groups and seed: within a class, rows are ordered by a hash of seed and id. It is
the same for any order of rows or files, on any platform, with any version of any library. Images with several labels or
with numbers are divided by strata: `pipelines/dataset/strata.py`.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction
from math import floor
from pathlib import Path

import pandas as pd

from pipelines.dataset.image_paths import normal, without_extension
from pipelines.dataset.strata import EVERY, Strata, divide, strata_of
from pipelines.dataset.tables import read_csv, read_listing, write_csv
from pipelines.settings.data_sections import SplitSettings
from pipelines.settings.metrics import NUMBERS, ONE_CLASS
from pipelines.system.errors import UserError, did_you_mean, quoted, refuse

COLUMNS = ("id", "path", "label", "split", "fold")
SPLITS = ("train", "valid", "test")
NO_FOLD = -1
GROUP_COLUMNS = ("id", "group")  # of the CSV that split.group_file names
NAMED = 10  # ids with a hint in a message
MANY = 10_000  # ids; searching more of them for similar ones takes seconds


def assign(rows: pd.DataFrame, settings: SplitSettings, task: str = ONE_CLASS) -> pd.DataFrame:
    """Return the labelled `rows` (`id`, `label`, `group`) with the columns `split` and `fold`.

    `split` is `train` or `valid`; with folds, valid is fold 0. `fold` is -1 for a row that is always in train, and for
    all rows without folds. Every class or label keeps a row in train, whichever fold validates. Raises `UserError` if
    train, valid or a fold would be empty, and for settings that exclude each other.
    """
    grouped = _grouped(rows, settings)
    if settings.method == "equal-per-class" and (grouped or settings.folds):
        other = grouped or "split.folds"
        raise UserError(f"split.method 'equal-per-class' and {other} exclude each other: set split.method=stratified.")
    if settings.method == "equal-per-class" and task != ONE_CLASS:
        raise UserError(
            f"split.method 'equal-per-class' needs one class per image, but competition.task is {task}: set "
            "split.method=stratified."
        )
    if grouped:
        folds = _place_groups(rows, settings, _group_strata(rows, task))
    elif task != ONE_CLASS:
        folds = _divide(rows, settings, task)
    else:
        classes = _classes_in_hash_order(rows, settings.seed)
        folds = _deal(classes, settings.folds) if settings.folds else _cut(classes, settings)
    valid, filled = folds.count(0), set(folds)
    empty = next((fold for fold in range(settings.folds) if fold not in filled), None)  # not a set: may be a million
    if empty is not None:
        raise UserError(f"Fold {empty} of {settings.folds} would be empty with {len(rows)} rows: lower split.folds.")
    if valid in (0, len(rows)):
        raise UserError(_one_part(rows, settings, valid, grouped, task))
    names = ["train" if fold else "valid" for fold in folds]
    return rows.assign(split=names, fold=folds if settings.folds else NO_FOLD)


def _grouped(rows: pd.DataFrame, settings: SplitSettings) -> str:
    """Return the setting that the groups of `rows` come from; an empty text without groups."""
    if settings.group_column or settings.group_file:
        return "split.group_column" if settings.group_column else "split.group_file"
    return "the group of data.label_pattern" if rows["group"].any() else ""


def _one_part(rows: pd.DataFrame, settings: SplitSettings, valid: int, grouped: str, task: str) -> str:
    """Return the message that train or valid would be empty, with a change that helps."""
    problem = f"{valid} of {len(rows)} labelled rows would be valid, which leaves nothing to "
    problem += "train on" if valid else "validate on"
    if grouped:
        return f"{problem}: the groups are too few or too large to be on both sides. Empty {grouped}."
    sizes = Counter(name for names in strata_of(rows["label"].tolist(), task) for name in names)
    if task != NUMBERS and max(sizes.values()) == 1:
        what = "class" if task == ONE_CLASS else "label"
        return f"{problem}: each {what} has a single image, which stays in train. Label more images of each {what}."
    better = f"lower split.valid_ratio, now {settings.valid_ratio:g}"
    if not valid:
        better = f"raise split.valid_ratio, now {settings.valid_ratio:g}, for example to {1 / len(rows):.2g}"
    return f"{problem}: {better}."


def _hash(seed: int, text: str) -> str:
    return hashlib.sha256(f"{seed}:{normal(text)}".encode()).hexdigest()


def _classes_in_hash_order(rows: pd.DataFrame, seed: int) -> dict[str, list[int]]:
    """Return {class: positions of its rows}, classes sorted by name, positions by hash."""
    labels = rows["label"].tolist()
    classes: dict[str, list[int]] = {label: [] for label in sorted(set(labels))}
    for position in _hash_order(rows, seed):
        classes[labels[position]].append(position)
    return classes


def _hash_order(rows: pd.DataFrame, seed: int) -> list[int]:
    """Return the positions of `rows` in the order of a hash of seed and id."""
    keys = [(_hash(seed, without_extension(name)), name) for name in rows["id"].tolist()]
    return sorted(range(len(keys)), key=keys.__getitem__)


def _deal(classes: Mapping[str, Sequence[int]], folds: int) -> list[int]:
    """Return the fold of each row; all classes are dealt in turn, so that fold sizes differ by at most one."""
    result = [NO_FOLD] * sum(map(len, classes.values()))
    several = (position for positions in classes.values() if len(positions) > 1 for position in positions)
    for place, position in enumerate(several):
        result[position] = place % folds
    return result


def _cut(classes: Mapping[str, Sequence[int]], settings: SplitSettings) -> list[int]:
    """Return 0 (valid) for the first rows of each class and -1 (train) for the others."""
    sizes = {label: len(positions) for label, positions in classes.items()}
    ratio = Fraction(str(settings.valid_ratio))  # exact: the float 0.29 times 100 is 28.999999999999996
    if settings.method == "equal-per-class":  # as in d2l.ai, sections 14.13 and 14.14 (`reorg_train_valid`)
        share = max(floor(min(sizes.values()) * ratio), 1)
        counts = {label: min(share, size - 1) for label, size in sizes.items()}  # a class of one image stays in train
    else:
        counts = _proportional(sizes, ratio, settings.seed)
    result = [NO_FOLD] * sum(sizes.values())
    for label, positions in classes.items():
        for position in positions[: counts[label]]:
            result[position] = 0
    return result


def _proportional(sizes: Mapping[str, int], ratio: Fraction, seed: int) -> dict[str, int]:
    """Return the number of validation rows of each class by largest remainder; round(all rows * ratio) in total.

    The total is less only if every class is down to its last train row. Equal remainders are ordered by hash.
    """
    counts = {label: floor(size * ratio) for label, size in sizes.items()}
    left = round(sum(sizes.values()) * ratio) - sum(counts.values())
    order = sorted(sizes, key=lambda label: (counts[label] - sizes[label] * ratio, _hash(seed, label)))
    while takers := [label for label in order if counts[label] < sizes[label] - 1][:left]:
        for label in takers:
            counts[label] += 1
        left -= len(takers)
    return counts


def _divide(rows: pd.DataFrame, settings: SplitSettings, task: str) -> list[int]:
    """Return the fold of each row with several labels or with numbers, or without folds 0 (valid) or -1 (train)."""
    ratio = Fraction(str(settings.valid_ratio))
    shares = {0: ratio.numerator, NO_FOLD: ratio.denominator - ratio.numerator}
    if settings.folds:
        shares = dict.fromkeys(range(min(settings.folds, len(rows))), 1)
    return divide(strata_of(rows["label"].tolist(), task), _hash_order(rows, settings.seed), shares, NO_FOLD)


def _group_strata(rows: pd.DataFrame, task: str) -> Strata:
    """Return the strata of each row that groups are placed by; several per row keep the sizes in proportion too."""
    strata = strata_of(rows["label"].tolist(), task)
    return strata if task == ONE_CLASS else [[*names, EVERY] for names in strata]


def _place_groups(rows: pd.DataFrame, settings: SplitSettings, strata: Strata) -> list[int]:
    """Return the fold of each row, or without folds 0 (valid) or -1 (train), such that no group is divided.

    Groups are placed one by one, the largest first and equal ones by hash, each where it most lowers the squared
    distance of the strata's counts from their shares: the greedy method of scikit-learn's `StratifiedGroupKFold`, for
    shares of any size. The last group of a class goes to train (-1) if its other groups are all in one place.
    strata: of each row, its class alone or its labels.
    """
    groups: dict[str, Counter[str]] = {}
    for group, names in zip(rows["group"], strata, strict=True):
        groups.setdefault(group, Counter()).update(names)
    sizes = Counter(rows["group"])
    parts = settings.folds or 2
    if len(groups) < parts:
        key = _grouped(rows, settings)
        where = settings.group_file or (f"column {settings.group_column!r}" if settings.group_column else key)
        problem = f"{len(groups)} groups in {where} cannot fill {parts} parts"
        raise UserError(f"{problem}: lower split.folds, or empty {key}.")
    shares = {0: settings.valid_ratio, NO_FOLD: 1 - settings.valid_ratio}
    if settings.folds:
        shares = dict.fromkeys(range(settings.folds), 1 / settings.folds)
    totals = Counter(name for names in strata for name in names)
    pending = Counter(label for labels in groups.values() for label in labels)
    placed: dict[int, Counter[str]] = {home: Counter() for home in (*shares, NO_FOLD)}
    home_of: dict[str, int] = {}

    def distance(home: int, labels: Counter[str]) -> float:
        return sum(
            count * (count + 2 * (placed[home][label] - shares[home] * totals[label])) / totals[label]
            for label, count in sorted(labels.items())
        )

    def leaves_all(home: int, lasts: Sequence[str]) -> bool:
        """Whether other places have rows of each class in `lasts`."""
        return all(any(placed[other][label] for other in placed if other != home) for label in lasts)

    for group in sorted(groups, key=lambda name: (-sizes[name], _hash(settings.seed, name))):
        labels = groups[group]
        lasts = [label for label in labels if pending[label] == 1]
        allowed = [home for home in shares if home == NO_FOLD or leaves_all(home, lasts)]
        home = min(allowed, key=lambda home: distance(home, labels), default=NO_FOLD)
        placed[home].update(labels)
        pending.subtract(labels.keys())
        home_of[group] = home
    return [home_of[group] for group in rows["group"]]


def read_groups(root: Path, group_file: str, ids: Sequence[str]) -> list[str]:
    """Return the group of each of `ids` in the CSV `group_file` below `root`; an id not listed is its own group.

    Raises `UserError` for a missing file or column, and for an id that is unknown, listed twice, or without a group.
    """
    path = root / group_file
    if not path.is_file():
        raise UserError(
            f"There is no file {path}, which split.group_file names (from the working folder). Correct it. To make "
            "one: empty split.group_file, split, and run audit, which writes data/<competition>/audit/groups.csv."
        )
    table = read_listing(path, strip=False, may_lack_rows=True)  # without rows, each id is its own group
    if missing := [name for name in GROUP_COLUMNS if name not in table]:
        needed = f"It needs the columns {','.join(GROUP_COLUMNS)}; it has: {', '.join(table.columns)}."
        raise UserError(f"{path} (split.group_file) has no column {missing[0]!r}. {needed}")
    known = set(ids)
    groups: dict[str, str] = {}
    unknown: list[str] = []
    twice: list[str] = []
    empty: list[str] = []
    for line, name, group in zip(table.index.tolist(), table["id"].tolist(), table["group"].tolist(), strict=True):
        place = f"line {line}: {quoted(name)}"
        if name not in known:
            hint = did_you_mean(name, known) if len(known) < MANY and len(unknown) < NAMED else ""
            unknown.append(f"{place}.{hint}" if hint else place)
        elif name in groups:
            twice.append(place)
        elif not group:
            empty.append(place)
        groups[name] = f"group {group}"
    where = f"{path} (split.group_file)"
    remedy = (
        "Ids are those in data.labels, or paths below data.train_images. Correct or remove these rows. Or make the "
        "file again: empty split.group_file, split, and run audit."
    )
    refuse(f"{where}: ids that are not the id of a labelled row", unknown, remedy)
    refuse(f"{where}: ids that are listed twice", twice, "Remove one of the two rows of each.")
    refuse(f"{where}: ids without a group", empty, "Add their groups, or remove these rows.")
    return [groups.get(name) or f"id {without_extension(name)}" for name in ids]


def with_test(labelled: pd.DataFrame, test: pd.DataFrame) -> pd.DataFrame:
    """Return the whole split, `COLUMNS`: the rows of `assign`, then the `test` rows (`id`, `path`) without labels."""
    return pd.concat([labelled, test.assign(label="", split="test", fold=NO_FOLD)], ignore_index=True)[[*COLUMNS]]


def write_split_csv(path: Path, rows: pd.DataFrame) -> None:
    """Write the whole split atomically; `read_split_csv` returns the same values."""
    write_csv(path, rows[[*COLUMNS]])


def read_split_csv(path: Path, split_command: str = "make split") -> pd.DataFrame:
    """Return the split as it was written: `id`, `path`, `label`, `split` as text, `fold` as integers.

    Test rows have an empty label and fold -1. Raises `UserError`, with `split_command`, if the file is no split.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing. First: {split_command}")
    rows = read_csv(path, strip=False)
    well_formed = tuple(rows.columns) == COLUMNS and set(rows["split"].unique()) <= set(SPLITS)
    if not well_formed or not rows["fold"].str.fullmatch("-?[0-9]{1,9}").all():
        raise UserError(f"{path} is not a split. Remove it and run `{split_command}`.")
    return rows.reset_index(drop=True).astype({"fold": int})
