"""Compare the boxes of the sample submission, and the classes of the labels, with what will be sent."""

from collections.abc import Sequence
from dataclasses import replace

from pipelines.dataset.box_cells import boxes_in, sides_in
from pipelines.dataset.boxes import MOST_SHARE, ONLY_CLASS
from pipelines.dataset.vocabulary import difference
from pipelines.settings.data_sections import BOX_WORDS
from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError, few, quoted


def check_one_class(classes: Sequence[str], settings: Settings) -> None:
    """Raise `UserError` for boxes of several classes that are sent without a label: each object once per class."""
    competition, data = settings.competition, settings.data
    if competition.submission == "boxes" and "label" not in competition.box_answer.split() and len(classes) > 1:
        unset = 'set data.label_column = "", or ' if data.label_column else ""
        raise UserError(
            f"competition.box_answer is {quoted(competition.box_answer)}, without a label, but the boxes have "
            f'{len(classes)} classes: {few(classes, 5)}. Add the word label where Kaggle\'s page "Evaluation" shows '
            f"it. If it shows no label: {unset}write the same label for all boxes in a copy of the data, download that "
            "with ARCHIVE=, and split again."
        )


def sample_problem(name: str, values: Sequence[str], texts: Sequence[str], settings: Settings) -> str:
    """Return what is wrong with cells that hold no boxes of competition.box_answer, or others; or an empty text.

    name: of the column.  texts: the labels as they are sent.
    """
    column, labels, boxes, data = f"column {name!r} has", set[str](), [], settings.data
    in_pixels = replace(settings, data=replace(data, box_units="pixels"))
    for value in values:
        try:
            named, found = boxes_in(value, in_pixels)
            sides = sides_in([found], settings)
            if data.box_units == "shares":
                if (sides > MOST_SHARE).any():
                    return f"{column} {quoted(value)}, with sides above 1, {_other_units('shares', 'pixels')}"
                boxes_in(value, settings)  # raises for a box that ends outside
        except ValueError as error:
            return (
                f"{column} {quoted(value)}, and competition.box_answer is "
                f"{quoted(settings.competition.box_answer)}: {error}. Set competition.box_answer to the words of a box "
                f"there, of {', '.join(BOX_WORDS)}; or, if this is an image without a box, competition.no_boxes. "
            )
        labels.update(named)
        boxes.append(sides)
    fractions = [value for value, sides in zip(values, boxes, strict=True) if (sides % 1 > 0).any()]
    if data.box_units == "pixels" and fractions and all((sides <= MOST_SHARE).all() for sides in boxes):
        return f"{column} {quoted(fractions[0])}, and no side above 1, {_other_units('pixels', 'shares')}"
    if unknown := sorted(labels - {*texts, ONLY_CLASS}):
        same = difference(unknown, texts)
        return (
            f"{column} boxes of {few(unknown, 5)}, but the labels of the boxes are {few(texts, 5)}.{same} Set "
            f"data.label_column to the column of {data.labels} that has the words of the sample. "
        )
    return ""


def _other_units(units: str, other: str) -> str:
    """Return the end of the message that the sample's boxes are not in `units`."""
    return (
        f'but data.box_units is "{units}". The labels and the submission have the same units. If the labels are in '
        f'{other}, set data.box_units = "{other}". If they are in {units}, write them in {other} in a copy of the '
        f'data, download the copy with ARCHIVE=, set data.box_units = "{other}", and split again. '
    )
