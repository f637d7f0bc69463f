"""What other tools have found: the duplicates of `audit`, and the images that cannot be read."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from pipelines.analysis.look.facts import Json
from pipelines.analysis.look.glance import Glance
from pipelines.dataset.splits import SPLITS
from pipelines.dataset.tables import read_csv
from pipelines.settings.layout import Layout
from pipelines.system.errors import UserError, shown
from pipelines.system.files import read_note
from pipelines.system.shell import path_word

COLUMNS = ("kind", "path_1", "path_2", "conflict")  # of the pairs of `audit`, those that are read
LISTED = 20  # damaged images in the record


def audit_facts(layout: Layout, table: pd.DataFrame) -> Json | None:
    """Return how many pairs of duplicates a finished audit has found; None without one.

    They are counted for the present split, also if the audit is of an earlier one: a pair is two paths.
    """
    if not layout.audit.record.exists():
        return None
    suspects = read_note(layout.audit.record).get("suspects", {})
    pairs = _read(layout.audit.pairs, COLUMNS)
    split_of = dict(zip(table["path"], table["split"], strict=True))
    counts: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    twins: dict[str, set[str]] = {"valid": set(), "test": set()}
    conflicts = 0
    for kind, *paths, conflict in pairs[[*COLUMNS]].itertuples(index=False):
        paths = [path if path in split_of else path.removeprefix("'") for path in paths]  # see `spreadsheet_safe`
        parts = [split_of.get(path, "") for path in paths]
        if "" in parts:
            continue
        counts["-".join(sorted(parts, key=SPLITS.index))] += 1
        kinds[kind] += 1
        conflicts += conflict == "yes"
        for path, here, there in zip(paths, parts, reversed(parts), strict=True):
            if here in twins and there == "train":
                twins[here].add(path)
    found: Json = {"pairs": sum(counts.values()), "between": dict(counts), "kinds": dict(kinds), "conflicts": conflicts}
    found["with_a_twin_in_train"] = {part: len(paths) for part, paths in twins.items()}
    return found | {"suspect_labels": suspects.get("rows", 0)}


def audit_line(found: Json | None, command: str) -> str:
    """Return one line about duplicates. command: what looks for them; empty: no line says so."""
    if found is None:
        return f"Duplicates: not looked for. To look: {command}" if command else ""
    twins = ", ".join(f"{count:,} {part}" for part, count in found["with_a_twin_in_train"].items())
    line = f"Duplicates: {found['pairs']:,} pairs, {found['conflicts']:,} of them with different labels"
    return f"{line}; images with a twin in train: {twins}."


def damaged_facts(layout: Layout, parts: Mapping[str, Sequence[Glance]], table: pd.DataFrame) -> Json:
    """Return the images of the sample that cannot be read, and how many a stage that reads all images has listed."""
    bad = [(part, each) for part, glances in parts.items() for each in glances if each.problem]
    named = [
        {"split": part, "path": str(table.at[each.row, "path"]), "problem": each.problem} for part, each in bad[:LISTED]
    ]
    listed = len(_read(layout.damaged, ("path",))) if layout.damaged.exists() else None
    return {"seen": len(bad), "first": named, "listed": listed}


def damaged_line(found: Json, layout: Layout) -> str:
    """Return one line about damaged images; empty if none is known."""
    lines = []
    if found["seen"]:
        first = found["first"][0]
        such = f"such as {shown(first['path'])}: {shown(first['problem'])}"
        lines.append(f"{found['seen']:,} of those looked at cannot be read, {such}")
    if found["listed"]:
        lines.append(f"{layout.damaged.relative_to(layout.root)} lists {found['listed']:,}")
    return f"Damaged images: {'; '.join(lines)}." if lines else ""


def _read(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Return a CSV of another tool. Raises `UserError` if it lacks one of `columns`."""
    table = read_csv(path, strip=False, may_lack_rows=True)
    if missing := [name for name in columns if name not in table]:
        raise UserError(f"{path_word(path)} has no column {missing[0]!r}. Remove it, and make it again.")
    return table
