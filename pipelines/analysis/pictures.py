"""Pictures and tables of the predictions of a run: its mistakes, and how it does by class, label or number."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipelines.analysis import plots
from pipelines.analysis.result_tables import confused_pairs, deviations, label_table, number_table, wrong_labels
from pipelines.analysis.results import Array, Results
from pipelines.dataset.channels import Pixels, as_colours
from pipelines.dataset.image_set import ImageSet
from pipelines.dataset.images import fit, place_of
from pipelines.dataset.loading import evaluation_resize
from pipelines.dataset.tables import spreadsheet_safe, write_csv
from pipelines.settings.layout import RunLayout
from pipelines.settings.metrics import BOXES, ONE_CLASS, SEVERAL_LABELS
from pipelines.settings.schema import Settings
from pipelines.system.screen import short

MISTAKES_SHOWN = 24
DRAWN = 60  # classes or labels; more could not be read in a picture, and would need too much memory
ROWS_SHOWN = 10  # of a table that takes the place of a picture
PANELS = 6  # numbers in a picture


@dataclass(frozen=True)
class Drawn:
    """The files that were written, and a table for the screen where a picture would be too large: headings, rows."""

    files: list[Path]
    headings: Sequence[str] = ()
    rows: Sequence[Sequence[object]] = ()


def draw_results(run: RunLayout, settings: Settings, results: Results, title: str) -> Drawn:
    """Draw the worst predictions and a summary by class, label or number, and write its numbers as a CSV.

    title: what was scored; it stands above each picture.
    """
    if results.images.task == ONE_CLASS:
        return _draw_classes(run, settings, results, title)
    if results.images.task == SEVERAL_LABELS:
        return _draw_labels(run, settings, results, title)
    if results.images.task == BOXES:
        from pipelines.analysis.box_pictures import draw_found

        _write(run.summary, draw_found(run, results.images, results.compared, title))
        return Drawn([run.mistakes, run.of_boxes, run.summary])
    return _draw_numbers(run, settings, results, title)


def _draw_classes(run: RunLayout, settings: Settings, results: Results, title: str) -> Drawn:
    """Draw the most confident mistakes, and the confusion matrix; list the most confused pairs of many classes."""
    images, decided, confidence = results.images, results.decided, results.predicted
    labels, classes = images.labels, images.classes
    wrong = np.flatnonzero(decided != labels)
    shown = wrong[np.argsort(-confidence[wrong], kind="stable")][:MISTAKES_SHOWN]
    mistakes: list[plots.Mistake] = [
        (pixels, classes[labels[place]], classes[decided[place]], float(confidence[place]))
        for place, pixels in zip(shown, _pixels(settings, images, shown), strict=True)
    ]
    plots.draw_mistakes(run.mistakes, mistakes, f"{title}\n{len(wrong):,} wrong, most confident first")
    if len(classes) <= DRAWN:
        counts = np.zeros((len(classes),) * 2, dtype=np.int64)
        np.add.at(counts, (labels, decided), 1)
        plots.draw_confusion(run.confusion, counts, classes, title)
        return Drawn([run.mistakes, run.confusion])
    pairs = confused_pairs(labels, decided, classes)
    _write(run.summary, pairs)
    first: Any = pairs.head(ROWS_SHOWN).itertuples()
    rows = [(each.label, each.predicted, each.images, f"{each.images / each.of:.0%} of {each.of:,}") for each in first]
    return Drawn([run.mistakes, run.summary], ("true class", "predicted", "images", "share"), rows)


def _draw_labels(run: RunLayout, settings: Settings, results: Results, title: str) -> Drawn:
    """Draw the images with the surest wrong labels, and precision and recall of each label; list these as a CSV."""
    images, decided = results.images, results.decided.astype(bool)
    actual, classes = images.labels.astype(bool), images.classes
    missed, added = actual & ~decided, decided & ~actual
    surprise = np.where(missed, 1 - results.predicted, np.where(added, results.predicted, 0)).sum(axis=1)
    wrong = np.flatnonzero((missed | added).any(axis=1))
    shown = wrong[np.argsort(-surprise[wrong], kind="stable")][:MISTAKES_SHOWN]
    cells = [
        (pixels, wrong_labels(classes, missed[place], added[place], results.predicted[place]))
        for place, pixels in zip(shown, _pixels(settings, images, shown), strict=True)
    ]
    how = f"{len(wrong):,} with wrong labels, surest first: − missed, + wrongly given, with their probabilities"
    plots.draw_pictures(run.mistakes, cells, f"{title}\n{how}")
    table = label_table(actual, decided, classes, results.thresholds)
    _write(run.summary, table)
    if len(classes) <= DRAWN:
        plots.draw_labels(run.by_label, table, title)
        return Drawn([run.mistakes, run.by_label, run.summary])
    order = np.argsort(-(table["missed"] + table["wrongly_given"]).to_numpy(), kind="stable")
    worst: Any = table.iloc[order[:ROWS_SHOWN]].itertuples()
    rows = [
        (each.label, f"{each.precision:.3f}", f"{each.recall:.3f}", each.images, each.missed, each.wrongly_given)
        for each in worst
    ]
    headings = ("labels with most mistakes", "precision", "recall", "images", "missed", "wrongly given")
    return Drawn([run.mistakes, run.summary], headings, rows)


def _draw_numbers(run: RunLayout, settings: Settings, results: Results, title: str) -> Drawn:
    """Draw the images with the largest errors, and predicted against true numbers with the residuals."""
    images, predicted = results.images, results.predicted.astype(np.float64)
    actual, names = images.labels.astype(np.float64), images.classes
    errors = predicted - actual
    sizes = np.nan_to_num(np.abs(errors) / deviations(actual))  # 0: not known
    largest = sizes.argmax(axis=1)
    known = np.flatnonzero(np.isfinite(errors).any(axis=1))
    shown = known[np.argsort(-sizes[known].max(axis=1), kind="stable")][:MISTAKES_SHOWN]
    cells = []
    for place, pixels in zip(shown, _pixels(settings, images, shown), strict=True):
        number = largest[place]
        name = f"{short(names[number])}\n" if len(names) > 1 else ""
        cells.append((pixels, f"{name}is {actual[place, number]:.6g}\nseen as {predicted[place, number]:.5g}"))
    plots.draw_pictures(run.mistakes, cells, f"{title}\n{len(known):,} images with a target, largest errors first")
    table = number_table(actual, predicted, names)
    _write(run.summary, table)
    chosen = np.sort(np.argsort(-(table["rmse"] / deviations(actual)).fillna(-1), kind="stable")[:PANELS])
    if len(names) > PANELS:
        title += f"\nthe {PANELS} of {len(names)} numbers with the largest errors"
    panels = [(names[number], actual[:, number], predicted[:, number]) for number in chosen]
    plots.draw_numbers(run.by_number, panels, title)
    return Drawn([run.mistakes, run.by_number, run.summary])


def _write(path: Path, table: pd.DataFrame) -> None:
    """Write a table of results, safe to open in a spreadsheet; numbers have six digits."""
    texts = table.map(lambda value: spreadsheet_safe(value) if isinstance(value, str) else _number(value))
    write_csv(path, texts)


def _number(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.6g}"


def _pixels(settings: Settings, images: ImageSet, places: Array) -> list[Pixels]:
    """Return the images at `places` as evaluation crops them, in colours."""
    size, resize, how = settings.input.size, evaluation_resize(settings), settings.input.interpolation
    return [
        as_colours(fit(images.reader.open(str(row.path), place_of(row)), size, resize, how))
        for row in images.rows.iloc[places].itertuples()
    ]
