"""Weighted box fusion: a case computed by hand, and the algorithm of the paper, box by box."""

import numpy as np
import pytest
import torch
from torch import Tensor

from pipelines.core.fusion import SAME, fuse
from pipelines.dataset.boxes import MOST
from pipelines.models.detectors import pad
from tests.support.found_boxes import unpad

Box = list[float]  # class, confidence, xmin, ymin, xmax, ymax


def predictions(*images: list[Box]) -> Tensor:
    each = [torch.tensor(boxes).reshape(-1, 6) for boxes in images]
    return pad([boxes[:, 0] for boxes in each], [boxes[:, 1] for boxes in each], [boxes[:, 2:] for boxes in each])


def found_in(fused: Tensor, image: int = 0) -> list[Box]:
    boxes = unpad(fused)[image]
    return list(boxes[boxes[:, 1] > 0].tolist())


def overlap(one: Box, other: Box) -> float:
    width = min(one[4], other[4]) - max(one[2], other[2])
    height = min(one[5], other[5]) - max(one[3], other[3])
    common = max(width, 0) * max(height, 0)
    areas = [(box[4] - box[2]) * (box[5] - box[3]) for box in (one, other)]
    return common / (sum(areas) - common)


def literally(members: list[list[Box]]) -> list[Box]:
    """Return the fused boxes of one image as arXiv 1910.13302, section 3, writes it."""
    boxes = sorted((box for member in members for box in member), key=lambda box: -box[1])
    clusters: list[list[Box]] = []
    fused: list[Box] = []
    for box in boxes:
        same = [(overlap(box, each), place) for place, each in enumerate(fused) if each[0] == box[0]]
        best, place = max(same, default=(0.0, 0))
        if best > SAME:
            clusters[place].append(box)
        else:
            place = len(fused)
            clusters.append([box])
            fused.append(box)
        confidences = [each[1] for each in clusters[place]]
        sides = [sum(each[1] * each[side] for each in clusters[place]) / sum(confidences) for side in range(2, 6)]
        fused[place] = [box[0], sum(confidences) / len(confidences), *sides]
    for cluster, each in zip(clusters, fused, strict=True):
        each[1] *= min(len(cluster), len(members)) / len(members)
    return sorted(fused, key=lambda box: -box[1])[:MOST]


def random_boxes(generator: np.random.Generator, number: int) -> list[Box]:
    """Return boxes around few centres, so that many overlap."""
    centres = generator.uniform(0.2, 0.8, (6, 2))[generator.integers(6, size=number)]
    centres += generator.normal(0, 0.02, (number, 2))
    halves = generator.uniform(0.08, 0.12, (number, 2))
    classes, confidences = generator.integers(2, size=(number, 1)), generator.uniform(0.05, 1, (number, 1))
    boxes = np.concatenate([classes, confidences, centres - halves, centres + halves], axis=1)
    return list(np.float32(boxes).astype(float).tolist())


def test_two_boxes_that_overlap_become_their_weighted_mean() -> None:
    one = predictions([[0, 0.8, 0.1, 0.1, 0.5, 0.5], [1, 0.6, 0.1, 0.1, 0.5, 0.5]])
    other = predictions([[0, 0.4, 0.1, 0.1, 0.5, 0.56], [0, 0.3, 0.7, 0.7, 0.9, 0.9]])
    fused = found_in(fuse([one, other], [1, 1]))
    expected = [
        [0, 0.6, 0.1, 0.1, 0.5, (0.8 * 0.5 + 0.4 * 0.56) / 1.2],
        [1, 0.3, 0.1, 0.1, 0.5, 0.5],  # of one member: half its confidence
        [0, 0.15, 0.7, 0.7, 0.9, 0.9],
    ]
    assert np.allclose(fused, expected, atol=1e-6)


def test_weights_scale_confidences_and_0_leaves_a_member_out() -> None:
    one, other = (predictions([[0, 0.4, 0.1, 0.1, 0.5, last]]) for last in (0.5, 0.6))
    (box,) = found_in(fuse([one, other], [3, 1]))
    assert np.allclose(box, [0, 0.4, 0.1, 0.1, 0.5, 0.525], atol=1e-6)
    assert fuse([one, other], [0, 1]) is other
    assert fuse([one], [1]) is one


@pytest.mark.parametrize("members", [2, 3])
def test_fused_boxes_are_those_of_the_paper(members: int) -> None:
    generator = np.random.default_rng(members)
    images = [[random_boxes(generator, int(generator.integers(0, 40))) for _ in range(members)] for _ in range(20)]
    fused = fuse([predictions(*(image[member] for image in images)) for member in range(members)], [1] * members)
    for row, image in enumerate(images):
        expected = np.array(literally(image)).reshape(-1, 6)
        found = np.array(found_in(fused, row)).reshape(-1, 6)
        assert np.allclose(found, expected, atol=1e-5)


def test_no_boxes_and_too_many_boxes() -> None:
    none = predictions([], [])
    assert not fuse([none, none], [1, 1]).any()
    many = [
        predictions([[0, 0.5 + 0.001 * x, x / MOST, y, (x + 1) / MOST, y + 0.1] for x in range(MOST)]) for y in (0, 0.5)
    ]
    assert len(found_in(fuse(many, [1, 1]))) == MOST
