"""What a run gets wrong: images, classes, pairs of classes, labels and numbers."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from pipelines.analysis.box_results import class_table
from pipelines.analysis.result_tables import confused_pairs, deviations, label_table, number_table, wrong_labels
from pipelines.report import charts
from pipelines.report.blocks import Block, Charts, Gallery, Picture, Plate, Section, Table, Text
from pipelines.report.evidence import Array, Evidence
from pipelines.report.thumbnails import picture_file, thumbnails
from pipelines.settings.metrics import BOXES, NUMBERS, ONE_CLASS

PICTURES = 24
WORST, PAIRS = 15, 20
WIDTH = 1000  # of pictures of boxes in pixels
LEAST_IMAGES = 5  # of a class that is called the worst
MATRIX = 30  # classes; more cannot be read
NUMBERS_DRAWN = 4


def section(evidence: Evidence) -> tuple[Section, tuple[str, str]]:
    """Return the section, and for the first screen the worst class or label with a line about it."""
    build = {ONE_CLASS: _classes, NUMBERS: _numbers, BOXES: _boxes}.get(evidence.task, _labels)
    blocks, worst = build(evidence)
    return Section("mistakes", f"What {evidence.entry.name} gets wrong", blocks), worst


def _classes(evidence: Evidence) -> tuple[list[Block], tuple[str, str]]:
    actual, decided, classes = evidence.actual, evidence.decided, evidence.classes
    wrong = np.flatnonzero(actual != decided)
    confidence = evidence.found.values[:, 0]
    shown = wrong[np.argsort(-confidence[wrong], kind="stable")][:PICTURES]
    texts = [
        [
            f"is {charts.short_name(classes[actual[row]])}",
            f"seen as {charts.short_name(classes[decided[row]])}",
            f"{confidence[row]:.0%} sure",
        ]
        for row in shown
    ]
    blocks: list[Block] = [Text(f"{len(wrong):,} of {len(actual):,} validated images are wrong.")]
    blocks.append(_gallery(evidence, "The surest mistakes; look for wrong labels first", shown, texts))
    pairs = confused_pairs(actual, decided, classes)
    table = _class_table(actual, decided, pairs, classes)
    if not len(wrong):
        return blocks, ("nothing", "no validated image is wrong")
    rows = [(_name(each[0]), _name(each[3]), f"{each[1]:.3f}", f"{each[2]:,}") for each in table.to_numpy().tolist()]
    headings, rest = ("class", "most often seen as", "recall", "images"), rows[WORST : WORST + 500]
    blocks.append(Table("Worst classes by recall", headings, rows[:WORST], words=2))
    if rest:
        blocks.append(Table(f"{len(rows) - WORST:,} more classes", headings, rest, words=2, folded=True))
    first = [
        (_name(each.label), _name(each.predicted), f"{each.images:,}", f"{each.images / each.of:.0%}")
        for each in _rows(pairs.head(PAIRS))
    ]
    blocks.append(Table("Most confused pairs", ("is", "seen as", "images", "of the class"), first, words=2))
    if 2 <= len(classes) <= MATRIX:
        blocks.append(Charts([_matrix(actual, decided, classes)]))
    large = table[table["images"] >= LEAST_IMAGES]
    name, recall, images, other = (large if len(large) else table).iloc[0]
    return blocks, (
        f"class {charts.short_name(name)}",
        f"recall {recall:.2f} of {images:,} images, most often seen as {charts.short_name(other)}",
    )


def _class_table(actual: Array, decided: Array, pairs: pd.DataFrame, classes: list[str]) -> pd.DataFrame:
    """Return `label`, `recall`, `images` and `other`, the class it is taken for most often; worst first."""
    images = np.bincount(actual, minlength=len(classes))
    right = np.bincount(actual[actual == decided], minlength=len(classes))
    other = dict(zip(reversed(pairs["label"].tolist()), reversed(pairs["predicted"].tolist()), strict=True))
    known = np.flatnonzero(images)
    recall = right[known] / images[known]
    table = pd.DataFrame({"label": [classes[place] for place in known], "recall": recall, "images": images[known]})
    table["other"] = [other.get(name, "–") for name in table["label"]]
    return table.iloc[np.lexsort((-table["images"].to_numpy(), recall))]


def _matrix(actual: Array, decided: Array, classes: list[str]) -> charts.Markup:
    """Return the confusion matrix, its classes ordered such that confused ones are neighbours."""
    from scipy.cluster.hierarchy import leaves_list, linkage, optimal_leaf_ordering
    from scipy.spatial.distance import squareform

    counts = np.zeros((len(classes),) * 2)
    np.add.at(counts, (actual, decided), 1)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    order = np.arange(len(classes))
    if len(classes) > 2:
        apart = 1 - np.minimum((shares + shares.T) / 2, 1)
        np.fill_diagonal(apart, 0)
        distances = squareform(apart, checks=False)
        order = leaves_list(optimal_leaf_ordering(linkage(distances, "average"), distances))
    title = "Confusion: each row is a true class; confused classes are neighbours"
    return charts.matrix(title, [classes[place] for place in order], shares[np.ix_(order, order)])


def _labels(evidence: Evidence) -> tuple[list[Block], tuple[str, str]]:
    actual, decided, classes = evidence.actual.astype(bool), evidence.decided.astype(bool), evidence.classes
    values = evidence.found.values
    missed, added = actual & ~decided, decided & ~actual
    surprise = np.where(missed, 1 - values, np.where(added, values, 0)).sum(axis=1)
    wrong = np.flatnonzero((missed | added).any(axis=1))
    shown = wrong[np.argsort(-surprise[wrong], kind="stable")][:PICTURES]
    texts = [wrong_labels(classes, missed[row], added[row], values[row]).split("\n") for row in shown]
    blocks: list[Block] = [Text(f"{len(wrong):,} of {len(actual):,} validated images have a wrong label.")]
    blocks.append(_gallery(evidence, "The surest mistakes: − missed, + wrongly given", shown, texts))
    table = label_table(actual, decided, classes, evidence.thresholds.tolist())
    precision, recall = table["precision"].fillna(0.0), table["recall"].fillna(0.0)
    table["f1"] = (2 * precision * recall / (precision + recall)).fillna(0.0)
    table = table[table["images"] > 0].iloc[np.argsort(table.loc[table["images"] > 0, "f1"].to_numpy(), kind="stable")]
    rows = [
        (
            _name(each.label),
            f"{each.f1:.3f}",
            _share(each.precision),
            _share(each.recall),
            f"{each.threshold:.3f}",
            f"{each.images:,}",
            f"{each.missed:,}",
            f"{each.wrongly_given:,}",
        )
        for each in _rows(table)
    ]
    headings = ("label", "F1", "precision", "recall", "threshold", "images", "missed", "wrongly given")
    blocks.append(Table("Labels, the lowest F1 first", headings, rows[:WORST]))
    if rows[WORST:]:
        blocks.append(Table(f"{len(rows) - WORST:,} more labels", headings, rows[WORST : WORST + 500], folded=True))
    large = table[table["images"] >= LEAST_IMAGES]
    first = (large if len(large) else table).head(1)
    for each in _rows(first):
        return blocks, (charts.short_name(each.label), f"F1 {each.f1:.2f}, {each.missed:,} of {each.images:,} missed")
    return blocks, ("", "")


def _numbers(evidence: Evidence) -> tuple[list[Block], tuple[str, str]]:
    actual, predicted = evidence.actual.astype(np.float64), evidence.found.values
    names, errors = evidence.classes, predicted - evidence.actual.astype(np.float64)
    sizes = np.nan_to_num(np.abs(errors) / deviations(actual))
    known = np.flatnonzero(np.isfinite(errors).any(axis=1))
    shown = known[np.argsort(-sizes[known].max(axis=1), kind="stable")][:PICTURES]
    texts = []
    for row in shown:
        column = int(sizes[row].argmax())
        name = [charts.short_name(names[column])] if len(names) > 1 else []
        texts.append([*name, f"is {actual[row, column]:.6g}", f"seen as {predicted[row, column]:.5g}"])
    blocks: list[Block] = [_gallery(evidence, "The largest errors", shown, texts)]
    table = number_table(actual, predicted, names)
    rows = [
        (each.number, f"{each.rmse:.5g}", f"{each.mae:.5g}", f"{each.bias:+.4g}", _share(each.r2), f"{each.images:,}")
        for each in _rows(table)
    ]
    blocks.append(Table("Errors of each number", ("number", "RMSE", "MAE", "mean error", "R²", "images"), rows))
    worst = np.argsort(-(table["rmse"] / deviations(actual)).fillna(-1).to_numpy(), kind="stable")
    drawn = []
    for column in sorted(worst[:NUMBERS_DRAWN].tolist()):
        title, pair = charts.short_name(names[column]), (actual[:, column], predicted[:, column])
        points = [(float(a), float(b), "") for a, b in zip(*pair, strict=True)]
        drawn.append(charts.scatter(f"Predicted against true: {title}", points, ("true", "predicted"), diagonal=True))
        left = [(a, b - a, "") for a, b, _ in points]
        drawn.append(charts.scatter(f"Error by size: {title}", left, ("true", "predicted − true")))
    blocks.append(Charts(drawn))
    first = table.iloc[int(worst[0])]
    about = (
        f"RMSE {first['rmse']:.4g}, mean error {first['bias']:+.3g}"
        if len(names) > 1
        else f"mean error {first['bias']:+.3g}"
    )
    return blocks, (charts.short_name(str(first["number"])), about)


def _boxes(evidence: Evidence) -> tuple[list[Block], tuple[str, str]]:
    run, compared = evidence.entry.run, evidence.compared
    blocks: list[Block] = [Text(compared.describe())]
    pictures = {run.mistakes: "The worst images, and some at random", run.of_boxes: "Precision, recall and sizes"}
    blocks += [Plate(shown, about) for path, about in pictures.items() if (shown := picture_file(path, WIDTH))]
    table = class_table(compared, evidence.classes)
    table = table.iloc[np.argsort(table["ap_50"].fillna(2).to_numpy(), kind="stable")]
    rows = [
        (_name(each.label), *map(_share, (each.ap_50, each.ap, each.recall_50)), each.boxes, each.missed, each.false)
        for each in _rows(table)
    ]
    headings = ("class", "AP at 0.5", "AP at 0.50:0.95", "recall at 0.5", "boxes", "missed", "false")
    blocks.append(Table("Classes, the lowest average precision first", headings, rows[:WORST]))
    if rows[WORST:]:
        blocks.append(Table(f"{len(rows) - WORST:,} more classes", headings, rows[WORST : WORST + 500], folded=True))
    large = table[table["boxes"] >= LEAST_IMAGES]
    for each in _rows((large if len(large) else table).head(1)):
        about = f"average precision {_share(each.ap_50)} at 0.5, {each.missed:,} of {each.boxes:,} boxes missed"
        return blocks, (charts.short_name(each.label), about)
    return blocks, ("", "")


def _gallery(evidence: Evidence, title: str, shown: Array, texts: list[list[str]]) -> Gallery:
    places = evidence.places[shown].tolist()
    ids = [f"id {charts.short_name(name, 24)}" for name in evidence.images.table["id"].loc[places]]
    pictures = [
        Picture(address, [*lines, name])
        for address, lines, name in zip(thumbnails(evidence.images, places), texts, ids, strict=True)
    ]
    return Gallery(title, pictures)


def _rows(table: pd.DataFrame) -> Iterable[Any]:
    """Return the rows of a table, each with its columns as attributes."""
    return table.itertuples()


def _share(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"


def _name(name: str) -> str:
    """Return a name for a table; one of hundreds of letters would fill it."""
    return charts.short_name(name, 60)
