"""The table of epochs that a training prints, a row as each one ends."""

import shutil
import sys
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

from pipelines.analysis.plots import short
from pipelines.settings.schema import Settings
from pipelines.system.screen import aligned, duration

Row = dict[str, Any]  # of the history

WIDTH = 80  # columns where the output is no terminal
LEAST_NAME = 8  # letters of the metric in a narrow table
NUMBER, LEFT = len("100/100"), len("59 min 59 s")  # the widest cells
DROPPED = ("images/s", "phase", "lr")  # columns that a narrow table leaves out, in this order
BEST, OTHER = "*", " "  # after the score of an epoch that is the best so far


def print_epochs(new: Iterable[Row], earlier: Sequence[Row], epochs: int, settings: Settings) -> list[Row]:
    """Print one aligned row per epoch as it ends, and return the rows of `earlier` and `new` epochs.

    A star marks each epoch that is the best so far. Less important columns are left out where they do not fit.
    """
    from pipelines.core.job import best_row

    metric, names = settings.competition.metric, phase_names(settings, epochs)
    table, rows = _Columns(metric), list[Row]()
    for row in chain(earlier, new):
        rows.append(row)
        cells = _cells(rows, epochs, settings, names[row["epoch"] - 1] if any(names) else None)
        if metric in row:
            cells[metric] += BEST if best_row(rows, metric) is row else OTHER
        if len(rows) == 1:
            table.choose(cells)
            print(table.heading())
        if earlier and len(rows) == len(earlier) + 1:
            print(f"Continuing after epoch {len(earlier)}.")
        print(table.line(cells), flush=True)
    return rows


def phase_names(settings: Settings, epochs: int) -> list[str]:
    """Return what is special of each epoch: the head alone, smaller images, a rising learning rate; mostly nothing."""
    from pipelines.dataset.loading import training_size

    head, size = settings.tuning.head_epochs, settings.input.size
    warm, names = settings.train.warmup_epochs, list[str]()
    for epoch in range(1, epochs + 1):
        start = 0 if epoch <= head else head  # the schedule starts again after the epochs of the head alone
        pixels = training_size(settings, min(epoch, settings.train.epochs))
        if epoch <= head < settings.train.epochs:
            names.append("head")
        elif pixels < size:
            names.append(f"{pixels} px")
        else:
            names.append("warm-up" if epoch - start <= warm else "")
    return names


class _Columns:
    """The columns of a table and their widths, chosen by its first row."""

    def __init__(self, metric: str) -> None:
        self.metric, self.widths = metric, dict[str, int]()
        self.least = {"left": LEFT, "phase": len("warm-up"), metric: NUMBER + len(BEST)}
        self.wide = shutil.get_terminal_size((WIDTH, 0)).columns if sys.stdout.isatty() else WIDTH

    def choose(self, cells: dict[str, str]) -> None:
        """Choose the columns that fit; the metric's name is shortened if nothing else helps."""
        names = list(cells)
        self.widths = {name: max(len(name), len(cells[name]), self.least.get(name, NUMBER)) for name in names}
        for name in DROPPED:
            if self._width() > self.wide:
                self.widths.pop(name, None)
        if self.metric in self.widths and (over := self._width() - self.wide) > 0:
            narrow = max(self.widths[self.metric] - over, LEAST_NAME, len(cells[self.metric]))
            self.widths[self.metric] = min(narrow, self.widths[self.metric])

    def _width(self) -> int:
        return sum(self.widths.values()) + 2 * (len(self.widths) - 1)

    def heading(self) -> str:
        return aligned([short(name, width) for name, width in self.widths.items()], list(self.widths.values()))

    def line(self, cells: dict[str, str]) -> str:
        return aligned([cells[name] for name in self.widths], list(self.widths.values()))


def _cells(rows: Sequence[Row], epochs: int, settings: Settings, phase: str | None) -> dict[str, str]:
    """Return the cells of the last of `rows`; the time left comes from the epochs that are like it."""
    row, metric, head = rows[-1], settings.competition.metric, settings.tuning.head_epochs
    cells = {"epoch": f"{row['epoch']}/{epochs}", "train_loss": f"{row['train_loss']:.4f}"}
    if metric in row:
        cells |= {"valid_loss": f"{row['valid_loss']:.4f}", metric: f"{row[metric]:.4f}"}
    alike = [each["seconds"] for each in rows if (each["epoch"] > head) == (row["epoch"] > head)]
    left = duration((epochs - row["epoch"]) * sum(alike) / len(alike))
    cells |= {} if phase is None else {"phase": phase}
    cells |= {"lr": f"{row['lr']:.2g}", "images/s": f"{row['images_per_second']:,.0f}"}
    return cells | {"left": "-" if row["epoch"] <= head < epochs else left}
