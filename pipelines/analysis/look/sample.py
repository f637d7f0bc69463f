"""Choose the images that are looked at, and look at them."""

import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipelines.analysis.look.glance import SIDE, Glance, Item, glance_at
from pipelines.analysis.look.page import WIDE_SIDE
from pipelines.dataset.image_paths import files_at
from pipelines.dataset.image_set import ImageSet
from pipelines.dataset.splits import SPLITS
from pipelines.settings.metrics import BOXES, ONE_CLASS
from pipelines.system.processes import in_processes
from pipelines.system.watch import Watch

SHOWN = 16  # images of each part of the split that are drawn
SAMPLED = 1000  # images of each part that are looked at,
MOST_BYTES = 1 << 25  # or fewer: of files of about this size together,
LEAST = 32  # but at least so many
TASK_IMAGES, TASK_BYTES = 1024, 1 << 22  # of a process at once
Places = npt.NDArray[np.int64]


def look_at(images: ImageSet, watch: Watch) -> dict[str, list[Glance]]:
    """Return what is seen of a sample of each part of the split that has images; those that are drawn come first.

    The sample is random, but the same for the same table.
    """
    items: list[tuple[Item, int]] = []
    side = WIDE_SIDE if images.task == BOXES else SIDE
    parts: dict[int, str] = {}
    turns: dict[int, int] = {}  # of the rows that are drawn
    for part in SPLITS:
        rows, sizes = _sampled(images, images.table[images.table["split"] == part])
        shown = rows.index[chosen(rows, images.task)].tolist()
        turns |= {row: turn for turn, row in enumerate(shown)}
        for row, path, size in zip(rows.index.tolist(), rows["path"], sizes, strict=True):
            items.append(((row, path, side if row in turns else 0), size))
            parts[row] = part
    tasks = list(_tasks(items))
    work = partial(glance_at, images.reader)
    found: dict[str, list[Glance]] = {part: [] for part in SPLITS if part in parts.values()}
    with closing(in_processes(work, tasks, len(tasks), watch, "looking", f"x {TASK_IMAGES:,} images")) as finished:
        for glances in finished:
            for each in glances:
                found[parts[each.row]].append(each)
    return {part: sorted(each, key=lambda glance: turns.get(glance.row, SHOWN)) for part, each in found.items()}


def chosen(rows: pd.DataFrame, task: str) -> Places:
    """Return the places of at most `SHOWN` of `rows` to draw: an image of each class, then a second one, and so on.

    More classes than images, and rows without one class, are spread over the rows.
    """
    places = np.arange(len(rows))
    if task == ONE_CLASS and (rows["label"] != "").any():
        turns = rows.groupby("label").cumcount().to_numpy()
        places = np.lexsort((rows["label"].to_numpy(str), turns))
        places = places[: max(SHOWN, int((turns == 0).sum()))]
    return places[np.linspace(0, len(places) - 1, min(SHOWN, len(places))).astype(np.int64)]


def _sampled(images: ImageSet, rows: pd.DataFrame) -> tuple[pd.DataFrame, list[int]]:
    """Return the sample of the `rows` of a part, in their order, and the sizes of their files in bytes."""
    sizes: dict[int, int] = {}
    for place in np.random.default_rng(0).choice(len(rows), min(SAMPLED, len(rows)), replace=False).tolist():
        if len(sizes) >= LEAST and sum(sizes.values()) > MOST_BYTES:
            break
        sizes[place] = sum(map(_size, files_at(images.raw, str(rows["path"].iloc[place]))))
    places = sorted(sizes)
    return rows.iloc[places], [sizes[place] for place in places]


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size  # noqa: PTH116 - as elsewhere, for speed
    except OSError:  # reading reports it
        return 0


def _tasks(items: Sequence[tuple[Any, int]]) -> Iterator[list[Any]]:
    """Yield the items in lists, each of them some images of a process."""
    task: list[Any] = []
    total = 0
    for item, size in items:
        task.append(item)
        total += size
        if len(task) == TASK_IMAGES or total > TASK_BYTES:
            yield task
            task, total = [], 0
    if task:
        yield task
