"""A competition with boxes, its split and a run that has predicted, written by hand."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image, ImageDraw

from pipelines.analysis.pictures import draw_results
from pipelines.analysis.results import Results, write_valid_predictions
from pipelines.dataset.boxes import COLUMNS, FOUND, MOST
from pipelines.dataset.image_set import ImageSet, read_images
from pipelines.dataset.tables import write_csv
from pipelines.settings.loading import load_settings
from pipelines.settings.records import start_run
from pipelines.settings.schema import Settings
from pipelines.system.files import file_sha256, write_json
from tests.support.report_pages import Site

TOML = """
[competition]
task = "boxes"
metric = "box_map_at"
submission = "boxes"
[data]
labels = "labels.csv"
box_columns = ["xmin", "ymin", "xmax", "ymax"]
[input]
size = 32
[hardware]
device = "cpu"
workers = 0
"""
COLOURS = ("white", "red", "lime", "blue")
Box = tuple[int, float, float, float, float]  # of an image: the number of its class, and its sides as shares
Found = tuple[int, float, float, float, float, float]  # the number of its class, its confidence and its sides
Array = npt.NDArray[np.float32]


def boxes_of(image: int) -> list[Box]:
    """The true boxes of an image: none of every fifth, else one to three that do not touch."""
    random = np.random.default_rng(image)
    boxes = []
    for place in range(image % 5 and 1 + image % 3):
        left, top = 0.02 + 0.33 * place + 0.05 * random.random(), 0.6 * random.random()
        boxes.append((int(random.integers(3)), left, top, left + 0.25, top + 0.3))
    return boxes


def padded(images: Sequence[Sequence[Found]]) -> Array:
    """Predictions (N, MOST * 6) of the boxes that each image has."""
    found = np.zeros((len(images), MOST, FOUND), np.float32)
    for row, boxes in enumerate(images):
        for place, box in enumerate(sorted(boxes, key=lambda each: -each[1])):
            found[row, place] = box
    return found.reshape(len(images), -1)


def guesses(images: Sequence[int]) -> Array:
    """Predictions of some images: most boxes, some of them too far away, and one where nothing is."""
    found: list[list[Found]] = []
    for image in images:
        true = boxes_of(image)
        right = [(number, 0.9 - place / 10, *sides) for place, (number, *sides) in enumerate(true) if image % 4]
        found.append([*right, (0, 0.3, 0.7, 0.9, 0.9, 0.99)])  # type: ignore[list-item]
    return padded(found)


def make_boxes(folder: Path, classes: Sequence[str] = ("cat", "dog", "owl"), count: int = 20) -> Site:
    """Write images with coloured rectangles, their split and boxes; every third labelled one validates."""
    site, boxes, rows = Site(folder, "site.toml"), [], []
    (folder / site.name).write_text(TOML)
    layout = site.layout
    for image in range(count + 8):
        is_test = image >= count
        name, path = f"n{image}", f"{'test' if is_test else 'train'}/n{image}.png"
        picture = Image.new("RGB", (60, 40), "grey")
        for number, *sides in boxes_of(image):
            ends = [share * side for share, side in zip(sides, (60, 40, 60, 40), strict=True)]
            ImageDraw.Draw(picture).rectangle(ends, fill=COLOURS[number])
            boxes += [] if is_test else [(name, classes[number], *sides)]
        (layout.raw / path).parent.mkdir(parents=True, exist_ok=True)
        picture.save(layout.raw / path)
        label = "" if is_test else "|".join(sorted(classes[number] for number, *_ in boxes_of(image)))
        rows.append((name, path, label, "test" if is_test else "valid" if image % 3 == 0 else "train", -1))
    pd.DataFrame(rows, columns=["id", "path", "label", "split", "fold"]).to_csv(layout.split_csv, index=False)
    write_csv(layout.boxes_csv, pd.DataFrame(boxes, columns=[*COLUMNS]))
    return site


def opened(site: Site) -> tuple[Settings, ImageSet]:
    """The settings, and the validation images."""
    settings = load_settings(str(site.folder / site.name))
    images = read_images(settings, site.layout, "make split")
    return settings, images.select(images.table[images.table["split"] == "valid"])


def numbers_in(images: ImageSet) -> list[int]:
    return [int(name[1:]) for name in images.ids]


def add_run(site: Site, name: str = "a", predicted: Array | None = None) -> None:
    """Write a run that has predicted validation and test images."""
    settings, valid = opened(site)
    run, submission = site.layout.run(name), site.layout.submission(name)
    run.folder.mkdir(parents=True)
    submission.parent.mkdir(parents=True, exist_ok=True)
    start_run(run, settings, site.layout.split_csv)
    run.history.write_text(
        "epoch,train_loss,train_loss_classifier,valid_loss,box_map_at,lr\n1,2,1,1.5,0.2,0.1\n2,1,0.5,1.2,0.5,0.1\n"
    )
    trained = {"best_epoch": 2, "epochs": 2, "metric": "box_map_at", "score": 0.5, "seconds": 1, "train_images": 13}
    write_json(run.trained, trained | {"valid_images": len(valid), "hardware": {"device": "cpu"}})
    found = guesses(numbers_in(valid)) if predicted is None else predicted
    results = Results(valid, found, found)
    write_valid_predictions(run.valid_predictions, results)
    draw_results(run, settings, results, "a title")
    test = valid.part(test=True)
    np.save(run.test_predictions, guesses(numbers_in(test)))
    submission.write_text("id,boxes\n" + "".join(f"{each},cat 0.5 1 2 3 4\n" for each in test.ids))
    note = {"valid_score": 0.5, "valid_interval": [0.4, 0.6], "valid_images": len(valid), "rows": len(test)}
    note |= {"sha256": file_sha256(submission), "test_predictions": file_sha256(run.test_predictions)}
    write_json(run.predicted, {submission.name: note})
