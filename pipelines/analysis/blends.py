"""The tables and the picture of a blend: what each member is worth, and how much their mistakes are alike."""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from pipelines.analysis import plots
from pipelines.core.blending import Blended, Pool
from pipelines.core.selection import Gain, correlations
from pipelines.dataset.tables import spreadsheet_safe, write_csv
from pipelines.settings.layout import RunLayout

HEADINGS = ("member", "score", "weight", "without it")


def write_tables(run: RunLayout, names: Sequence[str], pool: Pool, blended: Blended, title: str) -> list[Sequence[Any]]:
    """Write blend.csv, correlation.csv and the picture of the latter; return the rows of the first for the screen."""
    numbers = list(zip(blended.own, blended.weights, blended.without, strict=True))
    rows = [(name, *map(_number, row)) for name, row in zip(names, numbers, strict=True)]
    cells = [(spreadsheet_safe(name), *row) for name, *row in rows]
    write_csv(run.blend_table, pd.DataFrame(cells, columns=["member", "score", "weight", "score_without"]))
    values = correlations(pool.plain)
    safe = [spreadsheet_safe(name) for name in names]
    table = pd.DataFrame([[_number(value) for value in row] for row in values], columns=safe)
    table.insert(0, "member", safe, allow_duplicates=True)
    write_csv(run.correlations, table)
    plots.draw_correlations(run.correlations_picture, values, names, title)
    shown = (
        (name, f"{own:.4f}", f"{weight:.3f}", _shown(without))
        for name, (own, weight, without) in zip(names, numbers, strict=True)
    )
    return list(shown)


def describe(blended: Blended, metric: str) -> list[str]:
    """Return lines on what the selected weights gain, which weights were taken, and what the blend gains."""
    gain, over = blended.estimate.gain, blended.over_best
    taken = "the selected weights are taken" if blended.weighted else "equal weights are taken"
    return [
        f"Selected weights against equal ones, each row with weights chosen without it: {_gained(gain, metric)}; "
        f"{taken}.",
        f"The blend against its best member, chosen in the same way: {_gained(over, metric)}.",
    ]


def _gained(gain: Gain, metric: str) -> str:
    """Return the gain in words: `better by 0.0021 ± 0.0009 (one standard error)`."""
    if math.isnan(gain.value):
        return f"{metric} is not defined"
    direction = "better" if gain.value > 0 else "worse" if gain.value < 0 else "no difference"
    if not gain.value:
        return direction
    return f"{metric} {direction} by {abs(gain.value):.4f} ± {gain.error:.4f} (one standard error)"


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6g}"


def _shown(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"
