"""Some rows of a split table together with the folders of their images and caches."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipelines.dataset.boxes import FOUND, MOST, read_boxes, targets_of
from pipelines.dataset.image_paths import files_at
from pipelines.dataset.image_reader import Reader
from pipelines.dataset.images import describe_image, holds_deep
from pipelines.dataset.splits import read_split_csv
from pipelines.dataset.submission import class_list
from pipelines.dataset.targets import encode
from pipelines.settings.data_sections import DataSettings
from pipelines.settings.layout import Layout
from pipelines.settings.metrics import BOXES, ONE_CLASS
from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError

TEST, LABELLED = "test", "labelled"  # the two sets of images that are cached
SAMPLE = 16  # images whose headers tell whether a set has values of more than 8 bits
WHITES_SHOWN = 5  # in a note
DESCRIBED = 64  # images whose values are described


@dataclass(frozen=True)
class ImageSet:
    """Selected `rows` of a split `table`, with their index in it, all labelled or all test.

    raw: the folder that paths start from. cache: the folder of decoded images and features. classes: in the order of
    the network's outputs, or the names of the numbers; empty where no labels are needed. task: competition.task. data:
    how values become pixels, and what messages advise together with `layout` and `split_command`. channels:
    input.channels.
    """

    table: pd.DataFrame
    rows: pd.DataFrame
    raw: Path
    cache: Path
    classes: list[str] = field(default_factory=list)
    data: DataSettings = field(default_factory=DataSettings)
    layout: Layout | None = None
    split_command: str = "make split"
    task: str = ONE_CLASS
    channels: int = 3

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def ids(self) -> npt.NDArray[Any]:
        return self.rows["id"].to_numpy()

    @property
    def columns(self) -> int:
        """How many numbers are predicted of each image."""
        return MOST * FOUND if self.task == BOXES else len(self.classes)

    @property
    def labels(self) -> npt.NDArray[Any]:
        """The targets as `encode` returns them, or boxes as `targets_of` does; (0,) for test images."""
        if self.is_test:
            return np.zeros(0, np.int64)
        if self.task == BOXES:
            assert self.layout is not None
            return targets_of(read_boxes(self.layout.boxes_csv), self.ids.tolist(), self.classes)
        return encode(self.rows["label"].tolist(), self.task, self.classes)

    @property
    def cache_name(self) -> str:
        return TEST if self.is_test else LABELLED

    @property
    def cached_together(self) -> "ImageSet":
        """All images of the table that share a cache with these."""
        return self.part(self.is_test)

    @property
    def places(self) -> npt.NDArray[np.int64]:
        """The place of each image among those that are `cached_together`, (N,)."""
        together, wanted = self.cached_together.rows.index, self.rows.index
        if together.is_monotonic_increasing:  # as split.csv is read; a hash table of a million rows would take 40 MB
            return np.searchsorted(together.to_numpy(), wanted.to_numpy()).astype(np.int64)
        return together.get_indexer(wanted).astype(np.int64)

    @property
    def reader(self) -> Reader:
        """What opens an image by its path."""
        return Reader(self.raw, self.data.white, self.channels)

    @property
    def value_rule(self) -> str:
        """A text that is part of the key of what is computed from pixels; empty for a set of plain 8-bit colours."""
        deep = self.data.white or any(map(holds_deep, self.cached_together.sample(SAMPLE)))
        channels = f" channels {self.channels}" if self.channels != 3 else ""
        return f"{f'values-2 {self.data.white}' if deep else ''}{channels}".lstrip()

    def sample(self, most: int) -> list[Path]:
        """Return the files of at most `most` of the images, spread over the rows."""
        paths = self.rows["path"]
        places = np.linspace(0, len(paths) - 1, min(most, len(paths))).astype(int)
        return [Path(file) for path in paths.iloc[places] for file in files_at(self.raw, path)]

    def note_whites(self) -> str:
        """Return a note if images of more than 8 bits have different whites by their own rule; else an empty text."""
        files = self.sample(DESCRIBED)
        if self.data.white or not any(map(holds_deep, files)):
            return ""
        described = [describe_image(path, path.name) for path in files]
        counts = sorted(Counter(each.white for each in described if each.bits > 8).items())
        if len(counts) < 2:
            return ""
        whites = ", ".join(f"{white:,} in {count:,}" for white, count in counts[:WHITES_SHOWN])
        more = f" and {len(counts) - WHITES_SHOWN} others" if len(counts) > WHITES_SHOWN else ""
        note = f"Note: of {len(described):,} images, the value of white is {whites}{more}: each image is scaled by its "
        note += "own values."
        if min(each.minimum for each in described) < 0:
            return f"{note} Some have negative values; if all share one scale, add a number to them that leaves none."
        return f"{note} If all share one scale, name it: SET=data.white={ceil(counts[-1][0])}"

    @property
    def is_test(self) -> bool:
        return bool((self.rows["split"] == "test").all())

    def select(self, rows: pd.DataFrame) -> "ImageSet":
        return replace(self, rows=rows)

    def part(self, test: bool) -> "ImageSet":
        """Return all test images, or all labelled ones."""
        return self.select(self.table[(self.table["split"] == "test") == test])

    def used(self, settings: Settings) -> "ImageSet":
        """Return the labelled images that `train.limit` leaves for training and validation."""
        labelled = self.part(test=False)
        return labelled.select(labelled.rows.head(settings.train.limit)) if settings.train.limit else labelled

    def divide(self, settings: Settings) -> tuple["ImageSet", "ImageSet"]:
        """Return the training set and the validation set. Raises `UserError` if one of them would be empty."""
        labelled = self.used(settings).rows
        valid = labelled["fold"] == settings.train.fold if settings.split.folds else labelled["split"] == "valid"
        if not valid.any() or valid.all():
            raise UserError(
                f"train.limit is {settings.train.limit}: of these {len(labelled)} labelled rows, {valid.sum()} are for "
                "validation, and both parts need some. Set a higher train.limit, or 0 for all rows."
            )
        return self.select(labelled[~valid]), self.select(labelled[valid])


def all_images(
    settings: Settings,
    layout: Layout,
    table: pd.DataFrame,
    split_command: str,
    classes: Sequence[str] = (),
) -> ImageSet:
    """Return the images of all rows of the split `table`. split_command: what messages advise to split again."""
    return ImageSet(
        table,
        table,
        layout.raw,
        layout.cache,
        list(classes),
        settings.data,
        layout,
        split_command,
        settings.competition.task,
        settings.input.channels,
    )


def open_images(settings: Settings, layout: Layout, table: pd.DataFrame, split_command: str = "make split") -> ImageSet:
    """Return the labelled images of the split `table`. Raises `UserError` if the sample submission does not fit."""
    images = all_images(settings, layout, table, split_command).part(test=False)
    return replace(images, classes=class_list(images.rows["label"].tolist(), settings, layout.raw))


def read_images(settings: Settings, layout: Layout, split_command: str) -> ImageSet:
    """Return `open_images` of split.csv. Raises `UserError`, with `split_command`, if it is missing."""
    return open_images(settings, layout, read_split_csv(layout.split_csv, split_command), split_command)
