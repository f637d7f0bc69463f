"""Miniatures of competitions beside those of forms.py, each with a trap: 60 images, the sample, the hidden solution."""

import io
import json
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score

from tests.support.forms import (
    LABELLED,
    SIDE,
    TEST,
    Form,
    Made,
    below,
    csv,
    cycle,
    hashes,
    images,
    numbers,
    of_labels,
    of_numbers,
    shade,
    table,
    zipped,
)

NAMES = hashes(LABELLED + TEST)
KINDS = ("boxing", "chess", "diving")


def _both(names: list[str], values: list[float], kind: str = "jpg") -> dict[str, bytes]:
    files = images([f"{name}.{kind}" for name in names], values)
    return {f"{'train' if n < LABELLED else 'test'}/{name}": data for n, (name, data) in enumerate(files.items())}


TAGS = ("haze primary", "clear primary road", "clear primary", "road water", "clear primary", "cloudy")


def _amazon() -> Made:
    """Test images in two folders, with names of two kinds; tables in zips."""
    cells = cycle(TAGS, LABELLED + TEST)
    train = [f"train_{n}" for n in range(LABELLED)]
    test = [f"test_{n}" for n in range(10)] + [f"file_{n}" for n in range(TEST - 10)]
    files = images([f"{name}.jpg" for name in train + test], [shade(TAGS.index(cell), 6) for cell in cells])
    homes = {"train": "train-jpg", "test": "test-jpg", "file": "test-jpg-additional"}
    labels = csv(table(list(zip(train, cells, strict=False)), "image_name", "tags"))
    sample = csv(table([[name, "primary clear road water"] for name in test], "image_name", "tags"))
    return Made(
        {f"{homes[name.partition('_')[0]]}/{name}": data for name, data in files.items()}
        | {"train_v2.csv.zip": zipped({"train_v2.csv": labels})}
        | {"sample_submission_v2.csv.zip": zipped({"sample_submission_v2.csv": sample})},
        table(list(zip(test, cells[LABELLED:], strict=True)), "image_name", "tags"),
    )


def _f2(truth: list[str], answers: list[str]) -> float:
    scores = []
    for true, sent in ((set(one.split()), set(other.split())) for one, other in zip(truth, answers, strict=True)):
        scores.append(5 * len(true & sent) / (4 * len(true) + len(sent)) if true or sent else 0.0)
    return float(np.mean(scores))


CELLS = ("16 0", "7 1 2 0", "5", "18", "0")
COLOURS = ("red", "green", "blue", "yellow")


def _proteins() -> Made:
    """Four files per image; lists of numbers that occur in few combinations."""
    cells, files = cycle(CELLS, LABELLED + TEST), {}
    for number, (name, cell) in enumerate(zip(NAMES, cells, strict=True)):
        for place, colour in enumerate(COLOURS):
            random = np.random.default_rng(4 * number + place)
            value = 255 * shade((CELLS.index(cell) * (place + 1)) % 5, 5)
            pixels = np.clip(random.normal(value, 20, (SIDE, SIDE)), 0, 255).astype(np.uint8)
            content = io.BytesIO()
            Image.fromarray(pixels).save(content, "PNG")
            files[f"{'train' if number < LABELLED else 'test'}/{name}_{colour}.png"] = content.getvalue()
    return Made(
        files
        | {
            "train.csv": csv(table(list(zip(NAMES[:LABELLED], cells, strict=False)), "Id", "Target")),
            "sample_submission.csv": csv(table([[name, 0] for name in NAMES[LABELLED:]], "Id", "Predicted")),
        },
        table(list(zip(NAMES[LABELLED:], cells[LABELLED:], strict=True)), "Id", "Predicted"),
    )


def _macro_f1_of_sets(truth: list[str], answers: list[str]) -> float:
    labels = sorted({label for cell in CELLS for label in cell.split()})
    flags = [np.array([[label in cell.split() for label in labels] for cell in cells]) for cells in (truth, answers)]
    return float(f1_score(*flags, average="macro", zero_division=0))


def _keypoints() -> Made:
    """A row per image and number, with the number's name behind the image's, which has the same sign in it."""
    points = ("eye_x", "eye_y", "nose")
    names = [f"{'Train' if n < LABELLED else 'Test'}_{n}" for n in range(LABELLED + TEST)]
    values = [[10.25 + (n * (place + 3)) % 17 for place in range(3)] for n in range(LABELLED + TEST)]
    rows = [[name, *row] for name, row in zip(names, values, strict=True)]
    long = [
        [f"{name}_{point}", value] for name, *row in rows[LABELLED:] for point, value in zip(points, row, strict=True)
    ]
    return Made(
        _both(names, [row[0] / 30 for row in values], "png")
        | {
            "train.csv": csv(table(rows[:LABELLED], "image_id", *points)),
            "sample_submission.csv": csv(table([[name, 0.0] for name, _ in long], "row_id", "location")),
        },
        table(long, "row_id", "location"),
    )


def _rmse(solution: pd.DataFrame, submission: pd.DataFrame) -> float:
    assert solution.iloc[:, 0].tolist() == submission.iloc[:, 0].tolist()
    return float(np.sqrt(np.mean((numbers(solution) - numbers(submission)) ** 2)))


def _sports() -> Made:
    """JSON in three files; an index in front of the sample, whose ids repeat."""
    labels = cycle(KINDS, LABELLED + TEST)
    files = images([f"{n:05}.png" for n in range(LABELLED + TEST)], [shade(KINDS.index(each), 3) for each in labels])

    def listed(key: str, records: list[dict[str, Any]]) -> bytes:
        return json.dumps({key: records}).encode()

    def pictures(start: int, end: int) -> list[dict[str, Any]]:
        return [{"id": n, "file_name": f"{n:05}.png"} for n in range(start, end)]

    marks = [{"id": n, "image_id": n, "category_id": 7 + 5 * KINDS.index(labels[n])} for n in range(LABELLED)]
    ids = [*range(LABELLED, LABELLED + TEST), LABELLED, LABELLED + 1]
    return Made(
        below("images", files)
        | {
            "images_train.json": listed("images", pictures(0, LABELLED)),
            "annotations_train.json": listed("annotations", marks),
            "categories.json": listed("categories", [{"id": 7 + 5 * n, "name": name} for n, name in enumerate(KINDS)]),
            "images_test.json": listed("images", pictures(LABELLED, LABELLED + TEST)),
            "sample_submission.csv": csv(table([[n, i, "chess"] for n, i in enumerate(ids)], "", "image_id", "sport")),
        },
        table([[i, labels[i]] for i in ids], "image_id", "sport"),
    )


def _accuracy_after_an_index(solution: pd.DataFrame, submission: pd.DataFrame) -> float:
    assert submission.iloc[:, 1].tolist() == solution.iloc[:, 0].tolist()
    return float(accuracy_score(solution.iloc[:, 1].tolist(), submission.iloc[:, 2].tolist()))


def _normal_ones() -> Made:
    """The probability of the class that sounds like the negative one."""
    labels = cycle(["abnormal", "normal", "normal"], LABELLED + TEST)
    test = NAMES[LABELLED:]
    return Made(
        _both(NAMES, [0.9 if label == "normal" else 0.1 for label in labels])
        | {
            "train.csv": csv(table(list(zip(NAMES[:LABELLED], labels, strict=False)), "id", "status")),
            "sample_submission.csv": csv(table([[name, 0.5] for name in test], "id", "p_normal")),
        },
        table(
            [[n, int(label == "normal")] for n, label in zip(test, labels[LABELLED:], strict=True)], "id", "p_normal"
        ),
    )


LISTS = {"task": "several_labels", "submission": "label_lists"}
MORE = (
    Form("amazon", _amazon, "F2 Score", {"competition": LISTS | {"metric": "fbeta_samples"}}, of_labels(_f2)),
    Form("proteins", _proteins, "Macro F-Score", {"competition": LISTS}, of_labels(_macro_f1_of_sets)),
    Form("keypoints", _keypoints, "RMSE", {"competition": {"long_form": "{id}_{target}"}}, _rmse),
    Form(
        *("sports", _sports, "Accuracy"),
        {"data": {"labels": "images_train.json+annotations_train.json+categories.json"}},
        _accuracy_after_an_index,
    ),
    Form("normal", _normal_ones, "AUC", {"competition": {"positive": "normal"}}, of_numbers(roc_auc_score)),
)
