"""Miniatures of detection competitions: photos of coloured rectangles, in each form that boxes are published in."""

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from tests.support.forms import Files, zipped

WIDTH, HEIGHT = 96, 64  # pixels
TRAIN, TEST = 16, 5  # images
EMPTY = 3  # the training image without a box
COLOURS = {"blue": (40, 60, 220), "green": (30, 200, 60), "red": (220, 40, 30)}
CLASSES = list(COLOURS)
CORNERS, SIZE, CENTRE = "xmin ymin xmax ymax", "xmin ymin width height", "xcentre ycentre width height"


class Box(NamedTuple):
    """A box of an image in pixels."""

    image: int
    label: str
    xmin: int
    ymin: int
    xmax: int
    ymax: int

    def sides(self, form: str, shares: bool = False) -> list[float]:
        """Return the box in the notation `form`, in pixels or as shares of the image."""
        width, height = self.xmax - self.xmin, self.ymax - self.ymin
        both = {
            CORNERS: self[2:],
            SIZE: (self.xmin, self.ymin, width, height),
            CENTRE: (self.xmin + width / 2, self.ymin + height / 2, width, height),
        }[form]
        return [value / (WIDTH, HEIGHT)[place % 2] for place, value in enumerate(both)] if shares else list(both)


@cache
def boxes() -> list[Box]:
    """Return the boxes of all images, those for training first: one to three each, none in the image EMPTY."""
    random, found = np.random.default_rng(5), []
    for image in range(TRAIN + TEST):
        for place in range(image % 3 + 1 if image != EMPTY else 0):
            width, height = random.integers(16, 29), random.integers(20, 40)
            left, top = 32 * place + random.integers(0, 33 - width), random.integers(0, HEIGHT - height)
            label = CLASSES[(image + place) % 3]
            found.append(Box(image, label, *map(int, (left, top, left + width, top + height))))
    return found


TRUE = [box for box in boxes() if box.image < TRAIN]  # of the training images


def name(image: int) -> str:
    return f"{(image * 2654435761 + 97) % 2**32:08x}"


@cache
def pictures(train: str = "train", test: str = "test") -> Files:
    """Return the images as JPEG files in two folders."""
    files = {}
    for image in range(TRAIN + TEST):
        picture = Image.new("RGB", (WIDTH, HEIGHT), (200, 200, 190))
        for box in (each for each in boxes() if each.image == image):
            ImageDraw.Draw(picture).rectangle((box.xmin, box.ymin, box.xmax - 1, box.ymax - 1), COLOURS[box.label])
        content = io.BytesIO()
        picture.save(content, "JPEG", quality=90)
        files[f"{train if image < TRAIN else test}/{name(image)}.jpg"] = content.getvalue()
    return files


def sheet(header: str, rows: Sequence[Sequence[Any]]) -> bytes:
    """Return a CSV; cells with a comma are in quotes."""
    cells = [[f'"{cell}"' if "," in str(cell) else str(cell) for cell in row] for row in rows]
    return "\n".join([header, *map(",".join, cells), ""]).encode()


def sample(cell: str, header: str = "image_id,PredictionString", ending: str = "") -> Files:
    rows = [(name(image) + ending, cell) for image in range(TRAIN, TRAIN + TEST)]
    return {"sample_submission.csv": sheet(header, rows)}


@dataclass(frozen=True)
class BoxForm:
    """A miniature.  make: its files; settings: what the TOML must have, by `section.key`.

    one_class: whether all boxes have the only class. metric: in Kaggle's words; empty: none is given.
    """

    name: str
    make: Callable[[], Files]
    settings: dict[str, Any] = field(default_factory=dict)
    one_class: bool = False
    metric: str = ""

    def archive(self, folder: Path) -> Path:
        """Write the archive of the competition, and return its path."""
        path = folder / f"{self.name}.zip"
        path.write_bytes(zipped(self.make()))
        return path


def _corners() -> Files:
    rows = [(f"{name(box.image)}.jpg", box.label, *box.sides(CORNERS)) for box in TRUE]
    cell = sample("red 0.5 0 0 50 50", "img_name,PredictionString", ".jpg")
    return pictures() | cell | {"train.csv": sheet("img_name,label,x_min,y_min,x_max,y_max", rows)}


def _size() -> Files:
    rows = [(name(box.image), *box.sides(SIZE), box.label) for box in TRUE]
    return pictures() | sample("") | {"train.csv": sheet("image_id,x,y,w,h,class", rows)}


def _shares() -> Files:
    """Centre and size as shares; numbers of classes, whose names are in another column."""
    rows = [(name(box.image), box.label, CLASSES.index(box.label), *box.sides(CENTRE, True)) for box in TRUE]
    header = "image_id,class_name,class_id,x_center,y_center,width,height"
    return pictures() | sample("2 0.9 0.5 0.5 0.25 0.5") | {"train.csv": sheet(header, rows)}


def _wheat() -> Files:
    """One box in a cell; no column of labels."""
    rows = [(name(box.image), WIDTH, HEIGHT, str(box.sides(SIZE)), f"farm_{box.image % 6}") for box in TRUE]
    return pictures() | sample("1.0 0 0 50 50") | {"train.csv": sheet("image_id,width,height,bbox,source", rows)}


def _in_one_cell(words: str, joint: str) -> Files:
    cells = dict.fromkeys(range(TRAIN), "")
    for box in TRUE:
        text = words.format(" ".join(map(str, box.sides(SIZE))), label=box.label)
        cells[box.image] += joint * bool(cells[box.image]) + text
    labels = sheet("image_id,boxes", [(name(image), cell) for image, cell in cells.items()])
    answer = "red 0.9 0 0 10 10 blue 0.5 0 0 9 9" if "{label}" in words else "0.9 0 0 10 10"
    return pictures() | sample(answer) | {"train.csv": labels}


def _findings() -> Files:
    """Two readers mark the same images; a class of its own says that there is nothing."""
    rows: list[tuple[Any, ...]] = [
        (name(box.image), box.label, CLASSES.index(box.label), f"R{reader}", *box.sides(CORNERS))
        for box in TRUE
        for reader in range(1 + box.image % 2)
    ]
    rows.append((name(EMPTY), "No finding", 14, "R9", "", "", "", ""))
    header = "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max"
    return pictures() | sample("14 1 0 0 1 1") | {"train.csv": sheet(header, rows)}


def _target() -> Files:
    """A column says whether there is a box; the sample has no labels."""
    rows: list[tuple[Any, ...]] = [(name(box.image), *box.sides(SIZE), 1) for box in TRUE]
    rows.append((name(EMPTY), "", "", "", "", 0))
    header = "patientId,x,y,width,height,Target"
    cells = sample("0.5 0 0 20 20", "patientId,PredictionString")
    return pictures() | cells | {"stage_2_train_labels.csv": sheet(header, rows)}


def _voc() -> Files:
    files = pictures("images", "test") | sample("red 0.5 0 0 50 50")
    for image in range(TRAIN):
        objects = "".join(
            f"<object><name>{box.label}</name><difficult>0</difficult><bndbox><xmin>{box.xmin}</xmin>"
            f"<ymin>{box.ymin}</ymin><xmax>{box.xmax}</xmax><ymax>{box.ymax}</ymax></bndbox></object>"
            for box in TRUE
            if box.image == image
        )
        size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
        text = f"<annotation><filename>{name(image)}.jpg</filename>{size}{objects}</annotation>"
        files[f"annotations/{name(image)}.xml"] = text.encode()
    return files


def _coco() -> Files:
    content = {
        "images": [
            {"id": image, "file_name": f"{name(image)}.jpg", "width": WIDTH, "height": HEIGHT} for image in range(TRAIN)
        ],
        "categories": [{"id": place + 1, "name": label} for place, label in enumerate(CLASSES)],
        "annotations": [
            {"id": place, "image_id": box.image, "category_id": CLASSES.index(box.label) + 1, "bbox": box.sides(SIZE)}
            for place, box in enumerate(TRUE)
        ],
    }
    return pictures() | sample("red 0.5 0 0 50 50") | {"train.json": json.dumps(content).encode()}


def _bananas() -> Files:
    """The textbook's form, without a sample submission."""
    rows = [(f"{name(box.image)}.jpg", 0, *box.sides(CORNERS)) for box in TRUE]
    return pictures() | {"label.csv": sheet("img_name,label,xmin,ymin,xmax,ymax", rows)}


CORNER_CELLS = {"data.box_form": CORNERS, "data.box_units": "pixels"}
SIZE_CELLS = {"data.box_form": SIZE, "data.box_units": "pixels"}
LABELLED = {"competition.box_answer": f"label confidence {CORNERS}"}
IN_CELL = {"data.box_columns": ("boxes",), "data.box_units": "pixels", "data.label_column": ""}
BOX_FORMS = (
    BoxForm(
        "corners",
        _corners,
        {**CORNER_CELLS, **LABELLED, "data.label_column": "label"}
        | {"data.box_columns": ("x_min", "y_min", "x_max", "y_max"), "data.sample_submission": "sample_submission.csv"},
        metric="PASCAL VOC mAP",
    ),
    BoxForm(
        "size",
        _size,
        {**SIZE_CELLS, "data.label_column": "class", "data.box_columns": ("x", "y", "w", "h")}
        | {"competition.box_answer": f"label confidence {SIZE}"},
    ),
    BoxForm(
        "shares",
        _shares,
        {"data.box_form": CENTRE, "data.box_units": "shares", "data.label_column": "class_id"}
        | {"competition.box_answer": f"label confidence {CENTRE}", "competition.box_iou": 0.4},
        metric="mAP at IoU > 0.4",
    ),
    BoxForm(
        "wheat",
        _wheat,
        {**SIZE_CELLS, "data.box_columns": ("bbox",), "data.label_column": "", "competition.metric": "box_precision"}
        | {"competition.box_answer": f"confidence {SIZE}"},
        one_class=True,
        metric="mean precision at IoU thresholds",
    ),
    BoxForm(
        "labels-in-cells",
        lambda: _in_one_cell("{label} {}", " "),
        {**IN_CELL, "data.box_form": f"label {SIZE}", "competition.box_answer": f"label confidence {SIZE}"},
    ),
    BoxForm(
        "one-class-in-cells",
        lambda: _in_one_cell("{}", ";"),
        {**IN_CELL, "data.box_form": SIZE, "competition.box_answer": f"confidence {SIZE}"},
        one_class=True,
    ),
    BoxForm(
        "findings",
        _findings,
        {**CORNER_CELLS, **LABELLED, "data.label_column": "class_id", "data.no_box_label": "14"}
        | {"competition.no_boxes": "14 1 0 0 1 1"},
    ),
    BoxForm(
        "target",
        _target,
        {**SIZE_CELLS, "data.label_column": "Target", "data.no_box_label": "0", "competition.no_boxes": ""}
        | {"competition.box_answer": f"confidence {SIZE}"},
        one_class=True,
    ),
    BoxForm("voc", _voc, {**CORNER_CELLS, **LABELLED, "data.train_images": "images"}),
    BoxForm("coco", _coco, {**SIZE_CELLS, "competition.box_answer": f"label confidence {SIZE}"}, metric="COCO mAP"),
    BoxForm(
        "bananas",
        _bananas,
        {**CORNER_CELLS, **LABELLED, "data.label_column": "label", "data.sample_submission": ""},
        one_class=True,
    ),
)
