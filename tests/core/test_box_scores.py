"""Average precision equals that of pycocotools, also at the edges; the wheat definition equals a table made by hand."""

import math
import time

import numpy as np
import pytest

from pipelines.core.box_scores import (
    COCO_IOUS,
    WHEAT_IOUS,
    average_precisions,
    box_map,
    box_map_at,
    box_precision,
    curve,
    match,
    mean_precision,
    precisions,
)
from pipelines.core.metrics import make_metric
from pipelines.dataset.boxes import FOUND, MOST
from pipelines.settings.data_sections import CompetitionSettings
from tests.support.found_boxes import Array, perfect, precision_by_loop, random_boxes


def image(*boxes: tuple[float, ...]) -> Array:
    """Return the predictions of one image, of boxes of the class 0: confidence, xmin, width; they are 1 high."""
    found = np.zeros((1, MOST, FOUND), np.float32)
    for place, (confidence, start, width) in enumerate(boxes):
        found[0, place] = 0, confidence, start, 0, start + width, 1
    return found.reshape(1, -1)


def truth(*boxes: tuple[float, float]) -> Array:
    return np.array([[(0, start, 0, start + width, 1) for start, width in boxes]], np.float32)


@pytest.mark.parametrize(("classes", "seed"), [(1, 0), (3, 1), (5, 2), (40, 3)])
def test_average_precision_is_that_of_pycocotools(classes: int, seed: int) -> None:
    predicted, targets = random_boxes(40, seed, classes)
    predicted.reshape(-1, FOUND)[:, 1] = np.round(predicted.reshape(-1, FOUND)[:, 1], 1)  # many equal ones
    for score, ious in (
        (box_map(predicted, targets, classes), COCO_IOUS),
        (box_map_at(predicted, targets, classes, 0.4), [0.4]),
    ):
        found = match(predicted, targets, np.array(ious), classes)
        assert mean_precision(found)[0] == pytest.approx(score, abs=1e-9)
        assert np.nanmean(average_precisions(found)) == pytest.approx(score, abs=1e-9)


def test_no_boxes_and_classes_without_a_true_box() -> None:
    predicted, targets = random_boxes(10, 0, 3)
    nothing = np.full_like(targets, np.nan)
    for metric in (CompetitionSettings(metric="box_map"), CompetitionSettings(metric="box_map_at")):
        made = make_metric(metric, ["a", "b", "c", "d"])
        assert math.isnan(made.score(predicted, nothing)) and np.isnan(made.interval(predicted, nothing)).all()
        assert made.notes(predicted, nothing) == [f"{made.name}: there are no true boxes, so it is not defined."]
        assert made.notes(predicted, targets) == [
            f"{made.name}: 1 of 4 classes have no true box and are left out: 'd'."
        ]
        assert made.score(np.zeros_like(predicted), targets) == 0 == made.interval(np.zeros_like(predicted), targets)[0]
        assert made.score(perfect(targets), targets) == 1
    assert box_precision(predicted, nothing) == 0
    assert box_precision(np.zeros_like(predicted), nothing) == 1
    assert box_precision(np.zeros_like(predicted), targets) == 0


def test_the_wheat_definition_by_hand() -> None:
    """Two true boxes.  Predicted: one with an IoU of 0.72, one with 0.5, and one that overlaps nothing."""
    predicted, targets = image((0.9, 0, 0.18), (0.8, 0.5, 0.1), (0.7, 0.9, 0.05)), truth((0, 0.25), (0.5, 0.2))
    table = {0.5: 2 / 3, 0.55: 1 / 4, 0.6: 1 / 4, 0.65: 1 / 4, 0.7: 1 / 4, 0.75: 0 / 5}  # TP / (TP + FP + FN)
    predicted[0, 6 + 4] += 1e-4  # above 0.5, whatever the rounding
    assert np.allclose(WHEAT_IOUS, list(table))
    assert box_precision(predicted, targets) == pytest.approx(np.mean(list(table.values())), abs=1e-9)
    assert precision_by_loop(predicted, targets) == pytest.approx(np.mean(list(table.values())), abs=1e-9)


def test_a_box_takes_the_best_true_box_that_is_left() -> None:
    predicted = image((0.9, 0.02, 0.2), (0.8, 0, 0.2))  # both overlap the first most
    targets = truth((0, 0.2), (0.06, 0.2))
    hits = match(predicted, targets, np.array([0.5, 0.8])).hits[0, :2]
    assert hits.T.tolist() == [[1, 1], [1, 0]]
    assert precisions(match(predicted, targets, np.array([0.5, 0.8])).hits, targets) == pytest.approx([(1 + 1 / 3) / 2])


def test_a_curve_is_recall_and_precision_after_each_box() -> None:
    predicted, targets = image((0.9, 0, 0.2), (0.8, 0.7, 0.1), (0.7, 0.3, 0.2)), truth((0, 0.2), (0.3, 0.2))
    recall, precision, confidence = curve(match(predicted, targets, np.array([0.5])), 0)
    assert recall.tolist() == [0.5, 0.5, 1] and precision == pytest.approx([1, 1 / 2, 2 / 3])
    assert confidence == pytest.approx([0.9, 0.8, 0.7])


def test_a_score_with_its_interval_is_quick() -> None:
    predicted, targets = random_boxes(58, 1, 3, most=26)
    for name in ("box_map", "box_map_at", "box_precision"):
        metric = make_metric(CompetitionSettings(metric=name), ["a", "b", "c"])
        metric.score(predicted, targets)  # imports
        start = time.perf_counter()
        metric.score(predicted, targets), metric.interval(predicted, targets)
        assert time.perf_counter() - start < 3  # 0.3 s alone on one core
