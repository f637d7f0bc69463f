"""Read and check all rows of a competition, and divide them: what `split` writes, and `new` tries."""

from dataclasses import dataclass

import pandas as pd

from pipelines.dataset import box_tables, labels, meaning, pixel_tables, splits, submission, test_set
from pipelines.dataset.raw_data import Flaw, RawData
from pipelines.dataset.tables import Note, silent
from pipelines.settings.layout import Layout
from pipelines.settings.schema import Settings
from pipelines.system.watch import Watch, unwatched


@dataclass(frozen=True)
class Division:
    """The rows of a competition.

    settings: the given ones, with the folders of images that were rows of a table. pixels: a note about these images;
    empty without them. labelled: rows of `splits.assign`. test, unlisted: as `test_set.test_rows` returns them.
    classes: as `submission.class_list` returns them. dropped: the rows that data.flaws leaves out.
    boxes: as boxes.csv has them; none for other tasks.
    """

    settings: Settings
    pixels: str
    labelled: pd.DataFrame
    test: pd.DataFrame
    unlisted: int
    classes: list[str]
    dropped: list[Flaw]
    boxes: pd.DataFrame


def divide(layout: Layout, given: Settings, note: Note = silent, watch: Watch = unwatched) -> Division:
    """Return the rows of the raw folder, divided into train and valid. Raises `UserError` for what does not fit.

    Images that are rows of a table are written as files first. note: as for `RawData`.
    """
    settings, pixels = pixel_tables.as_files(layout, given, watch)
    source = RawData(layout.raw, settings.data, settings.split, settings.competition, note)
    test, unlisted = test_set.test_rows(source)
    rows = labels.labelled_rows(source, test["path"])
    meaning.check_labels(rows, layout.raw, settings)
    known = rows["label"].tolist()
    classes = submission.class_list(known, settings, layout.raw)
    meaning.check_metric(known, classes, settings, settings.data.labels or settings.data.train_images)
    if settings.split.group_file:
        rows["group"] = splits.read_groups(layout.root, settings.split.group_file, rows["id"].tolist())
    rows = splits.assign(rows, settings.split, settings.competition.task)
    boxes = box_tables.box_table(rows, source.boxes)
    return Division(settings, pixels, rows, test, unlisted, classes, source.dropped, boxes)
