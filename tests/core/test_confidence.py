"""Confidence and overlap of sent boxes are chosen as well as any on a grid, and decide as they say."""

import itertools

import numpy as np
import pytest
import torch
from torchvision.ops import nms

from pipelines.core import choices
from pipelines.core.box_scores import box_map, box_precision
from pipelines.core.choices import CONFIDENCES, OVERLAPS, Choice, Confidence
from pipelines.core.decide import make_judge
from pipelines.models.detectors import pad
from pipelines.settings.loading import merge
from pipelines.settings.schema import Settings
from tests.support.found_boxes import random_boxes, unpad

NAMES = ["ant", "bee", "cat"]
KIND = Confidence(3)


def judge(metric: str = "box_precision", **predict: bool):  # type: ignore[no-untyped-def]
    competition = {"task": "boxes", "submission": "boxes", "metric": metric}
    return make_judge(merge(Settings("x"), {"competition": competition, "predict": predict}, "x"), NAMES, [], True)


def test_boxes_below_the_confidence_and_suppressed_ones_are_left_out() -> None:
    predicted = torch.from_numpy(random_boxes(20, 0, 3)[0])
    for least, overlap in itertools.product((0.0, 0.4), (0.2, 0.6)):
        decided = unpad(KIND.apply(predicted, (least, overlap)))
        for boxes, found in zip(unpad(predicted), decided, strict=True):
            boxes = boxes[(boxes[:, 1] > 0) & (boxes[:, 1] >= least)]
            kept = [
                boxes[boxes[:, 0] == number][nms(some[:, 2:], some[:, 1], overlap)]
                for number in range(3)
                if len(some := boxes[boxes[:, 0] == number])
            ]
            expected = torch.cat([*kept, torch.zeros(0, 6)])
            rows = pad([expected[:, 0]], [expected[:, 1]], [expected[:, 2:]])
            assert torch.equal(unpad(rows)[0], found)


def test_the_choice_is_the_best_of_the_grid() -> None:
    predicted, targets = random_boxes(30, 1, 3)
    choice = choices.fit(KIND, torch.from_numpy(predicted), targets)
    scores = {
        values: box_precision(KIND.apply(torch.from_numpy(predicted), values).numpy(), targets)
        for values in itertools.product(CONFIDENCES, OVERLAPS)
    }
    assert scores[choice.values] == pytest.approx(max(scores.values()), abs=1e-12)  # type: ignore[index]
    made = judge()
    assert "onfidence" in made.describe(choice, NAMES, 30) and "fitted on 30" in made.describe(choice, NAMES, 30)
    assert made.facts(choice, NAMES)["confidence"] == list(choice.values)
    score, (low, high) = made.judge(torch.from_numpy(predicted), targets)
    assert low <= score <= high and score > box_precision(predicted, targets)
    assert box_precision(made.answers(choice, torch.from_numpy(predicted)), targets) == scores[choice.values]  # type: ignore[index]


def test_nothing_is_fitted_without_rows_or_where_it_is_not_wanted_or_for_average_precision() -> None:
    predicted, targets = (each[:3] for each in random_boxes(30, 1, 3))
    kept = torch.from_numpy(predicted)
    assert judge().fit(kept, targets) == Choice("confidence", ((0.5, 1.0),))
    assert judge().describe(judge().plain, NAMES, 3).startswith("No least confidence")
    assert judge(choose=False).fit(torch.from_numpy(random_boxes(30, 1, 3)[0]), targets).fitted == 0
    plain = judge("box_map")
    assert plain.open is None and plain.judge(kept, targets)[0] == box_map(predicted, targets, 3)
    assert np.array_equal(plain.answers(plain.plain, kept), predicted)
    assert plain.notes_before(targets) == plain.notes(plain.plain, kept, targets)
