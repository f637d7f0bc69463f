"""Check a submission before it is sent: its header, its ids, and what its answers mean, some rows at a time."""

import csv
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipelines.dataset.answer_cells import number_digits
from pipelines.dataset.answer_forms import Form, sample_form
from pipelines.dataset.box_cells import boxes_in
from pipelines.dataset.boxes import ONLY_CLASS
from pipelines.dataset.long_form import split_long
from pipelines.dataset.tables import index_columns, read_csv
from pipelines.dataset.vocabulary import answers_of, difference
from pipelines.settings.metrics import METRICS, ONE_CLASS
from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError, few, quoted

SUM_TOLERANCE = 1e-4
MEND = "Correct this file, or predict again."
WHOLE = 2**26  # bytes of a file that is read at once
CELLS = 2**20  # of a larger file, in memory at a time
MOST = 100  # different wrong values that are kept
Flags = npt.NDArray[np.bool_]


@dataclass
class Fault:
    """Rows with one fault: their number, the first line, what is wrong there, and wrong values of all of them."""

    line: int
    what: str
    count: int = 0
    values: list[str] = field(default_factory=list)


@dataclass
class Answers:
    """What is known of the answers of a submission, and what was found wrong with them.

    texts: the labels, as they are submitted, or the names of the numbers. sums: of the probabilities of each image of a
    long form, with its first line.
    """

    settings: Settings
    texts: list[str]
    form: Form | None
    faults: dict[str, Fault] = field(default_factory=dict)
    sums: dict[str, list[float]] = field(default_factory=dict)

    def add(
        self, kind: str, values: pd.DataFrame, wrong: Flags, what: Callable[[int], str], shown: bool = False
    ) -> None:
        """Add the rows of `values` that are `wrong`. what: says what is wrong with a row. shown: keep the values."""
        if not wrong.any():
            return
        first = int(wrong.argmax())
        fault = self.faults.setdefault(kind, Fault(int(values.index[first]), what(first)))
        fault.count += int(wrong.sum())
        if shown:
            new = dict.fromkeys([*fault.values, *values.iloc[:, 0][wrong].tolist()])
            fault.values = list(new)[:MOST]

    def refuse(self, path: Path) -> None:
        """Raise `UserError` for the fault of the first wrong line."""
        if not self.faults:
            return
        fault = min(self.faults.values(), key=lambda each: each.line)
        rows = f"{fault.count} rows have such" if fault.count > 1 else "1 row has such"
        if not fault.values:
            raise UserError(f"{path}, line {fault.line}: {fault.what} ({rows} values). {MEND}")
        known = f"{few(sorted(fault.values), 10)}.{difference(fault.values, self.texts)}"
        raise UserError(f"{path}, line {fault.line}: {fault.what}; {fault.count} rows have such labels: {known} {MEND}")


def check_submission(path: Path, classes: Sequence[str], settings: Settings, raw: Path) -> int:
    """Return the number of rows of the submission at `path`. Raises `UserError` with the first wrong line.

    Header and ids must be those of the sample submission, each id as often as there. Labels must be known, lists of
    labels without repetition and, for the best ones, of the right length; probabilities between 0 and 1, those of one
    class with a sum of 1; numbers finite, in the stated range, and with the stated decimals;
    boxes as `boxes_in` takes them.
    """
    texts = answers_of(classes, settings, raw)
    parts = read_parts(path)
    first = next(parts)
    if len(first.columns) - index_columns(first) < 2:
        raise UserError(f"{path} has one column; a submission has an id and at least one more. {MEND}")
    form = sample_form(settings, raw, texts) if settings.data.sample_submission else None
    answers, ids, count = Answers(settings, texts, form), Counter[tuple[str, ...]](), 0
    keys, values = _columns(path, first, answers)
    look = LOOKS[settings.competition.submission]
    for table in chain([first], parts):
        ids.update(zip(*(table[name].tolist() for name in keys), strict=True))
        look(answers, table[values], table[keys])
        count += len(table)
    _check_ids(path, ids, form)
    for image, (total, line) in answers.sums.items():
        if abs(total - 1) > SUM_TOLERANCE:
            what = f"the probabilities of {quoted(image)}, of which this is the first, sum to {total:.6f}, not to 1"
            fault = answers.faults.setdefault("sum", Fault(int(line), what))
            fault.count += 1
    answers.refuse(path)
    return count


def read_parts(path: Path, whole: int = WHOLE) -> Iterator[pd.DataFrame]:
    """Yield the rows of a submission as `read_csv` returns them: all at once, or some at a time above `whole` bytes."""
    if not path.is_file() or path.stat().st_size <= whole:
        yield read_csv(path)
        return
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip() for name in next(reader)]
            rows, lines, line = [], [], reader.line_num + 1
            for row in reader:
                if row:
                    rows.append([value.strip() for value in row])
                    lines.append(line)
                line = reader.line_num + 1
                if len(rows) * len(header) >= CELLS:
                    yield _table(path, header, rows, lines)
                    rows, lines = [], []
            if rows:
                yield _table(path, header, rows, lines)
    except csv.Error as error:
        raise UserError(f"{path}: not valid CSV: {error}. {MEND}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not in UTF-8. {MEND}") from None


def _table(path: Path, header: list[str], rows: list[list[str]], lines: list[int]) -> pd.DataFrame:
    for line, row in zip(lines, rows, strict=True):
        if len(row) != len(header):
            raise UserError(f"{path}, line {line}: {len(row)} values for {len(header)} columns. {MEND}")
    return pd.DataFrame(rows, columns=header, index=pd.Index(lines, name="line"), dtype=object)


def _columns(path: Path, table: pd.DataFrame, answers: Answers) -> tuple[list[str], list[str]]:
    """Return the columns that say which row it is, and those of the answers. Raises `UserError` for another header."""
    form, header = answers.form, list(map(str, table.columns))
    if form is None:
        names = header[index_columns(table) :]
        number = 2 if "," in answers.settings.competition.long_form else 1
        return names[:number], names[number:]
    if header != form.header:
        raise UserError(f"{path}: its header is {few(header)}; {form.path} has {few(form.header)}. {MEND}")
    return form.keys, form.values


def _check_ids(path: Path, ids: "Counter[tuple[str, ...]]", form: Form | None) -> None:
    """Raise `UserError` unless the ids are those of the sample, each as often; without a sample, each once."""
    keys = [form.given[name].tolist() for name in form.keys] if form else []
    wanted = Counter(zip(*keys, strict=True)) if form else Counter(dict.fromkeys(ids, 1))
    if repeated := [name for name, number in ids.items() if number > max(1, wanted[name])]:
        raise UserError(f"{path}: {len(repeated)} ids occur twice, for example {few(_names(repeated))}. {MEND}")
    absent, extra = list((wanted - ids).elements()), list((ids - wanted).elements())
    if form and (absent or extra):
        raise UserError(
            f"{path}: its ids are not those of {form.path}: {len(absent)} are absent ({few(sorted(_names(absent)))}), "
            f"{len(extra)} too many ({few(sorted(_names(extra)))}). {MEND}"
        )


def _names(keys: Iterable[tuple[str, ...]]) -> list[str]:
    return [", ".join(key) for key in keys]


def _look_at_labels(answers: Answers, values: pd.DataFrame, keys: pd.DataFrame) -> None:
    cells, texts = values.iloc[:, 0], answers.texts
    wrong = (~cells.isin(texts)).to_numpy()
    what = lambda row: f"{quoted(cells.iloc[row])} is not a known label ({few(texts)})"  # noqa: E731
    answers.add("label", values, wrong, what, shown=True)


def _look_at_lists(answers: Answers, values: pd.DataFrame, keys: pd.DataFrame) -> None:
    """Add cells with unknown or repeated labels, and for the best labels a wrong number of them."""
    competition, known = answers.settings.competition, set(answers.texts)
    cells = values.iloc[:, 0].tolist()
    best = competition.submission == "best_labels"
    empty = None if best else competition.no_label
    lists = [[] if cell == empty else cell.split(competition.answer_separator) for cell in cells]
    strange = [[part for part in each if part not in known] for each in lists]
    answers.add(
        *("part", values, np.array(list(map(bool, strange)))),
        lambda row: f"{few(strange[row])} in {quoted(cells[row])} is not a known label ({few(answers.texts)})",
    )
    twice = np.array([len(set(each)) < len(each) for each in lists])
    answers.add("twice", values, twice, lambda row: f"{quoted(cells[row])} has a label twice")
    if best:
        number = min(competition.guesses, len(known))
        wrong = np.array([len(each) != number for each in lists])
        answers.add(
            "guesses", values, wrong, lambda row: f"{len(lists[row])} labels, not {number}: {quoted(cells[row])}"
        )


def _look_at_probabilities(answers: Answers, values: pd.DataFrame, keys: pd.DataFrame) -> None:
    competition = answers.settings.competition
    numbers = _numbers(values)
    inside = (numbers >= 0) & (numbers <= 1)  # false for NaN
    outside: Flags = ~np.asarray(inside.all(axis=1))

    def what(row: int) -> str:
        column = int((~inside[row]).argmax())
        cell = f"{quoted(values.iat[row, column])} in column {quoted(values.columns[column])}"
        return f"not every value is a probability between 0 and 1, such as {cell}"

    answers.add("probability", values, outside, what)
    if competition.submission != "probabilities" or competition.task != ONE_CLASS:
        return
    if competition.long_form:
        for image, value, line in zip(_images(answers, keys), numbers[:, 0].tolist(), keys.index, strict=True):
            answers.sums.setdefault(image, [0.0, line])[0] += value
        return
    sums = numbers.sum(axis=1)
    wrong = ~outside & (np.abs(sums - 1) > SUM_TOLERANCE)
    answers.add("sum", values, wrong, lambda row: f"the probabilities sum to {sums[row]:.6f}, not to 1")


def _images(answers: Answers, keys: pd.DataFrame) -> list[str]:
    """Return the image of each row of a long form."""
    if keys.shape[1] == 2:
        place = 0 if answers.settings.competition.long_form.startswith("{id}") or answers.form else 1
        return list(map(str, keys.iloc[:, place]))
    return split_long(keys.iloc[:, 0].tolist(), answers.settings.competition.long_form, answers.texts)[0]


def _look_at_numbers(answers: Answers, values: pd.DataFrame, keys: pd.DataFrame) -> None:
    """Add values that are not finite, outside the stated range, no grades, or with too many decimals."""
    competition, (low, high) = answers.settings.competition, answers.settings.predict.answer_range or (-np.inf, np.inf)
    numbers = _numbers(values)
    finite = np.isfinite(numbers)
    digits = number_digits(answers.form, answers.settings)
    checks: list[tuple[str, npt.NDArray[Any], str]] = [
        ("finite", finite, "is not a number"),
        ("range", ~finite | ((numbers >= low) & (numbers <= high)), f"is not in the range {low:g} to {high:g}"),
    ]
    if METRICS[competition.metric].takes == "grades":
        grades = competition.grades
        right = np.isin(numbers, grades) if grades else numbers == np.round(numbers)
        stated = f" of competition.grades, {', '.join(map(str, grades))}" if grades else ", a whole number"
        checks.append(("grade", ~finite | right, f"is not a grade{stated}"))
    if digits >= 0:
        cells = values.to_numpy().astype(str)
        places = np.char.str_len(np.char.partition(cells, ".")[..., 2])
        checks.append(("decimals", places <= digits, f"has more than {digits} decimals"))
    for kind, right, problem in checks:

        def what(row: int, right: npt.NDArray[Any] = right, problem: str = problem) -> str:
            column = int((~right[row]).argmax())
            return f"{quoted(values.iat[row, column])} in column {quoted(values.columns[column])} {problem}"

        answers.add(kind, values, ~np.asarray(right.all(axis=1)), what)


def _numbers(values: pd.DataFrame) -> npt.NDArray[np.float64]:
    """Return the cells as numbers, (N, columns); NaN for a cell that is no number."""
    cells = pd.Series(values.to_numpy(dtype=object).ravel(), dtype=object)
    return pd.to_numeric(cells, errors="coerce").to_numpy(np.float64).reshape(values.shape)


def _look_at_boxes(answers: Answers, values: pd.DataFrame, keys: pd.DataFrame) -> None:
    """Add cells that hold no boxes, or boxes of unknown labels."""
    reasons = []
    for cell in values.iloc[:, 0].tolist():
        try:
            labels, _ = boxes_in(cell, answers.settings)
            unknown = sorted(set(labels) - {*answers.texts, ONLY_CLASS})
            reasons.append(f"{few(unknown)} is not a known label ({few(answers.texts)})" if unknown else "")
        except ValueError as error:
            reasons.append(str(error))
    wrong = np.array(list(map(bool, reasons)))
    answers.add("boxes", values, wrong, lambda row: f"{quoted(values.iat[row, 0])}: {reasons[row]}")


LOOKS: dict[str, Callable[[Answers, pd.DataFrame, pd.DataFrame], None]] = {
    "labels": _look_at_labels,
    "best_labels": _look_at_lists,
    "label_lists": _look_at_lists,
    "probability": _look_at_probabilities,
    "probabilities": _look_at_probabilities,
    "numbers": _look_at_numbers,
    "boxes": _look_at_boxes,
}
