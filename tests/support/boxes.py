"""Raw folders of images with boxes."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from tests.support.raw_files import write

WIDTH, HEIGHT = 100, 50
Box = tuple[str, float, float, float, float]  # label, xmin, ymin, xmax, ymax in pixels
BOXES: dict[str, list[Box]] = {
    f"i{number:02}.png": [
        *[("RBC", 10, 5, 30, 25 + number)] * (number < 12),
        *[("WBC", 50, 10, 90, 40)] * (number < 12 and number % 3 == 0),
    ]
    for number in range(14)
}


def pictures(raw: Path, names: Sequence[str], folder: str = "train") -> None:
    (raw / folder).mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("RGB", (WIDTH, HEIGHT), (90, 30, 20)).save(raw / folder / name)


def voc(folder: Path, boxes: Mapping[str, Sequence[Box]]) -> None:
    """Write an XML file for each image."""
    for name, found in boxes.items():
        objects = "".join(
            f"<object><name>{label}</name><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax>"
            "</bndbox></object>"
            for label, a, b, c, d in found
        )
        text = f"<annotation><filename>{name}</filename>{objects}</annotation>"
        write(folder / name.replace(".png", ".xml"), text)


def coco(path: Path, boxes: Mapping[str, Sequence[Box]]) -> None:
    numbers = {name: number for number, name in enumerate(boxes, start=5)}
    categories = {"RBC": 1, "WBC": 2}
    marks = [
        {"image_id": numbers[name], "category_id": categories[label], "bbox": [a, b, c - a, d - b]}
        for name, found in boxes.items()
        for label, a, b, c, d in found
    ]
    content = {
        "images": [
            {"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT} for name, number in numbers.items()
        ],
        "annotations": [{"id": number, "area": 1.5, "iscrowd": 0} | mark for number, mark in enumerate(marks)],
        "categories": [{"id": number, "name": name} for name, number in categories.items()],
    }
    write(path, json.dumps(content))
