"""The cells of the tables that `make runs` prints: all runs, and the settings in which two differ."""

import math
import statistics
from collections.abc import Sequence
from typing import Any

from pipelines.report.ledger import BLEND, FOLDS, Entry, Ledger
from pipelines.settings.loading import to_dict
from pipelines.settings.overrides import toml
from pipelines.settings.records import RUN_SECTIONS, read_record
from pipelines.system.screen import cut

HEADINGS = ("run", "", "recipe and changes", "score", "95% interval", "public", "private", "epochs", "time", "age")
LEFT_ALIGNED = 3
CHANGES = HEADINGS.index("recipe and changes")
DROPPED = ("age", "time", "epochs", "95% interval", "private", "public")  # where the line is too narrow, in this order
LEAST_CHANGES, LONGEST_NAME, LONGEST_VALUE = 20, 24, 34  # characters
COMPARED = (*RUN_SECTIONS, "predict", "hardware")  # sections of settings
UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def table_row(entry: Entry, ledger: Ledger, now: float) -> tuple[str, ...]:
    """Return the cells below `HEADINGS`.  now: seconds since 1970."""
    marks = [word for word, true in (("best", entry is ledger.best), ("sent", bool(entry.sent))) if true]
    sent = ledger.best_sent(entry)
    return (
        cut(entry.name, LONGEST_NAME),
        " ".join(marks),
        describe(entry),
        _score(entry.score),
        "-" if math.isnan(entry.bounds[0]) else " to ".join(map(_score, entry.bounds)),
        (sent and sent.public_score) or "-",
        (sent and sent.private_score) or "-",
        f"{entry.best_epoch}/{entry.epochs}" if entry.epochs else "-",
        roughly(entry.seconds) if entry.seconds else "-",
        roughly(now - entry.when),
    )


def describe(entry: Entry) -> str:
    """Return recipe and changes of a run; of a fold set also mean and spread of its scores; the members of a blend."""
    if entry.kind == BLEND:
        return f"blend of {', '.join(entry.members)}"
    words = [entry.recipe]
    known = [score for score in entry.folds if not math.isnan(score)]
    if entry.kind == FOLDS and len(known) > 1:
        mean, spread = statistics.fmean(known), statistics.stdev(known)
        words = [f"{entry.recipe}, {len(entry.members)} members {_score(mean)} ± {_score(spread)}"]
    return " ".join([*words, *entry.differs])


def fitted(headings: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> tuple[list[str], list[list[str]]]:
    """Return the headings and rows that fit into `width` characters.

    Columns of nothing and those of `DROPPED` are left out; then what a run changes is cut.
    """
    cells = [list(headings), *map(list, rows)]
    empty = {name for place, name in enumerate(HEADINGS) if {row[place] for row in rows} <= {"-", ""}}
    for dropped in range(len(DROPPED) + 1):
        left_out = {*DROPPED[:dropped], *empty}
        places = [place for place, name in enumerate(HEADINGS) if name not in left_out]
        widths = {place: max(len(row[place]) for row in cells) for place in places}
        room = width - sum(widths[place] + 2 for place in places if place != CHANGES)
        if room >= min(LEAST_CHANGES, widths[CHANGES]):
            break
    room = max(room, LEAST_CHANGES)
    shown = [[cut(row[place], room) if place == CHANGES else row[place] for place in places] for row in cells]
    return shown[0], shown[1:]


def compared_settings(first: Entry, second: Entry) -> list[tuple[str, str, str]]:
    """Return the settings in which two runs differ: `section.key`, and both values; of a blend only its members.

    Raises `UserError` if a record is damaged.
    """
    if BLEND in (first.kind, second.kind):
        return [("made of", cut(describe(first), LONGEST_VALUE), cut(describe(second), LONGEST_VALUE))]
    known = [_values(entry) for entry in (first, second)]
    pairs = [(name, _text(known[0][name]), _text(known[1][name])) for name in known[0]]
    return [pair for pair in pairs if pair[1] != pair[2]]


def _values(entry: Entry) -> dict[str, Any]:
    """Return the recipe, the number of members, and the settings by `section.key`; [predict] as it predicted last."""
    sections = to_dict(read_record(entry.run).settings)
    sections["predict"] |= entry.note.get("predict", {})
    values = {f"{section}.{key}": value for section in COMPARED for key, value in sections[section].items()}
    return {"recipe": entry.recipe, "members": len(entry.members), **values}


def _text(value: Any) -> str:
    return cut(value if isinstance(value, str) and value else toml(value), LONGEST_VALUE)


def roughly(seconds: float) -> str:
    """Return a duration in one unit, such as `95 s` or `30 h`."""
    size, unit = next((each for each in UNITS if seconds >= 2 * each[0]), UNITS[-1])
    return f"{max(seconds, 0) // size:.0f} {unit}"


def _score(value: float) -> str:
    return f"{value:.4f}"
