"""Divide the labelled images of a competition into train and valid.

Reads   data/<competition>/raw: the labels CSV or class folders, the image names, the list of test images;
        the CSV that split.group_file names, where it does.
Writes  data/<competition>/split.csv: id, path, label, split, fold of every image; all other stages go by it,
        data/<competition>/train_valid_test: folders of links to the images, for ImageFolder and other tools,
        data/<competition>/split.json: what the split was made from; it is written last.

A split depends on ids, labels, groups and split.seed alone.  It is made once: the same command again does nothing.
"""

import sys
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipelines import command
from pipelines.settings.layout import Layout
from pipelines.settings.loading import to_dict
from pipelines.settings.records import SPLIT_SECTIONS, split_inputs, split_is_made, split_removal
from pipelines.settings.schema import Settings
from pipelines.system import files
from pipelines.system.errors import UserError, shown

if TYPE_CHECKING:
    import pandas as pd


def main(arguments: Sequence[str] | None = None) -> None:
    words = command.parser(__doc__, "split").parse_args(arguments, namespace=command.Words())
    settings, layout = words.settings(), words.layout()
    raw = layout.raw.relative_to(layout.root)
    if not layout.raw.is_dir():
        raise UserError(f"{raw} is missing. First: {words.repeat('download')}")
    with files.only_one(layout.split_lock, f"splitting {settings.name}", inherited=False):
        if split_is_made(layout, settings):
            print(f"{settings.name} is already split: nothing to do. To do it again: {split_removal(layout)}")
            return
        _split(settings, layout)
    print(f"Next: {words.repeat('train')}")


def _split(settings: Settings, layout: Layout) -> None:
    """Make the split, write it, and print what it came to."""
    from pipelines.dataset import splits, tables, tree

    test, unlisted = tables.test_rows(layout.raw, settings.data)
    labelled = tables.labelled_rows(layout.raw, settings.data, settings.split, test["path"])
    if settings.split.group_file:
        labelled["group"] = splits.read_groups(layout.root, settings.split.group_file, labelled["id"].tolist())
    labelled = splits.assign(labelled, settings.split)
    rows = splits.with_test(labelled, test)

    layout.split_record.unlink(missing_ok=True)  # the mark that all is done: it must not vouch for what comes now
    links = tree.build(layout.tree, layout.raw, rows, command.progress)
    splits.write_split_csv(layout.split_csv, rows)
    sections = to_dict(settings)
    record = {name: sections[name] for name in SPLIT_SECTIONS} | {
        "images": {name: int((rows["split"] == name).sum()) for name in splits.SPLITS},
        "classes": labelled["label"].nunique(),
        "links": links,
        "inputs": split_inputs(layout, settings),
        "split_csv_sha256": files.file_sha256(layout.split_csv),
    }
    files.write_json(layout.split_record, record)

    print(command.table(("split", "images", "classes", "smallest class", "largest class"), _summary(rows)))
    kinds = [
        f"{number:,} {kind}{'s' if kind != tree.COPY else ' (no link could be made)'}" for kind, number in links.items()
    ]
    print(f"Tree: {layout.tree.relative_to(layout.root)}, {', '.join(kinds)}.")
    if settings.split.folds:
        sizes = [int((labelled["fold"] == fold).sum()) for fold in range(settings.split.folds)]
        always = len(labelled) - sum(sizes)
        print(f"Folds: {', '.join(map(str, sizes))} images; {always} always train; fold 0 is the valid above.")
    if settings.split.group_file:
        shared = [size for size in Counter(labelled["group"].tolist()).values() if size > 1]
        print(f"Groups of {settings.split.group_file}: {len(shared):,} of {sum(shared):,} rows, each on one side.")
    if single := splits.single_image_classes(labelled):
        print(f"Classes with a single image, which stays in train: {_some(single)}.")
    if unseen := set(labelled["label"].unique()) - set(labelled["label"][labelled["split"] == "valid"].unique()):
        print(
            f"Classes without a valid image: {len(unseen)}. Their folders in valid are empty, so that classes have the "
            "same numbers everywhere: ImageFolder(…, allow_empty=True)."
        )
    if test.empty:
        print("Test images: none, there is nothing to predict.")
    if unlisted:
        print(f"Test images that no list asks for: {unlisted:,}; they are left out.")


def _summary(rows: "pd.DataFrame") -> list[tuple[str, str, str, str, str]]:
    """Return for each split its images, its classes, and the name and size of the smallest and the largest class."""
    lines: list[tuple[str, str, str, str, str]] = []
    for name in ("train", "valid", "test"):
        labels = rows["label"][rows["split"] == name]
        sizes = sorted((number, label) for label, number in Counter(labels.tolist()).items())
        if name == "test":
            lines.append((name, f"{len(labels):,}", "-", "-", "-"))
        else:
            (least, smallest), (most, largest) = sizes[0], sizes[-1]
            lines.append(
                (
                    name,
                    f"{len(labels):,}",
                    str(len(sizes)),
                    f"{shown(smallest)} {least:,}",
                    f"{shown(largest)} {most:,}",
                )
            )
    return lines


def _some(names: Sequence[str], most: int = 5) -> str:
    return f"{len(names)} ({', '.join(map(shown, names[:most]))}{', …' if len(names) > most else ''})"


if __name__ == "__main__":
    sys.exit(command.run(main))
