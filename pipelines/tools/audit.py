"""Look for what makes scores lie: the same image on both sides of the split, and labels that are probably wrong.

Reads   data/<c>/split.csv and its images; runs/<c>/*/valid_predictions.csv of finished runs, where there are any.
Writes  data/<c>/audit/pairs.csv and pairs.png: duplicates, by bytes, by pixels, near ones and mirror images,
        data/<c>/audit/groups.csv: the labelled rows that belong together, for the setting split.group_file; or
        groups-new.csv, where the split was made by that file and they are others now,
        data/<c>/audit/suspects.csv and suspects.png: rows whose prediction most confidently contradicts their label,
        data/<c>/audit/audit.json: what was found, in numbers; it is written last.

Nothing is changed or removed.  [audit] says what a near duplicate is.
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pipelines import command
from pipelines.settings.loading import to_dict

if TYPE_CHECKING:
    import pandas as pd

    from pipelines.dataset.images import Pixels
    from pipelines.settings.layout import Layout
    from pipelines.settings.schema import Settings

PAIRS_SHOWN = 60
SUSPECTS_SHOWN = 48
PICTURE_SIZE = 96  # pixels to a side, in a contact sheet
HEADINGS = {"train-train": "within train", "valid-valid": "within valid", "test-test": "within test"}


def main(arguments: Sequence[str] | None = None) -> None:
    words = command.parser(__doc__, "tools.audit").parse_args(arguments, namespace=command.Words())
    settings, layout = words.settings(), words.layout()
    from pipelines.dataset.splits import read_split_csv
    from pipelines.system.files import file_sha256, write_json

    table = read_split_csv(layout.split_csv, words.repeat("split"))
    layout.audit.record.unlink(missing_ok=True)  # the mark that all is done: it must not vouch for what comes now
    found = _audit_pairs(words, settings, layout, table)
    found["suspects"] = _audit_labels(words, settings, layout, table)
    record = {"audit": to_dict(settings)["audit"], "split_csv_sha256": file_sha256(layout.split_csv)}
    write_json(layout.audit.record, record | found)


def _audit_pairs(words: command.Words, settings: "Settings", layout: "Layout", table: "pd.DataFrame") -> dict[str, Any]:
    """Find duplicates, write and print them; return their numbers."""
    from pipelines.analysis import duplicates
    from pipelines.dataset.tables import write_csv
    from pipelines.models.device import choose_hardware

    hardware = choose_hardware(settings.hardware)
    pixels, marks = duplicates.small_copies(table, layout, settings.hardware.cache_by, command.progress)
    how = settings.audit.distance, settings.audit.correlation
    pairs, left_out = duplicates.find_pairs(table, layout.raw, pixels, marks, *how, hardware, command.progress)
    groups = duplicates.groups_of(pairs, table)
    write_csv(layout.audit.pairs, duplicates.listing(pairs, table))
    _draw_pairs(settings, layout, table, pairs)

    counts = {
        kind: {name: int(((pairs["kind"] == kind) & (pairs["between"] == name)).sum()) for name in duplicates.BETWEEN}
        | {"conflicts": int((pairs["conflict"] & (pairs["kind"] == kind)).sum())}
        for kind in duplicates.KINDS
    }
    names = [*duplicates.BETWEEN, "conflicts"]
    rows = [(kind, *(f"{numbers[name]:,}" for name in names)) for kind, numbers in counts.items()]
    rows.append(("all", *(f"{sum(numbers[name] for numbers in counts.values()):,}" for name in names)))
    print(command.table(("pairs of duplicates", *(HEADINGS.get(name, name) for name in names)), rows))
    twins = duplicates.with_twin_in_train(pairs, table)
    shares = {}
    for part in ("valid", "test"):
        of_part = (table["split"] == part).to_numpy()
        shares[part] = {"images": int(of_part.sum()), "with a twin in train": int(twins[of_part].sum())}
        if of_part.any():
            print(
                f"{part.capitalize()} images with a twin in train: {twins[of_part].sum():,} of {of_part.sum():,} "
                f"({twins[of_part].mean():.2%})."
            )
    if left_out:
        print(
            f"Near pairs of images of less than {duplicates.SIDE} pixels: {left_out:,}. They are left out, since in so "
            "few pixels the same cannot be told from the alike."
        )
    shown = [path.relative_to(layout.root) for path in (layout.audit.pairs, layout.audit.pairs_picture)]
    print(f"Pairs: {shown[0]}, {shown[1]}")
    _write_groups(words, settings, layout, groups)
    return {
        "pairs": counts,
        "left out, as too small": left_out,
        "twins": shares,
        "groups": {"groups": groups["group"].nunique(), "rows": len(groups)},
        "compared_in": str(hardware.dtype).removeprefix("torch."),
    }


def _write_groups(words: command.Words, settings: "Settings", layout: "Layout", groups: "pd.DataFrame") -> None:
    """Write `groups`, but never over those that the split was made by; say what can be done with them."""
    from pipelines.dataset.tables import table_text, write_csv
    from pipelines.settings.records import is_split_by_audit, split_removal

    here, aside = layout.audit.groups, layout.audit.other_groups
    used = is_split_by_audit(layout)
    aside.unlink(missing_ok=True)
    if used and here.read_bytes() == table_text(groups).encode():
        print("The split keeps each group of images that belong together on one side (split.group_file).")
        return
    if groups.empty:
        print("No labelled rows belong together.")
        if not used:
            here.unlink(missing_ok=True)
        return
    path = aside if used else here
    write_csv(path, groups)
    names = [str(each.relative_to(layout.root)) for each in (path, here)]
    print(f"Groups: {names[0]}, {groups['group'].nunique():,} of {len(groups):,} labelled rows in all.")
    if settings.split.group_column:
        print("The split goes by split.group_column, which excludes split.group_file: put both into one file first.")
        return
    changes = [f"split.group_file={names[1]}"]
    changes += ["split.method=stratified"] if settings.split.method != "stratified" else []
    with_groups = command.Words(**vars(words) | {"set": [*words.set, *changes]})
    if used:
        print(f"The split was made by others, {names[1]}, which stay as long as it does.")
    print("To keep each group on one side, split anew (scores of runs on the old split then no longer compare):")
    print(f"  {split_removal(layout)}")
    if used:
        print(f"  mv {names[0]} {names[1]}")
    print(f"  {with_groups.repeat('split')}")


def _audit_labels(
    words: command.Words, settings: "Settings", layout: "Layout", table: "pd.DataFrame"
) -> dict[str, Any]:
    """List the rows whose prediction confidently contradicts their label, as far as runs say; return their numbers."""
    from pipelines.analysis import plots, suspects
    from pipelines.dataset.tables import write_csv

    runs, others = suspects.runs_on(layout)
    names = [run.folder.name for run in runs]
    if others:
        print(f"Runs of other splits, which are left out: {', '.join(run.folder.name for run in others)}.")
    if not runs:
        for stale in (layout.audit.suspects, layout.audit.suspects_picture):
            stale.unlink(missing_ok=True)
        print(f"Wrong labels: no run on this split has predicted yet. First: {words.repeat('train retrain predict')}")
        return {"runs": names, "covered": 0, "rows": 0}
    found, covered = suspects.find_suspects(runs, table)
    write_csv(layout.audit.suspects, suspects.listing(found, table))
    mistakes = []
    shown_first = found.head(SUSPECTS_SHOWN)
    for (predicted, probability, *_), row in zip(
        shown_first.to_numpy().tolist(), table.loc[shown_first.index].itertuples(), strict=True
    ):
        mistakes.append(plots.Mistake(str(row.id), _picture(layout, row), str(row.label), predicted, probability))
    labelled = int((table["split"] != "test").sum())
    title = f"{settings.name}: {len(found):,} of {covered:,} labels confidently contradicted"
    plots.draw_mistakes(layout.audit.suspects_picture, mistakes, title)
    shown = [path.relative_to(layout.root) for path in (layout.audit.suspects, layout.audit.suspects_picture)]
    print(f"Labels that predictions confidently contradict: {len(found):,} of {covered:,} rows. {shown[0]}, {shown[1]}")
    if covered < labelled:
        how = (
            f"train and predict with the other folds too (train.fold=0 to {settings.split.folds - 1})"
            if settings.split.folds
            else "split with split.folds=5, then train and predict with train.fold=0 to 4"
        )
        print(f"Of {labelled:,} labelled rows {labelled - covered:,} were never held out. To cover them, {how}.")
    return {"runs": names, "covered": covered, "rows": len(found)}


def _draw_pairs(settings: "Settings", layout: "Layout", table: "pd.DataFrame", pairs: "pd.DataFrame") -> None:
    """Draw the most telling pairs: those with conflicting labels, then those across the split, the nearest first."""
    from pipelines.analysis import duplicates, plots

    chosen = duplicates.most_telling(pairs, PAIRS_SHOWN)
    twins = []
    for kind, distance, first, second, between, _ in chosen.to_numpy().tolist():
        rows: list[Any] = list(table.iloc[[first, second]].itertuples())
        labels = dict.fromkeys(row.label or "not known" for row in rows)
        what = f"{kind} {distance}" if kind in ("near", "mirrored") else kind
        one, two = (_picture(layout, row) for row in rows)
        twins.append(plots.Twins(one, two, (f"{between}, {what}", *labels)))
    title = f"{settings.name}: {len(chosen):,} of {len(pairs):,} pairs of duplicates"
    plots.draw_twins(layout.audit.pairs_picture, twins, title)


def _picture(layout: "Layout", row: Any) -> "Pixels":
    from pipelines.dataset import images

    photo = images.open_image(layout.raw / str(row.path), images.place_of(row))
    size = min(PICTURE_SIZE, *photo.size)
    pixels = images.fit(photo, size, size)
    factor = max(1, PICTURE_SIZE // size)
    return pixels.repeat(factor, axis=0).repeat(factor, axis=1)


if __name__ == "__main__":
    sys.exit(command.run(main))
