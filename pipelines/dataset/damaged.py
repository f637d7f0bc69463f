"""Say which images cannot be used, all at once, and how to go on."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from pipelines.dataset.image_paths import files_of, from_raw
from pipelines.dataset.image_set import ImageSet
from pipelines.dataset.split_record import split_again
from pipelines.settings.layout import Layout
from pipelines.system.errors import UserError, shown
from pipelines.system.shell import path_word, removal

NAMED = 20  # in a message; the CSV has all
Found = tuple[int, str]  # the index of a row in the split table, and what is wrong with its image


@dataclass(frozen=True)
class _Image:
    """An image that cannot be used. path: relative to the working folder, if it is inside."""

    path: str
    id: str
    split: str
    problem: str


class DamagedImages(UserError):
    """Images that cannot be used. found: them, by their rows in the table of `images`."""

    def __init__(self, images: ImageSet, found: Sequence[Found]) -> None:
        super().__init__(_message(images, _listed(images, found)))
        self.found = found


def report(images: ImageSet, found: Sequence[Found]) -> DamagedImages:
    """Return the error about the images `found`, after listing them in the CSV of the competition."""
    if layout := images.layout:
        from pipelines.dataset.tables import write_csv

        rows = [vars(each) | {"path": file} for each in _listed(images, found) for file in files_of(each.path)]
        write_csv(layout.damaged, pd.DataFrame(rows, columns=["path", "id", "split", "problem"]))
    return DamagedImages(images, found)


def _listed(images: ImageSet, found: Iterable[Found]) -> list[_Image]:
    problems, here = dict(found), Path.cwd()
    rows = images.table.loc[sorted(problems)]
    paths = [Path(from_raw(images.raw, path)) for path in rows["path"]]
    names = [str(path.relative_to(here) if path.is_relative_to(here) else path) for path in paths]
    columns = (names, rows["id"].tolist(), rows["split"].tolist(), [problems[index] for index in rows.index])
    return [_Image(*values) for values in zip(*columns, strict=True)]


def _message(images: ImageSet, bad: Sequence[_Image]) -> str:
    count = f"{len(bad):,} image{'s' * (len(bad) != 1)} cannot be used:"
    lines = [f"  {shown(each.path)} (id {shown(each.id)!r}, {each.split}): {shown(each.problem)}" for each in bad]
    layout = images.layout
    if len(bad) > NAMED:
        lines[NAMED:] = [f"  … and {len(bad) - NAMED:,} more"]
    if layout:
        lines.append(f"All of them: {layout.damaged.relative_to(layout.root)}")
    return "\n".join([count, *lines, *_advice(images, bad)])


def _advice(images: ImageSet, bad: Sequence[_Image]) -> list[str]:
    """Return what to do, by where the rows of the split come from."""
    data, layout = images.data, images.layout
    labelled = [each for each in bad if each.split != "test"]
    tests = [each for each in bad if each.split == "test"]
    listing = data.test_table or data.sample_submission
    lines = []
    if tests and listing:
        lines.append(
            f"Test images: the submission needs a row for each that {shown(listing)} lists. Replace these files (get "
            "only them again, or convert them), and run the same command again."
        )
    removable = [*(labelled if not data.labels else []), *(tests if not listing else [])]
    if labelled and data.labels:
        labels = layout.raw / data.labels if layout else Path(data.labels)
        name = str(labels.relative_to(layout.root)) if layout else data.labels
        lines.append(
            f"Labelled images: replace these files, and run the same command again. Or remove their rows from "
            f"{shown(name)} and the files, then split again:"
        )
        lines.append(f"  {_removal(images, labelled, layout)}")
    if removable:
        lines.append("Replace these files, and run the same command again. Or remove them, and split again:")
        lines.append(f"  {_removal(images, removable, layout)}")
    return lines


def _removal(images: ImageSet, bad: Sequence[_Image], layout: Layout | None) -> str:
    """Return the commands that remove the files and split again; many files are read from the CSV."""
    if len(bad) <= NAMED or not layout:
        command = removal(*(Path(file) for each in bad for file in files_of(each.path)))
    else:
        splits = {each.split for each in bad}
        python = (
            "import csv, os, sys; [os.remove(row['path']) for row in csv.DictReader(open(sys.argv[1], "
            "encoding='utf-8')) if row['split'] in sys.argv[2]]"
        )
        command = f'python3 -c "{python}" {path_word(layout.damaged)} {",".join(sorted(splits))}'
    return f"{command} && {split_again(layout, images.split_command)}" if layout else command
