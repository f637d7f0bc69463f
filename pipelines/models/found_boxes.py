"""Predicted boxes as one row of numbers per image; `pipelines/dataset/boxes.py` describes them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pipelines.dataset.boxes import FOUND, MOST


def pad(labels: Sequence[Tensor], scores: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
    """Return predictions, float32 (N, MOST * 6): of each image the `MOST` most confident boxes.

    labels, scores: (n,) of each image, boxes: (n, 4) as shares.  Equal confidences keep their order.
    """
    found = torch.zeros(len(labels), MOST, FOUND, device=scores[0].device if scores else None)
    for row, (label, score, box) in enumerate(zip(labels, scores, boxes, strict=True)):
        best = score.argsort(descending=True, stable=True)[:MOST]
        found[row, : len(best)] = torch.cat([label[best, None], score[best, None], box[best]], dim=1).float()
    return found.flatten(1)


def mirrored(predictions: Tensor) -> Tensor:
    """Return predictions for the mirror images of those that `predictions` are for."""
    found = unpad(predictions).clone()
    taken = found[..., 1:2] > 0  # the places after the last box stay zeros
    found[..., [2, 4]] = torch.where(taken, 1 - found[..., [4, 2]], found[..., [2, 4]])
    return found.flatten(1)


def unpad(predictions: Tensor) -> Tensor:
    """Return predictions as (N, MOST, 6), without a copy; boxes of confidence 0 are none."""
    return predictions.unflatten(1, (-1, FOUND))
