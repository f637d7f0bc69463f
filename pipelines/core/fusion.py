"""Weighted box fusion: the boxes of several networks, views or folds become one set of boxes per image.

R. Solovyev, W. Wang, T. Gabruseva: Weighted boxes fusion (arXiv 1910.13302).  The boxes of all members, in the order of
confidence, join the cluster of their class whose fused box they overlap most, if the intersection over union is above
`SAME`, or start one.  A cluster of T boxes with the confidences c and the corners x becomes the box sum(c x) / sum(c);
its confidence is the mean of c, times min(T, members) / members: what few members have found counts less.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from pipelines.dataset.boxes import FOUND, MOST

SAME = 0.55
AT_ONCE = 128  # images: more do not fit into a processor's cache


def fuse(members: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Return the fused predictions, (N, MOST * 6), of members of this shape; a single one is returned unchanged.

    weights: of the members; they scale the confidences, and members of weight 0 are left out.
    """
    used = [(member, weight) for member, weight in zip(members, weights, strict=True) if weight > 0]
    if len(used) == 1:
        return used[0][0]
    mean = sum(weight for _, weight in used) / len(used)
    scaled = []
    for member, weight in used:
        boxes = member.float().unflatten(1, (-1, FOUND)).clone()
        boxes[..., 1] *= weight / mean
        scaled.append(boxes)
    together = torch.cat(scaled, dim=1)
    return torch.cat([_fused(part, len(used)) for part in together.split(AT_ONCE)]) if len(together) else members[0]


def _fused(boxes: Tensor, members: int) -> Tensor:
    """Return the fused boxes of (N, members * MOST, 6), all images at once."""
    boxes = boxes.gather(1, boxes[..., 1].argsort(dim=1, descending=True, stable=True)[..., None].expand_as(boxes))
    images, steps = len(boxes), int((boxes[..., 1] > 0).sum(dim=1).max())
    rows = torch.arange(images, device=boxes.device)
    clusters = boxes.new_zeros(images, steps, FOUND)  # class, sum of c, sums of c x: of each cluster
    counts = boxes.new_zeros(images, steps)
    started = torch.zeros(images, dtype=torch.long, device=boxes.device)
    for step in range(steps):
        box, seen = boxes[:, step], clusters[:, : step + 1]
        overlaps = overlaps_of(box[:, None, 2:], seen[..., 2:] / seen[..., 1:2].clamp(min=1e-12))
        overlaps = torch.where((seen[..., 0] == box[:, :1]) & (counts[:, : step + 1] > 0), overlaps, -1.0)
        best, place = overlaps.max(dim=1)
        joins, there = best > SAME, box[:, 1] > 0
        place = torch.where(joins, place, started)
        clusters[rows, place, 0] = torch.where(there, box[:, 0], clusters[rows, place, 0])
        clusters[rows, place, 1:] += torch.cat([box[:, 1:2], box[:, 1:2] * box[:, 2:]], dim=1)
        counts[rows, place] += there
        started += there & ~joins
    totals = clusters[..., 1]
    clusters[..., 2:] /= totals[..., None].clamp(min=1e-12)
    clusters[..., 1] = (totals / counts.clamp(min=1) * counts.clamp(max=members) / members).clamp(max=1)
    best = clusters[..., 1].argsort(dim=1, descending=True, stable=True)[:, :MOST]
    found = boxes.new_zeros(images, MOST, FOUND)
    found[:, : best.shape[1]] = clusters.gather(1, best[..., None].expand(-1, -1, FOUND))
    return found.flatten(1)


def mirrored(predictions: Tensor) -> Tensor:
    """Return predictions for the mirror images of those that `predictions` are for."""
    found = predictions.unflatten(1, (-1, FOUND)).clone()
    taken = found[..., 1:2] > 0  # the places after the last box stay zeros
    found[..., [2, 4]] = torch.where(taken, 1 - found[..., [4, 2]], found[..., [2, 4]])
    return found.flatten(1)


def overlaps_of(one: Tensor, other: Tensor) -> Tensor:
    """Return the intersection over union of boxes (..., 4), corner by corner; 0 of boxes without an area."""
    least, most = torch.maximum(one[..., :2], other[..., :2]), torch.minimum(one[..., 2:], other[..., 2:])
    common = (most - least).clamp(min=0).prod(dim=-1)
    areas = [(each[..., 2:] - each[..., :2]).clamp(min=0).prod(dim=-1) for each in (one, other)]
    return common / (areas[0] + areas[1] - common).clamp(min=1e-12)
