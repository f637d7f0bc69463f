"""Divide the labelled images of a competition into train and valid.

Reads   data/<competition>/raw: the labels CSV or class folders, the image names, the list of test images;
        the CSV that split.group_file names, if any.
Writes  data/<competition>/split.csv: id, path, label, split, fold of every image; all later stages use it,
        data/<competition>/boxes.csv: id, label, xmin, ymin, xmax, ymax of every box, if competition.task is boxes,
        data/<competition>/train_valid_test: folders of links to the images, for ImageFolder and other tools; not made,
        and removed, with split.tree=false,
        data/<competition>/images: the images of data.pixel_columns, as files,
        data/<competition>/dropped.csv: the rows that were left out, if data.flaws is drop,
        data/<competition>/split.json: what the split was made from; it is written last.

A split depends only on ids, labels, groups and split.seed. A repeated split does nothing, but for another split.tree.
"""

import shutil
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pipelines import command
from pipelines.dataset.split_record import (
    Listing,
    complete_split_record,
    list_images,
    record_tree,
    split_again,
    split_is_made,
    tree_is_as_set,
    write_split_record,
)
from pipelines.settings.layout import Layout
from pipelines.settings.metrics import BOXES, NUMBERS, SEVERAL_LABELS
from pipelines.settings.schema import Settings
from pipelines.system import files
from pipelines.system.errors import printable, shown
from pipelines.system.memory import without_cycles

if TYPE_CHECKING:
    import pandas as pd


def main(arguments: Sequence[str] | None = None) -> None:
    words = command.parser(__doc__, "split").parse_args(arguments, namespace=command.Words())
    settings, layout = words.settings(), words.layout()
    words.require_raw(layout)
    with files.only_one(layout.split_lock, f"splitting {settings.name}", inherited=False):
        if split_is_made(layout, settings, words.repeat("split")):
            complete_split_record(layout, settings)
            if tree_is_as_set(layout, settings):
                again = split_again(layout, words.repeat("split"))
                print(f"{settings.name} is already split: nothing to do. To do it again: {again}")
                return
            print(f"{settings.name} is already split, and stays so. {_change_tree(settings, layout)}")
        else:
            with without_cycles():
                _split(settings, layout)
    print(
        f"Next: {words.repeat('train')}"
        + f"\nOr train every fold: {words.repeat('folds')}" * bool(settings.split.folds)
    )


def _split(settings: Settings, layout: Layout) -> None:
    from pipelines.dataset import splits, submission, understood
    from pipelines.dataset.division import divide
    from pipelines.dataset.raw_data import write_dropped

    read: list[tuple[str, str]] = []  # subject, text
    found = divide(layout, settings, lambda *line: read.append(line), command.progress)
    labelled, test, classes, task = found.labelled, found.test, found.classes, settings.competition.task
    rows = splits.with_test(labelled, test)
    listing = list_images(layout.raw, settings.data)
    dropped = write_dropped(layout.dropped, found.dropped)
    about_tree = _write(settings, layout, rows, listing, found.boxes)
    # Only now: a reader such as `head` ends the stage when it closes the pipe.
    for subject, text in understood.describe(found.settings, layout.raw, labelled, test, dict(read), classes):
        print(f"{subject:<8}  {printable(text)}")
    print(command.table(*summarise(rows, task, classes)))
    print(about_tree)
    _print_groups(settings, labelled)
    notes = [found.pixels, *(text for subject, text in read if subject == "note")]
    known = labelled["label"].tolist()
    notes += understood.notes(labelled, submission.classes_without_images(known, classes, task), listing.empty, task)
    if test.empty:
        notes.append("No test images, so there is nothing to predict.")
    if dropped:
        notes.append(
            f"Left out, as data.flaws says, and listed in {layout.dropped.relative_to(layout.root)}: "
            f"{len(found.dropped):,} rows: {dropped}."
        )
    if found.unlisted:
        folder = found.settings.data.test_images
        notes.append(f"Images in {folder} that are not listed, and so left out: {found.unlisted:,}.")
    for note in filter(None, notes):
        print(f"Note: {printable(note)}")


def _write(settings: Settings, layout: Layout, rows: "pd.DataFrame", listing: Listing, boxes: "pd.DataFrame") -> str:
    """Write tree, boxes.csv, split.csv and record; return a line about the tree."""
    from pipelines.dataset import splits
    from pipelines.dataset.tables import write_csv

    layout.split_record.unlink(missing_ok=True)  # it marks a complete split, and the old one is being replaced
    links = _make_tree(settings, layout, rows) if settings.split.tree else {}
    layout.boxes_csv.unlink(missing_ok=True)  # of a split for another task
    if settings.competition.task == BOXES:
        write_csv(layout.boxes_csv, boxes)
    splits.write_split_csv(layout.split_csv, rows)
    write_split_record(layout, settings, rows, links, listing)
    return _settle_tree(layout, links)


def _change_tree(settings: Settings, layout: Layout) -> str:
    """Make or remove the tree of a complete split, as `split.tree` says; return a line about it."""
    from pipelines.dataset.splits import read_split_csv

    links = _make_tree(settings, layout, read_split_csv(layout.split_csv)) if settings.split.tree else {}
    record_tree(layout, links)
    return _settle_tree(layout, links)


def _make_tree(settings: Settings, layout: Layout, rows: "pd.DataFrame") -> Mapping[str, int]:
    """Write the tree of the split `rows`; return how many links of each kind it has."""
    from pipelines.dataset import tree

    return tree.build(layout.tree, layout.raw, rows, settings.competition.task, command.progress)


def _settle_tree(layout: Layout, links: Mapping[str, int]) -> str:
    """Return a line about the tree; without one, remove what is left of an earlier one."""
    from pipelines.dataset.tree import COPY

    if not links:  # the record says so already: the next call continues after a kill
        if layout.tree.exists():
            shutil.rmtree(layout.tree)
        return "Tree: none, as split.tree is false."
    plural = {kind: f"{kind}s" for kind in links} | {COPY: f"{COPY} (no link could be made)"}
    counts = ", ".join(f"{number:,} {plural[kind]}" for kind, number in links.items())
    return f"Tree: {layout.tree.relative_to(layout.root)}, {counts}."


def summarise(rows: "pd.DataFrame", task: str, classes: Sequence[str]) -> tuple[Sequence[str], list[Sequence[str]]]:
    """Return the headings and the lines of a table about the targets of train and valid.

    For classes and labels: how many there are, the smallest and the largest; for numbers, a line for each of them; for
    boxes also how many an image has.
    """
    from pipelines.dataset.targets import count_labels, encode, labels_in

    parts = {name: rows["label"][rows["split"] == name].tolist() for name in ("train", "valid")}
    tests = f"{(rows['split'] == 'test').sum():,}"
    lines: list[Sequence[str]] = []
    if task == NUMBERS:
        for name, texts in parts.items():
            for number, column in zip(classes, encode(texts, task, classes).T, strict=True):
                known = column[column == column]  # not NaN
                values = (known.min(), known.mean(dtype=float), known.max()) if len(known) else ()
                cells = [f"{value:,.6g}" for value in values] or ["-"] * 3
                lines.append((name, f"{len(texts):,}", shown(number), *cells, f"{len(texts) - len(known):,}"))
        return ("split", "images", "number", "least", "mean", "most", "missing"), [*lines, ("test", tests, *"-----")]
    for name, texts in parts.items():
        counts = count_labels(texts, task)
        sizes = sorted((number, label) for label, number in counts.items()) or [(0, "-")]
        ends = [f"{shown(label)} ({number:,})" for number, label in (sizes[0], sizes[-1])]
        without = [f"{sum(not text for text in texts):,}"] if task in (SEVERAL_LABELS, BOXES) else []
        if task == BOXES:
            most = max((len(labels_in(text, task)) for text in texts), default=0)
            without = [f"{counts.total():,}", f"{counts.total() / max(len(texts), 1):.1f}", str(most), *without]
        lines.append((name, f"{len(texts):,}", str(len(counts)), *ends, *without))
    if task == SEVERAL_LABELS:
        headings = ("split", "images", "labels", "smallest label", "largest label", "without a label")
        return headings, [*lines, ("test", tests, *"----")]
    if task == BOXES:
        of_boxes = ("split", "images", "classes", "smallest class", "largest class", "boxes", "per image", "most")
        return (*of_boxes, "without a box"), [*lines, ("test", tests, *"-------")]
    return ("split", "images", "classes", "smallest class", "largest class"), [*lines, ("test", tests, *"---")]


def _print_groups(settings: Settings, labelled: "pd.DataFrame") -> None:
    """Print the sizes of folds and groups, if there are any."""
    if settings.split.folds:
        sizes = [int((labelled["fold"] == fold).sum()) for fold in range(settings.split.folds)]
        always = len(labelled) - sum(sizes)
        print(f"Folds: {', '.join(map(str, sizes))} images, and {always} always in train; fold 0 is valid above.")
    if settings.split.group_file:
        shared = [size for size in Counter(labelled["group"].tolist()).values() if size > 1]
        print(f"Groups of {settings.split.group_file}: {len(shared):,} with {sum(shared):,} rows, each in one part.")


if __name__ == "__main__":
    sys.exit(command.run(main))
