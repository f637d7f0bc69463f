"""Pictures of predicted boxes: on the worst and on random images, and as curves and sizes."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from pipelines.analysis.box_results import LEAST, Array, Compared, class_table
from pipelines.analysis.drawn_boxes import COLOURS, drawn, legend
from pipelines.analysis.look import page
from pipelines.core.box_scores import curve
from pipelines.dataset.image_set import ImageSet
from pipelines.settings.layout import RunLayout
from pipelines.system.errors import shown
from pipelines.system.screen import short

WORST, RANDOM, COLUMNS = 15, 9, 3  # images, and those in a row
SIDE = page.INNER // COLUMNS - 18  # the longer side of an image in pixels
SEED, BINS = 0, 24


def draw_found(run: RunLayout, images: ImageSet, compared: Compared, title: str) -> pd.DataFrame:
    """Draw images with their true and predicted boxes, and curves and sizes; return the table of the classes."""
    table, worst = class_table(compared, images.classes), compared.worst
    some = np.sort(np.random.default_rng(SEED).permutation(len(images))[:RANDOM])
    heading = f"{len(worst):,} images with missed or false boxes, most first"
    blocks = [
        page.text_block(compared.describe()),
        page.strip_block(legend(images.classes, with_true=True)),
        page.picture_block(heading, _cells(images, compared, worst[:WORST]), COLUMNS),
        page.picture_block("Images at random", _cells(images, compared, some), COLUMNS),
    ]
    page.draw_page(run.mistakes, title, blocks)
    order = np.argsort(-table["boxes"].to_numpy(), kind="stable")
    numbers = dict(zip(order[: len(COLOURS)].tolist(), table["ap_50"].iloc[order], strict=False))
    curves = [partial(_curves, compared, images.classes, numbers), partial(_sizes, compared)]
    heading = f"Precision and recall at an intersection over union of {LEAST}; sizes of boxes"
    blocks = [page.text_block(compared.describe()), page.chart_block(heading, 320, curves)]
    page.draw_page(run.of_boxes, title, blocks)
    return table


def _cells(images: ImageSet, compared: Compared, places: Array) -> list[page.Cell]:
    cells = []
    rows: Any = images.rows.iloc[places].itertuples()
    for place, row in zip(places, rows, strict=True):
        found = compared.found[place][compared.counts[place]]
        pixels = drawn(images.reader, row, SIDE, found, compared.true[place])
        cells.append((pixels, f"{shown(str(row.id))}\n{compared.text(place)}"))
    return cells


def _curves(compared: Compared, classes: Sequence[str], precisions: Mapping[int, float], axes: Axes) -> None:
    for number, average in precisions.items():
        recall, precision, sure = curve(compared.matches, number)
        colour = COLOURS[number % len(COLOURS)]
        known = "no true box" if np.isnan(average) else f"AP {average:.3f}"
        name = f"{short(shown(classes[number]), 20)}, {known}"
        axes.plot([0, *recall], [*precision[:1], *precision] or [0], color=colour, label=name)
        if kept := int((sure >= compared.cut).sum()):
            axes.plot(recall[kept - 1], precision[kept - 1], "o", color=colour)
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02))
    axes.set_xlabel("recall; dots: the boxes that count", fontsize=8)
    axes.set_ylabel("precision", fontsize=8)
    axes.grid(alpha=0.3)
    for text in axes.legend(fontsize=8, loc="lower left").get_texts():
        text.set_parse_math(False)


def _sizes(compared: Compared, axes: Axes) -> None:
    both = compared.true[compared.exists], compared.found[compared.counts]
    true, found = (np.sqrt((boxes[:, -2:] - boxes[:, -4:-2]).clip(0).prod(axis=1)) for boxes in both)
    edges = np.linspace(0, max([*true, *found, 0.01]), BINS + 1).tolist()
    axes.hist(true, edges, color="0.75", label="true")
    axes.hist(found, edges, color="C0", histtype="step", linewidth=1.5, label="predicted")
    axes.set_xlabel("size: square root of the share of the image's area", fontsize=8)
    axes.set_ylabel("boxes", fontsize=8)
    axes.legend(fontsize=8)
