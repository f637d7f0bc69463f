"""The training of the best run: its curves, what they mean, and the time of each part."""

import csv
import math
from pathlib import Path

from pipelines.analysis.fit_words import describe_fit
from pipelines.report import charts
from pipelines.report.blocks import Block, Charts, Section, Table, Text
from pipelines.report.ledger import BLEND, FOLDS, Entry
from pipelines.report.standing import score
from pipelines.system.files import read_note
from pipelines.system.screen import duration

PARTS = "train_loss_"  # columns of the parts of the training loss; only boxes have them
Row = dict[str, float]


def section(entry: Entry, metric: str) -> Section:
    """Return the section."""
    title = f"The best {'blend' if entry.kind == BLEND else 'run'}: {entry.name}"
    if entry.kind == BLEND:
        return Section("best", title, _members(entry))
    runs = [entry.run.member(name) for name in entry.members] if entry.kind == FOLDS else [entry.run]
    histories = [rows for run in runs if (rows := read_history(run.history))]
    if not histories:
        return Section("best", title, [Text("It has no history of its epochs.")])
    blocks: list[Block] = [Charts(_curves(histories, metric, entry.best_epoch))]
    if len(histories) == 1 and (said := describe_fit(histories[0], metric)):
        blocks.append(Text(said, "strong"))
    if entry.kind == FOLDS:
        scores = [(name, score(value)) for name, value in zip(entry.members, entry.folds, strict=True)]
        blocks.append(Table("Score of each fold", ("member", metric), scores))
    blocks.append(_times(entry))
    return Section("best", title, blocks)


def read_history(path: Path) -> list[Row]:
    """Return the rows of a history; empty if there is none."""
    if not path.exists():
        return []
    with open(path, encoding="utf-8", newline="") as file:
        rows = [{key: float(value or "nan") for key, value in row.items()} for row in csv.DictReader(file, strict=True)]
    return [row | {"epoch": int(row["epoch"])} for row in rows]


def _curves(histories: list[list[Row]], metric: str, best_epoch: int) -> list[charts.Markup]:
    faint = len(histories) > 1
    loss, scores, rate = [], [], []
    for number, rows in enumerate(histories):
        epochs = [row["epoch"] for row in rows]
        first = number == 0
        loss.append(charts.Line("train (augmented)" * first, epochs, [row["train_loss"] for row in rows], 0, faint))
        loss.append(charts.Line("valid" * first, epochs, [row["valid_loss"] for row in rows], 1, faint))
        parts = [key for key in rows[0] if key.startswith(PARTS)] if not faint else []
        for colour, key in enumerate(parts, 2):
            loss.append(charts.Line(key.removeprefix(PARTS), epochs, [row[key] for row in rows], colour, dashed=True))
        scores.append(charts.Line(f"valid {metric}" * first, epochs, [row[metric] for row in rows], 1, faint))
        low, high = f"{metric}_low", f"{metric}_high"
        if not faint and low in rows[0]:
            scores += [charts.Line("", epochs, [row[key] for row in rows], 1, dashed=True) for key in (low, high)]
        if first:
            rate = [
                charts.Line(
                    f"learning rate, at most {max(row['lr'] for row in rows):.2g}",
                    epochs,
                    [row["lr"] for row in rows],
                    3,
                    right=True,
                )
            ]
    mark = float(best_epoch) if best_epoch and not faint else math.nan
    return [
        charts.lines("Loss in each epoch", loss, "epoch", "loss", mark),
        charts.lines(f"{metric} in each epoch, and the learning rate", scores + rate, "epoch", metric, mark),
    ]


def _times(entry: Entry) -> Table:
    """Return how long the parts of the training took."""
    rows, run = [], entry.run
    note = read_note(run.trained)
    if float(note.get("features_seconds", 0)) >= 1:
        rows.append(("features of the frozen network", duration(note["features_seconds"]), f"{note['train_images']:,}"))
    rows.append(("training and validation", duration(note["seconds"]), f"{note['train_images']:,}"))
    if run.retrained.exists():
        again = read_note(run.retrained)
        rows.append(("training on all labelled images", duration(again["seconds"]), f"{again['train_images']:,}"))
    return Table(f"Time on {note['hardware']['device']}", ("part", "time", "training images"), rows)


def _members(entry: Entry) -> list[Block]:
    """Return the members of a blend with their weights, and what the blend gains."""
    note = read_note(entry.run.blend)
    rows = [(name, score(note["scores"][name]), f"{note['weights'][name]:.3f}") for name in entry.members]
    gain = note["gain_over_best"]
    said = f"It gains {gain['value']:+.4f} (standard error {gain['error']:.4f}) over its best member, on rows that did "
    said += "not choose the weights; positive is better."
    return [Table("Its members", ("member", "score", "weight"), rows), Text(said)]
