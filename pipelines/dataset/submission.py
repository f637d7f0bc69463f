"""The classes of a competition, and its submission: rows and columns of the sample, filled with answers."""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from pipelines.dataset.answer_cells import Answers, answer_cells
from pipelines.dataset.answer_forms import Form, is_csv, plain_form, sample_form
from pipelines.dataset.box_guards import check_one_class
from pipelines.dataset.encodings import listing_file
from pipelines.dataset.guards import Known, check_columns, check_positive, check_sample, check_separator
from pipelines.dataset.named_tables import number_names
from pipelines.dataset.raw_data import RawData
from pipelines.dataset.tables import csv_writer
from pipelines.dataset.targets import count_labels
from pipelines.dataset.vocabulary import answers_of, submitted_labels
from pipelines.settings.metrics import NUMBERS, ONE_CLASS
from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError, few

FIRST_ROWS = 100  # of the sample; more say nothing else about its columns


def class_list(labels: Sequence[str], settings: Settings, raw: Path, checked: bool = True) -> list[str]:
    """Return the sorted classes or labels, or the names of the numbers in their order.

    labels: the targets as text. Where a probability of each is submitted, the classes are the columns of the sample
    submission, else those that occur. Raises `UserError` if the sample submission contradicts the settings, lacks a
    column, or shows answers of another kind. checked: else the sample is not compared, and its first rows are enough.
    """
    data, competition = settings.data, settings.competition
    if competition.task == NUMBERS:
        occurring = number_names(RawData(raw, data, settings.split, competition))
    else:
        occurring = sorted(count_labels(labels, competition.task))
    texts = submitted_labels(data, raw, occurring)
    if competition.submission == "probability":
        check_positive(occurring, settings)
    sent = [texts.get(label, label) for label in occurring]
    check_separator(sent, settings)
    if checked:
        check_one_class(occurring, settings)
    by_columns = competition.submission == "probabilities"
    if not data.sample_submission or not (checked or by_columns):
        return occurring
    form = sample_form(settings, raw, sent, 0 if checked else FIRST_ROWS)
    if checked:
        table = listing_file(raw / data.labels) if is_csv(data.labels) else None
        known = Known(sent, settings, table if table and table.is_file() else None)
        check_columns(form, known)
        check_sample(form, known)
    if not by_columns:
        return occurring
    labels_of = {text: label for label, text in texts.items()}
    return sorted(labels_of.get(column, column) for column in form.columns)


def classes_without_images(labels: Sequence[str], classes: Sequence[str], task: str = ONE_CLASS) -> list[str]:
    """Return the columns of the sample submission for which no image is labelled; their probabilities mean nothing."""
    if task == NUMBERS:
        return []
    return sorted(set(classes) - count_labels(labels, task).keys())


def write_submission(
    path: Path, ids: Sequence[str], answers: Answers, classes: Sequence[str], settings: Settings, raw: Path
) -> None:
    """Write the submission: header, rows and their order are those of the sample submission, filled by id.

    answers: one row for each of `ids`; it may be a memory map, as only some rows are read at a time. labels: numbers of
    classes (N,); probabilities (N, K); probability (N,); best_labels: numbers of classes (N, k), the best first;
    label_lists: 1 for each label (N, K); numbers (N, T); boxes in data.box_units (N, MOST * 6). Without a sample the
    header is that of the labels CSV, or `id` and `label`, and the rows are in the order of `ids`. Raises `UserError`
    for an id that was not predicted.
    """
    texts = answers_of(classes, settings, raw)
    form = sample_form(settings, raw, texts) if settings.data.sample_submission else None
    form = form or plain_form(settings, raw, ids, texts)
    place = {name: number for number, name in enumerate(ids)}
    if missing := sorted(set(form.images) - place.keys()):
        problem = f"{form.path} has {len(missing)} ids that were not predicted, for example {few(missing)}"
        raise UserError(f"{problem}. If rows were added after the split, split again; otherwise correct this file.")
    rows = np.array([place[image] for image in form.images], np.int64)
    first = form.header.index(form.values[0])
    front = _columns(form, form.header[:first])
    back = _columns(form, form.header[first + len(form.values) :])
    with open(path, "w", encoding="utf-8", newline="") as file:
        used = np.unique(answers) if settings.competition.submission == "labels" else range(len(texts))
        given = chain.from_iterable(form.given[name] for name in form.given)
        writer = csv_writer(file, chain(form.header, (texts[number] for number in used), given))
        writer.writerow(form.header)
        start = 0
        for cells in answer_cells(form, rows, answers, texts, settings):
            end = start + len(cells)
            parts = zip(front[start:end], cells, back[start:end], strict=True)
            writer.writerows([*before, *values, *after] for before, values, after in parts)
            start = end


def _columns(form: Form, names: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the cells of the columns `names` of each row."""
    if not names:
        return [()] * len(form.given)
    return list(zip(*(form.given[name].tolist() for name in names), strict=True))
