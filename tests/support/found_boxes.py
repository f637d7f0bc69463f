"""Random true and predicted boxes, and the score of the wheat competition box by box."""

from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from pipelines.dataset.boxes import FOUND, MOST

Array = npt.NDArray[Any]


def random_boxes(images: int, seed: int, classes: int = 5, most: int = 12, noise: float = 0.01) -> tuple[Array, Array]:
    """Return predictions (N, MOST * 6) and targets (N, most, 5).  Some true boxes are missed, some found twice."""
    generator = np.random.default_rng(seed)
    targets = np.full((images, most, 5), np.nan, np.float32)
    found = np.zeros((images, MOST, FOUND), np.float32)
    for row in range(images):
        true, number = generator.integers(1, most + 1), generator.integers(1, 2 * most)
        centres, halves = generator.uniform(0.15, 0.85, (true, 2)), generator.uniform(0.02, 0.1, (true, 2))
        targets[row, :true, 0] = generator.integers(classes, size=true)
        targets[row, :true, 1:] = np.concatenate([centres - halves, centres + halves], axis=1)
        source = targets[row, generator.integers(true, size=number)]
        right = generator.random(number) < 0.8
        found[row, :number, 0] = np.where(right, source[:, 0], generator.integers(classes, size=number))
        found[row, :number, 1] = np.sort(generator.uniform(0.05, 1, number))[::-1]
        found[row, :number, 2:] = source[:, 1:] + generator.normal(0, noise, (number, 4))
        found[row, :number, 4:] = np.maximum(found[row, :number, 4:], found[row, :number, 2:4] + 0.01)
    return found.reshape(images, -1), targets


def unpad(predictions: Tensor) -> Tensor:
    """Return predictions as (N, MOST, 6), without a copy; boxes of confidence 0 are none."""
    return predictions.unflatten(1, (-1, FOUND))


def perfect(targets: Array) -> Array:
    """Return the predictions that are the true boxes."""
    found = np.zeros((len(targets), MOST, FOUND), np.float32)
    for row, boxes in enumerate(targets):
        known = boxes[~np.isnan(boxes[:, 0])]
        found[row, : len(known)] = np.insert(known, 1, 1, axis=1)
    return found.reshape(len(targets), -1)


def overlap(one: Array, other: Array) -> float:
    """Return the intersection over union of two boxes (4,)."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    common = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return float(common / (sum(areas) - common))


def precision_by_loop(predicted: Array, targets: Array) -> float:
    """Return `box_precision`, box by box."""
    scores = []
    for row, boxes in zip(predicted.reshape(len(targets), -1, FOUND).astype(float), targets.astype(float), strict=True):
        found = sorted((box for box in row if box[1] > 0), key=lambda box: -box[1])
        for threshold in (0.5, 0.55, 0.6, 0.65, 0.7, 0.75):
            left = [box for box in boxes if not np.isnan(box[0])]
            number, right = len(left), 0
            for box in found:
                fits = [(overlap(box[2:], true[1:]), at) for at, true in enumerate(left) if true[0] == box[0]]
                best, at = max(fits, default=(0.0, 0))
                if best >= threshold:
                    right += 1
                    del left[at]
            total = right + (len(found) - right) + (number - right)
            scores.append(right / total if total else 1.0)
    return float(np.mean(scores))
