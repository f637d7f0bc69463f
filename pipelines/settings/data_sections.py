"""The sections of settings that say what a competition is: its task, its data and its split."""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal

from pipelines.settings.addresses import competition_name
from pipelines.settings.metrics import METRICS
from pipelines.settings.section import Section, option
from pipelines.system.errors import did_you_mean, quoted
from pipelines.system.files import is_plain_name, path_problem

# The checks of meaning, which data.accept overrules.
CHECKS = tuple(
    "one_class class_folders split_names similar_labels missing_labels combined_labels numeric_labels unique_labels "
    "garbled_labels sample_labels".split()
)


BOX_WORDS = ("label", "confidence", "xmin", "ymin", "xmax", "ymax", "width", "height", "xcentre", "ycentre")
BOX_NOTATIONS = (
    *(("xmin", "ymin", "xmax", "ymax"), ("xmin", "ymin", "width", "height"), ("xcentre", "ycentre", "width", "height")),
)


def _box_problem(form: str, needed: set[str]) -> str:
    """Return what is wrong with the words of a box, which are one of `BOX_NOTATIONS`, `needed` and maybe label."""
    words = form.split()
    sides = tuple(word for word in words if word not in {*needed, "label"})
    if sides in BOX_NOTATIONS and len(set(words)) == len(words) and needed <= set(words):
        return ""
    ways = "; or ".join(" ".join(notation) for notation in BOX_NOTATIONS)
    return f"it takes, in this order, {ways}; with {' and '.join(sorted(needed))}{' and ' * bool(needed)}maybe label."


def is_ascending(values: Sequence[float]) -> bool:
    return all(one < other for one, other in pairwise(values))


@dataclasses.dataclass(frozen=True)
class CompetitionSettings(Section):
    """Where the competition comes from, its metric and its submission format."""

    title: str = option("", "full name of the competition, for display")
    slug: str = option("", "name in the competition's Kaggle address; empty: the TOML's file name")
    source: Literal["kaggle", "address", "digits"] = option(
        "kaggle", "source of the data; address: an archive that you give to `download`; digits: bundled with this code"
    )
    address: str = option("", "source = address: where a person finds the archive")
    takes: Literal["file", "code"] = option(
        "file", "what Kaggle takes: a file of answers, or the code that writes it (`kernel`, then `submit`)"
    )
    task: Literal["one_class", "several_labels", "numbers", "boxes"] = option(
        "one_class", "what an image has: one class, any number of labels, one or more numbers, or any number of boxes"
    )
    metric: str = option("accuracy", f"metric that Kaggle scores by: {', '.join(METRICS)}")
    guesses: int = option(5, "map_at_k, top_k_error, submission best_labels: number of labels per image", minimum=1)
    beta: float = option(1.0, "fbeta_*: weight of recall; 1: F1, 2: recall counts more", above=0)
    grades: tuple[int, ...] = option((), "quadratic_kappa: all grades; empty: from the lowest to the highest label")
    auc_ranges: tuple[float, ...] = option(
        (0.0, 0.4, 1.0), "auc_weighted: bounds of ranges of the true positive rate", minimum=0, maximum=1
    )
    auc_weights: tuple[float, ...] = option((2.0, 1.0), "auc_weighted: weight of each range", minimum=0)
    auc_above: float = option(0.8, "auc_partial: lowest true positive rate that counts", minimum=0, below=1)
    submission: Literal["labels", "probabilities", "probability", "best_labels", "label_lists", "numbers", "boxes"] = (
        option(
            "labels",
            "sent per test image: its label; a probability per class; the probability of competition.positive; the "
            "competition.guesses best labels in one cell; all its labels in one cell; its numbers; its boxes",
        )
    )
    positive: str = option("", "submission probability: its class, which metrics of two classes count as positive")
    answer_separator: str = option(" ", "best_labels, label_lists: text between two labels in a cell")
    no_label: str = option("", "label_lists: text for an image without a label")
    decimals: int = option(
        -1, "numbers: digits after the point; -1: as in the sample, if it shows any", minimum=-1, maximum=15
    )
    long_form: str = option(
        "", "a row per image and target, with this id: {id}_{target}, or two columns: {id},{target}; empty: per image"
    )
    box_iou: float = option(0.5, "box_map_at: least intersection over union of a match", above=0, below=1)
    box_answer: str = option(
        "label confidence xmin ymin xmax ymax",
        f"boxes: the words of each box in a cell, of {', '.join(BOX_WORDS)}; label may be left out",
    )
    no_boxes: str = option("", "boxes: the cell of an image without a box")

    def problems(self) -> Iterator[str]:
        if self.slug and not is_plain_name(self.slug):
            name = competition_name(self.slug)
            write = f'Write slug = "{name}".' if name else "Correct it."
            rule = "it must be the name in its Kaggle address, https://www.kaggle.com/competitions/<name>"
            yield f"competition.slug is {quoted(self.slug)}; {rule}. {write}"
        if (self.source == "address") != bool(self.address):
            yield 'competition.source = "address" and competition.address (where the archive is) must be set together.'
        if self.metric not in METRICS:
            hint = did_you_mean(self.metric, METRICS)
            yield f"competition.metric is {quoted(self.metric)}.{hint} Valid: {', '.join(METRICS)}."
        if not is_ascending(self.grades) or len(self.grades) == 1:
            yield f"competition.grades is {list(self.grades)}; list all grades, two or more, from the lowest up."
        if box_problem := _box_problem(self.box_answer, {"confidence"}):
            yield f"competition.box_answer is {quoted(self.box_answer)}; {box_problem}"
        ranges, weights = self.auc_ranges, self.auc_weights
        if not is_ascending(ranges) or len(ranges) != len(weights) + 1 or not any(weights):
            yield (
                f"competition.auc_ranges is {list(ranges)}, competition.auc_weights is {list(weights)}; list the "
                "bounds from the lowest up, and for each range between two of them a weight, not all 0."
            )


@dataclasses.dataclass(frozen=True)
class DataSettings(Section):
    """Paths inside the raw folder, `data/<competition>/raw`, and columns of the labels CSV."""

    zip_encoding: str = option("", "encoding of names in a zip that does not say it, as gbk or cp1252; empty: UTF-8")
    labels: str = option(
        "",
        "CSV (also zipped) or COCO-style JSON of the labelled images; several: one.json+other.json; empty: "
        "train_images has one folder per class",
    )
    id_column: str = option("", "column of image ids in the labels CSV; empty: the first column")
    label_column: str = option("", "column of labels in the labels CSV; empty: the second column")
    label_columns: tuple[str, ...] = option(
        (), "several columns: a number each; or 0 and 1 for each class or label; with * and ? as in file names"
    )
    label_separator: str = option("", "several_labels: text between two labels in a cell of data.label_column")
    label_pattern: str = option(
        "", "regular expression of paths below train_images, with groups (?P<label>…) and maybe (?P<group>…)"
    )
    class_folders: tuple[str, ...] = option(
        (), "folders of classes, as path or path=class, below train_images; empty: all folders in it"
    )
    file_column: str = option("", "column of the labels CSV and test_table that names the image file; empty: the id")
    train_file: str = option(
        "", "path of a training image below train_images, as {id}.png; {name} is any column; empty: by name"
    )
    test_file: str = option("", "the same for a test image")
    channel_files: tuple[str, ...] = option(
        (), "several files per id, one per channel: the endings of their names, as _red, _green, _blue"
    )
    pixel_columns: str = option(
        "", "images that are numbers in the labels CSV and test_table: their columns, as pixel*, or the column of all"
    )
    pixel_shape: tuple[int, ...] = option((), "pixel_columns: height, width, channels; empty: a square", minimum=1)
    sample_id: str = option("", "column of ids in sample_submission; empty: the first column that is no index")
    flaws: Literal["error", "drop"] = option(
        "error",
        "rows without image or target, images without a row or listed twice: an error; drop: left out, listed in a CSV",
    )
    train_images: str = option("train", "folder of the labelled images")
    class_level: int = option(
        1, "class folders: level of the class below train_images, from 1; -1: the folder that holds the image"
    )
    test_images: str = option("test", "folder of the test images")
    test_table: str = option(
        "", "CSV or JSON of the test ids; empty: the ids of sample_submission, else all of test_images"
    )
    sample_submission: str = option("", "sample submission from Kaggle; empty: there is none")
    submitted_labels: str = option(
        "",
        "CSV of label,answer for each class, in the raw or the working folder; empty: labels are submitted as they are",
    )
    accept: tuple[str, ...] = option((), f"checks of meaning to overrule, if the data is right: {', '.join(CHECKS)}")
    white: int = option(
        0, "values of more than 8 bits: the value of white, to 65535; 0: by each image's own rule", minimum=0
    )
    box_columns: tuple[str, ...] = option(
        (), "boxes: the columns of the words of data.box_form; or one column, with one box or all boxes of the image"
    )
    box_form: str = option(
        "xmin ymin xmax ymax",
        "boxes: the words of a box in the labels CSV: two corners, xmin ymin width height, or xcentre ycentre width "
        "height; with label where it stands in the same cell",
    )
    box_units: Literal["pixels", "shares"] = option(
        "pixels", "boxes: in the labels and in the submission; shares: of the width and the height, 0 to 1"
    )
    no_box_label: str = option("", "boxes: label of the rows that say that an image has no box")

    def problems(self) -> Iterator[str]:
        if self.zip_encoding and not _is_encoding(self.zip_encoding):
            yield f"data.zip_encoding is {self.zip_encoding!r}; it must be an encoding, as gbk, cp932 or cp1252."
        if problem := path_problem(self.submitted_labels):
            yield f"data.submitted_labels cannot be a path: {problem}."
        if not self.class_level:
            yield "data.class_level is 0; levels count from 1, or from -1 at the folder that holds the image."
        if self.labels and self.class_level != 1:
            yield f"data.class_level is {self.class_level}, for class folders, but data.labels names a CSV. Unset one."
        if unknown := [word for word in self.accept if word not in CHECKS]:
            hint = did_you_mean(unknown[0], CHECKS)
            yield f"data.accept has {', '.join(map(repr, unknown))}.{hint} Valid: {', '.join(CHECKS)}."
        if box_problem := _box_problem(self.box_form, set()):
            yield f"data.box_form is {quoted(self.box_form)}; {box_problem}"
        if len(self.box_columns) not in (0, 1, len(self.box_form.split())):
            yield (
                f"data.box_columns has {len(self.box_columns)} columns; it takes one, or one for each word of "
                f"data.box_form, {quoted(self.box_form)}."
            )
        if self.white > 65535:
            yield f"data.white is {self.white}; it must be 0 (each image's own) or 1 to 65535."
        for key in ("labels", "train_images", "test_images", "test_table", "sample_submission"):
            place = getattr(self, key)
            parts = place.split("+") if key in ("labels", "test_table") else [place]
            if problem := next(filter(None, map(path_problem, (place, *parts))), ""):
                yield f"data.{key} cannot be a path: {problem}."
            elif any(Path(part.strip()).is_absolute() or ".." in Path(part).parts for part in parts):
                yield f"data.{key} is {place!r}; it must be a path inside the raw folder."
        yield from self._source_problems()

    def _source_problems(self) -> Iterator[str]:
        """Yield what is wrong with the settings about the source of targets and files."""
        groups: list[str] = []
        if self.label_pattern:
            try:
                groups = list(re.compile(self.label_pattern).groupindex)
            except re.error as error:
                yield f"data.label_pattern is {self.label_pattern!r}, which is no regular expression: {error}."
            else:
                if not groups:
                    form = "(?P<label>cat|dog)[.]"
                    yield f"data.label_pattern is {self.label_pattern!r}; it needs a named group, as in {form!r}."
        folders = ("data.class_folders", self.class_folders)
        pattern = ("data.label_pattern with a group label", "label" in groups)
        exclusive = (
            ("data.labels", folders, self.labels),
            ("data.labels", pattern, self.labels),
            ("data.class_folders", pattern, self.class_folders),
            ("data.class_folders", ("data.class_level", self.class_level != 1), self.class_folders),
            ("data.label_columns", ("data.label_column", self.label_column), self.label_columns),
            ("data.label_columns", ("data.label_separator", self.label_separator), self.label_columns),
        )
        for one, (other, is_set), value in exclusive:
            if value and is_set:
                yield f"{one} and {other} are both set; unset one."
        tables = (("label_columns", "labels"), ("train_file", "labels"))
        for key, needed in tables:
            if getattr(self, key) and not getattr(self, needed):
                yield f"data.{key} is set, but data.{needed} names no table. Set data.{needed}, or unset data.{key}."
        if self.file_column and not (self.labels or self.test_table):
            yield "data.file_column is set, but neither data.labels nor data.test_table names a table. Unset it."
        if self.test_file and not (self.test_table or self.sample_submission):
            yield "data.test_file is set, but neither data.test_table nor data.sample_submission lists ids. Unset it."
        if self.sample_id and not self.sample_submission:
            yield "data.sample_id is set, but data.sample_submission is not. Set it, or unset data.sample_id."


def _is_encoding(name: str) -> bool:
    """Return whether `name` is an encoding that Python knows, of text and not, like base64, of bytes."""
    try:
        b"a".decode(name)
    except (LookupError, ValueError):  # ValueError: a NUL in the name, or an encoding with two bytes per character
        return False
    return True


@dataclasses.dataclass(frozen=True)
class SplitSettings(Section):
    """How labelled rows are divided into training and validation rows; the same for all recipes, to compare scores."""

    method: Literal["stratified", "equal-per-class"] = option(
        "stratified",
        "validation rows: in proportion to each class, label or range of numbers; or as many of each class (d2l.ai)",
    )
    valid_ratio: float = option(0.1, "share of the labelled rows used for validation", above=0, below=1)
    folds: int = option(0, "number of folds; fold 0 then validates, and valid_ratio is unused; 0: no folds", minimum=0)
    group_column: str = option("", "column of the labels CSV or JSON; rows with one value stay together in the split")
    group_file: str = option("", "CSV of id,group (`audit` writes one), from the working folder; groups stay together")
    seed: int = option(0, "random seed of the split", minimum=0)
    tree: bool = option(True, "make the tree of links for ImageFolder and other tools; no stage reads it")

    def problems(self) -> Iterator[str]:
        if self.group_column and self.group_file:
            yield "split.group_column and split.group_file are both set; choose one."
        if self.folds == 1:
            yield "split.folds is 1; it must be 0 (no folds) or at least 2."
