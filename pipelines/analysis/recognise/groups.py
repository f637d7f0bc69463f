"""Columns whose rows belong together, such as the images of one patient: a split must not divide them."""

import re
from collections.abc import Sequence

import pandas as pd

from pipelines.analysis.recognise.draft import Draft
from pipelines.analysis.recognise.listing import Table
from pipelines.analysis.recognise.targets import Target
from pipelines.system.errors import shown

# Names of such columns, from what shares most to what shares least.
GROUPS = tuple(
    re.compile(rf"(^|[^a-z]){word}s?([^a-z]|$)", re.IGNORECASE)
    for word in (
        *(
            "patient",
            "subject",
            "person",
            "driver",
            "user",
            "donor",
            "animal",
            "pet",
            "specimen",
            "lesion",
            "plant",
            "tree",
        ),
        *("slide", "study", "case", "plate", "well", "experiment", "batch", "field", "plot", "farm"),
        *("location", "site", "camera", "station", "cent(?:er|re)", "hospital", "city", "region"),
        *("video", "seq(?:uence)?", "session", "burst", "scene", "series", "clip", "track", "group"),
    )
)
CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
FEWEST = 5  # groups; fewer leave no choice for the validation rows
LARGEST = 0.5  # share of the rows in the largest group
DIVISIBLE = 0.8  # least share of rows whose class occurs in several groups


def set_groups(draft: Draft, labels: Table, target: Target, skip: Sequence[str]) -> None:
    """Set the column whose rows stay together, if one looks like it."""
    groups = find_groups(labels, target, skip)
    if target.boxes:  # an image has several rows, all of one group
        names = [name for name in skip if name]
        groups = [each for each in groups if names and (labels.frame.groupby(names)[each[0]].nunique() < 2).all()]
    if not groups:
        draft.found.append(("groups", "no column looks like one (patient, location, driver, …)"))
        return
    column, what = groups[0]
    others = "".join(f"; also {shown(name)} ({text})" for name, text in groups[1:])
    draft.set(
        "split.group_column",
        column,
        f"{what}{others}. Rows of one group stay on one side of the split: else the validation score is too good. "
        "Remove this line if the test images come from the same groups.",
    )
    draft.found.append(("groups", f"{shown(column)}: {what}{others}"))


def find_groups(table: Table, target: Target, skip: Sequence[str]) -> list[tuple[str, str]]:
    """Return the columns that look like groups and can divide the rows, the best first, each with what it has."""
    found: list[tuple[str, str]] = []
    for pattern in GROUPS:
        for column in table.columns:
            words = CAMEL.sub(" ", column)
            if column in skip or column in target.columns or not pattern.search(words):
                continue
            sizes = table.frame[column].value_counts()
            if any(column == other for other, _ in found) or len(sizes) < FEWEST or len(sizes) == len(table):
                continue
            if sizes.iloc[0] > LARGEST * len(table) or not _divides(table.frame, column, target):
                continue
            found.append((column, f"{len(sizes):,} values for {len(table):,} rows, up to {sizes.iloc[0]:,} each"))
    return found


def _divides(frame: pd.DataFrame, column: str, target: Target) -> bool:
    """Return whether most rows have a class that occurs in several groups; one group per class cannot be divided."""
    if target.kind != "classes" or len(target.columns) != 1:
        return True
    labels = frame[target.columns[0]]
    several = frame.groupby(labels)[column].nunique() > 1
    return bool(labels.map(several).mean() >= DIVISIBLE)
