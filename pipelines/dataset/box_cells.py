"""Boxes as the text of a submission's cells, in the words of competition.box_answer, and back."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.dataset.boxes import FOUND, MOST_SHARE, ONLY_CLASS, SIDES
from pipelines.dataset.tables import NUMBER
from pipelines.settings.data_sections import BOX_WORDS
from pipelines.settings.schema import Settings
from pipelines.system.errors import quoted

PIXEL_DIGITS, SHARE_DIGITS = 2, 6  # digits after the point
OVER = 1e-6  # by which a share may exceed 1: rounding
Array = npt.NDArray[Any]


def digits_of(sample: Sequence[str], settings: Settings) -> int:
    """Return the digits after the point of a side: none of pixels if the sample has different boxes of whole pixels."""
    if settings.data.box_units == "shares":
        return SHARE_DIGITS
    try:
        sides = sides_in([boxes_in(cell, settings)[1] for cell in set(sample)], settings)
    except ValueError:  # data.accept overrules what guards.py says of the sample
        return PIXEL_DIGITS
    return 0 if len(np.unique(sides, axis=0)) > 1 and (sides % 1 == 0).all() else PIXEL_DIGITS


def sides_in(boxes: Sequence[Array], settings: Settings) -> Array:
    """Return the four numbers of each box that `boxes_in` returns as the submission writes them, (n, 4)."""
    places = [BOX_WORDS[2:].index(word) for word in settings.competition.box_answer.split() if word in BOX_WORDS[2:]]
    return _sides(np.concatenate([np.zeros((0, 5)), *boxes]))[:, places]


def box_cell(row: Array, texts: Sequence[str], settings: Settings, digits: int) -> str:
    """Return the cell of an image's boxes (MOST * 6), in data.box_units, the most confident first.

    Boxes of the confidence 0 are none, and those that rounding leaves without an area are left out.
    """
    boxes = row.reshape(-1, FOUND)
    boxes = boxes[np.argsort(-boxes[:, 1], kind="stable")]
    sides = np.round(boxes[:, 2:], digits) + 0.0  # no -0
    kept = (boxes[:, 1] > 0) & (sides[:, :2] < sides[:, 2:]).all(axis=1)
    labels = [texts[int(number)] for number in boxes[kept, 0]]
    return box_text(labels, np.column_stack([boxes[kept, 1], sides[kept]]), settings, digits)


def box_text(labels: Sequence[str], boxes: Array, settings: Settings, digits: int) -> str:
    """Return the cell of what `boxes_in` returns."""
    written = zip(BOX_WORDS[2:], _sides(boxes).T.tolist(), strict=True)
    cells = {word: [_number(value, digits, "centre" in word) for value in values] for word, values in written}
    cells |= {"label": list(labels), "confidence": [f"{value:.6f}" for value in boxes[:, 0]]}
    words = [cells[word] for word in settings.competition.box_answer.split()]
    return " ".join(text for box in zip(*words, strict=True) for text in box) or settings.competition.no_boxes


def _sides(boxes: Array) -> Array:
    """Return the numbers of all notations, in the order of `BOX_WORDS`, (n, 8)."""
    start, end = boxes[:, 1:3], boxes[:, 3:]
    return np.hstack([start, end, end - start, (start + end) / 2])


def _number(value: float, digits: int, halves: bool) -> str:
    """Return a number with `digits`; with one more where the half of a rounded sum needs it."""
    text = f"{value:.{digits + halves}f}"
    return text.removesuffix("0").removesuffix(".") if halves else text


def boxes_in(cell: str, settings: Settings, clipped: bool = False) -> tuple[list[str], Array]:
    """Return the labels of the boxes in a cell, and confidence, xmin, ymin, xmax, ymax of each, float64 (n, 5).

    clipped: boxes that leave their image are clipped, as far as the cell tells: at 0, and shares also at 1.  Raises
    `ValueError`, with what is wrong, for a cell that holds no boxes.
    """
    words, parts = settings.competition.box_answer.split(), cell.split()
    parts = [] if cell == settings.competition.no_boxes else parts
    count = len(parts) // len(words)
    if len(parts) % len(words):
        raise ValueError(f"it has {len(parts)} words, and each box has {len(words)}")
    texts = {word: parts[place :: len(words)] for place, word in enumerate(words)}
    labels = texts.pop("label", [ONLY_CLASS] * count)
    if wrong := [text for each in texts.values() for text in each if not NUMBER.fullmatch(text)]:
        raise ValueError(f"{quoted(wrong[0])} is not a number")
    confidence = np.array(texts.pop("confidence"), np.float64)
    sides = np.array(list(texts.values()), np.float64).reshape(4, count).T
    centred = "xcentre" in texts
    start = sides[:, :2] - sides[:, 2:] / 2 if centred else sides[:, :2]
    ends = sides[:, 2:] if tuple(texts) == tuple(SIDES) else start + sides[:, 2:]
    shares = settings.data.box_units == "shares"
    if clipped and not (shares and (sides > MOST_SHARE).any()):  # else these are pixels
        start, ends = start.clip(0), ends.clip(None, 1) if shares else ends
    if not ((confidence >= 0) & (confidence <= 1)).all():
        raise ValueError("a confidence is not between 0 and 1")
    if not (start < ends).all():
        raise ValueError("a box ends before it begins, or has no area")
    if (start < -OVER - centred * _half_unit(texts.values())).any() or not np.isfinite(ends).all():
        raise ValueError("a box leaves its image")
    if shares and (ends > 1 + OVER).any():
        raise ValueError('a side is above 1, and data.box_units is "shares"')
    return labels, np.column_stack([confidence, start, ends])


def _half_unit(texts: Iterable[Sequence[str]]) -> float:
    """Return half a unit of the last digit of `texts`: the rounded centre and width of 0 to 33 are 16 and 33."""
    digits = [len(text.partition(".")[2].rstrip("0")) for each in texts for text in each]
    return float(0.5 * 10.0 ** -max(digits, default=0))
