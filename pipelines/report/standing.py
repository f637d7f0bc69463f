"""Where we stand: the first screen, all runs, and local against public scores."""

import itertools
import math
import statistics
from collections.abc import Callable, Sequence

from pipelines.kaggle.submission_log import COMPLETE, PENDING, Row
from pipelines.report import charts
from pipelines.report.blocks import Block, Card, Charts, Section, Table, Text
from pipelines.report.ledger import BLEND, FOLDS, Entry, Ledger
from pipelines.system.screen import duration

Repeat = Callable[..., str]  # returns the command of a stage, with make's variables
KINDS = {FOLDS: "fold set", BLEND: "blend", "run": "run"}
ROWS_SHOWN = 15  # of the table; the others are folded
NOTHING_NEW = ("", "–", KINDS["run"])  # cells; a column of these alone is left out


def cards(
    ledger: Ledger, wrong: tuple[str, str], repeat: Repeat, sends: bool, chosen: Sequence[str] = ()
) -> list[Card]:
    """Return the first screen.  wrong: the worst class with a line about it.  sends: whether Kaggle scores it.
    chosen: the settings of [predict] of the best run's submission."""
    found, best = [], ledger.best
    if best:
        about = f"{best.name}, {_interval(best)}{'' if best.as_predicted else ', not yet as predicted'}"
        found.append(Card(f"Best validation {ledger.metric}", score(best.score), about))
    if sends:
        found.append(_board(ledger))
    if wrong[0]:
        found.append(Card("Where it fails most", *wrong))
    found.append(_next(ledger, repeat, sends, chosen))
    return found


def _board(ledger: Ledger) -> Card:
    """Return the best public score with its gap to the local one."""
    scored = [row for row in ledger.log if row.public_score]
    if not scored:
        waiting = any(row.status == PENDING for row in ledger.log)
        return Card("Best public score", "–", "sent, not scored yet" if waiting else "nothing was sent yet")
    row = max(scored, key=lambda each: ledger.goodness(float(each.public_score)))
    gap = _gap(row)
    about = f"{row.run or row.file}, {gap} against its local score" if gap else f"{row.run or row.file}"
    private = f"; private {row.private_score}" if row.private_score else ""
    return Card("Best public score", row.public_score, about + private)


def _next(ledger: Ledger, repeat: Repeat, sends: bool, chosen: Sequence[str]) -> Card:
    """Return what to do next: predict, send or score the best run."""
    best = ledger.best
    if best is None:
        return Card("Next", "Train a run", repeat("train"))
    variables = run_variables(best, chosen)
    if not best.file:
        stages = "retrain predict" if best.epochs and not best.run.retrained.exists() else "predict"
        return Card("Next", "Predict the best run", repeat(stages, **variables))
    if not sends:
        return Card("Next", "Score the best run", repeat("score", **variables))
    if not best.sent:
        first = max(
            (row for row in ledger.log if row.local_score),
            default=None,
            key=lambda row: ledger.goodness(float(row.local_score)),
        )
        if first is not None and _within(best, float(first.local_score)):
            return Card(
                "Next",
                "Perhaps send the best run",
                f"{first.run}, which was sent, lies within its interval. {repeat('submit', **variables)}",
            )
        return Card("Next", "Send the best run", repeat("submit", **variables))
    if any(row.status == PENDING for row in best.sent):
        return Card("Next", "Read its score", repeat("submissions"))
    return Card("Next", "The best run was sent", "To do better, train another: see the list of settings")


def _within(entry: Entry, value: float) -> bool:
    low, high = entry.bounds
    return low <= value <= high


def section(ledger: Ledger, limits: str) -> Section:
    """Return the table of all runs, and a plot of local against public scores.  limits: submissions that are left."""
    blocks: list[Block] = []
    if ledger.problem:
        blocks.append(Text(f"The log of submissions cannot be read: {ledger.problem}"))
    rows = [_row(ledger, entry) for entry in ledger.entries]
    headings = (
        "run",
        "kind",
        "state",
        "what differs",
        ledger.metric,
        "95 % interval",
        "n",
        "public",
        "private",
        "gap",
        "best epoch",
        "time",
        "device",
    )
    kept = [place for place in range(len(headings)) if place < 1 or any(row[place] not in NOTHING_NEW for row in rows)]
    marked = [place for place, entry in enumerate(ledger.entries) if entry is ledger.best]
    direction = "highest" if ledger.higher_is_better else "lowest"
    shown = [[row[place] for place in kept] for row in rows]
    words = sum(place < 4 for place in kept)
    names = [headings[place] for place in kept]
    title = f"All runs, {direction} {ledger.metric} first"
    blocks.append(Table(title, names, shown[:ROWS_SHOWN], words, marked))
    if rest := shown[ROWS_SHOWN:]:
        blocks.append(Table(f"{len(rest)} more runs", names, rest, words, folded=True))
    best = ledger.best
    if best and (close := sum(_within(best, entry.score) for entry in ledger.entries if entry is not best)):
        which = "another run lies" if close == 1 else f"{close} other runs lie"
        blocks.append(Text(f"By its score {which} within the interval of {best.name}: chance may have ordered them."))
    if len(ledger.log) and (ranks := "#" in "".join(str(row) for row in rows)):
        blocks.append(
            Text("✓ was sent. # is the rank among our own submissions; gap is public minus local score." * ranks)
        )
    if limits:
        blocks.append(Text(limits))
    blocks += _agreement(ledger)
    return Section("runs", "Where we stand", blocks)


def _row(ledger: Ledger, entry: Entry) -> list[str]:
    row = ledger.best_sent(entry)
    state = entry.state or ("other split" if entry.other_split else "" if entry.file else "not predicted")
    differs = ", ".join(entry.differs)
    if entry.recipe not in ("", "default") and not entry.name.startswith(entry.recipe):
        differs = ", ".join(filter(None, (f"recipe {entry.recipe}", differs)))
    if entry.kind == BLEND:
        differs = " + ".join(entry.members)
    board = [_ranked(ledger, row, which) for which in ("public_score", "private_score")]
    return [
        entry.name + " ✓" * bool(entry.sent),
        KINDS[entry.kind],
        state,
        differs,
        score(entry.score) + _spread(entry),
        _interval(entry),
        f"{entry.images:,}" if entry.images else "",
        *board,
        _gap(row) if row else "",
        f"{entry.best_epoch} of {entry.epochs}" if entry.epochs else "",
        duration(entry.seconds) if entry.seconds else "",
        entry.device,
    ]


def _ranked(ledger: Ledger, row: Row | None, which: str) -> str:
    if row is None:
        return ""
    text: str = getattr(row, which)
    if not text:
        return row.status if which == "public_score" and row.status != COMPLETE else ""
    return f"{text} #{ledger.rank(row, which)}"


def _agreement(ledger: Ledger) -> list[Block]:
    """Return local against public scores, and in how many pairs of submissions both agree which is better."""
    known = {
        (float(row.local_score), float(row.public_score)): row.run or row.file
        for row in ledger.log
        if row.local_score and row.public_score
    }
    if len(known) < 2:
        return []
    pairs = [(a, b) for a, b in itertools.combinations(known, 2) if a[0] != b[0] and a[1] != b[1]]
    alike = sum((a[0] < b[0]) == (a[1] < b[1]) for a, b in pairs)
    said = f"In {alike} of {len(pairs)} pairs of submissions, local and public score agree which is better."
    points = [(*both, f"{name}: local {both[0]:g}, public {both[1]:g}") for both, name in known.items()]
    chart = charts.scatter(
        "Local against public score: does validation predict the leaderboard?",
        points,
        (f"local {ledger.metric}", f"public {ledger.metric}"),
        diagonal=True,
    )
    return [Charts([chart]), Text(said)]


def run_variables(entry: Entry, chosen: Sequence[str] = ()) -> dict[str, str]:
    """Return make's variables that name the run, and `chosen` settings."""
    recipe = {} if entry.recipe in ("", "default") else {"RECIPE": entry.recipe}
    return {**recipe, "RUN": entry.name, **({"SET": " ".join(chosen)} if chosen else {})}


def score(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.4f}"


def _interval(entry: Entry) -> str:
    low, high = entry.bounds
    return "" if math.isnan(low) else f"{low:.4f} to {high:.4f}"


def _spread(entry: Entry) -> str:
    return f" (folds ± {statistics.stdev(entry.folds):.4f})" if len(entry.folds) > 1 else ""


def _gap(row: Row) -> str:
    if not (row.local_score and row.public_score):
        return ""
    return f"{float(row.public_score) - float(row.local_score):+.4f}"
