"""Compare histories and checkpoints without the times in them."""

from typing import Any

import torch

from pipelines.core.checkpoint import Checkpoint

TIMES = ("seconds", "images_per_second")


def timeless(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]


def same(left: Any, right: Any) -> bool:
    """Whether two nested values are equal, tensors to the last bit."""
    if isinstance(left, torch.Tensor):
        return left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


def same_checkpoints(left: Checkpoint, right: Checkpoint) -> bool:
    return same(
        (left.weights, left.training, left.epoch, left.score, timeless(left.history)),
        (right.weights, right.training, right.epoch, right.score, timeless(right.history)),
    )
