"""Describe what was understood of the data: classes, ids, images and what the sample submission wants."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipelines.dataset.answer_cells import number_digits
from pipelines.dataset.answer_forms import Form, sample_form
from pipelines.dataset.image_paths import files_at, without_extension
from pipelines.dataset.images import Described, UnreadableImage, describe_image
from pipelines.dataset.targets import count_labels, encode, labels_in
from pipelines.dataset.vocabulary import NAMED, answers_of, counted
from pipelines.settings.data_sections import DataSettings
from pipelines.settings.metrics import BOXES, METRICS, NUMBERS, ONE_CLASS, SEVERAL_LABELS
from pipelines.settings.schema import Settings
from pipelines.system.errors import few, quoted, shown

COPY = re.compile(
    r"(.+?)(?: ?\([0-9]+\)| - copy.*|[ _-](?:copy|aug|flip|rot|crop|noise|bright|blur|zoom|shift)[a-z_]*[_-]?[0-9]*)",
    re.IGNORECASE,
)
SAMPLED = 32  # images whose files are opened
LARGE = 0.99  # share of the largest class
SMALL = 20  # validation images
COLOURS = dict.fromkeys(("L", "I", "I;16", "I;16B", "I;16L", "I;16N"), "grey") | {
    "1": "black and white",
    "P": "palette",
    "LA": "grey with transparency",
    "RGBA": "RGB with transparency",
}


def describe(
    settings: Settings,
    raw: Path,
    labelled: pd.DataFrame,
    test: pd.DataFrame,
    columns: Mapping[str, str],
    classes: Sequence[str] = (),
) -> list[tuple[str, str]]:
    """Return rows of a subject and what was understood of it, for the screen.

    columns: where `labels`, `ids`, `tests` and `test ids` come from, if it was said. classes: as `class_list` returns
    them.
    """
    data, task, texts = settings.data, settings.competition.task, labelled["label"].tolist()
    form = sample_form(settings, raw, answers_of(classes, settings, raw)) if data.sample_submission else None
    source = columns.get("labels", "")
    lines = [
        ("target", f"{_target(settings, texts, classes)}; sent: {_sent(settings, form)}; {_scored(settings)}"),
        ("labels", f"{source}{_choice(data) if data.labels else ''}" if source else _level(data)),
        describe_targets(texts, task, classes),
        ("ids", _ids(columns.get("ids") or f"paths below {data.train_images}", labelled)),
        ("images", _images(raw, pd.concat([labelled["path"], test["path"]]).tolist(), data.white)),
    ]
    if len(test):
        lines += [("tests", columns["tests"])] if "tests" in columns else []
        lines.append(("test ids", _ids(columns.get("test ids") or f"files in {data.test_images}", test)))
    return [*lines, *([("sample", describe_sample(form, settings))] if form else [])]


def _target(settings: Settings, texts: Sequence[str], classes: Sequence[str]) -> str:
    """Return what the target of an image is: `one number, Pawpularity, 1 to 100`."""
    task = settings.competition.task
    if task == NUMBERS:
        if len(classes) == 1:
            values = encode(texts, task, classes)
            return f"one number, {shown(classes[0])}, {np.nanmin(values):g} to {np.nanmax(values):g}"
        return f"{len(classes)} numbers, {few(classes, 5)}"
    if task == BOXES:
        return f"any number of boxes of {len(classes):,} classes"
    number = len(classes) or len(count_labels(texts, task))
    return f"one of {number:,} classes" if task == ONE_CLASS else f"any of {number:,} labels"


def _sent(settings: Settings, form: Form | None) -> str:
    """Return what is sent for a test image."""
    competition = settings.competition
    several = competition.task == SEVERAL_LABELS
    between = f"separated by {competition.answer_separator!r}"
    match competition.submission:
        case "labels":
            what = "a label"
        case "probabilities":
            what = "a probability for each label" if several else "a probability for each class"
        case "probability":
            what = f"the probability of {quoted(competition.positive or '1')}"
        case "best_labels":
            what = f"the {competition.guesses} best labels, {between}"
        case "label_lists":
            none = f"; {quoted(competition.no_label)} for none" if competition.no_label else ""
            what = f"its labels, {between}{none}"
        case "boxes":
            what = f"its boxes, each as {quoted(competition.box_answer)} in {settings.data.box_units}"
        case _:
            digits = number_digits(form, settings)
            if METRICS[competition.metric].takes == "grades" and digits < 1:
                what = "a whole number"
            else:
                what = "a number with all digits" if digits < 0 else f"a number with {digits} decimals"
    return f"{what}, in a row for each target" if competition.long_form else what


def _scored(settings: Settings) -> str:
    metric = settings.competition.metric
    return f"scored by {metric}, {'higher' if METRICS[metric].higher_is_better else 'lower'} is better"


def describe_targets(texts: Sequence[str], task: str, classes: Sequence[str]) -> tuple[str, str]:
    """Return the subject and what the targets are; `texts` are those of split.csv."""
    if task == NUMBERS:
        return "targets", summarise(texts, task, classes).partition(": ")[2]
    counts = count_labels(texts, task)
    found = f"{len(counts):,}: {counted(counts)}"
    if task == ONE_CLASS:
        return "classes", found
    most, without = max(len(labels_in(text, task)) for text in texts), sum(not text for text in texts)
    what, one = ("boxes", "a box") if task == BOXES else ("labels", "a label")
    return "targets", f"up to {most} {what} per image of {found}; images without {one}: {without:,}"


def summarise(texts: Sequence[str], task: str, classes: Sequence[str]) -> str:
    """Return a line about the targets of some images.  classes: the classes or labels, or the names of the numbers."""
    if task == ONE_CLASS:
        return f"Classes: {counted(texts)}"
    if task in (SEVERAL_LABELS, BOXES):
        what, one = ("Boxes", "a box") if task == BOXES else ("Labels", "a label")
        counts = counted(count_labels(texts, task))
        return f"{what}: {counts}; images without {one}: {sum(not text for text in texts):,}"
    columns = encode(texts, task, classes).astype(np.float64).T
    described = [f"{shown(name)} {_range(values)}" for name, values in zip(classes, columns[:NAMED], strict=False)]
    return f"Numbers: {'; '.join(described)}{'; …' if len(classes) > NAMED else ''}"


def _range(values: npt.NDArray[np.float64]) -> str:
    """Return `0 to 4, mean 1.13` of the numbers, and how many of them are missing."""
    known = values[~np.isnan(values)]
    if not len(known):
        return "has no values"
    missing = f" ({len(values) - len(known):,} missing)" if len(known) < len(values) else ""
    return f"{known.min():g} to {known.max():g}, mean {known.mean():.4g}{missing}"


def _level(data: DataSettings) -> str:
    """Return which folders are the classes."""
    if data.class_level == -1:
        return f"the folder of each image in {data.train_images}"
    level = "" if data.class_level == 1 else f", on level {data.class_level}"
    return f"the folders in {data.train_images}{level}"


def _choice(data: DataSettings) -> str:
    """Return which settings choose other columns of the labels CSV, unless they are set."""
    chosen = {"label_column": data.label_column or data.label_columns, "id_column": data.id_column}
    free = [f"data.{key}" for key, value in chosen.items() if not value]
    return f" (to choose others: {', '.join(free)})" if free else ""


def _ids(source: str, rows: pd.DataFrame) -> str:
    return f"{source}: {quoted(rows['id'].iloc[0])} is {shown(rows['path'].iloc[0])}"


def _images(raw: Path, paths: Sequence[str], white: int) -> str:
    """Return formats, sizes, channels and values of a sample of the images, spread over the rows."""
    places = np.unique(np.linspace(0, len(paths) - 1, SAMPLED).round().astype(int))
    files = [Path(file) for place in places for file in files_at(raw, paths[place])]
    found = [facts for file in files if (facts := _facts(file, white))]
    if not found:
        return f"none of {len(files)} that were tried can be read"
    sizes = sorted({(each.width, each.height) for each in found})
    sides = " to ".join(f"{width} x {height}" for width, height in (sizes if len(sizes) < 3 else (sizes[0], sizes[-1])))
    kinds = _counted(f"{each.bits}-bit {COLOURS.get(each.mode, each.mode)}" for each in found)
    text = f"{_counted(each.format for each in found)}; {sides} pixels; {kinds}; values "
    lowest, highest = min(each.minimum for each in found), max(each.maximum for each in found)
    text += f"{_number(lowest)} to {_number(highest)}"
    if deep := [_number(each.white) for each in found if each.bits > 8]:
        own = "" if white or len(set(deep)) == 1 else " by each image's own values (data.white sets one for all)"
        text += f", white is {_counted(deep)}{own}"
    unread = f"; {len(files) - len(found)} cannot be read" if len(found) < len(files) else ""
    if len(files) > len(places):
        text += f"; {len(files) // len(places)} files per image, one per channel"
    return f"{text} ({len(places)} of {len(paths):,} looked at{unread})"


def _number(value: float) -> str:
    return f"{value:,}" if value == int(value) else f"{value:.3g}"


def _facts(path: Path, white: int) -> Described | None:
    """Return facts about an image file; None if it cannot be read. `train` lists all such files."""
    try:
        return describe_image(path, path.name, white)
    except UnreadableImage:
        return None


def _counted(values: Iterable[str]) -> str:
    """Return each different value, with its count if there are several."""
    counts = Counter(values).most_common()
    return ", ".join(f"{value} ({count})" for value, count in counts) if len(counts) > 1 else counts[0][0]


def describe_sample(form: Form, settings: Settings) -> str:
    """Return what the sample submission has for each id."""
    submission, count = settings.competition.submission, len(form.given)
    if settings.competition.long_form:
        return f"{count:,} rows, for each of {len(set(form.images)):,} ids and {len(form.columns):,} targets"
    if submission == "probabilities":
        return f"a probability for each of {len(form.values):,} classes and {count:,} ids"
    if submission == "numbers" and len(form.values) > 1:
        return f"{len(form.values):,} numbers for each of {count:,} ids in {few(form.values, 5)}"
    what = {
        "labels": "a label",
        "probability": f"the probability of {quoted(settings.competition.positive or '1')}",
        "best_labels": f"the {settings.competition.guesses} best labels",
        "label_lists": "all labels",
        "boxes": "all boxes",
    }.get(submission, "a number")
    column = form.values[0]
    examples = list(dict.fromkeys(value for value in form.cells[column].tolist() if value))
    such = f"such as {few(examples)}" if examples else "empty in the sample"
    return f"{what} for each of {count:,} ids in column {column!r}, {such}"


def _copies(ids: Sequence[str]) -> list[str]:
    """Return the ids that are another id with the mark of a copy, such as `1 (1).png` or `1_aug2.png`."""
    stems = {without_extension(name) for name in ids}
    marks = ((name, COPY.fullmatch(without_extension(name))) for name in ids)
    return [name for name, mark in marks if mark and mark[1] in stems]


def notes(
    rows: pd.DataFrame, without_images: Sequence[str], empty_folders: Sequence[str], task: str = ONE_CLASS
) -> list[str]:
    """Return notes on what is allowed but rarely meant. rows: the labelled ones, with the column `split`."""
    found = []
    if (valid := int((rows["split"] == "valid").sum())) < SMALL:
        in_folds = "fold" in rows and (rows["fold"] > 0).any()
        more = "make folds, which validates every row" if in_folds else "split.valid_ratio"
        found.append(f"Only {valid} validation images: scores on them are coarse. To have more: {more}.")
    if task != NUMBERS:
        found = _notes_on_labels(rows, task, found)
    if copies := _copies(rows["id"].tolist()):
        found.append(
            f"{len(copies):,} images are named like copies of others, such as {few(copies)}. Copies on both sides of "
            "the split make scores too good: `make audit` finds equal images, split.group_column or split.group_file "
            "keeps them together."
        )
    if without_images:
        what, names = ("Classes" if task == ONE_CLASS else "Labels"), few(without_images, 5)
        found.append(f"{what} of the sample submission without any labelled image: {len(without_images)} ({names}).")
    if empty_folders:
        found.append(f"Folders without images, which are no classes: {few(empty_folders, 5)}.")
    return found


def _notes_on_labels(rows: pd.DataFrame, task: str, others: Sequence[str]) -> list[str]:
    """Return notes on classes or labels, around `others`."""
    what = "Labels" if task == SEVERAL_LABELS else "Classes"
    counts = Counter(label for text in rows["label"].tolist() for label in dict.fromkeys(labels_in(text, task)))
    found = []
    label, largest = counts.most_common(1)[0] if counts else ("", 0)
    if largest > LARGE * len(rows) and task != BOXES:
        share = largest / len(rows)
        alone = f": this answer alone has accuracy {share:.4f}" if task == ONE_CLASS else ""
        found.append(f"{share:.1%} of the labelled images {'are' if alone else 'have'} {quoted(label)}{alone}.")
    found += others
    if single := sorted(name for name, count in counts.items() if count == 1):
        found.append(f"{what} with a single image, which stays in train: {len(single):,} ({few(single, 5)}).")
    if unseen := counts.keys() - count_labels(rows["label"][rows["split"] == "valid"].tolist(), task).keys():
        folders = " A tree of links has empty folders for them in valid: read it with ImageFolder(…, allow_empty=True)."
        found.append(f"{what} without a validation image: {len(unseen):,}.{folders * (task == ONE_CLASS)}")
    return found
