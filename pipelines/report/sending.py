"""The submission of a run: its rows, what it answers, and some test images with their answers."""

import csv
import itertools
import random
from pathlib import Path

import numpy as np

from pipelines.dataset.targets import count_labels
from pipelines.report import charts
from pipelines.report.blocks import Block, Charts, Gallery, Picture, Section, Table, Text
from pipelines.report.evidence import Array, Evidence
from pipelines.report.thumbnails import thumbnail_with, thumbnails
from pipelines.settings.metrics import BOXES, NUMBERS, ONE_CLASS
from pipelines.system.files import file_sha256

LINES, CELLS_SHOWN, SIGNS_SHOWN = 5, 8, 120  # of the CSV, of a line and of a cell
PICTURES = 20
MOST_BARS = 20
SEED = 0


def section(evidence: Evidence, path: Path, shown: str) -> Section:
    """Return the section on the submission at `path`.  shown: the path to print."""
    note, blocks = evidence.note, list[Block]()
    section = Section("submission", "The submission", blocks)
    if not path.exists():
        blocks.append(Text(f"{shown} is missing."))
        return section
    if note.get("sha256") != file_sha256(path):
        blocks.append(
            Text(f"{shown} is not as predict left it: it was changed since, or belongs to another run.", "strong")
        )
    else:
        checked = (
            "checked against the sample submission" if note.get("sample") else "there is no sample to check it against"
        )
        blocks.append(Text(f"{shown}: {int(note['rows']):,} rows, {checked}; sha256 {str(note['sha256'])[:12]}…"))
    blocks.append(_first_lines(path))
    test = evidence.test
    if test is None:
        if note.get("test_predictions"):
            blocks.append(Text("Its stored predictions are missing, damaged or of another submission, or are ranks."))
        return section
    places, predictions = test
    if evidence.task == BOXES:
        return Section(section.anchor, section.title, [*blocks, *_boxes(evidence, places, predictions)])
    answers = evidence.probabilities(predictions) if evidence.task != NUMBERS else predictions.astype(np.float64)
    if evidence.task == ONE_CLASS:
        blocks.append(Charts([_distribution(evidence, answers.argmax(axis=1))]))
    some = sorted(random.Random(SEED).sample(range(len(places)), min(PICTURES, len(places))))
    pictures = thumbnails(evidence.images, places[some].tolist())
    ids = evidence.images.table["id"].loc[places[some].tolist()]
    cells = [
        Picture(address, [*_answer(evidence, answers[row]), f"id {charts.short_name(name, 24)}"])
        for address, row, name in zip(pictures, some, ids, strict=True)
    ]
    blocks.append(
        Gallery(
            f"{len(cells)} test images, chosen at random, with their most probable answer"
            if evidence.task != NUMBERS
            else f"{len(cells)} test images, chosen at random",
            cells,
        )
    )
    return section


def _boxes(evidence: Evidence, places: Array, predictions: Array) -> list[Block]:
    """Return the classes and the number of the predicted boxes, and some test images with theirs."""
    boxes, table = evidence.sent_boxes(predictions), evidence.images.table
    counts = boxes[:, :, 1] > 0
    labels = table.loc[table["split"] != "test", "label"]
    known, given = count_labels(labels, BOXES).total() / max(1, len(labels)), counts.sum() / max(1, len(boxes))
    said = f"Boxes per image: {known:.1f} in the labels, {given:.1f} in the test images, counted as the validated ones."
    some = sorted(random.Random(SEED).sample(range(len(places)), min(PICTURES, len(places))))
    pictures = []
    for row in some:
        lines = [f"{counts[row].sum()} boxes", f"id {charts.short_name(table['id'].loc[places[row]], 40)}"]
        pictures.append(Picture(thumbnail_with(boxes[row], evidence.images, int(places[row])), lines))
    chart = _distribution(evidence, boxes[:, :, 0][counts].astype(np.int64))
    return [Charts([chart]), Text(said), Gallery(f"{len(some)} test images, chosen at random", pictures, wide=True)]


def _first_lines(path: Path) -> Table:
    with open(path, encoding="utf-8", newline="") as file:
        lines = itertools.islice(csv.reader(file), LINES + 1)
        rows = [[charts.short_name(cell, SIGNS_SHOWN) for cell in line] for line in lines]
    cut = [[*row[:CELLS_SHOWN], "…"] if len(row) > CELLS_SHOWN else row for row in rows]
    heading = cut[0] if cut else []
    return Table("Its first lines", heading, [row for row in cut[1:] if len(row) == len(heading)], words=len(heading))


def _distribution(evidence: Evidence, decided: "np.ndarray[tuple[int, ...], np.dtype[np.int64]]") -> charts.Markup:
    """Return the shares of the classes among training labels and predicted test images; of many classes, those that
    differ most."""
    table, classes = evidence.images.table, evidence.classes
    counts = count_labels(table.loc[table["split"] != "test", "label"], evidence.task)
    trained = np.array([counts[name] for name in classes], float) / max(counts.total(), 1)
    predicted = np.bincount(decided, minlength=len(classes)) / max(len(decided), 1)
    order = np.arange(len(classes))
    title = "Classes in the labels and in the predicted test images"
    if len(classes) > MOST_BARS:
        order = np.argsort(-np.abs(trained - predicted), kind="stable")[:MOST_BARS]
        title += f": the {MOST_BARS} that differ most"
    values = {"of the labels": trained[order].tolist(), "of the test predictions": predicted[order].tolist()}
    return charts.bars(title, [classes[place] for place in order], values, lambda share: f"{share:.1%}")


def _answer(evidence: Evidence, values: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]") -> list[str]:
    """Return what the network says of an image, as lines."""
    names = evidence.classes
    if evidence.task == NUMBERS:
        return [
            f"{charts.short_name(name, 16)} {value:.5g}" for name, value in list(zip(names, values, strict=True))[:3]
        ]
    if evidence.task == ONE_CLASS:
        best = int(values.argmax())
        return [f"{charts.short_name(names[best])} {values[best]:.0%}"]
    order = np.argsort(-values, kind="stable")
    given = [place for place in order if values[place] >= evidence.thresholds[place]][:3]
    return [f"{charts.short_name(names[place])} {values[place]:.0%}" for place in given] or ["no label"]
