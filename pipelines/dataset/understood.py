"""Describe what was understood of the data: classes, ids, images and what the sample submission wants."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pipelines.dataset.image_paths import files_at, without_extension
from pipelines.dataset.images import Described, UnreadableImage, describe_image
from pipelines.dataset.tables import read_table
from pipelines.dataset.targets import JOINT, labels_in
from pipelines.dataset.vocabulary import counted
from pipelines.settings.data_sections import DataSettings
from pipelines.settings.metrics import NUMBERS, ONE_CLASS
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
    settings: Settings, raw: Path, labelled: pd.DataFrame, test: pd.DataFrame, columns: Mapping[str, str]
) -> list[tuple[str, str]]:
    """Return rows of a subject and what was understood of it, for the screen.

    columns: where `labels`, `ids`, `tests` and `test ids` come from, if from a CSV.
    """
    data = settings.data
    lines = [
        ("labels", f"{columns['labels']}{_choice(data)}" if data.labels else _level(data)),
        describe_targets(labelled["label"].tolist(), settings.competition.task),
        ("ids", _ids(columns.get("ids") or f"paths below {data.train_images}", labelled)),
        ("images", _images(raw, pd.concat([labelled["path"], test["path"]]).tolist(), data.white)),
    ]
    if len(test):
        lines += [("tests", columns["tests"])] if "tests" in columns else []
        lines.append(("test ids", _ids(columns.get("test ids") or f"files in {data.test_images}", test)))
    return [
        *lines,
        *([("sample", describe_sample(raw / data.sample_submission, settings))] if data.sample_submission else []),
    ]


def describe_targets(texts: Sequence[str], task: str) -> tuple[str, str]:
    """Return the subject and what the targets are; `texts` are those of split.csv."""
    if task == NUMBERS:
        width = texts[0].count(JOINT) + 1
        return "targets", f"{width} number{'s' * (width > 1)} per image"
    counts = Counter(label for text in texts for label in labels_in(text, task))
    found = f"{len(counts):,}: {counted(counts)}"
    if task == ONE_CLASS:
        return "classes", found
    most, without = max(len(labels_in(text, task)) for text in texts), sum(not text for text in texts)
    return "targets", f"up to {most} labels per image of {found}; images without a label: {without:,}"


def _level(data: DataSettings) -> str:
    """Return which folders are the classes."""
    if data.class_level == -1:
        return f"the folder of each image in {data.train_images}"
    level = "" if data.class_level == 1 else f", on level {data.class_level}"
    return f"the folders in {data.train_images}{level}"


def _choice(data: DataSettings) -> str:
    """Return which settings choose other columns of the labels CSV, unless they are set."""
    free = [f"data.{key}" for key in ("label_column", "id_column") if not getattr(data, key)]
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


def describe_sample(path: Path, settings: Settings) -> str:
    sample = read_table(path)
    columns, competition = [str(name) for name in sample.columns[1:]], settings.competition
    rows = f"{len(sample):,} ids"
    if competition.long_form:
        return f"{len(sample):,} rows, each for an id and a target (competition.long_form)"
    if competition.submission == "probabilities":
        return f"a probability for each of {len(columns):,} classes and {rows}"
    if competition.submission == "numbers":
        named = few(columns, 5)
        return f"{len(columns):,} number{'s' * (len(columns) > 1)} for each of {rows} in {named}"
    what = {
        "labels": "a label",
        "probability": f"the probability of {competition.positive or '1'!r}",
        "best_labels": f"the {competition.guesses} best labels",
        "label_lists": "all labels",
    }[competition.submission]
    examples = list(dict.fromkeys(value for value in sample.iloc[:, 1].tolist() if value))
    such = f"such as {few(examples)}" if examples else "empty in the sample"
    return f"{what} for each of {rows} in column {columns[0]!r}, {such}"


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
        found.append(f"Only {valid} validation images: scores on them are coarse. To have more: split.valid_ratio.")
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
    what = "Classes" if task == ONE_CLASS else "Labels"
    labels = [labels_in(text, task) for text in rows["label"].tolist()]
    counts = Counter(label for several in labels for label in several)
    found = []
    label, largest = counts.most_common(1)[0] if counts else ("", 0)
    if largest > LARGE * len(rows):
        share = largest / len(rows)
        alone = f": this answer alone has accuracy {share:.4f}" if task == ONE_CLASS else ""
        found.append(f"{share:.1%} of the labelled images {'are' if alone else 'have'} {quoted(label)}{alone}.")
    found += others
    if single := sorted(name for name, count in counts.items() if count == 1):
        found.append(f"{what} with a single image, which stays in train: {len(single):,} ({few(single, 5)}).")
    valid = (rows["split"] == "valid").tolist()
    seen = {label for several, is_valid in zip(labels, valid, strict=True) if is_valid for label in several}
    if unseen := counts.keys() - seen:
        folders = " They have empty folders in valid: read these with ImageFolder(…, allow_empty=True)."
        found.append(f"{what} without a validation image: {len(unseen):,}.{folders * (task == ONE_CLASS)}")
    return found
