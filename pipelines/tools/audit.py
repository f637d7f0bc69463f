"""Find data problems that make scores misleading: duplicates across the split, and labels that are probably wrong.

Reads   data/<c>/split.csv and its images; runs/<c>/*/valid_predictions.csv of finished runs.
Writes  data/<c>/audit/pairs.csv and pairs.png: duplicates by bytes, by pixels, near ones and mirror images,
        data/<c>/audit/groups.csv: labelled rows that belong together, for the setting split.group_file; or
        groups-new.csv, where the split was made with groups.csv and the groups have changed,
        data/<c>/audit/suspects.csv and suspects.png: rows whose predictions most confidently contradict their target,
        data/<c>/audit/audit.json: the findings in numbers; it is written last.

No data are changed or removed.  The settings in [audit] define a near duplicate.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pipelines import command
from pipelines.dataset.split_record import check_unchanged, is_split_by_audit, split_removal
from pipelines.settings.layout import Layout, split_sha256
from pipelines.settings.loading import to_dict
from pipelines.settings.metrics import BOXES, NUMBERS, ONE_CLASS, SEVERAL_LABELS
from pipelines.settings.overrides import setting
from pipelines.settings.schema import Settings
from pipelines.system.files import write_json
from pipelines.system.shell import path_word

if TYPE_CHECKING:
    import pandas as pd

    from pipelines.dataset.channels import Pixels
    from pipelines.dataset.image_set import ImageSet
    from pipelines.settings.layout import RunLayout

PAIRS_SHOWN = 60
SUSPECTS_SHOWN = 48
PICTURE_SIZE = 96  # height and width in pixels of an image in a picture
HEADINGS = {"train-train": "within train", "valid-valid": "within valid", "test-test": "within test"}


def main(arguments: Sequence[str] | None = None) -> None:
    words = command.parser(__doc__, "tools.audit").parse_args(arguments, namespace=command.Words())
    settings, layout = words.settings(), words.layout()
    from pipelines.dataset.image_set import all_images
    from pipelines.dataset.splits import read_split_csv

    table = read_split_csv(layout.split_csv, words.repeat("split"))
    words.require_raw(layout)
    if note := check_unchanged(layout, settings, words.repeat("split")):
        print(note)
    images = all_images(settings, layout, table, words.repeat("split"))
    layout.audit.record.unlink(missing_ok=True)  # written last: it must not describe an unfinished audit
    found = _audit_pairs(words, settings, layout, images)
    found["suspects"] = _audit_labels(words, settings, layout, images)
    record = {"audit": to_dict(settings)["audit"], "split_csv_sha256": split_sha256(layout.split_csv)}
    write_json(layout.audit.record, record | found)


def _audit_pairs(words: command.Words, settings: Settings, layout: Layout, images: "ImageSet") -> dict[str, Any]:
    """Find duplicates, write and print them; return their numbers."""
    from pipelines.analysis import duplicates, plots
    from pipelines.dataset.tables import write_csv
    from pipelines.models.device import choose_hardware

    hardware, table = choose_hardware(settings.hardware), images.table
    pixels, marks = duplicates.small_copies(images, settings.hardware.cache_by, command.progress)
    pairs, left_out = duplicates.find_pairs(images, pixels, marks, settings.audit, hardware, command.progress)
    groups = duplicates.groups_of(pairs, table)
    write_csv(layout.audit.pairs, duplicates.listing(pairs, table))
    twins = []
    for kind, distance, first, second, between, _ in duplicates.most_telling(pairs, PAIRS_SHOWN).to_numpy().tolist():
        rows: list[Any] = list(table.iloc[[first, second]].itertuples())
        what = f"{between}, {kind} {distance}" if kind in ("near", "mirrored") else f"{between}, {kind}"
        labels = dict.fromkeys("unknown" if row.split == "test" else row.label or "no label" for row in rows)
        twins.append((_picture(images, rows[0]), _picture(images, rows[1]), (what, *labels)))
    title = f"{settings.name}: {len(twins):,} of {len(pairs):,} pairs of duplicates"
    plots.draw_twins(layout.audit.pairs_picture, twins, title)
    numbers: dict[str, Any] = {"pairs": _print_counts(pairs), "left out, as too small": left_out, "twins": {}}
    hidden = duplicates.with_twin_in_train(pairs, table)
    for part in ("valid", "test"):
        has_twin = hidden[(table["split"] == part).to_numpy()]
        count, among = len(has_twin), int(has_twin.sum())
        numbers["twins"][part] = {"images": count, "with a twin in train": among}
        if count:
            print(f"{part.capitalize()} images with a twin in train: {among:,} of {count:,} ({among / count:.2%}).")
    if left_out:
        print(
            f"Images of less than {duplicates.SIDE} pixels that resemble others: {left_out:,}. Only equal ones are "
            "listed: with so few pixels, nearly the same and similar pictures cannot be told apart."
        )
    shown = [path.relative_to(layout.root) for path in (layout.audit.pairs, layout.audit.pairs_picture)]
    print(f"Pairs: {shown[0]}, {shown[1]}")
    _write_groups(words, settings, layout, groups)
    numbers["groups"] = {"groups": groups["group"].nunique(), "rows": len(groups)}
    return numbers | {"compared_in": str(hardware.dtype).removeprefix("torch.")}


def _print_counts(pairs: "pd.DataFrame") -> dict[str, dict[str, int]]:
    """Print how many pairs of each kind there are within and between the parts of the split; return the numbers."""
    from pipelines.analysis.duplicates import BETWEEN, KINDS

    counts = {}
    for kind in KINDS:
        of_kind = pairs[pairs["kind"] == kind]
        counts[kind] = {name: int((of_kind["between"] == name).sum()) for name in BETWEEN}
        counts[kind]["conflicts"] = int(of_kind["conflict"].sum())
    names = [*BETWEEN, "conflicts"]
    total = {name: sum(numbers[name] for numbers in counts.values()) for name in names}
    rows = [(kind, *(f"{numbers[name]:,}" for name in names)) for kind, numbers in (counts | {"all": total}).items()]
    print(command.table(("pairs of duplicates", *(HEADINGS.get(name, name) for name in names)), rows))
    return counts


def _write_groups(words: command.Words, settings: Settings, layout: Layout, groups: "pd.DataFrame") -> None:
    """Write `groups`, but never over the file that the split was made with; print how to use them."""
    from pipelines.dataset.tables import table_text, write_csv

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
    new, old = (each.relative_to(layout.root) for each in (path, here))
    print(f"Groups: {new}, {groups['group'].nunique():,} of {len(groups):,} labelled rows in all.")
    if settings.split.group_column:
        print("The split uses split.group_column, which excludes split.group_file: put both into one file first.")
        return
    changes = [setting("split.group_file", str(old))]
    changes += ["split.method=stratified"] if settings.split.method != "stratified" else []
    steps = [split_removal(layout), words.plus(*changes).repeat("split")]
    if used:
        print(f"The split was made with {old}, which is kept.")
        steps.insert(1, f"mv {path_word(path)} {path_word(here)}")
    print("To keep each group on one side, split again (scores of runs on the old split are then not comparable):")
    print("\n".join(f"  {step}" for step in steps))


def _audit_labels(words: command.Words, settings: Settings, layout: Layout, images: "ImageSet") -> dict[str, Any]:
    """List the rows whose predictions confidently contradict their target; return their numbers."""
    from pipelines.analysis import plots, suspects
    from pipelines.dataset.tables import write_csv

    runs, others = suspects.runs_on(layout)
    names = [run.folder.name for run in runs]
    files = (layout.audit.suspects, layout.audit.suspects_picture)
    if others:
        print(f"Left out, as they used another split: {', '.join(run.folder.name for run in others)}.")
    if not runs:
        for stale in files:
            stale.unlink(missing_ok=True)
        print(f"Wrong labels: no run of this split has predicted yet. First: {words.repeat('train retrain predict')}")
        return {"runs": names, "covered": 0, "rows": 0}
    if images.task == BOXES:
        return _audit_boxes(words, settings, layout, runs) | {"runs": names}
    table = images.table
    found, covered = suspects.find_suspects(runs, table, images.task)
    write_csv(files[0], suspects.listing(found, table))
    first = found.head(SUSPECTS_SHOWN)
    rows: Any = list(table.loc[first.index].itertuples())
    texts = suspects.texts(first, [str(row.label) for row in rows], images.task)
    what = {
        ONE_CLASS: "labels confidently contradicted",
        SEVERAL_LABELS: "images with labels that are contradicted: − surely absent, + surely present",
        NUMBERS: "numbers with large errors, in standard deviations",
    }[images.task]
    cells = [(_picture(images, row), text) for row, text in zip(rows, texts, strict=True)]
    plots.draw_pictures(files[1], cells, f"{settings.name}: {len(found):,} of {covered:,} {what}")
    shown = ", ".join(str(path.relative_to(layout.root)) for path in files)
    what = "Labels that predictions confidently contradict"
    if images.task == NUMBERS:
        what = f"Numbers with an error of more than {suspects.LARGE:g} standard deviations"
    print(f"{what}: {len(found):,} of {covered:,} rows. {shown}")
    _print_uncovered(words, settings, layout, table, covered)
    return {"runs": names, "covered": covered, "rows": len(found)}


def _audit_boxes(words: command.Words, settings: Settings, layout: Layout, runs: "list[RunLayout]") -> dict[str, Any]:
    """List the boxes that predictions contradict; return how many images have predictions, and how many such boxes."""
    from pipelines.analysis.box_suspects import find_box_suspects, write_box_suspects
    from pipelines.dataset.image_set import read_images

    images = read_images(settings, layout, words.repeat("split"))
    images = replace(images, rows=images.table)
    found, covered = find_box_suspects(runs, images)
    count, files = int(found.index.nunique()), (layout.audit.suspects, layout.audit.suspects_picture)
    said = f"{len(found):,} boxes that predictions contradict, in {count:,} of {covered:,} images"
    write_box_suspects(layout.audit, found, images, f"{settings.name}: {said}")
    print(f"Wrong boxes: {said}. {', '.join(str(path.relative_to(layout.root)) for path in files)}")
    _print_uncovered(words, settings, layout, images.table, covered)
    return {"covered": covered, "rows": count}


def _print_uncovered(
    words: command.Words, settings: Settings, layout: Layout, table: "pd.DataFrame", covered: int
) -> None:
    """Print how many labelled rows no run has held out, and how to cover them."""
    labelled, in_folds = int((table["split"] != "test").sum()), int((table["fold"] >= 0).sum())
    folds = settings.split.folds
    if covered == labelled:
        return
    never = f"{labelled - covered:,} of {labelled:,} labelled rows were never held out"
    if folds and covered >= in_folds:
        print(f"{never}: every fold trains on them.")
        return
    print(f"{never}. To cover them, train on every fold, in a run of its own:")
    if folds:
        print(f"  {words.repeat('folds predict', RUN='folds')}")
        return
    again = words.plus("split.folds=5").repeat("split folds predict", RUN="folds")
    print(f"  {split_removal(layout)}\n  {again}\nScores of runs on the old split are then not comparable.")


def _picture(images: "ImageSet", row: Any) -> "Pixels":
    """Return the image of a split row, enlarged by a whole factor if it is small."""
    from pipelines.dataset.channels import as_colours
    from pipelines.dataset.images import fit, place_of

    photo = images.reader.open(str(row.path), place_of(row))
    size = min(PICTURE_SIZE, *photo.size)
    factor = PICTURE_SIZE // size
    return as_colours(fit(photo, size, size)).repeat(factor, axis=0).repeat(factor, axis=1)


if __name__ == "__main__":
    sys.exit(command.run(main))
