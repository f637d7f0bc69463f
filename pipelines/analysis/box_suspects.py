"""Find boxes that are probably wrong: true ones that no prediction finds, and confident predictions without a true one.

A prediction is confident if it is at least as sure as the right ones of its class are on average, see `suspects.py`.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import torch
from torchvision.ops import box_iou

from pipelines.analysis.box_results import LEAST, compare
from pipelines.analysis.drawn_boxes import drawn
from pipelines.analysis.look import page
from pipelines.analysis.results import read_predictions
from pipelines.dataset.boxes import SIDES
from pipelines.dataset.image_set import ImageSet
from pipelines.dataset.tables import spreadsheet_safe, write_csv
from pipelines.settings.layout import AuditLayout, RunLayout
from pipelines.system.screen import short

NONE = "nothing"
SHOWN = 48  # boxes that are drawn


def find_box_suspects(runs: Iterable[RunLayout], images: ImageSet) -> tuple[pd.DataFrame, int]:
    """Return suspicious boxes, the surest first, and the number of images that have predictions, of the first run each.

    The result is indexed by the place in the split table, with `box_label`, `predicted`, `p_predicted`, and the sides.
    """
    read = [read_predictions(run.valid_predictions, images.table, images.task) for run in runs]
    places = np.concatenate([found.places for found in read])
    places, first = np.unique(places, return_index=True)
    predictions = np.concatenate([found.values for found in read])[first].astype(np.float32)
    compared = compare(images.select(images.table.iloc[places]).labels, predictions, len(images.classes))
    found, hits = compared.found, compared.hits
    of_class = [found[:, :, 1][hits & (found[:, :, 0] == number)] for number in range(len(images.classes))]
    sure = [some.mean() if len(some) else np.inf for some in of_class]
    rows = []
    for image, place in enumerate(places.tolist()):
        mine, true = found[image], compared.true[image][compared.exists[image]]
        mine, right = mine[mine[:, 1] > 0], hits[image][: (mine[:, 1] > 0).sum()]
        near = box_iou(torch.from_numpy(mine[:, 2:]), torch.from_numpy(true[:, 1:])).numpy() >= LEAST
        for (number, share, *box), is_right, of in zip(mine.tolist(), right, near, strict=True):
            labels = {images.classes[int(true[other, 0])] for other in np.flatnonzero(of)}
            name = images.classes[int(number)]
            if not is_right and name not in labels and share >= sure[int(number)]:
                rows.append((place, min(labels, default=NONE), name, share, *box))
        alone = true[~near.any(axis=0)].tolist()
        rows += [(place, images.classes[int(number)], NONE, 0.0, *box) for number, *box in alone]
    rows.sort(key=lambda row: (-row[3], row[0]))
    table = pd.DataFrame(rows, columns=["place", "box_label", "predicted", "p_predicted", *SIDES])
    return table.set_index("place"), len(places)


def write_box_suspects(audit: AuditLayout, found: pd.DataFrame, images: ImageSet, title: str) -> None:
    """List the suspicious boxes of `find_box_suspects`, and draw the surest."""
    rows: Any = images.table.loc[found.index]
    listed = pd.concat([rows[["id", "path", "split"]].reset_index(drop=True), found.reset_index(drop=True)], axis=1)
    texts = listed.map(lambda cell: f"{cell:.4f}" if isinstance(cell, float) else spreadsheet_safe(cell))
    write_csv(audit.suspects, texts)
    cells = []
    for row, box in zip(rows.head(SHOWN).itertuples(), found.to_numpy().tolist(), strict=False):
        label, predicted, share, *sides = box
        marked = np.array([[images.classes.index(label if predicted == NONE else predicted), share, *sides]])
        text = f"{row.id}\nlabelled {short(label)}, seen as {short(predicted)}"
        cells.append((drawn(images.reader, row, page.WIDE_SIDE, marked if share else marked[:, [0, 2, 3, 4, 5]]), text))
    page.draw_page(audit.suspects_picture, title, [page.picture_block("The surest first", cells, page.WIDE)])
