"""Describe the answers of a submission on the screen."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from pipelines.dataset.answer_cells import CELLS, Answers
from pipelines.dataset.boxes import FOUND
from pipelines.dataset.vocabulary import NAMED, answers_of, counted
from pipelines.settings.metrics import ONE_CLASS
from pipelines.settings.schema import Settings
from pipelines.system.errors import quoted, shown

LOOK = "Look at the run's curves and mistakes before you submit."


def describe_answers(answers: Answers, classes: Sequence[str], settings: Settings, raw: Path) -> list[str]:
    """Return what the answers of `write_submission` are, and a note if they are all the same."""
    texts, total = answers_of(classes, settings, raw), len(answers)
    submission, task = settings.competition.submission, settings.competition.task
    equal = total > 1 and all(bool((part == answers[:1]).all()) for part in _parts(answers))
    if submission == "labels" or submission == "best_labels" or (submission, task) == ("probabilities", ONE_CLASS):
        return _of_best(answers, texts, submission, equal)
    if submission == "label_lists":
        counts = np.sum([part.sum(axis=0, dtype=np.int64) for part in _parts(answers)], axis=0)
        none = sum(int((part.sum(axis=1) == 0).sum()) for part in _parts(answers))
        labels = Counter({text: int(count) for text, count in zip(texts, counts, strict=True) if count})
        lines = [f"Labels: {counted(labels)}" + f"; none in {none:,} of {total:,} answers" * bool(none)]
    elif submission == "boxes":
        found = answers.reshape(total, -1, FOUND)
        known = found[..., 1] > 0
        numbers = Counter(texts[int(number)] for number in found[known][:, 0])
        lines = [f"Boxes: {counted(numbers)}; none in {int((~known.any(axis=1)).sum()):,} of {total:,} answers"]
    else:
        names = [f"probability of {settings.competition.positive or '1'}"] if submission == "probability" else texts
        lines = ["Answers: " + "; ".join(_ranges(answers.reshape(total, -1), names))]
    return [*lines, f"Note: all {total:,} answers are the same. {LOOK}"] if equal else lines


def _of_best(answers: Answers, texts: Sequence[str], submission: str, equal: bool) -> list[str]:
    """Return the counts of the best label of each answer, and a note if it is always the same."""
    choose: Callable[[Answers], Answers] = {
        "labels": lambda part: part,
        "best_labels": lambda part: part[:, 0],
        "probabilities": lambda part: part.argmax(axis=1),
    }[submission]
    places = np.concatenate([choose(part) for part in _parts(answers)])
    counts = Counter(texts[place] for place in places.tolist())
    what = {"labels": "Answers", "best_labels": "First guesses", "probabilities": "Most probable"}[submission]
    lines = [f"{what}: {counted(counts)}"]
    if len(answers) > 1 and len(counts) == 1:
        of_rows = equal and submission == "probabilities"
        same = "rows of probabilities are equal" if of_rows else f"answers are {quoted(next(iter(counts)))}"
        lines.append(f"Note: all {len(answers):,} {same}. {LOOK}")
    return lines


def _ranges(answers: Answers, names: Sequence[str]) -> list[str]:
    """Return mean, least and most of the first columns."""
    found = [
        f"{shown(name)}, mean {column.mean(dtype=np.float64):.4g}, {column.min():.4g} to {column.max():.4g}"
        for name, column in zip(names[:NAMED], answers.T[:NAMED], strict=True)
    ]
    return [*found, "…"] if len(names) > NAMED else found


def _parts(answers: Answers) -> Iterator[Answers]:
    """Yield some rows at a time, without a copy of all."""
    step = max(1, CELLS // (answers.shape[1] if answers.ndim > 1 else 1))
    return (answers[start : start + step] for start in range(0, len(answers), step))
