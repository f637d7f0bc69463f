"""The charts of the page: images per class, histograms of numbers, sizes and brightness."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from pipelines.analysis.look.facts import LABELLED, Json
from pipelines.analysis.look.glance import Glance
from pipelines.analysis.look.page import Block, chart_block
from pipelines.settings.metrics import BOXES, SEVERAL_LABELS
from pipelines.system.errors import shown
from pipelines.system.screen import short

ALL_SHOWN = 60  # classes in a bar chart; of more, the ends are shown
ENDS = 10  # largest and smallest classes
NUMBERED = 30  # classes whose bars have their numbers above
PANELS, IN_A_ROW = 6, 3  # histograms of numbers
NAME, LETTER = 20, 7  # characters below a bar, and the height of one in pixels
COLOURS = {"train": "C0", "valid": "C1", "test": "C2"}


def class_blocks(found: Json, task: str) -> list[Block]:
    """Return the bar charts of images per class or label, the largest first."""
    totals = [sum(counts) for counts in zip(*(found[part] for part in LABELLED), strict=True)]
    order = sorted(range(len(totals)), key=lambda place: -totals[place])
    what = "label" if task == SEVERAL_LABELS else "class"
    plural = "labels" if task == SEVERAL_LABELS else "classes"
    heading = f"{'Boxes' if task == BOXES else 'Images'} per {what}, {len(order):,} {plural}"
    charts = [partial(_bars, found, order)]
    if len(order) > ALL_SHOWN:
        heading += f": the largest {ENDS} and the smallest {ENDS}"
        charts = [partial(_bars, found, order[:ENDS]), partial(_bars, found, order[-ENDS:])]
    longest = max((len(short(name, NAME)) for name in found["names"]), default=0)
    return [chart_block(heading, 200, charts, below=24 + LETTER * longest)]


def _bars(found: Json, places: Sequence[int], axes: Axes) -> None:
    x, below = np.arange(len(places)), np.zeros(len(places), np.int64)
    for part in LABELLED:
        counts = np.array([found[part][place] for place in places], np.int64)
        axes.bar(x, counts, 0.8, bottom=below, color=COLOURS[part], label=part)
        below += counts
    if len(places) <= NUMBERED:
        for place, count in enumerate(below.tolist()):
            axes.text(place, count, f"{count:,}", ha="center", va="bottom", fontsize=7)
    names = [short(shown(found["names"][place]), NAME) for place in places]
    axes.set_xticks(x, names, rotation=90, fontsize=8, parse_math=False)
    axes.set(xlim=(-0.6, len(places) - 0.4), ylim=(0, max(1, below.max(initial=0)) * 1.1))
    axes.locator_params(axis="y", integer=True)
    _legend(axes)


def number_blocks(found: Sequence[Json]) -> list[Block]:
    """Return a histogram of each number, of at most `PANELS`."""
    if not found:
        return []
    drawn = [partial(_number, facts) for facts in found[:PANELS]]
    first = f", the first {PANELS} of {len(found):,}" if len(found) > PANELS else ""
    rows = [drawn[start : start + IN_A_ROW] for start in range(0, len(drawn), IN_A_ROW)]
    headings = [f"Share of the images by number{first}", *[""] * len(rows)]
    return [chart_block(heading, 160, row) for heading, row in zip(headings, rows, strict=False)]


def _number(facts: Json, axes: Axes) -> None:
    _shares(axes, facts["edges"], {part: facts[part] for part in LABELLED})
    axes.set_xlabel(short(shown(facts["name"]), 40), fontsize=8, parse_math=False)


def file_block(parts: Mapping[str, Sequence[Glance]], light: Json) -> Block:
    """Return the charts of sizes, aspect ratios and brightness of the images that were looked at."""
    good = {name: [each for each in glances if not each.problem] for name, glances in parts.items()}
    charts: list[Callable[[Axes], None]] = [partial(_sizes, good), partial(_ratios, good)]
    charts.append(partial(_brightness, light, list(parts)))
    return chart_block("Sizes, aspect ratios and brightness of the images that were looked at", 180, charts)


def _sizes(good: Mapping[str, Sequence[Glance]], axes: Axes) -> None:
    every = {(each.width, each.height) for glances in good.values() for each in glances}
    if len(every) < 2:
        text = "".join(f"all are {width} x {height} pixels" for width, height in every) or "none can be read"
        axes.text(0.5, 0.5, text, ha="center", fontsize=9, transform=axes.transAxes)
        axes.axis("off")
        return
    for name, glances in good.items():
        sizes = np.array(sorted({(each.width, each.height) for each in glances})).reshape(-1, 2)
        style: dict[str, Any] = {"s": 12, "alpha": 0.5, "linewidths": 0, "color": COLOURS[name], "label": name}
        axes.scatter(sizes[:, 0], sizes[:, 1], **style)
    axes.set_xlabel("width in pixels", fontsize=8)
    axes.set_ylabel("height", fontsize=8)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    _legend(axes)


def _ratios(good: Mapping[str, Sequence[Glance]], axes: Axes) -> None:
    ratios = {name: np.log2([each.width / each.height for each in glances]) for name, glances in good.items()}
    far = max((float(np.abs(values).max(initial=0)) for values in ratios.values()), default=0)
    edges = np.linspace(-max(1, far), max(1, far), 41) + 1 / 80  # a square is inside of a bin
    _shares(axes, edges.tolist(), {name: np.histogram(values, edges)[0].tolist() for name, values in ratios.items()})
    ticks = [tick for tick in range(-9, 10) if abs(tick) <= max(1, far)]
    axes.set_xticks(ticks, [f"{2**tick}" if tick >= 0 else f"1/{2**-tick}" for tick in ticks])
    axes.set_xlabel("width / height", fontsize=8)


def _brightness(light: Json, parts: Sequence[str], axes: Axes) -> None:
    _shares(axes, light["edges"], {name: light[name] for name in parts})
    axes.set_xlabel("mean of an image's values, 0 to 255", fontsize=8)


def _shares(axes: Axes, edges: Sequence[float], counts: Mapping[str, Sequence[int]]) -> None:
    """Draw histograms as steps: the share of the images of each part."""
    for name, each in counts.items():
        shares = np.array(each) / max(1, sum(each))
        axes.stairs(shares, edges, color=COLOURS[name], label=name, linewidth=1.4, fill=name == "train", alpha=0.75)
    axes.set_ylabel("share", fontsize=8)
    _legend(axes)


def _legend(axes: Axes) -> None:
    axes.legend(fontsize=7, frameon=False, ncols=3, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.2)
