"""Describe what was understood of the data: classes, ids, images and what the sample submission wants."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from pipelines.dataset.images import FORMATS, settled_warnings
from pipelines.dataset.tables import read_table
from pipelines.dataset.vocabulary import counted
from pipelines.settings.schema import DataSettings, Settings
from pipelines.system.errors import few, quoted, shown

SAMPLED = 64  # images whose files are opened
LARGE = 0.99  # share of the largest class
SMALL = 20  # validation images


def describe(settings: Settings, raw: Path, labelled: pd.DataFrame, test: pd.DataFrame) -> list[tuple[str, str]]:
    """Return rows of a subject and what was understood of it, for the screen."""
    data = settings.data
    lines = [
        *([] if data.labels else [("labels", _level(data))]),  # the columns of a CSV are noted where it is read
        ("classes", f"{labelled['label'].nunique():,}: {counted(labelled['label'].tolist())}"),
        ("ids", _ids(labelled)),
        ("images", _images(raw, pd.concat([labelled["path"], test["path"]]).tolist())),
    ]
    if len(test):
        lines.append(("test ids", _ids(test)))
    return [*lines, *([("sample", _sample(raw / data.sample_submission, settings))] if data.sample_submission else [])]


def _level(data: DataSettings) -> str:
    """Return which folders are the classes."""
    if data.class_level == -1:
        return f"the folder of each image in {data.train_images}"
    level = "" if data.class_level == 1 else f", on level {data.class_level}"
    return f"the folders in {data.train_images}{level}"


def _ids(rows: pd.DataFrame) -> str:
    return f"such as {quoted(rows['id'].iloc[0])} for {shown(rows['path'].iloc[0])}"


def _images(raw: Path, paths: Sequence[str]) -> str:
    """Return formats, sizes, channels and values of a sample of the images, spread over the rows."""
    places = np.unique(np.linspace(0, len(paths) - 1, SAMPLED).round().astype(int))
    facts = [fact for place in places if (fact := image_facts(raw / paths[place]))]
    if not facts:
        return f"none of {len(places)} that were tried can be read"
    formats, modes, sizes, lows, highs = zip(*facts, strict=True)
    sides = [min(sizes), max(sizes)] if len(set(sizes)) > 1 else [sizes[0]]
    text = f"{_counted(formats)}; {' to '.join(f'{width} x {height}' for width, height in sides)} pixels; "
    text += f"{_counted(modes)}; values {min(lows):g} to {max(highs):g}"
    unread = f"; {len(places) - len(facts)} cannot be read" if len(facts) < len(places) else ""
    return f"{text} ({len(places)} of {len(paths):,} looked at{unread})"


def _counted(values: Iterable[str]) -> str:
    """Return each different value, with its count if there are several."""
    counts = Counter(values).most_common()
    return ", ".join(f"{value} ({count})" for value, count in counts) if len(counts) > 1 else counts[0][0]


def image_facts(path: Path) -> tuple[str, str, tuple[int, int], float, float] | None:
    """Return format, mode, size, smallest and largest value of an image file; None if it cannot be read."""
    try:
        with settled_warnings(), Image.open(path, formats=FORMATS) as image:
            kind, mode, size = str(image.format), image.mode, image.size
            image.draft(mode, (256, 256))  # a JPEG is decoded at a fraction of its size
            extrema = np.array(image.getextrema())
            return kind, mode, size, float(extrema.min()), float(extrema.max())
    except Exception:  # for damage Pillow raises a dozen types; `train` names the damaged files
        return None


def _sample(path: Path, settings: Settings) -> str:
    sample = read_table(path)
    columns = [str(name) for name in sample.columns[1:]]
    if settings.competition.submission == "labels":
        examples = list(dict.fromkeys(value for value in sample.iloc[:, 1].tolist() if value))
        what = f"such as {few(examples)}" if examples else "empty in the sample"
        return f"a label for each of {len(sample):,} ids in column {columns[0]!r}, {what}"
    return f"a probability for each of {len(columns):,} classes and {len(sample):,} ids"


def notes(rows: pd.DataFrame, without_images: Sequence[str], empty_folders: Sequence[str]) -> list[str]:
    """Return notes on what is allowed but rarely meant. rows: the labelled ones, with the column `split`."""
    found = []
    counts = Counter(rows["label"].tolist())
    label, largest = counts.most_common(1)[0]
    if largest > LARGE * len(rows):
        share = largest / len(rows)
        found.append(
            f"{share:.1%} of the labelled images are {quoted(label)}: always answering so has accuracy {share:.4f}."
        )
    if (valid := int((rows["split"] == "valid").sum())) < SMALL:
        found.append(f"Only {valid} validation images: scores on them are coarse. To have more: split.valid_ratio.")
    if without_images:
        names = few(without_images, 5)
        found.append(f"Classes of the sample submission without any labelled image: {len(without_images)} ({names}).")
    if empty_folders:
        found.append(f"Folders without images, which are no classes: {few(empty_folders, 5)}.")
    return found
