"""The table that train and retrain print while a network learns: a row per epoch, as wide as the screen at most."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

from pipelines import command
from pipelines.settings.metrics import METRICS
from pipelines.system.group import Group
from pipelines.system.screen import aligned, screen_width

if TYPE_CHECKING:
    from torch import nn

    from pipelines.core.job import Job

Row = dict[str, Any]  # of the history
Seen = Callable[[Sequence[Row]], None]  # called with the rows so far after each epoch

DROPPED = ("images/s", "phase", "lr")  # the columns that a narrow screen does without, the first one first
GAP = len("  ")
WIDTHS = {"epoch": 7, "train_loss": 10, "valid_loss": 10, "lr": 7, "images/s": 9, "left": 12}
SHARE, NUMBER = len("0.5000*"), len("-9999.9999*")  # the widest scores, of most metrics and of numbers


@dataclass(frozen=True)
class EpochTable:
    """The lines for a training of so many `epochs`.

    metric: its name, empty without a validation set.  phases: words on each epoch, empty where there is one phase.
    head_epochs: the number of first epochs that train the head alone; the time left is not estimated from them.
    screen: its width.
    """

    epochs: int
    metric: str
    phases: Sequence[str]
    head_epochs: int = 0
    screen: int = 80

    @property
    def widths(self) -> dict[str, int]:
        """The width of each column that fits.  The name of the metric is cut where nothing else helps."""
        least = NUMBER if self.metric and METRICS[self.metric].takes == "numbers" else SHARE
        scores = {"valid_loss": 0, self.metric: max(len(self.metric), least)} if self.metric else {}
        names = dict.fromkeys(("epoch", "train_loss")) | scores | dict.fromkeys(("lr", "phase", "images/s", "left"))
        widths = {name: WIDTHS.get(name) or width or 0 for name, width in names.items()}
        widths["epoch"] = max(widths["epoch"], len(f"{self.epochs}/{self.epochs}"))
        widths["phase"] = max(map(len, ("phase", *self.phases)))
        if not any(self.phases):
            del widths["phase"]
        for name in DROPPED:
            if _total(widths) > self.screen:
                widths.pop(name, None)
        if self.metric:
            widths[self.metric] = max(least, widths[self.metric] - max(0, _total(widths) - self.screen))
        return widths

    def heading(self) -> str:
        """Return the names of the columns."""
        widths = self.widths
        names = [name if len(name) <= width else f"{name[: width - 1]}…" for name, width in widths.items()]
        return aligned(names, list(widths.values()))

    def line(self, rows: Sequence[Row]) -> str:
        """Return the line of the last of `rows`; a star marks the best score so far."""
        from pipelines.core.job import best_row

        row, widths = rows[-1], self.widths
        epoch = row["epoch"]
        cells = {"epoch": f"{epoch}/{self.epochs}", "train_loss": _number(row["train_loss"])}
        if self.metric:
            star = "*" if best_row(rows, self.metric) is row else " "
            cells |= {"valid_loss": _number(row["valid_loss"]), self.metric: _number(row[self.metric]) + star}
        cells |= {"lr": f"{row['lr']:.2g}", "phase": self.phases[epoch - 1], "left": self._left(rows)}
        cells |= {"images/s": f"{row['images_per_second']:,.0f}"}
        return aligned([cells[name] for name in widths], list(widths.values()))

    def _left(self, rows: Sequence[Row]) -> str:
        """Return the time left after the last of `rows`, as long as epochs of its kind have taken."""
        epoch, head = rows[-1]["epoch"], self.head_epochs
        if epoch <= head < self.epochs:
            return "-"
        alike = [row["seconds"] for row in rows if (row["epoch"] > head) == (epoch > head)]
        return command.duration((self.epochs - epoch) * sum(alike) / len(alike))


def _total(widths: dict[str, int]) -> int:
    return sum(widths.values()) + GAP * (len(widths) - 1)


def _number(value: float) -> str:
    return f"{value:.3e}" if 1e4 <= abs(value) < float("inf") else f"{value:.4f}"


def print_epochs(new: Iterable[Row], earlier: Sequence[Row], table: EpochTable, *seen: Seen) -> list[Row]:
    """Print one aligned row per epoch as it ends, and return the rows of `earlier` and `new` epochs."""
    rows: list[Row] = []
    for row in chain(earlier, new):
        rows.append(row)
        if len(rows) == 1:
            print(table.heading())
        if earlier and len(rows) == len(earlier) + 1:
            print(f"Continuing after epoch {len(earlier)}.")
        print(table.line(rows), flush=True)
        for each in seen:
            each(rows)
    return rows


def train_and_show(job: "Job", network: "nn.Module", group: Group, *seen: Seen) -> list[Row]:
    """Train `network`, print each epoch as it ends, then call each of `seen`; return the rows of all epochs."""
    from pipelines.core.job import read_history, run_job
    from pipelines.core.phases import phase_of_epochs

    settings = job.settings
    metric = settings.competition.metric if job.valid is not None else ""
    phases = phase_of_epochs(settings)[: job.epochs]
    if len(set(phases)) == 1:  # retraining may end before the second
        phases = [""] * job.epochs
    table = EpochTable(job.epochs, metric, phases, settings.tuning.head_epochs, screen_width())
    return print_epochs(run_job(job, network, group), read_history(job), table, *seen)
