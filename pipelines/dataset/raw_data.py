"""The raw folder of a competition, the settings that say what is in it, and the rows of tables that are left out."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from pipelines.dataset.tables import Note, csv_text, silent, spreadsheet_safe
from pipelines.settings.data_sections import CompetitionSettings, DataSettings, SplitSettings
from pipelines.system.errors import quoted, refuse
from pipelines.system.files import write_text

TO_DROP = 'Or leave these rows out: data.flaws = "drop".'


class Flaw(NamedTuple):
    """A row of a table that cannot be used, or an image without a row; then `file` and `line` are empty.

    line: where it is. more: what a message adds to the id.
    """

    file: str
    line: str
    id: str
    reason: str
    more: str = ""

    def __str__(self) -> str:
        return f"{self.line}: {quoted(self.id)}{self.more}" if self.line else f"{self.id}{self.more}"


Boxes = dict[str, list[tuple[str, float, float, float, float]]]


@dataclass(frozen=True)
class RawData:
    """A raw folder and the settings about it.

    note: receives the columns taken and how ids were compared. dropped: receives the rows that are left out. boxes:
    receives those of each image by its path: label, xmin, ymin, xmax, ymax.
    """

    raw: Path
    data: DataSettings
    split: SplitSettings = field(default_factory=SplitSettings)
    competition: CompetitionSettings = field(default_factory=CompetitionSettings)
    note: Note = silent
    dropped: list[Flaw] = field(default_factory=list)
    boxes: Boxes = field(default_factory=dict)

    @property
    def task(self) -> str:
        return self.competition.task

    def leave_out(self, problem: str, flaws: Sequence[Flaw], remedy: str) -> None:
        """Record the `flaws` if data.flaws is drop. Else raise `UserError` if there are any."""
        if self.data.flaws == "drop":
            self.dropped.extend(flaws)
        else:
            refuse(problem, [str(flaw) for flaw in flaws], f"{remedy} {TO_DROP}")


def line_of(place: object) -> str:
    """Return where a row is: an index of a table that is a number is its line, a text says it."""
    return place if isinstance(place, str) else f"line {place}"


def write_dropped(path: Path, dropped: Sequence[Flaw]) -> str:
    """Write the rows that were left out to the CSV `path`; return how many there are, by reason.

    Without such rows an older file is removed, and the text is empty.
    """
    if not dropped:
        path.unlink(missing_ok=True)
        return ""
    rows = [(flaw.file, flaw.line.removeprefix("line "), spreadsheet_safe(flaw.id), flaw.reason) for flaw in dropped]
    write_text(path, csv_text([("file", "line", "id", "reason"), *rows]))
    counts = Counter(flaw.reason.partition(",")[0] for flaw in dropped)
    return ", ".join(f"{reason} ({count:,})" for reason, count in counts.most_common())
