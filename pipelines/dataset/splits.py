"""Dividing the labelled rows into train and valid, and the CSV that records it.

A split depends on ids, labels and seed alone: within a class, rows are ordered by a hash of seed and id.  So it is the
same for any order of rows or files, on any platform, with any version of any library.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction
from math import floor
from pathlib import Path

import pandas as pd

from pipelines.dataset.tables import normal, read_csv, without_extension, write_csv
from pipelines.settings.schema import SplitSettings
from pipelines.system.errors import UserError, did_you_mean, quoted

COLUMNS = ("id", "path", "label", "split", "fold")
SPLITS = ("train", "valid", "test")
NO_FOLD = -1
GROUP_COLUMNS = ("id", "group")  # of the CSV that split.group_file names
MANY = 10_000  # ids, among which looking for near ones takes seconds


def assign(rows: pd.DataFrame, settings: SplitSettings) -> pd.DataFrame:
    """Return labelled `rows` (`id`, `label`, `group`) with two more columns.

    `split` is `train` or `valid`; `fold` is 0 to `settings.folds` - 1, or -1 for a row that always trains and for all
    rows when there are no folds.  With folds, valid is fold 0.  Every class keeps a row in train, whichever fold
    validates.

    Raises `UserError` when train, valid or a fold would be empty, and for settings that exclude one another.
    """
    grouped = "group_column" if settings.group_column else "group_file" if settings.group_file else ""
    if settings.method == "equal-per-class" and (grouped or settings.folds):
        other = f"split.{grouped or 'folds'}"
        raise UserError(f"split.method 'equal-per-class' and {other} exclude each other: set split.method=stratified.")
    if grouped:
        homes = _place_groups(rows, settings)
    else:
        classes = _classes_in_hash_order(rows, settings.seed)
        homes = _deal(classes, settings.folds) if settings.folds else _cut(classes, settings)
    valid = homes.count(0)
    filled = set(homes)
    empty = next((fold for fold in range(settings.folds) if fold not in filled), None)  # folds may be a million
    if empty is not None:
        raise UserError(f"Fold {empty} of {settings.folds} would be empty with {len(rows)} rows: lower split.folds.")
    if valid in (0, len(rows)):
        raise UserError(
            f"Of {len(rows)} labelled rows {valid} would be valid, which leaves nothing to "
            f"{'train on' if valid else 'validate on'}: change split.valid_ratio, now {settings.valid_ratio:g}."
        )
    return rows.assign(
        split=["train" if home else "valid" for home in homes], fold=homes if settings.folds else NO_FOLD
    )


def single_image_classes(rows: pd.DataFrame) -> list[str]:
    """Return the classes of which there is one labelled image; it stays in train, so they are never validated."""
    counts = Counter(rows["label"].tolist())
    return sorted(label for label, count in counts.items() if count == 1)


def _hash(seed: int, text: str) -> str:
    return hashlib.sha256(f"{seed}:{normal(text)}".encode()).hexdigest()


def _classes_in_hash_order(rows: pd.DataFrame, seed: int) -> dict[str, list[int]]:
    """Return {class: positions of its rows}, classes sorted by name, positions by hash."""
    keys = [(_hash(seed, without_extension(name)), name) for name in rows["id"].tolist()]
    labels = rows["label"].tolist()
    classes: dict[str, list[int]] = {label: [] for label in sorted(set(labels))}
    for position in sorted(range(len(keys)), key=keys.__getitem__):
        classes[labels[position]].append(position)
    return classes


def _deal(classes: Mapping[str, Sequence[int]], folds: int) -> list[int]:
    """Deal each class round the folds, going on where the last one stopped: fold sizes differ by at most one."""
    homes = [NO_FOLD] * sum(map(len, classes.values()))
    dealt = 0
    for positions in classes.values():
        if len(positions) > 1:
            for position in positions:
                homes[position] = dealt % folds
                dealt += 1
    return homes


def _cut(classes: Mapping[str, Sequence[int]], settings: SplitSettings) -> list[int]:
    """Take the first rows of each class to valid (0); the others are train (-1)."""
    sizes = {label: len(positions) for label, positions in classes.items()}
    ratio = Fraction(str(settings.valid_ratio))  # as written: the float 0.29 times 100 is 28.999999999999996
    counts = (_equal if settings.method == "equal-per-class" else _proportional)(sizes, ratio, settings.seed)
    homes = [NO_FOLD] * sum(sizes.values())
    for label, positions in classes.items():
        for position in positions[: counts[label]]:
            homes[position] = 0
    return homes


def _equal(sizes: Mapping[str, int], ratio: Fraction, seed: int) -> dict[str, int]:
    """Valid rows of each class by the textbook's rule: the same number from each, by the rarest class of n rows.

    That is max(floor(n * ratio), 1), as in d2l.ai, sections 14.13 and 14.14 (`reorg_train_valid`); but a class of one
    image keeps it in train.
    """
    share = max(floor(min(sizes.values()) * ratio), 1)
    return {label: min(share, size - 1) for label, size in sizes.items()}


def _proportional(sizes: Mapping[str, int], ratio: Fraction, seed: int) -> dict[str, int]:
    """Valid rows of each class by largest remainder (Hamilton's method): round(all rows * ratio) in total.

    The total is less only where every class is down to its last train row.  Equal remainders are ordered by hash.
    """
    counts = {label: floor(size * ratio) for label, size in sizes.items()}
    left = round(sum(sizes.values()) * ratio) - sum(counts.values())
    order = sorted(sizes, key=lambda label: (counts[label] - sizes[label] * ratio, _hash(seed, label)))
    while takers := [label for label in order if counts[label] < sizes[label] - 1][:left]:
        for label in takers:
            counts[label] += 1
        left -= len(takers)
    return counts


def _place_groups(rows: pd.DataFrame, settings: SplitSettings) -> list[int]:
    """Return the home of each row such that groups stay whole: its fold, or without folds 0 (valid) or -1 (train).

    Groups are placed one by one, the largest first and equal ones by hash, each where it most lowers the squared
    distance of the class counts from their shares: the greedy idea of scikit-learn's `StratifiedGroupKFold`, for
    shares of any size.  No home but train (-1) takes a class's last group when all others of the class are there too.
    """
    groups: dict[str, Counter[str]] = {}
    for group, label in zip(rows["group"], rows["label"], strict=True):
        groups.setdefault(group, Counter())[label] += 1
    if len(groups) < (settings.folds or 2):
        where, key = f"column {settings.group_column!r}", "group_column"
        if settings.group_file:
            where, key = settings.group_file, "group_file"
        raise UserError(
            f"{len(groups)} groups in {where} cannot fill {settings.folds or 2} parts: "
            f"lower split.folds, or empty split.{key}."
        )
    shares = {0: settings.valid_ratio, NO_FOLD: 1 - settings.valid_ratio}
    if settings.folds:
        shares = dict.fromkeys(range(settings.folds), 1 / settings.folds)
    totals = Counter(rows["label"])
    pending = Counter(label for labels in groups.values() for label in labels)
    placed: dict[int, Counter[str]] = {home: Counter() for home in (*shares, NO_FOLD)}
    home_of: dict[str, int] = {}

    def distance(home: int, labels: Counter[str]) -> float:
        return sum(
            count * (count + 2 * (placed[home][label] - shares[home] * totals[label])) / totals[label]
            for label, count in sorted(labels.items())
        )

    for group in sorted(groups, key=lambda name: (-groups[name].total(), _hash(settings.seed, name))):
        labels = groups[group]
        lasts = [label for label in labels if pending[label] == 1]
        open_homes = [
            home
            for home in shares
            if home == NO_FOLD or all(any(placed[other][label] for other in placed if other != home) for label in lasts)
        ]
        home = min(open_homes, key=lambda home: distance(home, labels), default=NO_FOLD)
        placed[home].update(labels)
        pending.subtract(labels.keys())
        home_of[group] = home
    return [home_of[group] for group in rows["group"]]


def read_groups(root: Path, group_file: str, ids: Sequence[str]) -> list[str]:
    """Return the group of each of `ids`, as the CSV `group_file` below `root` says; an id that is not listed is a group
    of its own.

    Raises `UserError` where the CSV is missing or has no columns id and group, and for an id that is unknown or listed
    twice or without a group.
    """
    path = root / group_file
    if not path.is_file():
        raise UserError(
            f"There is no file {path}, which split.group_file names, from the working folder. `make audit` writes one: "
            "data/<competition>/audit/groups.csv, once there is a split, where rows belong together."
        )
    table = read_csv(path, strip=False, may_lack_rows=True)  # without them every row is a group of its own
    if missing := [name for name in GROUP_COLUMNS if name not in table]:
        raise UserError(
            f"{path} (split.group_file) has no column {missing[0]!r}. It takes the columns {','.join(GROUP_COLUMNS)}; "
            f"it has: {', '.join(table.columns)}."
        )
    known = set(ids)
    groups: dict[str, str] = {}
    for line, name, group in zip(table.index.tolist(), table["id"].tolist(), table["group"].tolist(), strict=True):
        where = f"{path} (split.group_file), line {line}: the id {quoted(name)}"
        if name not in known:
            raise UserError(
                f"{where} is not the id of a labelled row.{did_you_mean(name, known) if len(known) < MANY else ''} "
                "Ids are written as in data.labels, or as paths below data.train_images. Mend or remove this row, or "
                "make the file anew: make audit."
            )
        if name in groups:
            raise UserError(f"{where} is listed twice. Remove one of the two rows; an id is in one group.")
        if not group:
            raise UserError(f"{where} has no group. Name its group, or remove this row.")
        groups[name] = f"group {group}"
    return [groups.get(name) or f"id {without_extension(name)}" for name in ids]


def with_test(labelled: pd.DataFrame, test: pd.DataFrame) -> pd.DataFrame:
    """Return the whole split, `COLUMNS`: what `assign` made, then the `test` rows (`id`, `path`), their label empty."""
    return pd.concat([labelled, test.assign(label="", split="test", fold=NO_FOLD)], ignore_index=True)[[*COLUMNS]]


def write_split_csv(path: Path, rows: pd.DataFrame) -> None:
    """Write the whole split, `COLUMNS`, atomically; `read_split_csv` returns the same values."""
    write_csv(path, rows[[*COLUMNS]])


def read_split_csv(path: Path, split_command: str = "make split") -> pd.DataFrame:
    """Return the split in the order it was written: `id`, `path`, `label`, `split` as text, `fold` as integers.

    Test rows have an empty label and fold -1.  Raises `UserError` when the file is missing, saying that
    `split_command` makes it, or is not a split.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing. First: {split_command}")
    rows = read_csv(path, strip=False)
    well_formed = tuple(rows.columns) == COLUMNS and set(rows["split"].unique()) <= set(SPLITS)
    if not well_formed or not rows["fold"].str.fullmatch("-?[0-9]{1,9}").all():
        raise UserError(f"{path} is not a split: remove it and type `{split_command}`.")
    return rows.reset_index(drop=True).astype({"fold": int})
