"""Answers as the text of a submission's cells, some rows at a time."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.dataset.answer_forms import Form, label_order, sample_decimals
from pipelines.dataset.box_cells import box_cell, digits_of
from pipelines.settings.metrics import METRICS, ONE_CLASS
from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError

PROBABILITY_FORMAT = "%.9g"  # the precision of float32
CELLS = 2**20  # answers in memory at a time
Answers = npt.NDArray[Any]
Cells = list[list[str]]  # the answers of some rows


def answer_cells(
    form: Form, rows: Answers, answers: Answers, texts: Sequence[str], settings: Settings
) -> Iterator[Cells]:
    """Yield the cells of the rows of `form`, in their order, some rows at a time.

    rows: the row of `answers` for each row of `form`. texts: the classes, as they are submitted, or the names of the
    numbers.
    """
    step = max(1, CELLS // (answers.shape[1] if answers.ndim > 1 else 1))
    if settings.competition.submission in ("probabilities", "numbers"):
        to_cells = _of_values(form, answers, texts, settings)
    else:
        to_cells = _of_labels(form, texts, settings)
    for start in range(0, len(rows), step):
        yield to_cells(answers[rows[start : start + step]], start)


def _of_labels(form: Form, texts: Sequence[str], settings: Settings) -> Callable[[Answers, int], Cells]:
    """Return the function that writes answers that fill one cell."""
    competition = settings.competition
    separator, none = competition.answer_separator, competition.no_label
    if competition.submission == "labels":
        return lambda block, _: [[texts[number]] for number in block.tolist()]
    if competition.submission == "probability":
        return lambda block, _: [[PROBABILITY_FORMAT % value] for value in block.tolist()]
    if competition.submission == "best_labels":
        return lambda block, _: [[separator.join(texts[number] for number in row)] for row in block.tolist()]
    sample = form.cells[form.values[0]].tolist() if form.path else []
    if competition.submission == "boxes":
        digits = digits_of(sample, settings)
        return lambda block, _: [[box_cell(row, texts, settings, digits)] for row in block]
    order = label_order(sample, separator, texts)
    names = [texts[number] for number in order]
    return lambda block, _: [
        [separator.join(names[number] for number in np.flatnonzero(row)) or none] for row in block[:, order]
    ]


def _of_values(
    form: Form, answers: Answers, texts: Sequence[str], settings: Settings
) -> Callable[[Answers, int], Cells]:
    """Return the function that writes a number for each column, or for the target of the row in a long form."""
    place = {text: number for number, text in enumerate(texts)}
    if len(texts) == 1 == len(form.columns):
        place = {form.columns[0]: 0}
    if set(form.columns) != place.keys():
        raise UserError(
            f"{form.path}: its columns are not the classes that the run was trained on. Split and train again."
        )
    columns = [place[name] for name in form.columns]
    targets = np.array([place[name] for name in form.targets], np.int64)
    sums_to_one = settings.competition.submission == "probabilities" and settings.competition.task == ONE_CLASS
    write = _number_format(form, answers, settings)

    def to_cells(block: Answers, start: int) -> Cells:
        values = block.astype(np.float64)
        if sums_to_one:
            values /= values.sum(axis=1, keepdims=True)
        if len(targets):
            return [[write(value)] for value in values[np.arange(len(values)), targets[start : start + len(values)]]]
        return [[write(value) for value in row] for row in values[:, columns].tolist()]

    return to_cells


def _number_format(form: Form, answers: Answers, settings: Settings) -> Callable[[float], str]:
    """Return the function that writes a number: with the decimals of the settings or of the sample, or all of them."""
    competition = settings.competition
    if competition.submission == "probabilities":
        return lambda value: PROBABILITY_FORMAT % value
    digits = number_digits(form, settings)
    if digits < 0 and METRICS[competition.metric].takes == "grades" and _are_whole(answers):
        digits = 0
    if digits < 0:
        return lambda value: PROBABILITY_FORMAT % value
    return lambda value: f"{round(value, digits) + 0.0:.{digits}f}"  # + 0.0: no -0.00


def number_digits(form: Form | None, settings: Settings) -> int:
    """Return how many digits after the point numbers are sent with: those stated, else the sample's; -1 for all."""
    stated = settings.competition.decimals
    return sample_decimals(form.cells) or -1 if stated < 0 and form and form.path else stated


def _are_whole(answers: Answers) -> bool:
    parts = (answers[start : start + CELLS] for start in range(0, len(answers), CELLS))
    return all(bool((part == np.round(part)).all()) for part in parts)
